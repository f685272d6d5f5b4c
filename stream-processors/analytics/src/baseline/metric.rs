//! The series that have a baseline, and how a window's value is read.

use crate::{
    facts::ModelWindow,
    rollup::{Measure, WINDOW_MS},
};

/// On which scale values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Natural logarithm: times and rates, where a factor is what counts.
    Log,
    /// As it is: shares.
    Linear,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $unit:literal, $scale:ident, $floor:literal;)+) => {
        /// What has a baseline: name, unit, scale, and the least spread that is taken for real.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub(crate) enum Metric { $($(#[$doc])* $variant),+ }

        impl Metric {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            pub(crate) const fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit),+ }
            }

            pub(crate) const fn scale(self) -> Scale {
                match self { $(Self::$variant => Scale::$scale),+ }
            }

            pub(crate) const fn floor(self) -> f64 {
                match self { $(Self::$variant => $floor),+ }
            }
        }
    };
}

metrics! {
    LatencyP50 = "latency_p50", "s", Log, 0.06;
    LatencyP99 = "latency_p99", "s", Log, 0.1;
    LatencyMean = "latency_mean", "s", Log, 0.06;
    TtftP50 = "ttft_p50", "s", Log, 0.08;
    TtftP99 = "ttft_p99", "s", Log, 0.1;
    TpotP50 = "tpot_p50", "s", Log, 0.03;
    TpotMean = "tpot_mean", "s", Log, 0.03;
    QueueMean = "queue_mean", "s", Log, 0.2;
    PrefillMean = "prefill_mean", "s", Log, 0.08;
    DecodeMean = "decode_mean", "s", Log, 0.08;
    Batch = "batch", "sequences", Log, 0.1;
    Fill = "batch_fill", "share", Linear, 0.02;
    Backlog = "queue_depth", "requests", Linear, 0.5;
    HitRatio = "cache_hit_ratio", "share", Linear, 0.03;
    Uncached = "uncached_input_tokens", "tokens", Log, 0.08;
    InputTokens = "input_tokens", "tokens", Log, 0.08;
    OutputTokens = "output_tokens", "tokens", Log, 0.08;
    ErrorRate = "error_rate", "share", Linear, 0.01;
    RequestRate = "request_rate", "1/s", Log, 0.1;
    Kv = "kv_cache_usage", "share", Linear, 0.03;
    Preemptions = "preemptions", "1/min", Linear, 1.0;
    Busy = "gpu_busy", "share", Linear, 0.03;
    Clock = "gpu_sm_clock", "MHz", Log, 0.01;
    Throttled = "gpu_throttled", "share", Linear, 0.02;
    Memory = "gpu_memory", "share", Linear, 0.02;
    Running = "running", "requests", Linear, 0.5;
    Cost = "cost_per_1k_tokens", "USD", Log, 0.1;
    Upstream = "upstream", "s", Log, 0.1;
}

/// Seconds below which a wait is no wait: on a logarithm, nothing to something would be infinitely much.
const LEAST_SECONDS: f64 = 1e-3;

/// Stages that the engine itself accounts for; what is left is upstream or downstream of it.
pub(crate) fn is_engine_stage(stage: &str) -> bool {
    matches!(
        stage,
        "queue"
            | "prefill"
            | "decode"
            | "inference"
            | "cache"
            | "prefill_waiting"
            | "prefill_forward"
            | "decode_forward"
            | "decode_loop"
            | "chunked_prefill"
            | "unknown"
            | ""
    )
}

/// Mean self time in a trace outside of the engine.
pub(crate) fn upstream_seconds(window: &ModelWindow) -> Option<f64> {
    let outside = || window.stages.iter().filter(|(stage, _)| !is_engine_stage(stage));
    let traces = outside().map(|(_, mean)| mean.count).max().filter(|traces| *traces > 0)?;
    let total: f64 = outside().filter_map(|(_, mean)| Some(mean.get()? * f64::from(mean.count))).sum();
    Some(total / f64::from(traces))
}

impl Metric {
    /// Whether requests themselves tell it, so that it is known by version; the rest is of devices and engines.
    pub(crate) const fn is_of_requests(self) -> bool {
        !matches!(
            self,
            Self::Backlog
                | Self::Kv
                | Self::Preemptions
                | Self::Busy
                | Self::Clock
                | Self::Throttled
                | Self::Memory
                | Self::Running
                | Self::Upstream
        )
    }

    /// The value of a window; none where it says nothing of it.
    pub(crate) fn read(self, window: &ModelWindow) -> Option<f64> {
        let all = &window.all;
        let quantile = |measure, q| Some(window.sketch(measure)?.quantile(q)? * 1e-6);
        match self {
            Self::LatencyP50 => quantile(Measure::DurationMicros, 0.5),
            Self::LatencyP99 => quantile(Measure::DurationMicros, 0.99),
            Self::LatencyMean => all.duration.get(),
            Self::TtftP50 => quantile(Measure::TtftMicros, 0.5),
            Self::TtftP99 => quantile(Measure::TtftMicros, 0.99),
            Self::TpotP50 => quantile(Measure::TpotMicros, 0.5),
            Self::TpotMean => all.tpot.get(),
            Self::QueueMean => all.queue.get(),
            Self::PrefillMean => all.prefill.get(),
            Self::DecodeMean => all.decode.get(),
            Self::Batch => all.batch.get(),
            Self::Fill => all.fill.get(),
            Self::Backlog => (all.requests > 0).then(|| all.backlog()),
            Self::HitRatio => all.hit_ratio(),
            Self::Uncached => all.uncached_each(),
            Self::InputTokens => all.input_each(),
            Self::OutputTokens => all.output_each(),
            Self::ErrorRate => all.error_rate(),
            Self::RequestRate => Some(all.rate()),
            Self::Kv => all.kv.get(),
            Self::Preemptions => (all.requests > 0).then(|| all.preemptions_a_minute()),
            Self::Busy => all.busy.get(),
            Self::Clock => all.clock.get(),
            Self::Throttled => all.throttled.get(),
            Self::Memory => all.memory.get(),
            Self::Running => all.running.get(),
            Self::Cost => all.cost_of_1k(),
            Self::Upstream => upstream_seconds(window),
        }
    }

    /// Onto the scale on which values are compared.
    pub(crate) fn scaled(self, value: f64) -> f64 {
        match (self.scale(), self) {
            (Scale::Linear, _) => value,
            (Scale::Log, Self::RequestRate) => value.max(1e3 / WINDOW_MS as f64 / 2.0).ln(),
            (Scale::Log, _) if self.unit() == "s" => value.max(LEAST_SECONDS).ln(),
            (Scale::Log, _) => value.max(1e-9).ln(),
        }
    }

    /// Back from the scale.
    pub(crate) fn unscaled(self, value: f64) -> f64 {
        match self.scale() {
            Scale::Linear => value,
            Scale::Log => value.exp(),
        }
    }
}
