//! Archived bytes back to batches.
//!
//! The unit is a chunk: the bytes of its row group and of its companion part are read as a whole, and its batches come
//! back in offset order, each byte for byte as it was in the log but for its compression. A checksum over them, made when
//! they were archived, shows damage anywhere between: bucket, network, decoder.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow_array::{StructArray, TimestampMicrosecondArray};
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader};
use xxhash_rust::xxh3::Xxh3;

use super::companion::{ArchivedBatch, Fate, read_part};
use super::parts::Parts;
use super::portions::Portions;
use super::runs::{self, FileRuns, RowGroupPages, Run};
use super::{DecodeError, schema};
use crate::archive::manifest::Chunk;
use crate::record::{Attributes, BatchBuilder, BatchOptions, Compression, HeaderView, RecordError, TimestampType};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// The parsed footer of a Parquet object; cheap to clone.
#[derive(Clone, Debug)]
pub struct FileMetadata {
    pub(super) arrow: ArrowReaderMetadata,
    pub(super) runs: Arc<FileRuns>,
    /// About how much memory it takes.
    bytes: usize,
}

impl FileMetadata {
    /// Parses the end of an object: from [`metadata_start`](crate::archive::manifest::Segment::metadata_start) on.
    pub fn parse(tail: &[u8]) -> Result<Self, DecodeError> {
        guarded("the Parquet reader cannot cope with a footer", Offset(0), || Self::parse_unguarded(tail))
    }

    fn parse_unguarded(tail: &[u8]) -> Result<Self, DecodeError> {
        let metadata = tail
            .len()
            .checked_sub(8)
            .filter(|&length| tail[length + 4..] == *b"PAR1" && (&tail[length..]).get_u32_le() as usize == length)
            .map(|length| &tail[..length])
            .ok_or(DecodeError::Malformed { what: "Parquet footer is not where the manifest says", at: 0 })?;
        // The schema is ours: one that the bytes claim could have as many children as they like, and memory for them.
        let options = ParquetMetaDataOptions::new().with_schema(schema::descriptor());
        let parsed = Arc::new(ParquetMetaDataReader::decode_metadata_with_options(metadata, Some(&options))?);
        check_ranges(&parsed)?;
        let bytes = parsed.memory_size();
        let pairs = parsed.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
        let runs = pairs.iter().find(|pair| pair.key == runs::RUNS_KEY).and_then(|pair| pair.value.as_deref());
        let runs = Arc::new(runs::parse(runs)?);
        Ok(Self { arrow: ArrowReaderMetadata::try_new(parsed, reader_options())?, runs, bytes })
    }

    /// The runs of a chunk; none when it is only read as a whole.
    pub(super) fn runs(&self, chunk: &Chunk) -> Vec<Run> {
        runs::of_chunk(&self.runs, chunk)
    }

    /// About how much memory it takes, in bytes.
    pub const fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// A value of the footer's key-value list.
    pub fn key_value(&self, key: &str) -> Option<&str> {
        let pairs = self.arrow.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    /// Row groups in the file.
    pub fn row_groups(&self) -> usize {
        self.arrow.metadata().num_row_groups()
    }

    /// The bytes of a chunk's row group that a search by timestamp reads.
    pub fn search_range(&self, chunk: &Chunk) -> Result<Range<u64>, DecodeError> {
        let lacking = malformed("Parquet file lacks a row group", chunk.base);
        let group = self.arrow.metadata().row_groups().get(chunk.row_group).ok_or(lacking)?;
        let ranges = schema::SEARCH_COLUMNS.iter().filter_map(|&column| group.columns().get(column));
        ranges
            .map(|column| column.byte_range())
            .map(|(start, length)| start..start + length)
            .reduce(|one, two| one.start.min(two.start)..one.end.max(two.end))
            .filter(|range| chunk.parquet.start <= range.start && range.end <= chunk.parquet.end)
            .ok_or(malformed("a column lies outside its row group", chunk.base))
    }
}

/// What the reader takes for granted of the places of columns, and panics over.
fn check_ranges(metadata: &ParquetMetaData) -> Result<(), DecodeError> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    let starts = columns.map(|column| (column.dictionary_page_offset().unwrap_or(0), column));
    match starts.map(|(start, column)| start.min(column.data_page_offset()).min(column.compressed_size())).min() {
        Some(at @ ..0) => Err(DecodeError::Malformed { what: "a column lies before its Parquet file", at }),
        _ => Ok(()),
    }
}

pub(super) fn reader_options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// Decodes one chunk from the bytes of its row group (with the file's metadata) and of its companion part.
pub fn decode_chunk(
    chunk: &Chunk,
    rows: Option<(&FileMetadata, Bytes)>,
    companion: Bytes,
) -> Result<Vec<ArchivedBatch>, DecodeError> {
    let mut batches = Vec::new();
    decode_chunk_into(chunk, rows, companion, |batch| {
        batches.push(batch);
        Ok::<_, DecodeError>(())
    })?;
    Ok(batches)
}

/// Decodes one chunk and hands its batches to `take` in offset order, a portion at a time: memory is needed for the bytes
/// given, and for one portion or one batch. What was handed over is what was archived only if this returns without error.
pub fn decode_chunk_into<E: From<DecodeError>>(
    chunk: &Chunk,
    rows: Option<(&FileMetadata, Bytes)>,
    companion: Bytes,
    take: impl FnMut(ArchivedBatch) -> Result<(), E>,
) -> Result<(), E> {
    let mut proof = Proof::new(chunk.base, chunk.next, take);
    let mut beside = read_part(companion)?.into_iter().peekable();
    if let Some((metadata, bytes)) = rows {
        let parts = Parts::whole(chunk, chunk.parquet.start, bytes);
        let mut rebuild = Rebuild::open(|| Portions::of_chunk(&metadata.arrow, chunk, parts), chunk)?;
        while let Some(batches) = rebuild.next_batches()? {
            for batch in batches {
                let base = batch.batch.header().base_offset;
                while let Some(raw) = beside.next_if(|raw| raw.batch.header().base_offset < base) {
                    proof.pass(raw)?;
                }
                proof.pass(batch)?;
            }
        }
        if rebuild.rows != chunk.rows {
            return Err(malformed("row group has another number of rows", chunk.base).into());
        }
    }
    beside.try_for_each(|raw| proof.pass(raw))?;
    Ok(proof.finish(chunk.hash)?)
}

/// Decodes one run of a chunk from the bytes of [`RowGroupPages::ranges`], by position, as [`decode_chunk_into`] does.
pub fn decode_run_into<E: From<DecodeError>>(
    chunk: &Chunk,
    run: &Run,
    pages: &RowGroupPages,
    parts: Vec<(u64, Bytes)>,
    take: impl FnMut(ArchivedBatch) -> Result<(), E>,
) -> Result<(), E> {
    let mut proof = Proof::new(run.base, run.next, take);
    let parts = Parts::pages(chunk, parts);
    let mut rebuild = Rebuild::open(|| Portions::of_run(pages, chunk, &run.rows, parts), chunk)?;
    while let Some(batches) = rebuild.next_batches()? {
        batches.into_iter().try_for_each(|batch| proof.pass(batch))?;
    }
    Ok(proof.finish(run.hash)?)
}

const fn malformed(what: &'static str, at: Offset) -> DecodeError {
    DecodeError::Malformed { what, at: at.0 }
}

/// Passes batches on while they are in order and lie in their range, and tells at the end whether they are the ones that
/// were archived.
struct Proof<F> {
    base: Offset,
    expected: Offset,
    next: Offset,
    hash: Xxh3,
    take: F,
}

impl<F> Proof<F> {
    fn new(base: Offset, next: Offset, take: F) -> Self {
        Self { base, expected: base, next, hash: Xxh3::new(), take }
    }

    fn pass<E: From<DecodeError>>(&mut self, batch: ArchivedBatch) -> Result<(), E>
    where
        F: FnMut(ArchivedBatch) -> Result<(), E>,
    {
        let header = batch.batch.header();
        if header.base_offset < self.expected || header.next_offset() > self.next {
            return Err(malformed("batches are out of order", header.base_offset).into());
        }
        self.expected = header.next_offset();
        self.hash.update(batch.batch.bytes());
        (self.take)(batch)
    }

    fn finish(&self, hash: u64) -> Result<(), DecodeError> {
        let (expected, found) = (format!("{hash:016x}"), format!("{:016x}", self.hash.digest()));
        if expected != found {
            return Err(DecodeError::Checksum { base: self.base, expected, found });
        }
        Ok(())
    }
}

/// The first record of a row group, from offset `from` on, whose timestamp is at least `timestamp`: its offset, timestamp
/// and leader epoch. `bytes` are those of [`FileMetadata::search_range`].
pub fn search_timestamp(
    metadata: &FileMetadata,
    chunk: &Chunk,
    bytes: Bytes,
    from: Offset,
    timestamp: Timestamp,
) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, DecodeError> {
    let range = metadata.search_range(chunk)?;
    let parts = Parts::whole(chunk, range.start, bytes);
    guarded(ROW_GROUP, chunk.base, || {
        let mut portions = Portions::of_columns(&metadata.arrow, chunk, parts, &schema::SEARCH_COLUMNS)?;
        while let Some(portion) = portions.next()? {
            let found = search_portion(&portion, from, timestamp)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    })
}

fn search_portion(
    portion: &RecordBatch,
    from: Offset,
    timestamp: Timestamp,
) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, DecodeError> {
    let offsets = column(portion, schema::OFFSET, |array| array.as_primitive_opt::<Int64Type>())?;
    let timestamps = column(portion, schema::TIMESTAMP, |array| array.as_primitive_opt::<TimestampMicrosecondType>())?;
    let epochs = column(portion, schema::LEADER_EPOCH, |array| array.as_primitive_opt::<Int32Type>())?;
    let millis = |row| timestamps.value(row).div_euclid(1000);
    let found = (0..portion.num_rows()).find(|&row| offsets.value(row) >= from.0 && millis(row) >= timestamp.0);
    Ok(found.map(|row| (Offset(offsets.value(row)), Timestamp(millis(row)), LeaderEpoch(epochs.value(row)))))
}

fn column<'a, T>(
    batch: &'a RecordBatch,
    name: &'static str,
    cast: impl FnOnce(&'a dyn Array) -> Option<&'a T>,
) -> Result<&'a T, DecodeError> {
    batch.column_by_name(name).and_then(|array| cast(array.as_ref())).ok_or(DecodeError::Schema { column: name })
}

/// The columns of one portion, by type.
struct Columns<'a> {
    rows: usize,
    offsets: &'a Int64Array,
    timestamps: &'a TimestampMicrosecondArray,
    leader_epochs: &'a Int32Array,
    batch_offsets: &'a Int64Array,
    last_deltas: &'a Int32Array,
    attributes: &'a Int32Array,
    producer_ids: &'a Int64Array,
    producer_epochs: &'a Int32Array,
    base_sequences: &'a Int32Array,
    base_timestamps: &'a Int64Array,
    max_timestamps: &'a Int64Array,
    create_timestamps: &'a TimestampMicrosecondArray,
    headers: &'a ListArray,
    header_keys: &'a StringArray,
    header_values: &'a BinaryArray,
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, DecodeError> {
        let int = |name| column(batch, name, |array| array.as_primitive_opt::<Int32Type>());
        let long = |name| column(batch, name, |array| array.as_primitive_opt::<Int64Type>());
        let time = |name| column(batch, name, |array| array.as_primitive_opt::<TimestampMicrosecondType>());
        let binary = |name| column(batch, name, |array| array.as_binary_opt::<i32>());
        let headers: &ListArray = column(batch, schema::HEADERS, |array| array.as_list_opt::<i32>())?;
        let mismatch = || DecodeError::Schema { column: schema::HEADERS };
        let elements: &StructArray = headers.values().as_struct_opt().ok_or_else(mismatch)?;
        let field = |name| elements.column_by_name(name).ok_or_else(mismatch);
        Ok(Self {
            rows: batch.num_rows(),
            offsets: long(schema::OFFSET)?,
            timestamps: time(schema::TIMESTAMP)?,
            leader_epochs: int(schema::LEADER_EPOCH)?,
            batch_offsets: long(schema::BATCH_OFFSET)?,
            last_deltas: int(schema::BATCH_LAST_DELTA)?,
            attributes: int(schema::BATCH_ATTRIBUTES)?,
            producer_ids: long(schema::PRODUCER_ID)?,
            producer_epochs: int(schema::PRODUCER_EPOCH)?,
            base_sequences: int(schema::BASE_SEQUENCE)?,
            base_timestamps: long(schema::BATCH_BASE_TS)?,
            max_timestamps: long(schema::BATCH_MAX_TS)?,
            create_timestamps: time(schema::CREATE_TIMESTAMP)?,
            headers,
            header_keys: field("key")?.as_string_opt().ok_or_else(mismatch)?,
            header_values: field("value")?.as_binary_opt().ok_or_else(mismatch)?,
            keys: binary(schema::KEY)?,
            values: binary(schema::VALUE)?,
        })
    }

    /// What the builder needs to know of the batch that begins at `row`.
    fn options(&self, row: usize) -> Result<BatchOptions, DecodeError> {
        let malformed = |what| DecodeError::Malformed { what, at: self.batch_offsets.value(row) };
        let attributes = i16::try_from(self.attributes.value(row)).map_err(|_| malformed("attributes out of range"))?;
        let attributes = Attributes(attributes);
        let producer_epoch =
            i16::try_from(self.producer_epochs.value(row)).map_err(|_| malformed("producer epoch out of range"))?;
        let stored = |array: &Int64Array| array.is_valid(row).then(|| Timestamp(array.value(row)));
        let max_timestamp = match attributes.timestamp_type() {
            TimestampType::CreateTime => stored(self.max_timestamps),
            TimestampType::LogAppendTime => Some(Timestamp(self.timestamps.value(row).div_euclid(1000))),
        };
        Ok(BatchOptions {
            attributes,
            producer_id: ProducerId(self.producer_ids.value(row)),
            producer_epoch: ProducerEpoch(producer_epoch),
            base_sequence: self.base_sequences.value(row),
            base_timestamp: stored(self.base_timestamps),
            max_timestamp,
            last_offset_delta: Some(self.last_deltas.value(row)),
        })
    }

    /// The record's own timestamp: the producer's, also where consumers see the broker's.
    fn own_timestamp(&self, row: usize) -> Timestamp {
        let own = if self.create_timestamps.is_valid(row) { self.create_timestamps } else { self.timestamps };
        Timestamp(own.value(row).div_euclid(1000))
    }

    fn record_headers(&self, row: usize) -> impl Iterator<Item = HeaderView<'a>> + Clone + use<'a> {
        let offsets = self.headers.value_offsets();
        let range = if self.headers.is_valid(row) { offsets[row]..offsets[row + 1] } else { 0..0 };
        let (keys, values) = (self.header_keys, self.header_values);
        range.map(move |at| {
            let at = usize::try_from(at).unwrap_or_default();
            HeaderView { key: keys.value(at).as_bytes(), value: values.is_valid(at).then(|| values.value(at)) }
        })
    }
}

/// A batch whose rows are being read.
struct OpenBatch {
    base: Offset,
    leader_epoch: LeaderEpoch,
    produced_with: Compression,
    builder: BatchBuilder,
}

/// Gathers rows into batches; a batch may go on in the next portion.
struct Rebuild {
    portions: Portions,
    chunk_base: Offset,
    open: Option<OpenBatch>,
    batches: Vec<ArchivedBatch>,
    rows: u64,
}

impl Rebuild {
    fn open(portions: impl FnOnce() -> Result<Portions, DecodeError>, chunk: &Chunk) -> Result<Self, DecodeError> {
        let portions = guarded(ROW_GROUP, chunk.base, portions)?;
        Ok(Self { portions, chunk_base: chunk.base, open: None, batches: Vec::new(), rows: 0 })
    }

    /// The batches that end in the next portion; `None` after the last one.
    fn next_batches(&mut self) -> Result<Option<Vec<ArchivedBatch>>, DecodeError> {
        guarded(ROW_GROUP, self.chunk_base, || {
            match self.portions.next()? {
                Some(portion) => self.add(&Columns::of(&portion)?)?,
                None if self.open.is_some() => self.close()?,
                None => return Ok(None),
            }
            Ok(Some(std::mem::take(&mut self.batches)))
        })
    }

    fn add(&mut self, columns: &Columns<'_>) -> Result<(), DecodeError> {
        for row in 0..columns.rows {
            let base = Offset(columns.batch_offsets.value(row));
            if self.open.as_ref().is_none_or(|open| open.base != base) {
                self.close()?;
                let options = columns.options(row)?;
                let produced_with = options.attributes.compression()?;
                let attributes = options.attributes.with_compression(Compression::None);
                let builder = BatchBuilder::new(BatchOptions { attributes, ..options });
                let leader_epoch = LeaderEpoch(columns.leader_epochs.value(row));
                self.open = Some(OpenBatch { base, leader_epoch, produced_with, builder });
            }
            let builder = &mut self.open.as_mut().expect("opened above").builder;
            let delta = i32::try_from(columns.offsets.value(row).wrapping_sub(base.0))
                .map_err(|_| malformed("record lies outside its batch", base))?;
            let value = |array: &'_ BinaryArray| array.is_valid(row);
            let key = value(columns.keys).then(|| columns.keys.value(row));
            let content = value(columns.values).then(|| columns.values.value(row));
            builder.append_at(delta, columns.own_timestamp(row), key, content, columns.record_headers(row));
        }
        self.rows += columns.rows as u64;
        Ok(())
    }

    fn close(&mut self) -> Result<(), RecordError> {
        if let Some(OpenBatch { base, leader_epoch, produced_with, builder }) = self.open.take() {
            let batch = builder.build(base, leader_epoch)?;
            self.batches.push(ArchivedBatch { batch, produced_with, fate: Fate::Rows });
        }
        Ok(())
    }
}

const ROW_GROUP: &str = "the Parquet reader cannot cope with a row group";

/// The reader of the bytes is not ours: damage that makes it panic is damage all the same. All that it does with bytes
/// from a bucket is done in here.
pub(super) fn guarded<T>(
    what: &'static str,
    at: Offset,
    read: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(malformed(what, at)))
}
