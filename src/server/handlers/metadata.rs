//! Metadata: brokers, topics, partitions and their leaders; creates topics that are asked for, where that is allowed.

use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};

use super::wire::{
    CLUSTER_OPERATIONS, NO_OPERATIONS, TOPIC_OPERATIONS, broker_id, brokers, text, topic_id, topic_name,
};
use super::{Context, Handle};
use crate::metadata::image::{Partition, Topic};
use crate::metadata::topic_name::validate;
use crate::protocol::ErrorCode;
use crate::server::errors::admin_code;

/// First version that may name topics by identity (KIP-516); versions 10 and 11 have the field, but refuse it.
const FIRST_TOPIC_ID_VERSION: i16 = 12;

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
        match wanted {
            None => topics.extend(context.broker.image().topics().map(|topic| described(topic, operations))),
            Some(wanted) => {
                for topic in wanted {
                    topics.push(one_topic(context, topic, self.allow_auto_topic_creation, operations).await);
                }
            }
        }
        let image = context.broker.image();
        let brokers = brokers(&image, context).into_iter().map(|broker| {
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
            .with_controller_id(BrokerId(context.broker.node_id().get()))
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

async fn one_topic(
    context: &Context,
    wanted: MetadataRequestTopic,
    may_create: bool,
    operations: i32,
) -> MetadataResponseTopic {
    let image = context.broker.image();
    let failed = |error: ErrorCode| MetadataResponseTopic::default().with_error_code(error.code());
    let Some(name) = wanted.name else {
        let id = topic_id(wanted.topic_id);
        return match image.topic(id) {
            Some(topic) => described(topic, operations),
            None => failed(ErrorCode::UnknownTopicId).with_topic_id(id.uuid()).with_name(None),
        };
    };
    if let Some(topic) = image.topic_named(&name) {
        return described(topic, operations);
    }
    if validate(&name).is_err() {
        return failed(ErrorCode::InvalidTopicException).with_name(Some(name));
    }
    if !may_create || !context.broker.settings().topics.auto_create {
        return failed(ErrorCode::UnknownTopicOrPartition).with_name(Some(name));
    }
    match context.broker.auto_create_topic(&name).await {
        Ok(topic) => described(&topic, operations),
        Err(error) => failed(admin_code(&error)).with_name(Some(name)),
    }
}

fn described(topic: &Arc<Topic>, operations: i32) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().zip(0..).map(|(partition, index)| described_partition(partition, index));
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.topic_id.uuid())
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations)
}

fn described_partition(partition: &Partition, index: i32) -> MetadataResponsePartition {
    let error = if partition.leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
    MetadataResponsePartition::default()
        .with_error_code(error.code())
        .with_partition_index(index)
        .with_leader_id(broker_id(partition.leader))
        .with_leader_epoch(partition.leader_epoch.get())
        .with_replica_nodes(partition.replica_nodes().map(|node_id| broker_id(Some(node_id))).collect())
        .with_isr_nodes(partition.in_sync_nodes().map(|node_id| broker_id(Some(node_id))).collect())
}
