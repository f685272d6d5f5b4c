//! What a detector sees: the last minute of one model, in facts and values, beside its baseline.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Services, median};
use crate::{
    baseline::{Baselines, Metric, Shift},
    facts::{Facts, Mean, ModelWindow},
    rollup::{Measure, Millis, WINDOW_MS},
    sketch::Sketch,
};

/// Windows that are looked at as "now".
pub(crate) const RECENT: usize = 3;
/// Windows that are remembered: one minute.
pub(crate) const REMEMBERED: usize = 6;

/// What is remembered of one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) facts: Facts,
    values: Vec<f32>,
    durations: Sketch,
    versions: BTreeMap<String, Facts>,
    pub(crate) devices: BTreeMap<(String, String), Facts>,
}

impl Past {
    pub(crate) fn of(window: &ModelWindow) -> Self {
        let read = |metric: &Metric| metric.read(window).map_or(f32::NAN, |value| value as f32);
        Self {
            facts: window.all,
            values: Metric::ALL.iter().map(read).collect(),
            durations: window.sketch(Measure::DurationMicros).cloned().unwrap_or_default(),
            versions: window.versions.clone(),
            devices: window.devices.clone(),
        }
    }
}

/// What is remembered of a version for long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct VersionPast {
    pub(crate) first_ms: Millis,
    pub(crate) last_ms: Millis,
}

/// What is remembered of a device for long.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DevicePast {
    /// How much slower than its peers it usually is, as a logarithm.
    pub(crate) usual_slowness: f64,
    /// Its usual SM clock, MHz.
    pub(crate) usual_clock: f64,
    pub(crate) last_ms: Millis,
}

/// What a look is taken of.
pub(crate) struct Memory<'a> {
    pub(crate) window_ms: Millis,
    pub(crate) past: &'a VecDeque<Past>,
    pub(crate) baselines: &'a Baselines,
    pub(crate) versions_past: &'a BTreeMap<String, VersionPast>,
    pub(crate) devices_past: &'a BTreeMap<String, DevicePast>,
    pub(crate) services: &'a Services,
    pub(crate) stages: &'a BTreeMap<String, Mean>,
    /// Calls in the last window, as clients report them.
    pub(crate) calls: u64,
    /// Of ln(pace) on ln(batch).
    pub(crate) slope: f64,
}

/// See the module's words.
pub(crate) struct Look<'a> {
    pub(crate) window_ms: Millis,
    pub(crate) past: &'a VecDeque<Past>,
    pub(crate) baselines: &'a Baselines,
    pub(crate) versions_past: &'a BTreeMap<String, VersionPast>,
    pub(crate) devices_past: &'a BTreeMap<String, DevicePast>,
    pub(crate) services: &'a Services,
    /// Mean self time in a trace, by stage, of the last window.
    pub(crate) stages: &'a BTreeMap<String, Mean>,
    /// Calls in the last window, as clients report them.
    pub(crate) calls: u64,
    /// Of ln(pace) on ln(batch).
    pub(crate) slope: f64,
    /// Requests running an engine, if any engine sent readings in the last window.
    pub(crate) last_running: Option<f64>,
    /// The last [`RECENT`] windows.
    pub(crate) recent: Facts,
    /// The last [`REMEMBERED`] windows.
    pub(crate) minute: Facts,
    pub(crate) versions: BTreeMap<&'a str, Facts>,
    /// By (device, version), of the last [`RECENT`] windows.
    pub(crate) devices: BTreeMap<(&'a str, &'a str), Facts>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(of: Memory<'a>) -> Self {
        let Memory {
            window_ms,
            past,
            baselines,
            versions_past,
            devices_past,
            services,
            stages,
            calls,
            slope,
        } = of;
        let (mut recent, mut minute) = (Facts::default(), Facts::default());
        let (mut versions, mut devices) = (BTreeMap::new(), BTreeMap::new());
        let skipped = past.len().saturating_sub(RECENT);
        for (index, one) in past.iter().enumerate() {
            minute.pool(&one.facts);
            for (name, facts) in &one.versions {
                versions.entry(name.as_str()).or_insert_with(Facts::default).pool(facts);
            }
            if index < skipped {
                continue;
            }
            recent.pool(&one.facts);
            for ((device, version), facts) in &one.devices {
                let of = (device.as_str(), version.as_str());
                devices.entry(of).or_insert_with(Facts::default).pool(facts);
            }
        }
        Self {
            window_ms,
            past,
            baselines,
            versions_past,
            devices_past,
            services,
            stages,
            calls,
            slope,
            last_running: past.back().and_then(|last| last.facts.running.get()),
            recent,
            minute,
            versions,
            devices,
        }
    }

    /// The value of the last window.
    pub(crate) fn last(&self, metric: Metric) -> Option<f64> {
        let value = f64::from(*self.past.back()?.values.get(metric as usize)?);
        value.is_finite().then_some(value)
    }

    /// The median of the last windows.
    pub(crate) fn now(&self, metric: Metric) -> Option<f64> {
        let values = self.past.iter().rev().take(RECENT).filter_map(|past| past.values.get(metric as usize));
        let finite: Vec<f64> =
            values.map(|value| f64::from(*value)).filter(|value| value.is_finite()).collect();
        median(finite)
    }

    /// The median of the last windows beside what is normal.
    pub(crate) fn shift(&self, metric: Metric) -> Option<Shift> {
        self.baselines.shift(metric, self.now(metric)?, self.window_ms)
    }

    /// A value beside what is normal.
    pub(crate) fn compare(&self, metric: Metric, observed: f64) -> Option<Shift> {
        self.baselines.shift(metric, observed, self.window_ms)
    }

    /// What was normal in the last hour.
    pub(crate) fn normal(&self, metric: Metric) -> Option<f64> {
        self.baselines.normal(metric, self.window_ms)
    }

    /// A quantile of latency over the last minute, seconds.
    pub(crate) fn latency(&self, q: f64) -> Option<f64> {
        let mut pooled = Sketch::default();
        self.past.iter().for_each(|past| pooled.merge(&past.durations));
        Some(pooled.quantile(q)? * 1e-6)
    }

    /// Requests a second that arrived: those that ended or were refused, and by how much more are under way.
    pub(crate) fn arrival_rate(&self) -> f64 {
        let under_way =
            |facts: &Facts| Some((facts.running.get()? + facts.waiting.get()?) * f64::from(facts.devices));
        let recent = || self.past.iter().rev().take(RECENT + 1);
        let refused =
            self.recent.refused as f64 / (f64::from(self.recent.windows.max(1)) * WINDOW_MS as f64 * 1e-3);
        let ended = self.recent.rate() + refused;
        let devices: Vec<u32> = recent().map(|past| past.facts.devices).collect();
        if devices.len() <= RECENT || devices.windows(2).any(|pair| pair[0] != pair[1]) {
            return ended;
        }
        let known: Vec<f64> = recent().filter_map(|past| under_way(&past.facts)).collect();
        if known.len() <= RECENT {
            return ended;
        }
        let growth = (known[0] - known[RECENT]) / (RECENT as f64 * WINDOW_MS as f64 * 1e-3);
        (ended + growth).max(0.0)
    }

    /// Whether fewer requests wait than some windows ago: what waits now came earlier.
    pub(crate) fn is_draining(&self) -> bool {
        // What requests found when they came is old by the time they end; gauges are of now.
        let waiting = |past: &Past| past.facts.waiting.get().or(past.facts.depth.get()).unwrap_or(0.0);
        let recent: Vec<f64> = self.past.iter().rev().take(RECENT).map(waiting).collect();
        let (Some(now), Some(before)) = (recent.first(), recent.last()) else { return false };
        recent.len() == RECENT && *now < 0.97 * before - 0.5
    }

    /// The service that serves the model.
    pub(crate) fn service(&self) -> String {
        self.services.main().unwrap_or_default().to_owned()
    }
}
