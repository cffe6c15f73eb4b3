//! Requests decoded and answers encoded, in every version of the table; and the answers that a client reads.
//!
//! The messages are the protocol crate's (generated from Apache Kafka 4.1); `newer` supplies what 4.3.1 has beyond
//! them. Nothing is decoded before the guard has walked it.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiVersionsRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeProducersRequest, DescribeQuorumRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, FetchRequest, FindCoordinatorRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, OffsetDeleteRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, RemoveRaftVoterRequest, SyncGroupRequest, UnregisterBrokerRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

use super::frame::{finish_response, start_response};
use super::{Api, ProtocolError, guard};

/// A request of an API that is served, and through it the answer.
pub trait ApiRequest: Request {
    /// The API.
    const API: Api;

    /// Decodes a body that the guard has walked. `None` where a field is null that must not be, or text is not UTF-8.
    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        Self::decode(body, version).ok()
    }

    /// Encodes the body of an answer. `None` where it holds what the version can't express.
    fn encode_response_body(response: &Self::Response, out: &mut BytesMut, version: i16) -> Option<()> {
        response.encode(out, version).ok()
    }
}

macro_rules! served {
    ($($api:ident $request:ty;)*) => {
        $(impl ApiRequest for $request {
            const API: Api = Api::$api;
        })*
    };
}

// ListOffsets, OffsetCommit, OffsetFetch, DescribeLogDirs and AddRaftVoter are in `newer`.
served! {
    Produce ProduceRequest;
    Fetch FetchRequest;
    Metadata MetadataRequest;
    FindCoordinator FindCoordinatorRequest;
    JoinGroup JoinGroupRequest;
    Heartbeat HeartbeatRequest;
    LeaveGroup LeaveGroupRequest;
    SyncGroup SyncGroupRequest;
    DescribeGroups DescribeGroupsRequest;
    ListGroups ListGroupsRequest;
    ApiVersions ApiVersionsRequest;
    CreateTopics CreateTopicsRequest;
    DeleteTopics DeleteTopicsRequest;
    DeleteRecords DeleteRecordsRequest;
    InitProducerId InitProducerIdRequest;
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest;
    DescribeConfigs DescribeConfigsRequest;
    AlterConfigs AlterConfigsRequest;
    CreatePartitions CreatePartitionsRequest;
    DeleteGroups DeleteGroupsRequest;
    IncrementalAlterConfigs IncrementalAlterConfigsRequest;
    ElectLeaders ElectLeadersRequest;
    AlterPartitionReassignments AlterPartitionReassignmentsRequest;
    ListPartitionReassignments ListPartitionReassignmentsRequest;
    OffsetDelete OffsetDeleteRequest;
    DescribeQuorum DescribeQuorumRequest;
    DescribeCluster DescribeClusterRequest;
    DescribeProducers DescribeProducersRequest;
    UnregisterBroker UnregisterBrokerRequest;
    DescribeTopicPartitions DescribeTopicPartitionsRequest;
    RemoveRaftVoter RemoveRaftVoterRequest;
}

/// Decodes the body of a request. Byte fields, and so the records of a Produce request, share the body's memory;
/// everything else takes memory in proportion to the body, within
/// [`MAX_REQUEST_ELEMENTS`](super::MAX_REQUEST_ELEMENTS).
pub fn decode_request<R: ApiRequest>(version: i16, mut body: Bytes) -> Result<R, ProtocolError> {
    if !R::API.accepts(version) {
        return Err(ProtocolError::UnsupportedVersion { api: R::API, version });
    }
    guard::check_request(R::API, version, &body)?;
    R::decode_body(&mut body, version).ok_or(ProtocolError::Undecodable { api: R::API, version })
}

/// Decodes the body of an answer, for the APIs that the command line's client uses, in the versions that the protocol crate
/// knows. Takes memory as [`decode_request`] does, within [`MAX_ANSWER_ELEMENTS`](super::MAX_ANSWER_ELEMENTS).
pub fn decode_response<R: ApiRequest>(version: i16, mut body: Bytes) -> Result<R::Response, ProtocolError> {
    if !R::API.accepts(version) {
        return Err(ProtocolError::UnsupportedVersion { api: R::API, version });
    }
    guard::check_answer(R::API, version, &body)?;
    R::Response::decode(&mut body, version).map_err(|_| ProtocolError::Undecodable { api: R::API, version })
}

/// Encodes an answer as a whole frame, length and header included. Fetch answers have
/// [`FetchResponse`](super::fetch_response::FetchResponse), which does not copy records.
pub fn encode_response<R: ApiRequest>(
    version: i16,
    correlation_id: i32,
    response: &R::Response,
) -> Result<Bytes, ProtocolError> {
    let mut frame = start_response(R::API, version, correlation_id);
    R::encode_response_body(response, &mut frame, version)
        .and_then(|()| finish_response(&mut frame, 0))
        .ok_or(ProtocolError::Unencodable { api: R::API, version })?;
    Ok(frame.freeze())
}
