//! Checks the objects of a segment against what the head says of them: every byte of both, and every batch.
//!
//! Each byte is looked at once. The ends of the objects come first, as the footer is needed to decode; then chunk by chunk.
//! Nothing is read here: callers fetch, from the spool or from the bucket.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::companion::{ArchivedBatch, check_header, read_tail};
use super::decode::{FileMetadata, decode_chunk};
use super::runs::RunsCheck;
use super::{DecodeError, Description};
use crate::archive::manifest::{Chunk, Hex128, Segment};

/// A check that is under way.
pub struct SegmentCheck {
    segment: Segment,
    metadata: Option<FileMetadata>,
    parquet: Xxh3,
    companion: Xxh3,
    ends: [Bytes; 2],
    batches: Xxh3,
    batch_count: u64,
    record_count: u64,
}

impl SegmentCheck {
    /// Begins with the bytes of [`Segment::parquet_ends`] and [`Segment::companion_ends`].
    pub fn begin(segment: Segment, parquet: [Bytes; 2], companion: [Bytes; 2]) -> Result<Self, DecodeError> {
        let [parquet_start, parquet_end] = parquet;
        let [companion_start, companion_end] = companion;
        let mut metadata = None;
        if segment.parquet_bytes > 0 {
            let at = usize::try_from(segment.metadata_start.saturating_sub(segment.footer_start)).unwrap_or(usize::MAX);
            let tail = parquet_end.get(at..).unwrap_or_default();
            metadata = Some(FileMetadata::parse(tail)?);
        }
        if segment.companion_bytes > 0 {
            check_header(&companion_start)?;
            let description = read_tail(companion_end.clone())?.description;
            Description::parse(&description.unwrap_or_default())?;
        }
        let mut hashes = [Xxh3::new(), Xxh3::new()];
        hashes[0].update(&parquet_start);
        hashes[1].update(&companion_start);
        let [parquet, companion] = hashes;
        let ends = [parquet_end, companion_end];
        let batches = Xxh3::new();
        Ok(Self { segment, metadata, parquet, companion, ends, batches, batch_count: 0, record_count: 0 })
    }

    /// Goes on with the bytes of the next chunk: its row group and its part. Returns its batches.
    pub fn add(&mut self, chunk: &Chunk, parquet: Bytes, companion: Bytes) -> Result<Vec<ArchivedBatch>, DecodeError> {
        self.parquet.update(&parquet);
        self.companion.update(&companion);
        let rows = self.metadata.as_ref().filter(|_| chunk.rows > 0).map(|metadata| (metadata, parquet));
        let mut runs = RunsCheck::new(self.metadata.as_ref().map_or_else(Vec::new, |metadata| metadata.runs(chunk)));
        let batches = decode_chunk(chunk, rows, companion)?;
        for batch in &batches {
            let (header, bytes) = (batch.batch.header(), batch.batch.bytes());
            let records = u64::from(header.record_count.unsigned_abs());
            self.batches.update(bytes);
            self.record_count += records;
            runs.add(header.base_offset, bytes, records)?;
        }
        runs.finish()?;
        self.batch_count += batches.len() as u64;
        Ok(batches)
    }

    /// Ends with a comparison of all that was added.
    pub fn finish(mut self) -> Result<(), DecodeError> {
        let [parquet_end, companion_end] = std::mem::take(&mut self.ends);
        self.parquet.update(&parquet_end);
        self.companion.update(&companion_end);
        let segment = &self.segment;
        let hashes = [
            (segment.hash, &self.batches),
            (segment.parquet_hash, &self.parquet),
            (segment.companion_hash, &self.companion),
        ];
        for (expected, hash) in hashes {
            let found = Hex128(hash.digest128());
            if expected != found {
                let (expected, found) = (expected.to_string(), found.to_string());
                return Err(DecodeError::Checksum { base: segment.base(), expected, found });
            }
        }
        if (segment.record_count, segment.batch_count) != (self.record_count, self.batch_count) {
            let at = i64::try_from(self.record_count).unwrap_or(i64::MAX);
            return Err(DecodeError::Malformed { what: "the segment has another number of records or batches", at });
        }
        Ok(())
    }
}
