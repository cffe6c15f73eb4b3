//! Walks over records without keeping them: lengths, deltas and counts are checked, keys and values are skipped.
//!
//! The produce path validates compressed batches with it in the memory of one chunk, whatever they decompress to.

use super::RecordError;
use super::compression::Decompression;

/// Why a walk stopped. One byte, so that reading a number costs no more than the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The bytes end before the records do.
    Ended,
    /// A length is negative that may not be.
    NegativeLength,
    /// A variable-length number has too many bytes.
    Overlong,
    /// A record is longer or shorter than its fields.
    WrongLength,
    /// The bytes don't decompress; the source has the error.
    Undecompressable,
}

impl Flaw {
    /// The flaw in words for the client.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Ended => "records end before their lengths say",
            Self::NegativeLength => "length is negative",
            Self::Overlong => "variable-length integer is too long",
            Self::WrongLength => "record length differs from that of its fields",
            Self::Undecompressable => "records do not decompress",
        }
    }
}

/// Bytes to walk over, in memory or still compressed.
pub(super) trait Source {
    /// The next byte.
    fn byte(&mut self) -> Result<u8, Flaw>;
    /// Passes over bytes; fails when there are fewer.
    fn skip(&mut self, bytes: usize) -> Result<(), Flaw>;
    /// Bytes passed so far.
    fn position(&self) -> usize;
    /// True when nothing is left.
    fn at_end(&mut self) -> Result<bool, Flaw>;
    /// Passes over one record.
    fn record(&mut self) -> Result<ScannedRecord, Flaw>
    where
        Self: Sized,
    {
        scan_record(self)
    }
    /// The error behind a [`Flaw::Undecompressable`].
    fn take_error(&mut self) -> Option<RecordError> {
        None
    }
}

/// What the produce path needs to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScannedRecord {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub has_key: bool,
}

/// Passes over one record and checks its structure as [`Records`](super::Records) does.
#[inline]
fn scan_record(source: &mut impl Source) -> Result<ScannedRecord, Flaw> {
    let bytes = take_length(source)?;
    let end = source.position() + bytes;
    source.skip(1)?;
    let timestamp_delta = take_varlong(source)?;
    let offset_delta = take_varint(source)?;
    let has_key = skip_nullable(source, end)?;
    skip_nullable(source, end)?;
    for _ in 0..take_length(source)? {
        let key_bytes = take_length(source)?;
        skip_within(source, key_bytes, end)?;
        skip_nullable(source, end)?;
    }
    if source.position() == end {
        Ok(ScannedRecord { timestamp_delta, offset_delta, has_key })
    } else {
        Err(Flaw::WrongLength)
    }
}

/// Passes over a field that may be null; returns whether it was there.
#[inline]
fn skip_nullable(source: &mut impl Source, end: usize) -> Result<bool, Flaw> {
    let length = take_varint(source)?;
    if length == -1 {
        return Ok(false);
    }
    let bytes = usize::try_from(length).map_err(|_| Flaw::NegativeLength)?;
    skip_within(source, bytes, end)?;
    Ok(true)
}

/// Passes over bytes that must end with the record.
#[inline]
fn skip_within(source: &mut impl Source, bytes: usize, end: usize) -> Result<(), Flaw> {
    if bytes > end.saturating_sub(source.position()) {
        return Err(Flaw::Ended);
    }
    source.skip(bytes)
}

#[inline]
fn take_length(source: &mut impl Source) -> Result<usize, Flaw> {
    usize::try_from(take_varint(source)?).map_err(|_| Flaw::NegativeLength)
}

#[inline]
fn take_varint(source: &mut impl Source) -> Result<i32, Flaw> {
    let raw = u32::try_from(take_unsigned(source, 5)?).map_err(|_| Flaw::Overlong)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

#[inline]
fn take_varlong(source: &mut impl Source) -> Result<i64, Flaw> {
    let raw = take_unsigned(source, 10)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

#[inline]
fn take_unsigned(source: &mut impl Source, longest: u32) -> Result<u64, Flaw> {
    let first = source.byte()?;
    if first < 0x80 {
        return Ok(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    for index in 1..longest {
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
    Err(Flaw::Overlong)
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
    fn byte(&mut self) -> Result<u8, Flaw> {
        let byte = self.bytes.get(self.at).ok_or(Flaw::Ended)?;
        self.at += 1;
        Ok(*byte)
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), Flaw> {
        if bytes > self.bytes.len() - self.at {
            return Err(Flaw::Ended);
        }
        self.at += bytes;
        Ok(())
    }

    fn position(&self) -> usize {
        self.at
    }

    fn at_end(&mut self) -> Result<bool, Flaw> {
        Ok(self.at == self.bytes.len())
    }
}

/// Records that are decompressed as the walk goes; holds one chunk.
pub(super) struct CompressedSource<'a> {
    stream: Decompression<'a>,
    at: usize,
    before_chunk: usize,
    error: Option<RecordError>,
}

impl<'a> CompressedSource<'a> {
    pub(super) const fn new(stream: Decompression<'a>) -> Self {
        Self { stream, at: 0, before_chunk: 0, error: None }
    }

    /// Goes on to the next chunk; false at the end.
    #[cold]
    fn refill(&mut self) -> Result<bool, Flaw> {
        self.before_chunk += self.at;
        self.at = 0;
        match self.stream.next_chunk() {
            Ok(chunk) => Ok(!chunk.is_empty()),
            Err(error) => {
                self.error = Some(error);
                Err(Flaw::Undecompressable)
            }
        }
    }
}

impl Source for CompressedSource<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Flaw> {
        loop {
            if let Some(byte) = self.stream.chunk().get(self.at) {
                self.at += 1;
                return Ok(*byte);
            }
            if !self.refill()? {
                return Err(Flaw::Ended);
            }
        }
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), Flaw> {
        let mut left = bytes;
        loop {
            let step = left.min(self.stream.chunk().len() - self.at);
            self.at += step;
            left -= step;
            if left == 0 {
                return Ok(());
            }
            if !self.refill()? {
                return Err(Flaw::Ended);
            }
        }
    }

    fn position(&self) -> usize {
        self.before_chunk + self.at
    }

    fn at_end(&mut self) -> Result<bool, Flaw> {
        Ok(self.at == self.stream.chunk().len() && !self.refill()?)
    }

    /// Most records lie within one chunk, where walking costs half.
    #[inline]
    fn record(&mut self) -> Result<ScannedRecord, Flaw> {
        let mut chunk = PlainSource::new(&self.stream.chunk()[self.at..]);
        match scan_record(&mut chunk) {
            Err(Flaw::Ended) => scan_record(self),
            within => {
                self.at += chunk.at;
                within
            }
        }
    }

    fn take_error(&mut self) -> Option<RecordError> {
        self.error.take()
    }
}
