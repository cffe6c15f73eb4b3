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
use crate::group::{Groups, OffsetsLog, OffsetsLogError};
use crate::log::{AppendError, Level, ReadPlan, Wait};
use crate::metadata::Image;
use crate::metadata::image::{Topic, TopicChange};
use crate::record::{Batch, Batches};
use crate::runtime::clock::{self, Clock};
use crate::types::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};

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
            let plan = log.read(from, log.offsets().high_watermark, max_bytes).map_err(unavailable)?;
            let stretches = match plan {
                ReadPlan::Ready(stretches) => stretches,
                ReadPlan::Disk(read) => match readers.run(move || read.execute()).await {
                    Some(stretches) => stretches.map_err(unavailable)?,
                    None => return Err(unavailable("the readers have stopped")),
                },
            };
            stretches.into_iter().flat_map(Batches::new).collect::<Result<_, _>>().map_err(unavailable)
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

fn refused(error: PartitionError) -> OffsetsLogError {
    match error {
        PartitionError::Append(AppendError::Fenced { .. } | AppendError::Deleted) => OffsetsLogError::NotLeader,
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
        let image = self.image();
        let mut coordinated = self.coordinated.lock();
        if *self.stopping.borrow() {
            return;
        }
        let running = coordinated.take().filter(|running| running.topic.topic_id == topic.topic_id);
        let due = running.map_or_else(|| (0..topic.partition_count()).collect(), |running| running.waiting);
        let is_unrestored =
            |partition: &i32| image.unrestored().contains(&TopicPartition::new(topic.topic_id, *partition));
        let (waiting, due): (BTreeSet<i32>, BTreeSet<i32>) = due.into_iter().partition(is_unrestored);
        for partition in due {
            match self.leader(topic, partition, LeaderEpoch::NONE) {
                Ok(leader) => self.groups.lead(PartitionIndex(partition), self.offsets_log(leader)),
                Err(error) => tracing::warn!(%error, partition, "groups of this partition are not coordinated here"),
            }
        }
        *coordinated = Some(Coordinated { topic: Arc::clone(topic), waiting });
    }

    /// Whether every group has its coordinator: none is missing because its data directory is, or because the broker stops.
    pub(super) fn coordinates_all(&self) -> bool {
        if *self.stopping.borrow() {
            return false;
        }
        let partitions = self.coordinated.lock().as_ref().map_or(0, |running| running.topic.partition_count());
        usize::try_from(partitions).is_ok_and(|partitions| partitions == self.groups.coordinators())
    }

    /// Whether coordinators wait for lost offsets.
    pub fn waits_for_offsets(&self) -> bool {
        self.coordinated.lock().as_ref().is_some_and(|running| !running.waiting.is_empty())
    }

    /// Ends all coordinators.
    pub(super) fn resign(&self) {
        if let Some(Coordinated { topic, .. }) = self.coordinated.lock().take() {
            for partition in 0..topic.partition_count() {
                self.groups.resign(PartitionIndex(partition));
            }
        }
    }

    /// Has the coordinators follow the image: they begin and end with their topic, and forget offsets of topics that go.
    pub(super) async fn follow_groups(&self, older: &Image, image: &Image) {
        for change in image.topic_changes(older) {
            let TopicChange::Deleted(topic) = change else { continue };
            if &*topic.name == OFFSETS_TOPIC {
                self.resign();
            } else {
                self.groups.topic_deleted(Arc::clone(&topic.name), topic.topic_id).await;
            }
        }
        if let Some(topic) = image.topic_named(OFFSETS_TOPIC) {
            self.coordinate(topic);
        }
    }
}
