//! The partitions of `__consumer_offsets` as the group coordinators' logs, and which coordinators run.
//!
//! A coordinator runs for each partition that this broker leads, in the epoch in which it leads: it starts with the leadership by
//! reading its log, and ends with it. The topic is never archived: a coordinator keeps its log short by itself.
//!
//! What a coordinator of an epoch that is over still wants to write, the log refuses, for it is written in that epoch; what it was
//! writing is not committed without the replicas that are in sync, which follow another leader by then. What it still reads is another
//! matter: that another broker leads it learns from the metadata, and where that does not reach it, from its heartbeats, which are not
//! answered then. So committed offsets are not told by a broker that could be fenced ([`Broker::fetch_offsets`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Broker;
use super::admin::OFFSETS_TOPIC;
use super::error::PartitionError;
use super::partitions::Leader;
use super::produce::Acknowledgement;
use super::readers::Readers;
use crate::group::request::{FetchedTopic, OffsetFetch};
use crate::group::{Caller, GroupError, Groups, OffsetsLog, OffsetsLogError, ReadGroups};
use crate::log::{AppendError, Level, PartitionLog, ReadError, ReadPlan, Replication, Wait};
use crate::metadata::Image;
use crate::metadata::image::Topic;
use crate::record::{Batch, Batches, RecordError};
use crate::runtime::clock::{self, Clock};
use crate::types::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

/// How long an append waits for room in a data directory, and then for the other replicas: Apache Kafka's
/// `offsets.commit.timeout.ms`.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a log that can't be led yet is looked at again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The coordinators that run here.
#[derive(Debug)]
pub(super) struct Coordinated {
    /// Their topic, as it was looked at last.
    topic: Arc<Topic>,
    /// The epochs in which they run, by partition.
    epochs: BTreeMap<i32, LeaderEpoch>,
    /// Partitions that are led here, and whose coordinators wait for lost offsets.
    waiting: BTreeSet<i32>,
    /// Those whose log can't be led yet.
    unready: BTreeSet<i32>,
}

impl Coordinated {
    fn new(topic: &Arc<Topic>) -> Self {
        let (waiting, unready) = (BTreeSet::new(), BTreeSet::new());
        Self { topic: Arc::clone(topic), epochs: BTreeMap::new(), waiting, unready }
    }

    /// Whether nothing is to be done for an image.
    fn is_settled(&self, image: &Image, topic: &Arc<Topic>) -> bool {
        let is_lost = |partition: &i32| image.unrestored().contains(&TopicPartition::new(topic.topic_id, *partition));
        Arc::ptr_eq(&self.topic, topic) && self.unready.is_empty() && self.waiting.iter().all(is_lost)
    }
}

/// One partition, as its coordinator sees it.
struct OffsetsPartition {
    leader: Leader,
    readers: Arc<Readers>,
    clock: Arc<dyn Clock>,
}

impl OffsetsLog for OffsetsPartition {
    fn range(&self) -> BoxFuture<'static, Result<Range<Offset>, OffsetsLogError>> {
        let (leader, clock) = (self.leader.clone(), Arc::clone(&self.clock));
        Box::pin(async move {
            let log = leader.partition.log();
            committed(&leader, &*clock, log.offsets().log_end).await?;
            if !is_led(&leader) {
                return Err(OffsetsLogError::NotLeader);
            }
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
        let (leader, clock) = (self.leader.clone(), Arc::clone(&self.clock));
        Box::pin(async move {
            let Leader { partition, epoch } = &leader;
            partition.begin(*epoch).map_err(refused)?;
            // Nothing was appended, and members are waiting: they are to try again.
            leader.check_in_sync(Acknowledgement::All).map_err(refused)?;
            let admitted =
                clock::timeout(&*clock, COMMIT_TIMEOUT, partition.directory().admit(batch.bytes().len())).await;
            let permit =
                admitted.map_err(|_| unavailable("the data directory has no room for what it has to write"))?;
            let log = partition.log();
            let appended = log.append(&batch, *epoch, clock.wall(), permit).map_err(|error| refused(error.into()))?;
            committed(&leader, &*clock, appended.next_offset).await?;
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

/// Waits until everything below an offset is committed: for as long as the disk here takes, and then for the other replicas, which may
/// be too few for now. What is appended stays, and may be committed later.
async fn committed(leader: &Leader, clock: &dyn Clock, offset: Offset) -> Result<(), OffsetsLogError> {
    let log = leader.partition.log();
    let failed = || match is_led(leader) {
        true => unavailable("the log directory is offline"),
        false => OffsetsLogError::NotLeader,
    };
    if let Wait::Pending(reached) = log.when(Level::Durable, offset) {
        reached.await.map_err(|_| failed())?;
    }
    if let Wait::Pending(reached) = log.when(Level::Committed, offset) {
        let reached = clock::timeout(clock, COMMIT_TIMEOUT, reached).await;
        let reached = reached.map_err(|_| unavailable("too few replicas have what was written"))?;
        reached.map_err(|_| failed())?;
    }
    Ok(())
}

/// Whether the log is led still, in the epoch in which it was.
fn is_led(leader: &Leader) -> bool {
    let (partition, log) = (&leader.partition, leader.partition.log());
    let is_epoch = partition.led_in().is_none_or(|led| led == leader.epoch);
    is_epoch && !log.is_deleted() && log.replication() != Replication::Followed
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
        PartitionError::Append(AppendError::Fenced { .. } | AppendError::WrongRole { .. } | AppendError::Deleted)
        | PartitionError::NotLeader { .. } => OffsetsLogError::NotLeader,
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

    /// Has a coordinator run for each partition that this broker leads by the newest image, in the epoch in which it does, and no
    /// others. True where one can't be started yet.
    pub(super) fn coordinate(&self) -> bool {
        let mut coordinated = self.coordinated.lock();
        // Under the lock: no older than what was done under it before.
        let image = self.image();
        let topic = image.topic_named(OFFSETS_TOPIC).filter(|_| !*self.stopping.borrow());
        let Some(topic) = topic else {
            if coordinated.take().is_some() {
                self.groups.resign_all();
            }
            return false;
        };
        if coordinated.as_ref().is_some_and(|running| running.is_settled(&image, topic)) {
            return false;
        }
        if coordinated.as_ref().is_none_or(|running| running.topic.topic_id != topic.topic_id) {
            // It may have another number of partitions than the one before it.
            self.groups.begin(topic.partition_count());
            *coordinated = None;
        }
        let running = coordinated.get_or_insert_with(|| Coordinated::new(topic));
        running.topic = Arc::clone(topic);
        let led = (0..).zip(&topic.partitions).filter(|(_, partition)| partition.leader == Some(self.node_id()));
        let led: BTreeMap<i32, LeaderEpoch> = led.map(|(number, partition)| (number, partition.leader_epoch)).collect();
        running.epochs.retain(|number, epoch| {
            let goes_on = led.get(number) == Some(epoch);
            if !goes_on {
                self.deleted_offsets.give_up(TopicPartition::new(topic.topic_id, *number));
                self.groups.resign(PartitionIndex(*number));
            }
            goes_on
        });
        self.start_coordinators(running, &image, led.into_keys());
        !running.unready.is_empty()
    }

    /// Starts the coordinators of partitions that this broker leads, unless they run or wait for lost offsets.
    fn start_coordinators(&self, running: &mut Coordinated, image: &Image, led: impl Iterator<Item = i32>) {
        let topic = Arc::clone(&running.topic);
        let was_unready = std::mem::take(&mut running.unready);
        running.waiting.clear();
        for number in led.filter(|number| !running.epochs.contains_key(number)).collect::<Vec<_>>() {
            let id = TopicPartition::new(topic.topic_id, number);
            if image.unrestored().contains(&id) {
                running.waiting.insert(number);
                continue;
            }
            match self.leader(&topic, number, LeaderEpoch::NONE) {
                Ok(leader) => {
                    running.epochs.insert(number, leader.epoch);
                    self.lead_groups(id, self.offsets_log(leader));
                }
                Err(error) => {
                    running.unready.insert(number);
                    if !was_unready.contains(&number) {
                        tracing::warn!(%error, partition = number, "groups of this partition are not coordinated here yet");
                    }
                }
            }
        }
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
        running.epochs.remove(&partition.partition.0)?;
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

    /// Has the coordinators follow the image: they begin and end with the leadership of their partitions, and forget offsets of
    /// topics that go. True where one can't begin yet.
    pub(super) fn follow_groups(&self) -> bool {
        let is_unready = self.coordinate();
        self.deleted_offsets.list(&self.image());
        is_unready
    }

    /// Has them follow it for as long as the broker runs.
    pub(super) async fn coordinate_forever(self: Arc<Self>) {
        let mut images = self.metadata.subscribe();
        loop {
            images.mark_unchanged();
            let is_unready = self.follow_groups();
            tokio::select! {
                biased;
                changed = images.changed() => if changed.is_err() { return },
                () = self.runtime.clock.sleep(RETRY_INTERVAL), if is_unready => {}
            }
        }
    }

    /// The topic of the coordinators that run here, and the epochs in which they do, by partition.
    pub(super) fn coordinated_epochs(&self) -> Option<(TopicId, BTreeMap<i32, LeaderEpoch>)> {
        let coordinated = self.coordinated.lock();
        coordinated.as_ref().map(|running| (running.topic.topic_id, running.epochs.clone()))
    }

    /// Whether no coordinator has offsets of a deleted topic any more, as far as this broker can tell.
    pub(super) fn have_forgotten_offsets(&self, topic_id: TopicId) -> bool {
        self.deleted_offsets.are_forgotten(&self.image(), self.node_id(), topic_id)
    }

    /// OffsetFetch for one group, by this broker's coordinators. Refused while another may coordinate the group without this
    /// broker's knowing: it would be told what was committed before.
    pub async fn fetch_offsets(&self, fetch: OffsetFetch) -> Result<Vec<FetchedTopic>, GroupError> {
        let fetched = self.groups.fetch_offsets(fetch).await?;
        // They were as fetched at some time before this.
        let is_in_touch = self.cluster.as_ref().is_none_or(|cluster| cluster.heartbeats.are_answered());
        if is_in_touch { Ok(fetched) } else { Err(GroupError::NotCoordinator) }
    }
}
