//! Many more requests arrive than usual, or hardly any.
//!
//! Arrivals = ended + refused + growth of what is under way (an overloaded engine ends no more than it can, however
//! many come). Fires when their rate is `more` × the baseline or `less` × it, and that is more than `z` standard
//! deviations of a Poisson count and of the baseline's own spread.

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::{baseline::Metric, rollup::WINDOW_MS};

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficParams {
    /// Times the baseline.
    pub more: f64,
    /// Share of the baseline.
    pub less: f64,
    /// Standard deviations of a Poisson count.
    pub z: f64,
    /// Standard deviations of the baseline's own ups and downs.
    pub spread: f64,
    /// Requests expected in the recent windows below which nothing is said.
    pub least_expected: f64,
}

impl Default for TrafficParams {
    fn default() -> Self {
        Self { more: 2.8, less: 0.2, z: 5.0, spread: 2.5, least_expected: 10.0 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &TrafficParams, found: &mut Vec<Finding>) {
    let rate = look.arrival_rate();
    let Some(shift) = look.compare(Metric::RequestRate, rate) else { return };
    let seconds = f64::from(look.recent.windows) * WINDOW_MS as f64 * 1e-3;
    let (count, expected) = (rate * seconds, shift.normal * seconds);
    if expected < params.least_expected {
        return;
    }
    let surprise = (count - expected) / expected.max(1.0).sqrt();
    let is_more = shift.ratio() >= params.more && surprise >= params.z && shift.z >= params.spread;
    let is_less = shift.ratio() <= params.less && -surprise >= params.z && -shift.z >= params.z;
    let holds = shift.ratio() >= 1.0 + (params.more - 1.0) * 0.5 && surprise >= params.z / 2.0;
    if !(is_more || is_less || holds) {
        return;
    }
    let mut numbers = vec![evidence("arrivals", "1/s", rate, Some(shift.normal), count as u64)];
    if look.recent.refused > 0 {
        numbers.push(evidence("refused", "requests", look.recent.refused as f64, None, look.recent.requests));
    }
    found.push(Finding::new(Kind::Traffic, !(is_more || is_less), numbers));
}
