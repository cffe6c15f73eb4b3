//! The ending: everything works again, and so do all brokers (R7). What was sent is settled, replicas are compared and everything is
//! read back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::invariants::check_replicas;
use super::ledger::PRODUCERS;
use super::world::{PATIENCE, REPLICAS, World};
use super::{Check, Part};
use crate::log::{PartitionLog, ReadPlan};
use crate::record::{Batch, Batches};
use crate::types::{NodeId, Offset};

impl World {
    /// See the module.
    pub(super) fn end(&mut self) -> Check {
        self.calm();
        self.until_so("the cluster does not come back", Self::is_whole)?;
        self.settle_producers()?;
        self.until_so("replicas do not end at the same offset", |world| world.is_whole() && world.is_even())?;
        let parts: Vec<_> = self.parts.values().cloned().collect();
        for part in parts {
            self.compare(&part).map_err(|error| format!("{}: {error}", part.name()))?;
            let all = self.read_all(&part)?;
            let mut ledger = part.ledger.lock();
            let judged = ledger.writes.check(&all).and_then(|()| ledger.reads.check(&all));
            judged.map_err(|error| format!("{}: {error}", part.name()))?;
        }
        Ok(())
    }

    /// Lets things happen until something holds. Brokers that are down are started.
    fn until_so(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Check {
        for look in 0..PATIENCE {
            for at in 0..self.members.len() {
                if self.members[at].is_down() {
                    self.start(at);
                }
            }
            if look.is_multiple_of(16) && is_so(self) {
                return Ok(());
            }
            self.turn()?;
        }
        Err(format!("{what}: {}", self.describe()))
    }

    /// Every producer has one more batch acknowledged: the one that it does not know about, if there is one.
    fn settle_producers(&mut self) -> Check {
        let counts = |part: &Part| part.ledger.lock().producers.each_ref().map(|producer| producer.acknowledged);
        let parts: Vec<_> = self.parts.values().map(|part| (Arc::clone(part), counts(part))).collect();
        for _ in 0..PATIENCE {
            let mut is_settled = true;
            for (part, before) in &parts {
                let now = counts(part);
                for number in (0..PRODUCERS).filter(|&number| now[number] == before[number]) {
                    is_settled = false;
                    self.produce(part, number);
                }
            }
            if is_settled {
                return Ok(());
            }
            self.turn()?;
        }
        Err(format!("records are not acknowledged in a cluster that is whole: {}", self.describe()))
    }

    /// The logs of a partition, by broker.
    fn logs(&self, part: &Part) -> Vec<(NodeId, Arc<PartitionLog>)> {
        let brokers = self.members.iter().filter_map(|member| member.broker());
        let logs = brokers.filter_map(|broker| {
            let image = broker.image();
            // One that was moved away may still be there.
            image.partition(part.id)?.replica_on(broker.node_id())?;
            let found = broker.partitions().into_iter().find(|it| it.log().partition() == part.id)?;
            Some((broker.node_id(), Arc::clone(found.log())))
        });
        logs.collect()
    }

    /// Whether all replicas have all, and know that it is committed.
    fn is_even(&self) -> bool {
        self.parts.values().all(|part| {
            let logs = self.logs(part);
            let ends: BTreeSet<Offset> = logs
                .iter()
                .flat_map(|(_, log)| {
                    let offsets = log.offsets();
                    [offsets.high_watermark, offsets.log_end]
                })
                .collect();
            logs.len() == REPLICAS && ends.len() == 1
        })
    }

    fn compare(&self, part: &Part) -> Check {
        let mut read = Vec::new();
        for (node_id, log) in self.logs(part) {
            read.push((node_id, local(&log)?));
        }
        check_replicas(&read)
    }

    /// What is there, for who looks for the reason.
    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for member in &self.members {
            let Some(broker) = member.broker() else {
                lines.push(format!("broker {} is not up", member.number));
                continue;
            };
            let image = broker.image();
            let brokers: Vec<_> = image.brokers().map(|it| (it.node_id.get(), it.epoch.get(), it.state)).collect();
            let (number, leads) = (member.number, broker.metadata.leads());
            lines.push(format!("broker {number} at {}, leads the quorum: {leads}, {brokers:?}", image.version()));
            for part in self.parts.values() {
                lines.push(format!("  {}: {:?}", part.name(), image.partition(part.id)));
            }
        }
        for part in self.parts.values() {
            for (node_id, log) in self.logs(part) {
                lines.push(format!("{} at {node_id}: {:?}", part.name(), log.offsets()));
            }
        }
        lines.join("\n")
    }
}

/// What a log has on its own disk and in memory, up to the high watermark.
fn local(log: &PartitionLog) -> Result<Vec<Batch>, String> {
    let offsets = log.offsets();
    let (mut at, end, mut all) = (offsets.local_log_start, offsets.high_watermark, Vec::new());
    while at < end {
        let read = log.read(at, end, 1 << 20).and_then(ReadPlan::execute);
        let read = read.map_err(|error| format!("the local log can't be read at {at}: {error}"))?;
        let batches: Result<Vec<Batch>, _> = read.into_iter().flat_map(Batches::new).collect();
        let batches = batches.map_err(|error| format!("the local log is damaged at {at}: {error}"))?;
        let next = batches.last().map(|last| last.header().next_offset());
        at = next.filter(|next| *next > at).ok_or_else(|| format!("the local log has nothing at {at}"))?;
        all.extend(batches);
    }
    Ok(all)
}
