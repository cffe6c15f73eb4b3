//! Why a cluster is not restored.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::archive::bucket::BucketError;
use crate::archive::inspect::InspectError;
use crate::archive::manifest::ManifestError;
use crate::archive::partition::HeadError;
use crate::archive::store::{LocationError, ProbeError, StoreError};
use crate::group::FormatError;
use crate::log::OpenError;
use crate::metadata::{CommandError, MetadataError};
use crate::types::ClusterId;

/// The cluster is not restored. Whatever was done before is done again, or passed over, by the next attempt.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The bucket holds no cluster, or several, or can't be looked at.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The store outlives no process.
    #[error("a store in memory holds nothing to restore; name the store of the lost cluster with --object-store")]
    NotDurable,
    /// The store can't be opened.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The store fails, or does not keep what the archive relies on.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// An object of the cluster can't be read or changed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A head can't be taken over.
    #[error("the archive of a partition can't be taken over: {0}")]
    Head(#[from] HeadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot of groups can't be written.
    #[error("committed offsets can't be kept in the bucket: {0}")]
    Snapshot(#[from] ManifestError),
    /// The snapshot of groups can't be read.
    #[error("committed offsets in the bucket can't be read: {0}; leave them out with --without-groups")]
    Offsets(#[from] FormatError),
    /// A topic that is to be left out is not there.
    #[error("the archive has no topic of this name or identity to leave out: {named}")]
    UnknownTopic {
        /// What was named.
        named: String,
    },
    /// The cluster may not be lost.
    #[error(
        "a broker of the cluster may still run: the bucket was changed {seconds_ago} s ago ({key}); stop it, or go on with --force: what it has not archived is not in the restored cluster, and it archives nothing any more"
    )]
    Alive {
        /// What changed last.
        key: String,
        /// How long ago, by this machine's clock and the store's.
        seconds_ago: i64,
    },
    /// Something of the archive can't be read, or told.
    #[error(
        "{}\nnothing was changed; bring back what is damaged from the bucket's versions, or leave it out: a topic with --without, its objects then stay where they are, and committed offsets with --without-groups",
        problems.join("\n")
    )]
    Damaged {
        /// What, a sentence each.
        problems: Vec<String>,
    },
    /// A data directory is in use for something.
    #[error(
        "data directory is not empty path={path} ({name} is there); a cluster is restored into new ones: name another with --data-dir, or empty it where nothing in it is needed, as after a start that was refused"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        name: String,
    },
    /// Another restore was interrupted there.
    #[error(
        "a restore of another cluster was interrupted in the data directory path={path} cluster={found}; empty it, or name another with --data-dir"
    )]
    OtherRestore {
        /// The directory.
        path: PathBuf,
        /// What was being restored.
        found: ClusterId,
    },
    /// Another restore was interrupted there.
    #[error(
        "a restore that was interrupted began in other data directories path={path}; use these, or empty all of them: {}",
        began_in.join(", ")
    )]
    OtherDirectories {
        /// The first directory.
        path: PathBuf,
        /// Those that it began in.
        began_in: Vec<String>,
    },
    /// What an interrupted restore left can't be read.
    #[error("what an interrupted restore left can't be read path={path}: {error}; empty the data directory")]
    Marker {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: serde_json::Error,
    },
    /// Another process uses the data directory.
    #[error("data directory is in use by another process path={path}; stop that one, or name another with --data-dir")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A data directory can't be used.
    #[error("data directory can't be used path={path}: {error}; see that its disk is mounted and writable")]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A data directory can't be made.
    #[error("data directory can't be made path={path}: {error}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: OpenError,
    },
    /// The metadata can't be made.
    #[error("the restored cluster's metadata can't be made: {0}")]
    Metadata(#[from] MetadataError),
    /// The metadata does not take what the bucket has.
    #[error("the restored cluster's metadata refuses {what}: {error}")]
    Refused {
        /// What it refuses.
        what: String,
        /// Why.
        error: CommandError,
    },
}
