//! DeleteRecords: makes the beginning of partitions unreadable.

use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Context, Handle};
use crate::broker::{Broker, PartitionError};
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, Offset, TopicId};

impl Handle for DeleteRecordsRequest {
    async fn handle(self, context: &Context) -> DeleteRecordsResponse {
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        // At once, so that they share syncs of the journal, and the timeout.
        let topics = self.topics.into_iter().map(async |topic| {
            let partitions = topic.partitions.iter().map(async |partition| {
                let index = partition.partition_index;
                let deleted = delete(context, &topic.name, index, Offset(partition.offset), timeout).await;
                let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
                match deleted {
                    Ok(log_start) => result.with_low_watermark(log_start.get()),
                    Err(error) => {
                        let code = partition_code(&error);
                        context.count_error(code);
                        result.with_low_watermark(-1).with_error_code(code.code())
                    }
                }
            });
            let partitions = join_all(partitions).await;
            DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions)
        });
        let topics = join_all(topics).await;
        DeleteRecordsResponse::default().with_topics(topics)
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
