//! Each rule by itself, and histories of five brokers against a model of who has which acknowledged record.

use std::collections::BTreeMap;

use super::*;
use crate::metadata::command::{
    AlterPartition, Command, ConfigChange, CreateTopic, Election, Outcome, RegisterBroker, ReplicaPlace,
};
use crate::metadata::machine;
use crate::metadata::testing::{CLUSTER, identity, register, topic_id};
use crate::types::{BrokerEpoch, DirectoryId, TopicPartition};

fn id(topic: u64) -> TopicPartition {
    TopicPartition::new(topic_id(topic), 0)
}

fn directory(number: u64) -> DirectoryId {
    DirectoryId::from_bytes(identity(number))
}

/// Each broker has two directories.
fn directories(node: i32) -> Vec<DirectoryId> {
    vec![directory(u64::from(node.unsigned_abs())), directory(100 + u64::from(node.unsigned_abs()))]
}

struct Cluster {
    image: Image,
    processes: u64,
}

impl Cluster {
    fn new(brokers: i32) -> Self {
        let mut cluster = Self { image: Image::default(), processes: 0 };
        cluster.apply(&Command::SetClusterId(CLUSTER)).unwrap();
        for node in 1..=brokers {
            cluster.start(node, false);
            cluster.unfence(node);
        }
        cluster
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        let before = self.image.clone();
        let outcome = machine::apply(&mut self.image, command);
        if outcome.is_err() {
            assert_eq!(self.image, before, "a rejected command changed the image: {command:?}");
        }
        let version = self.image.version() + 1;
        machine::advance(&mut self.image, version);
        outcome
    }

    fn start(&mut self, node: i32, may_have_lost_unsynced: bool) {
        self.processes += 1;
        let (directories, peer) = (directories(node), Some(format!("node-{node}:9095")));
        let plain = register(node, self.processes);
        let broker = RegisterBroker { directories, peer, starts_fenced: true, may_have_lost_unsynced, ..plain };
        self.apply(&Command::RegisterBroker(broker)).unwrap();
    }

    fn epoch(&self, node: i32) -> BrokerEpoch {
        self.image.broker(NodeId(node)).unwrap().epoch
    }

    fn fence(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.apply(&Command::FenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
    }

    fn unfence(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.apply(&Command::UnfenceBroker { node_id: NodeId(node), broker_epoch }).unwrap();
    }

    fn drain(&mut self, node: i32) {
        let broker_epoch = self.epoch(node);
        self.apply(&Command::DrainBroker { node_id: NodeId(node), broker_epoch }).unwrap();
    }

    fn create(&mut self, topic: u64, nodes: &[i32], configs: &[(&str, &str)]) {
        let place = |node: &i32| ReplicaPlace { node_id: NodeId(*node), directory: directories(*node)[0] };
        let command = CreateTopic {
            name: format!("t{topic}"),
            topic_id: topic_id(topic),
            assignment: vec![nodes.iter().map(place).collect()],
            configs: configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            internal: false,
        };
        self.apply(&Command::CreateTopic(command)).unwrap();
    }

    fn partition(&self, topic: u64) -> &Partition {
        self.image.partition(id(topic)).unwrap()
    }

    /// Leader, in-sync replicas, eligible ones.
    fn state(&self, topic: u64) -> (Option<i32>, Vec<i32>, Vec<i32>) {
        let partition = self.partition(topic);
        let leader = partition.leader.map(NodeId::get);
        (
            leader,
            partition.in_sync_nodes().map(NodeId::get).collect(),
            partition.eligible_nodes().map(NodeId::get).collect(),
        )
    }

    /// What the leader would say; none while there is no leader.
    fn proposal(&self, topic: u64, nodes: &[i32]) -> Option<AlterPartition> {
        let partition = self.partition(topic);
        let leader = partition.leader?;
        Some(AlterPartition {
            node_id: leader,
            broker_epoch: self.epoch(leader.get()),
            partition: id(topic),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            in_sync: nodes.iter().map(|node| (NodeId(*node), self.epoch(*node))).collect(),
        })
    }

    fn alter(&mut self, topic: u64, nodes: &[i32]) -> Result<Outcome, Rejection> {
        let command = self.proposal(topic, nodes).unwrap();
        self.apply(&Command::AlterPartition(command))
    }

    fn assign(&mut self, topic: u64, nodes: Option<&[i32]>) -> Result<Outcome, Rejection> {
        let partition = self.partition(topic).clone();
        let place = |node: &i32| ReplicaPlace {
            node_id: NodeId(*node),
            directory: partition.replica_on(NodeId(*node)).map_or(directories(*node)[0], |replica| replica.directory),
        };
        let target = nodes.map(|nodes| nodes.iter().map(place).collect());
        self.apply(&Command::AssignReplicas { partition: id(topic), target })
    }

    fn nodes(&self, topic: u64) -> Vec<i32> {
        self.partition(topic).replica_nodes().map(NodeId::get).collect()
    }

    fn configure(&mut self, topic: u64, name: &str, value: &str) {
        let expected_version = self.image.topic(topic_id(topic)).unwrap().configs.version;
        let values = BTreeMap::from([(name.to_owned(), Some(value.to_owned()))]);
        let change = ConfigChange { expected_version, values };
        self.apply(&Command::AlterTopicConfigs { topic_id: topic_id(topic), change }).unwrap();
    }
}

const MIN_2: &[(&str, &str)] = &[(MIN_IN_SYNC, "2")];

#[test]
fn the_first_available_replica_that_is_in_sync_leads_after_one_that_is_gone() {
    let mut cluster = Cluster::new(3);
    cluster.create(1, &[1, 2, 3], &[]);
    assert_eq!(cluster.state(1), (Some(1), vec![1, 2, 3], vec![]));
    let before = cluster.partition(1).clone();
    cluster.fence(1);
    assert_eq!(cluster.state(1), (Some(2), vec![2, 3], vec![]));
    let after = cluster.partition(1).clone();
    assert_eq!(after.leader_epoch, before.leader_epoch.next());
    assert_eq!(after.partition_epoch.get(), before.partition_epoch.get() + 1);
    cluster.fence(3);
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.partition(1).leader_epoch, after.leader_epoch, "its leader goes on");
    cluster.fence(3);
    assert_eq!(cluster.partition(1).partition_epoch.get(), after.partition_epoch.get() + 1, "twice is once");
}

#[test]
fn the_last_replica_in_sync_stays_eligible_and_leads_again_when_it_is_back() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    cluster.fence(1);
    cluster.fence(2);
    assert_eq!(cluster.state(1), (None, vec![], vec![2]));
    let epoch = cluster.partition(1).leader_epoch;
    cluster.unfence(1);
    assert_eq!(cluster.state(1), (None, vec![], vec![2]), "it may lack what the other acknowledged");
    cluster.unfence(2);
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.partition(1).leader_epoch, epoch.next());
}

#[test]
fn who_leaves_while_too_few_are_left_stays_eligible_until_enough_are_back() {
    let mut cluster = Cluster::new(3);
    cluster.create(1, &[1, 2, 3], MIN_2);
    cluster.fence(1);
    assert_eq!(cluster.state(1), (Some(2), vec![2, 3], vec![]), "two are enough");
    cluster.fence(2);
    assert_eq!(cluster.state(1), (Some(3), vec![3], vec![2]));
    cluster.fence(3);
    assert_eq!(cluster.state(1), (None, vec![], vec![2, 3]));
    cluster.unfence(1);
    assert_eq!(cluster.state(1).0, None);
    cluster.unfence(2);
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![3]), "alone it acknowledges nothing");
    cluster.alter(1, &[1, 2]).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![1, 2], vec![]));
}

#[test]
fn a_replica_that_lags_is_eligible_only_while_too_few_are_in_sync() {
    let mut cluster = Cluster::new(3);
    cluster.create(1, &[1, 2, 3], MIN_2);
    cluster.alter(1, &[1, 2]).unwrap();
    assert_eq!(cluster.state(1), (Some(1), vec![1, 2], vec![]));
    cluster.alter(1, &[1]).unwrap();
    assert_eq!(cluster.state(1), (Some(1), vec![1], vec![2]));
    cluster.alter(1, &[1, 3]).unwrap();
    assert_eq!(cluster.state(1), (Some(1), vec![1, 3], vec![]));
}

#[test]
fn fewer_replicas_that_have_to_be_in_sync_leave_nobody_eligible_who_may_fall_behind() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], MIN_2);
    cluster.create(2, &[1, 2], &[]);
    cluster.fence(2);
    assert_eq!(cluster.state(1), (Some(1), vec![1], vec![2]));
    cluster.configure(1, MIN_IN_SYNC, "1");
    assert_eq!(cluster.state(1), (Some(1), vec![1], vec![]));
    // The default of all brokers counts where a topic says nothing.
    let set = |cluster: &mut Cluster, version, value: &str| {
        let values = BTreeMap::from([(MIN_IN_SYNC.to_owned(), Some(value.to_owned()))]);
        let change = ConfigChange { expected_version: version, values };
        cluster.apply(&Command::AlterBrokerConfigs { node_id: None, change }).unwrap();
    };
    cluster.unfence(2);
    set(&mut cluster, 0, "2");
    cluster.alter(2, &[1, 2]).unwrap();
    cluster.fence(2);
    assert_eq!(cluster.state(2), (Some(1), vec![1], vec![2]));
    set(&mut cluster, 1, "1");
    assert_eq!(cluster.state(2), (Some(1), vec![1], vec![]));
}

#[test]
fn a_leader_that_may_lack_records_is_elected_only_where_that_is_allowed() {
    let mut cluster = Cluster::new(3);
    for (topic, configs) in [(1, &[][..]), (2, &[(UNCLEAN_ELECTION, "true")][..]), (3, &[][..])] {
        cluster.create(topic, &[1, 2], configs);
    }
    cluster.fence(2);
    cluster.unfence(2);
    cluster.fence(1);
    assert_eq!(cluster.state(1), (None, vec![], vec![1]));
    assert_eq!(cluster.state(2), (Some(2), vec![2], vec![]));
    let elect = |how| Command::ElectLeaders { partitions: vec![id(1), id(7)], how };
    cluster.apply(&elect(Election::Preferred)).unwrap();
    assert_eq!(cluster.state(1).0, None);
    cluster.apply(&elect(Election::Unclean)).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    cluster.configure(3, UNCLEAN_ELECTION, "true");
    assert_eq!(cluster.state(3), (Some(2), vec![2], vec![]), "allowing it is enough");
}

#[test]
fn a_preferred_replica_leads_when_it_is_asked_for_and_in_sync() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    cluster.fence(1);
    cluster.unfence(1);
    let prefer = Command::ElectLeaders { partitions: vec![id(1)], how: Election::Preferred };
    cluster.apply(&prefer).unwrap();
    assert_eq!(cluster.state(1).0, Some(2), "it is not in sync");
    cluster.alter(1, &[1, 2]).unwrap();
    let epoch = cluster.partition(1).leader_epoch;
    for _ in 0..2 {
        cluster.apply(&prefer).unwrap();
        assert_eq!(cluster.state(1), (Some(1), vec![1, 2], vec![]));
        assert_eq!(cluster.partition(1).leader_epoch, epoch.next());
    }
}

#[test]
fn a_broker_that_shuts_down_hands_over_what_it_can_and_keeps_the_rest_until_somebody_has_caught_up() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    cluster.create(2, &[1], &[]);
    cluster.create(3, &[1, 2], &[]);
    cluster.alter(3, &[1]).unwrap();
    cluster.drain(1);
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.state(2), (Some(1), vec![1], vec![]));
    assert_eq!(cluster.state(3), (Some(1), vec![1], vec![]));
    let refused = cluster.alter(1, &[1, 2]);
    assert!(matches!(refused, Err(Rejection::IneligibleReplica { node_id: NodeId(1), .. })), "{refused:?}");
    cluster.alter(3, &[1, 2]).unwrap();
    assert_eq!(cluster.state(3), (Some(2), vec![2], vec![]));
    cluster.create(4, &[1, 2], &[]);
    assert_eq!(cluster.state(4), (Some(2), vec![2], vec![]));
    cluster.unfence(1);
    assert_eq!(cluster.image.broker(NodeId(1)).unwrap().state, BrokerState::ShuttingDown, "it does not come back");
    cluster.fence(1);
    assert_eq!(cluster.state(2), (None, vec![], vec![1]));
}

#[test]
fn replicas_in_a_directory_that_failed_are_gone_and_the_others_of_the_broker_stay() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    let broker_epoch = cluster.epoch(1);
    let fail = |at: usize| Command::FailDirectory { node_id: NodeId(1), broker_epoch, directory: directories(1)[at] };
    cluster.apply(&fail(1)).unwrap();
    assert_eq!(cluster.state(1).0, Some(1), "its replica is in the other one");
    assert_eq!(cluster.image.broker(NodeId(1)).unwrap().directories, directories(1)[..1]);
    cluster.apply(&fail(0)).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    let broker = cluster.image.broker(NodeId(1)).unwrap();
    assert_eq!((broker.state, broker.directories.len()), (BrokerState::Fenced, 1), "with the last one goes the broker");

    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    let broker_epoch = cluster.epoch(1);
    let fail = |at: usize| Command::FailDirectory { node_id: NodeId(1), broker_epoch, directory: directories(1)[at] };
    cluster.apply(&fail(0)).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.image.broker(NodeId(1)).unwrap().state, BrokerState::Active);
    let refused = cluster.alter(1, &[1, 2]);
    assert!(matches!(refused, Err(Rejection::IneligibleReplica { .. })), "{refused:?}");
    let outcome = cluster.apply(&fail(0));
    assert_eq!(outcome, Ok(Outcome::Done), "it is known");
}

#[test]
fn a_copy_in_a_fresh_directory_does_not_count_while_others_have_the_records() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], MIN_2);
    cluster.create(2, &[1], &[]);
    let fresh = directory(50);
    cluster.processes += 1;
    let peer = Some("node-1:9095".to_owned());
    let broker =
        RegisterBroker { directories: vec![fresh], peer, starts_fenced: true, ..register(1, cluster.processes) };
    cluster.apply(&Command::RegisterBroker(broker)).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![1]));
    cluster.unfence(1);
    assert_eq!(cluster.state(2), (None, vec![], vec![1]));
    cluster.apply(&Command::ReplaceDirectory { node_id: NodeId(1), directory: directories(1)[0] }).unwrap();
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.state(2), (Some(1), vec![1], vec![]), "nobody else has anything");
    assert!(cluster.partition(1).replicas.iter().any(|replica| replica.directory == fresh));
}

#[test]
fn who_may_have_lost_what_was_not_synced_steps_back_where_that_was_acknowledged() {
    let mut cluster = Cluster::new(2);
    let caching: &[(&str, &str)] = &[(MIN_IN_SYNC, "2"), (WRITE_CACHING, "true")];
    cluster.create(1, &[1, 2], caching);
    cluster.create(2, &[1, 2], MIN_2);
    cluster.create(3, &[1], caching);
    cluster.start(1, true);
    assert_eq!(cluster.state(1), (Some(2), vec![2], vec![]));
    assert_eq!(cluster.state(2), (Some(2), vec![2], vec![1]));
    assert_eq!(cluster.state(3), (None, vec![], vec![1]), "there is no other copy");
}

#[test]
fn a_new_process_begins_above_the_epochs_that_its_logs_have_seen() {
    let mut cluster = Cluster::new(1);
    cluster.create(1, &[1], &[]);
    cluster.processes += 1;
    let newest_leader_epoch = Some(LeaderEpoch(40));
    let peer = Some("node-1:9095".to_owned());
    let plain = register(1, cluster.processes);
    let directories = directories(1);
    let broker = RegisterBroker { directories, peer, starts_fenced: true, newest_leader_epoch, ..plain };
    cluster.apply(&Command::RegisterBroker(broker)).unwrap();
    assert_eq!(cluster.state(1).0, None);
    cluster.unfence(1);
    assert_eq!(cluster.state(1).0, Some(1));
    assert!(cluster.partition(1).leader_epoch > LeaderEpoch(40));
}

#[test]
fn only_the_leader_says_who_is_in_sync_and_only_of_what_it_has_seen() {
    let mut cluster = Cluster::new(3);
    cluster.create(1, &[1, 2], &[]);
    let good = cluster.proposal(1, &[1]).unwrap();
    let mut refused = |alter: AlterPartition, code: i16| {
        let rejection = cluster.apply(&Command::AlterPartition(alter)).unwrap_err();
        assert_eq!(rejection.kafka_error_code(), code, "{rejection}");
    };
    refused(AlterPartition { partition: id(7), ..good.clone() }, 100);
    refused(AlterPartition { partition: TopicPartition::new(topic_id(1), 1), ..good.clone() }, 3);
    refused(AlterPartition { broker_epoch: BrokerEpoch(0), ..good.clone() }, 77);
    refused(AlterPartition { node_id: NodeId(9), ..good.clone() }, 102);
    refused(AlterPartition { leader_epoch: LeaderEpoch(9), ..good.clone() }, 74);
    refused(AlterPartition { partition_epoch: PartitionEpoch(9), ..good.clone() }, 95);
    refused(AlterPartition { in_sync: Vec::new(), ..good.clone() }, 42);
    let twice = good.in_sync.repeat(2);
    refused(AlterPartition { in_sync: twice, ..good.clone() }, 42);
    for stranger in [(NodeId(3), BrokerEpoch(3)), (NodeId(2), BrokerEpoch(0)), (NodeId(8), BrokerEpoch(1))] {
        refused(AlterPartition { in_sync: vec![good.in_sync[0], stranger], ..good.clone() }, 107);
    }
    let other = AlterPartition { node_id: NodeId(2), broker_epoch: cluster.epoch(2), ..good.clone() };
    let rejection = cluster.apply(&Command::AlterPartition(other)).unwrap_err();
    assert_eq!(rejection.kafka_error_code(), 42, "{rejection}");
    let partition_epoch = PartitionEpoch(good.partition_epoch.get() + 1);
    assert_eq!(cluster.apply(&Command::AlterPartition(good)), Ok(Outcome::PartitionAltered { partition_epoch }));
    let again = PartitionEpoch(partition_epoch.get() + 1);
    assert_eq!(
        cluster.alter(1, &[1]),
        Ok(Outcome::PartitionAltered { partition_epoch: again }),
        "the same set voids what its leader proposed before"
    );
    let stale = Command::FenceBroker { node_id: NodeId(1), broker_epoch: BrokerEpoch(0) };
    assert!(matches!(cluster.apply(&stale), Err(Rejection::StaleBrokerEpoch { .. })));
}

#[test]
fn replicas_move_once_all_new_ones_are_in_sync() {
    let mut cluster = Cluster::new(5);
    cluster.create(1, &[1, 2, 3], &[]);
    cluster.assign(1, Some(&[4, 2, 5])).unwrap();
    assert_eq!(cluster.nodes(1), [4, 2, 5, 1, 3]);
    let moving = cluster.partition(1).moving.clone().unwrap();
    assert_eq!((moving.adding, moving.removing), (vec![NodeId(4), NodeId(5)], vec![NodeId(1), NodeId(3)]));
    assert_eq!(cluster.state(1), (Some(1), vec![2, 1, 3], vec![]));
    cluster.alter(1, &[1, 2, 3, 4]).unwrap();
    assert_eq!(cluster.nodes(1).len(), 5);
    let epoch = cluster.partition(1).leader_epoch;
    cluster.alter(1, &[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(cluster.nodes(1), [4, 2, 5]);
    assert_eq!(cluster.partition(1).moving, None);
    assert_eq!(cluster.state(1), (Some(4), vec![4, 2, 5], vec![]), "the leader has gone");
    assert_eq!(cluster.partition(1).leader_epoch, epoch.next());
}

#[test]
fn a_new_order_or_fewer_replicas_take_effect_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.create(1, &[1, 2, 3], &[]);
    cluster.assign(1, Some(&[3, 1, 2])).unwrap();
    assert_eq!((cluster.nodes(1), cluster.state(1).0), (vec![3, 1, 2], Some(1)));
    cluster.assign(1, Some(&[3, 2])).unwrap();
    assert_eq!((cluster.nodes(1), cluster.state(1).0), (vec![3, 2], Some(3)));
    let epoch = cluster.partition(1).partition_epoch;
    cluster.assign(1, Some(&[3, 2])).unwrap();
    assert_eq!(cluster.partition(1).partition_epoch, epoch, "it is so already");
    cluster.fence(2);
    cluster.assign(1, Some(&[2])).unwrap();
    assert_eq!(
        (cluster.nodes(1), cluster.state(1).0),
        (vec![2, 3], Some(3)),
        "it waits until the one that stays is in sync"
    );
}

#[test]
fn a_reassignment_can_be_taken_back_or_replaced_but_never_leaves_the_records_behind() {
    let mut cluster = Cluster::new(5);
    cluster.create(1, &[1, 2], &[]);
    assert!(matches!(cluster.assign(1, None), Err(Rejection::NoReassignment { .. })));
    cluster.assign(1, Some(&[3, 4])).unwrap();
    cluster.assign(1, None).unwrap();
    assert_eq!((cluster.nodes(1), cluster.state(1)), (vec![1, 2], (Some(1), vec![1, 2], vec![])));
    cluster.assign(1, Some(&[3, 4])).unwrap();
    cluster.assign(1, Some(&[4, 5])).unwrap();
    assert_eq!(cluster.nodes(1), [4, 5, 1, 2]);
    let moving = cluster.partition(1).moving.clone().unwrap();
    assert_eq!((moving.adding, moving.removing), (vec![NodeId(4), NodeId(5)], vec![NodeId(1), NodeId(2)]));
    // Only a new one has everything that was acknowledged since.
    cluster.alter(1, &[1, 4]).unwrap();
    cluster.fence(1);
    assert_eq!(cluster.state(1), (Some(4), vec![4], vec![]));
    for target in [None, Some(&[1, 2][..])] {
        let refused = cluster.assign(1, target);
        assert!(matches!(refused, Err(Rejection::InvalidReplicaAssignment { .. })), "{refused:?}");
    }
    for target in [&[][..], &[4, 4], &[9]] {
        let place = |node: &i32| ReplicaPlace { node_id: NodeId(*node), directory: directories(*node)[0] };
        let target = Some(target.iter().map(place).collect());
        let refused = cluster.apply(&Command::AssignReplicas { partition: id(1), target });
        assert!(matches!(refused, Err(Rejection::InvalidReplicaAssignment { .. })), "{refused:?}");
    }
    for (node, at) in [(4, 1), (3, 50)] {
        let place = ReplicaPlace { node_id: NodeId(node), directory: directory(at) };
        let refused = cluster.apply(&Command::AssignReplicas { partition: id(1), target: Some(vec![place]) });
        assert!(matches!(refused, Err(Rejection::InvalidReplicaAssignment { .. })), "{refused:?}");
    }
}

#[test]
fn a_broker_is_forgotten_only_when_it_is_gone() {
    let mut cluster = Cluster::new(2);
    cluster.create(1, &[1, 2], &[]);
    let unregister = |node| Command::UnregisterBroker { node_id: NodeId(node) };
    let refused = cluster.apply(&unregister(1));
    assert!(matches!(refused, Err(Rejection::BrokerNotFenced { .. })));
    assert!(matches!(cluster.apply(&unregister(9)), Err(Rejection::UnknownBroker { .. })));
    cluster.fence(1);
    cluster.apply(&unregister(1)).unwrap();
    assert_eq!(cluster.image.broker(NodeId(1)), None);
    assert_eq!((cluster.nodes(1), cluster.state(1).0), (vec![1, 2], Some(2)));
    cluster.start(1, false);
    cluster.unfence(1);
    cluster.alter(1, &[1, 2]).unwrap();
}

#[test]
fn partitions_that_begin_while_brokers_are_gone_are_led_by_those_that_are_there() {
    let mut cluster = Cluster::new(3);
    cluster.fence(1);
    cluster.create(1, &[1, 2, 3], MIN_2);
    assert_eq!(cluster.state(1), (Some(2), vec![2, 3], vec![]));
    cluster.fence(2);
    cluster.create(2, &[1, 3], MIN_2);
    assert_eq!(cluster.state(2), (Some(3), vec![3], vec![1]), "nobody has anything yet");
    cluster.create(3, &[1, 2], &[]);
    assert_eq!(cluster.state(3), (None, vec![], vec![1, 2]));
    let partition = cluster.partition(3);
    assert_eq!((partition.leader_epoch, partition.partition_epoch), (LeaderEpoch(0), PartitionEpoch(0)));
    cluster.unfence(2);
    assert_eq!(cluster.state(3), (Some(2), vec![2], vec![]));
}

mod histories;
