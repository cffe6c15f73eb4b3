//! The data plane put together: metadata, data directories, partitions, and what one request does to them.
//!
//! `server` translates the wire into calls of [`Broker`] and back. Here is decided who may append and read, when an append
//! counts as done, what a fetch waits for, and which tier answers; the logs below know nothing of clients. At its start the
//! broker registers as a new incarnation, which raises the leader epoch of all it leads; what a crash left half done (a topic
//! deleted in the metadata and not on disk) is finished then.
//!
//! - `partitions`: which partitions are open, and the rules of their topics.
//! - `produce`, `fetch`, `list_offsets`, `admin`, `cluster_admin`: what requests do.
//! - `reading`: from which replica a consumer reads; `readers`, `read_ahead`: how segments are read without holding anybody up.
//! - `offsets_log`, `deleted_offsets`: the logs of the group coordinators, and what these forget with a topic.
//! - `throttle`: how long a producer is asked to wait while the archive is behind.
//! - `replication`: records on their way to followers and from leaders.
//! - `restore`: a new cluster from the bucket of one that is lost.
//! - `cluster`: this broker among others; `cluster_admin`: what administrators ask of a cluster.
//! - `archive_seam`: the way to records whose local copy has gone.

mod admin;
mod archive_seam;
mod archiver;
mod cluster;
mod cluster_admin;
#[cfg(test)]
mod cluster_simulation;
mod cold_reads;
mod deleted_offsets;
mod error;
mod fetch;
mod fetch_session;
mod list_offsets;
mod offsets_log;
mod partitions;
mod produce;
mod producer_ids;
mod read_ahead;
mod readers;
mod reading;
mod replication;
mod restore;
mod settings;
#[cfg(test)]
mod simulation;
mod start;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use admin::{AdminError, ConfigEdit, ConfigResource, NewTopic, OFFSETS_SEGMENT_BYTES, OFFSETS_TOPIC, TopicName};
pub use archive_seam::{ArchiveError, ArchiveRead, ArchiveReader, AtHand, FoundOffset};
pub use archiver::{ArchiveStartError, ArchiverSettings};
pub use cluster::JoinError;
pub use cluster_admin::{ClusterError, MAX_REASSIGNMENTS, Reassignment};
pub use error::{PartitionError, StartError};
pub use fetch::{FetchLimits, FetchPartition, Fetched, Isolation};
pub use fetch_session::{
    Answered, FetchContext, FetchSessions, PartitionKey, SessionError, SessionPartition, SessionRequest,
};
pub use list_offsets::OffsetQuery;
pub use partitions::{InSync, Leader, LocalTopic, Partition, TopicRules};
pub use produce::{Acknowledgement, Produced, RoomWait};
pub use reading::{Consumer, ReadFrom};
pub use restore::{
    AheadOffset, LastChange, Restore, RestoreError, RestoreOptions, RestoreReport, RestoredGroups, RestoredPartition,
    RestoredTopic,
};
pub use settings::{ArchiveSettings, BrokerSettings, ClusterSettings, FetchSettings, TopicSettings};

use archiver::Restoring;
use cluster::Cluster;
use cold_reads::ColdReads;
use deleted_offsets::DeletedOffsets;
use offsets_log::Coordinated;
use partitions::Partitions;
use producer_ids::ProducerIds;
use read_ahead::ReadAhead;
use readers::Readers;
use throttle::Throttle;

use crate::archive::workers::Workers;
use crate::group::Groups;
use crate::log::{LogDirectory, RecoveryReport};
use crate::metadata::config_layers::BrokerLayers;
use crate::metadata::image::Topic;
use crate::metadata::{Image, Metadata};
use crate::runtime::Runtime;
use crate::runtime::disk::DirectoryLock;
use crate::runtime::watch;
use crate::telemetry::{MemoryPool, Metrics};
use crate::types::{BrokerEpoch, ClusterId, DirectoryId, LeaderEpoch, NodeId, TopicId};

/// A broker that is open: its partitions can be read and appended to. Shut down by [`Broker::shutdown`].
pub struct Broker {
    runtime: Runtime,
    settings: BrokerSettings,
    metrics: Arc<Metrics>,
    metadata: Arc<Metadata>,
    /// Its place among other brokers; none for one by itself.
    cluster: Option<Cluster>,
    epoch: BrokerEpoch,
    partitions: Partitions,
    readers: Arc<Readers>,
    validators: Workers,
    read_ahead: ReadAhead,
    archive: Arc<dyn ArchiveReader>,
    cold_reads: ColdReads,
    sessions: Mutex<FetchSessions>,
    producer_ids: ProducerIds,
    throttle: Mutex<Throttle>,
    /// How many bytes of produce requests may wait for room in each data directory; their memory is the requests' own.
    waiting: BTreeMap<DirectoryId, MemoryPool>,
    answers: MemoryPool,
    groups: Groups,
    /// The topic whose partitions the coordinators run on.
    coordinated: Mutex<Option<Coordinated>>,
    deleted_offsets: DeletedOffsets,
    restoring: Restoring,
    recovery: RecoveryReport,
    /// Nobody waits any more for records, or for the other members of a group.
    stopping: watch::Sender<bool>,
    /// Notified when a newer image has been applied.
    image_applied: Notify,
    background: Mutex<Vec<JoinHandle<()>>>,
    _metadata_lock: Box<dyn DirectoryLock>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.settings.node_id)
    }
}

impl Broker {
    /// The broker's number.
    pub const fn node_id(&self) -> NodeId {
        self.settings.node_id
    }

    /// The term of its registration.
    pub const fn epoch(&self) -> BrokerEpoch {
        self.epoch
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.metadata.cluster_id()
    }

    /// The newest metadata.
    pub fn image(&self) -> Arc<Image> {
        self.metadata.image()
    }

    /// What it was started with.
    pub const fn settings(&self) -> &BrokerSettings {
        &self.settings
    }

    /// The machine.
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Counters and timings.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What opening the data directories found, all together.
    pub const fn recovery(&self) -> RecoveryReport {
        self.recovery
    }

    /// The data directories.
    pub fn directories(&self) -> &[Arc<LogDirectory>] {
        self.partitions.directories()
    }

    /// Configured data directories that could not be opened at the start.
    pub fn unopened_directories(&self) -> impl Iterator<Item = &Path> {
        let is_open = |path: &Path| self.directories().iter().any(|directory| directory.path() == path);
        self.settings.directories.iter().map(PathBuf::as_path).filter(move |path| !is_open(path))
    }

    /// The partitions that are open.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.all()
    }

    /// The fetch sessions; the lock is held only for as long as one request is looked at.
    pub fn fetch_sessions(&self) -> MutexGuard<'_, FetchSessions> {
        self.sessions.lock()
    }

    /// The topic of an image that a client names by identity, or by name where the identity is zero.
    pub fn topic<'a>(image: &'a Image, topic_id: TopicId, name: &str) -> Result<&'a Arc<Topic>, PartitionError> {
        if topic_id.is_zero() {
            image.topic_named(name).ok_or(PartitionError::UnknownPartition)
        } else {
            image.topic(topic_id).ok_or(PartitionError::UnknownTopicId)
        }
    }

    /// The partition of a topic, if this broker leads it, and if `expected` is its leader epoch or none.
    pub fn leader(&self, topic: &Topic, partition: i32, expected: LeaderEpoch) -> Result<Leader, PartitionError> {
        self.partitions.leader(topic, partition, expected)
    }

    /// The partition of a topic, if this broker follows it, and if `expected` is its leader epoch or none (KIP-392).
    pub fn follower(&self, topic: &Topic, partition: i32, expected: LeaderEpoch) -> Result<Leader, PartitionError> {
        self.partitions.follower(topic, partition, expected)
    }

    /// The layers under every topic's configuration, and what DescribeConfigs shows of the broker itself.
    pub fn layers<'a>(&'a self, image: &'a Image) -> BrokerLayers<'a> {
        self.partitions.layers(image)
    }

    /// What the broker was configured with, by Kafka's names.
    pub const fn broker_configs(&self) -> &BTreeMap<String, String> {
        &self.settings.broker_configs
    }
}
