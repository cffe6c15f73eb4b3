//! What can be wrong with the archive's own records, and why a change of a head is refused.

use thiserror::Error;

use crate::archive::key::Fence;
use crate::types::{LeaderEpoch, Offset};

/// A manifest object that cannot be understood or contradicts itself.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Written by a newer release.
    #[error("manifest has a newer format format={format} newest_known={newest_known}; use a newer release")]
    NewerFormat {
        /// The stamp found.
        format: u64,
        /// The newest that this release reads.
        newest_known: u32,
    },
    /// Not the JSON that the format calls for; an unknown field is one way.
    #[error("manifest is malformed: {cause}")]
    Malformed {
        /// Where and what.
        cause: serde_json::Error,
    },
    /// It is not what was written.
    #[error("manifest is damaged: its checksum does not match")]
    Checksum,
    /// The snapshot of the producers' state is damaged, or newer than this release.
    #[error("snapshot of producers is not understood")]
    Snapshot,
    /// More than is ever read again.
    #[error("snapshot of groups is too large bytes={bytes} limit_bytes={limit_bytes}; delete groups that nobody needs")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The largest that can be read.
        limit_bytes: usize,
    },
    /// Compressed content that does not decompress.
    #[error("manifest does not decompress")]
    Compression,
    /// It belongs to something else than its key says.
    #[error("manifest belongs to another {what} expected={expected} found={found}")]
    Misplaced {
        /// Which part of its identity differs.
        what: &'static str,
        /// What the key says.
        expected: String,
        /// What the content says.
        found: String,
    },
    /// Its parts contradict each other.
    #[error("manifest contradicts itself: {what} at_offset={at}")]
    Inconsistent {
        /// Which rule is broken.
        what: &'static str,
        /// Where.
        at: Offset,
    },
}

/// Why a head is not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransitionError {
    /// Another leader, or another life of the cluster, has taken the head over. Stop, and delete nothing.
    #[error("fenced by a later writer ours={ours} current={current}")]
    Fenced {
        /// Who asks.
        ours: Fence,
        /// Who may write.
        current: Fence,
    },
    /// Another process writes in the same epoch: two copies of one data directory share the bucket. Stop, and delete nothing.
    #[error("another process writes in the same leader epoch, perhaps from a copy of the data directory fence={fence}")]
    Rival {
        /// The epoch of both.
        fence: Fence,
    },
    /// The head was not taken over before it was written.
    #[error("the head is not taken over yet ours={ours} current={current}")]
    NotTakenOver {
        /// Who asks.
        ours: Fence,
        /// Who may write.
        current: Fence,
    },
    /// The segment does not continue where the archive ends.
    #[error("segment does not continue the archive expected_base={expected} base={base}")]
    NotContiguous {
        /// Where the archive ends.
        expected: Offset,
        /// Where the segment begins.
        base: Offset,
    },
    /// The segment's range is archived already, by this or another upload of it.
    #[error("segment is archived already next_offset={next_offset} base={base}")]
    AlreadyArchived {
        /// Where the archive ends.
        next_offset: Offset,
        /// Where the segment begins.
        base: Offset,
    },
    /// The segment's records are of an earlier leader epoch than what is archived before them: another history.
    #[error("segment is of an earlier leader epoch than the archive epoch={epoch} archived={archived} base={base}")]
    EpochBackwards {
        /// The first epoch of the segment.
        epoch: LeaderEpoch,
        /// The last epoch that is archived.
        archived: LeaderEpoch,
        /// Where the segment begins.
        base: Offset,
    },
    /// The segment's own numbers do not add up, which is a bug of its maker.
    #[error("segment is not well formed: {what} base={base}")]
    BadSegment {
        /// Which rule is broken.
        what: &'static str,
        /// Where the segment begins.
        base: Offset,
    },
    /// No room for another inline segment: spill first.
    #[error("the head is full segments={segments}; spill first")]
    Full {
        /// Inline segments.
        segments: usize,
    },
    /// The log start never moves back, nor past what the caller knows to exist.
    #[error("log start offset cannot move back current={current} asked={asked}")]
    LogStartBackwards {
        /// Where it is.
        current: Offset,
        /// Where it was to go.
        asked: Offset,
    },
    /// A tombstone that is not there or whose time has not come.
    #[error("tombstone cannot be dropped yet or is unknown generation={generation}")]
    TombstoneNotDue {
        /// Its generation.
        generation: u64,
    },
}
