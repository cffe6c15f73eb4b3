//! What a data directory counts, for whoever looks at its metrics. Nothing is decided by it.

use std::time::Duration;

use super::checkpoint::PartitionCheckpoint;
use super::directory::Shared;
use crate::telemetry::{Gauge, JournalMetrics, LogMetrics};
use crate::types::Timestamp;

/// The metrics of data directories. Several directories may count together.
#[derive(Clone, Debug, Default)]
pub struct DirectoryMetrics {
    /// The journal.
    pub journal: JournalMetrics,
    /// The logs.
    pub log: LogMetrics,
    /// Bytes of batches in memory.
    pub tail_bytes: Gauge,
}

impl DirectoryMetrics {
    /// A group is on stable storage.
    pub(super) fn note_group(&self, bytes: usize, entries: u32, took: Duration) {
        self.journal.groups.inc();
        self.journal.entries.inc_by(u64::from(entries));
        self.journal.written_bytes.inc_by(bytes as u64);
        self.journal.group_bytes.observe(bytes as u64);
        self.journal.write_seconds.observe(took);
        self.journal.replay_bytes.inc_by(bytes as i64);
    }
}

/// One directory's share of the gauges.
#[derive(Debug, Default)]
pub(super) struct Counted {
    partitions: u64,
    segments: u64,
    bytes: u64,
    producers: u64,
    unavailable: u64,
    journal: u64,
}

impl Shared {
    /// What a start has found, and that the journal's part which was replayed is needed until a checkpoint passes it.
    pub(super) fn note_replayed(&self, bytes: u64, now: Timestamp) {
        self.checkpoint_clock.lock().note_written(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.metrics.journal.replay_bytes.inc_by(bytes.cast_signed());
        let partitions: Vec<_> = self.logs().iter().filter_map(|log| log.checkpoint(now)).collect();
        self.note_content(&partitions);
    }

    /// What all partitions hold, as a checkpoint has just listed it, and the journal's size.
    pub(super) fn note_content(&self, partitions: &[PartitionCheckpoint]) {
        let sum = |of: &dyn Fn(&PartitionCheckpoint) -> u64| partitions.iter().map(of).sum::<u64>();
        let counted = Counted {
            partitions: partitions.len() as u64,
            segments: sum(&|partition| partition.segments.len() as u64),
            bytes: sum(&|partition| partition.segments.iter().map(|segment| segment.bytes).sum()),
            producers: sum(&|partition| partition.producers.len() as u64),
            unavailable: self.logs().iter().filter(|log| !log.missing().is_empty()).count() as u64,
            journal: self.journal.allocated_bytes(),
        };
        let before = std::mem::replace(&mut *self.counted.lock(), counted);
        let now = self.counted.lock();
        let log = &self.metrics.log;
        for (gauge, now, before) in [
            (&log.partitions, now.partitions, before.partitions),
            (&log.segments, now.segments, before.segments),
            (&log.local_bytes, now.bytes, before.bytes),
            (&log.producer_ids, now.producers, before.producers),
            (&log.unavailable_partitions, now.unavailable, before.unavailable),
            (&self.metrics.journal.allocated_bytes, now.journal, before.journal),
        ] {
            gauge.inc_by(now.cast_signed() - before.cast_signed());
        }
    }
}
