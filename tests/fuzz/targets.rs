//! The targets: functions that take any bytes, and what they may cost.
//!
//! Where a checksum guards a format, the target sets it right first, so that what lies behind is reached.

use alluvium::archive::key::{self, ClusterKeys, SegmentName};
use alluvium::archive::manifest::{
    Chunk, ClusterStamp, GroupSnapshotMark, Head, HeadIdentity, Hex128, ProducerIdMark, Segment, SpillList, SpillRef,
    TopicDescription,
};
use alluvium::archive::parquet::{
    COMPANION_HEADER_BYTES, DecodeError, Description, FileMetadata, Run, check_companion_header, decode_chunk,
    decode_run_into, read_companion_tail, search_timestamp,
};
use alluvium::group::records::{CommittedOffset, Key, StoredGroup};
use alluvium::record::compression::decompress;
use alluvium::record::{Batch, Batches, Compression, EndTransactionMarker, ProduceRules, validate};
use alluvium::types::{ClusterId, Offset, PartitionIndex, Timestamp, TopicId};
use alluvium::{group, log, metadata};
use bytes::Bytes;

use super::{answers, requests};

/// A decoder, and the memory that it may take for an input: `bytes_per_byte * length + bytes_more`.
pub struct Target {
    /// Names its test and its corpus.
    pub name: &'static str,
    /// Decodes any bytes.
    pub run: fn(&[u8]),
    /// Memory for each byte of the input.
    pub bytes_per_byte: usize,
    /// Memory whatever the length of the input.
    pub bytes_more: usize,
}

/// Most that a payload decompresses to here.
const DECOMPRESSED_BYTES: usize = 1 << 20;
/// A decompressed payload while it grows, the codec's own state, and a chunk.
const DECOMPRESSION_BYTES: usize = 3 * DECOMPRESSED_BYTES + KIB * 512;
/// What a manifest decompresses to at most, its buffer while it grows, and its content without the checksum.
const MANIFEST_BYTES: usize = 3 * (64 << 20);
const KIB: usize = 1 << 10;

const fn target(name: &'static str, run: fn(&[u8]), bytes_per_byte: usize, bytes_more: usize) -> Target {
    Target { name, run, bytes_per_byte, bytes_more }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("requests", requests::decode, 400, 16 * KIB),
    target("answers", answers::decode, 400, 16 * KIB),
    target("produced_batches", produced_batches, 40, DECOMPRESSION_BYTES),
    target("stored_batches", stored_batches, 4, DECOMPRESSION_BYTES),
    target("gzip", |bytes| inflate(Compression::Gzip, bytes), 2, DECOMPRESSION_BYTES),
    target("snappy", |bytes| inflate(Compression::Snappy, bytes), 2, DECOMPRESSION_BYTES),
    target("lz4", |bytes| inflate(Compression::Lz4, bytes), 2, DECOMPRESSION_BYTES + 8192 * KIB),
    target("zstd", |bytes| inflate(Compression::Zstd, bytes), 2, DECOMPRESSION_BYTES),
    target("identities", identities, 2, KIB),
    target("journal_headers", journal_headers, 2, KIB),
    target("journal_blocks", log::fuzz::journal_blocks, 4, KIB),
    target("journal_entries", log::fuzz::journal_entries, 4, KIB),
    target("checkpoints", log::fuzz::checkpoint, 40, 16 * KIB),
    target("producer_snapshots", log::fuzz::producer_snapshot, 40, 16 * KIB),
    target("segment_headers", segment_headers, 2, KIB),
    target("segment_indexes", segment_indexes, 4, KIB),
    target("heads", heads, 60, 64 * KIB),
    target("spilled_lists", spilled_lists, 60, 512 * KIB),
    target("spills", spills, 60, MANIFEST_BYTES + 512 * KIB),
    target("keys", keys, 80, 16 * KIB),
    target("stamps_of_the_bucket", stamps_of_the_bucket, 40, 16 * KIB),
    target("companions", companions, 8, 16 * KIB),
    target("parquet_footers", parquet_footers, 400, 256 * KIB),
    target("parquet_rows", parquet_rows, 400, 8192 * KIB),
    target("group_records", group_records, 60, 16 * KIB),
    target("group_snapshots", group_snapshots, 40, 16 * KIB),
    target("subscriptions", group::fuzz::subscription, 60, 16 * KIB),
    target("metadata_commands", metadata_commands, 60, 64 * KIB),
    target("metadata_images", metadata_images, 60, 64 * KIB),
    target("snapshot_headers", metadata::fuzz::snapshot_headers, 60, 64 * KIB),
    target("quorum_records", metadata::fuzz::quorum_records, 60, 64 * KIB),
];

/// What a producer sent for one partition.
fn produced_batches(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() > 21 {
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    }
    for compression in [None, Some(Compression::None)] {
        let rules = ProduceRules { max_message_bytes: DECOMPRESSED_BYTES, compression, ..ProduceRules::default() };
        let _ = validate(Bytes::from(bytes.clone()), &rules, Timestamp(1_700_000_000_000));
    }
}

/// Batches as they lie in segments, and their records.
fn stored_batches(bytes: &[u8]) {
    for batch in Batches::new(Bytes::copy_from_slice(bytes)).flatten() {
        let _ = batch.verify_checksum();
        read_records(&batch);
    }
}

fn read_records(batch: &Batch) {
    let Ok(payload) = batch.decompressed(DECOMPRESSED_BYTES) else { return };
    for record in batch.header().records(&payload).map_while(Result::ok) {
        let _ = EndTransactionMarker::read(&record);
        record.headers.for_each(drop);
    }
}

fn inflate(codec: Compression, bytes: &[u8]) {
    let _ = decompress(codec, bytes, DECOMPRESSED_BYTES);
}

fn identities(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, 12, &[8..12, 16..56]);
    log::fuzz::identity(&bytes);
}

/// Both copies.
fn journal_headers(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for at in [0, 2048] {
        seal(&mut bytes, at + 12, &[at + 8..at + 12, at + 16..at + 56]);
        seal(&mut bytes, at + 80, std::slice::from_ref(&(at + 56..at + 80)));
    }
    log::fuzz::journal_header(&bytes);
}

fn segment_headers(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, 12, &[8..12, 16..56]);
    seal(&mut bytes, 96, std::slice::from_ref(&(56..96)));
    let _ = log::SegmentHeader::decode(&bytes);
}

/// An index, for whatever directory and segment it says that it is.
fn segment_indexes(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let length = bytes.len();
    seal(&mut bytes, 84, &[56..84, 88..length]);
    // A segment header with the same stamp tells whose it is.
    let mut header = bytes.clone();
    header.splice(..8.min(length), *b"ALLVSEGM");
    seal(&mut header, 12, &[8..12, 16..56]);
    seal(&mut header, 96, std::slice::from_ref(&(56..96)));
    let Ok((_, identity)) = log::SegmentHeader::decode(&header) else { return };
    seal(&mut bytes, 12, &[8..12, 16..56]);
    let segment_bytes = u64::from_le_bytes(bytes[64..72].try_into().expect("eight bytes of a whole header"));
    if let Some(index) = log::SegmentIndex::decode(&bytes, &identity, Offset(100), segment_bytes) {
        for at in [0, 100, 101, i64::MAX] {
            let _ = (index.position_of_offset(Offset(at)), index.position_of_timestamp(Timestamp(at)));
        }
    }
}

/// Sets a little-endian CRC-32C over some ranges right, as far as they are there.
fn seal(bytes: &mut [u8], at: usize, ranges: &[std::ops::Range<usize>]) {
    let pieces: Option<Vec<&[u8]>> = ranges.iter().map(|range| bytes.get(range.clone())).collect();
    let Some(pieces) = pieces else { return };
    let checksum = pieces.into_iter().fold(0, crc32c::crc32c_append);
    if let Some(stored) = bytes.get_mut(at..at + 4) {
        stored.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A manifest with the checksum that it begins with set right.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    const START: &[u8] = b"{\"checksum\":\"";
    let mut manifest = bytes.to_vec();
    let digits = START.len()..START.len() + 32;
    if let Some(rest) = bytes.get(digits.end + 2..).filter(|_| bytes.starts_with(START)) {
        let checksum = xxhash_rust::xxh3::xxh3_128(&[b"{", rest].concat());
        manifest[digits].copy_from_slice(format!("{checksum:032x}").as_bytes());
    }
    manifest
}

fn heads(bytes: &[u8]) {
    let Ok(head) = Head::parse_any(&resealed(bytes)) else { return };
    read_segments(&head.segments);
    let _ = (head.log_bytes(), head.needs_spill(), head.known_segments());
    for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
        let _ = head.position(Offset(offset));
    }
}

/// A list as it was before it was sealed and compressed, for whatever partition and offsets it says that it is.
fn spilled_lists(bytes: &[u8]) {
    let Ok(list) = serde_json::from_slice::<SpillList>(bytes) else { return };
    read_segments(&list.segments);
    let (Some(first), Some(last)) = (list.segments.first(), list.segments.last()) else { return };
    let object = list.to_bytes();
    if let Ok(read) = SpillList::parse(&object, &list.identity, &reference(&object, first.base(), last.next())) {
        assert_eq!(read, list);
    }
}

/// A list as its object holds it.
fn spills(object: &[u8]) {
    let (cluster_id, topic_id) = (ClusterId::ZERO, TopicId::ZERO);
    let identity = HeadIdentity { cluster_id, topic: String::new(), topic_id, partition: PartitionIndex(0) };
    let _ = SpillList::parse(object, &identity, &reference(object, Offset(0), Offset(1)));
}

/// What a head that refers to this object says of it.
fn reference(object: &[u8], first: Offset, next: Offset) -> SpillRef {
    let hash = Hex128(xxhash_rust::xxh3::xxh3_128(object));
    SpillRef { first, next, generation: 1, live_from: first, max_timestamp: Timestamp(0), log_bytes: 0, hash }
}

/// A key of anything in the bucket, for whatever cluster, topic and partition it says that it is.
fn keys(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let key: &str = &text;
    let _ = key.parse::<SegmentName>();
    let _ = key::parse_group_snapshot(key);
    let (Some((topic, topic_id)), Some(partition)) = (key::parse_topic(key), key::parse_partition(key)) else { return };
    let Some(cluster_id) = key.split('/').nth(2).and_then(|id| id.parse().ok()) else { return };
    let keys = ClusterKeys::new(cluster_id).topic(topic, topic_id).partition(partition.0);
    let _ = keys.parse_spill(key);
    if let Some(name) = keys.parse_segment(key) {
        assert!(key == keys.parquet(&name) || key == keys.companion(&name), "another key stands for the same object");
    }
}

fn read_segments(segments: &[Segment]) {
    for segment in segments {
        let _ = segment.check();
        segment.chunks().for_each(drop);
    }
}

fn stamps_of_the_bucket(bytes: &[u8]) {
    let bytes = &resealed(bytes);
    let _ = ClusterStamp::parse(bytes);
    let _ = TopicDescription::parse(bytes);
    let _ = ProducerIdMark::parse(bytes);
    let _ = GroupSnapshotMark::parse(bytes);
    let _ = Description::parse(bytes);
}

/// A companion object whose frames are all one part, and once more all its tail.
fn companions(bytes: &[u8]) {
    let _ = check_companion_header(bytes);
    let mut frames = bytes.get(COMPANION_HEADER_BYTES as usize..).unwrap_or_default().to_vec();
    seal_frames(&mut frames);
    let frames = Bytes::from(frames);
    let _ = read_companion_tail(frames.clone());
    let _ = decode_chunk(&chunk(0, 0..0, 0), None, frames);
}

/// Sets the checksums of a companion's frames right, as far as the frames are whole.
fn seal_frames(mut frames: &mut [u8]) {
    while let Some((header, rest)) = frames.split_first_chunk_mut::<16>() {
        let length = u32::from_be_bytes(header[4..8].try_into().expect("four bytes")) as usize;
        let Some((content, after)) = rest.split_at_mut_checked(length) else { return };
        let checksum = xxhash_rust::xxh3::xxh3_64(&[&header[..8], content].concat());
        header[8..].copy_from_slice(&checksum.to_be_bytes());
        frames = after;
    }
}

/// A chunk of no segment in particular.
fn chunk(row_group: usize, parquet: std::ops::Range<u64>, rows: u64) -> Chunk {
    Chunk {
        index: 0,
        base: Offset(0),
        next: Offset::MAX,
        max_timestamp: Timestamp(i64::MAX),
        rows,
        row_group,
        parquet,
        companion: 0..0,
        raw_bytes: 64 << 10,
        hash: 0,
    }
}

/// The end of a Parquet object, from its metadata on.
fn parquet_footers(bytes: &[u8]) {
    let _ = footer_of(bytes);
}

fn footer_of(tail: &[u8]) -> Option<FileMetadata> {
    let mut tail = tail.to_vec();
    let at = tail.len().checked_sub(8)?;
    tail[at..at + 4].copy_from_slice(&u32::try_from(at).ok()?.to_le_bytes());
    tail[at + 4..].copy_from_slice(b"PAR1");
    let metadata = FileMetadata::parse(&tail).ok()?;
    let _ = (metadata.key_value("alluvium.segment"), metadata.row_groups(), metadata.memory_bytes());
    Some(metadata)
}

/// A whole Parquet object; the length of its metadata is taken from its end.
fn parquet_rows(bytes: &[u8]) {
    let Some((rest, end)) = bytes.split_last_chunk::<8>() else { return };
    let length = u32::from_le_bytes(end[..4].try_into().expect("four bytes")) as usize;
    let Some(at) = rest.len().checked_sub(length) else { return };
    let Some(metadata) = footer_of(&bytes[at..]) else { return };
    let rows = Bytes::copy_from_slice(&rest[..at]);
    for row_group in 0..metadata.row_groups().min(4) {
        let chunk = chunk(row_group, 0..at as u64, 1000);
        let _ = decode_chunk(&chunk, Some((&metadata, rows.clone())), Bytes::new());
        let _ = parquet_run(&metadata, &chunk, bytes);
        let Ok(range) = metadata.search_range(&chunk) else { continue };
        let searched = rows.slice(usize::try_from(range.start).expect("it lies within the rows")..);
        let _ = search_timestamp(&metadata, &chunk, searched, Offset(0), Timestamp(i64::MAX));
    }
}

/// The first rows of a row group, by way of the page index.
fn parquet_run(metadata: &FileMetadata, chunk: &Chunk, bytes: &[u8]) -> Option<()> {
    let bytes = Bytes::copy_from_slice(bytes);
    let part = |range: std::ops::Range<u64>| {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        (range.start <= range.end && range.end <= bytes.len()).then(|| bytes.slice(range))
    };
    let index = part(metadata.page_index_range(chunk.row_group)?)?;
    let pages = metadata.pages(chunk.row_group, &index).ok()?;
    let run = Run { base: chunk.base, next: chunk.next, rows: 1..3, hash: 0 };
    let ranges = pages.ranges(chunk, &run).ok()?;
    let parts = ranges.into_iter().map(|range| Some((range.start, part(range)?))).collect::<Option<_>>()?;
    let _ = decode_run_into::<DecodeError>(chunk, &run, &pages, parts, |_| Ok(()));
    Some(())
}

fn group_records(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = Key::decode(&bytes);
    let _ = CommittedOffset::decode(&bytes);
    let _ = StoredGroup::decode(&bytes);
}

fn group_snapshots(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(at) = bytes.len().checked_sub(4) {
        let checksum = crc32c::crc32c(&bytes[..at]);
        bytes[at..].copy_from_slice(&checksum.to_be_bytes());
    }
    let _ = group::snapshot::parse(&bytes.into());
}

fn metadata_commands(bytes: &[u8]) {
    if let Ok(commands) = metadata::command::decode_group(bytes) {
        let _ = commands.iter().map(metadata::Command::weight).sum::<usize>();
    }
}

fn metadata_images(bytes: &[u8]) {
    let _ = metadata::snapshot::decode(bytes);
}
