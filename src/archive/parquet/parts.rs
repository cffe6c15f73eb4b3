//! The bytes that a decode was given, as the Parquet reader wants them: as if they were the whole file.
//!
//! The reader takes memory for as many bytes as a page's header says that the page decompresses to, and for as many values as a
//! dictionary is said to have. What is taken for a chunk is counted beforehand, so a header that says more is refused before it
//! is believed. The header is in Thrift's compact protocol, with its fields in order, as all writers write it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::archive::manifest::Chunk;

/// A page takes no more than this for each byte of its chunk's batches: the worst is an empty header, of two bytes, whose key
/// and value take a length of four in their columns.
const PAGE_BYTES_PER_BYTE: u64 = 4;
const PAGE_BYTES_MORE: u64 = 64 << 10;
/// The first field of a struct, or the one after the field before, is a 32-bit number.
const NEXT_FIELD_I32: u8 = 0x15;
/// The fourth field after the field before is a struct: what dictionaries have behind the three numbers that all pages have.
const DICTIONARY_HEADER: u8 = 0x4c;
const DICTIONARY_PAGE: i64 = 2;
/// Every type that has dictionaries takes at least so many bytes for a value.
const DICTIONARY_VALUE_BYTES: u64 = 4;

/// Parts of a file in memory, in order of position, read as if they were the whole.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    parts: Arc<[(u64, Bytes)]>,
    most_page_bytes: u64,
    /// Whether bytes are asked for page by page, each with its header, as they are with a page index.
    by_page: bool,
}

impl Parts {
    /// A chunk's row group, or the start of it that is needed.
    pub(super) fn whole(chunk: &Chunk, start: u64, bytes: Bytes) -> Self {
        Self { parts: Arc::new([(start, bytes)]), most_page_bytes: most_page_bytes(chunk), by_page: false }
    }

    /// Some pages of a chunk.
    pub(super) fn pages(chunk: &Chunk, parts: Vec<(u64, Bytes)>) -> Self {
        Self { parts: parts.into(), most_page_bytes: most_page_bytes(chunk), by_page: true }
    }

    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let after = self.parts.partition_point(|(part, _)| *part <= start);
        let part = after.checked_sub(1).map(|at| &self.parts[at]);
        let found = part.and_then(|(part, bytes)| Some((bytes, usize::try_from(start - part).ok()?)));
        found
            .filter(|(bytes, at)| *at <= bytes.len())
            .map(|(bytes, at)| bytes.slice(at..))
            .ok_or_else(|| ParquetError::EOF("read outside the row group".to_owned()))
    }
}

const fn most_page_bytes(chunk: &Chunk) -> u64 {
    chunk.raw_bytes.saturating_mul(PAGE_BYTES_PER_BYTE).saturating_add(PAGE_BYTES_MORE)
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.parts.last().map_or(0, |(start, bytes)| start + bytes.len() as u64)
    }
}

impl ChunkReader for Parts {
    type T = HeaderReader;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(HeaderReader { bytes: self.from(start)?, most_page_bytes: Some(self.most_page_bytes) })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF("read past the row group".to_owned()));
        }
        let bytes = bytes.slice(..length);
        if self.by_page {
            check_page_header(&bytes, self.most_page_bytes)?;
        }
        Ok(bytes)
    }
}

/// Reads a page's header: what lies behind it is asked for as bytes.
pub(super) struct HeaderReader {
    bytes: Bytes,
    /// None once the header was looked at.
    most_page_bytes: Option<u64>,
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(most) = self.most_page_bytes.take() {
            check_page_header(&self.bytes, most)?;
        }
        let count = buffer.len().min(self.bytes.len());
        self.bytes.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn check_page_header(mut header: &[u8], most: u64) -> io::Result<()> {
    let unreadable = || io::Error::other("a page has no header");
    let [page_type, size, _stored] = [(); 3].map(|()| next_number(&mut header));
    let (page_type, size) = page_type.zip(size).ok_or_else(unreadable)?;
    let size = u64::try_from(size).ok().filter(|size| *size <= most);
    let size = size.ok_or_else(|| io::Error::other("a page claims to be larger than its chunk"))?;
    if page_type == DICTIONARY_PAGE {
        let mut dictionary = header.strip_prefix(&[DICTIONARY_HEADER]).ok_or_else(unreadable)?;
        let values = next_number(&mut dictionary).ok_or_else(unreadable)?;
        u64::try_from(values)
            .ok()
            .filter(|values| values.saturating_mul(DICTIONARY_VALUE_BYTES) <= size)
            .ok_or_else(|| io::Error::other("a dictionary claims more values than it has bytes"))?;
    }
    Ok(())
}

/// The next field, if it is a 32-bit number: zigzag, seven bits a byte, the least first.
fn next_number(bytes: &mut &[u8]) -> Option<i64> {
    let (&field, rest) = bytes.split_first()?;
    let length = rest.iter().take(5).position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = rest.split_at(length);
    *bytes = rest;
    let zigzag = number.iter().rev().fold(0_i64, |number, byte| number << 7 | i64::from(byte & 0x7f));
    (field == NEXT_FIELD_I32).then_some((zigzag >> 1) ^ -(zigzag & 1))
}

#[cfg(test)]
mod tests {
    use super::check_page_header;

    #[test]
    fn a_page_that_claims_more_than_its_chunk_is_refused() {
        // Type 0, 300 bytes, compressed to 20.
        let header = [0x15, 0, 0x15, 0xd8, 0x04, 0x15, 40];
        assert!(check_page_header(&header, 300).is_ok());
        assert!(check_page_header(&header, 299).is_err());
        let endless = [0x15, 0, 0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(check_page_header(&endless, u64::MAX).is_err());
        let negative = [0x15, 0, 0x15, 0xd7, 0x04];
        assert!(check_page_header(&negative, u64::MAX).is_err());
        let dictionary = [0x15, 4, 0x15, 40, 0x15, 40, 0x4c, 0x15, 10];
        assert!(check_page_header(&dictionary, 300).is_ok());
        for (at, byte) in [(8, 12), (8, 1), (6, 0x5c), (7, 0x25)] {
            let mut damaged = dictionary;
            damaged[at] = byte;
            assert!(check_page_header(&damaged, 300).is_err(), "{at} {byte}");
        }
        for short in 0..4 {
            assert!(check_page_header(&header[..short], u64::MAX).is_err());
        }
        assert!(check_page_header(&[0x25, 0, 0x15, 2], u64::MAX).is_err());
    }
}
