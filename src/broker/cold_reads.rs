//! Reads of archived records that are under way, apart from the fetches that asked for them.
//!
//! A fetch begins a cold read and goes on with what is hot; when the read is done the fetch is woken, and if it has ended
//! meanwhile, the next fetch of the same offset finds the result here. So hot partitions never wait for cold ones, and a slow
//! object store never makes a consumer begin again. Results that nobody takes are dropped after a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::archive_seam::{ArchiveError, ArchiveReader};
use crate::types::{Monotonic, Offset, TopicPartition};

/// Reads under way or done and not yet taken. Each holds at most [`MAX_READ_BYTES`], or one larger batch.
const MAX_READS: usize = 128;
/// Most bytes of one read, whatever a fetch has room for.
const MAX_READ_BYTES: usize = 1 << 20;
/// How long a result waits to be taken.
const RESULT_LIFETIME: Duration = Duration::from_secs(10);

type Key = (TopicPartition, Offset);

enum Read {
    Pending(Vec<Weak<Notify>>),
    Done(Result<Vec<Bytes>, ArchiveError>, Monotonic),
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct ColdReads {
    reads: Arc<Mutex<BTreeMap<Key, Read>>>,
}

impl ColdReads {
    /// The batches at an archived offset if they are there; else their read is begun, unless it is under way or too many are.
    pub(super) fn take_or_begin(
        &self,
        archive: &Arc<dyn ArchiveReader>,
        partition: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Option<Result<Vec<Bytes>, ArchiveError>> {
        let key = (partition, offset);
        let mut reads = self.reads.lock();
        match reads.get(&key) {
            Some(Read::Done(..)) => {
                let Some(Read::Done(result, _)) = reads.remove(&key) else { return None };
                return Some(result);
            }
            Some(Read::Pending(_)) => return None,
            None => {}
        }
        if reads.len() < MAX_READS {
            reads.insert(key, Read::Pending(Vec::new()));
            drop(reads);
            self.start(Arc::clone(archive), key, max_bytes.min(MAX_READ_BYTES));
        }
        None
    }

    fn start(&self, archive: Arc<dyn ArchiveReader>, key: Key, max_bytes: usize) {
        let reads = self.clone();
        tokio::spawn(async move {
            let result = archive.read(key.0, key.1, max_bytes).await;
            reads.finish(key, result);
        });
    }

    fn finish(&self, key: Key, result: Result<Vec<Bytes>, ArchiveError>) {
        // Its age counts from the first expiry that sees it.
        let earlier = self.reads.lock().insert(key, Read::Done(result, Monotonic(u64::MAX)));
        if let Some(Read::Pending(watchers)) = earlier {
            watchers.iter().filter_map(Weak::upgrade).for_each(|notify| notify.notify_one());
        }
    }

    /// Has `notify` notified when the read of an offset is done.
    pub(super) fn watch(&self, partition: TopicPartition, offset: Offset, notify: &Arc<Notify>) {
        match self.reads.lock().get_mut(&(partition, offset)) {
            Some(Read::Pending(watchers)) => {
                watchers.retain(|watcher| watcher.strong_count() > 0);
                watchers.push(Arc::downgrade(notify));
            }
            Some(Read::Done(..)) => notify.notify_one(),
            None => {}
        }
    }

    /// Drops results that have waited too long.
    pub(super) fn expire(&self, now: Monotonic) {
        self.reads.lock().retain(|_, read| match read {
            Read::Done(_, since) if *since == Monotonic(u64::MAX) => {
                *since = now;
                true
            }
            Read::Done(_, since) => now.since(*since) < RESULT_LIFETIME,
            Read::Pending(_) => true,
        });
    }
}
