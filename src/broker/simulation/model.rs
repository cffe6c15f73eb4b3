//! What a partition must look like: everything that was appended to it, and what may have become of it.

use crate::log::Offsets;
use crate::record::{Batch, BatchHeader, MAX_DECOMPRESSED_BYTES};
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp};

use super::{Check, ensure};

/// Batches of one producer that the broker remembers.
const REMEMBERED: usize = 5;

/// A batch that was appended, with its place.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) batch: Batch,
    /// Offset and timestamp of each record.
    pub(super) times: Vec<(Offset, Timestamp)>,
}

impl Written {
    pub(super) fn new(batch: Batch) -> Self {
        let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).expect("just built");
        let times = batch.header().records(&payload).map(|record| record.expect("just built"));
        let times = times.map(|record| (record.offset, record.timestamp)).collect();
        Self { batch, times }
    }

    pub(super) fn base(&self) -> Offset {
        self.batch.header().base_offset
    }

    pub(super) fn next(&self) -> Offset {
        self.batch.header().next_offset()
    }

    fn epoch(&self) -> LeaderEpoch {
        self.batch.header().leader_epoch
    }
}

/// What a client sees of a batch, whatever its codec.
pub(super) fn content(batch: &Batch) -> Result<(BatchHeader, bytes::Bytes), String> {
    batch.verify_checksum().map_err(|error| error.to_string())?;
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(|error| error.to_string())?;
    let attributes = batch.header().attributes.with_compression(crate::record::Compression::None);
    Ok((BatchHeader { batch_length: 0, checksum: 0, attributes, ..*batch.header() }, payload))
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Everything appended, also what lies below the log start, without a gap.
    pub(super) batches: Vec<Written>,
    /// Offsets below this were acknowledged.
    pub(super) acknowledged: Offset,
    /// The log start that is certain, and the highest that was asked for.
    pub(super) certain_log_start: Offset,
    pub(super) asked_log_start: Offset,
    /// How long records are kept, if not for ever.
    pub(super) retention_ms: Option<i64>,
    /// Records before this time may have been deleted by retention.
    pub(super) expired_before: Timestamp,
    /// One append is under way.
    pub(super) is_appending: bool,
    /// This life of the broker has been compared with the model.
    pub(super) is_settled: bool,
    /// Its directory was lost, or an old copy was put back: what was not archived may be gone.
    pub(super) is_rolled_back: bool,
    /// Its checkpoint was lost: what was deleted may be back, and what it knew of producers that wrote nothing since.
    pub(super) is_rebuilt: bool,
    /// That was so at some start: of what is not local the log may not know the epochs, nor what was deleted.
    pub(super) lost_history: bool,
    /// Of batches before this nothing need be remembered.
    pub(super) remembered_from: Offset,
    /// One or the other was so at this start, so that the log need not know what was deleted, and the archive does.
    pub(super) has_forgotten: bool,
    /// The archive has nothing below this offset, and the log need not know.
    pub(super) forgot_below: Offset,
    /// Where the log went on with nothing before it, after deletions that the archive knew of and no record remembers.
    pub(super) went_on_at: Offset,
    /// Acknowledged before they are durable, so that a power cut may take records back.
    pub(super) is_cached: bool,
    /// Its topic is being deleted, or is gone.
    pub(super) is_deleted: bool,
}

impl Model {
    pub(super) fn log_end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, Written::next).max(self.went_on_at)
    }

    /// The sequence of a producer's next record.
    pub(super) fn next_sequence(&self, producer: ProducerId) -> i32 {
        self.of(producer).last().map_or(0, |last| {
            let header = last.batch.header();
            header.base_sequence + header.record_count
        })
    }

    fn of(&self, producer: ProducerId) -> impl DoubleEndedIterator<Item = &Written> {
        self.batches.iter().filter(move |written| written.batch.header().producer_id == producer)
    }

    /// The newest batches of a producer, which the broker knows as such.
    pub(super) fn remembered(&self, producer: ProducerId) -> Vec<Written> {
        let newest = self.of(producer).rev().take(REMEMBERED);
        let first = self.certain_log_start.max(self.remembered_from);
        newest.filter(|written| written.base() >= first).cloned().collect()
    }

    /// The highest log start that there may be.
    pub(super) fn highest_log_start(&self) -> Offset {
        let times = self.batches.iter().flat_map(|written| &written.times);
        let kept = times.clone().find(|(_, time)| *time >= self.expired_before);
        let by_retention = kept.map_or_else(|| self.log_end(), |(offset, _)| *offset);
        if self.retention_ms.is_none() { self.asked_log_start } else { by_retention.max(self.asked_log_start) }
    }

    pub(super) fn let_time_pass(&mut self, now: Timestamp) {
        if let Some(retention_ms) = self.retention_ms {
            self.expired_before = self.expired_before.max(Timestamp(now.0 - retention_ms + 1));
        }
    }

    /// Holds what holds at any time.
    pub(super) fn check_offsets(&mut self, offsets: &Offsets) -> Check {
        offsets.check();
        let highest = self.highest_log_start();
        ensure!(
            offsets.log_start >= self.certain_log_start && offsets.log_start <= highest,
            "log start {} is not within {}..={highest}",
            offsets.log_start,
            self.certain_log_start
        );
        ensure!(offsets.log_end <= self.log_end(), "log end {} is beyond {}", offsets.log_end, self.log_end());
        Ok(())
    }

    /// A start of the broker: what was acknowledged is there; what was not may be, as far as it goes. `archived_to` is what
    /// the bucket holds, if it has a head.
    pub(super) fn settle(&mut self, offsets: &Offsets, archived: Option<(Offset, Offset)>) -> Check {
        let end = offsets.log_end;
        let is_rolled_back = std::mem::take(&mut self.is_rolled_back);
        if is_rolled_back {
            self.acknowledged = self.acknowledged.min(end);
        }
        if self.is_rebuilt {
            self.lost_history = true;
            self.remembered_from = offsets.local_log_start;
        }
        self.has_forgotten = std::mem::take(&mut self.is_rebuilt) || is_rolled_back;
        if self.has_forgotten {
            let (log_start, _) = archived.unwrap_or_default();
            self.certain_log_start = self.certain_log_start.min(log_start).min(offsets.log_start);
            self.forgot_below = log_start;
            if end == log_start {
                self.went_on_at = end;
            }
        }
        let archived_to = archived.map_or(Offset::ZERO, |(_, next)| next);
        ensure!(end >= archived_to, "the log ends at {end}, and the archive reaches to {archived_to}");
        ensure!(end >= self.acknowledged, "acknowledged records are lost: {} > {end}", self.acknowledged);
        ensure!(offsets.high_watermark == end, "a single replica commits what it has: {offsets:?}");
        self.batches.retain(|written| written.next() <= end);
        ensure!(self.log_end() == end, "log ends at {end}, within a batch or beyond {}", self.log_end());
        self.check_offsets(offsets)?;
        self.certain_log_start = offsets.log_start;
        self.asked_log_start = self.asked_log_start.min(end).max(offsets.log_start);
        self.is_appending = false;
        self.is_settled = true;
        Ok(())
    }

    /// The archive begins at `log_start` from now on, which may be by a request of the dead that came late.
    pub(super) fn archive_starts(&mut self, log_start: Offset) {
        if self.has_forgotten {
            self.forgot_below = self.forgot_below.max(log_start);
        }
    }

    /// Compares batches that were read at `offset` with what was written there.
    pub(super) fn check_read(&self, offset: Offset, batches: &[Batch]) -> Check {
        let mut at = offset;
        for batch in batches {
            let index = self.batches.partition_point(|written| written.next() <= at);
            let Some(expected) = self.batches.get(index) else {
                return Err(format!(
                    "read at {offset} gave a batch at {} that nobody wrote",
                    batch.header().base_offset
                ));
            };
            let found = content(batch).map_err(|error| format!("read at {offset}: {error}"))?;
            ensure!(
                found == content(&expected.batch)?,
                "read at {offset} gave {:?} in place of {:?}",
                batch.header(),
                expected.batch.header()
            );
            at = expected.next();
        }
        Ok(())
    }

    /// Judges the answer to a search by time, made while the log start moved within `starts` and the high watermark within
    /// `bounds`.
    pub(super) fn check_search(
        &self,
        sought: Timestamp,
        found: Option<(Offset, Timestamp, LeaderEpoch)>,
        starts: (Offset, Offset),
        bounds: (Offset, Offset),
    ) -> Check {
        let records = || self.batches.iter().flat_map(|written| written.times.iter().map(move |time| (written, *time)));
        let end = found.map_or(bounds.0, |(offset, ..)| offset);
        let start = starts.1.max(self.forgot_below);
        let passed = records().find(|(_, (offset, time))| *offset >= start && *offset < end && *time >= sought);
        if let Some((_, (offset, time))) = passed {
            return Err(format!("a search for {sought} passed over {time} at {offset} and gave {found:?}"));
        }
        let Some((offset, time, epoch)) = found else { return Ok(()) };
        ensure!(offset >= starts.0 && offset < bounds.1, "a search for {sought} left the log: {offset}");
        let expected = records().find(|(_, (candidate, _))| *candidate == offset);
        let expected = expected.map(|(written, (_, time))| (time, written.epoch()));
        ensure!(
            expected == Some((time, epoch)) && time >= sought,
            "a search for {sought} gave {found:?}, not {expected:?}"
        );
        Ok(())
    }

    /// The power went: what was only written may be gone.
    pub(super) fn lose_power(&mut self) {
        if self.is_cached {
            self.acknowledged = Offset::ZERO;
        }
    }

    /// Judges the answer to a search for the largest timestamp, as [`Self::check_search`] does.
    pub(super) fn check_largest(
        &self,
        found: Option<(Offset, Timestamp, LeaderEpoch)>,
        starts: (Offset, Offset),
        bounds: (Offset, Offset),
    ) -> Check {
        let records = || self.batches.iter().flat_map(|written| written.times.iter().map(move |time| (written, *time)));
        let start = starts.1.max(self.forgot_below);
        let certain = records().filter(|(_, (offset, _))| *offset >= start && *offset < bounds.0);
        let largest = certain.map(|(_, (_, time))| time).max();
        let Some((offset, time, epoch)) = found else {
            ensure!(largest.is_none(), "no largest timestamp, where {largest:?} is");
            return Ok(());
        };
        ensure!(largest.is_none_or(|largest| largest <= time), "largest timestamp {time}, where {largest:?} is");
        // The batch in which the log start lies counts whole.
        let first = self.batches.iter().find(|written| written.next() > starts.0);
        let first = first.map_or(starts.0, |written| written.base().min(starts.0));
        ensure!(offset >= first && offset < bounds.1, "the largest timestamp is not in the log: {offset}");
        let is_there = records().any(|(written, record)| record == (offset, time) && written.epoch() == epoch);
        ensure!(is_there, "the largest timestamp is of no record: {found:?}");
        Ok(())
    }

    /// Judges where an epoch ended, for an epoch of which there are records at or after `from`.
    pub(super) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let after = self.batches.partition_point(|written| written.epoch() <= epoch);
        let last = self.batches.get(after.checked_sub(1)?)?;
        (last.epoch() == epoch).then(|| last.next())
    }

    pub(super) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let index = self.batches.partition_point(|written| written.next() <= offset);
        self.batches.get(index).map(Written::epoch)
    }
}
