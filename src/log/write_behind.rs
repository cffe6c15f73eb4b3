//! Write-behind and checkpoints: durable batches move from the tail into segments, segments are sealed, and now and then
//! everything is synced so that the journal may forget it.
//!
//! Runs on one lane per directory, the only one that writes to segment files; whoever removes local copies holds the
//! partition's [`Writer`], as this lane does. A partition is written when it has gathered enough to make the write worth it,
//! when memory or admission runs short, when its segment is due to be sealed, or at a checkpoint. A checkpoint
//! syncs each changed file while they are few, and the whole file system with one call when they are many (decision 0002).
//!
//! After a crash: whatever this lane had done since the last checkpoint is undone by recovery and replayed from the journal.
//! A failed sync is final: the directory goes offline. A full disk is not, nor are file descriptors that ran out: writing is
//! tried again at the next run, and producers wait meanwhile, as their share of memory is not given back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentRecord};
use super::checkpoint_clock::Due;
use super::directory::Shared;
use super::error::ReadError;
use super::journal::ReplayPosition;
use super::partition::PartitionLog;
use super::producer_state::{ProducerState, Stale};
use super::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentWriter};
use super::state::{Deletion, State};
use crate::record::Batch;
use crate::runtime::disk::{is_shortage, same_error};
use crate::types::{Offset, Timestamp};

/// Batches written with one call, about.
const WRITE_BYTES: usize = 4 << 20;
/// Up to so many changed files are synced one by one; beyond it the file system as a whole.
pub(super) const SYNC_FILES_LIMIT: usize = 64;
/// A segment never spans more offsets than its index can hold.
const SEGMENT_OFFSETS_LIMIT: i64 = i32::MAX as i64;

/// What the lane keeps of one partition's files.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Handle of the active segment, once written to.
    file: Option<SegmentWriter>,
    /// Written since the last sync.
    unsynced: bool,
    /// A segment was made since its directory was synced.
    pub(super) new_name: bool,
    /// The partition's directory exists.
    has_directory: bool,
}

impl Writer {
    pub(super) fn new(unsynced: bool) -> Self {
        Self { unsynced, new_name: unsynced, ..Self::default() }
    }
}

impl PartitionLog {
    /// Writes everything durable to segments, sealing on the way. Returns the bytes written.
    pub(super) fn write_behind(&self, now: Timestamp) -> io::Result<usize> {
        // With everything that is durable by now: a request that comes later is for a later run, as it may mean more.
        let roll = std::mem::take(&mut self.state.lock().roll_requested);
        let written = self.write_all(now, roll);
        if written.is_err() {
            self.state.lock().roll_requested |= roll;
        }
        written
    }

    fn write_all(&self, now: Timestamp, roll: bool) -> io::Result<usize> {
        let mut writer = self.writer.lock();
        let mut written_bytes = 0;
        // Truncated or given up meanwhile, it begins anew; what was durable at the beginning is in segments in the end.
        while !self.write_durable(&mut writer, now, &mut written_bytes)? {}
        self.refill_producers(now).map_err(to_io)?;
        self.state.lock().resolve_whole();
        if (roll || self.has_old_segment(now)) && self.may_roll(roll) {
            self.seal(&mut writer)?;
        }
        Ok(written_bytes)
    }

    /// Writes what is durable by now, and counts it; false when a cut is to be made before that can be said to be in segments.
    fn write_durable(&self, writer: &mut Writer, now: Timestamp, written_bytes: &mut usize) -> io::Result<bool> {
        let (target, sequence, cut) = {
            let mut state = self.state.lock();
            (state.offsets.durable, state.applied_sequence, state.cut.take())
        };
        if let Some(end) = cut {
            self.cut_segments(writer, end).map_err(|error| {
                // Still to be made, also when the next run is the one that succeeds.
                let mut state = self.state.lock();
                state.cut = Some(state.cut.map_or(end, |later| later.min(end)));
                to_io(error)
            })?;
        }
        loop {
            let mut batches = {
                let state = self.state.lock();
                if state.cut.is_some() {
                    return Ok(false);
                }
                state.tail.batches_from(state.written, WRITE_BYTES)
            };
            // What came since is not in the sequence that is noted below: replay would find it twice.
            batches.retain(|batch| batch.header().next_offset() <= target);
            if batches.is_empty() {
                break;
            }
            *written_bytes += self.write_batches(writer, &batches, now)?;
        }
        let mut state = self.state.lock();
        if state.cut.is_none() && state.written >= target {
            state.written_sequence = state.written_sequence.max(sequence);
            // What is left came meanwhile: its age is not that of what was written.
            state.unwritten_since = state.unwritten_since.map(|_| now);
        }
        Ok(state.cut.is_none())
    }

    /// After a truncation: looks up in the log what is to be remembered of producers that lost batches. Everything durable is
    /// in segments by now, and nothing is appended until this is done.
    fn refill_producers(&self, now: Timestamp) -> Result<(), ReadError> {
        let (stale, segments, most) = {
            let state = self.state.lock();
            if state.cut.is_some() || state.stale_producers.is_empty() {
                return Ok(());
            }
            (state.stale_producers.clone(), state.segments.clone(), state.settings.max_producers)
        };
        let mut found = ProducerState::default();
        for segment in segments {
            let scan = match segment.scan(SEGMENT_HEADER_BYTES, Offset::MAX) {
                Err(error) if self.state.lock().missing.is_empty() => return Err(error),
                scan => scan,
            };
            // Producers can't be found in what is damaged or missing; readers are told of it, the directory goes on.
            for scanned in scan.into_iter().flatten().map_while(Result::ok) {
                let header = *scanned.batch.header();
                if stale.contains(header.producer_id) {
                    found.record(&header, header.next_offset(), now);
                }
            }
            found.shrink_to(most);
        }
        let mut state = self.state.lock();
        if state.cut.is_none() {
            state.producers.refill(found);
            state.stale_producers = Stale::NONE;
        }
        Ok(())
    }

    /// Writes consecutive batches, beginning a new segment where one is due.
    fn write_batches(&self, writer: &mut Writer, batches: &[Batch], now: Timestamp) -> io::Result<usize> {
        let limit = u64::from(self.state.lock().settings.segment_bytes);
        let mut rest = batches;
        let mut written_bytes = 0;
        while let Some(first) = rest.first() {
            let segment = self.active_segment(writer, first.header().base_offset, now)?;
            let mut file_bytes = segment.extent().file_bytes;
            let fits = |batch: &&Batch| {
                let is_first = file_bytes == SEGMENT_HEADER_BYTES;
                file_bytes += batch.bytes().len() as u64;
                let spans = batch.header().next_offset() - segment.base_offset();
                is_first || (file_bytes <= limit && spans <= SEGMENT_OFFSETS_LIMIT)
            };
            let count = rest.iter().take_while(fits).count();
            if count == 0 {
                self.seal(writer)?;
                continue;
            }
            let (run, left) = rest.split_at(count);
            if segment.is_empty() {
                let mut state = self.state.lock();
                state.active_since = Some(state.unwritten_since.unwrap_or(now));
            }
            let file = writer.file.as_mut().expect("the active segment has a handle");
            segment.append(file, run)?;
            writer.unsynced = true;
            let run_bytes: usize = run.iter().map(|batch| batch.bytes().len()).sum();
            written_bytes += run_bytes;
            if !self.note_written(segment.extent().next_offset) {
                break;
            }
            rest = left;
        }
        Ok(written_bytes)
    }

    /// The active segment with a handle to write; made when there is none.
    pub(super) fn active_segment(
        &self,
        writer: &mut Writer,
        base_offset: Offset,
        now: Timestamp,
    ) -> io::Result<Arc<Segment>> {
        let disk = &self.shared.runtime.disk;
        let active = self.state.lock().active.clone();
        if let Some(segment) = active {
            if writer.file.is_none() {
                writer.file = Some(SegmentWriter::open(disk, segment.path())?);
            }
            return Ok(segment);
        }
        if !writer.has_directory {
            disk.create_directory(&self.path)?;
            writer.has_directory = true;
        }
        // Its age is that of its oldest record.
        let created_at = self.state.lock().unwritten_since.unwrap_or(now);
        let header = SegmentHeader { partition: self.partition(), base_offset, created_at };
        let (segment, file) = Segment::create(&self.shared.segment_home, &self.path, header)?;
        let segment = Arc::new(segment);
        writer.file = Some(file);
        writer.new_name = true;
        let mut state = self.state.lock();
        state.segments.push(Arc::clone(&segment));
        state.active = Some(Arc::clone(&segment));
        Ok(segment)
    }

    /// Everything below `written` is in segments; false when a cut is to be made first, since the log was truncated or given up
    /// while it was written.
    fn note_written(&self, written: Offset) -> bool {
        let mut state = self.state.lock();
        if state.cut.is_some() {
            return false;
        }
        let (from, before) = (state.written, state.unwritten_bytes);
        state.unwritten_bytes -= state.tail.release_permits(from, written);
        state.written = written;
        if state.unwritten_bytes == 0 {
            state.unwritten_since = None;
        }
        self.shared.adjust_unwritten(before, state.unwritten_bytes);
        self.shared.note_room();
        true
    }

    /// Whether the active segment can be sealed: one without records has nothing for the archive, and one that is to be cut is
    /// not complete.
    fn may_roll(&self, is_asked: bool) -> bool {
        let mut state = self.state.lock();
        // Once it is cut, then.
        state.roll_requested |= is_asked && state.cut.is_some();
        state.cut.is_none() && state.active.as_ref().is_some_and(|active| !active.is_empty())
    }

    /// Seals the active segment: synced, with its index beside it. A checkpoint then makes it known as such.
    fn seal(&self, writer: &mut Writer) -> io::Result<()> {
        let Some(segment) = self.state.lock().active.clone() else { return Ok(()) };
        self.sync_active(writer)?;
        match segment.store_index() {
            // Room comes back.
            Err(ReadError::Io { error, .. }) if is_shortage(&error) => {
                return Err(same_error(&error));
            }
            Err(error) => tracing::error!(%error, "segment was sealed without an index"),
            Ok(()) => {}
        }
        segment.note_sealed();
        writer.file = None;
        {
            let mut state = self.state.lock();
            (state.active, state.active_since) = (None, None);
        }
        self.shared.metrics.log.rolled_segments.inc();
        self.shared.checkpoint_wanted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what segments hold at or beyond `end`.
    fn cut_segments(&self, writer: &mut Writer, end: Offset) -> Result<(), ReadError> {
        let io = |segment: &Segment, error| ReadError::Io { path: segment.path().to_owned(), error: Arc::new(error) };
        // Whichever segment is the last one then, it may hold bytes that no handle here has synced.
        writer.file = None;
        writer.unsynced = true;
        let (mut segments, written) = {
            let state = self.state.lock();
            (state.segments.clone(), state.written)
        };
        // Where the log goes on at the cut, the only one that is left is emptied: without any, nothing tells where it ends.
        let goes = |last: &Arc<Segment>, count| {
            last.base_offset() > end || (last.base_offset() == end && (count > 1 || written != end))
        };
        while segments.last().is_some_and(|last| goes(last, segments.len())) {
            let last = segments.pop().expect("just looked at");
            last.remove().map_err(|error| io(&last, error))?;
            // A segment that came back after a power cut would be taken for part of what is written from here on.
            self.shared
                .sync(|| self.shared.runtime.disk.sync_directory(&self.path))
                .map_err(|error| io(&last, error))?;
        }
        if let Some(last) = segments.last()
            && last.extent().next_offset > end
        {
            let file = SegmentWriter::open(&self.shared.runtime.disk, last.path()).map_err(|error| io(last, error))?;
            last.truncate(&file, end)?;
            writer.file = Some(file);
            // Its index is gone.
            writer.new_name = true;
        }
        let is_empty = segments.is_empty();
        let written = {
            let mut state = self.state.lock();
            // One that was sealed and loses nothing stays sealed: a checkpoint may have said so, and not how it would grow.
            let is_active = |last: &&Arc<Segment>| {
                writer.file.is_some() || state.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, last))
            };
            state.active = segments.last().filter(is_active).cloned();
            state.segments = segments;
            state.written
        };
        if is_empty {
            let path = self.path.clone();
            self.begin_segment(writer, written).map_err(|error| ReadError::Io { path, error: Arc::new(error) })?;
        }
        Ok(())
    }

    /// Makes what was written durable, unless the whole file system is synced anyway.
    fn sync_files(&self, one_by_one: bool) -> io::Result<()> {
        let mut writer = self.writer.lock();
        if one_by_one {
            self.sync_active(&mut writer)?;
            if writer.new_name {
                self.shared.sync(|| self.shared.runtime.disk.sync_directory(&self.path))?;
            }
        }
        writer.unsynced = false;
        writer.new_name = false;
        Ok(())
    }

    /// What was taken for synced was not.
    fn not_synced(&self) {
        let mut writer = self.writer.lock();
        (writer.unsynced, writer.new_name) = (true, true);
    }

    /// Syncs the active segment if it was changed.
    fn sync_active(&self, writer: &mut Writer) -> io::Result<()> {
        let active = self.state.lock().active.clone();
        if let Some(segment) = active.filter(|_| writer.unsynced) {
            let file = match writer.file.take() {
                Some(file) => file,
                None => SegmentWriter::open(&self.shared.runtime.disk, segment.path())?,
            };
            self.shared.sync_segments(|| file.sync())?;
            writer.file = Some(file);
        }
        writer.unsynced = false;
        Ok(())
    }

    fn is_deletion_durable(&self) -> bool {
        self.state.lock().deletion == Deletion::Durable
    }

    fn needs_sync(&self) -> bool {
        let writer = self.writer.lock();
        writer.unsynced || writer.new_name
    }

    /// What a checkpoint says of this partition, given that everything written is synced. `None` while a cut is to be made: what
    /// is written by now is less then than what replay begins with.
    pub(super) fn checkpoint(&self, now: Timestamp) -> Option<PartitionCheckpoint> {
        let mut state = self.state.lock();
        if state.cut.is_some() {
            return None;
        }
        let expiration = i64::try_from(state.settings.producer_expiration.as_millis()).unwrap_or(i64::MAX);
        state.producers.expire(Timestamp(now.0.saturating_sub(expiration)));
        let remembered = state.producers.len();
        state.counted_producers.set(remembered);
        if state.written == state.offsets.durable {
            state.written_sequence = state.applied_sequence;
        }
        let State { offsets, written, .. } = *state;
        let mut epochs = state.epochs.clone();
        epochs.truncate_to(written.next());
        let mut producers = state.producers.clone();
        producers.truncate_to(written);
        let record = |segment: &Arc<Segment>| SegmentRecord {
            base_offset: segment.base_offset(),
            bytes: segment.extent().file_bytes,
            created_at: segment.created_at(),
            max_timestamp: segment.known_max_timestamp(),
        };
        Some(PartitionCheckpoint {
            partition: self.partition(),
            written_sequence: state.written_sequence,
            // A later log start is in the journal beyond the replay position.
            log_start: offsets.log_start.min(written),
            local_log_start: offsets.local_log_start.min(written),
            archived_to: offsets.archived_to,
            high_watermark: state.replica.known_committed.min(written),
            recovery_point: written,
            segments: state.segments.iter().map(record).collect(),
            has_active: state.active.is_some(),
            epochs,
            producers,
        })
    }

    /// Takes note that a checkpoint with this content is durable.
    fn checkpointed(&self, checkpoint: &PartitionCheckpoint) {
        let mut state = self.state.lock();
        let reached = checkpoint.recovery_point.min(state.written);
        state.offsets.recovery_point = state.offsets.recovery_point.max(reached).min(state.offsets.durable);
        state.removable_to = checkpoint.log_start.max(checkpoint.archived_to).min(state.offsets.recovery_point);
        // What an archive was said to hold may have waited for this.
        let archive_end = state.replica.archive_end.min(state.offsets.recovery_point);
        if archive_end > state.offsets.archived_to {
            state.archived(archive_end);
        }
        state.offsets.check();
    }
}

fn to_io(error: ReadError) -> io::Error {
    match error {
        ReadError::Io { error, .. } => same_error(&error),
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

impl Shared {
    /// One run of the lane.
    pub(super) fn run_write_behind(&self) {
        if self.is_offline() {
            return;
        }
        if let Err(error) = self.write_and_checkpoint() {
            self.handle_write_error(&error);
        }
        self.remove_moved_away();
    }

    fn write_and_checkpoint(&self) -> io::Result<()> {
        match self.journal.prepare_spare(&*self.runtime.disk) {
            // The journal has others, and will say when it has not; segments are what makes them free.
            Err(error) if is_shortage(&error) => {}
            result => result?,
        }
        let now = self.runtime.clock.wall();
        let due = self.checkpoint_due();
        let (start, journal_bytes) = self.checkpoint_clock.lock().replay();
        // Everything up to here is in segments when this run has written all that is dirty.
        let position = self.journal.completed();
        let all = due == Due::Full || self.is_short_of_memory();
        let mut result = Ok(());
        let mut removed = Vec::new();
        for log in self.take_dirty(all) {
            if result.is_ok() && log.is_deletion_durable() {
                result = self.remove_log(&log);
                removed.push(Arc::clone(&log));
            } else if result.is_ok() {
                let written = log.write_behind(now);
                result = written.map(|bytes| self.metrics.log.written_bytes.inc_by(bytes as u64)).map(|_| ());
            }
            if result.is_err() {
                self.retry_write_behind(&log);
            }
        }
        if let Err(error) = result.and_then(|()| self.sync_removed(&removed)) {
            // A checkpoint before that would have the journal forget why they are gone.
            removed.iter().for_each(|log| self.retry_write_behind(log));
            return Err(error);
        }
        self.evict_tails();
        match due {
            Due::No => Ok(()),
            Due::Light => self.checkpoint(start, 0, now),
            Due::Full => self.checkpoint(position, journal_bytes, now),
        }
    }

    /// Syncs, stores the checkpoint, and lets the journal forget what is before `position`.
    fn checkpoint(&self, position: ReplayPosition, journal_bytes: u64, now: Timestamp) -> io::Result<()> {
        let began = self.runtime.clock.monotonic();
        // Asked for again from here on, it is another one.
        let requested = self.checkpoint_requested.swap(false, Ordering::Relaxed);
        let wanted = self.checkpoint_wanted.swap(false, Ordering::Relaxed);
        let stored = self.store_checkpoint(position, now);
        if !matches!(stored, Ok(Some(_))) {
            self.checkpoint_requested.fetch_or(requested, Ordering::Relaxed);
            self.checkpoint_wanted.fetch_or(wanted, Ordering::Relaxed);
        }
        let Some(bytes) = stored? else { return Ok(()) };
        let now = self.runtime.clock.monotonic();
        let took = now.since(began);
        self.checkpoint_clock.lock().note(now, bytes, took, position, journal_bytes);
        self.metrics.journal.replay_bytes.dec_by(journal_bytes as i64);
        self.metrics.journal.checkpoints.inc();
        self.metrics.journal.checkpoint_seconds.observe(took);
        self.note_room();
        self.journal.release_below(position.sequence);
        self.wake_journal();
        Ok(())
    }

    /// The size of the checkpoint in bytes; `None` if a partition has no place in it for now, which a run is queued for.
    fn store_checkpoint(&self, position: ReplayPosition, now: Timestamp) -> io::Result<Option<u64>> {
        let logs = self.logs();
        let changed: Vec<_> = logs.iter().filter(|log| log.needs_sync()).collect();
        let one_by_one = changed.len() <= SYNC_FILES_LIMIT;
        for log in &changed {
            log.sync_files(one_by_one)?;
        }
        let all = || self.runtime.disk.sync_filesystem(&self.path);
        if !one_by_one && let Err(error) = self.sync_segments(all) {
            changed.iter().for_each(|log| log.not_synced());
            return Err(error);
        }
        let alive = logs.iter().filter(|log| !log.is_deletion_durable());
        let Some(partitions) = alive.map(|log| log.checkpoint(now)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        // A block that it says is in segments, and that a power cut takes, would give its sequence to another one, which the next
        // replay would pass over.
        self.sync(|| self.journal.sync())?;
        let checkpoint = Checkpoint { replay: position, partitions };
        let bytes = checkpoint.store(&*self.runtime.disk, &self.path, &self.identity)?;
        for stored in &checkpoint.partitions {
            if let Some(log) = self.log(stored.partition) {
                log.checkpointed(stored);
                self.note_to_archive(&log);
            }
        }
        self.note_content(&checkpoint.partitions);
        Ok(Some(bytes))
    }
}
