//! Which damaged objects and partitions were complained of, so that what is tried again and again does not fill the log.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::Monotonic;

/// Time before the same object is complained of again.
const INTERVAL: Duration = Duration::from_secs(600);
/// Objects that are remembered. Beyond them nothing is said until one of them is forgotten: by then somebody is looking.
const MOST_OBJECTS: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: BTreeMap<String, Monotonic>,
}

impl Complaints {
    /// Whether it is time to complain of an object.
    pub(super) fn is_due(&mut self, object: &str, now: Monotonic) -> bool {
        if self.last.get(object).is_some_and(|last| now.since(*last) < INTERVAL) {
            return false;
        }
        self.last.retain(|_, last| now.since(*last) < INTERVAL);
        let has_room = self.last.len() < MOST_OBJECTS;
        if has_room {
            self.last.insert(object.to_owned(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn each_object_is_complained_of_once_in_a_while() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_due("one", at(0)) && complaints.is_due("another", at(1)));
        assert!((2..600).all(|second| !complaints.is_due("one", at(second))));
        assert!(complaints.is_due("one", at(600)) && !complaints.is_due("another", at(600)));
        assert!(!complaints.is_due("one", at(601)));
    }

    #[test]
    fn damage_everywhere_is_told_of_a_part() {
        let mut complaints = Complaints::default();
        let told = (0..10_000).filter(|number| complaints.is_due(&number.to_string(), at(0))).count();
        assert_eq!((told, complaints.last.len()), (MOST_OBJECTS, MOST_OBJECTS));
        assert!(complaints.is_due("9999", at(600)));
        assert_eq!(complaints.last.len(), 1);
    }
}
