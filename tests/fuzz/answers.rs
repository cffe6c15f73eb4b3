//! Answers of every API that the command line's client uses.

use alluvium::protocol::{Api, ApiRequest, decode_response, split_response};
use bytes::Bytes;
use kafka_protocol::messages::*;

/// The key and the version of a request, and the frame that comes from a broker, without its length.
pub fn decode(bytes: &[u8]) {
    let Some((&[key, more_key, version, more_version], frame)) = bytes.split_first_chunk::<4>() else { return };
    let version = i16::from_be_bytes([version, more_version]);
    let decode: fn(i16, Bytes) = match Api::from_key(i16::from_be_bytes([key, more_key])) {
        Some(Api::Produce) => body_of::<ProduceRequest>,
        Some(Api::Fetch) => body_of::<FetchRequest>,
        Some(Api::ListOffsets) => body_of::<ListOffsetsRequest>,
        Some(Api::Metadata) => body_of::<MetadataRequest>,
        Some(Api::ApiVersions) => body_of::<ApiVersionsRequest>,
        Some(Api::CreateTopics) => body_of::<CreateTopicsRequest>,
        Some(Api::DeleteTopics) => body_of::<DeleteTopicsRequest>,
        Some(Api::InitProducerId) => body_of::<InitProducerIdRequest>,
        Some(Api::DescribeConfigs) => body_of::<DescribeConfigsRequest>,
        Some(Api::CreatePartitions) => body_of::<CreatePartitionsRequest>,
        Some(Api::IncrementalAlterConfigs) => body_of::<IncrementalAlterConfigsRequest>,
        Some(Api::ListPartitionReassignments) => body_of::<ListPartitionReassignmentsRequest>,
        Some(Api::DescribeQuorum) => body_of::<DescribeQuorumRequest>,
        Some(Api::DescribeCluster) => body_of::<DescribeClusterRequest>,
        Some(Api::UnregisterBroker) => body_of::<UnregisterBrokerRequest>,
        Some(Api::AddRaftVoter) => body_of::<AddRaftVoterRequest>,
        Some(Api::RemoveRaftVoter) => body_of::<RemoveRaftVoterRequest>,
        _ => return,
    };
    decode(version, Bytes::copy_from_slice(frame));
}

fn body_of<R: ApiRequest>(version: i16, frame: Bytes) {
    if let Ok((_, body)) = split_response(R::API, version, frame) {
        let _ = decode_response::<R>(version, body);
    }
}
