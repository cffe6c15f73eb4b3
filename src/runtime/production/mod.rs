//! The production twins of the seams: the real clock, kernel, file system, TCP, QUIC and threads.

mod clock;
mod disk;
mod lifeline;
mod net;
mod quic;
mod tasks;
mod tls;
#[cfg(debug_assertions)]
mod unsynced;

pub use clock::{KernelEntropy, SystemClock};
pub use disk::LocalDisk;
pub use net::Tcp;
pub use quic::Quic;
pub use tasks::Threads;
#[cfg(debug_assertions)]
pub use unsynced::UnsyncedDisk;
