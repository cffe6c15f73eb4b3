//! What a head says about one archived segment.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Hex128, TransitionError};
use crate::archive::key::SegmentName;
use crate::types::{Offset, Timestamp};

/// Records, bytes and so on of a segment are no more, so that they add up.
const LARGEST_NUMBER: u64 = 1 << 40;
/// Bytes before the first row group of a Parquet file.
const PARQUET_MAGIC_BYTES: u64 = 4;

/// One archived segment: its objects, and where in them each chunk lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Offsets, writer and identity; the keys of its objects follow from it.
    pub name: SegmentName,
    /// Smallest record timestamp.
    pub min_timestamp: Timestamp,
    /// Largest record timestamp; retention by time goes by it, as in Kafka.
    pub max_timestamp: Timestamp,
    /// Records, in both objects together.
    pub record_count: u64,
    /// Batches, in both objects together.
    pub batch_count: u64,
    /// Bytes that the batches took in the log, as produced; retention by size goes by it, as in Kafka.
    pub log_bytes: u64,
    /// Length of the Parquet object; 0 when no batch became rows and there is none.
    pub parquet_bytes: u64,
    /// Where the row groups of the Parquet object end and its indexes begin.
    pub footer_start: u64,
    /// Where the file metadata of the Parquet object begins, which readers of row groups need.
    pub metadata_start: u64,
    /// xxh3-128 over the Parquet object, or over nothing when there is none.
    pub parquet_hash: Hex128,
    /// Length of the companion object; 0 when there is none.
    pub companion_bytes: u64,
    /// xxh3-128 over the companion object, or over nothing when there is none.
    pub companion_hash: Hex128,
    /// xxh3-128 over all batches, uncompressed, in offset order.
    pub hash: Hex128,
    /// The chunks, in offset order.
    pub chunks: Vec<ChunkRow>,
}

/// One chunk as stored, relative to the chunk before it; a JSON array, for size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ChunkArray", into = "ChunkArray")]
pub struct ChunkRow {
    /// Offsets covered.
    pub offsets: u64,
    /// Largest record timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Rows of its row group; 0 when it has none.
    pub rows: u64,
    /// Bytes of its row group.
    pub parquet_bytes: u64,
    /// Bytes of its part of the companion object.
    pub companion_bytes: u64,
    /// Bytes of its batches, uncompressed.
    pub raw_bytes: u64,
    /// xxh3-64 over its batches, uncompressed, in offset order.
    pub hash: u64,
}

/// The fields of a [`ChunkRow`] in order.
type ChunkArray = (u64, i64, u64, u64, u64, u64, u64);

impl From<ChunkArray> for ChunkRow {
    fn from((offsets, max_timestamp, rows, parquet_bytes, companion_bytes, raw_bytes, hash): ChunkArray) -> Self {
        Self { offsets, max_timestamp, rows, parquet_bytes, companion_bytes, raw_bytes, hash }
    }
}

impl From<ChunkRow> for ChunkArray {
    fn from(row: ChunkRow) -> Self {
        (row.offsets, row.max_timestamp, row.rows, row.parquet_bytes, row.companion_bytes, row.raw_bytes, row.hash)
    }
}

/// One chunk: a range of whole batches that is read and cached as a unit, at most one row group and one companion part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its number within the segment.
    pub index: u32,
    /// First offset covered.
    pub base: Offset,
    /// First offset after.
    pub next: Offset,
    /// Largest record timestamp.
    pub max_timestamp: Timestamp,
    /// Rows of its row group; 0 when it has none.
    pub rows: u64,
    /// The number of its row group, when it has rows.
    pub row_group: usize,
    /// Its row group's bytes in the Parquet object.
    pub parquet: Range<u64>,
    /// Its part's bytes in the companion object.
    pub companion: Range<u64>,
    /// Bytes of its batches, uncompressed.
    pub raw_bytes: u64,
    /// xxh3-64 over its batches, uncompressed, in offset order.
    pub hash: u64,
}

impl Segment {
    /// First offset covered.
    pub const fn base(&self) -> Offset {
        self.name.base
    }

    /// First offset after.
    pub const fn next(&self) -> Offset {
        self.name.next
    }

    /// Bytes of its objects.
    pub const fn stored_bytes(&self) -> u64 {
        self.parquet_bytes + self.companion_bytes
    }

    /// Its chunks with absolute positions. The companion's parts begin after `companion_start` bytes of header.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        let mut base = self.base();
        let mut row_group = 0;
        let mut parquet_at = PARQUET_MAGIC_BYTES;
        let mut companion_at = crate::archive::parquet::COMPANION_HEADER_BYTES;
        self.chunks.iter().zip(0_u32..).map(move |(row, index)| {
            let chunk = Chunk {
                index,
                base,
                next: Offset(base.0.saturating_add_unsigned(row.offsets)),
                max_timestamp: Timestamp(row.max_timestamp),
                rows: row.rows,
                row_group,
                parquet: parquet_at..parquet_at.saturating_add(row.parquet_bytes),
                companion: companion_at..companion_at.saturating_add(row.companion_bytes),
                raw_bytes: row.raw_bytes,
                hash: row.hash,
            };
            base = chunk.next;
            row_group += usize::from(row.rows > 0);
            parquet_at = chunk.parquet.end;
            companion_at = chunk.companion.end;
            chunk
        })
    }

    /// What the Parquet object holds around its row groups: the bytes before and after; empty when there is none.
    pub const fn parquet_ends(&self) -> [Range<u64>; 2] {
        let start = if self.parquet_bytes > 0 { PARQUET_MAGIC_BYTES } else { 0 };
        [0..start, self.footer_start..self.parquet_bytes]
    }

    /// What the companion object holds around its parts: the bytes before and after; empty when there is none.
    pub fn companion_ends(&self) -> [Range<u64>; 2] {
        if self.companion_bytes == 0 {
            return [0..0, 0..0];
        }
        let start = crate::archive::parquet::COMPANION_HEADER_BYTES;
        let parts: u64 = self.chunks.iter().map(|chunk| chunk.companion_bytes).sum();
        [0..start, start + parts..self.companion_bytes]
    }

    /// The chunk that covers `offset`.
    pub fn chunk_at(&self, offset: Offset) -> Option<Chunk> {
        self.chunks().find(|chunk| offset >= chunk.base && offset < chunk.next)
    }

    /// Checks that its numbers add up: the chunks cover exactly its offsets and lie within its objects.
    pub fn check(&self) -> Result<(), TransitionError> {
        let bad = |what| Err(TransitionError::BadSegment { what, base: self.base() });
        let Self { record_count, batch_count, log_bytes, parquet_bytes, companion_bytes, .. } = *self;
        let of_chunks = self
            .chunks
            .iter()
            .flat_map(|chunk| [chunk.rows, chunk.parquet_bytes, chunk.companion_bytes, chunk.raw_bytes]);
        let all = [record_count, batch_count, log_bytes, parquet_bytes, companion_bytes].into_iter().chain(of_chunks);
        if all.into_iter().any(|number| number > LARGEST_NUMBER) {
            return bad("it claims more than any segment has");
        }
        if self.base() >= self.next() {
            return bad("it covers no offset");
        }
        if self.chunks.iter().any(|chunk| chunk.offsets == 0) {
            return bad("a chunk covers no offset");
        }
        let Some(last) = self.chunks().last() else { return bad("it has no chunks") };
        if last.next != self.next() {
            return bad("its chunks do not cover its offsets");
        }
        if self.parquet_bytes > 0 && (self.footer_start != last.parquet.end || self.footer_start >= self.parquet_bytes)
        {
            return bad("its row groups do not fill the Parquet object up to the footer");
        }
        if self.parquet_bytes > 0 && !(self.footer_start..self.parquet_bytes).contains(&self.metadata_start) {
            return bad("its metadata does not lie in the footer of the Parquet object");
        }
        if self.companion_bytes > 0 && last.companion.end > self.companion_bytes {
            return bad("its parts do not fit the companion object");
        }
        let (rows, parts): (u64, u64) =
            self.chunks.iter().fold((0, 0), |(rows, parts), chunk| (rows + chunk.rows, parts + chunk.companion_bytes));
        if (rows > 0) != (self.parquet_bytes > 0) || (parts > 0 && self.companion_bytes == 0) {
            return bad("an object that its chunks need is missing");
        }
        if rows > self.record_count {
            return bad("it has more rows than records");
        }
        Ok(())
    }
}
