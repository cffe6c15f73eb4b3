//! Indexes of sealed segments in memory, those of one data directory together within a number of bytes.
//!
//! A reader that is behind walks through many segments, and each index takes up to four thousandths of its segment: kept for
//! good, those of a large disk would not fit into memory. The one that nobody used for longest goes first and is read from its
//! file again when it is needed. Segments are known here by a number of their own, so that one that takes another's place on
//! disk is never served the other's index.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::SegmentIndex;
use crate::telemetry::Gauge;

/// See the module.
#[derive(Debug)]
pub struct IndexCache {
    kept: Mutex<Kept>,
    limit_bytes: usize,
    used_bytes: Gauge,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    segments: u64,
    uses: u64,
    indexes: BTreeMap<u64, (u64, Arc<SegmentIndex>)>,
    by_use: BTreeMap<u64, u64>,
}

impl IndexCache {
    /// Keeps indexes of at most `limit_bytes`, and always the newest one; `used_bytes` is told what they take.
    pub fn new(limit_bytes: usize, used_bytes: Gauge) -> Self {
        Self { kept: Mutex::default(), limit_bytes, used_bytes }
    }

    /// A number for another segment.
    pub(super) fn next_number(&self) -> u64 {
        let mut kept = self.kept.lock();
        kept.segments += 1;
        kept.segments
    }

    pub(super) fn get(&self, segment: u64) -> Option<Arc<SegmentIndex>> {
        let mut kept = self.kept.lock();
        let index = kept.remove(segment)?;
        kept.insert(segment, Arc::clone(&index));
        Some(index)
    }

    pub(super) fn keep(&self, segment: u64, index: Arc<SegmentIndex>) {
        self.change(|kept| {
            kept.remove(segment);
            kept.insert(segment, index);
            while kept.bytes > self.limit_bytes && kept.indexes.len() > 1 {
                let (_, &oldest) = kept.by_use.first_key_value().expect("each index has a use");
                kept.remove(oldest);
            }
        });
    }

    pub(super) fn forget(&self, segment: u64) {
        self.change(|kept| drop(kept.remove(segment)));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.kept.lock();
        let before = kept.bytes;
        change(&mut kept);
        self.used_bytes.inc_by(kept.bytes as i64 - before as i64);
    }
}

impl Drop for IndexCache {
    fn drop(&mut self) {
        self.used_bytes.dec_by(self.kept.lock().bytes as i64);
    }
}

impl Kept {
    fn insert(&mut self, segment: u64, index: Arc<SegmentIndex>) {
        self.uses += 1;
        self.bytes += index.memory_bytes();
        self.by_use.insert(self.uses, segment);
        self.indexes.insert(segment, (self.uses, index));
    }

    fn remove(&mut self, segment: u64) -> Option<Arc<SegmentIndex>> {
        let (last_use, index) = self.indexes.remove(&segment)?;
        self.by_use.remove(&last_use);
        self.bytes -= index.memory_bytes();
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_newest_stays() {
        let used = Gauge::default();
        let index = || Arc::new(SegmentIndex::new(Offset::ZERO));
        let each = index().memory_bytes();
        let cache = IndexCache::new(2 * each, used.clone());
        let [first, second, third] = [(); 3].map(|()| cache.next_number());
        cache.keep(first, index());
        cache.keep(second, index());
        assert!(cache.get(first).is_some());
        cache.keep(third, index());
        let is_kept = |segment: &u64| cache.get(*segment).is_some();
        assert_eq!([first, second, third].iter().map(is_kept).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(used.get(), 2 * each as i64);
        cache.forget(third);
        assert_eq!(used.get(), each as i64);
        let small = IndexCache::new(1, used.clone());
        small.keep(1, index());
        assert!(small.get(1).is_some());
        drop((cache, small));
        assert_eq!(used.get(), 0);
    }
}
