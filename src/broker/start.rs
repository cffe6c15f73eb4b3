//! Opening a broker and shutting it down, and the tasks that run meanwhile: following the image, and the clock's tick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Broker;
use super::admin::OFFSETS_TOPIC;
use super::archive_seam::ArchiveReader;
use super::archiver::{self, Archiver, Restoring};
use super::cluster::{BootMark, Cluster, Plane};
use super::cold_reads::ColdReads;
use super::deleted_offsets::DeletedOffsets;
use super::error::StartError;
use super::fetch_session::FetchSessions;
use super::partitions::Partitions;
use super::producer_ids::ProducerIds;
use super::read_ahead::ReadAhead;
use super::readers::Readers;
use super::replication::{Parts, Replicator};
use super::restore;
use super::settings::{ArchiveSettings, BrokerSettings};
use crate::archive::bucket::LocalData;
use crate::archive::store::{LocationError, Store};
use crate::archive::workers::Workers;
use crate::group::{CoordinatorMetrics, Groups};
use crate::log::{DirectoryMetrics, LogDirectory, Owner, PartitionLog, RecoveryReport};
use crate::metadata::command::RegisterBroker;
use crate::metadata::image::ArchiveMark;
use crate::metadata::{Command, CommandError, Image, Metadata, MetadataSettings, Outcome};
use crate::peer::identity_files::IdentityError;
use crate::runtime::Runtime;
use crate::runtime::buffer;
use crate::runtime::clock::{Clock, Interval};
use crate::runtime::disk::DirectoryLock;
use crate::runtime::tasks::Priority;
use crate::runtime::watch;
use crate::telemetry::{Gauge, MemoryPool, MemoryShare, Metrics};
use crate::types::{BrokerEpoch, BrokerIncarnationId, DirectoryId, Offset, TopicPartition};

/// Least memory that is kept for buffers to come, of the journal and of readers.
const LEAST_KEPT_BYTES: usize = 8 << 20;
/// How often the data directories look at their timers.
const TICK: Duration = Duration::from_millis(100);
/// How often, and how many times, a data directory is looked at for whether it can be closed.
const RELEASE_INTERVAL: Duration = Duration::from_millis(5);
const RELEASE_ATTEMPTS: usize = 200;
/// Lanes that check large batches: two keep two processors busy, and more would only take turns.
const VALIDATORS: usize = 2;
/// The metadata's directory, in the first data directory.
pub(super) const METADATA_DIRECTORY: &str = "metadata";

impl Broker {
    /// Locks the metadata's directory, as [`Broker::open`] does too: meanwhile no other process opens a broker on this data.
    ///
    /// # Errors
    /// [`StartError::Locked`] where another process has it, [`StartError::Restoring`] where a restore was interrupted, or
    /// [`StartError::MetadataDirectory`].
    pub fn lock(runtime: &Runtime, settings: &BrokerSettings) -> Result<Box<dyn DirectoryLock>, StartError> {
        let path = settings.directories[0].join(METADATA_DIRECTORY);
        let unusable = |error| StartError::MetadataDirectory { path: path.clone(), error };
        let first = &settings.directories[0];
        if restore::is_begun(&*runtime.disk, first).map_err(unusable)? {
            return Err(StartError::Restoring { path: first.clone() });
        }
        runtime.disk.create_directory(&path).map_err(unusable)?;
        runtime.disk.lock(&path).map_err(unusable)?.ok_or_else(|| StartError::Locked { path: path.clone() })
    }

    /// Opens metadata and data directories, recovers them, and registers this process as the broker's new incarnation.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed that the next attempt would miss.
    pub async fn open(
        runtime: Runtime,
        settings: BrokerSettings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StartError> {
        Self::open_with(runtime, settings, metrics, archiver::open_store, |reader| reader).await
    }

    /// As [`Broker::open`], over a store that is opened in another way, and reading it through something else.
    pub(super) async fn open_with(
        runtime: Runtime,
        settings: BrokerSettings,
        metrics: Arc<Metrics>,
        open_store: impl FnOnce(&Runtime, &ArchiveSettings, &Arc<Metrics>) -> Result<Store, LocationError>,
        read_through: impl FnOnce(Arc<dyn ArchiveReader>) -> Arc<dyn ArchiveReader>,
    ) -> Result<Arc<Self>, StartError> {
        // What answers held is kept for the next ones.
        let held_bytes = settings.fetch.answer_bytes + settings.fetch.read_ahead_bytes;
        buffer::keep_at_most((held_bytes / 2).max(LEAST_KEPT_BYTES));
        let unusable = |error| StartError::Archive { url: settings.archive.location.url.clone(), error };
        let store = open_store(&runtime, &settings.archive, &metrics).map_err(|error| unusable(error.into()))?;
        let (metadata, plane, metadata_lock) = open_metadata(&runtime, &settings, &store).await?;
        let (directories, recovery) = open_directories(&runtime, &settings, &metadata, &metrics)?;
        let process = BrokerIncarnationId::from_entropy(runtime.entropy.identity());
        let owner = archiver::Owner {
            cluster_id: metadata.cluster_id(),
            node_id: settings.node_id,
            process,
            incarnation: metadata.image().incarnation(),
            local: local_data(&settings, &metadata, &directories),
        };
        let images = metadata.subscribe();
        let (archive_settings, archive_metrics) = (&settings.archive.archiver, Arc::clone(&metrics));
        let archiver = Archiver::open(&runtime, archive_settings, store.clone(), owner, images, archive_metrics).await;
        let archiver = Arc::new(archiver.map_err(unusable)?);
        forget_archive(&directories, settings.archive.location.is_durable());
        let archive = read_through(Arc::clone(&archiver) as _);
        let seconds = metrics.fetch.archive_read_seconds.clone();
        let (epoch, cluster) = enter(process, &settings, &metadata, &directories, plane, &store).await?;
        replace_lost_directories(&settings, &metadata, &directories).await?;
        let readers = Arc::new(Readers::start(&*runtime.tasks, settings.fetch.reader_lanes));
        let replicator = replicator(&runtime, &settings, epoch, &metadata, cluster.as_ref(), &readers, &metrics);
        let partitions = Partitions::new(&settings, directories, metadata.subscribe(), replicator);
        let image = metadata.image();
        partitions.apply_first(&image);
        let used_bytes = |share| metrics.memory.used_bytes.of(share).clone();
        let broker = Arc::new(Self {
            readers,
            validators: Workers::start(&*runtime.tasks, "validate", Priority::Foreground, VALIDATORS),
            cold_reads: ColdReads::new(Arc::clone(&archive), &runtime, seconds),
            sessions: Mutex::new(FetchSessions::new(settings.fetch.max_sessions)),
            producer_ids: ProducerIds::default(),
            throttle: Mutex::default(),
            waiting: waiting(settings.waiting_bytes, partitions.directories()),
            answers: MemoryPool::new(settings.fetch.answer_bytes, used_bytes(MemoryShare::Frames)),
            read_ahead: ReadAhead::new(MemoryPool::new(
                settings.fetch.read_ahead_bytes,
                used_bytes(MemoryShare::Frames),
            )),
            groups: groups(&runtime, &settings, &image, &metrics),
            coordinated: Mutex::new(None),
            deleted_offsets: DeletedOffsets::default(),
            restoring: Restoring::default(),
            stopping: watch::Sender::new(false),
            image_applied: Notify::new(),
            background: Mutex::default(),
            _metadata_lock: metadata_lock,
            runtime,
            settings,
            metrics,
            metadata,
            cluster,
            epoch,
            partitions,
            archive,
            recovery,
        });
        broker.follow_groups();
        *broker.background.lock() = start_background(&broker, archiver);
        Ok(broker)
    }

    /// Has requests that wait for something to happen answered as it is now, since the broker is about to stop: fetches with what
    /// there is, and members of groups with NOT_COORDINATOR, after which they find the next one.
    pub fn stop_waiting(&self) {
        self.stopping.send_replace(true);
        self.resign();
    }

    /// Waits for [`Self::stop_waiting`].
    pub(super) async fn stopping(&self) {
        // It can't fail: the sender lives as long as the broker.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Ends the background tasks, syncs everything so that the next start replays nothing, and closes the metadata. No request
    /// may be under way.
    pub async fn shutdown(self: Arc<Self>) {
        let background = std::mem::take(&mut *self.background.lock());
        for task in background {
            task.abort();
            // Its end by abortion is what was asked for.
            let _ = task.await;
        }
        self.resign();
        self.partitions.clear();
        self.metadata.shutdown().await;
        if let Some(cluster) = &self.cluster {
            cluster.plane.close().await;
        }
        // A lane that looks at the logs for a task finishes that, though the task ended.
        released(&self, &*Arc::clone(&self.runtime.clock)).await;
        let Some(broker) = Arc::into_inner(self) else {
            tracing::warn!("a request outlived its connection: the next start replays the journal");
            return;
        };
        let of_cluster = broker.cluster.map(|_| BootMark::of(&broker.settings.directories[0]));
        let mut synced = 0;
        for directory in broker.partitions.into_directories() {
            released(&directory, &*broker.runtime.clock).await;
            match Arc::into_inner(directory) {
                Some(directory) => synced += usize::from(directory.close()),
                None => tracing::warn!("a data directory is still in use: the next start replays its journal"),
            }
        }
        if let Some(mark) = of_cluster.filter(|_| synced == broker.settings.directories.len())
            && let Err(error) = mark.end(&*broker.runtime.disk)
        {
            tracing::warn!(%error, "it can't be noted that this broker stopped in good order");
        }
    }

    /// Waits until the broker can't go on, and says why.
    pub async fn stopped(&self) -> &'static str {
        tokio::select! {
            () = self.metadata.stopped() => "the metadata can't be written any more; look at the first data directory's disk",
            () = self.runtime.watch.broken() => "a background task panicked; see the panic's message above",
            () = self.replaced() => "another process runs with this broker's number, or the broker was removed from the cluster; stop one of them, give it another number, or have it join anew with an empty data directory",
        }
    }

    async fn replaced(&self) {
        match &self.cluster {
            Some(cluster) => cluster.heartbeats.replaced().await,
            None => std::future::pending().await,
        }
    }

    /// Has other brokers lead what this one leads, before it stops: clients go there while they are still served here.
    pub async fn drain(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.heartbeats.drain().await;
        }
    }

    /// Whether any data directory takes appends.
    pub fn is_writable(&self) -> bool {
        self.partitions.directories().iter().any(|directory| !directory.is_offline())
    }

    /// Submits a command to the metadata quorum.
    pub(super) async fn submit(&self, command: Command) -> Result<Outcome, CommandError> {
        self.timed(self.metadata.submit(command)).await
    }

    /// Takes the time of a command.
    pub(super) async fn timed<T>(&self, command: impl Future<Output = T>) -> T {
        let started = self.runtime.clock.monotonic();
        let outcome = command.await;
        self.metrics.metadata.commands.inc();
        self.metrics.metadata.commit_seconds.observe(self.runtime.clock.monotonic().since(started));
        outcome
    }
}

/// Starts what the broker does by itself, until it is shut down.
fn start_background(broker: &Arc<Broker>, archiver: Arc<Archiver>) -> Vec<JoinHandle<()>> {
    let watch = &broker.runtime.watch;
    let of_cluster = broker.cluster.iter().flat_map(|Cluster { plane, heartbeats }| {
        let renews = Arc::clone(plane).renew_forever(Arc::clone(&broker.metadata));
        [watch.spawn(Arc::clone(heartbeats).beat_forever()), watch.spawn(renews)]
    });
    let mut tasks: Vec<_> = of_cluster.collect();
    if let (Some(cluster), Some(replicator)) = (&broker.cluster, broker.partitions.replicator()) {
        cluster.plane.take_records(replicator.intake());
        tasks.push(watch.spawn(Arc::clone(replicator).tick_forever()));
    }
    tasks.extend([
        watch.spawn(follow_image(Arc::clone(broker))),
        watch.spawn(Arc::clone(broker).coordinate_forever()),
        watch.spawn(tick(Arc::clone(broker))),
        watch.spawn(Arc::clone(broker).restore_offsets_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).catch_up_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).upload_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(&archiver).prove_later()),
        watch.spawn(Arc::clone(broker).make_room_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).roll_passed_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).retain_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).throttle_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).sweep_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).describe_forever(Arc::clone(&archiver))),
        watch.spawn(Arc::clone(broker).snapshot_groups_forever(archiver)),
    ]);
    tasks
}

/// What replicates, of a broker that has others.
fn replicator(
    runtime: &Runtime,
    settings: &BrokerSettings,
    broker_epoch: BrokerEpoch,
    metadata: &Arc<Metadata>,
    cluster: Option<&Cluster>,
    readers: &Arc<Readers>,
    metrics: &Arc<Metrics>,
) -> Option<Arc<Replicator>> {
    let (cluster, of_cluster) = cluster.zip(settings.cluster.as_ref())?;
    let (runtime, peers) = (runtime.clone(), Arc::clone(cluster.plane.peers()));
    let (metadata, readers, metrics) = (Arc::clone(metadata), Arc::clone(readers), Arc::clone(metrics));
    let parts = Parts { runtime, broker_epoch, metadata, peers, readers, metrics };
    Some(Replicator::new(parts, of_cluster.replication()))
}

/// The coordinators, none of which runs yet.
fn groups(runtime: &Runtime, settings: &BrokerSettings, image: &Image, metrics: &Metrics) -> Groups {
    // Groups stay where they are, whatever the setting says later.
    let partitions = image.topic_named(OFFSETS_TOPIC).map(|topic| topic.partition_count());
    let used_bytes = metrics.memory.used_bytes.of(MemoryShare::Groups).clone();
    let metrics = CoordinatorMetrics { groups: metrics.group.clone(), used_bytes };
    let partitions = partitions.unwrap_or(settings.topics.offsets_partitions);
    Groups::new(runtime.clone(), settings.groups.clone(), partitions, metrics)
}

/// Waits until those who were just told to end have let go of what they shared: coordinators of their logs, say.
async fn released<T>(shared: &Arc<T>, clock: &dyn Clock) {
    for _ in 0..RELEASE_ATTEMPTS {
        if Arc::strong_count(shared) == 1 {
            return;
        }
        clock.sleep(RELEASE_INTERVAL).await;
    }
}

/// What the data directories have. They are unused until the bucket was claimed once: a start that was refused changes nothing.
fn local_data(settings: &BrokerSettings, metadata: &Metadata, directories: &[Arc<LogDirectory>]) -> LocalData {
    let image = metadata.image();
    if image.brokers().any(|broker| broker.node_id != settings.node_id) {
        // What is lost here others may have. But there is a bucket into which they archive: one of which nothing is there is
        // another one, whatever the data directories have.
        return LocalData::Recent;
    }
    if image.broker(settings.node_id).is_none() {
        return LocalData::Unused;
    }
    let online: BTreeSet<_> = directories.iter().map(|directory| directory.identity().directory_id).collect();
    let directory_of = |id| Some(image.partition(id)?.replica_on(settings.node_id)?.directory);
    // What an earlier placement left in another directory is not the partition's log.
    let logs = directories.iter().flat_map(|directory| {
        let directory_id = directory.identity().directory_id;
        directory.logs().into_iter().filter(move |log| directory_of(log.partition()) == Some(directory_id))
    });
    let logs: BTreeMap<_, _> = logs.map(|log| (log.partition(), log.offsets())).collect();
    // What was lost with a data directory is in the archive alone, if it outlives processes. One that can't be opened is not lost.
    let can_lose = settings.archive.location.is_durable() && directories.len() == settings.directories.len();
    let is_remote = |(partition, mark): (TopicPartition, ArchiveMark)| match logs.get(&partition) {
        Some(offsets) => offsets.local_log_start > offsets.log_start || can_lose && offsets.log_end < mark.next_offset,
        None => can_lose,
    };
    let internal = image.topics().filter(|topic| topic.internal).flat_map(|topic| &topic.partitions);
    let mut used = internal.filter_map(|partition| Some(partition.replica_on(settings.node_id)?.directory));
    // Committed offsets are there too.
    let has_lost_offsets = can_lose && (!image.unrestored().is_empty() || used.any(|used| !online.contains(&used)));
    match has_lost_offsets || image.archive_marks().any(is_remote) {
        true => LocalData::Recent,
        false => LocalData::Whole,
    }
}

/// Has the logs archive everything again that they have, if what the process before archived went with it.
fn forget_archive(directories: &[Arc<LogDirectory>], is_durable: bool) {
    for log in directories.iter().filter(|_| !is_durable).flat_map(|directory| directory.logs()) {
        log.archive_seen(Offset::ZERO, log.offsets().archived_to);
    }
}

/// The places of those who wait for room, in equal parts.
fn waiting(bytes: usize, directories: &[Arc<LogDirectory>]) -> BTreeMap<DirectoryId, MemoryPool> {
    let of_each = bytes / directories.len().max(1);
    let ids = directories.iter().map(|directory| directory.identity().directory_id);
    ids.map(|id| (id, MemoryPool::new(of_each, Gauge::default()))).collect()
}

/// Opens the metadata, and before it the way to the other brokers, if there are to be any.
async fn open_metadata(
    runtime: &Runtime,
    settings: &BrokerSettings,
    store: &Store,
) -> Result<(Arc<Metadata>, Option<Plane>, Box<dyn DirectoryLock>), StartError> {
    let lock = Broker::lock(runtime, settings)?;
    let path = settings.directories[0].join(METADATA_DIRECTORY);
    let unusable = |error| StartError::Metadata { path: path.clone(), error };
    let metadata_settings = MetadataSettings::new(settings.node_id);
    let (opened, plane) = match &settings.cluster {
        None => (Metadata::open(runtime, &path, metadata_settings).await, None),
        Some(cluster) => {
            let (plane, storage) = Plane::open(runtime, settings, cluster, &path, store).await?;
            let of_quorum = Some(plane.for_quorum());
            (Metadata::start(runtime, &path, storage, metadata_settings, of_quorum).await, Some(plane))
        }
    };
    Ok((Arc::new(opened.map_err(unusable)?), plane, lock))
}

fn open_directories(
    runtime: &Runtime,
    settings: &BrokerSettings,
    metadata: &Metadata,
    metrics: &Metrics,
) -> Result<(Vec<Arc<LogDirectory>>, RecoveryReport), StartError> {
    let (cluster_id, incarnation) = (metadata.cluster_id(), metadata.image().incarnation());
    let owner = Owner { cluster_id, node_id: settings.node_id, incarnation };
    let mut directories = Vec::new();
    let mut total = RecoveryReport::default();
    let mut failures = Vec::new();
    for path in &settings.directories {
        let tail_bytes = metrics.memory.used_bytes.of(MemoryShare::Tail).clone();
        let metrics = DirectoryMetrics { journal: metrics.journal.clone(), log: metrics.log.clone(), tail_bytes };
        let offline = metrics.log.offline_directories.clone();
        match LogDirectory::open(runtime, path, owner, settings.directory, metrics) {
            Ok((directory, report)) => {
                total.add(&report);
                directories.push(Arc::new(directory));
            }
            Err(error) if error.is_of_storage() => {
                offline.inc();
                failures.push((path, error));
            }
            Err(error) => return Err(StartError::Directory { path: path.clone(), error }),
        }
    }
    if directories.is_empty()
        && let Some((path, error)) = failures.pop()
    {
        return Err(StartError::Directory { path: path.clone(), error });
    }
    for (path, error) in &failures {
        tracing::error!(%error, path = %path.display(), "log directory is offline: it can't be opened, and the others serve without it");
    }
    Ok((directories, total))
}

/// Registers this process, and makes it a part of its cluster if it has peers.
async fn enter(
    process: BrokerIncarnationId,
    settings: &BrokerSettings,
    metadata: &Arc<Metadata>,
    directories: &[Arc<LogDirectory>],
    plane: Option<Plane>,
    store: &Store,
) -> Result<(BrokerEpoch, Option<Cluster>), StartError> {
    let Some(plane) = plane else {
        return Ok((register(process, settings, metadata, directories, None, false).await?, None));
    };
    let (mark, disk) = (BootMark::of(&settings.directories[0]), Arc::clone(&plane.runtime().disk));
    let (address, may_have_lost) = (Some(plane.address().to_owned()), mark.may_have_lost_unsynced(&*disk));
    let epoch = register(process, settings, metadata, directories, address, may_have_lost).await?;
    // Whoever is killed before this says the same again, which costs little.
    let failed = |error| StartError::Identity(IdentityError::Io { path: mark.path().to_owned(), error });
    mark.begin(&*disk).map_err(failed)?;
    Ok((epoch, Some(Cluster::enter(plane, metadata, epoch, directories, store).await?)))
}

async fn register(
    process: BrokerIncarnationId,
    settings: &BrokerSettings,
    metadata: &Metadata,
    directories: &[Arc<LogDirectory>],
    address: Option<String>,
    may_have_lost_unsynced: bool,
) -> Result<BrokerEpoch, StartError> {
    let image = metadata.image();
    // Each registration began one epoch in all that the broker leads.
    let unknown_epochs = |log: Arc<PartitionLog>| {
        let known = image.partition(log.partition())?.leader_epoch;
        let latest = log.epochs().latest().filter(|&latest| latest > known)?;
        Some((latest, latest.get().abs_diff(known.get())))
    };
    let logs = directories.iter().flat_map(|directory| directory.logs());
    let (newest, missed): (Vec<_>, Vec<_>) = logs.filter_map(unknown_epochs).unzip();
    let command = Command::RegisterBroker(RegisterBroker {
        cluster_id: metadata.cluster_id(),
        node_id: settings.node_id,
        incarnation_id: process,
        listeners: settings.endpoints.clone(),
        rack: settings.rack.clone(),
        directories: directories.iter().map(|directory| directory.identity().directory_id).collect(),
        newest_leader_epoch: newest.into_iter().max(),
        missed_registrations: missed.into_iter().max().unwrap_or(0),
        starts_fenced: address.is_some(),
        peer: address,
        may_have_lost_unsynced,
    });
    match metadata.submit(command).await.map_err(StartError::Registration)? {
        Outcome::BrokerRegistered(epoch) => Ok(epoch),
        outcome => unreachable!("a registration is answered with an epoch, not with {outcome:?}"),
    }
}

/// Looks for data directories that hold partitions by the metadata and are not here. If an empty one is, it was put in the
/// place of a lost one: the lost one's partitions move, and go on from the archive. If not, a path may only be missing from
/// the configuration, and its partitions wait for it.
async fn replace_lost_directories(
    settings: &BrokerSettings,
    metadata: &Metadata,
    directories: &[Arc<LogDirectory>],
) -> Result<(), StartError> {
    let used = metadata.image().directories_in_use(settings.node_id);
    let online: BTreeSet<DirectoryId> = directories.iter().map(|directory| directory.identity().directory_id).collect();
    // One that can't be opened is not lost.
    let all_open = directories.len() == settings.directories.len();
    let has_unused = all_open && online.iter().any(|directory| !used.contains_key(directory));
    for (&directory, &partitions) in used.iter().filter(|(directory, _)| !online.contains(directory)) {
        if !has_unused {
            tracing::error!(
                directory_id = %directory,
                partitions,
                "a data directory is missing: its partitions are offline until it is back, or until an empty one takes its place"
            );
            continue;
        }
        tracing::error!(
            directory_id = %directory,
            partitions,
            "a data directory is lost and an empty one took its place: its partitions go on from the archive, without what was not archived"
        );
        let command = Command::ReplaceDirectory { node_id: settings.node_id, directory };
        metadata.submit(command).await.map_err(StartError::Registration)?;
    }
    Ok(())
}

async fn follow_image(broker: Arc<Broker>) {
    let mut images = broker.metadata.subscribe();
    let mut applied = broker.image();
    loop {
        let newest = Arc::clone(&images.borrow_and_update());
        broker.partitions.apply(&applied, &newest);
        broker.metrics.metadata.image_version.set(i64::try_from(newest.version()).unwrap_or(i64::MAX));
        broker.metrics.metadata.topics.set(i64::try_from(newest.topic_count()).unwrap_or(i64::MAX));
        applied = newest;
        broker.image_applied.notify_one();
        if images.changed().await.is_err() {
            return;
        }
    }
}

async fn tick(broker: Arc<Broker>) {
    let mut interval = Interval::new(&broker.runtime.clock, TICK);
    loop {
        interval.tick().await;
        for directory in broker.directories() {
            directory.tick();
        }
        broker.cold_reads.expire();
    }
}
