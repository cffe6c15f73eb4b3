//! Fetches of archived records that are under way, apart from the client requests that asked for them.
//!
//! A client's fetch begins a cold read and goes on with what is hot; when the read is done the fetch is woken, and if it has
//! ended meanwhile, the next one of the same offset finds the result here. So hot partitions never wait for cold ones, and a
//! slow object store never makes a consumer begin again. A result is a chunk in the archive's cache, or a little memory out of
//! the readers' share, which bounds them all. What nobody asks for any more is given up: reads that still wait for their turn,
//! and results.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::archive_seam::{ArchiveError, ArchiveRead, ArchiveReader, AtHand};
use crate::runtime::Runtime;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::TaskWatch;
use crate::telemetry::{FetchSource, LatencyHistogram};
use crate::types::Monotonic;

/// Reads under way or done and not yet taken. Each costs a task, or the open file of its chunk.
const MAX_READS: usize = 1024;
/// How long a read goes on, and a result is kept, when nobody asks for it.
const LIFETIME: Duration = Duration::from_secs(10);

type Outcome = Result<Arc<dyn AtHand>, ArchiveError>;

struct Read {
    state: State,
    began: Monotonic,
    /// When a fetch last asked for it.
    asked: Monotonic,
}

enum State {
    Pending { watchers: Vec<Weak<Notify>>, task: AbortHandle },
    Done(Outcome),
}

/// See the module.
#[derive(Clone)]
pub(super) struct ColdReads {
    archive: Arc<dyn ArchiveReader>,
    clock: Arc<dyn Clock>,
    watch: TaskWatch,
    seconds: LatencyHistogram,
    reads: Arc<Mutex<BTreeMap<ArchiveRead, Read>>>,
}

impl ColdReads {
    /// None yet. `seconds` is told how long each takes.
    pub(super) fn new(archive: Arc<dyn ArchiveReader>, runtime: &Runtime, seconds: LatencyHistogram) -> Self {
        let (clock, watch) = (Arc::clone(&runtime.clock), runtime.watch.clone());
        Self { archive, clock, watch, seconds, reads: Arc::default() }
    }

    /// The batches of a read that is done, or that are at hand, and whence they are; else a read is begun, unless it is under
    /// way or too many are.
    pub(super) fn take_or_begin(&self, wanted: ArchiveRead) -> Option<(Outcome, FetchSource)> {
        if let Some(outcome) = self.take(wanted) {
            return Some((outcome, FetchSource::Archive));
        }
        if let Some(at_hand) = self.archive.at_hand(wanted) {
            return Some((Ok(at_hand), FetchSource::Cache));
        }
        self.begin(wanted);
        None
    }

    fn take(&self, wanted: ArchiveRead) -> Option<Outcome> {
        match self.reads.lock().entry(wanted) {
            Entry::Occupied(read) if matches!(read.get().state, State::Done(_)) => match read.remove().state {
                State::Done(outcome) => Some(outcome),
                State::Pending { .. } => None,
            },
            _ => None,
        }
    }

    /// Takes back a result that was taken and not given to the client.
    pub(super) fn give_back(&self, wanted: ArchiveRead, batches: Arc<dyn AtHand>) {
        let now = self.clock.monotonic();
        let read = Read { state: State::Done(Ok(batches)), began: now, asked: now };
        self.reads.lock().entry(wanted).or_insert(read);
    }

    fn begin(&self, wanted: ArchiveRead) {
        let now = self.clock.monotonic();
        let mut reads = self.reads.lock();
        let has_room = reads.len() < MAX_READS;
        match reads.entry(wanted) {
            Entry::Occupied(mut read) => read.get_mut().asked = now,
            Entry::Vacant(place) if has_room => {
                let state = State::Pending { watchers: Vec::new(), task: self.start(wanted) };
                // The task can't have finished: that takes the lock.
                place.insert(Read { state, began: now, asked: now });
            }
            Entry::Vacant(_) => {}
        }
    }

    fn start(&self, wanted: ArchiveRead) -> AbortHandle {
        let reads = self.clone();
        let task = self.watch.spawn(async move {
            let outcome = reads.archive.fetch(wanted).await;
            reads.finish(wanted, outcome);
        });
        task.abort_handle()
    }

    fn finish(&self, wanted: ArchiveRead, outcome: Outcome) {
        let now = self.clock.monotonic();
        let mut reads = self.reads.lock();
        // Given up meanwhile.
        let Some(read) = reads.get_mut(&wanted) else { return };
        self.seconds.observe(now.since(read.began));
        if let State::Pending { watchers, .. } = std::mem::replace(&mut read.state, State::Done(outcome)) {
            watchers.iter().filter_map(Weak::upgrade).for_each(|notify| notify.notify_one());
        }
    }

    /// Has `notify` notified when a read is done.
    pub(super) fn watch(&self, wanted: &ArchiveRead, notify: &Arc<Notify>) {
        match self.reads.lock().get_mut(wanted).map(|read| &mut read.state) {
            // A fetch may name its partition many times.
            Some(State::Pending { watchers, .. })
                if watchers.last().is_none_or(|last| last.as_ptr() != Arc::as_ptr(notify)) =>
            {
                watchers.retain(|watcher| watcher.strong_count() > 0);
                watchers.push(Arc::downgrade(notify));
            }
            Some(State::Done(_)) => notify.notify_one(),
            Some(State::Pending { .. }) | None => {}
        }
    }

    /// Gives up what nobody has asked for in a while. A fetch that waits asks when it begins to, and its client asks again
    /// when it ends.
    pub(super) fn expire(&self) {
        let now = self.clock.monotonic();
        self.reads.lock().retain(|_, read| {
            let is_watched = match &read.state {
                State::Pending { watchers, .. } => watchers.iter().any(|watcher| watcher.strong_count() > 0),
                State::Done(_) => false,
            };
            let keep = is_watched || now.since(read.asked) < LIFETIME;
            if let (false, State::Pending { task, .. }) = (keep, &read.state) {
                task.abort();
            }
            keep
        });
    }
}
