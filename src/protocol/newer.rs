//! The versions that Apache Kafka 4.3.1 accepts and the protocol crate, generated from 4.1, does not know.
//!
//! | API | version | beyond the crate's last |
//! |---|---|---|
//! | ListOffsets | 11 | nothing on the wire: allows the timestamp −6 (KIP-1023) |
//! | OffsetCommit | 10 | topics by id instead of name (KIP-848); the crate has the answer |
//! | OffsetFetch | 10 | topics by id instead of name (KIP-848); the crate has the answer |
//! | DescribeLogDirs | 5 | `is_cordoned` in the answer (KIP-1066); nothing here is ever cordoned |
//! | AddRaftVoter | 1 | `ack_when_committed` at the end of the request (KIP-1186); here nothing is answered before |

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeLogDirsRequest, DescribeLogDirsResponse, GroupId,
    ListOffsetsRequest, ListOffsetsResponse, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::reader::Reader;
use super::{Api, ApiRequest, ProtocolError};

impl ApiRequest for ListOffsetsRequest {
    const API: Api = Api::ListOffsets;

    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        Self::decode(body, version.min(10)).ok()
    }

    fn encode_response_body(response: &ListOffsetsResponse, out: &mut BytesMut, version: i16) -> Option<()> {
        response.encode(out, version.min(10)).ok()
    }
}

impl ApiRequest for OffsetCommitRequest {
    const API: Api = Api::OffsetCommit;

    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        if version < 10 {
            return Self::decode(body, version).ok();
        }
        offset_commit_10(&mut Reader::new(body)).ok()
    }
}

fn offset_commit_10(reader: &mut Reader<'_>) -> Result<OffsetCommitRequest, ProtocolError> {
    let mut request = OffsetCommitRequest::default()
        .with_group_id(GroupId(reader.text("group_id")?))
        .with_generation_id_or_member_epoch(reader.int32("generation_id_or_member_epoch")?)
        .with_member_id(reader.text("member_id")?)
        .with_group_instance_id(reader.nullable_text("group_instance_id")?);
    for _ in 0..reader.compact_count("topics")? {
        let mut topic = OffsetCommitRequestTopic::default().with_topic_id(reader.uuid("topic_id")?);
        for _ in 0..reader.compact_count("partitions")? {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(reader.int32("partition_index")?)
                .with_committed_offset(reader.int64("committed_offset")?)
                .with_committed_leader_epoch(reader.int32("committed_leader_epoch")?)
                .with_committed_metadata(reader.nullable_text("committed_metadata")?);
            reader.skip_tagged_fields()?;
            topic.partitions.push(partition);
        }
        reader.skip_tagged_fields()?;
        request.topics.push(topic);
    }
    reader.skip_tagged_fields()?;
    Ok(request)
}

impl ApiRequest for OffsetFetchRequest {
    const API: Api = Api::OffsetFetch;

    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        if version < 10 {
            return Self::decode(body, version).ok();
        }
        offset_fetch_10(&mut Reader::new(body)).ok()
    }
}

fn offset_fetch_10(reader: &mut Reader<'_>) -> Result<OffsetFetchRequest, ProtocolError> {
    let mut request = OffsetFetchRequest::default();
    for _ in 0..reader.compact_count("groups")? {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(reader.text("group_id")?))
            .with_member_id(reader.nullable_text("member_id")?)
            .with_member_epoch(reader.int32("member_epoch")?)
            .with_topics(offset_fetch_10_topics(reader)?);
        reader.skip_tagged_fields()?;
        request.groups.push(group);
    }
    request.require_stable = reader.int8("require_stable")? != 0;
    reader.skip_tagged_fields()?;
    Ok(request)
}

/// The topics of a group; null asks for all.
fn offset_fetch_10_topics(reader: &mut Reader<'_>) -> Result<Option<Vec<OffsetFetchRequestTopics>>, ProtocolError> {
    let Some(count) = reader.compact_length("topics")? else { return Ok(None) };
    let mut topics = Vec::new();
    for _ in 0..count {
        let mut topic = OffsetFetchRequestTopics::default().with_topic_id(reader.uuid("topic_id")?);
        for _ in 0..reader.compact_count("partition_indexes")? {
            topic.partition_indexes.push(reader.int32("partition_indexes")?);
        }
        reader.skip_tagged_fields()?;
        topics.push(topic);
    }
    Ok(Some(topics))
}

impl ApiRequest for DescribeLogDirsRequest {
    const API: Api = Api::DescribeLogDirs;

    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        Self::decode(body, version.min(4)).ok()
    }

    fn encode_response_body(response: &DescribeLogDirsResponse, out: &mut BytesMut, version: i16) -> Option<()> {
        if version < 5 {
            return response.encode(out, version).ok();
        }
        out.put_i32(response.throttle_time_ms);
        out.put_i16(response.error_code);
        put_compact_length(out, response.results.len())?;
        for result in &response.results {
            out.put_i16(result.error_code);
            put_compact_length(out, result.log_dir.len())?;
            out.put_slice(result.log_dir.as_bytes());
            put_compact_length(out, result.topics.len())?;
            for topic in &result.topics {
                topic.encode(out, 4).ok()?;
            }
            out.put_i64(result.total_bytes);
            out.put_i64(result.usable_bytes);
            let is_cordoned = 0;
            let tagged_fields = 0;
            out.put_slice(&[is_cordoned, tagged_fields]);
        }
        out.put_u8(0);
        Some(())
    }
}

impl ApiRequest for AddRaftVoterRequest {
    const API: Api = Api::AddRaftVoter;

    fn decode_body(body: &mut Bytes, version: i16) -> Option<Self> {
        if version < 1 {
            return Self::decode(body, version).ok();
        }
        add_raft_voter_1(&mut Reader::new(body)).ok()
    }

    fn encode_response_body(response: &AddRaftVoterResponse, out: &mut BytesMut, _version: i16) -> Option<()> {
        response.encode(out, 0).ok()
    }
}

fn add_raft_voter_1(reader: &mut Reader<'_>) -> Result<AddRaftVoterRequest, ProtocolError> {
    let mut request = AddRaftVoterRequest::default()
        .with_cluster_id(reader.nullable_text("cluster_id")?)
        .with_timeout_ms(reader.int32("timeout_ms")?)
        .with_voter_id(reader.int32("voter_id")?)
        .with_voter_directory_id(reader.uuid("voter_directory_id")?);
    for _ in 0..reader.compact_count("listeners")? {
        let listener = Listener::default()
            .with_name(reader.text("name")?)
            .with_host(reader.text("host")?)
            .with_port(reader.int16("port")?.cast_unsigned());
        reader.skip_tagged_fields()?;
        request.listeners.push(listener);
    }
    reader.int8("ack_when_committed")?;
    reader.skip_tagged_fields()?;
    Ok(request)
}

/// Writes a length or count plus one as a varint.
pub(super) fn put_compact_length(out: &mut BytesMut, length: usize) -> Option<()> {
    let mut left = u32::try_from(length).ok()?.checked_add(1)?;
    while left >= 0x80 {
        out.put_u8((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
    Some(())
}
