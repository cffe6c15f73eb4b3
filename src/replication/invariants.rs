//! What always holds of the replicas of a partition, whatever happens to them; the simulation checks it.
//!
//! - R1: what two replicas know to be committed is the same.
//! - R2: whoever may be elected has everything that is committed on its disk.
//! - R3: a high watermark never retreats in an epoch, and never passes what is durable.
//! - R4: an epoch has one leader.
//! - R5: what was committed, and so could be read, never changes.
//! - R6: two logs with records of one epoch are the same up to the last such record that both have, and a log's epochs are those of
//!   its records.
//! - R7: once nothing fails any more, all replicas have everything and are in sync.

use std::collections::BTreeMap;

use super::simulation::log::{ModelLog, Record, index};
use crate::types::{LeaderEpoch, NodeId, Offset};

pub(super) type Check = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

pub(super) use ensure;

/// What is known to have happened.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) committed: Vec<Record>,
    leaders: BTreeMap<LeaderEpoch, NodeId>,
    high_watermarks: BTreeMap<LeaderEpoch, i64>,
    /// Unclean elections lose what was committed; then only R3, R4, R6 and R7 are checked.
    pub(super) is_unclean: bool,
}

impl Ledger {
    /// Of a world in which nothing was committed yet.
    pub(super) fn new(is_unclean: bool) -> Self {
        Self { is_unclean, ..Self::default() }
    }

    pub(super) fn committed_end(&self) -> i64 {
        i64::try_from(self.committed.len()).expect("short")
    }

    /// R4.
    pub(super) fn leads(&mut self, node_id: NodeId, epoch: LeaderEpoch) -> Check {
        let first = *self.leaders.entry(epoch).or_insert(node_id);
        ensure!(first == node_id, "R4: epoch {epoch} is led by nodes {first} and {node_id}");
        Ok(())
    }

    /// R3 and R5 of a leader that commits.
    pub(super) fn commits(&mut self, epoch: LeaderEpoch, high_watermark: i64, log: &ModelLog) -> Check {
        let before = self.high_watermarks.insert(epoch, high_watermark).unwrap_or(0);
        ensure!(
            high_watermark >= before,
            "R3: the high watermark of epoch {epoch} went from {before} to {high_watermark}"
        );
        ensure!(high_watermark <= log.durable, "R3: {high_watermark} is committed, {} durable", log.durable);
        if self.is_unclean {
            return Ok(());
        }
        for offset in self.committed_end()..high_watermark {
            let record = log.get(offset).ok_or_else(|| format!("R5: a leader commits {offset} and lacks it"))?;
            self.committed.push(record);
        }
        self.check_committed(log, high_watermark)
    }

    fn check_committed(&self, log: &ModelLog, end: i64) -> Check {
        for offset in log.start..end {
            let (committed, found) = (self.committed.get(index(offset)).copied(), log.get(offset));
            ensure!(committed.is_some(), "R1: {offset} counts as committed and is not");
            ensure!(committed == found, "R1, R5: {committed:?} was committed at {offset}, and there is {found:?}");
        }
        Ok(())
    }

    /// R2 of a replica that may be elected.
    pub(super) fn check_trusted(&self, node_id: NodeId, log: &ModelLog) -> Check {
        let end = self.committed_end();
        ensure!(
            self.is_unclean || log.durable >= end,
            "R2: {end} records are committed, and node {node_id}, which may be elected, has {}",
            log.durable
        );
        Ok(())
    }

    /// R2 of a replica that may be elected, record by record.
    pub(super) fn check_trusted_records(&self, node_id: NodeId, log: &ModelLog) -> Check {
        self.check_trusted(node_id, log)?;
        if self.is_unclean {
            return Ok(());
        }
        self.check_committed(log, self.committed_end()).map_err(|error| format!("R2: node {node_id}: {error}"))
    }

    /// R1, R3, R5 and R6 of one replica.
    pub(super) fn check_log(&self, node_id: NodeId, log: &ModelLog) -> Check {
        let (high_watermark, durable, end) = (log.high_watermark, log.durable, log.end());
        ensure!(
            log.start <= high_watermark && high_watermark <= durable && durable <= end,
            "R3: node {node_id}: high watermark {high_watermark}, durable {durable}, end {end}"
        );
        if self.is_unclean {
            return Ok(());
        }
        self.check_committed(log, high_watermark).map_err(|error| format!("node {node_id}: {error}"))?;
        let known_from = log.epochs.known_from(Offset(log.start)).0;
        for offset in known_from..end {
            let record = log.get(offset).or_else(|| self.committed.get(index(offset)).copied());
            let (is, says) = (record.map(|record| record.epoch), log.epochs.epoch_at(Offset(offset)));
            ensure!(is == says, "R6: node {node_id}: epoch of {offset} is {is:?}, and its history says {says:?}");
        }
        Ok(())
    }

    /// R7.
    pub(super) fn check_converged(&self, logs: &[&ModelLog]) -> Check {
        let ends: Vec<_> = logs.iter().map(|log| (log.end(), log.durable, log.high_watermark)).collect();
        let (end, _, _) = ends[0];
        ensure!(ends.iter().all(|found| *found == (end, end, end)), "R7: ends, durable and committed are {ends:?}");
        ensure!(self.is_unclean || self.committed_end() == end, "R7: {} of {end} are committed", self.committed_end());
        for log in logs {
            let start = log.start.max(logs[0].start);
            let same = (start..end).all(|offset| log.get(offset) == logs[0].get(offset));
            ensure!(same, "R7: logs that end at {end} differ");
        }
        Ok(())
    }
}

/// R6 of two replicas.
pub(super) fn check_pair(one: &ModelLog, other: &ModelLog) -> Check {
    let both = one.start.max(other.start)..one.end().min(other.end());
    let pairs = both.rev().map(|offset| (offset, one.get(offset), other.get(offset)));
    let epoch = |record: Option<Record>| record.map(|record| record.epoch);
    for (offset, left, right) in pairs.skip_while(|(_, left, right)| epoch(*left) != epoch(*right)) {
        ensure!(left == right, "R6: logs with the same epoch later on differ at {offset}: {left:?} and {right:?}");
    }
    Ok(())
}
