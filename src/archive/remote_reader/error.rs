//! Why a read of the archive failed.

use std::sync::Arc;

use thiserror::Error;

use crate::archive::key::SegmentName;
use crate::archive::parquet::DecodeError;
use crate::archive::partition::HeadError;
use crate::archive::store::StoreError;
use crate::record::RecordError;
use crate::types::Offset;

/// Why archived data could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Below the log start.
    #[error("offset is below the log start offset={offset} log_start_offset={log_start_offset}")]
    Deleted {
        /// The offset that was asked for.
        offset: Offset,
        /// The first one that there is.
        log_start_offset: Offset,
    },
    /// At or above the end of the archive.
    #[error("offset is not archived offset={offset} next_offset={next_offset}")]
    Beyond {
        /// The offset that was asked for.
        offset: Offset,
        /// The end of the archive.
        next_offset: Offset,
    },
    /// The head or one of its lists could not be read.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the bucket holds is not what was archived.
    #[error("archived segment {segment} is damaged: {source}")]
    Damaged {
        /// Which segment.
        segment: SegmentName,
        /// What is wrong.
        source: DecodeError,
    },
    /// A batch could not be compressed for the client.
    #[error("an archived batch could not be compressed: {0}")]
    Compress(#[from] RecordError),
    /// The local cache could not be read or written.
    #[error("the archive's local cache failed: {0}")]
    Cache(#[from] std::io::Error),
    /// A file of the local cache was not what had been written to it, and was dropped: the next read builds it again.
    #[error("a file of the archive's local cache was damaged, and is dropped")]
    CacheDamaged,
    /// The build of a chunk ended without an outcome, as at shutdown.
    #[error("the chunk was not built because the broker is stopping")]
    BuildLost,
    /// The build that this read waited for failed.
    #[error("{0}")]
    Shared(Arc<ReadError>),
}

impl ReadError {
    /// Whether the bucket's data is damaged or gone, which someone has to look at.
    pub fn is_damage(&self) -> bool {
        self.damaged().is_some()
    }

    /// The segment or object of the bucket that is damaged or gone.
    pub fn damaged(&self) -> Option<String> {
        match self {
            Self::Damaged { segment, .. } => Some(segment.to_string()),
            Self::Store(StoreError::NotFound { key })
            | Self::Head(HeadError::Manifest { key, .. } | HeadError::Store(StoreError::NotFound { key })) => {
                Some(key.clone())
            }
            Self::Shared(error) => error.damaged(),
            _ => None,
        }
    }
}
