//! What devices and engines call their readings, and what each becomes: one table.
//!
//! OpenTelemetry's hardware conventions (`hw.*`), DCGM's fields, vLLM, SGLang and Triton. A name that is not here is
//! kept in the samples topic and counted by nobody.

use infertrace_analytics::rollup::{Counter, Measure};

/// What a reading is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A device's state.
    Device(Measure),
    /// A state of any hardware (`hw.power`): counted where `hw.type` is absent or `gpu`.
    Hardware(Measure),
    /// A device's clocks event reasons, a bit mask of NVML.
    ThrottleReasons,
    /// A device's memory in use, all of it, and what is free: two of these make a share.
    MemoryUsed,
    MemoryTotal,
    MemoryFree,
    /// An engine's state.
    Engine(Measure),
    /// Something an engine has counted since it started.
    Total(Counter),
}

/// The unit in which a source speaks, where it does not say another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// 0–1 to per mille.
    Ratio,
    /// 0–100 to per mille.
    Percent,
    /// Watts to milliwatts.
    Watts,
    /// Degrees Celsius to thousandths.
    Celsius,
    /// MHz.
    Megahertz,
    /// Bytes.
    Bytes,
    /// MiB to bytes.
    Mebibytes,
    /// As it is.
    Plain,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) scale: Scale,
}

const fn row(name: &'static str, kind: Kind, scale: Scale) -> Row {
    Row { name, kind, scale }
}

use Kind::{Device, Engine, Hardware, MemoryFree, MemoryTotal, MemoryUsed, ThrottleReasons, Total};
use Scale::{Bytes, Celsius, Mebibytes, Megahertz, Percent, Plain, Ratio, Watts};

/// Names without the `_total` that some exporters add.
pub(super) const ROWS: &[Row] = &[
    row("hw.gpu.utilization", Device(Measure::GpuUtilizationPermille), Ratio),
    row("DCGM_FI_DEV_GPU_UTIL", Device(Measure::GpuUtilizationPermille), Percent),
    row("nv_gpu_utilization", Device(Measure::GpuUtilizationPermille), Ratio),
    row("hw.gpu.memory.utilization", Device(Measure::GpuMemoryPermille), Ratio),
    row("hw.gpu.memory.usage", MemoryUsed, Bytes),
    row("hw.gpu.memory.limit", MemoryTotal, Bytes),
    row("DCGM_FI_DEV_FB_USED", MemoryUsed, Mebibytes),
    row("DCGM_FI_DEV_FB_FREE", MemoryFree, Mebibytes),
    row("DCGM_FI_DEV_FB_TOTAL", MemoryTotal, Mebibytes),
    row("nv_gpu_memory_used_bytes", MemoryUsed, Bytes),
    row("nv_gpu_memory_total_bytes", MemoryTotal, Bytes),
    row("hw.power", Hardware(Measure::GpuPowerMilliwatts), Watts),
    row("DCGM_FI_DEV_POWER_USAGE", Device(Measure::GpuPowerMilliwatts), Watts),
    row("nv_gpu_power_usage", Device(Measure::GpuPowerMilliwatts), Watts),
    row("hw.temperature", Hardware(Measure::GpuTemperatureMilliCelsius), Celsius),
    row("DCGM_FI_DEV_GPU_TEMP", Device(Measure::GpuTemperatureMilliCelsius), Celsius),
    row("hw.gpu.clock.sm", Device(Measure::GpuSmClockMhz), Megahertz),
    row("DCGM_FI_DEV_SM_CLOCK", Device(Measure::GpuSmClockMhz), Megahertz),
    row("hw.gpu.throttle_reasons", ThrottleReasons, Plain),
    row("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", ThrottleReasons, Plain),
    row("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", ThrottleReasons, Plain),
    //
    row("vllm:num_requests_running", Engine(Measure::EngineRunning), Plain),
    row("sglang:num_running_reqs", Engine(Measure::EngineRunning), Plain),
    row("vllm:num_requests_waiting", Engine(Measure::EngineWaiting), Plain),
    row("sglang:num_queue_reqs", Engine(Measure::EngineWaiting), Plain),
    row("nv_inference_pending_request_count", Engine(Measure::EngineWaiting), Plain),
    row("vllm:kv_cache_usage_perc", Engine(Measure::KvUsagePermille), Ratio),
    row("vllm:gpu_cache_usage_perc", Engine(Measure::KvUsagePermille), Ratio),
    row("sglang:token_usage", Engine(Measure::KvUsagePermille), Ratio),
    row("sglang:cache_hit_rate", Engine(Measure::CacheHitPermille), Ratio),
    row("vllm:num_preemptions", Total(Counter::Preemptions), Plain),
    // Tokens of prompts that were looked up in the prefix cache, and those found.
    row("vllm:prefix_cache_queries", Total(Counter::InputTokens), Plain),
    row("vllm:prefix_cache_hits", Total(Counter::CachedTokens), Plain),
    row("vllm:gpu_prefix_cache_queries", Total(Counter::InputTokens), Plain),
    row("vllm:gpu_prefix_cache_hits", Total(Counter::CachedTokens), Plain),
];

/// The row of a name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    let name = name.strip_suffix("_total").unwrap_or(name);
    ROWS.iter().find(|row| row.name == name)
}

/// `value` in the unit of what it becomes; `None` for what is no number or below 0.
pub(super) fn normalised(value: f64, scale: Scale, unit: &str) -> Option<u64> {
    let by = match (scale, unit) {
        (Scale::Ratio, "%") | (Scale::Percent, _) => 10.0,
        (Scale::Ratio, _) => 1e3,
        (Scale::Watts, "mW") => 1.0,
        (Scale::Watts, "kW") => 1e6,
        (Scale::Watts | Scale::Celsius, _) => 1e3,
        (Scale::Megahertz, "Hz") => 1e-6,
        (Scale::Megahertz, "kHz") => 1e-3,
        (Scale::Megahertz, "GHz") => 1e3,
        (Scale::Bytes | Scale::Mebibytes, "KiBy") => 1024.0,
        (Scale::Bytes | Scale::Mebibytes, "MiBy") | (Scale::Mebibytes, "") => 1_048_576.0,
        (Scale::Bytes | Scale::Mebibytes, "GiBy") => 1_073_741_824.0,
        (Scale::Mebibytes, "By") | (Scale::Bytes | Scale::Megahertz | Scale::Plain, _) => 1.0,
        (Scale::Mebibytes, _) => 1_048_576.0,
    };
    crate::rollup::scaled(value, by)
}
