//! The memory tail of one partition: its newest batches, in the very memory that the journal wrote.
//!
//! Batches enter when they are durable, in order, and leave at the old end once they are in a segment and the directory's
//! memory budget asks for it. Together with the segments the tail covers the local log without a gap. Plain data under
//! the partition's lock.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::record::Batch;
use crate::types::{Offset, Timestamp};

#[derive(Debug)]
struct TailBatch {
    batch: Batch,
    /// Share of the directory's budget for unwritten records; given back when the batch is in a segment.
    permit: Option<OwnedSemaphorePermit>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tail {
    batches: VecDeque<TailBatch>,
}

impl Tail {
    /// First offset in the tail.
    pub fn start(&self) -> Option<Offset> {
        self.batches.front().map(|first| first.batch.header().base_offset)
    }

    /// Adds a batch that continues the tail.
    pub fn push(&mut self, batch: Batch, permit: Option<OwnedSemaphorePermit>) {
        if let Some(last) = self.batches.back() {
            assert!(batch.header().base_offset >= last.batch.header().next_offset(), "tail batches are in order");
        }
        self.batches.push_back(TailBatch { batch, permit });
    }

    fn index_of(&self, offset: Offset) -> usize {
        self.batches.partition_point(|held| held.batch.header().next_offset() <= offset)
    }

    /// Whole batches from the one that holds `from` (or the next after it) that end at or below `bound`: at most `max_bytes`
    /// of them, but at least one.
    pub fn read(&self, from: Offset, bound: Offset, max_bytes: usize) -> Vec<Bytes> {
        let mut taken: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for held in self.batches.range(self.index_of(from)..) {
            let length = held.batch.bytes().len();
            let over = !taken.is_empty() && bytes + length > max_bytes;
            if over || held.batch.header().next_offset() > bound {
                break;
            }
            bytes += length;
            taken.push(held.batch.bytes().clone());
        }
        taken
    }

    /// Batches from `from` on, about `limit_bytes` of them, for writing to a segment.
    pub fn batches_from(&self, from: Offset, limit_bytes: usize) -> Vec<Batch> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for held in self.batches.range(self.index_of(from)..) {
            if bytes >= limit_bytes {
                break;
            }
            bytes += held.batch.bytes().len();
            taken.push(held.batch.clone());
        }
        taken
    }

    /// Bytes of the batches from `from` on.
    pub fn bytes_from(&self, from: Offset) -> usize {
        self.batches.range(self.index_of(from)..).map(|held| held.batch.bytes().len()).sum()
    }

    /// Gives back the budget of batches below `written`, which are in segments now; returns their bytes.
    pub fn release_permits(&mut self, from: Offset, written: Offset) -> usize {
        let (start, end) = (self.index_of(from), self.index_of(written));
        let mut bytes = 0;
        for held in self.batches.range_mut(start..end) {
            held.permit = None;
            bytes += held.batch.bytes().len();
        }
        bytes
    }

    /// Drops batches below `end`.
    pub fn evict_below(&mut self, end: Offset) {
        while self.batches.front().is_some_and(|first| first.batch.header().next_offset() <= end) {
            self.batches.pop_front();
        }
    }

    /// Drops batches that reach beyond `end`, as the log was cut there.
    pub fn truncate_to(&mut self, end: Offset) {
        while self.batches.back().is_some_and(|last| last.batch.header().next_offset() > end) {
            self.batches.pop_back();
        }
    }

    /// The first batch at or above `from`, ending at or below `bound`, whose largest timestamp is at least `timestamp`.
    pub fn find_timestamp(&self, timestamp: Timestamp, from: Offset, bound: Offset) -> Option<Batch> {
        self.batches
            .range(self.index_of(from)..)
            .map(|held| &held.batch)
            .take_while(|batch| batch.header().next_offset() <= bound)
            .find(|batch| batch.header().max_timestamp >= timestamp)
            .cloned()
    }
}
