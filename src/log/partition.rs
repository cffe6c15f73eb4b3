//! One partition's local log: appends go to the journal, reads come from the tail or from segments.
//!
//! `broker` appends and reads; the journal completes what was appended; the write-behind lane (`write_behind`) moves durable
//! batches into segments and cuts, seals and removes them. One short lock per partition orders all of it; nothing is awaited
//! and no file is touched under it. After a crash `recovery` puts the same state together from checkpoint, segments and
//! journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::directory::Shared;
use super::epoch_cache::EpochCache;
use super::error::{AppendError, ReadError};
use super::journal::{Client, Completed, Mark, Write};
use super::offsets::Offsets;
use super::producer_state::{ProducerState, Verdict};
use super::read::{DiskRead, ReadPlan, TimestampPlan};
use super::segment::Segment;
use super::settings::LogSettings;
use super::tail::Tail;
use crate::record::{Batch, BatchHeader};
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp, TopicPartition};

/// Who moves the high watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRule {
    /// The log itself: what is durable here is committed, for this is the only replica.
    Solo,
    /// Replication, by [`PartitionLog::advance_high_watermark`].
    Replicated,
}

/// A batch took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// First offset after it.
    pub next_offset: Offset,
    /// First readable offset of the log, which producers are told.
    pub log_start: Offset,
    /// True when the batch had been appended before, by an earlier attempt of the producer.
    pub duplicate: bool,
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

/// How far a partition's deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// Not asked for.
    No,
    /// Asked for: clients are refused, files stay.
    Asked,
    /// In the journal for good: files may go.
    Durable,
}

/// The part of a partition's state that its lock guards.
pub(super) struct State {
    pub(super) offsets: Offsets,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerState,
    pub(super) settings: LogSettings,
    pub(super) tail: Tail,
    /// Everything below is in segment files, synced or not.
    pub(super) written: Offset,
    /// Journal blocks up to this sequence have been completed here.
    pub(super) applied_sequence: u64,
    /// Journal blocks up to this sequence are in segment files.
    pub(super) written_sequence: u64,
    /// Oldest first, the active one included.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The last segment, while it may grow.
    pub(super) active: Option<Arc<Segment>>,
    /// The recovery point of the checkpoint that recovery began with.
    pub(super) checkpointed_to: Offset,
    /// What the newest durable checkpoint vouches for: local records below it may go.
    pub(super) removable_to: Offset,
    /// Segments reach beyond this offset and must be cut before anything is written.
    pub(super) cut: Option<Offset>,
    /// Bytes at or above `written` in the tail.
    pub(super) unwritten_bytes: usize,
    /// Seal the active segment at the next write-behind, whatever its size.
    pub(super) roll_requested: bool,
    pub(super) deletion: Deletion,
    commit_rule: CommitRule,
    /// The epoch that appends must carry.
    leader_epoch: LeaderEpoch,
    /// Truncations that are queued in the journal; nothing is appended meanwhile.
    truncating: u32,
    /// Producers that lost batches to a truncation and are looked up in the log; nothing is appended meanwhile.
    pub(super) stale_producers: BTreeSet<ProducerId>,
    permits: VecDeque<(Offset, Option<OwnedSemaphorePermit>)>,
    waiting: [BTreeMap<Offset, Vec<oneshot::Sender<()>>>; 2],
    watchers: Vec<Weak<Notify>>,
}

/// See the module.
pub struct PartitionLog {
    number: u32,
    partition: TopicPartition,
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Mutex<State>,
    /// Held by the write-behind lane while it changes segment files.
    pub(super) writer: Mutex<super::write_behind::Writer>,
}

/// What recovery found, for a log to begin with.
pub(super) struct Recovered {
    pub(super) offsets: Offsets,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerState,
    pub(super) stale_producers: BTreeSet<ProducerId>,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The last segment may grow.
    pub(super) has_active: bool,
    pub(super) sequence: u64,
    /// See [`State::checkpointed_to`].
    pub(super) checkpointed_to: Offset,
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
        recovered.offsets.check();
        let state = State {
            written: recovered.offsets.recovery_point,
            leader_epoch: recovered.epochs.latest().unwrap_or(LeaderEpoch::NONE),
            offsets: recovered.offsets,
            epochs: recovered.epochs,
            producers: recovered.producers,
            settings,
            tail: Tail::default(),
            applied_sequence: recovered.sequence,
            written_sequence: recovered.sequence,
            active: recovered.segments.last().cloned().filter(|_| recovered.has_active),
            segments: recovered.segments,
            checkpointed_to: recovered.checkpointed_to,
            removable_to: recovered.offsets.log_start.max(recovered.offsets.archived_to),
            cut: None,
            unwritten_bytes: 0,
            roll_requested: false,
            deletion: Deletion::No,
            commit_rule: CommitRule::Solo,
            truncating: 0,
            stale_producers: recovered.stale_producers,
            permits: VecDeque::new(),
            waiting: [BTreeMap::new(), BTreeMap::new()],
            watchers: Vec::new(),
        };
        Self { number, partition, path, shared, state: Mutex::new(state), writer: Mutex::default() }
    }

    /// Which partition it is.
    pub const fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// All significant offsets, read together.
    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// The leader epochs known here, oldest first.
    pub fn epochs(&self) -> EpochCache {
        self.state.lock().epochs.clone()
    }

    /// What is remembered of producers.
    pub fn producers(&self) -> ProducerState {
        self.state.lock().producers.clone()
    }

    /// Replaces the settings.
    pub fn configure(&self, settings: LogSettings) {
        self.state.lock().settings = settings;
    }

    /// Sets who moves the high watermark.
    pub fn set_commit_rule(&self, rule: CommitRule) {
        self.state.lock().commit_rule = rule;
    }

    /// Begins to lead in `epoch`, which must be newer than every epoch of the log (a process incarnation never appends in
    /// an epoch of an earlier one). Durable before any batch of the epoch.
    pub fn begin_epoch(self: &Arc<Self>, epoch: LeaderEpoch) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        state.check_online(self)?;
        let current = state.leader_epoch;
        if epoch < current {
            return Err(AppendError::Fenced { epoch, current });
        }
        if epoch == current {
            return Ok(());
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
        state.check_online(self)?;
        if !state.is_whole() {
            return Err(AppendError::Truncating);
        }
        if epoch != state.leader_epoch {
            return Err(AppendError::Fenced { epoch, current: state.leader_epoch });
        }
        let log_start = state.offsets.log_start;
        if let Verdict::Duplicate(mark) = state.producers.judge(batch.header())? {
            let (base_offset, next_offset) = (mark.base_offset, mark.next_offset);
            return Ok(Appended { base_offset, next_offset, log_start, duplicate: true });
        }
        let base_offset = state.offsets.log_end;
        let header = BatchHeader { base_offset, leader_epoch: epoch, ..*batch.header() };
        self.enqueue(&mut state, batch, &header, now, permit)?;
        Ok(Appended { base_offset, next_offset: header.next_offset(), log_start, duplicate: false })
    }

    /// Queues a batch whose place is settled.
    fn enqueue(
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
        };
        if !self.shared.journal.push(write) {
            return Err(self.offline());
        }
        let durable = state.offsets.durable;
        state.producers.record(header, durable, now);
        if state.producers.len() > state.settings.max_producers {
            // Some at once, so that a flood of producer ids does not sort the map at each append.
            let limit = state.settings.max_producers - state.settings.max_producers / 10;
            state.producers.shrink_to(limit);
        }
        state.epochs.assign(header.leader_epoch, header.base_offset);
        state.offsets.log_end = header.next_offset();
        state.permits.push_back((header.next_offset(), permit));
        state.offsets.check();
        self.shared.wake_journal();
        Ok(())
    }

    /// Queues a mark; the caller holds the lock, which fixes the order.
    fn push(self: &Arc<Self>, state: &State, mark: Mark) -> Result<(), AppendError> {
        state.check_online(self)?;
        if !self.shared.journal.push(Write::Mark { client: Arc::clone(self), mark }) {
            return Err(self.offline());
        }
        self.shared.wake_journal();
        Ok(())
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
        if state.check_online(self).is_ok() {
            state.waiting[level as usize].entry(offset).or_default().push(sender);
        }
        Wait::Pending(receiver)
    }

    /// Has `notify` notified once, when the high watermark, the log start or the log's availability changes.
    pub fn watch(&self, notify: &Arc<Notify>) {
        let mut state = self.state.lock();
        state.watchers.retain(|watcher| watcher.strong_count() > 0);
        state.watchers.push(Arc::downgrade(notify));
    }

    /// Raises the high watermark to `offset`, or to the durable end if that is lower.
    pub fn advance_high_watermark(&self, offset: Offset) {
        let mut state = self.state.lock();
        state.commit(offset);
    }

    /// Plans a read of whole batches from `from` that end at or below `bound`, at most `max_bytes` but at least one.
    pub fn read(&self, from: Offset, bound: Offset, max_bytes: usize) -> Result<ReadPlan, ReadError> {
        let state = self.state.lock();
        let offsets = &state.offsets;
        if state.deletion != Deletion::No {
            return Err(ReadError::Deleted);
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
        let state = self.state.lock();
        let from = state.offsets.local_log_start;
        let tail = state.tail.find_timestamp(timestamp, from, bound);
        let on_disk = state.disk_bound().min(bound);
        TimestampPlan::new(state.segments.clone(), timestamp, from, on_disk, tail)
    }

    /// Moves the first readable offset up to `offset`; what is below is gone for clients once this is durable.
    pub fn advance_log_start(self: &Arc<Self>, offset: Offset) -> Result<(), AppendError> {
        let state = self.state.lock();
        if offset <= state.offsets.log_start {
            return Ok(());
        }
        self.push(&state, Mark::LogStart(offset))
    }

    /// Notes that the archive holds everything below `offset`, so that local copies may go.
    pub fn advance_archived(&self, offset: Offset) {
        let mut state = self.state.lock();
        if offset > state.offsets.archived_to {
            state.offsets.archived_to = offset;
            state.offsets.check();
        }
    }

    /// Cuts the log at `end`, which must be a batch's beginning; records at or above are void (KIP-101). The caller must
    /// not append until this is durable; see [`Self::truncated`].
    pub fn truncate_to(self: &Arc<Self>, end: Offset) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if end >= state.offsets.log_end {
            return Ok(());
        }
        state.truncating += 1;
        self.push(&state, Mark::Truncate(end))
    }

    /// True when no truncation is under way.
    pub fn truncated(&self) -> bool {
        self.state.lock().is_whole()
    }

    /// Deletes the partition: clients are refused at once, files go once the deletion is durable.
    pub fn delete(self: &Arc<Self>) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        let queued = self.push(&state, Mark::Delete);
        if state.deletion == Deletion::No {
            state.deletion = Deletion::Asked;
        }
        state.fail_waiters();
        queued
    }

    /// Asks for the active segment to be sealed soon, if it holds anything.
    pub fn request_roll(self: &Arc<Self>) {
        self.state.lock().roll_requested = true;
        self.shared.queue_write_behind(self, true);
    }

    /// Sealed segments whose records are all synced and decided, oldest first.
    pub fn archivable_segments(&self) -> Vec<Arc<Segment>> {
        let state = self.state.lock();
        let bound = state.offsets.last_stable.min(state.offsets.recovery_point);
        state.sealed().iter().filter(|segment| segment.extent().next_offset <= bound).cloned().collect()
    }

    /// All local segments, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.state.lock().segments.clone()
    }

    /// Takes sealed segments that end at or below `below` out of the local log and removes their files. Only what a durable
    /// checkpoint knows to be archived, or below the log start, can go, whatever is asked. Blocks.
    pub fn remove_local_below(&self, below: Offset) -> io::Result<usize> {
        let writer = self.writer.lock();
        let removed: Vec<_> = {
            let mut state = self.state.lock();
            let bound = below.min(state.removable_to);
            let count = state.sealed().iter().take_while(|segment| segment.extent().next_offset <= bound).count();
            let removed: Vec<_> = state.segments.drain(..count).collect();
            if let Some(last) = removed.last() {
                state.offsets.local_log_start = state.offsets.local_log_start.max(last.extent().next_offset);
                state.offsets.check();
            }
            removed
        };
        for segment in &removed {
            segment.remove()?;
        }
        drop(writer);
        Ok(removed.len())
    }

    /// True once deletion was asked for.
    pub fn is_deleted(&self) -> bool {
        self.state.lock().deletion != Deletion::No
    }

    /// True when the active segment holds records and has reached its age.
    pub(super) fn has_old_segment(&self, now: Timestamp) -> bool {
        let state = self.state.lock();
        state.active.as_ref().is_some_and(|active| {
            let age_ms = u128::try_from(now.0.saturating_sub(active.created_at().0)).unwrap_or(0);
            age_ms >= state.settings.segment_age.as_millis() && !active.is_empty()
        })
    }

    pub(super) fn complete_mark(state: &mut State, mark: Mark) {
        match mark {
            Mark::LogStart(offset) => {
                let offset = offset.min(state.offsets.high_watermark).max(state.offsets.log_start);
                state.offsets.log_start = offset;
                state.offsets.local_log_start = state.offsets.local_log_start.max(offset);
                state.epochs.advance_log_start(offset);
                state.notify_watchers();
            }
            Mark::EpochStart(epoch, start) => {
                // Known already, except to replay.
                state.leader_epoch = state.leader_epoch.max(epoch);
                state.epochs.assign(epoch, start);
            }
            Mark::Truncate(end) => {
                state.truncate(end);
                // Replay has no caller that waits.
                state.truncating = state.truncating.saturating_sub(1);
            }
            Mark::Delete => state.deletion = Deletion::Durable,
        }
        state.offsets.check();
    }
}

impl State {
    fn check_online(&self, log: &PartitionLog) -> Result<(), AppendError> {
        if self.deletion != Deletion::No {
            return Err(AppendError::Deleted);
        }
        if log.shared.is_offline() { Err(log.offline()) } else { Ok(()) }
    }

    /// Raises the high watermark as far as `offset` and durability allow, and tells whoever waits.
    fn commit(&mut self, offset: Offset) {
        let reached = offset.min(self.offsets.durable);
        if reached <= self.offsets.high_watermark {
            return;
        }
        self.offsets.high_watermark = reached;
        // Transactions are not accepted yet, so everything committed is decided.
        self.offsets.last_stable = reached;
        self.offsets.check();
        self.resolve(Level::Committed, reached);
        self.notify_watchers();
    }

    fn resolve(&mut self, level: Level, reached: Offset) {
        let waiting = &mut self.waiting[level as usize];
        let later = waiting.split_off(&reached.next());
        for sender in std::mem::replace(waiting, later).into_values().flatten() {
            // The producer may have hung up.
            let _ = sender.send(());
        }
    }

    fn notify_watchers(&mut self) {
        for watcher in self.watchers.drain(..) {
            if let Some(notify) = watcher.upgrade() {
                notify.notify_one();
            }
        }
    }

    /// No truncation is under way, and what it touched is settled.
    fn is_whole(&self) -> bool {
        self.truncating == 0 && self.cut.is_none() && self.stale_producers.is_empty()
    }

    fn sealed(&self) -> &[Arc<Segment>] {
        &self.segments[..self.segments.len() - usize::from(self.active.is_some())]
    }

    pub(super) fn fail_waiters(&mut self) {
        self.waiting = [BTreeMap::new(), BTreeMap::new()];
        self.permits.clear();
        self.notify_watchers();
    }

    /// First offset that only the tail may have; below it segments answer.
    pub(super) fn disk_bound(&self) -> Offset {
        self.tail.start().unwrap_or(self.written)
    }

    /// A batch that replay found in the journal.
    pub(super) fn replay_append(&mut self, batch: Batch, now: Timestamp) {
        let header = *batch.header();
        self.producers.record(&header, header.next_offset(), now);
        self.epochs.assign(header.leader_epoch, header.base_offset);
        self.leader_epoch = self.leader_epoch.max(header.leader_epoch);
        let next = header.next_offset();
        let offsets = &mut self.offsets;
        (offsets.log_end, offsets.durable, offsets.high_watermark, offsets.last_stable) = (next, next, next, next);
        self.unwritten_bytes += batch.bytes().len();
        self.tail.push(batch, None);
        self.offsets.check();
    }

    fn truncate(&mut self, end: Offset) {
        self.tail.truncate_to(end);
        self.epochs.truncate_to(end);
        let touched = self.producers.truncate_to(end);
        self.stale_producers.extend(touched);
        let offsets = &mut self.offsets;
        offsets.log_end = end.max(offsets.log_start);
        offsets.durable = offsets.durable.min(offsets.log_end);
        offsets.high_watermark = offsets.high_watermark.min(offsets.durable);
        offsets.last_stable = offsets.last_stable.min(offsets.high_watermark);
        offsets.recovery_point = offsets.recovery_point.min(offsets.durable);
        offsets.archived_to = offsets.archived_to.min(offsets.log_end);
        offsets.local_log_start = offsets.local_log_start.min(offsets.log_end);
        if self.written > end {
            self.written = end;
            self.cut = Some(self.cut.map_or(end, |cut| cut.min(end)));
        }
        self.unwritten_bytes = self.tail.bytes_from(self.written);
    }
}

impl Client for PartitionLog {
    fn number(&self) -> u32 {
        self.number
    }

    fn partition(&self) -> TopicPartition {
        self.partition
    }

    fn completed(self: &Arc<Self>, sequence: u64, writes: Vec<Completed>) {
        let mut state = self.state.lock();
        let unwritten_before = state.unwritten_bytes;
        let mut bytes = 0;
        for write in writes {
            match write {
                Completed::Append(mut placed) => {
                    bytes += placed.len();
                    state.complete_append(&mut placed);
                }
                Completed::Mark(mark) => Self::complete_mark(&mut state, mark),
            }
        }
        state.applied_sequence = sequence;
        let durable = state.offsets.durable;
        state.resolve(Level::Durable, durable);
        if state.commit_rule == CommitRule::Solo {
            state.commit(durable);
        }
        let urgent = state.deletion == Deletion::Durable
            || !state.is_whole()
            || state.unwritten_bytes >= self.shared.settings.write_behind_bytes;
        self.shared.adjust_unwritten(unwritten_before, state.unwritten_bytes);
        drop(state);
        self.shared.note_tail(self, durable, bytes);
        self.shared.queue_write_behind(self, urgent);
    }
}

impl State {
    fn complete_append(&mut self, placed: &mut Bytes) {
        let batch = Batch::split_from(placed).expect("the batch was parsed when it was appended");
        assert!(placed.is_empty(), "one entry holds one batch");
        let next = batch.header().next_offset();
        let permit = match self.permits.pop_front() {
            Some((appended, permit)) => {
                assert_eq!(appended, next, "the journal completes appends in order");
                permit
            }
            // Deleted or failed meanwhile.
            None => None,
        };
        self.offsets.durable = next;
        self.unwritten_bytes += batch.bytes().len();
        self.tail.push(batch, permit);
        self.offsets.check();
    }
}
