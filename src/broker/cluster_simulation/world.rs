//! The cluster, its network and its bucket, and what happens there turn by turn.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::clients::{Client, new_batch};
use super::events::Deed;
use super::invariants::{Images, Leaders};
use super::ledger::{Flight, Ledger, PRODUCERS, is_idempotent};
use super::member::Member;
use super::planted::Planted;
use super::wiring::address;
use super::{Check, Notes, PANICKED, Part, Parts, ensure};
use crate::archive::store::simulated::{BucketLies, SimBucket};
use crate::broker::{Broker, NewTopic};
use crate::metadata::MemberChange;
use crate::record::Batch;
use crate::runtime::clock::Clock;
use crate::sim::Random;
use crate::sim::node::pass;
use crate::sim::peers::SimNetwork;
use crate::types::{Offset, ProducerId, TopicPartition};

/// Longest time that passes at once.
const LONGEST: Duration = Duration::from_millis(50);
/// Turns in which things go wrong.
const TURNS: usize = 5000;
/// Turns after which something that should end has not.
pub(super) const PATIENCE: usize = 80_000;
/// How often a cluster that is being made is asked again.
const TRIES: usize = 2000;
/// Replicas of a partition.
pub(super) const REPLICAS: usize = 3;

/// A topic's name, number of partitions and configuration of its own.
type Plan = (&'static str, i32, &'static [(&'static str, &'static str)]);

const TOPICS: &[Plan] = &[
    ("kept", 2, &[("internal.segment.bytes", "6000")]),
    ("away", 1, &[("internal.segment.bytes", "4000"), ("local.retention.ms", "1")]),
];

/// See the module.
pub(super) struct World {
    pub(super) network: SimNetwork,
    pub(super) bucket: SimBucket,
    pub(super) random: Random,
    pub(super) members: Vec<Member>,
    pub(super) parts: Parts,
    /// What is to happen, by turn.
    pub(super) scheduled: BTreeMap<usize, Vec<Deed>>,
    /// A data directory was lost, and not all of its replicas are known to be whole again.
    pub(super) has_lost: bool,
    pub(super) turns: usize,
    planted: Planted,
    /// All clocks go alike; this one is the first machine's.
    clock: Arc<dyn Clock>,
    /// Where each partition's consumer is.
    consumers: BTreeMap<TopicPartition, Arc<Mutex<Offset>>>,
    notes: Arc<Mutex<Notes>>,
    images: Images,
    leaders: Leaders,
    records: u64,
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Self {
        let network = SimNetwork::new(seed);
        let brokers = if planted.needs_many() || seed.is_multiple_of(3) { 5 } else { 3 };
        let members: Vec<_> = (1..=brokers).map(|number| Member::new(seed, &network, number, planted)).collect();
        let clock = members[0].node.machine.runtime().clock;
        Self {
            network,
            bucket: SimBucket::new(seed, BucketLies::default()),
            random: Random::new(seed),
            members,
            parts: Parts::new(),
            scheduled: BTreeMap::new(),
            has_lost: false,
            turns: 0,
            planted,
            clock,
            consumers: BTreeMap::new(),
            notes: Arc::default(),
            images: Images::default(),
            leaders: Leaders::default(),
            records: 0,
        }
    }

    pub(super) const fn turns(&self) -> usize {
        self.turns
    }

    /// A hash of everything that happened.
    pub(super) fn trace(&self) -> u64 {
        let mut trace = self.notes.lock().trace.clone();
        (self.network.trace(), self.bucket.trace()).hash(&mut trace);
        self.members.iter().for_each(|member| member.node.machine.trace().hash(&mut trace));
        (self.leaders.known(), self.images.newest(), self.turns).hash(&mut trace);
        trace.finish()
    }

    /// How many batches were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.parts.values().map(|part| part.ledger.lock().writes.batches()).sum()
    }

    /// One of so many.
    pub(super) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.random.below(count as u64)).expect("small")
    }

    /// Something happens somewhere.
    pub(super) fn turn(&mut self) -> Check {
        self.turns += 1;
        for member in &mut self.members {
            member.turn(&mut self.random)?;
        }
        if self.random.chance(50) {
            self.bucket.run_one(self.clock.monotonic());
        }
        if self.random.chance(60) {
            pass(self.members.iter().map(|member| &member.node), &self.network, LONGEST);
        }
        ensure!(!PANICKED.get(), "a panic, see above");
        self.observe()?;
        self.notes.lock().failure.take().map_or(Ok(()), Err)
    }

    /// Looks at what holds at any time.
    fn observe(&mut self) -> Check {
        for member in &self.members {
            let Some(broker) = member.broker() else { continue };
            self.images.observe(&broker.image())?;
            for partition in broker.partitions() {
                let (log, led_in) = (partition.log(), partition.led_in());
                let (Some(epoch), Some(part)) = (led_in, self.parts.get(&log.partition())) else { continue };
                let acknowledged = part.ledger.lock().writes.end();
                self.leaders.observe((part.id, epoch), member.node_id(), log.offsets().log_end, acknowledged)?;
            }
        }
        Ok(())
    }

    /// Lets things happen until a task of a broker is done. Nothing may happen to the broker meanwhile.
    fn until_done<T>(&mut self, at: usize, what: &str, task: JoinHandle<T>) -> Result<T, String> {
        for _ in 0..PATIENCE {
            if task.is_finished() {
                return Ok(self.members[at].node.take(task));
            }
            self.turn()?;
        }
        Err(format!("{what} does not end"))
    }

    pub(super) fn until<T: Send + 'static>(
        &mut self,
        at: usize,
        what: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let task = self.members[at].node.spawn(task);
        self.until_done(at, what, task)
    }

    pub(super) fn start(&mut self, at: usize) {
        let brokers = self.members.len();
        self.members[at].start(brokers, &self.bucket);
    }

    fn until_up(&mut self, at: usize) -> Result<Arc<Broker>, String> {
        for _ in 0..PATIENCE {
            if let Some(broker) = self.members[at].broker() {
                return Ok(Arc::clone(broker));
            }
            if self.members[at].is_down() {
                self.start(at);
            }
            self.turn()?;
        }
        Err(format!("broker {} does not start", self.members[at].number))
    }

    /// Makes the cluster: all brokers vote, and the topics are there.
    pub(super) fn found(&mut self) -> Check {
        self.start(0);
        let first = self.until_up(0)?;
        let cluster_id = first.cluster_id();
        for at in 1..self.members.len() {
            let preparing = self.members[at].prepare(cluster_id);
            self.until_done(at, "making a member's metadata", preparing)??;
            self.members[at].kill();
            let (metadata, node_id) = (Arc::clone(&first.metadata), self.members[at].node_id());
            let add = MemberChange::Add { node_id, address: address(self.members[at].number) };
            let added = self.until(0, "adding a member", async move { metadata.change_members(add).await })?;
            added.map_err(|error| format!("adding a member: {error}"))?;
            self.start(at);
            self.until_up(at)?;
        }
        self.until_all_vote(&first)?;
        for &(name, partitions, configs) in TOPICS {
            let own =
                [("min.insync.replicas", "2"), ("unclean.leader.election.enable", self.planted.unclean_elections())];
            let configs = configs.iter().chain(&own).map(|&(name, value)| (name.to_owned(), value.to_owned()));
            let replication_factor = i16::try_from(REPLICAS).expect("small");
            let new =
                NewTopic { partitions, replication_factor, configs: configs.collect(), ..NewTopic::by_default(name) };
            let creator = Arc::clone(&first);
            let created = self.until(0, "creating a topic", async move { creator.create_topic(new, false).await })?;
            let topic_id = created.map_err(|error| format!("topic {name}: {error}"))?.topic_id;
            for index in 0..partitions {
                let id = TopicPartition::new(topic_id, index);
                let part = Part { topic: name.to_owned(), id, ledger: Mutex::new(Ledger::default()) };
                self.parts.insert(id, Arc::new(part));
                self.consumers.insert(id, Arc::default());
            }
        }
        Ok(())
    }

    /// The quorum grows by itself.
    fn until_all_vote(&mut self, first: &Arc<Broker>) -> Check {
        for _ in 0..TRIES {
            let metadata = Arc::clone(&first.metadata);
            let status = self.until(0, "the quorum's status", async move { metadata.quorum_status().await })?;
            if status.is_some_and(|status| status.voters.len() == self.members.len()) {
                return Ok(());
            }
            for _ in 0..20 {
                self.turn()?;
            }
        }
        Err("not all brokers get a vote".to_owned())
    }

    /// Things go wrong for a while, and clients go on.
    pub(super) fn suffer(&mut self) -> Check {
        for _ in 0..TURNS {
            self.turn()?;
            if self.random.chance(25) {
                self.produce_somewhere();
            }
            if self.random.chance(12) {
                self.consume_somewhere();
            }
            self.let_happen();
        }
        Ok(())
    }

    fn any_part(&mut self) -> Arc<Part> {
        let at = self.pick(self.parts.len());
        Arc::clone(self.parts.values().nth(at).expect("counted"))
    }

    fn client(&self, at: usize, part: &Arc<Part>) -> Option<Client> {
        let member = &self.members[at];
        let broker = Arc::clone(member.broker()?);
        let (part, notes) = (Arc::clone(part), Arc::clone(&self.notes));
        Some(Client { broker, part, notes, disk: member.node.machine.disk.clone(), planted: self.planted })
    }

    /// A broker that takes itself for the leader of a partition; of several any may be found, as by clients.
    pub(super) fn leader(&mut self, part: &Part) -> Option<usize> {
        let first = self.pick(self.members.len());
        let mut all = (0..self.members.len()).map(|step| (first + step) % self.members.len());
        all.find(|&at| {
            let Some(broker) = self.members[at].broker() else { return false };
            let image = broker.image();
            image.partition(part.id).is_some_and(|partition| partition.leader == Some(broker.node_id()))
        })
    }

    fn produce_somewhere(&mut self) {
        let (part, number) = (self.any_part(), self.pick(PRODUCERS));
        self.produce(&part, number);
    }

    /// Has a producer send its next batch, or one again of which it does not know what became of it.
    pub(super) fn produce(&mut self, part: &Arc<Part>, number: usize) {
        let in_flight = part.ledger.lock().producers[number].flight;
        let is_alive = |Flight { member, life }: Flight| {
            let member = &self.members[member];
            member.life == life && !member.is_down()
        };
        if in_flight.is_some_and(is_alive) {
            return;
        }
        let Some(at) = self.leader(part) else { return };
        let Some(client) = self.client(at, part) else { return };
        let mut ledger = part.ledger.lock();
        if in_flight.is_some() {
            // Nobody will tell it.
            ledger.give_up(number);
        }
        let producer = &mut ledger.producers[number];
        let sequence = producer.next_sequence;
        let batch = producer.pending.get_or_insert_with(|| {
            let id = ProducerId(100 + i64::try_from(number).expect("small"));
            let batch = new_batch(
                &mut self.random,
                self.records,
                self.clock.wall(),
                is_idempotent(number).then_some((id, sequence)),
            );
            self.records += u64::from(batch.header().record_count.unsigned_abs());
            batch
        });
        let batch = batch.clone();
        producer.flight = Some(Flight { member: at, life: self.members[at].life });
        drop(ledger);
        drop(self.members[at].node.spawn(async move {
            let outcome = client.clone().produce(number, batch).await;
            client.note("an append", &outcome);
        }));
    }

    /// Has a partition's consumer read on, or begin again.
    fn consume_somewhere(&mut self) {
        let part = self.any_part();
        let of_follower = self.random.chance(30);
        let at = if of_follower { Some(self.pick(self.members.len())) } else { self.leader(&part) };
        let Some(client) = at.and_then(|at| self.client(at, &part)) else { return };
        let place = Arc::clone(&self.consumers[&part.id]);
        if self.random.chance(3) {
            *place.lock() = Offset::ZERO;
        }
        let max_bytes = 1 + usize::try_from(self.random.below(4000)).expect("small");
        let at = at.expect("there is a client");
        drop(self.members[at].node.spawn(async move {
            let outcome = client.clone().consume(place, of_follower, max_bytes).await;
            client.note("a fetch", &outcome);
        }));
    }

    /// Reads a whole partition at its leader.
    pub(super) fn read_all(&mut self, part: &Arc<Part>) -> Result<Vec<Batch>, String> {
        let at = self.leader(part).ok_or_else(|| format!("{} has no leader", part.name()))?;
        let client = self.client(at, part).ok_or_else(|| format!("the leader of {} is down", part.name()))?;
        self.until(at, "reading a whole partition", client.read_all())?
    }
}
