//! What to archive next, what may leave the local disk, and when producers have to slow down. Pure.
//!
//! Callers gather what they know of their partitions and act on the answers; nothing here reads a clock, a disk or a head.

use std::ops::Range;

use crate::types::{Offset, Timestamp};

/// A sealed segment of the hot log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// First offset.
    pub base: Offset,
    /// First offset after.
    pub next: Offset,
    /// Bytes on local disk.
    pub bytes: u64,
    /// Largest record timestamp, by which retention goes.
    pub max_timestamp: Timestamp,
}

/// What is known of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Sealed segments on local disk, in offset order.
    pub sealed: Vec<SealedSegment>,
    /// First offset that a client may read.
    pub log_start_offset: Offset,
    /// First offset on local disk.
    pub local_log_start_offset: Offset,
    /// Everything below is synced, decided and committed: the least of recovery point, last stable offset and high
    /// watermark. Nothing at or above it is archived.
    pub archivable_to: Offset,
    /// First offset that is not archived, by the head in the bucket; `None` while that is not known.
    pub archived_to: Option<Offset>,
}

impl PartitionView {
    /// Bytes that only the local disk has.
    pub fn unarchived_bytes(&self) -> u64 {
        self.bytes_beyond(self.archived_to.unwrap_or(Offset::ZERO))
    }

    /// Bytes of sealed segments that the archive lacks if it ends at `archived_to`.
    pub fn bytes_beyond(&self, archived_to: Offset) -> u64 {
        self.sealed.iter().map(|segment| bytes_from(segment.base..segment.next, segment.bytes, archived_to)).sum()
    }
}

/// About how many bytes of a segment are at or beyond `from`, were its records all of one size. The archive ends within a segment
/// of a log that was a follower's, as replicas seal each by itself.
pub fn bytes_from(offsets: Range<Offset>, bytes: u64, from: Offset) -> u64 {
    let length = |from: Offset| u128::from(offsets.end.0.saturating_sub(from.0).max(0).unsigned_abs());
    let part = u128::from(bytes) * length(from.max(offsets.start)) / length(offsets.start).max(1);
    u64::try_from(part).unwrap_or(bytes)
}

/// The index of the candidate to serve next, each given by its oldest unarchived timestamp and its unarchived bytes. Twice
/// the age counts as much as twice the bytes, so that neither a trickle nor a flood is starved.
pub fn most_urgent(candidates: &[(Timestamp, u64)], now: Timestamp) -> Option<usize> {
    let urgency = |&(oldest, bytes): &(Timestamp, u64)| {
        let age_ms = u128::from(now.0.saturating_sub(oldest.0).max(1).unsigned_abs());
        age_ms * u128::from(bytes.max(1))
    };
    let best = candidates.iter().enumerate().max_by_key(|(index, candidate)| (urgency(candidate), usize::MAX - index));
    best.map(|(index, _)| index)
}

/// What a topic keeps on local disk once it is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRetention {
    /// `local.retention.ms`; `None` keeps for ever.
    pub retention_ms: Option<u64>,
    /// `local.retention.bytes`; `None` does not bound.
    pub retention_bytes: Option<u64>,
}

/// The first offset that has to stay on local disk: archived segments below it may be deleted. `is_durable` says that the
/// store outlives the process; without that nothing is ever deleted. Never beyond what is archived.
pub fn local_retention(view: &PartitionView, keep: LocalRetention, now: Timestamp, is_durable: bool) -> Offset {
    let Some(archived_to) = view.archived_to.filter(|_| is_durable) else { return view.local_log_start_offset };
    let mut start = view.local_log_start_offset;
    let mut bytes: u64 = view.sealed.iter().map(|segment| segment.bytes).sum();
    for segment in view.sealed.iter().take_while(|segment| segment.next <= archived_to) {
        let age_ms = u64::try_from(now.0.saturating_sub(segment.max_timestamp.0)).unwrap_or(0);
        let is_old = keep.retention_ms.is_some_and(|limit| age_ms > limit);
        let is_over = keep.retention_bytes.is_some_and(|limit| bytes - segment.bytes >= limit);
        if !is_old && !is_over {
            break;
        }
        bytes -= segment.bytes;
        start = start.max(segment.next);
    }
    start
}

/// Segments that retention deletes for good in one pass by their age: a clock that jumps ahead takes many passes to do harm,
/// and shows meanwhile. Size is no clock's, and has no such bound.
pub const EXPIRED_PER_PASS: usize = 64;

/// The log start that retention calls for in one pass where no archive is: what it passes is gone.
pub fn retention_without_archive(view: &PartitionView, keep: LocalRetention, now: Timestamp) -> Offset {
    let everything = PartitionView { archived_to: Some(view.archivable_to), ..view.clone() };
    let start = local_retention(&everything, keep, now, true);
    let by_size = local_retention(&everything, LocalRetention { retention_ms: None, ..keep }, now, true);
    // What was deleted before may still be on the disk.
    let live = view.sealed.iter().filter(|segment| segment.next > view.log_start_offset);
    let most = live.take(EXPIRED_PER_PASS).last().map_or(start, |last| last.next);
    start.min(most.max(by_size)).max(view.log_start_offset)
}

/// One archived segment of some partition that could leave the local disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evictable {
    /// Which partition, by the caller's numbering.
    pub partition: usize,
    /// The segment.
    pub segment: SealedSegment,
}

/// An active segment of fewer bytes is not sealed before its time.
const SEALED_EARLY_BYTES: u64 = 1 << 20;

/// Archived segments to delete from the local disk, whatever retention says, until at most `budget_bytes` of
/// `local_bytes` remain: the oldest first, over all partitions.
pub fn over_budget(mut archived: Vec<Evictable>, local_bytes: u64, budget_bytes: u64) -> Vec<Evictable> {
    let mut excess = local_bytes.saturating_sub(budget_bytes);
    archived.sort_by_key(|candidate| (candidate.segment.max_timestamp, candidate.partition, candidate.segment.base));
    let needed = archived.iter().take_while(|candidate| {
        let needed = excess > 0;
        excess = excess.saturating_sub(candidate.segment.bytes);
        needed
    });
    let count = needed.count();
    archived.truncate(count);
    archived
}

/// Which active segments to seal before their time, so that the archive can take them and their disk gets room: of
/// `unsealed_bytes` the largest first, until they make up `missing_bytes`. Small ones are left alone, as they would give little
/// and cost an object each.
pub fn seal_early(unsealed_bytes: &[u64], missing_bytes: u64) -> Vec<usize> {
    let mut candidates: Vec<usize> =
        (0..unsealed_bytes.len()).filter(|&at| unsealed_bytes[at] >= SEALED_EARLY_BYTES).collect();
    candidates.sort_by_key(|&at| std::cmp::Reverse(unsealed_bytes[at]));
    let mut missing = missing_bytes;
    let needed = candidates.iter().take_while(|&&at| {
        let needed = missing > 0;
        missing = missing.saturating_sub(unsealed_bytes[at]);
        needed
    });
    let count = needed.count();
    candidates.truncate(count);
    candidates
}

/// How far the local disk may fill with data that is not archived before producers are slowed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Unarchived bytes below which nobody is slowed down.
    pub comfortable_bytes: u64,
    /// Unarchived bytes at which producers get no more than the archive can take.
    pub full_bytes: u64,
}

/// The rate at which all producers together may write, in bytes per second, given how fast the archive has been going
/// lately; `None` does not limit. Between comfortable and full the limit glides from four times that rate down to it, so
/// that the backlog levels off long before the disk is in danger; above full it falls on, to an eighth, and never to zero.
pub fn produce_limit(backlog: Backlog, unarchived_bytes: u64, archive_bytes_per_second: u64) -> Option<u64> {
    const GENEROUS: u64 = 4;
    const LEAST_SHARE: u64 = 8;
    let span = backlog.full_bytes.saturating_sub(backlog.comfortable_bytes).max(1);
    let over = unarchived_bytes.checked_sub(backlog.comfortable_bytes).filter(|&over| over > 0)?;
    let rate = u128::from(archive_bytes_per_second.max(1));
    let (over, span) = (u128::from(over), u128::from(span));
    let limit = if over <= span {
        rate * (u128::from(GENEROUS) * span - u128::from(GENEROUS - 1) * over) / span
    } else {
        rate * span / over
    };
    let least = (rate / u128::from(LEAST_SHARE)).max(1);
    Some(u64::try_from(limit.max(least)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_active_segments_are_sealed_early_and_small_ones_never() {
        const MIB: u64 = 1 << 20;
        let bytes = [3 * MIB, MIB - 1, 9 * MIB, MIB];
        assert_eq!(seal_early(&bytes, 0), [0; 0]);
        assert_eq!(seal_early(&bytes, 1), [2]);
        assert_eq!(seal_early(&bytes, 10 * MIB), [2, 0]);
        assert_eq!(seal_early(&bytes, u64::MAX), [2, 0, 3]);
    }

    fn sealed(base: i64, next: i64) -> SealedSegment {
        SealedSegment { base: Offset(base), next: Offset(next), bytes: 100, max_timestamp: Timestamp(next * 10) }
    }

    fn view(archived_to: i64) -> PartitionView {
        PartitionView {
            sealed: vec![sealed(0, 10), sealed(10, 20), sealed(20, 30)],
            log_start_offset: Offset(0),
            local_log_start_offset: Offset(0),
            archivable_to: Offset(25),
            archived_to: Some(Offset(archived_to)),
        }
    }

    #[test]
    fn nothing_unarchived_ever_leaves_the_local_disk() {
        let keep = LocalRetention { retention_ms: Some(0), retention_bytes: Some(0) };
        let late = Timestamp(i64::MAX);
        assert_eq!(local_retention(&view(20), keep, late, true), Offset(20));
        assert_eq!(local_retention(&view(15), keep, late, true), Offset(10));
        assert_eq!(local_retention(&view(20), keep, late, false), Offset(0));
        assert_eq!(local_retention(&PartitionView { archived_to: None, ..view(0) }, keep, late, true), Offset(0));
        let forever = LocalRetention { retention_ms: None, retention_bytes: None };
        assert_eq!(local_retention(&view(30), forever, late, true), Offset(0));
        let by_size = LocalRetention { retention_ms: None, retention_bytes: Some(150) };
        assert_eq!(local_retention(&view(30), by_size, late, true), Offset(10));
        let by_age = LocalRetention { retention_ms: Some(100), retention_bytes: None };
        assert_eq!(local_retention(&view(30), by_age, Timestamp(301), true), Offset(20));
    }

    #[test]
    fn of_a_segment_that_the_archive_ends_in_what_is_archived_counts_once() {
        let unarchived: Vec<u64> = [0, 4, 10, 15, 30, 99].map(|to| view(to).unarchived_bytes()).into();
        assert_eq!(unarchived, [300, 260, 200, 150, 0, 0]);
        assert_eq!(bytes_from(Offset(5)..Offset(5), 7, Offset(5)), 0, "an empty one");
        let all = Offset(0)..Offset(i64::MAX);
        assert_eq!(bytes_from(all.clone(), u64::MAX, Offset(0)), u64::MAX);
        assert_eq!(bytes_from(all, u64::MAX, Offset(i64::MAX)), 0);
        let keep = LocalRetention { retention_ms: Some(0), retention_bytes: Some(0) };
        assert_eq!(local_retention(&view(15), keep, Timestamp(i64::MAX), true), Offset(10), "it stays as a whole");
    }

    #[test]
    fn a_clock_that_jumps_ahead_deletes_few_segments_a_pass() {
        let count = EXPIRED_PER_PASS as i64 + 30;
        let mut view = PartitionView {
            sealed: (0..count).map(|number| sealed(number * 10, number * 10 + 10)).collect(),
            log_start_offset: Offset(100),
            local_log_start_offset: Offset(0),
            archivable_to: Offset(count * 10),
            archived_to: None,
        };
        let keep = LocalRetention { retention_ms: Some(0), retention_bytes: None };
        let late = Timestamp(i64::MAX);
        let start = retention_without_archive(&view, keep, late);
        assert_eq!(start, Offset(100 + EXPIRED_PER_PASS as i64 * 10));
        view.log_start_offset = start;
        assert_eq!(retention_without_archive(&view, keep, late), Offset(count * 10), "the next pass goes on");
        let forever = LocalRetention { retention_ms: None, retention_bytes: None };
        assert_eq!(retention_without_archive(&view, forever, late), start);
        view.log_start_offset = Offset(0);
        let kept: u64 = view.sealed[5..].iter().map(|segment| segment.bytes).sum();
        for (kept, gone) in [(0, count), (kept, 5)] {
            let by_size = LocalRetention { retention_ms: None, retention_bytes: Some(kept) };
            assert_eq!(retention_without_archive(&view, by_size, late), Offset(gone * 10), "size goes by no clock");
        }
    }

    #[test]
    fn the_oldest_archived_segments_make_room_first() {
        let candidate = |partition, base| Evictable { partition, segment: sealed(base, base + 10) };
        let candidates = vec![candidate(0, 50), candidate(1, 10), candidate(2, 30)];
        let chosen = over_budget(candidates.clone(), 1000, 850);
        assert_eq!(chosen, [candidate(1, 10), candidate(2, 30)]);
        assert!(over_budget(candidates, 1000, 1000).is_empty());
    }

    #[test]
    fn neither_age_nor_size_alone_decides_who_is_next() {
        let now = Timestamp(1_000_000);
        assert_eq!(most_urgent(&[], now), None);
        assert_eq!(most_urgent(&[(Timestamp(0), 100), (Timestamp(900_000), 100)], now), Some(0));
        assert_eq!(most_urgent(&[(Timestamp(500_000), 100), (Timestamp(900_000), 10_000)], now), Some(1));
    }

    #[test]
    fn producers_are_slowed_smoothly_and_never_stopped() {
        let backlog = Backlog { comfortable_bytes: 1000, full_bytes: 2000 };
        assert_eq!(produce_limit(backlog, 1000, 100), None);
        let limits: Vec<u64> = (1001..10_000).map(|bytes| produce_limit(backlog, bytes, 100).unwrap()).collect();
        assert!(limits.is_sorted_by(|one, two| one >= two), "more backlog never means more speed");
        assert_eq!(limits[0], 399);
        assert_eq!(produce_limit(backlog, 2000, 100), Some(100));
        assert_eq!(produce_limit(backlog, u64::MAX, 100), Some(12));
        let steps = limits.windows(2).map(|pair| pair[0] - pair[1]).max().unwrap();
        assert!(steps <= 1, "no jumps");
    }
}
