//! Replication at work: the partitions that this broker leads go to its followers, and what others lead comes here.
//!
//! - [`replica`]: one partition, its part among the replicas, and its log; [`leading`]: what it has while it leads.
//! - [`link`]: the way to a follower; [`flows`]: what is said there next; [`throttle`]: how fast, where that is bounded.
//! - [`intake`]: what leaders send here.
//!
//! `Partitions` makes a [`Replica`] of each log that it opens and has it follow the image; the machines of `crate::replication`
//! decide. Nothing is kept here over a crash: a process takes part once its image has its own registration, and begins with what its
//! logs have (decision 0075).

mod flows;
mod intake;
mod leading;
mod link;
mod replica;
mod throttle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(super) use replica::Replica;

use intake::{Intake, Outbox};
use link::Link;
use throttle::{Taken, Throttle};

use super::partitions::LocalTopic;
use super::readers::Readers;
use crate::log::PartitionLog;
use crate::metadata::Metadata;
use crate::peer::rpc::{Peers, TakesStreams};
use crate::replication::leader::LeaderSettings;
use crate::replication::message::{LeaderSays, Message};
use crate::replication::window::Turn;
use crate::runtime::Runtime;
use crate::runtime::clock::Interval;
use crate::telemetry::Metrics;
use crate::types::{BrokerEpoch, NodeId, TopicPartition};

/// How often leaders look at who lags.
const TICK: Duration = Duration::from_millis(500);
/// Words of leaders that wait for an image; what is beyond is said again.
const MAX_EARLY: usize = 100_000;

/// How this broker replicates.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicationSettings {
    /// How patient leaders are.
    pub(super) leader: LeaderSettings,
    /// Connections to each follower.
    pub(super) connections: u16,
}

/// What replicas share.
pub(super) struct Shared {
    runtime: Runtime,
    node_id: NodeId,
    broker_epoch: BrokerEpoch,
    metadata: Arc<Metadata>,
    peers: Arc<Peers>,
    readers: Arc<Readers>,
    metrics: Arc<Metrics>,
    settings: ReplicationSettings,
    links: Mutex<Links>,
    throttle: Mutex<Throttle>,
    /// Logs tell of what happened to them on lanes of their own.
    tasks: Handle,
}

#[derive(Default)]
struct Links {
    links: BTreeMap<(NodeId, u16), Arc<Link>>,
    tasks: Vec<JoinHandle<()>>,
    is_stopped: bool,
}

/// A word of a leader that knows more than the newest image here.
struct Early {
    from: NodeId,
    message: Message<LeaderSays>,
    session: Arc<Outbox>,
}

/// See the module.
pub(super) struct Replicator {
    shared: Arc<Shared>,
    replicas: RwLock<BTreeMap<TopicPartition, Arc<Replica>>>,
    early: Mutex<Vec<Early>>,
}

impl std::fmt::Debug for Replicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replicator({})", self.shared.node_id)
    }
}

impl Shared {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.watch.spawn_on(&self.tasks, task)
    }

    /// Takes room for what a turn of one that catches up may send; there may be none for now.
    fn take_room(&self, follower: NodeId, turn: Turn) -> Option<Taken> {
        let (now, image) = (self.runtime.clock.monotonic(), self.metadata.image());
        self.throttle.lock().take(now, &image, follower, turn.partition, turn.max_bytes)
    }

    /// The link to a follower that a partition takes.
    fn link(self: &Arc<Self>, follower: NodeId, partition: TopicPartition) -> Arc<Link> {
        let turn = u128::from_be_bytes(*partition.topic_id.as_bytes()) % u128::from(self.settings.connections);
        let turn = turn + u128::from(partition.partition.get().unsigned_abs());
        let turn = u16::try_from(turn % u128::from(self.settings.connections)).expect("a remainder of a small number");
        let mut links = self.links.lock();
        let Links { links, tasks, is_stopped } = &mut *links;
        let link = links.entry((follower, turn)).or_insert_with(|| {
            // Connection 0 is for requests.
            let link = Arc::new(Link::new(follower, 1 + turn));
            if !*is_stopped {
                tasks.push(self.spawn(Arc::clone(&link).run(Arc::clone(self))));
            }
            link
        });
        Arc::clone(link)
    }
}

/// What a broker has that replicates.
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) broker_epoch: BrokerEpoch,
    pub(super) metadata: Arc<Metadata>,
    pub(super) peers: Arc<Peers>,
    pub(super) readers: Arc<Readers>,
    pub(super) metrics: Arc<Metrics>,
}

impl Replicator {
    /// Of a broker whose registration is in its image.
    pub(super) fn new(parts: Parts, settings: ReplicationSettings) -> Arc<Self> {
        let Parts { runtime, broker_epoch, metadata, peers, readers, metrics } = parts;
        let (node_id, links, tasks) = (metadata.node_id(), Mutex::default(), Handle::current());
        let throttle = Mutex::new(Throttle::new(node_id));
        let shared = Arc::new(Shared {
            runtime,
            node_id,
            broker_epoch,
            metadata,
            peers,
            readers,
            metrics,
            settings,
            links,
            throttle,
            tasks,
        });
        Arc::new(Self { shared, replicas: RwLock::default(), early: Mutex::default() })
    }

    const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What takes leaders' streams.
    pub(super) fn intake(self: &Arc<Self>) -> Arc<dyn TakesStreams> {
        Arc::new(Intake(Arc::clone(self)))
    }

    /// Makes a replica of a log that was opened.
    pub(super) fn open(&self, topic: &Arc<LocalTopic>, log: &Arc<PartitionLog>) -> Arc<Replica> {
        let replica = Replica::new(&self.shared, topic, log);
        self.replicas.write().insert(replica.id(), Arc::clone(&replica));
        replica
    }

    /// Lets go of a replica whose log is deleted.
    pub(super) fn forget(&self, id: TopicPartition) {
        self.replicas.write().remove(&id);
    }

    /// Takes a word of a leader.
    fn hear(&self, from: NodeId, message: Message<LeaderSays>, session: &Arc<Outbox>) {
        let Err(message) = self.try_hear(from, message, session) else { return };
        // With this locked, the image that it waits for is either in effect, or looks here once it is.
        let mut early = self.early.lock();
        if let Err(message) = self.try_hear(from, message, session) {
            let (partition, leader_epoch) = (message.partition, message.leader_epoch);
            if early.len() < MAX_EARLY {
                early.push(Early { from, message, session: Arc::clone(session) });
            } else {
                session.refuse_unprepared(partition, leader_epoch);
            }
        }
    }

    /// The same, unless the newest image that is in effect is older than the word.
    fn try_hear(
        &self,
        from: NodeId,
        message: Message<LeaderSays>,
        session: &Arc<Outbox>,
    ) -> Result<(), Message<LeaderSays>> {
        let replica = self.replicas.read().get(&message.partition).cloned();
        match replica {
            Some(replica) => replica.hear(from, message, session),
            None if matches!(message.says, LeaderSays::Lead(_)) => Err(message),
            // Of a partition that has gone.
            None => Ok(()),
        }
    }

    /// Takes the words that came before the image that they were about. Those that still are too early are said again.
    pub(super) fn hear_early(&self) {
        for Early { from, message, session } in std::mem::take(&mut *self.early.lock()) {
            let (partition, leader_epoch) = (message.partition, message.leader_epoch);
            if self.try_hear(from, message, &session).is_err() {
                session.refuse_unprepared(partition, leader_epoch);
            }
        }
    }

    /// Has leaders look at who lags, for as long as the broker runs.
    pub(super) async fn tick_forever(self: Arc<Self>) {
        let mut interval = Interval::new(&self.shared.runtime.clock, TICK);
        loop {
            interval.tick().await;
            let replicas: Vec<_> = self.replicas.read().values().cloned().collect();
            let mut under_replicated = 0;
            for replica in replicas {
                replica.tick();
                under_replicated += i64::from(replica.is_under_replicated());
            }
            self.shared.metrics.replication.under_replicated.set(under_replicated);
        }
    }

    /// Ends all sessions, and lets go of all logs.
    pub(super) fn stop(&self) {
        let tasks = {
            let mut links = self.shared.links.lock();
            links.is_stopped = true;
            links.links.values().for_each(|link| link.clear());
            links.links.clear();
            std::mem::take(&mut links.tasks)
        };
        tasks.iter().for_each(JoinHandle::abort);
        self.replicas.write().clear();
        self.early.lock().clear();
    }
}
