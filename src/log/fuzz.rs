//! Doors of `tests/fuzz` to the decoders that are private here. They take any bytes, and must neither panic nor take memory
//! out of proportion.

use bytes::{Buf, Bytes};

use super::checkpoint;
use super::journal::{read_block, read_entry};
use super::stamp::STAMP_BYTES;

/// The file of a checkpoint; its length and checksum are set right first, or nothing behind them would be read.
pub fn checkpoint(file: &[u8]) {
    let Some(body) = file.get(STAMP_BYTES + checkpoint::FRAME_BYTES..) else { return };
    let _ = checkpoint::decode(&checkpoint::frame(body));
}

/// Blocks of a journal, with their entries.
pub fn journal_blocks(blocks: &[u8]) {
    let mut rest = Bytes::copy_from_slice(blocks);
    while let Some(block) = read_block(&rest) {
        journal_entries(&block.payload);
        rest.advance(block.file_bytes.min(rest.len()));
    }
}

/// Entries of a journal, as they lie in a block that passed its checksum.
pub fn journal_entries(payload: &[u8]) {
    let mut rest = Bytes::copy_from_slice(payload);
    while !rest.is_empty() && read_entry(&mut rest).is_ok() {}
}
