//! ElectLeaders: the preferred replicas lead again, or any that is left (KIP-183, KIP-460).

use std::collections::VecDeque;
use std::time::Duration;

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::wire::topic_name;
use super::{Context, Handle, TOO_LARGE};
use crate::broker::{Broker, ClusterError};
use crate::metadata::Image;
use crate::metadata::command::Election;
use crate::protocol::ErrorCode;
use crate::server::errors::cluster_code;
use crate::types::TopicPartition;

/// First version that tells an error of the whole request.
const FIRST_ERROR_VERSION: i16 = 1;
/// What a partition of the request takes in memory until its result is written.
const ELECTION_BYTES: usize = 160;
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

impl Handle for ElectLeadersRequest {
    async fn handle(self, context: &Context) -> ElectLeadersResponse {
        if self.topic_partitions.as_ref().is_some_and(Vec::is_empty) {
            return ElectLeadersResponse::default();
        }
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        let how = match self.election_type {
            _ if timeout.is_zero() => Err(ErrorCode::RequestTimedOut),
            PREFERRED => Ok(Election::Preferred),
            UNCLEAN => Ok(Election::Unclean),
            _ => Err(ErrorCode::InvalidRequest),
        };
        context.take_place().await;
        let how = match how {
            Ok(how) => how,
            Err(error) => return refused(context, self, error),
        };
        let (image, tells_all) = (context.broker.image(), self.topic_partitions.is_some());
        let wanted: Vec<(TopicName, Vec<i32>)> = match self.topic_partitions {
            Some(topics) => topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect(),
            None => all_of(&image, how),
        };
        let (mut ids, mut room) = (Vec::new(), context.answer_room());
        for (topic, partitions) in &wanted {
            let known = partitions.iter().filter_map(|partition| known(&image, topic, *partition));
            ids.extend(known.take_while(|_| room.take(ELECTION_BYTES)));
        }
        let mut elected = VecDeque::from(context.broker.elect_leaders(&ids, how, timeout).await);
        let topics = wanted.into_iter().map(|(topic, partitions)| {
            let results = partitions.into_iter().filter_map(|partition| {
                let result = match known(&image, &topic, partition) {
                    Some(_) => elected.pop_front(),
                    None => Some(Err(ClusterError::UnknownPartition)),
                };
                // Of all partitions, those are told where something happened or could not.
                let is_told = tells_all || !matches!(result, Some(Err(ClusterError::ElectionNotNeeded)));
                is_told.then(|| described(context, partition, result))
            });
            ReplicaElectionResult::default().with_partition_result(results.collect()).with_topic(topic)
        });
        ElectLeadersResponse::default().with_replica_election_results(topics.collect())
    }
}

/// All topics, with the partitions that another is to lead.
fn all_of(image: &Image, how: Election) -> Vec<(TopicName, Vec<i32>)> {
    let all = image.topics().map(|topic| {
        let id = |index| TopicPartition::new(topic.topic_id, index);
        let partitions = (0..topic.partition_count()).filter(|index| Broker::needs_election(image, id(*index), how));
        (topic_name(&topic.name), partitions.collect())
    });
    all.collect()
}

fn known(image: &Image, topic: &str, partition: i32) -> Option<TopicPartition> {
    let topic = image.topic_named(topic).filter(|topic| topic.partition(partition).is_some())?;
    Some(TopicPartition::new(topic.topic_id, partition))
}

/// A partition without a result is one that there was no room for.
fn described(context: &Context, partition: i32, result: Option<Result<(), ClusterError>>) -> PartitionResult {
    let described = PartitionResult::default().with_partition_id(partition);
    // Kafka's text, which takes no memory however many partitions there are.
    let (code, text) = match result {
        Some(Ok(())) => return described.with_error_message(None),
        Some(Err(error)) => (cluster_code(&error), cluster_code(&error).message()),
        None => (ErrorCode::InvalidRequest, TOO_LARGE),
    };
    context.count_error(code);
    described.with_error_code(code.code()).with_error_message(Some(StrBytes::from_static_str(text)))
}

/// Refuses all that is named.
fn refused(context: &Context, request: ElectLeadersRequest, error: ErrorCode) -> ElectLeadersResponse {
    context.count_error(error);
    let result = |partition| {
        let text = StrBytes::from_static_str(error.message());
        let result = PartitionResult::default().with_partition_id(partition);
        result.with_error_code(error.code()).with_error_message(Some(text))
    };
    let topics = request.topic_partitions.into_iter().flatten().map(|topic| {
        let results = topic.partitions.into_iter().map(result);
        ReplicaElectionResult::default().with_partition_result(results.collect()).with_topic(topic.topic)
    });
    let whole = if context.version() >= FIRST_ERROR_VERSION { error } else { ErrorCode::None };
    ElectLeadersResponse::default().with_error_code(whole.code()).with_replica_election_results(topics.collect())
}
