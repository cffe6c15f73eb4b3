//! One partition: its in-sync replicas, its leader, where its replicas are, and what of it is archived or lost. Pure; called by
//! `machine`.

use std::sync::Arc;

use crate::metadata::command::{AlterPartition, Election, Outcome, ReplicaPlace};
use crate::metadata::controller::election::{Rules, renumbered, with_epochs};
use crate::metadata::controller::reassignment;
use crate::metadata::error::Rejection;
use crate::metadata::image::{ArchiveMark, Image, Partition, ReplicaState, Topic};
use crate::types::TopicPartition;

/// A partition and its topic.
fn found(image: &Image, id: TopicPartition) -> Result<(&Arc<Topic>, &Partition), Rejection> {
    let topic = image.topics.get(&id.topic_id).ok_or(Rejection::UnknownTopicId { topic_id: id.topic_id })?;
    let partition = topic.partition(id.partition.get()).ok_or(Rejection::UnknownPartition { partition: id })?;
    Ok((topic, partition))
}

/// Puts a partition in the place of what it was.
fn replace(image: &mut Image, topic: &Topic, id: TopicPartition, partition: Partition) {
    let mut topic = topic.clone();
    let index = usize::try_from(id.partition.get()).expect("the partition was found by its number");
    topic.partitions.set(index, partition);
    image.topics.insert(id.topic_id, Arc::new(topic));
}

pub(super) fn alter(image: &mut Image, command: &AlterPartition) -> Result<Outcome, Rejection> {
    super::brokers::known(image, command.node_id, command.broker_epoch)?;
    let (topic, before) = found(image, command.partition)?;
    if before.leader_epoch != command.leader_epoch {
        return Err(Rejection::FencedLeaderEpoch { epoch: command.leader_epoch, current: before.leader_epoch });
    }
    if before.leader != Some(command.node_id) {
        return Err(Rejection::NotPartitionLeader { node_id: command.node_id, leader: before.leader });
    }
    if before.partition_epoch != command.partition_epoch {
        return Err(Rejection::PartitionChanged { expected: command.partition_epoch, current: before.partition_epoch });
    }
    check_in_sync(image, before, command)?;
    let mut after = before.clone();
    for replica in Arc::make_mut(&mut after.replicas) {
        let is_in_sync = command.in_sync.iter().any(|(node_id, _)| *node_id == replica.node_id);
        replica.state = match (is_in_sync, replica.state) {
            (true, _) => ReplicaState::InSync,
            // It has what was acknowledged so far.
            (false, ReplicaState::InSync) => ReplicaState::Eligible,
            (false, state) => state,
        };
    }
    reassignment::complete(&mut after);
    Rules::of(image, &topic.configs.values).settle(&mut after);
    // Also where the set is the same: what its leader proposed before, and has not heard of, is void from here on.
    let after = renumbered(before, after)?;
    let (topic, partition_epoch) = (Arc::clone(topic), after.partition_epoch);
    replace(image, &topic, command.partition, after);
    Ok(Outcome::PartitionAltered { partition_epoch })
}

/// Checks that all members of a new set of in-sync replicas may be such (KIP-841, KIP-903).
fn check_in_sync(image: &Image, partition: &Partition, command: &AlterPartition) -> Result<(), Rejection> {
    let members = &command.in_sync;
    if !members.iter().any(|(node_id, _)| *node_id == command.node_id) {
        return Err(Rejection::InvalidInSyncSet { reason: "the leader is always one of them".to_owned() });
    }
    for (position, (node_id, epoch)) in members.iter().enumerate() {
        let ineligible = |reason: &str| Rejection::IneligibleReplica { node_id: *node_id, reason: reason.to_owned() };
        if members[..position].iter().any(|(other, _)| other == node_id) {
            return Err(Rejection::InvalidInSyncSet { reason: format!("broker {node_id} is named twice") });
        }
        let replica = partition.replica_on(*node_id).ok_or_else(|| ineligible("its broker holds none"))?;
        let broker = image.brokers.get(node_id).ok_or_else(|| ineligible("its broker is not registered"))?;
        if broker.epoch != *epoch {
            return Err(ineligible("its broker has started again since"));
        }
        // The leader may be about to shut down, which is settled after the change.
        if *node_id != command.node_id && !image.is_available(replica) {
            return Err(ineligible("its broker or its data directory is not available"));
        }
    }
    Ok(())
}

pub(super) fn elect_leaders(
    image: &mut Image,
    partitions: &[TopicPartition],
    how: Election,
) -> Result<Outcome, Rejection> {
    let mut next = image.clone();
    for id in partitions {
        let Ok((topic, before)) = found(&next, *id) else { continue };
        let rules = Rules::of(&next, &topic.configs.values);
        let mut after = before.clone();
        match how {
            Election::Preferred => rules.prefer(&mut after),
            Election::Unclean if before.leader.is_some() => continue,
            Election::Unclean => rules.settle_uncleanly(&mut after),
        }
        if let Some(after) = with_epochs(before, after)? {
            let topic = Arc::clone(topic);
            replace(&mut next, &topic, *id, after);
        }
    }
    *image = next;
    Ok(Outcome::Done)
}

pub(super) fn assign(
    image: &mut Image,
    id: TopicPartition,
    target: Option<&[ReplicaPlace]>,
) -> Result<Outcome, Rejection> {
    let (topic, before) = found(image, id)?;
    let refused = |reason: String| Rejection::InvalidReplicaAssignment { reason, partition: id.partition.get() };
    let mut after = match (target, &before.moving) {
        (None, None) => return Err(Rejection::NoReassignment { partition: id }),
        (None, Some(moving)) => reassignment::cancelled(before, moving).map_err(|reason| refused(reason.to_owned()))?,
        (Some(target), _) => {
            check_target(image, before, target).map_err(refused)?;
            reassignment::begun(before, target).map_err(|reason| refused(reason.to_owned()))?
        }
    };
    reassignment::complete(&mut after);
    if after != *before {
        Rules::of(image, &topic.configs.values).settle(&mut after);
    }
    if let Some(after) = with_epochs(before, after)? {
        let topic = Arc::clone(topic);
        replace(image, &topic, id, after);
    }
    Ok(Outcome::Done)
}

fn check_target(image: &Image, partition: &Partition, target: &[ReplicaPlace]) -> Result<(), String> {
    if target.is_empty() {
        return Err("a partition has at least one replica".to_owned());
    }
    for (position, ReplicaPlace { node_id, directory }) in target.iter().enumerate() {
        if target[..position].iter().any(|other| other.node_id == *node_id) {
            return Err(format!("broker {node_id} is named twice"));
        }
        let broker = image.brokers.get(node_id).ok_or_else(|| format!("there is no broker {node_id}"))?;
        match partition.replica_on(*node_id) {
            Some(replica) if replica.directory == *directory => {}
            Some(_) => return Err(format!("broker {node_id} has a replica in another data directory, where it stays")),
            None if broker.directories.contains(directory) => {}
            None => return Err(format!("broker {node_id} has no such data directory")),
        }
    }
    Ok(())
}

pub(super) fn note_archiving(image: &mut Image, id: TopicPartition, mark: ArchiveMark) -> Result<Outcome, Rejection> {
    if image.partition(id).is_none() {
        return Err(Rejection::UnknownTopicId { topic_id: id.topic_id });
    }
    // The note of a leader that was deposed may come after its successor's, and must not hide how far that one archived.
    if image.archive_mark(id).is_none_or(|known| known.next_offset <= mark.next_offset) {
        image.archived.insert(id, mark);
    }
    Ok(Outcome::Done)
}

pub(super) fn note_lost(image: &mut Image, id: TopicPartition) -> Result<Outcome, Rejection> {
    if image.partition(id).is_none() {
        return Err(Rejection::UnknownTopicId { topic_id: id.topic_id });
    }
    image.unrestored.insert(id);
    Ok(Outcome::Done)
}

pub(super) fn note_restored(image: &mut Image, partitions: &[TopicPartition]) -> Result<Outcome, Rejection> {
    for partition in partitions {
        // Of a topic that was deleted meanwhile, for one, there is nothing left to note.
        image.unrestored.remove(partition);
    }
    Ok(Outcome::Done)
}
