//! The walk over the batches of a segment file, in chunks.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::log::error::ReadError;
use crate::record::{Batch, BatchHeader, HEADER_BYTES, RecordError};
use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::{DIRECT_ALIGNMENT_BYTES, Disk, File, Open};
use crate::types::Offset;

const CHUNK_BYTES: usize = 1 << 20;
/// Read beyond what a fetch wants: an index interval to skip, and a header.
const SLACK_BYTES: usize = 8192;
/// Chunks from this size on are read past the page cache: filling the cache costs more than reading, and what readers near
/// the end want is in memory anyway. Smaller ones leave to the kernel to read ahead.
const DIRECT_FROM_BYTES: usize = if cfg!(test) { 12 << 10 } else { 128 << 10 };

/// A batch and where it begins in the file.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The batch; its checksum has not been verified.
    pub batch: Batch,
    /// Position of its first byte.
    pub position: u64,
}

/// Walks batches up to a file position and an offset bound. Ends after the first error.
#[derive(Debug)]
pub struct BatchScan {
    file: Arc<dyn File>,
    path: PathBuf,
    /// Bytes read and not yet handed out; begin at `position`.
    buffer: Bytes,
    position: u64,
    end: u64,
    bound: Offset,
    wanted: Wanted,
    /// End of the last batch handed out; bytes beyond the bound may be anything.
    reached: Offset,
    chunk_bytes: usize,
    failed: bool,
}

/// How much is wanted of a walk: all that there is, unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// What ends at or below is passed over.
    from: Offset,
    most_bytes: usize,
    /// Of these, what has not been handed out.
    left_bytes: usize,
    /// Something was.
    given: bool,
}

impl Wanted {
    const ALL: Self = Self { from: Offset(i64::MIN), most_bytes: usize::MAX, left_bytes: usize::MAX, given: false };

    /// Whether so many bytes are still wanted: at least one batch, and no read for the last of many.
    const fn takes(&self, bytes: usize, buffered: usize) -> bool {
        let is_worth_reading = bytes <= buffered || self.left_bytes >= self.most_bytes / 8;
        !self.given || (bytes <= self.left_bytes && is_worth_reading)
    }
}

impl BatchScan {
    /// Walks what lies at `range` of the file, reading about `chunk_bytes` at a time.
    pub(super) fn open(
        disk: &dyn Disk,
        path: PathBuf,
        range: Range<u64>,
        bound: Offset,
        chunk_bytes: usize,
    ) -> io::Result<Self> {
        // With what lies before it on its page it fills a buffer of that size, and no larger one.
        let chunk_bytes = chunk_bytes.saturating_add(SLACK_BYTES).min(CHUNK_BYTES - DIRECT_ALIGNMENT_BYTES);
        let how = if chunk_bytes < DIRECT_FROM_BYTES { Open::Read } else { Open::ReadDirect };
        let file = disk.open(&path, how)?;
        let (buffer, reached) = (Bytes::new(), Offset::ZERO);
        let Range { start: position, end } = range;
        let wanted = Wanted::ALL;
        Ok(Self { file, path, buffer, position, end, bound, wanted, reached, chunk_bytes, failed: false })
    }

    /// Has it end before it has handed out more than so many bytes, but not before one batch that holds `from` or what follows.
    pub(super) const fn limited(mut self, from: Offset, most_bytes: usize) -> Self {
        self.wanted = Wanted { from, most_bytes, left_bytes: most_bytes, given: false };
        self
    }

    /// Has at least `bytes` in the buffer. What is left in it is read again: it is less than a batch.
    fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        if self.buffer.len() >= bytes {
            return Ok(());
        }
        let available = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        if bytes > available {
            return Err(self.corrupt(RecordError::Truncated { needed: bytes, available }));
        }
        let chunk_bytes = self.chunk_bytes.min(self.wanted.left_bytes.saturating_add(SLACK_BYTES));
        let wanted = bytes.max(chunk_bytes).min(available);
        let skipped = (self.position % DIRECT_ALIGNMENT_BYTES as u64) as usize;
        let mut chunk = AlignedBuffer::for_reading((skipped + wanted).next_multiple_of(DIRECT_ALIGNMENT_BYTES));
        let failed = |error| ReadError::Io { path: self.path.clone(), error: Arc::new(error) };
        let read = self.file.read_at(chunk.bytes_mut(), self.position - skipped as u64).map_err(failed)?;
        if read < skipped + wanted {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.buffer = chunk.freeze().slice(skipped..skipped + wanted);
        Ok(())
    }

    fn corrupt(&self, error: RecordError) -> ReadError {
        ReadError::Corrupt { path: self.path.clone(), file_offset: self.position, error }
    }

    fn take(&mut self) -> Result<Option<Scanned>, ReadError> {
        loop {
            let ended = self.position >= self.end || self.reached >= self.bound;
            if ended || !self.wanted.takes(HEADER_BYTES, self.buffer.len()) {
                return Ok(None);
            }
            self.fill(HEADER_BYTES)?;
            let header = BatchHeader::read(&self.buffer).map_err(|error| self.corrupt(error))?;
            let bytes = header.total_bytes();
            if header.next_offset() > self.bound || !self.wanted.takes(bytes, self.buffer.len()) {
                return Ok(None);
            }
            self.fill(bytes)?;
            let batch = Batch::split_from(&mut self.buffer).map_err(|error| self.corrupt(error))?;
            let position = self.position;
            self.position += bytes as u64;
            self.reached = header.next_offset();
            if self.reached > self.wanted.from {
                self.wanted.given = true;
                self.wanted.left_bytes = self.wanted.left_bytes.saturating_sub(bytes);
                return Ok(Some(Scanned { batch, position }));
            }
        }
    }
}

impl Iterator for BatchScan {
    type Item = Result<Scanned, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let taken = self.take().transpose();
        self.failed = matches!(taken, Some(Err(_)));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use parking_lot::Mutex;

    use super::*;
    use crate::log::segment::index::SegmentIndex;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::types::{LeaderEpoch, Timestamp};

    /// A file in memory that counts what is read of it.
    #[derive(Debug)]
    struct Counting {
        content: Vec<u8>,
        reads: Mutex<Vec<usize>>,
    }

    impl File for Counting {
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = &self.content[usize::try_from(offset).unwrap().min(self.content.len())..];
            let read = bytes.len().min(rest.len());
            bytes[..read].copy_from_slice(&rest[..read]);
            self.reads.lock().push(read);
            Ok(read)
        }

        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write_slices_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.content.len() as u64)
        }

        fn set_length(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn preallocate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn batches(count: i64, value_bytes: usize) -> Vec<Batch> {
        let batch = |offset| {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append_at(0, Timestamp(offset), None, Some(&vec![7; value_bytes]), std::iter::empty());
            builder.build(Offset(offset), LeaderEpoch(0)).unwrap()
        };
        (0..count).map(batch).collect()
    }

    fn scan(file: &Arc<Counting>, range: Range<u64>, chunk_bytes: usize) -> BatchScan {
        BatchScan {
            file: Arc::clone(file) as _,
            path: PathBuf::from("counting"),
            buffer: Bytes::new(),
            position: range.start,
            end: range.end,
            bound: Offset::MAX,
            wanted: Wanted::ALL,
            reached: Offset::ZERO,
            chunk_bytes,
            failed: false,
        }
    }

    fn file(batches: &[Batch]) -> Arc<Counting> {
        let content = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        Arc::new(Counting { content, reads: Mutex::default() })
    }

    #[test]
    fn pieces_are_read_once_and_in_few_reads() {
        for (count, value_bytes, most_bytes) in
            [(100, 60_000, 1 << 20), (100, 16_000, 300_000), (20, 100_000, 150_000), (2000, 900, 64 << 10)]
        {
            let written = batches(count, value_bytes);
            let file = file(&written);
            let (mut index, mut at) = (SegmentIndex::new(Offset::ZERO), 0);
            for batch in &written {
                index.observe(batch.header(), at).unwrap();
                at += batch.bytes().len() as u64;
            }
            let (mut next, mut pieces) = (Offset::ZERO, 0);
            while next < Offset(count) {
                let position = index.position_of_offset(next).unwrap();
                let end = index.end_of_batches(position, most_bytes).unwrap_or(at);
                let chunk_bytes = (most_bytes + SLACK_BYTES).min(CHUNK_BYTES - DIRECT_ALIGNMENT_BYTES);
                let mut bytes = 0;
                for scanned in scan(&file, position..end, chunk_bytes).limited(next, most_bytes) {
                    let Scanned { batch, .. } = scanned.unwrap();
                    assert_eq!(batch.header().base_offset, next);
                    next = batch.header().next_offset();
                    bytes += batch.bytes().len();
                }
                assert!(bytes > 0 && bytes <= most_bytes, "{bytes} of {most_bytes}");
                pieces += 1;
            }
            let (reads, length) = (file.reads.lock(), file.content.len());
            let read: usize = reads.iter().sum();
            // Pages are read whole, and what an index entry points to may begin before what is wanted.
            let most = length + pieces * (SLACK_BYTES + 2 * DIRECT_ALIGNMENT_BYTES);
            assert!(read <= most, "{read} bytes were read of {length}, in {} reads", reads.len());
            assert!(reads.len() <= pieces + 1, "{} reads for {pieces} pieces", reads.len());
        }
    }

    #[test]
    fn one_batch_is_handed_out_however_little_is_wanted() {
        let written = batches(3, 5000);
        let file = file(&written);
        for from in 0..3 {
            let scan = scan(&file, 0..file.content.len() as u64, 1).limited(Offset(from), 1);
            let found: Vec<_> = scan.map(|scanned| scanned.unwrap().batch).collect();
            assert_eq!(found, [written[usize::try_from(from).unwrap()].clone()]);
        }
    }
}
