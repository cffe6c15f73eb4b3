//! How many producers the partitions of a data directory remember together.
//!
//! Each partition has a limit of its own; ten thousand partitions would still remember any number. Beyond the directory's limit
//! a partition that gets a new producer forgets some of its own, but never its last: so all together remember at most the limit
//! and one more for each partition. The lock of a partition guards its part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count of a directory; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ProducerCount {
    all: Arc<AtomicUsize>,
    limit: usize,
}

/// The part of one partition; leaves the count when dropped.
#[derive(Debug)]
pub(super) struct CountedProducers {
    count: ProducerCount,
    own: usize,
}

impl ProducerCount {
    pub(super) fn new(limit: usize) -> Self {
        Self { all: Arc::default(), limit }
    }

    /// The part of a partition that remembers so many.
    pub(super) fn part(&self, own: usize) -> CountedProducers {
        let mut part = CountedProducers { count: self.clone(), own: 0 };
        part.set(own);
        part
    }
}

impl CountedProducers {
    /// The partition remembers so many now.
    pub(super) fn set(&mut self, own: usize) {
        // The sum of what is added and taken away is right whatever order others see it in.
        match own.checked_sub(self.own) {
            Some(more) => self.count.all.fetch_add(more, Ordering::Relaxed),
            None => self.count.all.fetch_sub(self.own - own, Ordering::Relaxed),
        };
        self.own = own;
    }

    /// How many the partition may keep, a tenth fewer than it has, if all partitions together remember too many.
    pub(super) fn limit(&self) -> Option<usize> {
        let is_over = self.count.all.load(Ordering::Relaxed) > self.count.limit;
        is_over.then(|| (self.own - self.own.div_ceil(10)).max(1))
    }
}

impl Drop for CountedProducers {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_are_bounded_and_parts_that_go_leave_room() {
        let count = ProducerCount::new(10);
        let (mut one, mut other) = (count.part(8), count.part(2));
        assert_eq!((one.limit(), other.limit()), (None, None));
        other.set(3);
        assert_eq!((one.limit(), other.limit()), (Some(7), Some(2)));
        other.set(1);
        one.set(10);
        assert_eq!((one.limit(), other.limit()), (Some(9), Some(1)));
        drop(one);
        assert_eq!((other.limit(), count.all.load(Ordering::Relaxed)), (None, 1));
    }
}
