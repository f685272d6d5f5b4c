//! The share of prompt tokens from the prefix cache has fallen, or is below what was asked for.
//!
//! Fires when hits fall by `least_fall` absolutely, by `least_relative` of the baseline and by `z` robust standard
//! deviations (85 % → 45 % does), or when misses exceed `most_misses`. Tokens, not requests: that is what costs.

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheParams {
    /// Least fall of the hit ratio.
    pub least_fall: f64,
    /// Least fall as a share of the baseline.
    pub least_relative: f64,
    /// Robust standard deviations below the baseline.
    pub z: f64,
    /// Share of misses that is never right; off unless given.
    pub most_misses: Option<f64>,
    /// Requests in the recent windows below which it says nothing.
    pub least_requests: u64,
}

impl Default for CacheParams {
    fn default() -> Self {
        Self { least_fall: 0.15, least_relative: 0.35, z: 3.0, most_misses: None, least_requests: 20 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &CacheParams, found: &mut Vec<Finding>) {
    let recent = &look.recent;
    let Some(hits) = recent.hit_ratio().filter(|_| recent.requests >= params.least_requests) else { return };
    let Some(shift) = look.compare(Metric::HitRatio, hits) else { return };
    let (fall, relative) = (-shift.difference(), -shift.difference() / shift.normal.max(1e-6));
    let fires = |part: f64| {
        fall >= part * params.least_fall
            && relative >= part * params.least_relative
            && -shift.z >= part * params.z
    };
    let is_over = params.most_misses.is_some_and(|most| 1.0 - hits > most);
    if !(fires(0.5) || is_over) {
        return;
    }
    let mut numbers = vec![evidence("cache_hit_ratio", "share", hits, Some(shift.normal), recent.requests)];
    if recent.preemptions > 0 {
        let usual = look.normal(Metric::Preemptions);
        numbers.push(evidence("preemptions", "1/min", recent.preemptions_a_minute(), usual, recent.requests));
    }
    if let Some(uncached) = recent.uncached_each() {
        let usual = look.normal(Metric::Uncached);
        numbers.push(evidence("uncached_input_tokens", "tokens", uncached, usual, recent.requests));
    }
    found.push(Finding::new(Kind::Cache, !(fires(1.0) || is_over), numbers));
}
