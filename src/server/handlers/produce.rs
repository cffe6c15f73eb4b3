//! Produce: records into partitions. Appended in the order of the connection's requests, answered when they are as safe as asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::wire::{broker_id, current_leader, leaders, message, topic_id};
use super::{Answer, Answering, Begun, Context};
use crate::broker::{Acknowledgement, Broker, Leader, PartitionError, Produced, RoomWait};
use crate::log::AppendError;
use crate::metadata::Image;
use crate::protocol::{ErrorCode, ProtocolError, decode_request, encode_response};
use crate::record::RecordError;
use crate::server::errors::partition_code;
use crate::types::{LeaderEpoch, NodeId, Offset, TopicId};

/// First version whose clients read zstd (KIP-110).
const FIRST_ZSTD_VERSION: i16 = 7;
/// First version that is told who leads (KIP-951).
const FIRST_LEADER_VERSION: i16 = 10;
/// First version that names topics by identity.
const FIRST_TOPIC_ID_VERSION: i16 = 13;
/// Records that one answer tells of, each in words: a small request may have very many that are refused.
const MAX_RECORD_ERRORS: usize = 1000;

/// What became of one partition's records.
enum Outcome {
    Appended(Leader, Produced),
    /// With the first readable offset where Kafka gives it: when it was the log that refused.
    Failed(PartitionError, Option<Offset>),
}

struct PartOfTopic {
    index: i32,
    outcome: Outcome,
}

/// Appends, and answers later.
pub(super) async fn start(context: Context, body: Bytes) -> Result<Begun, ProtocolError> {
    let version = context.version();
    let held_bytes = body.len();
    let request: ProduceRequest = decode_request(version, body)?;
    if request.transactional_id.is_some() {
        let refused = answer_each(&context, &request, |_, _| ErrorCode::TransactionalIdAuthorizationFailed);
        return Ok(refused.into());
    }
    let image = context.broker.image();
    let acks = match request.acks {
        0 => Acknowledgement::None,
        1 => Acknowledgement::Leader,
        -1 => Acknowledgement::All,
        _ => {
            // Kafka looks at it when it knows which partitions there are.
            let refused =
                answer_each(&context, &request, |topic, index| match leader(&context, &image, topic, index) {
                    Err(error @ (PartitionError::UnknownPartition | PartitionError::UnknownTopicId)) => {
                        partition_code(&error)
                    }
                    _ => ErrorCode::InvalidRequiredAcks,
                });
            return Ok(refused.into());
        }
    };
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let clock = Arc::clone(&context.broker.runtime().clock);
    let began = clock.monotonic();
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut bytes = 0;
    for mut topic in request.topic_data {
        let mut parts = Vec::with_capacity(topic.partition_data.len());
        for data in std::mem::take(&mut topic.partition_data) {
            let index = data.index;
            let sent_bytes = data.records.as_ref().map_or(0, Bytes::len);
            // Half of what is left: clients give up at about the time that they tell, and are to hear before.
            let left = timeout.saturating_sub(clock.monotonic().since(began)) / 2;
            let wait = RoomWait { timeout: left, held_bytes };
            let outcome = match append(&context, &image, &topic, data, (acks, wait)).await {
                Ok((leader, produced)) => {
                    bytes += sent_bytes;
                    Outcome::Appended(leader, produced)
                }
                Err((error, log_start)) => Outcome::Failed(error, log_start),
            };
            parts.push(PartOfTopic { index, outcome });
        }
        topics.push((topic, parts));
    }
    let pause = context.broker.throttle(bytes);
    let answering = async move {
        // It may have waited for earlier answers.
        let left = timeout.saturating_sub(clock.monotonic().since(began));
        answer(context, topics, (acks, left), pause).await
    };
    Ok(Begun { answering: Box::pin(answering), answer_bytes: None, pause })
}

async fn append(
    context: &Context,
    image: &Image,
    topic: &TopicProduceData,
    data: PartitionProduceData,
    (acks, wait): (Acknowledgement, RoomWait),
) -> Result<(Leader, Produced), (PartitionError, Option<Offset>)> {
    let leader = leader(context, image, topic, data.index);
    let leader = leader.and_then(|leader| leader.check_in_sync(acks).map(|()| leader));
    let leader = leader.map_err(|error| (error, None))?;
    let records = data.records.unwrap_or_default();
    let zstd_allowed = context.version() >= FIRST_ZSTD_VERSION;
    match context.broker.append(&leader, records, zstd_allowed, wait).await {
        Ok(produced) => Ok((leader, produced)),
        Err(error) => {
            let named = names_log_start(&error, zstd_allowed);
            let log_start = named.then(|| leader.partition.log().offsets().log_start);
            Err((error, log_start))
        }
    }
}

/// Whether Kafka's answer to this error tells where the log starts.
const fn names_log_start(error: &PartitionError, zstd_allowed: bool) -> bool {
    match error {
        // Requests too old for zstd have their codecs looked at before the log is.
        PartitionError::Records(RecordError::UnsupportedCompression { .. }) => zstd_allowed,
        PartitionError::Records(
            RecordError::CorruptCompression { .. }
            | RecordError::InvalidBatch { .. }
            | RecordError::RecordsRejected { .. },
        )
        | PartitionError::Append(AppendError::Sequence(_)) => true,
        _ => false,
    }
}

fn leader(context: &Context, image: &Image, topic: &TopicProduceData, index: i32) -> Result<Leader, PartitionError> {
    let id = if context.version() >= FIRST_TOPIC_ID_VERSION { topic_id(topic.topic_id) } else { TopicId::ZERO };
    if context.version() >= FIRST_TOPIC_ID_VERSION && id.is_zero() {
        return Err(PartitionError::UnknownTopicId);
    }
    let topic = Broker::topic(image, id, &topic.name)?;
    if topic.internal {
        return Err(PartitionError::InternalTopic);
    }
    context.broker.leader(topic, index, LeaderEpoch::NONE)
}

async fn answer(
    context: Context,
    topics: Vec<(TopicProduceData, Vec<PartOfTopic>)>,
    (acks, timeout): (Acknowledgement, Duration),
    pause: Duration,
) -> Answer {
    if acks == Acknowledgement::None {
        // Kafka closes the connection too: it is all that a client that wants no answer can notice.
        let failed = topics.iter().flat_map(|(_, parts)| parts).any(|part| matches!(part.outcome, Outcome::Failed(..)));
        return if failed { Answer::Close } else { Answer::None };
    }
    let details = AtomicUsize::new(MAX_RECORD_ERRORS);
    let settled = topics.into_iter().map(async |(topic, parts)| {
        let parts = join_all(parts.into_iter().map(|part| settle(&context, part, (acks, timeout), &details))).await;
        TopicProduceResponse::default()
            .with_name(topic.name)
            .with_topic_id(topic.topic_id)
            .with_partition_responses(parts)
    });
    let responses = join_all(settled).await;
    let throttle_time_ms = i32::try_from(pause.as_millis()).unwrap_or(i32::MAX);
    let mut response = ProduceResponse::default().with_responses(responses).with_throttle_time_ms(throttle_time_ms);
    if context.version() >= FIRST_LEADER_VERSION {
        name_leaders(&context, &mut response);
    }
    frame(&context, &response)
}

/// Tells who leads the partitions that this broker does not lead, and where that is.
fn name_leaders(context: &Context, response: &mut ProduceResponse) {
    let (image, mut named) = (context.broker.image(), BTreeSet::<NodeId>::new());
    for topic in &mut response.responses {
        for partition in &mut topic.partition_responses {
            if partition.error_code != ErrorCode::NotLeaderOrFollower.code() {
                continue;
            }
            let (leader, epoch) = current_leader(&image, topic_id(topic.topic_id), &topic.name, partition.index);
            named.extend(leader);
            partition.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(broker_id(leader)).with_leader_epoch(epoch.get());
        }
    }
    let endpoints = leaders(&image, named, context).into_iter().map(|broker| {
        NodeEndpoint::default()
            .with_node_id(broker.node_id)
            .with_host(broker.host)
            .with_port(broker.port)
            .with_rack(broker.rack)
    });
    response.node_endpoints = endpoints.collect();
}

async fn settle(
    context: &Context,
    part: PartOfTopic,
    (acks, timeout): (Acknowledgement, Duration),
    details: &AtomicUsize,
) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(part.index);
    let outcome = match part.outcome {
        Outcome::Failed(error, log_start) => Err((error, log_start)),
        Outcome::Appended(leader, produced) => {
            let acknowledged = context.broker.acknowledge(&leader, &produced, acks, timeout).await;
            acknowledged.map(|()| produced).map_err(|error| (error, None))
        }
    };
    match outcome {
        Ok(produced) => response
            .with_base_offset(produced.base_offset.get())
            .with_log_append_time_ms(produced.log_append_time.map_or(-1, |time| time.get()))
            .with_log_start_offset(produced.log_start_offset.get()),
        Err((error, log_start)) => {
            let log_start = log_start.map_or(-1, Offset::get);
            refused(context, response, &error, details).with_log_start_offset(log_start)
        }
    }
}

/// What a partition's refusal says; `details` is how many single records it may still tell of.
fn refused(
    context: &Context,
    response: PartitionProduceResponse,
    error: &PartitionError,
    details: &AtomicUsize,
) -> PartitionProduceResponse {
    let code = partition_code(error);
    context.count_error(code);
    let mut response = response.with_error_code(code.code()).with_base_offset(-1).with_log_append_time_ms(-1);
    match error {
        PartitionError::Records(RecordError::RecordsRejected { records }) => {
            response.error_message = message("One or more records have been rejected");
            let left = |left: usize| Some(left.saturating_sub(records.len()));
            let left = details.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).unwrap_or(0);
            response.record_errors = records
                .iter()
                .take(left)
                .map(|record| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(record.index)
                        .with_batch_index_error_message(message(record.rejection))
                })
                .collect();
        }
        PartitionError::Records(_) | PartitionError::Transactional => {
            response.error_message = message(error);
        }
        _ => {}
    }
    response
}

/// Refuses every partition.
fn answer_each(
    context: &Context,
    request: &ProduceRequest,
    error_of: impl Fn(&TopicProduceData, i32) -> ErrorCode,
) -> Answering {
    let responses = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            let error = error_of(topic, partition.index);
            context.count_error(error);
            PartitionProduceResponse::default()
                .with_index(partition.index)
                .with_error_code(error.code())
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partition_responses(partitions.collect())
    });
    let response = ProduceResponse::default().with_responses(responses.collect());
    let answer = if request.acks == 0 { Answer::Close } else { frame(context, &response) };
    Box::pin(std::future::ready(answer))
}

fn frame(context: &Context, response: &ProduceResponse) -> Answer {
    match encode_response::<ProduceRequest>(context.version(), context.header.correlation_id, response) {
        Ok(frame) => Answer::Frame(vec![frame], None),
        Err(error) => context.unencodable(&error),
    }
}
