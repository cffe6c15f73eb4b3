//! Producers, consumers and administrators: each does one thing as a task of the broker's process, and judges the answer.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::model::Written;
use super::{Check, Notes, Part, ensure};
use crate::broker::{
    Acknowledgement, ArchiveError, Broker, FetchLimits, FetchPartition, Isolation, Leader, OffsetQuery, PartitionError,
    RoomWait,
};
use crate::log::{AppendError, ReadError};
use crate::record::{Batch, BatchBuilder, BatchOptions, Batches, Compression, HeaderView};
use crate::sim::{Random, SimDisk};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// Longer than any life.
const FOR_EVER: Duration = Duration::from_secs(3600);
const ROOM: RoomWait = RoomWait { timeout: FOR_EVER, held_bytes: 1000 };

/// One client, ready to act.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) broker: Arc<Broker>,
    pub(super) leader: Leader,
    pub(super) part: Arc<Part>,
    pub(super) notes: Arc<Mutex<Notes>>,
    pub(super) disk: SimDisk,
}

/// Whether an archived object may be gone because retention passed it long enough ago for slow readers.
fn is_late(error: &PartitionError, before: Offset, after: Offset) -> bool {
    matches!(error, PartitionError::Archive(ArchiveError::Damaged { .. })) && before < after
}

/// Whether an error may come at any time, and says nothing about records.
fn is_passing(error: &PartitionError) -> bool {
    match error {
        PartitionError::Behind | PartitionError::TimedOut => true,
        PartitionError::Append(error) => {
            matches!(error, AppendError::Offline { .. } | AppendError::Deleted | AppendError::Truncating)
        }
        PartitionError::Archive(error) => matches!(error, ArchiveError::Unavailable { .. }),
        _ => false,
    }
}

impl Client {
    /// Does one thing as a task, and takes note of what is wrong with the outcome.
    pub(super) fn spawn(self, what: &'static str, action: impl Future<Output = Check> + Send + 'static) {
        tokio::spawn(async move {
            if let Err(error) = action.await
                && self.disk.is_powered()
                && !self.part.model.lock().is_deleted
            {
                self.notes.lock().fail(format!("{what} of {}: {error}", self.part.name()));
            }
        });
    }

    fn trace(&self, event: &(impl Hash + std::fmt::Debug)) {
        tracing::debug!(part = self.part.name(), ?event);
        let mut notes = self.notes.lock();
        self.part.name().hash(&mut notes.trace);
        event.hash(&mut notes.trace);
    }

    /// Appends a batch and waits for its acknowledgement. Only one append of a partition is settled at a time, as on one
    /// connection.
    pub(super) async fn append(self, batch: Batch) -> Check {
        let appended = self.broker.append(&self.leader, batch.bytes().clone(), true, ROOM).await;
        let produced = {
            let mut model = self.part.model.lock();
            model.is_appending = false;
            let produced = match appended {
                Ok(produced) => produced,
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(format!("refused: {error}")),
            };
            ensure!(produced.base_offset == model.log_end(), "at {} and not {}", produced.base_offset, model.log_end());
            let header = batch.header();
            tracing::debug!(part = self.part.name(), producer = %header.producer_id, first = header.base_sequence, "appended");
            model.batches.push(Written::new(batch.placed(produced.base_offset, self.leader.epoch)));
            produced
        };
        self.trace(&("append", produced.base_offset));
        match self.broker.acknowledge(&self.leader, &produced, Acknowledgement::All, FOR_EVER).await {
            Ok(()) => {
                self.trace(&("acknowledged", produced.next_offset));
                let mut model = self.part.model.lock();
                model.acknowledged = model.acknowledged.max(produced.next_offset);
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(format!("not acknowledged: {error}")),
        }
    }

    /// Sends again what was appended before.
    pub(super) async fn retry(self, again: Written) -> Check {
        let batch = again.batch.placed(Offset::ZERO, LeaderEpoch::NONE);
        let appended = self.broker.append(&self.leader, batch.bytes().clone(), true, ROOM).await;
        self.part.model.lock().is_appending = false;
        match appended {
            Ok(produced) => {
                self.trace(&("retry", produced.base_offset));
                let found = produced.base_offset;
                ensure!(found == again.base(), "a retry of {} was stored at {found}", again.base());
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(format!("a retry of {} was refused: {error}", again.base())),
        }
    }

    /// Fetches from an offset; gives the offset to go on at.
    pub(super) async fn fetch(&self, offset: Offset, max_bytes: usize) -> Result<Offset, String> {
        let limits = FetchLimits {
            max_wait: Duration::from_millis(300),
            min_bytes: 1,
            max_bytes,
            isolation: Isolation::ReadUncommitted,
        };
        let wanted = FetchPartition { leader: Ok(self.leader.clone()), offset, max_bytes };
        let (mut fetched, _memory) = self.broker.fetch(&[wanted], limits).await;
        let fetched = fetched.swap_remove(0);
        let offsets = self.leader.partition.log().offsets();
        let records = match fetched.records {
            Ok(records) => records,
            Err(error) if is_passing(&error) => return Ok(offset),
            Err(PartitionError::Read(ReadError::OutOfRange { .. })) if offset < offsets.log_start => return Ok(offset),
            Err(PartitionError::Archive(ArchiveError::Damaged { .. })) if offset < offsets.log_start => {
                return Ok(offset);
            }
            Err(error) => return Err(format!("fetch at {offset} of {offsets:?}: {error}")),
        };
        let batches: Result<Vec<Batch>, _> = records.into_iter().flat_map(Batches::new).collect();
        let batches = batches.map_err(|error| format!("fetch at {offset}: {error}"))?;
        self.part.model.lock().check_read(offset, &batches)?;
        let next = batches.last().map_or(offset, |last| last.header().next_offset());
        ensure!(next <= offsets.high_watermark.max(offset), "{next} was read beyond {offsets:?}");
        self.trace(&("fetch", offset, next));
        Ok(next)
    }

    fn log_start(&self) -> Offset {
        self.leader.partition.log().offsets().log_start
    }

    /// Looks a timestamp up.
    pub(super) async fn search(self, sought: Timestamp) -> Check {
        let before = self.leader.partition.log().offsets();
        let isolation = Isolation::ReadUncommitted;
        let found = match self.broker.offset(&self.leader, OffsetQuery::At(sought), isolation).await {
            Ok(found) => found.map(|found| (found.offset, found.timestamp, found.leader_epoch)),
            Err(error) if is_passing(&error) || is_late(&error, before.log_start, self.log_start()) => return Ok(()),
            Err(error) => return Err(format!("search for {sought}: {error}")),
        };
        self.trace(&("search", sought, found));
        let after = self.leader.partition.log().offsets();
        let (starts, bounds) = ((before.log_start, after.log_start), (before.high_watermark, after.high_watermark));
        self.part.model.lock().check_search(sought, found, starts, bounds)
    }

    /// Looks for the record with the largest timestamp.
    pub(super) async fn largest(self) -> Check {
        let before = self.leader.partition.log().offsets();
        let isolation = Isolation::ReadUncommitted;
        let found = match self.broker.offset(&self.leader, OffsetQuery::MaxTimestamp, isolation).await {
            Ok(found) => found.map(|found| (found.offset, found.timestamp, found.leader_epoch)),
            Err(error) if is_passing(&error) || is_late(&error, before.log_start, self.log_start()) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        self.trace(&("largest", found));
        let after = self.leader.partition.log().offsets();
        let (starts, bounds) = ((before.log_start, after.log_start), (before.high_watermark, after.high_watermark));
        self.part.model.lock().check_largest(found, starts, bounds)
    }

    /// Asks where the epoch of a record ended.
    pub(super) fn epoch_end(&self, offset: Offset) -> Check {
        let model = self.part.model.lock();
        let Some(epoch) = model.epoch_at(offset).filter(|epoch| *epoch < self.leader.epoch) else { return Ok(()) };
        let found = self.broker.epoch_end(&self.leader, epoch);
        if model.lost_history {
            // The end of the first epoch that is known, or an earlier one once the archive has told.
            ensure!(found.is_none_or(|(_, end)| end >= offset), "epoch {epoch} ended at {found:?}, before {offset}");
            return Ok(());
        }
        let expected = model.epoch_end(epoch).map(|end| (epoch, end));
        ensure!(found == expected, "epoch {epoch} ended at {found:?} and not {expected:?}");
        Ok(())
    }

    /// Deletes the records before an offset.
    pub(super) async fn delete_records(self, offset: Offset) -> Check {
        {
            let mut model = self.part.model.lock();
            model.asked_log_start = model.asked_log_start.max(offset);
        }
        match self.broker.delete_records(&self.leader, offset, FOR_EVER).await {
            Ok(log_start) => {
                self.trace(&("deleted", offset, log_start));
                let mut model = self.part.model.lock();
                model.certain_log_start = model.certain_log_start.max(offset);
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(format!("deletion below {offset}: {error}")),
        }
    }
}

/// A batch of odd records: nulls, empty ones, headers, codecs.
pub(super) fn odd_batch(random: &mut Random, now: Timestamp, producer: Option<(ProducerId, i32)>) -> Batch {
    let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Snappy, Compression::Zstd];
    let mut options = BatchOptions::compressed(codecs[usize::try_from(random.below(5)).unwrap()]);
    if let Some((producer_id, base_sequence)) = producer {
        options = BatchOptions { producer_id, producer_epoch: ProducerEpoch(0), base_sequence, ..options };
    }
    let mut builder = BatchBuilder::new(options);
    for _ in 0..=random.below(3) {
        let field = |random: &mut Random| match random.below(4) {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some((0..random.below(250)).map(|_| random.next() as u8).collect::<Vec<u8>>()),
        };
        let (key, value, header) = (field(random), field(random), field(random));
        let names: &[&[u8]] = &[b"a", b"b", b"a", b"\xff raw"];
        let names = names[..usize::try_from(random.below(4)).unwrap()].iter();
        let headers = names.map(|name| HeaderView { key: name, value: header.as_deref() });
        let timestamp = Timestamp(now.0 - random.below(60).cast_signed());
        builder.append(timestamp, key.as_deref(), value.as_deref(), headers);
    }
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}
