//! Costs of the same requests at two versions of the prices, and the difference by model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Cost;

/// How the cost of one model changes. Money is in billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDiff {
    /// Requests.
    pub requests: u64,
    /// Requests whose cost differs.
    pub changed: u64,
    /// Requests that the old table has no price for.
    pub unknown_before: u64,
    /// Requests that the new table has no price for.
    pub unknown_after: u64,
    /// Cost at the old prices.
    pub before_nano_usd: u64,
    /// Cost at the new prices.
    pub after_nano_usd: u64,
}

impl ModelDiff {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.changed += other.changed;
        self.unknown_before += other.unknown_before;
        self.unknown_after += other.unknown_after;
        self.before_nano_usd = self.before_nano_usd.saturating_add(other.before_nano_usd);
        self.after_nano_usd = self.after_nano_usd.saturating_add(other.after_nano_usd);
    }
}

/// The difference by model. Merging knows no order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostDiff(BTreeMap<String, ModelDiff>);

impl CostDiff {
    /// Takes one request of `model` at both prices.
    pub fn take(&mut self, model: &str, before: &Cost, after: &Cost) {
        let one = ModelDiff {
            requests: 1,
            changed: u64::from(before.nano_usd != after.nano_usd),
            unknown_before: u64::from(!before.is_known()),
            unknown_after: u64::from(!after.is_known()),
            before_nano_usd: before.nano_usd,
            after_nano_usd: after.nano_usd,
        };
        self.add(model, &one);
    }

    /// Takes all that `other` took.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(model, diff)| self.add(model, diff));
    }

    fn add(&mut self, model: &str, diff: &ModelDiff) {
        match self.0.get_mut(model) {
            Some(known) => known.add(diff),
            None => {
                self.0.insert(model.to_owned(), *diff);
            }
        }
    }

    /// Models and their differences, in the order of their names.
    pub fn models(&self) -> impl Iterator<Item = (&str, &ModelDiff)> {
        self.0.iter().map(|(model, diff)| (model.as_str(), diff))
    }

    /// All models together.
    #[must_use]
    pub fn total(&self) -> ModelDiff {
        let mut total = ModelDiff::default();
        self.0.values().for_each(|diff| total.add(diff));
        total
    }
}
