//! What the controller looks for in an image from time to time: leaders that could be the preferred ones, internal topics with too
//! few replicas, voters that could be more. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::election::Rules;
use super::machine::Members;
use crate::metadata::command::{Command, ReplicaPlace};
use crate::metadata::image::{Image, Partition, Topic};
use crate::metadata::placement::racks_in_turn;
use crate::types::{NodeId, TopicId, TopicPartition};

/// Entries of the log that a node may lack to be made a voter.
const CAUGHT_UP_ENTRIES: u64 = 1000;

/// Whether the preferred replica of a partition could lead, and does not.
fn has_better_leader(image: &Image, topic: &Topic, partition: &Partition) -> bool {
    let is_asked_for = partition.replicas.first().is_some_and(|first| partition.leader != Some(first.node_id));
    is_asked_for && Rules::of(image, &topic.configs.values).preferred(partition).is_some()
}

/// The same of a partition by its identity.
pub(super) fn could_be_preferred(image: &Image, id: TopicPartition) -> bool {
    let Some(topic) = image.topic(id.topic_id) else { return false };
    topic.partition(id.partition.get()).is_some_and(|partition| has_better_leader(image, topic, partition))
}

/// The first partitions after a given one, or of all, whose preferred replica could lead and does not.
pub(super) fn not_preferred(image: &Image, after: Option<TopicPartition>, most: usize) -> Vec<TopicPartition> {
    let first = after.map_or(TopicId::ZERO, |after| after.topic_id);
    let topics = image.topics.range(first..).map(|(_, topic)| topic);
    let found = topics.flat_map(|topic| {
        let partitions = (0..).zip(topic.partitions.iter());
        partitions.filter_map(move |(number, partition)| {
            let id = TopicPartition::new(topic.topic_id, number);
            (after.is_none_or(|after| id > after) && has_better_leader(image, topic, partition)).then_some(id)
        })
    });
    found.take(most).collect()
}

/// Whether a broker leads a partition that another broker could lead soon: it is there, and has to catch up.
pub(super) fn has_successors_to_come(image: &Image, node_id: NodeId) -> bool {
    let leads = |partition: &&Partition| partition.leader == Some(node_id);
    let led = image.topics.values().flat_map(|topic| topic.partitions.iter()).filter(leads);
    let mut replicas = led.flat_map(|partition| partition.replicas.iter());
    replicas.any(|replica| replica.node_id != node_id && image.is_available(replica))
}

/// Commands that give partitions of internal topics as many replicas as there are active brokers, and at most `replicas`: for the
/// first partitions that have fewer.
pub(super) fn wider_internal_topics(image: &Image, replicas: usize, most: usize) -> Vec<(TopicPartition, Command)> {
    let active = image.brokers().filter(|broker| broker.state.is_active()).count();
    let wanted = replicas.min(active);
    let internal = image.topics.values().filter(|topic| topic.internal);
    let partitions =
        internal.flat_map(|topic| (0..).zip(topic.partitions.iter()).map(move |(number, it)| (topic, number, it)));
    let is_narrow = |partition: &Partition| {
        partition.replicas.len() < wanted && partition.moving.is_none() && partition.leader.is_some()
    };
    let narrow = partitions.filter(|(_, _, partition)| is_narrow(partition)).take(most);
    let commands = narrow.map(|(topic, number, partition): (&Arc<Topic>, i32, &Partition)| {
        let id = TopicPartition::new(topic.topic_id, number);
        (id, Command::AssignReplicas { partition: id, target: Some(wider(image, partition, number, wanted)) })
    });
    commands.collect()
}

/// The replicas of a partition and more of them, in other racks where that is possible. Partitions take turns in who comes first.
fn wider(image: &Image, partition: &Partition, number: i32, wanted: usize) -> Vec<ReplicaPlace> {
    let turn = usize::try_from(number).expect("partitions are numbered from 0");
    let mut brokers = racks_in_turn(image);
    let start = turn % brokers.len().max(1);
    brokers.rotate_left(start);
    let place = |node_id, directory| ReplicaPlace { node_id, directory };
    let mut places: Vec<_> = partition.replicas.iter().map(|it| place(it.node_id, it.directory)).collect();
    while places.len() < wanted {
        let has_one = |node_id: NodeId| places.iter().any(|place| place.node_id == node_id);
        let racks: Vec<_> =
            brokers.iter().filter(|broker| has_one(broker.node_id)).map(|broker| &broker.rack).collect();
        let free = brokers.iter().filter(|broker| !has_one(broker.node_id));
        let Some(next) = free.min_by_key(|broker| racks.contains(&&broker.rack)) else { break };
        places.push(place(next.node_id, next.directories[turn % next.directories.len()]));
    }
    let first = turn % places.len();
    places.rotate_left(first);
    places
}

/// The voters that the quorum is to have, where those are more than it has: an odd number of them, at most `most`.
pub(super) fn more_voters(image: &Image, members: &Members, most: usize) -> Option<BTreeSet<NodeId>> {
    let is_active = |node_id: &NodeId| image.broker(*node_id).is_some_and(|broker| broker.state.is_active());
    let has_caught_up = |lag: &Option<u64>| lag.is_some_and(|entries| entries <= CAUGHT_UP_ENTRIES);
    let ready = members.learners.iter().filter(|(node_id, lag)| is_active(node_id) && has_caught_up(lag));
    let ready: Vec<NodeId> = ready.map(|(node_id, _)| *node_id).collect();
    let able = members.voters.iter().filter(|voter| is_active(voter)).count() + ready.len();
    let most = able.min(most);
    let wanted = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    let missing = wanted.checked_sub(members.voters.len()).filter(|missing| *missing > 0)?;
    Some(members.voters.iter().copied().chain(ready.into_iter().take(missing)).collect())
}
