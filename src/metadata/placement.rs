//! Where the replicas of new partitions go. Pure: the sender of a command places, the command carries the result.

use std::collections::BTreeMap;

use super::command::{Assignment, ReplicaPlace};
use super::error::Rejection;
use super::image::{Broker, Image};
use super::machine::MAX_TOPIC_PARTITIONS;

/// Places new partitions: leaders in turn over all active brokers, followers on the next ones, racks taking turns, and on each
/// broker its data directories in turn. The turn begins where the number of partitions in the cluster left off, so that
/// many small topics spread as one large topic does.
///
/// # Errors
/// [`Rejection::InvalidPartitions`] and [`Rejection::InvalidReplicationFactor`] for counts that are not positive, and
/// for more replicas than there are brokers; [`Rejection::LimitExceeded`] beyond [`MAX_TOPIC_PARTITIONS`].
pub fn place(image: &Image, partitions: i32, replication_factor: i16) -> Result<Assignment, Rejection> {
    let brokers = racks_in_turn(image);
    let replicas = usize::try_from(replication_factor).unwrap_or(0);
    if replicas == 0 {
        return Err(Rejection::InvalidReplicationFactor { replication_factor, brokers: brokers.len() });
    }
    let Some(count) = usize::try_from(partitions).ok().filter(|count| *count > 0) else {
        let reason = "it must be positive".to_owned();
        return Err(Rejection::InvalidPartitions { reason, partitions: partitions.into() });
    };
    if count > MAX_TOPIC_PARTITIONS {
        let limit = "partitions of a topic".to_owned();
        return Err(Rejection::LimitExceeded { limit, maximum: MAX_TOPIC_PARTITIONS as u64, requested: count as u64 });
    }
    if replicas > brokers.len() {
        return Err(Rejection::InvalidReplicationFactor { replication_factor, brokers: brokers.len() });
    }
    let start = usize::try_from(image.partition_count()).expect("MAX_CLUSTER_PARTITIONS fits");
    let replica_of = |turn: usize| {
        let broker = brokers[turn % brokers.len()];
        let directory = broker.directories[(turn / brokers.len()) % broker.directories.len()];
        ReplicaPlace { node_id: broker.node_id, directory }
    };
    Ok((start..start + count).map(|turn| (turn..turn + replicas).map(replica_of).collect()).collect())
}

/// The brokers that can hold replicas, so ordered that neighbours are in different racks as long as racks last. While none is
/// active, as when the first one starts, all can.
pub(super) fn racks_in_turn(image: &Image) -> Vec<&Broker> {
    let mut racks: BTreeMap<Option<&str>, Vec<&Broker>> = BTreeMap::new();
    let none_is_active = !image.brokers().any(|broker| broker.state.is_active());
    for broker in image.brokers().filter(|broker| none_is_active || broker.state.is_active()) {
        racks.entry(broker.rack.as_deref()).or_default().push(broker);
    }
    let deepest = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..deepest).flat_map(|depth| racks.values().filter_map(move |rack| rack.get(depth).copied())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metadata::{Command, machine, testing};
    use crate::types::NodeId;

    #[test]
    fn leaders_take_turns_and_replicas_spread_over_racks() {
        let image = testing::image_with_brokers(&[(1, "a"), (2, "a"), (3, "b"), (4, "b")]);
        let assignment = place(&image, 8, 2).unwrap();
        for node in 1..=4 {
            assert_eq!(assignment.iter().filter(|places| places[0].node_id == NodeId(node)).count(), 2);
        }
        for places in &assignment {
            let racks: BTreeSet<_> =
                places.iter().map(|place| image.broker(place.node_id).unwrap().rack.clone()).collect();
            assert_eq!(racks.len(), 2);
        }
    }

    #[test]
    fn brokers_that_are_not_active_get_nothing_unless_none_is() {
        let mut image = testing::image_with_brokers(&[(1, "a"), (2, "a")]);
        let mut fence = |node| {
            let broker_epoch = image.broker(NodeId(node)).unwrap().epoch;
            machine::apply(&mut image, &Command::FenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
            place(&image, 2, 1).map(|places| Vec::from_iter(places.iter().map(|one| one[0].node_id.get())))
        };
        assert_eq!(fence(1).unwrap(), [2, 2]);
        assert_eq!(fence(2).unwrap(), [1, 2]);
    }

    #[test]
    fn impossible_counts_are_refused() {
        let image = testing::image_with_brokers(&[(1, "a")]);
        assert!(matches!(place(&image, 1, 2), Err(Rejection::InvalidReplicationFactor { brokers: 1, .. })));
        assert!(matches!(place(&image, 1, -1), Err(Rejection::InvalidReplicationFactor { .. })));
        assert!(matches!(place(&image, 0, 1), Err(Rejection::InvalidPartitions { .. })));
        assert!(matches!(place(&image, i32::MAX, 1), Err(Rejection::LimitExceeded { .. })));
    }
}
