//! Names of kinds, metrics and causes, and values with their unit, as people read them.

use crate::format;

const NBSP: char = '\u{a0}';

/// `gpu_idle` as `GPU idle`; a name that is not in the list by its own words.
pub fn name(name: &str) -> String {
    const KNOWN: [(&str, &str); 40] = [
        ("ttft", "Time to first token"),
        ("tpot", "Time per output token"),
        ("gpu_idle", "GPU idle"),
        ("slo_burn", "SLO burn"),
        ("queue", "Queue wait"),
        ("errors", "Errors"),
        ("cache", "Prefix cache"),
        ("memory", "Memory pressure"),
        ("version_regression", "Version regression"),
        ("straggler", "Straggling device"),
        ("gpu", "GPU"),
        ("latency_p50", "Latency, median"),
        ("latency_p99", "Latency, p99"),
        ("latency_mean", "Latency, mean"),
        ("ttft_p50", "Time to first token, median"),
        ("ttft_p99", "Time to first token, p99"),
        ("tpot_p50", "Time per output token, median"),
        ("tpot_mean", "Time per output token, mean"),
        ("queue_mean", "Queue wait, mean"),
        ("prefill_mean", "Prefill, mean"),
        ("decode_mean", "Decode, mean"),
        ("batch", "Batch size"),
        ("batch_fill", "Batch fill"),
        ("queue_depth", "Requests waiting"),
        ("waiting", "Requests waiting"),
        ("running", "Requests running"),
        ("cache_hit_ratio", "Cache hit ratio"),
        ("kv_cache_usage", "KV cache in use"),
        ("gpu_busy", "GPU busy"),
        ("gpu_sm_clock", "SM clock"),
        ("gpu_throttled", "GPU throttled"),
        ("gpu_memory", "GPU memory"),
        ("gpu_temperature", "GPU temperature"),
        ("cost_per_1k_tokens", "Cost per 1k tokens"),
        ("uncached_input_tokens", "Uncached input tokens"),
        ("version_share", "Share of the version"),
        ("version_tpot", "Time per output token, this version"),
        ("device_tpot", "Time per output token, this device"),
        ("version_error_rate", "Error rate, this version"),
        ("arrivals", "Arrivals"),
    ];
    if let Some((_, words)) = KNOWN.iter().find(|(known, _)| *known == name) {
        return (*words).to_owned();
    }
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// A value in its unit: seconds as a duration, shares in percent, money with enough digits.
pub fn value(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match unit {
        "s" => format::duration((value * 1e9) as i64),
        "share" => format::percent(value),
        "USD" if value != 0.0 && value.abs() < 0.995 => format!("${value:.4}"),
        "USD" => format!("${value:.2}"),
        "Cel" => format!("{}{NBSP}°C", number(value)),
        // `3.2 /min`
        _ if unit.starts_with("1/") => format!("{}{NBSP}{}", number(value), &unit[1..]),
        "MHz" | "ms" | "us" | "ns" => format!("{}{NBSP}{unit}", number(value)),
        // Things that are counted: the metric's name says which.
        _ => number(value),
    }
}

fn number(value: f64) -> String {
    if value.abs() < 999.5 { format::significant(value) } else { format::compact(value.abs() as u64) }
}

/// `3.1 ×`, `0.4 ×`.
pub fn ratio(ratio: f64) -> String {
    if ratio > 999.0 { "> 999 ×".to_owned() } else { format!("{}{NBSP}×", format::significant(ratio)) }
}

/// Class that colours a cause: as the stage of that name where there is one.
pub fn cause_class(cause: &str) -> &'static str {
    match cause {
        "queue" => "stage-queue",
        "prefill" => "stage-prefill",
        "decode" => "stage-decode",
        "gpu" | "host" => "stage-inference",
        "batch" | "cache" | "memory" => "stage-post",
        "upstream" | "traffic" => "stage-pre",
        _ => "stage-other",
    }
}
