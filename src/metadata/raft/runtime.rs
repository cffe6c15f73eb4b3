//! openraft's runtime: tokio, with the randomness of election time-outs taken from a seed.
//!
//! openraft draws election time-outs from its runtime's generator, by default one per thread that the kernel seeds, which
//! no simulation can repeat. Here every task of a Raft node carries a generator of its own, descended from the seed that
//! [`with_seed`] gave the node: the same seed gives the same time-outs, whatever else runs in the process.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, TokioInstant, TokioRuntime};
use rand_core::{RngCore, impls};

tokio::task_local! {
    static STATE: Cell<u64>;
}

/// tokio with seeded randomness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SeededRuntime;

/// Runs a future, and the Raft tasks that it starts, with randomness from a seed.
pub(super) fn with_seed<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    STATE.scope(Cell::new(seed), future)
}

/// The generator of the current task: splitmix64 (Steele, Lea, Flood 2014), ample for time-outs and not for secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskGenerator;

impl RngCore for TaskGenerator {
    fn next_u64(&mut self) -> u64 {
        let draw = |state: &Cell<u64>| {
            state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let z = state.get();
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        // Outside a Raft node there is no seed: openraft's own tests of storage get by with zeros.
        STATE.try_with(draw).unwrap_or(0)
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

impl AsyncRuntime for SeededRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = TaskGenerator;
    type OneshotSender<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(with_seed(TaskGenerator.next_u64(), future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
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

    #[tokio::test]
    async fn tasks_draw_from_the_seed_of_their_node() {
        let draw = |seed| {
            with_seed(seed, async {
                SeededRuntime::spawn(async { SeededRuntime::thread_rng().next_u64() }).await.unwrap()
            })
        };
        assert_eq!(draw(1).await, draw(1).await);
        assert_ne!(draw(1).await, draw(2).await);
    }
}
