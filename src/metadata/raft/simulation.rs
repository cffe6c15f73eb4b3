//! The quorum of several nodes in simulation: real openraft and redb on simulated disks, clocks and network, from one seed.
//!
//! Nodes are killed, lose their power, are cut off one way or both, and stall. Whatever happens: a command that was acknowledged is in
//! every later image, images of one version are equal, a term has one leader, and once everything is healed commands are decided
//! again. `ALLUVIUM_SIM_SEED` is the first seed and `ALLUVIUM_SIM_SEEDS` their number.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::metadata::controller::machine::{ControllerSettings, Heartbeat, Wants};
use crate::metadata::error::CommandError;
use crate::metadata::snapshot;
use crate::metadata::testing::{create_topic, register};
use crate::peer::authority;
use crate::peer::rpc::{Handlers, Naming, Peers, RefusalCode, RpcError, kind, serve};
use crate::runtime::Runtime;
use crate::runtime::peers::PeerSettings;
use crate::runtime::watch;
use crate::sim::node::{Node, pass};
use crate::sim::peers::{SimNetwork, identity};
use crate::sim::{Random, number};
use crate::types::{ClusterId, Monotonic};

const PORT: u16 = 9094;
/// Longest time that passes at once.
const LONGEST: Duration = Duration::from_millis(50);
/// A request may take so long.
const LONG: Duration = Duration::from_secs(60);
/// Turns after which something that should end has not.
const PATIENCE: usize = 200_000;

type Opened = Result<Metadata, crate::metadata::MetadataError>;

/// One node and what it is doing.
struct Member {
    node_id: NodeId,
    node: Node,
    opening: Option<JoinHandle<Opened>>,
    metadata: Option<Arc<Metadata>>,
    /// It has no turns for so many more.
    stalled: u64,
}

/// What is known to have happened.
#[derive(Default)]
struct Told {
    /// Topics that were acknowledged.
    acknowledged: BTreeSet<u64>,
    asked: u64,
    failed: usize,
}

struct World {
    network: SimNetwork,
    random: Random,
    members: Vec<Member>,
    cluster_id: Option<ClusterId>,
    told: Arc<Mutex<Told>>,
    /// A hash of the image by version.
    images: BTreeMap<u64, u64>,
    /// Who led, by term.
    leaders: BTreeMap<u64, NodeId>,
}

fn address(node_id: NodeId) -> String {
    format!("node-{node_id}:{PORT}")
}

/// Opens a node's metadata with its part of the network, as a broker does.
async fn open(runtime: Runtime, node_id: NodeId, cluster_id: Option<ClusterId>) -> Opened {
    let directory = Path::new("/metadata");
    let joined = cluster_id.filter(|_| node_id != NodeId(1));
    let store = MetadataStore::open(&runtime, directory, node_id, joined).await?;
    let shown = identity("authority", &[&authority::node_name(store.cluster_id(), node_id)]);
    let bound = runtime.peers.bind(([0, 0, 0, 0], PORT).into(), shown, PeerSettings::default()).await;
    let endpoint = bound.expect("the port is free");
    let peers = Arc::new(Peers::new(runtime.clone(), endpoint, store.cluster_id(), node_id, Naming::ByNode));
    peers.set_address(NodeId(1), &address(NodeId(1)));
    let handlers = Arc::new(watch::Sender::new(Handlers::default()));
    runtime.watch.spawn(serve(Arc::clone(&peers), handlers.subscribe()));
    let plane = PeerPlane {
        peers,
        handlers,
        address: address(node_id),
        controller: ControllerSettings::default(),
        has_identity: true,
    };
    let settings = MetadataSettings { snapshot_interval_commands: 20, ..MetadataSettings::new(node_id) };
    Metadata::start(&runtime, directory, store, settings, Some(plane)).await
}

impl World {
    fn new(seed: u64, nodes: i32) -> Self {
        let network = SimNetwork::new(seed);
        let member = |number: i32| Member {
            node_id: NodeId(number),
            node: Node::new(seed ^ (u64::from(number.unsigned_abs()) << 32), &network, &format!("node-{number}")),
            opening: None,
            metadata: None,
            stalled: 0,
        };
        let members = (1..=nodes).map(member).collect();
        let (told, images, leaders) = (Arc::default(), BTreeMap::new(), BTreeMap::new());
        Self { network, random: Random::new(seed), members, cluster_id: None, told, images, leaders }
    }

    fn start(&mut self, at: usize) {
        let (cluster_id, member) = (self.cluster_id, &mut self.members[at]);
        let runtime = member.node.begin();
        member.opening = Some(member.node.spawn(open(runtime, member.node_id, cluster_id)));
    }

    /// Something happens somewhere.
    fn turn(&mut self) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            member.stalled = member.stalled.saturating_sub(1);
            if member.stalled == 0 {
                member.node.turn(&mut self.random);
            }
            if member.opening.as_ref().is_some_and(JoinHandle::is_finished) {
                let opening = member.opening.take().expect("looked at");
                let opened = member.node.take(opening);
                member.metadata = Some(Arc::new(opened.expect("metadata opens")));
            }
        }
        if self.random.chance(50) {
            pass(self.members.iter().map(|member| &member.node), &self.network, LONGEST);
        }
        self.check();
    }

    fn check(&mut self) {
        for metadata in self.members.iter().filter_map(|member| member.metadata.as_ref()) {
            let image = metadata.image();
            let mut hasher = DefaultHasher::new();
            if !self.images.contains_key(&image.version()) || self.random.chance(2) {
                snapshot::encode(&image).hash(&mut hasher);
                let hash = hasher.finish();
                let known = *self.images.entry(image.version()).or_insert(hash);
                assert_eq!(known, hash, "two images of version {}", image.version());
            }
            let metrics = metadata.raft.metrics().borrow().clone();
            if metrics.state == ServerState::Leader {
                let known = *self.leaders.entry(metrics.current_term).or_insert(metrics.id);
                assert_eq!(known, metrics.id, "two leaders of term {}", metrics.current_term);
            }
        }
    }

    /// Lets things happen until a node's task is done.
    fn until<T: Send + 'static>(&mut self, at: usize, what: &str, task: impl Future<Output = T> + Send + 'static) -> T {
        let task = self.members[at].node.spawn(task);
        for _ in 0..PATIENCE {
            if task.is_finished() {
                return self.members[at].node.take(task);
            }
            self.turn();
        }
        panic!("{what} does not end");
    }

    fn until_open(&mut self, at: usize) -> Arc<Metadata> {
        for _ in 0..PATIENCE {
            if let Some(metadata) = &self.members[at].metadata {
                return Arc::clone(metadata);
            }
            self.turn();
        }
        panic!("node {} does not open", at + 1);
    }

    /// A cluster whose nodes all vote, with one registered broker.
    fn founded(seed: u64, nodes: i32) -> Self {
        let mut world = Self::new(seed, nodes);
        world.start(0);
        let first = world.until_open(0);
        world.cluster_id = Some(first.cluster_id());
        let cluster_id = first.cluster_id();
        let of_broker = Arc::clone(&first);
        let registered = world.until(0, "a registration", async move {
            let broker = crate::metadata::command::RegisterBroker { cluster_id, ..register(1, 1) };
            of_broker.submit(Command::RegisterBroker(broker)).await
        });
        assert!(registered.is_ok(), "{registered:?}");
        for at in 1..world.members.len() {
            let (node_id, metadata) = (world.members[at].node_id, Arc::clone(&first));
            let add = MemberChange::Add { node_id, address: address(node_id) };
            assert_eq!(world.until(0, "adding a member", async move { metadata.change_members(add).await }), Ok(()));
            world.start(at);
            world.until_open(at);
        }
        let voters: BTreeSet<NodeId> = world.members.iter().map(|member| member.node_id).collect();
        let change = MemberChange::SetVoters { voters };
        assert_eq!(world.until(0, "a change of voters", async move { first.change_members(change).await }), Ok(()));
        world
    }

    /// Has a random node that runs create a topic, and remembers what becomes of it.
    fn submit(&mut self) {
        let running: Vec<usize> = (0..self.members.len()).filter(|&at| self.members[at].metadata.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let at = running[usize::try_from(self.random.below(running.len() as u64)).expect("small")];
        let metadata = Arc::clone(self.members[at].metadata.as_ref().expect("runs"));
        let told = Arc::clone(&self.told);
        let number = {
            let mut told = told.lock();
            told.asked += 1;
            told.asked
        };
        drop(self.members[at].node.spawn(async move {
            let command = create_topic(&metadata.image(), number, &format!("t{number}"), 1);
            match metadata.submit(command).await {
                Ok(_) => {
                    assert!(metadata.image().topic_named(&format!("t{number}")).is_some(), "who wrote it finds it");
                    told.lock().acknowledged.insert(number);
                }
                Err(CommandError::Rejected(rejection)) => panic!("t{number}: {rejection}"),
                Err(_) => told.lock().failed += 1,
            }
        }));
    }

    fn misfortune(&mut self) {
        let at = usize::try_from(self.random.below(self.members.len() as u64)).expect("small");
        let other = usize::try_from(self.random.below(self.members.len() as u64)).expect("small");
        let names = [&self.members[at], &self.members[other]].map(|member| member.node.name.clone());
        match self.random.below(10) {
            0 | 1 => self.end(at, false),
            2 => self.end(at, true),
            3 | 4 => self.network.cut(&names[0], &names[1]),
            5 => {
                for to in self.members.iter().map(|member| member.node.name.clone()) {
                    self.network.cut(&names[0], &to);
                    self.network.cut(&to, &names[0]);
                }
            }
            6 => self.members[at].stalled = self.random.below(3000),
            7 => self.network.reset(&names[0], &names[1]),
            _ => self.heal(),
        }
    }

    fn end(&mut self, at: usize, by_power: bool) {
        let member = &mut self.members[at];
        if !member.node.is_running() {
            self.start(at);
            return;
        }
        (member.opening, member.metadata) = (None, None);
        if by_power { member.node.cut_power() } else { member.node.kill() }
    }

    fn heal(&mut self) {
        let names: Vec<String> = self.members.iter().map(|member| member.node.name.clone()).collect();
        for from in &names {
            names.iter().for_each(|to| self.network.heal(from, to));
        }
    }

    /// Everything works again, and so does the quorum.
    fn settle(&mut self) {
        self.heal();
        for at in 0..self.members.len() {
            self.members[at].stalled = 0;
            if !self.members[at].node.is_running() {
                self.start(at);
            }
        }
        for at in 0..self.members.len() {
            self.until_open(at);
        }
        self.told.lock().asked += 1;
        let number = self.told.lock().asked;
        for attempt in 0.. {
            assert!(attempt < 5, "no command is decided in a cluster that is whole");
            let metadata = Arc::clone(self.members[0].metadata.as_ref().expect("it was opened"));
            let submitted = self.until(0, "the last command", async move {
                let command = create_topic(&metadata.image(), number, &format!("t{number}"), 1);
                metadata.submit(command).await
            });
            match submitted {
                Ok(_) | Err(CommandError::Rejected(Rejection::TopicExists { .. })) => break,
                Err(_) => {}
            }
        }
        self.told.lock().acknowledged.insert(number);
        for at in 0..self.members.len() {
            let metadata = Arc::clone(self.members[at].metadata.as_ref().expect("it was opened"));
            let (caught_up, acknowledged) = (Arc::clone(&metadata), self.told.lock().acknowledged.clone());
            self.until(at, "catching up", async move { caught_up.catch_up().await }).expect("the quorum works");
            let image = metadata.image();
            for number in acknowledged {
                assert!(image.topic_named(&format!("t{number}")).is_some(), "t{number} is lost on node {}", at + 1);
            }
        }
    }

    fn trace(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.network.trace().hash(&mut hasher);
        self.members.iter().for_each(|member| member.node.machine.trace().hash(&mut hasher));
        (&self.images, &self.leaders, &self.told.lock().acknowledged).hash(&mut hasher);
        hasher.finish()
    }
}

fn run(seed: u64) -> (u64, usize) {
    let mut world = World::founded(seed, if seed.is_multiple_of(3) { 5 } else { 3 });
    for _ in 0..3000 {
        world.turn();
        if world.random.chance(2) {
            world.submit();
        }
        if world.random.below(150) == 0 {
            world.misfortune();
        }
    }
    world.settle();
    let acknowledged = world.told.lock().acknowledged.len();
    (world.trace(), acknowledged)
}

#[test]
fn whatever_happens_to_nodes_and_network_acknowledged_commands_stay_and_the_quorum_comes_back() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    let mut acknowledged = 0;
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", 6) {
        let run = std::panic::catch_unwind(|| run(seed));
        match run {
            Ok((_, count)) => acknowledged += count,
            Err(_) => {
                panic!(
                    "replay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib metadata::raft::simulation"
                )
            }
        }
    }
    assert!(acknowledged > 20, "hardly anything was acknowledged: {acknowledged}");
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_an_election() {
    let mut world = World::founded(11, 3);
    let term = |world: &World, at: usize| {
        let metadata = world.members[at].metadata.as_ref().expect("it runs");
        metadata.raft.metrics().borrow().current_term
    };
    let leader = (0..3).find(|&at| world.members[at].metadata.as_ref().is_some_and(|it| it.leads())).expect("a leader");
    let (cut_off, before) = ((leader + 1) % 3, term(&world, leader));
    let names: Vec<String> = world.members.iter().map(|member| member.node.name.clone()).collect();
    for other in (0..3).filter(|other| *other != cut_off) {
        world.network.cut(&names[cut_off], &names[other]);
        world.network.cut(&names[other], &names[cut_off]);
    }
    for _ in 0..6000 {
        world.turn();
    }
    assert_eq!(term(&world, cut_off), before, "it asked, and nobody answered");
    world.settle();
    assert_eq!((0..3).map(|at| term(&world, at)).collect::<Vec<_>>(), [before; 3]);
}

/// What one node answers another that asks for the quorum.
fn ask(world: &mut World, from: usize, to: usize) -> Result<(), RpcError> {
    let metadata = Arc::clone(world.members[from].metadata.as_ref().expect("it runs"));
    let to = world.members[to].node_id;
    world.until(from, "a request", async move {
        let peers = metadata.peers.as_ref().expect("it has peers");
        let asked = peers.call::<_, Option<QuorumStatus>>(to, kind::QUORUM_STATUS, &(), Vec::new(), LONG);
        asked.await.map(|_| ())
    })
}

#[test]
fn a_node_that_was_removed_is_refused_by_all_and_one_that_just_came_by_nobody() {
    for seed in 40..43 {
        let mut world = World::founded(seed, 3);
        let leader =
            (0..3).find(|&at| world.members[at].metadata.as_ref().is_some_and(|it| it.leads())).expect("a leader");
        let metadata = Arc::clone(world.members[leader].metadata.as_ref().expect("it runs"));
        // One of them does not hear of it at once.
        let (late, gone) = ((leader + 1) % 3, (leader + 2) % 3);
        world.members[late].stalled = 150;
        let node_id = NodeId(4);
        let add = MemberChange::Add { node_id, address: address(node_id) };
        let of_leader = Arc::clone(&metadata);
        assert_eq!(world.until(leader, "adding a member", async move { of_leader.change_members(add).await }), Ok(()));
        let node = Node::new(seed ^ (4 << 32), &world.network, "node-4");
        world.members.push(Member { node_id, node, opening: None, metadata: None, stalled: 0 });
        world.start(3);
        world.until_open(3);
        for to in 0..3 {
            let answer = ask(&mut world, 3, to);
            assert!(answer.is_ok(), "seed {seed}: {answer:?}");
        }

        let remove = MemberChange::Remove { node_id: world.members[gone].node_id };
        let removed = world.until(leader, "removing a member", async move { metadata.change_members(remove).await });
        assert_eq!(removed, Ok(()));
        for to in [leader, late, 3] {
            let answer = ask(&mut world, gone, to);
            let Err(RpcError::Refused { refusal, .. }) = &answer else { panic!("seed {seed}: {answer:?}") };
            assert_eq!(refusal.code, RefusalCode::Removed);
        }
        // It comes back as what it was, and is told why that is over.
        world.end(gone, false);
        world.start(gone);
        let opening = world.members[gone].opening.take().expect("it was started");
        for _ in 0..PATIENCE {
            if opening.is_finished() {
                break;
            }
            world.turn();
        }
        let opened = world.members[gone].node.take(opening);
        assert!(matches!(opened, Err(crate::metadata::MetadataError::Removed)), "{opened:?}");
    }
}

#[test]
fn a_controller_that_is_cut_off_answers_no_broker_once_another_may_be_elected() {
    let mut world = World::founded(31, 3);
    let leader = (0..3).find(|&at| world.members[at].metadata.as_ref().is_some_and(|it| it.leads())).expect("a leader");
    let metadata = Arc::clone(world.members[leader].metadata.as_ref().expect("it runs"));
    let clock = world.members[leader].node.machine.runtime().clock;
    let node_id = NodeId(1);
    let broker_epoch = metadata.image().broker(node_id).expect("it is registered").epoch;
    // When a heartbeat was answered, if it was.
    let beat = |world: &mut World| {
        let (metadata, clock) = (Arc::clone(&metadata), Arc::clone(&clock));
        let (applied_version, offline_directories) = (metadata.image().version(), Vec::new());
        let heartbeat = Heartbeat { node_id, broker_epoch, applied_version, wants: Wants::Serve, offline_directories };
        world.until(leader, "a heartbeat", async move {
            metadata.heartbeat(heartbeat).await.is_ok().then(|| clock.monotonic())
        })
    };
    assert!((0..1000).any(|_| beat(&mut world).is_some()), "it is answered while all is well");
    let names: Vec<String> = world.members.iter().map(|member| member.node.name.clone()).collect();
    for other in (0..3).filter(|other| *other != leader) {
        world.network.cut(&names[leader], &names[other]);
        world.network.cut(&names[other], &names[leader]);
    }
    let began = clock.monotonic();
    let answered: Vec<Monotonic> = (0..3000).filter_map(|_| beat(&mut world)).collect();
    let last = answered.last().expect("it does not know at once").since(began);
    assert!(last < Duration::from_millis(1500), "{last:?}");
    assert!(clock.monotonic().since(began) > Duration::from_secs(5), "it was asked for long enough");
    world.settle();
}

#[test]
fn a_leader_whose_process_is_killed_is_followed_within_a_second() {
    for seed in 20..26 {
        let mut world = World::founded(seed, 3);
        let leader =
            (0..3).find(|&at| world.members[at].metadata.as_ref().is_some_and(|it| it.leads())).expect("a leader");
        world.end(leader, false);
        let at = (leader + 1) % 3;
        let clock = world.members[at].node.machine.runtime().clock;
        let (began, metadata) = (clock.monotonic(), Arc::clone(world.members[at].metadata.as_ref().expect("it runs")));
        let submitted = world.until(at, "a command", async move {
            // The first may have been on its way to the leader.
            let first = metadata.submit(create_topic(&metadata.image(), 1, "after", 1)).await;
            match first {
                Err(CommandError::TimedOut) => metadata.submit(create_topic(&metadata.image(), 2, "again", 1)).await,
                settled => settled,
            }
        });
        assert!(submitted.is_ok(), "{submitted:?}");
        let took = clock.monotonic().since(began);
        assert!(took < Duration::from_secs(1), "seed {seed}: {took:?}");
    }
}
