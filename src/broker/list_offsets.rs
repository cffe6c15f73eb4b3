//! Offsets by what they mean and by time (ListOffsets), and where leader epochs ended (OffsetForLeaderEpoch), over all tiers.

use super::Broker;
use super::archive_seam::FoundOffset;
use super::error::PartitionError;
use super::fetch::Isolation;
use super::partitions::{Leader, Partition};
use crate::log::{Offsets, ReadError, TimestampPlan};
use crate::record::{Batch, MAX_DECOMPRESSED_BYTES};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// How often a search is begun while segments leave the local disk under it.
const SEARCHES: u32 = 16;

/// Which offset is asked for; on the wire the special ones are negative timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// First readable offset (−2).
    Earliest,
    /// Next offset to read (−1).
    Latest,
    /// The record with the largest timestamp (−3, KIP-734).
    MaxTimestamp,
    /// First offset on local disk (−4, KIP-405).
    EarliestLocal,
    /// Last archived offset (−5, KIP-1005).
    LatestTiered,
    /// First offset that is not archived yet (−6, KIP-1023).
    EarliestPendingUpload,
    /// The first record whose timestamp is at least this.
    At(Timestamp),
}

impl OffsetQuery {
    /// Reads the timestamp of a request; `None` for a number that has no meaning.
    pub const fn from_timestamp(timestamp: i64) -> Option<Self> {
        Some(match timestamp {
            -1 => Self::Latest,
            -2 => Self::Earliest,
            -3 => Self::MaxTimestamp,
            -4 => Self::EarliestLocal,
            -5 => Self::LatestTiered,
            -6 => Self::EarliestPendingUpload,
            0.. => Self::At(Timestamp(timestamp)),
            _ => return None,
        })
    }
}

impl Broker {
    /// The offset asked for; `None` when there is no such record.
    ///
    /// # Errors
    /// [`PartitionError`] when a tier can't be read, or when it is not known yet what is committed.
    pub async fn offset(
        &self,
        leader: &Leader,
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        for _ in 1..SEARCHES {
            match self.offset_once(leader, query, isolation).await {
                Err(PartitionError::Read(ReadError::Removed { .. })) => {}
                found => return found,
            }
        }
        self.offset_once(leader, query, isolation).await
    }

    async fn offset_once(
        &self,
        leader: &Leader,
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        let Leader { partition, epoch } = leader;
        let offsets = partition.log().offsets();
        let archived = partition.topic().rules().config.remote_storage_enable;
        let untimed = |offset: Offset| {
            Some(FoundOffset {
                offset,
                timestamp: Timestamp::NONE,
                // An epoch that has no record yet begins at the end of the log.
                leader_epoch: match epoch_at(partition, offset) {
                    None if offset == offsets.log_end => *epoch,
                    known => known.unwrap_or(LeaderEpoch::NONE),
                },
            })
        };
        Ok(match query {
            OffsetQuery::Earliest => untimed(offsets.log_start),
            OffsetQuery::EarliestLocal => untimed(offsets.local_log_start),
            OffsetQuery::Latest => {
                leader.check_commitment(&offsets)?;
                let (offset, timestamp) = (isolation.bound(&offsets), Timestamp::NONE);
                Some(FoundOffset { offset, timestamp, leader_epoch: *epoch })
            }
            OffsetQuery::LatestTiered if archived && offsets.archived_to > offsets.log_start => {
                untimed(offsets.archived_to + -1)
            }
            OffsetQuery::EarliestPendingUpload if archived => untimed(offsets.archived_to.max(offsets.log_start)),
            OffsetQuery::LatestTiered | OffsetQuery::EarliestPendingUpload => None,
            OffsetQuery::At(timestamp) => {
                let found = self.offset_at(partition, &offsets, timestamp, isolation).await?;
                // It may be among what is not known to be committed.
                if found.is_none() {
                    leader.check_commitment(&offsets)?;
                }
                found
            }
            OffsetQuery::MaxTimestamp => {
                leader.check_commitment(&offsets)?;
                self.max_timestamp(partition, offsets.high_watermark).await?
            }
        })
    }

    /// Searches the archive, then what only the local log has. The local search is planned first, and what it will not look
    /// at is looked for in the archive: so nothing is passed over that leaves the local log meanwhile.
    async fn offset_at(
        &self,
        partition: &Partition,
        offsets: &Offsets,
        timestamp: Timestamp,
        isolation: Isolation,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        let plan = partition.log().find_timestamp(timestamp, isolation.bound(offsets));
        let (log_start, local_start) = (offsets.log_start, plan.from());
        if log_start < local_start {
            let id = partition.log().partition();
            let archived = self.archive.offset_for_timestamp(id, timestamp, log_start).await?;
            // What the archive has beyond the local start is found in the local log just as well.
            if let Some(found) = archived.filter(|found| found.offset < local_start) {
                return Ok(Some(found));
            }
        }
        let mut plan = plan;
        loop {
            let look = move |batch: Batch| {
                let found = first_record(&batch, |time, offset| time >= timestamp && offset >= log_start)?;
                Ok(Some(found.ok_or_else(|| batch.header().next_offset())))
            };
            match self.local_search(plan, look).await? {
                // Of the batch that holds the log start, only a deleted record is late enough.
                Some(Err(next)) => {
                    plan = partition.log().find_timestamp_from(timestamp, next, isolation.bound(offsets));
                }
                found => return Ok(found.and_then(Result::ok)),
            }
        }
    }

    async fn max_timestamp(&self, partition: &Partition, bound: Offset) -> Result<Option<FoundOffset>, PartitionError> {
        let local = self.local_max_timestamp(partition, bound).await?;
        // Read after the local search: what left the local log under it is in the archive.
        let offsets = partition.log().offsets();
        if offsets.log_start == offsets.local_log_start {
            return Ok(local);
        }
        let (range, least) =
            (offsets.log_start..offsets.local_log_start, local.map_or(Timestamp(i64::MIN), |found| found.timestamp));
        let archived = self.archive.max_timestamp(partition.log().partition(), range, least).await?;
        Ok(match (archived, local) {
            // The earlier offset wins a tie.
            (Some(archived), Some(local)) if archived.timestamp < local.timestamp => Some(local),
            (Some(archived), _) => Some(archived),
            (None, local) => local,
        })
    }

    /// The local record with the largest timestamp. The log can only say whether any batch reaches a timestamp, so the
    /// largest is closed in on from below: in steps that double while a batch is found, and are halved once none is.
    /// A batch in which the log start lies counts whole, as in Kafka: the answer may be a record of it that was deleted.
    async fn local_max_timestamp(
        &self,
        partition: &Partition,
        bound: Offset,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        let batch_at =
            |timestamp| self.local_search(partition.log().find_timestamp(timestamp, bound), |batch| Ok(Some(batch)));
        let Some(mut best) = batch_at(Timestamp(i64::MIN)).await? else { return Ok(None) };
        let (mut step, mut growing) = (1_i64, true);
        loop {
            let later = match best.header().max_timestamp.0.checked_add(step) {
                Some(sought) => batch_at(Timestamp(sought)).await?,
                // Beyond all that there can be.
                None => None,
            };
            match later {
                Some(batch) => {
                    best = batch;
                    step = if growing { step.saturating_mul(2) } else { step };
                }
                None if step == 1 => break,
                None => {
                    growing = false;
                    step /= 2;
                }
            }
        }
        let largest = best.header().max_timestamp;
        let found = self.readers.run(move || first_record(&best, |time, _| time >= largest)).await;
        Ok(found.transpose()?.flatten())
    }

    /// Executes a search on a reader lane, and looks into the batch that it finds there too.
    async fn local_search<T: Send + 'static>(
        &self,
        plan: TimestampPlan,
        look: impl FnOnce(Batch) -> Result<Option<T>, PartitionError> + Send + 'static,
    ) -> Result<Option<T>, PartitionError> {
        let search = move || match plan.execute()? {
            Some(batch) => look(batch),
            None => Ok(None),
        };
        self.readers.run(search).await.unwrap_or(Ok(None))
    }

    /// The largest leader epoch that is at most `epoch`, and the offset where it ended.
    pub fn epoch_end(&self, leader: &Leader, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let log = leader.partition.log();
        let log_end = log.offsets().log_end;
        if epoch == leader.epoch {
            return Some((epoch, log_end));
        }
        let epochs = log.epochs();
        let first = epochs.starts().first().copied().unwrap_or((leader.epoch, log_end));
        if epoch != LeaderEpoch::NONE && epoch < first.0 {
            // As Kafka: all that is known is where the first later epoch began.
            return Some((epoch, first.1));
        }
        // The current epoch has no record yet, but it ends every epoch before it.
        match epochs.latest() {
            Some(latest) if epoch < leader.epoch && latest < epoch => Some((latest, log_end)),
            _ => epochs.end_offset(epoch, log_end),
        }
    }

    /// Where the log of a reader that comes to `offset` left this one: the largest epoch up to that of its last record that both
    /// know, and its end (KIP-595). None where it did not.
    ///
    /// # Errors
    /// [`PartitionError::OutOfRange`] where nothing that the reader has can be compared with this log.
    pub fn divergence(
        &self,
        leader: &Leader,
        last_epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<Option<(LeaderEpoch, Offset)>, PartitionError> {
        if last_epoch == LeaderEpoch::NONE {
            return Ok(None);
        }
        let offsets = leader.partition.log().offsets();
        let end = self.epoch_end(leader, last_epoch).filter(|_| offset >= offsets.log_start);
        let (epoch, end) = end.ok_or(PartitionError::OutOfRange { offset, high_watermark: offsets.high_watermark })?;
        Ok((epoch < last_epoch || end < offset).then_some((epoch, end)))
    }
}

impl Leader {
    /// Refuses to say where the log ends before the leader knows that all is committed that an earlier one may have said was
    /// (KIP-207): what it began with.
    fn check_commitment(&self, offsets: &Offsets) -> Result<(), PartitionError> {
        if !self.partition.is_replicated() {
            return Ok(());
        }
        let (epochs, high_watermark) = (self.partition.log().epochs(), offsets.high_watermark);
        match epochs.starts().iter().rev().find(|(epoch, _)| *epoch == self.epoch) {
            Some(&(_, offset)) if offset > high_watermark => {
                Err(PartitionError::OffsetNotAvailable { offset, high_watermark })
            }
            _ => Ok(()),
        }
    }
}

fn epoch_at(partition: &Partition, offset: Offset) -> Option<LeaderEpoch> {
    partition.log().epochs().epoch_at(offset)
}

/// The first record of a batch that `wanted` accepts, by timestamp and offset.
fn first_record(
    batch: &Batch,
    wanted: impl Fn(Timestamp, Offset) -> bool,
) -> Result<Option<FoundOffset>, PartitionError> {
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES)?;
    for record in batch.header().records(&payload) {
        let record = record?;
        if wanted(record.timestamp, record.offset) {
            let leader_epoch = batch.header().leader_epoch;
            return Ok(Some(FoundOffset { offset: record.offset, timestamp: record.timestamp, leader_epoch }));
        }
    }
    Ok(None)
}
