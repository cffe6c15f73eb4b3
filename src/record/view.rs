//! Records and their headers as views over decompressed bytes.

use super::varint::{read_varint, read_varlong};
use super::{BatchHeader, RecordError, TimestampType};
use crate::types::{Offset, Timestamp};

/// One record, borrowed from the decompressed payload of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Timestamp minus the batch's base timestamp, in milliseconds.
    pub timestamp_delta: i64,
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Key; `None` is null, which differs from empty.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null, which differs from empty.
    pub value: Option<&'a [u8]>,
    /// Headers, in order.
    pub headers: Headers<'a>,
}

/// One record with its place in the partition, borrowed from the decompressed payload of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp: its own, or the batch's for `LogAppendTime`.
    pub timestamp: Timestamp,
    /// Key; `None` is null, which differs from empty.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null, which differs from empty.
    pub value: Option<&'a [u8]>,
    /// Headers, in order.
    pub headers: Headers<'a>,
}

impl BatchHeader {
    /// The records of this batch, given its decompressed payload ([`Batch::decompressed`](super::Batch::decompressed)).
    pub fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<Record<'a>, RecordError>> + use<'a> {
        let header = *self;
        Records::new(payload, header.record_count).map(move |record| {
            let RecordView { timestamp_delta, offset_delta, key, value, headers } = record?;
            let offset = Offset(header.base_offset.0.wrapping_add(i64::from(offset_delta)));
            Ok(Record { offset, timestamp: header.timestamp_of(timestamp_delta), key, value, headers })
        })
    }

    /// A record's timestamp, given its distance from the base: that of the batch for `LogAppendTime`.
    pub const fn timestamp_of(&self, timestamp_delta: i64) -> Timestamp {
        match self.attributes.timestamp_type() {
            TimestampType::CreateTime => Timestamp(self.base_timestamp.0.wrapping_add(timestamp_delta)),
            TimestampType::LogAppendTime => self.max_timestamp,
        }
    }
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// Key as raw bytes; UTF-8 by convention only.
    pub key: &'a [u8],
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// Walks the headers of a record that [`Records`] has already checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl Headers<'_> {
    /// Headers left.
    pub const fn count_left(&self) -> usize {
        self.count
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        read_header(&mut self.bytes).ok()
    }
}

/// Walks the records in a decompressed payload, checking every length against the bytes that are there. Ends after the
/// first error; bytes left over after the last record are an error too.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: i32,
}

impl<'a> Records<'a> {
    /// Starts the walk over `count` records.
    pub const fn new(payload: &'a [u8], count: i32) -> Self {
        Self { rest: payload, left: count }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            if self.rest.is_empty() {
                return None;
            }
            let value = i64::try_from(self.rest.len()).unwrap_or(i64::MAX);
            self.rest = &[];
            return Some(Err(RecordError::Malformed { what: "bytes left over after the last record", value }));
        }
        self.left -= 1;
        let record = read_record(&mut self.rest);
        if record.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(record)
    }
}

fn read_record<'a>(rest: &mut &'a [u8]) -> Result<RecordView<'a>, RecordError> {
    let length = take_varint(rest)?;
    let mut body = take(rest, length)?;
    let _attributes = take(&mut body, 1)?;
    let (timestamp_delta, used) = read_varlong(body)?;
    body = &body[used..];
    let offset_delta = take_varint(&mut body)?;
    let key = take_nullable(&mut body)?;
    let value = take_nullable(&mut body)?;
    let count = take_varint(&mut body)?;
    // A header takes at least two bytes, which bounds a lying count.
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= body.len() / 2)
        .ok_or(RecordError::Malformed { what: "header count does not fit the record", value: i64::from(count) })?;
    let headers = Headers { bytes: body, count };
    for _ in 0..count {
        read_header(&mut body)?;
    }
    if !body.is_empty() {
        return Err(RecordError::Malformed { what: "record is longer than its fields", value: i64::from(length) });
    }
    Ok(RecordView { timestamp_delta, offset_delta, key, value, headers })
}

fn read_header<'a>(body: &mut &'a [u8]) -> Result<HeaderView<'a>, RecordError> {
    let length = take_varint(body)?;
    let key = take(body, length)?;
    let value = take_nullable(body)?;
    Ok(HeaderView { key, value })
}

fn take_varint(rest: &mut &[u8]) -> Result<i32, RecordError> {
    let (value, used) = read_varint(rest)?;
    *rest = &rest[used..];
    Ok(value)
}

fn take_nullable<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    match take_varint(rest)? {
        -1 => Ok(None),
        length => take(rest, length).map(Some),
    }
}

fn take<'a>(rest: &mut &'a [u8], length: i32) -> Result<&'a [u8], RecordError> {
    let length = usize::try_from(length)
        .map_err(|_| RecordError::Malformed { what: "length is negative", value: i64::from(length) })?;
    let (taken, left) =
        rest.split_at_checked(length).ok_or(RecordError::Truncated { needed: length, available: rest.len() })?;
    *rest = left;
    Ok(taken)
}
