//! How lately a majority of the voters has taken this node for its leader, by this node's own stopwatch.
//!
//! openraft tells the same in its metrics, as of whenever it looked last: by then the process may have stood still. The network notes
//! each answer here, and the controller asks before it answers a broker. Nothing is kept over a crash: a leader begins without.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::types::{Monotonic, NodeId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(Mutex<BTreeMap<NodeId, Monotonic>>);

impl Acknowledged {
    /// A node has accepted a request that this one sent as the leader.
    pub(super) fn note(&self, node_id: NodeId, sent: Monotonic) {
        let mut of_nodes = self.0.lock();
        let last = of_nodes.entry(node_id).or_default();
        *last = sent.max(*last);
    }

    /// The latest time at which a majority followed this node, of both sets of voters during a joint change; none if none ever did.
    pub(super) fn by_majority(&self, now: Monotonic, me: NodeId, voters: &[BTreeSet<NodeId>]) -> Option<Monotonic> {
        let of_nodes = self.0.lock();
        let of_set = |set: &BTreeSet<NodeId>| {
            let at = |node_id: &NodeId| if *node_id == me { Some(now) } else { of_nodes.get(node_id).copied() };
            let mut times: Vec<Option<Monotonic>> = set.iter().map(at).collect();
            times.sort_unstable();
            // With those behind it, which are as late, it is a majority.
            times[set.len().checked_sub(1)? / 2]
        };
        let of_sets: Option<Vec<Monotonic>> = voters.iter().map(of_set).collect();
        of_sets?.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic(100);

    fn set(nodes: &[i32]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn of(acknowledged: &Acknowledged, voters: &[&[i32]]) -> Option<Monotonic> {
        let voters: Vec<_> = voters.iter().map(|nodes| set(nodes)).collect();
        acknowledged.by_majority(NOW, NodeId(1), &voters)
    }

    #[test]
    fn a_majority_is_as_late_as_the_earliest_of_its_latest_members() {
        let acknowledged = Acknowledged::default();
        assert_eq!(of(&acknowledged, &[&[1]]), Some(NOW), "alone it is a majority");
        assert_eq!(of(&acknowledged, &[&[1, 2, 3]]), None);
        acknowledged.note(NodeId(2), Monotonic(40));
        assert_eq!(of(&acknowledged, &[&[1, 2, 3]]), Some(Monotonic(40)));
        assert_eq!(of(&acknowledged, &[&[1, 2]]), Some(Monotonic(40)));
        assert_eq!(of(&acknowledged, &[&[1, 2, 3, 4]]), None, "two of four are not enough");
        acknowledged.note(NodeId(3), Monotonic(60));
        assert_eq!(of(&acknowledged, &[&[1, 2, 3]]), Some(Monotonic(60)));
        assert_eq!(of(&acknowledged, &[&[1, 2, 3, 4, 5]]), Some(Monotonic(40)));
        acknowledged.note(NodeId(2), Monotonic(30));
        assert_eq!(of(&acknowledged, &[&[1, 2]]), Some(Monotonic(40)), "an answer that was late takes nothing back");
    }

    #[test]
    fn during_a_joint_change_both_sets_count_and_a_leader_that_leaves_does_not() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(NodeId(2), Monotonic(40));
        acknowledged.note(NodeId(3), Monotonic(20));
        assert_eq!(of(&acknowledged, &[&[1, 2], &[2, 3]]), Some(Monotonic(20)));
        assert_eq!(of(&acknowledged, &[&[1, 2], &[3, 4, 5]]), None);
        assert_eq!(of(&acknowledged, &[]), None);
    }
}
