//! The memory of readers: what archived data may take while it is fetched, decoded and held for whoever asked for it.
//!
//! Whoever needs memory waits in turn, so that no reader is passed over; one that needs more than there is gets all of it.
//! What is taken is given back when it is dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Gauge;

/// Memory is counted in units of this size.
const UNIT_BYTES: u64 = 64 << 10;

/// See the module; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ReadMemory {
    units: Arc<Semaphore>,
    all: u32,
    used_bytes: Gauge,
}

impl ReadMemory {
    /// So many bytes, at least one unit; `used_bytes` shows what is taken.
    pub(super) fn new(bytes: u64, used_bytes: Gauge) -> Self {
        let all = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Self { units: Arc::new(Semaphore::new(all as usize)), all, used_bytes }
    }

    /// Takes memory, in turn.
    pub(super) async fn take(&self, bytes: u64) -> TakenMemory {
        let permit = Arc::clone(&self.units).acquire_many_owned(self.units_for(bytes)).await;
        self.taken(permit.expect("the semaphore is never closed"))
    }

    /// Takes memory if there is enough and nobody waits for it.
    pub(super) fn try_take(&self, bytes: u64) -> Option<TakenMemory> {
        Arc::clone(&self.units).try_acquire_many_owned(self.units_for(bytes)).ok().map(|permit| self.taken(permit))
    }

    fn units_for(&self, bytes: u64) -> u32 {
        units(bytes).min(self.all)
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> TakenMemory {
        let taken = TakenMemory { permit, used_bytes: self.used_bytes.clone() };
        taken.used_bytes.inc_by(taken.bytes());
        taken
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1)
}

/// Memory that was taken, until dropped.
#[derive(Debug)]
pub struct TakenMemory {
    permit: OwnedSemaphorePermit,
    used_bytes: Gauge,
}

impl TakenMemory {
    fn bytes(&self) -> i64 {
        self.permit.num_permits() as i64 * UNIT_BYTES.cast_signed()
    }

    /// Gives back what is beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let excess = self.permit.num_permits().saturating_sub(units(bytes) as usize);
        let before = self.bytes();
        drop(self.permit.split(excess));
        self.used_bytes.dec_by(before - self.bytes());
    }
}

impl Drop for TakenMemory {
    fn drop(&mut self) {
        self.used_bytes.dec_by(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn memory_is_given_in_turn_and_comes_back() {
        let used = Gauge::default();
        let memory = ReadMemory::new(10 * UNIT_BYTES, used.clone());
        let mut first = memory.take(6 * UNIT_BYTES).now_or_never().unwrap();
        let mut large = Box::pin(memory.take(8 * UNIT_BYTES));
        assert!(large.as_mut().now_or_never().is_none());
        // Two units are free, but someone waits.
        assert!(memory.take(1).now_or_never().is_none());
        assert!(memory.try_take(1).is_none());
        first.shrink_to(UNIT_BYTES + 1);
        assert_eq!(used.get(), 2 * 65536);
        let large = large.now_or_never().unwrap();
        drop(first);
        drop(large);
        assert_eq!(used.get(), 0);
        let all = memory.take(1 << 40).now_or_never().unwrap();
        assert!(memory.try_take(1).is_none());
        drop(all);
        assert!(memory.try_take(1).is_some());
    }
}
