//! Appending what a producer sent: validation, admission, the append, and the wait for the acknowledgement.
//!
//! [`Broker::append`] settles the record's offset and is called in the order of a connection's requests; only
//! [`Broker::acknowledge`] waits for the disk, so that many requests of one connection share a journal group.

use std::time::Duration;

use bytes::Bytes;

use super::Broker;
use super::error::PartitionError;
use super::partitions::Leader;
use crate::log::{AppendError, Level, Wait};
use crate::record::{ProduceRules, TimestampType, validate};
use crate::runtime::clock;
use crate::types::{Offset, Timestamp};

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
    ) -> Result<Produced, PartitionError> {
        let Leader { partition, epoch } = leader;
        let rules = partition.topic().rules();
        let now = self.runtime.clock.wall();
        let checked = validate(records, &ProduceRules { zstd_allowed, ..rules.produce }, now);
        let batch = checked.inspect_err(|_| {
            self.metrics.produce.rejected_batches.inc();
        })?;
        if batch.header().attributes.is_transactional() {
            return Err(PartitionError::Transactional);
        }
        partition.begin(*epoch)?;
        let permit = partition.directory().admit(batch.bytes().len()).await;
        let appended = partition.log().append(&batch, *epoch, now, Some(permit))?;
        let metrics = &self.metrics.produce;
        if appended.duplicate {
            metrics.duplicate_batches.inc();
        } else {
            metrics.batches.inc();
            metrics.bytes.inc_by(batch.bytes().len() as u64);
            metrics.records.inc_by(u64::from(batch.header().record_count.unsigned_abs()));
        }
        // For a duplicate Kafka gives the time of the batch that is in the log, which is the same batch.
        let stamped = appended.duplicate || rules.produce.timestamp_type == TimestampType::LogAppendTime;
        Ok(Produced {
            base_offset: appended.base_offset,
            next_offset: appended.next_offset,
            log_append_time: stamped.then_some(batch.header().max_timestamp),
            log_start_offset: appended.log_start,
        })
    }

    /// For how long a producer is to pause after having sent so many bytes, so that the archive and the disks keep up.
    pub fn throttle(&self, bytes: usize) -> Duration {
        let pause = self.throttle.lock().charge(self.runtime.clock.monotonic(), bytes);
        if !pause.is_zero() {
            self.metrics.server.throttle_seconds.observe(pause);
        }
        pause
    }

    /// Waits until appended records are as safe as the producer asked for, at most for `timeout`.
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
        let Wait::Pending(reached) = log.when(level, produced.next_offset) else { return Ok(()) };
        match clock::timeout(&*self.runtime.clock, timeout, reached).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) if log.is_deleted() => Err(AppendError::Deleted.into()),
            Ok(Err(_)) => {
                let directory_id = leader.partition.directory().identity().directory_id;
                Err(AppendError::Offline { directory_id }.into())
            }
            Err(_) => Err(PartitionError::TimedOut),
        }
    }
}
