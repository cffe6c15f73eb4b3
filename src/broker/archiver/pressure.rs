//! The loop that looks at the disks and at the archive's backlog, and sets how fast producers may write. What makes room on a
//! disk that runs short, one after the other as it gets shorter: rebuilt chunks, archived segments and active ones that are sealed
//! early to be archived, slower producers, and at last none: what is left of the reserve is not for them.

use std::path::PathBuf;
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
/// Producers that were held back go on once so large a part of the reserve is free beyond it.
const RESUME_PART: u64 = 8;
/// Archived segments go when fewer reserves than this are free, before anybody is slowed down.
const EVICT_RESERVES: u64 = 6;
/// Rebuilt chunks go when fewer reserves than this are free, before any segment does.
const CACHE_RESERVES: u64 = 7;

/// The room on the file system of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    available_bytes: u64,
    reserve_bytes: u64,
}

impl Room {
    fn new(space: Space, free_bytes: u64) -> Self {
        // There are file systems that answer with zeros.
        let available_bytes = if space.total_bytes == 0 { u64::MAX } else { space.available_bytes };
        Self { available_bytes, reserve_bytes: free_bytes.min(space.total_bytes / RESERVE_PART) }
    }

    /// Bytes that archived segments should give back.
    pub(super) fn missing_bytes(&self) -> u64 {
        (self.reserve_bytes * EVICT_RESERVES).saturating_sub(self.available_bytes)
    }

    /// Bytes of rebuilt chunks that may be kept where `used_bytes` of them are, and `most_bytes` at most.
    fn cache_bytes(&self, used_bytes: u64, most_bytes: u64) -> u64 {
        let free_bytes = self.available_bytes.saturating_add(used_bytes);
        free_bytes.saturating_sub(self.reserve_bytes * CACHE_RESERVES).min(most_bytes)
    }

    /// Bytes that may still be written.
    pub(super) fn room_bytes(&self) -> u64 {
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
            let rooms = self.spaces(&archiver).await;
            self.hold_producers(&rooms);
            let Some(fullest) = rooms.iter().min_by_key(|room| room.room_bytes()) else { continue };
            self.metrics.log.available_bytes.set(i64::try_from(fullest.available_bytes).unwrap_or(i64::MAX));
            // A disk to which nothing is produced slows nobody down who produces to another.
            let open = self.directories().iter().zip(&rooms).filter(|(directory, _)| !directory.holds_producers());
            let least = open.map(|(_, room)| room).min_by_key(|room| room.room_bytes()).unwrap_or(fullest);
            let pressure = Pressure {
                unarchived_bytes: archiver.progress.waiting_bytes.load(Ordering::Relaxed),
                archived_bytes: archiver.progress.archived_bytes.load(Ordering::Relaxed),
                room_bytes: least.room_bytes(),
                scarce_bytes: least.reserve_bytes * SCARCE_RESERVES,
            };
            archiver.note_urgency(pressure.is_urgent());
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

    /// Nothing more is produced to a disk of which only the reserve is left: that is for what has to be written all the same.
    fn hold_producers(&self, rooms: &[Room]) {
        for (directory, room) in self.directories().iter().zip(rooms) {
            // With some distance between the two, or both would happen every second.
            let enough_bytes = if directory.holds_producers() { room.reserve_bytes / RESUME_PART } else { 0 };
            let holds = room.room_bytes() <= enough_bytes;
            if directory.hold_producers(holds) {
                let (path, available_bytes) = (directory.path().display(), room.available_bytes);
                if holds {
                    tracing::error!(%path, available_bytes, "only the reserve of the disk is left: producers wait until there is room");
                } else {
                    tracing::info!(%path, available_bytes, "there is room again: producers go on");
                }
            }
        }
    }

    /// The room for each data directory, in their order.
    pub(super) async fn spaces(&self, archiver: &Archiver) -> Vec<Room> {
        archiver.rooms(self.directories().iter().map(|directory| directory.path().to_owned()).collect()).await
    }
}

impl Archiver {
    /// The room for each directory; one whose file system does not answer counts as having plenty.
    async fn rooms(&self, paths: Vec<PathBuf>) -> Vec<Room> {
        let (disk, free_bytes) = (Arc::clone(&self.runtime.disk), self.settings.free_bytes);
        let look = move || {
            let unknown = Space { total_bytes: 0, available_bytes: 0 };
            paths.iter().map(|path| Room::new(disk.space(path).unwrap_or(unknown), free_bytes)).collect()
        };
        self.local.run(look).await
    }

    /// Makes the cache of rebuilt chunks as small as its disk asks for, or as large as it may be.
    pub(super) async fn fit_cache(&self) {
        let cache = self.reader.cache();
        for room in self.rooms(vec![self.settings.cache_directory.clone()]).await {
            cache.set_budget(room.cache_bytes(cache.bytes(), self.settings.cache_bytes), &self.local).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rebuilt_chunks_go_before_segments_and_producers_and_come_back() {
        let room = |available_bytes| Room::new(Space { total_bytes: 2000, available_bytes }, 100);
        assert_eq!(room(1000).cache_bytes(300, 500), 500, "all of it while there is room");
        assert_eq!(room(800).cache_bytes(300, 500), 400, "it may take what is free beyond the mark");
        assert_eq!(room(650).cache_bytes(300, 500), 250, "it gives what is missing");
        assert_eq!(room(650 + 50).cache_bytes(250, 500), 250, "and then stays so");
        assert_eq!(room(650).missing_bytes(), 0, "no segment goes meanwhile");
        assert_eq!(room(300).cache_bytes(300, 500), 0);
        assert_eq!(room(u64::MAX).cache_bytes(300, 500), 500);
        let unknown = Room::new(Space { total_bytes: 0, available_bytes: 0 }, 100);
        assert_eq!((unknown.room_bytes(), unknown.missing_bytes(), unknown.cache_bytes(300, 500)), (u64::MAX, 0, 500));
    }
}
