//! The task seam: lanes, which are serial workers for blocking or heavy work.
//!
//! A lane owns a closure that drains a queue the caller keeps. Production gives each lane a thread; a simulation runs the
//! closure inline, when its scheduler says so. Network tasks are ordinary tokio tasks and need no seam: in simulation they
//! run on a single-threaded tokio runtime without timers, and time passes by the clock seam. Those that nobody awaits are
//! spawned by a [`TaskWatch`], so that a broker ends when one of them has panicked.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How a lane competes for the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Producers or consumers wait for it.
    Foreground,
    /// May be delayed for as long as it keeps up, such as archiving.
    Background,
}

/// Work of a lane: called once after each wake-up (several may merge into one call), never concurrently with itself.
pub type LaneWork = Box<dyn FnMut() + Send>;

/// What a lane's handle does; implemented by each twin.
pub trait LaneControl: Send + Sync {
    /// Has the work run once more, at some point after this call.
    fn wake(&self);

    /// Ends the lane after the call that is under way, and waits for that.
    fn stop(&self);
}

/// Starts lanes.
pub trait Tasks: Send + Sync {
    /// Starts a lane with a name of at most 15 bytes, which the operating system shows.
    fn start_lane(&self, name: &str, priority: Priority, work: LaneWork) -> Arc<dyn LaneControl>;
}

/// Spawns tokio tasks that nobody awaits, and tells when one of them panicked: what it did is done no more.
#[derive(Clone, Debug, Default)]
pub struct TaskWatch {
    broken: Arc<Notify>,
}

impl TaskWatch {
    /// Spawns a task. One that is aborted is not missed.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(self.watched(task))
    }

    /// The same from a lane, which has no runtime around it.
    pub fn spawn_on(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        runtime.spawn(self.watched(task))
    }

    fn watched(&self, task: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let broken = Arc::clone(&self.broken);
        async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                broken.notify_one();
            }
        }
    }

    /// Waits until a task has panicked.
    pub async fn broken(&self) {
        self.broken.notified().await;
    }
}

/// Owner's handle to a lane; dropping it stops the lane.
pub struct Lane {
    control: Arc<dyn LaneControl>,
}

impl Lane {
    /// Starts a lane on `tasks`.
    pub fn start(tasks: &dyn Tasks, name: &str, priority: Priority, work: LaneWork) -> Self {
        Self { control: tasks.start_lane(name, priority, work) }
    }

    /// A handle that can wake the lane but does not keep it running.
    pub fn waker(&self) -> LaneWaker {
        LaneWaker { control: Arc::clone(&self.control) }
    }

    /// Has the work run once more.
    pub fn wake(&self) {
        self.control.wake();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.control.stop();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lane")
    }
}

/// Wakes a lane; cheap to clone, harmless after the lane has stopped.
#[derive(Clone)]
pub struct LaneWaker {
    control: Arc<dyn LaneControl>,
}

impl LaneWaker {
    /// Has the work run once more, at some point after this call.
    pub fn wake(&self) {
        self.control.wake();
    }
}

impl fmt::Debug for LaneWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneWaker")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_heard_of_and_one_that_is_aborted_is_not() {
        let watch = TaskWatch::default();
        let aborted = watch.spawn(std::future::pending());
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert!(tokio::time::timeout(Duration::from_millis(20), watch.broken()).await.is_err());
        watch.spawn(async { panic!("planned") }).await.unwrap();
        watch.broken().await;
    }
}
