//! The insights that are open, as one target knows them: bounded, by the partition they came from.

use std::{collections::BTreeMap, sync::Arc};

/// Open insights at most; past it the ones that were silent longest are forgotten.
const MOST: usize = 100_000;

#[derive(Debug)]
struct Known<V> {
    partition: u32,
    /// Time of the record that told of it last.
    told_ms: i64,
    value: V,
}

/// Open insights by id.
#[derive(Debug)]
pub(super) struct OpenSet<V> {
    known: BTreeMap<Arc<str>, Known<V>>,
}

impl<V> Default for OpenSet<V> {
    fn default() -> Self {
        Self { known: BTreeMap::new() }
    }
}

impl<V> OpenSet<V> {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, id: &str) -> Option<&V> {
        self.known.get(id).map(|known| &known.value)
    }

    pub(super) fn insert(&mut self, id: Arc<str>, partition: u32, told_ms: i64, value: V) {
        if self.known.len() >= MOST && !self.known.contains_key(&id) {
            let mut times: Vec<i64> = self.known.values().map(|known| known.told_ms).collect();
            // A tenth at once, so that this is rare.
            let (_, &mut cut, _) = times.select_nth_unstable(MOST / 10);
            self.known.retain(|_, known| known.told_ms > cut);
        }
        self.known.insert(id, Known { partition, told_ms, value });
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.known.remove(id);
    }

    /// Forgets what another member follows now.
    pub(super) fn purge(&mut self, partition: u32) {
        self.known.retain(|_, known| known.partition != partition);
    }

    /// Forgets what was last told of before `time_ms`.
    pub(super) fn expire(&mut self, time_ms: i64) {
        self.known.retain(|_, known| known.told_ms >= time_ms);
    }

    /// Keeps what `keep` says, given id, partition and value.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Arc<str>, u32, &V) -> bool) {
        self.known.retain(|id, known| keep(id, known.partition, &known.value));
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.known.values().map(|known| &known.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: more insights than the bound, one partition given up, one insight silent for too long.
    /// Guarantee: the set stays within its bound and forgets the silent ones first, the partition's, and the old.
    #[test]
    fn it_forgets_the_silent_first() {
        let mut set = OpenSet::default();
        for n in 0..=MOST {
            set.insert(n.to_string().into(), (n % 2) as u32, n as i64, n);
        }
        assert!(set.len() <= MOST);
        assert_eq!(set.get("0"), None);
        assert_eq!(set.get(&MOST.to_string()), Some(&MOST));
        set.purge(0);
        assert_eq!(set.get(&MOST.to_string()), None);
        set.expire(MOST as i64 - 1);
        assert_eq!(set.values().copied().collect::<Vec<_>>(), [MOST - 1]);
        set.remove(&(MOST - 1).to_string());
        assert_eq!(set.len(), 0);
    }
}
