//! DeleteRecords: makes the beginning of partitions unreadable.

use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Context, Handle};
use crate::broker::{Broker, PartitionError};
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, Offset, TopicId, TopicPartition};

/// Partitions that are worked on at once.
const AT_ONCE: usize = 64;

impl Handle for DeleteRecordsRequest {
    async fn handle(self, context: &Context) -> DeleteRecordsResponse {
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        let clock = &context.broker.runtime().clock;
        let began = clock.monotonic();
        let wanted = self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |one| (&topic.name, one)));
        let wanted: Vec<_> = wanted.collect();
        let mut results = Vec::with_capacity(wanted.len());
        // Some at once, so that they share syncs of the journal.
        for some in wanted.chunks(AT_ONCE) {
            let left = timeout.saturating_sub(clock.monotonic().since(began));
            let some = some.iter().map(|(name, partition)| settle(context, name, partition, left));
            results.extend(join_all(some).await);
        }
        let mut results = results.into_iter();
        let topics = self.topics.iter().map(|topic| {
            let partitions = results.by_ref().take(topic.partitions.len()).collect();
            DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions)
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    }
}

async fn settle(
    context: &Context,
    name: &str,
    partition: &DeleteRecordsPartition,
    timeout: Duration,
) -> DeleteRecordsPartitionResult {
    let index = partition.partition_index;
    let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
    match delete(context, name, index, Offset(partition.offset), timeout).await {
        Ok(log_start) => result.with_low_watermark(log_start.get()),
        Err(error) => {
            let code = partition_code(&error);
            context.count_error(code);
            result.with_low_watermark(-1).with_error_code(code.code())
        }
    }
}

async fn delete(
    context: &Context,
    name: &str,
    partition: i32,
    offset: Offset,
    timeout: Duration,
) -> Result<Offset, PartitionError> {
    let image = context.broker.image();
    let topic = Broker::topic(&image, TopicId::ZERO, name)?;
    if topic.internal && !context.broker.has_lost_offsets(TopicPartition::new(topic.topic_id, partition)) {
        return Err(PartitionError::InternalTopic);
    }
    let leader = context.broker.leader(topic, partition, LeaderEpoch::NONE)?;
    if topic.internal {
        return context.broker.give_up_offsets(&leader, offset, timeout).await;
    }
    context.broker.delete_records(&leader, offset, timeout).await
}
