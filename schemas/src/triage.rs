//! The latest decision about each insight, from the records of the triage topic.
//!
//! Pure; the API and the delivery each fill one. Invariants: a record replaces only what an earlier one said, so reading
//! twice or from two readers changes nothing; decisions are bounded, and past the bound those made longest ago are forgotten.

use std::{collections::BTreeMap, sync::Arc};

use crate::avro::Triage;

/// Decisions kept at most: more insights than an operator ever looked at.
const MOST: usize = 100_000;

#[derive(Debug)]
struct Entry {
    offset: u64,
    /// `None` since it was taken back.
    triage: Option<Arc<Triage>>,
}

/// Decisions by the insight's id.
#[derive(Debug, Default)]
pub struct TriageBoard {
    by_id: BTreeMap<Arc<str>, Entry>,
}

impl TriageBoard {
    /// Takes in the record at `offset` about insight `id`; `None` takes a decision back. Says whether anything was later
    /// than what is known.
    pub fn take(&mut self, id: &str, offset: u64, triage: Option<Triage>) -> bool {
        if self.by_id.get(id).is_some_and(|known| known.offset >= offset) {
            return false;
        }
        self.by_id.insert(id.into(), Entry { offset, triage: triage.map(Arc::new) });
        if self.by_id.len() > MOST {
            let mut offsets: Vec<u64> = self.by_id.values().map(|entry| entry.offset).collect();
            // A tenth at once, so that this is rare.
            let (_, &mut cut, _) = offsets.select_nth_unstable(MOST / 10);
            self.by_id.retain(|_, entry| entry.offset > cut);
        }
        true
    }

    /// The decision about an insight, if there is one.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Triage>> {
        self.by_id.get(id)?.triage.as_ref()
    }

    /// Where the latest record about an insight stands, one that took a decision back included.
    #[must_use]
    pub fn offset(&self, id: &str) -> Option<u64> {
        self.by_id.get(id).map(|entry| entry.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(author: &str) -> Option<Triage> {
        Some(Triage { author: author.to_owned(), ..Triage::default() })
    }

    /// Scenario: two decisions about one insight in both orders and again, one taken back, and more than the bound.
    /// Guarantee: the later record stands, whatever comes again; the oldest are forgotten first.
    #[test]
    fn the_latest_record_stands() {
        let mut board = TriageBoard::default();
        assert!(board.take("a", 7, by("late")));
        assert!(!board.take("a", 5, by("early")) && !board.take("a", 7, None));
        assert_eq!(board.get("a").unwrap().author, "late");
        assert!(board.take("a", 8, None));
        assert_eq!((board.get("a"), board.offset("a")), (None, Some(8)));
        for offset in 0..=MOST as u64 {
            board.take(&format!("i{offset}"), 100 + offset, by(""));
        }
        assert!(board.get("i0").is_none() && board.get(&format!("i{MOST}")).is_some());
    }
}
