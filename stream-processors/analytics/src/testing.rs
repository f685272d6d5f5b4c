//! A small synthetic model for tests: partials of devices that serve one model, with knobs for what goes wrong.

use crate::{
    analyst::Analyst,
    config::AnalystConfig,
    output::{Baseline, Insight, Output},
    rollup::{Cell, Counter, Exemplar, Exemplars, Key, Measure, Millis, Partial, WINDOW_MS, stage},
};

/// A Monday, 00:00 UTC.
pub(crate) const START: Millis = 1_704_067_200_000;
/// Model under test.
pub(crate) const MODEL: &str = "m";

/// What one device does in one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conduct {
    pub(crate) requests: u64,
    pub(crate) failing: u64,
    pub(crate) tpot_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) batch: u64,
    pub(crate) hit_permille: u64,
    pub(crate) busy_permille: u64,
    pub(crate) clock_mhz: u64,
    pub(crate) throttled: bool,
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) version: &'static str,
    /// Whether the device and its engine send readings.
    pub(crate) reads: bool,
}

/// A healthy device.
pub(crate) const HEALTHY: Conduct = Conduct {
    requests: 30,
    failing: 0,
    tpot_us: 15_000,
    queue_us: 20_000,
    batch: 8,
    hit_permille: 600,
    busy_permille: 900,
    clock_mhz: 1_410,
    throttled: false,
    waiting: 0,
    running: 8,
    version: "1",
    reads: true,
};

/// Partials of one window in which the devices conduct themselves so.
pub(crate) fn window(at_ms: Millis, devices: &[Conduct]) -> Vec<Partial> {
    let mut partials = Vec::new();
    for (index, conduct) in devices.iter().enumerate() {
        let device = format!("GPU-{index}");
        let mut cell = Cell::default();
        let mut exemplars = Exemplars::default();
        for request in 0..conduct.requests {
            // Spread by a factor of ±20 %, the same in each window.
            let spread = |value: u64| value * (80 + (request * 7 + at_ms as u64 / 10_000) % 41) / 100;
            let (queue, tpot, input) = (spread(conduct.queue_us), spread(conduct.tpot_us), 1_000);
            let prefill = 100_000 + (1_000 - conduct.hit_permille) * 100;
            let duration = queue + prefill + 100 * tpot;
            let fails = request < conduct.failing;
            cell.count(Counter::Requests, 1);
            cell.count(Counter::Errors, u64::from(fails));
            cell.count(Counter::InputTokens, input);
            cell.count(Counter::CachedTokens, conduct.hit_permille);
            cell.count(Counter::OutputTokens, 101);
            for (measure, value) in [
                (Measure::DurationMicros, duration),
                (Measure::TtftMicros, queue + prefill),
                (Measure::TpotMicros, tpot),
                (Measure::QueueMicros, queue),
                (Measure::PrefillMicros, prefill),
                (Measure::DecodeMicros, 100 * tpot),
                (Measure::BatchMilli, conduct.batch * 1_000),
                (Measure::BatchFillPermille, conduct.batch * 1_000 / 32),
                (Measure::KvUsagePermille, 300),
                (Measure::QueueDepth, conduct.waiting),
            ] {
                cell.measure(measure, value);
            }
            let trace_id = (at_ms as u128 * 1_000 + u128::from(request) * 10 + index as u128).to_be_bytes();
            exemplars.add(Exemplar { duration_micros: duration, is_error: fails, trace_id });
        }
        let key = Key {
            model: MODEL.into(),
            version: conduct.version.into(),
            service: "server".into(),
            device: device.as_str().into(),
            ..Key::default()
        };
        if conduct.requests > 0 {
            partials.push(Partial { window_ms: at_ms, seen_window_ms: at_ms, key, cell, exemplars });
        }
        if !conduct.reads {
            continue;
        }
        let mut reading = Cell::default();
        reading.measure(Measure::GpuUtilizationPermille, conduct.busy_permille);
        reading.measure(Measure::GpuSmClockMhz, conduct.clock_mhz);
        reading.measure(Measure::GpuThrottledPermille, if conduct.throttled { 1_000 } else { 0 });
        let key = Key { device: device.as_str().into(), ..Key::default() };
        let exemplars = Exemplars::default();
        partials.push(Partial { window_ms: at_ms, seen_window_ms: at_ms, key, cell: reading, exemplars });
        let mut engine = Cell::default();
        engine.measure(Measure::EngineRunning, conduct.running);
        engine.measure(Measure::EngineWaiting, conduct.waiting);
        let key = Key {
            model: MODEL.into(),
            service: "server".into(),
            stage: stage::ENGINE.into(),
            ..Key::default()
        };
        let exemplars = Exemplars::default();
        partials.push(Partial { window_ms: at_ms, seen_window_ms: at_ms, key, cell: engine, exemplars });
    }
    let key = Key { model: MODEL.into(), stage: stage::TRACE.into(), ..Key::default() };
    let mut cell = Cell::default();
    cell.count(Counter::Traces, devices.iter().map(|conduct| conduct.requests).sum());
    let exemplars = Exemplars::default();
    partials.push(Partial { window_ms: at_ms, seen_window_ms: at_ms, key, cell, exemplars });
    partials
}

/// Windows of an hour of health, then what `conduct` says of each later window.
pub(crate) struct Story {
    pub(crate) analyst: Analyst,
    pub(crate) at_ms: Millis,
    pub(crate) insights: Vec<Insight>,
    pub(crate) baselines: Vec<Baseline>,
}

impl Story {
    pub(crate) fn new(config: AnalystConfig) -> Self {
        Self { analyst: Analyst::new(config), at_ms: START, insights: Vec::new(), baselines: Vec::new() }
    }

    /// After 100 healthy windows of three devices.
    pub(crate) fn warm() -> Self {
        let mut story = Self::new(AnalystConfig::default());
        story.run(100, &[HEALTHY; 3]);
        assert_eq!(story.insights.len(), 0, "health is told of: {:?}", story.insights.first());
        story
    }

    pub(crate) fn run(&mut self, windows: usize, devices: &[Conduct]) {
        let mut out = Vec::new();
        for _ in 0..windows {
            for partial in window(self.at_ms, devices) {
                self.analyst.partial(0, partial);
            }
            self.at_ms += WINDOW_MS;
            self.analyst.watermark(0, self.at_ms + 1_500, &mut out);
        }
        for output in out {
            match output {
                Output::Insight(insight) => self.insights.push(*insight),
                Output::Baseline(baseline) => self.baselines.push(baseline),
                Output::Rollup(_) | Output::Closed { .. } => {}
            }
        }
    }

    /// The last revision of the only insight, and its first cause.
    pub(crate) fn only(&self) -> (&Insight, &str) {
        let ids: std::collections::BTreeSet<&str> = self.insights.iter().map(|one| one.id.as_str()).collect();
        let titles: Vec<&str> = self.insights.iter().map(|one| one.title.as_str()).collect();
        assert_eq!(ids.len(), 1, "{titles:?}");
        let last = self.insights.last().unwrap();
        (last, last.causes.first().map_or("", |cause| cause.cause.as_str()))
    }
}
