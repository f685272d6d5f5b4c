//! Drift of time to first token, time per token and queue wait: a two-sided CUSUM on robust z scores.
//!
//! S⁺ = max(0, S⁺ + z − k), S⁻ = max(0, S⁻ − z − k), with z = (ln x − median) / (1.4826 MAD), clipped; fires at
//! S ≥ h (E. S. Page, "Continuous inspection schemes", Biometrika 1954). Statistical surprise alone is not worth a
//! person's time: upward drift also has to be a relative and an absolute effect. Downward drift (faster)
//! is told beside what drifts upward: tokens that come faster while requests wait longer are a sign.

use serde::{Deserialize, Serialize};

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftParams {
    /// Slack k, in standard deviations.
    pub slack: f64,
    /// Threshold h, in standard deviations.
    pub threshold: f64,
    /// Greatest |z| of one window.
    pub clip: f64,
    /// Least relative effect, times normal: first token, token, queue.
    pub least_ratio: [f64; 3],
    /// Least absolute effect in seconds: first token, token, queue.
    pub least_seconds: [f64; 3],
    /// Requests in the recent windows below which it says nothing.
    pub least_requests: u64,
}

impl Default for DriftParams {
    fn default() -> Self {
        Self {
            slack: 1.0,
            threshold: 8.0,
            clip: 4.0,
            least_ratio: [1.8, 1.5, 3.0],
            least_seconds: [0.15, 0.003, 0.15],
            least_requests: 15,
        }
    }
}

const WATCHED: [(Metric, Kind); 3] =
    [(Metric::TtftP50, Kind::Ttft), (Metric::TpotP50, Kind::Tpot), (Metric::QueueMean, Kind::Queue)];

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Cusum {
    up: f64,
    down: f64,
}

/// The sums of one model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Drifts([Cusum; 3]);

impl Drifts {
    pub(super) fn look(&mut self, look: &Look<'_>, params: &DriftParams, found: &mut Vec<Finding>) {
        for (index, (metric, kind)) in WATCHED.into_iter().enumerate() {
            let sums = &mut self.0[index];
            let Some(shift) = look.last(metric).and_then(|last| look.compare(metric, last)) else { continue };
            let z = shift.z.clamp(-params.clip, params.clip);
            // Bounded, so that what lasted for hours is over within minutes.
            let limit = 1.5 * params.threshold;
            sums.up = (sums.up + z - params.slack).clamp(0.0, limit);
            sums.down = (sums.down - z - params.slack).clamp(0.0, limit);
            let Some(now) = look.shift(metric).filter(|_| look.recent.requests >= params.least_requests)
            else {
                continue;
            };
            let (least_ratio, least) = (params.least_ratio[index], params.least_seconds[index]);
            let is_strong =
                sums.up >= params.threshold && now.ratio() >= least_ratio && now.difference() >= least;
            let half = 1.0 + (least_ratio - 1.0) / 2.0;
            let holds = now.ratio() >= half && now.difference() >= least / 2.0;
            if is_strong || holds {
                let numbers =
                    vec![evidence(metric.name(), "s", now.observed, Some(now.normal), look.recent.requests)];
                found.push(Finding::new(kind, !is_strong, numbers));
            }
        }
        self.add_improvements(look, params, found);
    }

    /// Adds what became better to what became worse.
    fn add_improvements(&self, look: &Look<'_>, params: &DriftParams, found: &mut [Finding]) {
        let is_drift = |one: &&mut Finding| WATCHED.iter().any(|(_, kind)| *kind == one.kind);
        let Some(first) = found.iter_mut().find(is_drift) else { return };
        let better = WATCHED.into_iter().zip(&self.0).filter(|(_, sums)| sums.down >= params.threshold);
        for ((metric, _), _) in better {
            if let Some(now) = look.shift(metric) {
                let number =
                    evidence(metric.name(), "s", now.observed, Some(now.normal), look.recent.requests);
                first.evidence.push(number);
            }
        }
    }
}
