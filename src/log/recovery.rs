//! Recovery: what a directory's logs are, put together from checkpoint, segments and journal.
//!
//! 1. The journal is walked once to find its end, and every truncation and deletion in it. Without a checkpoint one is
//!    put together from segments and journal (see `rebuild`).
//! 2. Each partition of the checkpoint is set back to what the checkpoint vouches for: segments beyond are removed, the
//!    active one is cut to its recorded length. A partition of which a segment is missing is out of service, and goes on
//!    otherwise as if it were there, so that putting it back helps. Where a truncation in the journal lies below the recovery point, files may
//!    have been cut already, so they are set back to the truncation instead.
//! 3. The journal is walked again and its entries are applied, in order, as they were when they were first completed; memory
//!    stays within the tail's budget because partitions are written behind on the way.
//!
//! Nothing in the journal is changed; what is replayed of it, the checkpoint's name and removed names are synced, so a crash during recovery leaves
//! the same to do: recovering twice equals recovering once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentRecord, Stored};
use super::counting::DirectoryMetrics;
use super::directory::{RecoveryReport, Shared, partition_path};
use super::epoch_cache::EpochCache;
use super::error::{Missing, OpenError, ReadError};
use super::journal::{Block, Entry, Journal, JournalFiles, Mark, ReplayPosition, read_entry};
use super::offsets::Offsets;
use super::partition::PartitionLog;
use super::producer_state::{ProducerState, Stale};
use super::rebuild::{self, Rebuilt};
use super::segment::{
    Extent, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentWriter, parse_segment_file_name, segment_file_name,
};
use super::settings::{DirectorySettings, LogSettings};
use super::stamp::Identity;
use super::state::Recovered;
use crate::record::Batch;
use crate::runtime::Runtime;
use crate::runtime::disk::{is_shortage, same_error};
use crate::types::{Offset, Timestamp, TopicPartition};

/// Where the journal of a data directory is.
pub(super) const JOURNAL_DIRECTORY: &str = "journal";

/// A truncation in the journal below everything else that concerns the partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowestCut {
    pub(super) end: Offset,
    at: EntryPosition,
}

/// Sequence of a block, and the entry's number within it.
type EntryPosition = (u64, u32);

/// What the journal holds, looked through once before anything is applied.
#[derive(Default)]
pub(super) struct Survey {
    /// What the checkpoint says of each partition: marks up to this sequence are in its segments already.
    written: BTreeMap<TopicPartition, u64>,
    pub(super) deleted: BTreeSet<TopicPartition>,
    pub(super) cuts: BTreeMap<TopicPartition, LowestCut>,
    /// Where the journal goes on with each partition: the offset of its first batch or leader epoch there.
    pub(super) first_offsets: BTreeMap<TopicPartition, Offset>,
    blocks: u64,
}

impl Recovered {
    /// A log without records that begins at `start`.
    pub(super) fn empty_at(start: Offset) -> Self {
        Self {
            offsets: Offsets::empty_at(start),
            epochs: EpochCache::default(),
            producers: ProducerState::default(),
            stale_producers: Stale::NONE,
            segments: Vec::new(),
            has_active: false,
            sequence: 0,
            checkpointed_to: start,
            known_committed: start,
            missing: Vec::new(),
            unsynced: false,
        }
    }
}

/// Recovers the directory at `path`; see the module.
pub(super) fn recover(
    runtime: &Runtime,
    path: &Path,
    identity: Identity,
    settings: DirectorySettings,
    metrics: DirectoryMetrics,
) -> Result<(Arc<Shared>, RecoveryReport), OpenError> {
    let began = runtime.clock.monotonic();
    let journal_path = path.join(JOURNAL_DIRECTORY);
    let journal = JournalFiles::open(runtime.clone(), &journal_path, identity, settings.journal)?;
    let stored = Checkpoint::load(&*runtime.disk, path, &identity)?;
    // A process that was killed may have renamed it and no more. Journal files are used again on the strength of it, which an
    // older one, back after a power cut, would miss.
    runtime.disk.sync_directory(path)?;
    let start = match &stored {
        Stored::Found(checkpoint) => checkpoint.replay,
        Stored::Absent | Stored::Damaged => rebuild::replay_start(runtime, path, &journal)?,
    };
    let mut survey = match &stored {
        Stored::Found(checkpoint) => Survey::after(checkpoint),
        Stored::Absent | Stored::Damaged => Survey::default(),
    };
    let end = journal.replay(start, |block| survey.add(block))?;
    let was_damaged = matches!(stored, Stored::Damaged);
    let (checkpoint, rebuilt) = match stored {
        Stored::Found(checkpoint) => (checkpoint, Rebuilt::default()),
        Stored::Absent | Stored::Damaged => {
            let (checkpoint, rebuilt) = rebuild::rebuild(runtime, path, &identity, start, &survey)?;
            // One is absent, too, when the first process was killed before it wrote any.
            if was_damaged || rebuilt.segments > 0 {
                tracing::warn!(path = %path.display(), ?rebuilt, "the checkpoint was lost, and is rebuilt from segments and journal");
            }
            if rebuilt != Rebuilt::default() {
                keep_rebuilt(runtime, path, &identity, &checkpoint)?;
            }
            (checkpoint, rebuilt)
        }
    };

    let mut resumed = JournalFiles::open(runtime.clone(), &journal_path, identity, settings.journal)?;
    resumed.resume_at(start, end)?;
    let shared = Arc::new(Shared::new(runtime, path, identity, settings, Journal::new(resumed, end), start, metrics));
    let restored = restore(&shared, checkpoint.partitions, &survey, &journal, start);
    if restored.is_err() {
        shared.forget();
    }
    let replayed_bytes = restored?;
    if rebuilt != Rebuilt::default() {
        shared.checkpoint_requested.store(true, Ordering::Relaxed);
    }
    let logs = shared.logs();
    shared.note_replayed(replayed_bytes, runtime.clock.wall());
    for log in &logs {
        log.enter_seal_time(runtime.clock.wall());
        shared.note_to_archive(log);
    }
    let unavailable = logs.iter().filter(|log| !log.state.lock().missing.is_empty()).count();
    let report = RecoveryReport {
        partitions: logs.len(),
        replayed_blocks: survey.blocks,
        replayed_bytes,
        rebuilt,
        unavailable,
        duration: runtime.clock.monotonic().since(began),
    };
    Ok((shared, report))
}

/// Fills a directory's logs with what the checkpoint and the journal say; returns the bytes of records replayed.
fn restore(
    shared: &Arc<Shared>,
    partitions: Vec<PartitionCheckpoint>,
    survey: &Survey,
    journal: &JournalFiles,
    start: ReplayPosition,
) -> Result<u64, OpenError> {
    let clock = &shared.runtime.clock;
    let mut kept = BTreeSet::new();
    for stored in partitions {
        if !survey.deleted.contains(&stored.partition) {
            kept.insert(stored.partition);
            let cut = survey.cuts.get(&stored.partition).filter(|cut| cut.end <= stored.recovery_point);
            let recovered = set_back(shared, &stored, cut)?;
            shared.insert(stored.partition, LogSettings::untold(), || recovered);
        }
    }
    remove_unknown(shared, &kept)?;
    let mut replay = Replay { shared, survey, replayed_bytes: 0, now: clock.wall() };
    journal.replay(start, |block| replay.apply(block))?;
    let replayed_bytes = replay.replayed_bytes;
    for log in shared.logs() {
        if !log.truncated() {
            write_replayed(shared, &log, clock.wall())?;
        }
    }
    Ok(replayed_bytes)
}

/// Writes what was replayed to segments. Where there is no room it stays in memory and in the journal for now: what is there
/// can be read, and room brings service back.
fn write_replayed(shared: &Shared, log: &Arc<PartitionLog>, now: Timestamp) -> io::Result<()> {
    match log.write_behind(now) {
        Err(error) if is_shortage(&error) => {
            shared.handle_write_error(&error);
            shared.retry_write_behind(log);
            Ok(())
        }
        written => written.map(drop),
    }
}

/// Stores what was rebuilt before anything that it was read from is removed: a power cut before the next checkpoint would leave
/// less to rebuild from. What it vouches for was read, and may be in memory alone.
fn keep_rebuilt(runtime: &Runtime, path: &Path, identity: &Identity, checkpoint: &Checkpoint) -> io::Result<()> {
    let disk = &*runtime.disk;
    match disk.sync_filesystem(path).and_then(|()| checkpoint.store(disk, path, identity)) {
        // It is rebuilt again, then.
        Err(error) if is_shortage(&error) => Ok(()),
        stored => stored.map(drop),
    }
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
    /// One of what a checkpoint does not know yet.
    pub(super) fn after(checkpoint: &Checkpoint) -> Self {
        let written = checkpoint.partitions.iter().map(|stored| (stored.partition, stored.written_sequence));
        Self { written: written.collect(), ..Self::default() }
    }

    pub(super) fn add(&mut self, block: &Block) -> Result<(), OpenError> {
        self.blocks += 1;
        entries(block, |at, partition, entry| {
            match entry {
                Entry::Mark(Mark::Delete) => {
                    self.deleted.insert(partition);
                }
                Entry::Mark(Mark::Truncate(end)) => self.note_cut(partition, LowestCut { end, at }),
                // All segments go.
                Entry::Mark(Mark::Continue(_)) => self.note_cut(partition, LowestCut { end: Offset::ZERO, at }),
                Entry::Mark(Mark::EpochStart(_, start)) => {
                    self.first_offsets.entry(partition).or_insert(start);
                }
                Entry::Append(mut bytes) if !self.first_offsets.contains_key(&partition) => {
                    // A batch that can't be read is reported when it is applied.
                    if let Ok(batch) = Batch::split_from(&mut bytes) {
                        self.first_offsets.insert(partition, batch.header().base_offset);
                    }
                }
                Entry::Append(_) | Entry::Mark(_) => {}
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
    let Found { segments, mut missing, last_length, is_begun } = open_segments(shared, stored, end)?;
    // A segment of which something is missing is left as it is, and gets nothing more.
    let is_whole = |segment: &Arc<Segment>| !missing.iter().any(|missing| missing.from == segment.base_offset());
    let active = segments.last().filter(|last| (stored.has_active || cut.is_some() || is_begun) && is_whole(last));
    let mut has_active = active.is_some();
    let mut unsynced = is_begun;
    if let Some(active) = active.filter(|active| cut.is_some() || active.extent().file_bytes < last_length) {
        match set_length(shared, active, cut.map(|cut| cut.end)) {
            Err(error @ ReadError::Corrupt { .. }) => {
                tracing::error!(%error, partition = %stored.partition, "segment can't be cut");
                missing.push(Missing { partition: stored.partition, from: active.base_offset(), to: end });
                has_active = false;
            }
            result => result.map_err(|error| to_open_error(&error))?,
        }
        unsynced = has_active;
    }
    for missing in &missing {
        tracing::error!(%missing, "partition is out of service");
    }
    let first = segments.first().map_or(end, |first| first.base_offset());
    let mut epochs = stored.epochs.clone();
    epochs.truncate_to(end.next());
    let mut producers = stored.producers.clone();
    let stale_producers = match cut {
        // Batches beyond the recovery point may have taken the place of older ones that the cut leaves.
        Some(_) => Stale::All,
        None => Stale::NONE,
    };
    producers.truncate_to(end);
    let offsets = Offsets {
        log_start: stored.log_start.min(end),
        local_log_start: stored.local_log_start.max(first).min(end),
        archived_to: stored.archived_to.min(end),
        last_stable: end,
        high_watermark: end,
        durable: end,
        log_end: end,
        recovery_point: end,
    };
    let (sequence, checkpointed_to) = (stored.written_sequence, stored.recovery_point);
    Ok(Recovered {
        offsets,
        epochs,
        producers,
        stale_producers,
        segments,
        has_active,
        sequence,
        checkpointed_to,
        known_committed: stored.high_watermark.min(end),
        missing,
        unsynced,
    })
}

/// Cuts what follows a segment's extent, or what is at or beyond `cut`.
fn set_length(shared: &Shared, segment: &Segment, cut: Option<Offset>) -> Result<(), ReadError> {
    let io = |error| ReadError::Io { path: segment.path().to_owned(), error: Arc::new(error) };
    let writer = SegmentWriter::open(&shared.runtime.disk, segment.path()).map_err(io)?;
    match cut {
        Some(end) => segment.truncate(&writer, end),
        None => {
            // Of when it was longer; grown to the same length again it would take that one for its own.
            segment.remove_index().map_err(io)?;
            writer.set_length(segment.extent().file_bytes).map_err(io)
        }
    }
}

struct Found {
    segments: Vec<Arc<Segment>>,
    missing: Vec<Missing>,
    /// Length of the last segment's file.
    last_length: u64,
    /// The only segment is a new one.
    is_begun: bool,
}

/// Takes the segments of the checkpoint that begin below `end`, and removes the files of others: those beyond, and those
/// that a power cut brought back. A segment that is not there, or too short, is in both lists, unless the archive or the log
/// start had passed it.
fn open_segments(shared: &Arc<Shared>, stored: &PartitionCheckpoint, end: Offset) -> Result<Found, OpenError> {
    let disk = &shared.runtime.disk;
    let path = partition_path(&shared.path, stored.partition);
    let mut files = BTreeMap::new();
    if disk.exists(&path)? {
        let names = disk.list(&path)?;
        files.extend(names.iter().filter_map(|entry| Some((parse_segment_file_name(&entry.name)?, entry.length))));
    }
    let ends = stored.segments.iter().skip(1).map(|next| next.base_offset).chain([stored.recovery_point]);
    let expected = stored.segments.iter().zip(ends);
    // An active segment without batches begins at the end; but after a cut there, the file may be another one. If that is the
    // only one it is emptied: without any, nothing tells where the log ends.
    let is_first = |record: &SegmentRecord| stored.segments.first() == Some(record) && files.contains_key(&end);
    let is_kept = |record: &SegmentRecord| {
        let is_active = end == stored.recovery_point && stored.has_active;
        record.base_offset < end || (record.base_offset == end && (is_active || is_first(record)))
    };
    let mut expected: Vec<_> = expected.filter(|(record, _)| is_kept(record)).collect();
    let is_cut = end < stored.recovery_point;
    // What a later truncation has cut off may be gone from the file that holds it.
    let is_whole = |record: &SegmentRecord, next: Offset| {
        files.get(&record.base_offset).is_some_and(|&length| length >= record.bytes || (is_cut && next > end))
    };
    // Without one that holds nothing, the next batch makes another.
    expected.retain(|&(record, next)| record.bytes > SEGMENT_HEADER_BYTES || is_whole(record, next));
    let vouched = stored.log_start.max(stored.archived_to);
    let gone = expected.iter().rposition(|&(record, next)| !is_whole(record, next) && next <= vouched);
    let expected = &expected[gone.map_or(0, |gone| gone + 1)..];
    let first = expected.first().map_or(end, |(record, _)| record.base_offset);
    let strays =
        files.keys().copied().filter(|&base| base < first || !expected.iter().any(|(r, _)| r.base_offset == base));
    let mut strays: Vec<_> = strays.collect();
    let mut segments = Vec::with_capacity(expected.len().max(1));
    if expected.is_empty() && !strays.is_empty() {
        segments.extend(begin_segment(shared, &path, stored.partition, end)?);
        strays.retain(|&base| segments.is_empty() || base != end);
    }
    let (is_begun, last_length) = (!segments.is_empty(), SEGMENT_HEADER_BYTES);
    remove_files(shared, &path, &strays)?;

    let mut found = Found { segments, missing: Vec::new(), last_length, is_begun };
    for &(record, next) in expected {
        let SegmentRecord { base_offset, bytes, created_at, max_timestamp } = *record;
        let next_offset = next.min(end);
        if !is_whole(record, next) {
            found.missing.push(Missing { partition: stored.partition, from: base_offset, to: next_offset });
        }
        let length = files.get(&base_offset).copied().unwrap_or(0);
        found.last_length = length;
        let extent = Extent { file_bytes: if is_cut { bytes.min(length) } else { bytes }, next_offset };
        let file = path.join(segment_file_name(base_offset));
        let header = SegmentHeader { partition: stored.partition, base_offset, created_at };
        let segment = Segment::existing(&shared.segment_home, file, header, extent);
        let is_sealed = !stored.has_active || next < stored.recovery_point;
        if is_sealed && next_offset == next {
            segment.know_max_timestamp(max_timestamp);
        }
        found.segments.push(Arc::new(segment));
    }
    Ok(found)
}

/// Begins a segment that is to be the only one, durably before all others go: its name tells where the log goes on. `None` where
/// there is no room for it.
fn begin_segment(
    shared: &Shared,
    path: &Path,
    partition: TopicPartition,
    base_offset: Offset,
) -> Result<Option<Arc<Segment>>, OpenError> {
    let header = SegmentHeader { partition, base_offset, created_at: shared.runtime.clock.wall() };
    match Segment::create(&shared.segment_home, path, header) {
        Err(error) if is_shortage(&error) => Ok(None),
        Err(error) => Err(error.into()),
        Ok((segment, _)) => {
            // Of a longer one that had the name; grown to the same length again it would take that one for its own.
            segment.remove_index()?;
            shared.runtime.disk.sync_directory(path)?;
            Ok(Some(Arc::new(segment)))
        }
    }
}

fn remove_files(shared: &Shared, path: &Path, segments: &[Offset]) -> Result<(), OpenError> {
    let disk = &shared.runtime.disk;
    for &base_offset in segments {
        let file = path.join(segment_file_name(base_offset));
        let index = file.with_extension("index");
        disk.remove_file(&file)?;
        if disk.exists(&index)? {
            disk.remove_file(&index)?;
        }
    }
    if !segments.is_empty() {
        // A segment that came back after a power cut would be taken for part of what is written from here on.
        disk.sync_directory(path)?;
    }
    Ok(())
}

fn to_open_error(error: &ReadError) -> OpenError {
    match error {
        ReadError::Io { error, .. } => OpenError::Io(same_error(error)),
        other => OpenError::Io(std::io::Error::other(other.to_string())),
    }
}

/// Moves partitions away that no checkpoint vouches for: deleted ones, and new ones that the journal has whole.
fn remove_unknown(shared: &Shared, kept: &BTreeSet<TopicPartition>) -> Result<(), OpenError> {
    let disk = &shared.runtime.disk;
    shared.find_moved_away()?;
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
            let id = TopicPartition::new(topic_id, index);
            if kept.contains(&id) {
                left = true;
            } else {
                shared.move_away(id, &path.join(&partition.name))?;
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
                write_replayed(self.shared, &log, self.now)?;
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
        self.shared.insert(partition, LogSettings::untold(), || Recovered::empty_at(start))
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
            Entry::Append(bytes) => {
                // A copy: of a slice the tail would keep the journal's whole file in memory.
                let mut bytes = Bytes::copy_from_slice(&bytes);
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
