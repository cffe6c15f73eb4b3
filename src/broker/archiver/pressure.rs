//! The loop that looks at the disks and at the archive's backlog, and sets how fast producers may write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Archiver;
use crate::broker::Broker;
use crate::broker::throttle::Pressure;
use crate::runtime::clock::Interval;
use crate::runtime::disk::Space;

/// How often the limit is set.
const INTERVAL: Duration = Duration::from_secs(1);
/// The reserve is never more than this part of a file system, so that small ones work too.
const RESERVE_PART: u64 = 20;
/// Producers are slowed down when less than so many reserves are left beyond the reserve.
const SCARCE_RESERVES: u64 = 4;
/// Archived segments go when fewer reserves than this are free, before anybody is slowed down.
const EVICT_RESERVES: u64 = 6;

/// The room on the file system of one data directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    available_bytes: u64,
    reserve_bytes: u64,
}

impl Room {
    fn new(space: Space, free_bytes: u64) -> Self {
        Self { available_bytes: space.available_bytes, reserve_bytes: free_bytes.min(space.total_bytes / RESERVE_PART) }
    }

    /// Bytes that archived segments should give back.
    pub(super) fn missing_bytes(&self) -> u64 {
        (self.reserve_bytes * EVICT_RESERVES).saturating_sub(self.available_bytes)
    }

    /// Bytes that may still be written.
    fn room_bytes(&self) -> u64 {
        self.available_bytes.saturating_sub(self.reserve_bytes)
    }
}

impl Broker {
    /// Keeps the producers' limit up to date for as long as the broker runs.
    pub(in crate::broker) async fn throttle_forever(self: Arc<Self>, archiver: Arc<Archiver>) {
        let mut interval = Interval::new(&self.runtime().clock, INTERVAL);
        let mut limited = false;
        loop {
            interval.tick().await;
            let Some(least) = self.spaces(&archiver).await.into_iter().min_by_key(Room::room_bytes) else { continue };
            self.metrics.log.available_bytes.set(i64::try_from(least.available_bytes).unwrap_or(i64::MAX));
            let pressure = Pressure {
                unarchived_bytes: archiver.progress.waiting_bytes.load(Ordering::Relaxed),
                archived_bytes: archiver.progress.archived_bytes.load(Ordering::Relaxed),
                room_bytes: least.room_bytes(),
                scarce_bytes: least.reserve_bytes * SCARCE_RESERVES,
            };
            let limit = self.throttle.lock().observe(self.runtime.clock.monotonic(), pressure);
            if limit.is_some() != limited {
                limited = limit.is_some();
                match limit {
                    Some(bytes_per_second) => tracing::warn!(
                        bytes_per_second,
                        unarchived_bytes = pressure.unarchived_bytes,
                        room_bytes = pressure.room_bytes,
                        "producers are slowed down: the archive or the disk does not keep up"
                    ),
                    None => tracing::info!("producers are not slowed down any more"),
                }
            }
        }
    }

    /// The room for each data directory, in their order; one whose file system does not answer counts as having plenty.
    pub(super) async fn spaces(&self, archiver: &Archiver) -> Vec<Room> {
        let disk = Arc::clone(&self.runtime.disk);
        let paths: Vec<_> = self.directories().iter().map(|directory| directory.path().to_owned()).collect();
        let free_bytes = archiver.settings.free_bytes;
        let look = move || {
            let plenty = Space { total_bytes: 0, available_bytes: u64::MAX };
            paths.iter().map(|path| Room::new(disk.space(path).unwrap_or(plenty), free_bytes)).collect()
        };
        archiver.workers.run(look).await
    }
}
