//! Walks over records without keeping them: lengths, deltas and counts are checked, keys and values are skipped.
//!
//! The produce path validates compressed batches with it in the memory of one chunk, whatever they decompress to.

use super::compression::Decompression;
use super::{RecordError, varint};

/// Bytes to walk over, in memory or still compressed.
pub(super) trait Source {
    /// The next byte.
    fn byte(&mut self) -> Result<u8, RecordError>;
    /// Passes over bytes; fails when there are fewer.
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError>;
    /// Bytes passed so far.
    fn position(&self) -> usize;
    /// True when nothing is left.
    fn at_end(&mut self) -> Result<bool, RecordError>;
}

/// What the produce path needs to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScannedRecord {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub has_key: bool,
}

/// Passes over one record and checks its structure as [`Records`](super::Records) does.
pub(super) fn scan_record(source: &mut impl Source) -> Result<ScannedRecord, RecordError> {
    let length = take_varint(source)?;
    let bytes = usize::try_from(length).map_err(|_| negative(length))?;
    let end = source.position() + bytes;
    source.skip(1)?;
    let timestamp_delta = zigzag(take_unsigned(source, 10)?);
    let offset_delta = take_varint(source)?;
    let has_key = skip_field(source, end, true)?;
    skip_field(source, end, true)?;
    let header_count = take_varint(source)?;
    if header_count < 0 {
        return Err(negative(header_count));
    }
    for _ in 0..header_count {
        skip_field(source, end, false)?;
        skip_field(source, end, true)?;
    }
    if source.position() != end {
        let what = "record length differs from that of its fields";
        return Err(RecordError::Malformed { what, value: i64::from(length) });
    }
    Ok(ScannedRecord { timestamp_delta, offset_delta, has_key })
}

fn negative(length: i32) -> RecordError {
    RecordError::Malformed { what: "length is negative", value: i64::from(length) }
}

/// Passes over a field that must end by `end`; returns whether it was there.
fn skip_field(source: &mut impl Source, end: usize, nullable: bool) -> Result<bool, RecordError> {
    let length = take_varint(source)?;
    if nullable && length == -1 {
        return Ok(false);
    }
    let bytes = usize::try_from(length).map_err(|_| negative(length))?;
    let available = end.saturating_sub(source.position());
    if bytes > available {
        return Err(RecordError::Truncated { needed: bytes, available });
    }
    source.skip(bytes)?;
    Ok(true)
}

fn take_varint(source: &mut impl Source) -> Result<i32, RecordError> {
    let raw = u32::try_from(take_unsigned(source, 5)?).map_err(|_| varint::malformed())?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

const fn zigzag(raw: u64) -> i64 {
    (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed()
}

#[inline]
fn take_unsigned(source: &mut impl Source, longest: u32) -> Result<u64, RecordError> {
    let mut value = 0;
    for index in 0..longest {
        let byte = source.byte()?;
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(varint::malformed())
}

/// Records that are stored as they are.
pub(super) struct PlainSource<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> PlainSource<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Source for PlainSource<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = self.bytes.get(self.at).ok_or(RecordError::Truncated { needed: 1, available: 0 })?;
        self.at += 1;
        Ok(*byte)
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        let available = self.bytes.len() - self.at;
        if bytes > available {
            return Err(RecordError::Truncated { needed: bytes, available });
        }
        self.at += bytes;
        Ok(())
    }

    fn position(&self) -> usize {
        self.at
    }

    fn at_end(&mut self) -> Result<bool, RecordError> {
        Ok(self.at == self.bytes.len())
    }
}

/// Records that are decompressed as the walk goes; holds one chunk.
pub(super) struct CompressedSource<'a> {
    stream: Decompression<'a>,
    at: usize,
    before_chunk: usize,
}

impl<'a> CompressedSource<'a> {
    pub(super) const fn new(stream: Decompression<'a>) -> Self {
        Self { stream, at: 0, before_chunk: 0 }
    }

    /// Goes on to the next chunk once this one is used up; false at the end.
    #[inline]
    fn refill(&mut self) -> Result<bool, RecordError> {
        let length = self.stream.chunk().len();
        if self.at < length {
            return Ok(true);
        }
        self.before_chunk += length;
        self.at = 0;
        Ok(!self.stream.next_chunk()?.is_empty())
    }
}

impl Source for CompressedSource<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        if !self.refill()? {
            return Err(RecordError::Truncated { needed: 1, available: 0 });
        }
        let byte = self.stream.chunk()[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        let mut left = bytes;
        while left > 0 {
            if !self.refill()? {
                return Err(RecordError::Truncated { needed: bytes, available: bytes - left });
            }
            let step = left.min(self.stream.chunk().len() - self.at);
            self.at += step;
            left -= step;
        }
        Ok(())
    }

    fn position(&self) -> usize {
        self.before_chunk + self.at
    }

    fn at_end(&mut self) -> Result<bool, RecordError> {
        Ok(!self.refill()?)
    }
}
