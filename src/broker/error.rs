//! Why the broker can't start, or refuses something about one partition.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::archive_seam::ArchiveError;
use super::archiver::ArchiveStartError;
use super::cluster::JoinError;
use crate::archive::bucket::BucketError;
use crate::archive::store::ProbeError;
use crate::log::{AppendError, OpenError, ReadError};
use crate::metadata::{CommandError, MetadataError};
use crate::peer::identity_files::IdentityError;
use crate::record::RecordError;
use crate::types::{LeaderEpoch, NodeId, Offset};

/// The broker can't start. Nothing that was acknowledged is lost.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another process has the metadata open.
    #[error(
        "data directory is in use by another process path={path}; stop that one, or give each a directory of its own"
    )]
    Locked {
        /// The metadata's directory.
        path: PathBuf,
    },
    /// A restore into the data directory has not come to its end.
    #[error(
        "a restore into this data directory is under way or was interrupted path={path}; run `alluvium restore` again, with the same settings"
    )]
    Restoring {
        /// The first data directory.
        path: PathBuf,
    },
    /// The metadata's directory can't be made or locked.
    #[error("metadata directory can't be used path={path}: {error}; see that its disk is mounted and writable")]
    MetadataDirectory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The metadata can't be opened.
    #[error("metadata can't be opened{}: {error}{}", place(path, error), advice(error))]
    Metadata {
        /// The metadata's directory.
        path: PathBuf,
        /// Why not.
        error: MetadataError,
    },
    /// A data directory can't be opened.
    #[error("{error}{} (data directory {path})", advice_on_directory(error))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: OpenError,
    },
    /// The archive can't be used.
    #[error("{error}{} (object store {url})", advice_on_archive(error))]
    Archive {
        /// The store, without secrets.
        url: String,
        /// Why not.
        error: ArchiveStartError,
    },
    /// The address for other brokers can't be listened on.
    #[error("cannot listen on {address} for other brokers (UDP): {error}; choose another with --peer-listen")]
    PeerListen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// What this broker is to show to others can't be used.
    #[error("the certificate for other brokers can't be used: {error}")]
    PeerIdentity {
        /// Why not.
        error: std::io::Error,
    },
    /// This broker's key or certificates can't be read, made or written.
    #[error(transparent)]
    Identity(IdentityError),
    /// This broker did not join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The cluster refuses this broker.
    #[error("the broker can't be registered in the cluster's metadata, and nothing was changed: {0}")]
    Registration(#[source] CommandError),
}

/// What to do where the error itself does not say.
const fn advice_on_directory(error: &OpenError) -> &'static str {
    match error {
        OpenError::Io(_) => "; see that its disk is mounted, readable and writable, and what `dmesg` says",
        OpenError::JournalEntry { .. } => "; use the release that wrote it",
        OpenError::SegmentDamaged { .. } | OpenError::Gap { .. } => {
            "; restore the partition's files, or move its directory away: what was archived is in the bucket"
        }
        _ => "",
    }
}

/// What to do where the error itself does not say.
const fn advice_on_archive(error: &ArchiveStartError) -> &'static str {
    match error {
        ArchiveStartError::Silent => "; see that its address is right and can be reached from here",
        ArchiveStartError::Probe(ProbeError::Failed { .. }) | ArchiveStartError::Bucket(BucketError::Store(_)) => {
            "; see that the bucket exists, and what its credentials and permissions are"
        }
        ArchiveStartError::Probe(ProbeError::Inconsistent { .. }) => "; use a store that does",
        ArchiveStartError::Directory(_) => "; see that the first data directory is writable",
        _ => "",
    }
}

/// Where it is, unless the error itself says so.
fn place(path: &Path, error: &MetadataError) -> String {
    let place = format!(" path={}", path.display());
    if error.to_string().contains(&place) { String::new() } else { place }
}

fn advice(error: &MetadataError) -> &'static str {
    match error.is_damage() {
        true => {
            "; look at the disk, and restore the directory from a copy: without one, `alluvium log dump` and `alluvium archive cat` \
             still read the records"
        }
        false => "",
    }
}

/// A request about one partition is refused, or failed.
#[derive(Clone, Debug, Error)]
pub enum PartitionError {
    /// No topic has this name, or the topic has no such partition; Kafka's UNKNOWN_TOPIC_OR_PARTITION.
    #[error("no such topic or partition")]
    UnknownPartition,
    /// No topic has this identity; Kafka's UNKNOWN_TOPIC_ID.
    #[error("no topic has this identity")]
    UnknownTopicId,
    /// Another broker leads the partition; Kafka's NOT_LEADER_OR_FOLLOWER.
    #[error("another broker leads the partition leader={leader:?}")]
    NotLeader {
        /// Who leads, if anybody does.
        leader: Option<NodeId>,
    },
    /// The client's leader epoch has passed; Kafka's FENCED_LEADER_EPOCH.
    #[error("the leader epoch has passed epoch={epoch} current={current}")]
    FencedEpoch {
        /// The client's.
        epoch: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The client knows a later leader epoch than this broker; Kafka's UNKNOWN_LEADER_EPOCH.
    #[error("the leader epoch is not known here yet epoch={epoch} current={current}")]
    UnknownEpoch {
        /// The client's.
        epoch: LeaderEpoch,
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The local log lacks records that were archived, or has others, and is being set right; Kafka's
    /// NOT_LEADER_OR_FOLLOWER, which clients repeat.
    #[error("the local log is behind the archive, from which it is about to go on")]
    Behind,
    /// The topic belongs to the broker; Kafka's INVALID_TOPIC_EXCEPTION.
    #[error("clients can't write to this topic")]
    InternalTopic,
    /// Transactions are not supported; see decision record 0041.
    #[error("transactions are not supported yet")]
    Transactional,
    /// The records break a rule.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The log refused the append.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An offset lies outside the log; Kafka's OFFSET_OUT_OF_RANGE.
    #[error("offset is out of range offset={offset} high_watermark={high_watermark}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The committed end.
        high_watermark: Offset,
    },
    /// The offset is committed for all that its client knows, and the high watermark here is not there yet: that of a follower that is a
    /// little behind, or of a leader that has just begun; Kafka's OFFSET_NOT_AVAILABLE, which clients repeat.
    #[error("the offset is not known to be committed here yet offset={offset} high_watermark={high_watermark}")]
    OffsetNotAvailable {
        /// The offset asked for, or up to which all has to be committed.
        offset: Offset,
        /// The committed end, as far as it is known here.
        high_watermark: Offset,
    },
    /// The producer wants its records in all in-sync replicas, and these are too few; Kafka's NOT_ENOUGH_REPLICAS.
    #[error("too few replicas are in sync in_sync={in_sync} min.insync.replicas={min}")]
    NotEnoughReplicas {
        /// Replicas in sync.
        in_sync: usize,
        /// Replicas that have to be.
        min: usize,
    },
    /// There was no room in time, or what was appended was not committed in time; Kafka's REQUEST_TIMED_OUT.
    #[error("not done in time")]
    TimedOut,
}
