//! Batches of a sealed segment to a Parquet object and its companion.
//!
//! Each batch becomes rows only if it is rebuilt from them byte for byte, which is checked here batch by batch; otherwise
//! it is kept raw in the companion. A chunk (one row group, one part of the companion) ends at a batch boundary. Memory is
//! bounded by one row group, its compressed pages, and the largest batch.

use std::io::Write;

use bytes::Buf;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue};
use xxhash_rust::xxh3::Xxh3;

use super::companion::{self, Fate};
use super::rows::{BatchColumns, Rows, micros};
use super::schema::{schema, writer_properties};
use super::{Description, EncodeError, Encoded, SegmentRequest};
use crate::archive::manifest::{ChunkRow, CommitFacts, EpochStart, Hex128, Segment};
use crate::archive::spool::{SpoolSlot, SpoolWriter};
use crate::archive::store::Payload;
use crate::log::ProducerRun;
use crate::record::{
    Batch, BatchBuilder, BatchOptions, Compression, MAX_DECOMPRESSED_BYTES, RecordError, RecordView, Records,
    TimestampType,
};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// How large chunks grow. The default suits readers; tests use smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// A chunk ends at the first batch boundary at or above this many uncompressed bytes. Larger chunks compress a little
    /// better; every cold read fetches, decodes and caches a whole one, and needs about three times this in memory.
    pub raw_bytes: u64,
    /// A chunk ends at the first batch boundary at or above this many rows.
    pub rows: u64,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { raw_bytes: 16 << 20, rows: 262_144 }
    }
}

/// Rows are handed to the Parquet writer in portions of about this size, so that pages of large values end in time.
const PORTION_BYTES: usize = 1 << 20;
const PORTION_ROWS: usize = 4096;

/// Bytes before the first row group.
const PARQUET_MAGIC_BYTES: u64 = 4;
/// Bytes after the file metadata: its length, and the magic.
const PARQUET_FOOTER_BYTES: u64 = 8;

/// Encodes the batches of one sealed segment into `slot`.
pub(super) fn encode_batches<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    request: &SegmentRequest,
    limits: ChunkLimits,
    batches: impl Iterator<Item = Result<Batch, E>>,
    slot: &SpoolSlot,
) -> Result<Encoded, EncodeError> {
    let mut encoder = Encoder::new(request, limits, slot)?;
    for batch in batches {
        encoder.add(&batch.map_err(|cause| EncodeError::Source { cause: cause.into() })?)?;
    }
    encoder.finish()
}

struct Encoder<'a> {
    request: &'a SegmentRequest,
    limits: ChunkLimits,
    rows: Rows,
    writer: ArrowWriter<SpoolWriter>,
    companion: SpoolWriter,
    part: Vec<u8>,
    part_bytes: u64,
    chunk: OpenChunk,
    chunks: Vec<ChunkRow>,
    hash: Xxh3,
    expected: Offset,
    totals: Totals,
    facts: CommitFacts,
    producers: ProducerRun,
}

/// The chunk that is being filled.
struct OpenChunk {
    base: Offset,
    max_timestamp: Timestamp,
    rows: u64,
    raw_bytes: u64,
    hash: Xxh3,
}

impl OpenChunk {
    fn new(base: Offset) -> Self {
        Self { base, max_timestamp: Timestamp::NONE, rows: 0, raw_bytes: 0, hash: Xxh3::new() }
    }
}

struct Totals {
    records: u64,
    batches: u64,
    log_bytes: u64,
    min_timestamp: Option<Timestamp>,
    has_companion: bool,
}

impl<'a> Encoder<'a> {
    fn new(request: &'a SegmentRequest, limits: ChunkLimits, slot: &SpoolSlot) -> Result<Self, EncodeError> {
        let properties = writer_properties(usize::try_from(limits.rows).unwrap_or(usize::MAX));
        // Without the arrow schema, which only repeats the Parquet schema in a kilobyte of base64.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true)
            .with_schema_root("record".to_owned());
        let writer = ArrowWriter::try_new_with_options(slot.parquet(), schema(), options)?;
        let mut companion = slot.companion();
        companion.write_all(&companion::header())?;
        Ok(Self {
            request,
            limits,
            rows: Rows::new(schema(), request.identity.partition),
            writer,
            companion,
            part: Vec::new(),
            part_bytes: 0,
            chunk: OpenChunk::new(request.name.base),
            chunks: Vec::new(),
            hash: Xxh3::new(),
            expected: request.name.base,
            totals: Totals { records: 0, batches: 0, log_bytes: 0, min_timestamp: None, has_companion: false },
            facts: CommitFacts::default(),
            producers: request.producers.clone(),
        })
    }

    fn add(&mut self, batch: &Batch) -> Result<(), EncodeError> {
        let header = *batch.header();
        if header.base_offset < self.expected || header.next_offset() > self.request.name.next {
            return Err(EncodeError::OutOfOrder { base_offset: header.base_offset, expected: self.expected });
        }
        let damaged = |cause| EncodeError::DamagedBatch { base_offset: header.base_offset, cause };
        batch.verify_checksum().map_err(damaged)?;
        if self.chunk.raw_bytes >= self.limits.raw_bytes || self.chunk.rows >= self.limits.rows {
            self.close_chunk(header.base_offset)?;
        }
        let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(damaged)?;
        let records: Vec<RecordView<'_>> =
            Records::new(&payload, header.record_count).collect::<Result<_, _>>().map_err(damaged)?;
        let fate = self.fate(batch, &payload, &records).map_err(damaged)?;
        match fate {
            Ok(rebuilt) => {
                self.add_rows(batch, &records)?;
                self.hash.update(rebuilt.bytes());
                self.chunk.hash.update(rebuilt.bytes());
                self.chunk.raw_bytes += rebuilt.bytes().len() as u64;
            }
            Err(fate) => {
                companion::write_batch(&mut self.part, fate, batch);
                self.spill_part()?;
                self.hash.update(batch.bytes());
                self.chunk.hash.update(batch.bytes());
                self.chunk.raw_bytes += batch.bytes().len() as u64;
            }
        }
        self.note(batch, &records);
        Ok(())
    }

    /// The batch as its rows would give it back, or why it is kept raw.
    fn fate(
        &self,
        batch: &Batch,
        payload: &[u8],
        records: &[RecordView<'_>],
    ) -> Result<Result<Batch, Fate>, RecordError> {
        let header = batch.header();
        let raw = if header.attributes.is_control() {
            Some(Fate::Control)
        } else if records.is_empty() {
            Some(Fate::Empty)
        } else if self.request.is_aborted(header) {
            Some(Fate::Aborted)
        } else if !can_be_rows(batch, records) {
            Some(Fate::Raw)
        } else {
            None
        };
        if let Some(fate) = raw {
            return Ok(Err(fate));
        }
        let uncompressed = header.attributes.with_compression(Compression::None);
        let mut builder = BatchBuilder::new(BatchOptions { attributes: uncompressed, ..BatchOptions::of(header) });
        for record in records {
            let own = Timestamp(header.base_timestamp.0.wrapping_add(record.timestamp_delta));
            builder.append_at(record.offset_delta, own, record.key, record.value, record.headers);
        }
        let rebuilt = builder.build(header.base_offset, header.leader_epoch)?;
        // Odd varints, record attributes or counts do not survive as rows.
        Ok(if rebuilt.payload() == payload { Ok(rebuilt) } else { Err(Fate::Raw) })
    }

    fn add_rows(&mut self, batch: &Batch, records: &[RecordView<'_>]) -> Result<(), EncodeError> {
        let header = *batch.header();
        let own = |record: &RecordView<'_>| header.base_timestamp.0.wrapping_add(record.timestamp_delta);
        let first = own(&records[0]);
        // What the builder makes of the records when it is not told.
        let largest = records.iter().map(own).fold(Timestamp::NONE.0, i64::max);
        let is_derived =
            header.attributes.timestamp_type() == TimestampType::LogAppendTime || header.max_timestamp.0 == largest;
        let columns = BatchColumns {
            header,
            base_timestamp: (header.base_timestamp.0 != first).then_some(header.base_timestamp.0),
            max_timestamp: (!is_derived).then_some(header.max_timestamp.0),
        };
        for record in records {
            self.rows.append(&columns, record);
            if self.rows.bytes() >= PORTION_BYTES || self.rows.count() >= PORTION_ROWS {
                self.writer.write(&self.rows.take()?)?;
            }
        }
        self.chunk.rows += records.len() as u64;
        Ok(())
    }

    /// Counts the batch, and what a commit has to know of it.
    fn note(&mut self, batch: &Batch, records: &[RecordView<'_>]) {
        let header = batch.header();
        for record in records {
            let timestamp = header.timestamp_of(record.timestamp_delta);
            self.chunk.max_timestamp = self.chunk.max_timestamp.max(timestamp);
            self.totals.min_timestamp = Some(self.totals.min_timestamp.map_or(timestamp, |min| min.min(timestamp)));
        }
        self.totals.records += records.len() as u64;
        self.totals.batches += 1;
        self.totals.log_bytes += batch.bytes().len() as u64;
        self.expected = header.next_offset();
        if self.facts.epochs.last().is_none_or(|last| header.leader_epoch > last.epoch)
            && header.leader_epoch > LeaderEpoch::NONE
        {
            self.facts.epochs.push(EpochStart { epoch: header.leader_epoch, start: header.base_offset });
        }
        if header.producer_id.is_some() {
            self.facts.max_producer_id = self.facts.max_producer_id.max(Some(header.producer_id));
            self.producers.add(header);
        }
    }

    fn spill_part(&mut self) -> Result<(), EncodeError> {
        self.companion.write_all(&self.part)?;
        self.part_bytes += self.part.len() as u64;
        self.part.clear();
        self.totals.has_companion = true;
        Ok(())
    }

    /// Ends the chunk; the next one begins at `next`.
    fn close_chunk(&mut self, next: Offset) -> Result<(), EncodeError> {
        let mut parquet_bytes = 0;
        if self.chunk.rows > 0 {
            if self.rows.count() > 0 {
                self.writer.write(&self.rows.take()?)?;
            }
            self.writer.flush()?;
            let group = self.writer.flushed_row_groups().last().expect("a chunk with rows has a row group");
            parquet_bytes = group.compressed_size().cast_unsigned();
        }
        let chunk = std::mem::replace(&mut self.chunk, OpenChunk::new(next));
        self.chunks.push(ChunkRow {
            offsets: (next - chunk.base).cast_unsigned(),
            max_timestamp: chunk.max_timestamp.0,
            rows: chunk.rows,
            parquet_bytes,
            companion_bytes: std::mem::take(&mut self.part_bytes),
            raw_bytes: chunk.raw_bytes,
            hash: chunk.hash.digest(),
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Encoded, EncodeError> {
        let name = self.request.name;
        if self.totals.batches == 0 {
            return Err(EncodeError::Empty { base: name.base, next: name.next });
        }
        self.close_chunk(name.next)?;
        let max_timestamp = self.chunks.iter().map(|chunk| chunk.max_timestamp).max();
        let mut segment = Segment {
            name,
            min_timestamp: self.totals.min_timestamp.unwrap_or(Timestamp::NONE),
            max_timestamp: max_timestamp.map_or(Timestamp::NONE, Timestamp),
            record_count: self.totals.records,
            batch_count: self.totals.batches,
            log_bytes: self.totals.log_bytes,
            parquet_bytes: 0,
            footer_start: 0,
            metadata_start: 0,
            parquet_hash: Hex128(0),
            companion_bytes: 0,
            companion_hash: Hex128(0),
            hash: Hex128(self.hash.digest128()),
            chunks: self.chunks,
        };
        let description = Description::new(self.request, &segment, &self.facts);
        let has_rows = segment.chunks.iter().any(|chunk| chunk.rows > 0);
        segment.parquet_hash = no_object();
        segment.companion_hash = no_object();
        let parquet = if has_rows { Some(finish_parquet(self.writer, &description, &mut segment)?) } else { None };
        let mut tail = Vec::new();
        if let Some(snapshot) = self.producers.snapshot(name.next) {
            let start = self.companion.position();
            companion::write_snapshot(&mut tail, &snapshot.encode());
            self.facts.producer_snapshot = Some(start..start + tail.len() as u64);
        }
        let companion = if self.totals.has_companion || !tail.is_empty() || !has_rows {
            companion::write_description(&mut tail, &description.to_json());
            self.companion.write_all(&tail)?;
            let (payload, hash) = self.companion.finish()?;
            segment.companion_hash = hash;
            segment.companion_bytes = payload.length();
            Some(payload)
        } else {
            None
        };
        Ok(Encoded { segment, facts: self.facts, parquet, companion })
    }
}

/// What an object that does not exist hashes to.
fn no_object() -> Hex128 {
    Hex128(Xxh3::new().digest128())
}

fn finish_parquet(
    mut writer: ArrowWriter<SpoolWriter>,
    description: &Description,
    segment: &mut Segment,
) -> Result<Payload, EncodeError> {
    for (key, value) in description.key_values() {
        writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }
    let metadata = writer.finish()?;
    // Row groups lie one after another from the magic on, which the manifest's chunk list builds on.
    let mut end = PARQUET_MAGIC_BYTES;
    for (group, chunk) in metadata.row_groups().iter().zip(segment.chunks.iter().filter(|chunk| chunk.rows > 0)) {
        let ranges = group.columns().iter().map(ColumnChunkMetaData::byte_range);
        let start = ranges.clone().map(|(start, _)| start).min();
        let group_end = ranges.map(|(start, length)| start + length).max();
        assert!(start == Some(end), "the Parquet writer left a gap before a row group");
        end += chunk.parquet_bytes;
        assert!(group_end == Some(end), "the Parquet writer left a gap within a row group");
    }
    let (payload, hash) = writer.inner_mut().finish()?;
    segment.parquet_hash = hash;
    segment.parquet_bytes = payload.length();
    segment.footer_start = end;
    let mut footer = payload.read(payload.length() - PARQUET_FOOTER_BYTES, 4)?;
    segment.metadata_start = payload.length() - PARQUET_FOOTER_BYTES - u64::from(footer.get_u32_le());
    Ok(payload)
}

/// Whether a batch's records fit the columns: strictly growing offsets, text header keys, timestamps in range.
fn can_be_rows(batch: &Batch, records: &[RecordView<'_>]) -> bool {
    let header = batch.header();
    let grows = records.is_sorted_by(|one, two| one.offset_delta < two.offset_delta);
    let within = records[0].offset_delta >= 0 && records[records.len() - 1].offset_delta <= header.last_offset_delta;
    let own = |record: &RecordView<'_>| header.base_timestamp.0.checked_add(record.timestamp_delta);
    let fits = |timestamp| micros(Timestamp(timestamp)).is_some();
    let text = |record: &RecordView<'_>| record.headers.clone().all(|header| std::str::from_utf8(header.key).is_ok());
    grows
        && within
        && fits(header.max_timestamp.0)
        && records.iter().all(|record| own(record).is_some_and(fits) && text(record))
}
