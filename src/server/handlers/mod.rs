//! One file for each API, or for a few that belong together: the wire's request becomes a call of the broker, and what that
//! says becomes the answer.
//!
//! Most requests are handled before the next one of their connection is started, as in Kafka. Produce and Fetch alone go on
//! beside later requests, once the produced records have their place in the log.

mod alter_configs;
mod api_versions;
mod cluster;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod described;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod partition_reassignments;
mod produce;
mod quorum;
mod sync_group;
mod unregister_broker;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiVersionsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest, ElectLeadersRequest,
    FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest,
    LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, RemoveRaftVoterRequest,
    SyncGroupRequest, UnregisterBrokerRequest,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::connection::{Peer, acquire};
use super::errors::group_code;
use super::frame_memory::{ConnectionMemory, RequestMemory};
use crate::broker::Broker;
use crate::group::GroupError;
use crate::protocol::{
    Api, ApiRequest, ErrorCode, ProtocolError, RequestHeader, decode_request, encode_response, unsupported_api_versions,
};
use crate::runtime::net::BoxFuture;
use crate::telemetry::{ApiMetrics, Counted, Metrics, TakenMemory, spans};

/// Answers of unknown size that are made at a time. Each is in memory twice meanwhile, as values and as bytes.
const LARGE_ANSWERS: usize = 2;
/// What such an answer may take as values where there is little memory for answers.
const LEAST_ANSWER_BYTES: usize = 16 << 20;
/// Up to here an answer takes no memory of its share: what one connection has of them is bounded by its requests in flight.
const SMALL_ANSWER_BYTES: usize = 1024;

/// How often a request that waits looks whether others miss what its connection holds.
const MISSED_LOOK: Duration = Duration::from_secs(1);

/// A request that has arrived.
pub(super) struct Request {
    pub(super) header: RequestHeader,
    pub(super) body: Bytes,
    /// What it holds.
    pub(super) memory: RequestMemory,
    /// What all of its connection hold.
    pub(super) connection: Arc<ConnectionMemory>,
}

/// The memory of what a request brought, until its answer is written or nothing of it is needed any more.
pub(super) type HeldMemory = Arc<Mutex<Option<RequestMemory>>>;

/// What a request comes to.
pub(super) enum Answer {
    /// A frame in pieces, length included, with its share of the memory for answers if it is large.
    Frame(Vec<Bytes>, Option<TakenMemory>),
    /// Nothing, as the client asked (`acks=0`).
    None,
    /// The end of the connection: the only way to tell a client of an error that it asked not to be told.
    Close,
}

/// An answer to come.
pub(super) type Answering = BoxFuture<'static, Answer>;

/// A request that was begun.
pub(super) struct Begun {
    /// Its answer to come.
    pub(super) answering: Answering,
    /// How large its answer is, if that is there already.
    pub(super) answer_bytes: Option<usize>,
    /// For how long nothing more is to be read from its connection.
    pub(super) pause: Duration,
}

impl From<Answering> for Begun {
    fn from(answering: Answering) -> Self {
        Self { answering, answer_bytes: None, pause: Duration::ZERO }
    }
}

/// A request and where it came from.
pub(super) struct Context {
    broker: Arc<Broker>,
    peer: Peer,
    header: RequestHeader,
    memory: HeldMemory,
    connection: Arc<ConnectionMemory>,
    turn: Turn,
    places: Arc<Semaphore>,
    place: OnceLock<OwnedSemaphorePermit>,
}

/// Whether all earlier requests of a connection are answered.
pub(super) struct Turn {
    in_flight: Arc<Semaphore>,
    others: u32,
}

impl Turn {
    /// Of a request that holds one permit, where earlier ones hold some of the `others`.
    pub(super) const fn new(in_flight: Arc<Semaphore>, others: u32) -> Self {
        Self { in_flight, others }
    }

    /// Waits until it is this request's turn to be answered.
    async fn come(&self) {
        drop(acquire(&self.in_flight, self.others).await);
    }
}

impl Context {
    /// Waits for a place among those who make an answer whose size its request does not tell; kept until that has its memory.
    /// Nobody waits for anything but memory meanwhile, and for that only in turn: what earlier requests of the connection hold
    /// is given back by then.
    async fn take_place(&self) {
        self.turn.come().await;
        let place = acquire(&self.places, 1).await;
        assert!(self.place.set(place).is_ok(), "a request has one answer");
    }

    /// Gives back the memory of the request but for so many bytes, which what was copied of it takes, but for a few names.
    fn keep_of_request(&self, bytes: usize) {
        if let Some(memory) = &mut *self.memory.lock() {
            memory.shrink_to(bytes);
        }
    }

    /// Comes when the request is not to wait any longer: others miss the memory that its connection holds, or its client may
    /// be gone. Not at once, since clients that get nothing ask again.
    async fn until_missed(&self) {
        let clock = &self.broker.runtime().clock;
        loop {
            clock.sleep(MISSED_LOOK).await;
            if self.connection.is_missed() || self.connection.has_ended() {
                return;
            }
        }
    }

    /// Memory for an answer that is there.
    async fn answer_memory(&self, bytes: usize) -> Option<TakenMemory> {
        if bytes <= SMALL_ANSWER_BYTES {
            return None;
        }
        self.turn.come().await;
        Some(self.broker.answer_memory(bytes).await)
    }

    /// What may be put into one answer.
    fn answer_room(&self) -> AnswerRoom {
        AnswerRoom { left_bytes: self.broker.settings().fetch.answer_bytes.max(LEAST_ANSWER_BYTES) }
    }

    const fn version(&self) -> i16 {
        self.header.version
    }

    /// Counts the error of a group request, and gives its code.
    fn group_code(&self, error: Option<GroupError>) -> i16 {
        let code = group_code(error);
        self.count_error(code);
        code.code()
    }

    /// Counts an error that is answered.
    fn count_error(&self, error: ErrorCode) {
        if error.is_error() {
            self.broker.metrics().count_error(self.header.api.name(), error.name());
        }
    }

    /// An answer that can't be written is a fault of ours; the client learns by the end of its connection.
    fn unencodable(&self, error: &ProtocolError) -> Answer {
        tracing::error!(%error, "an answer can't be written");
        Answer::Close
    }
}

/// What may still be put into an answer that can repeat itself, counted as it is in memory before it is encoded.
struct AnswerRoom {
    left_bytes: usize,
}

impl AnswerRoom {
    /// Counts a part of the answer; false if that is too much, and an error has to stand in its place.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.unwrap_or(self.left_bytes);
        left.is_some()
    }
}

/// What stands in place of what an answer has no room for.
const TOO_LARGE: &str = "the answer would be too large; ask for less at a time";

/// An API whose requests are handled one after another.
trait Handle: ApiRequest {
    /// Does what is asked, and says what came of it.
    fn handle(self, context: &Context) -> impl Future<Output = Self::Response> + Send;
}

/// Starts requests, and counts them.
pub(super) struct Handlers {
    /// By place in [`Api::ALL`].
    metrics: Vec<ApiMetrics>,
    places: Arc<Semaphore>,
}

impl Handlers {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let metrics = Api::ALL.iter().map(|api| metrics.api(api.name())).collect();
        Self { metrics, places: Arc::new(Semaphore::new(LARGE_ANSWERS)) }
    }

    /// Starts a request. What has to be in order has happened when this returns; the answer may come later. An answer to a
    /// produce request takes no memory of its own: it is about as large as what the request holds, which is kept until it is
    /// written.
    ///
    /// # Errors
    /// [`ProtocolError`] for a frame that is answered by closing the connection.
    pub(super) async fn start(
        &self,
        broker: &Arc<Broker>,
        peer: &Peer,
        request: Request,
        turn: Turn,
    ) -> Result<(Begun, HeldMemory), ProtocolError> {
        let Request { header, body, memory, connection } = request;
        let memory: HeldMemory = Arc::new(Mutex::new(Some(memory)));
        let held = Arc::clone(&memory);
        let (clock, metrics) = (Arc::clone(&broker.runtime().clock), broker.metrics().server.clone());
        let counted = self.of(header.api);
        counted.requests.inc();
        let duration = counted.duration.clone();
        let started = clock.monotonic();
        let span = spans::request(header.api.name(), header.version, header.correlation_id);
        let (broker, peer, places) = (Arc::clone(broker), peer.clone(), Arc::clone(&self.places));
        let context = Context { broker, peer, header, memory, connection, turn, places, place: OnceLock::new() };
        let in_flight = Counted::new(&metrics.requests_in_flight);
        let Begun { answering, answer_bytes, pause } = dispatch(context, body).instrument(span.clone()).await?;
        let answering = async move {
            let answer = answering.await;
            drop(in_flight);
            duration.observe(clock.monotonic().since(started));
            answer
        };
        Ok((Begun { answering: Box::pin(answering.instrument(span)), answer_bytes, pause }, held))
    }

    fn of(&self, api: Api) -> &ApiMetrics {
        let place = Api::ALL.iter().position(|one| *one == api).expect("every API is in the list of all");
        &self.metrics[place]
    }
}

async fn dispatch(context: Context, body: Bytes) -> Result<Begun, ProtocolError> {
    match context.header.api {
        Api::Produce => Box::pin(produce::start(context, body)).await,
        Api::Fetch => fetch::start(context, body).map(Begun::from),
        _ => {
            let answer = handle(&context, body).await?;
            drop(context.memory.lock().take());
            let answer_bytes = Some(answer.len());
            let memory = context.answer_memory(answer.len()).await;
            let answering = Box::pin(std::future::ready(Answer::Frame(vec![answer], memory)));
            Ok(Begun { answering, answer_bytes, pause: Duration::ZERO })
        }
    }
}

async fn handle(context: &Context, body: Bytes) -> Result<Bytes, ProtocolError> {
    match context.header.api {
        Api::Produce | Api::Fetch => unreachable!("handled apart"),
        Api::ApiVersions if !Api::ApiVersions.accepts(context.version()) => {
            Ok(unsupported_api_versions(context.header.correlation_id))
        }
        Api::ApiVersions => respond::<ApiVersionsRequest>(context, body).await,
        Api::Metadata => respond::<MetadataRequest>(context, body).await,
        Api::DescribeTopicPartitions => respond::<DescribeTopicPartitionsRequest>(context, body).await,
        Api::DescribeCluster => respond::<DescribeClusterRequest>(context, body).await,
        Api::ListOffsets => respond::<ListOffsetsRequest>(context, body).await,
        Api::OffsetForLeaderEpoch => respond::<OffsetForLeaderEpochRequest>(context, body).await,
        Api::CreateTopics => respond::<CreateTopicsRequest>(context, body).await,
        Api::DeleteTopics => respond::<DeleteTopicsRequest>(context, body).await,
        Api::CreatePartitions => respond::<CreatePartitionsRequest>(context, body).await,
        Api::DeleteRecords => respond::<DeleteRecordsRequest>(context, body).await,
        Api::DescribeConfigs => respond::<DescribeConfigsRequest>(context, body).await,
        Api::AlterConfigs => respond::<AlterConfigsRequest>(context, body).await,
        Api::IncrementalAlterConfigs => respond::<IncrementalAlterConfigsRequest>(context, body).await,
        Api::InitProducerId => respond::<InitProducerIdRequest>(context, body).await,
        Api::DescribeProducers => respond::<DescribeProducersRequest>(context, body).await,
        Api::DescribeLogDirs => respond::<DescribeLogDirsRequest>(context, body).await,
        Api::FindCoordinator => respond::<FindCoordinatorRequest>(context, body).await,
        Api::JoinGroup => respond::<JoinGroupRequest>(context, body).await,
        Api::SyncGroup => respond::<SyncGroupRequest>(context, body).await,
        Api::Heartbeat => respond::<HeartbeatRequest>(context, body).await,
        Api::LeaveGroup => respond::<LeaveGroupRequest>(context, body).await,
        Api::OffsetCommit => respond::<OffsetCommitRequest>(context, body).await,
        Api::OffsetFetch => respond::<OffsetFetchRequest>(context, body).await,
        Api::OffsetDelete => respond::<OffsetDeleteRequest>(context, body).await,
        Api::ListGroups => respond::<ListGroupsRequest>(context, body).await,
        Api::DescribeGroups => respond::<DescribeGroupsRequest>(context, body).await,
        Api::DeleteGroups => respond::<DeleteGroupsRequest>(context, body).await,
        Api::ElectLeaders => respond::<ElectLeadersRequest>(context, body).await,
        Api::AlterPartitionReassignments => respond::<AlterPartitionReassignmentsRequest>(context, body).await,
        Api::ListPartitionReassignments => respond::<ListPartitionReassignmentsRequest>(context, body).await,
        Api::DescribeQuorum => respond::<DescribeQuorumRequest>(context, body).await,
        Api::AddRaftVoter => respond::<AddRaftVoterRequest>(context, body).await,
        Api::RemoveRaftVoter => respond::<RemoveRaftVoterRequest>(context, body).await,
        Api::UnregisterBroker => respond::<UnregisterBrokerRequest>(context, body).await,
    }
}

/// Handles a request to its end.
async fn respond<R: Handle + Send>(context: &Context, body: Bytes) -> Result<Bytes, ProtocolError> {
    let RequestHeader { version, correlation_id, .. } = context.header;
    let request: R = decode_request(version, body)?;
    let response = Box::pin(request.handle(context)).await;
    encode_response::<R>(version, correlation_id, &response)
}
