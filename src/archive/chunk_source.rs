//! Fetches chunks from the bucket and decodes them; the one place that knows which bytes a chunk needs.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::chunk_cache::ChunkForm;
use super::key::{PartitionKeys, SegmentName};
use super::manifest::{Chunk, Segment};
use super::parquet::{
    ArchivedBatch, DecodeError, Fate, FileMetadata, RowGroupPages, decode_chunk, decode_chunk_into, decode_run_into,
};
use super::rebuilt_chunk::{ChunkWriter, RebuiltChunk};
use super::recent::Recent;
use super::remote_reader::ReadError;
use super::store::{Store, StoreError};
use super::workers::Workers;
use crate::record::{Batch, Compression, RecordError};
use crate::runtime::clock::Clock;
use crate::telemetry::ArchiveReadMetrics;
use crate::types::Offset;

/// Memory for parsed footers, of which each takes some tens of kilobytes; the most recently used ones are kept.
const FOOTERS_BYTES: usize = 16 << 20;
/// Memory for page indexes of row groups, of which each takes some kilobytes.
const INDEXES_BYTES: usize = 8 << 20;
/// Bytes before a footer that are fetched with it: the page index of a segment of 256 MiB fits.
const INDEX_BYTES: u64 = 64 << 10;
/// Ranges of a run that lie this near to each other are fetched as one: a request costs more than these bytes.
const GAP_BYTES: u64 = 256 << 10;

/// Decodes chunks on workers and remembers footers and page indexes.
#[derive(Debug)]
pub(super) struct ChunkSource {
    workers: Workers,
    metrics: ArchiveReadMetrics,
    footers: Mutex<Recent<SegmentName, FileMetadata>>,
    indexes: Mutex<Recent<(SegmentName, usize), Bytes>>,
}

/// The bytes that a chunk is decoded from.
struct Fetched {
    rows: Option<(FileMetadata, Bytes)>,
    companion: Bytes,
}

impl Fetched {
    fn rows(&self) -> Option<(&FileMetadata, Bytes)> {
        self.rows.as_ref().map(|(metadata, bytes)| (metadata, bytes.clone()))
    }
}

/// Why a chunk was not rebuilt.
enum Failure {
    Decode(DecodeError),
    Compress(RecordError),
    Write(io::Error),
}

impl Failure {
    fn of(self, segment: SegmentName) -> ReadError {
        match self {
            Self::Decode(source) => ReadError::Damaged { segment, source },
            Self::Compress(error) => ReadError::Compress(error),
            Self::Write(error) => ReadError::Cache(error),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl ChunkSource {
    pub(super) const fn new(workers: Workers, metrics: ArchiveReadMetrics) -> Self {
        let footers = Mutex::new(Recent::new(FOOTERS_BYTES));
        Self { workers, metrics, footers, indexes: Mutex::new(Recent::new(INDEXES_BYTES)) }
    }

    /// The parsed footer of a segment's Parquet object.
    pub(super) async fn footer(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
    ) -> Result<FileMetadata, ReadError> {
        if let Some(metadata) = self.footers.lock().get(&segment.name) {
            return Ok(metadata);
        }
        // The page index lies right before the footer, and whoever jumps wants it next.
        let start = segment.metadata_start.saturating_sub(INDEX_BYTES).max(segment.footer_start);
        let tail = self.get(store, &keys.parquet(&segment.name), start..segment.parquet_bytes).await?;
        let footer =
            tail.slice(usize::try_from(segment.metadata_start - start).unwrap_or(usize::MAX).min(tail.len())..);
        let parsed = self.workers.run(move || FileMetadata::parse(&footer)).await;
        let metadata = parsed.map_err(|source| ReadError::Damaged { segment: segment.name, source })?;
        self.footers.lock().insert(segment.name, metadata.clone(), metadata.memory_bytes());
        let mut indexes = self.indexes.lock();
        for row_group in 0..metadata.row_groups() {
            let part = metadata.page_index_range(row_group).and_then(|range| part_of(&tail, start, &range));
            if let Some(part) = part {
                // A copy, so that the tail does not stay for it.
                indexes.insert((segment.name, row_group), Bytes::copy_from_slice(part), part.len());
            }
        }
        Ok(metadata)
    }

    /// Where the pages of a chunk lie.
    async fn pages(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
        metadata: FileMetadata,
    ) -> Result<RowGroupPages, ReadError> {
        let name = segment.name;
        let key = (name, chunk.row_group);
        let known = self.indexes.lock().get(&key);
        let damaged = |source| ReadError::Damaged { segment: name, source };
        let index = match known {
            Some(index) => index,
            None => {
                let lacking = DecodeError::Malformed { what: "Parquet file lacks a page index", at: chunk.base.0 };
                let range = metadata.page_index_range(chunk.row_group);
                let within = segment.footer_start..=segment.metadata_start;
                let range = range.filter(|range| within.contains(&range.start) && within.contains(&range.end));
                let range = range.ok_or_else(|| damaged(lacking))?;
                let index = self.get(store, &keys.parquet(&name), range).await?;
                self.indexes.lock().insert(key, index.clone(), index.len());
                index
            }
        };
        let row_group = chunk.row_group;
        self.workers.run(move || metadata.pages(row_group, &index)).await.map_err(damaged)
    }

    /// All batches of a chunk, as they were archived.
    pub(super) async fn decode(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
    ) -> Result<Vec<ArchivedBatch>, ReadError> {
        let fetched = self.fetch(store, keys, segment, chunk).await?;
        let chunk = chunk.clone();
        let decoded = self.workers.run(move || decode_chunk(&chunk, fetched.rows(), fetched.companion.clone())).await;
        decoded.map_err(|source| ReadError::Damaged { segment: segment.name, source })
    }

    /// A chunk in the form that clients get, written by `writer`.
    pub(super) async fn rebuild(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
        (form, mut writer): (ChunkForm, ChunkWriter),
    ) -> Result<RebuiltChunk, ReadError> {
        let fetched = self.fetch(store, keys, segment, chunk).await?;
        let chunk = chunk.clone();
        let rebuild = move || -> Result<RebuiltChunk, Failure> {
            decode_chunk_into(&chunk, fetched.rows(), fetched.companion.clone(), |batch| {
                push(&mut writer, batch, form)
            })?;
            writer.finish().map_err(Failure::Write)
        };
        let rebuilt = self.timed(store.clock(), rebuild).await.map_err(|failure| failure.of(segment.name))?;
        self.metrics.chunks.inc();
        self.metrics.rebuilt_bytes.inc_by(rebuilt.bytes());
        Ok(rebuilt)
    }

    /// The run of a chunk that covers an offset, in the form that clients get, in memory. `None` when the chunk is only read as
    /// a whole.
    pub(super) async fn rebuild_run(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
        (form, offset): (ChunkForm, Offset),
    ) -> Result<Option<RebuiltChunk>, ReadError> {
        if chunk.rows == 0 || !chunk.companion.is_empty() {
            return Ok(None);
        }
        let metadata = self.footer(store, keys, segment).await?;
        let Some(run) = metadata.run_at(chunk, offset) else { return Ok(None) };
        let pages = self.pages(store, keys, segment, chunk, metadata).await?;
        let key = keys.parquet(&segment.name);
        let damaged = |source| ReadError::Damaged { segment: segment.name, source };
        let fetches = merged(pages.ranges(chunk, &run).map_err(damaged)?).into_iter().map(|range| async {
            let start = range.start;
            Ok::<_, StoreError>((start, self.get(store, &key, range).await?))
        });
        let parts = futures_util::future::try_join_all(fetches).await?;
        let chunk = chunk.clone();
        let rebuild = move || {
            let mut writer = ChunkWriter::in_memory();
            decode_run_into(&chunk, &run, &pages, parts, |batch| push(&mut writer, batch, form))?;
            writer.finish().map_err(Failure::Write)
        };
        let rebuilt = self.timed(store.clock(), rebuild).await.map_err(|failure| failure.of(segment.name))?;
        self.metrics.runs.inc();
        self.metrics.rebuilt_bytes.inc_by(rebuilt.bytes());
        Ok(Some(rebuilt))
    }

    async fn fetch(
        &self,
        store: &Store,
        keys: &PartitionKeys,
        segment: &Segment,
        chunk: &Chunk,
    ) -> Result<Fetched, ReadError> {
        let rows = async {
            if chunk.rows == 0 {
                return Ok(None);
            }
            let key = keys.parquet(&segment.name);
            let bytes = async { Ok(self.get(store, &key, chunk.parquet.clone()).await?) };
            Ok::<_, ReadError>(Some(tokio::try_join!(self.footer(store, keys, segment), bytes)?))
        };
        let companion = async {
            if chunk.companion.is_empty() {
                return Ok(Bytes::new());
            }
            Ok(self.get(store, &keys.companion(&segment.name), chunk.companion.clone()).await?)
        };
        let (rows, companion) = tokio::try_join!(rows, companion)?;
        Ok(Fetched { rows, companion })
    }

    /// Fetches one range.
    pub(super) async fn get(&self, store: &Store, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let start = store.clock().monotonic();
        let bytes = store.get_ranges(key, &[range]).await?.swap_remove(0);
        self.metrics.fetch_seconds.observe(store.clock().monotonic().since(start));
        self.metrics.fetched_bytes.inc_by(bytes.len() as u64);
        Ok(bytes)
    }

    /// Runs work on a lane and notes how long it took there.
    async fn timed<T: Send + 'static>(&self, clock: &Arc<dyn Clock>, work: impl FnOnce() -> T + Send + 'static) -> T {
        let clock = Arc::clone(clock);
        let (result, elapsed): (T, Duration) = self
            .workers
            .run(move || {
                let start = clock.monotonic();
                let result = work();
                (result, clock.monotonic().since(start))
            })
            .await;
        self.metrics.decode_seconds.observe(elapsed);
        result
    }
}

/// The part of `bytes`, which begin at `start`, that a range names.
fn part_of<'a>(bytes: &'a [u8], start: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let place = |at: u64| usize::try_from(at.checked_sub(start)?).ok();
    bytes.get(place(range.start)?..place(range.end)?)
}

/// Ranges in order, with those that lie near to each other made one.
fn merged(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Adds a batch in the form that clients get, if they see it. Batches that were kept raw stay as they are.
fn push(writer: &mut ChunkWriter, archived: ArchivedBatch, form: ChunkForm) -> Result<(), Failure> {
    let ArchivedBatch { batch, produced_with, fate } = archived;
    if form.committed_only && fate == Fate::Aborted {
        return Ok(());
    }
    let codec = match fate {
        Fate::Rows => form.compression.codec(produced_with),
        _ => Compression::None,
    };
    let batch: Batch = match codec {
        Compression::None => batch,
        codec => batch.compressed(codec).map_err(Failure::Compress)?,
    };
    writer.push(&batch).map_err(Failure::Write)
}
