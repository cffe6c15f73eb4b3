//! Reads that have to touch the disk: planned under the partition's lock, executed without it by whichever lane may block.

use std::sync::Arc;

use bytes::Bytes;

use super::error::ReadError;
use super::segment::Segment;
use crate::record::Batch;
use crate::types::{Offset, Timestamp};

/// A planned read.
#[derive(Debug)]
pub enum ReadPlan {
    /// From memory: whole batches, done.
    Ready(Vec<Bytes>),
    /// From segments.
    Disk(DiskRead),
}

impl ReadPlan {
    /// Whole batches; blocks if the disk is needed.
    pub fn execute(self) -> Result<Vec<Bytes>, ReadError> {
        match self {
            Self::Ready(batches) => Ok(batches),
            Self::Disk(read) => read.execute(),
        }
    }
}

/// A read of one range of offsets from segments.
#[derive(Debug)]
pub struct DiskRead {
    /// The segment that holds the first offset, and those after it.
    segments: Vec<Arc<Segment>>,
    from: Offset,
    bound: Offset,
    max_bytes: usize,
}

impl DiskRead {
    pub(super) fn new(segments: &[Arc<Segment>], from: Offset, bound: Offset, max_bytes: usize) -> Self {
        let after = segments.partition_point(|segment| segment.base_offset() <= from);
        let segments = segments[after.saturating_sub(1)..].iter().take(2).cloned().collect();
        Self { segments, from, bound, max_bytes }
    }

    /// Whole batches, at least one if there is any below the bound. Blocks.
    pub fn execute(self) -> Result<Vec<Bytes>, ReadError> {
        for segment in &self.segments {
            let batches = segment.read(self.from, self.bound, self.max_bytes)?;
            if !batches.is_empty() {
                return Ok(batches);
            }
        }
        Ok(Vec::new())
    }
}

/// A search for a timestamp.
#[derive(Debug)]
pub struct TimestampPlan {
    segments: Vec<Arc<Segment>>,
    timestamp: Timestamp,
    from: Offset,
    bound: Offset,
    in_tail: Option<Batch>,
}

impl TimestampPlan {
    pub(super) const fn new(
        segments: Vec<Arc<Segment>>,
        timestamp: Timestamp,
        from: Offset,
        bound: Offset,
        in_tail: Option<Batch>,
    ) -> Self {
        Self { segments, timestamp, from, bound, in_tail }
    }

    /// Where the local records begin that it searches, at the time when it was planned.
    pub const fn from(&self) -> Offset {
        self.from
    }

    /// The first batch whose largest timestamp is at least the one sought. Blocks.
    pub fn execute(self) -> Result<Option<Batch>, ReadError> {
        for segment in &self.segments {
            let found = segment.find_timestamp(self.timestamp, self.from, self.bound)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(self.in_tail)
    }
}
