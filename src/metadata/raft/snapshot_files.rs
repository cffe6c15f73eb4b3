//! The newest snapshot, as a file beside the database. Blocking; lives on a lane of its own, since it may be large and
//! must not keep the log waiting.
//!
//! ```text
//! snapshot-<index:020>   one line of JSON: {"format":1,"cluster_id":…,"node_id":…,"last_log_id":…,"membership":…,
//!                        "bytes":N,"checksum":C}, then N bytes of image (metadata/snapshot.rs) with CRC-32C C
//! ```
//! A file gets its name when it is complete and synced; older files are removed after that. A crash leaves the old
//! snapshot, or the new one, or both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::error::DecodeError;
use super::codec::{LogIdRecord, MembershipRecord};
use super::error::StoreError;
use super::log_database::Stamp;
use super::{LogId, SnapshotMeta};
use crate::runtime::disk::{self, DirectoryEntry, Disk};
use crate::types::{ClusterId, NodeId};

const PREFIX: &str = "snapshot-";
/// Format of snapshot files; a higher number is refused.
const SNAPSHOT_FORMAT: u32 = 1;
/// Largest snapshot that is read: some 200 bytes for each of 1,000,000 partitions, with room to spare.
const SNAPSHOT_LIMIT_BYTES: u64 = 4 << 30;
const WHAT: &str = "metadata snapshot file";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    format: u32,
    cluster_id: ClusterId,
    node_id: NodeId,
    last_log_id: Option<LogIdRecord>,
    membership: MembershipRecord,
    bytes: u64,
    checksum: u32,
}

/// The snapshots of a directory.
#[derive(Debug)]
pub(super) struct SnapshotFiles {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    stamp: Stamp,
}

impl SnapshotFiles {
    /// Takes charge of the snapshots of a directory, which exists.
    pub(super) const fn new(disk: Arc<dyn Disk>, directory: PathBuf, stamp: Stamp) -> Self {
        Self { disk, directory, stamp }
    }

    /// Makes a snapshot the newest one. It is durable on return.
    pub(super) fn write(&self, meta: &SnapshotMeta, image: &[u8]) -> Result<(), StoreError> {
        let header = Header {
            format: SNAPSHOT_FORMAT,
            cluster_id: self.stamp.cluster_id,
            node_id: self.stamp.node_id,
            last_log_id: meta.last_log_id.map(LogIdRecord::from),
            membership: MembershipRecord::from(&meta.last_membership),
            bytes: image.len() as u64,
            checksum: crc32c::crc32c(image),
        };
        let mut content = serde_json::to_vec(&header).expect("memory does not fail");
        content.push(b'\n');
        content.extend_from_slice(image);
        let index = meta.last_log_id.map_or(0, |log_id| log_id.index);
        let path = self.directory.join(format!("{PREFIX}{index:020}"));
        disk::replace_file(self.disk.as_ref(), &path, &content).map_err(|source| failed(&path, source))?;
        // With what a crash left unfinished.
        for entry in self.entries()?.iter().filter(|entry| entry.name.starts_with(PREFIX)) {
            let other = self.directory.join(&entry.name);
            if other != path {
                self.disk.remove_file(&other).map_err(|source| failed(&other, source))?;
            }
        }
        Ok(())
    }

    /// The newest snapshot: what it covers, and the encoded image.
    pub(super) fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        let Some(path) = self.names()?.last().map(|name| self.directory.join(name)) else {
            return Ok(None);
        };
        let mut content =
            disk::read_file(self.disk.as_ref(), &path, SNAPSHOT_LIMIT_BYTES).map_err(|source| failed(&path, source))?;
        let end = content.iter().position(|byte| *byte == b'\n').ok_or(DecodeError::Truncated { what: WHAT })?;
        let header = read_header(&content[..end])?;
        if header.node_id != self.stamp.node_id {
            return Err(StoreError::ForeignNode { path, found: header.node_id, ours: self.stamp.node_id });
        }
        content.drain(..=end);
        if content.len() as u64 != header.bytes {
            return Err(DecodeError::Truncated { what: WHAT }.into());
        }
        let computed = crc32c::crc32c(&content);
        if computed != header.checksum {
            return Err(DecodeError::ChecksumMismatch { what: WHAT, stored: header.checksum, computed }.into());
        }
        let last_log_id = header.last_log_id.map(LogId::from);
        Ok(Some((snapshot_meta(last_log_id, header.membership.into()), content)))
    }

    /// Names of the snapshots, oldest first; what a crash left unfinished has another name.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let is_snapshot = |name: &String| name.strip_prefix(PREFIX).is_some_and(|index| index.parse::<u64>().is_ok());
        let mut names: Vec<_> = self.entries()?.into_iter().map(|entry| entry.name).filter(is_snapshot).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn entries(&self) -> Result<Vec<DirectoryEntry>, StoreError> {
        self.disk.list(&self.directory).map_err(|source| failed(&self.directory, source))
    }
}

/// What openraft is told about a snapshot. Its identity follows from what it covers, since equal logs give equal bytes.
pub(super) fn snapshot_meta(last_log_id: Option<LogId>, last_membership: super::StoredMembership) -> SnapshotMeta {
    let snapshot_id = last_log_id.map_or_else(|| "empty".to_owned(), |log_id| log_id.to_string());
    SnapshotMeta { last_log_id, last_membership, snapshot_id }
}

pub(super) fn read_header(line: &[u8]) -> Result<Header, DecodeError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let malformed = |source| DecodeError::Malformed { what: WHAT, source };
    let Format { format } = serde_json::from_slice(line).map_err(malformed)?;
    if format > SNAPSHOT_FORMAT {
        return Err(DecodeError::UnsupportedFormat { what: WHAT, found: format, supported: SNAPSHOT_FORMAT });
    }
    serde_json::from_slice(line).map_err(malformed)
}

fn failed(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Disk { path: path.to_owned(), source }
}
