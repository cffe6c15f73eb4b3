//! CreateTopics: new topics, or a dry run of making them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, CreateTopicsResponse, TopicName};

use super::describe_configs::ENTRY_BYTES;
use super::wire::{message, text};
use super::{AnswerRoom, Context, Handle};
use crate::broker::{AdminError, NewTopic};
use crate::metadata::image::Topic;
use crate::metadata::topic_config;
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;
use crate::types::NodeId;

/// Kafka's own topic, of which its brokers never ask their controller.
const CLUSTER_METADATA: &str = "__cluster_metadata";
/// Partitions that one request may ask for (`ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`).
const MAX_PARTITIONS: u64 = 10_000;

impl Handle for CreateTopicsRequest {
    async fn handle(self, context: &Context) -> CreateTopicsResponse {
        let twice = named_twice(self.topics.iter().map(|topic| &topic.name));
        if let Some(error) = refused_whole(context, &self, &twice) {
            let refused = self.topics.into_iter().map(|topic| {
                let result = CreatableTopicResult::default().with_name(topic.name);
                refuse(context, result, admin_code(&error), &error)
            });
            return CreateTopicsResponse::default().with_topics(refused.collect());
        }
        let mut told = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let name = topic.name.clone();
            let made = if !twice.contains(&name) {
                create(context, topic, self.validate_only).await
            } else if told.insert(name.clone()) {
                Err(AdminError::Invalid("Duplicate topic name."))
            } else {
                continue;
            };
            outcomes.push((name, made));
            // A dry run waits for nothing, and others of this thread are to have their turn.
            tokio::task::yield_now().await;
        }
        context.take_place().await;
        let mut room = context.answer_room();
        let mut results = Vec::with_capacity(outcomes.len());
        for (name, made) in outcomes {
            let result = CreatableTopicResult::default().with_name(name);
            results.push(match made {
                Ok(topic) => created(context, result, &topic, &mut room),
                Err(error) => refuse(context, result, admin_code(&error), error),
            });
            tokio::task::yield_now().await;
        }
        CreateTopicsResponse::default().with_topics(results)
    }
}

/// Why nothing of a request is done, not even tried. What is named twice was never asked for, as in Apache Kafka.
fn refused_whole(context: &Context, request: &CreateTopicsRequest, twice: &BTreeSet<TopicName>) -> Option<AdminError> {
    let is_asked = |topic: &&CreatableTopic| !twice.contains(&topic.name) && **topic.name != *CLUSTER_METADATA;
    let asked: Vec<_> = request.topics.iter().filter(is_asked).collect();
    if asked.is_empty() {
        return None;
    }
    if request.timeout_ms <= 0 {
        return Some(AdminError::NoTime);
    }
    let by_default = context.broker.settings().topics.default_partitions;
    let partitions = |topic: &CreatableTopic| match (topic.assignments.len(), topic.num_partitions) {
        (0, -1) => u64::try_from(by_default).unwrap_or(0),
        (0, number) => u64::try_from(number).unwrap_or(0),
        (assigned, _) => assigned as u64,
    };
    let requested: u64 = asked.into_iter().map(partitions).sum();
    (requested > MAX_PARTITIONS).then_some(AdminError::TooManyAtOnce { requested, limit: MAX_PARTITIONS })
}

async fn create(context: &Context, topic: CreatableTopic, validate_only: bool) -> Result<Arc<Topic>, AdminError> {
    context.broker.create_topic(wanted(topic), validate_only).await
}

/// The names that a request has more than once.
pub(super) fn named_twice<'a, T: Ord + Clone + 'a>(names: impl Iterator<Item = &'a T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).cloned().collect()
}

fn wanted(topic: CreatableTopic) -> NewTopic {
    let nodes = |ids: Vec<BrokerId>| ids.into_iter().map(|id| NodeId(id.0)).collect::<Vec<_>>();
    let assigned = topic.assignments.into_iter().map(|one| (one.partition_index, nodes(one.broker_ids)));
    let has_null_config = topic.configs.iter().any(|config| config.value.is_none());
    let valued = |config: CreatableTopicConfig| Some((config.name.to_string(), config.value?.to_string()));
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignment: assigned.collect(),
        configs: topic.configs.into_iter().filter_map(valued).collect(),
        has_null_config,
    }
}

/// A topic that was made, with its configurations as long as there is room for them: they can be asked for.
fn created(
    context: &Context,
    result: CreatableTopicResult,
    topic: &Topic,
    room: &mut AnswerRoom,
) -> CreatableTopicResult {
    let image = context.broker.image();
    let configs = if room.take(topic_config::described() * ENTRY_BYTES) {
        topic_config::describe(&topic.configs.values, &context.broker.layers(&image))
    } else {
        Vec::new()
    };
    let configs = configs.into_iter().map(|entry| {
        CreatableTopicConfigs::default()
            .with_name(text(entry.name))
            .with_value(entry.value.as_deref().map(text))
            .with_read_only(entry.read_only)
            .with_config_source(entry.source as i8)
            .with_is_sensitive(entry.sensitive)
    });
    let replicas = topic.partition(0).map_or(0, |partition| partition.replicas.len());
    result
        .with_error_message(None)
        .with_topic_id(topic.topic_id.uuid())
        .with_num_partitions(topic.partition_count())
        .with_replication_factor(i16::try_from(replicas).unwrap_or(i16::MAX))
        .with_configs(Some(configs.collect()))
}

fn refuse(
    context: &Context,
    result: CreatableTopicResult,
    error: ErrorCode,
    text: impl std::fmt::Display,
) -> CreatableTopicResult {
    context.count_error(error);
    result
        .with_error_code(error.code())
        .with_error_message(message(text))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
}
