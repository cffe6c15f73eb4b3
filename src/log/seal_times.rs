//! When the active segments of a directory's partitions reach the age at which they are sealed.
//!
//! A partition is entered with the first record that is not in a sealed segment, and looked at again when its time has come:
//! by then it may have been sealed by size, and has a later time or none. So a tick costs nothing for partitions at rest,
//! however many there are. Plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::Timestamp;

/// Partitions by the time at which to look at them, and by number.
pub struct SealTimes<L> {
    times: Mutex<BTreeMap<(Timestamp, u32), Arc<L>>>,
}

impl<L> Default for SealTimes<L> {
    fn default() -> Self {
        Self { times: Mutex::default() }
    }
}

impl<L> SealTimes<L> {
    /// Has a partition looked at when `time` has come.
    pub fn enter(&self, time: Timestamp, number: u32, log: &Arc<L>) {
        self.times.lock().insert((time, number), Arc::clone(log));
    }

    /// Takes the partitions whose time has come.
    pub fn take_due(&self, now: Timestamp) -> Vec<Arc<L>> {
        let mut times = self.times.lock();
        if times.first_key_value().is_none_or(|(&(time, _), _)| time > now) {
            return Vec::new();
        }
        let later = times.split_off(&(Timestamp(now.0.saturating_add(1)), 0));
        std::mem::replace(&mut *times, later).into_values().collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.times.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_come_up_when_their_time_has_come_and_once() {
        let times = SealTimes::default();
        for (time, number) in [(30, 1), (10, 2), (20, 3), (20, 4)] {
            times.enter(Timestamp(time), number, &Arc::new(number));
        }
        let due = |now| times.take_due(Timestamp(now)).into_iter().map(|log| *log).collect::<Vec<_>>();
        assert!(due(9).is_empty());
        assert_eq!(due(20), [2, 3, 4]);
        assert!(due(29).is_empty());
        assert_eq!(due(99), [1]);
    }
}
