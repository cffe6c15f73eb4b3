//! The rules for produced batches: Apache Kafka's `ProduceRequest.validateRecords`,
//! `UnifiedLog.analyzeAndValidateRecords` and `LogValidator`, for message format 2.
//!
//! A batch that keeps the rules is passed on as it came: compressed records are walked over in bounded memory and never
//! written again, unless the topic asks for another codec. Stricter than Kafka are: offset deltas count up from 0 (Kafka
//! stores uncompressed batches where they don't, and its readers then disagree about offsets); null lengths are −1 and
//! nothing below; nothing follows the last gzip member. Where Kafka fails with an internal error, as on compressed data
//! that is damaged behind a right checksum, the error here says what is wrong.

use bytes::Bytes;

use super::batch::{checksum, stored_checksum};
use super::compression::{Decompression, MAX_DECOMPRESSED_BYTES};
use super::header::{LENGTH_PREFIX_BYTES, MAGIC_AT};
use super::scan::{CompressedSource, Flaw, PlainSource, Source};
use super::{
    Batch, BatchBuilder, BatchHeader, BatchOptions, Compression, HEADER_BYTES, RecordError, RejectedRecord, Rejection,
    TimestampType,
};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// The most rejected records that one answer names; Kafka names all, which a hostile batch can make larger than itself.
pub const MAX_REJECTED_RECORDS: usize = 100;

/// Bytes of the smallest legacy record, below which Kafka takes a length field for damage.
const SMALLEST_RECORD_BYTES: i32 = 14;

/// What a topic demands of the batches produced to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: the largest batch, header included, as it is stored.
    pub max_message_bytes: usize,
    /// `segment.bytes`: no batch is larger than a segment.
    pub segment_bytes: usize,
    /// The most that a batch may decompress to, no more than [`MAX_DECOMPRESSED_BYTES`]: it is memory for whoever needs all of it.
    pub max_decompressed_bytes: usize,
    /// `compression.type`: the codec to store with; `None` keeps the producer's.
    pub compression: Option<Compression>,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` holds `compact`: every record needs a key.
    pub compacted: bool,
    /// The Produce version is 7 or later: older clients can't read zstd (KIP-110).
    pub zstd_allowed: bool,
}

impl Default for ProduceRules {
    /// Apache Kafka's defaults.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            segment_bytes: 1 << 30,
            max_decompressed_bytes: MAX_DECOMPRESSED_BYTES,
            compression: None,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compacted: false,
            zstd_allowed: true,
        }
    }
}

/// Checks the records that a producer sent for one partition and returns the one batch to append, at offset 0 still.
///
/// The batch shares `bytes` unless a rule changes it. Whether transactional batches are welcome, and producer state,
/// are for the caller. Damaged bytes are `Malformed` or `ChecksumMismatch`; what breaks a rule behind a right checksum
/// is `InvalidBatch`, or `RecordsRejected` where single records do.
pub fn validate(bytes: Bytes, rules: &ProduceRules, now: Timestamp) -> Result<Batch, RecordError> {
    let batch = only_batch(bytes, rules)?;
    check_header(batch.header())?;
    let codec = batch.header().attributes.compression()?;
    if codec == Compression::Zstd && !rules.zstd_allowed {
        return Err(RecordError::UnsupportedCompression { id: codec.id() });
    }
    let payload = batch.payload();
    let largest_timestamp = if codec == Compression::None {
        walk(&mut PlainSource::new(&payload), batch.header(), rules, now)
    } else {
        let stream = Decompression::new(codec, &payload, rules.max_decompressed_bytes)?;
        walk(&mut CompressedSource::new(stream), batch.header(), rules, now)
    };
    let largest_timestamp = largest_timestamp?;

    let max_timestamp = match rules.timestamp_type {
        TimestampType::CreateTime => largest_timestamp,
        TimestampType::LogAppendTime => now,
    };
    let target = rules.compression.unwrap_or(codec);
    if target == codec {
        return with_timestamps(batch, rules.timestamp_type, max_timestamp);
    }
    let rebuilt = rebuild(&batch, target, rules.timestamp_type, max_timestamp)?;
    check_size(rebuilt.bytes().len(), rules)?;
    Ok(rebuilt)
}

/// The one batch of the request, whole and with the right checksum. A tail too short for another batch is cut off, as
/// Kafka does.
fn only_batch(mut bytes: Bytes, rules: &ProduceRules) -> Result<Batch, RecordError> {
    let Some(size) = next_batch_bytes(&bytes)? else {
        return Err(RecordError::NotOneBatch { reason: "a partition needs one record batch" });
    };
    let magic = bytes[MAGIC_AT].cast_signed();
    if magic != 2 {
        return Err(RecordError::UnsupportedMagic { magic });
    }
    if size < HEADER_BYTES {
        return Err(RecordError::Malformed { what: "batch is smaller than its header", value: size as i64 });
    }
    let rest = bytes.split_off(size);
    if next_batch_bytes(&rest)?.is_some() {
        return Err(RecordError::NotOneBatch { reason: "a partition may have only one record batch" });
    }
    check_size(size, rules)?;
    let batch = Batch::split_from(&mut bytes.clone());
    // What the header says is worth an answer only when the checksum covers it.
    let stored = stored_checksum(&bytes);
    let computed = checksum(&bytes);
    if stored != computed {
        return Err(RecordError::ChecksumMismatch { stored, computed });
    }
    batch.map_err(behind_right_checksum)
}

/// Bytes of the batch that starts here, `None` where too few are left for one (`ByteBufferLogInputStream`).
fn next_batch_bytes(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    if bytes.len() < LENGTH_PREFIX_BYTES {
        return Ok(None);
    }
    let length =
        i32::from_be_bytes(bytes[8..LENGTH_PREFIX_BYTES].try_into().expect("four bytes of the checked prefix"));
    if length < SMALLEST_RECORD_BYTES {
        return Err(RecordError::Malformed {
            what: "batch length is smaller than any record",
            value: i64::from(length),
        });
    }
    if bytes.len() <= MAGIC_AT {
        return Ok(None);
    }
    let magic = bytes[MAGIC_AT].cast_signed();
    if !(0..=2).contains(&magic) {
        return Err(RecordError::Malformed { what: "batch has an unknown magic", value: i64::from(magic) });
    }
    let size = LENGTH_PREFIX_BYTES + length.cast_unsigned() as usize;
    Ok(Some(size).filter(|&size| size <= bytes.len()))
}

fn check_size(bytes: usize, rules: &ProduceRules) -> Result<(), RecordError> {
    if bytes > rules.max_message_bytes {
        return Err(RecordError::BatchTooLarge { bytes, limit: rules.max_message_bytes });
    }
    if bytes > rules.segment_bytes {
        return Err(RecordError::LargerThanSegment { bytes, limit: rules.segment_bytes });
    }
    Ok(())
}

fn check_header(header: &BatchHeader) -> Result<(), RecordError> {
    let invalid = |reason| Err(RecordError::InvalidBatch { reason });
    if header.base_offset != Offset::ZERO {
        return invalid("the base offset of a produced batch must be 0");
    }
    if header.record_count <= 0 {
        return invalid("the record count must be positive");
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return invalid("the record count does not match the offset range");
    }
    if header.attributes.is_control() {
        return invalid("clients are not allowed to write control records");
    }
    if header.producer_id.is_some() && header.base_sequence < 0 {
        return invalid("a batch with a producer id needs a sequence number");
    }
    Ok(())
}

/// Damage behind a right checksum is the producer's doing: `INVALID_RECORD` and not `CORRUPT_MESSAGE`, which is
/// retried.
fn behind_right_checksum(error: RecordError) -> RecordError {
    match error {
        RecordError::Malformed { what, .. } => RecordError::InvalidBatch { reason: what },
        other => other,
    }
}

/// Passes over every record, checking structure, offset, key and timestamp; returns the largest timestamp.
fn walk(
    source: &mut impl Source,
    header: &BatchHeader,
    rules: &ProduceRules,
    now: Timestamp,
) -> Result<Timestamp, RecordError> {
    let mut largest = Timestamp::NONE;
    // As the records will be read: by their own times, whatever the producer's batch says of them.
    let stored = BatchHeader { attributes: header.attributes.with_timestamp_type(rules.timestamp_type), ..*header };
    let mut rejected = Vec::new();
    for index in 0..header.record_count {
        let record = source.record().map_err(|flaw| refusal(source, flaw))?;
        if record.offset_delta != index {
            return Err(RecordError::InvalidBatch { reason: "offset deltas do not count up from 0" });
        }
        let (claimed, own) = (header.timestamp_of(record.timestamp_delta), stored.timestamp_of(record.timestamp_delta));
        let rejection = if rules.compacted && !record.has_key {
            Some(Rejection::KeyMissing)
        } else if let Some(rejection) = reject_timestamp(claimed, header, rules, now) {
            Some(rejection)
        } else if own != claimed {
            // Apache Kafka judges the claim alone, behind which a record could be younger than any retention.
            out_of_range(own, rules, now)
        } else {
            None
        };
        if let Some(rejection) = rejection
            && rejected.len() < MAX_REJECTED_RECORDS
        {
            rejected.push(RejectedRecord { index, rejection });
        }
        largest = largest.max(own);
    }
    if !source.at_end().map_err(|flaw| refusal(source, flaw))? {
        return Err(RecordError::InvalidBatch { reason: "bytes are left over after the last record" });
    }
    if rejected.is_empty() { Ok(largest) } else { Err(RecordError::RecordsRejected { records: rejected }) }
}

fn refusal(source: &mut impl Source, flaw: Flaw) -> RecordError {
    source.take_error().unwrap_or(RecordError::InvalidBatch { reason: flaw.reason() })
}

/// `LogValidator.validateTimestamp`, whose odd corner (a batch marked LogAppendTime is refused only where its time is
/// not checked) is kept.
fn reject_timestamp(
    timestamp: Timestamp,
    header: &BatchHeader,
    rules: &ProduceRules,
    now: Timestamp,
) -> Option<Rejection> {
    if is_judged(timestamp, rules) {
        return out_of_range(timestamp, rules, now);
    }
    (header.attributes.timestamp_type() == TimestampType::LogAppendTime).then_some(Rejection::LogAppendTimeFromProducer)
}

fn is_judged(timestamp: Timestamp, rules: &ProduceRules) -> bool {
    rules.timestamp_type == TimestampType::CreateTime && timestamp != Timestamp::NONE
}

fn out_of_range(timestamp: Timestamp, rules: &ProduceRules, now: Timestamp) -> Option<Rejection> {
    // Wraps as in Java, where a timestamp before the beginning of time is then one after its end.
    let age_ms = now.0.wrapping_sub(timestamp.0);
    let is_out = age_ms > rules.timestamp_before_max_ms || age_ms.wrapping_neg() > rules.timestamp_after_max_ms;
    (is_out && is_judged(timestamp, rules)).then(|| Rejection::TimestampOutOfRange {
        timestamp: timestamp.0,
        earliest: now.0.saturating_sub(rules.timestamp_before_max_ms),
        latest: now.0.saturating_add(rules.timestamp_after_max_ms),
    })
}

/// The batch with timestamp type and maximum timestamp set: as it came when they are right already, else a copy with a
/// new checksum; the records stay compressed as they are.
fn with_timestamps(
    batch: Batch,
    timestamp_type: TimestampType,
    max_timestamp: Timestamp,
) -> Result<Batch, RecordError> {
    let attributes = batch.header().attributes.with_timestamp_type(timestamp_type);
    if attributes == batch.header().attributes && max_timestamp == batch.header().max_timestamp {
        return Ok(batch);
    }
    Batch::from_parts(BatchHeader { attributes, max_timestamp, ..*batch.header() }, &batch.payload())
}

/// The same records in another codec, as `LogValidator.buildRecordsAndAssignOffsets` writes them.
fn rebuild(
    batch: &Batch,
    codec: Compression,
    timestamp_type: TimestampType,
    max_timestamp: Timestamp,
) -> Result<Batch, RecordError> {
    let header = batch.header();
    let attributes = header.attributes.with_compression(codec).with_timestamp_type(timestamp_type);
    let mut builder = BatchBuilder::new(BatchOptions {
        attributes: attributes.with_delete_horizon(false),
        max_timestamp: Some(max_timestamp),
        base_timestamp: None,
        last_offset_delta: None,
        ..BatchOptions::of(header)
    });
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
    // By their own times, as in `walk`.
    let own_times = BatchHeader { attributes: attributes.with_timestamp_type(TimestampType::CreateTime), ..*header };
    for record in own_times.records(&payload) {
        let record = record?;
        builder.append(record.timestamp, record.key, record.value, record.headers);
    }
    builder.build(Offset::ZERO, LeaderEpoch::NONE)
}

#[cfg(test)]
mod tests;
