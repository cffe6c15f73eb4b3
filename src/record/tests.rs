//! Batches of Apache Kafka read and built again, and properties of any batch.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const LIMIT: usize = 1 << 20;

/// The batch of that name that Apache Kafka wrote.
fn golden(name: &str) -> Batch {
    let line = include_str!("../../tests/fixtures/record_batches.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap();
    let bytes: Vec<u8> =
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect();
    Batch::split_from(&mut bytes.into()).unwrap()
}

/// A record with everything owned, to compare.
#[derive(Clone, Debug, PartialEq)]
struct OwnedRecord {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn records_of(batch: &Batch) -> Result<Vec<OwnedRecord>, RecordError> {
    let payload = batch.decompressed(LIMIT)?;
    let owned = |record: Record<'_>| OwnedRecord {
        offset: record.offset.0,
        timestamp: record.timestamp.0,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record.headers.map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec))).collect(),
    };
    batch.header().records(&payload).map(|record| record.map(owned)).collect()
}

/// The same batch, built from its records.
fn rebuilt(batch: &Batch) -> Batch {
    let header = batch.header();
    let payload = batch.decompressed(LIMIT).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::of(header));
    for record in Records::new(&payload, header.record_count) {
        let record = record.unwrap();
        let timestamp = Timestamp(header.base_timestamp.0.wrapping_add(record.timestamp_delta));
        builder.append_at(record.offset_delta, timestamp, record.key, record.value, record.headers);
    }
    builder.build(header.base_offset, header.leader_epoch).unwrap()
}

fn golden_records(gap: i64) -> Vec<OwnedRecord> {
    let record = |offset: i64, timestamp_delta: i64, key: Option<&[u8]>, value: Option<&[u8]>| OwnedRecord {
        offset,
        timestamp: 1_700_000_000_000 + timestamp_delta,
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
    };
    let mut records = vec![
        record(100, 0, Some(b"key"), Some(b"value")),
        record(101 + gap, 5, None, Some(b"v")),
        record(102 + gap, -3, Some(b""), Some(b"")),
        record(103 + 2 * gap, 1000, Some(b"k2"), None),
        record(104 + 2 * gap, 2000, Some(b"long"), Some(&[b'x'; 300])),
    ];
    records[2].headers =
        vec![(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None), (Vec::new(), Some(Vec::new()))];
    records
}

#[test]
fn batches_of_kafka_are_read_in_every_codec() {
    for codec in CODECS {
        let batch = golden(codec.name());
        batch.verify_checksum().unwrap();
        assert_eq!(batch.header().attributes.compression(), Ok(codec));
        assert_eq!(batch.header().base_sequence, 11);
        assert_eq!(records_of(&batch).unwrap(), golden_records(0), "{codec:?}");
        assert_eq!(records_of(&rebuilt(&batch)).unwrap(), golden_records(0), "{codec:?}");
    }
}

#[test]
fn uncompressed_batches_of_kafka_are_rebuilt_byte_for_byte() {
    for name in ["none", "log_append_time", "gaps", "transactional", "marker"] {
        let batch = golden(name);
        batch.verify_checksum().unwrap();
        assert_eq!(rebuilt(&batch), batch, "{name}");
    }
    assert_eq!(records_of(&golden("gaps")).unwrap(), golden_records(40));
}

#[test]
fn a_builder_with_no_base_given_writes_what_kafka_writes() {
    let expected = golden("none");
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: ProducerId(77),
        producer_epoch: ProducerEpoch(3),
        base_sequence: 11,
        ..BatchOptions::default()
    });
    for record in golden_records(0) {
        let headers = record.headers.iter().map(|(key, value)| HeaderView { key, value: value.as_deref() });
        builder.append(Timestamp(record.timestamp), record.key.as_deref(), record.value.as_deref(), headers);
    }
    assert_eq!(builder.build(Offset(100), LeaderEpoch(5)).unwrap(), expected);
}

#[test]
fn log_append_time_gives_every_record_the_time_of_the_batch() {
    let records = records_of(&golden("log_append_time")).unwrap();
    assert!(records.iter().all(|record| record.timestamp == 1_700_000_009_999));
}

#[test]
fn marker_of_kafka_is_read_and_built() {
    let batch = golden("marker");
    let payload = batch.payload();
    let record = batch.header().records(&payload).next().unwrap().unwrap();
    let marker = EndTransactionMarker::read(&record).unwrap().unwrap();
    assert_eq!(marker, EndTransactionMarker { result: TransactionResult::Commit, coordinator_epoch: 13 });
    let built = marker.batch(Timestamp(1_700_000_000_000), ProducerId(9), ProducerEpoch(2)).unwrap();
    assert_eq!(built.placed(Offset(100), LeaderEpoch(5)), batch);
}

#[test]
fn an_empty_batch_keeps_its_range_and_codec() {
    let header = *golden("zstd").header();
    let batch = BatchBuilder::new(BatchOptions::of(&header)).build(Offset(100), LeaderEpoch(5)).unwrap();
    assert_eq!(batch.header().next_offset(), Offset(105));
    assert_eq!(records_of(&batch).unwrap(), []);
}

fn any_bytes(longest: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..longest))
}

fn any_records() -> impl Strategy<Value = Vec<OwnedRecord>> {
    let header = (vec(any::<u8>(), 0..8), any_bytes(8));
    let record = (1..50_i64, any::<i32>(), any_bytes(40), any_bytes(200), vec(header, 0..4));
    vec(record, 1..20).prop_map(|records| {
        let mut offset = 999;
        let owned = |(gap, timestamp, key, value, headers)| {
            offset += gap;
            OwnedRecord { offset, timestamp: i64::from(timestamp), key, value, headers }
        };
        records.into_iter().map(owned).collect()
    })
}

fn build(options: BatchOptions, records: &[OwnedRecord]) -> Batch {
    let mut builder = BatchBuilder::new(options);
    for record in records {
        let headers = record.headers.iter().map(|(key, value)| HeaderView { key, value: value.as_deref() });
        let offset_delta = i32::try_from(record.offset - 1000).unwrap();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.append_at(offset_delta, Timestamp(record.timestamp), key, value, headers);
    }
    builder.build(Offset(1000), LeaderEpoch(2)).unwrap()
}

/// Everything that reads a batch, on bytes that may be anything; only a panic or a passed limit fails.
fn read_all(bytes: &Bytes) {
    for batch in Batches::new(bytes.clone()).flatten() {
        let _ = batch.verify_checksum();
        if let Ok(payload) = batch.decompressed(LIMIT) {
            assert!(payload.len() <= LIMIT);
            batch
                .header()
                .records(&payload)
                .flatten()
                .for_each(|record| assert!(record.headers.count() <= payload.len()));
        }
    }
    let _ = validate(bytes.clone(), &ProduceRules::default(), Timestamp(0));
}

/// The bytes with the checksum made right again, so that what lies behind it is reached.
fn with_right_checksum(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        let checksum = batch::checksum(&bytes);
        bytes[header::CHECKSUM_AT..header::CHECKSUM_AT + 4].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes.into()
}

proptest! {
    #[test]
    fn built_batches_read_back(records in any_records(), codec in 0..5_usize) {
        let batch = build(BatchOptions::compressed(CODECS[codec]), &records);
        batch.verify_checksum().unwrap();
        prop_assert_eq!(batch.header().last_offset().0, records.last().unwrap().offset);
        prop_assert_eq!(batch.header().max_timestamp.0, records.iter().map(|record| record.timestamp).max().unwrap().max(-1));
        prop_assert_eq!(&records_of(&batch).unwrap(), &records);
        prop_assert_eq!(rebuilt(&batch), batch);
    }

    #[test]
    fn placing_a_batch_keeps_its_checksum(records in any_records(), offset in 0..i64::from(i32::MAX), epoch in 0..i32::MAX) {
        let placed = build(BatchOptions::default(), &records).placed(Offset(offset), LeaderEpoch(epoch));
        placed.verify_checksum().unwrap();
        prop_assert_eq!(Batch::split_from(&mut placed.bytes().clone()).unwrap(), placed);
    }

    #[test]
    fn a_walk_over_joined_batches_finds_each(sets in vec(any_records(), 0..4)) {
        let batches: Vec<Batch> = sets.iter().map(|records| build(BatchOptions::default(), records)).collect();
        let joined: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        let walked: Vec<Batch> = Batches::new(joined.into()).map(Result::unwrap).collect();
        prop_assert_eq!(walked, batches);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes.into());
    }

    #[test]
    fn mutated_batches_never_panic_nor_pass_the_limit(
        records in any_records(),
        codec in 0..5_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = build(BatchOptions::compressed(CODECS[codec]), &records).placed(Offset(0), LeaderEpoch(0)).bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes.clone().into());
        read_all(&with_right_checksum(&bytes));
    }
}
