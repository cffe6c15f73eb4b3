//! What is left to do about a head: a small summary that is kept when the head itself is not.

use super::{Head, Segment, Tombstone};
use crate::types::{Offset, Timestamp};

/// What a topic keeps in all tiers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`; `None` keeps for ever.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`; `None` does not bound.
    pub retention_bytes: Option<u64>,
}

impl Retention {
    /// Whether a segment goes that is the oldest of `total_bytes`.
    pub(in crate::archive) fn passes(&self, oldest: &Oldest, total_bytes: u64, now: Timestamp) -> bool {
        let age_ms = u64::try_from(now.0.saturating_sub(oldest.max_timestamp.0)).unwrap_or(0);
        // Records without a time are not from 1969: nothing here tells their age.
        let is_dated = oldest.max_timestamp != Timestamp::NONE;
        let is_old = is_dated && self.retention_ms.is_some_and(|limit| age_ms > limit);
        is_old || self.is_exceeded(oldest, total_bytes)
    }

    /// The same by size alone.
    pub(in crate::archive) fn is_exceeded(&self, oldest: &Oldest, total_bytes: u64) -> bool {
        self.retention_bytes.is_some_and(|limit| total_bytes.saturating_sub(oldest.log_bytes) >= limit)
    }

    const fn is_unbounded(&self) -> bool {
        self.retention_ms.is_none() && self.retention_bytes.is_none()
    }
}

/// By what retention judges a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::archive) struct Oldest {
    max_timestamp: Timestamp,
    log_bytes: u64,
}

impl From<&Segment> for Oldest {
    fn from(segment: &Segment) -> Self {
        Self { max_timestamp: segment.max_timestamp, log_bytes: segment.log_bytes }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    log_start_offset: Offset,
    next_offset: Offset,
    log_bytes: u64,
    has_expired: bool,
    /// The oldest segments are in a list, which alone says how old they are.
    has_spills: bool,
    oldest: Option<Oldest>,
    next_deletion: Option<Timestamp>,
}

impl Head {
    /// Its summary.
    pub fn upkeep(&self) -> Upkeep {
        let live = self.segments.iter().find(|segment| segment.next() > self.log_start_offset);
        Upkeep {
            log_start_offset: self.log_start_offset,
            next_offset: self.next_offset,
            log_bytes: self.log_bytes(),
            has_expired: self.has_expired(),
            has_spills: !self.spills.is_empty(),
            oldest: live.map(Oldest::from),
            next_deletion: self.due_tombstones(Timestamp(i64::MAX)).map(|tombstone| tombstone.not_before).min(),
        }
    }

    /// About how much memory it takes, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let chunks: usize = self.segments.iter().map(|segment| segment.chunks.len()).sum();
        let bytes = size_of::<Self>()
            + self.segments.len() * size_of::<Segment>()
            + chunks * size_of::<super::ChunkRow>()
            + self.spills.len() * size_of::<super::SpillRef>()
            + self.tombstones.len() * size_of::<Tombstone>()
            + self.epochs.len() * size_of::<super::EpochStart>();
        bytes as u64
    }
}

impl Upkeep {
    /// Whether retention or a tombstone asks for a change, or head and log have different log starts, as far as the archive goes.
    pub fn is_due(&self, keep: Retention, unarchived_bytes: u64, log_start: Offset, now: Timestamp) -> bool {
        let total = self.log_bytes.saturating_add(unarchived_bytes);
        self.has_expired
            || log_start.min(self.next_offset) > self.log_start_offset
            || log_start < self.log_start_offset
            || (self.has_spills && !keep.is_unbounded())
            || self.oldest.is_some_and(|oldest| keep.passes(&oldest, total, now))
            || self.next_deletion.is_some_and(|time| time <= now)
    }
}
