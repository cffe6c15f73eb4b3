//! The partitions of `__consumer_offsets` as the group coordinators' logs, and which coordinators run.
//!
//! A coordinator starts with the leadership of its partition, at the broker's start or when the topic is created, and reads
//! its log first. The topic is never archived: a coordinator keeps its log short by itself.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Broker;
use super::admin::OFFSETS_TOPIC;
use super::error::PartitionError;
use super::partitions::Leader;
use super::readers::Readers;
use crate::group::{Caller, Groups, OffsetsLog, OffsetsLogError, ReadGroups};
use crate::log::{AppendError, Level, PartitionLog, ReadError, ReadPlan, Wait};
use crate::metadata::image::Topic;
use crate::record::{Batch, Batches, RecordError};
use crate::runtime::clock::{self, Clock};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// How long an append waits for room in a data directory, as Apache Kafka's `offsets.commit.timeout.ms`.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// The topic whose coordinators were started.
#[derive(Debug)]
pub(super) struct Coordinated {
    topic: Arc<Topic>,
    /// Partitions whose coordinators wait for lost offsets.
    waiting: BTreeSet<i32>,
}

/// One partition, as its coordinator sees it.
struct OffsetsPartition {
    leader: Leader,
    readers: Arc<Readers>,
    clock: Arc<dyn Clock>,
}

impl OffsetsLog for OffsetsPartition {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        let log = Arc::clone(self.leader.partition.log());
        Box::pin(async move {
            settled(log.when(Level::Committed, log.offsets().log_end)).await?;
            let offsets = log.offsets();
            // What is not here is nowhere.
            Ok(offsets.local_log_start..offsets.high_watermark)
        })
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'static, Result<Vec<Batch>, OffsetsLogError>> {
        let log = Arc::clone(self.leader.partition.log());
        let readers = Arc::clone(&self.readers);
        Box::pin(async move {
            let unreadable = |error| unreadable(&log, from, error);
            let plan = log.read(from, log.offsets().high_watermark, max_bytes).map_err(unreadable)?;
            let stretches = match plan {
                ReadPlan::Ready(stretches) => stretches,
                ReadPlan::Disk(read) => match readers.run(move || read.execute()).await {
                    Some(stretches) => stretches.map_err(unreadable)?,
                    None => return Err(unavailable("the readers have stopped")),
                },
            };
            let batches = stretches.into_iter().flat_map(Batches::new).collect::<Result<_, RecordError>>();
            batches.map_err(|error| damaged(&log, from, &error))
        })
    }

    fn append(&self, batch: Batch) -> BoxFuture<'static, Result<Offset, OffsetsLogError>> {
        let Leader { partition, epoch } = self.leader.clone();
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            partition.begin(epoch).map_err(refused)?;
            // Nothing was appended, and members are waiting: they are to try again.
            let admitted =
                clock::timeout(&*clock, ROOM_TIMEOUT, partition.directory().admit(batch.bytes().len())).await;
            let permit =
                admitted.map_err(|_| unavailable("the data directory has no room for what it has to write"))?;
            let log = partition.log();
            let appended = log.append(&batch, epoch, clock.wall(), permit).map_err(|error| refused(error.into()))?;
            settled(log.when(Level::Committed, appended.next_offset)).await?;
            Ok(appended.base_offset)
        })
    }

    fn advance_start(&self, start: Offset) -> BoxFuture<'static, Result<(), OffsetsLogError>> {
        let leader = self.leader.clone();
        Box::pin(async move {
            leader.advance_log_start(start).await.map_err(refused)?;
            // What is below can only go by whole segments.
            leader.partition.log().request_roll();
            Ok(())
        })
    }
}

async fn settled(wait: Wait) -> Result<(), OffsetsLogError> {
    match wait {
        Wait::Ready => Ok(()),
        Wait::Pending(reached) => reached.await.map_err(|_| unavailable("the log directory is offline")),
    }
}

fn unavailable(reason: impl ToString) -> OffsetsLogError {
    OffsetsLogError::Unavailable { reason: reason.to_string() }
}

fn unreadable(log: &PartitionLog, from: Offset, error: ReadError) -> OffsetsLogError {
    match error {
        ReadError::Missing(_) => OffsetsLogError::Damaged { reason: error.to_string() },
        ReadError::Corrupt { .. } => damaged(log, from, &error),
        error => unavailable(error),
    }
}

/// Something of the segment that has `from` is damaged: what to do about it.
fn damaged(log: &PartitionLog, from: Offset, error: &dyn std::error::Error) -> OffsetsLogError {
    let segments = log.segments();
    let next = segments.iter().map(|segment| segment.base_offset()).find(|base_offset| *base_offset > from);
    let next = next.unwrap_or(log.offsets().high_watermark);
    let advice = format!("restore the segment file and restart, or delete the records below offset {next}");
    OffsetsLogError::Damaged { reason: format!("{error}; {advice}") }
}

fn refused(error: PartitionError) -> OffsetsLogError {
    match error {
        PartitionError::Append(AppendError::Fenced { .. } | AppendError::WrongRole { .. } | AppendError::Deleted) => {
            OffsetsLogError::NotLeader
        }
        error => unavailable(error),
    }
}

impl Broker {
    /// The coordinators of this broker.
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// A partition as its coordinator sees it.
    pub(super) fn offsets_log(&self, leader: Leader) -> Arc<dyn OffsetsLog> {
        let (readers, clock) = (Arc::clone(&self.readers), Arc::clone(&self.runtime.clock));
        Arc::new(OffsetsPartition { leader, readers, clock })
    }

    /// Starts the coordinators of the partitions that this broker leads, unless they run or wait for lost offsets.
    pub(super) fn coordinate(&self, topic: &Arc<Topic>) {
        let mut coordinated = self.coordinated.lock();
        // Under the lock: no older than what was done under it before.
        let image = self.image();
        if *self.stopping.borrow() || image.topic(topic.topic_id).is_none() {
            return;
        }
        let running = coordinated.take().filter(|running| running.topic.topic_id == topic.topic_id);
        if running.is_none() {
            // It may have another number of partitions than the one before it.
            self.groups.begin(topic.partition_count());
        }
        let due = running.map_or_else(|| (0..topic.partition_count()).collect(), |running| running.waiting);
        let is_unrestored =
            |partition: &i32| image.unrestored().contains(&TopicPartition::new(topic.topic_id, *partition));
        let (waiting, due): (BTreeSet<i32>, BTreeSet<i32>) = due.into_iter().partition(is_unrestored);
        for partition in due {
            match self.leader(topic, partition, LeaderEpoch::NONE) {
                Ok(leader) => self.lead_groups(leader.partition.log().partition(), self.offsets_log(leader)),
                Err(error) => tracing::warn!(%error, partition, "groups of this partition are not coordinated here"),
            }
        }
        *coordinated = Some(Coordinated { topic: Arc::clone(topic), waiting });
    }

    /// Starts the coordinator of a partition, and what has it forget the offsets of deleted topics.
    pub(super) fn lead_groups(&self, partition: TopicPartition, log: Arc<dyn OffsetsLog>) {
        let forgotten = self.deleted_offsets.begin(partition);
        let coordinator = self.groups.lead(partition.partition, log);
        let forgets = self.deleted_offsets.follow(forgotten, coordinator, Arc::clone(&self.runtime.clock));
        self.runtime.watch.spawn(forgets);
    }

    /// Whether something of a partition of `__consumer_offsets` is lost, so that its groups have no coordinator. Not where its
    /// log only does not answer for now.
    pub fn has_lost_offsets(&self, partition: TopicPartition) -> bool {
        self.image().unrestored().contains(&partition) || self.groups.has_failed(partition.partition)
    }

    /// Ends the coordinator of a partition that the metadata has as unrestored, if there is one, and waits for its end: nobody
    /// writes to the log then. The next one starts when the partition is restored.
    pub(super) async fn give_up_coordinator(&self, partition: TopicPartition) {
        if let Some(coordinator) = self.take_coordinator(partition) {
            coordinator.ended().await;
        }
    }

    fn take_coordinator(&self, partition: TopicPartition) -> Option<Caller> {
        let mut coordinated = self.coordinated.lock();
        let running = coordinated.as_mut().filter(|running| running.topic.topic_id == partition.topic_id)?;
        running.waiting.insert(partition.partition.0);
        self.deleted_offsets.give_up(partition);
        self.groups.resign(partition.partition)
    }

    /// What all groups are; `None` once the broker stops, when coordinators have ended and their groups have not.
    pub(super) async fn read_groups(&self) -> Option<ReadGroups> {
        let has_groups = self.image().topic_named(OFFSETS_TOPIC).is_some();
        let read = if has_groups { self.groups.read_all().await } else { ReadGroups::default() };
        (!*self.stopping.borrow()).then_some(read)
    }

    /// Whether coordinators wait for lost offsets.
    pub fn waits_for_offsets(&self) -> bool {
        self.coordinated.lock().as_ref().is_some_and(|running| !running.waiting.is_empty())
    }

    /// Ends all coordinators.
    pub(super) fn resign(&self) {
        let mut coordinated = self.coordinated.lock();
        *coordinated = None;
        self.groups.resign_all();
    }

    /// Ends all coordinators if their topic was deleted.
    fn resign_if_deleted(&self) {
        let mut coordinated = self.coordinated.lock();
        let image = self.image();
        if coordinated.take_if(|running| image.topic(running.topic.topic_id).is_none()).is_some() {
            self.groups.resign_all();
        }
    }

    /// Has the coordinators follow the image: they begin and end with their topic, and forget offsets of topics that go.
    pub(super) fn follow_groups(&self) {
        let image = self.image();
        self.deleted_offsets.list(&image);
        self.resign_if_deleted();
        if let Some(topic) = image.topic_named(OFFSETS_TOPIC) {
            self.coordinate(topic);
        }
    }
}
