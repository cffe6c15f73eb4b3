//! What can go wrong with a log, by operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::journal::EntryError;
use super::producer_state::SequenceError;
use super::replica_state::Replication;
use super::stamp::StampError;
use crate::record::RecordError;
use crate::types::{DirectoryId, LeaderEpoch, Offset, TopicPartition};

/// A data directory can't be opened. Nothing in it has been changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("data directory can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// A file of the directory is foreign, damaged or newer.
    #[error("{path}: {error}")]
    Stamp {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: StampError,
    },
    /// See [`StampError`]; the file is named by the message.
    #[error(transparent)]
    BareStamp(#[from] StampError),
    /// Another process has the directory open.
    #[error(
        "data directory is in use by another process path={path}; stop that one, or give each a directory of its own"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Blocks in the middle of the journal are missing or damaged, so acknowledged records may be lost.
    #[error(
        "journal is damaged before its end path={path} file_offset={file_offset} expected_sequence={sequence}; restore the file, or move the directory's content away, but for metadata and object-store: its partitions go on where the archive ends"
    )]
    JournalDamaged {
        /// The file, or the journal's directory when a whole file is missing.
        path: PathBuf,
        /// Where a block should begin.
        file_offset: u64,
        /// The sequence that it should have.
        sequence: u64,
    },
    /// A checksummed journal block holds an entry that this release does not know.
    #[error("journal block can't be read sequence={sequence}: {error}")]
    JournalEntry {
        /// The block.
        sequence: u64,
        /// What is wrong.
        error: EntryError,
    },
    /// The checkpoint is damaged, or gone although the directory holds segments, and the journal is gone too: what was
    /// acknowledged and is not in the segments can't be told.
    #[error(
        "checkpoint is damaged or missing, and without a journal it can't be rebuilt path={path}; restore the files, and leave the segments where they are"
    )]
    CheckpointDamaged {
        /// The file.
        path: PathBuf,
    },
    /// Segment data below the recovery point is missing or damaged.
    #[error("segment is damaged partition={partition} path={path} file_offset={file_offset}: {what}")]
    SegmentDamaged {
        /// The partition.
        partition: TopicPartition,
        /// The file.
        path: PathBuf,
        /// First bad byte.
        file_offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The journal and the segments of a partition do not meet.
    #[error("journal does not continue the log partition={partition} log_end={log_end} found={found}")]
    Gap {
        /// The partition.
        partition: TopicPartition,
        /// Where the next batch must begin.
        log_end: Offset,
        /// Where it begins.
        found: Offset,
    },
}

impl OpenError {
    /// Whether it is the directory that failed, and not the setting that names it: others can serve without it.
    pub const fn is_of_storage(&self) -> bool {
        !matches!(self, Self::Stamp { .. } | Self::BareStamp(_) | Self::Locked { .. })
    }
}

/// A batch can't be appended. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The data directory failed; Kafka's KAFKA_STORAGE_ERROR.
    #[error("log directory is offline directory_id={directory_id}")]
    Offline {
        /// The directory.
        directory_id: DirectoryId,
    },
    /// The caller leads in an epoch that has passed; Kafka's FENCED_LEADER_EPOCH.
    #[error("leader epoch is fenced epoch={epoch} current={current}")]
    Fenced {
        /// The caller's epoch.
        epoch: LeaderEpoch,
        /// The newest epoch of the log.
        current: LeaderEpoch,
    },
    /// The partition was deleted.
    #[error("partition was deleted")]
    Deleted,
    /// The batch does not continue its producer's sequence.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The batch contradicts itself.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The log is being cut; append once that is durable.
    #[error("log is being truncated")]
    Truncating,
    /// The leader's batches do not go on where this log ends: ask where it does.
    #[error("batch does not continue the log log_end={log_end} found={found}")]
    OutOfOrder {
        /// Where the next batch must begin.
        log_end: Offset,
        /// Where it begins.
        found: Offset,
    },
    /// A batch of the leader is of an epoch that can't follow in this log: its histories are to be compared.
    #[error("batch has a leader epoch that can't follow found={found} oldest={oldest} newest={newest}")]
    ForeignEpoch {
        /// The epoch of the batch.
        found: LeaderEpoch,
        /// The newest epoch of this log.
        oldest: LeaderEpoch,
        /// The leader's epoch.
        newest: LeaderEpoch,
    },
    /// A log takes batches from its leader while it follows one, and from producers while it does not.
    #[error("log does not take such batches in its role role={role:?} epoch={epoch}")]
    WrongRole {
        /// What the log is.
        role: Replication,
        /// The epoch that it is in.
        epoch: LeaderEpoch,
    },
    /// Part of the log is missing, so the partition is out of service; Kafka's KAFKA_STORAGE_ERROR.
    #[error(transparent)]
    Missing(#[from] Missing),
}

/// Records that should be on local disk and are not, and that nobody deleted or archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "local records are missing partition={partition} from={from} to={to}; restore the segment file and restart, or delete the records below offset {to}"
)]
pub struct Missing {
    /// The partition.
    pub partition: TopicPartition,
    /// First offset.
    pub from: Offset,
    /// First offset after.
    pub to: Offset,
}

/// Records can't be read.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// The offset is not in the log; Kafka's OFFSET_OUT_OF_RANGE.
    #[error("offset is out of range offset={offset} log_start={log_start} log_end={log_end}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First readable offset.
        log_start: Offset,
        /// Next offset of the log.
        log_end: Offset,
    },
    /// The offset is readable, but only from the archive.
    #[error("offset is archived and not on local disk offset={offset} local_log_start={local_log_start}")]
    Archived {
        /// The offset asked for.
        offset: Offset,
        /// First offset on local disk.
        local_log_start: Offset,
    },
    /// The operating system failed to read.
    #[error("segment can't be read path={path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: Arc<io::Error>,
    },
    /// The bytes on disk are not what was written; Kafka's CORRUPT_MESSAGE.
    #[error("segment is damaged path={path} file_offset={file_offset}: {error}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged batch begins.
        file_offset: u64,
        /// What is wrong with it.
        error: RecordError,
    },
    /// The segment left the local log after the read was planned. Planned again, the read finds what is left, or the archive.
    #[error("segment was removed before it was read path={path}")]
    Removed {
        /// The segment's file.
        path: PathBuf,
    },
    /// The partition was deleted.
    #[error("partition was deleted")]
    Deleted,
    /// Part of the log is missing, so the partition is out of service; Kafka's KAFKA_STORAGE_ERROR.
    #[error(transparent)]
    Missing(#[from] Missing),
}
