//! The partitions of this broker: which data directory holds each, and the settings that its topic gives it.
//!
//! A log is opened when a partition is first used, and only while the newest image has its topic, so that nothing is made for
//! a topic that was deleted meanwhile. [`Partitions::apply`] follows the image: changed settings reach open logs, logs of
//! deleted topics go. After a crash the logs that recovery found are compared with the image in the same way. A log that does not
//! reach as far as the archive, because its directory was lost or is an old copy, is not used before `archiver::catch_up` has
//! made it go on where the archive ends (decision 0018).
//!
//! In a cluster each open log has a [`Replica`], which follows the image too: partitions with other replicas are opened as soon as the
//! image has them here, and a log whose replica was moved away is deleted.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::error::PartitionError;
use super::replication::{Replica, Replicator};
use super::settings::BrokerSettings;
use crate::log::{AppendError, LogDirectory, LogSettings, PartitionLog, Replication};
use crate::metadata::Image;
use crate::metadata::broker_config::set_while_running;
use crate::metadata::config_layers::BrokerLayers;
use crate::metadata::image::{ArchiveMark, Topic, TopicChange};
use crate::metadata::topic_config::TopicConfig;
use crate::record::ProduceRules;
use crate::runtime::watch;
use crate::types::{LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};

/// The topic configuration whose change asks for everything to be sealed.
const FLUSH_CONFIG: &str = "archive.flush.timestamp";

/// What a topic's configuration means here.
#[derive(Clone, Debug)]
pub struct TopicRules {
    /// The effective configuration.
    pub config: TopicConfig,
    /// What batches are checked against.
    pub produce: ProduceRules,
    /// How the logs work.
    pub log: LogSettings,
}

/// A topic of which this broker holds open partitions.
#[derive(Debug)]
pub struct LocalTopic {
    name: Arc<str>,
    internal: bool,
    rules: RwLock<Arc<TopicRules>>,
}

impl LocalTopic {
    /// The topic's name.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// One of the broker's own topics.
    pub const fn is_internal(&self) -> bool {
        self.internal
    }

    /// The rules as of now.
    pub fn rules(&self) -> Arc<TopicRules> {
        Arc::clone(&self.rules.read())
    }
}

/// An open partition.
pub struct Partition {
    topic: Arc<LocalTopic>,
    directory: Arc<LogDirectory>,
    log: Arc<PartitionLog>,
    /// Its part among the replicas; none in a broker by itself.
    replica: Option<Arc<Replica>>,
    /// The leader epoch that this process has begun in the log.
    begun: Mutex<LeaderEpoch>,
    /// The leader epoch in which its log was known to hold what was archived.
    reached_in: AtomicI32,
}

impl Partition {
    /// Its topic.
    pub const fn topic(&self) -> &Arc<LocalTopic> {
        &self.topic
    }

    /// The data directory that holds it.
    pub const fn directory(&self) -> &Arc<LogDirectory> {
        &self.directory
    }

    /// Its log.
    pub const fn log(&self) -> &Arc<PartitionLog> {
        &self.log
    }

    /// The epoch in which this process leads it, as far as it was asked to so far.
    pub fn led_in(&self) -> Option<LeaderEpoch> {
        match &self.replica {
            Some(replica) => replica.led_in(),
            None => Some(*self.begun.lock()).filter(|begun| *begun != LeaderEpoch::NONE),
        }
    }

    /// Of one that is led here and has other replicas: how many are in sync, and how many have to be for producers that want all.
    pub fn in_sync(&self) -> Option<InSync> {
        let (size, min) = self.replica.as_ref()?.in_sync()?;
        Some(InSync { size, min })
    }

    /// Waits until nobody who may lead next has records below an offset that is deleted here; false if this broker leads no more in
    /// the epoch before that is known.
    pub(super) async fn deleted_below(&self, epoch: LeaderEpoch, offset: Offset) -> bool {
        match &self.replica {
            Some(replica) => replica.deleted_below(epoch, offset).await,
            None => true,
        }
    }

    /// Whether it has other replicas than this.
    pub fn is_replicated(&self) -> bool {
        self.log.replication() != Replication::Alone
    }

    /// Begins a leader epoch in the log, unless that has been done. Must precede the first append in that epoch.
    pub(super) fn begin(&self, epoch: LeaderEpoch) -> Result<(), PartitionError> {
        if let Some(replica) = &self.replica {
            // It began when it learned of it.
            return match replica.led_in() {
                Some(led) if led == epoch => Ok(()),
                _ => Err(PartitionError::NotLeader { leader: None }),
            };
        }
        let mut begun = self.begun.lock();
        if *begun < epoch {
            self.log.begin_epoch(epoch)?;
            *begun = epoch;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partition({})", self.log.partition())
    }
}

/// Replicas of a partition that are in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSync {
    /// How many are.
    pub size: usize,
    /// How many have to be for producers that want all: `min.insync.replicas`.
    pub min: usize,
}

/// A partition that this broker leads, and the epoch in which it does.
#[derive(Clone, Debug)]
pub struct Leader {
    /// The partition.
    pub partition: Arc<Partition>,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
}

/// Partitions whose logs do not reach as far as the archive.
#[derive(Default)]
struct Behind {
    /// Those that the archive has to be asked about.
    waiting: BTreeMap<TopicPartition, Arc<PartitionLog>>,
    /// Those about which it was asked, and the leader epoch of that time: a log that was followed since may have been cut.
    settled: BTreeMap<TopicPartition, LeaderEpoch>,
}

impl Behind {
    fn forget(&mut self, topic_id: TopicId) {
        self.waiting.retain(|id, _| id.topic_id != topic_id);
        self.settled.retain(|id, _| id.topic_id != topic_id);
    }
}

/// See the module.
pub(super) struct Partitions {
    node_id: NodeId,
    broker_configs: BTreeMap<String, String>,
    producer_expiration: Duration,
    max_producers: usize,
    max_decompressed_bytes: usize,
    directories: Vec<Arc<LogDirectory>>,
    images: watch::Receiver<Arc<Image>>,
    replicator: Option<Arc<Replicator>>,
    open: RwLock<BTreeMap<TopicPartition, Arc<Partition>>>,
    behind: Mutex<Behind>,
    /// Notified when a partition is found behind.
    found_behind: Notify,
    topics: Mutex<BTreeMap<TopicId, Arc<LocalTopic>>>,
}

impl Partitions {
    pub(super) fn new(
        settings: &BrokerSettings,
        directories: Vec<Arc<LogDirectory>>,
        images: watch::Receiver<Arc<Image>>,
        replicator: Option<Arc<Replicator>>,
    ) -> Self {
        Self {
            node_id: settings.node_id,
            broker_configs: settings.broker_configs.clone(),
            producer_expiration: settings.producer_expiration,
            max_producers: settings.max_producers_per_partition,
            max_decompressed_bytes: settings.max_decompressed_bytes,
            directories,
            images,
            replicator,
            open: RwLock::default(),
            behind: Mutex::default(),
            found_behind: Notify::new(),
            topics: Mutex::default(),
        }
    }

    pub(super) const fn replicator(&self) -> Option<&Arc<Replicator>> {
        self.replicator.as_ref()
    }

    pub(super) fn directories(&self) -> &[Arc<LogDirectory>] {
        &self.directories
    }

    /// The layers under every topic's own configuration.
    pub(super) fn layers<'a>(&'a self, image: &'a Image) -> BrokerLayers<'a> {
        BrokerLayers::new(image, self.node_id, &self.broker_configs)
    }

    /// The partition, if this broker leads it, and if `expected` is its leader epoch or none.
    pub(super) fn leader(
        &self,
        topic: &Topic,
        partition: i32,
        expected: LeaderEpoch,
    ) -> Result<Leader, PartitionError> {
        let state = topic.partition(partition).ok_or(PartitionError::UnknownPartition)?;
        let epoch = state.leader_epoch;
        if state.leader != Some(self.node_id) {
            return Err(PartitionError::NotLeader { leader: state.leader });
        }
        check_epoch(expected, epoch)?;
        let partition = self.opened(TopicPartition::new(topic.topic_id, partition))?;
        self.reach(&partition, epoch)?;
        if let Some(replica) = partition.replica.as_ref().filter(|replica| replica.led_in() != Some(epoch)) {
            // The image has come here just now, or the log could not be led before.
            replica.settle(&self.image())?;
            if replica.led_in() != Some(epoch) {
                return Err(PartitionError::NotLeader { leader: None });
            }
        }
        Ok(Leader { partition, epoch })
    }

    /// The partition, if this broker follows it, and if `expected` is its leader epoch or none. Its log is a part of the leader's.
    pub(super) fn follower(
        &self,
        topic: &Topic,
        partition: i32,
        expected: LeaderEpoch,
    ) -> Result<Leader, PartitionError> {
        let state = topic.partition(partition).ok_or(PartitionError::UnknownPartition)?;
        let (leader, current) = (state.leader, state.leader_epoch);
        check_epoch(expected, current)?;
        let id = TopicPartition::new(topic.topic_id, partition);
        let open = self.open.read().get(&id).cloned();
        let follows = |partition: &Arc<Partition>| {
            partition.replica.as_ref().and_then(|replica| replica.followed_in()) == Some(current)
        };
        let partition = open.filter(follows).ok_or(PartitionError::NotLeader { leader })?;
        Ok(Leader { partition, epoch: current })
    }

    fn image(&self) -> Arc<Image> {
        Arc::clone(&self.images.borrow())
    }

    fn opened(&self, id: TopicPartition) -> Result<Arc<Partition>, PartitionError> {
        let open = self.open.read().get(&id).cloned();
        open.map_or_else(|| self.open(id), Ok)
    }

    /// The partitions that are open.
    pub(super) fn all(&self) -> Vec<Arc<Partition>> {
        self.open.read().values().cloned().collect()
    }

    /// Opens a partition. Whether its topic still lives is asked of the newest image, under the lock that deletion takes.
    fn open(&self, id: TopicPartition) -> Result<Arc<Partition>, PartitionError> {
        let mut open = self.open.write();
        if let Some(partition) = open.get(&id) {
            return Ok(Arc::clone(partition));
        }
        let image = Arc::clone(&self.images.borrow());
        let topic = image.topic(id.topic_id).ok_or(PartitionError::UnknownPartition)?;
        let replica = topic.partition(id.partition.get()).and_then(|partition| partition.replica_on(self.node_id));
        let replica = replica.ok_or(PartitionError::NotLeader { leader: None })?;
        let directory =
            self.directories.iter().find(|directory| directory.identity().directory_id == replica.directory);
        let directory = directory.ok_or(AppendError::Offline { directory_id: replica.directory })?;
        let topic = self.local_topic(topic);
        let rules = topic.rules();
        let log = directory.log_or_create(id, rules.log);
        let was_archived = image.archive_mark(id).is_some() && !rules.config.gives_up_archive();
        let has_archive = !topic.internal && (rules.config.remote_storage_enable || was_archived);
        let archived_to = image.archive_mark(id).filter(|_| has_archive).map_or(Offset::ZERO, |mark| mark.next_offset);
        let offsets = log.offsets();
        // After its checkpoint was lost a log begins at 0, as if the archive had the rest. What was never announced to be archived
        // left the disk because it was deleted.
        let has_lost_history = log.epochs().known_from(offsets.local_log_start) > offsets.log_start;
        let is_given_up = has_archive && has_lost_history && offsets.local_log_start > archived_to;
        if is_given_up {
            let (before, was_start) = (offsets.local_log_start, offsets.log_start);
            tracing::warn!(partition = %id, %was_start, %before, "the checkpoint was lost: older records count as deleted, as neither the disk nor the archive has them");
        }
        if !has_archive || is_given_up {
            log.advance_log_start(offsets.local_log_start)?;
        }
        let replica = self.replicator.as_ref().map(|replicator| replicator.open(&topic, &log));
        let (begun, reached_in) = (Mutex::new(LeaderEpoch::NONE), AtomicI32::new(LeaderEpoch::NONE.0));
        let directory = Arc::clone(directory);
        let partition = Arc::new(Partition { topic, directory, log, replica, begun, reached_in });
        open.insert(id, Arc::clone(&partition));
        Ok(partition)
    }

    /// Refuses a log that is to be led and does not hold what the metadata knows to be archived, unless the archive was asked.
    fn reach(&self, partition: &Partition, epoch: LeaderEpoch) -> Result<(), PartitionError> {
        if partition.reached_in.load(Ordering::Acquire) == epoch.0 {
            return Ok(());
        }
        let (id, log) = (partition.log.partition(), &partition.log);
        let mark = self.image().archive_mark(id);
        let mut behind = self.behind.lock();
        if behind.settled.get(&id) == Some(&epoch) || mark.is_none_or(|mark| reaches(log, mark)) {
            partition.reached_in.store(epoch.0, Ordering::Release);
            return Ok(());
        }
        behind.waiting.insert(id, Arc::clone(log));
        self.found_behind.notify_one();
        Err(PartitionError::Behind)
    }

    /// Has a partition take the part that the newest image gives it here; opened, where it has other replicas.
    fn follow(&self, id: TopicPartition) {
        let image = self.image();
        let Some(state) = image.partition(id).filter(|state| state.replica_on(self.node_id).is_some()) else { return };
        let is_open = self.open.read().contains_key(&id);
        if !is_open && state.replicas.len() == 1 {
            return;
        }
        let taken = self.opened(id).and_then(|partition| {
            if state.leader == Some(self.node_id) {
                self.reach(&partition, state.leader_epoch)?;
            }
            partition.replica.as_ref().map_or(Ok(()), |replica| replica.settle(&image))
        });
        if let Err(error) = taken {
            tracing::debug!(%error, partition = %id, "the partition does not take its part yet");
        }
    }

    /// Has the partitions of a topic follow the image: those that differ from what they were, or all.
    fn follow_topic(&self, before: Option<&Topic>, topic: &Topic) {
        if self.replicator.is_none() {
            return;
        }
        for (number, state) in (0..).zip(&topic.partitions) {
            let id = TopicPartition::new(topic.topic_id, number);
            let before = before.and_then(|before| before.partition(number));
            if before.is_some_and(|before| before.partition_epoch == state.partition_epoch) {
                continue;
            }
            if state.replica_on(self.node_id).is_some() {
                self.follow(id);
            } else if before.is_some_and(|before| before.replica_on(self.node_id).is_some()) {
                self.remove(id);
            }
        }
    }

    /// Deletes what is here of a partition whose replica was moved away.
    fn remove(&self, id: TopicPartition) {
        if let Some(replicator) = &self.replicator {
            replicator.forget(id);
        }
        let mut open = self.open.write();
        open.remove(&id);
        for log in self.directories.iter().filter_map(|directory| directory.log(id)) {
            tracing::info!(partition = %id, "deleting the log of a replica that was moved away");
            delete_log(&log);
        }
    }

    /// Waits until a partition is found behind.
    pub(super) async fn when_behind(&self) {
        self.found_behind.notified().await;
    }

    /// The logs that are not used because they are behind the archive.
    pub(super) fn behind(&self) -> Vec<Arc<PartitionLog>> {
        self.behind.lock().waiting.values().cloned().collect()
    }

    /// Lets a log be used that was found behind: it agrees with the archive now.
    pub(super) fn settle(&self, id: TopicPartition) {
        let epoch = self.image().partition(id).map_or(LeaderEpoch::NONE, |state| state.leader_epoch);
        {
            let mut behind = self.behind.lock();
            behind.waiting.remove(&id);
            behind.settled.insert(id, epoch);
        }
        self.follow(id);
    }

    /// Of a topic that is not used yet with what the newest image says: a newer one finds it here, and changes it.
    fn local_topic(&self, topic: &Topic) -> Arc<LocalTopic> {
        let mut topics = self.topics.lock();
        let local = topics.entry(topic.topic_id).or_insert_with(|| {
            let image = Arc::clone(&self.images.borrow());
            let topic = image.topic(topic.topic_id).map_or(topic, |newest| newest);
            let rules = RwLock::new(Arc::new(self.rules(&image, topic)));
            Arc::new(LocalTopic { name: Arc::clone(&topic.name), internal: topic.internal, rules })
        });
        Arc::clone(local)
    }

    fn rules(&self, image: &Image, topic: &Topic) -> TopicRules {
        let config = TopicConfig::resolve(&topic.configs.values, &self.layers(image));
        let segment_bytes = usize::try_from(config.segment_bytes).unwrap_or(usize::MAX);
        let produce = ProduceRules {
            max_message_bytes: config.max_message_bytes as usize,
            segment_bytes,
            max_decompressed_bytes: self.max_decompressed_bytes,
            compression: config.compression,
            timestamp_type: config.message_timestamp_type,
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            compacted: config.cleanup_policy.compact,
            zstd_allowed: true,
        };
        let expiration = set_while_running("producer.id.expiration.ms", &self.layers(image))
            .and_then(|value| value.parse().ok())
            .map(Duration::from_millis);
        let log = LogSettings {
            segment_bytes: u32::try_from(config.segment_bytes).unwrap_or(u32::MAX),
            segment_age: config.segment_age,
            write_caching: config.write_caching,
            producer_expiration: expiration.unwrap_or(self.producer_expiration),
            max_producers: self.max_producers,
        };
        TopicRules { config, produce, log }
    }

    /// Acts on everything that changed between two images.
    pub(super) fn apply(&self, older: &Image, image: &Image) {
        for change in image.topic_changes(older) {
            match change {
                TopicChange::Created(topic) => self.follow_topic(None, &topic),
                TopicChange::Changed { before, after } => {
                    self.reconfigure(image, &after);
                    let is_same = before.configs.version == after.configs.version;
                    self.follow_topic(Some(&*before).filter(|_| is_same), &after);
                    if before.configs.values.get(FLUSH_CONFIG) != after.configs.values.get(FLUSH_CONFIG) {
                        self.seal(after.topic_id);
                    }
                }
                TopicChange::Deleted(topic) => self.delete(topic.topic_id),
            }
        }
        // Created and deleted between the two, and used meanwhile.
        let is_new = |topic_id| older.topic(topic_id).is_none() && !older.is_deleted(topic_id);
        image.deleted_topics().filter(|topic| is_new(topic.topic_id)).for_each(|topic| self.delete(topic.topic_id));
        let layers_changed = [None, Some(self.node_id)]
            .into_iter()
            .any(|layer| older.broker_configs(layer) != image.broker_configs(layer));
        if layers_changed {
            self.configure(image);
        }
        if let Some(replicator) = &self.replicator {
            if layers_changed || !older.has_same_brokers(image) {
                self.all().iter().for_each(|partition| self.follow(partition.log.partition()));
            }
            replicator.hear_early();
        }
    }

    /// Tells all logs what their topics want, also those that nobody has used since the start.
    fn configure(&self, image: &Image) {
        image.topics().for_each(|topic| self.reconfigure(image, topic));
    }

    fn reconfigure(&self, image: &Image, topic: &Topic) {
        let rules = Arc::new(self.rules(image, topic));
        if let Some(local) = self.topics.lock().get(&topic.topic_id) {
            *local.rules.write() = Arc::clone(&rules);
        }
        // One that is being opened has read the older rules, or reads the newer.
        let _open = self.open.read();
        for number in 0..topic.partition_count() {
            let id = TopicPartition::new(topic.topic_id, number);
            for log in self.directories.iter().filter_map(|directory| directory.log(id)) {
                log.configure(rules.log);
            }
        }
    }

    /// Has the active segments of a topic sealed, also of partitions that nobody has used since the start.
    fn seal(&self, topic_id: TopicId) {
        let logs = self.directories.iter().flat_map(|directory| directory.logs());
        for log in logs.filter(|log| log.partition().topic_id == topic_id) {
            log.request_roll();
        }
    }

    fn delete(&self, topic_id: TopicId) {
        self.topics.lock().remove(&topic_id);
        self.behind.lock().forget(topic_id);
        let mut open = self.open.write();
        open.retain(|id, _| {
            let stays = id.topic_id != topic_id;
            if let Some(replicator) = self.replicator.as_ref().filter(|_| !stays) {
                replicator.forget(*id);
            }
            stays
        });
        let logs = self.directories.iter().flat_map(|directory| directory.logs());
        for log in logs.filter(|log| log.partition().topic_id == topic_id) {
            delete_log(&log);
        }
    }

    /// Acts on the image that a start finds.
    pub(super) fn apply_first(&self, image: &Image) {
        self.delete_strays(image);
        self.configure(image);
        for topic in image.topics() {
            self.follow_topic(None, topic);
        }
    }

    /// Deletes logs of deleted topics: the process ended between the deletion and its effect. Those that the image does not
    /// know at all stay, as an older copy of the metadata may have been put back.
    fn delete_strays(&self, image: &Image) {
        for directory in &self.directories {
            for log in directory.logs().into_iter().filter(|log| image.partition(log.partition()).is_none()) {
                let (partition, path) = (log.partition(), directory.path().display());
                if image.is_deleted(partition.topic_id) {
                    tracing::info!(%partition, "deleting the log of a topic that is gone");
                    delete_log(&log);
                } else {
                    tracing::error!(
                        %partition, %path,
                        "the log of a partition that the metadata does not know stays where it is, and is not used"
                    );
                }
            }
            let is_elsewhere = |log: &Arc<PartitionLog>| {
                let state = image.partition(log.partition());
                state.is_some_and(|state| state.replica_on(self.node_id).is_none())
            };
            directory.logs().iter().filter(|log| is_elsewhere(log)).for_each(|log| self.remove(log.partition()));
        }
    }

    /// Gives up the directories, to be closed.
    pub(super) fn into_directories(self) -> Vec<Arc<LogDirectory>> {
        self.directories
    }

    /// Forgets all open partitions, so that the directories can be closed.
    pub(super) fn clear(&self) {
        if let Some(replicator) = &self.replicator {
            replicator.stop();
        }
        self.open.write().clear();
        *self.behind.lock() = Behind::default();
        self.topics.lock().clear();
    }
}

/// Refuses a client that knows another leader epoch, unless it names none.
fn check_epoch(epoch: LeaderEpoch, current: LeaderEpoch) -> Result<(), PartitionError> {
    if epoch != LeaderEpoch::NONE && epoch < current {
        return Err(PartitionError::FencedEpoch { epoch, current });
    }
    if epoch > current { Err(PartitionError::UnknownEpoch { epoch, current }) } else { Ok(()) }
}

/// Whether a log holds what was archived, as far as its epochs tell.
fn reaches(log: &PartitionLog, mark: ArchiveMark) -> bool {
    let offsets = log.offsets();
    if offsets.log_end < mark.next_offset {
        return false;
    }
    match log.epochs().epoch_at(Offset(mark.next_offset.0 - 1)) {
        Some(epoch) => epoch == mark.leader_epoch || offsets.log_start >= mark.next_offset,
        // Nothing of it is here, be it deleted, or archived by a log that lost its checkpoint.
        None => offsets.local_log_start >= mark.next_offset,
    }
}

fn delete_log(log: &Arc<PartitionLog>) {
    if let Err(error) = log.delete() {
        tracing::warn!(%error, partition = %log.partition(), "the log of a deleted topic stays until the next start");
    }
}
