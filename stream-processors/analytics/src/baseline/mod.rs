//! What is normal for a model: median and MAD of the last hour, and of this hour of earlier weeks.
//!
//! A window is compared with both, and the nearer one counts: what is usual on a Monday at nine is no anomaly, nor is
//! what has been so for an hour. Cold start: below [`COLD_WINDOWS`] nothing is compared, below [`WARM_WINDOWS`]
//! baselines say so and what is found is for information. Windows come in [`DELAY`] windows late, so that the
//! beginning of an incident is known as such before it is learnt.

mod metric;
mod robust;
mod season;
mod slope;
mod versions;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    metric::{Metric, Scale, is_engine_stage},
    slope::Slope,
    versions::VersionBaselines,
};
use self::{
    robust::{Level, Recent},
    season::{Season, hour_of_week},
};
use crate::{
    facts::ModelWindow,
    output::Baseline,
    rollup::{Millis, WINDOW_MS},
};

/// Windows below which nothing is compared: five minutes.
pub(crate) const COLD_WINDOWS: usize = 30;
/// Windows from which on a baseline is no cold start: ten minutes.
pub(crate) const WARM_WINDOWS: usize = 60;
/// Windows between a window and its being learnt.
const DELAY: usize = 4;
const HOUR_MS: Millis = 3_600_000;
const MINUTE_MS: Millis = 60_000;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Series {
    recent: Recent,
    season: Season,
    samples: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    values: Vec<f32>,
    flagged: bool,
}

/// A value beside what is normal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    pub(crate) observed: f64,
    pub(crate) normal: f64,
    /// Robust standard deviations, on the metric's scale.
    pub(crate) z: f64,
}

impl Shift {
    pub(crate) fn ratio(self) -> f64 {
        self.observed / self.normal.max(1e-9)
    }

    pub(crate) fn difference(self) -> f64 {
        self.observed - self.normal
    }
}

/// The baselines of one model (or one version of it).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Baselines {
    series: Vec<Series>,
    pending: VecDeque<Pending>,
    windows: u64,
    first_ms: Millis,
    last_ms: Millis,
}

impl Baselines {
    /// Takes the metrics of a window that are `learnt`, later, clipped if it or one that follows soon is `flagged`.
    pub(crate) fn learn(
        &mut self,
        window_ms: Millis,
        window: &ModelWindow,
        flagged: bool,
        learnt: impl Fn(Metric) -> bool,
    ) {
        if self.windows == 0 {
            self.first_ms = window_ms;
            self.series.resize_with(Metric::ALL.len(), Series::default);
        }
        let now_ms = window_ms + WINDOW_MS;
        if flagged {
            self.pending.iter_mut().for_each(|pending| pending.flagged = true);
        }
        let read = |&metric: &Metric| {
            let value = learnt(metric).then(|| metric.read(window)).flatten();
            value.map_or(f32::NAN, |value| metric.scaled(value) as f32)
        };
        self.pending.push_back(Pending { values: Metric::ALL.iter().map(read).collect(), flagged });
        self.windows += 1;
        self.last_ms = now_ms;
        if self.pending.len() > DELAY
            && let Some(pending) = self.pending.pop_front()
        {
            for ((series, metric), value) in self.series.iter_mut().zip(Metric::ALL).zip(pending.values) {
                if value.is_finite() {
                    series.recent.push(f64::from(value), pending.flagged, metric.floor());
                    series.samples += window.all.requests;
                }
            }
        }
        let is_young = self.windows < 2 * COLD_WINDOWS as u64;
        if is_young || now_ms % MINUTE_MS == 0 {
            self.series.iter_mut().for_each(|series| series.recent.compute());
        }
    }

    /// The same, of what requests themselves tell.
    fn of_requests(&self) -> Self {
        let mut own = self.clone();
        for (series, metric) in own.series.iter_mut().zip(Metric::ALL) {
            if !metric.is_of_requests() {
                *series = Series::default();
            }
        }
        own
    }

    /// Whether there is too little history to compare with.
    pub(crate) fn is_cold(&self) -> bool {
        self.history() < COLD_WINDOWS
    }

    /// Whether what is found is for information only.
    pub(crate) fn is_young(&self) -> bool {
        self.history() < WARM_WINDOWS
    }

    fn history(&self) -> usize {
        (self.windows as usize).saturating_sub(DELAY)
    }

    fn levels(&self, metric: Metric, at_ms: Millis) -> Option<(Level, Option<Level>)> {
        let series = self.series.get(metric as usize)?;
        if series.recent.len() < COLD_WINDOWS {
            return None;
        }
        Some((series.recent.level(), series.season.level(hour_of_week(at_ms))))
    }

    /// A value beside the nearer of what was normal in the last hour and at this hour of the week.
    pub(crate) fn shift(&self, metric: Metric, observed: f64, at_ms: Millis) -> Option<Shift> {
        let (recent, season) = self.levels(metric, at_ms)?;
        let scaled = metric.scaled(observed);
        let beside = |level: Level| Shift {
            observed,
            normal: metric.unscaled(level.median),
            z: level.z(scaled, metric.floor()),
        };
        let near = beside(recent);
        let seasonal = season.map(beside).filter(|seasonal| seasonal.z.abs() < near.z.abs());
        Some(seasonal.unwrap_or(near))
    }

    /// What was normal in the last hour.
    pub(crate) fn normal(&self, metric: Metric, at_ms: Millis) -> Option<f64> {
        let (recent, _) = self.levels(metric, at_ms)?;
        Some(metric.unscaled(recent.median))
    }

    /// The usual spread of a metric in the last hour, in standard deviations of its scale.
    pub(crate) fn spread(&self, metric: Metric) -> f64 {
        let level = self.series.get(metric as usize).map(|series| series.recent.level());
        level.map_or(0.0, |level| level.sigma(metric.floor()))
    }

    /// Mean of a share over the last hour: for what is rare, where the median is 0.
    pub(crate) fn mean(&self, metric: Metric) -> Option<f64> {
        let recent = &self.series.get(metric as usize)?.recent;
        (recent.len() >= COLD_WINDOWS).then(|| recent.mean())
    }

    /// At the end of an hour: adds it to the season, and tells what is normal.
    pub(crate) fn turn_hour(&mut self, hour_ms: Millis, of: &Baseline, out: &mut Vec<Baseline>) {
        let hour = hour_of_week(hour_ms);
        let (is_cold, from_ms) = (self.is_young(), self.first_ms);
        let to_ms = self.last_ms;
        for (series, &metric) in self.series.iter_mut().zip(Metric::ALL) {
            if series.recent.len() < COLD_WINDOWS {
                continue;
            }
            series.recent.compute();
            let level = series.recent.level();
            series.season.add(hour, level);
            let quantile = |q| metric.unscaled(series.recent.quantile(q).unwrap_or(0.0));
            let mut told = Baseline {
                metric: metric.name().to_owned(),
                computed_ms: hour_ms + HOUR_MS,
                from_ms: from_ms.max(to_ms - HOUR_MS),
                to_ms,
                samples: series.samples,
                windows: u32::try_from(series.recent.len()).unwrap_or(u32::MAX),
                winsorised_windows: u32::try_from(series.recent.clipped()).unwrap_or(u32::MAX),
                cold_start: is_cold,
                log_scale: metric.scale() == Scale::Log,
                median: level.median,
                mad: level.mad,
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                ..of.clone()
            };
            out.push(told.clone());
            if let Some(seasonal) = series.season.level(hour) {
                told.hour_of_week = Some(hour);
                told.median = seasonal.median;
                told.mad = seasonal.mad;
                out.push(told);
            }
            series.samples = 0;
        }
    }
}
