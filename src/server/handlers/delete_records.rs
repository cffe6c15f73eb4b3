//! DeleteRecords: makes the beginning of partitions unreadable.

use std::sync::Arc;
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
    match delete(&context.broker, name, index, Offset(partition.offset), timeout).await {
        Ok(log_start) => result.with_low_watermark(log_start.get()),
        Err(error) => {
            let code = partition_code(&error);
            context.count_error(code);
            result.with_low_watermark(-1).with_error_code(code.code())
        }
    }
}

async fn delete(
    broker: &Arc<Broker>,
    name: &str,
    partition: i32,
    offset: Offset,
    timeout: Duration,
) -> Result<Offset, PartitionError> {
    let image = broker.image();
    let topic = Broker::topic(&image, TopicId::ZERO, name)?;
    if topic.internal && !broker.has_lost_offsets(TopicPartition::new(topic.topic_id, partition)) {
        return Err(PartitionError::InternalTopic);
    }
    let leader = broker.leader(topic, partition, LeaderEpoch::NONE)?;
    if topic.internal {
        return broker.give_up_offsets(&leader, offset, timeout).await;
    }
    broker.delete_records(&leader, offset, timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{BrokerSettings, OFFSETS_TOPIC};
    use crate::group::request::{CommitPartition, CommitTopic, OffsetCommit, OffsetFetch};
    use crate::runtime::Runtime;
    use crate::telemetry::Metrics;

    const PAUSE: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn open(directory: &std::path::Path) -> Arc<Broker> {
        let mut settings = BrokerSettings::small(directory);
        settings.topics.offsets_partitions = 1;
        Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap()
    }

    /// Asks again until it is answered.
    async fn fetched(broker: &Broker) -> usize {
        let asked = async {
            loop {
                let fetch = OffsetFetch { group_id: "group".into(), topics: None };
                match broker.groups().fetch_offsets(fetch).await {
                    Ok(topics) => return topics.len(),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }

    async fn commit(broker: &Broker) {
        let partition =
            CommitPartition { partition: 0, offset: 1, leader_epoch: LeaderEpoch::NONE, metadata: Arc::default() };
        let topics = vec![CommitTopic { topic: "topic".into(), topic_id: TopicId::ZERO, partitions: vec![partition] }];
        let commit = OffsetCommit {
            group_id: "group".into(),
            generation: -1,
            member_id: "".into(),
            group_instance_id: None,
            api_version: 8,
            retention_ms: None,
            topics,
        };
        broker.groups().commit_offsets(commit).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_of_an_internal_topic_are_deleted_only_where_they_can_not_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let broker = open(directory.path()).await;
        broker.offsets_topic().await.unwrap();
        assert_eq!(fetched(&broker).await, 0);
        commit(&broker).await;
        for partition in [0, 1] {
            let refused = delete(&broker, OFFSETS_TOPIC, partition, Offset(-1), PATIENCE).await;
            assert!(matches!(refused, Err(PartitionError::InternalTopic)), "{refused:?}");
        }
        let image = broker.image();
        let leader = broker.leader(image.topic_named(OFFSETS_TOPIC).unwrap(), 0, LeaderEpoch::NONE).unwrap();
        let log = Arc::clone(leader.partition.log());
        log.request_roll();
        let sealed = async {
            while log.unsealed_bytes() > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, sealed).await.unwrap();
        commit(&broker).await;
        let segment = log.segments()[0].path().to_owned();
        let end = log.offsets().high_watermark;
        drop((image, leader, log));
        broker.shutdown().await;
        let mut content = std::fs::read(&segment).unwrap();
        *content.last_mut().unwrap() ^= 1;
        std::fs::write(&segment, content).unwrap();

        let broker = open(directory.path()).await;
        let partition = TopicPartition::new(broker.image().topic_named(OFFSETS_TOPIC).unwrap().topic_id, 0);
        let noticed = async {
            while !broker.has_lost_offsets(partition) {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, noticed).await.unwrap();
        let refused = delete(&broker, OFFSETS_TOPIC, 0, Offset(1000), PATIENCE).await;
        assert!(matches!(refused, Err(PartitionError::OutOfRange { .. })), "{refused:?}");
        assert_eq!(delete(&broker, OFFSETS_TOPIC, 0, Offset(-1), PATIENCE).await.unwrap(), end);
        fetched(&broker).await;
        let refused = delete(&broker, OFFSETS_TOPIC, 0, Offset(-1), PATIENCE).await;
        assert!(matches!(refused, Err(PartitionError::InternalTopic)), "{refused:?}");
        broker.shutdown().await;
    }
}
