//! A store that lives on a lane: jobs reach it from network tasks, which await the result without blocking.

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::tasks::{Lane, Priority, Tasks};

/// Jobs that wait for the store. openraft has one write in flight and few readers; more than this wait to be let in.
const QUEUE_JOBS: usize = 64;

/// The lane has ended, because it was closed or because a job panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("metadata storage is closed")]
pub struct LaneStopped;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Handle to a store on its lane. Jobs run one after another in the order of their arrival. Dropping the handle waits for
/// the job that is under way and drops the store.
#[derive(Debug)]
pub(super) struct StoreLane<S> {
    jobs: mpsc::Sender<Job<S>>,
    lane: Lane,
}

impl<S: Send + 'static> StoreLane<S> {
    /// Starts the lane and opens the store on it.
    ///
    /// # Errors
    /// What `open` fails with.
    pub(super) async fn start<E: From<LaneStopped> + Send + 'static>(
        tasks: &dyn Tasks,
        name: &str,
        priority: Priority,
        open: impl FnOnce() -> Result<S, E> + Send + 'static,
    ) -> Result<Self, E> {
        let (jobs, mut queue) = mpsc::channel::<Job<S>>(QUEUE_JOBS);
        let (opened, result) = oneshot::channel();
        let mut opening = Some((open, opened));
        let mut store = None;
        let work = Box::new(move || {
            if let Some((open, opened)) = opening.take() {
                // Whoever waits for the result may have given up; the store is then dropped with the lane.
                let _ = opened.send(open().map(|ready| store = Some(ready)));
            }
            if let Some(store) = &mut store {
                while let Ok(job) = queue.try_recv() {
                    job(store);
                }
            }
        });
        let lane = Lane::start(tasks, name, priority, work);
        lane.wake();
        result.await.map_err(|_| LaneStopped)??;
        Ok(Self { jobs, lane })
    }

    /// Runs a job on the store.
    ///
    /// # Errors
    /// [`LaneStopped`]; the job may then have run or not.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, LaneStopped> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move |store: &mut S| {
            let _ = done.send(job(store));
        });
        self.jobs.send(job).await.map_err(|_| LaneStopped)?;
        self.lane.wake();
        result.await.map_err(|_| LaneStopped)
    }
}
