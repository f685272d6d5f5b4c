//! A thousand tokens cost more than usual.
//!
//! Fires when the cost of 1,000 tokens over the last minute is `factor` × the baseline and `z` robust standard
//! deviations above it. Cost follows traffic (an idle GPU is shared by fewer tokens), so it has to last.

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostParams {
    /// Times the baseline.
    pub factor: f64,
    /// Robust standard deviations above the baseline.
    pub z: f64,
}

impl Default for CostParams {
    fn default() -> Self {
        Self { factor: 2.0, z: 5.0 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &CostParams, found: &mut Vec<Finding>) {
    let Some(cost) = look.minute.cost_of_1k() else { return };
    let Some(shift) = look.compare(Metric::Cost, cost) else { return };
    let fires = |part: f64| shift.ratio() >= 1.0 + (params.factor - 1.0) * part && shift.z >= params.z * part;
    if !fires(0.6) {
        return;
    }
    let tokens = look.minute.input + look.minute.output;
    let numbers = vec![evidence("cost_per_1k_tokens", "USD", cost, Some(shift.normal), tokens)];
    found.push(Finding::new(Kind::Cost, !fires(1.0), numbers));
}
