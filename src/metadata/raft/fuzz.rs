//! Doors of `tests/fuzz` to the decoders that are private here. They take any bytes, and must neither panic nor take memory
//! out of proportion.

use super::codec::{decode_entry, decode_log_id, decode_vote};

/// What the database of the quorum holds: entries, votes, log ids.
pub fn quorum_records(bytes: &[u8]) {
    let _ = decode_entry(bytes);
    let _ = decode_vote(bytes);
    let _ = decode_log_id(bytes);
}
