//! Lanes as threads. A lane that panics ends the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::runtime::tasks::{LaneControl, LaneWork, Priority, Tasks};

/// Gives every lane a thread of its own. Background lanes run at a lower scheduling priority.
#[derive(Clone, Copy, Debug)]
pub struct Threads;

impl Tasks for Threads {
    fn start_lane(&self, name: &str, priority: Priority, mut work: LaneWork) -> Arc<dyn LaneControl> {
        let state = Arc::new(Shared { signal: Mutex::new(Signal::default()), changed: Condvar::new() });
        let shared = Arc::clone(&state);
        #[expect(clippy::disallowed_methods, reason = "the production twin of the task seam")]
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if priority == Priority::Background {
                    lower_priority();
                }
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    while shared.wait() {
                        work();
                    }
                }));
                if ended.is_err() {
                    end_the_process(thread::current().name().unwrap_or_default());
                }
            })
            .expect("the operating system starts a thread at start-up");
        Arc::new(ThreadLane { state, thread: Mutex::new(Some(thread)) })
    }
}

/// Nobody else does a lane's work, and what it held is in doubt: the next start recovers.
fn end_the_process(lane: &str) -> ! {
    tracing::error!(lane, "a lane panicked, and the process ends; see the panic's message above");
    std::process::abort();
}

/// Asks the scheduler to prefer other threads; a refusal costs nothing but the preference.
fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
        tracing::debug!(%error, "background lane keeps the default priority");
    }
}

#[derive(Default)]
struct Signal {
    woken: bool,
    stopped: bool,
}

struct Shared {
    signal: Mutex<Signal>,
    changed: Condvar,
}

impl Shared {
    /// Waits for a wake-up; false once the lane is stopped.
    fn wait(&self) -> bool {
        let mut signal = self.signal.lock();
        loop {
            if signal.stopped {
                return false;
            }
            if signal.woken {
                signal.woken = false;
                return true;
            }
            self.changed.wait(&mut signal);
        }
    }
}

struct ThreadLane {
    state: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LaneControl for ThreadLane {
    fn wake(&self) {
        let mut signal = self.state.signal.lock();
        if !signal.woken {
            signal.woken = true;
            self.state.changed.notify_one();
        }
    }

    fn stop(&self) {
        self.state.signal.lock().stopped = true;
        self.state.changed.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const PLANTED: &str = "ALLUVIUM_TEST_LANE_PANICS";

    #[test]
    fn a_lane_that_panics_ends_the_process() {
        if std::env::var_os(PLANTED).is_some() {
            Threads.start_lane("planted", Priority::Foreground, Box::new(|| panic!("planned"))).wake();
            loop {
                thread::park();
            }
        }
        // This test once more, in a process of its own.
        let test = "runtime::production::tasks::tests::a_lane_that_panics_ends_the_process";
        let mut itself = Command::new(std::env::current_exe().unwrap());
        let ended = itself.args(["--exact", test, "--nocapture"]).env(PLANTED, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.signal() == Some(6) && said.contains("planned"), "{ended:?}");
    }
}
