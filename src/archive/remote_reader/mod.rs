//! Serves reads of archived offsets: head to segment to chunk, from the cache or from the bucket.
//!
//! What is asked for is either at hand ([`RemoteReader::at_hand`], which touches memory alone) or is fetched
//! ([`RemoteReader::fetch`]); both give an [`AtHand`], which is read without waiting for the bucket. A chunk is fetched by ranged
//! reads (its row group, its companion part, and once per file the footer), decoded on a worker straight into a file of the
//! [`ChunkCache`] in the form that clients get. A reader that goes on where a read stopped has the next chunks fetched ahead
//! of it, across segments; one that jumps gets a part of a chunk alone, which is not cached (decision 0015). All that is in memory on the way is taken from the readers' share, in turn.
//! Reads change nothing; a slow or failing bucket slows only who reads from it.

mod error;
mod search;

use std::sync::Arc;

use parking_lot::Mutex;

pub use error::ReadError;

use super::chunk_cache::{ChunkCache, ChunkForm, ChunkKey, FetchCompression};
use super::chunk_source::ChunkSource;
use super::manifest::{Chunk, Head, Position, Segment, SpillList};
use super::partition::PartitionArchive;
use super::rebuilt_chunk::{ChunkWriter, RebuiltChunk, Stretch};
use super::recent::Recent;
use super::workers::Workers;
use crate::record::{Batch, BatchBuilder, BatchOptions, RecordError};
use crate::runtime::net::BoxFuture;
use crate::telemetry::{ArchiveReadMetrics, Gauge, MemoryPool, TakenMemory};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// Spilled lists that are kept, most recently used; each takes about 200 KiB.
const SPILLS: usize = 32;
/// Places where reads stopped that are remembered, to tell sequential reading.
const PROGRESS: usize = 16_384;
/// Memory for rebuilding a chunk beside its bytes: rows and columns of the portion that is being decoded, and a batch.
const DECODE_BYTES: usize = 6 << 20;

/// How the archive is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSettings {
    /// Memory that archived data may take while it is fetched and decoded. A chunk takes what it has in the bucket and what
    /// it has uncompressed, about 25 MiB; at least one is always worked on, and others wait for their turn.
    pub memory_bytes: usize,
    /// Chunks that are fetched ahead of a sequential reader. More hides more latency and costs memory, disk and requests
    /// for readers that stop.
    pub read_ahead_chunks: usize,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self { memory_bytes: 128 << 20, read_ahead_chunks: 2 }
    }
}

/// A read of archived batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where to begin: batches from the one that holds this offset, or the first after it.
    pub offset: Offset,
    /// Whether batches of aborted transactions are left out (`read_committed`).
    pub committed_only: bool,
    /// How batches are compressed for the client.
    pub compression: FetchCompression,
}

impl ReadRequest {
    const fn form(&self) -> ChunkForm {
        ChunkForm { compression: self.compression, committed_only: self.committed_only }
    }
}

/// What feeds the metrics of reads.
#[derive(Clone, Debug, Default)]
pub struct ReadMetrics {
    /// What was fetched and rebuilt.
    pub reads: ArchiveReadMetrics,
    /// Memory that is taken.
    pub used_bytes: Gauge,
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
    memory: MemoryPool,
    metrics: ArchiveReadMetrics,
    source: ChunkSource,
    spills: Mutex<Recent<(TopicPartition, Offset, u64), Arc<SpillList>>>,
    progress: Mutex<Recent<(TopicPartition, Offset), ()>>,
}

/// A chunk and the segment that it is of.
#[derive(Clone, Debug)]
struct Place {
    segment: Segment,
    chunk: Chunk,
}

/// Archived batches that are at hand, in a file of the cache or in memory.
#[derive(Clone, Debug)]
pub struct AtHand {
    reader: RemoteReader,
    partition: TopicPartition,
    offset: Offset,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Chunk(ChunkKey, Arc<RebuiltChunk>),
    /// A part of a chunk, for a reader that jumped here.
    Run(Arc<RebuiltChunk>),
    /// A stretch where the reader may see nothing: an empty batch moves it on.
    Nothing(Batch),
}

impl AtHand {
    /// Batches from the one that holds the offset asked for, or the first after it, up to `max_bytes`, but at least one. They
    /// end with their chunk. Blocks on the disk.
    pub fn read(&self, max_bytes: usize) -> Result<Stretch, ReadError> {
        let read = match &self.content {
            Content::Nothing(batch) => Some(Stretch::of(batch)),
            Content::Chunk(_, chunk) | Content::Run(chunk) => chunk.read(self.offset, max_bytes)?,
        };
        let Some(stretch) = read.filter(|stretch| !stretch.pieces.is_empty()) else {
            if let Content::Chunk(key, _) = &self.content {
                self.reader.inner.cache.forget(key);
            }
            return Err(ReadError::CacheDamaged);
        };
        self.reader.inner.progress.lock().insert((self.partition, stretch.next), (), 1);
        Ok(stretch)
    }
}

impl RemoteReader {
    /// A reader that decodes on `workers` and keeps rebuilt chunks in `cache`.
    pub fn new(settings: ReadSettings, workers: Workers, cache: ChunkCache, metrics: ReadMetrics) -> Self {
        let inner = Inner {
            settings,
            source: ChunkSource::new(workers.clone(), metrics.reads.clone()),
            workers,
            cache,
            memory: MemoryPool::new(settings.memory_bytes, metrics.used_bytes),
            metrics: metrics.reads,
            spills: Mutex::new(Recent::new(SPILLS)),
            progress: Mutex::new(Recent::new(PROGRESS)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Where rebuilt chunks are kept.
    pub fn cache(&self) -> &ChunkCache {
        &self.inner.cache
    }

    /// The batches at an offset, if they are in the cache; touches no disk.
    pub fn at_hand(&self, partition: &PartitionArchive, head: &Arc<Head>, request: ReadRequest) -> Option<AtHand> {
        let mut place = self.locate_in_memory(partition, head, request.offset)?;
        let mut chunk = self.inner.cache.get(&place.key(request))?;
        if place.continues(&chunk, head, request) {
            place = self.locate_in_memory(partition, head, place.chunk.next)?;
            chunk = self.inner.cache.get(&place.key(request))?;
        }
        if self.is_sequential(partition, request.offset) && !self.is_ahead(partition, head, &place, request) {
            let (reader, partition, head, place) = (self.clone(), partition.clone(), Arc::clone(head), place.clone());
            tokio::spawn(async move { reader.read_ahead(&partition, &head, place, request).await });
        }
        self.hand_out(partition, head, request, &place, chunk).ok()
    }

    /// Fetches the batches at an offset.
    pub async fn fetch(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        request: ReadRequest,
    ) -> Result<AtHand, ReadError> {
        let fetched = self.fetch_chunk(partition, head, request).await;
        match &fetched {
            Ok(_) => {}
            Err(error) if error.is_damage() => _ = self.inner.metrics.damaged_reads.inc(),
            Err(_) => _ = self.inner.metrics.failed_reads.inc(),
        }
        fetched
    }

    async fn fetch_chunk(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        request: ReadRequest,
    ) -> Result<AtHand, ReadError> {
        let mut place = self.locate(partition, head, request.offset).await?;
        let is_sequential = self.is_sequential(partition, request.offset) || request.offset == place.chunk.base;
        if (!is_sequential || !self.inner.cache.keeps(place.chunk.raw_bytes))
            && let Some(run) = self.run(partition, &place, request).await?
        {
            return Ok(self.hand_over(partition, request, Content::Run(run)));
        }
        let mut chunk = self.chunk(partition, &place, request).await?;
        // Past the last batch of a chunk there may be a gap; every chunk has a batch, so the next one ends it.
        if place.continues(&chunk, head, request) {
            place = self.locate(partition, head, place.chunk.next).await?;
            chunk = self.chunk(partition, &place, request).await?;
        }
        if is_sequential {
            self.read_ahead(partition, head, place.clone(), request).await;
        }
        self.hand_out(partition, head, request, &place, chunk)
    }

    fn hand_out(
        &self,
        partition: &PartitionArchive,
        head: &Head,
        request: ReadRequest,
        place: &Place,
        chunk: Arc<RebuiltChunk>,
    ) -> Result<AtHand, ReadError> {
        let content = if chunk.end() <= request.offset {
            Content::Nothing(covering(request.offset.max(place.chunk.base), place.chunk.next, head)?)
        } else {
            Content::Chunk(place.key(request), chunk)
        };
        Ok(self.hand_over(partition, request, content))
    }

    fn hand_over(&self, partition: &PartitionArchive, request: ReadRequest, content: Content) -> AtHand {
        let partition = partition.keys().partition();
        AtHand { reader: self.clone(), partition, offset: request.offset, content }
    }

    /// Whether a read stopped here before.
    fn is_sequential(&self, partition: &PartitionArchive, offset: Offset) -> bool {
        self.inner.progress.lock().get(&(partition.keys().partition(), offset)).is_some()
    }

    /// The segment and chunk that hold `offset`, or come next after it.
    async fn locate(&self, partition: &PartitionArchive, head: &Head, offset: Offset) -> Result<Place, ReadError> {
        match head.position(offset) {
            Position::Deleted => Err(ReadError::Deleted { offset, log_start_offset: head.log_start_offset }),
            Position::Beyond => Err(ReadError::Beyond { offset, next_offset: head.next_offset }),
            Position::Segment(segment) => Ok(Place::of(segment, offset)),
            Position::Spill(spill) => Ok(Place::in_list(&*self.spill(partition, head, spill.first).await?, offset)),
        }
    }

    /// As [`Self::locate`], as far as memory tells.
    fn locate_in_memory(&self, partition: &PartitionArchive, head: &Head, offset: Offset) -> Option<Place> {
        match head.position(offset) {
            Position::Deleted | Position::Beyond => None,
            Position::Segment(segment) => Some(Place::of(segment, offset)),
            Position::Spill(spill) => {
                let key = (partition.keys().partition(), spill.first, spill.generation);
                let list = self.inner.spills.lock().get(&key)?;
                Some(Place::in_list(&list, offset))
            }
        }
    }

    /// The rebuilt chunk of a place, from the cache or built for it.
    async fn chunk(
        &self,
        partition: &PartitionArchive,
        place: &Place,
        request: ReadRequest,
    ) -> Result<Arc<RebuiltChunk>, ReadError> {
        let key = place.key(request);
        // Who only waits for another's build needs no memory.
        let memory = match self.inner.cache.has(&key) {
            true => None,
            false => Some(self.inner.memory.take(place.memory_bytes()).await),
        };
        let build = self.build(partition, place, request, memory);
        self.inner.cache.get_or_build(key, place.chunk.raw_bytes, build).await.map_err(ReadError::Shared)
    }

    /// The part of a chunk that covers an offset, if it can be read alone and the chunk is not on its way.
    async fn run(
        &self,
        partition: &PartitionArchive,
        place: &Place,
        request: ReadRequest,
    ) -> Result<Option<Arc<RebuiltChunk>>, ReadError> {
        if self.inner.cache.has(&place.key(request)) {
            return Ok(None);
        }
        let memory = self.inner.memory.take(place.run_memory_bytes()).await;
        let (store, keys) = (partition.store(), partition.keys());
        let wanted = (request.form(), request.offset);
        let run = self.inner.source.rebuild_run(store, keys, &place.segment, &place.chunk, wanted).await?;
        // In a gap after its last batch it would not move the reader on.
        Ok(run.filter(|run| run.end() > request.offset).map(|mut run| {
            run.hold(memory);
            Arc::new(run)
        }))
    }

    /// What fetches and rebuilds one chunk, once it has `memory`, or has taken it.
    fn build(
        &self,
        partition: &PartitionArchive,
        place: &Place,
        request: ReadRequest,
        memory: Option<TakenMemory>,
    ) -> impl FnOnce(ChunkWriter) -> BoxFuture<'static, Result<RebuiltChunk, ReadError>> + Send + 'static {
        let (inner, store, keys) = (Arc::clone(&self.inner), partition.store().clone(), partition.keys().clone());
        let place = place.clone();
        move |writer| {
            Box::pin(async move {
                let memory = match memory {
                    Some(memory) => memory,
                    None => inner.memory.take(place.memory_bytes()).await,
                };
                let Place { segment, chunk } = &place;
                let mut rebuilt = inner.source.rebuild(&store, &keys, segment, chunk, (request.form(), writer)).await?;
                rebuilt.hold(memory);
                Ok(rebuilt)
            })
        }
    }

    /// Whether the chunk after this one is there or on its way, or there is none, or nobody can tell without waiting.
    fn is_ahead(&self, partition: &PartitionArchive, head: &Head, place: &Place, request: ReadRequest) -> bool {
        self.inner.settings.read_ahead_chunks == 0
            || self
                .locate_in_memory(partition, head, place.chunk.next)
                .is_none_or(|next| self.inner.cache.has(&next.key(request)))
    }

    /// Starts building the chunks after a place, as far as there is room.
    async fn read_ahead(&self, partition: &PartitionArchive, head: &Head, mut place: Place, request: ReadRequest) {
        for _ in 0..self.inner.settings.read_ahead_chunks {
            let Ok(next) = self.locate(partition, head, place.chunk.next).await else { return };
            place = next;
            let key = place.key(request);
            if self.inner.cache.has(&key) || !self.inner.cache.keeps(place.chunk.raw_bytes) {
                continue;
            }
            let Some(memory) = self.inner.memory.try_take(place.memory_bytes()) else { return };
            let build = self.build(partition, &place, request, Some(memory));
            let (cache, bytes) = (self.inner.cache.clone(), place.chunk.raw_bytes);
            tokio::spawn(async move {
                if let Err(error) = cache.get_or_build(key, bytes, build).await {
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
        self.inner.spills.lock().insert(key, Arc::clone(&list), 1);
        Ok(list)
    }
}

impl Place {
    fn of(segment: &Segment, offset: Offset) -> Self {
        let chunk = segment.chunk_at(offset.max(segment.base())).expect("chunks cover their segment");
        Self { segment: segment.clone(), chunk }
    }

    fn in_list(list: &SpillList, offset: Offset) -> Self {
        let at = list.segments.partition_point(|segment| segment.next() <= offset);
        Self::of(&list.segments[at], offset)
    }

    fn key(&self, request: ReadRequest) -> ChunkKey {
        // Where nothing is hidden both kinds of reader share the chunk.
        let form = ChunkForm { committed_only: self.hides_batches(request), ..request.form() };
        ChunkKey { segment: self.segment.name.uuid, base: self.segment.base(), chunk: self.chunk.index, form }
    }

    /// Whether batches of the chunk may be left out: only those in the companion can be aborted.
    fn hides_batches(&self, request: ReadRequest) -> bool {
        request.committed_only && !self.chunk.companion.is_empty()
    }

    /// Whether what is asked for is in the next chunk, as this one ends with a gap.
    fn continues(&self, chunk: &RebuiltChunk, head: &Head, request: ReadRequest) -> bool {
        chunk.end() <= request.offset && !self.hides_batches(request) && self.chunk.next < head.next_offset
    }

    fn memory_bytes(&self) -> usize {
        memory_bytes(&self.chunk)
    }

    /// Memory for rebuilding a part of the chunk: what is fetched of it, and about twice a part uncompressed.
    fn run_memory_bytes(&self) -> usize {
        usize::try_from(self.chunk.raw_bytes / 4).unwrap_or(usize::MAX).saturating_add(DECODE_BYTES / 2)
    }
}

/// Memory for rebuilding a chunk, should it have to stay there.
fn memory_bytes(chunk: &Chunk) -> usize {
    let stored = (chunk.parquet.end - chunk.parquet.start) + (chunk.companion.end - chunk.companion.start);
    usize::try_from(stored + chunk.raw_bytes).unwrap_or(usize::MAX).saturating_add(DECODE_BYTES)
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
