//! The simulated machine: clock, entropy, disk and lanes of one process, all driven by one seed. Tests only.
//!
//! A [`Machine`] stands in for the real one behind [`Runtime`]. Its disk forgets at a power cut what was not synced, tears
//! what was being written, and can be told to fail; its lanes run only when the test says so, in an order drawn from the seed.
//! Same seed, same run: tests compare the [`Machine::trace`] of two runs.

mod clock;
mod damage;
mod disk;
pub(crate) mod node;
pub(crate) mod peers;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use damage::damaged;
pub(crate) use disk::{DiskCopy, Lies, Operation, SimDisk};
pub(crate) use tasks::SimTasks;

use crate::runtime::Runtime;
use crate::runtime::entropy::Entropy;
use crate::runtime::net::{BoxFuture, Listener, Net, Stream};
use crate::runtime::peers::{Lifeline, PeerEndpoint, PeerIdentity, PeerNet, PeerSettings};
use crate::runtime::tasks::TaskWatch;
use clock::SimClock;
use peers::SimHost;

/// SplitMix64: small, fast, and good enough to draw test cases from.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of 100 cases.
    pub(crate) const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A number that the environment gives, as to how many seeds run.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct SimEntropy(Mutex<Random>);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut random = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The log and the archive use no sockets.
struct NoNet;

impl Net for NoNet {
    fn bind(&self, _: std::net::SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn Listener>>> {
        Box::pin(std::future::ready(Err(std::io::ErrorKind::Unsupported.into())))
    }

    fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Box<dyn Stream>>> {
        Box::pin(std::future::ready(Err(std::io::ErrorKind::Unsupported.into())))
    }
}

/// A machine that is not attached to a network of brokers.
impl PeerNet for NoNet {
    fn bind(
        &self,
        _: std::net::SocketAddr,
        _: PeerIdentity,
        _: PeerSettings,
    ) -> BoxFuture<'_, std::io::Result<Arc<dyn PeerEndpoint>>> {
        Box::pin(std::future::ready(Err(std::io::ErrorKind::Unsupported.into())))
    }

    fn lifeline<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Box<dyn Lifeline>>> {
        Box::pin(std::future::ready(Err(std::io::ErrorKind::Unsupported.into())))
    }
}

/// One simulated machine. The disk outlives its processes.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) tasks: Arc<SimTasks>,
    clock: SimClock,
    entropy: Arc<SimEntropy>,
    /// Its place among brokers.
    host: Option<SimHost>,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(seed ^ 0x5eed),
            tasks: Arc::new(SimTasks::default()),
            clock: SimClock::default(),
            entropy: Arc::new(SimEntropy(Mutex::new(Random::new(seed ^ 0xe17)))),
            host: None,
        }
    }

    /// A machine that reaches others. Their network has a time of its own, which the test lets pass beside the machine's.
    pub(crate) fn in_network(seed: u64, host: SimHost) -> Self {
        Self { host: Some(host), ..Self::new(seed) }
    }

    /// The seams, for a process that starts on this machine.
    pub(crate) fn runtime(&self) -> Runtime {
        let peers: Arc<dyn PeerNet> = match &self.host {
            Some(host) => {
                host.power_on();
                Arc::new(host.clone())
            }
            None => Arc::new(NoNet),
        };
        Runtime {
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::clone(&self.entropy) as _,
            disk: Arc::new(self.disk.clone()),
            net: Arc::new(NoNet),
            peers,
            tasks: Arc::clone(&self.tasks) as _,
            watch: TaskWatch::default(),
        }
    }

    /// Lets time pass.
    pub(crate) fn pass_ms(&self, ms: u64) {
        self.clock.pass(Duration::from_millis(ms));
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, duration: Duration) {
        self.clock.pass(duration);
    }

    /// Time until somebody has to wake up.
    pub(crate) fn until_next(&self) -> Option<Duration> {
        self.clock.until_next()
    }

    /// Sets the wall clock to so much ahead of the time that passed.
    pub(crate) fn set_wall(&self, offset_ms: i64) {
        self.clock.set_wall(offset_ms);
    }

    /// Lets time pass until somebody has to wake up, at most for so long.
    pub(crate) fn pass_until_next(&self, longest: Duration) {
        self.clock.pass(self.clock.until_next().map_or(longest, |wait| wait.min(longest)));
    }

    /// From now on journals go on, now and then, while somebody else waits for the disk to change something; until the process
    /// ends.
    pub(crate) fn let_journals_go_on(&self, seed: u64) {
        // The lanes hold the disk, which is not to hold them in turn.
        let (tasks, mut random) = (Arc::downgrade(&self.tasks), Random::new(seed));
        self.disk.meanwhile(move |operation, path| {
            // Whoever syncs one of its files holds the journal.
            let is_held = operation == Operation::Sync && path.extension().is_some_and(|found| found == "journal");
            if let Some(tasks) = tasks.upgrade()
                && !is_held
                && random.chance(30)
            {
                tasks.run_named(&mut random, "journal");
            }
            Ok(())
        });
    }

    /// Cuts the power: lanes are gone, the disk keeps what was durable and pieces of the rest.
    pub(crate) fn power_cut(&self) {
        if let Some(host) = &self.host {
            host.power_off();
        }
        self.tasks.forget_all();
        self.clock.forget_all();
        self.disk.power_cut();
    }

    /// Ends the process alone: the disk keeps everything that was written.
    pub(crate) fn kill(&self) {
        if let Some(host) = &self.host {
            host.kill();
        }
        self.tasks.forget_all();
        self.clock.forget_all();
        self.disk.restart();
    }

    /// A hash of everything that the disk was asked to do so far.
    pub(crate) fn trace(&self) -> u64 {
        self.disk.trace()
    }
}
