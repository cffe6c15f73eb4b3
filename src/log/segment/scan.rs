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
    /// End of the last batch handed out; bytes beyond the bound may be anything.
    reached: Offset,
    chunk_bytes: usize,
    failed: bool,
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
        Ok(Self { file, path, buffer, position, end, bound, reached, chunk_bytes, failed: false })
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
        let wanted = bytes.max(self.chunk_bytes).min(available);
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
        if self.position >= self.end || self.reached >= self.bound {
            return Ok(None);
        }
        self.fill(HEADER_BYTES)?;
        let header = BatchHeader::read(&self.buffer).map_err(|error| self.corrupt(error))?;
        if header.next_offset() > self.bound {
            return Ok(None);
        }
        self.fill(header.total_bytes())?;
        let batch = Batch::split_from(&mut self.buffer).map_err(|error| self.corrupt(error))?;
        let position = self.position;
        self.position += batch.bytes().len() as u64;
        self.reached = header.next_offset();
        Ok(Some(Scanned { batch, position }))
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
