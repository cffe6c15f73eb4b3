//! Topics and partitions as Metadata and DescribeTopicPartitions show them: two answers of the protocol with types of their
//! own, and the same fields filled in from the same image.

use kafka_protocol::messages::BrokerId;

use super::Context;
use super::wire::{broker_id, is_alive};
use crate::metadata::Image;
use crate::metadata::image::{Partition, Replica};
use crate::protocol::ErrorCode;
use crate::types::NodeId;

/// First version of Metadata whose clients know LISTENER_NOT_FOUND.
const FIRST_LISTENER_ERROR_VERSION: i16 = 6;

/// The cluster as the clients of one listener see it.
pub(super) struct View<'a> {
    pub(super) image: &'a Image,
    listener: &'a str,
    /// What is said of a leader that has no such listener.
    unreachable_leader: ErrorCode,
    /// Whether replicas that clients can't reach are left out, and their partition says so, as in version 0 of Metadata.
    hides_unreachable: bool,
}

/// What a partition is like to them.
pub(super) struct DescribedPartition {
    pub(super) error: ErrorCode,
    pub(super) leader: Option<NodeId>,
    pub(super) replicas: Vec<BrokerId>,
    pub(super) in_sync: Vec<BrokerId>,
    pub(super) offline: Vec<BrokerId>,
}

impl<'a> View<'a> {
    /// As a version of Metadata shows it.
    pub(super) fn of_metadata(image: &'a Image, context: &'a Context) -> Self {
        let knows_listeners = context.version() >= FIRST_LISTENER_ERROR_VERSION;
        Self {
            image,
            listener: &context.peer.listener,
            unreachable_leader: match knows_listeners {
                true => ErrorCode::ListenerNotFound,
                false => ErrorCode::LeaderNotAvailable,
            },
            hides_unreachable: context.version() == 0,
        }
    }

    /// As DescribeTopicPartitions shows it, which tells no error of a partition.
    pub(super) fn of_topic_partitions(image: &'a Image, context: &'a Context) -> Self {
        let unreachable_leader = ErrorCode::LeaderNotAvailable;
        Self { image, listener: &context.peer.listener, unreachable_leader, hides_unreachable: false }
    }

    /// What a partition is like.
    pub(super) fn partition(&self, partition: &Partition) -> DescribedPartition {
        let seen = |nodes: &mut dyn Iterator<Item = NodeId>| -> Vec<BrokerId> {
            let nodes = nodes.filter(|node_id| !self.hides_unreachable || self.is_reached(*node_id));
            nodes.map(|node_id| broker_id(Some(node_id))).collect()
        };
        let replicas = seen(&mut partition.replica_nodes());
        let in_sync = seen(&mut partition.in_sync_nodes());
        let offline = partition.replicas.iter().filter(|replica| !self.is_online(replica));
        let offline = offline.map(|replica| broker_id(Some(replica.node_id))).collect();
        let (leader, error) = match self.leader(partition) {
            Ok(leader) if replicas.len() < partition.replicas.len() => (Some(leader), ErrorCode::ReplicaNotAvailable),
            Ok(leader) => (Some(leader), ErrorCode::None),
            Err(error) => (None, error),
        };
        DescribedPartition { error, leader, replicas, in_sync, offline }
    }

    /// The leader, if clients can go to it.
    fn leader(&self, partition: &Partition) -> Result<NodeId, ErrorCode> {
        let leader = partition.leader.ok_or(ErrorCode::LeaderNotAvailable)?;
        let broker = self.image.broker(leader).ok_or(ErrorCode::LeaderNotAvailable)?;
        let replica = partition.replica_on(leader).ok_or(ErrorCode::LeaderNotAvailable)?;
        if !broker.directories.contains(&replica.directory) {
            return Err(ErrorCode::LeaderNotAvailable);
        }
        match broker.listeners.contains_key(self.listener) {
            true => Ok(leader),
            false => Err(self.unreachable_leader),
        }
    }

    fn is_reached(&self, node_id: NodeId) -> bool {
        let broker = self.image.broker(node_id);
        broker.is_some_and(|broker| is_alive(broker) && broker.listeners.contains_key(self.listener))
    }

    fn is_online(&self, replica: &Replica) -> bool {
        let broker = self.image.broker(replica.node_id);
        let has_directory = broker.is_some_and(|broker| broker.directories.contains(&replica.directory));
        has_directory && self.is_reached(replica.node_id)
    }
}

/// The answer about one topic in the type that the API has for it, with the answers about its partitions.
macro_rules! described_topic {
    ($answer:ty, $topic:expr, $partitions:expr, $operations:expr) => {{
        let topic: &$crate::metadata::image::Topic = $topic;
        <$answer>::default()
            .with_name(Some($crate::server::handlers::wire::topic_name(&topic.name)))
            .with_topic_id(topic.topic_id.uuid())
            .with_is_internal(topic.internal)
            .with_partitions($partitions)
            .with_topic_authorized_operations($operations)
    }};
}

/// The answer about one partition in the type that the API has for it.
macro_rules! described_partition {
    ($answer:ty, $view:expr, $partition:expr, $index:expr) => {{
        let partition: &$crate::metadata::image::Partition = $partition;
        let described: $crate::server::handlers::described::DescribedPartition = $view.partition(partition);
        <$answer>::default()
            .with_error_code(described.error.code())
            .with_partition_index($index)
            .with_leader_id($crate::server::handlers::wire::broker_id(described.leader))
            .with_leader_epoch(partition.leader_epoch.get())
            .with_replica_nodes(described.replicas)
            .with_offline_replicas(described.offline)
            .with_isr_nodes(described.in_sync)
    }};
}

pub(super) use {described_partition, described_topic};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Command, machine, testing};

    /// Error, leader, and the numbers of replicas, of those in sync and of those offline, as a listener's clients see them.
    fn seen(image: &Image, listener: &str, hides_unreachable: bool) -> (ErrorCode, Option<NodeId>, [usize; 3]) {
        let unreachable_leader = ErrorCode::ListenerNotFound;
        let view = View { image, listener, unreachable_leader, hides_unreachable };
        let described = view.partition(image.topic(testing::topic_id(1)).unwrap().partition(0).unwrap());
        let numbers = [described.replicas.len(), described.in_sync.len(), described.offline.len()];
        (described.error, described.leader, numbers)
    }

    #[test]
    fn a_leader_is_told_to_those_who_reach_it_and_a_fenced_replica_is_offline() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let command = testing::create_topic(&image, 1, "events", 1);
        machine::apply(&mut image, &command).unwrap();
        let leads = (ErrorCode::None, Some(NodeId(1)), [1, 1, 0]);
        assert_eq!([seen(&image, "PLAINTEXT", false), seen(&image, "PLAINTEXT", true)], [leads, leads]);
        assert_eq!(seen(&image, "OTHER", false), (ErrorCode::ListenerNotFound, None, [1, 1, 1]));
        assert_eq!(seen(&image, "OTHER", true), (ErrorCode::ListenerNotFound, None, [0, 0, 1]));

        let broker_epoch = image.broker(NodeId(1)).unwrap().epoch;
        machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(1), broker_epoch }).unwrap();
        assert_eq!(seen(&image, "PLAINTEXT", false), (ErrorCode::LeaderNotAvailable, None, [1, 0, 1]));
    }
}
