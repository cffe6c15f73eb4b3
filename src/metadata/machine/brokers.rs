//! Brokers and their data directories: what their coming and going means for what they lead and hold. Pure; called by `machine`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{change_partitions, exhausted, settle};
use crate::metadata::command::{Outcome, RegisterBroker};
use crate::metadata::controller::election::{WRITE_CACHING, forsake};
use crate::metadata::error::Rejection;
use crate::metadata::image::{Broker, BrokerState, Image, Partition, Replica, ReplicaState, Topic};
use crate::types::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId};

/// A broker in the registration that the sender of a command means.
pub(super) fn known(image: &Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<&Arc<Broker>, Rejection> {
    let Some(broker) = image.brokers.get(&node_id) else {
        return Err(Rejection::UnknownBroker { node_id });
    };
    if broker.epoch != epoch {
        return Err(Rejection::StaleBrokerEpoch { node_id, epoch, current: broker.epoch });
    }
    Ok(broker)
}

pub(super) fn register(image: &mut Image, command: &RegisterBroker) -> Result<Outcome, Rejection> {
    let node_id = command.node_id;
    if command.cluster_id != image.cluster_id {
        return Err(Rejection::InconsistentClusterId { given: command.cluster_id, ours: image.cluster_id });
    }
    if node_id.get() < 0 || command.listeners.is_empty() || command.directories.is_empty() {
        let reason = "a broker has a number from 0, a listener and a data directory".to_owned();
        return Err(Rejection::InvalidRegistration { reason, node_id });
    }
    let repeated = image.brokers.get(&node_id).filter(|broker| broker.incarnation_id == command.incarnation_id);
    let missed = i64::from(command.missed_registrations);
    let unused = image.next_broker_epoch.get().checked_add(missed).map(BrokerEpoch);
    let Some(epoch) = repeated.map(|broker| broker.epoch).or(unused) else { return Err(exhausted("broker epochs")) };
    let first = if command.starts_fenced { BrokerState::Fenced } else { BrokerState::Active };
    let broker = Broker {
        node_id,
        epoch,
        incarnation_id: command.incarnation_id,
        listeners: command.listeners.clone(),
        rack: command.rack.clone(),
        directories: command.directories.clone(),
        peer: command.peer.clone(),
        state: repeated.map_or(first, |broker| broker.state),
    };
    let mut next = image.clone();
    next.brokers.insert(node_id, Arc::new(broker));
    if repeated.is_none() {
        let Some(unused) = epoch.get().checked_add(1) else { return Err(exhausted("broker epochs")) };
        next.next_broker_epoch = BrokerEpoch(unused);
        begin_process(&mut next, command)?;
    }
    *image = next;
    Ok(Outcome::BrokerRegistered(epoch))
}

/// Begins a new leader epoch in every partition that a broker leads: its new process must not append in an epoch that an
/// earlier one held, or two different batches could share an offset and an epoch. Where a copy of the metadata was put back,
/// logs have seen epochs that the image does not know: all begin above the newest of them then.
///
/// A process that starts fenced gives up what the one before led; it begins epochs when it is elected.
fn begin_process(image: &mut Image, command: &RegisterBroker) -> Result<(), Rejection> {
    let node_id = command.node_id;
    let cached: BTreeSet<_> = match command.may_have_lost_unsynced {
        true => image.topics.values().filter(|topic| is_cached(topic)).map(|topic| topic.topic_id).collect(),
        false => BTreeSet::new(),
    };
    let is_meant = |topic: &Topic, partition: &Partition| match partition.leader {
        Some(leader) if leader == node_id => true,
        Some(_) => match partition.replica_on(node_id).map(|replica| replica.state) {
            Some(ReplicaState::InSync) => command.starts_fenced || cached.contains(&topic.topic_id),
            Some(ReplicaState::Eligible) => cached.contains(&topic.topic_id),
            _ => false,
        },
        None => partition.replica_on(node_id).is_some(),
    };
    change_partitions(image, is_meant, |rules, id, partition| {
        let led = partition.leader == Some(node_id);
        if led || partition.leader.is_none() {
            partition.leader_epoch = partition.leader_epoch.max(command.newest_leader_epoch.unwrap_or(LeaderEpoch(0)));
        }
        if cached.contains(&id.topic_id) {
            forsake(partition, node_id);
        }
        if command.starts_fenced || partition.leader.is_none() {
            rules.settle(partition);
        }
        if led && partition.leader == Some(node_id) {
            let epoch = partition.leader_epoch.get().checked_add(1).ok_or_else(|| exhausted("leader epochs"))?;
            partition.leader_epoch = LeaderEpoch(epoch);
        }
        Ok(())
    })
}

fn is_cached(topic: &Topic) -> bool {
    topic.configs.values.get(WRITE_CACHING).is_some_and(|value| value == "true")
}

/// Whether a partition changes when a broker that holds it goes.
fn needs(partition: &Partition, node_id: NodeId) -> bool {
    let is_in_sync = |replica: &Replica| replica.node_id == node_id && replica.state == ReplicaState::InSync;
    partition.leader == Some(node_id) || partition.replicas.iter().any(is_in_sync)
}

pub(super) fn fence(image: &mut Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<Outcome, Rejection> {
    let state = known(image, node_id, epoch)?.state;
    match state {
        BrokerState::Fenced => Ok(Outcome::Done),
        BrokerState::Active | BrokerState::ShuttingDown => retire(image, node_id, BrokerState::Fenced),
    }
}

pub(super) fn drain(image: &mut Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<Outcome, Rejection> {
    let state = known(image, node_id, epoch)?.state;
    match state {
        BrokerState::Active => retire(image, node_id, BrokerState::ShuttingDown),
        BrokerState::Fenced | BrokerState::ShuttingDown => Ok(Outcome::Done),
    }
}

fn retire(image: &mut Image, node_id: NodeId, state: BrokerState) -> Result<Outcome, Rejection> {
    let mut next = with_state(image, node_id, state);
    change_partitions(&mut next, |_, partition| needs(partition, node_id), settle)?;
    *image = next;
    Ok(Outcome::Done)
}

/// The image with a broker in another state, and nothing yet done about it.
fn with_state(image: &Image, node_id: NodeId, state: BrokerState) -> Image {
    let mut next = image.clone();
    if let Some(broker) = next.brokers.get(&node_id) {
        let broker = Broker { state, ..Broker::clone(broker) };
        next.brokers.insert(node_id, Arc::new(broker));
    }
    next
}

pub(super) fn unfence(image: &mut Image, node_id: NodeId, epoch: BrokerEpoch) -> Result<Outcome, Rejection> {
    if known(image, node_id, epoch)?.state != BrokerState::Fenced {
        return Ok(Outcome::Done);
    }
    let mut next = with_state(image, node_id, BrokerState::Active);
    let waits =
        |_: &Topic, partition: &Partition| partition.leader.is_none() && partition.replica_on(node_id).is_some();
    change_partitions(&mut next, waits, settle)?;
    *image = next;
    Ok(Outcome::Done)
}

pub(super) fn unregister(image: &mut Image, node_id: NodeId) -> Result<Outcome, Rejection> {
    match image.brokers.get(&node_id).map(|broker| broker.state) {
        None => Err(Rejection::UnknownBroker { node_id }),
        Some(BrokerState::Active | BrokerState::ShuttingDown) => Err(Rejection::BrokerNotFenced { node_id }),
        Some(BrokerState::Fenced) => {
            image.brokers.remove(&node_id);
            Ok(Outcome::Done)
        }
    }
}

/// A broker always has a directory: with the last one it is fenced, and that one stays listed.
pub(super) fn fail_directory(
    image: &mut Image,
    node_id: NodeId,
    epoch: BrokerEpoch,
    directory: DirectoryId,
) -> Result<Outcome, Rejection> {
    let mut broker = Broker::clone(known(image, node_id, epoch)?);
    if !broker.directories.contains(&directory) {
        return Ok(Outcome::Done);
    }
    broker.directories.retain(|online| *online != directory);
    if broker.directories.is_empty() {
        return fence(image, node_id, epoch);
    }
    let mut next = image.clone();
    next.brokers.insert(node_id, Arc::new(broker));
    let is_there = |partition: &Partition| partition.replica_on(node_id).is_some_and(|it| it.directory == directory);
    let is_meant = |_: &Topic, partition: &Partition| needs(partition, node_id) && is_there(partition);
    change_partitions(&mut next, is_meant, settle)?;
    *image = next;
    Ok(Outcome::Done)
}

/// Moves the replicas of a directory that is gone to the broker's other directories, in turn. They are empty there: where others
/// have the records, those count.
pub(super) fn replace_directory(
    image: &mut Image,
    node_id: NodeId,
    directory: DirectoryId,
) -> Result<Outcome, Rejection> {
    let Some(broker) = image.brokers.get(&node_id) else {
        return Err(Rejection::UnknownBroker { node_id });
    };
    if broker.directories.contains(&directory) {
        let reason = "a data directory that is registered can't be given up".to_owned();
        return Err(Rejection::InvalidRegistration { reason, node_id });
    }
    let mut turn = broker.directories.clone().into_iter().cycle();
    let is_lost = |replica: &Replica| replica.node_id == node_id && replica.directory == directory;
    let mut unrestored = image.unrestored.clone();
    let internal: BTreeSet<_> = image.topics.values().filter(|topic| topic.internal).map(|it| it.topic_id).collect();
    let is_meant = |_: &Topic, partition: &Partition| partition.replicas.iter().any(is_lost);
    let mut next = image.clone();
    change_partitions(&mut next, is_meant, |rules, id, partition| {
        let has_records = |replica: &Replica| replica.state != ReplicaState::Behind;
        let is_elsewhere = partition.replicas.iter().any(|replica| has_records(replica) && !is_lost(replica));
        if internal.contains(&id.topic_id) && !is_elsewhere {
            unrestored.insert(id);
        }
        for replica in Arc::make_mut(&mut partition.replicas).iter_mut().filter(|replica| is_lost(replica)) {
            replica.directory = turn.next().expect("a registered broker has a data directory");
        }
        if is_elsewhere {
            forsake(partition, node_id);
        }
        if partition.leader.is_none() {
            rules.settle(partition);
        }
        Ok(())
    })?;
    next.unrestored = unrestored;
    *image = next;
    Ok(Outcome::Done)
}
