//! The stamp that begins every file of a data directory: what it is, in which format version, and whose it is.
//!
//! ```text
//!  0 magic [u8; 8]   8 format_version u32   12 crc u32 (CRC-32C of bytes 8..12, 16..56)   16 cluster_id [u8; 16]
//! 32 directory_id [u8; 16]                  48 node_id i32                         52 incarnation u32
//! ```
//! Little-endian. A file with another cluster's or directory's stamp was put there by mistake and is refused; so is a newer
//! format version.

use std::fmt;

use bytes::{Buf, BufMut};
use thiserror::Error;

use crate::types::{ClusterId, DirectoryId, Incarnation, NodeId};

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 56;
/// The format version that this release writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The data directory.
    pub directory_id: DirectoryId,
    /// The broker.
    pub node_id: NodeId,
    /// How often the cluster was restored from its bucket.
    pub incarnation: Incarnation,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, directory_id, node_id, incarnation } = self;
        write!(f, "cluster={cluster_id} directory={directory_id} node={node_id} incarnation={incarnation}")
    }
}

/// Why a stamp is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StampError {
    /// The file is too short, is of another kind, or its stamp is damaged.
    #[error("not a {kind} file, or its stamp is damaged; restore the file")]
    Damaged {
        /// What the file should be.
        kind: &'static str,
    },
    /// Written by a later release.
    #[error("{kind} file has a newer format found={found} supported={FORMAT_VERSION}; use the release that wrote it")]
    Newer {
        /// What the file is.
        kind: &'static str,
        /// Its format version.
        found: u32,
    },
    /// Belongs to another cluster, directory or broker.
    #[error("{kind} file belongs elsewhere found=({found}) expected=({expected}); bring back the one that was here")]
    Foreign {
        /// What the file is.
        kind: &'static str,
        /// Its stamp.
        found: Box<Identity>,
        /// The stamp of this directory.
        expected: Box<Identity>,
    },
}

/// A kind of stamped file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// First bytes of the file.
    pub magic: [u8; 8],
    /// Name in errors.
    pub name: &'static str,
}

impl Kind {
    /// Appends a stamp.
    pub fn write(&self, identity: &Identity, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(STAMP_BYTES - 16);
        body.put_slice(identity.cluster_id.as_bytes());
        body.put_slice(identity.directory_id.as_bytes());
        body.put_i32_le(identity.node_id.0);
        body.put_u32_le(identity.incarnation.0);
        out.put_slice(&self.magic);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(checksum(FORMAT_VERSION, &body));
        out.put_slice(&body);
    }

    /// Reads the stamp at the start of a file, whosever it is.
    pub fn read(&self, bytes: &[u8]) -> Result<Identity, StampError> {
        let damaged = StampError::Damaged { kind: self.name };
        let Some(mut stamp) = bytes.get(..STAMP_BYTES) else { return Err(damaged) };
        if stamp[..8] != self.magic {
            return Err(damaged);
        }
        stamp.advance(8);
        let found = stamp.get_u32_le();
        let crc = stamp.get_u32_le();
        if checksum(found, stamp) != crc {
            return Err(damaged);
        }
        if found > FORMAT_VERSION {
            return Err(StampError::Newer { kind: self.name, found });
        }
        let mut id = [0; 16];
        stamp.copy_to_slice(&mut id);
        let cluster_id = ClusterId::from_bytes(id);
        stamp.copy_to_slice(&mut id);
        let directory_id = DirectoryId::from_bytes(id);
        let node_id = NodeId(stamp.get_i32_le());
        Ok(Identity { cluster_id, directory_id, node_id, incarnation: Incarnation(stamp.get_u32_le()) })
    }

    /// Reads a stamp and checks that it is this directory's.
    pub fn check(&self, bytes: &[u8], expected: &Identity) -> Result<(), StampError> {
        let found = self.read(bytes)?;
        // A restore raises the incarnation of a directory whose files stay valid.
        let same = Identity { incarnation: expected.incarnation, ..found } == *expected;
        if same {
            return Ok(());
        }
        Err(StampError::Foreign { kind: self.name, found: Box::new(found), expected: Box::new(*expected) })
    }
}

fn checksum(version: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&version.to_le_bytes()), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"ALLVTEST", name: "test" };

    fn identity() -> Identity {
        Identity {
            cluster_id: ClusterId::from_bytes([1; 16]),
            directory_id: DirectoryId::from_bytes([2; 16]),
            node_id: NodeId(3),
            incarnation: Incarnation(4),
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut bytes = Vec::new();
        KIND.write(&identity(), &mut bytes);
        bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        assert_eq!(KIND.read(&bytes), Err(StampError::Damaged { kind: "test" }), "its checksum is wrong");
        let crc = checksum(FORMAT_VERSION + 1, &bytes[16..STAMP_BYTES]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let newer = StampError::Newer { kind: "test", found: FORMAT_VERSION + 1 };
        assert_eq!(KIND.read(&bytes), Err(newer.clone()));
        assert_eq!(KIND.check(&bytes, &identity()), Err(newer));
    }

    #[test]
    fn a_stamp_reads_back_and_any_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        KIND.write(&identity(), &mut bytes);
        assert_eq!(bytes.len(), STAMP_BYTES);
        assert_eq!(KIND.check(&bytes, &identity()), Ok(()));
        for bit in 0..STAMP_BYTES * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(KIND.check(&flipped, &identity()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_foreign_stamp_is_refused() {
        let mut bytes = Vec::new();
        KIND.write(&identity(), &mut bytes);
        let other = Identity { node_id: NodeId(9), ..identity() };
        assert!(matches!(KIND.check(&bytes, &other), Err(StampError::Foreign { .. })));
    }
}
