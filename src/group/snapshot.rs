//! The snapshot of groups and offsets that is kept in the bucket, so that consumers go on where they were when a cluster is
//! restored from its bucket alone.
//!
//! ```text
//!  0 magic "ALVGROUP"     8 version u16 (1)     10 record count u32
//! 14 records: key length u32, key, value length u32, value; in the format of `__consumer_offsets`
//!  … crc u32 (CRC-32C of all bytes before it)
//! ```
//! All numbers are big-endian. The records of one group lie together, its own record first; their order says nothing else,
//! and the partitions that they come from are not kept: a restored cluster may have more. Who stores it compresses it.

use bytes::{Buf, BufMut, Bytes};

use super::FormatError;
use super::records::LogRecord;

const MAGIC: &[u8; 8] = b"ALVGROUP";
/// Version of the format.
pub const VERSION: u16 = 1;
const CHECKSUM_BYTES: usize = 4;

/// Writes live records, none of which is a tombstone.
pub fn encode(records: &[LogRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_slice(MAGIC);
    out.put_u16(VERSION);
    out.put_u32(length_of(records.len()));
    for LogRecord { key, value } in records {
        let value = value.as_ref().expect("live state has no tombstones");
        for bytes in [key, value] {
            out.put_u32(length_of(bytes.len()));
            out.put_slice(bytes);
        }
    }
    out.put_u32(crc32c::crc32c(&out));
    out
}

/// Reads a snapshot, whole or not at all.
pub fn parse(bytes: &Bytes) -> Result<Vec<LogRecord>, FormatError> {
    let malformed = |what| FormatError::Malformed { what };
    let body_bytes = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(malformed("snapshot has no checksum"))?;
    let mut checksum = bytes.slice(body_bytes..);
    let mut rest = bytes.slice(..body_bytes);
    let intact = crc32c::crc32c(&rest) == checksum.get_u32();
    if take(&mut rest, MAGIC.len())? != MAGIC[..] {
        return Err(malformed("not a snapshot of groups"));
    }
    let version = take(&mut rest, 2)?.get_u16();
    if version != VERSION {
        let version = i16::try_from(version).unwrap_or(i16::MAX);
        return Err(FormatError::UnknownVersion { what: "snapshot", version });
    }
    if !intact {
        return Err(malformed("snapshot's checksum does not match"));
    }
    let count = take(&mut rest, 4)?.get_u32();
    let mut records = Vec::new();
    for _ in 0..count {
        let key = take_field(&mut rest)?;
        let value = Some(take_field(&mut rest)?);
        records.push(LogRecord { key, value });
    }
    if rest.is_empty() { Ok(records) } else { Err(malformed("bytes left over after the last record")) }
}

fn take_field(rest: &mut Bytes) -> Result<Bytes, FormatError> {
    let length = take(rest, 4)?.get_u32();
    take(rest, length as usize)
}

fn take(rest: &mut Bytes, needed: usize) -> Result<Bytes, FormatError> {
    if rest.len() < needed {
        return Err(FormatError::Truncated { needed, available: rest.len() });
    }
    Ok(rest.split_to(needed))
}

fn length_of(length: usize) -> u32 {
    u32::try_from(length).expect("a coordinator's memory is bounded far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sim::damaged;

    fn record() -> impl Strategy<Value = LogRecord> {
        let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        (bytes(), bytes()).prop_map(|(key, value)| LogRecord { key, value: Some(value) })
    }

    /// A snapshot with the checksum that belongs to it.
    fn resealed(mut bytes: Vec<u8>) -> Bytes {
        if let Some(at) = bytes.len().checked_sub(CHECKSUM_BYTES) {
            let checksum = crc32c::crc32c(&bytes[..at]);
            bytes[at..].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes.into()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_snapshot_reads_back_as_written_and_is_refused_once_damaged(
            records in vec(record(), 0..6),
            mask in 1..=u8::MAX,
        ) {
            let bytes = encode(&records);
            prop_assert_eq!(parse(&bytes.clone().into()), Ok(records));
            for bad in damaged(&bytes, mask) {
                prop_assert!(parse(&bad.clone().into()).is_err());
                let Ok(read) = parse(&resealed(bad)) else { continue };
                prop_assert_eq!(parse(&encode(&read).into()), Ok(read));
            }
        }
    }
}
