//! What the clients of a partition know: what they sent, what was acknowledged, and what they read.

use super::invariants::{Reads, Writes};
use super::{Check, ensure};
use crate::broker::Produced;
use crate::record::Batch;
use crate::types::LeaderEpoch;

/// Producers of a partition. The first half of them sends each batch once, whatever becomes of it; the others are idempotent, and send
/// one again until it is acknowledged.
pub(super) const PRODUCERS: usize = 4;

/// A request that is under way: at which broker, and in which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) member: usize,
    pub(super) life: u64,
}

/// One producer.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub(super) flight: Option<Flight>,
    /// A batch that was sent, and of which it is not known what became of it.
    pub(super) pending: Option<Batch>,
    pub(super) next_sequence: i32,
    /// Batches that were acknowledged.
    pub(super) acknowledged: usize,
    /// The newest epoch that it was told of. As Kafka's clients, it does not go back to who led before.
    pub(super) epoch: LeaderEpoch,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) producers: [Producer; PRODUCERS],
    pub(super) writes: Writes,
    pub(super) reads: Reads,
}

/// Whether a producer is idempotent.
pub(super) const fn is_idempotent(number: usize) -> bool {
    number >= PRODUCERS / 2
}

impl Ledger {
    /// A producer's batch was acknowledged.
    pub(super) fn acknowledge(&mut self, number: usize, batch: &Batch, produced: &Produced) -> Check {
        let count = i64::from(batch.header().record_count);
        let span = produced.next_offset - produced.base_offset;
        ensure!(span == count, "{count} records were acknowledged as {span} at {}", produced.base_offset);
        self.writes.acknowledge(produced.base_offset, batch)?;
        let producer = &mut self.producers[number];
        producer.pending = None;
        producer.acknowledged += 1;
        if is_idempotent(number) {
            producer.next_sequence += batch.header().record_count;
        }
        Ok(())
    }

    /// What became of a producer's batch is not known.
    pub(super) fn give_up(&mut self, number: usize) {
        if !is_idempotent(number) {
            self.producers[number].pending = None;
        }
    }
}
