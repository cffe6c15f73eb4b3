//! Who belongs to the quorum: members come as learners, become voters and leave, one change at a time, by joint consensus
//! (Ongaro and Ousterhout 2014, 6). Any node may be asked; the leader does it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::campaign::LEADER_PATIENCE_MS;
use super::quorum::Metadata;
use super::{Raft, RaftMetrics};
use crate::peer::rpc::{RefusalCode, RpcError, kind};
use crate::runtime::clock;
use crate::types::NodeId;

/// How long a change may take: voters that were just made have to take the log.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a status may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries that a learner may lack to be made a voter.
const LINE_RATE_ENTRIES: u64 = 1000;

/// A change of who belongs to the quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberChange {
    /// A node comes, or is reached elsewhere.
    Add {
        /// The node.
        node_id: NodeId,
        /// Where it is reached, as `host:port`.
        address: String,
    },
    /// A member votes from now on.
    AddVoter {
        /// The member.
        node_id: NodeId,
    },
    /// A voter votes no more. It stays a member.
    RemoveVoter {
        /// The voter.
        node_id: NodeId,
    },
    /// These vote, and no others.
    SetVoters {
        /// The members.
        voters: BTreeSet<NodeId>,
    },
    /// A node leaves for good.
    Remove {
        /// The node.
        node_id: NodeId,
    },
}

/// Why the quorum was not changed, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberError {
    /// Another node leads the quorum, or none does.
    #[error("the metadata quorum has no leader here leader={leader:?}; try again")]
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// Another change is under way.
    #[error("another change of the quorum is under way; try again when it is done")]
    InProgress,
    /// The node is no member.
    #[error("this node is no member of the cluster node_id={node_id}; start it with --join first")]
    UnknownMember {
        /// The node.
        node_id: NodeId,
    },
    /// The node votes already.
    #[error("this node votes already node_id={node_id}")]
    AlreadyVotes {
        /// The node.
        node_id: NodeId,
    },
    /// The node does not vote.
    #[error("this node does not vote node_id={node_id}")]
    DoesNotVote {
        /// The node.
        node_id: NodeId,
    },
    /// The quorum would have no voter.
    #[error("the last voter can't be removed node_id={node_id}")]
    LastVoter {
        /// The node.
        node_id: NodeId,
    },
    /// The node is far behind: it would hold up the quorum as a voter.
    #[error(
        "this node has not caught up with the metadata node_id={node_id} lag_entries={lag_entries:?}; try again later"
    )]
    FarBehind {
        /// The node.
        node_id: NodeId,
        /// Entries that it lacks; none where it was not reached yet.
        lag_entries: Option<u64>,
    },
    /// No outcome came in time.
    #[error("the change of the quorum did not end in time; it may take effect yet")]
    TimedOut,
    /// The quorum has stopped on this node.
    #[error("the metadata quorum failed: {reason}")]
    Failed {
        /// What it says.
        reason: String,
    },
}

/// What the leader knows of the quorum (DescribeQuorum, KIP-836).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuorumStatus {
    /// The leader.
    pub leader: NodeId,
    /// Its term.
    pub term: u64,
    /// The newest entry of its log.
    pub last_index: u64,
    /// The newest committed entry.
    pub committed_index: u64,
    /// Nodes that vote.
    pub voters: BTreeSet<NodeId>,
    /// Every member's newest entry that the leader knows to be on its stable storage; none where it was not reached yet.
    pub progress: BTreeMap<NodeId, Option<u64>>,
    /// Where the members are reached.
    pub addresses: BTreeMap<NodeId, String>,
}

/// The status, where this node leads.
pub(super) fn status(metrics: &RaftMetrics) -> Option<QuorumStatus> {
    let replication = metrics.replication.as_ref()?;
    let membership = metrics.membership_config.membership();
    let last_index = metrics.last_log_index.unwrap_or(0);
    let index_of = |node_id: &NodeId| match *node_id == metrics.id {
        true => Some(last_index),
        false => replication.get(node_id).copied().flatten().map(|log_id| log_id.index),
    };
    Some(QuorumStatus {
        leader: metrics.id,
        term: metrics.current_term,
        last_index,
        committed_index: metrics.last_applied.map_or(0, |log_id| log_id.index),
        voters: membership.voter_ids().collect(),
        progress: membership.nodes().map(|(node_id, _)| (*node_id, index_of(node_id))).collect(),
        addresses: membership.nodes().map(|(node_id, node)| (*node_id, node.addr.clone())).collect(),
    })
}

/// Makes a change where this node leads.
pub(super) async fn change(raft: &Raft, wanted: MemberChange) -> Result<(), MemberError> {
    let metrics = raft.metrics().borrow().clone();
    let Some(status) =
        status(&metrics).filter(|_| metrics.millis_since_quorum_ack.is_none_or(|ms| ms < LEADER_PATIENCE_MS))
    else {
        return Err(MemberError::NotLeader { leader: metrics.current_leader });
    };
    let Some((members, retain)) = plan(&status, wanted)? else { return Ok(()) };
    match raft.change_membership(members, retain).await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(MemberError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(match error {
            ChangeMembershipError::InProgress(_) => MemberError::InProgress,
            ChangeMembershipError::LearnerNotFound(missing) => MemberError::UnknownMember { node_id: missing.node_id },
            ChangeMembershipError::EmptyMembership(_) => MemberError::LastVoter { node_id: status.leader },
        }),
        Err(error) => Err(MemberError::Failed { reason: error.to_string() }),
    }
}

type Plan = Option<(ChangeMembers<NodeId, BasicNode>, bool)>;

/// What openraft is to be told; nothing if it is so already. The flag: voters that leave stay learners.
fn plan(status: &QuorumStatus, wanted: MemberChange) -> Result<Plan, MemberError> {
    let known = |node_id: NodeId| match status.progress.get(&node_id) {
        Some(index) => Ok(*index),
        None => Err(MemberError::UnknownMember { node_id }),
    };
    let caught_up = |node_id: NodeId| {
        let lag_entries = known(node_id)?.map(|index| status.last_index.saturating_sub(index));
        match lag_entries.is_some_and(|lag| lag <= LINE_RATE_ENTRIES) {
            true => Ok(()),
            false => Err(MemberError::FarBehind { node_id, lag_entries }),
        }
    };
    Ok(match wanted {
        MemberChange::Add { node_id, address } => match status.addresses.get(&node_id) {
            Some(before) if *before == address => None,
            Some(_) => Some((ChangeMembers::SetNodes(BTreeMap::from([(node_id, BasicNode::new(address))])), true)),
            None => Some((ChangeMembers::AddNodes(BTreeMap::from([(node_id, BasicNode::new(address))])), true)),
        },
        MemberChange::AddVoter { node_id } => {
            if status.voters.contains(&node_id) {
                return Err(MemberError::AlreadyVotes { node_id });
            }
            caught_up(node_id)?;
            Some((ChangeMembers::AddVoterIds(BTreeSet::from([node_id])), true))
        }
        MemberChange::RemoveVoter { node_id } => {
            if !status.voters.contains(&node_id) {
                return Err(MemberError::DoesNotVote { node_id });
            }
            if status.voters.len() == 1 {
                return Err(MemberError::LastVoter { node_id });
            }
            Some((ChangeMembers::RemoveVoters(BTreeSet::from([node_id])), true))
        }
        MemberChange::SetVoters { voters } => {
            if voters == status.voters {
                return Ok(None);
            }
            voters.difference(&status.voters).try_for_each(|node_id| caught_up(*node_id))?;
            Some((ChangeMembers::ReplaceAllVoters(voters), true))
        }
        MemberChange::Remove { node_id } => {
            if !status.progress.contains_key(&node_id) {
                return Ok(None);
            }
            if status.voters.contains(&node_id) {
                if status.voters.len() == 1 {
                    return Err(MemberError::LastVoter { node_id });
                }
                return Ok(Some((ChangeMembers::RemoveVoters(BTreeSet::from([node_id])), false)));
            }
            Some((ChangeMembers::RemoveNodes(BTreeSet::from([node_id])), false))
        }
    })
}

impl Metadata {
    /// Changes who belongs to the quorum, through its leader.
    ///
    /// # Errors
    /// [`MemberError`]. Only [`MemberError::TimedOut`] and [`MemberError::Failed`] leave open whether it takes effect.
    pub async fn change_members(&self, wanted: MemberChange) -> Result<(), MemberError> {
        let leader = self.raft.metrics().borrow().current_leader;
        match (leader, &self.peers) {
            (Some(leader), Some(peers)) if leader != self.node_id() => {
                let asked = peers.call(leader, kind::QUORUM_CHANGE, &wanted, Vec::new(), CHANGE_TIMEOUT).await;
                match asked {
                    Ok((outcome, _)) => outcome,
                    Err(RpcError::Refused { refusal, .. }) if refusal.code == RefusalCode::Failed => {
                        Err(MemberError::Failed { reason: refusal.reason })
                    }
                    Err(error) if error.is_without_effect() => Err(MemberError::NotLeader { leader: Some(leader) }),
                    Err(_) => Err(MemberError::TimedOut),
                }
            }
            _ => {
                let changed = clock::timeout(&*self.runtime.clock, CHANGE_TIMEOUT, change(&self.raft, wanted));
                changed.await.unwrap_or(Err(MemberError::TimedOut))
            }
        }
    }

    /// Who leads the quorum, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow().current_leader
    }

    /// What the leader knows of the quorum; none while there is none, or while it does not answer.
    pub async fn quorum_status(&self) -> Option<QuorumStatus> {
        let leader = self.raft.metrics().borrow().current_leader?;
        match &self.peers {
            Some(peers) if leader != self.node_id() => {
                let asked = peers.call(leader, kind::QUORUM_STATUS, &(), Vec::new(), STATUS_TIMEOUT).await;
                asked.ok().and_then(|(status, _)| status)
            }
            _ => status(&self.raft.metrics().borrow()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum() -> QuorumStatus {
        QuorumStatus {
            leader: NodeId(1),
            term: 3,
            last_index: 5000,
            committed_index: 4990,
            voters: [1, 2, 3].map(NodeId).into(),
            progress: [(1, Some(5000)), (2, Some(4990)), (3, Some(4980)), (4, Some(4500)), (5, Some(3000)), (6, None)]
                .map(|(node_id, index)| (NodeId(node_id), index))
                .into(),
            addresses: (1..=6).map(|node_id| (NodeId(node_id), format!("node-{node_id}:9"))).collect(),
        }
    }

    #[test]
    fn a_member_votes_only_once_it_has_nearly_all_of_the_log() {
        let status = quorum();
        let add = |node_id| plan(&status, MemberChange::AddVoter { node_id: NodeId(node_id) });
        assert!(matches!(add(4), Ok(Some((ChangeMembers::AddVoterIds(_), true)))));
        assert_eq!(add(5), Err(MemberError::FarBehind { node_id: NodeId(5), lag_entries: Some(2000) }));
        assert_eq!(add(6), Err(MemberError::FarBehind { node_id: NodeId(6), lag_entries: None }));
        assert_eq!(add(7), Err(MemberError::UnknownMember { node_id: NodeId(7) }));
        assert_eq!(add(2), Err(MemberError::AlreadyVotes { node_id: NodeId(2) }));
    }

    #[test]
    fn the_last_voter_stays_and_others_leave_as_learners() {
        let mut status = quorum();
        let remove =
            |status: &QuorumStatus, node_id| plan(status, MemberChange::RemoveVoter { node_id: NodeId(node_id) });
        assert!(matches!(remove(&status, 1), Ok(Some((ChangeMembers::RemoveVoters(_), true)))));
        assert_eq!(remove(&status, 4), Err(MemberError::DoesNotVote { node_id: NodeId(4) }));
        status.voters = [NodeId(1)].into();
        assert_eq!(remove(&status, 1), Err(MemberError::LastVoter { node_id: NodeId(1) }));
        let gone = plan(&status, MemberChange::Remove { node_id: NodeId(4) });
        assert!(matches!(gone, Ok(Some((ChangeMembers::RemoveNodes(_), false)))));
        assert_eq!(plan(&status, MemberChange::Remove { node_id: NodeId(9) }), Ok(None), "it has left");
    }

    #[test]
    fn a_member_that_moved_is_found_at_its_new_address() {
        let status = quorum();
        let add = |node_id, address: &str| {
            plan(&status, MemberChange::Add { node_id: NodeId(node_id), address: address.to_owned() }).unwrap()
        };
        assert_eq!(add(2, "node-2:9"), None);
        assert!(matches!(add(2, "elsewhere:9"), Some((ChangeMembers::SetNodes(_), true))));
        assert!(matches!(add(7, "node-7:9"), Some((ChangeMembers::AddNodes(_), true))));
    }
}
