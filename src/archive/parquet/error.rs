//! What can go wrong between batches and their archived form.

use std::io;

use parquet::errors::ParquetError;
use thiserror::Error;

use crate::record::RecordError;
use crate::types::Offset;

/// A segment that could not be encoded.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The log could not be read, or a batch of it is damaged.
    #[error("a batch of the segment cannot be read: {cause}")]
    Source {
        /// What the log said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A batch is damaged: it must not be archived, and so its local copy must not be deleted.
    #[error("a batch of the segment is damaged base_offset={base_offset}: {cause}")]
    DamagedBatch {
        /// Where it begins.
        base_offset: Offset,
        /// What is wrong with it.
        cause: RecordError,
    },
    /// A batch lies outside the range or before the batch that precedes it.
    #[error("a batch is out of order base_offset={base_offset} expected_at_least={expected}")]
    OutOfOrder {
        /// Where it begins.
        base_offset: Offset,
        /// The smallest offset that could follow.
        expected: Offset,
    },
    /// The range holds no batch.
    #[error("the segment holds no batch base={base} next={next}")]
    Empty {
        /// First offset.
        base: Offset,
        /// First offset after.
        next: Offset,
    },
    /// Whoever asked for it does not wait any more, as when the broker stops. The segment stays as it is.
    #[error("nobody waits for the segment any more")]
    Abandoned,
    /// The spool could not be written; a full disk is the usual reason.
    #[error("the spool cannot be written: {0}")]
    Spool(#[from] io::Error),
    /// The Parquet writer failed.
    #[error("the Parquet writer failed: {0}")]
    Parquet(#[from] ParquetError),
    /// What was written does not read back as the same batches. Nothing is uploaded.
    #[error("the encoded segment does not read back: {0}")]
    Verify(#[from] DecodeError),
}

/// Archived bytes that cannot be turned back into batches, or not into the ones that were archived.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The Parquet reader failed.
    #[error("archived Parquet cannot be read: {0}")]
    Parquet(#[from] ParquetError),
    /// The file does not have the columns of the format.
    #[error("archived Parquet lacks a column or has it in another type column={column}")]
    Schema {
        /// Which column.
        column: &'static str,
    },
    /// A companion object or a value of a column that does not follow the format.
    #[error("archived data is malformed: {what} at={at}")]
    Malformed {
        /// Which rule is broken.
        what: &'static str,
        /// An offset, position or number that says where.
        at: i64,
    },
    /// A newer release wrote it.
    #[error("archived data has a newer format format={format}; use a newer release")]
    NewerFormat {
        /// The stamp found.
        format: u64,
    },
    /// The batches are not the ones that were archived.
    #[error("archived data is damaged: checksum mismatch base_offset={base} expected={expected} found={found}")]
    Checksum {
        /// First offset of what was read.
        base: Offset,
        /// Checksum when it was archived.
        expected: String,
        /// Checksum of what was read.
        found: String,
    },
    /// A record batch cannot be built or read.
    #[error("archived batch is malformed: {0}")]
    Record(#[from] RecordError),
    /// A local file could not be read.
    #[error("the spool cannot be read: {0}")]
    Spool(#[from] io::Error),
}
