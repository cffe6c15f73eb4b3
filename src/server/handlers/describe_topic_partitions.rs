//! DescribeTopicPartitions: topics page by page, for those with very many partitions (KIP-966).

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor as NextCursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

use super::described::{View, described_partition, described_topic};
use super::wire::{TOPIC_OPERATIONS, broker_id, topic_name};
use super::{Context, Handle};
use crate::metadata::image::Topic;
use crate::metadata::topic_name::{is_internal, validate};
use crate::protocol::ErrorCode;

/// Most partitions of one answer (`max.request.partition.size.limit`).
const MAX_PARTITIONS: i32 = 2000;

impl Handle for DescribeTopicPartitionsRequest {
    async fn handle(self, context: &Context) -> DescribeTopicPartitionsResponse {
        context.take_place().await;
        let image = context.broker.image();
        let view = View::of_topic_partitions(&image, context);
        let all = self.topics.is_empty();
        let names: BTreeSet<String> = match all {
            true => image.topics().map(|topic| topic.name.to_string()).collect(),
            false => self.topics.iter().map(|topic| topic.name.to_string()).collect(),
        };
        let (first, mut from) = match &self.cursor {
            Some(Cursor { topic_name, partition_index, .. }) => (topic_name.to_string(), *partition_index),
            None => (String::new(), 0),
        };
        let is_offered = from >= 0 && (self.cursor.is_none() || all || names.contains(&first));
        if !is_offered {
            context.count_error(ErrorCode::InvalidRequest);
            let refused = |topic: TopicRequest| {
                let refused = DescribeTopicPartitionsResponseTopic::default().with_name(Some(topic.name));
                refused.with_error_code(ErrorCode::InvalidRequest.code())
            };
            return DescribeTopicPartitionsResponse::default()
                .with_topics(self.topics.into_iter().map(refused).collect());
        }
        let mut room = self.response_partition_limit.clamp(1, MAX_PARTITIONS);
        let mut response = DescribeTopicPartitionsResponse::default();
        for name in names.range(first.clone()..) {
            let from = if *name == first { std::mem::take(&mut from) } else { 0 };
            if room == 0 {
                response.next_cursor = Some(next(name, 0));
                break;
            }
            let Some(topic) = image.topic_named(name) else {
                response.topics.push(unknown(name));
                continue;
            };
            let described = described(&view, topic, from, room);
            let count = i32::try_from(described.partitions.len()).unwrap_or(room);
            room -= count;
            response.topics.push(described);
            if from + count < topic.partition_count() {
                response.next_cursor = Some(next(name, from + count));
                break;
            }
        }
        response
    }
}

fn next(name: &str, partition: i32) -> NextCursor {
    NextCursor::default().with_topic_name(topic_name(name)).with_partition_index(partition)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match validate(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(topic_name(name)))
        .with_is_internal(is_internal(name))
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn described(view: &View<'_>, topic: &Topic, from: i32, room: i32) -> DescribeTopicPartitionsResponseTopic {
    let numbered = topic.partitions.iter().zip(0..).skip(usize::try_from(from).unwrap_or(0));
    let partitions = numbered.take(usize::try_from(room).unwrap_or(0)).map(|(partition, index)| {
        let eligible = partition.eligible_nodes().map(|node_id| broker_id(Some(node_id)));
        described_partition!(DescribeTopicPartitionsResponsePartition, view, partition, index)
            .with_error_code(ErrorCode::None.code())
            .with_eligible_leader_replicas(Some(eligible.collect()))
            // Nobody is asked to choose among replicas that may have lost something: whoever was in sync last stays eligible.
            .with_last_known_elr(Some(Vec::new()))
    });
    described_topic!(DescribeTopicPartitionsResponseTopic, topic, partitions.collect(), TOPIC_OPERATIONS)
}
