//! More requests fail than chance explains.
//!
//! Fires when the probability of so many failures at the usual rate is below `chance` (binomial tail, Chernoff's
//! bound), there are at least `least_errors`, and the rate is `factor` × the usual. The usual rate is the mean of the
//! last hour (failures are rare: the median is mostly 0), never taken to be below `floor`.

use serde::Deserialize;

use super::{Finding, Kind, Look, binomial_tail_ln, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorParams {
    /// Probability below which it is no chance.
    pub chance: f64,
    /// Failures below which it says nothing.
    pub least_errors: u64,
    /// Times the usual rate.
    pub factor: f64,
    /// Rate that is always usual.
    pub floor: f64,
}

impl Default for ErrorParams {
    fn default() -> Self {
        Self { chance: 1e-7, least_errors: 5, factor: 3.0, floor: 0.005 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &ErrorParams, found: &mut Vec<Finding>) {
    let recent = &look.recent;
    let Some(rate) = recent.error_rate() else { return };
    let usual = look.baselines.mean(Metric::ErrorRate).unwrap_or(0.0).max(params.floor);
    let is_many = recent.errors >= params.least_errors && rate >= params.factor * usual;
    let is_no_chance = binomial_tail_ln(recent.errors, recent.requests, usual) <= params.chance.ln();
    let holds = recent.errors >= 2 && rate >= (params.factor * usual / 2.0).max(0.01);
    if !holds {
        return;
    }
    let numbers = vec![
        evidence("error_rate", "share", rate, look.baselines.mean(Metric::ErrorRate), recent.requests),
        evidence("errors", "requests", recent.errors as f64, None, recent.requests),
    ];
    found.push(Finding::new(Kind::Errors, !(is_many && is_no_chance), numbers));
}
