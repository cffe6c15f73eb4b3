//! A small controller: who leads, who is in sync and who is eligible, by the rules of KIP-966.

use std::collections::{BTreeMap, BTreeSet};

use crate::replication::leader::{Assignment, Member, Proposal};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch};

#[derive(Clone, Copy, Debug)]
pub(super) struct Registered {
    pub(super) epoch: BrokerEpoch,
    pub(super) is_active: bool,
}

/// One image.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) leader: Option<NodeId>,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) partition_epoch: PartitionEpoch,
    pub(super) in_sync: BTreeSet<NodeId>,
    pub(super) eligible: BTreeSet<NodeId>,
    pub(super) brokers: BTreeMap<NodeId, Registered>,
}

impl State {
    pub(super) fn assignment(&self, min_in_sync: usize) -> Assignment {
        let member = |(node_id, broker): (&NodeId, &Registered)| Member {
            node_id: *node_id,
            broker_epoch: broker.epoch,
            is_in_sync: self.in_sync.contains(node_id),
            is_available: broker.is_active,
        };
        let members = self.brokers.iter().map(member).collect();
        Assignment { partition_epoch: self.partition_epoch, members, min_in_sync }
    }

    /// Who must have everything that is committed.
    pub(super) fn trusted(&self) -> BTreeSet<NodeId> {
        self.in_sync.union(&self.eligible).copied().collect()
    }

    fn is_active(&self, node_id: NodeId) -> bool {
        self.brokers[&node_id].is_active
    }

    fn first_active(&self, of: &BTreeSet<NodeId>) -> Option<NodeId> {
        of.iter().copied().find(|node_id| self.is_active(*node_id))
    }

    /// Takes a set for the in-sync set, and whoever left it for eligible if it is small now.
    fn set_in_sync(&mut self, in_sync: BTreeSet<NodeId>, min_in_sync: usize) {
        if in_sync.len() >= min_in_sync {
            self.eligible.clear();
        } else {
            self.eligible.extend(self.in_sync.difference(&in_sync));
            self.eligible.retain(|node_id| !in_sync.contains(node_id));
        }
        self.in_sync = in_sync;
    }

    /// Takes who is not active out of the in-sync set, and elects.
    fn elect(&mut self, rules: Rules) {
        let before = (self.leader, self.in_sync.clone(), self.eligible.clone());
        let active: BTreeSet<_> = self.in_sync.iter().copied().filter(|node_id| self.is_active(*node_id)).collect();
        if active != self.in_sync {
            self.set_in_sync(active, rules.min_in_sync);
        }
        if !self.leader.is_some_and(|leader| self.in_sync.contains(&leader)) {
            let replicas = self.brokers.keys().copied().collect();
            self.leader = self.first_active(&self.in_sync).or_else(|| self.first_active(&self.eligible));
            if self.leader.is_none() && rules.is_unclean {
                self.leader = self.first_active(&replicas);
            }
            if let Some(leader) = self.leader.filter(|leader| !self.in_sync.contains(leader)) {
                let is_clean = self.eligible.remove(&leader);
                self.in_sync = BTreeSet::from([leader]);
                if !is_clean || rules.min_in_sync <= 1 {
                    self.eligible.clear();
                }
            }
        }
        if before.0 != self.leader {
            self.leader_epoch = self.leader_epoch.next();
        }
        if before != (self.leader, self.in_sync.clone(), self.eligible.clone()) {
            self.partition_epoch.0 += 1;
        }
    }
}

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) nodes: i32,
    pub(super) min_in_sync: usize,
    pub(super) is_unclean: bool,
}

/// See the module.
pub(super) struct Controller {
    pub(super) rules: Rules,
    /// All images there have been.
    pub(super) states: Vec<State>,
    next_broker_epoch: i64,
}

impl Controller {
    /// All brokers are active and in sync, and the first leads.
    pub(super) fn new(rules: Rules) -> Self {
        let nodes: BTreeSet<_> = (1..=rules.nodes).map(NodeId).collect();
        let registered =
            |node_id: &NodeId| (*node_id, Registered { epoch: BrokerEpoch(i64::from(node_id.0)), is_active: true });
        let state = State {
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            brokers: nodes.iter().map(registered).collect(),
            in_sync: nodes,
            eligible: BTreeSet::new(),
        };
        Self { rules, states: vec![state], next_broker_epoch: 100 }
    }

    pub(super) fn state(&self) -> &State {
        self.states.last().expect("there is one from the beginning")
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.state().clone();
        change(&mut state);
        state.elect(self.rules);
        self.states.push(state);
    }

    pub(super) fn set_active(&mut self, node_id: NodeId, is_active: bool) {
        self.change(|state| state.brokers.get_mut(&node_id).expect("registered").is_active = is_active);
    }

    /// A process begins; it is fenced until it has the image.
    pub(super) fn register(&mut self, node_id: NodeId) -> BrokerEpoch {
        self.next_broker_epoch += 1;
        let epoch = BrokerEpoch(self.next_broker_epoch);
        self.change(|state| {
            state.brokers.insert(node_id, Registered { epoch, is_active: false });
        });
        epoch
    }

    /// A broker is gone, and its disk with it.
    pub(super) fn lose(&mut self, node_id: NodeId) {
        self.set_active(node_id, false);
        self.change(|state| {
            state.eligible.remove(&node_id);
            state.partition_epoch.0 += 1;
        });
    }

    /// AlterPartition; whether it was accepted.
    pub(super) fn alter(&mut self, node_id: NodeId, leader_epoch: LeaderEpoch, proposal: &Proposal) -> bool {
        let state = self.state();
        let is_leader = state.leader == Some(node_id) && state.leader_epoch == leader_epoch;
        let is_known = |(node_id, epoch): &(NodeId, BrokerEpoch)| {
            state.brokers.get(node_id).is_some_and(|broker| broker.epoch == *epoch && broker.is_active)
        };
        let in_sync: BTreeSet<_> = proposal.in_sync.iter().map(|(node_id, _)| *node_id).collect();
        if !is_leader || state.partition_epoch != proposal.partition_epoch || !in_sync.contains(&node_id) {
            return false;
        }
        if !proposal.in_sync.iter().all(is_known) {
            return false;
        }
        let min_in_sync = self.rules.min_in_sync;
        self.change(|state| {
            state.set_in_sync(in_sync, min_in_sync);
            state.partition_epoch.0 += 1;
        });
        true
    }
}
