//! Metadata: brokers, topics, partitions and their leaders; creates topics that are asked for, where that is allowed.

use std::collections::BTreeSet;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use uuid::Uuid;

use super::described::{View, described_partition, described_topic};
use super::wire::{CLUSTER_OPERATIONS, NO_OPERATIONS, TOPIC_OPERATIONS, broker_id, live_brokers, text, topic_id};
use super::{Context, Handle};
use crate::metadata::image::Topic;
use crate::metadata::topic_name::{is_internal, validate};
use crate::protocol::ErrorCode;

/// First version that may name topics by identity (KIP-516); versions 10 and 11 have the field, but refuse it.
const FIRST_TOPIC_ID_VERSION: i16 = 12;

/// A topic as it is named: by name, or by identity where that is missing.
type Wanted = (Option<TopicName>, Uuid);

impl Handle for MetadataRequest {
    async fn handle(self, context: &Context) -> MetadataResponse {
        let named = self.topics.iter().flatten();
        if context.version() < FIRST_TOPIC_ID_VERSION
            && named.clone().any(|topic| topic.name.is_none() || !topic.topic_id.is_nil())
        {
            return refused(named);
        }
        let mut topics = Vec::new();
        // Before version 1 an empty list asked for all topics.
        let wanted = self.topics.filter(|topics| context.version() > 0 || !topics.is_empty());
        let operations = if self.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS };
        let wanted = wanted.map(distinct);
        if let Some(wanted) = &wanted
            && self.allow_auto_topic_creation
        {
            create_missing(context, wanted).await;
        }
        context.take_place().await;
        let image = context.broker.image();
        let view = View::of_metadata(&image, context);
        match wanted {
            None => topics.extend(image.topics().map(|topic| described(&view, topic, operations))),
            Some(wanted) => {
                topics.extend(wanted.into_iter().map(|topic| one_topic(&view, topic, operations)));
            }
        }
        let brokers = live_brokers(&image, context).into_iter().map(|broker| {
            MetadataResponseBroker::default()
                .with_node_id(broker.node_id)
                .with_host(broker.host)
                .with_port(broker.port)
                .with_rack(broker.rack)
        });
        let operations = if self.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { NO_OPERATIONS };
        MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_cluster_id(Some(text(&context.broker.cluster_id().to_string())))
            .with_controller_id(broker_id(Some(context.broker.controller(&image))))
            .with_topics(topics)
            .with_cluster_authorized_operations(operations)
    }
}

/// The answer to a request by identity before that was allowed: an error for each topic, and nothing else.
fn refused<'a>(topics: impl Iterator<Item = &'a MetadataRequestTopic>) -> MetadataResponse {
    let topics = topics.map(|topic| {
        MetadataResponseTopic::default()
            .with_error_code(ErrorCode::InvalidRequest.code())
            .with_name(Some(topic.name.clone().unwrap_or_default()))
            .with_topic_id(topic.topic_id)
    });
    MetadataResponse::default().with_cluster_id(None).with_topics(topics.collect())
}

/// As Kafka takes them: each topic once, however often it is named; and where any is named by identity, only those.
fn distinct(topics: Vec<MetadataRequestTopic>) -> BTreeSet<Wanted> {
    let by_id = topics.iter().any(|topic| !topic.topic_id.is_nil());
    let wanted = topics.into_iter().filter(|topic| topic.topic_id.is_nil() != by_id);
    wanted.map(|topic| (topic.name.filter(|_| !by_id), topic.topic_id)).collect()
}

/// Creates the topics that are named and not there, where that is allowed. Those that can't be are unknown, which is all that Kafka
/// says, and clients ask again.
async fn create_missing(context: &Context, wanted: &BTreeSet<Wanted>) {
    if !context.broker.settings().topics.auto_create {
        return;
    }
    for name in wanted.iter().filter_map(|(name, _)| name.as_ref()) {
        if context.broker.image().topic_named(name).is_none()
            && validate(name).is_ok()
            && let Err(error) = context.broker.auto_create_topic(name).await
        {
            tracing::info!(topic = &***name, %error, "a topic that a client asked for was not created");
        }
    }
}

fn one_topic(view: &View<'_>, (name, id): Wanted, operations: i32) -> MetadataResponseTopic {
    let refused = |error: ErrorCode| MetadataResponseTopic::default().with_error_code(error.code());
    let Some(name) = name else {
        let id = topic_id(id);
        return match view.image.topic(id) {
            Some(topic) => described(view, topic, operations),
            None => refused(ErrorCode::UnknownTopicId).with_topic_id(id.uuid()).with_name(None),
        };
    };
    if let Some(topic) = view.image.topic_named(&name) {
        return described(view, topic, operations);
    }
    let error = match validate(&name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    refused(error)
        .with_is_internal(is_internal(&name))
        .with_topic_authorized_operations(operations)
        .with_name(Some(name))
}

fn described(view: &View<'_>, topic: &Topic, operations: i32) -> MetadataResponseTopic {
    let numbered = topic.partitions.iter().zip(0..);
    let partitions =
        numbered.map(|(partition, index)| described_partition!(MetadataResponsePartition, view, partition, index));
    described_topic!(MetadataResponseTopic, topic, partitions.collect(), operations)
}
