//! How long a disk still takes at the pace at which it fills, for whoever has to bring a bucket back in time. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Monotonic;

/// The pace is that of so long.
const WINDOW: Duration = Duration::from_secs(600);
/// Time between two observations that are remembered; no pace is told before as much has passed.
const STEP: Duration = Duration::from_secs(30);
/// The longest that is told: thirty days, also for a disk that does not fill.
const LONGEST_S: u64 = 30 * 24 * 3600;

/// What one disk had room for lately.
#[derive(Debug, Default)]
pub(super) struct Filling {
    seen: VecDeque<(Monotonic, u64)>,
    last: Option<u64>,
}

impl Filling {
    /// What was told last.
    pub(super) fn last(&self) -> u64 {
        self.last.unwrap_or(LONGEST_S)
    }

    /// Takes note of the bytes that a disk has room for, those counted that can go from it; returns in how many seconds there
    /// are none.
    pub(super) fn observe(&mut self, now: Monotonic, room_bytes: u64) -> u64 {
        let seconds = self.seconds(now, room_bytes);
        self.last = Some(seconds);
        seconds
    }

    fn seconds(&mut self, now: Monotonic, room_bytes: u64) -> u64 {
        while self.seen.front().is_some_and(|&(at, _)| now.since(at) > WINDOW) {
            self.seen.pop_front();
        }
        if self.seen.back().is_none_or(|&(at, _)| now.since(at) >= STEP) {
            self.seen.push_back((now, room_bytes));
        }
        let Some(&(since, before)) = self.seen.front() else { return LONGEST_S };
        let (elapsed, lost) = (now.since(since), before.saturating_sub(room_bytes));
        if lost == 0 || elapsed < STEP {
            return LONGEST_S;
        }
        let seconds = u128::from(room_bytes) * elapsed.as_millis() / u128::from(lost) / 1000;
        u64::try_from(seconds).unwrap_or(u64::MAX).min(LONGEST_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn the_end_of_a_disk_is_told_from_its_pace_and_forgotten_with_it() {
        let mut filling = Filling::default();
        assert_eq!(filling.observe(at(0), 10_000 * MIB), LONGEST_S);
        assert_eq!(filling.observe(at(10), 9_990 * MIB), LONGEST_S, "too early to tell");
        // A mebibyte a second.
        for second in 30..5000 {
            assert_eq!(filling.observe(at(second), (10_000 - second) * MIB), 10_000 - second);
        }
        // Now nothing comes any more.
        for second in 5000..5600 {
            assert!(filling.observe(at(second), 5000 * MIB) >= 5000);
        }
        assert_eq!(filling.observe(at(5700), 5000 * MIB), LONGEST_S);
        assert_eq!(filling.observe(at(5800), 6000 * MIB), LONGEST_S, "room was made");
        assert_eq!(filling.observe(at(5830), 0), 0);
        assert!(filling.seen.len() <= 22, "{}", filling.seen.len());
    }

    #[test]
    fn observations_that_come_rarely_say_nothing() {
        let mut filling = Filling::default();
        for hour in 0..10 {
            assert_eq!(filling.observe(at(hour * 3600), (100 - hour) * MIB), LONGEST_S);
        }
    }
}
