//! The memory that requests may hold, of all connections together.
//!
//! A request takes its share as its bytes arrive, not as its length claims: a client that announces a large request and does
//! not send it, or sends it slowly, holds what it has sent and nobody up. Half of all may be taken in large steps, which is
//! how large requests are read with few calls; beyond that only small steps are given.
//!
//! Requests that have arrived in part could wait for each other's memory for ever. So one of them at a time may go past the
//! limit, to its end: what is held in all is the limit and one request.
//!
//! Where memory is scarce, others miss what a connection holds: its requests do not wait for records then, and a client that
//! does not go on with what it began is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::acquire;
use crate::telemetry::{Gauge, MemoryPool, TakenMemory};

/// What is given at a time while most is free.
const LARGE_STEP_BYTES: usize = 1 << 20;
/// What is given at a time otherwise: most requests are smaller.
const SMALL_STEP_BYTES: usize = 16 << 10;

/// A connection's requests are counted in units of this size.
const UNIT_BYTES: usize = 1024;

/// See the module.
pub(super) struct FrameMemory {
    pool: MemoryPool,
    overdraft: Arc<Semaphore>,
}

/// What the requests of one connection hold.
pub(super) struct ConnectionMemory {
    own: Arc<Semaphore>,
    all: u32,
    frames: Arc<FrameMemory>,
    /// Its client sends nothing any more.
    has_ended: AtomicBool,
}

/// A request's share of the memory of its connection, and of all; given back when dropped.
pub(super) struct RequestMemory {
    own: OwnedSemaphorePermit,
    share: FrameShare,
}

impl RequestMemory {
    /// Gives back what is beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let excess = self.own.num_permits().saturating_sub(units(bytes) as usize);
        drop(self.own.split(excess));
        if let Some(taken) = &mut self.share.taken {
            // What went past the limit and stays is still the one request that may.
            if taken.bytes() >= bytes {
                self.share.overdraft = None;
            }
            taken.shrink_to(bytes);
        }
    }
}

/// Units for that many bytes.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1)
}

impl ConnectionMemory {
    /// Of a connection whose requests may hold that much.
    pub(super) fn new(bytes: usize, frames: Arc<FrameMemory>) -> Self {
        let all = units(bytes);
        Self { own: Arc::new(Semaphore::new(all as usize)), all, frames, has_ended: AtomicBool::new(false) }
    }

    /// Waits until the connection may hold a request of so many bytes, and begins it; [`Self::grow`] gives it memory.
    pub(super) async fn begin(&self, bytes: usize) -> RequestMemory {
        RequestMemory { own: acquire(&self.own, units(bytes).min(self.all)).await, share: FrameShare::default() }
    }

    /// Takes memory for the next bytes of a request of which that many are missing; returns for how many.
    pub(super) async fn grow(&self, memory: &mut RequestMemory, missing_bytes: usize) -> usize {
        self.frames.grow(&mut memory.share, missing_bytes).await
    }

    /// Takes memory for what a request decodes to, beside its bytes.
    pub(super) async fn add(&self, memory: &mut RequestMemory, bytes: usize) {
        let room = self.all.saturating_sub(u32::try_from(memory.own.num_permits()).unwrap_or(u32::MAX));
        memory.own.merge(acquire(&self.own, units(bytes).min(room)).await);
        let mut granted = 0;
        while granted < bytes {
            granted += self.grow(memory, bytes - granted).await;
        }
    }

    /// Notes that the client sends nothing any more.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Whether the client sends nothing any more, and so may be gone.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether memory is scarce and this connection holds more of it than small requests do, or has announced that it will.
    pub(super) fn is_missed(&self) -> bool {
        let held = (self.all as usize).saturating_sub(self.own.available_permits()) * UNIT_BYTES;
        held > SMALL_STEP_BYTES && self.frames.pool.is_scarce()
    }
}

/// What a request holds of the memory of all; given back when dropped.
#[derive(Default)]
struct FrameShare {
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
    async fn grow(&self, share: &mut FrameShare, missing_bytes: usize) -> usize {
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
    fn what_a_connection_holds_is_bounded_and_missed_where_memory_is_scarce() {
        let frames = Arc::new(FrameMemory::new(LIMIT, Gauge::default()));
        let connection = |bytes| ConnectionMemory::new(bytes, Arc::clone(&frames));
        let (small, large) = (connection(LIMIT), connection(LIMIT));
        let request = |of: &ConnectionMemory, bytes, decoded_bytes| {
            let mut memory = of.begin(bytes).now_or_never()?;
            of.add(&mut memory, decoded_bytes).now_or_never().map(|()| memory)
        };
        let _one = request(&small, 1000, 0).unwrap();
        let mut first = request(&large, 1000, LIMIT / 2).unwrap();
        assert!(!large.is_missed(), "there is enough for all");
        // What requests decode to counts for their connection, too.
        assert!(request(&large, LIMIT / 2, 0).is_none(), "more than the connection may hold");
        let _second = request(&large, 1000, LIMIT / 2 - 4000).unwrap();
        assert!(large.is_missed() && !small.is_missed(), "small requests are waited for");
        first.shrink_to(1000);
        assert!(!large.is_missed() && frames.pool.free_bytes() > LIMIT / 2 - 10_000);
        assert!(request(&large, LIMIT / 4, 0).is_some(), "its connection has it again, too");
        // A request that is larger than its connection's share takes all of it, and waits for nothing more.
        let tight = connection(UNIT_BYTES);
        assert!(request(&tight, 10 * UNIT_BYTES, 10 * UNIT_BYTES).is_some());
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
