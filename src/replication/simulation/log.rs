//! The log of one replica, as a list of records.

use crate::log::EpochCache;
use crate::replication::divergence::History;
use crate::replication::follower::Local;
use crate::types::{LeaderEpoch, Offset};

/// A record. No two that were appended have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replication) struct Record {
    pub(in crate::replication) epoch: LeaderEpoch,
    pub(in crate::replication) value: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(in crate::replication) struct ModelLog {
    /// First local offset; what is below is archived.
    pub(in crate::replication) start: i64,
    pub(in crate::replication) records: Vec<Record>,
    pub(in crate::replication) durable: i64,
    pub(in crate::replication) high_watermark: i64,
    pub(in crate::replication) epochs: EpochCache,
}

/// A distance as an index.
pub(in crate::replication) fn index(distance: i64) -> usize {
    usize::try_from(distance).expect("offsets are counted upwards")
}

impl ModelLog {
    pub(in crate::replication) fn end(&self) -> i64 {
        self.start + i64::try_from(self.records.len()).expect("short")
    }

    /// A local record.
    pub(in crate::replication) fn get(&self, offset: i64) -> Option<Record> {
        self.records.get(usize::try_from(offset - self.start).ok()?).copied()
    }

    pub(super) fn append(&mut self, record: Record) {
        self.epochs.assign(record.epoch, Offset(self.end()));
        self.records.push(record);
    }

    /// Leads in an epoch from here on.
    pub(super) fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        self.epochs.assign(epoch, Offset(self.end()));
    }

    /// Follows from here on: an epoch in which it led and got nothing is forgotten.
    pub(super) fn follow(&mut self) {
        self.epochs.truncate_to(Offset(self.end()));
    }

    pub(super) fn truncate(&mut self, to: i64) {
        self.records.truncate(index(to - self.start));
        self.epochs.truncate_to(Offset(to));
        self.durable = self.durable.min(to);
        self.high_watermark = self.high_watermark.min(to);
    }

    /// Goes on at an offset below which all is archived.
    pub(super) fn reset(&mut self, at: i64, epochs: EpochCache) {
        *self = Self { start: at, records: Vec::new(), durable: at, high_watermark: at, epochs };
    }

    /// Local records below an offset go.
    pub(super) fn remove_below(&mut self, offset: i64) {
        self.records.drain(..index(offset - self.start));
        self.start = offset;
    }

    /// The machine loses its power.
    pub(super) fn lose_what_is_not_durable(&mut self) {
        self.truncate(self.durable);
    }

    pub(super) fn local(&self) -> Local {
        let [local_log_start, log_end] = [self.start, self.end()].map(Offset);
        let history = History { epochs: self.epochs.clone(), local_log_start, log_end };
        Local { history, durable: Offset(self.durable), high_watermark: Offset(self.high_watermark) }
    }
}
