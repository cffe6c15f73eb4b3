//! Memory that is given out up to a bound, and shows in the metrics what is taken of it.
//!
//! Each share of the memory budget is one pool or a few. Whoever needs memory waits in turn, so that nobody is passed over;
//! one that needs more than there is gets all of it. What is taken is given back when it is dropped.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Gauge;

/// Memory is counted in units of this size.
const UNIT_BYTES: usize = 1024;
/// Memory is scarce when less than this part of it is free.
const SCARCE_PART: usize = 8;

/// See the module; cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    free: Semaphore,
    all: u32,
    used_bytes: Gauge,
}

impl MemoryPool {
    /// So many bytes, at least one unit; `used_bytes` shows what is taken, of all pools that share it.
    pub fn new(bytes: usize, used_bytes: Gauge) -> Self {
        let all = units(bytes).max(1);
        Self(Arc::new(Pool { free: Semaphore::new(all as usize), all, used_bytes }))
    }

    /// Takes memory, in turn.
    pub async fn take(&self, bytes: usize) -> TakenMemory {
        let units = units(bytes).min(self.0.all);
        self.0.free.acquire_many(units).await.expect("the semaphore is never closed").forget();
        self.taken(units)
    }

    /// Takes memory if there is enough and nobody waits for it.
    pub fn try_take(&self, bytes: usize) -> Option<TakenMemory> {
        let units = units(bytes).min(self.0.all);
        self.0.free.try_acquire_many(units).ok()?.forget();
        Some(self.taken(units))
    }

    fn taken(&self, units: u32) -> TakenMemory {
        let taken = TakenMemory { pool: self.clone(), units };
        self.0.used_bytes.inc_by(gauge_bytes(units));
        taken
    }

    /// Bytes that nobody has taken.
    pub fn free_bytes(&self) -> usize {
        self.0.free.available_permits() * UNIT_BYTES
    }

    /// Bytes in all.
    pub fn all_bytes(&self) -> usize {
        self.0.all as usize * UNIT_BYTES
    }

    /// Whether little is left for others.
    pub fn is_scarce(&self) -> bool {
        self.free_bytes() < self.all_bytes() / SCARCE_PART
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(1 << 28)
}

fn gauge_bytes(units: u32) -> i64 {
    i64::from(units) * UNIT_BYTES as i64
}

/// Memory that was taken, until dropped.
#[derive(Debug)]
pub struct TakenMemory {
    pool: MemoryPool,
    units: u32,
}

impl TakenMemory {
    /// How much it is.
    pub const fn bytes(&self) -> usize {
        self.units as usize * UNIT_BYTES
    }

    /// Whether little is left in its pool for others.
    pub fn is_scarce(&self) -> bool {
        self.pool.is_scarce()
    }

    /// Holds what another of the same pool holds, too.
    pub fn merge(&mut self, mut other: Self) {
        assert!(Arc::ptr_eq(&self.pool.0, &other.pool.0), "memory is merged with memory of its pool");
        self.units += std::mem::take(&mut other.units);
    }

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.units.saturating_sub(units(bytes));
        self.give_back(excess);
    }

    fn give_back(&mut self, units: u32) {
        self.units -= units;
        self.pool.0.used_bytes.dec_by(gauge_bytes(units));
        self.pool.0.free.add_permits(units as usize);
    }
}

impl Drop for TakenMemory {
    fn drop(&mut self) {
        self.give_back(self.units);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn memory_is_given_in_turn_and_comes_back() {
        let used = Gauge::default();
        let pool = MemoryPool::new(10 * UNIT_BYTES, used.clone());
        let mut first = pool.take(6 * UNIT_BYTES).now_or_never().unwrap();
        assert_eq!((pool.free_bytes(), pool.all_bytes()), (4 * UNIT_BYTES, 10 * UNIT_BYTES));
        let mut large = Box::pin(pool.take(8 * UNIT_BYTES));
        assert!(large.as_mut().now_or_never().is_none());
        // Four units are free, but someone waits.
        assert!(pool.take(1).now_or_never().is_none());
        assert!(pool.try_take(1).is_none());
        first.shrink_to(UNIT_BYTES + 1);
        assert_eq!(used.get(), 2 * UNIT_BYTES as i64);
        let mut large = large.now_or_never().unwrap();
        large.merge(first);
        assert_eq!(used.get(), 10 * UNIT_BYTES as i64);
        drop(large);
        assert_eq!((used.get(), pool.free_bytes()), (0, 10 * UNIT_BYTES));
        let all = pool.take(1 << 40).now_or_never().unwrap();
        assert!(pool.try_take(1).is_none() && pool.try_take(0).is_some());
        drop(all);
        assert!(pool.try_take(1).is_some());
    }

    #[test]
    fn waiting_in_vain_takes_nothing() {
        let used = Gauge::default();
        let pool = MemoryPool::new(10 * UNIT_BYTES, used.clone());
        let held = pool.take(UNIT_BYTES).now_or_never().unwrap();
        let mut waiting = Box::pin(pool.take(10 * UNIT_BYTES));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        drop(held);
        assert_eq!((used.get(), pool.free_bytes()), (0, 10 * UNIT_BYTES));
    }
}
