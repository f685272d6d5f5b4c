//! The 99th percentile of latency over the last minute against 3 × its baseline.
//!
//! Fires when p99(last minute) ≥ `factor` × the median of the windows' p99 over the last hour. A threshold on a
//! ratio, as an on-call engineer would set it by hand; source: requirement of this project. Needs a minimum count,
//! since the 99th percentile of few values is their maximum.

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyParams {
    /// Times the baseline from which on it fires.
    pub factor: f64,
    /// Times the baseline from which on it stays open.
    pub holds: f64,
    /// Requests a minute below which it says nothing.
    pub least_requests: u64,
}

impl Default for LatencyParams {
    fn default() -> Self {
        Self { factor: 3.0, holds: 2.0, least_requests: 50 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &LatencyParams, found: &mut Vec<Finding>) {
    if look.minute.requests < params.least_requests {
        return;
    }
    let Some(p99) = look.latency(0.99) else { return };
    let Some(shift) = look.compare(Metric::LatencyP99, p99) else { return };
    // The minute's tail is that of its worst window; what goes on shows in the windows themselves.
    let lasts = look.now(Metric::LatencyP99).is_some_and(|window| window >= params.holds * shift.normal);
    if shift.ratio() < params.holds || !lasts {
        return;
    }
    let numbers = vec![evidence("latency_p99", "s", p99, Some(shift.normal), look.minute.requests)];
    found.push(Finding::new(Kind::Latency, shift.ratio() < params.factor, numbers));
}
