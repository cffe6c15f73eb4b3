//! The walk over the batches of a segment file, in chunks.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::log::error::ReadError;
use crate::record::{Batch, BatchHeader, HEADER_BYTES, RecordError};
use crate::runtime::disk::File;
use crate::types::Offset;

const CHUNK_BYTES: usize = 1 << 20;
/// Read beyond what a fetch wants: an index interval to skip, and a header.
const SLACK_BYTES: usize = 8192;

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
    pub(super) fn new(file: Arc<dyn File>, path: PathBuf, position: u64, end: u64, bound: Offset) -> Self {
        let (buffer, reached) = (Bytes::new(), Offset::ZERO);
        Self { file, path, buffer, position, end, bound, reached, chunk_bytes: CHUNK_BYTES, failed: false }
    }

    /// Reads about `bytes` at a time, for a caller that wants no more than that.
    #[must_use]
    pub(super) fn reading_ahead(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes.min(CHUNK_BYTES) + SLACK_BYTES;
        self
    }

    /// Has at least `bytes` in the buffer.
    fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        if self.buffer.len() >= bytes {
            return Ok(());
        }
        let available = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        if bytes > available {
            return Err(self.corrupt(RecordError::Truncated { needed: bytes, available }));
        }
        let wanted = bytes.max(self.chunk_bytes).min(available);
        let mut chunk = BytesMut::zeroed(wanted);
        let held = self.buffer.len();
        chunk[..held].copy_from_slice(&self.buffer);
        self.file
            .read_exact_at(&mut chunk[held..], self.position + held as u64)
            .map_err(|error| ReadError::Io { path: self.path.clone(), error: Arc::new(error) })?;
        self.buffer = chunk.freeze();
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
