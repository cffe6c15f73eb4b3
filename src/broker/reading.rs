//! From which replica a consumer reads: from the leader, or from one that stands nearer (KIP-392).
//!
//! Called by `server` for each partition of a fetch. The leader sends a consumer to a follower in the consumer's rack, where the
//! cluster is configured so; a follower serves whoever comes, up to the high watermark that it knows. Consumers come back to the
//! leader by themselves, from time to time and when a follower can't serve them, so that nothing is kept here.

use super::Broker;
use super::error::PartitionError;
use super::fetch_session::SessionPartition;
use super::partitions::Leader;
use crate::metadata::Image;
use crate::metadata::broker_config::{RACK_AWARE_SELECTOR, REPLICA_SELECTOR, effective};
use crate::metadata::image::{Partition, Replica, ReplicaState, Topic};
use crate::types::NodeId;

/// Who fetches, as far as it matters from where.
#[derive(Clone, Copy, Debug)]
pub struct Consumer<'a> {
    /// Its rack, where replicas are chosen by that.
    rack: Option<&'a str>,
    /// The listener that it came by.
    listener: &'a str,
    /// It may be served by followers. Clients that can't be sent to one don't expect that either.
    reads_followers: bool,
}

/// From where a consumer is to read.
#[derive(Clone, Debug)]
pub struct ReadFrom {
    /// The partition here, led or followed, and in which epoch.
    pub here: Leader,
    /// The broker that it is to read from instead.
    pub elsewhere: Option<NodeId>,
}

impl<'a> Consumer<'a> {
    /// One that only the leader serves.
    pub const fn of_leaders(listener: &'a str) -> Self {
        Self { rack: None, listener, reads_followers: false }
    }
}

impl Broker {
    /// A consumer that any replica may serve, in a rack if it says so.
    pub fn consumer<'a>(&self, image: &Image, rack: Option<&'a str>, listener: &'a str) -> Consumer<'a> {
        let goes_by_racks = || effective(REPLICA_SELECTOR, &self.layers(image)).as_deref() == Some(RACK_AWARE_SELECTOR);
        Consumer { rack: rack.filter(|_| goes_by_racks()), listener, reads_followers: true }
    }

    /// From where a consumer is to read a partition of a topic.
    ///
    /// # Errors
    /// [`PartitionError`]: the partition can't be read here.
    pub fn read_from(
        &self,
        image: &Image,
        topic: &Topic,
        partition: i32,
        wanted: &SessionPartition,
        consumer: &Consumer<'_>,
    ) -> Result<ReadFrom, PartitionError> {
        match self.leader(topic, partition, wanted.leader_epoch) {
            Ok(here) => {
                let offsets = here.partition.log().offsets();
                // Those in sync have all that is committed. What is not may be missing there.
                let is_there = wanted.offset >= offsets.log_start && wanted.offset <= offsets.high_watermark;
                let state = topic.partition(partition).filter(|_| is_there);
                let elsewhere = state.and_then(|state| nearer(image, state, consumer));
                Ok(ReadFrom { here, elsewhere })
            }
            Err(PartitionError::NotLeader { .. }) if consumer.reads_followers => {
                let here = self.follower(topic, partition, wanted.leader_epoch)?;
                let (offset, offsets) = (wanted.offset, here.partition.log().offsets());
                // Kafka says that it is out of range, upon which its own clients ask the leader. Others may begin anew by their reset
                // policy, and the records are only on their way.
                if offset > offsets.log_end {
                    let high_watermark = offsets.high_watermark;
                    return Err(PartitionError::OffsetNotAvailable { offset, high_watermark });
                }
                Ok(ReadFrom { here, elsewhere: None })
            }
            Err(error) => Err(error),
        }
    }
}

/// The broker whose replica is nearer to a consumer than the leader's: in its rack, in sync, and to be reached by it. Of several the
/// first, which differs from partition to partition as leaders do.
fn nearer(image: &Image, partition: &Partition, consumer: &Consumer<'_>) -> Option<NodeId> {
    let rack = consumer.rack?;
    let is_near = |node_id: NodeId| {
        let broker = image.broker(node_id);
        let reached = broker.filter(|broker| broker.listeners.contains_key(consumer.listener));
        reached.is_some_and(|broker| broker.rack.as_deref() == Some(rack))
    };
    if partition.leader.is_none_or(is_near) {
        return None;
    }
    let serves = |replica: &&Replica| replica.state == ReplicaState::InSync && image.is_available(replica);
    let mut replicas = partition.replicas.iter().filter(serves).map(|replica| replica.node_id);
    replicas.find(|node_id| is_near(*node_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{CreateTopic, ReplicaPlace};
    use crate::metadata::{Command, machine, testing};

    /// Four brokers in racks, and a partition on all of them that the first one leads.
    fn image() -> Image {
        let mut image = testing::image_with_brokers(&[(1, "a"), (2, "b"), (3, "b"), (4, "c")]);
        let place = |node| {
            let node_id = NodeId(node);
            ReplicaPlace { node_id, directory: image.broker(node_id).unwrap().directories[0] }
        };
        let topic = CreateTopic {
            name: "events".to_owned(),
            topic_id: testing::topic_id(1),
            assignment: vec![(1..=4).map(place).collect()],
            configs: std::collections::BTreeMap::new(),
            internal: false,
        };
        machine::apply(&mut image, &Command::CreateTopic(topic)).unwrap();
        image
    }

    fn fence(image: &mut Image, node: i32) {
        let broker_epoch = image.broker(NodeId(node)).unwrap().epoch;
        machine::apply(image, &Command::FenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
    }

    fn chosen(image: &Image, rack: Option<&str>, listener: &str) -> Option<i32> {
        let topic = image.topic_named("events").unwrap();
        let consumer = Consumer { rack, listener, reads_followers: true };
        nearer(image, topic.partition(0).unwrap(), &consumer).map(NodeId::get)
    }

    #[test]
    fn a_consumer_reads_from_a_replica_in_its_rack_and_from_the_leader_where_that_is_as_near() {
        let image = image();
        let of_rack = |rack| chosen(&image, rack, "PLAINTEXT");
        assert_eq!(of_rack(Some("b")), Some(2));
        assert_eq!(of_rack(Some("c")), Some(4));
        assert_eq!(of_rack(Some("a")), None, "the leader is there");
        assert_eq!(of_rack(Some("nowhere")), None);
        assert_eq!(of_rack(None), None);
        assert_eq!(chosen(&image, Some("b"), "OTHER"), None, "it could not get there");
    }

    #[test]
    fn a_replica_that_is_not_in_sync_or_not_there_is_not_read_from() {
        let mut image = image();
        fence(&mut image, 2);
        assert_eq!(chosen(&image, Some("b"), "PLAINTEXT"), Some(3));
        fence(&mut image, 3);
        assert_eq!(chosen(&image, Some("b"), "PLAINTEXT"), None);
        let broker_epoch = image.broker(NodeId(2)).unwrap().epoch;
        machine::apply(&mut image, &Command::UnfenceBroker { node_id: NodeId(2), broker_epoch }).unwrap();
        assert_eq!(chosen(&image, Some("b"), "PLAINTEXT"), None, "it has to catch up first");
    }

    #[test]
    fn without_a_leader_nobody_is_sent_anywhere() {
        let mut image = image();
        for node in 1..=4 {
            fence(&mut image, node);
        }
        assert_eq!(chosen(&image, Some("b"), "PLAINTEXT"), None);
    }
}
