//! The seams to the outside world: clock, entropy, disk, network, peers and tasks, each a small trait with a production twin.
//!
//! Everything above this layer takes a [`Runtime`] and reaches the machine through it alone, so that a simulation can
//! stand in for the machine: same seed, same run. `std::fs`, `std::time::SystemTime`, threads and random numbers are
//! used nowhere else (`tests/tidy.rs` holds that). The twins hold no state that matters after a crash.

pub mod buffer;
pub mod clock;
pub mod disk;
pub mod entropy;
pub mod net;
pub mod peers;
pub mod production;
pub mod tasks;
pub mod watch;

use std::sync::Arc;

use clock::Clock;
use disk::Disk;
use entropy::Entropy;
use net::Net;
use peers::PeerNet;
use tasks::{TaskWatch, Tasks};

/// One handle to each seam; cheap to clone, passed down at construction.
#[derive(Clone)]
pub struct Runtime {
    /// Wall clock and stopwatch.
    pub clock: Arc<dyn Clock>,
    /// Random bytes, for identities and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Files and directories.
    pub disk: Arc<dyn Disk>,
    /// Stream sockets.
    pub net: Arc<dyn Net>,
    /// Connections among brokers.
    pub peers: Arc<dyn PeerNet>,
    /// Worker lanes.
    pub tasks: Arc<dyn Tasks>,
    /// Over the tasks that nobody awaits.
    pub watch: TaskWatch,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

impl Runtime {
    /// The real machine: system clock, kernel entropy, local files, TCP, QUIC and threads.
    pub fn production() -> Self {
        Self {
            clock: Arc::new(production::SystemClock::new()),
            entropy: Arc::new(production::KernelEntropy),
            disk: Arc::new(production::LocalDisk),
            net: Arc::new(production::Tcp),
            peers: Arc::new(production::Quic),
            tasks: Arc::new(production::Threads),
            watch: TaskWatch::default(),
        }
    }

    /// The real machine with a disk on which syncs do nothing, for the test of the power-cut test. Not in release builds.
    #[cfg(debug_assertions)]
    pub fn without_syncing() -> Self {
        Self { disk: Arc::new(production::UnsyncedDisk), ..Self::production() }
    }
}
