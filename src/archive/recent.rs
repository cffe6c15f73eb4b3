//! A small map that forgets what was not used for longest.

use std::collections::BTreeMap;

/// A map that keeps the most recently used entries, up to a number.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit: usize,
    uses: u64,
    entries: BTreeMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Ord + Clone, V: Clone> Recent<K, V> {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, uses: 0, entries: BTreeMap::new(), by_use: BTreeMap::new() }
    }

    /// Finds an entry and makes it the most recently used.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let (last_use, value) = self.entries.get_mut(key)?;
        self.by_use.remove(last_use);
        self.uses += 1;
        *last_use = self.uses;
        self.by_use.insert(self.uses, key.clone());
        Some(value.clone())
    }

    /// Adds or replaces an entry; the least recently used one goes when there are too many.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        if let Some((last_use, _)) = self.entries.insert(key.clone(), (self.uses, value)) {
            self.by_use.remove(&last_use);
        }
        self.by_use.insert(self.uses, key);
        while self.entries.len() > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_goes_first() {
        let mut recent = Recent::new(2);
        recent.insert(1, "one");
        recent.insert(2, "two");
        assert_eq!(recent.get(&1), Some("one"));
        recent.insert(3, "three");
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (Some("one"), None, Some("three")));
        recent.insert(3, "again");
        assert_eq!((recent.get(&1), recent.get(&3)), (Some("one"), Some("again")));
    }
}
