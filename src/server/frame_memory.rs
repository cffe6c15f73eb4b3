//! The memory that requests may hold, of all connections together.
//!
//! A request takes its share as its bytes arrive, not as its length claims: a client that announces a large request and does
//! not send it, or sends it slowly, holds what it has sent and nobody up. Half of all may be taken in large steps, which is
//! how large requests are read with few calls; beyond that only small steps are given.
//!
//! Requests that have arrived in part could wait for each other's memory for ever. So one of them at a time may go past the
//! limit, to its end: what is held in all is the limit and one request.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::acquire;
use crate::telemetry::{Gauge, MemoryPool, TakenMemory};

/// What is given at a time while most is free.
const LARGE_STEP_BYTES: usize = 1 << 20;
/// What is given at a time otherwise: most requests are smaller.
const SMALL_STEP_BYTES: usize = 16 << 10;

/// See the module.
pub(super) struct FrameMemory {
    pool: MemoryPool,
    overdraft: Arc<Semaphore>,
}

/// What a request holds; given back when dropped.
#[derive(Default)]
pub(super) struct FrameShare {
    taken: Option<TakenMemory>,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl FrameMemory {
    /// Memory of so many bytes; `used_bytes` shows what is taken.
    pub(super) fn new(bytes: usize, used_bytes: Gauge) -> Self {
        // Anything smaller could not give a large step.
        let pool = MemoryPool::new(bytes.max(LARGE_STEP_BYTES), used_bytes);
        Self { pool, overdraft: Arc::new(Semaphore::new(1)) }
    }

    /// Takes memory for the next bytes of a request of which that many are missing; returns for how many.
    pub(super) async fn grow(&self, share: &mut FrameShare, missing_bytes: usize) -> usize {
        let is_relaxed = self.pool.free_bytes() >= self.pool.all_bytes() / 2;
        let step = missing_bytes.min(if is_relaxed { LARGE_STEP_BYTES } else { SMALL_STEP_BYTES });
        match &mut share.taken {
            None => share.taken = Some(self.pool.take(step).await),
            Some(_) if share.overdraft.is_some() => {}
            Some(taken) => tokio::select! {
                biased;
                more = self.pool.take(step) => taken.merge(more),
                right = acquire(&self.overdraft, 1) => share.overdraft = Some(right),
            },
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMIT: usize = 8 * LARGE_STEP_BYTES;

    /// Takes as much as is given without waiting.
    fn grow_at_once(memory: &FrameMemory, share: &mut FrameShare, missing: usize) -> Option<usize> {
        memory.grow(share, missing).now_or_never()
    }

    #[test]
    fn announcing_much_takes_little() {
        let memory = FrameMemory::new(LIMIT, Gauge::default());
        let mut shares: Vec<FrameShare> = (0..100).map(|_| FrameShare::default()).collect();
        let given: Vec<_> = shares.iter_mut().map(|share| grow_at_once(&memory, share, LIMIT)).collect();
        assert_eq!(given[..5], [Some(LARGE_STEP_BYTES); 5]);
        assert_eq!(given[5..], [Some(SMALL_STEP_BYTES); 95]);
        assert_eq!(grow_at_once(&memory, &mut FrameShare::default(), 1000), Some(1000));
    }

    #[test]
    fn requests_that_arrived_in_part_do_not_wait_for_each_other_for_ever() {
        let memory = FrameMemory::new(LIMIT, Gauge::default());
        let mut shares: Vec<FrameShare> = (0..3).map(|_| FrameShare::default()).collect();
        // All are read at the same pace, until one is given the rest and the others wait.
        let mut read = [0; 3];
        while shares.iter().filter(|share| share.overdraft.is_some()).count() == 0 {
            for (share, read) in shares.iter_mut().zip(&mut read) {
                *read += grow_at_once(&memory, share, LIMIT - *read).unwrap_or(0);
            }
        }
        let first = shares.iter().position(|share| share.overdraft.is_some()).unwrap();
        assert!(read.iter().all(|read| *read < LIMIT) && read.iter().sum::<usize>() >= LIMIT - SMALL_STEP_BYTES);
        assert_eq!(grow_at_once(&memory, &mut FrameShare::default(), SMALL_STEP_BYTES), None);
        let other = (first + 1) % 3;
        assert_eq!(grow_at_once(&memory, &mut shares[other], LIMIT), None);
        while read[first] < LIMIT {
            read[first] +=
                grow_at_once(&memory, &mut shares[first], LIMIT - read[first]).expect("it may go past the limit");
        }
        shares[first] = FrameShare::default();
        assert!(grow_at_once(&memory, &mut shares[other], LIMIT).is_some());
    }
}
