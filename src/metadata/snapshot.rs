//! An image as bytes: one line of JSON per object, in the image's order, so that equal images have equal bytes.
//!
//! ```text
//! {"format":1,"version":V,"cluster_id":ID,"next_broker_epoch":E,"next_producer_id":P}
//! {"broker":{…}}   {"topic":{…}}   {"deleted_topic":{…}}   {"broker_configs":{…}}   {"feature_level":{…}}   one per line
//! ```
//! What keeps the bytes (a file, a stream to another node) adds the checksum.

use std::sync::Arc;

use imbl::Vector;
use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::image::{Broker, Configs, DeletedTopic, Image, Partition, Topic};
use crate::types::{BrokerEpoch, ClusterId, NodeId, ProducerId, TopicId};

/// Format of encoded images; a higher number is refused.
pub const IMAGE_FORMAT: u32 = 1;
const WHAT: &str = "metadata snapshot";

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    version: u64,
    cluster_id: ClusterId,
    next_broker_epoch: BrokerEpoch,
    next_producer_id: ProducerId,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Broker(Broker),
    Topic(TopicLine),
    DeletedTopic(DeletedTopic),
    BrokerConfigs { node_id: Option<NodeId>, configs: Configs },
    FeatureLevel { name: String, level: i16 },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicLine {
    name: String,
    topic_id: TopicId,
    internal: bool,
    configs: Configs,
    partitions: Vec<Partition>,
}

impl From<&Topic> for TopicLine {
    fn from(topic: &Topic) -> Self {
        Self {
            name: topic.name.as_ref().to_owned(),
            topic_id: topic.topic_id,
            internal: topic.internal,
            configs: topic.configs.clone(),
            partitions: topic.partitions.iter().cloned().collect(),
        }
    }
}

impl From<TopicLine> for Topic {
    fn from(line: TopicLine) -> Self {
        Self {
            name: Arc::from(line.name),
            topic_id: line.topic_id,
            internal: line.internal,
            configs: line.configs,
            partitions: Vector::from(line.partitions),
        }
    }
}

/// Encodes an image.
pub fn encode(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header {
        format: IMAGE_FORMAT,
        version: image.version,
        cluster_id: image.cluster_id,
        next_broker_epoch: image.next_broker_epoch,
        next_producer_id: image.next_producer_id,
    };
    write_line(&mut bytes, &header);
    for broker in image.brokers.values() {
        write_line(&mut bytes, &Line::Broker(Broker::clone(broker)));
    }
    for topic in image.topics.values() {
        write_line(&mut bytes, &Line::Topic(TopicLine::from(topic.as_ref())));
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
        ..Image::default()
    };
    for line in lines {
        match serde_json::from_slice(line).map_err(malformed)? {
            Line::Broker(broker) => drop(image.brokers.insert(broker.node_id, Arc::new(broker))),
            Line::Topic(topic) => image.insert_topic(topic.into()),
            Line::DeletedTopic(deleted) => drop(image.deleted_topics.insert(deleted.topic_id, Arc::new(deleted))),
            Line::BrokerConfigs { node_id, configs } => drop(image.broker_configs.insert(node_id, Arc::new(configs))),
            Line::FeatureLevel { name, level } => drop(image.feature_levels.insert(name, level)),
        }
    }
    Ok(image)
}
