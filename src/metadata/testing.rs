//! Shared by the tests of this module, and by others that need an image: brokers, topics and whole histories.

use std::collections::BTreeMap;

use super::command::{Command, CreateTopic, Endpoint, Outcome, RegisterBroker, SecurityProtocol};
use super::image::Image;
use super::{machine, placement};
use crate::types::{BrokerEpoch, BrokerIncarnationId, ClusterId, DirectoryId, NodeId, TopicId};

pub(super) const CLUSTER: ClusterId = ClusterId::from_entropy([9; 16]);

/// An identity made of a number.
pub(super) fn identity(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn topic_id(number: u64) -> TopicId {
    TopicId::from_bytes(identity(number))
}

pub(super) fn register(node: i32, incarnation: u64) -> RegisterBroker {
    let host = "127.0.0.1".to_owned();
    let endpoint = Endpoint { host, port: 9092, security_protocol: SecurityProtocol::Plaintext };
    RegisterBroker {
        cluster_id: CLUSTER,
        node_id: NodeId(node),
        incarnation_id: BrokerIncarnationId::from_bytes(identity(incarnation)),
        listeners: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint)]),
        rack: None,
        directories: vec![DirectoryId::from_bytes(identity(node.unsigned_abs().into()))],
        newest_leader_epoch: None,
        missed_registrations: 0,
        peer: None,
        starts_fenced: false,
        may_have_lost_unsynced: false,
    }
}

pub(crate) fn image_with_brokers(brokers: &[(i32, &str)]) -> Image {
    let mut image = Image::default();
    machine::apply(&mut image, &Command::SetClusterId(CLUSTER)).unwrap();
    for (node, rack) in brokers {
        let command = RegisterBroker { rack: Some((*rack).to_owned()), ..register(*node, 1) };
        machine::apply(&mut image, &Command::RegisterBroker(command)).unwrap();
    }
    image
}

/// The command that creates a topic on the brokers of an image.
pub(crate) fn create_topic(image: &Image, number: u64, name: &str, partitions: i32) -> Command {
    Command::CreateTopic(CreateTopic {
        name: name.to_owned(),
        topic_id: topic_id(number),
        assignment: placement::place(image, partitions, 1).unwrap(),
        configs: BTreeMap::new(),
        internal: false,
    })
}

pub(super) fn epoch_of(outcome: Outcome) -> BrokerEpoch {
    match outcome {
        Outcome::BrokerRegistered(epoch) => epoch,
        other => panic!("no registration: {other:?}"),
    }
}
