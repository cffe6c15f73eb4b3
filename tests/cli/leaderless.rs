//! Client commands against a topic of which one partition has no leader, as of any cluster that misses a broker.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};

use alluvium::record::{BatchBuilder, BatchOptions};
use alluvium::types::{LeaderEpoch, Offset, Timestamp};
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    BrokerId, DescribeConfigsResponse, FetchResponse, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataResponse, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::{command, standard_error};

/// What the broker knows, by key, each in one version.
const VERSIONS: [(i16, i16); 6] = [(0, 3), (1, 4), (2, 2), (3, 4), (22, 0), (32, 1)];
const API_VERSIONS: i16 = 18;

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("flights"))
}

/// It leads partition 0, which holds one record; nobody leads partition 1.
fn body(key: i16, port: u16, request: &mut Bytes) -> BytesMut {
    let mut body = BytesMut::new();
    match key {
        API_VERSIONS => {
            body.extend_from_slice(&[0, 0, u8::try_from(VERSIONS.len()).unwrap() + 1]);
            for (key, version) in VERSIONS {
                body.extend_from_slice(&[key.to_be_bytes(), version.to_be_bytes(), version.to_be_bytes()].concat());
                body.extend_from_slice(&[0]);
            }
            body.extend_from_slice(&[0; 5]);
        }
        0 => {
            let partition = PartitionProduceResponse::default().with_index(0).with_base_offset(1);
            let topic = TopicProduceResponse::default().with_name(name()).with_partition_responses(vec![partition]);
            ProduceResponse::default().with_responses(vec![topic]).encode(&mut body, 3).unwrap();
        }
        1 => {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(Timestamp(0), None, Some(b"one"), std::iter::empty());
            let records = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone();
            let partition = PartitionData::default().with_partition_index(0).with_records(Some(records));
            let topic = FetchableTopicResponse::default().with_topic(name()).with_partitions(vec![partition]);
            FetchResponse::default().with_responses(vec![topic]).encode(&mut body, 4).unwrap();
        }
        2 => {
            let request = ListOffsetsRequest::decode(request, 2).unwrap();
            let wanted = &request.topics[0].partitions[0];
            let offset = i64::from(wanted.timestamp == -1);
            let partition = ListOffsetsPartitionResponse::default()
                .with_partition_index(wanted.partition_index)
                .with_offset(offset)
                .with_timestamp(-1);
            let topic = ListOffsetsTopicResponse::default().with_name(name()).with_partitions(vec![partition]);
            ListOffsetsResponse::default().with_topics(vec![topic]).encode(&mut body, 2).unwrap();
        }
        3 => {
            let host = StrBytes::from_static_str("127.0.0.1");
            let broker =
                MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_host(host).with_port(port.into());
            let led =
                MetadataResponsePartition::default().with_leader_id(BrokerId(1)).with_isr_nodes(vec![BrokerId(1)]);
            let leaderless = MetadataResponsePartition::default()
                .with_error_code(ResponseError::LeaderNotAvailable.code())
                .with_partition_index(1)
                .with_leader_id(BrokerId(-1));
            let topic = MetadataResponseTopic::default().with_name(Some(name())).with_partitions(vec![led, leaderless]);
            let answer = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
            answer.with_controller_id(BrokerId(1)).encode(&mut body, 4).unwrap();
        }
        22 => InitProducerIdResponse::default().with_producer_id(ProducerId(7)).encode(&mut body, 0).unwrap(),
        _ => DescribeConfigsResponse::default().encode(&mut body, 1).unwrap(),
    }
    body
}

/// Answers the requests of one connection until it is closed.
fn serve(mut stream: TcpStream, port: u16) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).unwrap();
        let client_id_bytes = usize::from(u16::from_be_bytes([request[8], request[9]]));
        let mut rest = Bytes::from(request.split_off(10 + client_id_bytes));
        let body = body(i16::from_be_bytes([request[0], request[1]]), port, &mut rest);
        let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, &request[4..8], &body].concat()).unwrap();
    }
}

/// Runs a command against such a broker, and gives it a line to read.
fn run(arguments: &[&str]) -> Output {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap();
    let mut child = command(&[arguments, &["--bootstrap", &address.to_string(), "--timeout", "300ms"]].concat())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"two\n").unwrap();
    broker.set_nonblocking(true).unwrap();
    while child.try_wait().unwrap().is_none() {
        // It has one connection at a time, as there is one broker.
        if let Ok((stream, _)) = broker.accept() {
            stream.set_nonblocking(false).unwrap();
            serve(stream, address.port());
        }
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_partition_without_a_leader_keeps_no_command_from_the_others() {
    let described = run(&["topic", "describe", "flights"]);
    let printed = String::from_utf8(described.stdout).unwrap();
    let rows: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[2..].iter().map(|row| row[1]).collect::<Vec<_>>(), ["1", "none"], "{printed}");
    let described: serde_json::Value =
        serde_json::from_slice(&run(&["topic", "describe", "flights", "--json"]).stdout).unwrap();
    assert_eq!(described["partitions"][1]["leader"], -1);

    assert_eq!(run(&["consume", "flights", "-p", "0"]).stdout, b"one\n");
    for arguments in [&["consume", "flights"][..], &["consume", "flights", "-p", "1"]] {
        let refused = run(arguments);
        let error = standard_error(&refused);
        let expected = "error: topic flights: no leader at the moment for partitions 1 (LeaderNotAvailable)\n";
        assert_eq!((refused.status.code(), &*error), (Some(1), expected), "{arguments:?}");
    }

    for arguments in [&["produce", "flights", "-p", "0"][..], &["produce", "flights"]] {
        let produced = run(arguments);
        assert_eq!(produced.status.code(), Some(0), "{arguments:?}: {}", standard_error(&produced));
    }
    let error = standard_error(&run(&["produce", "flights", "-p", "1"]));
    assert!(error.contains("producing to flights partition 1: a partition has no leader"), "{error}");
}

#[test]
fn reading_from_beyond_the_end_says_where_that_is() {
    for (from, expected) in
        [("2", "partition 0 of flights has offsets from 0 up to 1, and none from --from on\n"), ("1", "")]
    {
        let consumed = run(&["consume", "flights", "-p", "0", "--from", from]);
        assert_eq!((consumed.status.code(), &*consumed.stdout), (Some(0), &b""[..]), "{from}");
        assert_eq!(standard_error(&consumed), expected);
    }
}
