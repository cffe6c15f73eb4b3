//! A rebuilt chunk: record batches exactly as they go to clients, one after another, in a file of the cache or in memory.
//!
//! [`ChunkWriter`] fills it batch by batch while the chunk is decoded, so that no second copy of a chunk is ever in memory. A
//! checksum for every block of batches stays in memory; a block that does not match it is never served.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::store::Payload;
use crate::record::{Batch, Batches};
use crate::runtime::disk::{Disk, File, Open};
use crate::telemetry::TakenMemory;
use crate::types::Offset;

/// Blocks end at the first batch boundary at or above this. Smaller costs memory for checksums, larger is read for nothing.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes that are written to a file at a time.
const WRITE_BYTES: usize = 512 << 10;

/// A run of whole batches of a chunk.
#[derive(Clone, Copy, Debug)]
struct Block {
    next: Offset,
    position: u64,
    length: usize,
    checksum: u64,
}

/// See the module.
#[derive(Debug)]
pub struct RebuiltChunk {
    content: Payload,
    blocks: Vec<Block>,
    /// Its part of the memory of readers, while it is not in a file.
    memory: Option<TakenMemory>,
}

impl RebuiltChunk {
    /// Bytes of its batches.
    pub const fn bytes(&self) -> u64 {
        self.content.length()
    }

    /// First offset after its last batch; the least offset when it has none.
    pub fn end(&self) -> Offset {
        self.blocks.last().map_or(Offset(i64::MIN), |block| block.next)
    }

    /// Whether it is in a file, and needs no memory.
    pub const fn is_in_file(&self) -> bool {
        matches!(self.content, Payload::Spooled { .. })
    }

    /// Keeps as much of `memory` as it needs for as long as it lives.
    pub fn hold(&mut self, mut memory: TakenMemory) {
        if !self.is_in_file() {
            memory.shrink_to(usize::try_from(self.bytes()).unwrap_or(usize::MAX));
            self.memory = Some(memory);
        }
    }

    /// Batches from the one that holds `offset`, or the first after it, up to `max_bytes`, but at least one when there is
    /// one. `None` when a block is damaged. Blocks on the disk for a chunk in a file.
    pub fn read(&self, offset: Offset, max_bytes: usize) -> io::Result<Option<Stretch>> {
        let mut stretch = Stretch { pieces: Vec::new(), next: offset };
        let mut left = max_bytes;
        let first = self.blocks.partition_point(|block| block.next <= offset);
        for block in &self.blocks[first..] {
            let content = self.content.read(block.position, block.length)?;
            if xxh3_64(&content) != block.checksum {
                return Ok(None);
            }
            if !stretch.pieces.is_empty() && block.length <= left {
                left -= block.length;
                stretch.pieces.push(content);
                stretch.next = block.next;
                continue;
            }
            let Some(part) = stretch.part_of(&content, offset, left) else { return Ok(None) };
            let is_whole = part.end == content.len();
            left = left.saturating_sub(part.len());
            if !part.is_empty() {
                stretch.pieces.push(content.slice(part));
            }
            if !is_whole || left == 0 {
                break;
            }
        }
        Ok(Some(stretch))
    }
}

/// Whole batches, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Their bytes, each piece whole batches.
    pub pieces: Vec<Bytes>,
    /// First offset after them.
    pub next: Offset,
}

impl Stretch {
    /// One batch.
    pub fn of(batch: &Batch) -> Self {
        Self { pieces: vec![batch.bytes().clone()], next: batch.header().next_offset() }
    }

    /// The part of a block from `offset` on that fits into `left` bytes, or its first batch if there is nothing yet; `None` when
    /// the block is no batches.
    fn part_of(&mut self, content: &Bytes, offset: Offset, left: usize) -> Option<Range<usize>> {
        let mut part = 0..0;
        for batch in Batches::new(content.clone()) {
            let batch = batch.ok()?;
            let (length, next) = (batch.bytes().len(), batch.header().next_offset());
            if next <= offset {
                part = part.end + length..part.end + length;
                continue;
            }
            let is_first = self.pieces.is_empty() && part.is_empty();
            if part.len() + length > left && !is_first {
                break;
            }
            part.end += length;
            self.next = next;
        }
        Some(part)
    }
}

/// Puts batches one after another. Blocks on the disk.
#[derive(Debug)]
pub struct ChunkWriter {
    place: Place,
    /// Bytes that are not written yet; all of them in memory.
    buffer: Vec<u8>,
    /// Where `buffer` begins.
    position: u64,
    /// Where in `buffer` the block begins that is being filled.
    block_start: usize,
    end: Offset,
    blocks: Vec<Block>,
}

#[derive(Debug)]
enum Place {
    Memory,
    /// A file that is made once there is something to write.
    Planned(Arc<dyn Disk>, PathBuf),
    File(Arc<dyn File>),
}

impl ChunkWriter {
    /// Into memory.
    pub const fn in_memory() -> Self {
        Self::new(Place::Memory)
    }

    /// Into a new file, or into memory when the file can't be written.
    pub(super) fn in_file(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self::new(Place::Planned(disk, path))
    }

    const fn new(place: Place) -> Self {
        Self { place, buffer: Vec::new(), position: 0, block_start: 0, end: Offset(i64::MIN), blocks: Vec::new() }
    }

    /// Adds a batch.
    pub fn push(&mut self, batch: &Batch) -> io::Result<()> {
        self.buffer.extend_from_slice(batch.bytes());
        self.end = batch.header().next_offset();
        if self.buffer.len() - self.block_start >= BLOCK_BYTES {
            self.end_block();
            if self.buffer.len() >= WRITE_BYTES {
                self.write()?;
            }
        }
        Ok(())
    }

    /// The chunk of all batches added.
    pub fn finish(mut self) -> io::Result<RebuiltChunk> {
        if self.buffer.len() > self.block_start {
            self.end_block();
        }
        if !self.buffer.is_empty() {
            self.write()?;
        }
        let content = match self.place {
            Place::File(file) => Payload::Spooled { file, length: self.position, hash: None },
            Place::Memory | Place::Planned(..) => Payload::Memory(self.buffer.into()),
        };
        Ok(RebuiltChunk { content, blocks: self.blocks, memory: None })
    }

    fn end_block(&mut self) {
        let block = &self.buffer[self.block_start..];
        let position = self.position + self.block_start as u64;
        self.blocks.push(Block { next: self.end, position, length: block.len(), checksum: xxh3_64(block) });
        self.block_start = self.buffer.len();
    }

    /// Writes what was gathered. A file that can't be written is given up, and what it held comes back to memory.
    fn write(&mut self) -> io::Result<()> {
        let opened = match &self.place {
            Place::Memory => return Ok(()),
            Place::Planned(disk, path) => disk.open(path, Open::CreateEmpty),
            Place::File(file) => Ok(Arc::clone(file)),
        };
        let written = opened.and_then(|file| file.write_all_at(&self.buffer, self.position).map(|()| file));
        let error = match written {
            Ok(file) => {
                self.place = Place::File(file);
                self.position += self.buffer.len() as u64;
                self.block_start = 0;
                self.buffer.clear();
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::warn!(%error, "a rebuilt chunk of the archive could not be cached");
        if let Place::File(file) = &self.place {
            let mut content = vec![0; usize::try_from(self.position).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut content, 0)?;
            self.block_start += content.len();
            content.append(&mut self.buffer);
            self.buffer = content;
            self.position = 0;
        }
        self.place = Place::Memory;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::runtime::production::LocalDisk;
    use crate::types::{LeaderEpoch, Timestamp};

    /// A file that takes so many writes.
    #[derive(Debug)]
    struct Filling(Arc<dyn File>, parking_lot::Mutex<usize>);

    impl File for Filling {
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(bytes, offset)
        }

        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let mut left = self.1.lock();
            *left = left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            self.0.write_all_at(bytes, offset)
        }

        fn write_slices_at(&self, slices: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
            self.0.write_slices_at(slices, offset)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn length(&self) -> io::Result<u64> {
            self.0.length()
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.0.set_length(length)
        }

        fn preallocate(&self, length: u64) -> io::Result<()> {
            self.0.preallocate(length)
        }
    }

    fn batches() -> Vec<Batch> {
        let batches = (0..300).map(|number| {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            let value = vec![number as u8; 5000 + number];
            builder.append(Timestamp(1), None, Some(&value), std::iter::empty());
            builder.build(Offset(number as i64 * 2), LeaderEpoch(0)).unwrap()
        });
        batches.collect()
    }

    fn written(mut writer: ChunkWriter, batches: &[Batch]) -> RebuiltChunk {
        for batch in batches {
            writer.push(batch).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn a_chunk_is_read_as_written_in_memory_in_a_file_and_after_the_disk_was_full() {
        let directory = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        let batches = batches();
        let in_file = ChunkWriter::in_file(Arc::clone(&disk), directory.path().join("whole"));
        let nowhere = ChunkWriter::in_file(Arc::clone(&disk), directory.path().join("absent/file"));
        let full = |writes| {
            let file = disk.open(&directory.path().join(format!("full {writes}")), Open::CreateEmpty).unwrap();
            ChunkWriter::new(Place::File(Arc::new(Filling(file, parking_lot::Mutex::new(writes)))))
        };
        let writers =
            [(ChunkWriter::in_memory(), false), (in_file, true), (nowhere, false), (full(0), false), (full(2), false)];
        for (writer, is_in_file) in writers {
            let chunk = written(writer, &batches);
            assert_eq!(chunk.is_in_file(), is_in_file);
            assert_eq!(chunk.end(), Offset(599));
            let read = |offset, max_bytes| {
                let stretch = chunk.read(Offset(offset), max_bytes).unwrap().unwrap();
                let read: Vec<Batch> = stretch.pieces.into_iter().flat_map(Batches::new).map(Result::unwrap).collect();
                assert_eq!(read.last().map_or(Offset(offset), |last| last.header().next_offset()), stretch.next);
                read
            };
            assert_eq!(read(0, usize::MAX), batches);
            assert_eq!(read(301, 12_000), batches[151..153]);
            assert_eq!(read(598, 1), batches[299..]);
            assert!(read(599, 1).is_empty());
            // Wherever it begins and ends, it is what fits, and at least one batch.
            for (first, max_bytes) in [(0, 0), (1, 70_000), (13, 130_000), (100, 200_001), (250, 400_000)] {
                let mut left = max_bytes;
                let fits = batches[first..].iter().take_while(|batch| {
                    let fits = batch.bytes().len() <= left;
                    left = left.saturating_sub(batch.bytes().len());
                    fits
                });
                let count = fits.count().max(1);
                assert_eq!(read(first as i64 * 2, max_bytes), batches[first..first + count]);
            }
        }
    }

    #[test]
    fn a_changed_byte_is_never_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chunk");
        let chunk = written(ChunkWriter::in_file(Arc::new(LocalDisk), path.clone()), &batches());
        let mut content = std::fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&path, content).unwrap();
        assert!(chunk.read(Offset(0), usize::MAX).unwrap().is_none());
        assert!(chunk.read(Offset(0), 1000).unwrap().is_some());
    }
}
