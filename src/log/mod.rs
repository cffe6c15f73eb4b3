//! One partition's hot log, and the data directory that it shares with others.
//!
//! The life of a record here: [`PartitionLog::append`] assigns its offset and queues it; the `journal` writes it in a group with
//! others and completes it, so that it is durable, visible and in the memory `tail`; the write-behind lane moves it into a
//! `segment`; a checkpoint makes the segment's part of it certain, and the journal forgets it; once sealed and archived, the
//! segment goes. Reads come from the tail or from segments. A log among replicas is told what is committed (`replica`).
//!
//! After a crash: every acknowledged record is there, because its journal group was on stable storage before the
//! acknowledgement; recovery puts the same state together from checkpoint, segments and journal. After a failed sync a
//! directory is offline until a restart. `broker` calls this layer; `archive` reads sealed segments.

mod archived;
mod checkpoint;
mod checkpoint_clock;
mod continuation;
mod counting;
#[cfg(test)]
mod decoders;
mod directory;
mod epoch_cache;
mod error;
pub mod fuzz;
mod inspection;
mod journal;
mod offsets;
mod partition;
mod producer_count;
mod producer_snapshot;
mod producer_state;
mod read;
mod rebuild;
mod recovery;
mod removal;
mod replica;
mod replica_state;
mod seal_times;
mod segment;
mod settings;
#[cfg(test)]
mod simulation;
mod stamp;
mod state;
#[cfg(test)]
mod stress;
mod tail;
#[cfg(test)]
mod tests;
mod truncation;
mod write_behind;

pub use continuation::Continuation;
pub use counting::DirectoryMetrics;
pub use directory::{LogDirectory, Owner, RecoveryReport};
pub use epoch_cache::EpochCache;
pub use error::{AppendError, Missing, OpenError, ReadError};
pub use inspection::{Vouched, VouchedSegment};
pub use journal::JournalSettings;
pub use offsets::Offsets;
pub use partition::{Appended, Level, PartitionLog, Wait};
pub use producer_snapshot::{ProducerRun, ProducerSnapshot};
pub use producer_state::{BatchMark, ProducerEntry, ProducerState, SequenceError};
pub use read::{DiskRead, ReadPlan, TimestampPlan};
pub use rebuild::Rebuilt;
pub use removal::REMOVED_DIRECTORY;
pub use replica::{ReplicaAppended, ReplicaRun};
pub use replica_state::{LogObserver, ReplicaBatches, ReplicaRead, Replication};
pub use segment::{
    BatchScan, Extent, SEGMENT_HEADER_BYTES, Scanned, Segment, SegmentHeader, SegmentHome, SegmentIndex,
    parse_index_file_name, parse_segment_file_name,
};
pub use settings::{DirectorySettings, LogSettings};
pub use stamp::{FORMAT_VERSION, Identity, StampError};
