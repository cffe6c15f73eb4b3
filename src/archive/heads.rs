//! Heads in memory, those of all partitions together within a number of bytes.
//!
//! A head is read when it is needed and kept while there is room; the one that nobody used for longest goes first. One that
//! is being changed stays. Whoever needs a head that has gone reads it again: what a writer changes is decided by the bucket,
//! so a head that is not remembered costs a request and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::TopicPartition;

/// Gives up a head; false when it can't be given up now.
pub(super) type Forget = Box<dyn Fn() -> bool + Send>;

/// Bounds the heads of many partitions; cheap to clone.
#[derive(Clone)]
pub struct Heads {
    held: Arc<Mutex<Held>>,
    limit_bytes: u64,
}

#[derive(Default)]
struct Held {
    bytes: u64,
    uses: u64,
    entries: BTreeMap<TopicPartition, Entry>,
    by_use: BTreeMap<u64, TopicPartition>,
}

struct Entry {
    last_use: u64,
    bytes: u64,
    forget: Forget,
}

impl Heads {
    /// Keeps heads of at most `limit_bytes`, and always the newest one.
    pub fn new(limit_bytes: u64) -> Self {
        Self { held: Arc::default(), limit_bytes }
    }

    /// Bytes of the heads that are kept, and their number.
    pub fn used(&self) -> (u64, usize) {
        let held = self.held.lock();
        (held.bytes, held.entries.len())
    }

    /// A partition's head was read or changed and takes `bytes` now. Others may have to go for it.
    pub(super) fn note(&self, partition: TopicPartition, bytes: u64, forget: Forget) {
        let others = {
            let mut held = self.held.lock();
            held.remove(partition);
            held.insert(partition, bytes, forget);
            held.entries.len() - 1
        };
        // Each is asked once, without the lock; those that are being changed count as used.
        for _ in 0..others {
            let Some((oldest, entry)) = self.held.lock().pop_beyond(self.limit_bytes) else { return };
            if !(entry.forget)() {
                self.held.lock().put_back(oldest, entry);
            }
        }
    }

    /// A partition's head was used.
    pub(super) fn touch(&self, partition: TopicPartition) {
        let mut held = self.held.lock();
        if let Some(entry) = held.remove(partition) {
            held.insert(partition, entry.bytes, entry.forget);
        }
    }

    /// A partition has no head any more.
    pub(super) fn drop_head(&self, partition: TopicPartition) {
        self.held.lock().remove(partition);
    }
}

impl Held {
    fn insert(&mut self, partition: TopicPartition, bytes: u64, forget: Forget) {
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, partition);
        self.entries.insert(partition, Entry { last_use: self.uses, bytes, forget });
    }

    /// Takes out what was used longest ago, if there is more than `limit_bytes`.
    fn pop_beyond(&mut self, limit_bytes: u64) -> Option<(TopicPartition, Entry)> {
        if self.bytes <= limit_bytes {
            return None;
        }
        let (_, &oldest) = self.by_use.first_key_value()?;
        Some((oldest, self.remove(oldest)?))
    }

    fn put_back(&mut self, partition: TopicPartition, entry: Entry) {
        if !self.entries.contains_key(&partition) {
            self.insert(partition, entry.bytes, entry.forget);
        }
    }

    fn remove(&mut self, partition: TopicPartition) -> Option<Entry> {
        let entry = self.entries.remove(&partition)?;
        self.by_use.remove(&entry.last_use);
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

impl std::fmt::Debug for Heads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, heads) = self.used();
        write!(f, "Heads(heads={heads}, bytes={bytes}, limit_bytes={})", self.limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([1; 16]), number)
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_being_changed_stays() {
        let gone = Arc::new(Mutex::new(Vec::new()));
        let heads = Heads::new(30);
        let note = |number: i32, bytes, may_go| {
            let gone = Arc::clone(&gone);
            let forget = move || {
                if may_go {
                    gone.lock().push(number);
                }
                may_go
            };
            heads.note(partition(number), bytes, Box::new(forget));
        };
        note(1, 10, true);
        note(2, 10, false);
        note(3, 10, true);
        heads.touch(partition(1));
        note(4, 10, true);
        assert_eq!((*gone.lock()).as_slice(), [3], "2 is being changed, 1 was used");
        assert_eq!(heads.used(), (30, 3));
        note(4, 5, true);
        assert_eq!(heads.used(), (25, 3), "a head that is noted again takes the place of its former self");
        note(5, 100, true);
        assert_eq!(heads.used(), (110, 2), "the newest stays, and so does what is being changed");
        heads.drop_head(partition(5));
        assert_eq!(heads.used(), (10, 1));
    }
}
