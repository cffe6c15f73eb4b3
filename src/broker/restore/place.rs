//! The data directories that a cluster is restored into: empty ones, or those that an interrupted restore began in.
//!
//! ```text
//! <first data>/restoring.json   {"format":1,"cluster_id":ID,"nonce":N,"process":ID,"directories":[PATH,…]}
//! ```
//! says that a restore has not come to its end here. It is there, durably, before anything in the bucket changes, and goes last. While it is there no broker starts on the directories,
//! and whatever else is in them is what the restore made; the next attempt begins them anew.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RestoreError;
use crate::archive::manifest::Hex128;
use crate::broker::start::METADATA_DIRECTORY;
use crate::runtime::Runtime;
use crate::runtime::disk::{DirectoryLock, Disk, read_file, replace_file};
use crate::types::{BrokerIncarnationId, ClusterId};

const MARKER: &str = "restoring.json";
/// What a crash leaves of the marker before it has its name.
const UNFINISHED_MARKER: &str = "restoring.tmp";
const MARKER_FORMAT: u32 = 1;
/// Far more than a marker has.
const MARKER_LIMIT_BYTES: u64 = 4096;
/// The file by which a directory is locked.
const LOCK: &str = "lock";
/// What a file system has in its first directory.
const OF_FILE_SYSTEM: &str = "lost+found";

/// What an attempt leaves for the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    format: u32,
    /// The cluster that is restored.
    pub(super) cluster_id: ClusterId,
    /// What the cluster's stamp has once its next life has begun.
    pub(super) nonce: Hex128,
    /// Who takes the heads over.
    pub(super) process: BrokerIncarnationId,
    /// The data directories, all of them empty when it began.
    directories: Vec<String>,
}

/// The directories, held against other processes.
pub(super) struct Place {
    runtime: Runtime,
    first: PathBuf,
    pub(super) marker: Marker,
    _lock: Box<dyn DirectoryLock>,
}

fn unusable(path: &Path) -> impl Fn(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::Disk { path: path.clone(), error }
}

/// Whether a restore into a first data directory has not come to its end.
pub(in crate::broker) fn is_begun(disk: &dyn Disk, first: &Path) -> std::io::Result<bool> {
    disk.exists(&first.join(MARKER))
}

/// Sees whether a cluster may be restored into these directories; what an interrupted attempt left, if one was.
pub(super) fn look(
    disk: &dyn Disk,
    directories: &[PathBuf],
    cluster_id: ClusterId,
) -> Result<Option<Marker>, RestoreError> {
    let first = &directories[0];
    let path = first.join(MARKER);
    if is_begun(disk, first).map_err(unusable(first))? {
        let bytes = read_file(disk, &path, MARKER_LIMIT_BYTES).map_err(unusable(first))?;
        let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| RestoreError::Marker { path, error })?;
        if marker.cluster_id != cluster_id {
            return Err(RestoreError::OtherRestore { path: first.clone(), found: marker.cluster_id });
        }
        if marker.directories != shown(directories) {
            return Err(RestoreError::OtherDirectories { path: first.clone(), began_in: marker.directories });
        }
        return Ok(Some(marker));
    }
    for directory in directories {
        if let Some(name) = leftover(disk, directory, directory == first).map_err(unusable(directory))? {
            return Err(RestoreError::NotEmpty { path: directory.clone(), name });
        }
    }
    Ok(None)
}

fn shown(directories: &[PathBuf]) -> Vec<String> {
    directories.iter().map(|path| path.display().to_string()).collect()
}

/// Something that is in a directory, and would not be if nobody ever used it.
fn leftover(disk: &dyn Disk, directory: &Path, is_first: bool) -> std::io::Result<Option<String>> {
    if !disk.exists(directory)? {
        return Ok(None);
    }
    for entry in disk.list(directory)? {
        let is_locked = is_first && entry.is_directory && entry.name == METADATA_DIRECTORY;
        let is_nothing = match entry.name.as_str() {
            OF_FILE_SYSTEM => true,
            UNFINISHED_MARKER => is_first,
            // Whoever looks first makes it for its lock.
            METADATA_DIRECTORY if is_locked => {
                disk.list(&directory.join(&entry.name))?.iter().all(|it| it.name == LOCK)
            }
            _ => false,
        };
        if !is_nothing {
            return Ok(Some(entry.name));
        }
    }
    Ok(None)
}

impl Place {
    /// Takes the directories for a restore, and empties them of what an interrupted one made.
    pub(super) fn take(
        runtime: &Runtime,
        directories: &[PathBuf],
        cluster_id: ClusterId,
    ) -> Result<Self, RestoreError> {
        let (disk, first) = (&*runtime.disk, directories[0].clone());
        // Nothing is made in a directory that is not to be used.
        look(disk, directories, cluster_id)?;
        let metadata = first.join(METADATA_DIRECTORY);
        disk.create_directory(&metadata).map_err(unusable(&first))?;
        let lock = disk.lock(&metadata).map_err(unusable(&first))?;
        let Some(lock) = lock else { return Err(RestoreError::Locked { path: first }) };
        let marker = match look(disk, directories, cluster_id)? {
            Some(marker) => {
                for directory in directories {
                    empty(disk, directory, directory == &first).map_err(unusable(directory))?;
                }
                marker
            }
            None => {
                let nonce = Hex128::from_entropy(runtime.entropy.identity());
                let process = BrokerIncarnationId::from_entropy(runtime.entropy.identity());
                let directories = shown(directories);
                let marker = Marker { format: MARKER_FORMAT, cluster_id, nonce, process, directories };
                let content = serde_json::to_vec(&marker).expect("a marker has string keys and memory does not fail");
                replace_file(disk, &first.join(MARKER), &content).map_err(unusable(&first))?;
                marker
            }
        };
        Ok(Self { runtime: runtime.clone(), first, marker, _lock: lock })
    }

    /// The restore has come to its end: brokers may start.
    pub(super) fn finish(self) -> Result<(), RestoreError> {
        let disk = &*self.runtime.disk;
        disk.remove_file(&self.first.join(MARKER)).map_err(unusable(&self.first))?;
        disk.sync_directory(&self.first).map_err(unusable(&self.first))
    }
}

/// Removes what a restore made, but for what says that it did, and the lock.
fn empty(disk: &dyn Disk, directory: &Path, is_first: bool) -> std::io::Result<()> {
    if !disk.exists(directory)? {
        return Ok(());
    }
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        match entry.name.as_str() {
            OF_FILE_SYSTEM => {}
            MARKER if is_first => {}
            METADATA_DIRECTORY if is_first => {
                for entry in disk.list(&path)?.into_iter().filter(|entry| entry.name != LOCK) {
                    remove(disk, &path.join(&entry.name), entry.is_directory)?;
                }
            }
            _ => remove(disk, &path, entry.is_directory)?,
        }
    }
    disk.sync_directory(directory)
}

fn remove(disk: &dyn Disk, path: &Path, is_directory: bool) -> std::io::Result<()> {
    if is_directory { disk.remove_directory(path) } else { disk.remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

    #[test]
    fn only_what_is_empty_or_was_begun_is_taken_and_a_marker_outlives_an_attempt() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::production();
        let directories = [root.path().join("first"), root.path().join("second")];
        let take = || Place::take(&runtime, &directories, CLUSTER);
        std::fs::create_dir_all(directories[1].join("topics")).unwrap();
        let refused = take().err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains("not empty") && why.contains("topics")), "{refused:?}");
        assert!(!directories[0].exists(), "nothing was made");

        std::fs::remove_dir(directories[1].join("topics")).unwrap();
        std::fs::create_dir(directories[1].join("lost+found")).unwrap();
        let first = take().unwrap();
        assert!(matches!(take().err(), Some(RestoreError::Locked { .. })));
        let marker = first.marker.clone();
        std::fs::write(directories[0].join("metadata/metadata.redb"), "half").unwrap();
        std::fs::create_dir(directories[1].join("journal")).unwrap();
        drop(first);
        assert!(is_begun(&*runtime.disk, &directories[0]).unwrap());
        let other = Place::take(&runtime, &directories, ClusterId::from_bytes([2; 16])).err();
        assert!(matches!(other, Some(RestoreError::OtherRestore { found, .. }) if found == CLUSTER), "it was begun");

        let elsewhere = [directories[0].clone(), root.path().join("third")];
        let other = Place::take(&runtime, &elsewhere, CLUSTER).err();
        assert!(matches!(other, Some(RestoreError::OtherDirectories { .. })), "what is there may be somebody's");

        let second = take().unwrap();
        assert_eq!(second.marker, marker);
        assert!(!directories[0].join("metadata/metadata.redb").exists() && !directories[1].join("journal").exists());
        assert!(directories[1].join("lost+found").exists());
        second.finish().unwrap();
        assert!(!is_begun(&*runtime.disk, &directories[0]).unwrap());
        take().unwrap();
    }
}
