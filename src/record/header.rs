//! The 61-byte header of a record batch, magic 2.
//!
//! ```text
//!  0 base_offset i64      8 batch_length i32 (bytes after this field)   12 leader_epoch i32   16 magic i8
//! 17 crc u32 (CRC-32C of all bytes from 21)     21 attributes i16       23 last_offset_delta i32
//! 27 base_timestamp i64  35 max_timestamp i64   43 producer_id i64      51 producer_epoch i16
//! 53 base_sequence i32   57 record_count i32    61 records
//! ```
//! All numbers are big-endian. Base offset and leader epoch lie outside the checksum, so that a broker may set them.

use super::RecordError;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// Bytes of a batch header; the smallest batch.
pub const HEADER_BYTES: usize = 61;
/// Bytes before and including `batch_length`, which do not count towards it.
pub(super) const LENGTH_PREFIX_BYTES: usize = 12;
/// Where the checksummed bytes begin.
pub(super) const CHECKSUM_START: usize = 21;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CHECKSUM_AT: usize = 17;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy in xerial framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// The codec's number in the attributes (bits 0–2).
    pub const fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec's name in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer, per record.
    CreateTime,
    /// The broker: every record has the batch's maximum timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const TIMESTAMP_TYPE: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec, or an error for a number that names none.
    pub fn compression(self) -> Result<Compression, RecordError> {
        match self.0 & 0b111 {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            id => Err(RecordError::UnsupportedCompression { id }),
        }
    }

    /// Who set the timestamps.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::TIMESTAMP_TYPE == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Part of a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Holds a transaction marker instead of data.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// The same attributes with another codec.
    #[must_use]
    pub const fn with_compression(self, codec: Compression) -> Self {
        Self((self.0 & !0b111) | codec.id())
    }

    /// The same attributes with another timestamp type.
    #[must_use]
    pub const fn with_timestamp_type(self, kind: TimestampType) -> Self {
        match kind {
            TimestampType::CreateTime => Self(self.0 & !Self::TIMESTAMP_TYPE),
            TimestampType::LogAppendTime => Self(self.0 | Self::TIMESTAMP_TYPE),
        }
    }

    /// The same attributes marked transactional or not.
    #[must_use]
    pub const fn with_transactional(self, yes: bool) -> Self {
        if yes { Self(self.0 | Self::TRANSACTIONAL) } else { Self(self.0 & !Self::TRANSACTIONAL) }
    }

    /// The same attributes with the base timestamp marked as a delete horizon or not.
    #[must_use]
    pub const fn with_delete_horizon(self, yes: bool) -> Self {
        if yes { Self(self.0 | Self::DELETE_HORIZON) } else { Self(self.0 & !Self::DELETE_HORIZON) }
    }

    /// The same attributes marked as a control batch or not.
    #[must_use]
    pub const fn with_control(self, yes: bool) -> Self {
        if yes { Self(self.0 | Self::CONTROL) } else { Self(self.0 & !Self::CONTROL) }
    }
}

/// A decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the batch after the length field.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch.
    pub leader_epoch: LeaderEpoch,
    /// Stored CRC-32C.
    pub checksum: u32,
    /// Codec, timestamp type and kind.
    pub attributes: Attributes,
    /// Last offset minus base offset; survives compaction.
    pub last_offset_delta: i32,
    /// Timestamp that records are relative to.
    pub base_timestamp: Timestamp,
    /// Largest timestamp of the batch.
    pub max_timestamp: Timestamp,
    /// Producer id, or −1.
    pub producer_id: ProducerId,
    /// Producer epoch, or −1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or −1.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads a header and checks what every stored batch keeps: magic, a length that covers the header, and sane
    /// deltas. Neither the checksum nor the presence of the whole batch is checked.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(RecordError::Truncated { needed: HEADER_BYTES, available: bytes.len() });
        };
        let magic = fixed[MAGIC_AT].cast_signed();
        if magic != 2 {
            return Err(RecordError::UnsupportedMagic { magic });
        }
        let header = Self {
            base_offset: Offset(i64::from_be_bytes(field(fixed, 0))),
            batch_length: i32::from_be_bytes(field(fixed, 8)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(fixed, LEADER_EPOCH_AT))),
            checksum: u32::from_be_bytes(field(fixed, CHECKSUM_AT)),
            attributes: Attributes(i16::from_be_bytes(field(fixed, 21))),
            last_offset_delta: i32::from_be_bytes(field(fixed, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(field(fixed, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(field(fixed, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(fixed, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(fixed, 51))),
            base_sequence: i32::from_be_bytes(field(fixed, 53)),
            record_count: i32::from_be_bytes(field(fixed, 57)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), RecordError> {
        let malformed = |what, value: i32| Err(RecordError::Malformed { what, value: i64::from(value) });
        if self.batch_length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            return malformed("batch length is smaller than a header", self.batch_length);
        }
        if self.last_offset_delta < 0 {
            return malformed("last offset delta is negative", self.last_offset_delta);
        }
        if self.record_count < 0 {
            return malformed("record count is negative", self.record_count);
        }
        if self.base_offset.0.checked_add(i64::from(self.last_offset_delta) + 1).is_none() {
            return Err(RecordError::Malformed { what: "offsets overflow", value: self.base_offset.0 });
        }
        Ok(())
    }

    /// Writes the header, checksum as given.
    pub fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        bytes[MAGIC_AT] = 2;
        bytes[17..21].copy_from_slice(&self.checksum.to_be_bytes());
        bytes[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        bytes[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        bytes[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        bytes[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        bytes[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        bytes
    }

    /// Bytes of the whole batch, header and prefix included.
    pub const fn total_bytes(&self) -> usize {
        self.batch_length.cast_unsigned() as usize + LENGTH_PREFIX_BYTES
    }

    /// Offset of the last record (or where it was, after compaction).
    pub const fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + self.last_offset_delta as i64)
    }

    /// First offset after the batch.
    pub const fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0 + self.last_offset_delta as i64 + 1)
    }

    /// Sequence of the last record; sequences wrap from `i32::MAX` to 0 (KIP-98).
    pub const fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// Adds to a producer sequence number, wrapping from `i32::MAX` to 0.
const fn add_sequence(sequence: i32, delta: i32) -> i32 {
    if sequence < 0 {
        return sequence;
    }
    ((sequence as i64 + delta as i64) % (i32::MAX as i64 + 1)) as i32
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("field offsets lie within the header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BatchHeader {
        BatchHeader {
            base_offset: Offset(42),
            batch_length: 100,
            leader_epoch: LeaderEpoch(3),
            checksum: 0xdead_beef,
            attributes: Attributes(0b1_1000).with_compression(Compression::Zstd),
            last_offset_delta: 9,
            base_timestamp: Timestamp(1),
            max_timestamp: Timestamp(2),
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(1),
            base_sequence: i32::MAX - 4,
            record_count: 10,
        }
    }

    #[test]
    fn header_reads_back_as_written() {
        let header = sample();
        assert_eq!(BatchHeader::read(&header.write()), Ok(header));
        assert_eq!(header.next_offset(), Offset(52));
        assert_eq!(header.last_sequence(), 4);
        assert_eq!(header.attributes.compression(), Ok(Compression::Zstd));
    }

    #[test]
    fn old_magic_and_lying_lengths_are_refused() {
        let mut bytes = sample().write();
        bytes[MAGIC_AT] = 1;
        assert_eq!(BatchHeader::read(&bytes), Err(RecordError::UnsupportedMagic { magic: 1 }));
        let short = BatchHeader { batch_length: 48, ..sample() };
        assert!(matches!(BatchHeader::read(&short.write()), Err(RecordError::Malformed { .. })));
        let overflow = BatchHeader { base_offset: Offset(i64::MAX - 3), ..sample() };
        assert!(matches!(BatchHeader::read(&overflow.write()), Err(RecordError::Malformed { .. })));
        assert!(matches!(BatchHeader::read(&bytes[..60]), Err(RecordError::Truncated { .. })));
    }
}
