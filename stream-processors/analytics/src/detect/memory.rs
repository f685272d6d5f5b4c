//! The KV cache has no room: sequences are preempted, or requests wait while it is full.
//!
//! Fires when preemptions a minute exceed `preemptions` and `factor` × the usual, or when KV usage ≥ `kv` with
//! requests waiting, where that is `z` robust standard deviations above the baseline. A preempted sequence computes its
//! prompt again (W. Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", SOSP 2023).

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryParams {
    /// Preemptions a minute.
    pub preemptions: f64,
    /// Times the usual.
    pub factor: f64,
    /// KV cache usage.
    pub kv: f64,
    /// Robust standard deviations above the baseline.
    pub z: f64,
}

impl Default for MemoryParams {
    fn default() -> Self {
        Self { preemptions: 20.0, factor: 4.0, kv: 0.92, z: 4.0 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &MemoryParams, found: &mut Vec<Finding>) {
    let recent = &look.recent;
    let preempted = recent.preemptions_a_minute();
    let usual = look.baselines.mean(Metric::Preemptions).unwrap_or(0.0);
    let preempts =
        |part: f64| preempted >= part * params.preemptions && preempted >= part * params.factor * usual;
    let kv = recent.kv.get().unwrap_or(0.0);
    let is_full = kv >= params.kv
        && recent.backlog() >= 1.0
        && look.compare(Metric::Kv, kv).is_some_and(|shift| shift.z >= params.z);
    if !(preempts(0.5) || is_full) {
        return;
    }
    let numbers = vec![
        evidence("preemptions", "1/min", preempted, Some(usual), recent.requests),
        evidence("kv_cache_usage", "share", kv, look.normal(Metric::Kv), u64::from(recent.kv.count)),
    ];
    found.push(Finding::new(Kind::Memory, !(preempts(1.0) || is_full), numbers));
}
