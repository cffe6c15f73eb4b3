//! The history of leader epochs of one partition: which epoch began at which offset (KIP-101, KIP-279).
//!
//! Owned by the partition's log; written to the checkpoint, and rebuilt above it from epoch starts and batches in the
//! journal. Plain data without IO.

use crate::types::{LeaderEpoch, Offset};

/// Epochs with the first offset of each, both strictly growing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl EpochCache {
    /// Takes a history that was stored; entries that do not grow are an error of the store, so `None` is returned.
    pub fn from_starts(starts: Vec<(LeaderEpoch, Offset)>) -> Option<Self> {
        let grows = starts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        grows.then_some(Self { starts })
    }

    /// The entries, oldest first.
    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    /// The newest epoch that has a start.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|&(epoch, _)| epoch)
    }

    /// Notes that a record of `epoch` is at `offset`. An epoch that is known stays as it is; an older one is ignored.
    /// An epoch that began without ever getting a record is forgotten, so that offsets stay strictly growing; also when the record
    /// is of an older epoch, from a later leader that never heard of it.
    pub fn assign(&mut self, epoch: LeaderEpoch, offset: Offset) {
        while self.starts.last().is_some_and(|&(latest, start)| latest > epoch && start >= offset && epoch.0 >= 0) {
            self.starts.pop();
        }
        if epoch.0 < 0 || self.latest().is_some_and(|latest| epoch <= latest) {
            return;
        }
        while self.starts.last().is_some_and(|&(_, start)| start >= offset) {
            self.starts.pop();
        }
        self.starts.push((epoch, offset));
    }

    /// Where the history begins: later than the log, if its own was lost with a checkpoint. `local_log_start` is where it begins
    /// for want of any epoch.
    pub fn known_from(&self, local_log_start: Offset) -> Offset {
        self.starts.first().map_or(local_log_start, |&(_, start)| start)
    }

    /// Takes the history before what is known, of which the own one was lost.
    pub fn precede(&mut self, earlier: impl IntoIterator<Item = (LeaderEpoch, Offset)>) {
        let first = self.starts.first().copied();
        let is_earlier = |&(epoch, at): &(_, _)| first.is_none_or(|(first, start)| epoch <= first && at < start);
        let mut whole = Self::default();
        for (epoch, start) in earlier.into_iter().filter(is_earlier).chain(self.starts.iter().copied()) {
            whole.assign(epoch, start);
        }
        *self = whole;
    }

    /// Answers OffsetForLeaderEpoch: the largest known epoch that is not above `epoch`, and where it ended. `None` when
    /// `epoch` is older than all that is known or newer than the latest.
    pub fn end_offset(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|&(known, _)| known <= epoch);
        if after == self.starts.len() {
            let (latest, _) = *self.starts.last()?;
            return (latest == epoch).then_some((latest, log_end));
        }
        let &(known, _) = self.starts.get(after.checked_sub(1)?)?;
        Some((known, self.starts[after].1))
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|&(_, start)| start <= offset);
        Some(self.starts.get(after.checked_sub(1)?)?.0)
    }

    /// Forgets epochs that begin at or after `end`, as the log was cut there.
    pub fn truncate_to(&mut self, end: Offset) {
        while self.starts.last().is_some_and(|&(_, start)| start >= end) {
            self.starts.pop();
        }
    }

    /// Forgets epochs that ended at or before `log_start`; the one that holds `log_start` then begins there.
    pub fn advance_log_start(&mut self, log_start: Offset) {
        let after = self.starts.partition_point(|&(_, start)| start <= log_start);
        if after > 0 {
            self.starts.drain(..after - 1);
            self.starts[0].1 = log_start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(starts: &[(i32, i64)]) -> EpochCache {
        EpochCache::from_starts(starts.iter().map(|&(e, o)| (LeaderEpoch(e), Offset(o))).collect()).unwrap()
    }

    #[test]
    fn an_epoch_ends_where_the_next_known_one_begins() {
        let cache = cache(&[(1, 0), (3, 10), (7, 25)]);
        let end = |epoch| cache.end_offset(LeaderEpoch(epoch), Offset(40)).map(|(e, o)| (e.0, o.0));
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(3), Some((3, 25)));
        assert_eq!(end(7), Some((7, 40)));
        assert_eq!(end(8), None);
        assert_eq!(cache.epoch_at(Offset(24)), Some(LeaderEpoch(3)));
    }

    #[test]
    fn an_epoch_without_records_is_forgotten() {
        let mut cache = cache(&[(1, 0)]);
        cache.assign(LeaderEpoch(2), Offset(5));
        cache.assign(LeaderEpoch(4), Offset(5));
        cache.assign(LeaderEpoch(3), Offset(9));
        assert_eq!(cache.starts(), &[(LeaderEpoch(1), Offset(0)), (LeaderEpoch(4), Offset(5))]);
        // Another leader had more of the epoch before.
        cache.assign(LeaderEpoch(6), Offset(9));
        cache.assign(LeaderEpoch(4), Offset(9));
        assert_eq!(cache.starts(), &[(LeaderEpoch(1), Offset(0)), (LeaderEpoch(4), Offset(5))]);
    }

    #[test]
    fn a_history_is_put_before_what_is_known() {
        let earlier = || cache(&[(1, 0), (3, 10), (7, 25), (8, 60)]).starts.into_iter();
        let mut within = cache(&[(3, 20), (7, 25), (9, 40)]);
        within.precede(earlier());
        assert_eq!(within, cache(&[(1, 0), (3, 10), (7, 25), (9, 40)]));
        let mut after = cache(&[(9, 40)]);
        after.precede(earlier().take(3));
        assert_eq!(after, cache(&[(1, 0), (3, 10), (7, 25), (9, 40)]));
        let mut nothing = EpochCache::default();
        nothing.precede(earlier());
        assert_eq!(nothing, cache(&[(1, 0), (3, 10), (7, 25), (8, 60)]));
    }

    #[test]
    fn cutting_either_end_keeps_the_rest() {
        let mut both = cache(&[(1, 0), (3, 10), (7, 25)]);
        both.truncate_to(Offset(25));
        both.advance_log_start(Offset(12));
        assert_eq!(both.starts(), &[(LeaderEpoch(3), Offset(12))]);
        assert!(EpochCache::from_starts(vec![(LeaderEpoch(2), Offset(5)), (LeaderEpoch(1), Offset(9))]).is_none());
    }
}
