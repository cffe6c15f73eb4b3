//! Histories of five brokers under a seed: they come, go, lag, lose disks and move replicas, and after every step it is looked
//! whether all that was acknowledged can still be led. `ALLUVIUM_SIM_SEEDS` sets how many seeds run, from `ALLUVIUM_SIM_SEED`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::metadata::snapshot;
use crate::sim::{Random, number};

const BROKERS: i32 = 5;
const TOPICS: u64 = 5;
const STEPS: usize = 400;
/// Any replica of this topic may lead where the others are gone.
const UNCLEAN_TOPIC: u64 = 4;
/// Records of this topic are acknowledged before they are on stable storage.
const CACHED_TOPIC: u64 = 5;

/// The records of one partition.
#[derive(Default)]
struct Model {
    acknowledged: BTreeSet<u64>,
    /// What each broker's copy has.
    copies: BTreeMap<i32, BTreeSet<u64>>,
}

struct World {
    cluster: Cluster,
    random: Random,
    models: BTreeMap<u64, Model>,
    /// Processes that run.
    up: BTreeSet<i32>,
    next_record: u64,
    /// Whether records that an operator gives up don't count as lost.
    forgives_unclean: bool,
    /// Whether the present step moves replicas.
    assigns: bool,
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl World {
    fn new(seed: u64, forgives_unclean: bool) -> Self {
        let mut cluster = Cluster::new(BROKERS);
        let min = [&[][..], MIN_2, MIN_2, &[(MIN_IN_SYNC, "2"), (UNCLEAN_ELECTION, "true")]];
        for (topic, configs) in (1..).zip(min) {
            cluster.create(topic, &[1, 2, 3, 4][..3 - usize::from(topic == 3)], configs);
        }
        cluster.create(CACHED_TOPIC, &[3, 4, 5], &[(MIN_IN_SYNC, "2"), (WRITE_CACHING, "true")]);
        let models = (1..=TOPICS).map(|topic| (topic, Model::default())).collect();
        let (random, up) = (Random::new(seed), (1..=BROKERS).collect());
        Self { cluster, random, models, up, next_record: 0, forgives_unclean, assigns: false }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap()
    }

    fn any_node(&mut self) -> i32 {
        1 + i32::try_from(self.random.below(5)).unwrap()
    }

    fn is_registered(&self, node: i32) -> bool {
        self.cluster.image.broker(NodeId(node)).is_some()
    }

    /// A leader whose process runs.
    fn leader(&self, topic: u64) -> Option<i32> {
        self.cluster.state(topic).0.filter(|leader| self.up.contains(leader))
    }

    fn copy(&self, topic: u64, node: i32) -> BTreeSet<u64> {
        self.models[&topic].copies.get(&node).cloned().unwrap_or_default()
    }

    fn set_copy(&mut self, topic: u64, node: i32, records: BTreeSet<u64>) {
        self.models.get_mut(&topic).unwrap().copies.insert(node, records);
    }

    fn write(&mut self, topic: u64) {
        if let Some(leader) = self.leader(topic) {
            self.next_record += 1;
            let mut records = self.copy(topic, leader);
            records.insert(self.next_record);
            self.set_copy(topic, leader, records);
        }
    }

    /// Followers take what the leader has, and nothing else stays.
    fn replicate(&mut self, topic: u64) {
        let Some(leader) = self.leader(topic) else { return };
        let records = self.copy(topic, leader);
        for node in self.cluster.nodes(topic) {
            if node != leader && self.up.contains(&node) && self.random.chance(60) {
                self.set_copy(topic, node, records.clone());
            }
        }
    }

    /// What counts as acknowledged by now.
    fn acknowledge(&mut self, topic: u64) {
        let Some(leader) = self.leader(topic) else { return };
        let in_sync = self.cluster.state(topic).1;
        let configs = &self.cluster.image.topic(topic_id(topic)).unwrap().configs.values;
        if in_sync.len() >= Rules::of(&self.cluster.image, configs).min_in_sync {
            let on_all = self.copy(topic, leader).into_iter();
            let on_all = on_all.filter(|record| in_sync.iter().all(|node| self.copy(topic, *node).contains(record)));
            let on_all: Vec<u64> = on_all.collect();
            self.models.get_mut(&topic).unwrap().acknowledged.extend(on_all);
        }
    }

    /// The leader proposes replicas that have all that is acknowledged.
    fn alter(&mut self, topic: u64) {
        let Some(leader) = self.leader(topic) else { return };
        let mut in_sync = vec![leader];
        for node in self.cluster.nodes(topic) {
            let has_all = self.models[&topic].acknowledged.is_subset(&self.copy(topic, node));
            if node != leader && self.is_registered(node) && has_all && self.random.chance(70) {
                in_sync.push(node);
            }
        }
        let mut command = self.cluster.proposal(topic, &in_sync).unwrap();
        if self.random.chance(5) {
            command.partition_epoch = PartitionEpoch(command.partition_epoch.get() - 1);
        }
        drop(self.cluster.apply(&Command::AlterPartition(command)));
    }

    fn restart(&mut self, node: i32) {
        let has_lost_power = self.random.chance(30);
        let before: Vec<_> = self.copy(CACHED_TOPIC, node).into_iter().collect();
        self.cluster.start(node, has_lost_power);
        self.up.insert(node);
        if has_lost_power {
            let kept = self.below(before.len() + 1);
            self.set_copy(CACHED_TOPIC, node, before[..kept].iter().copied().collect());
            let (_, in_sync, eligible) = self.cluster.state(CACHED_TOPIC);
            if in_sync.contains(&node) || eligible.contains(&node) {
                // All copies were on machines that lost power.
                let model = self.models.get_mut(&CACHED_TOPIC).unwrap();
                for lost in &before[kept..] {
                    model.acknowledged.remove(lost);
                }
            }
        }
    }

    fn assign(&mut self, topic: u64) {
        self.assigns = true;
        if self.random.chance(25) {
            drop(self.cluster.assign(topic, None));
            return;
        }
        let count = 1 + self.below(4);
        let mut target: Vec<i32> = (1..=BROKERS).collect();
        while target.len() > count {
            let at = self.below(target.len());
            target.remove(at);
        }
        let turn = self.below(count);
        target.rotate_left(turn);
        drop(self.cluster.assign(topic, Some(&target)));
    }

    fn elect(&mut self, topic: u64) {
        let how = if self.random.chance(80) { Election::Preferred } else { Election::Unclean };
        self.cluster.apply(&Command::ElectLeaders { partitions: vec![id(topic)], how }).unwrap();
        if how == Election::Unclean && self.forgives_unclean {
            self.give_up(topic);
        }
    }

    /// What the leader does not have is lost, and that was accepted.
    fn give_up(&mut self, topic: u64) {
        if let Some(leader) = self.cluster.state(topic).0 {
            let has = self.copy(topic, leader);
            self.models.get_mut(&topic).unwrap().acknowledged.retain(|record| has.contains(record));
        }
    }

    fn fail_directory(&mut self, node: i32) {
        if self.is_registered(node) {
            let (broker_epoch, at) = (self.cluster.epoch(node), self.below(2));
            let directory = directories(node)[at];
            let command = Command::FailDirectory { node_id: NodeId(node), broker_epoch, directory };
            self.cluster.apply(&command).unwrap();
        }
    }

    fn step(&mut self) {
        self.assigns = false;
        let (node, topic) = (self.any_node(), 1 + self.random.below(TOPICS));
        let is_registered = self.is_registered(node);
        match self.random.below(40) {
            0..=6 => self.write(topic),
            7..=15 => self.replicate(topic),
            16..=21 => self.alter(topic),
            22 | 23 => drop(self.up.remove(&node)),
            24 | 25 if is_registered => self.cluster.fence(node),
            26..=30 if is_registered && self.up.contains(&node) => self.cluster.unfence(node),
            31 | 32 => self.restart(node),
            33 if is_registered => self.cluster.drain(node),
            34 => self.fail_directory(node),
            35 | 36 => self.assign(topic),
            37 => self.elect(topic),
            38 => {
                let value = (1 + self.below(3)).to_string();
                self.cluster.configure(topic, MIN_IN_SYNC, &value);
            }
            39 if self.random.chance(30) => self.unregister(node),
            _ => {}
        }
    }

    fn unregister(&mut self, node: i32) {
        if self.cluster.apply(&Command::UnregisterBroker { node_id: NodeId(node) }).is_ok() {
            self.up.remove(&node);
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            let before = self.cluster.image.clone();
            self.step();
            if self.forgives_unclean {
                self.give_up(UNCLEAN_TOPIC);
            }
            for topic in 1..=TOPICS {
                self.forget_dropped(topic);
                self.check(&before, topic).map_err(|error| format!("step {step}, topic {topic}: {error}"))?;
                self.acknowledge(topic);
            }
        }
        let image = snapshot::decode(&snapshot::encode(&self.cluster.image)).unwrap();
        ensure!(image == self.cluster.image, "a snapshot reads otherwise");
        Ok(())
    }

    /// A broker deletes its copy once it holds none by the metadata.
    fn forget_dropped(&mut self, topic: u64) {
        let nodes = self.cluster.nodes(topic);
        self.models.get_mut(&topic).unwrap().copies.retain(|node, _| nodes.contains(node));
    }

    fn check(&self, before: &Image, topic: u64) -> Result<(), String> {
        let (image, model) = (&self.cluster.image, &self.models[&topic]);
        let (before, now) = (before.partition(id(topic)).unwrap(), image.partition(id(topic)).unwrap());
        let rules = Rules::of(image, &image.topic(topic_id(topic)).unwrap().configs.values);
        let has_standing = |replica: &Replica| replica.state != ReplicaState::Behind;
        ensure!(now.replicas.iter().any(has_standing), "no copy counts as whole: {now:?}");
        match now.leader.map(|leader| now.replica_on(leader)) {
            Some(None) => return Err(format!("the leader has no replica: {now:?}")),
            Some(Some(leader)) => {
                let is_last = now.in_sync_nodes().count() == 1;
                let may_lead =
                    rules.is_available(leader) || (is_last && rules.is_in_state(leader, &[BrokerState::ShuttingDown]));
                ensure!(leader.state == ReplicaState::InSync && may_lead, "the leader can't lead: {now:?}");
                let lost: Vec<_> =
                    model.acknowledged.difference(&self.copy(topic, leader.node_id.get())).copied().collect();
                ensure!(lost.is_empty(), "the leader lacks acknowledged records {lost:?}: {now:?}");
            }
            None => {
                let can_lead = |replica: &Replica| has_standing(replica) && rules.is_available(replica);
                ensure!(!now.replicas.iter().any(can_lead), "nobody leads though somebody could: {now:?}");
            }
        }
        for replica in now.replicas.iter().filter(|replica| replica.state == ReplicaState::InSync) {
            let is_leader = now.leader == Some(replica.node_id);
            ensure!(is_leader || rules.is_available(replica), "an in-sync replica is not available: {now:?}");
        }
        let is_enough = now.in_sync_nodes().count() >= rules.min_in_sync;
        ensure!(!is_enough || now.eligible_nodes().next().is_none(), "eligible though enough are in sync: {now:?}");
        ensure!(now == before || now.partition_epoch > before.partition_epoch, "the partition epoch stands: {now:?}");
        ensure!(
            now.leader == before.leader || now.leader_epoch > before.leader_epoch,
            "the leader epoch stands: {now:?}"
        );
        ensure!(now.leader_epoch >= before.leader_epoch, "the leader epoch falls: {now:?}");
        let targets = |partition: &Partition| -> BTreeSet<NodeId> {
            let removing = partition.moving.as_ref().map_or(&[][..], |moving| moving.removing.as_slice());
            partition.replica_nodes().filter(|node_id| !removing.contains(node_id)).collect()
        };
        let is_same = now.moving == before.moving && now.replica_nodes().eq(before.replica_nodes());
        let has_ended = before.moving.is_some() && now.moving.is_none() && targets(before) == targets(now);
        ensure!(is_same || has_ended || self.assigns, "replicas changed by themselves: {before:?} {now:?}");
        Ok(())
    }
}

fn seeds() -> std::ops::Range<u64> {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    first..first + number("ALLUVIUM_SIM_SEEDS", 60)
}

#[test]
fn whoever_is_elected_has_all_that_was_acknowledged() {
    for seed in seeds() {
        if let Err(error) = World::new(seed, true).run() {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn the_model_notices_when_records_are_given_up() {
    let notices = |seed| World::new(seed, false).run().is_err_and(|error| error.contains("lacks acknowledged"));
    assert!((1..40).any(notices));
}
