//! A checkpoint put together again, when its file is lost or damaged: from segments and from what the journal still holds.
//!
//! The journal's files say themselves from where on they must be there (see `journal/files`): everything before is in
//! synced segments. So if the chain of blocks is whole from there, nothing acknowledged is missing, and each partition is:
//! its segments up to where the journal goes on with it, which are read whole, every checksum checked; then the
//! journal, as in any recovery. Epochs and producers are what those batches say. Where a partition's segments and
//! the journal do not meet, or a segment is damaged, the directory is refused.
//!
//! What is forgotten: how far the archive reaches, until its head is read; a log start that is no longer in the journal, so
//! that deleted records may be seen again until retention passes them; producers without a batch in local segments.

use std::collections::BTreeSet;
use std::path::Path;

use super::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentRecord};
use super::directory::partition_path;
use super::epoch_cache::EpochCache;
use super::error::{OpenError, ReadError};
use super::journal::{JournalFiles, ReplayPosition};
use super::producer_state::ProducerState;
use super::recovery::Survey;
use super::segment::{
    Extent, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentHome, parse_segment_file_name, segment_file_name,
};
use super::settings::LogSettings;
use super::stamp::{Identity, StampError};
use crate::runtime::Runtime;
use crate::runtime::disk::Open;
use crate::types::{Offset, Timestamp, TopicPartition};

/// What was read to put a checkpoint together again; nothing if there was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Partitions.
    pub partitions: usize,
    /// Their segments.
    pub segments: usize,
    /// Bytes of segments that were read.
    pub bytes: u64,
}

impl Rebuilt {
    pub(super) const fn add(&mut self, other: &Self) {
        self.partitions += other.partitions;
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

/// Where the journal has to be replayed from, as no checkpoint says so.
pub(super) fn replay_start(
    runtime: &Runtime,
    path: &Path,
    journal: &JournalFiles,
) -> Result<ReplayPosition, OpenError> {
    match journal.oldest_needed()? {
        Some(start) => Ok(start),
        // Segments come after journal blocks: what said what is here has been lost, and segments that nothing vouches for
        // must not be taken for leftovers and removed.
        None if runtime.disk.exists(&path.join("topics"))? => {
            Err(OpenError::CheckpointDamaged { path: path.join("checkpoint") })
        }
        None => Ok(ReplayPosition::START),
    }
}

/// Puts the checkpoint together; `survey` has seen the journal from `start` on.
pub(super) fn rebuild(
    runtime: &Runtime,
    path: &Path,
    identity: &Identity,
    start: ReplayPosition,
    survey: &Survey,
) -> Result<(Checkpoint, Rebuilt), OpenError> {
    let mut checkpoint = Checkpoint { replay: start, partitions: Vec::new() };
    let mut rebuilt = Rebuilt::default();
    for partition in partitions_on_disk(runtime, path)?.difference(&survey.deleted) {
        let mut reader = Reader::new(runtime, path, identity, *partition, survey);
        reader.read_segments()?;
        if reader.record.recovery_point == Offset::ZERO {
            // The journal has it whole.
            continue;
        }
        reader.record.written_sequence = start.sequence - 1;
        rebuilt.partitions += 1;
        rebuilt.segments += reader.record.segments.len();
        rebuilt.bytes += reader.record.segments.iter().map(|segment| segment.bytes).sum::<u64>();
        checkpoint.partitions.push(reader.record);
    }
    Ok((checkpoint, rebuilt))
}

fn partitions_on_disk(runtime: &Runtime, path: &Path) -> Result<BTreeSet<TopicPartition>, OpenError> {
    let topics = path.join("topics");
    let mut found = BTreeSet::new();
    if !runtime.disk.exists(&topics)? {
        return Ok(found);
    }
    for topic in runtime.disk.list(&topics)? {
        let Ok(topic_id) = topic.name.parse() else { continue };
        let indexes = runtime.disk.list(&topics.join(&topic.name))?;
        let indexes = indexes.iter().filter_map(|entry| entry.name.parse().ok());
        found.extend(indexes.map(|index| TopicPartition::new(topic_id, index)));
    }
    Ok(found)
}

/// Reads one partition's segments.
struct Reader<'a> {
    runtime: &'a Runtime,
    path: std::path::PathBuf,
    identity: &'a Identity,
    /// Where the segments end and the journal goes on; without a word of the journal, where the segments end.
    end: Option<Offset>,
    first_offset: Option<Offset>,
    record: PartitionCheckpoint,
}

impl<'a> Reader<'a> {
    fn new(
        runtime: &'a Runtime,
        directory: &Path,
        identity: &'a Identity,
        partition: TopicPartition,
        survey: &Survey,
    ) -> Self {
        let first_offset = survey.first_offsets.get(&partition).copied();
        let cut = survey.cuts.get(&partition).map(|cut| cut.end);
        let record = PartitionCheckpoint {
            partition,
            written_sequence: 0,
            log_start: Offset::ZERO,
            local_log_start: Offset::ZERO,
            archived_to: Offset::ZERO,
            high_watermark: Offset::ZERO,
            recovery_point: Offset::ZERO,
            segments: Vec::new(),
            has_active: false,
            epochs: EpochCache::default(),
            producers: ProducerState::default(),
        };
        let end = first_offset.into_iter().chain(cut).min();
        Self { runtime, path: partition_path(directory, partition), identity, end, first_offset, record }
    }

    fn read_segments(&mut self) -> Result<(), OpenError> {
        let names = self.runtime.disk.list(&self.path)?;
        let end = self.end.unwrap_or(Offset::MAX);
        let files = names.iter().filter_map(|entry| Some((parse_segment_file_name(&entry.name)?, entry.length)));
        let mut next = None;
        for (base_offset, length) in files.filter(|&(base, _)| base <= end) {
            let expected = next.unwrap_or(base_offset);
            if base_offset != expected {
                return Err(self.hole(expected, base_offset));
            }
            next = Some(if self.end == Some(base_offset) {
                // All that it may hold is in the journal.
                let (bytes, max_timestamp) = (SEGMENT_HEADER_BYTES, Timestamp::NONE);
                let created_at = self.runtime.clock.wall();
                self.record.segments.push(SegmentRecord { base_offset, bytes, created_at, max_timestamp });
                base_offset
            } else {
                self.read_segment(base_offset, length)?
            });
        }
        let end = match (next, self.end) {
            (None, Some(Offset::ZERO)) => Offset::ZERO,
            // Archived and removed, up to beyond what the journal still has.
            (None, Some(end)) if names.iter().any(|entry| parse_segment_file_name(&entry.name).is_some()) => end,
            // A partition keeps a segment, if only an empty one whose name says where the log goes on.
            (None, _) => return Err(self.segment_damaged(&self.path, 0, "no segment says where the log ends")),
            (Some(next), Some(end)) if next < end => return Err(self.hole(next, end)),
            (Some(next), _) => next,
        };
        let record = &mut self.record;
        record.has_active = !record.segments.is_empty();
        record.local_log_start = record.segments.first().map_or(end, |first| first.base_offset);
        // Local records go only when they are archived or deleted.
        record.archived_to = record.local_log_start;
        // A cut below is made by the recovery, which knows what the journal had before it.
        record.recovery_point = self.first_offset.unwrap_or(end).max(end);
        // No more than what was archived or deleted is known to have been committed.
        record.high_watermark = record.local_log_start;
        Ok(())
    }

    /// Reads a segment up to the end; where it ends.
    fn read_segment(&mut self, base_offset: Offset, length: u64) -> Result<Offset, OpenError> {
        let now = self.runtime.clock.wall();
        let path = self.path.join(segment_file_name(base_offset));
        let created_at = self.created_at(base_offset, &path)?.unwrap_or(now);
        let header = SegmentHeader { partition: self.record.partition, base_offset, created_at };
        let extent = Extent { file_bytes: length.max(SEGMENT_HEADER_BYTES), next_offset: Offset::MAX };
        let segment =
            Segment::existing(&SegmentHome::new(&self.runtime.disk, *self.identity), path.clone(), header, extent);
        let bound = self.end.unwrap_or(Offset::MAX);
        let mut next = base_offset;
        let mut bytes = SEGMENT_HEADER_BYTES;
        let mut max_timestamp = Timestamp::NONE;
        for scanned in segment.scan(SEGMENT_HEADER_BYTES, bound).map_err(|error| self.damaged(&error))? {
            let scanned = scanned.map_err(|error| self.damaged(&error))?;
            let header = *scanned.batch.header();
            if header.base_offset != next {
                return Err(self.segment_damaged(&path, scanned.position, "offset does not continue the segment"));
            }
            if let Err(error) = scanned.batch.verify_checksum() {
                return Err(self.segment_damaged(&path, scanned.position, &error.to_string()));
            }
            next = header.next_offset();
            bytes = scanned.position + scanned.batch.bytes().len() as u64;
            max_timestamp = max_timestamp.max(header.max_timestamp);
            self.record.epochs.assign(header.leader_epoch, header.base_offset);
            self.record.producers.record(&header, next, now);
        }
        self.record.producers.shrink_to(LogSettings::default().max_producers);
        // The last one is taken for active, whose largest timestamp may rise.
        self.record.segments.push(SegmentRecord { base_offset, bytes, created_at, max_timestamp });
        Ok(next)
    }

    /// When a segment was begun, by its header. A damaged header is of no other use, as records have checksums of their own.
    fn created_at(&self, base_offset: Offset, path: &Path) -> Result<Option<Timestamp>, OpenError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        self.runtime.disk.open(path, Open::Read)?.read_at(&mut bytes, 0)?;
        match SegmentHeader::decode(&bytes) {
            Ok((header, found)) => {
                let expected = Identity { incarnation: found.incarnation, ..*self.identity };
                if found != expected || header.partition != self.record.partition || header.base_offset != base_offset {
                    let (found, expected) = (Box::new(found), Box::new(expected));
                    let error = StampError::Foreign { kind: "segment", found, expected };
                    return Err(OpenError::Stamp { path: path.to_owned(), error });
                }
                Ok(Some(header.created_at))
            }
            Err(error @ StampError::Newer { .. }) => Err(OpenError::Stamp { path: path.to_owned(), error }),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "segment header is damaged");
                Ok(None)
            }
        }
    }

    fn hole(&self, from: Offset, to: Offset) -> OpenError {
        self.segment_damaged(&self.path, 0, &format!("records from offset {from} up to {to} are missing"))
    }

    fn damaged(&self, error: &ReadError) -> OpenError {
        match error {
            ReadError::Corrupt { path, file_offset, error } => {
                self.segment_damaged(path, *file_offset, &error.to_string())
            }
            other => OpenError::Io(std::io::Error::other(other.to_string())),
        }
    }

    fn segment_damaged(&self, path: &Path, file_offset: u64, what: &str) -> OpenError {
        let (partition, path) = (self.record.partition, path.to_owned());
        OpenError::SegmentDamaged { partition, path, file_offset, what: what.to_owned() }
    }
}
