//! The system's clocks and the kernel's random source.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::runtime::clock::{Clock, Sleep};
use crate::runtime::entropy::Entropy;
use crate::types::{Monotonic, Timestamp};

/// The system's wall clock, and a stopwatch that started with this value.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the stopwatch.
    #[expect(clippy::disallowed_methods, reason = "the production twin of the clock seam")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the production twin of the clock seam")]
    fn wall(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The kernel's random source.
#[derive(Clone, Copy, Debug)]
pub struct KernelEntropy;

impl Entropy for KernelEntropy {
    #[expect(clippy::disallowed_methods, reason = "the production twin of the entropy seam")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel gives entropy once it has booted");
    }
}
