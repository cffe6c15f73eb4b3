//! Recovery: what a directory's logs are, put together from checkpoint, segments and journal.
//!
//! 1. The journal is walked once to find its end, and every truncation and deletion in it.
//! 2. Each partition of the checkpoint is set back to what the checkpoint vouches for: segments beyond are removed, the
//!    active one is cut to its recorded length. Where a truncation in the journal lies below the recovery point, files may
//!    have been cut already, so they are set back to the truncation instead.
//! 3. The journal is walked again and its entries are applied, in order, as they were when they were first completed; memory
//!    stays within the tail's budget because partitions are written behind on the way.
//!
//! Nothing in the journal is changed and only removed names are synced, so a crash during recovery leaves the same to do:
//! recovering twice equals recovering once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, PartitionCheckpoint};
use super::directory::{RecoveryReport, Shared, partition_path};
use super::epoch_cache::EpochCache;
use super::error::{OpenError, ReadError};
use super::journal::{Block, Entry, Journal, JournalFiles, Mark, ReplayPosition, read_entry};
use super::offsets::Offsets;
use super::partition::PartitionLog;
use super::producer_state::ProducerState;
use super::segment::{
    Extent, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentWriter, parse_segment_file_name, segment_file_name,
};
use super::settings::{DirectorySettings, LogSettings};
use super::stamp::Identity;
use super::state::Recovered;
use crate::record::Batch;
use crate::runtime::Runtime;
use crate::runtime::disk::Open;
use crate::types::{Offset, Timestamp, TopicPartition};

/// A truncation in the journal below everything else that concerns the partition.
#[derive(Clone, Copy, Debug)]
struct LowestCut {
    end: Offset,
    at: EntryPosition,
}

/// Sequence of a block, and the entry's number within it.
type EntryPosition = (u64, u32);

#[derive(Default)]
struct Survey {
    /// What is in the segments already, and so is no business of replay.
    written: BTreeMap<TopicPartition, u64>,
    deleted: BTreeSet<TopicPartition>,
    cuts: BTreeMap<TopicPartition, LowestCut>,
    blocks: u64,
}

impl Recovered {
    /// A log without records that begins at `start`.
    pub(super) fn empty_at(start: Offset) -> Self {
        Self {
            offsets: Offsets::empty_at(start),
            epochs: EpochCache::default(),
            producers: ProducerState::default(),
            stale_producers: BTreeSet::new(),
            segments: Vec::new(),
            has_active: false,
            sequence: 0,
            checkpointed_to: start,
        }
    }
}

/// Recovers the directory at `path`; see the module.
pub(super) fn recover(
    runtime: &Runtime,
    path: &Path,
    identity: Identity,
    settings: DirectorySettings,
) -> Result<(Arc<Shared>, RecoveryReport), OpenError> {
    let checkpoint = Checkpoint::load(&*runtime.disk, path, &identity)?;
    let start = checkpoint.as_ref().map_or(ReplayPosition::START, |checkpoint| checkpoint.replay);
    let journal_path = path.join("journal");
    let journal = JournalFiles::open(runtime.clone(), &journal_path, identity, settings.journal)?;
    let written = checkpoint.iter().flat_map(|checkpoint| &checkpoint.partitions);
    let written = written.map(|stored| (stored.partition, stored.written_sequence)).collect();
    let mut survey = Survey { written, ..Survey::default() };
    let end = journal.replay(start, |block| survey.add(block))?;
    if checkpoint.is_none() && survey.blocks == 0 && runtime.disk.exists(&path.join("topics"))? {
        // Segments come after journal blocks, and those go only after a checkpoint: what said what is here has been lost, and
        // segments that nothing vouches for must not be taken for leftovers and removed.
        return Err(OpenError::CheckpointDamaged { path: path.join("checkpoint") });
    }

    let mut resumed = JournalFiles::open(runtime.clone(), &journal_path, identity, settings.journal)?;
    resumed.resume_at(start, end);
    let shared = Arc::new(Shared::new(runtime, path, identity, settings, Journal::new(resumed, end)));
    let mut kept = BTreeSet::new();
    for stored in checkpoint.into_iter().flat_map(|checkpoint| checkpoint.partitions) {
        if !survey.deleted.contains(&stored.partition) {
            kept.insert(stored.partition);
            let cut = survey.cuts.get(&stored.partition).filter(|cut| cut.end <= stored.recovery_point);
            let recovered = set_back(&shared, &stored, cut)?;
            shared.insert(stored.partition, LogSettings::default(), || recovered);
        }
    }
    remove_unknown(&shared, &kept)?;
    let mut replay = Replay { shared: &shared, survey: &survey, replayed_bytes: 0, now: runtime.clock.wall() };
    journal.replay(start, |block| replay.apply(block))?;
    let replayed_bytes = replay.replayed_bytes;
    for log in shared.logs() {
        if !log.truncated() {
            log.write_behind(runtime.clock.wall())?;
        }
    }
    let partitions = shared.logs().len();
    Ok((shared, RecoveryReport { partitions, replayed_blocks: survey.blocks, replayed_bytes }))
}

fn entries(
    block: &Block,
    mut each: impl FnMut(EntryPosition, TopicPartition, Entry) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let sequence = block.position.sequence;
    let mut payload = block.payload.clone();
    for number in 0..block.entries {
        let (partition, entry) =
            read_entry(&mut payload).map_err(|error| OpenError::JournalEntry { sequence, error })?;
        each((sequence, number), partition, entry)?;
    }
    Ok(())
}

impl Survey {
    fn add(&mut self, block: &Block) -> Result<(), OpenError> {
        self.blocks += 1;
        entries(block, |at, partition, entry| {
            match entry {
                Entry::Mark(Mark::Delete) => {
                    self.deleted.insert(partition);
                }
                Entry::Mark(Mark::Truncate(end)) => self.note_cut(partition, LowestCut { end, at }),
                // All segments go.
                Entry::Mark(Mark::Continue(_)) => self.note_cut(partition, LowestCut { end: Offset::ZERO, at }),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Survey {
    fn note_cut(&mut self, partition: TopicPartition, cut: LowestCut) {
        if self.written.get(&partition).is_some_and(|&written| cut.at.0 <= written) {
            return;
        }
        let lowest = self.cuts.entry(partition).or_insert(cut);
        if cut.end <= lowest.end {
            *lowest = cut;
        }
    }
}

/// Sets a partition's files back to what the checkpoint vouches for, or to a truncation below that.
fn set_back(
    shared: &Arc<Shared>,
    stored: &PartitionCheckpoint,
    cut: Option<&LowestCut>,
) -> Result<Recovered, OpenError> {
    let end = cut.map_or(stored.recovery_point, |cut| cut.end);
    let mut segments = open_segments(shared, stored, end)?;
    let mut has_active = stored.active.is_some();
    if cut.is_some() {
        has_active = true;
        if let Some(last) = segments.last() {
            let file = SegmentWriter::open(&shared.runtime.disk, last.path())?;
            last.truncate(&file, end).map_err(|error| damaged(stored.partition, error))?;
        }
    } else if let Some((base_offset, bytes)) = stored.active {
        let last = segments.last().filter(|last| last.base_offset() == base_offset);
        let Some(last) = last else {
            return Err(missing(shared, stored.partition, base_offset, SEGMENT_HEADER_BYTES));
        };
        let file = shared.runtime.disk.open(last.path(), Open::Write)?;
        let length = file.length()?;
        if length < bytes {
            return Err(missing(shared, stored.partition, base_offset, length));
        }
        file.set_length(bytes)?;
    }
    segments.retain(|segment| segment.extent().next_offset > stored.local_log_start || segment.is_empty());
    let first = segments.first().map_or(end, |first| first.base_offset());
    let local_log_start = stored.local_log_start.max(first).min(end);
    if local_log_start > stored.log_start.max(stored.archived_to).max(stored.local_log_start) {
        return Err(missing(shared, stored.partition, stored.local_log_start, 0));
    }
    let mut epochs = stored.epochs.clone();
    epochs.truncate_to(end.next());
    let mut producers = stored.producers.clone();
    let stale_producers = producers.truncate_to(end);
    let offsets = Offsets {
        log_start: stored.log_start.min(end),
        local_log_start,
        archived_to: stored.archived_to.min(end),
        last_stable: end,
        high_watermark: end,
        durable: end,
        log_end: end,
        recovery_point: end,
    };
    let sequence = stored.written_sequence;
    let checkpointed_to = stored.recovery_point;
    Ok(Recovered { offsets, epochs, producers, stale_producers, segments, has_active, sequence, checkpointed_to })
}

/// Opens the segments that begin below `end`, and removes those that begin at or after it or beyond the active one.
fn open_segments(
    shared: &Arc<Shared>,
    stored: &PartitionCheckpoint,
    end: Offset,
) -> Result<Vec<Arc<Segment>>, OpenError> {
    let disk = &shared.runtime.disk;
    let path = partition_path(&shared.path, stored.partition);
    if !disk.exists(&path)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut removed = false;
    for entry in disk.list(&path)? {
        let Some(base_offset) = parse_segment_file_name(&entry.name) else { continue };
        // An active segment without batches begins at the end; but after a cut there, the file may be another one.
        let is_active = stored.active.is_some_and(|(active, _)| active == base_offset);
        if base_offset < end || (is_active && base_offset == stored.recovery_point && base_offset == end) {
            found.push((base_offset, entry.length));
            continue;
        }
        removed = true;
        disk.remove_file(&path.join(&entry.name))?;
        let index = path.join(segment_file_name(base_offset)).with_extension("index");
        if disk.exists(&index)? {
            disk.remove_file(&index)?;
        }
    }
    if removed {
        // A segment that came back after a power cut would be taken for part of what is written from here on.
        disk.sync_directory(&path)?;
    }
    found.sort_unstable();
    let mut segments = Vec::with_capacity(found.len());
    for (position, &(base_offset, length)) in found.iter().enumerate() {
        let next_offset = found.get(position + 1).map_or(end, |&(next, _)| next);
        let recorded = stored.active.filter(|&(active, _)| active == base_offset).map(|(_, bytes)| bytes);
        let extent = Extent { file_bytes: recorded.unwrap_or(length).min(length), next_offset };
        let file = path.join(segment_file_name(base_offset));
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        disk.open(&file, Open::Read)?.read_at(&mut bytes, 0)?;
        let header = check_header(shared, stored.partition, base_offset, &bytes)
            .map_err(|error| OpenError::Stamp { path: file.clone(), error })?;
        segments.push(Arc::new(Segment::existing(disk, file, shared.identity, header, extent)));
    }
    Ok(segments)
}

fn check_header(
    shared: &Shared,
    partition: TopicPartition,
    base_offset: Offset,
    bytes: &[u8],
) -> Result<SegmentHeader, super::stamp::StampError> {
    use super::stamp::StampError;
    let (header, identity) = SegmentHeader::decode(bytes)?;
    let expected = Identity { incarnation: identity.incarnation, ..shared.identity };
    if identity != expected {
        let (found, expected) = (Box::new(identity), Box::new(expected));
        return Err(StampError::Foreign { kind: "segment", found, expected });
    }
    if header.partition != partition || header.base_offset != base_offset {
        return Err(StampError::Damaged { kind: "segment" });
    }
    Ok(header)
}

fn missing(shared: &Shared, partition: TopicPartition, base_offset: Offset, file_offset: u64) -> OpenError {
    let path = partition_path(&shared.path, partition).join(segment_file_name(base_offset));
    OpenError::SegmentDamaged { partition, path, file_offset, what: "synced records are missing".to_owned() }
}

fn damaged(partition: TopicPartition, error: ReadError) -> OpenError {
    match error {
        ReadError::Corrupt { path, file_offset, error } => {
            OpenError::SegmentDamaged { partition, path, file_offset, what: error.to_string() }
        }
        ReadError::Io { error, .. } => OpenError::Io(std::io::Error::new(error.kind(), error.to_string())),
        other => OpenError::Io(std::io::Error::other(other.to_string())),
    }
}

/// Removes the files of partitions that no checkpoint vouches for: deleted ones, and new ones that the journal has whole.
fn remove_unknown(shared: &Shared, kept: &BTreeSet<TopicPartition>) -> Result<(), OpenError> {
    let disk = &shared.runtime.disk;
    let topics = shared.path.join("topics");
    if !disk.exists(&topics)? {
        return Ok(());
    }
    for topic in disk.list(&topics)? {
        let Ok(topic_id) = topic.name.parse() else { continue };
        let path = topics.join(&topic.name);
        let mut left = false;
        for partition in disk.list(&path)? {
            let Ok(index) = partition.name.parse::<i32>() else { continue };
            if kept.contains(&TopicPartition::new(topic_id, index)) {
                left = true;
            } else {
                disk.remove_directory(&path.join(&partition.name))?;
                disk.sync_directory(&path)?;
            }
        }
        if !left {
            disk.remove_directory(&path)?;
            disk.sync_directory(&topics)?;
        }
    }
    Ok(())
}

struct Replay<'a> {
    shared: &'a Arc<Shared>,
    survey: &'a Survey,
    replayed_bytes: u64,
    now: Timestamp,
}

impl Replay<'_> {
    fn apply(&mut self, block: &Block) -> Result<(), OpenError> {
        entries(block, |at, partition, entry| {
            if self.survey.deleted.contains(&partition) {
                return Ok(());
            }
            let log = self.log(partition, &entry);
            self.apply_entry(&log, at, entry)
        })?;
        if self.shared.is_short_of_memory() {
            for log in self.shared.take_dirty(true) {
                log.write_behind(self.now)?;
            }
        }
        self.shared.evict_tails();
        Ok(())
    }

    /// The log that an entry belongs to; one that no checkpoint knows begins where its first entry says.
    fn log(&self, partition: TopicPartition, entry: &Entry) -> Arc<PartitionLog> {
        if let Some(log) = self.shared.log(partition) {
            return log;
        }
        let start = match entry {
            Entry::Mark(Mark::LogStart(offset)) => *offset,
            _ => Offset::ZERO,
        };
        self.shared.insert(partition, LogSettings::default(), || Recovered::empty_at(start))
    }

    fn apply_entry(&mut self, log: &Arc<PartitionLog>, at: EntryPosition, entry: Entry) -> Result<(), OpenError> {
        let (sequence, _) = at;
        let partition = log.partition();
        let mut state = log.state.lock();
        let cut = self.survey.cuts.get(&partition);
        // The files were set back to the lowest cut, so what came before it is void; a log start stays.
        let voided = !matches!(entry, Entry::Mark(Mark::LogStart(_)))
            && cut.is_some_and(|cut| at < cut.at && cut.end < state.checkpointed_to);
        if sequence <= state.written_sequence || voided {
            return Ok(());
        }
        let before = state.unwritten_bytes;
        let mut tail_bytes = 0;
        match entry {
            Entry::Append(mut bytes) => {
                let batch =
                    Batch::split_from(&mut bytes).map_err(|error| damaged_block(log, sequence, &error.to_string()))?;
                let (log_end, found) = (state.offsets.log_end, batch.header().base_offset);
                if found != log_end {
                    return Err(OpenError::Gap { partition, log_end, found });
                }
                tail_bytes = batch.bytes().len();
                self.replayed_bytes += tail_bytes as u64;
                state.replay_append(batch, self.now);
            }
            Entry::Mark(mark) => state.complete_mark(mark),
        }
        state.applied_sequence = sequence;
        let end = state.offsets.durable;
        self.shared.adjust_unwritten(before, state.unwritten_bytes);
        drop(state);
        self.shared.note_tail(log, end, tail_bytes);
        self.shared.queue_write_behind(log, false);
        Ok(())
    }
}

fn damaged_block(log: &PartitionLog, sequence: u64, what: &str) -> OpenError {
    let what = format!("{what} (journal block {sequence})");
    OpenError::SegmentDamaged { partition: log.partition(), path: log.path.clone(), file_offset: 0, what }
}
