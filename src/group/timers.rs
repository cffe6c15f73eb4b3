//! One small table of deadlines, for machines that are told the time.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Monotonic, Timestamp};

/// Both times at once: deadlines go by the stopwatch, records and retention by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The stopwatch.
    pub monotonic: Monotonic,
    /// The calendar.
    pub wall: Timestamp,
}

/// Deadlines by key; each key has at most one.
#[derive(Clone, Debug)]
pub(super) struct Timers<K> {
    deadlines: BTreeMap<K, Monotonic>,
    order: BTreeSet<(Monotonic, K)>,
}

impl<K: Clone + Ord> Timers<K> {
    pub(super) const fn new() -> Self {
        Self { deadlines: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, key: K, deadline: Monotonic) {
        self.cancel(&key);
        self.order.insert((deadline, key.clone()));
        self.deadlines.insert(key, deadline);
    }

    /// Drops a deadline, if there is one.
    pub(super) fn cancel(&mut self, key: &K) {
        if let Some((key, deadline)) = self.deadlines.remove_entry(key) {
            self.order.remove(&(deadline, key));
        }
    }

    /// The earliest deadline.
    pub(super) fn next_timeout(&self) -> Option<Monotonic> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the earliest deadline that has passed; ties go by key.
    pub(super) fn pop_expired(&mut self, now: Monotonic) -> Option<K> {
        if self.next_timeout()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.deadlines.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_expire_in_order_and_once() {
        let mut timers = Timers::new();
        timers.set("late", Monotonic(30));
        timers.set("moved", Monotonic(10));
        timers.set("moved", Monotonic(20));
        timers.set("cancelled", Monotonic(5));
        timers.cancel(&"cancelled");
        assert_eq!(timers.next_timeout(), Some(Monotonic(20)));
        assert_eq!(timers.pop_expired(Monotonic(19)), None);
        assert_eq!(timers.pop_expired(Monotonic(40)), Some("moved"));
        assert_eq!(timers.pop_expired(Monotonic(40)), Some("late"));
        assert_eq!(timers.pop_expired(Monotonic(40)), None);
    }
}
