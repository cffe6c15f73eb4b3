//! What the lock of a partition guards for its part among replicas: its role, what is known to be committed, the batches that
//! wait for the journal and are sent to followers meanwhile, and who is told.
//!
//! A log that is the only replica leaves all of it empty, and pays a comparison for it. Plain data and its transitions; `replica`
//! has the operations. Nothing here outlives the process but what a checkpoint takes: `known_committed`, as its high watermark.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;

use super::read::DiskRead;
use super::state::State;
use crate::record::{BatchHeader, Batches, RecordError};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Leading bytes of a batch that end with what the leader sets: base offset, length, leader epoch.
const PLACE_BYTES: usize = 16;

/// The part of a log among the replicas of its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// It is the only one: what is durable is committed.
    #[default]
    Alone,
    /// Producers append to it, others follow, and it is told what is committed.
    Led,
    /// It takes the leader's batches, and is told what is committed.
    Followed,
}

/// Who is told what happens to a log, to carry on its replication. Called by whoever appends and by the journal's lane, without
/// the log's lock: it may ask the log for anything, and must neither block nor touch files. Calls of threads that append at once
/// may come in another order than their appends.
pub trait LogObserver: Send + Sync {
    /// Batches were appended that are to be replicated; the log ends at `log_end`.
    fn appended(&self, partition: TopicPartition, log_end: Offset);
    /// Everything below `durable` is on stable storage; after a truncation this may be less than before.
    fn durable(&self, partition: TopicPartition, durable: Offset);
    /// The partition was deleted, or its directory went offline: nothing is appended any more.
    fn unavailable(&self, partition: TopicPartition);
}

/// Whole batches for a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaBatches {
    /// The batches' bytes one after another, with base offset and leader epoch set. A batch may be in several pieces.
    pub chunks: Vec<Bytes>,
    /// First offset after them; where the next read goes on.
    pub next_offset: Offset,
    /// Length of all chunks.
    pub bytes: usize,
}

impl ReplicaBatches {
    /// No batches, at `from`.
    pub const fn none(from: Offset) -> Self {
        Self { chunks: Vec::new(), next_offset: from, bytes: 0 }
    }

    /// Stretches of whole batches that were read for `from`.
    ///
    /// # Errors
    /// [`RecordError`] where a stretch holds anything else.
    pub fn of_stored(from: Offset, stretches: Vec<Bytes>) -> Result<Self, RecordError> {
        let mut read = Self::none(from);
        for batch in stretches.iter().cloned().flat_map(Batches::new) {
            read.next_offset = batch?.header().next_offset();
        }
        read.bytes = stretches.iter().map(Bytes::len).sum();
        read.chunks = stretches;
        Ok(read)
    }

    /// True when nothing was read.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// A planned read for a follower.
#[derive(Debug)]
pub enum ReplicaRead {
    /// From memory, done.
    Ready(ReplicaBatches),
    /// From segments, to be executed by a lane that may block; see [`ReplicaBatches::of_stored`].
    Disk(DiskRead),
}

/// A batch that waits for the journal, as its producer sent it, and its place.
#[derive(Debug)]
struct PendingBatch {
    base_offset: Offset,
    next_offset: Offset,
    leader_epoch: LeaderEpoch,
    bytes: Bytes,
}

/// The batches of a leader that are not durable here, oldest first; without those that were appended before it led.
#[derive(Debug, Default)]
pub(super) struct Pending {
    batches: VecDeque<PendingBatch>,
}

impl Pending {
    /// Adds a batch whose place is settled by its header.
    pub(super) fn push(&mut self, header: &BatchHeader, bytes: Bytes) {
        let (base_offset, next_offset) = (header.base_offset, header.next_offset());
        if let Some(last) = self.batches.back() {
            assert!(base_offset == last.next_offset, "pending batches follow one another");
        }
        self.batches.push_back(PendingBatch { base_offset, next_offset, leader_epoch: header.leader_epoch, bytes });
    }

    /// Drops what is durable, which the tail has.
    pub(super) fn complete_to(&mut self, durable: Offset) {
        while self.batches.front().is_some_and(|first| first.next_offset <= durable) {
            self.batches.pop_front();
        }
    }

    /// Drops what reaches beyond `end`, as the log was cut there.
    pub(super) fn truncate_to(&mut self, end: Offset) {
        while self.batches.back().is_some_and(|last| last.next_offset > end) {
            self.batches.pop_back();
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.batches = VecDeque::new();
    }

    /// First offset held.
    pub(super) fn start(&self) -> Option<Offset> {
        self.batches.front().map(|first| first.base_offset)
    }

    /// Whole batches from the one that holds `from`: at most `max_bytes` of them, but at least one. Their records are shared,
    /// not copied.
    pub(super) fn read(&self, from: Offset, max_bytes: usize) -> ReplicaBatches {
        let first = self.batches.partition_point(|held| held.next_offset <= from);
        let mut bytes = 0;
        let fits = |held: &&PendingBatch| {
            let is_first = bytes == 0;
            bytes += held.bytes.len();
            is_first || bytes <= max_bytes
        };
        let count = self.batches.range(first..).take_while(fits).count();
        let taken = || self.batches.range(first..first + count);
        let mut places = BytesMut::with_capacity(count * PLACE_BYTES);
        for held in taken() {
            places.put_i64(held.base_offset.0);
            places.extend_from_slice(&held.bytes[8..12]);
            places.put_i32(held.leader_epoch.0);
        }
        let mut places = places.freeze();
        let mut read = ReplicaBatches::none(from);
        read.chunks.reserve(2 * count);
        for held in taken() {
            read.chunks.push(places.split_to(PLACE_BYTES));
            read.chunks.push(held.bytes.slice(PLACE_BYTES..));
            read.next_offset = held.next_offset;
            read.bytes += held.bytes.len();
        }
        read
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct ReplicaState {
    pub(super) role: Replication,
    /// Committed for certain: what a recovered log has beyond it may never have been, unless the log is the only replica.
    pub(super) known_committed: Offset,
    /// Where the archive was said to end, which may be beyond what is in synced segments here.
    pub(super) archive_end: Offset,
    pub(super) pending: Pending,
    observer: Option<Weak<dyn LogObserver>>,
    /// Who waits until a truncation or continuation is done.
    pub(super) when_whole: Vec<oneshot::Sender<()>>,
}

impl ReplicaState {
    /// That of a log of which so much was known to be committed.
    pub(super) fn recovered(known_committed: Offset) -> Self {
        Self { known_committed, ..Self::default() }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.role == Replication::Alone
    }

    pub(super) fn set_observer(&mut self, observer: Option<Weak<dyn LogObserver>>) {
        self.observer = observer;
    }

    /// Who is to be told, once the lock is let go.
    pub(super) fn observer(&self) -> Option<Arc<dyn LogObserver>> {
        self.observer.as_ref()?.upgrade()
    }

    /// Nobody gets any more of what they wait for.
    pub(super) fn fail(&mut self) {
        self.pending.clear();
        self.when_whole.clear();
    }

    /// The log was cut at `end`.
    pub(super) fn truncate_to(&mut self, end: Offset) {
        self.pending.truncate_to(end);
        self.known_committed = self.known_committed.min(end);
        self.archive_end = self.archive_end.min(end);
    }

    /// The log goes on at `at`, below which everything is committed.
    pub(super) fn continue_at(&mut self, at: Offset) {
        self.pending.clear();
        self.known_committed = at;
        self.archive_end = Offset::ZERO;
    }
}

impl State {
    /// Takes a role beside others. What a log that was the only replica took for committed and is not known to be is given up:
    /// recovery could not tell.
    pub(super) fn join(&mut self, role: Replication) {
        let was_alone = self.replica.is_alone();
        let is_deposed = self.replica.role != Replication::Followed && role == Replication::Followed;
        self.replica.role = role;
        if is_deposed {
            self.replica.pending.clear();
            // The next leader may have other records at the offsets that they wait for.
            self.waiting = Default::default();
            self.notify_watchers();
        }
        if !was_alone {
            return;
        }
        let offsets = &mut self.offsets;
        let known = self.replica.known_committed.max(offsets.log_start).max(offsets.archived_to);
        offsets.high_watermark = offsets.high_watermark.min(known);
        offsets.last_stable = offsets.high_watermark;
        self.replica.known_committed = offsets.high_watermark;
        self.offsets.check();
    }

    /// Is the only replica from now on.
    pub(super) fn be_alone(&mut self) {
        self.replica.role = Replication::Alone;
        self.replica.pending.clear();
        self.commit(self.offsets.durable);
        self.replica.known_committed = self.offsets.high_watermark;
    }

    /// Up to where records may be deleted when that is asked for up to `offset`: what is committed. What a leader has deleted was.
    pub(super) fn deletable(&mut self, offset: Offset) -> Offset {
        match self.replica.role {
            Replication::Alone => return offset,
            Replication::Led => {}
            Replication::Followed => self.commit_unless_cut(offset),
        }
        offset.min(self.offsets.high_watermark)
    }

    /// What the end of an archive means here: it may be ahead of the segments of a log that has the same records from others.
    pub(super) fn archived_here(&mut self, end: Offset) -> Offset {
        if self.replica.is_alone() {
            return end;
        }
        self.replica.archive_end = self.replica.archive_end.max(end);
        // Only what was committed is archived.
        self.commit_unless_cut(end);
        let offsets = self.offsets;
        end.min(offsets.last_stable.min(offsets.recovery_point).max(offsets.log_start))
    }

    /// Commits, unless what is below `offset` may be about to be cut off.
    pub(super) fn commit_unless_cut(&mut self, offset: Offset) {
        if self.truncating == 0 {
            self.commit(offset);
        }
    }

    /// Whether a sealed segment ends beyond `from` and at or below `to`.
    pub(super) fn has_sealed_end_within(&self, from: Offset, to: Offset) -> bool {
        let ends = self.sealed().iter().rev().map(|segment| segment.extent().next_offset);
        ends.take_while(|&end| end > from).any(|end| end <= to)
    }

    /// Tells who waits for the end of truncations, if none is under way.
    pub(super) fn resolve_whole(&mut self) {
        if !self.replica.when_whole.is_empty() && self.is_whole() {
            for sender in self.replica.when_whole.drain(..) {
                // Whoever waited may have given up.
                let _ = sender.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Batch, BatchBuilder, BatchOptions};
    use crate::types::Timestamp;

    fn batch(value: &[u8]) -> Batch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(1), None, Some(value), std::iter::empty());
        builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
    }

    fn pending(count: i64) -> (Pending, Vec<Bytes>) {
        let mut pending = Pending::default();
        let place = |offset| {
            let batch = batch(b"a value");
            let header = BatchHeader { base_offset: Offset(offset), leader_epoch: LeaderEpoch(7), ..*batch.header() };
            pending.push(&header, batch.bytes().clone());
            batch.placed(Offset(offset), LeaderEpoch(7)).bytes().clone()
        };
        let placed = (10..10 + count).map(place).collect();
        (pending, placed)
    }

    #[test]
    fn batches_that_wait_for_the_journal_are_read_with_their_place_and_without_a_copy() {
        let (pending, placed) = pending(4);
        let read = pending.read(Offset(11), 2 * placed[0].len());
        assert_eq!((read.next_offset, read.bytes, read.chunks.len()), (Offset(13), 2 * placed[0].len(), 4));
        assert_eq!(read.chunks.concat(), placed[1..3].concat());
        assert_eq!(pending.read(Offset(10), 1).next_offset, Offset(11), "at least one");
        assert!(pending.read(Offset(14), 100).is_empty());
    }

    #[test]
    fn what_is_durable_or_cut_off_waits_no_longer() {
        let (mut pending, _) = pending(5);
        pending.complete_to(Offset(12));
        assert_eq!(pending.start(), Some(Offset(12)));
        pending.truncate_to(Offset(13));
        assert_eq!(pending.read(Offset(12), usize::MAX).next_offset, Offset(13));
        pending.truncate_to(Offset(12));
        assert_eq!(pending.start(), None);
    }

    #[test]
    fn stretches_that_were_stored_say_where_the_next_read_goes_on() {
        let (_, placed) = pending(3);
        let stretches = vec![Bytes::from(placed[..2].concat()), placed[2].clone()];
        let read = ReplicaBatches::of_stored(Offset(10), stretches).unwrap();
        assert_eq!((read.next_offset, read.bytes), (Offset(13), placed.concat().len()));
        assert!(ReplicaBatches::of_stored(Offset(10), vec![placed[0].slice(..20)]).is_err());
    }
}
