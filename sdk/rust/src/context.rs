//! What a span can say beside attributes: inference, resources, pipeline, tokens. Borrowed, and written
//! straight to the wire; absent numbers are unknown, not zero.

use crate::wire;

/// What the model did in a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the names and units are those of `infertrace.v1.InferenceContext`
pub struct Inference<'a> {
    pub model_name: &'a str,
    pub model_version: &'a str,
    pub framework: &'a str,
    pub provider: &'a str,
    pub batch_size: Option<u32>,
    pub max_batch_size: Option<u32>,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub cached_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    pub sequence_length: Option<u64>,
    pub request_id: &'a str,
    pub session_id: &'a str,
    pub streaming: Option<bool>,
    pub finish_reason: &'a str,
    pub ttft_nanos: Option<u64>,
    pub tpot_nanos: Option<u64>,
    pub itl_p50_nanos: Option<u64>,
    pub itl_p99_nanos: Option<u64>,
    pub itl_max_nanos: Option<u64>,
}

impl Inference<'_> {
    pub(crate) fn put(&self, out: &mut Vec<u8>, number: u32) {
        wire::put_message(out, number, |out| {
            wire::put_str_nonempty(out, 1, self.model_name);
            wire::put_str_nonempty(out, 2, self.model_version);
            wire::put_str_nonempty(out, 3, self.framework);
            wire::put_str_nonempty(out, 4, self.provider);
            put_u32(out, 5, self.batch_size);
            put_u32(out, 6, self.max_batch_size);
            put_u64(out, 7, self.input_tokens);
            put_u64(out, 8, self.output_tokens);
            put_u64(out, 9, self.cached_tokens);
            put_u64(out, 10, self.reasoning_tokens);
            put_u64(out, 11, self.sequence_length);
            wire::put_str_nonempty(out, 12, self.request_id);
            wire::put_str_nonempty(out, 13, self.session_id);
            put_u64(out, 14, self.streaming.map(u64::from));
            wire::put_str_nonempty(out, 15, self.finish_reason);
            put_u64(out, 16, self.ttft_nanos);
            put_u64(out, 17, self.tpot_nanos);
            put_u64(out, 18, self.itl_p50_nanos);
            put_u64(out, 19, self.itl_p99_nanos);
            put_u64(out, 20, self.itl_max_nanos);
        });
    }
}

/// A GPU as the span met it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the names and units are those of `infertrace.v1.GpuMetrics`
pub struct Gpu<'a> {
    pub device_id: &'a str,
    pub index: Option<u32>,
    pub name: &'a str,
    pub instance_type: &'a str,
    pub utilization_percent: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_watts: Option<f64>,
    pub temperature_celsius: Option<f64>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub throttle_reasons: Option<u64>,
    pub mig_profile: &'a str,
}

impl Gpu<'_> {
    fn put(&self, out: &mut Vec<u8>, number: u32) {
        wire::put_message(out, number, |out| {
            wire::put_str_nonempty(out, 1, self.device_id);
            put_u32(out, 2, self.index);
            wire::put_str_nonempty(out, 3, self.name);
            wire::put_str_nonempty(out, 4, self.instance_type);
            put_f64(out, 5, self.utilization_percent);
            put_u64(out, 6, self.memory_used_bytes);
            put_u64(out, 7, self.memory_total_bytes);
            put_f64(out, 8, self.power_watts);
            put_f64(out, 9, self.temperature_celsius);
            put_u32(out, 10, self.sm_clock_mhz);
            put_u32(out, 11, self.memory_clock_mhz);
            put_u64(out, 12, self.throttle_reasons);
            wire::put_str_nonempty(out, 13, self.mig_profile);
        });
    }
}

/// Resources used while the span ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources<'a> {
    /// The GPU, if one was used.
    pub gpu: Option<Gpu<'a>>,
    /// CPU cores used, e.g. 1.5.
    pub cpu_cores_used: Option<f64>,
    /// Heap in use.
    pub memory_heap_bytes: Option<u64>,
    /// Resident set size.
    pub memory_rss_bytes: Option<u64>,
}

impl Resources<'_> {
    pub(crate) fn put(&self, out: &mut Vec<u8>, number: u32) {
        wire::put_message(out, number, |out| {
            if let Some(gpu) = &self.gpu {
                gpu.put(out, 1);
            }
            if self.cpu_cores_used.is_some() {
                wire::put_message(out, 2, |out| put_f64(out, 1, self.cpu_cores_used));
            }
            if self.memory_heap_bytes.is_some() || self.memory_rss_bytes.is_some() {
                wire::put_message(out, 3, |out| {
                    put_u64(out, 1, self.memory_heap_bytes);
                    put_u64(out, 2, self.memory_rss_bytes);
                });
            }
        });
    }
}

/// Where in the serving pipeline a span is, and what it met there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the names and units are those of `infertrace.v1.PipelineContext`
pub struct Pipeline<'a> {
    pub stage: &'a str,
    pub queue_depth: Option<u32>,
    pub queue_wait_time_ms: Option<f64>,
    pub batch_fill_ratio: Option<f64>,
    pub cache_hit: Option<bool>,
    pub cache_hit_ratio: Option<f64>,
    pub kv_cache_usage_ratio: Option<f64>,
    pub preemptions: Option<u32>,
}

impl Pipeline<'_> {
    pub(crate) fn put(&self, out: &mut Vec<u8>, number: u32) {
        wire::put_message(out, number, |out| {
            wire::put_str_nonempty(out, 1, self.stage);
            put_u32(out, 2, self.queue_depth);
            put_f64(out, 3, self.queue_wait_time_ms);
            put_f64(out, 4, self.batch_fill_ratio);
            put_u64(out, 5, self.cache_hit.map(u64::from));
            put_f64(out, 6, self.cache_hit_ratio);
            put_f64(out, 7, self.kv_cache_usage_ratio);
            put_u32(out, 8, self.preemptions);
        });
    }
}

/// One entry a generated token, as parallel columns; every column that is not empty has the same length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tokens<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Microseconds: the first from the span's start to the first token, then from token to token.
    pub itl_micros: &'a [u32],
    /// Attention time of each token.
    pub attention_micros: &'a [u32],
    /// Feed-forward time of each token.
    pub ffn_micros: &'a [u32],
    /// Sequences in the step that made the token.
    pub batch_sizes: &'a [u32],
    /// Texts. They are answers' content: leave empty unless the user asked for them.
    pub texts: &'a [&'a str],
}

impl Tokens<'_> {
    pub(crate) fn put(&self, out: &mut Vec<u8>, number: u32) {
        wire::put_message(out, number, |out| {
            put_packed(out, 1, self.ids);
            if !self.itl_micros.is_empty() {
                wire::put_message(out, 2, |out| put_generation_deltas(out, self.itl_micros));
            }
            put_packed(out, 3, self.attention_micros);
            put_packed(out, 4, self.ffn_micros);
            put_packed(out, 5, self.batch_sizes);
            for text in self.texts {
                wire::put_bytes(out, 6, text.as_bytes());
            }
        });
    }
}

/// The first two intervals as they are (the first is the time to first token), then differences; zigzag.
fn put_generation_deltas(out: &mut Vec<u8>, itl_micros: &[u32]) {
    for (index, &micros) in itl_micros.iter().enumerate() {
        let before = if index < 2 { 0 } else { itl_micros[index - 1] };
        let delta = i64::from(micros) - i64::from(before);
        wire::put_varint(out, ((delta << 1) ^ (delta >> 63)) as u64);
    }
}

fn put_packed(out: &mut Vec<u8>, number: u32, values: &[u32]) {
    if values.is_empty() {
        return;
    }
    wire::put_message(out, number, |out| {
        for &value in values {
            wire::put_varint(out, u64::from(value));
        }
    });
}

fn put_u32(out: &mut Vec<u8>, number: u32, value: Option<u32>) {
    if let Some(value) = value {
        wire::put_uint(out, number, u64::from(value));
    }
}

fn put_u64(out: &mut Vec<u8>, number: u32, value: Option<u64>) {
    if let Some(value) = value {
        wire::put_uint(out, number, value);
    }
}

fn put_f64(out: &mut Vec<u8>, number: u32, value: Option<f64>) {
    if let Some(value) = value {
        wire::put_double(out, number, value);
    }
}
