//! Slows producers down, smoothly and all together, long before the archive's backlog or a disk comes to its end. Pure.
//!
//! Two glides set the rate: how much waits for the archive, beside how fast the archive has been going; and how much room is
//! left on the fullest disk. The rate never reaches zero while there is room. As with Kafka's quotas (KIP-124, KIP-219) a
//! request is answered at once, says for how long its producer is throttled, and nothing more is read from its connection
//! for as long: producers that ignore the answer are slowed down too.

use std::time::Duration;

use crate::archive::planner::{Backlog, produce_limit};
use crate::types::Monotonic;

/// Bytes that may pass at once after a pause, as time at the limit: smooths what producers send in batches.
const BURST: Duration = Duration::from_millis(250);
/// The longest that one request silences its connection. Clients give up after 30 seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// With the archive standing still, producers get the room that is left within this time, and so never all of it.
const ARCHIVE_HORIZON_S: u64 = 3600;
/// The same for a disk that nothing makes room on.
const DISK_HORIZON_S: u64 = 60;
/// What the archive is taken to do at a start; what it is seen to do takes the place of that within a minute.
const FIRST_ARCHIVE_RATE: u64 = 8 << 20;
/// Weight of the newest observation of the archive's speed, in percent: about a minute of observations counts.
const NEWEST_PERCENT: u64 = 5;
const NANOS: i128 = 1_000_000_000;

/// What the limit is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pressure {
    /// Sealed bytes that only the local disks have, although they are to be archived.
    pub(super) unarchived_bytes: u64,
    /// Bytes archived so far by this process.
    pub(super) archived_bytes: u64,
    /// Bytes that may still be written to the fullest disk that takes records, before its reserve is touched.
    pub(super) room_bytes: u64,
    /// Room below which producers are slowed down, whatever the archive does.
    pub(super) scarce_bytes: u64,
}

impl Pressure {
    fn backlog(&self) -> Backlog {
        let whole = self.room_bytes.saturating_add(self.unarchived_bytes);
        Backlog { comfortable_bytes: whole / 4, full_bytes: whole / 4 * 3 }
    }

    /// Whether archiving should no longer leave the cores to whoever else wants them: from half the backlog on at which
    /// producers begin to be slowed down.
    pub(super) fn is_urgent(&self) -> bool {
        self.unarchived_bytes > self.backlog().comfortable_bytes / 2
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Bytes per second.
    limit: Option<u64>,
    /// Bytes that may pass now, in thousand millionths; below zero they were let pass in advance.
    allowance: i128,
    refilled: Monotonic,
    archive_rate: u64,
    observed: Option<(Monotonic, u64)>,
}

impl Default for Throttle {
    fn default() -> Self {
        let (limit, allowance, refilled) = (None, 0, Monotonic::default());
        Self { limit, allowance, refilled, archive_rate: FIRST_ARCHIVE_RATE, observed: None }
    }
}

impl Throttle {
    /// Sets the limit by what is known now; called about once a second. Returns it, in bytes per second.
    pub(super) fn observe(&mut self, now: Monotonic, pressure: Pressure) -> Option<u64> {
        self.observe_archive(now, &pressure);
        self.refill(now);
        let Pressure { unarchived_bytes, room_bytes, scarce_bytes, .. } = pressure;
        let by_archive = produce_limit(pressure.backlog(), unarchived_bytes, self.archive_rate)
            .map(|limit| limit.max(room_bytes / ARCHIVE_HORIZON_S));
        let by_disk = (room_bytes < scarce_bytes).then_some(room_bytes / DISK_HORIZON_S);
        self.limit = [by_archive, by_disk].into_iter().flatten().min().map(|limit| limit.max(1));
        self.limit
    }

    /// Follows the archive's speed while it has something to do.
    fn observe_archive(&mut self, now: Monotonic, pressure: &Pressure) {
        let before = self.observed.replace((now, pressure.archived_bytes));
        let Some((since, bytes)) = before.filter(|_| pressure.unarchived_bytes > 0) else { return };
        let elapsed_ms = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = pressure.archived_bytes.saturating_sub(bytes).saturating_mul(1000) / elapsed_ms;
        self.archive_rate = (self.archive_rate * (100 - NEWEST_PERCENT) + rate * NEWEST_PERCENT) / 100;
    }

    /// Lets bytes pass; returns for how long their producer has to pause.
    pub(super) fn charge(&mut self, now: Monotonic, bytes: usize) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        self.refill(now);
        // What could not be paid off within the longest pause is nobody else's to pay.
        let most = i128::from(limit) * i128::from(nanos(LONGEST_PAUSE));
        self.allowance = (self.allowance - bytes as i128 * NANOS).max(-most);
        let debt = u128::try_from(-self.allowance).unwrap_or(0);
        Duration::from_nanos(u64::try_from(debt / u128::from(limit)).unwrap_or(u64::MAX)).min(LONGEST_PAUSE)
    }

    fn refill(&mut self, now: Monotonic) {
        let elapsed = now.since(self.refilled);
        self.refilled = now;
        let worth = |time: Duration| i128::from(self.limit.unwrap_or(0)) * i128::from(nanos(time));
        // Without a limit nothing is earned and nothing owed.
        let owed = if self.limit.is_some() { self.allowance } else { 0 };
        self.allowance = (owed + worth(elapsed)).min(worth(BURST));
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn pressure(unarchived_bytes: u64, archived_bytes: u64, room_bytes: u64) -> Pressure {
        Pressure { unarchived_bytes, archived_bytes, room_bytes, scarce_bytes: 100 * MIB }
    }

    #[test]
    fn nobody_is_slowed_down_while_there_is_plenty_of_room() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.observe(at(0), pressure(10 * MIB, 0, 1000 * MIB)), None);
        assert_eq!(throttle.charge(at(1), usize::MAX), Duration::ZERO);
    }

    #[test]
    fn archiving_is_urgent_well_before_anybody_is_slowed_down() {
        let mut throttle = Throttle::default();
        let mut urgent_at = None;
        for unarchived in 0..1000 {
            let pressure = pressure(unarchived * MIB, 0, (1000 - unarchived) * MIB);
            if pressure.is_urgent() {
                urgent_at = urgent_at.or(Some(unarchived));
            } else {
                assert_eq!(urgent_at, None, "once urgent, more makes it no less so");
            }
            if throttle.observe(at(unarchived * 1000), pressure).is_some() {
                assert_eq!((urgent_at, unarchived), (Some(126), 251));
                return;
            }
        }
        panic!("nobody was slowed down");
    }

    /// A producer that pauses as it is told, an archive that takes `archive` bytes a second, and a disk.
    fn flood(archive: u64, disk: u64, seconds: u64) -> (Vec<u64>, u64) {
        flood_beside(0, 1, archive, disk, seconds)
    }

    /// The same, beginning with a backlog; the archive commits no fewer bytes than `step` at a time.
    fn flood_beside(backlog: u64, step: u64, archive: u64, disk: u64, seconds: u64) -> (Vec<u64>, u64) {
        let mut throttle = Throttle::default();
        let (mut backlog, mut archived, mut room, mut not_before) = (backlog, 0_u64, disk - backlog, 0_u64);
        let mut encoded = 0;
        throttle.observe(at(0), pressure(backlog, archived, room));
        let mut passed = Vec::new();
        for second in 0..seconds {
            let mut bytes = 0;
            for tick in 0..100 {
                let now = second * 1000 + tick * 10;
                if now >= not_before && room > MIB {
                    (backlog, room, bytes) = (backlog + MIB, room - MIB, bytes + MIB);
                    not_before = now + throttle.charge(at(now), MIB as usize).as_millis() as u64;
                }
            }
            encoded = backlog.min(encoded + archive);
            let taken = if encoded >= step { encoded } else { 0 };
            encoded -= taken;
            (backlog, archived, room) = (backlog - taken, archived + taken, room + taken);
            throttle.observe(at((second + 1) * 1000), pressure(backlog, archived, room));
            passed.push(bytes);
        }
        (passed, room)
    }

    #[test]
    fn a_flood_levels_off_at_what_the_archive_takes_and_leaves_room() {
        let (passed, room) = flood(20 * MIB, 4096 * MIB, 1200);
        assert!(room > 900 * MIB, "the disk has {} MiB left", room / MIB);
        let late: u64 = passed[900..].iter().sum::<u64>() / 300;
        assert!((15 * MIB..25 * MIB).contains(&late), "{} MiB/s at the end", late / MIB);
        assert!(passed.iter().all(|&bytes| bytes > 0), "nobody is ever stopped");
    }

    #[test]
    fn a_backlog_from_before_a_restart_stops_nobody_and_sets_nobody_free() {
        let (passed, room) = flood_beside(2000 * MIB, 256 * MIB, 50 * MIB, 4096 * MIB, 300);
        assert!(room > 900 * MIB, "the disk has {} MiB left", room / MIB);
        assert!(passed.iter().all(|&bytes| bytes >= 10 * MIB), "hardly anything passes: {passed:?}");
        assert!(passed[5..].iter().all(|&bytes| bytes <= 100 * MIB), "everything passes: {passed:?}");
    }

    #[test]
    fn with_the_archive_gone_the_disk_never_fills() {
        let (passed, room) = flood(0, 2048 * MIB, 7200);
        assert!(room > 10 * MIB, "the disk has {} MiB left", room / MIB);
        let falls = passed.chunks(60).map(|minute| minute.iter().sum::<u64>()).collect::<Vec<_>>();
        assert!(falls.windows(2).all(|pair| pair[1] <= pair[0] + 2 * MIB), "the rate only glides down");
    }

    #[test]
    fn a_debt_is_paid_before_anything_passes_and_a_rest_earns_little() {
        let mut throttle = Throttle::default();
        let limit = throttle.observe(at(0), pressure(0, 0, 60 * MIB)).unwrap();
        assert_eq!(limit, MIB);
        assert_eq!(throttle.charge(at(0), 2 * MIB as usize), Duration::from_secs(2));
        assert_eq!(throttle.charge(at(1000), 0), Duration::from_secs(1));
        assert_eq!(throttle.charge(at(100_000), MIB as usize / 4), Duration::ZERO);
        assert!(throttle.charge(at(100_000), 1024) > Duration::ZERO);
        assert_eq!(throttle.charge(at(100_000), 100 * MIB as usize), LONGEST_PAUSE);
    }
}
