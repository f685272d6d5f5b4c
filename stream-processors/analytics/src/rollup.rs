//! What stage 1 counts and stage 2 reads: mergeable cells by key and window.
//!
//! Every number is whole, in the unit its name ends with, so that merging is exact and knows no order. Invariant:
//! names are written to topics; a new one is added at the end, none is renamed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;

/// Milliseconds since the Unix epoch, event time.
pub type Millis = i64;

/// Length of the base window.
pub const WINDOW_MS: Millis = 10_000;

/// Start of the base window that holds `at_ms`.
#[must_use]
pub const fn window_of(at_ms: Millis) -> Millis {
    at_ms - at_ms.rem_euclid(WINDOW_MS)
}

macro_rules! names {
    ($(#[$of:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $type { $($(#[$doc])* $variant),+ }

        impl $type {
            /// All, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The one of that name.
            #[must_use]
            pub fn of_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

names! {
    /// What is counted. A *request* is a span of a serving engine that carries token counts or a time to
    /// the first token, or, where no engine reports, the client's call.
    Counter {
        /// Spans of any kind.
        Spans = "spans",
        /// Spans with status ERROR.
        SpanErrors = "span_errors",
        /// Model requests.
        Requests = "requests",
        /// Model requests that failed.
        Errors = "errors",
        /// Prompt tokens.
        InputTokens = "input_tokens",
        /// Generated tokens.
        OutputTokens = "output_tokens",
        /// Prompt tokens served from a cache.
        CachedTokens = "cached_tokens",
        /// Sequences preempted.
        Preemptions = "preemptions",
        /// Traces closed.
        Traces = "traces",
        /// Traces closed with an error.
        TraceErrors = "trace_errors",
        /// Traces that are not complete.
        IncompleteTraces = "incomplete_traces",
        /// GPU time charged to requests, microseconds; a shared step is charged once.
        GpuMicros = "gpu_micros",
        /// Cost of requests, billionths of a US dollar.
        CostNanoUsd = "cost_nano_usd",
        /// Client calls that no engine has reported.
        UnreportedCalls = "unreported_calls",
        /// Requests that the front refused (429, 503).
        Refused = "refused",
        /// Spans, traces and readings counted here because their own key was past the cardinality limit.
        Folded = "folded",
        /// The part of [`Counter::CostNanoUsd`] that is an estimate; the rest was measured.
        EstimatedNanoUsd = "estimated_nano_usd",
        /// The part of [`Counter::CostNanoUsd`] that follows from tokens at a provider's price; the rest from GPU time.
        TokenNanoUsd = "token_nano_usd",
        /// Model requests whose cost is not known: they add nothing to it.
        UnpricedRequests = "unpriced_requests",
        /// Price of the time in which a device reported itself, billionths of a US dollar.
        DeviceNanoUsd = "device_nano_usd",
        /// The part of it that requests were charged for their time on the device. Beside their
        /// [`Counter::CostNanoUsd`], which stands with the requests, so that no sum holds it twice.
        ChargedNanoUsd = "charged_nano_usd",
        /// [`Counter::DeviceNanoUsd`] less what requests were charged; 0 where they were charged more.
        IdleNanoUsd = "idle_nano_usd",
        /// Readings of a device whose price is an estimate: of another region or time, or by the device's name alone.
        EstimatedPrices = "estimated_prices",
    }
}

names! {
    /// What is measured as a distribution.
    Measure {
        /// Span or request duration.
        DurationMicros = "duration_micros",
        /// Time to first token.
        TtftMicros = "ttft_micros",
        /// Time per output token after the first.
        TpotMicros = "tpot_micros",
        /// Wait in the engine's queue.
        QueueMicros = "queue_micros",
        /// Scheduled to first token.
        PrefillMicros = "prefill_micros",
        /// First to last token.
        DecodeMicros = "decode_micros",
        /// 99th percentile of the inter-token latency of one request.
        ItlP99Micros = "itl_p99_micros",
        /// Sequences in the batch, in thousandths of a sequence.
        BatchMilli = "batch_milli",
        /// Batch over maximum batch, per mille.
        BatchFillPermille = "batch_fill_permille",
        /// Requests waiting.
        QueueDepth = "queue_depth",
        /// Prompt tokens of a request.
        InputTokens = "input_tokens",
        /// Generated tokens of a request.
        OutputTokens = "output_tokens",
        /// Prompt tokens served from a cache, per mille.
        CacheHitPermille = "cache_hit_permille",
        /// KV cache in use, per mille.
        KvUsagePermille = "kv_usage_permille",
        /// GPU busy, per mille.
        GpuUtilizationPermille = "gpu_utilization_permille",
        /// GPU memory in use, per mille of all.
        GpuMemoryPermille = "gpu_memory_permille",
        /// GPU power, milliwatts.
        GpuPowerMilliwatts = "gpu_power_milliwatts",
        /// GPU temperature, thousandths of a degree Celsius.
        GpuTemperatureMilliCelsius = "gpu_temperature_millicelsius",
        /// SM clock.
        GpuSmClockMhz = "gpu_sm_clock_mhz",
        /// Share of readings with a thermal or power throttle reason, per mille: each reading is 0 or 1,000.
        GpuThrottledPermille = "gpu_throttled_permille",
        /// Requests running in an engine, by its gauge.
        EngineRunning = "engine_running",
        /// Requests waiting in an engine, by its gauge.
        EngineWaiting = "engine_waiting",
        /// Self time of a stage in one trace.
        SelfMicros = "self_micros",
        /// Time of a stage on the critical path of one trace.
        CriticalMicros = "critical_micros",
        /// Price of a device's share of its GPU, billionths of a US dollar an hour.
        DevicePriceNanoUsd = "device_price_nano_usd",
    }
}

/// Values of [`Key::stage`] that are no stages of a pipeline but say what the cell counts.
pub mod stage {
    /// Calls of model servers, as their clients report them.
    pub const CALL: &str = "client";
    /// Gauges and counters of an engine.
    pub const ENGINE: &str = "engine";
    /// Spans, or time of a trace, at no stage.
    pub const NONE: &str = "none";
    /// Traces as a whole.
    pub const TRACE: &str = "trace";
}

/// What kind of thing a cell counts; cells of different shapes are never added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// Requests as the engine reports them: service set (and version and device, if known), stage empty.
    Request,
    /// The same requests as the client reports them: service set, stage [`stage::CALL`].
    Call,
    /// All other spans: service and stage set ([`stage::NONE`] for spans at no stage).
    Spans,
    /// Self and critical time of a stage in closed traces: stage set, service empty.
    Stage,
    /// Closed traces: stage [`stage::TRACE`].
    Trace,
    /// Readings of a device, and what requests on it cost: device set, service and stage empty, model set where the
    /// reading names it.
    Device,
    /// Readings of an engine: stage [`stage::ENGINE`]; its prompt tokens looked up in the prefix cache are
    /// [`Counter::InputTokens`], those found [`Counter::CachedTokens`].
    Engine,
}

/// What a cell is about; see [`Shape`]. Empty where it is about all or unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Tenant.
    #[serde(with = "shared_text")]
    pub tenant: Arc<str>,
    /// Model.
    #[serde(with = "shared_text")]
    pub model: Arc<str>,
    /// Model version.
    #[serde(with = "shared_text")]
    pub version: Arc<str>,
    /// Service.
    #[serde(with = "shared_text")]
    pub service: Arc<str>,
    /// Pipeline stage.
    #[serde(with = "shared_text")]
    pub stage: Arc<str>,
    /// GPU UUID.
    #[serde(with = "shared_text")]
    pub device: Arc<str>,
}

impl Key {
    /// What the cell counts.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::of(&self.stage, &self.service, &self.device)
    }
}

impl Shape {
    /// What a cell of this stage, service and device counts.
    #[must_use]
    pub fn of(stage: &str, service: &str, device: &str) -> Self {
        match (stage, service.is_empty()) {
            (stage::CALL, _) => Self::Call,
            (stage::ENGINE, _) => Self::Engine,
            (stage::TRACE, _) => Self::Trace,
            ("", true) if !device.is_empty() => Self::Device,
            ("", _) => Self::Request,
            (_, true) => Self::Stage,
            (_, false) => Self::Spans,
        }
    }
}

/// `Arc<str>` as text.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        Ok(String::deserialize(from)?.into())
    }
}

/// Model name under which keys past the cardinality limit are counted together.
pub const OVERFLOW: &str = "_other";

/// Counters and sketches of one key in one window.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cell {
    counters: [u64; Counter::ALL.len()],
    sketches: Vec<(Measure, Sketch)>,
    /// Sorted, each once; almost always one at most.
    price_versions: Vec<Box<str>>,
}

impl Cell {
    /// Adds to a counter, saturating.
    pub fn count(&mut self, counter: Counter, by: u64) {
        let value = &mut self.counters[counter as usize];
        *value = value.saturating_add(by);
    }

    /// Sets a counter that is derived from others.
    pub(crate) const fn set(&mut self, counter: Counter, value: u64) {
        self.counters[counter as usize] = value;
    }

    /// Notes a version of the price table that costs here were computed with.
    pub fn note_prices(&mut self, version: &str) {
        if let Err(at) = self.price_versions.binary_search_by(|known| (**known).cmp(version)) {
            self.price_versions.insert(at, version.into());
        }
    }

    /// Versions of the price tables that costs here were computed with, sorted.
    pub fn price_versions(&self) -> impl Iterator<Item = &str> {
        self.price_versions.iter().map(|version| &**version)
    }

    /// Adds one value of a measure.
    pub fn measure(&mut self, measure: Measure, value: u64) {
        self.sketch_mut(measure).add(value);
    }

    /// The sketch of a measure, made if missing; kept in the order of measures.
    pub fn sketch_mut(&mut self, measure: Measure) -> &mut Sketch {
        let at = match self.sketches.binary_search_by_key(&measure, |(measure, _)| *measure) {
            Ok(at) => at,
            Err(at) => {
                self.sketches.insert(at, (measure, Sketch::default()));
                at
            }
        };
        &mut self.sketches[at].1
    }

    /// A counter's value.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// A measure's sketch, if anything was measured.
    #[must_use]
    pub fn sketch(&self, measure: Measure) -> Option<&Sketch> {
        let at = self.sketches.binary_search_by_key(&measure, |(measure, _)| *measure).ok()?;
        Some(&self.sketches[at].1)
    }

    /// Quantile of a measure, if anything was measured.
    #[must_use]
    pub fn quantile(&self, measure: Measure, q: f64) -> Option<f64> {
        self.sketch(measure)?.quantile(q)
    }

    /// Mean of a measure, if anything was measured.
    #[must_use]
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        self.sketch(measure)?.mean()
    }

    /// Everything measured, in the order of measures.
    pub fn sketches(&self) -> impl Iterator<Item = (Measure, &Sketch)> {
        self.sketches.iter().map(|(measure, sketch)| (*measure, sketch))
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for (value, more) in self.counters.iter_mut().zip(other.counters) {
            *value = value.saturating_add(more);
        }
        for (measure, sketch) in &other.sketches {
            self.sketch_mut(*measure).merge(sketch);
        }
        other.price_versions().for_each(|version| self.note_prices(version));
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let inner: usize = self.sketches.iter().map(|(_, sketch)| sketch.heap_bytes()).sum();
        let versions: usize = self.price_versions.iter().map(|version| version.len()).sum();
        self.sketches.capacity() * size_of::<(Measure, Sketch)>()
            + inner
            + self.price_versions.capacity() * size_of::<Box<str>>()
            + versions
    }
}

/// A trace to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Exemplar {
    /// Duration of the request, microseconds.
    pub duration_micros: u64,
    /// Whether it failed.
    pub is_error: bool,
    /// Its trace.
    pub trace_id: [u8; 16],
}

/// A few traces that show a cell: the longest, and some that stand for all.
///
/// Which ones depends on the traces alone, not on the order they came in: the longest by (duration, id), the
/// others by the least hash, which is a uniform sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemplars {
    /// Longest first.
    pub longest: Vec<Exemplar>,
    /// Least hash first.
    pub sample: Vec<Exemplar>,
}

/// Exemplars of each sort that a cell keeps.
pub const EXEMPLARS: usize = 3;

fn hash_of(trace_id: &[u8; 16]) -> u64 {
    // Trace ids are random in their low half; the multiplication spreads those that are not.
    let (high, low) = trace_id.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    (number(high).rotate_left(31) ^ number(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Exemplars {
    /// Considers a trace.
    pub fn add(&mut self, exemplar: Exemplar) {
        // A trace may have several spans here: the keys tell any two exemplars apart.
        keep(&mut self.longest, exemplar, |one| std::cmp::Reverse(*one));
        keep(&mut self.sample, exemplar, |one| (hash_of(&one.trace_id), *one));
    }

    /// Considers all that `other` kept.
    pub fn merge(&mut self, other: &Self) {
        for exemplar in other.longest.iter().chain(&other.sample) {
            self.add(*exemplar);
        }
    }
}

fn keep<K: Ord>(list: &mut Vec<Exemplar>, new: Exemplar, key: impl Fn(&Exemplar) -> K) {
    if list.contains(&new) {
        return;
    }
    let at = list.partition_point(|one| key(one) < key(&new));
    if at < EXEMPLARS {
        list.insert(at, new);
        list.truncate(EXEMPLARS);
    }
}

/// What one source partition adds to one key in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Window of the events, by the end of a span; aligned to [`WINDOW_MS`].
    pub window_ms: Millis,
    /// Window in which detectors count it: the same, or, for what came late, the one open when it came.
    pub seen_window_ms: Millis,
    /// What it is about.
    pub key: Key,
    /// The numbers.
    pub cell: Cell,
    /// Traces to look at.
    pub exemplars: Exemplars,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scenario: all names. Guarantee: each is found by its name, once.
    #[test]
    fn names_are_unique() {
        assert!(Counter::ALL.iter().all(|&counter| Counter::of_name(counter.name()) == Some(counter)));
        assert!(Measure::ALL.iter().all(|&measure| Measure::of_name(measure.name()) == Some(measure)));
        assert_eq!(Measure::of_name("p99"), None);
    }

    proptest! {
        /// Scenario: traces in two orders, in one go or in parts. Guarantee: the same exemplars.
        #[test]
        fn exemplars_know_no_order(durations in prop::collection::vec(0u64..50, 1..40), cut in 0usize..40) {
            let all: Vec<Exemplar> = durations
                .iter()
                .enumerate()
                .map(|(index, &duration_micros)| {
                    // Several spans of one trace among them.
                    let id = (index as u128 / 2 + 1).wrapping_mul(0x1234_5678_9abc_def1_0203_0405_0607_0809);
                    Exemplar { duration_micros, is_error: false, trace_id: id.to_be_bytes() }
                })
                .collect();
            let of = |all: &[Exemplar]| {
                let mut exemplars = Exemplars::default();
                all.iter().for_each(|one| exemplars.add(*one));
                exemplars
            };
            let (left, right) = all.split_at(cut.min(all.len()));
            let mut merged = of(right);
            merged.merge(&of(left));
            prop_assert_eq!(merged, of(&all));
        }
    }
}
