//! The state that a partition's lock guards, and its transitions: pure bookkeeping, no file and no wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::continuation::Continuation;
use super::epoch_cache::EpochCache;
use super::error::Missing;
use super::journal::Mark;
use super::offsets::Offsets;
use super::partition::Level;
use super::producer_count::{CountedProducers, ProducerCount};
use super::producer_state::{ProducerState, Stale};
use super::replica_state::ReplicaState;
use super::segment::Segment;
use super::settings::LogSettings;
use super::tail::Tail;
use crate::record::Batch;
use crate::types::{LeaderEpoch, Offset, Timestamp};

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

/// What recovery found, for a log to begin with.
pub(super) struct Recovered {
    pub(super) offsets: Offsets,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerState,
    pub(super) stale_producers: Stale,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The last segment may grow.
    pub(super) has_active: bool,
    pub(super) sequence: u64,
    /// See [`State::checkpointed_to`].
    pub(super) checkpointed_to: Offset,
    /// See [`ReplicaState::known_committed`].
    pub(super) known_committed: Offset,
    /// See [`State::missing`].
    pub(super) missing: Vec<Missing>,
    /// The last segment was cut, which the next checkpoint has to sync.
    pub(super) unsynced: bool,
}

/// The part of a partition's state that its lock guards.
pub(super) struct State {
    pub(super) offsets: Offsets,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerState,
    /// As many as there were when they were counted last.
    pub(super) counted_producers: CountedProducers,
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
    /// Where the archive was seen to end since the directory was opened, which it may not do where it is remembered to.
    pub(super) archive_seen_to: Offset,
    /// Ranges whose segments were not there when the directory was opened, oldest first. The partition is out of service until
    /// the log start or the archive has passed them all.
    pub(super) missing: Vec<Missing>,
    /// Segments may reach beyond this offset, and must be cut before anything is written. What was on its way to them when
    /// this was set is void.
    pub(super) cut: Option<Offset>,
    /// Bytes at or above `written` in the tail.
    pub(super) unwritten_bytes: usize,
    /// When the oldest of them was appended.
    pub(super) unwritten_since: Option<Timestamp>,
    /// When the newest record was appended, if that was since the start.
    pub(super) appended_at: Option<Timestamp>,
    /// When the oldest record of the active segment was appended, if that was since the start: the segment may have been empty
    /// for long.
    pub(super) active_since: Option<Timestamp>,
    /// The directory knows when the active segment reaches its age.
    pub(super) seal_time_entered: bool,
    /// Seal the active segment at the next write-behind, whatever its size.
    pub(super) roll_requested: bool,
    pub(super) deletion: Deletion,
    /// The epoch that appends must carry.
    pub(super) leader_epoch: LeaderEpoch,
    /// Its part among the replicas of the partition.
    pub(super) replica: ReplicaState,
    /// Truncations that are queued in the journal; nothing is appended meanwhile.
    pub(super) truncating: u32,
    /// Producers that lost batches to a truncation and are looked up in the log; nothing is appended meanwhile.
    pub(super) stale_producers: Stale,
    pub(super) permits: VecDeque<(Offset, Option<OwnedSemaphorePermit>)>,
    pub(super) waiting: [BTreeMap<Offset, Vec<oneshot::Sender<()>>>; 2],
    pub(super) watchers: Vec<Weak<Notify>>,
}

impl State {
    /// Begins with what recovery found.
    pub(super) fn new(settings: LogSettings, recovered: Recovered, producers: &ProducerCount) -> Self {
        recovered.offsets.check();
        let active = recovered.segments.last().filter(|_| recovered.has_active).cloned();
        if let Some(active) = &active {
            active.open_to_append();
        }
        Self {
            written: recovered.offsets.recovery_point,
            leader_epoch: recovered.epochs.latest().unwrap_or(LeaderEpoch::NONE),
            offsets: recovered.offsets,
            epochs: recovered.epochs,
            counted_producers: producers.part(recovered.producers.len()),
            producers: recovered.producers,
            settings,
            tail: Tail::default(),
            applied_sequence: recovered.sequence,
            written_sequence: recovered.sequence,
            active,
            segments: recovered.segments,
            checkpointed_to: recovered.checkpointed_to,
            removable_to: recovered.offsets.log_start.max(recovered.offsets.archived_to),
            replica: ReplicaState::recovered(recovered.known_committed),
            archive_seen_to: Offset::ZERO,
            missing: recovered.missing,
            cut: None,
            unwritten_bytes: 0,
            unwritten_since: None,
            appended_at: None,
            active_since: None,
            seal_time_entered: false,
            roll_requested: false,
            deletion: Deletion::No,
            truncating: 0,
            stale_producers: recovered.stale_producers,
            permits: VecDeque::new(),
            waiting: [BTreeMap::new(), BTreeMap::new()],
            watchers: Vec::new(),
        }
    }

    /// A mark is on stable storage.
    pub(super) fn complete_mark(&mut self, mark: Mark) {
        match mark {
            Mark::LogStart(offset) => {
                let offset = offset.min(self.offsets.high_watermark).max(self.offsets.log_start);
                self.offsets.log_start = offset;
                self.offsets.local_log_start = self.offsets.local_log_start.max(offset);
                self.epochs.advance_log_start(offset);
                self.missing.retain(|missing| missing.to > offset);
                self.notify_watchers();
            }
            Mark::EpochStart(epoch, start) => {
                // Known already, except to replay. With records there by now, it is known by them.
                self.leader_epoch = self.leader_epoch.max(epoch);
                if start >= self.offsets.log_end {
                    self.epochs.assign(epoch, start);
                }
            }
            Mark::Truncate(end) => {
                self.truncate(end);
                // Replay has no caller that waits.
                self.truncating = self.truncating.saturating_sub(1);
            }
            Mark::Delete => self.deletion = Deletion::Durable,
            Mark::Continue(continuation) => {
                self.continue_at(&continuation);
                self.truncating = self.truncating.saturating_sub(1);
            }
        }
        self.offsets.check();
    }

    /// Raises the high watermark as far as `offset` and durability allow, and tells whoever waits.
    pub(super) fn commit(&mut self, offset: Offset) {
        let reached = offset.min(self.offsets.durable);
        if reached <= self.offsets.high_watermark {
            return;
        }
        self.offsets.high_watermark = reached;
        self.replica.known_committed = reached;
        // Transactions are not accepted yet, so everything committed is decided.
        self.offsets.last_stable = reached;
        self.offsets.check();
        self.resolve(Level::Committed, reached);
        self.notify_watchers();
    }

    /// The archive holds everything below `offset`.
    pub(super) fn archived(&mut self, offset: Offset) {
        let offset = self.archived_here(offset);
        if offset <= self.offsets.archived_to {
            return;
        }
        self.offsets.archived_to = offset;
        // What is missing here can be read from there, and what is before it too.
        while let Some(first) = self.missing.first().copied().filter(|first| first.to <= offset) {
            self.segments.retain(|segment| segment.base_offset() >= first.to);
            self.offsets.local_log_start = self.offsets.local_log_start.max(first.to);
            self.missing.remove(0);
            self.notify_watchers();
        }
        self.offsets.check();
    }

    /// The archive was seen to end at `end`, and was taken to end at `believed` before that. Where it ends earlier, what this
    /// log has from there on is to be archived again, and stays until it is. Tells whether there is any such.
    pub(super) fn archive_seen(&mut self, end: Offset, believed: Offset) -> bool {
        if end >= believed {
            self.archive_seen_to = self.archive_seen_to.max(end);
            return false;
        }
        self.archive_seen_to = end;
        self.replica.archive_end = self.replica.archive_end.min(end);
        let archived_to = end.max(self.offsets.local_log_start);
        let lacks_local = archived_to < self.offsets.archived_to;
        if lacks_local {
            self.offsets.archived_to = archived_to;
            self.offsets.check();
        }
        lacks_local
    }

    /// Local records below this are deleted, or were seen in the archive.
    pub(super) fn dispensable(&self) -> Offset {
        self.archive_seen_to.min(self.offsets.archived_to).max(self.offsets.log_start)
    }

    /// Local records below this may go: a durable checkpoint vouches for that, too.
    pub(super) fn removable(&self) -> Offset {
        self.removable_to.min(self.dispensable())
    }

    pub(super) fn resolve(&mut self, level: Level, reached: Offset) {
        let waiting = &mut self.waiting[level as usize];
        let later = waiting.split_off(&reached.next());
        for sender in std::mem::replace(waiting, later).into_values().flatten() {
            // The producer may have hung up.
            let _ = sender.send(());
        }
    }

    pub(super) fn notify_watchers(&mut self) {
        for watcher in self.watchers.drain(..) {
            if let Some(notify) = watcher.upgrade() {
                notify.notify_one();
            }
        }
    }

    /// When the oldest record that is not in a sealed segment reaches the age at which segments are sealed: now, if that would
    /// be farther off than the age of one that is appended a whole age from now, as the clock was set back since.
    pub(super) fn seal_time(&self, now: Timestamp) -> Option<Timestamp> {
        let active = self.active.as_ref().filter(|active| !active.is_empty()).map(|active| self.oldest_of(active));
        let oldest = active.or(self.unwritten_since)?;
        let age_ms = i64::try_from(self.settings.segment_age.as_millis()).ok()?;
        let latest = now.0.saturating_add(age_ms);
        Some(if oldest.0 > latest { now } else { Timestamp(oldest.0.saturating_add(age_ms)) })
    }

    /// When the oldest record of a segment was appended, about.
    pub(super) fn oldest_of(&self, segment: &Arc<Segment>) -> Timestamp {
        let is_active = self.active.as_ref().is_some_and(|active| Arc::ptr_eq(active, segment));
        self.active_since.filter(|_| is_active).unwrap_or_else(|| segment.created_at())
    }

    /// No truncation is under way, and what it touched is settled.
    pub(super) fn is_whole(&self) -> bool {
        self.truncating == 0 && self.cut.is_none() && self.stale_producers.is_empty()
    }

    pub(super) fn sealed(&self) -> &[Arc<Segment>] {
        &self.segments[..self.segments.len() - usize::from(self.active.is_some())]
    }

    pub(super) fn fail_waiters(&mut self) {
        self.waiting = [BTreeMap::new(), BTreeMap::new()];
        self.permits.clear();
        self.replica.fail();
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
        self.unwritten_since.get_or_insert(now);
        self.appended_at = Some(now);
        self.tail.push(batch, None);
        self.offsets.check();
    }

    /// Voids everything local.
    fn continue_at(&mut self, continuation: &Continuation) {
        self.tail.truncate_to(Offset::ZERO);
        self.epochs = continuation.epochs.clone();
        self.leader_epoch = self.leader_epoch.max(self.epochs.latest().unwrap_or(LeaderEpoch::NONE));
        self.producers = continuation.producers.clone();
        self.stale_producers = Stale::NONE;
        self.offsets = continuation.offsets();
        self.replica.continue_at(continuation.at);
        self.written = continuation.at;
        self.removable_to = self.removable_to.min(continuation.at);
        self.cut = Some(Offset::ZERO);
        self.unwritten_bytes = 0;
        self.unwritten_since = None;
        self.notify_watchers();
    }

    pub(super) fn truncate(&mut self, end: Offset) {
        self.tail.truncate_to(end);
        self.epochs.truncate_to(end);
        let touched = self.producers.truncate_to(end);
        self.stale_producers.extend(touched);
        self.replica.truncate_to(end);
        let offsets = &mut self.offsets;
        offsets.log_end = end.max(offsets.log_start);
        offsets.durable = offsets.durable.min(offsets.log_end);
        offsets.high_watermark = offsets.high_watermark.min(offsets.durable);
        offsets.last_stable = offsets.last_stable.min(offsets.high_watermark);
        offsets.recovery_point = offsets.recovery_point.min(offsets.durable);
        offsets.archived_to = offsets.archived_to.min(offsets.log_end);
        self.archive_seen_to = self.archive_seen_to.min(offsets.log_end);
        offsets.local_log_start = offsets.local_log_start.min(offsets.log_end);
        self.written = self.written.min(end);
        // Also when nothing beyond `end` is known to be in segments: it may just be on its way there.
        self.cut = Some(self.cut.map_or(self.written, |cut| cut.min(self.written)));
        self.unwritten_bytes = self.tail.bytes_from(self.written);
    }

    /// A batch is on stable storage.
    pub(super) fn complete_append(&mut self, placed: &mut Bytes, now: Timestamp) {
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
        self.replica.pending.complete_to(next);
        self.unwritten_bytes += batch.bytes().len();
        self.unwritten_since.get_or_insert(now);
        self.appended_at = Some(now);
        self.tail.push(batch, permit);
        self.offsets.check();
    }
}
