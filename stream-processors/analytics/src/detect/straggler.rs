//! One device is slower than its peers that serve the same model and version.
//!
//! Slowness of a device = ln(its time per token ÷ the median of its peers'), of prefill time per computed token where
//! nothing is generated. Fires when it exceeds the device's usual slowness by ln(`factor`): a fleet of unlike GPUs has
//! devices that are always slower. Peers in the same windows see the same traffic, so no baseline of time is needed.

use serde::Deserialize;

use super::{Finding, Kind, Look, Subject, evidence, median};
use crate::facts::Facts;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StragglerParams {
    /// Times slower than its peers.
    pub factor: f64,
    /// Times slower up to which it stays open.
    pub holds: f64,
    /// Requests of a device in the recent windows below which it is not looked at.
    pub least_requests: u64,
}

impl Default for StragglerParams {
    fn default() -> Self {
        Self { factor: 1.5, holds: 1.25, least_requests: 4 }
    }
}

/// What a device needs for a unit of work, seconds.
pub(crate) fn pace(facts: &Facts) -> Option<f64> {
    facts.tpot.get().or_else(|| facts.prefill.get()).filter(|seconds| *seconds > 0.0)
}

/// Slowness of each device beside its peers of the same version: device, version, own pace, peers' pace.
pub(crate) fn slowness<'a>(look: &Look<'a>, least_requests: u64) -> Vec<(&'a str, &'a str, f64, f64)> {
    let able: Vec<(&str, &str, f64)> = look
        .devices
        .iter()
        .filter(|(_, facts)| facts.requests >= least_requests)
        .filter_map(|((device, version), facts)| Some((*device, *version, pace(facts)?)))
        .collect();
    let mut all = Vec::new();
    for (device, version, own) in &able {
        let peers = able.iter().filter(|(peer, of, _)| of == version && peer != device).map(|one| one.2);
        if let Some(peers) = median(peers.collect()) {
            all.push((*device, *version, *own, peers));
        }
    }
    all
}

pub(super) fn look(look: &Look<'_>, params: &StragglerParams, found: &mut Vec<Finding>) {
    for (device, version, own, peers) in slowness(look, params.least_requests) {
        let usual = look.devices_past.get(device).map_or(0.0, |past| past.usual_slowness);
        let factor = (own / peers).ln() - usual;
        if factor < params.holds.ln() {
            continue;
        }
        let requests = look.devices.get(&(device, version)).map_or(0, |facts| facts.requests);
        let numbers = vec![evidence("device_tpot", "s", own, Some(peers), requests)];
        let mut finding = Finding::new(Kind::Straggler, factor < params.factor.ln(), numbers);
        finding.subject = Subject { device: device.to_owned(), ..Subject::default() };
        found.push(finding);
    }
}
