//! A bounded pool of lanes for the archive's blocking and heavy work: file system calls, Parquet encoding and decoding.
//!
//! Async drivers hand it closures and await the result; at most [`Workers::start`]'s `lanes` run at once and a bounded
//! number wait, so a burst of cold readers queues instead of taking every core. Jobs run in the order they were
//! accepted. A job whose caller goes away still runs to its end, unless it looks for itself. Nothing here survives the process.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::runtime::tasks::{Lane, LaneWaker, Priority, Tasks};

/// Jobs that may wait for a lane before callers are made to wait; each holds at most one row group in memory.
const QUEUED_JOBS_PER_LANE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// Handle to the pool; cheap to clone. The lanes stop when the last handle goes.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<Pool>,
}

struct Pool {
    queue: Arc<Mutex<VecDeque<Job>>>,
    room: Arc<Semaphore>,
    wakers: Vec<LaneWaker>,
    _lanes: Vec<Lane>,
}

impl Workers {
    /// Starts `lanes` lanes (at least one) named `name` (at most 12 bytes, a number is added) at `priority`.
    pub fn start(tasks: &dyn Tasks, name: &str, priority: Priority, lanes: usize) -> Self {
        let lanes = lanes.max(1);
        let queue = Arc::new(Mutex::new(VecDeque::<Job>::new()));
        let lanes: Vec<Lane> = (0..lanes)
            .map(|number| {
                let queue = Arc::clone(&queue);
                let work = Box::new(move || {
                    // The guard is dropped before the job runs, so that the lanes work side by side.
                    while let Some(job) = { queue.lock().pop_front() } {
                        job();
                    }
                });
                Lane::start(tasks, &format!("{name}-{number}"), priority, work)
            })
            .collect();
        let room = Arc::new(Semaphore::new(lanes.len() * (1 + QUEUED_JOBS_PER_LANE)));
        let wakers = lanes.iter().map(Lane::waker).collect();
        Self { pool: Arc::new(Pool { queue, room, wakers, _lanes: lanes }) }
    }

    /// Runs `work` on a lane and returns what it returns. Waits while the pool is full.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.pool.room).acquire_owned().await.expect("the semaphore is never closed");
        let (sender, receiver) = oneshot::channel();
        self.pool.queue.lock().push_back(Box::new(move || {
            // A panic ends the task that asked for the work, not the lane.
            let result = catch_unwind(AssertUnwindSafe(work));
            drop(permit);
            // The caller may have gone away; the work is done all the same.
            let _ = sender.send(result);
        }));
        for waker in &self.pool.wakers {
            waker.wake();
        }
        match receiver.await.expect("a lane runs every job that it accepted") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers(lanes={})", self.pool.wakers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::production::Threads;

    #[tokio::test]
    async fn a_job_that_panics_ends_its_caller_and_not_the_lane() {
        let workers = Workers::start(&Threads, "test", Priority::Background, 1);
        let doomed = workers.clone();
        let caller = tokio::spawn(async move { doomed.run(|| panic!("planned")).await });
        assert!(caller.await.unwrap_err().is_panic());
        assert_eq!(workers.run(|| 7).await, 7);
    }

    #[tokio::test]
    async fn every_job_runs_and_returns_to_its_caller() {
        let workers = Workers::start(&Threads, "test", Priority::Background, 2);
        let jobs = (0..100).map(|number| {
            let workers = workers.clone();
            async move { workers.run(move || number * 2).await }
        });
        let results = futures_util::future::join_all(jobs).await;
        assert_eq!(results, (0..100).map(|number| number * 2).collect::<Vec<_>>());
    }
}
