//! Requests of every API and version, and the answers that the client reads: made up from the schema, damaged, and read by
//! guard and decoder.

use std::fmt::Debug;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, StrBytes};

use super::answer_schema::answer_fields;
use super::schema::{Field, Kind};
use super::*;

/// Runs a generic function for the request type of every API.
macro_rules! for_each_api {
    ($run:ident) => {
        for &api in Api::ALL {
            match api {
                Api::Produce => $run::<ProduceRequest>(),
                Api::Fetch => $run::<FetchRequest>(),
                Api::ListOffsets => $run::<ListOffsetsRequest>(),
                Api::Metadata => $run::<MetadataRequest>(),
                Api::OffsetCommit => $run::<OffsetCommitRequest>(),
                Api::OffsetFetch => $run::<OffsetFetchRequest>(),
                Api::FindCoordinator => $run::<FindCoordinatorRequest>(),
                Api::JoinGroup => $run::<JoinGroupRequest>(),
                Api::Heartbeat => $run::<HeartbeatRequest>(),
                Api::LeaveGroup => $run::<LeaveGroupRequest>(),
                Api::SyncGroup => $run::<SyncGroupRequest>(),
                Api::DescribeGroups => $run::<DescribeGroupsRequest>(),
                Api::ListGroups => $run::<ListGroupsRequest>(),
                Api::ApiVersions => $run::<ApiVersionsRequest>(),
                Api::CreateTopics => $run::<CreateTopicsRequest>(),
                Api::DeleteTopics => $run::<DeleteTopicsRequest>(),
                Api::DeleteRecords => $run::<DeleteRecordsRequest>(),
                Api::InitProducerId => $run::<InitProducerIdRequest>(),
                Api::OffsetForLeaderEpoch => $run::<OffsetForLeaderEpochRequest>(),
                Api::DescribeConfigs => $run::<DescribeConfigsRequest>(),
                Api::AlterConfigs => $run::<AlterConfigsRequest>(),
                Api::DescribeLogDirs => $run::<DescribeLogDirsRequest>(),
                Api::CreatePartitions => $run::<CreatePartitionsRequest>(),
                Api::DeleteGroups => $run::<DeleteGroupsRequest>(),
                Api::IncrementalAlterConfigs => $run::<IncrementalAlterConfigsRequest>(),
                Api::ElectLeaders => $run::<ElectLeadersRequest>(),
                Api::AlterPartitionReassignments => $run::<AlterPartitionReassignmentsRequest>(),
                Api::ListPartitionReassignments => $run::<ListPartitionReassignmentsRequest>(),
                Api::OffsetDelete => $run::<OffsetDeleteRequest>(),
                Api::DescribeQuorum => $run::<DescribeQuorumRequest>(),
                Api::DescribeCluster => $run::<DescribeClusterRequest>(),
                Api::DescribeProducers => $run::<DescribeProducersRequest>(),
                Api::UnregisterBroker => $run::<UnregisterBrokerRequest>(),
                Api::DescribeTopicPartitions => $run::<DescribeTopicPartitionsRequest>(),
                Api::AddRaftVoter => $run::<AddRaftVoterRequest>(),
                Api::RemoveRaftVoter => $run::<RemoveRaftVoterRequest>(),
            }
        }
    };
}

/// Runs a generic function for every API whose answers the client reads.
macro_rules! for_each_answer {
    ($run:ident) => {
        $run::<ProduceRequest>();
        $run::<FetchRequest>();
        $run::<ListOffsetsRequest>();
        $run::<MetadataRequest>();
        $run::<ApiVersionsRequest>();
        $run::<CreateTopicsRequest>();
        $run::<DeleteTopicsRequest>();
        $run::<InitProducerIdRequest>();
        $run::<DescribeConfigsRequest>();
        $run::<CreatePartitionsRequest>();
        $run::<IncrementalAlterConfigsRequest>();
        $run::<ListPartitionReassignmentsRequest>();
        $run::<DescribeQuorumRequest>();
        $run::<DescribeClusterRequest>();
        $run::<UnregisterBrokerRequest>();
        $run::<AddRaftVoterRequest>();
        $run::<RemoveRaftVoterRequest>();
    };
}

/// A small generator (splitmix64), so that every failure repeats.
struct Entropy(u64);

impl Entropy {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Writes a message that the schema allows. With `lie_at`, the count of that number is as large as can be and ends the
/// frame.
struct Forge {
    entropy: Entropy,
    version: i16,
    flexible: bool,
    out: BytesMut,
    counts: usize,
    lie_at: Option<usize>,
    ended: bool,
}

impl Forge {
    fn request(api: Api, version: i16, seed: u64, lie_at: Option<usize>) -> Self {
        Self::message(api, version, api.request_fields(), seed, lie_at)
    }

    fn answer(api: Api, version: i16, seed: u64, lie_at: Option<usize>) -> Self {
        Self::message(api, version, answer_fields(api).unwrap(), seed, lie_at)
    }

    fn message(api: Api, version: i16, fields: &'static [Field], seed: u64, lie_at: Option<usize>) -> Self {
        let flexible = api.is_flexible(version);
        let out = BytesMut::new();
        let mut forge = Self { entropy: Entropy(seed), version, flexible, out, counts: 0, lie_at, ended: false };
        forge.structure(fields);
        forge
    }

    fn structure(&mut self, fields: &'static [Field]) {
        for field in fields.iter().filter(|field| field.tag.is_none()) {
            if field.is_in(self.version) && !self.ended {
                self.value(&field.kind);
            }
        }
        if self.flexible && !self.ended {
            self.tagged_fields(fields);
        }
    }

    fn value(&mut self, kind: &Kind) {
        match kind {
            Kind::Fixed(bytes) => self.noise(*bytes),
            Kind::String | Kind::Bytes => {
                let length = self.entropy.below(6);
                self.length(length, matches!(kind, Kind::String));
                let text = (self.entropy.next() as u8) & 0x7f;
                self.out.put_bytes(text, length);
            }
            Kind::Array(fields) => self.repeat(|forge| forge.structure(fields)),
            Kind::Elements(element) => self.repeat(|forge| forge.value(element)),
            Kind::Struct(fields) => self.structure(fields),
            Kind::Nullable(fields) => {
                if self.entropy.below(2) == 0 {
                    self.out.put_i8(-1);
                } else {
                    self.out.put_i8(1);
                    self.structure(fields);
                }
            }
        }
    }

    fn repeat(&mut self, mut element: impl FnMut(&mut Self)) {
        let count = self.entropy.below(4);
        if self.lie() {
            return if self.flexible { self.varint(u32::MAX) } else { self.out.put_i32(i32::MAX) };
        }
        self.length(count, false);
        for _ in 0..count {
            if !self.ended {
                element(self);
            }
        }
    }

    /// True when this count is the one to lie.
    fn lie(&mut self) -> bool {
        self.ended = self.lie_at == Some(self.counts);
        self.counts += 1;
        self.ended
    }

    fn tagged_fields(&mut self, fields: &'static [Field]) {
        if self.lie() {
            return self.varint(u32::MAX);
        }
        let (version, sends) = (self.version, self.entropy.below(3) == 0);
        let known: Vec<_> =
            fields.iter().filter(|field| field.tag.is_some() && field.is_in(version) && sends).collect();
        let unknown = self.entropy.below(2);
        self.varint((known.len() + unknown) as u32);
        for field in known {
            let before = std::mem::take(&mut self.out);
            self.value(&field.kind);
            let content = std::mem::replace(&mut self.out, before);
            self.varint(field.tag.unwrap());
            self.varint(content.len() as u32);
            self.out.put_slice(&content);
        }
        for _ in 0..unknown {
            self.varint(200);
            self.varint(3);
            self.noise(3);
        }
    }

    fn length(&mut self, length: usize, short: bool) {
        match (self.flexible, short) {
            (true, _) => self.varint(length as u32 + 1),
            (false, true) => self.out.put_i16(length as i16),
            (false, false) => self.out.put_i32(length as i32),
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    fn noise(&mut self, bytes: usize) {
        for _ in 0..bytes {
            self.out.put_u8(self.entropy.next() as u8);
        }
    }
}

fn forged(api: Api, version: i16, seed: u64) -> Bytes {
    Forge::request(api, version, seed, None).out.freeze()
}

fn guard_and_decoder_agree<R: ApiRequest + Debug + PartialEq>() {
    for version in R::API.versions() {
        for seed in 0..300 {
            let mut body = forged(R::API, version, seed);
            let context = format!("{} {version} seed {seed}", R::API);
            let request: R = decode_request(version, body.clone()).expect(&context);
            assert!(R::decode_body(&mut body, version).is_some());
            // The hand-written decoders read a borrowed slice.
            assert!(body.is_empty() || version > R::VERSIONS.max, "{context}: {} bytes left", body.len());
            if version <= R::VERSIONS.max {
                let mut again = BytesMut::new();
                request.encode(&mut again, version).expect(&context);
                assert_eq!(decode_request::<R>(version, again.freeze()), Ok(request), "{context}");
            }
        }
    }
}

#[test]
fn every_request_of_the_schema_is_walked_and_decoded_to_its_last_byte() {
    for_each_api!(guard_and_decoder_agree);
}

fn damage_is_survived<R: ApiRequest>() {
    let mut entropy = Entropy(R::API.key() as u64);
    let versions: Vec<i16> = R::API.versions().collect();
    for round in 0..12_000 {
        let version = versions[entropy.below(versions.len())];
        let mut body = BytesMut::from(&forged(R::API, version, round)[..]);
        for _ in 0..=entropy.below(4) {
            if !body.is_empty() {
                let at = entropy.below(body.len());
                body[at] = [entropy.next() as u8, 0xff, 0x7f, 0x80, 0][entropy.below(5)];
            }
        }
        if entropy.below(4) == 0 {
            body.truncate(entropy.below(body.len() + 1));
        }
        let body = body.freeze();
        let _ = decode_request::<R>(version, body.clone());
        let _ = split_request(body);
    }
}

#[test]
fn damaged_requests_never_panic() {
    for_each_api!(damage_is_survived);
}

#[test]
fn a_string_is_no_longer_than_older_versions_can_say() {
    let request = |bytes: usize| {
        let group = StrBytes::from_string("g".repeat(bytes));
        let request = HeartbeatRequest::default().with_group_id(GroupId(group));
        let mut body = BytesMut::new();
        request.encode(&mut body, 4).unwrap();
        decode_request::<HeartbeatRequest>(4, body.freeze())
    };
    assert!(request(32_767).is_ok());
    assert!(matches!(request(32_768), Err(ProtocolError::Malformed { value: 32_768, .. })));
}

fn no_count_is_believed<R: ApiRequest>() {
    for version in R::API.versions() {
        let honest = Forge::request(R::API, version, 5, None);
        for lie_at in 0..honest.counts {
            let body = Forge::request(R::API, version, 5, Some(lie_at)).out.freeze();
            let refused = decode_request::<R>(version, body).err();
            assert!(
                matches!(refused, Some(ProtocolError::Truncated { .. })),
                "{} {version} {lie_at}: {refused:?}",
                R::API
            );
        }
    }
}

#[test]
fn a_small_frame_that_claims_two_thousand_million_elements_is_refused_before_decoding() {
    for_each_api!(no_count_is_believed);
}

/// The versions of an answer that both tables know.
fn answer_versions<R: ApiRequest>() -> impl Iterator<Item = i16> {
    R::API.versions().filter(|version| (R::VERSIONS.min..=R::VERSIONS.max).contains(version))
}

fn answers_are_walked_to_the_end<R: ApiRequest>()
where
    R::Response: Debug + PartialEq,
{
    for version in answer_versions::<R>() {
        for seed in 0..300 {
            let mut body = Forge::answer(R::API, version, seed, None).out.freeze();
            let context = format!("{} {version} seed {seed}", R::API);
            let answer = decode_response::<R>(version, body.clone()).expect(&context);
            assert_eq!(R::Response::decode(&mut body, version).expect(&context), answer);
            assert!(body.is_empty(), "{context}: {} bytes left", body.len());
        }
    }
}

#[test]
fn every_answer_of_the_schema_is_walked_and_decoded_to_its_last_byte() {
    for_each_answer!(answers_are_walked_to_the_end);
}

fn damaged_answers_are_survived<R: ApiRequest>() {
    for version in answer_versions::<R>() {
        let honest = Forge::answer(R::API, version, 5, None);
        for lie_at in 0..honest.counts {
            let body = Forge::answer(R::API, version, 5, Some(lie_at)).out.freeze();
            let refused = decode_response::<R>(version, body).err();
            assert!(matches!(refused, Some(ProtocolError::Truncated { .. })), "{} {version}: {refused:?}", R::API);
        }
        let whole = honest.out.freeze();
        for end in 0..whole.len() {
            let refused = decode_response::<R>(version, whole.slice(..end)).err();
            assert!(matches!(refused, Some(ProtocolError::Truncated { .. })), "{} {version}: {refused:?}", R::API);
        }
    }
}

#[test]
fn answers_that_claim_more_than_they_hold_are_refused_before_decoding() {
    for_each_answer!(damaged_answers_are_survived);
}

#[test]
fn elements_are_bounded_over_all_levels() {
    // Metadata 1: a count of topics, then names.
    let names = |count: usize| {
        let mut body = BytesMut::new();
        body.put_i32(count as i32);
        body.put_bytes(0, 2 * count);
        body.freeze()
    };
    assert!(decode_request::<MetadataRequest>(1, names(MAX_REQUEST_ELEMENTS)).is_ok());
    let refused = ProtocolError::TooManyElements { field: "topics", limit: MAX_REQUEST_ELEMENTS };
    assert_eq!(decode_request::<MetadataRequest>(1, names(MAX_REQUEST_ELEMENTS + 1)), Err(refused));

    // OffsetDelete: topics of many partitions each.
    let mut body = BytesMut::new();
    body.put_i16(0);
    body.put_i32(3);
    for _ in 0..3 {
        body.put_i16(0);
        body.put_i32(100_000);
        body.put_bytes(0, 400_000);
    }
    let refused = decode_request::<OffsetDeleteRequest>(0, body.freeze());
    assert!(matches!(refused, Err(ProtocolError::TooManyElements { field: "partitions", .. })));
}

#[test]
fn a_tagged_field_must_be_as_long_as_it_says() {
    // Fetch 12: the fixed fields, no topics, nothing forgotten, no rack, then the cluster id under tag 0.
    let body = |tagged: &[u8]| {
        let fixed = [0; 4 * 4 + 1 + 2 * 4];
        Bytes::from([&fixed[..], &[1, 1, 1], tagged].concat())
    };
    assert!(decode_request::<FetchRequest>(12, body(&[1, 0, 3, 3, b'i', b'd'])).is_ok());
    for lie in [&[1, 0, 1, 3, b'i', b'd'][..], &[1, 0, 4, 3, b'i', b'd', 0]] {
        assert!(decode_request::<FetchRequest>(12, body(lie)).is_err(), "{lie:?}");
    }
}

#[test]
fn bytes_after_a_request_are_passed_over() {
    let body = [&forged(Api::Metadata, 9, 1)[..], b"junk"].concat();
    assert!(decode_request::<MetadataRequest>(9, body.into()).is_ok());
}

#[test]
fn records_of_a_produce_request_are_slices_of_its_frame() {
    for version in Api::Produce.versions() {
        let records = Bytes::from_static(b"records");
        let partition = produce_request::PartitionProduceData::default().with_records(Some(records.clone()));
        let topic = produce_request::TopicProduceData::default().with_partition_data(vec![partition]);
        let mut body = BytesMut::new();
        ProduceRequest::default().with_topic_data(vec![topic]).encode(&mut body, version).unwrap();
        let body = body.freeze();
        let request: ProduceRequest = decode_request(version, body.clone()).unwrap();
        let decoded = request.topic_data[0].partition_data[0].records.as_ref().unwrap();
        assert_eq!(*decoded, records);
        assert!(body.as_ptr_range().contains(&decoded.as_ptr()), "version {version}");
    }
}

#[test]
fn answers_are_split_from_their_header_as_both_sides_write_it() {
    let frame = Bytes::from_static(b"\0\0\0\x07\x01\x05\x02hibody");
    assert_eq!(split_response(Api::Metadata, 9, frame.clone()), Ok((7, frame.slice(8 + 1..))));
    assert_eq!(split_response(Api::Metadata, 8, frame.clone()), Ok((7, frame.slice(4..))));
    assert_eq!(split_response(Api::ApiVersions, 3, frame.clone()), Ok((7, frame.slice(4..))));
    for end in 0..9 {
        let refused = split_response(Api::Metadata, 9, frame.slice(..end));
        assert!(matches!(refused, Err(ProtocolError::Truncated { .. })), "{end}: {refused:?}");
    }
}

fn default_answers_read_back<R: ApiRequest>()
where
    R::Response: Default + Debug + PartialEq,
{
    for version in R::API.versions() {
        let mut frame = encode_response::<R>(version, 7, &R::Response::default()).unwrap();
        assert_eq!(frame.get_i32() as usize, frame.len());
        let header = ResponseHeader::decode(&mut frame, R::API.response_header_version(version)).unwrap();
        assert_eq!(header.correlation_id, 7);
        if version <= R::Response::VERSIONS.max {
            let response = R::Response::decode(&mut frame, version).unwrap();
            assert_eq!(response, R::Response::default());
            assert!(frame.is_empty(), "{} {version}", R::API);
        }
    }
}

#[test]
fn answers_read_back_in_every_version() {
    for_each_api!(default_answers_read_back);
}

/// Bytes that Apache Kafka 4.3.1 wrote.
fn kafka_wrote(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

const TOPIC_ID: u128 = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;

#[test]
fn offset_commit_10_of_kafka_is_decoded() {
    let body = kafka_wrote(
        "026700000005026d0269020102030405060708090a0b0c0d0e0f100300000003000000000000006300000002056d65746100000000040000\
         000000000064ffffffff00000000",
    );
    let request: OffsetCommitRequest = decode_request(10, body).unwrap();
    assert_eq!((request.group_id.as_str(), request.member_id.as_str()), ("g", "m"));
    assert_eq!((request.generation_id_or_member_epoch, request.group_instance_id.as_deref()), (5, Some("i")));
    let [topic] = &request.topics[..] else { panic!("one topic") };
    assert_eq!(topic.topic_id.as_u128(), TOPIC_ID);
    let [first, second] = &topic.partitions[..] else { panic!("two partitions") };
    assert_eq!((first.partition_index, first.committed_offset, first.committed_leader_epoch), (3, 99, 2));
    assert_eq!(first.committed_metadata.as_deref(), Some("meta"));
    assert_eq!((second.partition_index, second.committed_offset, second.committed_leader_epoch), (4, 100, -1));
    assert_eq!(second.committed_metadata, None);
}

#[test]
fn offset_fetch_10_of_kafka_is_decoded() {
    let body = kafka_wrote(
        "030267026d00000005020102030405060708090a0b0c0d0e0f10030000000300000004000004616c6c00ffffffff00000100",
    );
    let request: OffsetFetchRequest = decode_request(10, body).unwrap();
    assert!(request.require_stable);
    let [group, all] = &request.groups[..] else { panic!("two groups") };
    assert_eq!((group.group_id.as_str(), group.member_id.as_deref(), group.member_epoch), ("g", Some("m"), 5));
    let topic = &group.topics.as_ref().unwrap()[0];
    assert_eq!((topic.topic_id.as_u128(), &topic.partition_indexes[..]), (TOPIC_ID, &[3, 4][..]));
    assert_eq!((all.group_id.as_str(), &all.topics, all.member_epoch), ("all", &None, -1));
}

#[test]
fn list_offsets_11_of_kafka_is_decoded() {
    let body = kafka_wrote("ffffffff01020274020000000300000007fffffffffffffffa0000000001f400");
    let request: ListOffsetsRequest = decode_request(11, body).unwrap();
    assert_eq!((request.isolation_level, request.timeout_ms), (1, 500));
    let partition = &request.topics[0].partitions[0];
    assert_eq!((partition.partition_index, partition.current_leader_epoch, partition.timestamp), (3, 7, -6));
}

#[test]
fn describe_log_dirs_5_is_written_as_kafka_writes_it() {
    use describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic};
    let partition =
        DescribeLogDirsPartition::default().with_partition_index(3).with_partition_size(44).with_offset_lag(1);
    let topic = DescribeLogDirsTopic::default()
        .with_name(StrBytes::from_static_str("t").into())
        .with_partitions(vec![partition]);
    let result = DescribeLogDirsResult::default()
        .with_error_code(56)
        .with_log_dir(StrBytes::from_static_str("/d"))
        .with_topics(vec![topic])
        .with_total_bytes(10)
        .with_usable_bytes(5);
    let response = DescribeLogDirsResponse::default().with_throttle_time_ms(1).with_results(vec![result]);
    let frame = encode_response::<DescribeLogDirsRequest>(5, 7, &response).unwrap();
    let body = kafka_wrote(
        "000000010000020038032f640202740200000003000000000000002c0000000000000001000000000000000000000a000000000000000500\
         0000",
    );
    assert_eq!(&frame[9..], &body);
}
