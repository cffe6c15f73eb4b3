//! A log that is one of several replicas: it is told what is committed, gives followers what it has, and takes what its leader has.
//!
//! The replication above this layer calls it: of a leader, [`PartitionLog::read_for_replica`] as soon as batches have their place,
//! and [`PartitionLog::commit`] when enough followers have them; of a follower, [`PartitionLog::follow_epoch`], then
//! [`PartitionLog::append_replica`], or a continuation ([`PartitionLog::snapshot_for_replica`] of the leader) where it has nothing
//! that the leader's log goes on from. A log that nobody tells otherwise is the only replica, as before (decision 0076).
//!
//! After a crash everything durable is there as in any log, committed or not: replay finds batches with the offsets and leader epochs
//! that they were appended with. What of it was committed is not told by the log. The newest checkpoint has the high watermark of
//! its time, and nothing beyond that counts as committed until the leader says so ([`PartitionLog::begin_replicated`]).

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::continuation::Continuation;
use super::error::{AppendError, ReadError};
use super::partition::PartitionLog;
use super::read::DiskRead;
use super::replica_state::{LogObserver, ReplicaBatches, ReplicaRead, Replication};
use super::state::{Deletion, State};
use crate::record::{Batch, Batches, RecordError};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Batches of a leader, one after another, each of them whole and undamaged. To find that out takes time, and no lock.
#[derive(Clone, Debug)]
pub struct ReplicaRun(Vec<Batch>);

impl ReplicaRun {
    /// Takes them apart and checks them, checksums too.
    ///
    /// # Errors
    /// [`RecordError`] for what is no whole, undamaged batch.
    pub fn new(run: Bytes) -> Result<Self, RecordError> {
        let batches = Batches::new(run).collect::<Result<Vec<Batch>, _>>()?;
        batches.iter().try_for_each(Batch::verify_checksum)?;
        Ok(Self(batches))
    }

    /// The batches.
    pub fn batches(&self) -> &[Batch] {
        &self.0
    }

    /// What is behind the first so many.
    pub fn behind(mut self, skip: usize) -> Self {
        self.0.drain(..skip);
        self
    }
}

/// A leader's batches took their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaAppended {
    /// Where the log ends now.
    pub log_end: Offset,
    /// How many batches there were.
    pub batches: usize,
}

impl PartitionLog {
    /// The log's part among the replicas of the partition.
    pub fn replication(&self) -> Replication {
        self.state.lock().replica.role
    }

    /// Makes the log the only replica, so that everything durable is committed, now and from now on; or the leader's among others,
    /// which commits what it is told. A log that was opened in this process and never told that it is the only one keeps of its
    /// high watermark only what is known to be committed.
    pub fn set_alone(self: &Arc<Self>, alone: bool) {
        {
            let mut state = self.state.lock();
            match (alone, state.replica.is_alone()) {
                (true, _) => state.be_alone(),
                (false, true) => state.join(Replication::Led),
                (false, false) => {}
            }
        }
        // More may be committed, and so ready for the archive.
        self.shared.note_to_archive(self);
    }

    /// To be called when one of several replicas is opened, before it is read or archived: producers are refused until it leads in a
    /// newer epoch, and its high watermark begins with what is known to be committed, by its checkpoint, by what was deleted or
    /// archived, or by the caller.
    pub fn begin_replicated(self: &Arc<Self>, high_watermark: Option<Offset>) {
        {
            let mut state = self.state.lock();
            if state.replica.is_alone() {
                state.join(Replication::Followed);
            }
        }
        if let Some(offset) = high_watermark {
            self.commit(offset);
        }
    }

    /// Follows the leader of `epoch`: its batches are taken, and producers are refused until [`Self::begin_epoch`] with a newer one.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] for an epoch that has passed, or in which this log was led.
    pub fn follow_epoch(self: &Arc<Self>, epoch: LeaderEpoch) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        self.check_online(&state)?;
        let current = state.leader_epoch;
        if epoch < current || (epoch == current && state.replica.role == Replication::Led) {
            return Err(AppendError::Fenced { epoch, current });
        }
        state.leader_epoch = epoch;
        // An epoch in which this log was led and got nothing: the leader may have batches of an older one here.
        let log_end = state.offsets.log_end;
        state.epochs.truncate_to(log_end);
        state.join(Replication::Followed);
        Ok(())
    }

    /// Raises the high watermark to `offset`, as far as records are durable here, and returns it. It never retreats but by a
    /// truncation, and does not move while one is under way. Does nothing to a log that is the only replica.
    pub fn commit(self: &Arc<Self>, offset: Offset) -> Offset {
        let mut state = self.state.lock();
        if state.replica.is_alone() {
            return state.offsets.high_watermark;
        }
        let before = state.offsets.last_stable;
        state.commit_unless_cut(offset);
        let offsets = state.offsets;
        let may_archive = state.has_sealed_end_within(before, offsets.last_stable.min(offsets.recovery_point));
        drop(state);
        if may_archive {
            self.shared.note_to_archive(self);
        }
        offsets.high_watermark
    }

    /// Appends a leader's batches as they are, which must go on where the log ends and be of epochs from the newest of the log's
    /// up to `epoch`, the leader's. All are looked at before any is queued. `permit` is their share of the directory's budget (see
    /// [`super::LogDirectory::admit`]); replication has bounds of its own.
    ///
    /// # Errors
    /// [`AppendError::OutOfOrder`] and [`AppendError::ForeignEpoch`] for what can't follow, and as for producers; nothing was
    /// stored.
    pub fn append_replica(
        self: &Arc<Self>,
        ReplicaRun(batches): &ReplicaRun,
        epoch: LeaderEpoch,
        now: Timestamp,
        mut permit: Option<OwnedSemaphorePermit>,
    ) -> Result<ReplicaAppended, AppendError> {
        let mut state = self.state.lock();
        self.check_follows(&state, epoch)?;
        check_order(&state, batches, epoch)?;
        for (index, batch) in batches.iter().enumerate() {
            // The last is written last.
            let share = if index + 1 == batches.len() { permit.take() } else { None };
            self.enqueue(&mut state, batch, batch.header(), now, share)?;
        }
        Ok(ReplicaAppended { log_end: state.offsets.log_end, batches: batches.len() })
    }

    fn check_follows(&self, state: &State, epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.check_online(state)?;
        if let Some(&missing) = state.missing.first() {
            return Err(missing.into());
        }
        if !state.is_whole() {
            return Err(AppendError::Truncating);
        }
        if epoch != state.leader_epoch {
            return Err(AppendError::Fenced { epoch, current: state.leader_epoch });
        }
        let role = state.replica.role;
        if role == Replication::Followed { Ok(()) } else { Err(AppendError::WrongRole { role, epoch }) }
    }

    /// Plans a read of whole batches from `from` for a follower, committed or not, durable or not: at most `max_bytes` of them,
    /// but at least one if there is any. What was appended before the log was led and is not durable yet is not found; once it is
    /// durable, which the observer is told, it is.
    ///
    /// # Errors
    /// As of [`Self::read`]; after [`ReadError::Archived`] the follower needs a continuation.
    pub fn read_for_replica(&self, from: Offset, max_bytes: usize) -> Result<ReplicaRead, ReadError> {
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
        if from < offsets.local_log_start {
            return Err(ReadError::Archived { offset: from, local_log_start: offsets.local_log_start });
        }
        if from >= offsets.durable {
            let is_pending = state.replica.pending.start().is_some_and(|start| from >= start);
            let none = ReplicaBatches::none(from);
            return Ok(ReplicaRead::Ready(if is_pending { state.replica.pending.read(from, max_bytes) } else { none }));
        }
        if state.tail.start().is_some_and(|start| from >= start) {
            let batches = state.tail.read(from, offsets.durable, max_bytes);
            let batches = ReplicaBatches::of_stored(from, batches).expect("the tail holds batches that were parsed");
            return Ok(ReplicaRead::Ready(batches));
        }
        let bound = offsets.durable.min(state.disk_bound());
        Ok(ReplicaRead::Disk(DiskRead::new(&state.segments, from, bound, max_bytes)))
    }

    /// What a new replica begins with, for [`Self::continue_at`]: an empty log at this one's first local record, with the epochs of the
    /// records before it, and what is remembered of producers from their batches there. Of a producer that wrote much since,
    /// some or all of these are forgotten; then its newer batches are local, and the replica gets them as records, among them
    /// the last ones, which alone a producer sends again. Local records may leave before they are asked for: then this is asked for
    /// again.
    ///
    /// # Errors
    /// [`ReadError::Deleted`], and [`ReadError::Missing`] of a log that is out of service.
    pub fn snapshot_for_replica(&self) -> Result<Continuation, ReadError> {
        let state = self.state.lock();
        if state.deletion != Deletion::No {
            return Err(ReadError::Deleted);
        }
        if let Some(&missing) = state.missing.first() {
            return Err(missing.into());
        }
        let (log_start, at) = (state.offsets.log_start, state.offsets.local_log_start);
        let (mut epochs, mut producers) = (state.epochs.clone(), state.producers.clone());
        drop(state);
        epochs.truncate_to(at);
        producers.truncate_to(at);
        Ok(Continuation { log_start, at, epochs, producers })
    }

    /// Has an observer told from now on, or nobody; at once if nothing is appended here any more.
    pub fn observe(&self, observer: Option<Weak<dyn LogObserver>>) {
        let is_available = {
            let mut state = self.state.lock();
            state.replica.set_observer(observer);
            self.check_online(&state).is_ok()
        };
        if !is_available {
            self.tell_unavailable();
        }
    }

    /// Tells the observer that nothing is appended any more. Not to be called with the log's lock.
    pub(super) fn tell_unavailable(&self) {
        let observer = self.state.lock().replica.observer();
        if let Some(observer) = observer {
            observer.unavailable(self.partition());
        }
    }
}

/// Whether batches go on where the log ends, in offsets and epochs.
fn check_order(state: &State, batches: &[Batch], newest: LeaderEpoch) -> Result<(), AppendError> {
    let mut log_end = state.offsets.log_end;
    let mut oldest = state.epochs.epoch_at(log_end + -1).unwrap_or(LeaderEpoch::NONE);
    for header in batches.iter().map(Batch::header) {
        if header.base_offset != log_end {
            return Err(AppendError::OutOfOrder { log_end, found: header.base_offset });
        }
        let found = header.leader_epoch;
        if found < oldest || found > newest {
            return Err(AppendError::ForeignEpoch { found, oldest, newest });
        }
        (log_end, oldest) = (header.next_offset(), found);
    }
    Ok(())
}
