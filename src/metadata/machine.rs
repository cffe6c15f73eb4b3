//! The machine: applies commands to the image. Pure; the only code that changes an image.
//!
//! A command is checked in full before anything changes, so that a rejected command leaves the image as it was. What a
//! command means may never change for commands that are in somebody's log already: new meaning takes a new command or a
//! new field with a default.

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::command::{
    Assignment, Command, ConfigChange, CreatePartitions, CreateTopic, Outcome, RegisterBroker, ReplicaPlace,
};
use super::error::Rejection;
use super::image::{ArchiveMark, Broker, Configs, DeletedTopic, Image, Partition, Replica, Topic};
use super::topic_name;
use crate::types::{
    BrokerEpoch, ClusterId, DirectoryId, LeaderEpoch, NodeId, PartitionEpoch, ProducerId, TopicId, TopicPartition,
};

/// Producer ids in a block: at most so many are lost with a broker process (KIP-730 uses the same number).
pub const PRODUCER_ID_BLOCK: i32 = 1_000;
/// Most partitions of one topic, and so of one command; Kafka's own limit on one request.
pub const MAX_TOPIC_PARTITIONS: usize = 10_000;
/// Most partitions of the cluster. Each costs about 100 bytes of memory on every broker at replication factor 3.
pub const MAX_CLUSTER_PARTITIONS: u64 = 1_000_000;
/// Most deleted topics that wait to be forgotten; more deletions are refused until the archive has caught up.
pub const MAX_DELETED_TOPICS: usize = 100_000;

/// Applies one command. The caller moves the version on with [`advance`] once all commands of a log entry are applied.
///
/// # Errors
/// [`Rejection`]; the image is then unchanged.
pub fn apply(image: &mut Image, command: &Command) -> Result<Outcome, Rejection> {
    match command {
        Command::SetClusterId(cluster_id) => set_cluster_id(image, *cluster_id),
        Command::RegisterBroker(command) => register_broker(image, command),
        Command::CreateTopic(command) => create_topic(image, command),
        Command::DeleteTopic { topic_id } => delete_topic(image, *topic_id),
        Command::ForgetTopic { topic_id } => forget_topic(image, *topic_id),
        Command::CreatePartitions(command) => create_partitions(image, command),
        Command::AlterTopicConfigs { topic_id, change } => alter_topic_configs(image, *topic_id, change),
        Command::AlterBrokerConfigs { node_id, change } => alter_broker_configs(image, *node_id, change),
        Command::AllocateProducerIds { node_id, broker_epoch } => allocate_producer_ids(image, *node_id, *broker_epoch),
        Command::NoteArchiving { partition, mark } => note_archiving(image, *partition, *mark),
        Command::ReplaceDirectory { node_id, directory } => replace_directory(image, *node_id, *directory),
        Command::NoteLost { partition } => note_lost(image, *partition),
        Command::NoteRestored { partitions } => note_restored(image, partitions),
        Command::SetFeatureLevel { name, level } => set_feature_level(image, name, *level),
    }
}

/// Marks the image as holding everything up to a log entry.
pub fn advance(image: &mut Image, index: u64) {
    assert!(
        index > image.version || image.version == 0,
        "the log is applied in order: {index} after {}",
        image.version
    );
    image.version = index;
}

fn set_cluster_id(image: &mut Image, cluster_id: ClusterId) -> Result<Outcome, Rejection> {
    if !image.cluster_id.is_zero() && image.cluster_id != cluster_id {
        return Err(Rejection::InconsistentClusterId { given: cluster_id, ours: image.cluster_id });
    }
    image.cluster_id = cluster_id;
    Ok(Outcome::Done)
}

fn register_broker(image: &mut Image, command: &RegisterBroker) -> Result<Outcome, Rejection> {
    let node_id = command.node_id;
    if command.cluster_id != image.cluster_id {
        return Err(Rejection::InconsistentClusterId { given: command.cluster_id, ours: image.cluster_id });
    }
    if node_id.get() < 0 || command.listeners.is_empty() || command.directories.is_empty() {
        let reason = "a broker has a number from 0, a listener and a data directory".to_owned();
        return Err(Rejection::InvalidRegistration { reason, node_id });
    }
    let known = image.brokers.get(&node_id);
    let repeated = known.filter(|broker| broker.incarnation_id == command.incarnation_id);
    let missed = i64::from(command.missed_registrations);
    let unused = image.next_broker_epoch.get().checked_add(missed).map(BrokerEpoch);
    let Some(epoch) = repeated.map(|broker| broker.epoch).or(unused) else { return Err(exhausted("broker epochs")) };
    if repeated.is_none() {
        let Some(next) = epoch.get().checked_add(1) else { return Err(exhausted("broker epochs")) };
        begin_leader_epochs(image, node_id, command.newest_leader_epoch)?;
        image.next_broker_epoch = BrokerEpoch(next);
    }
    let broker = Broker {
        node_id,
        epoch,
        incarnation_id: command.incarnation_id,
        listeners: command.listeners.clone(),
        rack: command.rack.clone(),
        directories: command.directories.clone(),
    };
    image.brokers.insert(node_id, Arc::new(broker));
    Ok(Outcome::BrokerRegistered(epoch))
}

/// Begins a new leader epoch in every partition that a broker leads: its new process must not append in an epoch that an
/// earlier one held, or two different batches could share an offset and an epoch. Where a copy of the metadata was put back,
/// logs have seen epochs that the image does not know: all begin above `newest` then.
fn begin_leader_epochs(image: &mut Image, node_id: NodeId, newest: Option<LeaderEpoch>) -> Result<(), Rejection> {
    let leads = |partition: &Partition| partition.leader == Some(node_id);
    let before = |partition: &Partition| newest.map_or(partition.leader_epoch, |it| it.max(partition.leader_epoch));
    let mut topics = Vec::new();
    for topic in image.topics.values().filter(|topic| topic.partitions.iter().any(leads)) {
        let mut topic = Topic::clone(topic);
        for partition in topic.partitions.iter_mut().filter(|partition| leads(partition)) {
            let (Some(leader_epoch), Some(partition_epoch)) =
                (before(partition).get().checked_add(1), partition.partition_epoch.get().checked_add(1))
            else {
                return Err(Rejection::Exhausted { what: "leader epochs".to_owned() });
            };
            partition.leader_epoch = LeaderEpoch(leader_epoch);
            partition.partition_epoch = PartitionEpoch(partition_epoch);
        }
        topics.push(Arc::new(topic));
    }
    for topic in topics {
        image.topics.insert(topic.topic_id, topic);
    }
    Ok(())
}

fn create_topic(image: &mut Image, command: &CreateTopic) -> Result<Outcome, Rejection> {
    let CreateTopic { name, topic_id, assignment, configs, internal } = command;
    check_new_name(image, name)?;
    if topic_id.is_zero() || image.topics.contains_key(topic_id) || image.deleted_topics.contains_key(topic_id) {
        return Err(Rejection::TopicIdTaken { topic_id: *topic_id });
    }
    let partitions = new_partitions(image, 0, assignment)?;
    image.insert_topic(Topic {
        name: Arc::from(name.as_str()),
        topic_id: *topic_id,
        internal: *internal,
        configs: Configs { version: 0, values: configs.clone() },
        partitions: Vector::from_iter(partitions),
    });
    Ok(Outcome::Done)
}

/// Checks that a name is legal, free, and collides with none. Also for a dry run.
///
/// # Errors
/// [`Rejection::InvalidTopicName`], [`Rejection::TopicExists`], [`Rejection::TopicNameCollides`].
pub fn check_new_name(image: &Image, name: &str) -> Result<(), Rejection> {
    topic_name::validate(name)?;
    if image.topic_ids.contains_key(name) {
        return Err(Rejection::TopicExists { name: name.to_owned() });
    }
    match topic_name::collision_key(name).and_then(|key| image.collision_keys.get(&key)) {
        Some(existing) => {
            Err(Rejection::TopicNameCollides { name: name.to_owned(), existing: existing.as_ref().to_owned() })
        }
        None => Ok(()),
    }
}

fn delete_topic(image: &mut Image, topic_id: TopicId) -> Result<Outcome, Rejection> {
    if image.deleted_topics.len() >= MAX_DELETED_TOPICS {
        return Err(limit(
            "deleted topics that are still archived",
            MAX_DELETED_TOPICS as u64,
            MAX_DELETED_TOPICS as u64 + 1,
        ));
    }
    let Some(topic) = image.remove_topic(topic_id) else {
        return Err(Rejection::UnknownTopicId { topic_id });
    };
    let deleted = DeletedTopic { topic_id, name: topic.name.as_ref().to_owned(), partitions: topic.partition_count() };
    image.deleted_topics.insert(topic_id, Arc::new(deleted));
    Ok(Outcome::Done)
}

fn forget_topic(image: &mut Image, topic_id: TopicId) -> Result<Outcome, Rejection> {
    match image.deleted_topics.remove(&topic_id) {
        Some(_) => Ok(Outcome::Done),
        None => Err(Rejection::UnknownTopicId { topic_id }),
    }
}

fn create_partitions(image: &mut Image, command: &CreatePartitions) -> Result<Outcome, Rejection> {
    let topic_id = command.topic_id;
    let Some(topic) = image.topics.get(&topic_id) else {
        return Err(Rejection::UnknownTopicId { topic_id });
    };
    if topic.partition_count() != command.existing {
        let reason = "the number of partitions changed meanwhile".to_owned();
        return Err(Rejection::InvalidPartitions { reason, partitions: topic.partition_count().into() });
    }
    let mut topic = Topic::clone(topic);
    let partitions = new_partitions(image, topic.partitions.len(), &command.assignment)?;
    image.partition_count += partitions.len() as u64;
    topic.partitions.extend(partitions);
    image.topics.insert(topic_id, Arc::new(topic));
    Ok(Outcome::Done)
}

/// The first state of new partitions: every replica in sync, the first one leading, in epoch 0.
fn new_partitions(image: &Image, existing: usize, assignment: &Assignment) -> Result<Vec<Partition>, Rejection> {
    let total = existing + assignment.len();
    if assignment.is_empty() {
        let reason = "there must be at least one".to_owned();
        return Err(Rejection::InvalidPartitions { reason, partitions: 0 });
    }
    if total > MAX_TOPIC_PARTITIONS {
        return Err(limit("partitions of a topic", MAX_TOPIC_PARTITIONS as u64, total as u64));
    }
    let cluster = image.partition_count + assignment.len() as u64;
    if cluster > MAX_CLUSTER_PARTITIONS {
        return Err(limit("partitions of the cluster", MAX_CLUSTER_PARTITIONS, cluster));
    }
    let replication_factor = assignment[0].len();
    let mut partitions = Vec::with_capacity(assignment.len());
    for (partition, places) in (existing..).zip(assignment) {
        check_places(image, places, replication_factor).map_err(|reason| Rejection::InvalidReplicaAssignment {
            reason: reason.to_owned(),
            partition: i32::try_from(partition).expect("partition numbers are within MAX_TOPIC_PARTITIONS"),
        })?;
        let replica =
            |place: &ReplicaPlace| Replica { node_id: place.node_id, directory: place.directory, in_sync: true };
        partitions.push(Partition {
            replicas: places.iter().map(replica).collect(),
            leader: Some(places[0].node_id),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        });
    }
    Ok(partitions)
}

fn check_places(image: &Image, places: &[ReplicaPlace], replication_factor: usize) -> Result<(), &'static str> {
    if places.is_empty() {
        return Err("a partition has at least one replica");
    }
    if places.len() != replication_factor {
        return Err("all partitions must have the same number of replicas");
    }
    for (position, place) in places.iter().enumerate() {
        if places[..position].iter().any(|other| other.node_id == place.node_id) {
            return Err("a broker holds at most one replica of a partition");
        }
        let Some(broker) = image.brokers.get(&place.node_id) else {
            return Err("a broker that is not registered can't hold a replica");
        };
        if !broker.directories.contains(&place.directory) {
            return Err("the broker has no such data directory");
        }
    }
    Ok(())
}

fn alter_topic_configs(image: &mut Image, topic_id: TopicId, change: &ConfigChange) -> Result<Outcome, Rejection> {
    let Some(topic) = image.topics.get(&topic_id) else {
        return Err(Rejection::UnknownTopicId { topic_id });
    };
    let mut topic = Topic::clone(topic);
    topic.configs = changed(&topic.configs, change)?;
    image.topics.insert(topic_id, Arc::new(topic));
    Ok(Outcome::Done)
}

fn alter_broker_configs(
    image: &mut Image,
    node_id: Option<NodeId>,
    change: &ConfigChange,
) -> Result<Outcome, Rejection> {
    if let Some(node_id) = node_id
        && !image.brokers.contains_key(&node_id)
    {
        return Err(Rejection::UnknownBroker { node_id });
    }
    let before = image.broker_configs.get(&node_id).map_or_else(Configs::default, |configs| Configs::clone(configs));
    image.broker_configs.insert(node_id, Arc::new(changed(&before, change)?));
    Ok(Outcome::Done)
}

fn changed(before: &Configs, change: &ConfigChange) -> Result<Configs, Rejection> {
    if before.version != change.expected_version {
        return Err(Rejection::ConfigChanged { expected: change.expected_version, current: before.version });
    }
    let mut configs = before.clone();
    configs.version += 1;
    for (name, value) in &change.values {
        match value {
            Some(value) => configs.values.insert(name.clone(), value.clone()),
            None => configs.values.remove(name),
        };
    }
    Ok(configs)
}

fn allocate_producer_ids(image: &mut Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<Outcome, Rejection> {
    let Some(broker) = image.brokers.get(&node_id) else {
        return Err(Rejection::UnknownBroker { node_id });
    };
    if broker.epoch != epoch {
        return Err(Rejection::StaleBrokerEpoch { node_id, epoch, current: broker.epoch });
    }
    let first = image.next_producer_id;
    let Some(next) = first.get().checked_add(i64::from(PRODUCER_ID_BLOCK)) else {
        return Err(Rejection::Exhausted { what: "producer ids".to_owned() });
    };
    image.next_producer_id = ProducerId(next);
    Ok(Outcome::ProducerIds { first, count: PRODUCER_ID_BLOCK })
}

fn note_archiving(image: &mut Image, partition: TopicPartition, mark: ArchiveMark) -> Result<Outcome, Rejection> {
    if image.partition(partition).is_none() {
        return Err(Rejection::UnknownTopicId { topic_id: partition.topic_id });
    }
    image.archived.insert(partition, mark);
    Ok(Outcome::Done)
}

/// Moves the replicas of a directory that is gone to the broker's other directories, in turn.
fn replace_directory(image: &mut Image, node_id: NodeId, directory: DirectoryId) -> Result<Outcome, Rejection> {
    let Some(broker) = image.brokers.get(&node_id) else {
        return Err(Rejection::UnknownBroker { node_id });
    };
    if broker.directories.contains(&directory) {
        let reason = "a data directory that is registered can't be given up".to_owned();
        return Err(Rejection::InvalidRegistration { reason, node_id });
    }
    let mut turn = broker.directories.clone().into_iter().cycle();
    let is_lost = |replica: &Replica| replica.node_id == node_id && replica.directory == directory;
    let has_lost = |partition: &Partition| partition.replicas.iter().any(is_lost);
    let mut topics = Vec::new();
    let mut unrestored = image.unrestored.clone();
    for topic in image.topics.values().filter(|topic| topic.partitions.iter().any(has_lost)) {
        let mut topic = Topic::clone(topic);
        for (number, partition) in (0..).zip(topic.partitions.iter_mut()).filter(|(_, partition)| has_lost(partition)) {
            if topic.internal && partition.replicas.iter().filter(|replica| replica.in_sync).all(is_lost) {
                unrestored.insert(TopicPartition::new(topic.topic_id, number));
            }
            let Some(epoch) = partition.partition_epoch.get().checked_add(1) else {
                return Err(Rejection::Exhausted { what: "partition epochs".to_owned() });
            };
            partition.partition_epoch = PartitionEpoch(epoch);
            for replica in partition.replicas.iter_mut().filter(|replica| is_lost(replica)) {
                replica.directory = turn.next().expect("a registered broker has a data directory");
            }
        }
        topics.push(Arc::new(topic));
    }
    for topic in topics {
        image.topics.insert(topic.topic_id, topic);
    }
    image.unrestored = unrestored;
    Ok(Outcome::Done)
}

fn note_lost(image: &mut Image, partition: TopicPartition) -> Result<Outcome, Rejection> {
    if image.partition(partition).is_none() {
        return Err(Rejection::UnknownTopicId { topic_id: partition.topic_id });
    }
    image.unrestored.insert(partition);
    Ok(Outcome::Done)
}

fn note_restored(image: &mut Image, partitions: &[TopicPartition]) -> Result<Outcome, Rejection> {
    for partition in partitions {
        // Of a topic that was deleted meanwhile, for one, there is nothing left to note.
        image.unrestored.remove(partition);
    }
    Ok(Outcome::Done)
}

fn set_feature_level(image: &mut Image, name: &str, level: i16) -> Result<Outcome, Rejection> {
    if level < 0 || name.is_empty() {
        return Err(Rejection::InvalidFeatureLevel { name: name.to_owned(), level });
    }
    let levels: &mut OrdMap<String, i16> = &mut image.feature_levels;
    if level == 0 {
        levels.remove(name)
    } else {
        levels.insert(name.to_owned(), level)
    };
    Ok(Outcome::Done)
}

fn exhausted(what: &str) -> Rejection {
    Rejection::Exhausted { what: what.to_owned() }
}

fn limit(limit: &str, maximum: u64, requested: u64) -> Rejection {
    Rejection::LimitExceeded { limit: limit.to_owned(), maximum, requested }
}

#[cfg(test)]
mod tests;
