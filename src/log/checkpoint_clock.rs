//! When a checkpoint is due, and of which kind (decisions 0002 and 0005). Pure.

use std::time::Duration;

use super::journal::ReplayPosition;
use super::settings::DirectorySettings;
use crate::types::Monotonic;

/// What a checkpoint writes for a partition that got a small batch, about.
const PAGE_BYTES: u64 = 4096;
/// The longest wait for a checkpoint to be worth it, in checkpoint intervals.
const LONGEST_INTERVALS: u32 = 10;
/// Light checkpoints may write so much, and take one part in so many of the time.
const LIGHT_BYTES_PER_SECOND: u64 = 64 << 10;
const SPACING_FACTOR: u32 = 50;

/// Which checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// None.
    No,
    /// One that makes sealed segments certain, and leaves the journal as it is.
    Light,
    /// One that writes and syncs everything, so that the journal may forget it.
    Full,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// A full checkpoint at once.
    pub full: bool,
    /// A light one soon.
    pub light: bool,
}

/// See the module.
#[derive(Debug)]
pub struct CheckpointClock {
    /// The last of either kind, and the last full one.
    last: Monotonic,
    last_full: Monotonic,
    /// Least time from the last to a light one.
    spacing: Duration,
    /// Where replay starts, and bytes written to the journal since.
    position: ReplayPosition,
    journal_bytes: u64,
}

impl CheckpointClock {
    /// Begins at a start of the directory, whose replay began at `position`.
    pub const fn new(now: Monotonic, position: ReplayPosition) -> Self {
        Self { last: now, last_full: now, spacing: Duration::ZERO, position, journal_bytes: 0 }
    }

    /// Takes note of bytes written to the journal.
    pub const fn note_written(&mut self, bytes: usize) {
        self.journal_bytes += bytes as u64;
    }

    /// Where replay would start, and the bytes written to the journal since.
    pub const fn replay(&self) -> (ReplayPosition, u64) {
        (self.position, self.journal_bytes)
    }

    /// What is due, with so many partitions changed. A full checkpoint rewrites a page or so of each: when its time has come
    /// it waits until the journal has gathered as much.
    pub fn due(&self, now: Monotonic, changed: usize, wish: Wish, settings: &DirectorySettings) -> Due {
        let (elapsed, interval) = (now.since(self.last_full), settings.checkpoint_interval);
        let is_worth_it = self.journal_bytes >= changed as u64 * PAGE_BYTES || elapsed >= interval * LONGEST_INTERVALS;
        let is_time = self.journal_bytes > 0 && elapsed >= interval && is_worth_it;
        if wish.full || is_time || self.journal_bytes >= settings.checkpoint_bytes {
            return Due::Full;
        }
        if wish.light && now.since(self.last) >= self.spacing { Due::Light } else { Due::No }
    }

    /// A checkpoint of so many bytes that took so long is durable; the journal is needed from `position` on, which leaves
    /// `journal_bytes` fewer to replay.
    pub fn note(&mut self, now: Monotonic, bytes: u64, took: Duration, position: ReplayPosition, journal_bytes: u64) {
        self.last = now;
        self.spacing = Duration::from_secs(bytes / LIGHT_BYTES_PER_SECOND).max(took * SPACING_FACTOR);
        if position != self.position || journal_bytes > 0 {
            self.last_full = now;
        }
        self.position = position;
        self.journal_bytes -= journal_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::default() + Duration::from_secs(seconds)
    }

    fn settings() -> DirectorySettings {
        DirectorySettings { checkpoint_interval: Duration::from_secs(30), ..DirectorySettings::default() }
    }

    #[test]
    fn a_trickle_to_many_partitions_waits_until_a_checkpoint_is_worth_it() {
        let mut clock = CheckpointClock::new(at(0), ReplayPosition::START);
        let due =
            |clock: &CheckpointClock, seconds, changed| clock.due(at(seconds), changed, Wish::default(), &settings());
        assert_eq!(due(&clock, 1000, 0), Due::No, "nothing was written");
        clock.note_written(1 << 20);
        assert_eq!(due(&clock, 29, 5), Due::No);
        assert_eq!(due(&clock, 30, 5), Due::Full);
        assert_eq!(due(&clock, 30, 10_000), Due::No);
        assert_eq!(due(&clock, 300, 10_000), Due::Full, "at last");
        clock.note_written(40 << 20);
        assert_eq!(due(&clock, 30, 10_000), Due::Full);
        clock.note_written(200 << 20);
        assert_eq!(due(&clock, 1, 1_000_000), Due::Full, "the journal has grown");
    }

    #[test]
    fn light_checkpoints_come_at_once_in_a_small_directory_and_seldom_in_a_large_one() {
        let mut clock = CheckpointClock::new(at(0), ReplayPosition::START);
        let light = Wish { light: true, ..Wish::default() };
        let due = |clock: &CheckpointClock, seconds| clock.due(at(seconds), 1, light, &settings());
        clock.note(at(0), 1000, Duration::ZERO, ReplayPosition::START, 0);
        assert_eq!(due(&clock, 0), Due::Light);
        clock.note(at(0), 2 * MIB, Duration::ZERO, ReplayPosition::START, 0);
        assert_eq!((due(&clock, 31), due(&clock, 32)), (Due::No, Due::Light));
        clock.note(at(0), 1000, Duration::from_millis(200), ReplayPosition::START, 0);
        assert_eq!((due(&clock, 9), due(&clock, 10)), (Due::No, Due::Light));
        assert_eq!(clock.due(at(0), 1, Wish { full: true, ..light }, &settings()), Due::Full);
    }
}
