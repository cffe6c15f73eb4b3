//! DeleteRecords: makes the beginning of partitions unreadable.

use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Context, Handle};
use crate::broker::{Broker, PartitionError};
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, Offset, TopicId};

/// Partitions of a topic that are worked on at once.
const AT_ONCE: usize = 64;

impl Handle for DeleteRecordsRequest {
    async fn handle(self, context: &Context) -> DeleteRecordsResponse {
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        let clock = &context.broker.runtime().clock;
        let began = clock.monotonic();
        let mut topics = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            // Some at once, so that they share syncs of the journal.
            for some in topic.partitions.chunks(AT_ONCE) {
                let left = timeout.saturating_sub(clock.monotonic().since(began));
                let some = some.iter().map(|partition| settle(context, &topic.name, partition, left));
                partitions.extend(join_all(some).await);
            }
            topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
        }
        DeleteRecordsResponse::default().with_topics(topics)
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
    if topic.internal {
        return Err(PartitionError::InternalTopic);
    }
    let leader = context.broker.leader(topic, partition, LeaderEpoch::NONE)?;
    context.broker.delete_records(&leader, offset, timeout).await
}
