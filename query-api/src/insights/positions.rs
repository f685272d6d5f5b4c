//! Positions in the topics of insights and of the decisions about them: what names a state of the store.

use std::{collections::BTreeMap, fmt::Write as _};

use super::store::Held;

/// Where a record stands in the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
}

/// Next offset of each partition of insights, and of the decisions about them: names a state of the store, on every node and
/// after every restart alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    insights: BTreeMap<u32, u64>,
    decisions: u64,
}

/// Stands for the partition of decisions in [`Positions`] as text.
const DECISIONS: &str = "t";

impl Positions {
    /// From what [`Self::to_text`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut positions = Self::default();
        for pair in text.split('.').filter(|pair| !pair.is_empty()) {
            let (partition, next) = pair.split_once('-')?;
            let next = next.parse().ok()?;
            if partition == DECISIONS {
                positions.decisions = next;
            } else {
                positions.insights.insert(partition.parse().ok()?, next);
            }
        }
        Some(positions)
    }

    /// `partition-next`, separated by dots; the decisions last.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (partition, next) in &self.insights {
            let dot = if text.is_empty() { "" } else { "." };
            let _ = write!(text, "{dot}{partition}-{next}");
        }
        if self.decisions > 0 {
            let dot = if text.is_empty() { "" } else { "." };
            let _ = write!(text, "{dot}{DECISIONS}-{}", self.decisions);
        }
        text
    }

    /// Whether an insight as it is, and what was decided about it, is already part of the state.
    #[must_use]
    pub fn includes(&self, held: &Held) -> bool {
        let place = held.place;
        self.insights.get(&place.partition).is_some_and(|next| place.offset < *next)
            && held.decision_offset.is_none_or(|offset| offset < self.decisions)
    }

    /// Moves past a record.
    pub fn pass(&mut self, place: Place) {
        let next = self.insights.entry(place.partition).or_default();
        *next = (*next).max(place.offset + 1);
    }

    /// Moves past what changed an insight.
    pub fn pass_change(&mut self, held: &Held) {
        self.pass(held.place);
        if let Some(offset) = held.decision_offset {
            self.pass_decision(offset);
        }
    }

    /// Moves past the decision at `offset`.
    pub(super) fn pass_decision(&mut self, offset: u64) {
        self.decisions = self.decisions.max(offset + 1);
    }
}
