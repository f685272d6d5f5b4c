//! A service that served a model stopped reporting, while event time goes on.
//!
//! With the usual rate λ a window, k windows without a request have the probability e^(−λk) under a Poisson process;
//! fires when λk ≥ `expected`, k ≥ `windows` and k is half as long again as the second longest pause of late, unless
//! the model's engines still send readings: then nobody asked. λ is a running mean, learnt for `history` windows at
//! least.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Finding, Kind, Look, Subject, evidence};
use crate::rollup::{Millis, WINDOW_MS};

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SilenceParams {
    /// Requests that should have come by now.
    pub expected: f64,
    /// Windows without any.
    pub windows: u32,
    /// Windows of a service before it can be missed.
    pub history: u32,
    /// A service silent for so long is gone, and no longer missed.
    pub gone_ms: Millis,
}

impl Default for SilenceParams {
    fn default() -> Self {
        Self { expected: 25.0, windows: 3, history: 30, gone_ms: 6 * 3_600_000 }
    }
}

/// What is remembered of a service of one model.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Service {
    usual: f64,
    history: u32,
    silent: u32,
    /// The two longest pauses of late, fading: what happens twice is usual, an outage happens once.
    pauses: [f32; 2],
    last_ms: Millis,
}

/// The services of one model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Services(BTreeMap<String, Service>);

/// Windows of a pause that count for the mean; those of an outage do not.
const LEARNT_WINDOWS: u32 = 12;
/// What pauses keep of their length with each that ends.
const FADES: f32 = 0.98;

impl Service {
    /// A pause ends.
    fn paused(&mut self) {
        if self.silent == 0 {
            return;
        }
        let [longest, second] = self.pauses.map(|pause| pause * FADES);
        let new = self.silent as f32;
        self.pauses = if new > longest { [new, longest] } else { [longest, second.max(new)] };
    }
}

/// Services of one model that are remembered.
const MOST: usize = 64;

impl Services {
    /// Takes the requests of a window by service.
    pub(crate) fn learn(&mut self, window_ms: Millis, requests: &BTreeMap<String, u64>) {
        for (name, _) in requests.iter().filter(|(_, count)| **count > 0) {
            if !self.0.contains_key(name) && self.0.len() >= MOST {
                continue;
            }
            let service = self.0.entry(name.clone()).or_default();
            service.paused();
            service.silent = 0;
            service.last_ms = window_ms;
        }
        for (name, service) in &mut self.0 {
            let count = requests.get(name).copied().unwrap_or(0);
            if count == 0 {
                service.silent = service.silent.saturating_add(1);
            }
            if service.silent <= LEARNT_WINDOWS {
                service.history = service.history.saturating_add(1);
                let weight = (1.0 / f64::from(service.history)).max(0.01);
                service.usual += (count as f64 - service.usual) * weight;
            }
        }
    }

    /// Forgets services that are gone; says whether any is left.
    pub(crate) fn forget(&mut self, before_ms: Millis) -> bool {
        self.0.retain(|_, service| service.last_ms >= before_ms);
        !self.0.is_empty()
    }

    /// The service with the most requests.
    pub(crate) fn main(&self) -> Option<&str> {
        let by_usual = self.0.iter().max_by(|(_, a), (_, b)| a.usual.total_cmp(&b.usual));
        by_usual.map(|(name, _)| name.as_str())
    }
}

pub(super) fn look(look: &Look<'_>, params: &SilenceParams, found: &mut Vec<Finding>) {
    if look.last_running.is_some() {
        // Its engines report: there is nothing to do for them.
        return;
    }
    for (name, service) in &look.services.0 {
        let expected = service.usual * f64::from(service.silent);
        let is_known = service.history >= params.history;
        // Traffic that comes in bursts pauses for longer than Poisson's.
        let is_usual = f64::from(service.silent) <= 1.5 * f64::from(service.pauses[1]);
        let is_gone = look.window_ms - service.last_ms > params.gone_ms;
        if !is_known || is_usual || is_gone || service.silent < params.windows || expected < params.expected {
            continue;
        }
        let silent_s = f64::from(service.silent) * WINDOW_MS as f64 * 1e-3;
        let mut numbers = vec![
            evidence("requests", "requests", 0.0, Some(expected), 0),
            evidence("silent", "s", silent_s, Some(0.0), 0),
        ];
        let calls = look.calls;
        if calls > 0 {
            numbers.push(evidence("client_calls", "requests", calls as f64, None, calls));
        }
        let mut finding = Finding::new(Kind::Silence, false, numbers);
        finding.subject = Subject { service: name.clone(), ..Subject::default() };
        found.push(finding);
    }
}
