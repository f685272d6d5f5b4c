//! Batches below 30 % of the maximum although requests wait and the KV cache has room.
//!
//! Fires when mean fill < `fill`, backlog ≥ `backlog`, wait ≥ `least_wait` and `waits` × the usual, and KV usage < `kv`. Small batches without a queue are low
//! traffic, with a full KV cache they are memory pressure; neither is a scheduler's fault. Source: requirement of this
//! project; continuous batching admits whenever there is a seat (G.-I. Yu et al., "Orca", OSDI 2022).

use serde::Deserialize;

use super::{Finding, Kind, Look, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmallBatchParams {
    /// Share of the maximum batch below which batches are small.
    pub fill: f64,
    /// Requests waiting for one engine.
    pub backlog: f64,
    /// Seconds of mean wait; a request always waits for the step under way.
    pub least_wait: f64,
    /// Times the usual wait.
    pub waits: f64,
    /// KV cache usage above which memory is the limit.
    pub kv: f64,
    /// Share up to which it stays open.
    pub holds: f64,
}

impl Default for SmallBatchParams {
    fn default() -> Self {
        Self { fill: 0.3, backlog: 2.0, least_wait: 0.1, waits: 3.0, kv: 0.85, holds: 0.5 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &SmallBatchParams, found: &mut Vec<Finding>) {
    let recent = &look.recent;
    let (Some(fill), Some(batch)) = (recent.fill.get(), recent.batch.get()) else { return };
    let waiting = recent.waiting.get().or(recent.depth.get()).unwrap_or(0.0);
    let has_room = recent.kv.get().unwrap_or(0.0) < params.kv;
    let wait = recent.queue.get().unwrap_or(0.0);
    let waits = wait >= params.least_wait
        && look.normal(Metric::QueueMean).is_none_or(|usual| wait >= params.waits * usual);
    if fill >= params.holds || waiting < params.backlog || !has_room || !waits {
        return;
    }
    let numbers = vec![
        evidence("batch_fill", "share", fill, look.normal(Metric::Fill), u64::from(recent.fill.count)),
        evidence("batch", "sequences", batch, look.normal(Metric::Batch), u64::from(recent.batch.count)),
        evidence("waiting", "requests", waiting, look.normal(Metric::Backlog), recent.requests),
    ];
    found.push(Finding::new(Kind::SmallBatches, fill >= params.fill, numbers));
}
