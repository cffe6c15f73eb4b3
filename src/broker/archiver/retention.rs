//! The loops that make room: local copies of archived records go by local retention and by the broker's budget, old
//! records go from both tiers by `retention.ms` and `retention.bytes`. They are apart, so that a bucket that does not answer
//! never keeps a local disk from being emptied of what is archived, nor one data directory another. A third loop has active
//! segments sealed that retention has passed; where a disk runs short of what can go, large ones are sealed early, to be
//! archived and go.
//!
//! A log start moves in the log first, where it is durable before anything follows; then in the head; objects go after
//! their grace. Local files go only below what the newest checkpoint vouches for and this process has seen the archive hold (see
//! [`PartitionLog::remove_oldest_below`]): the first pass of the loop that retains looks at each head.
//!
//! Of a partition that is followed here only local files go: its log start and its archive are its leader's, and its head is looked at
//! when something is to go (`sight`). One that is neither led nor followed keeps everything.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::filling::Filling;
use super::pressure::Room;
use super::sight::Looks;
use super::{Archiver, check_agrees};
use crate::archive::cleaner::{self, CleanError};
use crate::archive::manifest::Retention;
use crate::archive::planner::{self, Evictable, LocalRetention, PartitionView, SealedSegment};
use crate::broker::Broker;
use crate::broker::partitions::{Leader, TopicRules};
use crate::log::{LogDirectory, PartitionLog, ReadError};
use crate::runtime::clock::Interval;
use crate::runtime::disk::is_shortage;
use crate::telemetry::MemoryShare;
use crate::types::{DirectoryId, Monotonic, Offset, Timestamp, TopicPartition};

/// How often local disks are looked at, at most.
const LOCAL_INTERVAL: Duration = Duration::from_secs(1);
/// The least age at which an active segment of an archived topic is sealed because retention has passed it.
const ARCHIVED_LEAST_MS: i64 = if cfg!(test) { 0 } else { 600_000 };
/// Partitions of a directory whose archives are looked at at once: after a start nothing local goes before.
const RETAINED_AT_ONCE: usize = 16;
/// With very many segments a look takes long: it is followed by a pause of so many times its length, which bounds its share
/// of a core to one percent.
const PAUSE_FACTOR: u32 = 100;

/// A partition with local segments, for one pass.
struct Held {
    leader: Leader,
    /// It is led here, or else followed.
    is_led: bool,
    view: PartitionView,
}

/// What one pass finds to do.
#[derive(Default)]
struct ToDo {
    removable: BTreeMap<DirectoryId, Vec<Removable>>,
    /// Logs that are followed here, and could give room once their heads were seen.
    unseen: Vec<Arc<PartitionLog>>,
}

/// What may leave the local disk of a log: sealed segments that end at or below `below`.
struct Removable {
    log: Arc<PartitionLog>,
    directory: Arc<LogDirectory>,
    below: Offset,
}

impl Broker {
    /// Removes local copies for as long as the broker runs. Without an archive only the local log is retained by.
    pub(in crate::broker) async fn make_room_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let clock = Arc::clone(&self.runtime().clock);
        let mut look_at = clock.monotonic();
        let mut expires_at = Monotonic::default();
        let mut fillings: Vec<Filling> = self.directories().iter().map(|_| Filling::default()).collect();
        // Those of each directory by themselves, as its disk may be slow, or hang.
        let mut removals = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let (mut looks, mut looking) = (Looks::default(), FuturesUnordered::new());
        loop {
            let pause = look_at.since(clock.monotonic());
            tokio::select! {
                biased;
                Some(directory) = removals.next() => {
                    busy.remove(&directory);
                    continue;
                }
                Some((id, result)) = looking.next() => {
                    looks.ended(id, result, clock.monotonic(), &*self.runtime().entropy);
                    continue;
                }
                () = clock.sleep(pause) => {}
            }
            let (held, took) = self.look(&archiver).await;
            let now = clock.monotonic();
            look_at = now + LOCAL_INTERVAL.max(took * PAUSE_FACTOR);
            let expires = now >= expires_at;
            if expires {
                expires_at = now + archiver.settings.retention_interval;
            }
            // A disk that runs short gets room from what it holds itself, rebuilt chunks first.
            archiver.fit_cache().await;
            let rooms = self.spaces(&archiver).await;
            looks.keep(|| held.iter().filter(|held| !held.is_led).map(Held::id).collect());
            let ToDo { removable, unseen } = self.to_do(&archiver, &held, &rooms, &looks, expires);
            for (directory, removable) in removable.into_iter().filter(|(directory, _)| busy.insert(*directory)) {
                removals.push(archiver.remove_all(directory, removable));
            }
            for log in unseen.into_iter().filter(|log| archiver.is_proved() && looks.begin(log.partition(), now)) {
                looking.push(archiver.look_at_head(log));
            }
            self.note_filling(&held, &rooms, &mut fillings, &busy);
            let heads = &self.metrics().memory.used_bytes.of(MemoryShare::Heads);
            heads.set(i64::try_from(archiver.heads.used().0).unwrap_or(i64::MAX));
        }
    }

    /// Has active segments sealed that retention has passed, for as long as the broker runs: it takes whole sealed segments.
    /// Apart from the above, as after a restart such a segment has to be read.
    pub(in crate::broker) async fn roll_passed_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let mut interval = Interval::new(&self.runtime().clock, archiver.settings.retention_interval);
        loop {
            interval.tick().await;
            let broker = Arc::clone(&self);
            archiver.local.run(move || broker.roll_passed()).await;
        }
    }

    fn roll_passed(&self) {
        let (image, now) = (self.image(), self.runtime().clock.wall());
        for log in self.directories().iter().flat_map(|directory| directory.logs()) {
            let id = log.partition();
            let Some(topic) = image.topic(id.topic_id).filter(|topic| !topic.internal) else { continue };
            // What the leader deletes goes from its followers by whole segments too.
            let Some((leader, _)) = self.part_in(topic, id.partition.get()) else { continue };
            let config = leader.partition.topic().rules().config.clone();
            let Some(retention_ms) = config.retention_ms else { continue };
            let passed = Timestamp(now.0.saturating_sub(retention_ms));
            // An archived one costs objects, which are worth some age.
            let least_ms = if config.remote_storage_enable { ARCHIVED_LEAST_MS } else { 0 };
            if let Err(error) = log.roll_if_before(passed, Timestamp(now.0.saturating_sub(retention_ms.max(least_ms))))
            {
                tracing::warn!(%error, partition = %id, "retention waits for the active segment");
            }
        }
    }

    /// Applies retention in the bucket for as long as the broker runs, each directory by itself: a log start waits for its
    /// disk, and one disk that hangs keeps no other's partitions in the bucket for ever.
    pub(in crate::broker) async fn retain_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        archiver.proved().await;
        let mut interval = Interval::new(&self.runtime().clock, archiver.settings.retention_interval);
        let mut passes = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                Some(directory) = passes.next() => drop(busy.remove(&directory)),
                () = interval.tick() => {
                    let mut by_directory: BTreeMap<DirectoryId, Vec<Held>> = BTreeMap::new();
                    for held in self.look(&archiver).await.0.into_iter().filter(Held::is_archived_here) {
                        by_directory.entry(held.directory().identity().directory_id).or_default().push(held);
                    }
                    for (directory, held) in by_directory.into_iter().filter(|(directory, _)| busy.insert(*directory)) {
                        passes.push(archiver.retain_all(directory, held));
                    }
                }
            }
        }
    }

    /// What is held, and how long it took to find out once a lane had time for it.
    async fn look(self: &Arc<Self>, archiver: &Arc<Archiver>) -> (Vec<Held>, Duration) {
        let (broker, of) = (Arc::clone(self), Arc::clone(archiver));
        let look = move || {
            let clock = &broker.runtime().clock;
            let began = clock.monotonic();
            let held = broker.held(&of);
            (held, clock.monotonic().since(began))
        };
        archiver.local.run(look).await
    }

    /// The partitions that hold sealed segments, and what they hold. Blocks on indexes that are not in memory.
    fn held(&self, archiver: &Archiver) -> Vec<Held> {
        let (image, is_durable) = (self.image(), archiver.is_durable());
        let logs = self.directories().iter().flat_map(|directory| directory.logs());
        logs.filter_map(|log| {
            let id = log.partition();
            let topic = image.topic(id.topic_id)?;
            let (leader, is_led) = self.part_in(topic, id.partition.get())?;
            // What an earlier placement left in another directory is not the partition's log.
            if !Arc::ptr_eq(leader.partition.log(), &log) {
                return None;
            }
            let config = leader.partition.topic().rules().config.clone();
            let is_archived = is_durable && config.remote_storage_enable && !topic.internal;
            let view = match view(&log, is_archived) {
                Ok(view) => view,
                // The other loop was faster.
                Err(ReadError::Removed { .. }) => return None,
                Err(error) => {
                    let now = self.runtime().clock.monotonic();
                    if archiver.complaints.lock().is_due(&id.to_string(), now) {
                        tracing::error!(%error, partition = %id, "segment can't be read");
                    }
                    return None;
                }
            };
            let is_idle = view.sealed.is_empty() && log.offsets().archived_to == Offset::ZERO;
            (!is_idle).then_some(Held { leader, is_led, view })
        })
        .collect()
    }

    /// Tells when the first data directory will be full. Local copies of what is archived count as room, since they go when it
    /// is needed: what grows is what only this disk has.
    fn note_filling(&self, held: &[Held], rooms: &[Room], fillings: &mut [Filling], busy: &BTreeSet<DirectoryId>) {
        let now = self.runtime().clock.monotonic();
        let disks = self.directories().iter().zip(rooms).zip(fillings);
        let seconds = disks.map(|((directory, room), filling)| {
            // What leaves just now would count as gone and as there.
            if busy.contains(&directory.identity().directory_id) {
                return filling.last();
            }
            let here = held.iter().filter(|held| Arc::ptr_eq(held.directory(), directory));
            let can_go: u64 = here.flat_map(Held::archived).map(|segment| segment.bytes).sum();
            filling.observe(now, room.room_bytes().saturating_add(can_go))
        });
        let first = seconds.min().unwrap_or(u64::MAX);
        self.metrics().log.time_to_full_seconds.set(i64::try_from(first).unwrap_or(i64::MAX));
    }

    /// What may leave each directory. Topics without an archive are retained by only when it is time for that: `expires`.
    fn to_do(&self, archiver: &Archiver, held: &[Held], rooms: &[Room], looks: &Looks, expires: bool) -> ToDo {
        let now = self.runtime().clock.wall();
        let looked_at = self.runtime().clock.monotonic();
        // In the place of what can't be seen for now others go.
        let may_go = |held: &Held| held.is_led || looks.may_begin(held.id(), looked_at);
        let mut removable: Vec<Offset> = held.iter().map(|held| held.local_start(now, expires)).collect();
        let mut evict = |candidates: Vec<Evictable>, local_bytes: u64, budget_bytes: u64| {
            for evicted in planner::over_budget(candidates, local_bytes, budget_bytes) {
                let start = &mut removable[evicted.partition];
                *start = (*start).max(evicted.segment.next);
            }
        };
        evict(evictable(held, may_go), local_bytes(held, |_| true), archiver.settings.local_bytes);
        for (directory, room) in self.directories().iter().zip(rooms) {
            let here = |held: &Held| Arc::ptr_eq(held.directory(), directory);
            let missing = room.missing_bytes();
            if missing > 0 {
                let candidates = evictable(held, |held| here(held) && may_go(held));
                let bytes = local_bytes(held, here);
                evict(candidates, bytes, bytes.saturating_sub(missing));
                // What is archived goes now, what is sealed goes once it is archived.
                let will_go = held.iter().filter(|held| here(held)).flat_map(Held::archived_or_waiting);
                let will_go: u64 = will_go.map(|segment| segment.bytes).sum();
                if archiver.is_durable() {
                    self.seal_early(directory, missing.saturating_sub(will_go));
                }
            }
        }
        let mut to_do = ToDo::default();
        for (held, below) in held.iter().zip(removable) {
            let dispensable = held.log().dispensable();
            if !held.is_led && held.has_sealed_within(dispensable, below) {
                to_do.unseen.push(Arc::clone(held.log()));
            }
            let below = below.min(dispensable);
            // Not by the start of the local log: that one moves with the log start, before any file goes.
            if held.log().has_sealed_below(below) {
                let (log, directory) = (Arc::clone(held.log()), Arc::clone(held.directory()));
                let here = to_do.removable.entry(directory.identity().directory_id).or_default();
                here.push(Removable { log, directory, below });
            }
        }
        to_do
    }

    /// Has active segments sealed for a disk that runs short of what sealed ones can give it: they can go once archived.
    fn seal_early(&self, directory: &LogDirectory, missing_bytes: u64) {
        if missing_bytes == 0 {
            return;
        }
        let image = self.image();
        let logs: Vec<_> = directory.logs().into_iter().filter(|log| self.goes_to_archive(&image, log)).collect();
        let unsealed: Vec<u64> = logs.iter().map(|log| log.unsealed_bytes()).collect();
        for at in planner::seal_early(&unsealed, missing_bytes) {
            logs[at].request_roll();
        }
    }
}

fn local_bytes(held: &[Held], which: impl Fn(&Held) -> bool) -> u64 {
    let sealed = held.iter().filter(|held| which(held)).flat_map(|held| &held.view.sealed);
    sealed.map(|segment| segment.bytes).sum()
}

/// Archived segments of those partitions.
fn evictable(held: &[Held], which: impl Fn(&Held) -> bool) -> Vec<Evictable> {
    let partitions = held.iter().enumerate().filter(|(_, held)| which(held));
    let segments = partitions.flat_map(|(partition, held)| held.archived().map(move |&segment| (partition, segment)));
    segments.map(|(partition, segment)| Evictable { partition, segment }).collect()
}

fn view(log: &PartitionLog, is_archived: bool) -> Result<PartitionView, ReadError> {
    let offsets = log.offsets();
    let mut written = None;
    let sealed = log.archivable_segments().into_iter().map(|segment| {
        let extent = segment.extent();
        let mut max_timestamp = segment.sealed_max_timestamp()?;
        if max_timestamp == Timestamp::NONE {
            // Records need not have a time; the file system knows when they came.
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(log.written_at()?),
            };
            max_timestamp = written.get(&segment.base_offset()).copied().unwrap_or(segment.created_at());
        }
        let (base, next, bytes) = (segment.base_offset(), extent.next_offset, extent.file_bytes);
        Ok(SealedSegment { base, next, bytes, max_timestamp })
    });
    Ok(PartitionView {
        sealed: sealed.collect::<Result<_, ReadError>>()?,
        log_start_offset: offsets.log_start,
        local_log_start_offset: offsets.local_log_start,
        archivable_to: offsets.recovery_point.min(offsets.last_stable),
        archived_to: is_archived.then_some(offsets.archived_to),
    })
}

impl Held {
    /// What the topic's configuration says now: a pass may take long.
    fn rules(&self) -> Arc<TopicRules> {
        self.leader.partition.topic().rules()
    }

    /// What is kept in the bucket. Of an archive that was given up the end goes by the start of the log, which goes by local
    /// retention.
    fn keep(&self) -> Retention {
        let rules = self.rules();
        let config = &rules.config;
        if config.gives_up_archive() {
            return Retention { retention_ms: None, retention_bytes: None };
        }
        let retention_ms = config.retention_ms.and_then(|ms| u64::try_from(ms).ok());
        Retention { retention_ms, retention_bytes: config.retention_bytes }
    }

    fn log(&self) -> &Arc<PartitionLog> {
        self.leader.partition.log()
    }

    fn id(&self) -> TopicPartition {
        self.log().partition()
    }

    /// Whether it is led here still, in the same epoch: a pass may take long.
    fn is_led_still(&self) -> bool {
        let partition = &self.leader.partition;
        self.is_led && (!partition.is_replicated() || partition.led_in() == Some(self.leader.epoch))
    }

    /// Whether a sealed segment ends beyond `from` and at or below `to`.
    fn has_sealed_within(&self, from: Offset, to: Offset) -> bool {
        self.view.sealed.iter().any(|segment| segment.next > from && segment.next <= to)
    }

    fn directory(&self) -> &Arc<LogDirectory> {
        self.leader.partition.directory()
    }

    /// Its local segments that the archive was seen to have; of one that is followed, those that its leader says it has.
    fn archived(&self) -> impl Iterator<Item = &SealedSegment> {
        let log = self.log();
        let known = || if self.is_led { log.dispensable() } else { log.offsets().unarchived_from() };
        let archived_to = self.view.archived_to.map_or(Offset::ZERO, |_| known());
        self.view.sealed.iter().filter(move |segment| segment.next <= archived_to)
    }

    /// Its local segments that the archive has or is about to get.
    fn archived_or_waiting(&self) -> impl Iterator<Item = &SealedSegment> {
        let waits = self.view.archived_to.is_some() && !self.rules().config.remote_log_copy_disable;
        let archived_to = if waits { Offset(i64::MAX) } else { self.view.archived_to.unwrap_or(Offset::ZERO) };
        self.view.sealed.iter().filter(move |segment| segment.next <= archived_to)
    }

    /// Whether the bucket has something of it, which the log remembers over restarts, and is to be kept in step with the log by
    /// this broker.
    fn is_archived_here(&self) -> bool {
        let rules = self.rules();
        let follows = rules.config.remote_storage_enable || rules.config.gives_up_archive();
        self.is_led && follows && self.log().offsets().archived_to > Offset::ZERO
    }

    /// First offset that stays on local disk, by the topic's retention.
    fn local_start(&self, now: Timestamp, expires: bool) -> Offset {
        if self.leader.partition.topic().is_internal() {
            // Coordinators say what they no longer need.
            return self.view.log_start_offset;
        }
        let rules = self.rules();
        let config = &rules.config;
        if !config.remote_storage_enable {
            let expires = expires && self.is_led;
            return if expires { self.retain_locally(now, Offset::ZERO) } else { self.view.log_start_offset };
        }
        let retention_ms = config.local_retention_ms.and_then(|ms| u64::try_from(ms).ok());
        let keep = LocalRetention { retention_ms, retention_bytes: config.local_retention_bytes };
        let by_retention = planner::local_retention(&self.view, keep, now, self.view.archived_to.is_some());
        let mut start = by_retention.max(self.view.log_start_offset);
        if config.remote_log_copy_disable && expires && self.is_led {
            // What will not be archived any more goes as without an archive, after what was.
            start = start.max(self.retain_locally(now, self.view.archived_to.unwrap_or(Offset::ZERO)));
        }
        start
    }

    /// Without an archive the local log is all there is: what retention passes is gone, and so is what only an archive has
    /// that was given up (`remote.log.delete.on.disable`). Does nothing unless that is beyond what is archived, `archived_to`.
    fn retain_locally(&self, now: Timestamp, archived_to: Offset) -> Offset {
        let rules = self.rules();
        let config = &rules.config;
        let retention_ms = config.retention_ms.and_then(|ms| u64::try_from(ms).ok());
        let keep = LocalRetention { retention_ms, retention_bytes: config.retention_bytes };
        let mut start = planner::retention_without_archive(&self.view, keep, now);
        if config.gives_up_archive() {
            start = start.max(self.view.local_log_start_offset);
        }
        if start <= archived_to {
            return self.view.log_start_offset;
        }
        if !self.is_led_still() {
            // The next leader sees to it.
            return self.view.log_start_offset;
        }
        if start > self.view.log_start_offset
            && let Err(error) = self.log().advance_log_start(start)
        {
            tracing::warn!(%error, partition = %self.log().partition(), "retention waits");
        }
        start
    }
}

impl Archiver {
    /// Removes what may leave a directory.
    async fn remove_all(&self, directory: DirectoryId, all: Vec<Removable>) -> DirectoryId {
        for removable in all {
            self.remove_local(removable).await;
        }
        directory
    }

    async fn remove_local(&self, Removable { log, directory, below }: Removable) {
        let removed = loop {
            // One by one, as nobody can stop a job: a large file takes its time.
            let shared = Arc::clone(&log);
            match self.removals.run(move || shared.remove_oldest_below(below)).await {
                Ok(true) => {
                    self.metrics.log.deleted_segments.inc();
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match removed {
            Ok(()) => {
                // The newest checkpoint may not know yet that these records are archived.
                if log.has_sealed_below(below) {
                    directory.request_checkpoint();
                }
            }
            Err(error) if is_shortage(&error) => {
                tracing::debug!(%error, partition = %log.partition(), "local segments wait to be removed");
            }
            Err(error) => tracing::error!(%error, partition = %log.partition(), "local segment can't be removed"),
        }
    }

    /// One pass over the partitions of a directory.
    async fn retain_all(&self, directory: DirectoryId, all: Vec<Held>) -> DirectoryId {
        let retained = stream::iter(&all).for_each_concurrent(RETAINED_AT_ONCE, |held| async {
            if let Err(error) = self.retain(held).await {
                tracing::warn!(%error, partition = %held.log().partition(), "archive was not cleaned");
            }
        });
        retained.await;
        directory
    }

    /// Applies retention in the bucket, and deletes what it passed long enough ago.
    async fn retain(&self, held: &Held) -> Result<(), CleanError> {
        let Some(archive) = self.partition(held.log().partition()) else { return Ok(()) };
        let writer = self.writer(held.leader.epoch);
        self.metrics.archive.retained_partitions.inc();
        let now = self.runtime.clock.wall();
        let (grace, unarchived) = (self.settings.deletion_grace, held.view.unarchived_bytes());
        let log_start = held.log().offsets().log_start;
        let (log, believed, epoch) = (held.log(), held.log().offsets().archived_to, held.leader.epoch);
        // What an earlier leader did is not known by what was seen of it.
        let is_known = self.attempts_in(held.id(), epoch, |attempts| attempts.is_known);
        let upkeep = match archive.upkeep().filter(|_| is_known && log.is_archive_seen()) {
            Some(upkeep) => Some(upkeep),
            None => {
                let head = archive.refresh().await?;
                // Nothing local goes because of an archive that contradicts it.
                head.as_ref().map_or(Ok(()), |head| check_agrees(log, &archive, head))?;
                self.note_end(log, head.as_deref().map(|head| head.next_offset), believed).await?;
                self.attempts_in(held.id(), epoch, |attempts| attempts.is_known = true);
                head.map(|head| head.upkeep())
            }
        };
        if !upkeep.is_some_and(|upkeep| upkeep.is_due(held.keep(), unarchived, log_start, now)) {
            return Ok(());
        }
        let head = self.own(&held.leader, &archive).await?;
        // More may have been archived since this partition was looked at, which counts once.
        let unarchived = held.view.bytes_beyond(head.next_offset);
        let retained = cleaner::retained_from(&archive, &head, held.keep(), unarchived, now).await?;
        if !held.is_led_still() {
            return Ok(());
        }
        let log_start = match held.leader.advance_log_start(retained.max(log_start)).await {
            Ok(log_start) => log_start,
            Err(error) => {
                tracing::warn!(%error, partition = %held.log().partition(), "log start waits");
                return Ok(());
            }
        };
        // Not beyond the archive's end, which the metadata knows: an upload takes it there, once that has been noted.
        let log_start = log_start.min(head.next_offset);
        if log_start > head.log_start_offset || head.has_expired() {
            let after = archive.advance_log_start(writer, log_start, grace).await?;
            let expired = after.tombstones.len().saturating_sub(head.tombstones.len());
            self.metrics.archive.expired_segments.inc_by(expired as u64);
        }
        let cleaned = cleaner::sweep_tombstones(&archive, writer, now).await?;
        self.metrics.archive.deleted_objects.inc_by(cleaned.objects);
        Ok(())
    }
}
