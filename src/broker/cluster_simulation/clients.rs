//! Producers and consumers: each does one thing as a task of the process that it talks to, and judges the answer.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::yield_now;

use super::invariants::record_of;
use super::planted::Planted;
use super::{Check, Notes, Part};
use crate::broker::{
    ArchiveError, Broker, FetchLimits, FetchPartition, Isolation, Leader, PartitionError, Produced, RoomWait,
};
use crate::log::{AppendError, ReadError};
use crate::record::{Batch, BatchBuilder, BatchOptions, Batches, Compression};
use crate::sim::{Random, SimDisk};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// How long a producer waits.
const PATIENCE: Duration = Duration::from_secs(5);
const ROOM: RoomWait = RoomWait { timeout: PATIENCE, held_bytes: 1000 };
/// How long a consumer waits for records.
const LONGEST_FETCH: Duration = Duration::from_millis(300);

/// One client, and the broker that it talks to.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) broker: Arc<Broker>,
    pub(super) part: Arc<Part>,
    pub(super) notes: Arc<Mutex<Notes>>,
    pub(super) disk: SimDisk,
    pub(super) planted: Planted,
}

/// Whether an error may come at any time, and says nothing about records.
fn is_passing(error: &PartitionError) -> bool {
    match error {
        PartitionError::UnknownPartition
        | PartitionError::UnknownTopicId
        | PartitionError::NotLeader { .. }
        | PartitionError::FencedEpoch { .. }
        | PartitionError::UnknownEpoch { .. }
        | PartitionError::Behind
        | PartitionError::OffsetNotAvailable { .. }
        | PartitionError::NotEnoughReplicas { .. }
        | PartitionError::TimedOut
        | PartitionError::Archive(ArchiveError::Unavailable { .. }) => true,
        PartitionError::Append(error) => matches!(
            error,
            AppendError::Offline { .. }
                | AppendError::Deleted
                | AppendError::Fenced { .. }
                | AppendError::Truncating
                | AppendError::WrongRole { .. }
        ),
        _ => false,
    }
}

/// Whether an error may come where a consumer is ahead of the replica that it asks.
fn is_of_range(error: &PartitionError) -> bool {
    matches!(error, PartitionError::OutOfRange { .. } | PartitionError::Read(ReadError::OutOfRange { .. }))
}

impl Client {
    /// Takes note of an outcome, in the trace and where it is wrong.
    pub(super) fn note(&self, what: &str, outcome: &Check) {
        if let Err(error) = outcome
            && self.disk.is_powered()
        {
            let failure = format!("{what} of {} at broker {}: {error}", self.part.name(), self.broker.node_id());
            self.notes.lock().failure.get_or_insert(failure);
        }
    }

    fn trace(&self, event: &(impl Hash + std::fmt::Debug)) {
        tracing::debug!(part = self.part.name(), broker = %self.broker.node_id(), ?event, "a client");
        let mut notes = self.notes.lock();
        (self.part.id, self.broker.node_id()).hash(&mut notes.trace);
        event.hash(&mut notes.trace);
    }

    /// The partition, if the broker leads it.
    fn leader(&self) -> Result<Leader, PartitionError> {
        let image = self.broker.image();
        let topic = image.topic(self.part.id.topic_id).ok_or(PartitionError::UnknownTopicId)?;
        self.broker.leader(topic, self.part.id.partition.get(), LeaderEpoch::NONE)
    }

    /// Sends a producer's batch, and waits for its acknowledgement.
    pub(super) async fn produce(self, number: usize, batch: Batch) -> Check {
        let sent = self.send(number, &batch).await;
        let mut ledger = self.part.ledger.lock();
        ledger.producers[number].flight = None;
        match sent {
            Ok(produced) => {
                self.trace(&("acknowledged", number, produced.base_offset, produced.next_offset));
                ledger.acknowledge(number, &batch, &produced)
            }
            Err(error) if is_passing(&error) => {
                self.trace(&("not acknowledged", number));
                ledger.give_up(number);
                Ok(())
            }
            Err(error) => Err(format!("producer {number} was refused: {error} ({:?})", batch.header())),
        }
    }

    async fn send(&self, number: usize, batch: &Batch) -> Result<Produced, PartitionError> {
        let (leader, acks) = (self.leader()?, self.planted.acks());
        {
            let mut ledger = self.part.ledger.lock();
            let producer = &mut ledger.producers[number];
            if leader.epoch < producer.epoch {
                return Err(PartitionError::NotLeader { leader: None });
            }
            producer.epoch = leader.epoch;
        }
        leader.check_in_sync(acks)?;
        let produced = self.broker.append(&leader, batch.bytes().clone(), true, ROOM).await?;
        self.trace(&("appended", number, leader.epoch, produced.base_offset));
        self.broker.acknowledge(&leader, &produced, acks, PATIENCE).await?;
        Ok(produced)
    }

    /// Reads on where a consumer is, at the leader or a follower.
    pub(super) async fn consume(self, place: Arc<Mutex<Offset>>, of_follower: bool, max_bytes: usize) -> Check {
        let offset = *place.lock();
        let batches = match self.fetch(offset, of_follower, max_bytes).await {
            Ok(batches) => batches?,
            Err(error) if is_passing(&error) || is_of_range(&error) => return Ok(()),
            Err(error) => return Err(format!("fetch at {offset}: {error}")),
        };
        self.part.ledger.lock().reads.take(offset, &batches)?;
        let next = batches.last().map_or(offset, |last| last.header().next_offset());
        self.trace(&("read", offset, next));
        *place.lock() = next;
        Ok(())
    }

    /// Whole batches from an offset on.
    async fn fetch(
        &self,
        offset: Offset,
        of_follower: bool,
        max_bytes: usize,
    ) -> Result<Result<Vec<Batch>, String>, PartitionError> {
        let leader = if of_follower {
            let image = self.broker.image();
            let topic = image.topic(self.part.id.topic_id).ok_or(PartitionError::UnknownTopicId)?;
            self.broker.follower(topic, self.part.id.partition.get(), LeaderEpoch::NONE)?
        } else {
            self.leader()?
        };
        if self.planted.reads_uncommitted() {
            let (log, offsets) = (leader.partition.log(), leader.partition.log().offsets());
            if offset < offsets.local_log_start {
                return Ok(Ok(Vec::new()));
            }
            let read = log.read(offset, offsets.log_end, max_bytes)?.execute()?;
            return Ok(whole(read));
        }
        let limits =
            FetchLimits { max_wait: LONGEST_FETCH, min_bytes: 1, max_bytes, isolation: Isolation::ReadUncommitted };
        let wanted = FetchPartition { leader: Ok(leader), offset, max_bytes };
        let (mut fetched, _memory) = self.broker.fetch(&[wanted], limits).await;
        Ok(whole(fetched.swap_remove(0).records?))
    }

    /// Everything that is committed, from the beginning on.
    pub(super) async fn read_all(self) -> Result<Vec<Batch>, String> {
        let mut all = Vec::new();
        let mut at = Offset::ZERO;
        loop {
            let leader = self.leader().map_err(|error| error.to_string())?;
            if at >= leader.partition.log().offsets().high_watermark {
                return Ok(all);
            }
            // Whatever the answer, others have their turn.
            yield_now().await;
            match self.fetch(at, false, 4000).await {
                Ok(batches) => all.extend(batches?),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(format!("fetch at {at}: {error}")),
            }
            at = all.last().map_or(at, |last: &Batch| last.header().next_offset());
        }
    }
}

/// The batches of what was fetched.
fn whole(records: Vec<bytes::Bytes>) -> Result<Vec<Batch>, String> {
    let batches: Result<Vec<_>, _> = records.into_iter().flat_map(Batches::new).collect();
    batches.map_err(|error| error.to_string())
}

/// A batch of a few records, numbered from `first` on. An idempotent producer says who it is and its sequence.
pub(super) fn new_batch(random: &mut Random, first: u64, now: Timestamp, producer: Option<(ProducerId, i32)>) -> Batch {
    let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Zstd];
    let mut options = BatchOptions::compressed(codecs[usize::try_from(random.below(4)).unwrap()]);
    if let Some((producer_id, base_sequence)) = producer {
        options = BatchOptions { producer_id, producer_epoch: ProducerEpoch(0), base_sequence, ..options };
    }
    let mut builder = BatchBuilder::new(options);
    for number in first..=first + random.below(3) {
        let value = record_of(number, usize::try_from(random.below(250)).unwrap());
        builder.append(now, None, Some(value.as_slice()), std::iter::empty());
    }
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}
