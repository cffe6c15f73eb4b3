//! A data directory: its identity, its journal, its partitions, and the lanes that write.
//!
//! ```text
//! <data>/lock            held while a process uses the directory
//! <data>/identity        stamp alone: format version, cluster, node, directory
//! <data>/checkpoint      see `checkpoint`
//! <data>/journal/        see `journal`
//! <data>/topics/<topic id>/<partition>/<base offset>.segment, .index
//! <data>/removed/        see `removal`
//! ```
//! `broker` opens one [`LogDirectory`] per configured path, admits producers' bytes, and asks it for logs. When a write or a
//! sync fails the directory is offline: its partitions refuse appends, nothing more is acknowledged, reads of what is in
//! memory or readable go on. Only a restart, with its recovery, brings it back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::checkpoint_clock::{CheckpointClock, Due, Wish};
use super::counting::{Counted, DirectoryMetrics};
use super::error::OpenError;
use super::journal::{Client, Journal, Outcome, ReplayPosition};
use super::partition::PartitionLog;
use super::producer_count::ProducerCount;
use super::rebuild::Rebuilt;
use super::recovery;
use super::seal_times::SealTimes;
use super::segment::{IndexCache, SegmentHome};
use super::settings::{DirectorySettings, LogSettings};
use super::stamp::{Identity, Kind, STAMP_BYTES};
use super::state::{Deletion, Recovered};
use super::write_behind::Writer;
use crate::runtime::Runtime;
use crate::runtime::disk::{DirectoryLock, is_descriptor_shortage, is_shortage, read_file, replace_file};
use crate::runtime::tasks::{Lane, LaneWaker, Priority};
use crate::runtime::watch;
use crate::types::{ClusterId, DirectoryId, Incarnation, NodeId, Offset, TopicPartition};

/// The file that says whose a directory is.
pub(super) const IDENTITY: Kind = Kind { magic: *b"ALLVDATA", name: "data directory identity" };
const IDENTITY_FILE: &str = "identity";
/// Admission permits are counted in units of this size.
const PERMIT_BYTES: usize = 1024;

/// Bytes of the memory tail, oldest first across all partitions.
#[derive(Default)]
struct TailLedger {
    shares: VecDeque<(Arc<PartitionLog>, Offset, usize)>,
    bytes: usize,
}

#[derive(Default)]
struct Logs {
    by_partition: BTreeMap<TopicPartition, Arc<PartitionLog>>,
    next_number: u32,
}

#[derive(Default)]
struct Dirty {
    /// Partitions with unwritten records or other work for the write-behind lane, by number.
    logs: BTreeMap<u32, (Arc<PartitionLog>, bool)>,
}

/// What the logs of one directory share.
pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) segment_home: SegmentHome,
    pub(super) settings: DirectorySettings,
    pub(super) journal: Journal<PartitionLog>,
    /// A full checkpoint is needed at once.
    pub(super) checkpoint_requested: AtomicBool,
    /// A segment was sealed, and something waits for a checkpoint to know it.
    pub(super) checkpoint_wanted: AtomicBool,
    pub(super) metrics: DirectoryMetrics,
    pub(super) seal_times: SealTimes<PartitionLog>,
    /// Partitions that may have segments for the archive, by number.
    to_archive: Mutex<BTreeMap<u32, Arc<PartitionLog>>>,
    offline: AtomicBool,
    /// There was no room for a segment or a checkpoint.
    full: AtomicBool,
    /// There was no room for a journal file.
    journal_full: AtomicBool,
    pub(super) counted: Mutex<Counted>,
    pub(super) producers: ProducerCount,
    unwritten_bytes: AtomicUsize,
    admission: Arc<Semaphore>,
    /// Producers find no room, whatever there is: see [`LogDirectory::hold_producers`].
    holds_producers: watch::Sender<bool>,
    tails: Mutex<TailLedger>,
    dirty: Mutex<Dirty>,
    logs: Mutex<Logs>,
    pub(super) checkpoint_clock: Mutex<CheckpointClock>,
    /// Directories whose files are to be removed.
    pub(super) moved_away: Mutex<BTreeSet<PathBuf>>,
    wakers: OnceLock<Wakers>,
}

struct Wakers {
    journal: LaneWaker,
    write_behind: LaneWaker,
}

/// A data directory in use. Dropping it stops the lanes; [`LogDirectory::close`] first leaves nothing to replay.
pub struct LogDirectory {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    _lock: Box<dyn DirectoryLock>,
}

/// Whose directory it should be, when it has to be made.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The broker.
    pub node_id: NodeId,
    /// The cluster's incarnation.
    pub incarnation: Incarnation,
}

/// What opening a directory found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Partitions in the directory.
    pub partitions: usize,
    /// Journal blocks replayed; zero after a clean stop.
    pub replayed_blocks: u64,
    /// Bytes of batches replayed.
    pub replayed_bytes: u64,
    /// What had to be read again because the checkpoint was lost.
    pub rebuilt: Rebuilt,
    /// Partitions that are out of service because segments are missing.
    pub unavailable: usize,
    /// How long it took.
    pub duration: Duration,
}

impl RecoveryReport {
    /// Adds what opening another directory found; the slowest counts.
    pub fn add(&mut self, other: &Self) {
        self.partitions += other.partitions;
        self.replayed_blocks += other.replayed_blocks;
        self.replayed_bytes += other.replayed_bytes;
        self.rebuilt.add(&other.rebuilt);
        self.unavailable += other.unavailable;
        self.duration = self.duration.max(other.duration);
    }
}

impl LogDirectory {
    /// Opens a directory, which is made if absent, recovers its logs and starts its lanes.
    pub fn open(
        runtime: &Runtime,
        path: &Path,
        owner: Owner,
        settings: DirectorySettings,
        metrics: DirectoryMetrics,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        runtime.disk.create_directory(path)?;
        let Some(lock) = runtime.disk.lock(path)? else {
            return Err(OpenError::Locked { path: path.to_owned() });
        };
        let identity = load_or_make_identity(runtime, path, owner)?;
        let (shared, report) = recovery::recover(runtime, path, identity, settings, metrics)?;
        shared.metrics.log.recovery_seconds.observe(report.duration);
        let mut directory = Self { shared, lanes: Vec::new(), _lock: lock };
        directory.start_lanes();
        Ok((directory, report))
    }

    fn start_lanes(&mut self) {
        let tasks = &*self.shared.runtime.tasks;
        let shared = Arc::clone(&self.shared);
        let journal = Lane::start(tasks, "journal", Priority::Foreground, Box::new(move || shared.run_journal()));
        let shared = Arc::clone(&self.shared);
        let write_behind =
            Lane::start(tasks, "write-behind", Priority::Foreground, Box::new(move || shared.run_write_behind()));
        let wakers = Wakers { journal: journal.waker(), write_behind: write_behind.waker() };
        assert!(self.shared.wakers.set(wakers).is_ok(), "lanes are started once");
        self.lanes = vec![journal, write_behind];
        self.shared.wake_write_behind();
    }

    /// Whose directory it is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// True once a write or a sync failed.
    pub fn is_offline(&self) -> bool {
        self.shared.is_offline()
    }

    /// True while what has to be written finds no room on the file system, or no file descriptor; appends wait.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed) || self.shared.journal_full.load(Ordering::Relaxed)
    }

    /// The partitions in the directory.
    pub fn logs(&self) -> Vec<Arc<PartitionLog>> {
        self.shared.logs()
    }

    /// The partitions with sealed, synced segments that the archive is not known to hold. Costs nothing for all others.
    pub fn logs_to_archive(&self) -> Vec<Arc<PartitionLog>> {
        let mut waiting = self.shared.to_archive.lock();
        waiting.retain(|_, log| log.has_to_archive());
        waiting.values().cloned().collect()
    }

    /// The log of a partition, if it is here.
    pub fn log(&self, partition: TopicPartition) -> Option<Arc<PartitionLog>> {
        self.shared.log(partition)
    }

    /// The log of a partition; made, to begin at offset 0, if it is not here yet. A new log leaves its first trace on disk
    /// with its first append.
    pub fn log_or_create(&self, partition: TopicPartition, settings: LogSettings) -> Arc<PartitionLog> {
        let log = self.shared.insert(partition, settings, || Recovered::empty_at(Offset::ZERO));
        log.configure(settings);
        log
    }

    /// Waits for room for `bytes`; the permit goes with the append and is given back once the batch is in a segment. `None` once
    /// the directory is offline, which the append tells.
    pub async fn admit(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = self.shared.permits_for(bytes);
        Arc::clone(&self.shared.admission).acquire_many_owned(permits).await.ok()
    }

    /// As [`Self::admit`], for a producer: also waits while these are held back.
    pub async fn admit_producer(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let mut held = self.shared.holds_producers.subscribe();
        // The sender lives as long as this.
        let _ = held.wait_for(|held| !held).await;
        self.admit(bytes).await
    }

    /// As [`Self::admit_producer`], but gives up at once when there is no room.
    pub fn try_admit_producer(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if self.holds_producers() {
            return None;
        }
        Arc::clone(&self.shared.admission).try_acquire_many_owned(self.shared.permits_for(bytes)).ok()
    }

    /// Whether producers are held back.
    pub fn holds_producers(&self) -> bool {
        *self.shared.holds_producers.borrow()
    }

    /// Holds producers back, or lets them go on: what is left of the disk is for what has to be written all the same. Tells
    /// whether that is new.
    pub fn hold_producers(&self, holds: bool) -> bool {
        self.shared.holds_producers.send_if_modified(|held| {
            // Whoever waits for one that is offline is told so.
            let holds = holds && !self.shared.is_offline();
            std::mem::replace(held, holds) != holds
        })
    }

    /// To be called now and then (about every 100 ms): has timers looked at.
    pub fn tick(&self) {
        self.shared.note_old_segments();
        self.shared.wake_write_behind();
        if self.shared.journal_full.load(Ordering::Relaxed) {
            // There may be room by now.
            self.shared.wake_journal();
        }
    }

    /// Asks for a checkpoint soon, so that sealed segments are certain.
    pub fn request_checkpoint(&self) {
        self.shared.checkpoint_wanted.store(true, Ordering::Relaxed);
        self.shared.wake_write_behind();
    }

    /// Writes and syncs everything and stores a checkpoint, so that the next start replays nothing. Appends must have ended. True unless
    /// something could not be synced.
    pub fn close(mut self) -> bool {
        self.lanes.clear();
        self.shared.run_journal();
        self.shared.checkpoint_requested.store(true, Ordering::Relaxed);
        self.shared.run_write_behind();
        !self.is_offline()
    }
}

impl Drop for LogDirectory {
    fn drop(&mut self) {
        self.lanes.clear();
        self.shared.forget();
    }
}

fn load_or_make_identity(runtime: &Runtime, path: &Path, owner: Owner) -> Result<Identity, OpenError> {
    let file = path.join(IDENTITY_FILE);
    let Owner { cluster_id, node_id, incarnation } = owner;
    if runtime.disk.exists(&file)? {
        let content = read_file(&*runtime.disk, &file, STAMP_BYTES as u64)?;
        let stamped = |error| OpenError::Stamp { path: file.clone(), error };
        let found = IDENTITY.read(&content).map_err(stamped)?;
        let expected = Identity { cluster_id, node_id, ..found };
        IDENTITY.check(&content, &expected).map_err(stamped)?;
        return Ok(found);
    }
    let directory_id = DirectoryId::from_entropy(runtime.entropy.identity());
    let identity = Identity { cluster_id, directory_id, node_id, incarnation };
    let mut content = Vec::with_capacity(STAMP_BYTES);
    IDENTITY.write(&identity, &mut content);
    replace_file(&*runtime.disk, &file, &content)?;
    Ok(identity)
}

impl Shared {
    pub(super) fn new(
        runtime: &Runtime,
        path: &Path,
        identity: Identity,
        settings: DirectorySettings,
        journal: Journal<PartitionLog>,
        start: ReplayPosition,
        metrics: DirectoryMetrics,
    ) -> Self {
        let clock = CheckpointClock::new(runtime.clock.monotonic(), start);
        let indexes = Arc::new(IndexCache::new(settings.index_bytes, metrics.tail_bytes.clone()));
        Self {
            segment_home: SegmentHome { disk: Arc::clone(&runtime.disk), identity, indexes },
            runtime: runtime.clone(),
            path: path.to_owned(),
            identity,
            settings,
            journal,
            checkpoint_requested: AtomicBool::new(false),
            checkpoint_wanted: AtomicBool::new(false),
            metrics,
            seal_times: SealTimes::default(),
            to_archive: Mutex::default(),
            offline: AtomicBool::new(false),
            full: AtomicBool::new(false),
            journal_full: AtomicBool::new(false),
            counted: Mutex::default(),
            producers: ProducerCount::new(settings.max_producers),
            unwritten_bytes: AtomicUsize::new(0),
            admission: Arc::new(Semaphore::new(settings.unwritten_bytes / PERMIT_BYTES)),
            holds_producers: watch::Sender::new(false),
            tails: Mutex::default(),
            dirty: Mutex::default(),
            logs: Mutex::default(),
            checkpoint_clock: Mutex::new(clock),
            moved_away: Mutex::default(),
            wakers: OnceLock::new(),
        }
    }

    fn permits_for(&self, bytes: usize) -> u32 {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.settings.unwritten_bytes / PERMIT_BYTES);
        u32::try_from(permits).unwrap_or(u32::MAX)
    }

    pub(super) fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    fn go_offline(&self) {
        if self.offline.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(path = %self.path.display(), "log directory is offline: its partitions refuse appends until a restart");
        self.metrics.log.offline_directories.inc();
        self.journal.close();
        // Whoever waits for room is told.
        self.admission.close();
        self.holds_producers.send_replace(false);
        for log in self.logs() {
            log.state.lock().fail_waiters();
            log.tell_unavailable();
        }
    }

    /// Runs a sync; its failure takes the directory offline, for nothing is known of the data any more. One that could not
    /// begin is to be asked for again.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let result = sync();
        if let Err(error) = &result
            && !is_descriptor_shortage(error)
        {
            tracing::error!(%error, path = %self.path.display(), "sync failed");
            self.go_offline();
        }
        result
    }

    /// Runs a sync of what segments hold, and takes note of its time.
    pub(super) fn sync_segments(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let began = self.runtime.clock.monotonic();
        let result = self.sync(sync);
        self.metrics.log.sync_seconds.observe(self.runtime.clock.monotonic().since(began));
        result
    }

    pub(super) fn handle_write_error(&self, error: &io::Error) {
        if is_shortage(error) && !self.is_offline() {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, path = %self.path.display(), "segments can't be written for now; producers wait");
            }
            return;
        }
        tracing::error!(%error, path = %self.path.display(), "segment write failed");
        self.go_offline();
    }

    fn run_journal(&self) {
        loop {
            match self.journal.run() {
                Outcome::Wrote { bytes, entries, took } => {
                    self.journal_full.store(false, Ordering::Relaxed);
                    self.checkpoint_clock.lock().note_written(bytes);
                    self.metrics.note_group(bytes, entries, took);
                    self.evict_tails();
                    if self.is_short_of_memory() || self.checkpoint_due() != Due::No {
                        self.wake_write_behind();
                    }
                }
                Outcome::Idle => return,
                Outcome::Full => {
                    self.checkpoint_requested.store(true, Ordering::Relaxed);
                    self.wake_write_behind();
                    return;
                }
                Outcome::Shortage(error) => {
                    if !self.journal_full.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, path = %self.path.display(), "no journal file can be used for now; producers wait");
                    }
                    // A checkpoint lets files be used again; the next tick has both lanes try.
                    self.checkpoint_requested.store(true, Ordering::Relaxed);
                    return;
                }
                Outcome::Failed => {
                    self.go_offline();
                    return;
                }
            }
        }
    }

    pub(super) fn wake_journal(&self) {
        if let Some(wakers) = self.wakers.get() {
            wakers.journal.wake();
        }
    }

    pub(super) fn wake_write_behind(&self) {
        if let Some(wakers) = self.wakers.get() {
            wakers.write_behind.wake();
        }
    }

    /// Lets go of the logs, which hold this, as this holds them.
    pub(super) fn forget(&self) {
        self.journal.close();
        self.logs.lock().by_partition.clear();
        self.dirty.lock().logs.clear();
        let mut tails = self.tails.lock();
        tails.shares.clear();
        self.metrics.tail_bytes.dec_by(std::mem::take(&mut tails.bytes) as i64);
        self.seal_times.clear();
        self.to_archive.lock().clear();
    }

    /// Takes note of batches that entered a tail, and of the memory that they hold there.
    pub(super) fn note_tail(&self, log: &Arc<PartitionLog>, end: Offset, bytes: usize) {
        let mut tails = self.tails.lock();
        tails.bytes += bytes;
        self.metrics.tail_bytes.inc_by(bytes as i64);
        tails.shares.push_back((Arc::clone(log), end, bytes));
    }

    /// Takes note that the file system took what was written.
    pub(super) fn note_room(&self) {
        self.full.store(false, Ordering::Relaxed);
    }

    /// Takes note of how a partition's unwritten bytes changed.
    pub(super) fn adjust_unwritten(&self, before: usize, after: usize) {
        if after >= before {
            self.unwritten_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            let total = self.unwritten_bytes.fetch_sub(before - after, Ordering::Relaxed);
            assert!(total >= before - after, "more was written than was appended");
        }
    }

    /// Write-behind has to make room: half of what producers are admitted by is taken, in bytes or in permits, which small
    /// batches take more of; or the tails are over their budget and what is oldest in them can't be dropped before it is
    /// written.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.unwritten_bytes.load(Ordering::Relaxed) > self.settings.unwritten_bytes / 2
            || self.admission.available_permits() < self.settings.unwritten_bytes / PERMIT_BYTES / 2
            || self.tails.lock().bytes > self.settings.tail_bytes
    }

    /// Drops the oldest written batches while the tails are over their budget.
    pub(super) fn evict_tails(&self) {
        let mut tails = self.tails.lock();
        while tails.bytes > self.settings.tail_bytes {
            let Some(&(ref log, end, bytes)) = tails.shares.front() else { return };
            let mut state = log.state.lock();
            // A log that was cut meanwhile ends below its old share.
            if state.written < end.min(state.offsets.durable) && state.deletion != Deletion::Durable {
                return;
            }
            state.tail.evict_below(end);
            drop(state);
            tails.bytes -= bytes;
            self.metrics.tail_bytes.dec_by(bytes as i64);
            tails.shares.pop_front();
        }
    }

    /// Has the write-behind lane look at a partition: at once when `urgent`, else when it writes everything.
    pub(super) fn queue_write_behind(&self, log: &Arc<PartitionLog>, urgent: bool) {
        let mut dirty = self.dirty.lock();
        let (_, is_urgent) = dirty.logs.entry(log.number()).or_insert_with(|| (Arc::clone(log), false));
        let wake = urgent && !*is_urgent;
        *is_urgent |= urgent;
        drop(dirty);
        if wake {
            self.wake_write_behind();
        }
    }

    /// Takes note of a partition whose sealed segments are certain, if the archive has yet to take any.
    pub(super) fn note_to_archive(&self, log: &Arc<PartitionLog>) {
        if log.has_to_archive() {
            self.to_archive.lock().insert(log.number(), Arc::clone(log));
        }
    }

    /// Has the write-behind lane try a partition again at its next run, which a tick brings.
    pub(super) fn retry_write_behind(&self, log: &Arc<PartitionLog>) {
        self.dirty.lock().logs.insert(log.number(), (Arc::clone(log), true));
    }

    /// Takes the partitions to look at: all, or the urgent ones.
    pub(super) fn take_dirty(&self, all: bool) -> Vec<Arc<PartitionLog>> {
        let mut dirty = self.dirty.lock();
        if all {
            return std::mem::take(&mut dirty.logs).into_values().map(|(log, _)| log).collect();
        }
        dirty.logs.extract_if(.., |_, (_, urgent)| *urgent).map(|(_, (log, _))| log).collect()
    }

    /// Queues partitions whose active segment has reached its age.
    fn note_old_segments(&self) {
        let now = self.runtime.clock.wall();
        for log in self.seal_times.take_due(now) {
            if log.has_old_segment(now) {
                self.queue_write_behind(&log, true);
            }
            log.enter_seal_time(now);
        }
    }

    /// Which checkpoint is due.
    pub(super) fn checkpoint_due(&self) -> Due {
        let changed = self.dirty.lock().logs.len();
        let wish = Wish {
            full: self.checkpoint_requested.load(Ordering::Relaxed),
            light: self.checkpoint_wanted.load(Ordering::Relaxed),
        };
        self.checkpoint_clock.lock().due(self.runtime.clock.monotonic(), changed, wish, &self.settings)
    }

    pub(super) fn logs(&self) -> Vec<Arc<PartitionLog>> {
        self.logs.lock().by_partition.values().cloned().collect()
    }

    pub(super) fn log(&self, partition: TopicPartition) -> Option<Arc<PartitionLog>> {
        self.logs.lock().by_partition.get(&partition).cloned()
    }

    /// Adds a log unless it is there.
    pub(super) fn insert(
        self: &Arc<Self>,
        partition: TopicPartition,
        settings: LogSettings,
        recovered: impl FnOnce() -> Recovered,
    ) -> Arc<PartitionLog> {
        let mut logs = self.logs.lock();
        if let Some(log) = logs.by_partition.get(&partition) {
            return Arc::clone(log);
        }
        let number = logs.next_number;
        logs.next_number += 1;
        let path = partition_path(&self.path, partition);
        let log = Arc::new(PartitionLog::new(number, partition, path, Arc::clone(self), settings, recovered()));
        logs.by_partition.insert(partition, Arc::clone(&log));
        log
    }

    /// Gives up a deleted partition, whose deletion is durable in the journal; its files are removed later.
    pub(super) fn remove_log(&self, log: &Arc<PartitionLog>) -> io::Result<()> {
        // Whoever takes segments out of it is done, or finds none.
        let mut writer = log.writer.lock();
        *writer = Writer::default();
        {
            let mut state = log.state.lock();
            self.adjust_unwritten(std::mem::take(&mut state.unwritten_bytes), 0);
            state.tail.evict_below(Offset::MAX);
            state.segments.clear();
            // What is yet to let go of it would count for longer.
            state.counted_producers.set(0);
            (state.active, state.active_since, state.unwritten_since) = (None, None, None);
        }
        self.logs.lock().by_partition.remove(&log.partition());
        self.move_away(log.partition(), &log.path)
    }
}

/// Where the segments of a partition are.
pub(super) fn partition_path(directory: &Path, partition: TopicPartition) -> PathBuf {
    directory.join("topics").join(partition.topic_id.to_string()).join(partition.partition.to_string())
}
