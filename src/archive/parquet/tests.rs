//! Whatever a client produces comes back byte for byte; what is damaged is found.
//! Long because all of it is tested on the same generated batches.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::archive::key::{Fence, SegmentUuid};
use crate::archive::manifest::Chunk;
use crate::archive::spool::Spool;
use crate::log::{ProducerSnapshot, ProducerState};
use crate::record::*;
use crate::runtime::production::LocalDisk;
use crate::types::*;

const SMALL: ChunkLimits = ChunkLimits { raw_bytes: 4 << 10, rows: 100 };

struct Bench {
    _directory: tempfile::TempDir,
    slot: SpoolSlot,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(&LocalDisk, &directory.path().join("spool"), 1).unwrap();
        let slot = spool.acquire().now_or_never().unwrap();
        Self { _directory: directory, slot }
    }
}

fn request(base: i64, next: i64) -> SegmentRequest {
    let fence = Fence { incarnation: Incarnation(0), leader_epoch: LeaderEpoch(3) };
    let identity = HeadIdentity {
        cluster_id: ClusterId::from_bytes([1; 16]),
        topic: "flights".to_owned(),
        topic_id: TopicId::from_bytes([2; 16]),
        partition: PartitionIndex(7),
    };
    let uuid = SegmentUuid::from_entropy([9; 16]);
    SegmentRequest {
        identity,
        name: SegmentName { base: Offset(base), next: Offset(next), fence, uuid },
        writer: Writer { fence, broker: NodeId(1), process: BrokerIncarnationId::from_bytes([7; 16]) },
        aborted: Vec::new(),
        producers: ProducerRun::default(),
    }
}

fn read(payload: Option<&Payload>, range: &std::ops::Range<u64>) -> Bytes {
    payload.map_or_else(Bytes::new, |payload| {
        payload.read(range.start, usize::try_from(range.end - range.start).unwrap()).unwrap()
    })
}

fn metadata(encoded: &Encoded) -> Option<FileMetadata> {
    let segment = &encoded.segment;
    let tail =
        encoded.parquet.as_ref().map(|parquet| read(Some(parquet), &(segment.metadata_start..segment.parquet_bytes)));
    tail.map(|tail| FileMetadata::parse(&tail).unwrap())
}

fn decode(encoded: &Encoded, chunk: &Chunk) -> Result<Vec<ArchivedBatch>, DecodeError> {
    let metadata = metadata(encoded);
    let rows = metadata.as_ref().filter(|_| chunk.rows > 0);
    let rows = rows.map(|metadata| (metadata, read(encoded.parquet.as_ref(), &chunk.parquet)));
    decode_chunk(chunk, rows, read(encoded.companion.as_ref(), &chunk.companion))
}

fn round_trip(
    request: &SegmentRequest,
    limits: ChunkLimits,
    batches: &[Batch],
) -> (Encoded, Vec<ArchivedBatch>, Bench) {
    let bench = Bench::new();
    let source = batches.iter().cloned().map(Ok::<_, RecordError>);
    let encoded = encode(request, limits, source, &bench.slot).unwrap();
    let back = encoded.segment.chunks().flat_map(|chunk| decode(&encoded, &chunk).unwrap()).collect();
    (encoded, back, bench)
}

/// What came back equals what went in, up to compression.
fn assert_same(sources: &[Batch], back: &[ArchivedBatch]) {
    assert_eq!(sources.len(), back.len());
    for (source, ArchivedBatch { batch, produced_with, fate }) in sources.iter().zip(back) {
        assert_eq!(source.header().attributes.compression(), Ok(*produced_with));
        if *fate != Fate::Rows || source.header().attributes.compression() == Ok(Compression::None) {
            assert_eq!(source.bytes(), batch.bytes(), "{fate:?}");
            continue;
        }
        assert_eq!(source.decompressed(MAX_DECOMPRESSED_BYTES).unwrap(), batch.payload());
        let (found, header) = (batch.header(), source.header());
        let attributes = header.attributes.with_compression(Compression::None);
        let expected =
            BatchHeader { batch_length: found.batch_length, checksum: found.checksum, attributes, ..*header };
        assert_eq!(*found, expected);
        batch.verify_checksum().unwrap();
    }
}

#[derive(Clone, Debug)]
struct TestRecord {
    gap: i32,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn build(options: BatchOptions, base: i64, epoch: i32, records: &[TestRecord]) -> Batch {
    let mut builder = BatchBuilder::new(options);
    let mut delta = 0;
    for record in records {
        delta += record.gap;
        let headers = record.headers.iter().map(|(key, value)| HeaderView { key, value: value.as_deref() });
        builder.append_at(delta, Timestamp(record.timestamp), record.key.as_deref(), record.value.as_deref(), headers);
        delta += 1;
    }
    builder.build(Offset(base), LeaderEpoch(epoch)).unwrap()
}

fn plain(value: &str) -> TestRecord {
    TestRecord {
        gap: 0,
        timestamp: 1_700_000_000_000,
        key: None,
        value: Some(value.as_bytes().to_vec()),
        headers: vec![],
    }
}

fn bytes_strategy(longest: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        4 => proptest::collection::vec(any::<u8>(), 0..longest).prop_map(Some),
    ]
}

fn record_strategy() -> impl Strategy<Value = TestRecord> {
    let timestamp = prop_oneof![
        8 => 1_600_000_000_000_i64..1_600_000_100_000,
        1 => Just(-1_i64),
        1 => -5_000_i64..5_000,
        1 => prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(9_300_000_000_000_000), Just(-9_300_000_000_000_000)],
    ];
    let key = prop_oneof![8 => "[a-zß]{0,6}".prop_map(String::into_bytes), 1 => Just(vec![0xff, 0xfe])];
    let headers = prop_oneof![
        3 => Just(Vec::new()),
        2 => proptest::collection::vec((key, bytes_strategy(12)), 0..4),
    ];
    let gap = prop_oneof![6 => Just(0), 1 => 0..5_i32];
    (gap, timestamp, bytes_strategy(20), bytes_strategy(200), headers)
        .prop_map(|(gap, timestamp, key, value, headers)| TestRecord { gap, timestamp, key, value, headers })
}

#[derive(Clone, Debug)]
struct TestBatch {
    gap: i64,
    records: Vec<TestRecord>,
    codec: Compression,
    log_append: bool,
    producer: Option<(i64, i16, i32)>,
    transactional: bool,
    base_timestamp: Option<i64>,
    max_timestamp: Option<i64>,
    trailing_gap: i32,
}

fn batch_strategy() -> impl Strategy<Value = TestBatch> {
    let codec = prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Snappy),
        Just(Compression::Lz4),
        Just(Compression::Zstd),
    ];
    let records = prop_oneof![1 => Just(Vec::new()), 12 => proptest::collection::vec(record_strategy(), 1..12)];
    let rarely = || prop_oneof![6 => Just(None), 1 => (-9_000_i64..1_700_000_000_000).prop_map(Some)];
    let producer = prop_oneof![Just(None), (0..5_i64, 0..3_i16, 0..1000_i32).prop_map(Some)];
    let flags = (any::<bool>(), any::<bool>(), prop_oneof![5 => Just(0), 1 => 0..4_i32]);
    (0..3_i64, records, codec, producer, rarely(), rarely(), flags).prop_map(
        |(gap, records, codec, producer, base_timestamp, max_timestamp, (log_append, transactional, trailing_gap))| {
            TestBatch {
                gap,
                records,
                codec,
                log_append,
                producer,
                transactional: transactional && producer.is_some(),
                base_timestamp,
                max_timestamp,
                trailing_gap,
            }
        },
    )
}

fn batches(specifications: &[TestBatch], start: i64) -> Vec<Batch> {
    let mut next = start;
    let mut batches = Vec::new();
    for (specification, epoch) in specifications.iter().zip([3, 3, 4, 4, 4, 5].into_iter().cycle()) {
        let kind = if specification.log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        let (id, producer_epoch, sequence) = specification.producer.unwrap_or((-1, -1, -1));
        let records = &specification.records;
        let last: i32 = records.iter().map(|record| record.gap + 1).sum::<i32>() - 1;
        let max_timestamp = specification.max_timestamp.or(specification.log_append.then_some(1_650_000_000_000));
        let options = BatchOptions {
            attributes: Attributes::default()
                .with_compression(specification.codec)
                .with_timestamp_type(kind)
                .with_transactional(specification.transactional),
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(producer_epoch),
            base_sequence: sequence,
            base_timestamp: specification.base_timestamp.map(Timestamp),
            max_timestamp: max_timestamp.map(Timestamp),
            last_offset_delta: Some(last.max(0) + specification.trailing_gap),
        };
        let batch = build(options, next + specification.gap, epoch, records);
        next = batch.header().next_offset().0;
        batches.push(batch);
    }
    batches
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_produced_comes_back_byte_for_byte(
        specifications in proptest::collection::vec(batch_strategy(), 1..40),
        start in prop_oneof![Just(0_i64), 1..1_i64 << 40],
        remembered in 0..40_usize,
    ) {
        let sources = batches(&specifications, start);
        let mut request = request(start, sources.last().unwrap().header().next_offset().0 + 2);
        request.producers = ProducerRun::new(ProducerState::default(), remembered, Timestamp(1));
        request.aborted = vec![AbortedTransaction {
            producer_id: ProducerId(2),
            first_offset: Offset(start),
            last_offset: Offset(start + 40),
        }];
        let (encoded, back, _bench) = round_trip(&request, SMALL, &sources);
        assert_same(&sources, &back);
        let segment = &encoded.segment;
        prop_assert_eq!(segment.batch_count, sources.len() as u64);
        for (source, archived) in sources.iter().zip(&back) {
            let header = source.header();
            let aborted = header.attributes.is_transactional() && header.producer_id == ProducerId(2)
                && header.base_offset.0 <= start + 40 && header.record_count > 0;
            prop_assert_eq!(archived.fate == Fate::Aborted, aborted);
        }
        if let Some(companion) = &encoded.companion {
            check_companion_header(&companion.read(0, 16).unwrap()).unwrap();
            let tail_start = segment.chunks().last().unwrap().companion.end;
            let tail = read_companion_tail(read(Some(companion), &(tail_start..companion.length()))).unwrap();
            let mut run = request.producers.clone();
            sources.iter().for_each(|source| run.add(source.header()));
            let expected = run.snapshot(request.name.next);
            let found = tail.producer_snapshot.map(|bytes| ProducerSnapshot::decode(&bytes).unwrap());
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(encoded.facts.producer_snapshot.is_some(), expected.is_some());
            Description::parse(&tail.description.unwrap()).unwrap();
        }
    }

    #[test]
    fn damage_is_found_and_never_a_panic(seed in any::<u64>(), into_companion in any::<bool>()) {
        let sources: Vec<Batch> = (0..20)
            .map(|number| {
                let control = Attributes::default().with_transactional(number % 4 == 0).with_control(number % 4 == 0);
                let options = BatchOptions { attributes: control, ..BatchOptions::default() };
                build(options, number, 3, &[plain(&format!("value {number}"))])
            })
            .collect();
        let (encoded, _, _bench) = round_trip(&request(0, 20), SMALL, &sources);
        let chunk = encoded.segment.chunks().next().unwrap();
        let metadata = metadata(&encoded).unwrap();
        let mut rows = BytesMut::from(&read(encoded.parquet.as_ref(), &chunk.parquet)[..]);
        let mut companion = BytesMut::from(&read(encoded.companion.as_ref(), &chunk.companion)[..]);
        let target = if into_companion { &mut companion } else { &mut rows };
        let at = usize::try_from(seed % target.len() as u64).unwrap();
        target[at] ^= 1 << (seed >> 61);
        let result = decode_chunk(&chunk, Some((&metadata, rows.freeze())), companion.freeze());
        // A flip in what the reader does not look at, as a page's statistics, changes nothing. With what a batch was produced is
        // outside the checksum over batches as they are without compression: a flip there changes how it is compressed again.
        if let Ok(mut back) = result {
            for (source, back) in sources.iter().zip(&mut back) {
                back.produced_with = source.header().attributes.compression().unwrap();
            }
            assert_same(&sources, &back);
        }
    }
}

/// Checks the objects as `archive verify` does, from bytes that may be damaged.
fn check(segment: &Segment, parquet: &Bytes, companion: &Bytes) -> Result<(), DecodeError> {
    let part = |object: &Bytes, range: std::ops::Range<u64>| {
        object.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    };
    let ends = [
        segment.parquet_ends().map(|range| part(parquet, range)),
        segment.companion_ends().map(|range| part(companion, range)),
    ];
    let [parquet_ends, companion_ends] = ends;
    let mut check = SegmentCheck::begin(segment.clone(), parquet_ends, companion_ends)?;
    for chunk in segment.chunks() {
        check.add(&chunk, part(parquet, chunk.parquet.clone()), part(companion, chunk.companion.clone()))?;
    }
    check.finish()
}

#[test]
fn a_changed_byte_anywhere_in_an_object_is_found() {
    let sources: Vec<Batch> = (0..8)
        .map(|number| {
            let control = Attributes::default().with_transactional(number % 4 == 0).with_control(number % 4 == 0);
            let options = BatchOptions { attributes: control, producer_id: ProducerId(4), ..BatchOptions::default() };
            build(options, number, 3, &[plain(&format!("value {number}"))])
        })
        .collect();
    let mut request = request(0, 8);
    request.producers = ProducerRun::new(ProducerState::default(), 9, Timestamp(1));
    let limits = ChunkLimits { rows: 3, ..SMALL };
    let (encoded, _, _bench) = round_trip(&request, limits, &sources);
    let segment = &encoded.segment;
    assert!(segment.chunks.len() > 1);
    let parquet = read(encoded.parquet.as_ref(), &(0..segment.parquet_bytes));
    let companion = read(encoded.companion.as_ref(), &(0..segment.companion_bytes));
    check(segment, &parquet, &companion).unwrap();
    let flipped = |object: &Bytes, at: usize| {
        let mut bytes = BytesMut::from(&object[..]);
        bytes[at] ^= 1 << (at % 8);
        bytes.freeze()
    };
    // The ends, where lengths and magics are, byte by byte, and the rest in strides.
    let positions = |length: usize| (0..length).filter(move |at| at % 41 == 0 || *at < 20 || length - at < 20);
    for at in positions(parquet.len()) {
        assert!(check(segment, &flipped(&parquet, at), &companion).is_err(), "byte {at} of the Parquet object");
    }
    for at in positions(companion.len()) {
        assert!(check(segment, &parquet, &flipped(&companion, at)).is_err(), "byte {at} of the companion object");
    }
}

#[test]
fn ordinary_batches_become_rows_in_every_codec_and_timestamp_type() {
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        for kind in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
            let attributes = Attributes::default().with_compression(codec).with_timestamp_type(kind);
            let max_timestamp = (kind == TimestampType::LogAppendTime).then_some(Timestamp(1_800_000_000_000));
            let options = BatchOptions { attributes, max_timestamp, ..BatchOptions::default() };
            let source = build(options, 0, 3, &[plain("a"), plain("b")]);
            let (encoded, back, _bench) =
                round_trip(&request(0, 2), ChunkLimits::default(), std::slice::from_ref(&source));
            assert_eq!(back[0].fate, Fate::Rows, "{codec:?} {kind:?}");
            assert_same(&[source], &back);
            assert!(encoded.companion.is_none());
        }
    }
}

#[test]
fn what_rows_cannot_hold_is_kept_raw() {
    let keep = |options: BatchOptions, record: TestRecord| {
        let source = build(options, 0, 3, &[record]);
        let (_, back, _bench) = round_trip(&request(0, 1), SMALL, std::slice::from_ref(&source));
        assert_same(&[source], &back);
        back[0].fate
    };
    let plain = plain("x");
    let odd_header = TestRecord { headers: vec![(vec![0xff], None)], ..plain.clone() };
    assert_eq!(keep(BatchOptions::default(), odd_header), Fate::Raw);
    let far_future = TestRecord { timestamp: 9_300_000_000_000_000, ..plain.clone() };
    assert_eq!(keep(BatchOptions::compressed(Compression::Lz4), far_future), Fate::Raw);
    let control = Attributes::default().with_control(true).with_transactional(true);
    assert_eq!(keep(BatchOptions { attributes: control, ..BatchOptions::default() }, plain.clone()), Fate::Control);
    // Timestamps that are no function of the records are columns of their own.
    let odd_times = BatchOptions {
        base_timestamp: Some(Timestamp(5)),
        max_timestamp: Some(Timestamp(9)),
        ..BatchOptions::default()
    };
    assert_eq!(keep(odd_times, plain), Fate::Rows);
}

#[test]
fn a_record_with_unused_bits_set_is_kept_raw() {
    let batch = build(BatchOptions::default(), 0, 3, &[plain("x")]);
    let mut bytes = BytesMut::from(&batch.bytes()[..]);
    bytes[HEADER_BYTES + 1] = 1;
    let checksum = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    let source = Batch::split_from(&mut bytes.freeze()).unwrap();
    let (encoded, back, _bench) = round_trip(&request(0, 1), SMALL, std::slice::from_ref(&source));
    assert_eq!(back[0].fate, Fate::Raw);
    assert_same(&[source], &back);
    assert!(encoded.parquet.is_none(), "a segment without rows has no Parquet object");
}

#[test]
fn a_damaged_batch_is_never_archived() {
    let batch = build(BatchOptions::default(), 0, 3, &[plain("value")]);
    let mut bytes = BytesMut::from(&batch.bytes()[..]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let damaged = Batch::split_from(&mut bytes.freeze()).unwrap();
    let bench = Bench::new();
    let source = [Ok::<_, RecordError>(damaged)].into_iter();
    let result = encode(&request(0, 1), SMALL, source, &bench.slot);
    assert!(matches!(result, Err(EncodeError::DamagedBatch { .. })));
}

#[test]
fn batches_outside_the_range_or_out_of_order_are_refused() {
    let batch = |base| Ok::<_, RecordError>(build(BatchOptions::default(), base, 3, &[plain("x")]));
    for (bases, base, next) in [(vec![0, 5], 0, 5), (vec![5, 3], 0, 9), (vec![3, 3], 0, 9), (vec![2], 3, 9)] {
        let bench = Bench::new();
        let result = encode(&request(base, next), SMALL, bases.iter().map(|&base| batch(base)), &bench.slot);
        assert!(matches!(result, Err(EncodeError::OutOfOrder { .. })), "{bases:?}");
    }
    let bench = Bench::new();
    let none = std::iter::empty::<Result<Batch, RecordError>>();
    assert!(matches!(encode(&request(0, 5), SMALL, none, &bench.slot), Err(EncodeError::Empty { .. })));
}

#[test]
fn ten_megabyte_values_and_many_chunks_pass() {
    let large =
        TestRecord { value: Some((0..10 << 20).map(|at: u32| at.wrapping_mul(at) as u8).collect()), ..plain("") };
    let mut sources = Vec::new();
    for number in 0..6 {
        let codec = if number % 2 == 0 { Compression::None } else { Compression::Lz4 };
        sources.push(build(BatchOptions::compressed(codec), number, 3, std::slice::from_ref(&large)));
    }
    let (encoded, back, _bench) = round_trip(&request(0, 6), ChunkLimits::default(), &sources);
    assert_same(&sources, &back);
    assert_eq!(encoded.segment.chunks.len(), 3, "two batches of 10 MiB pass the limit of 16 MiB");
}

#[test]
fn chunks_end_at_batch_boundaries_and_cover_every_offset() {
    let sources: Vec<Batch> = (0..50)
        .map(|number| build(BatchOptions::default(), 10 + number * 10, 3, &[plain("some value"), plain("another")]))
        .collect();
    let (encoded, back, _bench) = round_trip(&request(7, 600), SMALL, &sources);
    assert_same(&sources, &back);
    let segment = &encoded.segment;
    assert!(segment.chunks.len() > 1);
    assert_eq!(segment.chunks().next().unwrap().base, Offset(7));
    assert_eq!(segment.chunks().last().unwrap().next, Offset(600));
    for offset in [7, 10, 200, 599] {
        let chunk = segment.chunk_at(Offset(offset)).unwrap();
        assert!(chunk.base.0 <= offset && offset < chunk.next.0);
    }
    assert_eq!(segment.chunk_at(Offset(600)), None);
    assert_eq!(encoded.facts.epochs, [EpochStart { epoch: LeaderEpoch(3), start: Offset(10) }]);
}

#[test]
fn a_search_by_timestamp_reads_only_the_small_columns() {
    let sources: Vec<Batch> = (0..40)
        .map(|number| {
            let record = TestRecord { timestamp: 1000 + number * 10, ..plain(&"x".repeat(500)) };
            build(BatchOptions::default(), number, 3, &[record])
        })
        .collect();
    let (encoded, _, _bench) = round_trip(&request(0, 40), ChunkLimits::default(), &sources);
    let metadata = metadata(&encoded).unwrap();
    let chunk = encoded.segment.chunks().next().unwrap();
    let range = metadata.search_range(&chunk).unwrap();
    assert!(range.end - range.start < (chunk.parquet.end - chunk.parquet.start) / 2);
    let search = |from, timestamp| {
        let bytes = read(encoded.parquet.as_ref(), &range);
        search_timestamp(&metadata, &chunk, bytes, Offset(from), Timestamp(timestamp)).unwrap()
    };
    assert_eq!(search(0, 0), Some((Offset(0), Timestamp(1000), LeaderEpoch(3))));
    assert_eq!(search(0, 1101), Some((Offset(11), Timestamp(1110), LeaderEpoch(3))));
    assert_eq!(search(20, 1101), Some((Offset(20), Timestamp(1200), LeaderEpoch(3))));
    assert_eq!(search(0, 1391), None);
}

/// Reads one run from just the bytes that it needs.
fn decode_run(
    encoded: &Encoded,
    chunk: &Chunk,
    run: &Run,
    damage: impl Fn(&mut [u8]),
) -> (Result<Vec<ArchivedBatch>, DecodeError>, u64) {
    let metadata = metadata(encoded).unwrap();
    let index = read(encoded.parquet.as_ref(), &metadata.page_index_range(chunk.row_group).unwrap());
    let pages = metadata.pages(chunk.row_group, &index).unwrap();
    let mut fetched = 0;
    let parts = pages.ranges(chunk, run).unwrap().into_iter().map(|range| {
        let mut bytes = read(encoded.parquet.as_ref(), &range).to_vec();
        fetched += bytes.len() as u64;
        damage(&mut bytes);
        (range.start, bytes.into())
    });
    let parts = parts.collect();
    let mut batches = Vec::new();
    let result = decode_run_into(chunk, run, &pages, parts, |batch| {
        batches.push(batch);
        Ok::<_, DecodeError>(())
    });
    (result.map(|()| batches), fetched)
}

/// Records that compress badly, with headers and keys here and there, and gaps between batches.
fn bulky_batches(count: i64) -> Vec<Batch> {
    let mut state = 7;
    let mut noise = move || crate::archive::store::faulty::split_mix(&mut state);
    let batches = (0..count).map(|number| {
        let records: Vec<TestRecord> = (0..3)
            .map(|at| TestRecord {
                gap: i32::from(at == 1),
                timestamp: 1_700_000_000_000 + number,
                key: (number % 3 != 0).then(|| noise().to_be_bytes().to_vec()),
                value: Some((0..500).flat_map(|_| noise().to_be_bytes()).collect()),
                headers: if number % 5 == 0 { vec![(b"name".to_vec(), None)] } else { vec![] },
            })
            .collect();
        build(BatchOptions::default(), number * 6, 3, &records)
    });
    batches.collect()
}

#[test]
fn every_run_of_a_chunk_is_read_alone_and_from_few_bytes() {
    let sources = bulky_batches(400);
    let limits = ChunkLimits { raw_bytes: 2 << 20, rows: 10_000 };
    let (encoded, _, _bench) = round_trip(&request(0, 2400), limits, &sources);
    let metadata = metadata(&encoded).unwrap();
    let mut back = Vec::new();
    for chunk in encoded.segment.chunks() {
        let mut offset = chunk.base;
        while offset < chunk.next {
            let Some(run) = metadata.run_at(&chunk, offset) else {
                assert!(chunk.raw_bytes < limits.raw_bytes, "only the last chunk may be too small for runs");
                back.extend(decode(&encoded, &chunk).unwrap());
                break;
            };
            assert_eq!(run.base, offset);
            assert_eq!(metadata.run_at(&chunk, run.next + -1), Some(run.clone()));
            let (batches, fetched) = decode_run(&encoded, &chunk, &run, |_| {});
            assert!(fetched < (chunk.parquet.end - chunk.parquet.start) / 2, "{fetched} of {:?}", chunk.parquet);
            back.extend(batches.unwrap());
            offset = run.next;
        }
    }
    assert_same(&sources, &back);
}

#[test]
fn the_columns_of_headers_are_known_by_number() {
    let columns = schema::descriptor();
    for (number, column) in columns.columns().iter().enumerate() {
        let is_of_headers = column.path().parts()[0] == schema::HEADERS;
        assert_eq!(schema::is_of_headers(number), is_of_headers, "{}", column.path());
        assert_eq!(column.max_rep_level() > 0, is_of_headers, "only headers are lists");
    }
}

#[test]
fn damage_in_a_run_is_found() {
    let sources = bulky_batches(100);
    let (encoded, _, _bench) = round_trip(&request(0, 600), ChunkLimits { raw_bytes: 1 << 20, rows: 10_000 }, &sources);
    let chunk = encoded.segment.chunks().next().unwrap();
    let run = metadata(&encoded).unwrap().run_at(&chunk, Offset(60)).unwrap();
    let (whole, _) = decode_run(&encoded, &chunk, &run, |_| {});
    let whole = whole.unwrap();
    let mut refused = 0;
    for at in 0..40 {
        let (damaged, _) = decode_run(&encoded, &chunk, &run, |bytes| {
            let place = bytes.len() * at / 40;
            bytes[place] ^= 0x10;
        });
        match damaged {
            Err(_) => refused += 1,
            Ok(back) => assert_eq!(back, whole),
        }
    }
    assert!(refused > 20, "{refused}");
    // Another chunk's checksum, and rows of another run.
    assert!(decode_run(&encoded, &chunk, &Run { hash: run.hash ^ 1, ..run.clone() }, |_| {}).0.is_err());
    let rows = run.rows.start + 3..run.rows.end + 3;
    assert!(decode_run(&encoded, &chunk, &Run { rows, ..run }, |_| {}).0.is_err());
}

#[test]
fn chunks_with_batches_beside_their_rows_have_no_runs() {
    let mut sources = bulky_batches(60);
    let control = Attributes::default().with_control(true).with_transactional(true);
    sources.push(build(BatchOptions { attributes: control, ..BatchOptions::default() }, 360, 3, &[plain("end")]));
    let (encoded, _, _bench) = round_trip(&request(0, 361), ChunkLimits { raw_bytes: 8 << 20, rows: 10_000 }, &sources);
    let chunk = encoded.segment.chunks().next().unwrap();
    assert_eq!(metadata(&encoded).unwrap().run_at(&chunk, Offset(60)), None);
}
