//! Replicas that move from broker to broker (KIP-455). Pure; called while commands are applied.
//!
//! While they move, a partition has its old replicas and its new ones, those that are to stay first and in the order that is asked
//! for. It ends in the command that has all of those in sync; then the others go.

use std::sync::Arc;

use crate::metadata::command::ReplicaPlace;
use crate::metadata::image::{Moving, Partition, Replica, ReplicaState};
use crate::types::NodeId;

const LAST_COPIES: &str = "only replicas that would go have all acknowledged records; wait until others are in sync";

/// A partition whose replicas begin to move to `target`, which is checked. What was under way before is given up.
pub(in crate::metadata) fn begun(before: &Partition, target: &[ReplicaPlace]) -> Result<Partition, &'static str> {
    let was_added = |node_id: NodeId| before.moving.as_ref().is_some_and(|moving| moving.adding.contains(&node_id));
    let is_target = |node_id: NodeId| target.iter().any(|place| place.node_id == node_id);
    let replica = |place: &ReplicaPlace| {
        let fresh = Replica { node_id: place.node_id, directory: place.directory, state: ReplicaState::Behind };
        before.replica_on(place.node_id).copied().unwrap_or(fresh)
    };
    let leaving = before.replicas.iter().filter(|replica| !is_target(replica.node_id) && !was_added(replica.node_id));
    let leaving: Vec<Replica> = leaving.copied().collect();
    let is_new = |node_id: &NodeId| was_added(*node_id) || before.replica_on(*node_id).is_none();
    let adding: Vec<NodeId> = target.iter().map(|place| place.node_id).filter(is_new).collect();
    let removing: Vec<NodeId> = leaving.iter().map(|replica| replica.node_id).collect();
    let is_settled = adding.is_empty() && removing.is_empty();
    with_replicas(before, target.iter().map(replica).chain(leaving).collect())
        .map(|after| Partition { moving: (!is_settled).then(|| Box::new(Moving { adding, removing })), ..after })
}

/// A partition that keeps the replicas that it had before they began to move.
pub(in crate::metadata) fn cancelled(before: &Partition, moving: &Moving) -> Result<Partition, &'static str> {
    let stays = before.replicas.iter().filter(|replica| !moving.adding.contains(&replica.node_id));
    with_replicas(before, stays.copied().collect()).map(|after| Partition { moving: None, ..after })
}

/// Ends a reassignment, if all replicas that are to stay are in sync.
pub(in crate::metadata) fn complete(partition: &mut Partition) {
    let Some(moving) = &partition.moving else { return };
    let stays = |replica: &&Replica| !moving.removing.contains(&replica.node_id);
    let target: Arc<[Replica]> = partition.replicas.iter().filter(stays).copied().collect();
    if target.iter().all(|replica| replica.state == ReplicaState::InSync) {
        partition.leader = partition.leader.filter(|leader| target.iter().any(|replica| replica.node_id == *leader));
        (partition.replicas, partition.moving) = (target, None);
    }
}

/// The partition with other replicas, if they don't leave behind all copies that are whole.
fn with_replicas(before: &Partition, replicas: Arc<[Replica]>) -> Result<Partition, &'static str> {
    let is_whole = |replica: &Replica| replica.state != ReplicaState::Behind;
    if before.replicas.iter().any(is_whole) && !replicas.iter().any(is_whole) {
        return Err(LAST_COPIES);
    }
    let leader = before.leader.filter(|leader| replicas.iter().any(|replica| replica.node_id == *leader));
    Ok(Partition { replicas, leader, ..before.clone() })
}
