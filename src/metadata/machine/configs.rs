//! Configuration overrides. Pure; called by `machine`.

use std::sync::Arc;

use super::{change_partitions, changed_topic, settle};
use crate::metadata::command::{ConfigChange, Outcome};
use crate::metadata::controller::election::{MIN_IN_SYNC, UNCLEAN_ELECTION};
use crate::metadata::error::Rejection;
use crate::metadata::image::{Configs, Image, Partition, Topic};
use crate::types::{NodeId, TopicId};

pub(super) fn alter_topic(image: &mut Image, topic_id: TopicId, change: &ConfigChange) -> Result<Outcome, Rejection> {
    let Some(topic) = image.topics.get(&topic_id) else {
        return Err(Rejection::UnknownTopicId { topic_id });
    };
    let mut topic = Topic::clone(topic);
    topic.configs = changed(&topic.configs, change)?;
    if decides_elections(change) {
        topic = changed_topic(image, &topic, |_, partition| is_open(partition), settle)?.unwrap_or(topic);
    }
    image.topics.insert(topic_id, Arc::new(topic));
    Ok(Outcome::Done)
}

pub(super) fn alter_brokers(
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
    let mut next = image.clone();
    next.broker_configs.insert(node_id, Arc::new(changed(&before, change)?));
    if node_id.is_none() && decides_elections(change) {
        change_partitions(&mut next, |_, partition| is_open(partition), settle)?;
    }
    *image = next;
    Ok(Outcome::Done)
}

/// Whether other replicas may lead after a change of values.
fn decides_elections(change: &ConfigChange) -> bool {
    change.values.keys().any(|name| [MIN_IN_SYNC, UNCLEAN_ELECTION].contains(&name.as_str()))
}

/// Whether there is anything that a change of those values decides. Not in images of version 0.1.0.
fn is_open(partition: &Partition) -> bool {
    partition.leader.is_none() || partition.eligible_nodes().next().is_some()
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
