//! Rebuilt chunks on local disk, so that history is decoded once however many consumers read it.
//!
//! An entry is a `RebuiltChunk` in a file. One build of a chunk runs at a time: later readers wait for it, and it runs to
//! its end even when all of them have gone, so that a fetch that timed out finds it done. The least recently used entries
//! make room, for others and for whoever else needs the disk; the file of one that is being read goes when that ends. Nothing is
//! synced and nothing survives: opening the cache empties its directory. A block whose checksum is wrong is never served; its
//! entry is dropped and built again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::key::SegmentUuid;
use super::rebuilt_chunk::{ChunkWriter, RebuiltChunk};
use super::remote_reader::ReadError;
use super::workers::Workers;
use crate::record::Compression;
use crate::runtime::Runtime;
use crate::runtime::disk::Disk;
use crate::telemetry::CacheMetrics;
use crate::types::Offset;

/// Entries that are kept, however small they are: each has its file open.
const MAX_ENTRIES: usize = 4096;

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
    workers: Workers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    budget_bytes: u64,
    entries: BTreeMap<ChunkKey, Entry>,
    /// Entries by when they were last used.
    by_use: BTreeMap<u64, ChunkKey>,
    uses: u64,
    files: u64,
    bytes: u64,
    building: BTreeMap<ChunkKey, Shared<oneshot::Receiver<Built>>>,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Entry {
    chunk: Arc<RebuiltChunk>,
    path: PathBuf,
    last_use: u64,
}

impl ChunkCache {
    /// Empties `directory` and starts with at most `budget_bytes` of entries; 0 keeps nothing. Blocks on the disk.
    pub fn open(
        runtime: &Runtime,
        directory: PathBuf,
        budget_bytes: u64,
        workers: Workers,
        metrics: CacheMetrics,
    ) -> io::Result<Self> {
        let disk = Arc::clone(&runtime.disk);
        if disk.exists(&directory)? {
            disk.remove_directory(&directory)?;
        }
        disk.create_directory(&directory)?;
        let state = Mutex::new(State { budget_bytes, metrics, ..State::default() });
        Ok(Self { inner: Arc::new(Inner { disk, directory, workers, state }) })
    }

    /// Bytes of entries, and of those that are being built.
    pub fn bytes(&self) -> u64 {
        self.inner.state.lock().bytes
    }

    /// Keeps at most so many bytes from now on, and lets go of what is too much, on `workers`: who makes room waits for no
    /// chunk to be decoded.
    pub async fn set_budget(&self, budget_bytes: u64, workers: &Workers) {
        let evicted = {
            let mut state = self.inner.state.lock();
            state.budget_bytes = budget_bytes;
            state.shrink_to(budget_bytes, MAX_ENTRIES)
        };
        self.remove_files(evicted, workers).await;
    }

    /// Whether a chunk of that many bytes would be kept.
    pub fn keeps(&self, bytes: u64) -> bool {
        bytes <= self.inner.state.lock().budget_bytes
    }

    /// Whether the chunk is there or being built.
    pub fn has(&self, key: &ChunkKey) -> bool {
        let state = self.inner.state.lock();
        state.entries.contains_key(key) || state.building.contains_key(key)
    }

    /// The chunk, if it is there.
    pub fn get(&self, key: &ChunkKey) -> Option<Arc<RebuiltChunk>> {
        let mut state = self.inner.state.lock();
        let chunk = state.touch(key)?;
        state.metrics.hits.inc();
        Some(chunk)
    }

    /// The chunk of this name; written by `build`, at most about `bytes` of it, when it is not there. That runs on even if
    /// the caller goes away.
    pub async fn get_or_build<F>(
        &self,
        key: ChunkKey,
        bytes: u64,
        build: impl FnOnce(ChunkWriter) -> F + Send + 'static,
    ) -> Built
    where
        F: Future<Output = Result<RebuiltChunk, ReadError>> + Send + 'static,
    {
        let outcome = {
            let mut state = self.inner.state.lock();
            if let Some(chunk) = state.touch(&key) {
                state.metrics.hits.inc();
                return Ok(chunk);
            }
            if let Some(building) = state.building.get(&key).cloned() {
                state.metrics.joined.inc();
                // Whatever it holds, such as its turn to build, must not be held while waiting for another's build.
                drop(build);
                building
            } else {
                state.metrics.misses.inc();
                let (sender, receiver) = oneshot::channel();
                let receiver = receiver.shared();
                state.building.insert(key, receiver.clone());
                let cache = self.clone();
                tokio::spawn(async move {
                    let built = cache.run_build(key, bytes, build).await.map_err(Arc::new);
                    // Nobody may be waiting any more.
                    let _ = sender.send(built);
                });
                receiver
            }
        };
        outcome.await.unwrap_or_else(|_| Err(Arc::new(ReadError::BuildLost)))
    }

    async fn run_build<F>(
        &self,
        key: ChunkKey,
        bytes: u64,
        build: impl FnOnce(ChunkWriter) -> F,
    ) -> Result<Arc<RebuiltChunk>, ReadError>
    where
        F: Future<Output = Result<RebuiltChunk, ReadError>>,
    {
        // Also when the build panics, or the next reader would wait for nobody.
        let mut building = Building { cache: self.clone(), key, reserved: 0 };
        let Some((path, evicted)) = self.reserve(bytes) else {
            return build(ChunkWriter::in_memory()).await.map(Arc::new);
        };
        building.reserved = bytes;
        self.remove_files(evicted, &self.inner.workers).await;
        let built = build(ChunkWriter::in_file(Arc::clone(&self.inner.disk), path.clone())).await;
        match built {
            Ok(chunk) if chunk.is_in_file() => {
                let chunk = Arc::new(chunk);
                let evicted = building.list(&chunk, path);
                self.remove_files(evicted, &self.inner.workers).await;
                Ok(chunk)
            }
            outcome => {
                self.remove_files(vec![path], &self.inner.workers).await;
                outcome.map(Arc::new)
            }
        }
    }

    /// Reserves room for a file; gives its path, and the files to remove for it. `None` when there is no room for it.
    fn reserve(&self, bytes: u64) -> Option<(PathBuf, Vec<PathBuf>)> {
        let mut state = self.inner.state.lock();
        if bytes > state.budget_bytes {
            return None;
        }
        let evicted = state.make_room(bytes);
        state.files += 1;
        state.add_bytes(bytes);
        Some((self.inner.directory.join(format!("{}.batches", state.files)), evicted))
    }

    /// Drops a damaged entry. Blocks on the disk.
    pub fn forget(&self, key: &ChunkKey) {
        let removed = self.inner.state.lock().remove(key);
        removed.iter().for_each(|path| self.remove_file(path));
    }

    async fn remove_files(&self, paths: Vec<PathBuf>, workers: &Workers) {
        if !paths.is_empty() {
            let cache = self.clone();
            workers.run(move || paths.iter().for_each(|path| cache.remove_file(path))).await;
        }
    }

    fn remove_file(&self, path: &Path) {
        if let Err(error) = self.inner.disk.remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a file of the archive's cache stays");
        }
    }
}

/// A build that is under way, until dropped.
struct Building {
    cache: ChunkCache,
    key: ChunkKey,
    /// Bytes that are counted for it.
    reserved: u64,
}

impl Building {
    /// Lists what was built in place of what was reserved; gives the files to remove for it.
    fn list(&mut self, chunk: &Arc<RebuiltChunk>, path: PathBuf) -> Vec<PathBuf> {
        let mut state = self.cache.inner.state.lock();
        state.remove_bytes(std::mem::take(&mut self.reserved));
        let evicted = state.make_room(chunk.bytes());
        state.add_bytes(chunk.bytes());
        state.insert(self.key, Arc::clone(chunk), path);
        evicted
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let mut state = self.cache.inner.state.lock();
        state.remove_bytes(self.reserved);
        state.building.remove(&self.key);
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
        self.remove_bytes(entry.chunk.bytes());
        Some(entry.path)
    }

    fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.metrics.bytes.set(self.bytes.cast_signed());
    }

    fn remove_bytes(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.metrics.bytes.set(self.bytes.cast_signed());
    }

    /// Removes the least recently used entries until one more of `bytes` fits; returns the files to delete.
    fn make_room(&mut self, bytes: u64) -> Vec<PathBuf> {
        self.shrink_to(self.budget_bytes.saturating_sub(bytes), MAX_ENTRIES - 1)
    }

    /// Removes the least recently used entries until no more than so much is left; returns the files to delete.
    fn shrink_to(&mut self, bytes: u64, entries: usize) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        while self.bytes > bytes || self.entries.len() > entries {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            removed.extend(self.remove(&oldest));
            self.metrics.evictions.inc();
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_files_are_kept_open_than_the_limit_however_small_they_are() {
        let mut state = State { budget_bytes: 1 << 30, ..State::default() };
        let form = ChunkForm { compression: FetchCompression::Auto, committed_only: false };
        let key = |chunk| ChunkKey { segment: SegmentUuid::from_entropy([1; 16]), base: Offset::ZERO, chunk, form };
        let chunks = MAX_ENTRIES as u32 + 3;
        for number in 0..chunks {
            state.make_room(1);
            let chunk = ChunkWriter::in_memory().finish().unwrap();
            state.insert(key(number), Arc::new(chunk), PathBuf::new());
        }
        assert_eq!(state.entries.len(), MAX_ENTRIES);
        assert!(
            state.touch(&key(2)).is_none() && state.touch(&key(3)).is_some() && state.touch(&key(chunks - 1)).is_some()
        );
    }
}
