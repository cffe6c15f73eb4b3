//! Lanes as threads.

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
                while shared.wait() {
                    work();
                }
            })
            .expect("the operating system starts a thread at start-up");
        Arc::new(ThreadLane { state, thread: Mutex::new(Some(thread)) })
    }
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
            && thread.join().is_err()
        {
            tracing::error!("a worker lane panicked; see the panic message above");
        }
    }
}
