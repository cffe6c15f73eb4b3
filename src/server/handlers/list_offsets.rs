//! ListOffsets: offsets by timestamp and by what they mean.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::create_topics::named_twice;
use super::{Context, Handle};
use crate::broker::{Broker, FoundOffset, Isolation, OffsetQuery, PartitionError};
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::runtime::clock;
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, TopicId};

/// Partitions searched at once; a slow one does not hold the others up.
const CONCURRENT_SEARCHES: usize = 16;
/// Local records are searched whatever the client says, as in Kafka, and found well within this.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// First version that says how long the client waits (KIP-1075).
const FIRST_TIMEOUT_VERSION: i16 = 10;
/// First version that is told leader epochs (KIP-320).
const FIRST_EPOCH_VERSION: i16 = 4;
/// First version whose clients know OFFSET_NOT_AVAILABLE (KIP-207).
const FIRST_NOT_AVAILABLE_VERSION: i16 = 5;

impl Handle for ListOffsetsRequest {
    async fn handle(self, context: &Context) -> ListOffsetsResponse {
        let image = context.broker.image();
        let isolation = if self.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        let mut topics = Vec::with_capacity(self.topics.len());
        let clock = &context.broker.runtime().clock;
        let (began, patience) = (clock.monotonic(), patience(context.version(), self.timeout_ms));
        let named = self.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |partition| (topic.name.clone(), partition.partition_index))
        });
        let named: Vec<_> = named.collect();
        let (twice, mut told) = (named_twice(named.iter()), BTreeSet::new());
        for topic in self.topics {
            let (image, name) = (&image, &topic.name);
            let mut wanted = topic.partitions;
            // As in Kafka one that is named twice is refused, once.
            let repeated = |index| twice.contains(&(name.clone(), index));
            wanted.retain(|partition| {
                let index = partition.partition_index;
                !repeated(index) || told.insert((name.clone(), index))
            });
            if wanted.is_empty() {
                continue;
            }
            let found = wanted.into_iter().map(|partition| async move {
                if repeated(partition.partition_index) {
                    return described(context, partition.partition_index, Err(ErrorCode::InvalidRequest));
                }
                let left = patience.saturating_sub(clock.monotonic().since(began));
                let find = find(context, image, name, &partition, isolation);
                let found = clock::timeout(&**clock, left, find).await.unwrap_or(Err(ErrorCode::RequestTimedOut));
                described(context, partition.partition_index, found)
            });
            let partitions = stream::iter(found).buffered(CONCURRENT_SEARCHES).collect().await;
            topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
        }
        ListOffsetsResponse::default().with_topics(topics)
    }
}

/// How long the archive may be searched. Clients that can't say get the default of Kafka's
/// `remote.list.offsets.request.timeout.ms` (KIP-1075).
fn patience(version: i16, timeout_ms: i32) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(timeout_ms @ 1..) if version >= FIRST_TIMEOUT_VERSION => {
            LEAST_PATIENCE.max(Duration::from_millis(timeout_ms))
        }
        _ => Duration::from_secs(30),
    }
}

/// First version that may ask for a special offset; earlier ones get UNSUPPORTED_VERSION, as in Kafka.
const fn first_version(query: OffsetQuery) -> i16 {
    match query {
        OffsetQuery::Earliest | OffsetQuery::Latest | OffsetQuery::At(_) => 0,
        OffsetQuery::MaxTimestamp => 7,
        OffsetQuery::EarliestLocal => 8,
        OffsetQuery::LatestTiered => 9,
        OffsetQuery::EarliestPendingUpload => 11,
    }
}

async fn find(
    context: &Context,
    image: &Image,
    name: &str,
    wanted: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Option<FoundOffset>, ErrorCode> {
    let code = |error: PartitionError| match partition_code(&error) {
        ErrorCode::OffsetNotAvailable if context.version() < FIRST_NOT_AVAILABLE_VERSION => {
            ErrorCode::LeaderNotAvailable
        }
        code => code,
    };
    let query = OffsetQuery::from_timestamp(wanted.timestamp).ok_or(ErrorCode::UnsupportedVersion)?;
    if context.version() < first_version(query) {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let topic = Broker::topic(image, TopicId::ZERO, name).map_err(code)?;
    // Unlike a fetch's, only -1 is none.
    let expected = LeaderEpoch(wanted.current_leader_epoch);
    let leader = context.broker.leader(topic, wanted.partition_index, expected).map_err(code)?;
    context.broker.offset(&leader, query, isolation).await.map_err(code)
}

fn described(
    context: &Context,
    partition_index: i32,
    found: Result<Option<FoundOffset>, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(partition_index);
    match found {
        Ok(Some(found)) => {
            let epoch = if context.version() >= FIRST_EPOCH_VERSION { found.leader_epoch.get() } else { -1 };
            response.with_timestamp(found.timestamp.get()).with_offset(found.offset.get()).with_leader_epoch(epoch)
        }
        Ok(None) => response.with_timestamp(-1).with_offset(-1).with_leader_epoch(-1),
        Err(error) => {
            context.count_error(error);
            response.with_error_code(error.code()).with_timestamp(-1).with_offset(-1).with_leader_epoch(-1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_takes_as_long_as_the_client_says_and_never_too_little_for_local_records() {
        for (version, timeout_ms, expected_ms) in
            [(9, 5000, 30_000), (10, 5000, 5000), (11, 1, 1000), (11, 0, 30_000), (11, -1, 30_000)]
        {
            assert_eq!(patience(version, timeout_ms), Duration::from_millis(expected_ms), "{version} {timeout_ms}");
        }
    }
}
