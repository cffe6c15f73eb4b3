//! Serves reads of archived offsets: head to segment to chunk, from the cache or from the bucket.
//!
//! A chunk is fetched by ranged reads (its row group, its companion part, and once per file the footer), decoded on a
//! worker, and kept in the [`ChunkCache`] in the form that clients get. A reader that goes on where it stopped has the next
//! chunks fetched ahead of it, across segments. The number of chunks in work at once is bounded, and so is their memory:
//! about three times a chunk each. Reads change nothing; a slow or failing bucket slows only who reads from it.

use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::chunk_cache::{ChunkCache, ChunkForm, ChunkKey, FetchCompression, RebuiltChunk};
use super::chunk_source::ChunkSource;
use super::key::SegmentName;
use super::manifest::{Chunk, Head, Position, Segment, SpillList};
use super::parquet::{ArchivedBatch, DecodeError, Fate, search_timestamp};
use super::partition::{HeadError, PartitionArchive};
use super::recent::Recent;
use super::store::StoreError;
use super::workers::Workers;
use crate::record::{Batch, BatchBuilder, BatchOptions, Compression, MAX_DECOMPRESSED_BYTES, RecordError};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};

/// Spilled lists that are kept, most recently used; each takes about 200 KiB.
const SPILLS: usize = 32;
/// Partitions whose readers' progress is remembered, to tell sequential reading.
const PROGRESS: usize = 4096;

/// How the archive is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSettings {
    /// Chunks that are fetched and decoded at once, for all readers. Each takes about 50 MiB and up to a core.
    pub concurrent_chunks: usize,
    /// Chunks that are fetched ahead of a sequential reader. More hides more latency and costs memory, disk and requests
    /// for readers that stop.
    pub read_ahead_chunks: usize,
    /// How batches are compressed for clients.
    pub compression: FetchCompression,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self { concurrent_chunks: 4, read_ahead_chunks: 2, compression: FetchCompression::Auto }
    }
}

/// Why archived data could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Below the log start.
    #[error("offset is below the log start offset={offset} log_start_offset={log_start_offset}")]
    Deleted {
        /// The offset that was asked for.
        offset: Offset,
        /// The first one that there is.
        log_start_offset: Offset,
    },
    /// At or above the end of the archive.
    #[error("offset is not archived offset={offset} next_offset={next_offset}")]
    Beyond {
        /// The offset that was asked for.
        offset: Offset,
        /// The end of the archive.
        next_offset: Offset,
    },
    /// The head or one of its lists could not be read.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the bucket holds is not what was archived.
    #[error("archived segment {segment} is damaged: {source}")]
    Damaged {
        /// Which segment.
        segment: SegmentName,
        /// What is wrong.
        source: DecodeError,
    },
    /// A batch could not be compressed for the client.
    #[error("an archived batch could not be compressed: {0}")]
    Compress(#[from] RecordError),
    /// The local cache could not be read.
    #[error("the archive's local cache failed: {0}")]
    Cache(std::io::Error),
    /// The build of a chunk ended without an outcome, as at shutdown.
    #[error("the chunk was not built because the broker is stopping")]
    BuildLost,
    /// The build that this read waited for failed.
    #[error("{0}")]
    Shared(Arc<ReadError>),
}

impl ReadError {
    /// Whether the bucket's data is damaged or gone, which someone has to look at.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Store(StoreError::NotFound { .. }) => true,
            Self::Shared(error) => error.is_damage(),
            _ => false,
        }
    }
}

/// A read of archived batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where to begin: batches from the one that holds this offset, or the first after it.
    pub offset: Offset,
    /// Bytes to return at most, but at least one batch.
    pub max_bytes: usize,
    /// Whether batches of aborted transactions are left out (`read_committed`).
    pub committed_only: bool,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Whole batches in offset order. Never empty: a stretch without visible data gives an empty batch that covers it.
    pub batches: Vec<Batch>,
}

/// The reader, shared by all partitions; cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteReader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ReadSettings,
    workers: Workers,
    cache: ChunkCache,
    building: Arc<Semaphore>,
    source: ChunkSource,
    spills: Mutex<Recent<(TopicPartition, Offset, u64), Arc<SpillList>>>,
    progress: Mutex<Recent<TopicPartition, Offset>>,
}

impl RemoteReader {
    /// A reader that decodes on `workers` and keeps rebuilt chunks in `cache`.
    pub fn new(settings: ReadSettings, workers: Workers, cache: ChunkCache) -> Self {
        let building = Arc::new(Semaphore::new(settings.concurrent_chunks.max(1)));
        let inner = Inner {
            settings,
            source: ChunkSource::new(workers.clone()),
            workers,
            cache,
            building,
            spills: Mutex::new(Recent::new(SPILLS)),
            progress: Mutex::new(Recent::new(PROGRESS)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its cache.
    pub fn cache(&self) -> &ChunkCache {
        &self.inner.cache
    }

    /// Reads archived batches. The result may hold fewer bytes than asked for, as it ends with its chunk.
    pub async fn read(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        request: ReadRequest,
    ) -> Result<ReadOutcome, ReadError> {
        let form = ChunkForm { compression: self.inner.settings.compression, committed_only: request.committed_only };
        let (mut segment, mut chunk) = self.locate(partition, head, request.offset).await?;
        let mut batches = self.read_chunk(partition, &segment, &chunk, form, request).await?;
        // Past the last batch of a chunk there may be a gap; every chunk has a batch, so the next one ends it.
        if batches.is_empty() && !hides_batches(&chunk, form) && chunk.next < head.next_offset {
            (segment, chunk) = self.locate(partition, head, chunk.next).await?;
            batches = self.read_chunk(partition, &segment, &chunk, form, request).await?;
        }
        if batches.is_empty() {
            batches.push(covering(request.offset.max(chunk.base), chunk.next, head)?);
        }
        let sequential = {
            let next = batches[batches.len() - 1].header().next_offset();
            let mut progress = self.inner.progress.lock();
            let before = progress.get(&partition.keys().partition());
            progress.insert(partition.keys().partition(), next);
            before == Some(request.offset)
        };
        if sequential {
            self.read_ahead(partition, head, &segment, &chunk, form).await;
        }
        Ok(ReadOutcome { batches })
    }

    /// The first archived record at or after `from` whose timestamp is at least `timestamp`: offset, timestamp and leader
    /// epoch, as ListOffsets by timestamp wants them. `None` when the archive has none.
    pub async fn offset_for_timestamp(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        timestamp: Timestamp,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let from = head.log_start_offset;
        for spill in head.spills.iter().filter(|spill| spill.next > from && spill.max_timestamp >= timestamp) {
            let list = self.spill(partition, head, spill.first).await?;
            for segment in &list.segments {
                if let Some(found) = self.search_segment(partition, segment, from, timestamp).await? {
                    return Ok(Some(found));
                }
            }
        }
        for segment in &head.segments {
            if let Some(found) = self.search_segment(partition, segment, from, timestamp).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn search_segment(
        &self,
        partition: &PartitionArchive,
        segment: &Segment,
        from: Offset,
        timestamp: Timestamp,
    ) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, ReadError> {
        let (store, keys) = (partition.store(), partition.keys());
        let name = segment.name;
        let damaged = |source| ReadError::Damaged { segment: name, source };
        for chunk in segment.chunks().filter(|chunk| chunk.next > from && chunk.max_timestamp >= timestamp) {
            if chunk.companion.is_empty() {
                let metadata = self.inner.source.footer(store, keys, segment).await?;
                let range = metadata.search_range(chunk.row_group).unwrap_or(chunk.parquet.clone());
                let bytes = store.get_ranges(&keys.parquet(&name), &[range]).await?.swap_remove(0);
                let found = self
                    .inner
                    .workers
                    .run(move || search_timestamp(&metadata, &chunk, bytes, from, timestamp))
                    .await
                    .map_err(damaged)?;
                if found.is_some() {
                    return Ok(found);
                }
                continue;
            }
            // Rows and raw batches alternate: look at all of them, in order.
            let batches = self.inner.source.decode(store, keys, segment, &chunk).await?;
            let found = self.inner.workers.run(move || search_batches(&batches, from, timestamp)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The segment and chunk that hold `offset`, or come next after it.
    async fn locate(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        offset: Offset,
    ) -> Result<(Segment, Chunk), ReadError> {
        let segment = match head.position(offset) {
            Position::Deleted => {
                return Err(ReadError::Deleted { offset, log_start_offset: head.log_start_offset });
            }
            Position::Beyond => return Err(ReadError::Beyond { offset, next_offset: head.next_offset }),
            Position::Segment(segment) => segment.clone(),
            Position::Spill(spill) => {
                let list = self.spill(partition, head, spill.first).await?;
                let at = list.segments.partition_point(|segment| segment.next() <= offset);
                list.segments[at].clone()
            }
        };
        let chunk = segment.chunk_at(offset.max(segment.base())).expect("chunks cover their segment");
        Ok((segment, chunk))
    }

    async fn read_chunk(
        &self,
        partition: &PartitionArchive,
        segment: &Segment,
        chunk: &Chunk,
        form: ChunkForm,
        request: ReadRequest,
    ) -> Result<Vec<Batch>, ReadError> {
        // A damaged file of the cache is built again, once.
        for _ in 0..2 {
            let key = chunk_key(segment, chunk, form);
            let build = self.build(partition, segment, chunk, form, None);
            let rebuilt = self.inner.cache.get_or_build(key, build).await.map_err(ReadError::Shared)?;
            let read = move || rebuilt.read(request.offset, request.max_bytes);
            match self.inner.workers.run(read).await.map_err(ReadError::Cache)? {
                Some(batches) => return Ok(batches),
                None => self.inner.cache.forget(&key).await,
            }
        }
        Err(ReadError::Cache(std::io::ErrorKind::InvalidData.into()))
    }

    /// Fetches, decodes and shapes one chunk. `permit` is one of the bounded number; it is waited for when not given.
    fn build(
        &self,
        partition: &PartitionArchive,
        segment: &Segment,
        chunk: &Chunk,
        form: ChunkForm,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> impl Future<Output = Result<RebuiltChunk, ReadError>> + Send + 'static {
        let (inner, store, keys) = (Arc::clone(&self.inner), partition.store().clone(), partition.keys().clone());
        let (segment, chunk) = (segment.clone(), chunk.clone());
        async move {
            let _permit = match permit {
                Some(permit) => permit,
                None => Arc::clone(&inner.building).acquire_owned().await.expect("the semaphore is never closed"),
            };
            let batches = inner.source.decode(&store, &keys, &segment, &chunk).await?;
            let shaped = inner.workers.run(move || shape(batches, form)).await?;
            Ok(RebuiltChunk::from_batches(&shaped))
        }
    }

    /// Starts building the chunks after `chunk`, as far as there is room.
    async fn read_ahead(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        segment: &Segment,
        chunk: &Chunk,
        form: ChunkForm,
    ) {
        let mut place = (segment.clone(), chunk.clone());
        for _ in 0..self.inner.settings.read_ahead_chunks {
            let Ok(next) = self.locate(partition, head, place.1.next).await else { return };
            place = next;
            let key = chunk_key(&place.0, &place.1, form);
            if self.inner.cache.has(&key) {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.inner.building).try_acquire_owned() else { return };
            let build = self.build(partition, &place.0, &place.1, form, Some(permit));
            let cache = self.inner.cache.clone();
            tokio::spawn(async move {
                if let Err(error) = cache.get_or_build(key, build).await {
                    tracing::debug!(%error, "reading ahead in the archive failed");
                }
            });
        }
    }

    async fn spill(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        first: Offset,
    ) -> Result<Arc<SpillList>, ReadError> {
        let reference = head.spills.iter().find(|spill| spill.first == first).expect("taken from this head");
        let key = (partition.keys().partition(), first, reference.generation);
        if let Some(list) = self.inner.spills.lock().get(&key) {
            return Ok(list);
        }
        let list = Arc::new(partition.read_spill(reference).await?);
        self.inner.spills.lock().insert(key, Arc::clone(&list));
        Ok(list)
    }
}

fn chunk_key(segment: &Segment, chunk: &Chunk, form: ChunkForm) -> ChunkKey {
    // Where nothing is hidden both kinds of reader share the chunk.
    let form = ChunkForm { committed_only: hides_batches(chunk, form), ..form };
    ChunkKey { segment: segment.name.uuid, base: segment.base(), chunk: chunk.index, form }
}

/// Whether batches of the chunk may be left out: only those in the companion can be aborted.
fn hides_batches(chunk: &Chunk, form: ChunkForm) -> bool {
    form.committed_only && !chunk.companion.is_empty()
}

/// Batches in the form that clients get. Batches that were kept raw stay as they are.
fn shape(batches: Vec<ArchivedBatch>, form: ChunkForm) -> Result<Vec<Batch>, RecordError> {
    let visible = batches.into_iter().filter(|batch| !(form.committed_only && batch.fate == Fate::Aborted));
    visible
        .map(|ArchivedBatch { batch, produced_with, fate }| match form.compression.codec(produced_with) {
            Compression::None => Ok(batch),
            _ if fate != Fate::Rows => Ok(batch),
            codec => batch.compressed(codec),
        })
        .collect()
}

/// An empty batch over `[from, next)`, which moves a consumer on where it may see nothing.
fn covering(from: Offset, next: Offset, head: &Head) -> Result<Batch, RecordError> {
    let epoch =
        head.epochs.iter().rev().find(|entry| entry.start <= from).map_or(LeaderEpoch::NONE, |entry| entry.epoch);
    // One batch covers at most i32::MAX offsets; the consumer asks again from there.
    let last_offset_delta = i32::try_from(next - from - 1).unwrap_or(i32::MAX - 1);
    let options = BatchOptions { last_offset_delta: Some(last_offset_delta), ..BatchOptions::default() };
    BatchBuilder::new(options).build(from, epoch)
}

/// As [`search_timestamp`], over batches.
fn search_batches(
    batches: &[ArchivedBatch],
    from: Offset,
    timestamp: Timestamp,
) -> Result<Option<(Offset, Timestamp, LeaderEpoch)>, RecordError> {
    for ArchivedBatch { batch, .. } in batches {
        let header = batch.header();
        if header.max_timestamp < timestamp || header.next_offset() <= from {
            continue;
        }
        let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
        for record in header.records(&payload) {
            let record = record?;
            if record.offset >= from && record.timestamp >= timestamp {
                return Ok(Some((record.offset, record.timestamp, header.leader_epoch)));
            }
        }
    }
    Ok(None)
}
