//! Small translations that many handlers share.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Context;
use crate::broker::Broker;
use crate::metadata::Image;
use crate::metadata::image::{Broker as RegisteredBroker, BrokerState};
use crate::types::{LeaderEpoch, NodeId, TopicId};

/// Operations that Kafka reports for a topic when nobody is authorized or refused: READ, WRITE, CREATE, DELETE, ALTER,
/// DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS, as bits by `AclOperation` code.
pub(super) const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// The same for the cluster: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
pub(super) const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);
/// The same for a group: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS.
pub(super) const GROUP_OPERATIONS: i32 = bits(&[3, 6, 8, 10, 11]);
/// Stands for operations that were not asked for.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

const fn bits(codes: &[u32]) -> i32 {
    let (mut sum, mut index) = (0, 0);
    while index < codes.len() {
        sum |= 1 << codes[index];
        index += 1;
    }
    sum
}

/// Text for the wire.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Text from the wire, to be kept.
pub(super) fn shared(text: &StrBytes) -> Arc<str> {
    Arc::from(&**text)
}

/// Text from the wire that may be null.
pub(super) fn shared_option(text: Option<&StrBytes>) -> Option<Arc<str>> {
    text.map(shared)
}

/// An error's text for the wire.
pub(super) fn message(error: impl std::fmt::Display) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}

/// A topic's name for the wire.
pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A broker's number for the wire; −1 is none.
pub(super) fn broker_id(node_id: Option<NodeId>) -> BrokerId {
    BrokerId(node_id.map_or(-1, NodeId::get))
}

/// A topic's identity from the wire.
pub(super) const fn topic_id(uuid: Uuid) -> TopicId {
    TopicId::new(uuid)
}

/// A leader epoch from the wire, where anything negative means none.
pub(super) fn leader_epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch(epoch.max(-1))
}

/// A broker as the clients of one listener reach it.
pub(super) struct Reachable {
    pub(super) node_id: BrokerId,
    pub(super) host: StrBytes,
    pub(super) port: i32,
    pub(super) rack: Option<StrBytes>,
    pub(super) is_fenced: bool,
}

/// Whether clients are to know a broker. One that is about to shut down may still lead what nobody else can.
pub(super) const fn is_alive(broker: &RegisteredBroker) -> bool {
    !matches!(broker.state, BrokerState::Fenced)
}

/// The brokers that have the listener of this request, fenced ones among them.
pub(super) fn registered_brokers(image: &Image, context: &Context) -> Vec<Reachable> {
    image.brokers().filter_map(|broker| reachable(broker, context)).collect()
}

/// The brokers that are alive and have the listener of this request.
pub(super) fn live_brokers(image: &Image, context: &Context) -> Vec<Reachable> {
    registered_brokers(image, context).into_iter().filter(|broker| !broker.is_fenced).collect()
}

/// One of them.
pub(super) fn live_broker(image: &Image, node_id: NodeId, context: &Context) -> Option<Reachable> {
    reachable(image.broker(node_id)?, context).filter(|broker| !broker.is_fenced)
}

/// Those of some leaders that clients can go to.
pub(super) fn leaders(image: &Image, leaders: BTreeSet<NodeId>, context: &Context) -> Vec<Reachable> {
    leaders.into_iter().filter_map(|node_id| live_broker(image, node_id, context)).collect()
}

/// Who leads a partition now, if anybody does, and in which epoch: for clients that asked a broker that does not (KIP-951).
pub(super) fn current_leader(
    image: &Image,
    topic_id: TopicId,
    topic: &str,
    partition: i32,
) -> (Option<NodeId>, LeaderEpoch) {
    let topic = Broker::topic(image, topic_id, topic).ok();
    let partition = topic.and_then(|topic| topic.partition(partition));
    partition.map_or((None, LeaderEpoch::NONE), |partition| (partition.leader, partition.leader_epoch))
}

fn reachable(broker: &RegisteredBroker, context: &Context) -> Option<Reachable> {
    let endpoint = broker.listeners.get(&*context.peer.listener)?;
    Some(Reachable {
        node_id: BrokerId(broker.node_id.get()),
        host: text(&endpoint.host),
        port: i32::from(endpoint.port),
        rack: broker.rack.as_deref().map(text),
        is_fenced: !is_alive(broker),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{machine, testing};

    #[test]
    fn the_leader_of_a_partition_is_found_by_name_and_by_identity() {
        let mut image = testing::image_with_brokers(&[(1, "rack")]);
        let command = testing::create_topic(&image, 1, "events", 1);
        machine::apply(&mut image, &command).unwrap();
        let leads = (Some(NodeId(1)), LeaderEpoch(0));
        assert_eq!(current_leader(&image, TopicId::ZERO, "events", 0), leads);
        assert_eq!(current_leader(&image, testing::topic_id(1), "", 0), leads);
        let nobody = (None, LeaderEpoch::NONE);
        assert_eq!(current_leader(&image, TopicId::ZERO, "events", 1), nobody);
        assert_eq!(current_leader(&image, testing::topic_id(2), "", 0), nobody);
    }
}
