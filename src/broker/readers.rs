//! Lanes that read segments, so that no network task ever waits for a disk.
//!
//! Whoever wants a read hands over a closure and awaits its result. The queue is bounded: when it is full, callers wait for
//! a place, and reads that nobody awaits any more are skipped.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::runtime::tasks::{Lane, Priority, Tasks};

/// Reads that may wait for each lane. More hide bursts and hold their requests' memory meanwhile.
const QUEUE_PER_LANE: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// The pool; dropping it stops its lanes after the reads under way.
#[derive(Debug)]
pub(super) struct Readers {
    lanes: Vec<Lane>,
    queue: Arc<Mutex<Queue>>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// The lane that was woken last.
    woken: usize,
    /// Lanes that are in a read, and look for another one after it.
    busy: Vec<bool>,
}

impl Queue {
    /// The next lane in turn that is in no read; when all are, whichever is done first takes the job.
    fn lane_to_wake(&mut self) -> usize {
        let lanes = self.busy.len();
        let in_turn = (1..=lanes).map(|step| (self.woken + step) % lanes);
        self.woken = in_turn.clone().find(|&lane| !self.busy[lane]).unwrap_or(self.woken);
        self.woken
    }

    fn take(&mut self, lane: usize) -> Option<Job> {
        let job = self.jobs.pop_front();
        self.busy[lane] = job.is_some();
        job
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("jobs", &self.jobs.len()).finish_non_exhaustive()
    }
}

impl Readers {
    /// Starts `count` lanes, at least one.
    pub(super) fn start(tasks: &dyn Tasks, count: usize) -> Self {
        let count = count.max(1);
        let queue = Arc::new(Mutex::new(Queue { busy: vec![false; count], ..Queue::default() }));
        let lanes = (0..count)
            .map(|number| {
                let queue = Arc::clone(&queue);
                let work = move || {
                    // With the queue locked only as long as that takes.
                    let take = || queue.lock().take(number);
                    while let Some(job) = take() {
                        job();
                    }
                };
                Lane::start(tasks, &format!("reader-{number}"), Priority::Foreground, Box::new(work))
            })
            .collect();
        Self { lanes, queue, places: Arc::new(Semaphore::new(count * QUEUE_PER_LANE)) }
    }

    /// Runs a read on a lane and gives its result; `None` when the lanes have stopped.
    pub(super) async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        self.push(place, read).await.ok()
    }

    /// Runs a read whose result may be awaited later; `None` when many are waiting already.
    pub(super) fn try_run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(self.push(place, read))
    }

    fn push<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || {
            let _place = place;
            if !sender.is_closed() {
                // The reader may have gone meanwhile.
                let _ = sender.send(read());
            }
        });
        let lane = {
            let mut queue = self.queue.lock();
            queue.jobs.push_back(job);
            queue.lane_to_wake()
        };
        self.lanes[lane].wake();
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    #[tokio::test]
    async fn a_long_read_holds_up_no_other_while_a_lane_is_free() {
        let readers = Readers::start(&*Runtime::production().tasks, 3);
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let long = readers.try_run(move || wait.recv().is_ok()).unwrap();
        for number in 0..20 {
            assert_eq!(readers.run(move || number).await, Some(number));
        }
        done.send(()).unwrap();
        assert!(long.await.unwrap());
    }

    #[tokio::test]
    async fn many_reads_at_once_all_come_back() {
        let readers = Readers::start(&*Runtime::production().tasks, 2);
        let reads = (0..500).map(|number| readers.run(move || number * 2));
        let results = futures_util::future::join_all(reads).await;
        assert!(results.iter().enumerate().all(|(number, result)| *result == Some(number * 2)));
    }
}
