//! GPUs less than 40 % busy while there is work: requests wait, or several are in flight.
//!
//! Fires for a device with mean busy share < `busy` and backlog ≥ `backlog`, or running ≥ `running` by the engine's
//! gauge: an engine with sequences in flight starts one step after the other, so its GPU is idle only where the host
//! does not feed it. Source: requirement of this project; NVML's utilisation is the share of time with a kernel running.

use serde::Deserialize;

use super::{Finding, Kind, Look, Subject, evidence};

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuIdleParams {
    /// Busy share below which a GPU counts as idle.
    pub busy: f64,
    /// Requests waiting for the device.
    pub backlog: f64,
    /// Requests running on the device, by its engine's gauge.
    pub running: f64,
    /// Busy share up to which it stays open.
    pub holds: f64,
}

impl Default for GpuIdleParams {
    fn default() -> Self {
        Self { busy: 0.4, backlog: 1.0, running: 3.0, holds: 0.5 }
    }
}

pub(super) fn look(look: &Look<'_>, params: &GpuIdleParams, found: &mut Vec<Finding>) {
    let mut idle = Vec::new();
    let Some(last) = look.past.back() else { return };
    for ((device, _), facts) in &last.devices {
        let Some(busy) = facts.busy.get() else { continue };
        let waiting = facts.waiting.get().or(facts.depth.get()).unwrap_or(0.0);
        let running = facts.running.get().unwrap_or(0.0);
        if busy < params.holds && (waiting >= params.backlog || running >= params.running) {
            idle.push((device.as_str(), busy, waiting, running));
        }
    }
    let Some(&(device, ..)) = idle.first() else { return };
    let count = idle.len() as f64;
    let mean = |of: fn(&(&str, f64, f64, f64)) -> f64| idle.iter().map(of).sum::<f64>() / count;
    let busy = mean(|one| one.1);
    let numbers = vec![
        evidence(
            "gpu_busy",
            "share",
            busy,
            look.normal(crate::baseline::Metric::Busy),
            u64::from(look.recent.busy.count),
        ),
        evidence("waiting", "requests", mean(|one| one.2), None, look.recent.requests),
        evidence("running", "requests", mean(|one| one.3), None, look.recent.requests),
        evidence("idle_devices", "devices", count, Some(0.0), look.devices.len() as u64),
    ];
    let mut finding = Finding::new(Kind::GpuIdle, busy >= params.busy, numbers);
    if idle.len() == 1 && look.devices.len() > 1 {
        finding.subject = Subject { device: device.to_owned(), ..Subject::default() };
    }
    found.push(finding);
}
