//! Appending what a producer sent: validation, admission, the append, and the wait for the acknowledgement.
//!
//! [`Broker::append`] settles the record's offset and is called in the order of a connection's requests; only
//! [`Broker::acknowledge`] waits for the disk, so that many requests of one connection share a journal group.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Broker;
use super::error::PartitionError;
use super::partitions::Leader;
use crate::log::{AppendError, Level, LogDirectory, Wait};
use crate::record::{Batch, ProduceRules, RecordError, TimestampType, validate};
use crate::runtime::clock;
use crate::types::{Offset, Timestamp};

/// How long a request waits for its place among those that wait for room: as long as others take that come and go.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// An acknowledgement is waited for at least so long, whatever the client says.
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// Records of up to so many bytes are checked at once, which takes less time than to hand them over; an eighth of it where the
/// topic may store them with another codec.
const QUICK_BYTES: usize = 128 << 10;
/// Unless they decompress to more than this.
const QUICK_DECOMPRESSED_BYTES: usize = 1 << 20;

/// What an append waits for; Kafka's `acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Nothing (0).
    None,
    /// The leader's stable storage (1).
    Leader,
    /// The in-sync replicas' stable storage (−1).
    All,
}

/// How a producer's request may wait for room in a data directory.
#[derive(Clone, Copy, Debug)]
pub struct RoomWait {
    /// How long at most.
    pub timeout: Duration,
    /// What the whole request keeps in memory meanwhile.
    pub held_bytes: usize,
}

/// Records that have their place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// First offset after the records.
    pub next_offset: Offset,
    /// When they were appended, if the topic records that instead of the producer's time.
    pub log_append_time: Option<Timestamp>,
    /// First readable offset of the log.
    pub log_start_offset: Offset,
}

impl Leader {
    /// Whether an append could be acknowledged, as far as the number of in-sync replicas goes. Looked at before anything else, as
    /// in Kafka: what is refused is not appended. Of those that it lets pass none is acknowledged while fewer are in sync, for
    /// nothing is committed then.
    ///
    /// # Errors
    /// [`PartitionError::NotEnoughReplicas`].
    pub fn check_in_sync(&self, acks: Acknowledgement) -> Result<(), PartitionError> {
        match self.partition.in_sync().filter(|_| acks == Acknowledgement::All) {
            Some(in_sync) if in_sync.size < in_sync.min => {
                Err(PartitionError::NotEnoughReplicas { in_sync: in_sync.size, min: in_sync.min })
            }
            _ => Ok(()),
        }
    }

    /// Why nothing more comes of what was appended, as far as is known here.
    fn given_up(&self) -> PartitionError {
        let (log, directory) = (self.partition.log(), self.partition.directory());
        if log.is_deleted() {
            return AppendError::Deleted.into();
        }
        if directory.is_offline() {
            return AppendError::Offline { directory_id: directory.identity().directory_id }.into();
        }
        // Another leads, who may have the records or not: the producer sends them again.
        PartitionError::NotLeader { leader: None }
    }
}

impl Broker {
    /// Checks the records for one partition and appends them. Waits while the data directory has more unwritten records than
    /// it may.
    ///
    /// # Errors
    /// [`PartitionError`]; nothing was stored.
    pub async fn append(
        &self,
        leader: &Leader,
        records: Bytes,
        zstd_allowed: bool,
        wait: RoomWait,
    ) -> Result<Produced, PartitionError> {
        let Leader { partition, epoch } = leader;
        let sent_bytes = records.len();
        // First, as the time is that of the append.
        let mut permit = self.admit(partition.directory(), sent_bytes, wait).await?;
        let rules = partition.topic().rules();
        let now = self.runtime.clock.wall();
        let checked = self.validate(records, ProduceRules { zstd_allowed, ..rules.produce }, now).await;
        let batch = checked.inspect_err(|_| {
            self.metrics.produce.rejected_batches.inc();
        })?;
        if batch.header().attributes.is_transactional() {
            return Err(PartitionError::Transactional);
        }
        if batch.bytes().len() > sent_bytes {
            // The topic's codec takes more room than the producer's. One thing is held at a time, or all might wait for all.
            drop(permit);
            permit = self.admit(partition.directory(), batch.bytes().len(), wait).await?;
        }
        partition.begin(*epoch)?;
        let appended = partition.log().append(&batch, *epoch, now, permit)?;
        let metrics = &self.metrics.produce;
        if appended.duplicate.is_some() {
            metrics.duplicate_batches.inc();
        } else {
            metrics.batches.inc();
            metrics.bytes.inc_by(batch.bytes().len() as u64);
            metrics.records.inc_by(u64::from(batch.header().record_count.unsigned_abs()));
        }
        let is_stamped = rules.produce.timestamp_type == TimestampType::LogAppendTime;
        Ok(Produced {
            base_offset: appended.base_offset,
            next_offset: appended.next_offset,
            // For a duplicate Kafka gives the time of the batch that is in the log.
            log_append_time: appended.duplicate.or_else(|| is_stamped.then_some(batch.header().max_timestamp)),
            log_start_offset: appended.log_start,
        })
    }

    /// Checks records where that holds up nobody: what takes long is done by a lane, so that the connections of a worker of the
    /// runtime do not wait for it.
    async fn validate(&self, records: Bytes, rules: ProduceRules, now: Timestamp) -> Result<Batch, RecordError> {
        let most = if rules.compression.is_some() { QUICK_BYTES / 8 } else { QUICK_BYTES };
        if records.len() <= most {
            let limit = rules.max_decompressed_bytes.min(QUICK_DECOMPRESSED_BYTES);
            let quick = ProduceRules { max_decompressed_bytes: limit, ..rules };
            match validate(records.clone(), &quick, now) {
                Err(RecordError::TooLarge { .. }) if limit < rules.max_decompressed_bytes => {}
                checked => return checked,
            }
        }
        self.validators.run(move || validate(records, &rules, now)).await
    }

    /// Room in a data directory; none where it is offline, as the append will say. What waits for it keeps its request in
    /// memory, which all others need too: where more wait for a directory than may, clients are soon to try again.
    async fn admit(
        &self,
        directory: &LogDirectory,
        bytes: usize,
        wait: RoomWait,
    ) -> Result<Option<OwnedSemaphorePermit>, PartitionError> {
        if let Some(permit) = directory.try_admit_producer(bytes) {
            return Ok(Some(permit));
        }
        if directory.is_offline() {
            return Ok(None);
        }
        let waiting = self.waiting.get(&directory.identity().directory_id).expect("each directory has its places");
        let clock = &*self.runtime.clock;
        let admitted = async {
            let _place = clock::timeout(clock, PLACE_TIMEOUT, waiting.take(wait.held_bytes)).await?;
            Ok(directory.admit_producer(bytes).await)
        };
        let admitted = clock::timeout(clock, wait.timeout, admitted).await;
        admitted.flatten().map_err(|_: clock::Elapsed| PartitionError::TimedOut)
    }

    /// For how long a producer is to pause after having sent so many bytes, so that the archive and the disks keep up.
    pub fn throttle(&self, bytes: usize) -> Duration {
        let pause = self.throttle.lock().charge(self.runtime.clock.monotonic(), bytes);
        if !pause.is_zero() {
            self.metrics.server.throttle_seconds.observe(pause);
        }
        pause
    }

    /// Waits until appended records are as safe as the producer asked for, at most for `timeout`, but for so long as a disk
    /// may need: Apache Kafka's leader does not wait for its own. Ends early where another broker leads meanwhile.
    ///
    /// # Errors
    /// [`PartitionError::TimedOut`], or what became of the partition meanwhile; the records may or may not be stored.
    pub async fn acknowledge(
        &self,
        leader: &Leader,
        produced: &Produced,
        acks: Acknowledgement,
        timeout: Duration,
    ) -> Result<(), PartitionError> {
        let level = match acks {
            Acknowledgement::None => return Ok(()),
            Acknowledgement::Leader => Level::Durable,
            Acknowledgement::All => Level::Committed,
        };
        let log = leader.partition.log();
        let wait = log.when(level, produced.next_offset);
        // Only now: who waits by then is told when another leads, and until then the log has what was appended. With another leader
        // there may be other records at these offsets, and they may be committed.
        if leader.partition.led_in() != Some(leader.epoch) {
            return Err(leader.given_up());
        }
        let Wait::Pending(reached) = wait else { return Ok(()) };
        match clock::timeout(&*self.runtime.clock, timeout.max(LEAST_PATIENCE), reached).await {
            Ok(reached) => reached.map_err(|_| leader.given_up()),
            Err(_) => Err(PartitionError::TimedOut),
        }
    }
}
