//! One record batch over shared bytes, and the walk over several.

use bytes::{Bytes, BytesMut};

use super::compression::{compress, decompress};
use super::header::{CHECKSUM_AT, CHECKSUM_START, LEADER_EPOCH_AT, LENGTH_PREFIX_BYTES};
use super::{BatchHeader, Compression, HEADER_BYTES, RecordError};
use crate::types::{LeaderEpoch, Offset};

/// Exactly one batch: its header, decoded, and its bytes, shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Takes the batch at the start of `bytes` and leaves what follows it. The checksum is not verified here.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let header = BatchHeader::read(bytes)?;
        let total = header.total_bytes();
        if total > bytes.len() {
            return Err(RecordError::Truncated { needed: total, available: bytes.len() });
        }
        Ok(Self { header, bytes: bytes.split_to(total) })
    }

    /// The decoded header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records as stored: compressed when the header says so.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// The records, decompressed: a slice of the batch when they are stored as they are. Fails once they would pass
    /// `limit_bytes`.
    pub fn decompressed(&self, limit_bytes: usize) -> Result<Bytes, RecordError> {
        let payload = self.payload();
        match self.header.attributes.compression()? {
            Compression::None => Ok(payload),
            // Compaction leaves empty batches with their attributes.
            _ if payload.is_empty() => Ok(payload),
            codec => decompress(codec, &payload, limit_bytes),
        }
    }

    /// Checks the CRC-32C over everything from the attributes on.
    pub fn verify_checksum(&self) -> Result<(), RecordError> {
        let computed = checksum(&self.bytes);
        if computed != self.header.checksum {
            return Err(RecordError::ChecksumMismatch { stored: self.header.checksum, computed });
        }
        Ok(())
    }

    /// The same records in another codec; `self` must be uncompressed.
    pub fn compressed(&self, codec: Compression) -> Result<Self, RecordError> {
        assert_eq!(self.header.attributes.compression(), Ok(Compression::None), "the batch is compressed already");
        let payload = compress(codec, &self.bytes[HEADER_BYTES..])?;
        let batch_length = i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len())
            .map_err(|_| RecordError::TooLarge { limit: i32::MAX as usize })?;
        let attributes = self.header.attributes.with_compression(codec);
        Self::from_parts(BatchHeader { batch_length, attributes, ..self.header }, &payload)
    }

    /// A batch of a header and its records as stored; the checksum is made here.
    pub(super) fn from_parts(header: BatchHeader, payload: &[u8]) -> Result<Self, RecordError> {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&header.write());
        bytes.extend_from_slice(payload);
        let checksum = checksum(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_be_bytes());
        Self::split_from(&mut bytes.freeze())
    }

    /// The same batch with base offset and leader epoch set, which the checksum does not cover. Copies the bytes.
    #[must_use]
    pub fn placed(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        place(&mut bytes, base_offset, leader_epoch);
        let header = BatchHeader { base_offset, leader_epoch, ..self.header };
        Self { header, bytes: bytes.freeze() }
    }
}

/// CRC-32C over the checksummed part of a whole batch.
pub(super) fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[CHECKSUM_START..])
}

/// The checksum that the bytes of a batch, at least a header, carry.
pub(super) fn stored_checksum(batch: &[u8]) -> u32 {
    let field = &batch[CHECKSUM_AT..CHECKSUM_AT + 4];
    u32::from_be_bytes(field.try_into().expect("the slice is four bytes"))
}

/// Sets base offset and leader epoch in the bytes of a batch.
pub fn place(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// Walks the batches that lie one after another in `bytes`; stops after the first error.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Starts the walk.
    pub const fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::split_from(&mut self.rest);
        if batch.is_err() {
            self.rest.clear();
        }
        Some(batch)
    }
}
