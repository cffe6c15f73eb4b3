//! What can be wrong with a record batch.

use thiserror::Error;

/// A batch or record that does not follow the format or a rule; the variant decides the Kafka error code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes end before the batch or record does.
    #[error("record data is truncated needed_bytes={needed} available_bytes={available}")]
    Truncated {
        /// Bytes that the format calls for.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// Message formats 0 and 1 are not accepted; Apache Kafka 4 dropped them too (KIP-724).
    #[error("unsupported record format magic={magic}; produce with message format 2")]
    UnsupportedMagic {
        /// The format number found.
        magic: i8,
    },
    /// The checksum over the batch does not match its bytes.
    #[error("record batch checksum mismatch stored={stored:#010x} computed={computed:#010x}")]
    ChecksumMismatch {
        /// Checksum in the header.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// A length, count, delta or attribute contradicts the rest of the batch.
    #[error("record batch is malformed: {what} value={value}")]
    Malformed {
        /// Which field, and what is wrong with it.
        what: &'static str,
        /// The value found.
        value: i64,
    },
    /// Compressed data that does not decompress.
    #[error("compressed records are corrupt codec={codec}")]
    CorruptCompression {
        /// The codec that the attributes name.
        codec: &'static str,
    },
    /// Decompressing would pass the caller's limit.
    #[error("decompressed records exceed the limit limit_bytes={limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A timestamp outside what the topic accepts (`message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`).
    #[error("record timestamp is outside the range that the topic accepts timestamp={timestamp}")]
    InvalidTimestamp {
        /// The timestamp found.
        timestamp: i64,
    },
    /// A rule for produced records is broken; the text is for the client.
    #[error("invalid record: {reason}")]
    InvalidRecord {
        /// Which rule.
        reason: &'static str,
    },
}
