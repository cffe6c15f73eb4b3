//! Who leads a partition, and who may: the rules of KIP-966 and KIP-631. Pure; called while commands are applied.
//!
//! A replica is *available* while its broker is active and its data directory online. A record counts as acknowledged only when all
//! in-sync replicas have it and there are at least `min.insync.replicas` of them. So who leaves the in-sync replicas while fewer
//! than those are left has all that is acknowledged, now and as long as that lasts: it is *eligible*. Elected is the first available
//! replica that is in sync, or else the first eligible one, which then is the only one in sync. So a leader never lacks an acknowledged
//! record, unless an operator allows it (unclean election).
//!
//! What holds after every command that settles a partition: the leader is in sync; in-sync replicas are available, but for a
//! leader that shuts down and has no successor; none is eligible while enough are in sync.
//!
//! Nodes of different versions apply the same commands: these rules may only change behind a feature level.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::metadata::error::Rejection;
use crate::metadata::image::{Broker, BrokerState, Image, Partition, Replica, ReplicaState};
use crate::types::{LeaderEpoch, NodeId, PartitionEpoch};

/// Replicas that must have a record before it counts as acknowledged.
pub(in crate::metadata) const MIN_IN_SYNC: &str = "min.insync.replicas";
/// Whether any replica may lead where all that have the acknowledged records are gone.
pub(in crate::metadata) const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";
/// Whether records are acknowledged that a crash of the machine can take away.
pub(in crate::metadata) const WRITE_CACHING: &str = "write.caching";

/// What decides about the partitions of one topic.
pub(in crate::metadata) struct Rules<'a> {
    brokers: &'a OrdMap<NodeId, Arc<Broker>>,
    min_in_sync: usize,
    allows_unclean: bool,
}

impl<'a> Rules<'a> {
    /// The rules of a topic with these overrides. Only what the image says counts, so that all nodes decide alike; what a
    /// broker was started with can only ask for more replicas in sync.
    pub(in crate::metadata) fn of(image: &'a Image, configs: &BTreeMap<String, String>) -> Self {
        let defaults = image.broker_configs(None).map(|defaults| &defaults.values);
        let value = |name: &str| configs.get(name).or_else(|| defaults?.get(name)).map(String::as_str);
        let min_in_sync = value(MIN_IN_SYNC).and_then(|value| value.parse::<usize>().ok()).unwrap_or(1).max(1);
        Self { brokers: &image.brokers, min_in_sync, allows_unclean: value(UNCLEAN_ELECTION) == Some("true") }
    }

    fn is_in_state(&self, replica: &Replica, states: &[BrokerState]) -> bool {
        let broker = self.brokers.get(&replica.node_id);
        broker.is_some_and(|it| states.contains(&it.state) && it.directories.contains(&replica.directory))
    }

    /// Whether a replica may become the leader, as far as its broker and directory go.
    pub(in crate::metadata) fn is_available(&self, replica: &Replica) -> bool {
        self.is_in_state(replica, &[BrokerState::Active])
    }

    /// Takes out of sync what is not available, and elects a leader where there is none any more.
    pub(in crate::metadata) fn settle(&self, partition: &mut Partition) {
        self.retire(partition);
        self.elect(partition, self.allows_unclean);
    }

    /// The same, where an operator wants a leader at any price.
    pub(in crate::metadata) fn settle_uncleanly(&self, partition: &mut Partition) {
        self.retire(partition);
        self.elect(partition, true);
    }

    /// Has the preferred replica lead, if it can without loss.
    pub(in crate::metadata) fn prefer(&self, partition: &mut Partition) {
        if let Some(leader) = self.preferred(partition) {
            partition.leader = Some(leader);
        }
    }

    /// The preferred replica, where it is to lead, could, and does not.
    pub(in crate::metadata) fn preferred(&self, partition: &Partition) -> Option<NodeId> {
        let first = partition.replicas.first()?;
        let can_lead = first.state == ReplicaState::InSync && self.is_available(first);
        (can_lead && partition.leader.is_some_and(|leader| leader != first.node_id)).then_some(first.node_id)
    }

    /// Takes out of sync what is not available.
    fn retire(&self, partition: &mut Partition) {
        let is_in_sync = |replica: &Replica| replica.state == ReplicaState::InSync;
        let has_successor = partition.replicas.iter().any(|replica| is_in_sync(replica) && self.is_available(replica));
        let stays = |replica: &Replica| {
            let is_last = !has_successor && partition.leader == Some(replica.node_id);
            self.is_available(replica) || (is_last && self.is_in_state(replica, &[BrokerState::ShuttingDown]))
        };
        let leaves: Vec<bool> =
            partition.replicas.iter().map(|replica| is_in_sync(replica) && !stays(replica)).collect();
        if leaves.contains(&true) {
            for (replica, leaves) in Arc::make_mut(&mut partition.replicas).iter_mut().zip(leaves) {
                if leaves {
                    replica.state = ReplicaState::Eligible;
                }
            }
        }
        let leads = |leader: &NodeId| partition.replica_on(*leader).is_some_and(is_in_sync);
        partition.leader = partition.leader.filter(leads);
        self.forget_eligible(partition);
    }

    /// While enough replicas are in sync, records may be acknowledged that no other one has.
    fn forget_eligible(&self, partition: &mut Partition) {
        if partition.in_sync_nodes().count() >= self.min_in_sync && partition.eligible_nodes().next().is_some() {
            for replica in Arc::make_mut(&mut partition.replicas) {
                if replica.state == ReplicaState::Eligible {
                    replica.state = ReplicaState::Behind;
                }
            }
        }
    }

    /// Elects a leader where there is none.
    fn elect(&self, partition: &mut Partition, allows_unclean: bool) {
        if partition.leader.is_some() {
            return;
        }
        let first_in = |state: ReplicaState| {
            let mut replicas = partition.replicas.iter();
            replicas.find(|replica| replica.state == state && self.is_available(replica)).map(|replica| replica.node_id)
        };
        let whole = first_in(ReplicaState::InSync).or_else(|| first_in(ReplicaState::Eligible));
        let other = first_in(ReplicaState::Behind).filter(|_| whole.is_none() && allows_unclean);
        if other.is_some() {
            // What the others have beyond its records is given up.
            for replica in Arc::make_mut(&mut partition.replicas) {
                replica.state = ReplicaState::Behind;
            }
        }
        let elected = whole.or(other);
        partition.leader = elected;
        if let Some(elected) = elected {
            let replicas = Arc::make_mut(&mut partition.replicas);
            let leader = replicas.iter_mut().find(|replica| replica.node_id == elected);
            leader.expect("a replica was elected").state = ReplicaState::InSync;
            self.forget_eligible(partition);
        }
    }
}

/// Takes away a broker's standing in a partition, since its copy may lack what was acknowledged; unless no other has any.
pub(in crate::metadata) fn forsake(partition: &mut Partition, node_id: NodeId) {
    let has_standing = |replica: &Replica| replica.state != ReplicaState::Behind;
    if !partition.replicas.iter().any(|replica| replica.node_id != node_id && has_standing(replica)) {
        return;
    }
    if partition.replica_on(node_id).is_some_and(has_standing) {
        for replica in Arc::make_mut(&mut partition.replicas).iter_mut().filter(|replica| replica.node_id == node_id) {
            replica.state = ReplicaState::Behind;
        }
    }
    partition.leader = partition.leader.filter(|leader| *leader != node_id);
}

/// A changed partition with the epochs that it has by then; none if nothing changed.
pub(in crate::metadata) fn with_epochs(before: &Partition, after: Partition) -> Result<Option<Partition>, Rejection> {
    if after == *before { Ok(None) } else { renumbered(before, after).map(Some) }
}

/// A partition with the epochs that follow those it had.
pub(in crate::metadata) fn renumbered(before: &Partition, mut after: Partition) -> Result<Partition, Rejection> {
    if after.leader != before.leader {
        let next = after.leader_epoch.get().checked_add(1).map(LeaderEpoch);
        after.leader_epoch = next.ok_or_else(|| Rejection::Exhausted { what: "leader epochs".to_owned() })?;
    }
    let next = before.partition_epoch.get().checked_add(1).map(PartitionEpoch);
    after.partition_epoch = next.ok_or_else(|| Rejection::Exhausted { what: "partition epochs".to_owned() })?;
    Ok(after)
}

#[cfg(test)]
mod tests;
