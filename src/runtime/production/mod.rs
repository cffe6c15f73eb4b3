//! The production twins of the seams: the real clock, kernel, file system, TCP and threads.

mod clock;
mod disk;
mod net;
mod tasks;
#[cfg(debug_assertions)]
mod unsynced;

pub use clock::{KernelEntropy, SystemClock};
pub use disk::LocalDisk;
pub use net::Tcp;
pub use tasks::Threads;
#[cfg(debug_assertions)]
pub use unsynced::UnsyncedDisk;
