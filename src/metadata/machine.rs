//! The machine: applies commands to the image. Pure; the only code that changes an image.
//!
//! A command is checked in full before anything changes, so that a rejected command leaves the image as it was. What a
//! command means may never change for commands that are in somebody's log already: new meaning takes a new command or a
//! new field with a default. What follows for leaders and in-sync replicas is decided here too, by
//! [`election`](super::controller::election).

mod brokers;
mod configs;
mod partitions;
mod topics;

use std::sync::Arc;

use imbl::OrdMap;
pub use topics::check_new_name;

use super::command::{Command, Outcome};
use super::controller::election::{Rules, with_epochs};
use super::error::Rejection;
use super::image::{ClusterAuthority, Image, Partition, Topic};
use crate::types::{BrokerEpoch, ClusterId, Incarnation, NodeId, ProducerId, TopicPartition};

/// Producer ids in a block: at most so many are lost with a broker process (KIP-730 uses the same number).
pub const PRODUCER_ID_BLOCK: i32 = 1_000;
/// Most partitions of one topic, and so of one command; Kafka's own limit on one request.
pub const MAX_TOPIC_PARTITIONS: usize = 10_000;
/// Most partitions of the cluster. Each costs about 150 bytes of memory on every broker at replication factor 3.
pub const MAX_CLUSTER_PARTITIONS: u64 = 1_000_000;
/// Most deleted topics that wait to be forgotten; more deletions are refused until the archive has caught up.
pub const MAX_DELETED_TOPICS: usize = 100_000;
/// Most bytes of each part of the cluster's authority: several times what certificates and keys have.
const MAX_AUTHORITY_BYTES: usize = 64 << 10;

/// Applies one command. The caller moves the version on with [`advance`] once all commands of a log entry are applied.
///
/// # Errors
/// [`Rejection`]; the image is then unchanged.
pub fn apply(image: &mut Image, command: &Command) -> Result<Outcome, Rejection> {
    match command {
        Command::SetClusterId(cluster_id) => set_cluster_id(image, *cluster_id),
        Command::RegisterBroker(command) => brokers::register(image, command),
        Command::CreateTopic(command) => topics::create(image, command),
        Command::DeleteTopic { topic_id } => topics::delete(image, *topic_id),
        Command::ForgetTopic { topic_id } => topics::forget(image, *topic_id),
        Command::CreatePartitions(command) => topics::create_partitions(image, command),
        Command::AlterTopicConfigs { topic_id, change } => configs::alter_topic(image, *topic_id, change),
        Command::AlterBrokerConfigs { node_id, change } => configs::alter_brokers(image, *node_id, change),
        Command::AllocateProducerIds { node_id, broker_epoch } => allocate_producer_ids(image, *node_id, *broker_epoch),
        Command::NoteArchiving { partition, mark } => partitions::note_archiving(image, *partition, *mark),
        Command::ReplaceDirectory { node_id, directory } => brokers::replace_directory(image, *node_id, *directory),
        Command::NoteLost { partition } => partitions::note_lost(image, *partition),
        Command::NoteRestored { partitions } => partitions::note_restored(image, partitions),
        Command::SetFeatureLevel { name, level } => set_feature_level(image, name, *level),
        Command::FenceBroker { node_id, broker_epoch } => brokers::fence(image, *node_id, *broker_epoch),
        Command::UnfenceBroker { node_id, broker_epoch } => brokers::unfence(image, *node_id, *broker_epoch),
        Command::DrainBroker { node_id, broker_epoch } => brokers::drain(image, *node_id, *broker_epoch),
        Command::UnregisterBroker { node_id } => brokers::unregister(image, *node_id),
        Command::FailDirectory { node_id, broker_epoch, directory } => {
            brokers::fail_directory(image, *node_id, *broker_epoch, *directory)
        }
        Command::AlterPartition(command) => partitions::alter(image, command),
        Command::ElectLeaders { partitions, how } => partitions::elect_leaders(image, partitions, *how),
        Command::AssignReplicas { partition, target } => partitions::assign(image, *partition, target.as_deref()),
        Command::SetAuthority(authority) => set_authority(image, authority),
        Command::BeginIncarnation { incarnation, next_producer_id } => {
            begin_incarnation(image, *incarnation, *next_producer_id)
        }
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

fn allocate_producer_ids(image: &mut Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<Outcome, Rejection> {
    brokers::known(image, node_id, epoch)?;
    let first = image.next_producer_id;
    let Some(next) = first.get().checked_add(i64::from(PRODUCER_ID_BLOCK)) else {
        return Err(Rejection::Exhausted { what: "producer ids".to_owned() });
    };
    image.next_producer_id = ProducerId(next);
    Ok(Outcome::ProducerIds { first, count: PRODUCER_ID_BLOCK })
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

fn set_authority(image: &mut Image, authority: &ClusterAuthority) -> Result<Outcome, Rejection> {
    let parts = [&authority.certificate, &authority.key, &authority.join_secret];
    if parts.iter().any(|part| part.is_empty() || part.len() > MAX_AUTHORITY_BYTES) {
        return Err(Rejection::InvalidAuthority { maximum_bytes: MAX_AUTHORITY_BYTES as u64 });
    }
    image.authority = Some(Arc::new(authority.clone()));
    Ok(Outcome::Done)
}

fn begin_incarnation(image: &mut Image, given: Incarnation, next: ProducerId) -> Result<Outcome, Rejection> {
    if given <= image.incarnation {
        return Err(Rejection::StaleIncarnation { given, current: image.incarnation });
    }
    image.incarnation = given;
    image.next_producer_id = image.next_producer_id.max(next);
    Ok(Outcome::Done)
}

/// Changes partitions of all topics, those that `is_meant` says. Nothing has changed if it fails.
fn change_partitions(
    image: &mut Image,
    is_meant: impl Fn(&Topic, &Partition) -> bool,
    mut change: impl FnMut(&Rules<'_>, TopicPartition, &mut Partition) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let mut topics = Vec::new();
    for topic in image.topics.values() {
        topics.extend(changed_topic(image, topic, &is_meant, &mut change)?);
    }
    for topic in topics {
        image.topics.insert(topic.topic_id, Arc::new(topic));
    }
    Ok(())
}

/// A topic with partitions changed, if any was. It shares with the one before what did not change.
fn changed_topic(
    image: &Image,
    topic: &Topic,
    is_meant: impl Fn(&Topic, &Partition) -> bool,
    mut change: impl FnMut(&Rules<'_>, TopicPartition, &mut Partition) -> Result<(), Rejection>,
) -> Result<Option<Topic>, Rejection> {
    let (mut rules, mut next): (Option<Rules<'_>>, Option<Topic>) = (None, None);
    for (index, before) in topic.partitions.iter().enumerate().filter(|(_, partition)| is_meant(topic, partition)) {
        let rules = rules.get_or_insert_with(|| Rules::of(image, &topic.configs.values));
        let number = i32::try_from(index).expect("a topic has at most MAX_TOPIC_PARTITIONS partitions");
        let mut after = before.clone();
        change(rules, TopicPartition::new(topic.topic_id, number), &mut after)?;
        if let Some(after) = with_epochs(before, after)? {
            next.get_or_insert_with(|| topic.clone()).partitions.set(index, after);
        }
    }
    Ok(next)
}

/// Settles what a change of the cluster left open in a partition.
fn settle(rules: &Rules<'_>, _: TopicPartition, partition: &mut Partition) -> Result<(), Rejection> {
    rules.settle(partition);
    Ok(())
}

fn exhausted(what: &str) -> Rejection {
    Rejection::Exhausted { what: what.to_owned() }
}

fn limit(limit: &str, maximum: u64, requested: u64) -> Rejection {
    Rejection::LimitExceeded { limit: limit.to_owned(), maximum, requested }
}

#[cfg(test)]
mod tests;
