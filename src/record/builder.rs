//! Builds record batches, for what the broker writes itself and for batches rebuilt from the archive.
//!
//! A batch comes out byte for byte as the Java client writes it (`MemoryRecordsBuilder`, `DefaultRecord.writeTo`):
//! shortest varints, record attributes 0, timestamps relative to the first record's unless a base is given.

use super::compression::compress;
use super::header::LENGTH_PREFIX_BYTES;
use super::varint::{varint_bytes, varlong_bytes, write_varint, write_varlong};
use super::{Attributes, Batch, BatchHeader, Compression, HEADER_BYTES, HeaderView, RecordError, TimestampType};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// What a batch carries beside its records. The default is an uncompressed batch of plain data with no producer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Codec, timestamp type and kind. With a delete horizon, `base_timestamp` is the horizon.
    pub attributes: Attributes,
    /// Producer id, or −1.
    pub producer_id: ProducerId,
    /// Producer epoch, or −1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or −1.
    pub base_sequence: i32,
    /// Timestamp that records are relative to; the first record's by default.
    pub base_timestamp: Option<Timestamp>,
    /// Largest timestamp; that of the records by default. Must be given for `LogAppendTime`.
    pub max_timestamp: Option<Timestamp>,
    /// Last offset minus base offset; the last record's by default. Larger where compaction removed the end.
    pub last_offset_delta: Option<i32>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            attributes: Attributes::default(),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            base_timestamp: None,
            max_timestamp: None,
            last_offset_delta: None,
        }
    }
}

impl BatchOptions {
    /// The defaults with a codec.
    pub fn compressed(codec: Compression) -> Self {
        Self { attributes: Attributes::default().with_compression(codec), ..Self::default() }
    }

    /// What `header` says beside offsets, epoch and length: a batch built from its records with these equals the
    /// original.
    pub const fn of(header: &BatchHeader) -> Self {
        Self {
            attributes: header.attributes,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            base_timestamp: Some(header.base_timestamp),
            max_timestamp: Some(header.max_timestamp),
            last_offset_delta: Some(header.last_offset_delta),
        }
    }
}

/// Collects records into a batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    records: Vec<u8>,
    count: i32,
    last_offset_delta: i32,
    base_timestamp: Option<Timestamp>,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// Starts an empty batch.
    pub const fn new(options: BatchOptions) -> Self {
        Self {
            base_timestamp: options.base_timestamp,
            options,
            records: Vec::new(),
            count: 0,
            last_offset_delta: -1,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Adds a record at the next offset.
    pub fn append<'a>(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = HeaderView<'a>> + Clone,
    ) {
        self.append_at(self.last_offset_delta + 1, timestamp, key, value, headers);
    }

    /// Adds a record at an offset relative to the base; offsets only grow.
    pub fn append_at<'a>(
        &mut self,
        offset_delta: i32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = HeaderView<'a>> + Clone,
    ) {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        let timestamp_delta = timestamp.0.wrapping_sub(base.0);
        let header_count = headers.clone().count();
        let headers_bytes: usize =
            headers.clone().map(|header| field_bytes(Some(header.key)) + field_bytes(header.value)).sum();
        let body_bytes = 1
            + varlong_bytes(timestamp_delta)
            + varint_bytes(offset_delta)
            + field_bytes(key)
            + field_bytes(value)
            + varint_bytes(length_of(header_count))
            + headers_bytes;

        let out = &mut self.records;
        write_varint(out, length_of(body_bytes));
        out.push(0);
        write_varlong(out, timestamp_delta);
        write_varint(out, offset_delta);
        write_field(out, key);
        write_field(out, value);
        write_varint(out, length_of(header_count));
        for header in headers {
            write_field(out, Some(header.key));
            write_field(out, header.value);
        }
        self.count += 1;
        self.last_offset_delta = offset_delta;
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    /// Records so far.
    pub const fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch so far, before compression.
    pub const fn uncompressed_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Compresses the records and puts the header before them. Fails when the batch would pass 2 GiB.
    pub fn build(self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<Batch, RecordError> {
        let options = self.options;
        // Kafka writes an empty payload as it is, whatever the codec (`MemoryRecords.writeEmptyHeader`).
        let codec = if self.count == 0 { Compression::None } else { options.attributes.compression()? };
        let payload = if codec == Compression::None { self.records } else { compress(codec, &self.records)? };
        let header = BatchHeader {
            base_offset,
            batch_length: i32::try_from(HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len())
                .map_err(|_| RecordError::TooLarge { limit: i32::MAX as usize })?,
            leader_epoch,
            checksum: 0,
            attributes: options.attributes,
            last_offset_delta: options.last_offset_delta.unwrap_or(self.last_offset_delta).max(0),
            base_timestamp: self.base_timestamp.unwrap_or(Timestamp::NONE),
            max_timestamp: options.max_timestamp.unwrap_or(self.max_timestamp),
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            record_count: self.count,
        };
        assert!(
            options.attributes.timestamp_type() == TimestampType::CreateTime || options.max_timestamp.is_some(),
            "a LogAppendTime batch needs its time"
        );
        Batch::from_parts(header, &payload)
    }
}

fn length_of(length: usize) -> i32 {
    i32::try_from(length).expect("a record is built from parts of a batch, which is smaller than 2 GiB")
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint_bytes(length_of(bytes.len())) + bytes.len())
}

fn write_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varint(out, length_of(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}
