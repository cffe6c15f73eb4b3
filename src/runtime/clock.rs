//! The clock seam. Drivers read it and hand `now` to pure machines, which never ask for the time themselves.
//!
//! Waiting goes through it too, by [`Clock::sleep`], [`timeout`] and [`Interval`], so that a simulation decides how time
//! passes. Nothing below `server` uses tokio's own timers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;

use crate::types::{Monotonic, Timestamp};

/// Resolves when a time has passed.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Source of both kinds of time.
pub trait Clock: Send + Sync {
    /// The stopwatch: never goes back.
    fn monotonic(&self) -> Monotonic;

    /// The calendar: may jump either way; only for what users see and for retention, never for durations.
    fn wall(&self) -> Timestamp;

    /// Waits for so long by the stopwatch, from this call on.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The time of a [`timeout`] ran out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the time ran out")]
pub struct Elapsed;

/// Waits for a future, but no longer than `limit` from its first wait on.
///
/// # Errors
/// [`Elapsed`]; the future is dropped then.
pub async fn timeout<F: Future>(clock: &dyn Clock, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        let sleep = sleep.get_or_insert_with(|| clock.sleep(limit));
        sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}

/// Ticks at once, and then with at least a period between two ticks, however long is done between them.
pub struct Interval {
    clock: Arc<dyn Clock>,
    period: Duration,
    next: Monotonic,
}

impl Interval {
    /// Ticks every `period`.
    pub fn new(clock: &Arc<dyn Clock>, period: Duration) -> Self {
        Self { clock: Arc::clone(clock), period, next: clock.monotonic() }
    }

    /// Waits for the next tick.
    pub async fn tick(&mut self) {
        let wait = self.next.since(self.clock.monotonic());
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        self.next = self.clock.monotonic() + self.period;
    }

    /// Has the next tick come after `wait`.
    pub fn reset_after(&mut self, wait: Duration) {
        self.next = self.clock.monotonic() + wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::production::SystemClock;

    #[tokio::test]
    async fn a_timeout_ends_what_takes_longer_and_nothing_else() {
        let clock = SystemClock::new();
        let limit = Duration::from_millis(1);
        assert_eq!(timeout(&clock, limit, std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(timeout(&clock, Duration::ZERO, std::future::ready(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn an_interval_ticks_at_once_and_then_keeps_its_distance() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let period = Duration::from_millis(5);
        let mut interval = Interval::new(&clock, period);
        interval.tick().await;
        for _ in 0..3 {
            let before = clock.monotonic();
            interval.tick().await;
            assert!(clock.monotonic().since(before) >= period - Duration::from_millis(1));
        }
    }
}
