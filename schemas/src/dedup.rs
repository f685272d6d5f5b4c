//! Which batches of one partition were seen before.
//!
//! A client that got no clear answer sends its batch again; both copies have the same batch id
//! (`record`), and every reader drops the second. Invariants: memory is bounded by the capacity given;
//! the answer is a pure function of the ids inserted, so a replay from the same start decides alike.

use std::collections::VecDeque;

use hashbrown::HashSet;

use crate::record::BatchId;

/// Batches remembered a partition unless configured otherwise: at 1,000 spans a batch, the last 65 million spans.
pub const DEFAULT_BATCHES: usize = 65_536;

/// A bounded, first-in first-out window of batch ids.
#[derive(Clone, Debug)]
pub struct Dedup {
    capacity: usize,
    seen: HashSet<BatchId, ahash::RandomState>,
    order: VecDeque<BatchId>,
}

impl Default for Dedup {
    fn default() -> Self {
        Self::new(DEFAULT_BATCHES)
    }
}

impl Dedup {
    /// A window of the latest `capacity` ids, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), seen: HashSet::default(), order: VecDeque::new() }
    }

    /// Remembers `id`; `false` when it was known already, and its record is to be dropped.
    pub fn insert(&mut self, id: BatchId) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(id);
        true
    }

    /// Whether a record with this id is new; records without an id always are.
    pub fn admit(&mut self, id: Option<BatchId>) -> bool {
        id.is_none_or(|id| self.insert(id))
    }

    /// Whether `id` is in the window, which stays as it is.
    #[must_use]
    pub fn contains(&self, id: &BatchId) -> bool {
        self.seen.contains(id)
    }

    /// Remembers ids from an earlier run, oldest first.
    pub fn preload(&mut self, ids: impl IntoIterator<Item = BatchId>) {
        for id in ids {
            self.insert(id);
        }
    }

    /// The ids in the window, oldest first, as [`Dedup::preload`] takes them.
    pub fn ids(&self) -> impl Iterator<Item = &BatchId> {
        self.order.iter()
    }

    /// Ids remembered at most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Ids in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing was seen yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(value: u8) -> BatchId {
        [value; 16]
    }

    proptest! {
        /// Scenario: any sequence of ids. Guarantee: an id is new exactly when it is not among the last
        /// `capacity` distinct admissions, and the window never grows past its capacity.
        #[test]
        fn the_window_is_a_bounded_queue(capacity in 1usize..12, values in proptest::collection::vec(0u8..20, 0..200)) {
            let mut dedup = Dedup::new(capacity);
            let mut model: VecDeque<u8> = VecDeque::new();
            for value in values {
                let known = model.contains(&value);
                prop_assert_eq!(dedup.insert(id(value)), !known);
                if !known {
                    model.push_back(value);
                    if model.len() > capacity {
                        model.pop_front();
                    }
                }
                prop_assert_eq!(dedup.len(), model.len());
            }
        }
    }

    /// Scenario: a window handed over to a new reader. Guarantee: it decides like the old one.
    #[test]
    fn a_preloaded_window_goes_on_where_the_old_one_was() {
        let mut old = Dedup::new(3);
        old.preload((0..5).map(id));
        let mut new = Dedup::new(3);
        new.preload(old.ids().copied());
        for value in 0..5 {
            assert_eq!(new.contains(&id(value)), value >= 2);
        }
        assert!(!new.insert(id(4)));
        assert!(new.insert(id(0)));
        assert!(new.admit(None) && new.admit(None));
    }
}
