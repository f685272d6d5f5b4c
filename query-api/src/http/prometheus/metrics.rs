//! The metrics that rollups are told as: names, kinds, units.
//!
//! Prometheus' conventions (<https://prometheus.io/docs/practices/naming/>): base units, `_total` on counters. A cell's
//! [`Shape`] is part of the name, since cells of different shapes count the same things again: what is at home in a shape
//! has no prefix there. Distributions are native histograms, so that percentiles come from merged sketches.

use std::sync::LazyLock;

use infertrace_analytics::rollup::{Counter, Measure, Shape};

use super::Kind::{self, Gauge, Histogram};

/// Where in a cell a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Counter(Counter),
    /// The distribution.
    Measure(Measure),
    /// How many values it has, as a counter.
    CountOf(Measure),
    /// What they add up to, as a counter.
    SumOf(Measure),
}

/// A metric.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    pub(super) source: Source,
    /// What a whole number of the cell is in the metric's unit.
    pub(super) scale: f64,
    /// Told as 0 where the cell does not have it, so that a share of failures can be computed where nothing failed.
    pub(super) is_told_as_zero: bool,
    pub(super) help: &'static str,
}

const SHAPES: [Shape; 7] =
    [Shape::Request, Shape::Call, Shape::Spans, Shape::Stage, Shape::Trace, Shape::Device, Shape::Engine];

const fn prefix(shape: Shape) -> &'static str {
    match shape {
        Shape::Request => "request",
        Shape::Call => "client_request",
        Shape::Spans => "span",
        Shape::Stage => "stage",
        Shape::Trace => "trace",
        Shape::Device => "device",
        Shape::Engine => "engine",
    }
}

/// Name, home, unit and meaning of a counter.
const fn counter(counter: Counter) -> (&'static str, Shape, f64, &'static str) {
    use Counter as C;
    use Shape::{Device, Request, Spans, Trace};
    const NANO: f64 = 1e-9;
    match counter {
        C::Spans => ("spans_total", Spans, 1.0, "Spans."),
        C::SpanErrors => ("span_errors_total", Spans, 1.0, "Spans with status ERROR."),
        C::Requests => ("requests_total", Request, 1.0, "Model requests."),
        C::Errors => ("request_errors_total", Request, 1.0, "Model requests that failed."),
        C::InputTokens => (
            "input_tokens_total",
            Request,
            1.0,
            "Prompt tokens; of engines those looked up in the prefix cache.",
        ),
        C::OutputTokens => ("output_tokens_total", Request, 1.0, "Generated tokens."),
        C::CachedTokens => ("cached_input_tokens_total", Request, 1.0, "Prompt tokens served from a cache."),
        C::Preemptions => ("preemptions_total", Request, 1.0, "Sequences preempted."),
        C::Traces => ("traces_total", Trace, 1.0, "Traces closed."),
        C::TraceErrors => ("trace_errors_total", Trace, 1.0, "Traces closed with an error."),
        C::IncompleteTraces => ("incomplete_traces_total", Trace, 1.0, "Traces that are not complete."),
        C::GpuMicros => ("gpu_seconds_total", Request, 1e-6, "GPU time charged to requests, seconds."),
        C::CostNanoUsd => ("cost_usd_total", Request, NANO, "Cost of requests, US dollars."),
        C::UnreportedCalls => {
            ("unreported_calls_total", Trace, 1.0, "Client calls that no engine has reported.")
        }
        C::Refused => ("refused_requests_total", Spans, 1.0, "Requests that the front refused (429, 503)."),
        C::Folded => (
            "folded_total",
            Request,
            1.0,
            "Counted here because their own key was past the cardinality limit.",
        ),
        C::EstimatedNanoUsd => (
            "estimated_cost_usd_total",
            Request,
            NANO,
            "The part of the cost that is an estimate, US dollars.",
        ),
        C::TokenNanoUsd => (
            "token_cost_usd_total",
            Request,
            NANO,
            "The part of the cost that follows from tokens at a provider's price, US dollars.",
        ),
        C::UnpricedRequests => {
            ("unpriced_requests_total", Request, 1.0, "Model requests whose cost is not known.")
        }
        C::DeviceNanoUsd => (
            "device_price_usd_total",
            Device,
            NANO,
            "Price of the time in which a device reported itself, US dollars.",
        ),
        C::ChargedNanoUsd => (
            "device_charged_usd_total",
            Device,
            NANO,
            "The part of a device's price that requests were charged, US dollars.",
        ),
        C::IdleNanoUsd => (
            "device_idle_usd_total",
            Device,
            NANO,
            "A device's price less what requests were charged, US dollars.",
        ),
        C::EstimatedPrices => (
            "device_estimated_price_readings_total",
            Device,
            1.0,
            "Readings of a device whose price is an estimate.",
        ),
    }
}

/// Name, home, unit, kind and meaning of a measure. Durations have no home: whose they are is part of the name.
const fn measure(measure: Measure) -> (&'static str, Option<Shape>, f64, Kind, &'static str) {
    use Measure as M;
    const REQUEST: Option<Shape> = Some(Shape::Request);
    const STAGE: Option<Shape> = Some(Shape::Stage);
    const DEVICE: Option<Shape> = Some(Shape::Device);
    const ENGINE: Option<Shape> = Some(Shape::Engine);
    const MICRO: f64 = 1e-6;
    const MILLI: f64 = 1e-3;
    match measure {
        M::DurationMicros => ("duration_seconds", None, MICRO, Histogram, "Duration, seconds."),
        M::TtftMicros => ("ttft_seconds", REQUEST, MICRO, Histogram, "Time to first token, seconds."),
        M::TpotMicros => {
            ("tpot_seconds", REQUEST, MICRO, Histogram, "Time per output token after the first, seconds.")
        }
        M::QueueMicros => {
            ("queue_seconds", REQUEST, MICRO, Histogram, "Wait in the engine's queue, seconds.")
        }
        M::PrefillMicros => {
            ("prefill_seconds", REQUEST, MICRO, Histogram, "Scheduled to first token, seconds.")
        }
        M::DecodeMicros => ("decode_seconds", REQUEST, MICRO, Histogram, "First to last token, seconds."),
        M::ItlP99Micros => (
            "itl_p99_seconds",
            REQUEST,
            MICRO,
            Histogram,
            "99th percentile of the inter-token latency of one request, seconds.",
        ),
        M::BatchMilli => ("batch_sequences", REQUEST, MILLI, Histogram, "Sequences in the batch."),
        M::BatchFillPermille => {
            ("batch_fill_ratio", REQUEST, MILLI, Histogram, "Batch over maximum batch, 0 to 1.")
        }
        M::QueueDepth => {
            ("queue_depth_requests", REQUEST, 1.0, Histogram, "Requests waiting, as a request met them.")
        }
        M::InputTokens => ("input_tokens", REQUEST, 1.0, Histogram, "Prompt tokens of a request."),
        M::OutputTokens => ("output_tokens", REQUEST, 1.0, Histogram, "Generated tokens of a request."),
        M::CacheHitPermille => (
            "cache_hit_ratio",
            REQUEST,
            MILLI,
            Histogram,
            "Prompt tokens of a request served from a cache, 0 to 1.",
        ),
        M::KvUsagePermille => ("kv_cache_usage_ratio", REQUEST, MILLI, Gauge, "KV cache in use, 0 to 1."),
        M::GpuUtilizationPermille => ("gpu_utilization_ratio", DEVICE, MILLI, Gauge, "GPU busy, 0 to 1."),
        M::GpuMemoryPermille => {
            ("gpu_memory_usage_ratio", DEVICE, MILLI, Gauge, "GPU memory in use, 0 to 1.")
        }
        M::GpuPowerMilliwatts => ("gpu_power_watts", DEVICE, MILLI, Gauge, "GPU power, watts."),
        M::GpuTemperatureMilliCelsius => {
            ("gpu_temperature_celsius", DEVICE, MILLI, Gauge, "GPU temperature, degrees Celsius.")
        }
        M::GpuSmClockMhz => ("gpu_sm_clock_hertz", DEVICE, 1e6, Gauge, "SM clock, hertz."),
        M::GpuThrottledPermille => (
            "gpu_throttled_ratio",
            DEVICE,
            MILLI,
            Gauge,
            "Share of readings with a thermal or power throttle reason, 0 to 1.",
        ),
        M::EngineRunning => {
            ("engine_running_requests", ENGINE, 1.0, Gauge, "Requests running in an engine, by its gauge.")
        }
        M::EngineWaiting => {
            ("engine_waiting_requests", ENGINE, 1.0, Gauge, "Requests waiting in an engine, by its gauge.")
        }
        M::SelfMicros => {
            ("stage_self_seconds", STAGE, MICRO, Histogram, "Self time of a stage in one trace, seconds.")
        }
        M::CriticalMicros => (
            "stage_critical_path_seconds",
            STAGE,
            MICRO,
            Histogram,
            "Time of a stage on the critical path of one trace, seconds.",
        ),
        M::DevicePriceNanoUsd => (
            "device_price_usd_per_hour",
            DEVICE,
            1e-9,
            Gauge,
            "Price of a device's share of its GPU, US dollars an hour.",
        ),
    }
}

fn full_name(base: &str, home: Option<Shape>, shape: Shape) -> String {
    if home == Some(shape) {
        return format!("infertrace_{base}");
    }
    // `client_request_errors_total`, not `client_request_request_errors_total`.
    let base = if shape == Shape::Call { base.strip_prefix("request_").unwrap_or(base) } else { base };
    match (shape, base) {
        (Shape::Call, "requests_total") => "infertrace_client_requests_total".to_owned(),
        _ => format!("infertrace_{}_{base}", prefix(shape)),
    }
}

/// Every metric there may be.
pub(super) static ALL: LazyLock<Vec<Metric>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for shape in SHAPES {
        for &one in Counter::ALL {
            let (base, home, scale, help) = counter(one);
            let is_failure = matches!(
                one,
                Counter::Errors | Counter::SpanErrors | Counter::TraceErrors | Counter::IncompleteTraces
            );
            let counts_requests = matches!(shape, Shape::Request | Shape::Call);
            let is_told_as_zero =
                is_failure && (shape == home || (counts_requests && one == Counter::Errors));
            let name = full_name(base, Some(home), shape);
            let source = Source::Counter(one);
            all.push(Metric { name, kind: Kind::Counter, shape, source, scale, is_told_as_zero, help });
        }
        for &one in Measure::ALL {
            let (base, home, scale, kind, help) = measure(one);
            let name = full_name(base, home, shape);
            let metric = |name, kind, source, scale| Metric {
                name,
                kind,
                shape,
                source,
                scale,
                is_told_as_zero: false,
                help,
            };
            if kind == Histogram {
                all.push(metric(format!("{name}_count"), Kind::Counter, Source::CountOf(one), 1.0));
                all.push(metric(format!("{name}_sum"), Kind::Counter, Source::SumOf(one), scale));
            }
            all.push(metric(name, kind, Source::Measure(one), scale));
        }
    }
    all
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Scenario: every counter and measure in every shape. Guarantee: no two share a name, and each follows Prometheus'
    /// conventions.
    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL.iter() {
            let is_plain =
                metric.name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte));
            assert!(is_plain, "{}", metric.name);
            if matches!(metric.source, Source::Counter(_)) {
                assert!(metric.name.ends_with("_total"), "{}", metric.name);
            }
        }
        for name in [
            "infertrace_requests_total",
            "infertrace_client_requests_total",
            "infertrace_client_request_errors_total",
            "infertrace_request_duration_seconds",
            "infertrace_client_request_duration_seconds",
            "infertrace_ttft_seconds_count",
            "infertrace_gpu_utilization_ratio",
            "infertrace_engine_kv_cache_usage_ratio",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
}
