//! What can be wrong with a record batch.

use thiserror::Error;

/// A batch or record that does not follow the format or a rule. Each variant says how a producer is answered; clients
/// retry `CORRUPT_MESSAGE` and split on `MESSAGE_TOO_LARGE`, and give up on the others.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes end before the batch or record does. Answered as `CORRUPT_MESSAGE`.
    #[error("record data is truncated needed_bytes={needed} available_bytes={available}")]
    Truncated {
        /// Bytes that the format calls for.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// Message formats 0 and 1 are not accepted; Apache Kafka 4 dropped them too (KIP-724). Answered as
    /// `INVALID_RECORD`.
    #[error("unsupported record format magic={magic}; produce with message format 2")]
    UnsupportedMagic {
        /// The format number found.
        magic: i8,
    },
    /// The checksum over the batch does not match its bytes. Answered as `CORRUPT_MESSAGE`.
    #[error("record batch checksum mismatch stored={stored:#010x} computed={computed:#010x}")]
    ChecksumMismatch {
        /// Checksum in the header.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// A length, count, delta or attribute contradicts the rest of the batch. Answered as `CORRUPT_MESSAGE`.
    #[error("record batch is malformed: {what} value={value}")]
    Malformed {
        /// Which field, and what is wrong with it.
        what: &'static str,
        /// The value found.
        value: i64,
    },
    /// The attributes name no codec, or one that the request's version may not use. Answered as
    /// `UNSUPPORTED_COMPRESSION_TYPE`.
    #[error("unsupported compression codec id={id}")]
    UnsupportedCompression {
        /// The codec's number in the attributes.
        id: i16,
    },
    /// Compressed data that does not decompress, or a payload that a codec can't take. Answered as `INVALID_RECORD`.
    #[error("compressed records are corrupt codec={codec}")]
    CorruptCompression {
        /// The codec that the attributes name.
        codec: &'static str,
    },
    /// Decompressing would pass the caller's limit. Answered as `MESSAGE_TOO_LARGE`.
    #[error("decompressed records exceed the limit limit_bytes={limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A batch larger than `max.message.bytes`. Answered as `MESSAGE_TOO_LARGE`.
    #[error("record batch is larger than max.message.bytes batch_bytes={bytes} limit_bytes={limit}")]
    BatchTooLarge {
        /// Size of the batch.
        bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// A batch larger than `segment.bytes`. Answered as `RECORD_LIST_TOO_LARGE`.
    #[error("record batch is larger than segment.bytes batch_bytes={bytes} limit_bytes={limit}")]
    LargerThanSegment {
        /// Size of the batch.
        bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// The bytes are not one whole batch, which is seen before any log is looked at; the text is for the client. Answered
    /// as `INVALID_RECORD`.
    #[error("invalid records: {reason}")]
    NotOneBatch {
        /// What is missing, or too much.
        reason: &'static str,
    },
    /// A rule for produced batches is broken; the text is for the client. Answered as `INVALID_RECORD`.
    #[error("invalid record batch: {reason}")]
    InvalidBatch {
        /// Which rule.
        reason: &'static str,
    },
    /// Single records break a rule of the topic, so none of the batch is appended. Answered as `INVALID_TIMESTAMP` when
    /// any of them is refused for its timestamp, else as `INVALID_RECORD`, with the records' indexes (KIP-467).
    #[error("records of the batch are rejected rejected={}", records.len())]
    RecordsRejected {
        /// The rejected records, the first [`MAX_REJECTED_RECORDS`](super::MAX_REJECTED_RECORDS) of them.
        records: Vec<RejectedRecord>,
    },
}

/// A record that the topic does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The record's place in its batch, from 0.
    pub index: i32,
    /// What is wrong with it.
    pub rejection: Rejection,
}

/// Why a record is rejected; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A compacted topic keeps the last record of each key.
    #[error("compacted topics cannot accept a record without key")]
    KeyMissing,
    /// Outside `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`.
    #[error("timestamp is outside what the topic accepts timestamp={timestamp} earliest={earliest} latest={latest}")]
    TimestampOutOfRange {
        /// The record's timestamp.
        timestamp: i64,
        /// The earliest that is accepted now.
        earliest: i64,
        /// The latest that is accepted now.
        latest: i64,
    },
    /// Only the broker sets `LogAppendTime`.
    #[error("producers must not set the timestamp type to LogAppendTime")]
    LogAppendTimeFromProducer,
}

impl Rejection {
    /// True when the answer is `INVALID_TIMESTAMP`.
    pub const fn is_timestamp(self) -> bool {
        matches!(self, Self::TimestampOutOfRange { .. } | Self::LogAppendTimeFromProducer)
    }
}
