//! One partition's local log: appends go to the journal, reads come from the tail or from segments.
//!
//! `broker` appends and reads; the journal completes what was appended; the write-behind lane (`write_behind`) moves durable
//! batches into segments, cuts and seals them; lanes of the archive and of readers remove them. One short lock per partition orders all of it; nothing is awaited
//! and no file is touched under it. After a crash `recovery` puts the same state together from checkpoint, segments and
//! journal.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::directory::Shared;
use super::epoch_cache::EpochCache;
use super::error::{AppendError, Missing, ReadError};
use super::journal::{Client, Completed, Durability, Mark, Write};
use super::offsets::Offsets;
use super::producer_state::{ProducerState, Verdict};
use super::read::{DiskRead, ReadPlan, TimestampPlan};
use super::replica_state::Replication;
use super::segment::{Segment, parse_segment_file_name};
use super::settings::LogSettings;
use super::state::{Deletion, Recovered, State};
use crate::record::{Batch, BatchHeader};
use crate::runtime::disk::is_shortage;
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};

/// A batch took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// First offset after it.
    pub next_offset: Offset,
    /// First readable offset of the log, which producers are told.
    pub log_start: Offset,
    /// The largest timestamp of the batch in the log, where an earlier attempt of the producer had appended it.
    pub duplicate: Option<Timestamp>,
}

/// How far a wait for durability or commitment is.
#[derive(Debug)]
pub enum Wait {
    /// There already.
    Ready,
    /// Resolves when there; an error (or a dropped sender) means that it never will be.
    Pending(oneshot::Receiver<()>),
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// On stable storage here (`acks=1`).
    Durable,
    /// Below the high watermark (`acks=all`).
    Committed,
}

/// See the module.
pub struct PartitionLog {
    number: u32,
    partition: TopicPartition,
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Mutex<State>,
    /// Held by whoever changes, makes or removes segment files.
    pub(super) writer: Mutex<super::write_behind::Writer>,
}

impl PartitionLog {
    pub(super) fn new(
        number: u32,
        partition: TopicPartition,
        path: PathBuf,
        shared: Arc<Shared>,
        settings: LogSettings,
        recovered: Recovered,
    ) -> Self {
        let writer = Mutex::new(super::write_behind::Writer::new(recovered.unsynced));
        let state = Mutex::new(State::new(settings, recovered, &shared.producers));
        Self { number, partition, path, shared, state, writer }
    }

    /// Which partition it is.
    pub const fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// All significant offsets, read together.
    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// What should be on the disk and is not, in order of offsets.
    pub fn missing(&self) -> Vec<Missing> {
        self.state.lock().missing.clone()
    }

    /// The leader epochs known here, oldest first.
    pub fn epochs(&self) -> EpochCache {
        self.state.lock().epochs.clone()
    }

    /// How many producers are remembered.
    pub fn producer_count(&self) -> usize {
        self.state.lock().producers.len()
    }

    /// What is remembered of producers.
    pub fn producers(&self) -> ProducerState {
        self.state.lock().producers.clone()
    }

    /// What is remembered of producers from their batches below `offset`. Of one that wrote much since, earlier batches may
    /// be missing, or all of them.
    pub fn producers_below(&self, offset: Offset) -> ProducerState {
        let mut producers = self.state.lock().producers.clone();
        producers.truncate_to(offset);
        producers
    }

    /// Replaces the settings.
    pub fn configure(self: &Arc<Self>, settings: LogSettings) {
        let before = std::mem::replace(&mut self.state.lock().settings, settings);
        if before.segment_age != settings.segment_age {
            self.enter_seal_time(self.shared.runtime.clock.wall());
        }
    }

    /// Begins to lead in `epoch`, which must be newer than every epoch of the log (a process incarnation never appends in
    /// an epoch of an earlier one). Durable before any batch of the epoch.
    pub fn begin_epoch(self: &Arc<Self>, epoch: LeaderEpoch) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        self.check_online(&state)?;
        let current = state.leader_epoch;
        if epoch < current {
            return Err(AppendError::Fenced { epoch, current });
        }
        let is_followed = state.replica.role == Replication::Followed;
        if epoch == current {
            // One that is followed is led by another.
            return if is_followed { Err(AppendError::Fenced { epoch, current }) } else { Ok(()) };
        }
        if is_followed {
            if !state.is_whole() {
                return Err(AppendError::Truncating);
            }
            state.join(Replication::Led);
        }
        state.leader_epoch = epoch;
        let start = state.offsets.log_end;
        state.epochs.assign(epoch, start);
        self.push(&state, Mark::EpochStart(epoch, start))
    }

    /// Appends one batch as the leader in `epoch`: checks its producer's sequence, assigns offsets and queues it for the
    /// journal. `permit` is its share of the directory's budget (see [`super::LogDirectory::admit`]).
    pub fn append(
        self: &Arc<Self>,
        batch: &Batch,
        epoch: LeaderEpoch,
        now: Timestamp,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Appended, AppendError> {
        let mut state = self.state.lock();
        self.check_online(&state)?;
        if let Some(&missing) = state.missing.first() {
            return Err(missing.into());
        }
        if !state.is_whole() {
            return Err(AppendError::Truncating);
        }
        if epoch != state.leader_epoch {
            return Err(AppendError::Fenced { epoch, current: state.leader_epoch });
        }
        if state.replica.role == Replication::Followed {
            return Err(AppendError::WrongRole { role: state.replica.role, epoch });
        }
        let log_start = state.offsets.log_start;
        if let Verdict::Duplicate(mark) = state.producers.judge(batch.header())? {
            let (base_offset, next_offset) = (mark.base_offset, mark.next_offset);
            return Ok(Appended { base_offset, next_offset, log_start, duplicate: Some(mark.timestamp) });
        }
        let base_offset = state.offsets.log_end;
        let header = BatchHeader { base_offset, leader_epoch: epoch, ..*batch.header() };
        self.enqueue(&mut state, batch, &header, now, permit)?;
        let (observer, log_end) = (state.replica.observer(), state.offsets.log_end);
        drop(state);
        if let Some(observer) = observer {
            observer.appended(self.partition, log_end);
        }
        Ok(Appended { base_offset, next_offset: header.next_offset(), log_start, duplicate: None })
    }

    /// Forgets producers while this partition, or all of the directory together, remember too many.
    fn bound_producers(&self, state: &mut State) {
        let before = state.producers.len();
        let limit = state.settings.max_producers;
        state.producers.keep_within(limit);
        state.counted_producers.set(state.producers.len());
        if let Some(limit) = state.counted_producers.limit() {
            state.producers.shrink_to(limit);
            state.counted_producers.set(state.producers.len());
        }
        self.shared.metrics.log.forgotten_producers.inc_by((before - state.producers.len()) as u64);
    }

    /// Queues a batch whose place is settled.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        batch: &Batch,
        header: &BatchHeader,
        now: Timestamp,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), AppendError> {
        let write = Write::Append {
            client: Arc::clone(self),
            batch: batch.bytes().clone(),
            base_offset: header.base_offset,
            leader_epoch: header.leader_epoch,
            durability: if state.settings.write_caching { Durability::Written } else { Durability::Stable },
        };
        if !self.shared.journal.push(write) {
            return Err(self.offline());
        }
        let durable = state.offsets.durable;
        state.producers.record(header, durable, now);
        self.bound_producers(state);
        state.epochs.assign(header.leader_epoch, header.base_offset);
        state.offsets.log_end = header.next_offset();
        state.permits.push_back((header.next_offset(), permit));
        if state.replica.role == Replication::Led {
            state.replica.pending.push(header, batch.bytes().clone());
        }
        state.offsets.check();
        self.shared.wake_journal();
        Ok(())
    }

    /// Queues a mark; the caller holds the lock, which fixes the order.
    pub(super) fn push(self: &Arc<Self>, state: &State, mark: Mark) -> Result<(), AppendError> {
        self.check_online(state)?;
        if !self.shared.journal.push(Write::Mark { client: Arc::clone(self), mark }) {
            return Err(self.offline());
        }
        self.shared.wake_journal();
        Ok(())
    }

    pub(super) fn check_online(&self, state: &State) -> Result<(), AppendError> {
        if state.deletion != Deletion::No {
            return Err(AppendError::Deleted);
        }
        if self.shared.is_offline() { Err(self.offline()) } else { Ok(()) }
    }

    fn offline(&self) -> AppendError {
        AppendError::Offline { directory_id: self.shared.identity.directory_id }
    }

    /// Waits until everything below `offset` is durable or committed.
    pub fn when(&self, level: Level, offset: Offset) -> Wait {
        let mut state = self.state.lock();
        let reached = match level {
            Level::Durable => state.offsets.durable,
            Level::Committed => state.offsets.high_watermark,
        };
        if reached >= offset {
            return Wait::Ready;
        }
        let (sender, receiver) = oneshot::channel();
        if self.check_online(&state).is_ok() {
            state.waiting[level as usize].entry(offset).or_default().push(sender);
        }
        Wait::Pending(receiver)
    }

    /// Has `notify` notified once, when the high watermark, the log start or the log's availability changes.
    pub fn watch(&self, notify: &Arc<Notify>) {
        let mut state = self.state.lock();
        // A fetch may name its partition many times.
        if state.watchers.last().is_none_or(|last| last.as_ptr() != Arc::as_ptr(notify)) {
            state.watchers.retain(|watcher| watcher.strong_count() > 0);
            state.watchers.push(Arc::downgrade(notify));
        }
    }

    /// Plans a read of whole batches from `from` that end at or below `bound`, at most `max_bytes` but at least one.
    pub fn read(&self, from: Offset, bound: Offset, max_bytes: usize) -> Result<ReadPlan, ReadError> {
        let state = self.state.lock();
        let offsets = &state.offsets;
        if state.deletion != Deletion::No {
            return Err(ReadError::Deleted);
        }
        if let Some(&missing) = state.missing.first() {
            return Err(missing.into());
        }
        if from < offsets.log_start || from > offsets.log_end {
            let (log_start, log_end) = (offsets.log_start, offsets.log_end);
            return Err(ReadError::OutOfRange { offset: from, log_start, log_end });
        }
        if from >= bound {
            return Ok(ReadPlan::Ready(Vec::new()));
        }
        if from < offsets.local_log_start {
            return Err(ReadError::Archived { offset: from, local_log_start: offsets.local_log_start });
        }
        if state.tail.start().is_some_and(|start| from >= start) {
            return Ok(ReadPlan::Ready(state.tail.read(from, bound, max_bytes)));
        }
        let bound = bound.min(state.disk_bound());
        Ok(ReadPlan::Disk(DiskRead::new(&state.segments, from, bound, max_bytes)))
    }

    /// Plans the search for the first batch whose largest timestamp is at least `timestamp`, among local records.
    pub fn find_timestamp(&self, timestamp: Timestamp, bound: Offset) -> TimestampPlan {
        self.find_timestamp_from(timestamp, Offset::ZERO, bound)
    }

    /// As [`Self::find_timestamp`], from the batch on that holds `from`.
    pub fn find_timestamp_from(&self, timestamp: Timestamp, from: Offset, bound: Offset) -> TimestampPlan {
        let state = self.state.lock();
        let from = from.max(state.offsets.local_log_start);
        let tail = state.tail.find_timestamp(timestamp, from, bound);
        let on_disk = state.disk_bound().min(bound);
        let segments = state.segments.iter().filter(|segment| segment.extent().next_offset > from);
        TimestampPlan::new(segments.cloned().collect(), timestamp, from, on_disk, tail)
    }

    /// Moves the first readable offset up to `offset`, among replicas no further than what is committed; what is below is gone
    /// for clients once this is durable.
    pub fn advance_log_start(self: &Arc<Self>, offset: Offset) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        let offset = state.deletable(offset);
        if offset <= state.offsets.log_start {
            return Ok(());
        }
        self.push(&state, Mark::LogStart(offset))
    }

    /// Deletes the partition: clients are refused at once, files go once the deletion is durable.
    pub fn delete(self: &Arc<Self>) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        let queued = self.push(&state, Mark::Delete);
        if state.deletion == Deletion::No {
            state.deletion = Deletion::Asked;
        }
        state.fail_waiters();
        drop(state);
        self.tell_unavailable();
        queued
    }

    /// Asks for the active segment to be sealed soon, if it holds anything.
    pub fn request_roll(self: &Arc<Self>) {
        self.state.lock().roll_requested = true;
        self.shared.queue_write_behind(self, true);
    }

    /// Asks for that if all records that are not in sealed segments are from before `time`, by their own timestamps, and came
    /// before `came_before`: one by one, old records would make many segments. May read the segment's headers.
    pub fn roll_if_before(self: &Arc<Self>, time: Timestamp, came_before: Timestamp) -> Result<(), ReadError> {
        let (active, unwritten, appended_at) = {
            let state = self.state.lock();
            let active = state.active.clone().filter(|active| !active.is_empty());
            let written_since = active.as_ref().map(|active| active.created_at());
            let since = written_since.into_iter().chain(state.unwritten_since).min();
            if since.is_none_or(|since| since >= came_before) {
                return Ok(());
            }
            (active, state.tail.batches_from(state.written, usize::MAX), state.appended_at)
        };
        let newest = unwritten.iter().map(|batch| batch.header().max_timestamp).max();
        let of_active = active.as_ref().map(|active| active.newest_timestamp()).transpose()?;
        let newest = match (newest.max(of_active), appended_at, &active) {
            // Records need not have a time; the broker knows when they came, or else the file system.
            (Some(Timestamp::NONE), Some(appended_at), _) => Some(appended_at),
            (Some(Timestamp::NONE), None, Some(active)) => self.written_at()?.get(&active.base_offset()).copied(),
            (newest, ..) => newest,
        };
        if newest.is_some_and(|newest| newest < time) {
            self.request_roll();
        }
        Ok(())
    }

    /// All local segments, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.state.lock().segments.clone()
    }

    /// When the segments' files were last written to, by their base offsets, as far as the file system knows. Blocks.
    pub fn written_at(&self) -> Result<BTreeMap<Offset, Timestamp>, ReadError> {
        let entries = self.shared.runtime.disk.list(&self.path);
        let entries = entries.map_err(|error| ReadError::Io { path: self.path.clone(), error: Arc::new(error) })?;
        let times = entries.iter().filter_map(|entry| Some((parse_segment_file_name(&entry.name)?, entry.modified?)));
        Ok(times.collect())
    }

    /// Bytes that are in no sealed segment.
    pub fn unsealed_bytes(&self) -> u64 {
        let state = self.state.lock();
        let active = state.active.as_ref().filter(|active| !active.is_empty());
        active.map_or(0, |active| active.extent().file_bytes) + state.unwritten_bytes as u64
    }

    /// Bytes of the local log: of its segments, and of what waits to be written to them.
    pub fn local_bytes(&self) -> u64 {
        let state = self.state.lock();
        let segments: u64 = state.segments.iter().map(|segment| segment.extent().file_bytes).sum();
        segments + state.unwritten_bytes as u64
    }

    /// Takes sealed segments that end at or below `below` out of the local log and removes their files. Only what a durable
    /// checkpoint knows to be archived, and the archive was seen to hold, or below the log start, can go, whatever is asked.
    /// Blocks, and lets go of the log after each: what is written to it, and a checkpoint of all, waits for one at most.
    pub fn remove_local_below(&self, below: Offset) -> io::Result<usize> {
        let removals = std::iter::from_fn(|| self.remove_oldest_below(below).map(|went| went.then_some(1)).transpose());
        removals.sum()
    }

    /// Does that with the oldest sealed segment alone, if it ends at or below `below` and can go; else false.
    pub fn remove_oldest_below(&self, below: Offset) -> io::Result<bool> {
        let mut writer = self.writer.lock();
        let below = match self.keep_a_segment(&mut writer, below) {
            // Room comes by what goes: the last one stays for now, in place of an empty one.
            Err(error) if is_shortage(&error) => {
                self.state.lock().sealed().last().map_or(below, |last| last.base_offset())
            }
            kept => kept.map(|()| below)?,
        };
        let sync = || self.shared.sync(|| self.shared.runtime.disk.sync_directory(&self.path));
        if writer.new_name && self.has_sealed_below(below) {
            // What stays must be there whatever becomes of the names of what goes.
            sync()?;
            writer.new_name = false;
        }
        let leaving = {
            let mut state = self.state.lock();
            let bound = below.min(state.removable());
            let goes = |segment: &&Arc<Segment>| segment.extent().next_offset <= bound;
            let Some(last) = state.sealed().iter().take_while(goes).last() else { return Ok(false) };
            // Nobody begins to read any of what goes.
            let local_start = last.extent().next_offset;
            let leaving = state.segments.remove(0);
            state.offsets.local_log_start = state.offsets.local_log_start.max(local_start);
            state.offsets.check();
            leaving
        };
        writer.new_name = true;
        if let Err(error) = leaving.remove() {
            // Nobody reads it, but it takes room and is tried again.
            self.state.lock().segments.insert(0, leaving);
            return Err(error);
        }
        // Before the next, here or in the call after a failure, so that a power cut leaves no hole among what is there.
        sync()?;
        writer.new_name = false;
        MutexGuard::unlock_fair(writer);
        Ok(true)
    }

    /// Begins an empty segment at the log's end if all others are about to go, for its name then says where the log ends.
    fn keep_a_segment(&self, writer: &mut super::write_behind::Writer, below: Offset) -> io::Result<()> {
        let end = {
            let state = self.state.lock();
            let last = state.segments.last().filter(|_| state.active.is_none()).map(|last| last.extent().next_offset);
            last.filter(|&end| end <= below.min(state.removable()))
        };
        end.map_or(Ok(()), |end| self.active_segment(writer, end, self.shared.runtime.clock.wall()).map(drop))
    }

    /// Begins an empty segment whose name is durable.
    pub(super) fn begin_segment(&self, writer: &mut super::write_behind::Writer, base: Offset) -> io::Result<()> {
        self.active_segment(writer, base, self.shared.runtime.clock.wall())?;
        self.shared.sync(|| self.shared.runtime.disk.sync_directory(&self.path))
    }

    /// Runs a read that this log planned. If `archive_serves` what it holds, damage in a segment that it has ends the segment's
    /// life here, and the read finds nothing: planned again, it finds the archive.
    pub fn execute(&self, read: DiskRead, archive_serves: bool) -> Result<Vec<Bytes>, ReadError> {
        let result = read.execute();
        let Err(ReadError::Corrupt { path, .. }) = &result else { return result };
        if !archive_serves {
            return result;
        }
        let end = {
            let state = self.state.lock();
            let damaged = state.sealed().iter().find(|segment| segment.path() == path);
            damaged.map(|segment| segment.extent().next_offset).filter(|end| *end <= state.removable())
        };
        let Some(end) = end else { return result };
        tracing::error!(path = %path.display(), "segment is damaged, and goes with all before it: the archive has them");
        match self.remove_local_below(end) {
            Ok(_) => Ok(Vec::new()),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "damaged segment can't be removed");
                result
            }
        }
    }

    /// True while a sealed segment that ends at or below `below` is on local disk.
    pub fn has_sealed_below(&self, below: Offset) -> bool {
        self.state.lock().sealed().first().is_some_and(|segment| segment.extent().next_offset <= below)
    }

    /// True once deletion was asked for.
    pub fn is_deleted(&self) -> bool {
        self.state.lock().deletion != Deletion::No
    }

    /// True when the oldest record that is not in a sealed segment has reached the age at which segments are sealed.
    pub(super) fn has_old_segment(&self, now: Timestamp) -> bool {
        self.state.lock().seal_time(now).is_some_and(|time| time <= now)
    }

    /// Has the active segment looked at when it reaches its age, but not before `now` has passed.
    pub(super) fn enter_seal_time(self: &Arc<Self>, now: Timestamp) {
        let mut state = self.state.lock();
        let time = state.seal_time(now);
        state.seal_time_entered = time.is_some();
        if let Some(time) = time {
            self.shared.seal_times.enter(time.max(Timestamp(now.0 + 1)), self.number, self);
        }
    }
}

impl Client for PartitionLog {
    fn number(&self) -> u32 {
        self.number
    }

    fn partition(&self) -> TopicPartition {
        self.partition
    }

    fn completed(self: &Arc<Self>, sequence: u64, writes: Vec<Completed>, memory_bytes: usize) {
        let now = self.shared.runtime.clock.wall();
        let mut state = self.state.lock();
        let unwritten_before = state.unwritten_bytes;
        let mut appended = false;
        for write in writes {
            match write {
                Completed::Append(mut placed) => {
                    appended = true;
                    state.complete_append(&mut placed, now);
                }
                Completed::Mark(mark) => state.complete_mark(mark),
            }
        }
        state.applied_sequence = sequence;
        let durable = state.offsets.durable;
        state.resolve(Level::Durable, durable);
        if state.replica.is_alone() {
            state.commit(durable);
        }
        let observer = state.replica.observer();
        let urgent = state.deletion == Deletion::Durable
            || !state.is_whole()
            || state.unwritten_bytes >= self.shared.settings.write_behind_bytes;
        self.shared.adjust_unwritten(unwritten_before, state.unwritten_bytes);
        let is_first = appended && !state.seal_time_entered;
        drop(state);
        if is_first {
            self.enter_seal_time(now);
        }
        if appended {
            self.shared.note_tail(self, durable, memory_bytes);
        }
        self.shared.queue_write_behind(self, urgent);
        if let Some(observer) = observer {
            observer.durable(self.partition, durable);
        }
    }
}
