//! The seam to the archive: what a partition's reads need once the local copy of old records has gone.
//!
//! [`super::archiver`] stands behind it. What is at hand, in the archive's cache, is read like a local segment; what is not is
//! fetched first, by futures that can be dropped: what a dropped one had begun to rebuild is completed into the cache.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::archive::chunk_cache::FetchCompression;
use crate::metadata::topic_config::ArchiveFetchCompression;
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

/// What is wanted of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchiveRead {
    /// Of which partition.
    pub partition: TopicPartition,
    /// From the batch on that holds this offset, or the first after it.
    pub offset: Offset,
    /// How batches are compressed for the client; the topic says so.
    pub compression: FetchCompression,
}

impl From<ArchiveFetchCompression> for FetchCompression {
    fn from(configured: ArchiveFetchCompression) -> Self {
        match configured {
            ArchiveFetchCompression::Auto => Self::Auto,
            ArchiveFetchCompression::Original => Self::Original,
            ArchiveFetchCompression::None => Self::None,
            ArchiveFetchCompression::Lz4 => Self::Lz4,
            ArchiveFetchCompression::Zstd => Self::Zstd,
        }
    }
}

/// Archived batches that are at hand, in a file of the cache or in memory.
pub trait AtHand: Send + Sync {
    /// Whole batches from the offset wanted on, at most `max_bytes` but at least one. Blocks on the disk.
    ///
    /// # Errors
    /// When the cache's file can't be read; the same read succeeds later, from the bucket.
    fn read(&self, max_bytes: usize) -> Result<Vec<Bytes>, ArchiveError>;
}

/// Reads of archived records.
pub trait ArchiveReader: Send + Sync {
    /// Whether what is archived outlives this process.
    fn is_durable(&self) -> bool;

    /// The batches at an offset, if they are at hand. Touches neither disk nor network.
    fn at_hand(&self, wanted: ArchiveRead) -> Option<Arc<dyn AtHand>>;

    /// Gets the batches at an offset from the bucket.
    fn fetch(&self, wanted: ArchiveRead) -> BoxFuture<'_, Result<Arc<dyn AtHand>, ArchiveError>>;

    /// The first archived record at or after `from` whose timestamp is at least `timestamp`.
    fn offset_for_timestamp(
        &self,
        partition: TopicPartition,
        timestamp: Timestamp,
        from: Offset,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>>;

    /// The archived record with the largest timestamp in segments that reach into `offsets`, the first of them if several have it;
    /// none if all of those are older than `least`, which takes no look at them.
    fn max_timestamp(
        &self,
        partition: TopicPartition,
        offsets: Range<Offset>,
        least: Timestamp,
    ) -> BoxFuture<'_, Result<Option<FoundOffset>, ArchiveError>>;
}
