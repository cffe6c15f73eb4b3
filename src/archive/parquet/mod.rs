//! Record batches as Parquet and back: the one door to `parquet` and `arrow`.
//!
//! [`encode()`] turns the batches of a sealed segment into a Parquet object, one row per record, and a companion object for
//! what rows cannot give back; it verifies what it wrote by decoding the very bytes that will be uploaded. [`decode_chunk`]
//! turns a part of them back. Everything is synchronous and heavy: it runs on the archive's workers. Files are spooled
//! locally and survive nothing; only the uploader makes them durable. Byte-level format: `src/docs/formats/archive.md`.

mod check;
mod companion;
mod decode;
mod encode;
mod error;
mod parts;
mod portions;
mod rows;
mod runs;
mod schema;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use check::SegmentCheck;
pub use companion::{
    ArchivedBatch, COMPANION_HEADER_BYTES, CompanionTail, Fate, check_header as check_companion_header,
    read_tail as read_companion_tail,
};
pub use decode::{FileMetadata, decode_chunk, decode_chunk_into, decode_run_into, search_timestamp};
pub use encode::ChunkLimits;
pub use error::{DecodeError, EncodeError};
pub use runs::{RowGroupPages, Run};

use super::key::SegmentName;
use super::manifest::{CommitFacts, EpochStart, HeadIdentity, MANIFEST_FORMAT, Segment, Writer};
use super::spool::SpoolSlot;
use super::store::Payload;
use crate::log::ProducerRun;
use crate::record::{Batch, BatchHeader};
use crate::types::{Offset, ProducerId};

/// Footer key of the format stamp.
const FORMAT_KEY: &str = "alluvium.format";
/// Footer key of the description.
pub const DESCRIPTION_KEY: &str = "alluvium.segment";

/// A transaction that was aborted, by its data: batches of the producer in this range are not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: ProducerId,
    /// Offset of the transaction's first record.
    pub first_offset: Offset,
    /// Offset of its abort marker.
    pub last_offset: Offset,
}

/// What is to be encoded: a decided, durable run of batches.
#[derive(Clone, Debug)]
pub struct SegmentRequest {
    /// Which partition.
    pub identity: HeadIdentity,
    /// Offsets, writer and identity of the segment.
    pub name: SegmentName,
    /// Who writes it.
    pub writer: Writer,
    /// Transactions that were aborted in the range.
    pub aborted: Vec<AbortedTransaction>,
    /// The producers' state at the beginning of the range.
    pub producers: ProducerRun,
}

impl SegmentRequest {
    fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.attributes.is_transactional()
            && self.aborted.iter().any(|transaction| {
                transaction.producer_id == header.producer_id
                    && header.base_offset >= transaction.first_offset
                    && header.base_offset <= transaction.last_offset
            })
    }
}

/// An encoded and verified segment, spooled.
#[derive(Debug)]
pub struct Encoded {
    /// What the head will say about it.
    pub segment: Segment,
    /// What else the commit says.
    pub facts: CommitFacts,
    /// The Parquet object; `None` when no batch became rows.
    pub parquet: Option<Payload>,
    /// The companion object; `None` when there is nothing beside rows.
    pub companion: Option<Payload>,
}

/// Encodes the batches of one sealed segment into `slot`, and verifies that they read back.
pub fn encode<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    request: &SegmentRequest,
    limits: ChunkLimits,
    batches: impl Iterator<Item = Result<Batch, E>>,
    slot: &SpoolSlot,
) -> Result<Encoded, EncodeError> {
    write(request, limits, batches, slot)?.verify(|| true)
}

/// An encoded segment that was not verified yet, and so can't be uploaded.
#[derive(Debug)]
pub struct Written(Encoded);

/// Encodes the batches of one sealed segment into `slot`: the first half of [`encode()`].
pub fn write<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    request: &SegmentRequest,
    limits: ChunkLimits,
    batches: impl Iterator<Item = Result<Batch, E>>,
    slot: &SpoolSlot,
) -> Result<Written, EncodeError> {
    encode::encode_batches(request, limits, batches, slot).map(Written)
}

impl Written {
    /// Verifies that what was encoded reads back, as long as that `is_wanted`: the second half of [`encode()`].
    pub fn verify(self, is_wanted: impl Fn() -> bool) -> Result<Encoded, EncodeError> {
        verify(&self.0, is_wanted)?;
        Ok(self.0)
    }
}

/// Reads what was spooled from its first to its last byte, decodes it and compares it with what was read from the log.
fn verify(encoded: &Encoded, is_wanted: impl Fn() -> bool) -> Result<(), EncodeError> {
    let segment = &encoded.segment;
    if let Err(error) = segment.check() {
        // The numbers are this process's own.
        panic!("a segment was encoded with numbers that do not add up: {error}");
    }
    let read = |payload: &Option<Payload>, range: Range<u64>| match payload {
        Some(payload) => payload.read(range.start, usize::try_from(range.end - range.start).unwrap_or(usize::MAX)),
        None => Ok(Bytes::new()),
    };
    let [before, after] = segment.parquet_ends();
    let parquet = [read(&encoded.parquet, before)?, read(&encoded.parquet, after)?];
    let [before, after] = segment.companion_ends();
    let companion = [read(&encoded.companion, before)?, read(&encoded.companion, after)?];
    let mut check = SegmentCheck::begin(segment.clone(), parquet, companion)?;
    for chunk in segment.chunks() {
        if !is_wanted() {
            return Err(EncodeError::Abandoned);
        }
        let (parquet, companion) = (chunk.parquet.clone(), chunk.companion.clone());
        check.add(&chunk, read(&encoded.parquet, parquet)?, read(&encoded.companion, companion)?)?;
    }
    Ok(check.finish()?)
}

/// What the objects of a segment say about themselves, so that a lost head can be made again from them. Lengths and hashes
/// of the objects are left at 0: whoever reads this has the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The format of the objects and of this description.
    pub format: u32,
    /// Which partition.
    pub identity: HeadIdentity,
    /// Who wrote them.
    pub writer: Writer,
    /// As in the head, without lengths and hashes of the objects.
    pub segment: Segment,
    /// Leader epochs that begin in the segment, or were in force at its base.
    pub epochs: Vec<EpochStart>,
    /// Largest producer id in the segment.
    pub max_producer_id: Option<ProducerId>,
    /// Segments that this one took the place of.
    pub replaces: Vec<SegmentName>,
}

impl Description {
    fn new(request: &SegmentRequest, segment: &Segment, facts: &CommitFacts) -> Self {
        Self {
            format: MANIFEST_FORMAT,
            identity: request.identity.clone(),
            writer: request.writer,
            segment: segment.clone(),
            epochs: facts.epochs.clone(),
            max_producer_id: facts.max_producer_id,
            replaces: Vec::new(),
        }
    }

    fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("a description holds nothing that JSON cannot").into()
    }

    /// The footer's key-value list: the description, and its main facts for people.
    fn key_values(&self) -> Vec<(&'static str, String)> {
        let name = &self.segment.name;
        let json = serde_json::to_string(self).expect("a description holds nothing that JSON cannot");
        vec![
            (FORMAT_KEY, self.format.to_string()),
            ("alluvium.topic", self.identity.topic.clone()),
            ("alluvium.topic_id", self.identity.topic_id.to_string()),
            ("alluvium.partition", self.identity.partition.to_string()),
            ("alluvium.base_offset", name.base.to_string()),
            ("alluvium.next_offset", name.next.to_string()),
            (DESCRIPTION_KEY, json),
        ]
    }

    /// Reads a description from a footer or a companion object.
    pub fn parse(json: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(json)
            .map_err(|_| DecodeError::Malformed { what: "segment description is not understood", at: 0 })
    }
}
