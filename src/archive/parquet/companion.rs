//! The companion object: what a segment holds beside rows.
//!
//! ```text
//! header   magic "ALVAUX\r\n"   format u32   zero u32                                       16 bytes
//! parts    one per chunk, in order; a part is a run of frames, possibly empty
//! tail     frames: producer snapshot (optional), description
//! frame    kind u8   zero u8×3   length u32   xxh3-64 over the 8 bytes before and the content u64   content
//! kind     1 control batch   2 aborted batch   3 empty batch   4 batch kept raw   16 producer snapshot   17 description
//! ```
//! Numbers are big-endian. Batches are as they were in the log, compressed or not. A description is what the footer of the
//! Parquet object says under `alluvium.segment`, so that a segment without rows describes itself too.

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::Xxh3;

use super::DecodeError;
use crate::record::{Batch, Compression};

/// Bytes before the first part.
pub const COMPANION_HEADER_BYTES: u64 = 16;
/// The newest format that is written and read.
const COMPANION_FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"ALVAUX\r\n";
const FRAME_HEADER_BYTES: usize = 16;
const PRODUCER_SNAPSHOT: u8 = 16;
const DESCRIPTION: u8 = 17;

/// Why a batch is, or is not, rows of the Parquet object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its records are rows.
    Rows,
    /// A transaction marker.
    Control,
    /// Data of an aborted transaction; consumers that read committed data never see it.
    Aborted,
    /// It has no records, and only keeps offsets and sequences.
    Empty,
    /// Rows could not give it back byte for byte.
    Raw,
}

impl Fate {
    const fn frame_kind(self) -> Option<u8> {
        match self {
            Self::Rows => None,
            Self::Control => Some(1),
            Self::Aborted => Some(2),
            Self::Empty => Some(3),
            Self::Raw => Some(4),
        }
    }

    const fn of_frame(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Control),
            2 => Some(Self::Aborted),
            3 => Some(Self::Empty),
            4 => Some(Self::Raw),
            _ => None,
        }
    }
}

/// A batch read back from the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedBatch {
    /// The batch: uncompressed when it was rows, as it was in the log otherwise.
    pub batch: Batch,
    /// How it was compressed when it was produced.
    pub produced_with: Compression,
    /// Where it was kept, and why.
    pub fate: Fate,
}

/// What the tail of a companion object holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompanionTail {
    /// The producers' state at the end of the segment, in the log's own format.
    pub producer_snapshot: Option<Bytes>,
    /// The segment's description as JSON.
    pub description: Option<Bytes>,
}

/// The object's first bytes.
pub(super) fn header() -> [u8; COMPANION_HEADER_BYTES as usize] {
    let mut bytes = [0; COMPANION_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&COMPANION_FORMAT.to_be_bytes());
    bytes
}

/// Checks the object's first bytes.
pub fn check_header(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.len() < header().len() || bytes[..8] != MAGIC {
        return Err(DecodeError::Malformed { what: "companion object has another magic", at: 0 });
    }
    let format = (&bytes[8..12]).get_u32();
    if format > COMPANION_FORMAT {
        return Err(DecodeError::NewerFormat { format: format.into() });
    }
    Ok(())
}

fn write_frame(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let length = u32::try_from(content.len()).expect("a batch is smaller than 2 GiB, and so is a snapshot");
    let mut prefix = [kind, 0, 0, 0, 0, 0, 0, 0];
    prefix[4..].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&prefix);
    out.extend_from_slice(&frame_checksum(&prefix, content).to_be_bytes());
    out.extend_from_slice(content);
}

fn frame_checksum(prefix: &[u8], content: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(prefix);
    hash.update(content);
    hash.digest()
}

/// Appends a batch that is not rows.
pub(super) fn write_batch(out: &mut Vec<u8>, fate: Fate, batch: &Batch) {
    let kind = fate.frame_kind().expect("rows are not written to the companion");
    write_frame(out, kind, batch.bytes());
}

/// Appends the snapshot of the producers' state.
pub(super) fn write_snapshot(out: &mut Vec<u8>, snapshot: &[u8]) {
    write_frame(out, PRODUCER_SNAPSHOT, snapshot);
}

/// Appends the description, which is the last frame.
pub(super) fn write_description(out: &mut Vec<u8>, description: &[u8]) {
    write_frame(out, DESCRIPTION, description);
}

/// Takes one frame from the front and checks it.
fn take_frame(bytes: &mut Bytes) -> Result<(u8, Bytes), DecodeError> {
    let malformed = |what, at: usize| DecodeError::Malformed { what, at: i64::try_from(at).unwrap_or(i64::MAX) };
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err(malformed("companion frame is cut off", bytes.len()));
    }
    let prefix = bytes.split_to(8);
    let checksum = bytes.get_u64();
    let length = (&prefix[4..]).get_u32() as usize;
    if length > bytes.len() {
        return Err(malformed("companion frame is longer than its part", length));
    }
    let content = bytes.split_to(length);
    if frame_checksum(&prefix, &content) != checksum {
        return Err(malformed("companion frame has a wrong checksum", length));
    }
    Ok((prefix[0], content))
}

/// Reads the batches of a part.
pub(super) fn read_part(mut part: Bytes) -> Result<Vec<ArchivedBatch>, DecodeError> {
    let mut batches = Vec::new();
    while !part.is_empty() {
        let (kind, mut content) = take_frame(&mut part)?;
        let fate = Fate::of_frame(kind)
            .ok_or(DecodeError::Malformed { what: "companion part holds another kind of frame", at: kind.into() })?;
        let batch = Batch::split_from(&mut content)?;
        if !content.is_empty() {
            return Err(DecodeError::Malformed { what: "companion frame holds more than a batch", at: kind.into() });
        }
        let produced_with = batch.header().attributes.compression()?;
        batches.push(ArchivedBatch { batch, produced_with, fate });
    }
    Ok(batches)
}

/// Reads the frames after the last part. Kinds that are not known are passed over.
pub fn read_tail(mut bytes: Bytes) -> Result<CompanionTail, DecodeError> {
    let mut tail = CompanionTail::default();
    while !bytes.is_empty() {
        match take_frame(&mut bytes)? {
            (PRODUCER_SNAPSHOT, content) => tail.producer_snapshot = Some(content),
            (DESCRIPTION, content) => tail.description = Some(content),
            _ => {}
        }
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_format_is_told_from_another_kind_of_object() {
        assert!(check_header(&header()).is_ok());
        let mut newer = header();
        newer[8..12].copy_from_slice(&(COMPANION_FORMAT + 1).to_be_bytes());
        let format = u64::from(COMPANION_FORMAT + 1);
        assert!(matches!(check_header(&newer), Err(DecodeError::NewerFormat { format: found }) if found == format));
        for other in [&header()[..11], b"PAR1 and what follows"] {
            assert!(matches!(check_header(other), Err(DecodeError::Malformed { .. })));
        }
    }
}
