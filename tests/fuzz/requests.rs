//! Requests of every API that is served.

use alluvium::protocol::{Api, ApiRequest, decode_request, split_request};
use bytes::Bytes;
use kafka_protocol::messages::*;

/// A frame as it comes from a client, without its length.
pub fn decode(frame: &[u8]) {
    let Ok((header, body)) = split_request(Bytes::copy_from_slice(frame)) else { return };
    let decode: fn(i16, Bytes) = match header.api {
        Api::Produce => body_of::<ProduceRequest>,
        Api::Fetch => body_of::<FetchRequest>,
        Api::ListOffsets => body_of::<ListOffsetsRequest>,
        Api::Metadata => body_of::<MetadataRequest>,
        Api::OffsetCommit => body_of::<OffsetCommitRequest>,
        Api::OffsetFetch => body_of::<OffsetFetchRequest>,
        Api::FindCoordinator => body_of::<FindCoordinatorRequest>,
        Api::JoinGroup => body_of::<JoinGroupRequest>,
        Api::Heartbeat => body_of::<HeartbeatRequest>,
        Api::LeaveGroup => body_of::<LeaveGroupRequest>,
        Api::SyncGroup => body_of::<SyncGroupRequest>,
        Api::DescribeGroups => body_of::<DescribeGroupsRequest>,
        Api::ListGroups => body_of::<ListGroupsRequest>,
        Api::ApiVersions => body_of::<ApiVersionsRequest>,
        Api::CreateTopics => body_of::<CreateTopicsRequest>,
        Api::DeleteTopics => body_of::<DeleteTopicsRequest>,
        Api::DeleteRecords => body_of::<DeleteRecordsRequest>,
        Api::InitProducerId => body_of::<InitProducerIdRequest>,
        Api::OffsetForLeaderEpoch => body_of::<OffsetForLeaderEpochRequest>,
        Api::DescribeConfigs => body_of::<DescribeConfigsRequest>,
        Api::AlterConfigs => body_of::<AlterConfigsRequest>,
        Api::DescribeLogDirs => body_of::<DescribeLogDirsRequest>,
        Api::CreatePartitions => body_of::<CreatePartitionsRequest>,
        Api::DeleteGroups => body_of::<DeleteGroupsRequest>,
        Api::IncrementalAlterConfigs => body_of::<IncrementalAlterConfigsRequest>,
        Api::ElectLeaders => body_of::<ElectLeadersRequest>,
        Api::AlterPartitionReassignments => body_of::<AlterPartitionReassignmentsRequest>,
        Api::ListPartitionReassignments => body_of::<ListPartitionReassignmentsRequest>,
        Api::OffsetDelete => body_of::<OffsetDeleteRequest>,
        Api::DescribeQuorum => body_of::<DescribeQuorumRequest>,
        Api::DescribeCluster => body_of::<DescribeClusterRequest>,
        Api::DescribeProducers => body_of::<DescribeProducersRequest>,
        Api::UnregisterBroker => body_of::<UnregisterBrokerRequest>,
        Api::DescribeTopicPartitions => body_of::<DescribeTopicPartitionsRequest>,
        Api::AddRaftVoter => body_of::<AddRaftVoterRequest>,
        Api::RemoveRaftVoter => body_of::<RemoveRaftVoterRequest>,
    };
    decode(header.version, body);
}

fn body_of<R: ApiRequest>(version: i16, body: Bytes) {
    let _ = decode_request::<R>(version, body);
}
