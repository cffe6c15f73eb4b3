//! Topics and their partitions: how they begin and end. Pure; called by `machine`.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::Vector;

use super::{MAX_CLUSTER_PARTITIONS, MAX_DELETED_TOPICS, MAX_TOPIC_PARTITIONS, limit};
use crate::metadata::command::{Assignment, CreatePartitions, CreateTopic, Outcome, ReplicaPlace};
use crate::metadata::controller::election::Rules;
use crate::metadata::error::Rejection;
use crate::metadata::image::{Configs, DeletedTopic, Image, Partition, Replica, ReplicaState, Topic};
use crate::metadata::topic_name;
use crate::types::{LeaderEpoch, PartitionEpoch, TopicId};

pub(super) fn create(image: &mut Image, command: &CreateTopic) -> Result<Outcome, Rejection> {
    let CreateTopic { name, topic_id, assignment, configs, internal } = command;
    check_new_name(image, name)?;
    if topic_id.is_zero() || image.topics.contains_key(topic_id) || image.deleted_topics.contains_key(topic_id) {
        return Err(Rejection::TopicIdTaken { topic_id: *topic_id });
    }
    let partitions = new_partitions(image, configs, 0, assignment)?;
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

pub(super) fn delete(image: &mut Image, topic_id: TopicId) -> Result<Outcome, Rejection> {
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

pub(super) fn forget(image: &mut Image, topic_id: TopicId) -> Result<Outcome, Rejection> {
    match image.deleted_topics.remove(&topic_id) {
        Some(_) => Ok(Outcome::Done),
        None => Err(Rejection::UnknownTopicId { topic_id }),
    }
}

pub(super) fn create_partitions(image: &mut Image, command: &CreatePartitions) -> Result<Outcome, Rejection> {
    let topic_id = command.topic_id;
    let Some(topic) = image.topics.get(&topic_id) else {
        return Err(Rejection::UnknownTopicId { topic_id });
    };
    if topic.partition_count() != command.existing {
        let reason = "the number of partitions changed meanwhile".to_owned();
        return Err(Rejection::InvalidPartitions { reason, partitions: topic.partition_count().into() });
    }
    let mut topic = Topic::clone(topic);
    let partitions = new_partitions(image, &topic.configs.values, topic.partitions.len(), &command.assignment)?;
    image.partition_count += partitions.len() as u64;
    topic.partitions.extend(partitions);
    image.topics.insert(topic_id, Arc::new(topic));
    Ok(Outcome::Done)
}

/// The first state of new partitions: every replica in sync, the first one leading, in epoch 0; as far as they are available.
fn new_partitions(
    image: &Image,
    configs: &BTreeMap<String, String>,
    existing: usize,
    assignment: &Assignment,
) -> Result<Vec<Partition>, Rejection> {
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
    let rules = Rules::of(image, configs);
    let replication_factor = assignment[0].len();
    let mut partitions = Vec::with_capacity(assignment.len());
    for (partition, places) in (existing..).zip(assignment) {
        check_places(image, places, replication_factor).map_err(|reason| Rejection::InvalidReplicaAssignment {
            reason: reason.to_owned(),
            partition: i32::try_from(partition).expect("partition numbers are within MAX_TOPIC_PARTITIONS"),
        })?;
        let state = ReplicaState::InSync;
        let replica = |place: &ReplicaPlace| Replica { node_id: place.node_id, directory: place.directory, state };
        let mut partition = Partition {
            replicas: places.iter().map(replica).collect(),
            leader: Some(places[0].node_id),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            moving: None,
        };
        rules.settle(&mut partition);
        partitions.push(partition);
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
