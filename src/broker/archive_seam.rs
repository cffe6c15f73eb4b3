//! The seam to the archive: what a partition's reads need once the local copy of old records has gone.
//!
//! [`super::archiver`] stands behind it. Reads are futures that can be dropped: what a
//! dropped one had already fetched stays in the archive's cache, so that the next attempt goes on from there.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::runtime::net::BoxFuture;
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};

/// Archived records can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArchiveError {
    /// This process has no archive, but the log's beginning is there.
    #[error("the record is archived, and this broker has no archive offset={offset}")]
    Absent {
        /// The offset asked for.
        offset: Offset,
    },
    /// The object store does not answer; the same read may succeed later.
    #[error("the archive does not answer: {error}")]
    Unavailable {
        /// What it said.
        error: Arc<str>,
    },
    /// Archived data is not what was written.
    #[error("archived data is damaged: {error}")]
    Damaged {
        /// What is wrong.
        error: Arc<str>,
    },
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Leader epoch of its batch.
    pub leader_epoch: LeaderEpoch,
}

/// Reads of archived records.
pub trait ArchiveReader: Send + Sync {
    /// Whole batches from the one that holds `offset` on, at most `max_bytes` but at least one; rebuilt as they were
    /// produced.
    fn read(
        &self,
        partition: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ArchiveError>>;

    /// The first archived record at or after `from` whose timestamp is at least `timestamp`.
    fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp: Timestamp,
        from: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>>;

    /// The archived record with the largest timestamp at or after `from`, the first of them if several have it.
    fn max_timestamp(
        &self,
        partition: TopicPartition,
        from: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>>;
}
