//! The archive's records about itself: one head per partition, spilled segment lists, and the stamps of cluster and topic.
//!
//! A [`Head`] is the commit point of a partition's archive: what it lists is archived, whatever else the bucket holds. It
//! is a pure machine: every transition takes the head that was read and returns the one to write in its place, or says why
//! not; drivers write it by [`Store::replace`](super::store::Store::replace) and start over on a conflict. A crash between
//! any two steps leaves either head, both of which are whole. Formats are JSON with a `format` stamp and a checksum: newer
//! formats and unknown fields are refused, since a rewrite would lose what it does not know, and so is a changed byte.

mod cluster;
mod error;
mod head;
mod segment;
#[cfg(test)]
mod tests;
mod transition;
mod upkeep;

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::record::{Compression, compression};

pub use cluster::{
    ClusterStamp, GroupShares, GroupSnapshotMark, ProducerIdMark, Registered, TopicDescription, TopicState,
};
pub use error::{ManifestError, TransitionError};
pub use head::{
    EpochStart, Head, HeadIdentity, MAX_INLINE_SEGMENTS, MAX_TOMBSTONES, Position, SPILL_SEGMENTS, SnapshotRef,
    SpillList, SpillRef, Tombstone, Tombstoned, Writer, check_identity,
};
pub use segment::{Chunk, ChunkRow, Segment};
pub use transition::CommitFacts;
pub use upkeep::{Retention, Upkeep};

/// The newest format of every manifest object; bumped when an older release could not keep what a newer one wrote.
pub const MANIFEST_FORMAT: u32 = 1;

/// Largest manifest object that is read once decompressed; a full head is a few hundred kilobytes.
const MANIFEST_LIMIT_BYTES: usize = 64 << 20;

/// Largest snapshot of groups, decompressed. No larger one is written, so that whatever was written can be read.
const GROUP_SNAPSHOT_LIMIT_BYTES: usize = 1 << 30;

/// Sixteen bytes that print as 32 hexadecimal digits: nonces and hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex128(pub u128);

impl Hex128 {
    /// A nonce: random, so that a writer recognises what it wrote itself.
    pub const fn from_entropy(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Hex128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Hex128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hex128({self})")
    }
}

impl FromStr for Hex128 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("expected 32 hexadecimal digits");
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| "expected 32 hexadecimal digits")
    }
}

impl TryFrom<String> for Hex128 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hex128> for String {
    fn from(value: Hex128) -> Self {
        value.to_string()
    }
}

/// What every manifest begins with; the checksum covers the object without it.
const SEAL_START: &[u8] = b"{\"checksum\":\"";
const SEAL_END: &[u8] = b"\",";
const CHECKSUM_DIGITS: usize = 32;

/// Puts the checksum in front.
fn seal(json: &[u8]) -> Vec<u8> {
    let checksum = Hex128(xxh3_128(json)).to_string();
    [SEAL_START, checksum.as_bytes(), SEAL_END, &json[1..]].concat()
}

/// Takes the checksum off and compares it.
fn unseal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (checksum, rest) = bytes.strip_prefix(SEAL_START)?.split_at_checked(CHECKSUM_DIGITS)?;
    let rest = rest.strip_prefix(SEAL_END)?;
    let mut hash = Xxh3::new();
    hash.update(b"{");
    hash.update(rest);
    (Hex128(hash.digest128()).to_string().as_bytes() == checksum).then(|| [b"{", rest].concat())
}

/// Reads the JSON of a manifest: first the stamp alone, so that a newer format is named as such.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    #[derive(Deserialize)]
    struct Stamp {
        format: u64,
    }
    let stamp: Stamp = serde_json::from_slice(bytes).map_err(|cause| ManifestError::Malformed { cause })?;
    if stamp.format > u64::from(MANIFEST_FORMAT) {
        return Err(ManifestError::NewerFormat { format: stamp.format, newest_known: MANIFEST_FORMAT });
    }
    let json = unseal(bytes).ok_or(ManifestError::Checksum)?;
    serde_json::from_slice(&json).map_err(|cause| ManifestError::Malformed { cause })
}

/// Compresses a manifest object with zstd.
pub(super) fn compress_manifest(bytes: &[u8]) -> bytes::Bytes {
    let compressed = compression::compress(Compression::Zstd, bytes);
    compressed.expect("memory is the only thing that compression needs").into()
}

/// Reverses [`compress_manifest`], within bounds.
pub(super) fn decompress_manifest(bytes: &[u8]) -> Result<bytes::Bytes, ManifestError> {
    compression::decompress(Compression::Zstd, bytes, MANIFEST_LIMIT_BYTES).map_err(|_| ManifestError::Compression)
}

/// Compresses a snapshot of groups. May take a second: for a lane.
///
/// # Errors
/// [`ManifestError::TooLarge`].
pub fn compress_group_snapshot(snapshot: &[u8]) -> Result<bytes::Bytes, ManifestError> {
    check_snapshot_length(snapshot.len())?;
    Ok(compress_manifest(snapshot))
}

fn check_snapshot_length(bytes: usize) -> Result<(), ManifestError> {
    let limit_bytes = GROUP_SNAPSHOT_LIMIT_BYTES;
    if bytes > limit_bytes { Err(ManifestError::TooLarge { bytes, limit_bytes }) } else { Ok(()) }
}

/// Reverses [`compress_group_snapshot`]; `hash` is that of the object, which its key has.
///
/// # Errors
/// [`ManifestError::Checksum`] where it is not what was written, [`ManifestError::Compression`] where it is and is not
/// understood.
pub(super) fn decompress_group_snapshot(object: &[u8], hash: Hex128) -> Result<bytes::Bytes, ManifestError> {
    if hash_of(object) != hash {
        return Err(ManifestError::Checksum);
    }
    compression::decompress(Compression::Zstd, object, GROUP_SNAPSHOT_LIMIT_BYTES)
        .map_err(|_| ManifestError::Compression)
}

/// The hash of a whole object.
pub(super) fn hash_of(object: &[u8]) -> Hex128 {
    Hex128(xxh3_128(object))
}

fn to_json<T: Serialize>(value: &T) -> bytes::Bytes {
    seal(&serde_json::to_vec(value).expect("manifests hold nothing that JSON cannot")).into()
}
