//! A partition has one leader for an epoch, and whoever begins to lead has all that was acknowledged by then.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::types::{LeaderEpoch, NodeId, Offset, TopicPartition};

/// Who has led.
#[derive(Debug, Default)]
pub(in super::super) struct Leaders {
    led: BTreeMap<(TopicPartition, LeaderEpoch), NodeId>,
}

impl Leaders {
    /// A broker leads in an epoch, with a log that ends somewhere; what is below `acknowledged` was acknowledged.
    pub(in super::super) fn observe(
        &mut self,
        (partition, epoch): (TopicPartition, LeaderEpoch),
        leader: NodeId,
        log_end: Offset,
        acknowledged: Offset,
    ) -> Check {
        if let Some(known) = self.led.get(&(partition, epoch)) {
            ensure!(*known == leader, "brokers {known} and {leader} both lead {partition} in epoch {epoch}");
            return Ok(());
        }
        // Of an earlier epoch than is known more may have been acknowledged since.
        let newest = self.led.range(..=(partition, LeaderEpoch(i32::MAX))).next_back();
        let is_newest = newest.is_none_or(|((id, newest), _)| *id != partition || *newest < epoch);
        ensure!(
            !is_newest || log_end >= acknowledged,
            "broker {leader} leads {partition} in epoch {epoch} with a log that ends at {log_end}, and what is below {acknowledged} was acknowledged"
        );
        self.led.insert((partition, epoch), leader);
        Ok(())
    }

    /// Who has led in which epochs, for the trace.
    pub(in super::super) const fn known(&self) -> &BTreeMap<(TopicPartition, LeaderEpoch), NodeId> {
        &self.led
    }
}
