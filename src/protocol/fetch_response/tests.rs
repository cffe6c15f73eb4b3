//! The pieces, put together, are what the protocol crate reads in every version.

use bytes::Buf;
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::Decodable;

use super::*;

fn partition(index: i32, records: &[&'static [u8]]) -> FetchedPartition {
    FetchedPartition {
        partition_index: index,
        high_watermark: 10,
        last_stable_offset: 9,
        log_start_offset: 2,
        records: records.iter().map(|piece| Bytes::from_static(piece)).collect(),
        ..FetchedPartition::default()
    }
}

fn sample() -> FetchResponse {
    let long_records: &'static [u8] = &[7; 300];
    FetchResponse {
        throttle_time_ms: 5,
        error_code: ErrorCode::None,
        session_id: 77,
        topics: vec![
            FetchedTopic {
                name: StrBytes::from_static_str("flights"),
                topic_id: Uuid::from_u128(3),
                partitions: vec![
                    partition(0, &[b"batch1", b"", b"batch2"]),
                    FetchedPartition {
                        error_code: ErrorCode::NotLeaderOrFollower,
                        current_leader: Some((4, 8)),
                        diverging_epoch: Some((3, 1 << 40)),
                        preferred_read_replica: 6,
                        ..partition(1, &[])
                    },
                    FetchedPartition {
                        aborted_transactions: Some(vec![(1, 2), (3, 4)]),
                        ..partition(2, &[long_records])
                    },
                ],
            },
            FetchedTopic::default(),
            FetchedTopic { partitions: vec![partition(9, &[b"last"])], ..FetchedTopic::default() },
        ],
        node_endpoints: vec![
            NodeEndpoint { node_id: 4, host: StrBytes::from_static_str("host"), port: 9092, rack: None },
            NodeEndpoint {
                node_id: 5,
                host: StrBytes::from_static_str("other"),
                port: 1,
                rack: Some(StrBytes::from_static_str("r")),
            },
        ],
    }
}

/// Reads a whole frame back with the protocol crate.
fn read(pieces: &[Bytes], version: i16) -> kafka_protocol::messages::FetchResponse {
    let mut frame = Bytes::from(pieces.concat());
    assert_eq!(frame.get_i32() as usize, frame.len());
    let header = ResponseHeader::decode(&mut frame, Api::Fetch.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 42);
    let response = kafka_protocol::messages::FetchResponse::decode(&mut frame, version).unwrap();
    assert!(frame.is_empty(), "version {version}");
    response
}

#[test]
fn every_version_reads_back_with_all_that_it_can_tell() {
    let sample = sample();
    for version in Api::Fetch.versions() {
        let read = read(&sample.encode(version, 42).unwrap(), version);
        assert_eq!(read.throttle_time_ms, 5);
        assert_eq!(read.session_id, if version >= 7 { 77 } else { 0 });
        assert_eq!(read.node_endpoints.len(), if version >= 16 { 2 } else { 0 });
        assert_eq!(read.responses.len(), 3);
        let topic = &read.responses[0];
        assert_eq!(topic.topic.as_str(), if version < 13 { "flights" } else { "" });
        assert_eq!(topic.topic_id, if version < 13 { Uuid::nil() } else { Uuid::from_u128(3) });

        let [first, second, third] = &topic.partitions[..] else { panic!("three partitions") };
        assert_eq!(first.records.as_deref(), Some(&b"batch1batch2"[..]));
        assert_eq!((first.high_watermark, first.last_stable_offset), (10, 9));
        assert_eq!(first.log_start_offset, if version >= 5 { 2 } else { -1 });
        assert_eq!(first.aborted_transactions, None);
        assert_eq!(second.error_code, ErrorCode::NotLeaderOrFollower.code());
        assert_eq!(second.records.as_deref(), Some(&b""[..]));
        assert_eq!(second.current_leader.leader_id, if version >= 12 { 4 } else { -1 });
        assert_eq!(second.diverging_epoch.end_offset, if version >= 12 { 1 << 40 } else { -1 });
        assert_eq!(second.preferred_read_replica, if version >= 11 { 6 } else { -1 });
        assert_eq!(third.records.as_ref().unwrap().len(), 300);
        assert_eq!(third.aborted_transactions.as_ref().unwrap()[1].first_offset, 4);
        assert_eq!(read.responses[2].partitions[0].records.as_deref(), Some(&b"last"[..]));
    }
}

#[test]
fn what_is_written_is_what_the_protocol_crate_writes() {
    for version in Api::Fetch.versions() {
        let pieces = sample().encode(version, 42).unwrap();
        let read = read(&pieces, version);
        let written = crate::protocol::encode_response::<kafka_protocol::messages::FetchRequest>(version, 42, &read);
        assert_eq!(pieces.concat(), written.unwrap(), "version {version}");
    }
}

#[test]
fn records_are_shared_and_never_copied() {
    let records = Bytes::from(vec![1; 1000]);
    let mut fetched = partition(0, &[]);
    fetched.records = vec![records.slice(..600), records.slice(600..)];
    let topics = vec![FetchedTopic { partitions: vec![fetched], ..FetchedTopic::default() }];
    let pieces = FetchResponse { topics, ..FetchResponse::default() }.encode(18, 1).unwrap();
    assert_eq!(pieces.len(), 4);
    assert_eq!(pieces[1].as_ptr(), records.as_ptr());
    assert_eq!(pieces[2].as_ptr(), records[600..].as_ptr());
}

#[test]
fn partitions_without_records_make_one_piece() {
    let topics = vec![FetchedTopic { partitions: vec![partition(0, &[]); 100], ..FetchedTopic::default() }];
    let pieces = FetchResponse { topics, ..FetchResponse::default() }.encode(18, 1).unwrap();
    assert_eq!(pieces.len(), 1);
}
