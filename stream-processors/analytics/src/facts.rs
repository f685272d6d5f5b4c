//! What a window says of a model, a version or a device, in few numbers that pool over windows.
//!
//! Neighbours: [`crate::merge`] gives cells, detectors and causes read facts. Invariant: facts are taken from merged
//! cells in the order of keys, so they do not depend on the order of partials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    merge::{Cells, Merged},
    rollup::{Cell, Counter, Exemplars, Measure, Shape, WINDOW_MS},
    sketch::Sketch,
};

/// A mean that pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    pub(crate) count: u32,
    mean: f32,
}

impl Mean {
    pub(crate) fn of(cell: &Cell, measure: Measure, unit: f64) -> Self {
        let Some(sketch) = cell.sketch(measure) else { return Self::default() };
        let count = u32::try_from(sketch.count()).unwrap_or(u32::MAX);
        Self { count, mean: (sketch.mean().unwrap_or(0.0) * unit) as f32 }
    }

    /// The mean; none where nothing was measured.
    pub(crate) fn get(self) -> Option<f64> {
        (self.count > 0).then_some(f64::from(self.mean))
    }

    fn pool(&mut self, other: Self) {
        let count = self.count.saturating_add(other.count);
        if other.count > 0 {
            let share = f64::from(other.count) / f64::from(count);
            let mean = f64::from(self.mean);
            self.mean = (mean + (f64::from(other.mean) - mean) * share) as f32;
            self.count = count;
        }
    }
}

/// Counts and means of some windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) windows: u32,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) refused: u64,
    pub(crate) unreported: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cached: u64,
    pub(crate) preemptions: u64,
    pub(crate) cost_nano: u64,
    /// Requests whose cost is not known.
    pub(crate) unpriced: u64,
    /// Means in seconds, sequences, shares (0–1), MHz.
    pub(crate) duration: Mean,
    pub(crate) ttft: Mean,
    pub(crate) tpot: Mean,
    pub(crate) queue: Mean,
    pub(crate) prefill: Mean,
    pub(crate) decode: Mean,
    pub(crate) batch: Mean,
    pub(crate) fill: Mean,
    pub(crate) depth: Mean,
    pub(crate) kv: Mean,
    pub(crate) busy: Mean,
    pub(crate) memory: Mean,
    pub(crate) clock: Mean,
    pub(crate) throttled: Mean,
    pub(crate) celsius: Mean,
    /// By an engine's gauges; of several devices: the mean of one.
    pub(crate) running: Mean,
    pub(crate) waiting: Mean,
    /// Devices that had requests in the last of the windows.
    pub(crate) devices: u32,
}

const MICROS: f64 = 1e-6;
const MILLI: f64 = 1e-3;

impl Facts {
    /// Facts of one window.
    pub(crate) fn of(cell: &Cell) -> Self {
        use Measure as M;
        let mean = |measure, unit| Mean::of(cell, measure, unit);
        Self {
            windows: 1,
            requests: cell.get(Counter::Requests),
            errors: cell.get(Counter::Errors),
            refused: cell.get(Counter::Refused),
            unreported: cell.get(Counter::UnreportedCalls),
            input: cell.get(Counter::InputTokens),
            output: cell.get(Counter::OutputTokens),
            cached: cell.get(Counter::CachedTokens),
            preemptions: cell.get(Counter::Preemptions),
            cost_nano: cell.get(Counter::CostNanoUsd),
            unpriced: cell.get(Counter::UnpricedRequests),
            duration: mean(M::DurationMicros, MICROS),
            ttft: mean(M::TtftMicros, MICROS),
            tpot: mean(M::TpotMicros, MICROS),
            queue: mean(M::QueueMicros, MICROS),
            prefill: mean(M::PrefillMicros, MICROS),
            decode: mean(M::DecodeMicros, MICROS),
            batch: mean(M::BatchMilli, MILLI),
            fill: mean(M::BatchFillPermille, MILLI),
            depth: mean(M::QueueDepth, 1.0),
            kv: mean(M::KvUsagePermille, MILLI),
            busy: mean(M::GpuUtilizationPermille, MILLI),
            memory: mean(M::GpuMemoryPermille, MILLI),
            clock: mean(M::GpuSmClockMhz, 1.0),
            throttled: mean(M::GpuThrottledPermille, MILLI),
            celsius: mean(M::GpuTemperatureMilliCelsius, MILLI),
            running: mean(M::EngineRunning, 1.0),
            waiting: mean(M::EngineWaiting, 1.0),
            devices: 0,
        }
    }

    /// Adds what a device itself reported; it is nearer to the truth than what spans say of the device.
    pub(crate) fn add_device(&mut self, cell: &Cell) {
        let read = Self::of(cell);
        let fields = [
            (&mut self.busy, read.busy),
            (&mut self.memory, read.memory),
            (&mut self.clock, read.clock),
            (&mut self.throttled, read.throttled),
            (&mut self.celsius, read.celsius),
            (&mut self.running, read.running),
            (&mut self.waiting, read.waiting),
        ];
        for (own, device) in fields {
            if device.count > 0 {
                *own = device;
            }
        }
        if self.kv.count == 0 {
            self.kv = read.kv;
        }
        self.preemptions = self.preemptions.max(read.preemptions);
    }

    /// Takes readings of one more device into the mean of all.
    fn pool_readings(&mut self, of: &Self) {
        self.busy.pool(of.busy);
        self.memory.pool(of.memory);
        self.clock.pool(of.clock);
        self.throttled.pool(of.throttled);
        self.celsius.pool(of.celsius);
        self.running.pool(of.running);
        self.waiting.pool(of.waiting);
    }

    /// Pools facts of other windows or other devices.
    pub(crate) fn pool(&mut self, of: &Self) {
        self.windows += of.windows;
        self.requests += of.requests;
        self.errors += of.errors;
        self.refused += of.refused;
        self.unreported += of.unreported;
        self.input += of.input;
        self.output += of.output;
        self.cached += of.cached;
        self.preemptions += of.preemptions;
        self.cost_nano += of.cost_nano;
        self.unpriced += of.unpriced;
        for (own, other) in [
            (&mut self.duration, of.duration),
            (&mut self.ttft, of.ttft),
            (&mut self.tpot, of.tpot),
            (&mut self.queue, of.queue),
            (&mut self.prefill, of.prefill),
            (&mut self.decode, of.decode),
            (&mut self.batch, of.batch),
            (&mut self.fill, of.fill),
            (&mut self.depth, of.depth),
            (&mut self.kv, of.kv),
        ] {
            own.pool(other);
        }
        self.pool_readings(of);
        self.devices = of.devices;
    }

    fn seconds(&self) -> f64 {
        f64::from(self.windows) * WINDOW_MS as f64 * 1e-3
    }

    fn ratio(part: u64, of: u64) -> Option<f64> {
        (of > 0).then(|| part as f64 / of as f64)
    }

    /// Requests a second that ended.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds().max(1.0)
    }

    /// Share of prompt tokens that came from the cache.
    pub(crate) fn hit_ratio(&self) -> Option<f64> {
        Self::ratio(self.cached, self.input).map(|ratio| ratio.min(1.0))
    }

    /// Share of requests that failed.
    pub(crate) fn error_rate(&self) -> Option<f64> {
        Self::ratio(self.errors, self.requests)
    }

    /// Prompt tokens a request.
    pub(crate) fn input_each(&self) -> Option<f64> {
        Self::ratio(self.input, self.requests)
    }

    /// Generated tokens a request.
    pub(crate) fn output_each(&self) -> Option<f64> {
        Self::ratio(self.output, self.requests)
    }

    /// Prompt tokens a request that had to be computed.
    pub(crate) fn uncached_each(&self) -> Option<f64> {
        Self::ratio(self.input.saturating_sub(self.cached), self.requests)
    }

    /// Preemptions a minute.
    pub(crate) fn preemptions_a_minute(&self) -> f64 {
        self.preemptions as f64 * 60.0 / self.seconds().max(1.0)
    }

    /// US dollars for 1,000 tokens, in and out; none where the cost of more than a tenth of the requests is not known,
    /// since their tokens would seem free.
    pub(crate) fn cost_of_1k(&self) -> Option<f64> {
        let is_known = self.unpriced * 10 <= self.requests;
        (is_known && self.cost_nano > 0 && self.input + self.output > 0)
            .then(|| self.cost_nano as f64 * 1e-9 * 1_000.0 / (self.input + self.output) as f64)
    }

    /// Requests waiting for one engine: by its gauge or by what requests found, whichever saw more.
    pub(crate) fn backlog(&self) -> f64 {
        self.waiting.get().unwrap_or(0.0).max(self.depth.get().unwrap_or(0.0))
    }
}

/// Everything that one window says of one model of one tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelWindow {
    pub(crate) all: Facts,
    /// Requests of all versions and devices, for quantiles.
    pub(crate) cell: Cell,
    pub(crate) versions: BTreeMap<String, Facts>,
    /// Requests of all devices, by version.
    version_cells: BTreeMap<String, Cell>,
    /// By (device, version).
    pub(crate) devices: BTreeMap<(String, String), Facts>,
    /// Requests by service.
    pub(crate) services: BTreeMap<String, u64>,
    /// Mean self time in a trace and number of traces, by stage.
    pub(crate) stages: BTreeMap<String, Mean>,
    pub(crate) exemplars: Exemplars,
    /// The same requests as clients report them.
    pub(crate) calls: Cell,
    /// Traces of calls.
    call_exemplars: Exemplars,
    call_services: BTreeMap<String, u64>,
    engines: Cell,
    refused: u64,
    unreported: u64,
}

/// Sorts a window's cells by tenant and model, and joins devices to the models that ran on them.
pub(crate) fn models_of(view: &Cells) -> BTreeMap<(String, String), ModelWindow> {
    let mut readings: BTreeMap<&str, Cell> = BTreeMap::new();
    let mut models: BTreeMap<(String, String), ModelWindow> = BTreeMap::new();
    for (key, merged) in view {
        let shape = key.shape();
        if shape == Shape::Device || (shape == Shape::Engine && !key.device.is_empty()) {
            readings.entry(&key.device).or_default().merge(&merged.cell);
        }
        if key.model.is_empty() || shape == Shape::Device {
            continue;
        }
        let window = models.entry((key.tenant.to_string(), key.model.to_string())).or_default();
        match shape {
            Shape::Request => window.add_requests(&key.version, &key.service, &key.device, merged),
            Shape::Call => window.add_calls(&key.service, merged),
            Shape::Spans => window.refused += merged.cell.get(Counter::Refused),
            Shape::Stage => {
                let stage = window.stages.entry(key.stage.to_string()).or_default();
                stage.pool(Mean::of(&merged.cell, Measure::SelfMicros, MICROS));
            }
            Shape::Trace => window.unreported += merged.cell.get(Counter::UnreportedCalls),
            Shape::Engine => window.engines.merge(&merged.cell),
            Shape::Device => {}
        }
    }
    for window in models.values_mut() {
        window.join(&readings);
    }
    models
}

impl ModelWindow {
    /// A window in which nothing was reported.
    pub(crate) fn nothing() -> Self {
        Self { all: Facts { windows: 1, ..Facts::default() }, ..Self::default() }
    }

    fn add_requests(&mut self, version: &str, service: &str, device: &str, merged: &Merged) {
        let facts = Facts::of(&merged.cell);
        self.version_cells.entry(version.to_owned()).or_default().merge(&merged.cell);
        self.exemplars.merge(&merged.exemplars);
        *self.services.entry(service.to_owned()).or_default() += facts.requests;
        if facts.requests == 0 {
            return;
        }
        let add = |to: &mut Facts| {
            to.pool(&facts);
            to.windows = 1;
        };
        add(self.versions.entry(version.to_owned()).or_default());
        if !device.is_empty() {
            add(self.devices.entry((device.to_owned(), version.to_owned())).or_default());
        }
    }

    fn add_calls(&mut self, service: &str, merged: &Merged) {
        self.calls.merge(&merged.cell);
        self.call_exemplars.merge(&merged.exemplars);
        *self.call_services.entry(service.to_owned()).or_default() += merged.cell.get(Counter::Requests);
    }

    /// A model of which no engine reports is known by its callers: their calls are its requests.
    pub(crate) fn take_calls_for_requests(&mut self) {
        self.cell = std::mem::take(&mut self.calls);
        self.exemplars = std::mem::take(&mut self.call_exemplars);
        self.services = std::mem::take(&mut self.call_services);
        let (refused, unreported) = (self.all.refused, self.all.unreported);
        self.all = Facts { refused, unreported, ..Facts::of(&self.cell) };
    }

    /// Replaces what spans said of devices by the devices' own readings, where there are any.
    fn join(&mut self, readings: &BTreeMap<&str, Cell>) {
        self.version_cells.values().for_each(|cell| self.cell.merge(cell));
        self.all = Facts::of(&self.cell);
        self.all.refused += self.refused;
        self.all.unreported += self.unreported;
        let engines = Facts::of(&self.engines);
        let mut devices = Facts::default();
        for ((device, _), facts) in &mut self.devices {
            let spans = facts.preemptions;
            if let Some(cell) = readings.get(device.as_str()) {
                facts.add_device(cell);
                devices.pool_readings(facts);
            }
            facts.preemptions = spans;
            if facts.running.count == 0 {
                // Gauges that name no device: the mean of all engines stands for each.
                (facts.running, facts.waiting) = (engines.running, engines.waiting);
            }
        }
        for (own, device) in [
            (&mut self.all.busy, devices.busy),
            (&mut self.all.memory, devices.memory),
            (&mut self.all.clock, devices.clock),
            (&mut self.all.throttled, devices.throttled),
            (&mut self.all.celsius, devices.celsius),
            (
                &mut self.all.running,
                if engines.running.count > 0 { engines.running } else { devices.running },
            ),
            (
                &mut self.all.waiting,
                if engines.waiting.count > 0 { engines.waiting } else { devices.waiting },
            ),
        ] {
            if device.count > 0 {
                *own = device;
            }
        }
        self.all.preemptions = self.all.preemptions.max(engines.preemptions);
        if self.all.kv.count == 0 {
            self.all.kv = engines.kv;
        }
        let mut names: Vec<&str> = self.devices.keys().map(|(device, _)| device.as_str()).collect();
        names.dedup();
        self.all.devices = u32::try_from(names.len()).unwrap_or(u32::MAX);
    }

    /// The requests of one version alone; none where it had none.
    pub(crate) fn of_version(&self, version: &str) -> Option<Self> {
        let cell = self.version_cells.get(version)?;
        let all = Facts::of(cell);
        (all.requests > 0).then(|| Self { all, cell: cell.clone(), ..Self::default() })
    }

    /// A sketch of a measure of all requests.
    pub(crate) fn sketch(&self, measure: Measure) -> Option<&Sketch> {
        self.cell.sketch(measure)
    }
}
