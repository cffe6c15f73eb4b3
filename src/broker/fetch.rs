//! One fetch over many partitions: plan, wait until there is enough, execute.
//!
//! Planning touches only memory. What is in memory counts at once, what is on disk or in the archive's cache is read by the
//! reader lanes, and what is only in the bucket is fetched apart ([`ColdReads`](super::cold_reads)); a fetch waits only while
//! it has nothing to give. Partitions are served in the order asked, each up to its own limit, all up to the limit of the
//! fetch, but never less than one batch, so that a consumer always gets on (KIP-74). A partition that found no room stays in
//! front of those that gave records, in the session or at the client, and so does one that waits for the bucket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::Broker;
use super::archive_seam::{ArchiveRead, AtHand};
use super::error::PartitionError;
use super::partitions::Leader;
use super::read_ahead::{Found, Place};
use crate::log::{DiskRead, Offsets, PartitionLog, ReadError, ReadPlan};
use crate::record::BatchHeader;
use crate::runtime::clock;
use crate::telemetry::{Counted, FetchSource, TakenMemory};
use crate::types::Offset;

/// Which records a consumer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// All that are committed to the log.
    ReadUncommitted,
    /// Those below every undecided transaction.
    ReadCommitted,
}

impl Isolation {
    /// First offset that the consumer may not see.
    pub const fn bound(self, offsets: &Offsets) -> Offset {
        match self {
            Self::ReadUncommitted => offsets.high_watermark,
            Self::ReadCommitted => offsets.last_stable,
        }
    }
}

/// What is wanted of one partition.
#[derive(Clone, Debug)]
pub struct FetchPartition {
    /// The partition, or why it can't be read.
    pub leader: Result<Leader, PartitionError>,
    /// First offset wanted.
    pub offset: Offset,
    /// Most bytes, but at least one batch when the answer is empty otherwise.
    pub max_bytes: usize,
}

/// When a fetch is answered, and with how much.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth answering at once.
    pub min_bytes: usize,
    /// Most bytes of the answer, but at least one batch.
    pub max_bytes: usize,
    /// Which records the consumer may see.
    pub isolation: Isolation,
}

/// What one partition gave.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The offsets at the time of the read; none when the partition can't be read.
    pub offsets: Option<Offsets>,
    /// Whole batches, in order.
    pub records: Result<Vec<Bytes>, PartitionError>,
}

/// What one answer may take of the memory that is free: clients that do not take their answers get less and less of it
/// instead of all, and others go on with smaller answers.
const fn answer_share(free_bytes: usize) -> usize {
    let share = free_bytes / 8;
    if share > LEAST_ANSWER_BYTES { share } else { LEAST_ANSWER_BYTES }
}

fn bytes_of(batches: &[Bytes]) -> usize {
    batches.iter().map(Bytes::len).sum()
}

/// What a partition takes in an answer beside its records, about. A small request may ask for all of a session.
const ANSWER_PARTITION_BYTES: usize = 64;

/// An answer of so many bytes is worth waiting for.
const LEAST_ANSWER_BYTES: usize = 64 << 10;

/// How long a fetch of archived records alone waits at least, Kafka's default of `remote.fetch.max.wait.ms`.
const COLD_WAIT: Duration = Duration::from_millis(500);

/// How one partition will be served.
enum Plan {
    Failed(PartitionError),
    Ready(Vec<Bytes>),
    Disk(FromDisk),
    /// There is something, for the next answer.
    NoRoom,
    /// Archived, and at hand.
    Archived {
        wanted: ArchiveRead,
        batches: Arc<dyn AtHand>,
        source: FetchSource,
        limit: usize,
        may_exceed: bool,
    },
    /// The archive is being read.
    Cold(ArchiveRead),
}

/// A read of segments.
struct FromDisk {
    read: DiskRead,
    log: Arc<PartitionLog>,
    place: Place,
    found: Found,
    /// What the archive holds of the partition is there to stay, and is read.
    archive_serves: bool,
    limit: usize,
    may_exceed: bool,
}

/// The plans of a whole fetch.
struct Round {
    plans: Vec<(Option<Offsets>, Plan)>,
    ready_bytes: usize,
    /// Something is on disk or at hand from the archive, or failed: waiting would gain nothing.
    answer_now: bool,
}

/// What is left of the fetch's limit.
struct Budget {
    left: usize,
    /// Nothing has been taken yet, so that one batch may exceed the limit.
    untouched: bool,
}

impl Budget {
    fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        self.untouched &= bytes == 0;
    }

    /// Keeps batches within `limit`; the first may exceed it as long as the budget is untouched.
    fn admit(&mut self, mut batches: Vec<Bytes>, limit: usize) -> Vec<Bytes> {
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        if bytes > limit && !self.untouched {
            batches.clear();
            return batches;
        }
        self.take(bytes);
        batches
    }
}

impl Broker {
    /// Fetches; one result for each partition, in the order asked, and their share of the memory for answers, to be held
    /// until they are sent.
    pub async fn fetch(&self, wanted: &[FetchPartition], limits: FetchLimits) -> (Vec<Fetched>, TakenMemory) {
        self.fetch_until(wanted, limits, std::future::pending()).await
    }

    /// Fetches, and waits for records no longer than until `missed` comes.
    pub async fn fetch_until(
        &self,
        wanted: &[FetchPartition],
        limits: FetchLimits,
        missed: impl Future<Output = ()>,
    ) -> (Vec<Fetched>, TakenMemory) {
        let share = answer_share(self.answers.free_bytes());
        let limits = FetchLimits { max_bytes: limits.max_bytes.min(share), ..limits };
        let mut round = self.plan(wanted, &limits);
        let limits = round.patience(limits);
        if !round.is_enough(&limits) && !limits.max_wait.is_zero() {
            let _waiting = Counted::new(&self.metrics.fetch.waiting);
            // An answer that comes late is no error: the fetch gives what there is.
            let enough = self.wait_for_enough(wanted, &limits);
            let waited = tokio::select! {
                biased;
                waited = clock::timeout(&*self.runtime.clock, limits.max_wait, enough) => waited.ok(),
                () = self.stopping() => None,
                () = missed => None,
            };
            round = waited.unwrap_or_else(|| self.plan(wanted, &limits));
        }
        let records_bytes = round.planned_bytes().min(self.settings.fetch.answer_bytes);
        let bytes = records_bytes + wanted.len() * ANSWER_PARTITION_BYTES;
        if let Some(memory) = self.answers.try_take(bytes) {
            return (self.execute(round).await, memory);
        }
        // Nothing is held on to while others' answers are on their way out.
        round.give_back(self);
        let memory = self.answers.take(bytes).await;
        let round = self.plan(wanted, &FetchLimits { max_bytes: records_bytes, ..limits });
        (self.execute(round).await, memory)
    }

    /// Memory for an answer that is there: fetches and others wait for it in turn.
    pub async fn answer_memory(&self, bytes: usize) -> TakenMemory {
        self.answers.take(bytes).await
    }

    async fn wait_for_enough(&self, wanted: &[FetchPartition], limits: &FetchLimits) -> Round {
        loop {
            // A new one each time: logs forget the old one once it is dropped.
            let notify = Arc::new(Notify::new());
            for partition in wanted {
                if let Ok(leader) = &partition.leader {
                    leader.partition.log().watch(&notify);
                }
            }
            // What happened before the watch is seen now, what happens after it notifies.
            let round = self.plan(wanted, limits);
            if round.is_enough(limits) {
                return round;
            }
            round.watch_cold(self, &notify);
            notify.notified().await;
        }
    }

    fn plan(&self, wanted: &[FetchPartition], limits: &FetchLimits) -> Round {
        let mut budget = Budget { left: limits.max_bytes, untouched: true };
        let mut round = Round { plans: Vec::with_capacity(wanted.len()), ready_bytes: 0, answer_now: false };
        for partition in wanted {
            let (offsets, plan) = self.plan_partition(partition, limits.isolation, &mut budget);
            match &plan {
                // As Apache Kafka, which looks no further for partitions that it does not know.
                Plan::Failed(PartitionError::UnknownPartition | PartitionError::UnknownTopicId) => {}
                // What was taken from a cold read must be given: it is not kept twice.
                Plan::Failed(_) | Plan::Disk(_) | Plan::NoRoom | Plan::Archived { .. } => round.answer_now = true,
                Plan::Ready(batches) => round.ready_bytes += batches.iter().map(Bytes::len).sum::<usize>(),
                Plan::Cold(_) => {}
            }
            round.plans.push((offsets, plan));
        }
        round.answer_now |= round.plans.iter().all(|(_, plan)| matches!(plan, Plan::Failed(_)));
        round
    }

    fn plan_partition(
        &self,
        wanted: &FetchPartition,
        isolation: Isolation,
        budget: &mut Budget,
    ) -> (Option<Offsets>, Plan) {
        let leader = match &wanted.leader {
            Ok(leader) => leader,
            Err(error) => return (None, Plan::Failed(error.clone())),
        };
        let log = leader.partition.log();
        let offsets = log.offsets();
        let limit = wanted.max_bytes.min(budget.left);
        let no_room = limit == 0 && !budget.untouched;
        let bound = if no_room { wanted.offset } else { isolation.bound(&offsets) };
        let plan = match log.read(wanted.offset, bound, limit) {
            Ok(ReadPlan::Ready(batches)) => Plan::Ready(budget.admit(batches, limit)),
            Ok(ReadPlan::Disk(read)) => {
                let place = Place { partition: log.partition(), epoch: leader.epoch, isolation, offset: wanted.offset };
                self.plan_disk(leader, read, place, limit, budget)
            }
            Err(ReadError::Archived { offset, .. }) => self.plan_cold(leader, offset, limit, budget),
            Err(error) => Plan::Failed(error.into()),
        };
        match plan {
            Plan::Failed(_) => (None, plan),
            plan => (Some(offsets), plan),
        }
    }

    fn plan_disk(&self, leader: &Leader, read: DiskRead, place: Place, limit: usize, budget: &mut Budget) -> Plan {
        let (may_exceed, mut found) = (budget.untouched, self.read_ahead.take(&place));
        if !may_exceed && found.has_to_wait(limit) {
            // It has to be read once only: the next answer begins with it.
            self.read_ahead.give_back(place, found);
            return Plan::NoRoom;
        }
        budget.take(limit.max(1));
        let archived = leader.partition.topic().rules().config.remote_storage_enable;
        let archive_serves = archived && self.archive.is_durable();
        let log = Arc::clone(leader.partition.log());
        Plan::Disk(FromDisk { read, log, place, found, archive_serves, limit, may_exceed })
    }

    fn plan_cold(&self, leader: &Leader, offset: Offset, limit: usize, budget: &mut Budget) -> Plan {
        let compression = leader.partition.topic().rules().config.archive_fetch_compression.into();
        let wanted = ArchiveRead { partition: leader.partition.log().partition(), offset, compression };
        let (batches, source) = match self.cold_reads.take_or_begin(wanted) {
            Some((Ok(batches), source)) => (batches, source),
            Some((Err(error), _)) => return Plan::Failed(error.into()),
            None => return Plan::Cold(wanted),
        };
        let may_exceed = budget.untouched;
        budget.take(limit.max(1));
        Plan::Archived { wanted, batches, source, limit, may_exceed }
    }

    async fn execute(&self, round: Round) -> Vec<Fetched> {
        let reads = round.plans.into_iter().map(|(offsets, plan)| async move {
            let (records, source) = match plan {
                Plan::Failed(error) => (Err(error), FetchSource::Tail),
                Plan::Ready(batches) => (Ok(batches), FetchSource::Tail),
                Plan::NoRoom => (Ok(Vec::new()), FetchSource::Local),
                Plan::Cold(_) => (Ok(Vec::new()), FetchSource::Archive),
                Plan::Disk(from_disk) => (self.read_disk(from_disk).await, FetchSource::Local),
                Plan::Archived { batches, source, limit, may_exceed, .. } => {
                    let result = self.readers.run(move || batches.read(limit)).await.unwrap_or_else(|| Ok(Vec::new()));
                    let mut budget = Budget { left: limit, untouched: may_exceed };
                    (result.map(|batches| budget.admit(batches, limit)).map_err(Into::into), source)
                }
            };
            self.count(&records, source);
            let offsets = offsets.filter(|_| records.is_ok());
            Fetched { offsets, records }
        });
        futures_util::future::join_all(reads).await
    }

    /// Reads segments, and the piece after it for a reader that reads on.
    async fn read_disk(&self, from_disk: FromDisk) -> Result<Vec<Bytes>, PartitionError> {
        let FromDisk { read, log, mut place, found, archive_serves, limit, may_exceed } = from_disk;
        let reads_on = !matches!(found, Found::Nothing);
        let ahead = match found {
            Found::Ahead(ahead) => ahead.batches(limit, may_exceed).await,
            _ => None,
        };
        let batches = match ahead {
            Some(batches) => {
                self.metrics.fetch.read_ahead.inc();
                batches
            }
            None => {
                let of = Arc::clone(&log);
                let read = move || of.execute(read, archive_serves);
                match self.readers.run(read).await.unwrap_or_else(|| Ok(Vec::new())) {
                    // What left the disk since is found elsewhere by the next fetch.
                    Err(ReadError::Removed { .. }) => Vec::new(),
                    read => read?,
                }
            }
        };
        let batches = Budget { left: limit, untouched: may_exceed }.admit(batches, limit);
        if let Some(last) = batches.last() {
            // Of batches that are larger than the reader's pieces, the next one is about as large as this one.
            let room = if bytes_of(&batches) <= limit { limit } else { 2 * bytes_of(&batches) };
            place.offset = BatchHeader::read(last).expect("was read from a segment as a batch").next_offset();
            let bound = place.isolation.bound(&log.offsets());
            match log.read(place.offset, bound, limit) {
                Ok(ReadPlan::Disk(read)) if reads_on => {
                    let within = move |ahead: Vec<Bytes>| if bytes_of(&ahead) <= room { ahead } else { Vec::new() };
                    self.read_ahead.begin(place, room, &self.readers, move || read.execute().map(within));
                }
                Ok(ReadPlan::Disk(_)) => self.read_ahead.expect(place),
                // Memory and the archive's own cache need no reading ahead; what can't be read is told to who asks for it.
                _ => {}
            }
        }
        Ok(batches)
    }

    fn count(&self, records: &Result<Vec<Bytes>, PartitionError>, source: FetchSource) {
        let Ok(batches) = records else { return };
        if !batches.is_empty() {
            self.metrics.fetch.bytes.of(source).inc_by(bytes_of(batches) as u64);
            self.metrics.fetch.batches.inc_by(batches.len() as u64);
        }
    }
}

impl Round {
    /// Most bytes that the answer will have, but for batches that are larger than their limit.
    fn planned_bytes(&self) -> usize {
        let bytes = |plan: &Plan| match plan {
            Plan::Ready(batches) => bytes_of(batches),
            Plan::Disk(FromDisk { limit, .. }) | Plan::Archived { limit, .. } => *limit,
            Plan::Failed(_) | Plan::NoRoom | Plan::Cold(_) => 0,
        };
        self.plans.iter().map(|(_, plan)| bytes(plan)).sum()
    }

    fn is_enough(&self, limits: &FetchLimits) -> bool {
        // What is half full may have no room for the next batch.
        let min_bytes = limits.min_bytes.min((limits.max_bytes / 2).max(1));
        self.answer_now || self.plans.is_empty() || self.ready_bytes >= min_bytes
    }

    /// A fetch that has nothing but archived records to give waits for the archive, however little it wanted to wait: Apache
    /// Kafka does the same for its remote tier (`remote.fetch.max.wait.ms`).
    fn patience(&self, limits: FetchLimits) -> FetchLimits {
        let is_cold = self.plans.iter().any(|(_, plan)| matches!(plan, Plan::Cold(_)));
        if !is_cold || self.answer_now || self.ready_bytes > 0 {
            return limits;
        }
        FetchLimits { max_wait: limits.max_wait.max(COLD_WAIT), min_bytes: limits.min_bytes.max(1), ..limits }
    }

    /// Gives up the round; what came of cold reads, or was read ahead, is there for the next one.
    fn give_back(self, broker: &Broker) {
        for (_, plan) in self.plans {
            match plan {
                Plan::Archived { wanted, batches, source: FetchSource::Archive, .. } => {
                    broker.cold_reads.give_back(wanted, batches);
                }
                Plan::Disk(FromDisk { place, found, .. }) => broker.read_ahead.give_back(place, found),
                _ => {}
            }
        }
    }

    /// Watches the cold reads that planning began.
    fn watch_cold(&self, broker: &Broker, notify: &Arc<Notify>) {
        for (_, plan) in &self.plans {
            if let Plan::Cold(wanted) = plan {
                broker.cold_reads.watch(wanted, notify);
            }
        }
    }
}
