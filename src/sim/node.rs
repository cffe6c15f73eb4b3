//! One process of a simulated cluster: its machine, its place in the network, and a tokio runtime of its own, so that a process
//! that is killed takes its tasks along and no other's. Tests only.
//!
//! Nothing runs by itself: a test gives each node its turns ([`Node::turn`]) and lets time pass for all of them together
//! ([`pass`]).

use std::time::Duration;

use tokio::task::{JoinHandle, yield_now};

use super::peers::SimNetwork;
use super::{Machine, Random};
use crate::runtime::Runtime;

/// Times that the tasks of a node are looked at in one turn.
const LOOKS: usize = 4;

/// See the module.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    tokio: Option<tokio::runtime::Runtime>,
}

impl Node {
    /// A machine that is up, without a process.
    pub(crate) fn new(seed: u64, network: &SimNetwork, name: &str) -> Self {
        Self { name: name.to_owned(), machine: Machine::in_network(seed, network.host(name)), tokio: None }
    }

    /// Begins a process on it, which has no task yet.
    pub(crate) fn begin(&mut self) -> Runtime {
        let tokio = tokio::runtime::Builder::new_current_thread().build();
        self.tokio = Some(tokio.expect("a runtime without drivers takes nothing but memory"));
        self.machine.runtime()
    }

    /// Whether a process runs.
    pub(crate) fn is_running(&self) -> bool {
        self.tokio.is_some()
    }

    /// Gives the process a task.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tokio.as_ref().expect("a process runs").spawn(task)
    }

    /// What an ended task gave.
    pub(crate) fn take<T>(&self, task: JoinHandle<T>) -> T {
        assert!(task.is_finished());
        self.tokio.as_ref().expect("a process runs").block_on(task).expect("the task did not panic")
    }

    /// Lets some of the process's tasks and at most one of its lanes go on.
    pub(crate) fn turn(&self, random: &mut Random) {
        if self.is_running() && random.chance(70) {
            self.machine.tasks.run_one(random);
        }
        self.turn_without_lanes();
    }

    /// Lets some of the process's tasks go on, and none of its lanes, as while its disk is slow.
    pub(crate) fn turn_without_lanes(&self) {
        let Some(tokio) = &self.tokio else { return };
        tokio.block_on(async {
            for _ in 0..LOOKS {
                yield_now().await;
            }
        });
    }

    /// The process is gone, without a word; its disk has all that was written.
    pub(crate) fn kill(&mut self) {
        // First: the order in which its tasks are dropped is not the same in every run, and concerns nobody else then.
        self.machine.kill();
        self.tokio = None;
    }

    /// The machine loses its power.
    pub(crate) fn cut_power(&mut self) {
        self.machine.power_cut();
        self.tokio = None;
    }
}

/// Lets time pass for all until somebody has to wake up or something arrives, at most for so long.
pub(crate) fn pass<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, network: &SimNetwork, longest: Duration) {
    let waits = nodes.clone().filter_map(|node| node.machine.until_next()).chain(network.until_next());
    let wait = waits.min().map_or(longest, |wait| wait.min(longest));
    nodes.for_each(|node| node.machine.pass(wait));
    network.pass(wait);
}
