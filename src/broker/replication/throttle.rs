//! How fast replicas that catch up are sent what they lack, where an administrator bounds that as in Apache Kafka (KIP-73). Pure.
//!
//! `leader.replication.throttled.rate` and `follower.replication.throttled.rate` of brokers are bytes in a second;
//! `leader.replication.throttled.replicas` and `follower.replication.throttled.replicas` of topics say for which replicas they hold:
//! all, or pairs of a partition and a broker, that is the leader's or the follower's. Leaders hold to both rates when they send, and
//! share a follower's among as many as have something to send there. Only what is read from segments is bounded, for replicas that
//! are not in sync: one that is in sync would hold up producers.
//!
//! `link` asks before it reads on the catch-up lane. Nothing is kept here but what was sent lately; rates come from the newest image.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::metadata::Image;
use crate::metadata::broker_config::{FOLLOWER_RATE, LEADER_RATE, throttled_rate};
use crate::metadata::image::{Partition, ReplicaState};
use crate::types::{Monotonic, NodeId, TopicPartition};

const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
/// How old what is known of the rates may be.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Unused room that is kept, as time at the rate: more than passes until those that wait are asked again.
const BURST: Duration = Duration::from_secs(1);
const NANOS: i128 = 1_000_000_000;

/// Room for bytes that comes in at a rate. What is taken may be more than there is, and is made up for by waiting.
#[derive(Clone, Debug)]
struct Bucket {
    /// Bytes in a second.
    rate: u64,
    /// Thousand millionths of bytes; below zero what was taken in advance.
    room: i128,
    filled: Monotonic,
}

impl Bucket {
    const fn new(rate: u64, now: Monotonic) -> Self {
        Self { rate, room: 0, filled: now }
    }

    fn set_rate(&mut self, rate: u64, now: Monotonic) {
        self.fill(now);
        self.rate = rate;
    }

    fn fill(&mut self, now: Monotonic) {
        let worth =
            |time: Duration| i128::from(self.rate).saturating_mul(i128::try_from(time.as_nanos()).unwrap_or(i128::MAX));
        self.room = self.room.saturating_add(worth(now.since(self.filled))).min(worth(BURST));
        self.filled = now;
    }

    const fn has_room(&self) -> bool {
        self.rate > 0 && self.room >= 0
    }

    fn charge(&mut self, bytes: usize) {
        self.room -= bytes as i128 * NANOS;
    }

    fn give_back(&mut self, bytes: usize) {
        self.room += bytes as i128 * NANOS;
    }
}

/// Room that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is not sent is given back"]
pub(super) struct Taken {
    bytes: usize,
    by_leader: bool,
    follower: Option<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Throttle {
    /// This broker.
    node_id: NodeId,
    looked: Option<Monotonic>,
    leader: Option<Bucket>,
    followers: BTreeMap<NodeId, Bucket>,
}

impl Throttle {
    /// Of a broker that has not looked at any image.
    pub(super) const fn new(node_id: NodeId) -> Self {
        Self { node_id, looked: None, leader: None, followers: BTreeMap::new() }
    }

    /// Takes room for records of a partition to a follower. There may be none for now.
    pub(super) fn take(
        &mut self,
        now: Monotonic,
        image: &Image,
        follower: NodeId,
        id: TopicPartition,
        bytes: usize,
    ) -> Option<Taken> {
        self.look(now, image);
        let mut taken = Taken { bytes, by_leader: false, follower: None };
        if self.leader.is_none() && self.followers.is_empty() {
            return Some(taken);
        }
        let catches_up = |partition: &Partition| catches_up(partition, follower);
        let Some(topic) = image.topic(id.topic_id).filter(|_| image.partition(id).is_some_and(catches_up)) else {
            return Some(taken);
        };
        let is_listed = |name: &str, node_id: NodeId| {
            topic.configs.values.get(name).is_some_and(|listed| names(listed, id.partition.get(), node_id))
        };
        let leader = self.leader.as_mut().filter(|_| is_listed(LEADER_REPLICAS, self.node_id));
        let to_follower = self.followers.get_mut(&follower).filter(|_| is_listed(FOLLOWER_REPLICAS, follower));
        let mut buckets: Vec<&mut Bucket> = Vec::with_capacity(2);
        taken.by_leader = leader.is_some();
        taken.follower = to_follower.as_ref().map(|_| follower);
        buckets.extend(leader);
        buckets.extend(to_follower);
        buckets.iter_mut().for_each(|bucket| bucket.fill(now));
        if !buckets.iter().all(|bucket| bucket.has_room()) {
            return None;
        }
        buckets.into_iter().for_each(|bucket| bucket.charge(bytes));
        Some(taken)
    }

    /// Of what was taken so much was used.
    pub(super) fn used(&mut self, taken: Taken, bytes: usize) {
        let leader = self.leader.as_mut().filter(|_| taken.by_leader);
        let follower = taken.follower.and_then(|follower| self.followers.get_mut(&follower));
        for bucket in leader.into_iter().chain(follower) {
            match taken.bytes.checked_sub(bytes) {
                Some(left) => bucket.give_back(left),
                // A batch is sent whole.
                None => bucket.charge(bytes - taken.bytes),
            }
        }
    }

    /// Looks at the rates from time to time.
    fn look(&mut self, now: Monotonic, image: &Image) {
        if self.looked.is_some_and(|looked| now.since(looked) < LOOK_PAUSE) {
            return;
        }
        self.looked = Some(now);
        let rate = throttled_rate(LEADER_RATE, image, self.node_id);
        set(&mut self.leader, rate, now);
        let rates = image.brokers().map(|broker| broker.node_id).filter(|node_id| *node_id != self.node_id);
        let rates = rates.filter_map(|node_id| Some((node_id, throttled_rate(FOLLOWER_RATE, image, node_id)?)));
        let mut rates: BTreeMap<NodeId, u64> = rates.collect();
        if !rates.is_empty() {
            let senders = senders(image, &rates);
            for (follower, rate) in &mut rates {
                let others = senders
                    .get(follower)
                    .map_or(0, |senders| senders.iter().filter(|sender| **sender != self.node_id).count());
                *rate /= others as u64 + 1;
            }
        }
        self.followers.retain(|follower, _| rates.contains_key(follower));
        for (follower, rate) in rates {
            self.followers.entry(follower).or_insert_with(|| Bucket::new(rate, now)).set_rate(rate, now);
        }
    }
}

fn set(bucket: &mut Option<Bucket>, rate: Option<u64>, now: Monotonic) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
        (_, rate) => *bucket = rate.map(|rate| Bucket::new(rate, now)),
    }
}

/// Whether a replica has something to catch up, for what the image says.
fn catches_up(partition: &Partition, follower: NodeId) -> bool {
    partition.replica_on(follower).is_some_and(|replica| replica.state != ReplicaState::InSync)
}

/// Who leads what followers with a rate have to catch up, and are throttled for.
fn senders(image: &Image, rates: &BTreeMap<NodeId, u64>) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let mut senders: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for topic in image.topics() {
        let Some(listed) = topic.configs.values.get(FOLLOWER_REPLICAS) else { continue };
        for (number, partition) in (0..).zip(topic.partitions.iter()) {
            let Some(leader) = partition.leader else { continue };
            for follower in partition.replica_nodes().filter(|node_id| rates.contains_key(node_id)) {
                if catches_up(partition, follower) && names(listed, number, follower) {
                    senders.entry(follower).or_default().insert(leader);
                }
            }
        }
    }
    senders
}

/// Whether a list of throttled replicas names one of them.
fn names(listed: &str, partition: i32, node_id: NodeId) -> bool {
    listed.split(',').map(str::trim).any(|one| {
        let is = |text: &str, number: i32| text.parse::<i32>().is_ok_and(|it| it == number);
        let is_it = |(number, node): (&str, &str)| is(number, partition) && is(node, node_id.get());
        one == "*" || one.split_once(':').is_some_and(is_it)
    })
}

/// Partitions that wait for room, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Held {
    order: VecDeque<TopicPartition>,
    known: BTreeSet<TopicPartition>,
}

impl Held {
    /// A partition has to wait.
    pub(super) fn hold(&mut self, id: TopicPartition) {
        if self.known.insert(id) {
            self.order.push_back(id);
        }
    }

    /// All are asked again.
    pub(super) fn release(&mut self) -> VecDeque<TopicPartition> {
        self.known.clear();
        std::mem::take(&mut self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::{ConfigChange, CreateTopic, ReplicaPlace};
    use crate::metadata::{Command, machine, testing};

    const KIB: usize = 1 << 10;

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn id(number: i32) -> TopicPartition {
        TopicPartition::new(testing::topic_id(1), number)
    }

    /// A topic whose partitions are led by brokers 1 and 2 in turn and move to 3.
    fn image(configs: &[(&str, &str)]) -> Image {
        let mut image = testing::image_with_brokers(&[(1, "a"), (2, "b"), (3, "c")]);
        let place = |image: &Image, node| {
            let node_id = NodeId(node);
            ReplicaPlace { node_id, directory: image.broker(node_id).unwrap().directories[0] }
        };
        let topic = CreateTopic {
            name: "events".to_owned(),
            topic_id: testing::topic_id(1),
            assignment: (0..4).map(|number| vec![place(&image, 1 + number % 2)]).collect(),
            configs: configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            internal: false,
        };
        machine::apply(&mut image, &Command::CreateTopic(topic)).unwrap();
        for number in 0..4 {
            let target = Some(vec![place(&image, 3)]);
            machine::apply(&mut image, &Command::AssignReplicas { partition: id(number), target }).unwrap();
        }
        image
    }

    fn set_rate(image: &mut Image, node: i32, name: &str, rate: Option<usize>) {
        let node_id = Some(NodeId(node));
        let expected_version = image.broker_configs(node_id).map_or(0, |configs| configs.version);
        let values = BTreeMap::from([(name.to_owned(), rate.map(|rate| rate.to_string()))]);
        let change = ConfigChange { expected_version, values };
        machine::apply(image, &Command::AlterBrokerConfigs { node_id, change }).unwrap();
    }

    /// Bytes that broker 1 sends in ten seconds, asking every ten milliseconds.
    fn sent(image: &Image, number: i32) -> usize {
        let (mut throttle, mut bytes) = (Throttle::new(NodeId(1)), 0);
        for ms in (0..10_000).step_by(10) {
            if let Some(taken) = throttle.take(at(ms), image, NodeId(3), id(number), 64 * KIB) {
                throttle.used(taken, 40 * KIB);
                bytes += 40 * KIB;
            }
        }
        bytes
    }

    fn is_about(bytes: usize, expected: usize) -> bool {
        bytes.abs_diff(expected) <= 64 * KIB
    }

    const UNBOUNDED: usize = 1000 * 40 * KIB;

    #[test]
    fn a_leader_sends_as_fast_as_its_rate_lets_it_and_only_for_replicas_that_are_listed() {
        let mut image = image(&[(LEADER_REPLICAS, "0:1,1:2,2:2")]);
        assert_eq!(sent(&image, 0), UNBOUNDED, "there is no rate");
        set_rate(&mut image, 1, LEADER_RATE, Some(100 * KIB));
        assert!(is_about(sent(&image, 0), 1000 * KIB), "{}", sent(&image, 0));
        assert_eq!(sent(&image, 2), UNBOUNDED, "another leader is listed");
        set_rate(&mut image, 1, LEADER_RATE, None);
        assert_eq!(sent(&image, 0), UNBOUNDED);
        set_rate(&mut image, 1, LEADER_RATE, Some(0));
        assert_eq!(sent(&image, 0), 0);
    }

    #[test]
    fn a_followers_rate_is_shared_by_those_who_send_to_it() {
        let mut all = image(&[(FOLLOWER_REPLICAS, "*")]);
        set_rate(&mut all, 3, FOLLOWER_RATE, Some(100 * KIB));
        assert!(is_about(sent(&all, 0), 500 * KIB), "{}", sent(&all, 0));
        let mut mine = image(&[(FOLLOWER_REPLICAS, "0:3")]);
        set_rate(&mut mine, 3, FOLLOWER_RATE, Some(100 * KIB));
        assert!(is_about(sent(&mine, 0), 1000 * KIB), "{}", sent(&mine, 0));
        // The lower one counts.
        let mut both = image(&[(FOLLOWER_REPLICAS, "0:3"), (LEADER_REPLICAS, "*")]);
        set_rate(&mut both, 3, FOLLOWER_RATE, Some(100 * KIB));
        set_rate(&mut both, 1, LEADER_RATE, Some(50 * KIB));
        assert!(is_about(sent(&both, 0), 500 * KIB), "{}", sent(&both, 0));
    }

    #[test]
    fn a_replica_in_sync_is_never_held_up() {
        let mut image = image(&[(LEADER_REPLICAS, "*"), (FOLLOWER_REPLICAS, "*")]);
        set_rate(&mut image, 1, LEADER_RATE, Some(0));
        let mut throttle = Throttle::new(NodeId(1));
        assert_eq!(throttle.take(at(1), &image, NodeId(3), id(0), KIB), None);
        let in_sync = throttle.take(at(1), &image, NodeId(1), id(0), KIB);
        assert!(in_sync.is_some_and(|taken| !taken.by_leader));
        let unknown = throttle.take(at(1), &image, NodeId(3), id(9), KIB);
        assert!(unknown.is_some(), "a partition that has gone is not waited for");
    }

    #[test]
    fn a_rate_that_is_changed_holds_within_half_a_second_and_no_room_is_kept_for_long() {
        let mut image = image(&[(LEADER_REPLICAS, "*")]);
        set_rate(&mut image, 1, LEADER_RATE, Some(KIB));
        let mut throttle = Throttle::new(NodeId(1));
        let mut take = |ms, image: &Image, bytes| throttle.take(at(ms), image, NodeId(3), id(0), bytes).is_some();
        assert!(take(0, &image, 10 * KIB));
        assert!(!take(9_000, &image, KIB));
        set_rate(&mut image, 1, LEADER_RATE, Some(1000 * KIB));
        assert!(take(9_500, &image, 0) || take(9_510, &image, 0));
        // Of an hour a second is kept.
        assert!(take(3_600_000, &image, 2000 * KIB));
        assert!(!take(3_600_900, &image, 1));
        assert!(take(3_601_000, &image, 1));
    }

    #[test]
    fn those_that_wait_are_asked_in_the_order_in_which_they_came() {
        let mut held = Held::default();
        for number in [3, 1, 3, 2] {
            held.hold(id(number));
        }
        assert_eq!(held.release(), [id(3), id(1), id(2)]);
        assert!(held.release().is_empty());
    }
}
