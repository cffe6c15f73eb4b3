//! openraft's runtime: tokio's tasks, with time and randomness from our seams.
//!
//! openraft asks its runtime for the time, and for random election time-outs, through functions that know no node. Here
//! every task of a Raft node carries the clock of [`on_seams`] and a generator of its own, descended from one seed: the same
//! seed and the same clock give the same run, whatever else happens in the process.

use std::cell::Cell;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::{AsyncRuntime, TokioRuntime};
use rand_core::{RngCore, impls};

use crate::runtime::Runtime;
use crate::runtime::clock::{Clock, Elapsed, Sleep};
use crate::types::Monotonic;

/// What a task of a Raft node carries.
struct Seams {
    clock: Arc<dyn Clock>,
    random: Cell<u64>,
}

tokio::task_local! {
    static SEAMS: Seams;
}

/// tokio on our seams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OnSeams;

/// Runs a future, and the Raft tasks that it starts, on a machine's clock and with a seed from its entropy.
pub(super) fn on_seams<F: Future>(runtime: &Runtime, future: F) -> impl Future<Output = F::Output> {
    SEAMS.scope(Seams { clock: Arc::clone(&runtime.clock), random: Cell::new(runtime.entropy.number()) }, future)
}

/// The clock of the current task. Outside a Raft node there is none: openraft's own tests of storage get by with zeros.
fn clock() -> Option<Arc<dyn Clock>> {
    SEAMS.try_with(|seams| Arc::clone(&seams.clock)).ok()
}

/// The generator of the current task: splitmix64 (Steele, Lea, Flood 2014), ample for time-outs and not for secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskGenerator;

impl RngCore for TaskGenerator {
    fn next_u64(&mut self) -> u64 {
        let draw = |seams: &Seams| {
            let state = &seams.random;
            state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let z = state.get();
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        SEAMS.try_with(draw).unwrap_or(0)
    }

    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        impls::fill_bytes_via_next(self, bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// A reading of the current task's stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RaftInstant(Monotonic);

impl openraft::Instant for RaftInstant {
    fn now() -> Self {
        Self(clock().map_or_else(Monotonic::default, |clock| clock.monotonic()))
    }
}

impl Add<Duration> for RaftInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(Monotonic::default() + self.0.since(Monotonic::default() + duration))
    }
}

impl Sub for RaftInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

/// A future with a limit. Its like in `runtime::clock` has no name that [`AsyncRuntime`] could be told.
pub(super) struct Timeout<T> {
    future: Pin<Box<T>>,
    sleep: Sleep,
}

impl<T: Future> Future for Timeout<T> {
    type Output = Result<T::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    }
}

impl AsyncRuntime for OnSeams {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = RaftInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = TaskGenerator;
    type OneshotSender<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match clock() {
            Some(clock) => {
                let random = Cell::new(TaskGenerator.next_u64());
                TokioRuntime::spawn(SEAMS.scope(Seams { clock, random }, future))
            }
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        match clock() {
            Some(clock) => clock.sleep(duration),
            None => Box::pin(std::future::pending()),
        }
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline - <RaftInstant as openraft::Instant>::now())
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TaskGenerator
    }

    fn oneshot<T: Send>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Machine;

    #[tokio::test]
    async fn tasks_draw_from_the_entropy_and_read_the_clock_of_their_node() {
        let draw = async |seed| {
            let machine = Machine::new(seed);
            machine.pass_ms(seed);
            let task = async {
                let now = <RaftInstant as openraft::Instant>::now();
                OnSeams::spawn(async move { (OnSeams::thread_rng().next_u64(), now) }).await.unwrap()
            };
            on_seams(&machine.runtime(), task).await
        };
        assert_eq!(draw(1).await, draw(1).await);
        assert_ne!(draw(1).await.0, draw(2).await.0);
        assert_eq!(draw(2).await.1 - draw(1).await.1, Duration::from_millis(1));
    }
}
