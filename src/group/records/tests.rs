//! The codec against bytes that Apache Kafka 4.3.1 wrote, and against hostile ones.

use proptest::prelude::*;

use super::*;
use crate::record::{Batches, Records};

/// The records of a segment file of `__consumer_offsets`, in order.
fn segment(bytes: &'static [u8]) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for batch in Batches::new(Bytes::from_static(bytes)) {
        let batch = batch.unwrap();
        batch.verify_checksum().unwrap();
        let payload = batch.payload();
        for record in Records::new(&payload, batch.header().record_count) {
            let record = record.unwrap();
            let key = payload.slice_ref(record.key.unwrap());
            records.push(LogRecord { key, value: record.value.map(|value| payload.slice_ref(value)) });
        }
    }
    records
}

fn every_segment() -> Vec<LogRecord> {
    [
        segment(include_bytes!("../fixtures/consumer_offsets-0.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-1.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-9.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-14.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-19.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-26.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-40.log")),
        segment(include_bytes!("../fixtures/consumer_offsets-47.log")),
    ]
    .concat()
}

#[test]
fn what_apache_kafka_wrote_is_read_and_written_back_byte_for_byte() {
    let (mut offsets, mut groups, mut tombstones, mut members, mut expiries) = (0, 0, 0, 0, 0);
    for record in every_segment() {
        let key = Key::decode(&record.key).unwrap();
        let again = match &key {
            Key::Offset { group, topic, partition } => Key::encode_offset(group, topic, *partition),
            Key::Group { group } => Key::encode_group(group),
        };
        assert_eq!(again, record.key);
        match (key, record.value) {
            (_, None) => tombstones += 1,
            (Key::Offset { .. }, Some(value)) => {
                let committed = CommittedOffset::decode(&value).unwrap();
                assert_eq!(committed.encode(), value);
                offsets += 1;
                expiries += usize::from(committed.expire_timestamp.is_some());
            }
            (Key::Group { .. }, Some(value)) => {
                let stored = StoredGroup::decode(&value).unwrap();
                assert_eq!(stored.encode(), value);
                groups += 1;
                members += stored.members.len();
            }
        }
    }
    // The fixtures hold every kind, or the loop above proves nothing.
    assert!(offsets > 10 && groups > 10 && tombstones > 3 && members > 3 && expiries == 1);
}

#[test]
fn old_value_versions_are_read() {
    let mut offset = vec![0, 0];
    offset.extend(42_i64.to_be_bytes());
    offset.extend([0, 1, b'm']);
    offset.extend(7_i64.to_be_bytes());
    let committed = CommittedOffset::decode(&offset.into()).unwrap();
    assert_eq!((committed.offset, &*committed.metadata, committed.leader_epoch), (42, "m", LeaderEpoch::NONE));

    // Version 0 of a group: no rebalance timeout, no state timestamp, no instance id.
    let mut group = vec![0, 0, 0, 1, b'c', 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1];
    group.extend([0, 1, b'm', 0, 1, b'i', 0, 1, b'h', 0, 0, 0x27, 0x10, 0, 0, 0, 0, 0, 0, 0, 0]);
    let stored = StoredGroup::decode(&group.into()).unwrap();
    assert_eq!((stored.generation, stored.state_timestamp), (9, None));
    assert_eq!((stored.members[0].rebalance_timeout_ms, stored.members[0].session_timeout_ms), (10_000, 10_000));
}

#[test]
fn flexible_versions_are_read_with_tags_that_are_not_known() {
    let mut group = vec![0, 4, 2, b'c', 0, 0, 0, 3, 0, 0];
    group.extend(8_i64.to_be_bytes());
    group.extend([2, 2, b'm', 2, b's', 2, b'i', 2, b'h', 0, 0, 0, 1, 0, 0, 0, 2, 2, b'x', 1, 0]);
    group.extend([1, 9, 2, 0xaa, 0xbb]);
    let stored = StoredGroup::decode(&group.into()).unwrap();
    assert_eq!(stored.members[0].group_instance_id.as_deref(), Some("s"));
    assert_eq!((stored.members[0].rebalance_timeout_ms, &stored.members[0].subscription[..]), (1, &b"x"[..]));
}

#[test]
fn records_of_a_newer_broker_are_refused_not_skipped() {
    let key = Bytes::from_static(&[0, 3, 0, 1, b'g']);
    assert_eq!(Key::decode(&key), Err(FormatError::UnknownVersion { what: "key", version: 3 }));
    let value = Bytes::from_static(&[0, 5]);
    assert!(matches!(CommittedOffset::decode(&value), Err(FormatError::UnknownVersion { version: 5, .. })));
    assert!(matches!(StoredGroup::decode(&value), Err(FormatError::UnknownVersion { version: 5, .. })));
}

#[test]
fn a_lying_member_count_allocates_nothing() {
    let group = Bytes::from_static(&[0, 0, 0, 1, b'c', 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(matches!(StoredGroup::decode(&group), Err(FormatError::Truncated { .. })));
}

fn committed() -> impl Strategy<Value = CommittedOffset> {
    (any::<i64>(), any::<i32>(), ".{0,200}", any::<i64>(), proptest::option::of(0..i64::MAX), any::<[u8; 16]>())
        .prop_map(|(offset, epoch, metadata, timestamp, expiry, id)| CommittedOffset {
            offset,
            leader_epoch: if expiry.is_some() { LeaderEpoch::NONE } else { LeaderEpoch(epoch) },
            metadata: metadata.into(),
            commit_timestamp: Timestamp(timestamp),
            expire_timestamp: expiry.map(Timestamp),
            topic_id: if expiry.is_some() { TopicId::ZERO } else { TopicId::from_bytes(id) },
        })
}

proptest! {
    #[test]
    fn committed_offsets_read_back_as_written(committed in committed()) {
        prop_assert_eq!(CommittedOffset::decode(&committed.encode()), Ok(committed));
    }

    #[test]
    fn hostile_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0_u8..6) {
        let mut value = vec![0, version];
        value.extend(&bytes);
        let value = Bytes::from(value);
        let _ = Key::decode(&value);
        let _ = CommittedOffset::decode(&value);
        let _ = StoredGroup::decode(&value);
    }

    #[test]
    fn every_truncation_of_a_stored_group_is_refused(cut in 0_usize..100) {
        let record = segment(include_bytes!("../fixtures/consumer_offsets-0.log"));
        for value in record.into_iter().filter(|record| record.key[1] == 2).filter_map(|record| record.value) {
            if cut < value.len() {
                prop_assert!(StoredGroup::decode(&value.slice(..cut)).is_err());
            }
        }
    }
}
