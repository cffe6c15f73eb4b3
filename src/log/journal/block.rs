//! Blocks: the unit in which the journal is written, one direct write each.
//!
//! ```text
//!  0 magic u32   4 crc u32 (CRC-32C of bytes 8..40 and the payload)   8 lap u64   16 sequence u64
//! 24 payload_bytes u32   28 entries u32   32 synced u64   40 payload, zeros up to a multiple of 4096
//! ```
//! Little-endian. `lap` is a random number drawn each time that a file is used anew, so that neither what an earlier use left
//! behind nor bytes that a client made up are ever taken for a block; `sequence` grows by one from block to block over the
//! life of the directory. `synced` says up to which sequence blocks were on stable storage when this one was written: all
//! before it, unless topics with `write.caching` were being appended to.

use bytes::{Buf, Bytes};

use crate::runtime::buffer::AlignedBuffer;
use crate::runtime::disk::DIRECT_ALIGNMENT_BYTES;

/// Bytes before a block's payload.
pub const BLOCK_HEADER_BYTES: usize = 40;
const MAGIC: u32 = u32::from_le_bytes(*b"ALBK");
const CHECKED_FROM: usize = 8;

/// Bytes that a block with this payload takes in the file.
pub const fn block_bytes(payload_bytes: usize) -> usize {
    (BLOCK_HEADER_BYTES + payload_bytes).next_multiple_of(DIRECT_ALIGNMENT_BYTES)
}

/// The position of a block in the life of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPosition {
    /// Random number of the file's current use.
    pub lap: u64,
    /// Sequence of the block.
    pub sequence: u64,
}

/// Reserves the header of a block that is being built.
pub fn begin(capacity_bytes: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::with_capacity(capacity_bytes);
    buffer.extend(&[0; BLOCK_HEADER_BYTES]);
    buffer
}

/// Fills in the header once the payload is complete, and pads.
pub fn finish(buffer: &mut AlignedBuffer, position: BlockPosition, entries: u32, synced: u64) {
    let payload_bytes = u32::try_from(buffer.len() - BLOCK_HEADER_BYTES).expect("blocks are bounded");
    let bytes = buffer.bytes_mut();
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&position.lap.to_le_bytes());
    bytes[16..24].copy_from_slice(&position.sequence.to_le_bytes());
    bytes[24..28].copy_from_slice(&payload_bytes.to_le_bytes());
    bytes[28..32].copy_from_slice(&entries.to_le_bytes());
    bytes[32..40].copy_from_slice(&synced.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    buffer.pad();
}

/// A block whose checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it belongs.
    pub position: BlockPosition,
    /// Entries in the payload.
    pub entries: u32,
    /// Blocks up to this sequence were on stable storage when it was written.
    pub synced: u64,
    /// The entries, one after another.
    pub payload: Bytes,
    /// Bytes that it takes in the file.
    pub file_bytes: usize,
}

/// Reads the block at the start of `bytes`; `None` when there is no whole, undamaged block.
pub fn read(bytes: &Bytes) -> Option<Block> {
    let mut header = bytes.get(..BLOCK_HEADER_BYTES)?;
    if header.get_u32_le() != MAGIC {
        return None;
    }
    let crc = header.get_u32_le();
    let position = BlockPosition { lap: header.get_u64_le(), sequence: header.get_u64_le() };
    let payload_bytes = header.get_u32_le() as usize;
    let entries = header.get_u32_le();
    let synced = header.get_u64_le();
    let end = BLOCK_HEADER_BYTES + payload_bytes;
    let checked = bytes.get(CHECKED_FROM..end)?;
    if crc32c::crc32c(checked) != crc {
        return None;
    }
    Some(Block {
        position,
        entries,
        synced,
        payload: bytes.slice(BLOCK_HEADER_BYTES..end),
        file_bytes: block_bytes(payload_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Bytes {
        let mut buffer = begin(block_bytes(5000));
        buffer.extend(&[7; 5000]);
        finish(&mut buffer, BlockPosition { lap: 3, sequence: 99 }, 2, 98);
        buffer.freeze()
    }

    #[test]
    fn a_block_reads_back() {
        let bytes = sample();
        assert_eq!(bytes.len(), 8192);
        let block = read(&bytes).unwrap();
        assert_eq!(block.position, BlockPosition { lap: 3, sequence: 99 });
        assert_eq!((block.entries, block.synced, block.payload.len(), block.file_bytes), (2, 98, 5000, 8192));
    }

    #[test]
    fn a_torn_or_flipped_block_is_not_a_block() {
        let bytes = sample();
        let mut torn = bytes.to_vec();
        torn[4096..].fill(0);
        assert_eq!(read(&Bytes::from(torn)), None);
        for at in [0, 4, 9, 17, 24, 28, 33, 40, 5039] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert_eq!(read(&Bytes::from(flipped)), None, "byte {at}");
        }
        assert_eq!(read(&bytes.slice(..4096)), None);
    }
}
