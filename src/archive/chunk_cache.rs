//! Rebuilt chunks on local disk, so that history is decoded once however many consumers read it.
//!
//! An entry is a file of record batches exactly as they go to clients, and, in memory, a checksum for every block of
//! them. One build of a chunk runs at a time: later readers wait for it, and it runs to its end even when all of them
//! have gone, so that a fetch that timed out finds it done. The least recently used entries make room. Nothing is synced and
//! nothing survives: opening the cache empties its directory. A block whose checksum is wrong is never served; its
//! entry is dropped and built again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::key::SegmentUuid;
use super::remote_reader::ReadError;
use super::store::Payload;
use super::workers::Workers;
use crate::record::{Batch, Batches, Compression};
use crate::runtime::Runtime;
use crate::runtime::disk::{Disk, Open};
use crate::types::Offset;

/// Blocks end at the first batch boundary at or above this. Smaller costs memory for checksums, larger is read for nothing.
const BLOCK_BYTES: usize = 64 << 10;

/// The form in which a chunk is kept for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkForm {
    /// How batches are compressed; `None` keeps those that rows gave back as they are produced by default.
    pub compression: FetchCompression,
    /// Whether batches of aborted transactions are left out.
    pub committed_only: bool,
}

/// How archived batches are compressed on their way to clients. Decoding is paid either way; compressing costs the broker
/// CPU (about 240 MB/s per core for LZ4) and saves network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchCompression {
    /// LZ4 where the producer compressed, in any codec; nothing where it did not.
    #[default]
    Auto,
    /// In the codec that the producer used.
    Original,
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl FetchCompression {
    /// The codec for a batch that was produced with `produced`.
    pub const fn codec(self, produced: Compression) -> Compression {
        match (self, produced) {
            (Self::None, _) | (Self::Auto, Compression::None) => Compression::None,
            (Self::Auto | Self::Lz4, _) => Compression::Lz4,
            (Self::Zstd, _) => Compression::Zstd,
            (Self::Original, produced) => produced,
        }
    }
}

/// Names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The segment.
    pub segment: SegmentUuid,
    /// Its first offset, since six random bytes may meet.
    pub base: Offset,
    /// The chunk's number within it.
    pub chunk: u32,
    /// In which form.
    pub form: ChunkForm,
}

/// A run of whole batches of an entry.
#[derive(Clone, Copy, Debug)]
struct Block {
    next: Offset,
    position: u64,
    length: usize,
    checksum: u64,
}

/// A rebuilt chunk: record batches one after another, in memory or in a file of the cache.
#[derive(Debug)]
pub struct RebuiltChunk {
    content: Payload,
    blocks: Vec<Block>,
}

impl RebuiltChunk {
    /// Puts batches one after another.
    pub fn from_batches(batches: &[Batch]) -> Self {
        let mut content = BytesMut::with_capacity(batches.iter().map(|batch| batch.bytes().len()).sum());
        let mut blocks = Vec::new();
        let mut start = 0;
        for (index, batch) in batches.iter().enumerate() {
            content.extend_from_slice(batch.bytes());
            let length = content.len() - start;
            if length >= BLOCK_BYTES || index + 1 == batches.len() {
                let next = batch.header().next_offset();
                let checksum = xxh3_64(&content[start..]);
                blocks.push(Block { next, position: start as u64, length, checksum });
                start = content.len();
            }
        }
        Self { content: Payload::Memory(content.freeze()), blocks }
    }

    /// Bytes of its batches.
    pub const fn bytes(&self) -> u64 {
        self.content.length()
    }

    /// Batches from the one that holds `offset`, or the first after it, up to `max_bytes`, but at least one when there is
    /// one. `None` when a block is damaged. Blocks on the disk for an entry in a file.
    pub fn read(&self, offset: Offset, max_bytes: usize) -> io::Result<Option<Vec<Batch>>> {
        let mut found = Vec::new();
        let mut taken = 0;
        let first = self.blocks.partition_point(|block| block.next <= offset);
        for block in &self.blocks[first..] {
            let content = self.content.read(block.position, block.length)?;
            if xxh3_64(&content) != block.checksum {
                return Ok(None);
            }
            for batch in Batches::new(content) {
                let Ok(batch) = batch else { return Ok(None) };
                if batch.header().next_offset() <= offset {
                    continue;
                }
                taken += batch.bytes().len();
                if taken > max_bytes && !found.is_empty() {
                    return Ok(Some(found));
                }
                found.push(batch);
            }
            if taken >= max_bytes {
                break;
            }
        }
        Ok(Some(found))
    }
}

/// The result of a build, shared by all who wait for it.
type Built = Result<Arc<RebuiltChunk>, Arc<ReadError>>;

/// The cache; cheap to clone.
#[derive(Clone, Debug)]
pub struct ChunkCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    budget_bytes: u64,
    workers: Workers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<ChunkKey, Entry>,
    /// Entries by when they were last used.
    by_use: BTreeMap<u64, ChunkKey>,
    uses: u64,
    files: u64,
    bytes: u64,
    building: BTreeMap<ChunkKey, watch::Receiver<Option<Built>>>,
    counts: CacheCounts,
}

#[derive(Debug)]
struct Entry {
    chunk: Arc<RebuiltChunk>,
    path: PathBuf,
    last_use: u64,
}

/// What the cache did so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads that found their chunk.
    pub hits: u64,
    /// Reads that waited for a build that was under way.
    pub joined: u64,
    /// Builds.
    pub builds: u64,
    /// Entries removed to make room.
    pub evictions: u64,
    /// Bytes of all entries.
    pub bytes: u64,
}

impl ChunkCache {
    /// Empties `directory` and starts with at most `budget_bytes` of entries; 0 keeps nothing. Blocks on the disk.
    pub fn open(runtime: &Runtime, directory: PathBuf, budget_bytes: u64, workers: Workers) -> io::Result<Self> {
        let disk = Arc::clone(&runtime.disk);
        if disk.exists(&directory)? {
            disk.remove_directory(&directory)?;
        }
        disk.create_directory(&directory)?;
        let state = Mutex::new(State::default());
        Ok(Self { inner: Arc::new(Inner { disk, directory, budget_bytes, workers, state }) })
    }

    /// What it did and holds.
    pub fn counts(&self) -> CacheCounts {
        let state = self.inner.state.lock();
        CacheCounts { bytes: state.bytes, ..state.counts }
    }

    /// Whether the chunk is there or being built.
    pub fn has(&self, key: &ChunkKey) -> bool {
        let state = self.inner.state.lock();
        state.entries.contains_key(key) || state.building.contains_key(key)
    }

    /// The chunk of this name; built by `build` when it is not there, which runs on even if the caller goes away.
    pub async fn get_or_build<F>(&self, key: ChunkKey, build: F) -> Built
    where
        F: Future<Output = Result<RebuiltChunk, ReadError>> + Send + 'static,
    {
        let mut outcome = {
            let mut state = self.inner.state.lock();
            if let Some(chunk) = state.touch(&key) {
                state.counts.hits += 1;
                return Ok(chunk);
            }
            if let Some(building) = state.building.get(&key).cloned() {
                state.counts.joined += 1;
                // Whatever it holds, such as its turn to build, must not be held while waiting for another's build.
                drop(build);
                building
            } else {
                state.counts.builds += 1;
                let (sender, receiver) = watch::channel(None);
                state.building.insert(key, receiver.clone());
                let cache = self.clone();
                tokio::spawn(async move {
                    // Also when the build panics, or the next reader would wait for nobody.
                    let _done = Building { cache: cache.clone(), key };
                    let built = match build.await {
                        Ok(chunk) => Ok(cache.keep(key, chunk).await),
                        Err(error) => Err(Arc::new(error)),
                    };
                    // Nobody may be waiting any more.
                    let _ = sender.send(Some(built));
                });
                receiver
            }
        };
        let built = outcome.wait_for(Option::is_some).await;
        built
            .map_or_else(|_| Err(Arc::new(ReadError::BuildLost)), |built| built.clone().expect("waited for an outcome"))
    }

    /// Drops a damaged entry.
    pub async fn forget(&self, key: &ChunkKey) {
        let removed = self.inner.state.lock().remove(key);
        self.remove_files(removed.into_iter().collect()).await;
    }

    /// Writes a chunk to a file and lists it; a chunk that cannot be kept is served from memory this once.
    async fn keep(&self, key: ChunkKey, chunk: RebuiltChunk) -> Arc<RebuiltChunk> {
        let bytes = chunk.bytes();
        if bytes > self.inner.budget_bytes {
            return Arc::new(chunk);
        }
        let (path, evicted) = {
            let mut state = self.inner.state.lock();
            state.files += 1;
            let evicted = state.make_room(bytes, self.inner.budget_bytes);
            state.bytes += bytes;
            (self.inner.directory.join(format!("{}.batches", state.files)), evicted)
        };
        self.remove_files(evicted).await;
        let content = chunk.content.read(0, usize::try_from(bytes).unwrap_or(usize::MAX));
        let (disk, target) = (Arc::clone(&self.inner.disk), path.clone());
        let written = self.inner.workers.run(move || -> io::Result<Payload> {
            let content: Bytes = content?;
            let file = disk.open(&target, Open::CreateEmpty)?;
            file.write_all_at(&content, 0)?;
            Ok(Payload::Spooled { file, length: content.len() as u64 })
        });
        match written.await {
            Ok(content) => {
                let kept = Arc::new(RebuiltChunk { content, blocks: chunk.blocks });
                self.inner.state.lock().insert(key, Arc::clone(&kept), path);
                kept
            }
            Err(error) => {
                tracing::warn!(%error, "a rebuilt chunk of the archive could not be cached");
                self.inner.state.lock().bytes -= bytes;
                self.remove_files(vec![path]).await;
                Arc::new(chunk)
            }
        }
    }

    async fn remove_files(&self, paths: Vec<PathBuf>) {
        if paths.is_empty() {
            return;
        }
        let disk = Arc::clone(&self.inner.disk);
        let removed = move || {
            for path in paths {
                if let Err(error) = disk.remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, path = %path.display(), "a file of the archive's cache stays");
                }
            }
        };
        self.inner.workers.run(removed).await;
    }
}

/// A build that is under way, until dropped.
struct Building {
    cache: ChunkCache,
    key: ChunkKey,
}

impl Drop for Building {
    fn drop(&mut self) {
        self.cache.inner.state.lock().building.remove(&self.key);
    }
}

impl State {
    /// Finds an entry and makes it the most recently used.
    fn touch(&mut self, key: &ChunkKey) -> Option<Arc<RebuiltChunk>> {
        let entry = self.entries.get_mut(key)?;
        self.by_use.remove(&entry.last_use);
        self.uses += 1;
        entry.last_use = self.uses;
        self.by_use.insert(self.uses, *key);
        Some(Arc::clone(&entry.chunk))
    }

    /// Lists an entry whose bytes are counted already.
    fn insert(&mut self, key: ChunkKey, chunk: Arc<RebuiltChunk>, path: PathBuf) {
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.entries.insert(key, Entry { chunk, path, last_use: self.uses });
    }

    /// Removes an entry; returns the file to delete.
    fn remove(&mut self, key: &ChunkKey) -> Option<PathBuf> {
        let entry = self.entries.remove(key)?;
        self.by_use.remove(&entry.last_use);
        self.bytes -= entry.chunk.bytes();
        Some(entry.path)
    }

    /// Removes the least recently used entries until `bytes` more fit; returns the files to delete.
    fn make_room(&mut self, bytes: u64, budget_bytes: u64) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        while self.bytes + bytes > budget_bytes {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            removed.extend(self.remove(&oldest));
            self.counts.evictions += 1;
        }
        removed
    }
}
