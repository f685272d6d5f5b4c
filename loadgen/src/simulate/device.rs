//! What NVML would say of a simulated GPU: read once a second from what its engine did.

use super::{engine::Engine, fleet::Deployment};

/// NVML's bit for a hardware thermal slowdown.
const THERMAL_SLOWDOWN: u64 = 0x40;

/// The last reading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) index: u32,
    pub(crate) host: String,
    pub(crate) utilization_percent: f64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) power_watts: f64,
    pub(crate) temperature_celsius: f64,
    pub(crate) sm_clock_mhz: u32,
    pub(crate) throttle_reasons: u64,
    pub(crate) kv_usage: f64,
}

impl Device {
    pub(crate) fn new(spec: &Deployment, deployment: usize, index: usize) -> Self {
        let serial = (deployment * 1_000 + index) as u64;
        let tail = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = format!(
            "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            0x51a0_0000 | serial,
            tail >> 48,
            tail >> 32 & 0xffff,
            0x8000 | tail >> 16 & 0xfff,
            tail & 0xffff_ffff_ffff,
        );
        Self {
            id,
            index: (index % 8) as u32,
            host: format!("gpu-{deployment}-{:02}", index / 8),
            utilization_percent: 0.0,
            memory_used_bytes: spec.weights_bytes,
            power_watts: spec.idle_watts,
            temperature_celsius: 34.0,
            sm_clock_mhz: spec.sm_clock_mhz,
            throttle_reasons: 0,
            kv_usage: 0.0,
        }
    }

    /// Reads the last `window_ns`.
    pub(crate) fn read(&mut self, spec: &Deployment, engine: &mut Engine, clock_ratio: f64, window_ns: i64) {
        let window = window_ns.max(1) as f64;
        let busy = (engine.busy_ns as f64 / window).min(1.0);
        let work = (engine.work_ns / window).min(1.0);
        engine.busy_ns = 0;
        engine.work_ns = 0.0;
        self.utilization_percent = (busy * 1_000.0).round() / 10.0;
        self.kv_usage = engine.cache.usage();
        let room = spec.memory_bytes - spec.weights_bytes;
        self.memory_used_bytes = spec.weights_bytes + (room as f64 * 0.9 * self.kv_usage) as u64;
        let watts = spec.idle_watts
            + (spec.max_watts - spec.idle_watts) * (0.35 * busy + 0.6 * work) * clock_ratio.powi(2);
        self.power_watts = (watts * 10.0).round() / 10.0;
        let throttled = clock_ratio < 1.0;
        let heads_for = if throttled { 91.0 } else { 33.0 + 45.0 * (watts / spec.max_watts) };
        self.temperature_celsius += (heads_for - self.temperature_celsius) * 0.15;
        self.temperature_celsius = (self.temperature_celsius * 10.0).round() / 10.0;
        self.sm_clock_mhz = (f64::from(spec.sm_clock_mhz) * clock_ratio) as u32;
        self.throttle_reasons = if throttled { THERMAL_SLOWDOWN } else { 0 };
    }
}
