//! Doors of `tests/fuzz` to the decoders that are private here. They take any bytes, and must neither panic nor take memory
//! out of proportion.

use bytes::{Buf, Bytes};

use super::checkpoint;
use super::directory::IDENTITY;
use super::journal::{FILE_HEADER_BYTES, decode_header, read_block, read_entry};
use super::producer_snapshot::ProducerSnapshot;
use super::stamp::STAMP_BYTES;

/// The file of a checkpoint; its length and checksum are set right first, or nothing behind them would be read.
pub fn checkpoint(file: &[u8]) {
    let Some(body) = file.get(STAMP_BYTES + checkpoint::FRAME_BYTES..) else { return };
    let _ = checkpoint::decode(&checkpoint::frame(body));
}

/// The file that says whose a data directory is.
pub fn identity(file: &[u8]) {
    let Ok(found) = IDENTITY.read(file) else { return };
    let mut again = Vec::new();
    IDENTITY.write(&found, &mut again);
    assert!(IDENTITY.check(&again, &found).is_ok());
}

/// The first page of a journal file.
pub fn journal_header(page: &[u8]) {
    if let Some(page) = page.first_chunk::<FILE_HEADER_BYTES>() {
        let _ = decode_header(page);
    }
}

/// What is remembered of producers, as the archive keeps it.
pub fn producer_snapshot(bytes: &[u8]) {
    if let Some(snapshot) = ProducerSnapshot::decode(bytes) {
        assert_eq!(ProducerSnapshot::decode(&snapshot.encode()), Some(snapshot));
    }
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
