//! What can go wrong with the quorum's storage.

use std::io;
use std::path::PathBuf;

use openraft::AnyError;
use thiserror::Error;

use super::super::error::DecodeError;
use super::lane::LaneStopped;
use crate::types::NodeId;

/// The metadata of this node can't be read or written. Nothing is retried: the node leaves the quorum, and what was
/// acknowledged is on the disk.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("metadata file operation failed path={path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database failed.
    #[error("metadata database failed: {0}")]
    Database(Box<redb::Error>),
    /// Stored bytes can't be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The directory belongs to another node.
    #[error(
        "metadata directory belongs to another node path={path} found_node_id={found} our_node_id={ours}; set cluster.node_id to the one found, or give this broker a data directory of its own"
    )]
    ForeignNode {
        /// The directory.
        path: PathBuf,
        /// Node in the format stamp.
        found: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// The database exists without its format stamp.
    #[error("metadata database has no format stamp path={path}")]
    NoStamp {
        /// The database.
        path: PathBuf,
    },
    /// The storage was closed.
    #[error(transparent)]
    Stopped(#[from] LaneStopped),
}

/// Wraps any of redb's errors.
pub(super) fn database<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::Database(Box::new(error.into()))
}

/// Flattens what a job on a store's lane gave, for openraft's errors.
pub(super) fn for_openraft<T>(result: Result<Result<T, StoreError>, LaneStopped>) -> Result<T, AnyError> {
    let result = result.unwrap_or_else(|stopped| Err(stopped.into()));
    result.map_err(|error| AnyError::new(&error))
}
