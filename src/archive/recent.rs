//! A map that forgets what was not used for longest, bounded by what its entries weigh.

use std::collections::BTreeMap;

/// A map that keeps the most recently used entries, up to a weight in all: a number of them, or bytes.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit: usize,
    weight: usize,
    uses: u64,
    entries: BTreeMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    last_use: u64,
}

impl<K: Ord + Clone, V: Clone> Recent<K, V> {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, weight: 0, uses: 0, entries: BTreeMap::new(), by_use: BTreeMap::new() }
    }

    /// Finds an entry and makes it the most recently used.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.by_use.remove(&entry.last_use);
        self.uses += 1;
        entry.last_use = self.uses;
        self.by_use.insert(self.uses, key.clone());
        Some(entry.value.clone())
    }

    /// Adds or replaces an entry; the least recently used ones go when all weigh too much, and so does one that does alone.
    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        self.uses += 1;
        let entry = Entry { value, weight, last_use: self.uses };
        self.weight += weight;
        if let Some(replaced) = self.entries.insert(key.clone(), entry) {
            self.by_use.remove(&replaced.last_use);
            self.weight -= replaced.weight;
        }
        self.by_use.insert(self.uses, key);
        while self.weight > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.weight -= self.entries.remove(&oldest).map_or(0, |entry| entry.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_goes_first() {
        let mut recent = Recent::new(2);
        recent.insert(1, "one", 1);
        recent.insert(2, "two", 1);
        assert_eq!(recent.get(&1), Some("one"));
        recent.insert(3, "three", 1);
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (Some("one"), None, Some("three")));
        recent.insert(3, "again", 1);
        assert_eq!((recent.get(&1), recent.get(&3)), (Some("one"), Some("again")));
    }

    #[test]
    fn entries_weigh_as_much_as_they_say_and_no_more_than_the_limit_in_all() {
        let mut recent = Recent::new(10);
        recent.insert(1, (), 4);
        recent.insert(2, (), 4);
        recent.insert(1, (), 6);
        assert!(recent.get(&1).is_some() && recent.get(&2).is_some(), "replacing frees what was replaced");
        recent.insert(3, (), 3);
        assert!(recent.get(&1).is_none() && recent.get(&2).is_some() && recent.get(&3).is_some());
        recent.insert(4, (), 11);
        assert!((1..=4).all(|key| recent.get(&key).is_none()), "nothing is kept beside what is too large itself");
        recent.insert(5, (), 10);
        assert!(recent.get(&5).is_some());
    }
}
