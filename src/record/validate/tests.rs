//! Each rule of the produce path, kept and broken.

use proptest::prelude::*;

use super::*;
use crate::record::{Attributes, HeaderView};
use crate::types::{ProducerEpoch, ProducerId};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn batch_of(options: BatchOptions, timestamps: &[i64]) -> Batch {
    let mut builder = BatchBuilder::new(options);
    for timestamp in timestamps {
        let header = HeaderView { key: b"h", value: None };
        builder.append(Timestamp(*timestamp), Some(b"key"), Some(&[b'v'; 100]), std::iter::once(header));
    }
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

fn sample(codec: Compression) -> Batch {
    batch_of(BatchOptions::compressed(codec), &[NOW.0 - 5, NOW.0 + 7, NOW.0])
}

/// The batch under another header, its checksum right.
fn changed(batch: &Batch, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = *batch.header();
    change(&mut header);
    let mut bytes = [&header.write()[..], &batch.payload()[..]].concat();
    let checksum = checksum(&bytes);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

fn check(bytes: impl Into<Bytes>) -> Result<Batch, RecordError> {
    validate(bytes.into(), &ProduceRules::default(), NOW)
}

fn assert_invalid(bytes: impl Into<Bytes>, text: &str) {
    match check(bytes) {
        Err(RecordError::InvalidBatch { reason }) => assert!(reason.contains(text), "{reason}"),
        other => panic!("{text}: {other:?}"),
    }
}

fn assert_not_one_batch(bytes: impl Into<Bytes>, text: &str) {
    match check(bytes) {
        Err(RecordError::NotOneBatch { reason }) => assert!(reason.contains(text), "{reason}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn good_batches_pass_as_they_came_and_share_their_bytes() {
    for codec in CODECS {
        let batch = sample(codec);
        let passed = check(batch.bytes().clone()).unwrap();
        assert_eq!(passed, batch, "{codec:?}");
        assert_eq!(passed.bytes().as_ptr(), batch.bytes().as_ptr(), "{codec:?}");
    }
}

#[test]
fn exactly_one_whole_batch_is_taken() {
    let batch = sample(Compression::None);
    assert_not_one_batch(Bytes::new(), "needs one");
    assert_not_one_batch(batch.bytes().slice(..batch.bytes().len() - 1), "needs one");
    assert_not_one_batch([batch.bytes(), batch.bytes()].map(|bytes| &bytes[..]).concat(), "only one");
    let with_tail = [&batch.bytes()[..], &[0; 11]].concat();
    assert_eq!(check(with_tail).unwrap(), batch);
}

#[test]
fn damage_is_told_by_the_checksum_before_anything_in_the_header() {
    let batch = sample(Compression::Zstd);
    for at in (17..61).chain([100]) {
        let mut bytes = batch.bytes().to_vec();
        bytes[at] ^= 0x80;
        assert!(matches!(check(bytes), Err(RecordError::ChecksumMismatch { .. })), "byte {at}");
    }
    let mut old = batch.bytes().to_vec();
    old[16] = 1;
    assert_eq!(check(old), Err(RecordError::UnsupportedMagic { magic: 1 }));
    let mut short = batch.bytes().to_vec();
    short[8..12].copy_from_slice(&3_i32.to_be_bytes());
    assert!(matches!(check(short), Err(RecordError::Malformed { .. })));
}

#[test]
fn headers_that_contradict_the_rules_are_refused() {
    let batch = sample(Compression::None);
    assert_invalid(changed(&batch, |header| header.base_offset = Offset(1)), "base offset");
    assert_invalid(changed(&batch, |header| header.record_count = 0), "positive");
    assert_invalid(changed(&batch, |header| header.record_count = -1), "negative");
    assert_invalid(changed(&batch, |header| header.record_count = 4), "does not match");
    assert_invalid(changed(&batch, |header| header.last_offset_delta = -1), "negative");
    assert_invalid(changed(&batch, |header| header.attributes = header.attributes.with_control(true)), "control");
    assert_invalid(changed(&batch, |header| header.producer_id = ProducerId(5)), "sequence");
    let unknown = changed(&batch, |header| header.attributes = Attributes(5));
    assert_eq!(check(unknown), Err(RecordError::UnsupportedCompression { id: 5 }));
}

#[test]
fn counts_and_lengths_that_lie_are_refused_in_every_codec() {
    for codec in CODECS {
        let batch = sample(codec);
        let lie = |count: i32| {
            changed(&batch, |header| {
                header.record_count = count;
                header.last_offset_delta = count - 1;
            })
        };
        assert_invalid(lie(2), "left over");
        assert_invalid(lie(4), "end before");
        assert_invalid(lie(i32::MAX), "end before");
    }
}

#[test]
fn broken_record_structure_is_refused() {
    // length, attributes, timestamp delta, offset delta, key, value, header count
    let records: [(&[u8], &str); 6] = [
        (&[12, 0, 0, 0, 1, 1, 1], "negative"),
        (&[14, 0, 0, 0, 1, 1, 0], "differs"),
        (&[12, 0, 0, 0, 3, 1, 0], "negative"),
        (&[12, 0, 0, 0, 100, 1, 0], "end before"),
        (&[12, 0, 0, 0, 1, 1, 2], "end before"),
        (&[1, 0, 0, 0, 1, 1, 0], "negative"),
    ];
    let header = *batch_of(BatchOptions::default(), &[NOW.0]).header();
    for (payload, text) in records {
        let header = BatchHeader { batch_length: 49 + payload.len() as i32, ..header };
        let batch = Batch::from_parts(header, payload).unwrap();
        assert_invalid(batch.bytes().clone(), text);
    }
    let fine = Batch::from_parts(BatchHeader { batch_length: 56, ..header }, &[12, 0, 0, 0, 1, 1, 0]).unwrap();
    assert_eq!(check(fine.bytes().clone()).unwrap(), fine);
}

#[test]
fn offset_deltas_must_count_up_from_0() {
    for codec in CODECS {
        for deltas in [[1, 2], [0, 0], [0, 2], [1, 0]] {
            let mut builder =
                BatchBuilder::new(BatchOptions { last_offset_delta: Some(1), ..BatchOptions::compressed(codec) });
            for delta in deltas {
                builder.append_at(delta, NOW, None, Some(b"v"), std::iter::empty());
            }
            assert_invalid(builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().bytes().clone(), "count up");
        }
    }
}

#[test]
fn sizes_are_held_to_the_topic() {
    let batch = sample(Compression::None);
    let size = batch.bytes().len();
    let rules =
        |max_message_bytes, segment_bytes| ProduceRules { max_message_bytes, segment_bytes, ..Default::default() };
    assert!(validate(batch.bytes().clone(), &rules(size, size), NOW).is_ok());
    let large = validate(batch.bytes().clone(), &rules(size - 1, size), NOW);
    assert_eq!(large, Err(RecordError::BatchTooLarge { bytes: size, limit: size - 1 }));
    let segment = validate(batch.bytes().clone(), &rules(size, size - 1), NOW);
    assert_eq!(segment, Err(RecordError::LargerThanSegment { bytes: size, limit: size - 1 }));
    // What counts is the batch as it is stored.
    let batch = sample(Compression::Zstd);
    let rules = ProduceRules { max_message_bytes: 200, compression: Some(Compression::None), ..Default::default() };
    assert!(batch.bytes().len() < 200);
    assert!(matches!(validate(batch.bytes().clone(), &rules, NOW), Err(RecordError::BatchTooLarge { .. })));
}

#[test]
fn old_requests_may_not_carry_zstd() {
    let rules = ProduceRules { zstd_allowed: false, ..Default::default() };
    let refused = validate(sample(Compression::Zstd).bytes().clone(), &rules, NOW);
    assert_eq!(refused, Err(RecordError::UnsupportedCompression { id: 4 }));
    assert!(validate(sample(Compression::Lz4).bytes().clone(), &rules, NOW).is_ok());
}

#[test]
fn log_append_time_is_stamped_without_touching_the_records() {
    let rules = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..Default::default() };
    for codec in CODECS {
        let batch = sample(codec);
        let stamped = validate(batch.bytes().clone(), &rules, Timestamp(5)).unwrap();
        stamped.verify_checksum().unwrap();
        assert_eq!(stamped.payload(), batch.payload());
        assert_eq!(stamped.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(stamped.header().max_timestamp, Timestamp(5));
        assert_eq!(stamped.header().base_timestamp, batch.header().base_timestamp);
    }
}

#[test]
fn a_wrong_max_timestamp_is_set_right() {
    for codec in CODECS {
        let batch = sample(codec);
        let wrong = changed(&batch, |header| header.max_timestamp = Timestamp(3));
        assert_eq!(check(wrong).unwrap(), batch, "{codec:?}");
    }
}

#[test]
fn records_outside_the_time_bounds_are_named() {
    let rules = ProduceRules { timestamp_before_max_ms: 100, timestamp_after_max_ms: 10, ..Default::default() };
    let batch = batch_of(BatchOptions::default(), &[NOW.0 - 100, NOW.0 - 101, NOW.0 + 10, NOW.0 + 11, -1, i64::MIN]);
    let Err(RecordError::RecordsRejected { records }) = validate(batch.bytes().clone(), &rules, NOW) else { panic!() };
    assert_eq!(records.iter().map(|record| record.index).collect::<Vec<_>>(), [1, 3, 5]);
    assert!(records.iter().all(|record| record.rejection.is_timestamp()));
    let many = batch_of(BatchOptions::default(), &[0; 1000]);
    let Err(RecordError::RecordsRejected { records }) = validate(many.bytes().clone(), &rules, NOW) else { panic!() };
    assert_eq!(records.len(), MAX_REJECTED_RECORDS);
}

#[test]
fn producers_may_not_claim_log_append_time() {
    let rules = ProduceRules { timestamp_type: TimestampType::LogAppendTime, ..Default::default() };
    let marked = changed(&sample(Compression::None), |header| {
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    });
    let Err(RecordError::RecordsRejected { records }) = validate(marked, &rules, NOW) else { panic!() };
    assert_eq!(records[0], RejectedRecord { index: 0, rejection: Rejection::LogAppendTimeFromProducer });
}

#[test]
fn compacted_topics_need_keys() {
    let rules = ProduceRules { compacted: true, ..Default::default() };
    for codec in CODECS {
        let mut builder = BatchBuilder::new(BatchOptions::compressed(codec));
        builder.append(NOW, Some(b""), None, std::iter::empty());
        builder.append(NOW, None, Some(b"v"), std::iter::empty());
        let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
        assert!(check(batch.bytes().clone()).is_ok());
        let refused = validate(batch.bytes().clone(), &rules, NOW);
        let records = vec![RejectedRecord { index: 1, rejection: Rejection::KeyMissing }];
        assert_eq!(refused, Err(RecordError::RecordsRejected { records }));
    }
}

#[test]
fn the_largest_time_is_that_of_the_records_where_a_producer_claims_the_time_of_the_append() {
    let batch = batch_of(BatchOptions::default(), &[NOW.0, NOW.0 + 2]);
    let claimed = changed(&batch, |header| {
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = Timestamp(NOW.0 - 5);
    });
    for compression in [None, Some(Compression::Lz4)] {
        let rules = ProduceRules { compression, ..Default::default() };
        let stored = validate(claimed.clone(), &rules, NOW).unwrap();
        assert_eq!(stored.header().max_timestamp, Timestamp(NOW.0 + 2));
        let payload = stored.decompressed(MAX_DECOMPRESSED_BYTES).unwrap();
        let times: Vec<_> = stored.header().records(&payload).map(|record| record.unwrap().timestamp.0).collect();
        assert_eq!(times, [NOW.0, NOW.0 + 2]);
        // Behind the claim a record can't be younger than retention allows for.
        let rules = ProduceRules { timestamp_after_max_ms: 1, ..rules };
        let refused = validate(claimed.clone(), &rules, NOW);
        assert!(
            matches!(&refused, Err(RecordError::RecordsRejected { records }) if records[0].index == 1),
            "{refused:?}"
        );
    }
}

#[test]
fn a_topic_may_ask_for_another_codec() {
    let producer = BatchOptions {
        producer_id: ProducerId(4),
        producer_epoch: ProducerEpoch(1),
        base_sequence: 9,
        ..BatchOptions::default()
    };
    for from in CODECS {
        for to in CODECS {
            let attributes = Attributes::default().with_compression(from).with_transactional(true);
            let batch = batch_of(BatchOptions { attributes, ..producer }, &[NOW.0, NOW.0 + 2, NOW.0 - 9]);
            let rules = ProduceRules { compression: Some(to), ..Default::default() };
            let stored = validate(batch.bytes().clone(), &rules, NOW).unwrap();
            assert_eq!(stored.header().attributes, attributes.with_compression(to));
            assert_eq!(stored.header().base_sequence, 9);
            assert_eq!(stored.header().max_timestamp, Timestamp(NOW.0 + 2));
            let limit = MAX_DECOMPRESSED_BYTES;
            assert_eq!(stored.decompressed(limit).unwrap(), batch.decompressed(limit).unwrap(), "{from:?} {to:?}");
            stored.verify_checksum().unwrap();
        }
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit() {
    let mut builder = BatchBuilder::new(BatchOptions::compressed(Compression::Zstd));
    builder.append(NOW, None, Some(&vec![0; MAX_DECOMPRESSED_BYTES]), std::iter::empty());
    let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
    assert!(batch.bytes().len() < 100_000);
    assert_eq!(check(batch.bytes().clone()), Err(RecordError::TooLarge { limit: MAX_DECOMPRESSED_BYTES }));
    let rules = ProduceRules { max_decompressed_bytes: 1 << 20, ..Default::default() };
    assert_eq!(validate(batch.bytes().clone(), &rules, NOW), Err(RecordError::TooLarge { limit: 1 << 20 }));
}

proptest! {
    #[test]
    fn what_passes_can_be_read_by_everyone(
        codec in 0..5_usize,
        changes in proptest::collection::vec((61..400_usize, any::<u8>()), 0..3),
    ) {
        let mut bytes = sample(CODECS[codec]).bytes().to_vec();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        let right = checksum(&bytes);
        bytes[17..21].copy_from_slice(&right.to_be_bytes());
        if let Ok(batch) = check(bytes) {
            let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).unwrap();
            let timestamps: Vec<i64> =
                batch.header().records(&payload).map(|record| record.unwrap().timestamp.0).collect();
            prop_assert_eq!(timestamps.len(), 3);
            prop_assert_eq!(batch.header().max_timestamp.0, timestamps.into_iter().max().unwrap().max(-1));
        }
    }
}
