//! Doors of `tests/fuzz` to the decoders that are private here. They take any bytes, and must neither panic nor take memory
//! out of proportion.

use super::codec::{decode_entry, decode_log_id, decode_vote};
use super::snapshot_files::read_header;

/// The first line of a snapshot's file.
pub fn snapshot_headers(line: &[u8]) {
    let _ = read_header(line);
}

/// What the database of the quorum holds: entries, votes, log ids.
pub fn quorum_records(bytes: &[u8]) {
    let _ = decode_entry(bytes);
    let _ = decode_vote(bytes);
    let _ = decode_log_id(bytes);
}
