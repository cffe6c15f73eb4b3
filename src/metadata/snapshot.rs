//! An image as bytes: one line of JSON per object, in the image's order, so that equal images have equal bytes.
//!
//! ```text
//! {"format":1,"version":V,"cluster_id":ID,"next_broker_epoch":E,"next_producer_id":P,"directories":[ID,…],"incarnation":N}
//! {"broker":{…}}   {"topic":{…}}   {"deleted_topic":{…}}   {"broker_configs":{…}}   {"feature_level":{…}}
//! {"archived":{…}}   {"unrestored":{…}}   {"authority":{…}}   one per line
//! ```
//! The incarnation is there once the cluster was restored. A partition is `[leader, leader_epoch, partition_epoch, replicas]`, and `{"adding":[…],"removing":[…]}` at the end while replicas
//! move; a replica is `[node_id, directory, state]` with the directory's place in the header's list: with a million partitions,
//! names would be most of the bytes. What keeps the bytes (a file, a stream to another node) adds the checksum.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::image::{
    ArchiveMark, Broker, ClusterAuthority, Configs, DeletedTopic, Image, Moving, Partition, Replica, ReplicaState,
    Topic,
};
use crate::types::{
    BrokerEpoch, ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch, ProducerId, TopicId,
    TopicPartition,
};

/// Format of encoded images; a higher number is refused.
pub const IMAGE_FORMAT: u32 = 1;
const WHAT: &str = "metadata snapshot";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    version: u64,
    cluster_id: ClusterId,
    next_broker_epoch: BrokerEpoch,
    next_producer_id: ProducerId,
    directories: Vec<DirectoryId>,
    #[serde(default, skip_serializing_if = "is_first")]
    incarnation: Incarnation,
}

/// Whether a cluster was never restored.
fn is_first(incarnation: &Incarnation) -> bool {
    *incarnation == Incarnation(0)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Broker(Broker),
    Topic(TopicLine),
    DeletedTopic(DeletedTopic),
    BrokerConfigs { node_id: Option<NodeId>, configs: Configs },
    FeatureLevel { name: String, level: i16 },
    Archived { partition: TopicPartition, mark: ArchiveMark },
    Unrestored { partition: TopicPartition },
    Authority(ClusterAuthority),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicLine {
    name: String,
    topic_id: TopicId,
    internal: bool,
    configs: Configs,
    partitions: Vec<PartitionLine>,
}

#[derive(Serialize, Deserialize)]
struct PartitionLine(
    Option<NodeId>,
    LeaderEpoch,
    PartitionEpoch,
    Vec<ReplicaLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<Box<Moving>>,
);

#[derive(Serialize, Deserialize)]
struct ReplicaLine(NodeId, usize, u8);

impl TopicLine {
    fn new(topic: &Topic, directories: &[DirectoryId]) -> Self {
        let place = |directory: &DirectoryId| {
            directories.binary_search(directory).expect("the header lists every directory in use")
        };
        let replica = |one: &Replica| ReplicaLine(one.node_id, place(&one.directory), one.state as u8);
        let partition = |one: &Partition| {
            let replicas = one.replicas.iter().map(replica).collect();
            PartitionLine(one.leader, one.leader_epoch, one.partition_epoch, replicas, one.moving.clone())
        };
        Self {
            name: topic.name.as_ref().to_owned(),
            topic_id: topic.topic_id,
            internal: topic.internal,
            configs: topic.configs.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
        }
    }

    fn topic(self, directories: &[DirectoryId]) -> Result<Topic, serde_json::Error> {
        let replica = |ReplicaLine(node_id, place, state)| {
            let state = match state {
                0 => ReplicaState::Behind,
                1 => ReplicaState::InSync,
                2 => ReplicaState::Eligible,
                _ => return Err(serde_json::Error::custom("a replica is in a state that this version does not know")),
            };
            match directories.get(place) {
                Some(directory) => Ok(Replica { node_id, directory: *directory, state }),
                None => Err(serde_json::Error::custom("a replica is in a directory that the header does not list")),
            }
        };
        let partition = |PartitionLine(leader, leader_epoch, partition_epoch, replicas, moving)| {
            let replicas = replicas.into_iter().map(replica).collect::<Result<_, _>>()?;
            Ok(Partition { replicas, leader, leader_epoch, partition_epoch, moving })
        };
        Ok(Topic {
            name: Arc::from(self.name),
            topic_id: self.topic_id,
            internal: self.internal,
            configs: self.configs,
            partitions: self.partitions.into_iter().map(partition).collect::<Result<_, serde_json::Error>>()?,
        })
    }
}

/// Encodes an image.
pub fn encode(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let partitions = image.topics.values().flat_map(|topic| topic.partitions.iter());
    let directories: BTreeSet<_> =
        partitions.flat_map(|one| one.replicas.iter()).map(|replica| replica.directory).collect();
    let directories = Vec::from_iter(directories);
    let header = Header {
        format: IMAGE_FORMAT,
        version: image.version,
        cluster_id: image.cluster_id,
        next_broker_epoch: image.next_broker_epoch,
        next_producer_id: image.next_producer_id,
        directories,
        incarnation: image.incarnation,
    };
    write_line(&mut bytes, &header);
    for broker in image.brokers.values() {
        write_line(&mut bytes, &Line::Broker(Broker::clone(broker)));
    }
    for topic in image.topics.values() {
        write_line(&mut bytes, &Line::Topic(TopicLine::new(topic, &header.directories)));
    }
    for deleted in image.deleted_topics.values() {
        write_line(&mut bytes, &Line::DeletedTopic(DeletedTopic::clone(deleted)));
    }
    for (node_id, configs) in &image.broker_configs {
        write_line(&mut bytes, &Line::BrokerConfigs { node_id: *node_id, configs: Configs::clone(configs) });
    }
    for (name, level) in &image.feature_levels {
        write_line(&mut bytes, &Line::FeatureLevel { name: name.clone(), level: *level });
    }
    for (partition, mark) in &image.archived {
        write_line(&mut bytes, &Line::Archived { partition: *partition, mark: *mark });
    }
    for partition in &image.unrestored {
        write_line(&mut bytes, &Line::Unrestored { partition: *partition });
    }
    if let Some(authority) = &image.authority {
        write_line(&mut bytes, &Line::Authority(ClusterAuthority::clone(authority)));
    }
    bytes
}

fn write_line(bytes: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *bytes, line).expect("images have string keys and memory does not fail");
    bytes.push(b'\n');
}

/// Decodes an image.
///
/// # Errors
/// [`DecodeError`] for a format newer than [`IMAGE_FORMAT`], and for bytes that [`encode`] did not write.
pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let malformed = |source| DecodeError::Malformed { what: WHAT, source };
    let Some(body) = bytes.strip_suffix(b"\n") else {
        return Err(DecodeError::Truncated { what: WHAT });
    };
    let mut lines = body.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Format { format } = serde_json::from_slice(first).map_err(malformed)?;
    if format > IMAGE_FORMAT {
        return Err(DecodeError::UnsupportedFormat { what: WHAT, found: format, supported: IMAGE_FORMAT });
    }
    let header: Header = serde_json::from_slice(first).map_err(malformed)?;
    let mut image = Image {
        version: header.version,
        cluster_id: header.cluster_id,
        next_broker_epoch: header.next_broker_epoch,
        next_producer_id: header.next_producer_id,
        incarnation: header.incarnation,
        ..Image::default()
    };
    for line in lines {
        match serde_json::from_slice(line).map_err(malformed)? {
            Line::Broker(broker) => drop(image.brokers.insert(broker.node_id, Arc::new(broker))),
            Line::Topic(topic) => image.insert_topic(topic.topic(&header.directories).map_err(malformed)?),
            Line::DeletedTopic(deleted) => drop(image.deleted_topics.insert(deleted.topic_id, Arc::new(deleted))),
            Line::BrokerConfigs { node_id, configs } => drop(image.broker_configs.insert(node_id, Arc::new(configs))),
            Line::FeatureLevel { name, level } => drop(image.feature_levels.insert(name, level)),
            Line::Archived { partition, mark } => drop(image.archived.insert(partition, mark)),
            Line::Unrestored { partition } => drop(image.unrestored.insert(partition)),
            Line::Authority(authority) => image.authority = Some(Arc::new(authority)),
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::metadata::command::{Endpoint, SecurityProtocol};
    use crate::metadata::image::BrokerState;
    use crate::metadata::testing::{create_topic, image_with_brokers};
    use crate::metadata::{Command, machine};
    use crate::sim::damaged;
    use crate::types::{BrokerIncarnationId, Offset};

    #[test]
    fn encoded_bytes_are_frozen_and_a_newer_format_is_refused() {
        let mut image = image_with_brokers(&[(1, "a")]);
        let create = create_topic(&image, 7, "t", 1);
        machine::apply(&mut image, &create).unwrap();
        machine::advance(&mut image, 3);
        let bytes = encode(&image);
        let text = std::str::from_utf8(&bytes).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with(r#"{"format":1,"version":3,"cluster_id":""#), "{text}");
        assert!(lines[0].ends_with(
            r#""next_broker_epoch":2,"next_producer_id":0,"directories":["00000000000000000000000000000001"]}"#
        ));
        let topic = r#"{"topic":{"name":"t","topic_id":"00000000000000000000000000000007","internal":false,"configs":{"version":0,"values":{}},"partitions":[[1,0,0,[[1,0,1]]]]}}"#;
        assert_eq!(lines[2], topic);
        assert_eq!(decode(&bytes).unwrap(), image);

        let unknown = text.replacen("[[1,0,1]]", "[[1,0,3]]", 1);
        assert!(matches!(decode(unknown.as_bytes()), Err(DecodeError::Malformed { .. })));

        let newer = text.replacen(r#"{"format":1"#, r#"{"format":2"#, 1);
        assert!(matches!(decode(newer.as_bytes()), Err(DecodeError::UnsupportedFormat { found: 2, .. })));
        let astray = text.replacen("[[1,0,1]]", "[[1,9,1]]", 1);
        assert!(matches!(decode(astray.as_bytes()), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated { .. })));
    }

    #[test]
    fn what_later_versions_added_has_frozen_bytes_of_its_own() {
        let mut image = image_with_brokers(&[(1, "a")]);
        let create = create_topic(&image, 7, "t", 1);
        machine::apply(&mut image, &create).unwrap();
        let alone = encode(&image);
        let epoch = image.broker(NodeId(1)).unwrap().epoch;
        machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(1), broker_epoch: epoch }).unwrap();
        let authority = ClusterAuthority { certificate: vec![1], key: vec![0xff], join_secret: vec![0x10, 2] };
        machine::apply(&mut image, &Command::SetAuthority(authority)).unwrap();
        let topic = Arc::make_mut(image.topics.get_mut(&crate::metadata::testing::topic_id(7)).unwrap());
        topic.partitions[0].moving = Some(Box::new(Moving { adding: vec![NodeId(3)], removing: Vec::new() }));
        let text = String::from_utf8(encode(&image)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].ends_with(r#","directories":["00000000000000000000000000000001"],"state":"fenced"}}"#),
            "{text}"
        );
        assert!(lines[2].ends_with(r#""partitions":[[null,1,1,[[1,0,2]],{"adding":[3],"removing":[]}]]}}"#), "{text}");
        assert_eq!(lines[3], r#"{"authority":{"certificate":"01","key":"ff","join_secret":"1002"}}"#);
        assert_eq!(decode(text.as_bytes()).unwrap(), image);
        let text = String::from_utf8(alone).unwrap();
        assert!(!text.contains("state") && !text.contains("peer") && !text.contains("authority"), "{text}");
    }

    #[test]
    fn the_incarnation_of_a_restored_cluster_is_in_the_header() {
        let mut image = image_with_brokers(&[(1, "a")]);
        let alone = encode(&image);
        assert!(!String::from_utf8(alone).unwrap().contains(r#""incarnation":"#), "as 0.1.0 wrote it");
        let begin = Command::BeginIncarnation { incarnation: Incarnation(2), next_producer_id: ProducerId(7) };
        machine::apply(&mut image, &begin).unwrap();
        let bytes = encode(&image);
        let text = std::str::from_utf8(&bytes).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.ends_with(r#""next_producer_id":7,"directories":[],"incarnation":2}"#), "{text}");
        assert_eq!(decode(&bytes).unwrap(), image);
    }

    /// Of the damage that can be done to an image, every so many are tried.
    const STEP: usize = 17;
    const TEXT: &str = ".{0,4}";

    fn broker() -> impl Strategy<Value = Broker> {
        let security_protocol = SecurityProtocol::SaslPlaintext;
        let endpoint = (TEXT, any::<u16>()).prop_map(move |(host, port)| Endpoint { host, port, security_protocol });
        let directories = vec(any::<[u8; 16]>().prop_map(DirectoryId::from_bytes), 0..3);
        let identity = any::<(i32, i64, [u8; 16])>();
        let state = prop_oneof![Just(BrokerState::Active), Just(BrokerState::Fenced), Just(BrokerState::ShuttingDown)];
        let cluster = (option::of(TEXT), option::of(TEXT), state);
        (identity, btree_map(TEXT, endpoint, 0..3), cluster, directories).prop_map(
            |((node, epoch, process), listeners, (rack, peer, state), directories)| Broker {
                node_id: NodeId(node),
                epoch: BrokerEpoch(epoch),
                incarnation_id: BrokerIncarnationId::from_bytes(process),
                listeners,
                rack,
                directories,
                peer,
                state,
            },
        )
    }

    fn configs() -> impl Strategy<Value = Configs> {
        (any::<u64>(), btree_map(TEXT, TEXT, 0..3)).prop_map(|(version, values)| Configs { version, values })
    }

    fn topic() -> impl Strategy<Value = Topic> {
        let state = prop_oneof![Just(ReplicaState::Behind), Just(ReplicaState::InSync), Just(ReplicaState::Eligible)];
        let replica = (any::<(i32, [u8; 16])>(), state).prop_map(|((node, directory), state)| Replica {
            node_id: NodeId(node),
            directory: DirectoryId::from_bytes(directory),
            state,
        });
        let nodes = || vec(any::<i32>().prop_map(NodeId), 0..3);
        let moving = option::of((nodes(), nodes()));
        let partition = (vec(replica, 0..3), any::<(Option<i32>, i32, i32)>(), moving).prop_map(
            |(replicas, (leader, leader_epoch, partition_epoch), moving)| Partition {
                replicas: replicas.into(),
                leader: leader.map(NodeId),
                leader_epoch: LeaderEpoch(leader_epoch),
                partition_epoch: PartitionEpoch(partition_epoch),
                moving: moving.map(|(adding, removing)| Box::new(Moving { adding, removing })),
            },
        );
        (any::<([u8; 16], bool)>(), TEXT, configs(), vec(partition, 0..3)).prop_map(
            |((id, internal), text, configs, partitions)| Topic {
                name: format!("{}.{text}", TopicId::from_bytes(id)).into(),
                topic_id: TopicId::from_bytes(id),
                internal,
                configs,
                partitions: partitions.into_iter().collect(),
            },
        )
    }

    fn deleted_topic() -> impl Strategy<Value = DeletedTopic> {
        (any::<([u8; 16], i32)>(), TEXT).prop_map(|((id, partitions), name)| DeletedTopic {
            topic_id: TopicId::from_bytes(id),
            name,
            partitions,
        })
    }

    fn topic_partition() -> impl Strategy<Value = TopicPartition> {
        any::<([u8; 16], i32)>().prop_map(|(id, number)| TopicPartition::new(TopicId::from_bytes(id), number))
    }

    fn any_image() -> impl Strategy<Value = Image> {
        let numbers = any::<(u64, [u8; 16], i64, i64, u32)>();
        let levels = btree_map(TEXT, any::<i16>(), 0..3);
        let cluster = (vec(broker(), 0..3), btree_map(any::<Option<i32>>(), configs(), 0..3), levels);
        let topics = (vec(topic(), 0..3), vec(deleted_topic(), 0..3));
        let mark = any::<(i64, i32)>().prop_map(|(next_offset, epoch)| ArchiveMark {
            next_offset: Offset(next_offset),
            leader_epoch: LeaderEpoch(epoch),
        });
        let bytes = || vec(any::<u8>(), 0..3);
        let authority = option::of((bytes(), bytes(), bytes()));
        let records = (btree_map(topic_partition(), mark, 0..3), btree_set(topic_partition(), 0..3), authority);
        (numbers, cluster, topics, records).prop_map(|(numbers, cluster, (topics, deleted), records)| {
            let (archived, unrestored, authority) = records;
            let authority =
                authority.map(|(certificate, key, join_secret)| ClusterAuthority { certificate, key, join_secret });
            let (version, cluster_id, next_broker_epoch, next_producer_id, incarnation) = numbers;
            let (brokers, broker_configs, feature_levels) = cluster;
            let broker_configs = broker_configs.into_iter().map(|(node, one)| (node.map(NodeId), Arc::new(one)));
            let mut image = Image {
                version,
                cluster_id: ClusterId::from_bytes(cluster_id),
                incarnation: Incarnation(incarnation),
                next_broker_epoch: BrokerEpoch(next_broker_epoch),
                next_producer_id: ProducerId(next_producer_id),
                brokers: brokers.into_iter().map(|broker| (broker.node_id, Arc::new(broker))).collect(),
                deleted_topics: deleted.into_iter().map(|topic| (topic.topic_id, Arc::new(topic))).collect(),
                broker_configs: broker_configs.collect(),
                feature_levels: feature_levels.into_iter().collect(),
                archived: archived.into_iter().collect(),
                unrestored: unrestored.into_iter().collect(),
                authority: authority.map(Arc::new),
                ..Image::default()
            };
            topics.into_iter().for_each(|topic| image.insert_topic(topic));
            image
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_image_reads_back_as_written_and_a_damaged_one_is_refused_or_reads_as_one_that_can_be_written(
            image in any_image(),
            mask in 1..=u8::MAX,
            first in 0..STEP,
        ) {
            let bytes = encode(&image);
            prop_assert_eq!(decode(&bytes).unwrap(), image);
            for bad in damaged(&bytes, mask).skip(first).step_by(STEP) {
                let Ok(read) = decode(&bad) else { continue };
                let again = encode(&read);
                prop_assert_eq!(encode(&decode(&again).unwrap()), again);
            }
        }
    }
}
