//! The archive at work: sealed segments go to the bucket, reads of what is archived come back from it, and retention makes
//! room in both tiers.
//!
//! [`Archiver`] owns the bucket of this cluster and one handle for each partition's head. `Broker` opens it before it serves,
//! reads through it (it is the [`ArchiveReader`](super::ArchiveReader)), and runs its loops: `catch_up`, `upload`, `retention`,
//! `sweep`, `topics` and `groups`.
//!
//! In a cluster each partition is archived, and retained in the bucket, by the broker that leads it. Its followers make room by what
//! the leader says and the head proves (`sight`). What is to be done once for the whole cluster is done by the broker that leads
//! the metadata ([`Broker::keeps_house`]); two may take themselves for it for a moment (decision 0079).
//! Nothing here decides what is archived: the head in the bucket does. A log is told that records are archived only by a
//! head that was read or written in this process; what it then deletes locally, a checkpoint knew before.
//!
//! After a crash: heads are read again when they are first needed. A bucket that is slow or gone delays uploads and reads of
//! old records, nothing else.

mod catch_up;
mod complaints;
mod filling;
mod groups;
mod lost_offsets;
mod observer;
mod pauses;
mod pressure;
mod proof;
mod reads;
mod reconcile;
mod retention;
mod sight;
mod sweep;
#[cfg(test)]
mod tests;
mod topics;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;

use catch_up::agrees;
use complaints::Complaints;
use observer::Observer;
use proof::Latch;

pub(super) use lost_offsets::Restoring;

use super::Broker;
use super::error::PartitionError;
use super::partitions::Leader;
use super::settings::ArchiveSettings;
use crate::archive::bucket::{Bucket, BucketError, LocalData};
use crate::archive::chunk_cache::ChunkCache;
use crate::archive::heads::Heads;
use crate::archive::key::Fence;
use crate::archive::manifest::{Head, HeadIdentity, Writer};
use crate::archive::parquet::ChunkLimits;
use crate::archive::partition::{HeadError, PartitionArchive};
use crate::archive::remote_reader::{ReadMetrics, ReadSettings, RemoteReader};
use crate::archive::spool::Spool;
use crate::archive::store::{LocationError, ProbeError, Store};
use crate::archive::uploader::Uploader;
use crate::archive::workers::Workers;
use crate::log::PartitionLog;
use crate::metadata::Image;
use crate::metadata::image::Topic;
use crate::runtime::Runtime;
use crate::runtime::tasks::Priority;
use crate::runtime::watch;
use crate::telemetry::{MemoryPool, MemoryShare, Metrics};
use crate::types::{
    BrokerIncarnationId, ClusterId, Incarnation, LeaderEpoch, Monotonic, NodeId, PartitionIndex, TopicPartition,
};

/// Lanes that do the file work of a `file://` store.
const STORE_LANES: usize = 2;
/// Lanes that look after the local disks: one that hangs must not hide how full the others are.
const LOCAL_LANES: usize = 2;
/// Lanes that remove local segments, those of each directory one after another: so many may be slow before others wait.
const REMOVAL_LANES: usize = 4;

/// How the archive is worked.
#[derive(Clone, Debug)]
pub struct ArchiverSettings {
    /// Where segments are encoded to before they are uploaded; needs room for each upload's segment.
    pub spool_directory: PathBuf,
    /// Where rebuilt chunks are kept for readers.
    pub cache_directory: PathBuf,
    /// Most bytes of rebuilt chunks. More spares requests and decoding for readers that follow each other.
    pub cache_bytes: u64,
    /// Most segments encoded and uploaded at once; each takes up to a core, at low priority.
    pub uploads: usize,
    /// Bytes of memory for uploads: 40 MiB each, but one always goes on.
    pub upload_bytes: usize,
    /// Lanes that encode, as many that take their place when it is urgent, and as many that decode.
    pub lanes: usize,
    /// How old records are read.
    pub reads: ReadSettings,
    /// How often the bucket is looked at for what retention has passed.
    pub retention_interval: Duration,
    /// How long objects stay after retention has passed them, for readers that began before.
    pub deletion_grace: Duration,
    /// How often orphaned objects are looked for. Costs two listings and a read of the head for each partition.
    pub sweep_interval: Duration,
    /// Bytes of memory for heads of partitions. Fewer cost a request when a partition is used again.
    pub head_bytes: u64,
    /// Local bytes above which archived segments go, whatever their topic's local retention says.
    pub local_bytes: u64,
    /// Room to keep free on each file system; never more than a twentieth of it.
    pub free_bytes: u64,
}

/// The archive can't be used. Nothing in the bucket or on disk was changed that a next start would miss.
#[derive(Debug, Error)]
pub enum ArchiveStartError {
    /// The store fails, or does not keep what the archive relies on.
    #[error("object store can't be used: {0}")]
    Probe(#[from] ProbeError),
    /// The bucket belongs to another cluster, or this one's data directory is new.
    #[error("bucket can't be used: {0}")]
    Bucket(#[from] BucketError),
    /// The store can't be opened.
    #[error("object store can't be opened: {0}")]
    Location(#[from] LocationError),
    /// The store did not answer in time.
    #[error("object store does not answer in time")]
    Silent,
    /// The local directories of the archive can't be made.
    #[error("directory of the archive can't be made: {0}")]
    Directory(#[from] std::io::Error),
}

/// How the archive gets on, for who slows producers down.
#[derive(Debug, Default)]
struct Progress {
    /// Sealed bytes that wait for the archive.
    waiting_bytes: AtomicU64,
    /// Bytes archived since the start.
    archived_bytes: AtomicU64,
    /// Whether so much waits that uploads go on the urgent lanes.
    is_urgent: AtomicBool,
}

/// What is remembered of one partition between attempts, in the newest epoch in which it is led here: what came of those before
/// says nothing of the next, and meanwhile another broker may have changed the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempts {
    epoch: LeaderEpoch,
    /// The head was read.
    is_known: bool,
    /// The head was taken over.
    is_owned: bool,
    failures: u32,
    not_before: Monotonic,
}

impl Attempts {
    const fn none_in(epoch: LeaderEpoch) -> Self {
        Self { epoch, is_known: false, is_owned: false, failures: 0, not_before: Monotonic(0) }
    }

    /// Those in an epoch: of an older one nothing is remembered.
    fn in_epoch<T>(&mut self, epoch: LeaderEpoch, act: impl FnOnce(&mut Self) -> T) -> T {
        if epoch < self.epoch {
            return act(&mut Self::none_in(epoch));
        }
        if epoch > self.epoch {
            *self = Self::none_in(epoch);
        }
        act(self)
    }
}

/// See the module.
pub struct Archiver {
    runtime: Runtime,
    settings: ArchiverSettings,
    metrics: Arc<Metrics>,
    owner: Owner,
    bucket: Bucket,
    /// See [`proof`].
    proved: Latch,
    workers: Workers,
    /// As many lanes, of the usual priority, for when so much waits that producers will be slowed down.
    urgent: Workers,
    /// For what looks after the local disk, which waits for no segment to be encoded.
    local: Workers,
    /// For what removes segments from there, which may take long.
    removals: Workers,
    uploader: Uploader,
    reader: RemoteReader,
    images: watch::Receiver<Arc<Image>>,
    heads: Heads,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionArchive>>,
    attempts: Mutex<BTreeMap<TopicPartition, Attempts>>,
    under_way: Mutex<BTreeSet<TopicPartition>>,
    progress: Progress,
    complaints: Mutex<Complaints>,
}

impl std::fmt::Debug for Archiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archiver({:?})", self.bucket.store())
    }
}

/// Whose archive it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) cluster_id: ClusterId,
    pub(super) node_id: NodeId,
    pub(super) process: BrokerIncarnationId,
    pub(super) incarnation: Incarnation,
    /// What the data directories have.
    pub(super) local: LocalData,
}

/// Refuses an archive that holds other records than the log.
fn check_agrees(log: &PartitionLog, archive: &PartitionArchive, head: &Head) -> Result<(), HeadError> {
    if agrees(log, head) { Ok(()) } else { Err(contradicted(log, archive, head)) }
}

fn contradicted(log: &PartitionLog, archive: &PartitionArchive, head: &Head) -> HeadError {
    let (key, log_end) = (archive.keys().head(), log.offsets().log_end);
    HeadError::Contradicted { key, next_offset: head.next_offset, log_end }
}

impl Broker {
    /// Whether this broker does what is to be done once for the whole cluster: the one that leads the metadata quorum, and has heard
    /// of a majority of it lately. The one before may not have noticed, for a moment.
    pub(super) fn keeps_house(&self) -> bool {
        self.metadata.leads()
    }

    /// The partition of a topic if it is led here, or else if it is followed and its log is a part of the leader's; and whether it
    /// is led.
    fn part_in(&self, topic: &Topic, partition: i32) -> Option<(Leader, bool)> {
        match self.leader(topic, partition, LeaderEpoch::NONE) {
            Ok(leader) => Some((leader, true)),
            Err(_) => self.follower(topic, partition, LeaderEpoch::NONE).ok().map(|follower| (follower, false)),
        }
    }
}

/// Opens the store that the settings name.
///
/// # Errors
/// [`LocationError`].
pub(super) fn open_store(
    runtime: &Runtime,
    settings: &ArchiveSettings,
    metrics: &Arc<Metrics>,
) -> Result<Store, LocationError> {
    let files = Workers::start(&*runtime.tasks, "store", Priority::Foreground, STORE_LANES);
    let observer = Arc::new(Observer { metrics: Arc::clone(metrics) });
    Store::open(runtime, &settings.location, settings.store.clone(), files, observer)
}

impl Archiver {
    /// Proves the store and claims the bucket for the cluster, if it answers, and empties the directory of its cache.
    ///
    /// # Errors
    /// [`ArchiveStartError`].
    pub(super) async fn open(
        runtime: &Runtime,
        settings: &ArchiverSettings,
        store: Store,
        owner: Owner,
        images: watch::Receiver<Arc<Image>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ArchiveStartError> {
        let settings = settings.clone();
        let workers = Workers::start(&*runtime.tasks, "archive", Priority::Background, settings.lanes);
        let urgent = Workers::start(&*runtime.tasks, "urgent", Priority::Foreground, settings.lanes);
        let local = Workers::start(&*runtime.tasks, "local", Priority::Foreground, LOCAL_LANES);
        let removals = Workers::start(&*runtime.tasks, "remove", Priority::Foreground, REMOVAL_LANES);
        // Lanes of their own: a segment takes seconds to encode, and readers wait for a chunk.
        let decoders = Workers::start(&*runtime.tasks, "decode", Priority::Background, settings.lanes);
        let bucket = Bucket::new(store, runtime.clone(), owner.cluster_id);
        let proved = proof::prove_at_start(&bucket, owner).await?;
        let spool = Spool::open(&*runtime.disk, &settings.spool_directory, settings.uploads)?;
        let (directory, bytes) = (settings.cache_directory.clone(), settings.cache_bytes);
        let cache = ChunkCache::open(runtime, directory, bytes, decoders.clone(), metrics.cache.clone())?;
        let used_bytes = |share| metrics.memory.used_bytes.of(share).clone();
        let upload_memory = MemoryPool::new(settings.upload_bytes, used_bytes(MemoryShare::Uploads));
        let used_bytes = used_bytes(MemoryShare::Readers);
        let read_metrics = ReadMetrics { reads: metrics.archive_read.clone(), used_bytes };
        Ok(Self {
            uploader: Uploader::new(runtime.clone(), workers.clone(), spool, upload_memory, ChunkLimits::default()),
            reader: RemoteReader::new(settings.reads, decoders, cache, read_metrics),
            runtime: runtime.clone(),
            heads: Heads::new(settings.head_bytes),
            settings,
            metrics,
            owner,
            bucket,
            proved: Latch::new(proved),
            workers,
            urgent,
            local,
            removals,
            images,
            partitions: Mutex::default(),
            attempts: Mutex::default(),
            under_way: Mutex::default(),
            progress: Progress::default(),
            complaints: Mutex::default(),
        })
    }

    /// Whether the store outlives this process; without that nothing local is ever deleted.
    fn is_durable(&self) -> bool {
        self.bucket.store().is_durable()
    }

    fn image(&self) -> Arc<Image> {
        Arc::clone(&self.images.borrow())
    }

    /// The archive of a partition, while its topic lives.
    fn partition(&self, id: TopicPartition) -> Option<PartitionArchive> {
        if let Some(archive) = self.partitions.lock().get(&id) {
            return Some(archive.clone());
        }
        let image = self.image();
        let topic = image.topic(id.topic_id)?;
        let identity = HeadIdentity {
            cluster_id: self.bucket.keys().cluster_id(),
            topic: topic.name.to_string(),
            topic_id: id.topic_id,
            partition: PartitionIndex(id.partition.get()),
        };
        let archive = PartitionArchive::new(self.bucket.clone(), self.runtime.clone(), identity, self.heads.clone());
        Some(self.partitions.lock().entry(id).or_insert(archive).clone())
    }

    /// Does something with what is remembered of attempts in an epoch.
    fn attempts_in<T>(&self, id: TopicPartition, epoch: LeaderEpoch, act: impl FnOnce(&mut Attempts) -> T) -> T {
        self.attempts.lock().entry(id).or_insert(Attempts::none_in(epoch)).in_epoch(epoch, act)
    }

    const fn writer(&self, epoch: LeaderEpoch) -> Writer {
        let fence = Fence { incarnation: self.owner.incarnation, leader_epoch: epoch };
        Writer { fence, broker: self.owner.node_id, process: self.owner.process }
    }

    /// The head of a partition that this broker leads, taken over in the leader's epoch; and the log told how far the
    /// archive reaches.
    async fn own(&self, leader: &Leader, archive: &PartitionArchive) -> Result<Arc<Head>, HeadError> {
        let log = leader.partition.log();
        let (id, believed) = (log.partition(), log.offsets().archived_to);
        let attempts = self.attempts_in(id, leader.epoch, |attempts| *attempts);
        let head = match archive.head().filter(|_| attempts.is_owned) {
            Some(head) => head,
            None => {
                let is_archived = believed > log.offsets().log_start;
                let is_known = attempts.is_known && archive.head().is_some();
                if is_archived && !is_known && archive.refresh().await?.is_none() {
                    self.note_end(log, None, believed).await?;
                }
                if let Some(topic) = self.image().topic(id.topic_id) {
                    // Only who keeps house describes it anew: this image may be older.
                    self.bucket.describe_first(&self.description(topic)).await?;
                }
                // No head is of an epoch that its log does not know, should the metadata forget it.
                let not_led =
                    |cause: PartitionError| HeadError::NotLed { key: archive.keys().head(), cause: cause.into() };
                leader.partition.begin(leader.epoch).map_err(not_led)?;
                let head = archive.take_over(self.writer(leader.epoch)).await?;
                self.attempts_in(id, leader.epoch, |attempts| {
                    (attempts.is_known, attempts.is_owned) = (true, true);
                });
                head
            }
        };
        check_agrees(log, archive, &head)?;
        self.reconcile(log, archive, &head, believed).await?;
        Ok(head)
    }
}
