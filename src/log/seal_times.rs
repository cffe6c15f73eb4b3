//! When the active segments of a directory's partitions reach the age at which they are sealed.
//!
//! A partition is entered with the first record that is not in a sealed segment, and looked at again when its time has come:
//! by then it may have been sealed by size, and has a later time or none. So a tick costs nothing for partitions at rest,
//! however many there are. When the clock was set back all are looked at, and entered anew. Plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::Timestamp;

/// Partitions by the time at which to look at them, and by number.
pub struct SealTimes<L> {
    times: Mutex<Times<L>>,
}

struct Times<L> {
    entered: BTreeMap<(Timestamp, u32), Arc<L>>,
    looked_at: Timestamp,
}

impl<L> Default for SealTimes<L> {
    fn default() -> Self {
        Self { times: Mutex::new(Times { entered: BTreeMap::new(), looked_at: Timestamp::NONE }) }
    }
}

impl<L> SealTimes<L> {
    /// Has a partition looked at when `time` has come.
    pub fn enter(&self, time: Timestamp, number: u32, log: &Arc<L>) {
        self.times.lock().entered.insert((time, number), Arc::clone(log));
    }

    /// Takes the partitions whose time has come.
    pub fn take_due(&self, now: Timestamp) -> Vec<Arc<L>> {
        let mut times = self.times.lock();
        let Times { entered, looked_at } = &mut *times;
        if now < std::mem::replace(looked_at, now) {
            return std::mem::take(entered).into_values().collect();
        }
        if entered.first_key_value().is_none_or(|(&(time, _), _)| time > now) {
            return Vec::new();
        }
        let later = entered.split_off(&(Timestamp(now.0.saturating_add(1)), 0));
        std::mem::replace(entered, later).into_values().collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.times.lock().entered.clear();
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
        times.enter(Timestamp(200), 1, &Arc::new(1));
        assert!(due(99).is_empty());
        assert_eq!(due(98), [1], "the clock was set back");
    }
}
