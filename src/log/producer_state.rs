//! What a partition remembers of idempotent producers, so that a retried batch is stored once (KIP-98, KIP-679).
//!
//! For each producer id: the last batches of its current epoch, five of which a client may have in flight. The log owns
//! it and changes it as batches are appended; checkpoints carry the part below the recovery point and replay adds the rest,
//! so that after a crash it says exactly what the log says. Pure: no clock, no IO.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

use crate::record::BatchHeader;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// Batches kept per producer for finding duplicates; the most that a client may have in flight.
pub const REMEMBERED_BATCHES: usize = 5;

/// A batch that a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMark {
    /// Epoch it was produced in.
    pub epoch: ProducerEpoch,
    /// Sequence of its first record.
    pub base_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// First offset after it.
    pub next_offset: Offset,
    /// Its largest timestamp.
    pub timestamp: Timestamp,
}

/// All that is remembered of one producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Oldest first. Never empty in a map that has been stored.
    pub batches: VecDeque<BatchMark>,
    /// When the broker last appended for it (broker's wall clock), for expiration.
    pub last_append: Timestamp,
}

impl ProducerEntry {
    /// The newest batch.
    fn newest(&self) -> Option<&BatchMark> {
        self.batches.back()
    }
}

/// Why a batch does not continue its producer's sequence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SequenceError {
    /// Kafka's OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error(
        "out of order sequence number producer_id={producer_id} epoch={epoch} received={received} expected={expected}"
    )]
    OutOfOrder {
        /// The producer.
        producer_id: ProducerId,
        /// Epoch of the batch.
        epoch: ProducerEpoch,
        /// Its first sequence.
        received: i32,
        /// The sequence that continues the log.
        expected: i32,
    },
    /// Kafka's INVALID_PRODUCER_EPOCH: a newer instance of the producer has written.
    #[error("producer was fenced by a newer epoch producer_id={producer_id} epoch={epoch} current={current}")]
    Fenced {
        /// The producer.
        producer_id: ProducerId,
        /// Epoch of the batch.
        epoch: ProducerEpoch,
        /// Newest epoch seen.
        current: ProducerEpoch,
    },
}

/// What to do with a produced batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It continues the sequence, or carries none.
    Append,
    /// It is in the log already, here.
    Duplicate(BatchMark),
}

/// Producers whose older batches have to be looked up in the log again, see [`ProducerState::refill`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Those that lost batches to a truncation.
    These(BTreeSet<ProducerId>),
    /// Any that has batches in the log: what a checkpoint remembers may have lost what replay was to add.
    All,
}

impl Stale {
    /// No producer.
    pub const NONE: Self = Self::These(BTreeSet::new());

    /// True when there is nothing to look up.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether a producer is one of them.
    pub fn contains(&self, producer: ProducerId) -> bool {
        match self {
            Self::These(producers) => producers.contains(&producer),
            Self::All => true,
        }
    }

    /// Adds producers.
    pub fn extend(&mut self, more: BTreeSet<ProducerId>) {
        if let Self::These(producers) = self {
            producers.extend(more);
        }
    }
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<ProducerId, ProducerEntry>,
}

impl ProducerState {
    /// Number of producers remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True when no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The producers, by id.
    pub fn entries(&self) -> impl Iterator<Item = (ProducerId, &ProducerEntry)> {
        self.producers.iter().map(|(&id, entry)| (id, entry))
    }

    /// Puts back an entry that was stored.
    pub fn restore(&mut self, producer_id: ProducerId, entry: ProducerEntry) {
        assert!(!entry.batches.is_empty(), "a producer without a batch is not stored");
        self.producers.insert(producer_id, entry);
    }

    /// Judges a batch against what is remembered. A producer that is not known may begin at any sequence, as in Kafka: its
    /// earlier batches may have expired.
    pub fn judge(&self, header: &BatchHeader) -> Result<Verdict, SequenceError> {
        if !header.producer_id.is_some() {
            return Ok(Verdict::Append);
        }
        let Some(newest) = self.producers.get(&header.producer_id).and_then(ProducerEntry::newest) else {
            return Ok(Verdict::Append);
        };
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        if epoch < newest.epoch {
            return Err(SequenceError::Fenced { producer_id, epoch, current: newest.epoch });
        }
        let expected = if epoch > newest.epoch { 0 } else { following(newest.last_sequence) };
        if header.base_sequence == expected {
            return Ok(Verdict::Append);
        }
        let batches = &self.producers[&producer_id].batches;
        let same = |mark: &&BatchMark| {
            mark.epoch == epoch
                && mark.base_sequence == header.base_sequence
                && mark.last_sequence == header.last_sequence()
        };
        match batches.iter().rev().take(REMEMBERED_BATCHES).find(same) {
            Some(&mark) => Ok(Verdict::Duplicate(mark)),
            None => Err(SequenceError::OutOfOrder { producer_id, epoch, received: header.base_sequence, expected }),
        }
    }

    /// Remembers a batch that is being appended; `header` carries its offsets. Batches at or above `durable` may yet be lost,
    /// so the last five below it are kept as well.
    pub fn record(&mut self, header: &BatchHeader, durable: Offset, now: Timestamp) {
        if !header.producer_id.is_some() {
            return;
        }
        let entry = self.producers.entry(header.producer_id).or_default();
        entry.last_append = now;
        entry.batches.push_back(BatchMark {
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            timestamp: header.max_timestamp,
        });
        while entry.batches.get(REMEMBERED_BATCHES).is_some_and(|fifth| fifth.next_offset <= durable) {
            entry.batches.pop_front();
        }
    }

    /// Forgets every batch at or above `end`, as the log was cut there. Returns the producers that lost one: older batches of
    /// theirs have to be looked up in the log again, see [`Self::refill`].
    pub fn truncate_to(&mut self, end: Offset) -> BTreeSet<ProducerId> {
        let mut touched = BTreeSet::new();
        self.producers.retain(|&id, entry| {
            while entry.newest().is_some_and(|mark| mark.next_offset > end) {
                entry.batches.pop_back();
                touched.insert(id);
            }
            !entry.batches.is_empty()
        });
        touched
    }

    /// Adds what a walk over the log found of producers to what is remembered of them. The walk sees no records that left
    /// the local log, which may still be remembered.
    pub fn refill(&mut self, found: Self) {
        for (id, found) in found.producers {
            let entry = self.producers.entry(id).or_default();
            entry.last_append = entry.last_append.max(found.last_append);
            let first = found.batches.front().map_or(Offset::MAX, |first| first.base_offset);
            entry.batches.retain(|mark| mark.base_offset < first);
            entry.batches.extend(found.batches);
            while entry.batches.len() > REMEMBERED_BATCHES {
                entry.batches.pop_front();
            }
        }
    }

    /// Forgets producers that have not written since `before`; their next batch may begin at any sequence.
    pub fn expire(&mut self, before: Timestamp) {
        self.producers.retain(|_, entry| entry.last_append >= before);
    }

    /// Forgets the producers that wrote longest ago when there are more than `limit`: some at once, so that a flood of
    /// producer ids does not sort the map at each append.
    pub fn keep_within(&mut self, limit: usize) {
        if self.producers.len() > limit {
            self.shrink_to(limit - limit / 10);
        }
    }

    /// Forgets the producers that wrote longest ago until at most `limit` are left; returns how many went.
    pub fn shrink_to(&mut self, limit: usize) -> usize {
        let excess = self.producers.len().saturating_sub(limit);
        if excess > 0 {
            let mut ages: Vec<_> = self.producers.iter().map(|(&id, entry)| (entry.last_append, id)).collect();
            ages.sort_unstable();
            for (_, id) in ages.into_iter().take(excess) {
                self.producers.remove(&id);
            }
        }
        excess
    }
}

/// The sequence after `sequence`; wraps from `i32::MAX` to 0.
const fn following(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Attributes;
    use crate::types::LeaderEpoch;

    fn batch(epoch: i16, sequence: i32, offset: i64, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(offset),
            batch_length: 49,
            leader_epoch: LeaderEpoch(0),
            checksum: 0,
            attributes: Attributes(0),
            last_offset_delta: count - 1,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer_id: ProducerId(9),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            record_count: count,
        }
    }

    fn written(count: i32) -> ProducerState {
        let mut state = ProducerState::default();
        for n in 0..count {
            let header = batch(0, n * 2, i64::from(n) * 2, 2);
            assert_eq!(state.judge(&header), Ok(Verdict::Append));
            state.record(&header, header.base_offset, Timestamp(i64::from(n)));
        }
        state
    }

    #[test]
    fn a_retry_of_the_last_five_is_found_and_an_older_one_is_out_of_order() {
        let state = written(7);
        for n in 2..7 {
            let Ok(Verdict::Duplicate(mark)) = state.judge(&batch(0, n * 2, 99, 2)) else { panic!("batch {n}") };
            assert_eq!(mark.base_offset, Offset(i64::from(n) * 2));
        }
        assert!(matches!(state.judge(&batch(0, 2, 99, 2)), Err(SequenceError::OutOfOrder { expected: 14, .. })));
        assert!(matches!(state.judge(&batch(0, 15, 99, 2)), Err(SequenceError::OutOfOrder { .. })));
        assert!(matches!(state.judge(&batch(0, 12, 99, 3)), Err(SequenceError::OutOfOrder { .. })));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut state = written(1);
        assert!(matches!(state.judge(&batch(1, 2, 99, 1)), Err(SequenceError::OutOfOrder { expected: 0, .. })));
        let header = batch(1, 0, 2, 1);
        assert_eq!(state.judge(&header), Ok(Verdict::Append));
        state.record(&header, Offset(2), Timestamp(1));
        assert!(matches!(state.judge(&batch(0, 2, 99, 1)), Err(SequenceError::Fenced { .. })));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut state = ProducerState::default();
        state.record(&batch(0, i32::MAX - 1, 0, 2), Offset(0), Timestamp(0));
        assert_eq!(state.judge(&batch(0, 0, 2, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn losing_what_was_not_durable_still_leaves_the_last_durable_batch() {
        let mut state = ProducerState::default();
        for n in 0..12 {
            state.record(&batch(0, n, i64::from(n), 1), Offset(3), Timestamp(0));
        }
        state.truncate_to(Offset(3));
        assert_eq!(state.judge(&batch(0, 3, 3, 1)), Ok(Verdict::Append));
        assert!(matches!(state.judge(&batch(0, 2, 3, 1)), Ok(Verdict::Duplicate(_))));
    }

    #[test]
    fn the_longest_idle_producers_go_first() {
        let mut state = ProducerState::default();
        for id in 0..10 {
            let header = BatchHeader { producer_id: ProducerId(id), ..batch(0, 0, id, 1) };
            state.record(&header, Offset(0), Timestamp(100 - id));
        }
        assert_eq!(state.shrink_to(4), 6);
        assert_eq!(state.entries().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        state.expire(Timestamp(99));
        assert_eq!(state.len(), 2);
    }
}
