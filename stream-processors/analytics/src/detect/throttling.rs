//! GPUs slow their clocks down because they are hot or short of power.
//!
//! Fires when the share of readings with a thermal or power throttle reason is ≥ `share` and the SM clock is below
//! `clock` × the device's usual one. Reasons alone are not enough: a software power cap is set for hours on healthy
//! GPUs at full load, at nearly full clocks (NVML, `nvmlClocksThrottleReasons`).

use serde::Deserialize;

use super::{Finding, Kind, Look, Subject, evidence};
use crate::baseline::Metric;

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThrottlingParams {
    /// Share of readings with a throttle reason.
    pub share: f64,
    /// Share of the usual clock below which it matters.
    pub clock: f64,
}

impl Default for ThrottlingParams {
    fn default() -> Self {
        Self { share: 0.3, clock: 0.9 }
    }
}

/// Device, share throttled, clock, usual clock, temperature.
type Hot<'a> = (&'a str, f64, f64, f64, Option<f64>);

pub(super) fn look(look: &Look<'_>, params: &ThrottlingParams, found: &mut Vec<Finding>) {
    let mut hot: Vec<Hot<'_>> = Vec::new();
    for ((device, _), facts) in &look.devices {
        let (Some(throttled), Some(clock)) = (facts.throttled.get(), facts.clock.get()) else { continue };
        let usual = look.devices_past.get(*device).map(|past| past.usual_clock).filter(|usual| *usual > 0.0);
        let Some(usual) = usual.or_else(|| look.normal(Metric::Clock)) else { continue };
        if throttled >= params.share / 2.0 && clock < params.clock * usual {
            hot.push((*device, throttled, clock, usual, facts.celsius.get()));
        }
    }
    let Some(&(device, ..)) = hot.first() else { return };
    let count = hot.len() as f64;
    let mean = |of: fn(&Hot<'_>) -> f64| hot.iter().map(of).sum::<f64>() / count;
    let share = mean(|one| one.1);
    let readings = u64::from(look.recent.throttled.count);
    let mut numbers = vec![
        evidence("gpu_sm_clock", "MHz", mean(|one| one.2), Some(mean(|one| one.3)), readings),
        evidence("gpu_throttled", "share", share, Some(0.0), readings),
        evidence("throttled_devices", "devices", count, Some(0.0), readings),
        evidence("devices", "devices", look.devices.len() as f64, None, readings),
    ];
    if let Some(celsius) = hot.iter().filter_map(|one| one.4).reduce(f64::max) {
        numbers.push(evidence("gpu_temperature", "Cel", celsius, None, readings));
    }
    let mut finding = Finding::new(Kind::Throttling, share < params.share, numbers);
    if hot.len() == 1 && look.devices.len() > 1 {
        finding.subject = Subject { device: device.to_owned(), ..Subject::default() };
    }
    found.push(finding);
}
