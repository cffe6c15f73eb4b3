//! Fetch: records out of partitions, by session or by full list, with the records passed through uncopied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;

use super::wire::{Reachable, broker_id, current_leader, leader_epoch, leaders, topic_id};
use super::{Answer, Answering, Context};
use crate::broker::{
    Answered, Broker, Consumer, FetchContext, FetchLimits, FetchPartition, Fetched, Isolation, PartitionError,
    PartitionKey, ReadFrom, SessionPartition, SessionRequest,
};
use crate::metadata::Image;
use crate::protocol::fetch_response::{FetchResponse, FetchedPartition, FetchedTopic, NodeEndpoint};
use crate::protocol::{ErrorCode, ProtocolError, decode_request};
use crate::server::errors::{partition_code, session_code};
use crate::telemetry::TakenMemory;
use crate::types::{NodeId, Offset, TopicId};

/// First version that names topics by identity.
const FIRST_TOPIC_ID_VERSION: i16 = 13;
/// First version with fetch sessions.
const FIRST_SESSION_VERSION: i16 = 7;
/// First version that is told who leads (KIP-951).
const FIRST_LEADER_VERSION: i16 = 16;
/// First version that says where the consumer stands, and is sent to another replica (KIP-392).
const FIRST_RACK_VERSION: i16 = 11;
/// First version that says in a structure of its own which replica it is of (KIP-903).
const FIRST_REPLICA_STATE_VERSION: i16 = 15;
/// First version whose clients know KAFKA_STORAGE_ERROR (KIP-112).
const FIRST_STORAGE_ERROR_VERSION: i16 = 6;
/// The longest that a fetch waits, whatever it asks for: it holds its place in the connection meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Begins the fetch, which goes on beside later requests.
pub(super) fn start(context: Context, body: Bytes) -> Result<Answering, ProtocolError> {
    let request: FetchRequest = decode_request(context.version(), body)?;
    Ok(Box::pin(async move {
        let (response, memory) = Box::pin(fetch(&context, request)).await;
        context.count_error(response.error_code);
        match response.encode(context.version(), context.header.correlation_id) {
            Ok(pieces) => Answer::Frame(pieces, memory),
            Err(error) => context.unencodable(&error),
        }
    }))
}

async fn fetch(context: &Context, request: FetchRequest) -> (FetchResponse, Option<TakenMemory>) {
    let broker = &context.broker;
    let isolation = if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let limits = FetchLimits {
        max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(broker.settings().fetch.max_bytes),
        isolation,
    };
    let now = broker.runtime().clock.monotonic();
    let reader = Reader::of(context, &request);
    let begun = broker.fetch_sessions().begin(session_request(context, request), now);
    let session = match begun {
        Ok(session) => session,
        Err(error) => {
            return (FetchResponse { error_code: session_code(error), ..FetchResponse::default() }, None);
        }
    };
    let (wanted, told): (Vec<_>, Vec<_>) = reader.look_up(context, &session).into_iter().unzip();
    // Who has to give up records, or to go elsewhere, is told at once.
    let max_wait = if told.iter().any(Told::is_instead_of_records) { Duration::ZERO } else { limits.max_wait };
    let limits = FetchLimits { max_wait, ..limits };
    let (fetched, memory) = broker.fetch_until(&wanted, limits, context.until_missed()).await;
    (answer(context, &session, fetched.into_iter().zip(told), isolation), Some(memory))
}

/// Who fetches.
struct Reader {
    /// Its rack, if it says that.
    rack: Option<StrBytes>,
    /// Any replica may serve it.
    reads_followers: bool,
}

impl Reader {
    fn of(context: &Context, request: &FetchRequest) -> Self {
        let replica = match context.version() >= FIRST_REPLICA_STATE_VERSION {
            true => request.replica_state.replica_id,
            false => request.replica_id,
        };
        let reads_followers = context.version() >= FIRST_RACK_VERSION && replica.0 < 0;
        let rack = Some(&request.rack_id).filter(|rack| reads_followers && !rack.is_empty());
        Self { rack: rack.cloned(), reads_followers }
    }

    /// Where it is to read what it wants. Afterwards it is forgotten, and with it what its request keeps in memory.
    fn look_up(self, context: &Context, session: &FetchContext) -> Vec<(FetchPartition, Told)> {
        let (broker, image) = (&context.broker, context.broker.image());
        let listener = &*context.peer.listener;
        let consumer = match self.reads_followers {
            true => broker.consumer(&image, self.rack.as_deref(), listener),
            false => Consumer::of_leaders(listener),
        };
        let partitions = session.partitions.iter();
        partitions.map(|(key, wanted)| look_up(context, &image, (key, wanted), &consumer)).collect()
    }
}

fn session_request(context: &Context, request: FetchRequest) -> SessionRequest {
    let has_sessions = context.version() >= FIRST_SESSION_VERSION;
    let key = |id, name: &str, partition| PartitionKey { topic_id: topic_id(id), topic: Arc::from(name), partition };
    let mut partitions = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let wanted = SessionPartition {
                offset: Offset(partition.fetch_offset),
                max_bytes: partition.partition_max_bytes,
                leader_epoch: leader_epoch(partition.current_leader_epoch),
                last_fetched_epoch: leader_epoch(partition.last_fetched_epoch),
            };
            partitions.push((key(topic.topic_id, &topic.topic, partition.partition), wanted));
        }
    }
    let forgotten = request
        .forgotten_topics_data
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |&partition| key(topic.topic_id, &topic.topic, partition)));
    SessionRequest {
        session_id: if has_sessions { request.session_id } else { 0 },
        epoch: if has_sessions { request.session_epoch } else { -1 },
        uses_topic_ids: context.version() >= FIRST_TOPIC_ID_VERSION,
        forgotten: forgotten.collect(),
        partitions,
    }
}

/// What a client is told in place of records.
#[derive(Clone, Copy, Default)]
struct Told {
    /// An epoch and its end, where the client's log left the leader's.
    divergence: Option<(i32, i64)>,
    /// The broker to read from.
    elsewhere: Option<NodeId>,
}

impl Told {
    const fn is_instead_of_records(&self) -> bool {
        self.divergence.is_some() || self.elsewhere.is_some()
    }
}

fn look_up(
    context: &Context,
    image: &Image,
    (key, wanted): (&PartitionKey, &SessionPartition),
    consumer: &Consumer<'_>,
) -> (FetchPartition, Told) {
    let broker = &context.broker;
    let is_nameless = context.version() >= FIRST_TOPIC_ID_VERSION && key.topic_id.is_zero();
    let topic = match is_nameless {
        true => Err(PartitionError::UnknownTopicId),
        false => Broker::topic(image, key.topic_id, &key.topic),
    };
    let found = topic.and_then(|topic| {
        let ReadFrom { here, elsewhere } = broker.read_from(image, topic, key.partition, wanted, consumer)?;
        let divergence = match elsewhere {
            // There it is looked for, too.
            Some(_) => None,
            None => broker.divergence(&here, wanted.last_fetched_epoch, wanted.offset)?,
        };
        let divergence = divergence.map(|(epoch, end)| (epoch.get(), end.get()));
        Ok((here, Told { divergence, elsewhere }))
    });
    let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(0);
    match found {
        // It gets the offsets, and no records.
        Ok((leader, told)) if told.is_instead_of_records() => {
            let offset = leader.partition.log().offsets().log_end;
            (FetchPartition { leader: Ok(leader), offset, max_bytes: 0 }, told)
        }
        found => {
            let leader = found.map(|(leader, _)| leader);
            (FetchPartition { leader, offset: wanted.offset, max_bytes }, Told::default())
        }
    }
}

fn answer(
    context: &Context,
    session: &FetchContext,
    fetched: impl Iterator<Item = (Fetched, Told)>,
    isolation: Isolation,
) -> FetchResponse {
    let mut partitions: Vec<_> = session
        .partitions
        .iter()
        .zip(fetched)
        .map(|((key, _), (fetched, told))| {
            let described = described(context, key.partition, fetched, isolation);
            if described.error_code.is_error() || !told.is_instead_of_records() {
                return described;
            }
            FetchedPartition {
                diverging_epoch: told.divergence,
                preferred_read_replica: broker_id(told.elsewhere).0,
                // What came after its end meanwhile is no part of the client's log.
                records: Vec::new(),
                aborted_transactions: None,
                ..described
            }
        })
        .collect();
    let answers: Vec<_> = partitions
        .iter()
        .map(|partition| Answered {
            high_watermark: partition.high_watermark,
            log_start_offset: partition.log_start_offset,
            has_records: !partition.records.is_empty(),
            is_error: partition.error_code.is_error() || partition.diverging_epoch.is_some(),
            is_sent_on: partition.preferred_read_replica >= 0,
        })
        .collect();
    let broker = &context.broker;
    let (now, entropy) = (broker.runtime().clock.monotonic(), &broker.runtime().entropy);
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of a random number will do")]
    let random = || entropy.number() as i32;
    let mut sessions = broker.fetch_sessions();
    let ended = sessions.end(session, &answers, now, random);
    broker.metrics().fetch.sessions.set(i64::try_from(sessions.count()).unwrap_or(i64::MAX));
    drop(sessions);
    let (session_id, named) = match ended {
        Ok(ended) => ended,
        Err(error) => return FetchResponse { error_code: session_code(error), ..FetchResponse::default() },
    };
    let node_endpoints = match context.version() >= FIRST_LEADER_VERSION {
        true => name_leaders(context, session, &mut partitions),
        false => Vec::new(),
    };
    let keys = session.partitions.iter().map(|(key, _)| key);
    let topics = by_topic(keys.zip(partitions).zip(named).filter(|(_, named)| *named).map(|(pair, _)| pair));
    FetchResponse { session_id, topics, node_endpoints, ..FetchResponse::default() }
}

fn described(context: &Context, partition_index: i32, fetched: Fetched, isolation: Isolation) -> FetchedPartition {
    let described = FetchedPartition { partition_index, ..FetchedPartition::default() };
    let (records, offsets) = match (fetched.records, fetched.offsets) {
        (Ok(records), Some(offsets)) => (records, offsets),
        (Ok(_), None) => return described,
        (Err(error), _) => {
            let error_code = match partition_code(&error) {
                // They would give up, where they can ask again (`KafkaApis.maybeDownConvertStorageError`).
                ErrorCode::KafkaStorageError if context.version() < FIRST_STORAGE_ERROR_VERSION => {
                    ErrorCode::NotLeaderOrFollower
                }
                code => code,
            };
            context.count_error(error_code);
            // Kafka has an empty list where it knows no such partition, and null for other errors.
            let is_unknown = matches!(error, PartitionError::UnknownPartition | PartitionError::UnknownTopicId);
            let aborted_transactions = is_unknown.then(Vec::new);
            return FetchedPartition { error_code, aborted_transactions, ..described };
        }
    };
    FetchedPartition {
        high_watermark: offsets.high_watermark.get(),
        last_stable_offset: offsets.last_stable.get(),
        log_start_offset: offsets.log_start.get(),
        // There are no transactions yet, and so none that was aborted.
        aborted_transactions: (isolation == Isolation::ReadCommitted).then(Vec::new),
        records,
        ..described
    }
}

/// Groups partitions that follow each other and belong to one topic.
fn by_topic<'a>(partitions: impl Iterator<Item = (&'a PartitionKey, FetchedPartition)>) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    let mut last: Option<(TopicId, &str)> = None;
    for (key, partition) in partitions {
        let this = (key.topic_id, &*key.topic);
        match topics.last_mut() {
            Some(topic) if last == Some(this) => topic.partitions.push(partition),
            _ => topics.push(FetchedTopic {
                name: StrBytes::from_string(key.topic.to_string()),
                topic_id: key.topic_id.uuid(),
                partitions: vec![partition],
            }),
        }
        last = Some(this);
    }
    topics
}

/// Tells who leads the partitions that this broker does not lead, or not in the client's epoch, and gives where that is.
fn name_leaders(context: &Context, session: &FetchContext, partitions: &mut [FetchedPartition]) -> Vec<NodeEndpoint> {
    let (image, mut named) = (context.broker.image(), BTreeSet::<NodeId>::new());
    for ((key, _), partition) in session.partitions.iter().zip(partitions) {
        if matches!(partition.error_code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
            let (leader, epoch) = current_leader(&image, key.topic_id, &key.topic, key.partition);
            named.extend(leader);
            partition.current_leader = Some((broker_id(leader).0, epoch.get()));
        }
    }
    let endpoint = |broker: Reachable| NodeEndpoint {
        node_id: broker.node_id.0,
        host: broker.host,
        port: broker.port,
        rack: broker.rack,
    };
    leaders(&image, named, context).into_iter().map(endpoint).collect()
}
