//! One broker of the cluster: its machine, and the life that it is in.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::planted::Planted;
use super::wiring::{FIRST, SECOND, Shown, host, put_certificate, settings};
use super::{Check, PANICKED};
use crate::archive::store::simulated::SimBucket;
use crate::archive::store::{Store, Unobserved};
use crate::broker::{Broker, StartError};
use crate::metadata::MetadataStore;
use crate::sim::node::Node;
use crate::sim::peers::SimNetwork;
use crate::sim::{DiskCopy, Random};
use crate::telemetry::Metrics;
use crate::types::{ClusterId, NodeId};

type Opened = Result<Arc<Broker>, StartError>;

/// What its process is doing.
enum Process {
    /// There is none.
    Down,
    Opening(JoinHandle<Opened>),
    Up(Arc<Broker>),
    /// Others are to lead what it leads.
    Draining(Arc<Broker>, JoinHandle<()>),
    Closing(JoinHandle<()>),
}

/// See the module.
pub(super) struct Member {
    pub(super) number: i32,
    pub(super) node: Node,
    /// Tells its processes apart.
    pub(super) life: u64,
    process: Process,
    /// It stands still for so many turns.
    pub(super) stalled: u64,
    /// Its disk hardly does anything for so many turns.
    pub(super) slow: u64,
}

/// Whether a start may fail so in a cluster where anything may happen; whoever runs brokers starts it again.
fn is_passing(error: &StartError) -> bool {
    match error {
        StartError::Registration(_) | StartError::Archive { .. } => true,
        StartError::Metadata { error, .. } => !error.is_damage(),
        _ => false,
    }
}

impl Member {
    /// One of several, on a machine that is up.
    pub(super) fn new(seed: u64, network: &SimNetwork, number: i32, planted: Planted) -> Self {
        let seed = seed ^ (u64::from(number.unsigned_abs()) << 32);
        let node = Node::new(seed, network, &host(number));
        node.machine.disk.set_lies(planted.disk_lies());
        put_certificate(&node.machine.disk);
        Self { number, node, life: 0, process: Process::Down, stalled: 0, slow: 0 }
    }

    pub(super) const fn node_id(&self) -> NodeId {
        NodeId(self.number)
    }

    /// The broker, while it serves.
    pub(super) const fn broker(&self) -> Option<&Arc<Broker>> {
        match &self.process {
            Process::Up(broker) | Process::Draining(broker, _) => Some(broker),
            Process::Down | Process::Opening(_) | Process::Closing(_) => None,
        }
    }

    pub(super) const fn is_down(&self) -> bool {
        matches!(self.process, Process::Down)
    }

    /// Whether it serves and means to go on.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.process, Process::Up(_))
    }

    /// Makes its metadata one that joined a cluster, as it would have been let in by the token.
    pub(super) fn prepare(&mut self, cluster_id: ClusterId) -> JoinHandle<Check> {
        let (runtime, node_id) = (self.node.begin(), self.node_id());
        self.node.spawn(async move {
            let directory = Path::new(FIRST).join("metadata");
            let opened = MetadataStore::open(&runtime, &directory, node_id, Some(cluster_id)).await;
            opened.map(|_| ()).map_err(|error| error.to_string())
        })
    }

    /// Begins a process that opens the broker.
    pub(super) fn start(&mut self, brokers: usize, bucket: &SimBucket) {
        self.life += 1;
        let mut runtime = self.node.begin();
        runtime.peers = Arc::new(Shown::new(runtime.peers, self.number));
        let bucket = bucket.clone();
        let opened = Broker::open_with(
            runtime,
            settings(self.number, brokers),
            Metrics::new(),
            move |runtime, settings, _| {
                Ok(Store::over(runtime, Arc::new(bucket), settings.store.clone(), Arc::new(Unobserved)))
            },
            |reader| reader,
        );
        self.process = Process::Opening(self.node.spawn(opened));
    }

    /// Lets it go in good order.
    pub(super) fn leave(&mut self) {
        if let Process::Up(broker) = &self.process {
            let (broker, drained) = (Arc::clone(broker), Arc::clone(broker));
            let draining = self.node.spawn(async move { drained.drain().await });
            self.process = Process::Draining(broker, draining);
        }
    }

    /// Its process is gone.
    pub(super) fn kill(&mut self) {
        self.end(Node::kill);
    }

    /// Its machine loses the power.
    pub(super) fn cut_power(&mut self) {
        self.end(Node::cut_power);
    }

    fn end(&mut self, end: impl FnOnce(&mut Node)) {
        let process = std::mem::replace(&mut self.process, Process::Down);
        end(&mut self.node);
        // Nothing that it still does as it is dropped gets anywhere.
        drop(process);
        (self.stalled, self.slow) = (0, 0);
    }

    /// Its second data directory is gone, while it is down.
    pub(super) fn lose_second(&mut self) {
        self.node.machine.disk.put_back(Path::new(SECOND), &DiskCopy::default());
    }

    /// Something happens on it.
    pub(super) fn turn(&mut self, random: &mut Random) -> Check {
        self.slow = self.slow.saturating_sub(1);
        if self.stalled > 0 {
            self.stalled -= 1;
            return Ok(());
        }
        if self.slow > 0 && random.chance(95) {
            self.node.turn_without_lanes();
        } else {
            self.node.turn(random);
        }
        if !self.node.machine.disk.is_powered() {
            // Whatever came of it in the process.
            PANICKED.set(false);
            self.cut_power();
            return Ok(());
        }
        self.go_on()
    }

    /// What it was doing may be done.
    fn go_on(&mut self) -> Check {
        match std::mem::replace(&mut self.process, Process::Down) {
            Process::Opening(opening) if opening.is_finished() => match self.node.take(opening) {
                Ok(broker) => self.process = Process::Up(broker),
                Err(error) if is_passing(&error) => self.kill(),
                Err(error) => return Err(format!("broker {} does not start: {error}: {error:?}", self.number)),
            },
            Process::Draining(broker, draining) if draining.is_finished() => {
                let closing = async move {
                    broker.stop_waiting();
                    broker.shutdown().await;
                };
                self.process = Process::Closing(self.node.spawn(closing));
            }
            Process::Closing(closing) if closing.is_finished() => self.kill(),
            same => self.process = same,
        }
        Ok(())
    }
}
