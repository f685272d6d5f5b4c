//! The models that are served, and what they run on.

/// A model and its GPUs; times are those of one engine step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deployment {
    pub(crate) model: &'static str,
    pub(crate) version: &'static str,
    /// What `bad-version` rolls out.
    pub(crate) next_version: &'static str,
    pub(crate) framework: &'static str,
    pub(crate) provider: &'static str,
    /// Share of the traffic.
    pub(crate) share: f64,
    /// Whether it generates text; a ranker answers with its prefill.
    pub(crate) generates: bool,
    pub(crate) gpu: &'static str,
    pub(crate) instance_type: &'static str,
    pub(crate) memory_bytes: u64,
    pub(crate) weights_bytes: u64,
    pub(crate) idle_watts: f64,
    pub(crate) max_watts: f64,
    pub(crate) sm_clock_mhz: u32,
    pub(crate) memory_clock_mhz: u32,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_batched_tokens: u32,
    /// Tokens that fit in the KV cache.
    pub(crate) kv_tokens: u64,
    pub(crate) prefill_tokens_per_s: f64,
    pub(crate) step_base_ns: f64,
    pub(crate) step_per_seq_ns: f64,
    pub(crate) step_per_kv_token_ns: f64,
}

const GIB: u64 = 1 << 30;

/// Figures are of the order that public benchmarks of these models and GPUs show.
pub(crate) const FLEET: [Deployment; 4] = [
    Deployment {
        model: "llama-3.1-8b-instruct",
        version: "1.4.0",
        next_version: "1.5.0",
        framework: "vllm",
        provider: "vllm",
        share: 0.45,
        generates: true,
        gpu: "NVIDIA A100-SXM4-80GB",
        instance_type: "p4de.24xlarge",
        memory_bytes: 80 * GIB,
        weights_bytes: 16 * GIB,
        idle_watts: 62.0,
        max_watts: 400.0,
        sm_clock_mhz: 1_410,
        memory_clock_mhz: 1_593,
        max_num_seqs: 64,
        max_batched_tokens: 4_096,
        kv_tokens: 220_000,
        prefill_tokens_per_s: 14_000.0,
        step_base_ns: 11.5e6,
        step_per_seq_ns: 75e3,
        step_per_kv_token_ns: 22.0,
    },
    Deployment {
        model: "qwen2.5-14b-instruct",
        version: "2.1.0",
        next_version: "2.2.0",
        framework: "vllm",
        provider: "vllm",
        share: 0.25,
        generates: true,
        gpu: "NVIDIA H100 80GB HBM3",
        instance_type: "p5.48xlarge",
        memory_bytes: 80 * GIB,
        weights_bytes: 29 * GIB,
        idle_watts: 71.0,
        max_watts: 700.0,
        sm_clock_mhz: 1_980,
        memory_clock_mhz: 2_619,
        max_num_seqs: 64,
        max_batched_tokens: 8_192,
        kv_tokens: 180_000,
        prefill_tokens_per_s: 19_000.0,
        step_base_ns: 12.5e6,
        step_per_seq_ns: 60e3,
        step_per_kv_token_ns: 16.0,
    },
    Deployment {
        model: "mistral-7b-instruct",
        version: "0.3.2",
        next_version: "0.4.0",
        framework: "sglang",
        provider: "sglang",
        share: 0.2,
        generates: true,
        gpu: "NVIDIA L40S",
        instance_type: "g6e.xlarge",
        memory_bytes: 48 * GIB,
        weights_bytes: 15 * GIB,
        idle_watts: 35.0,
        max_watts: 350.0,
        sm_clock_mhz: 2_520,
        memory_clock_mhz: 2_250,
        max_num_seqs: 32,
        max_batched_tokens: 4_096,
        kv_tokens: 90_000,
        prefill_tokens_per_s: 9_000.0,
        step_base_ns: 19.0e6,
        step_per_seq_ns: 120e3,
        step_per_kv_token_ns: 40.0,
    },
    Deployment {
        model: "bge-reranker-v2",
        version: "1.0.3",
        next_version: "1.1.0",
        framework: "triton",
        provider: "triton",
        share: 0.1,
        generates: false,
        gpu: "NVIDIA L4",
        instance_type: "g6.xlarge",
        memory_bytes: 24 * GIB,
        weights_bytes: 2 * GIB,
        idle_watts: 16.0,
        max_watts: 72.0,
        sm_clock_mhz: 2_040,
        memory_clock_mhz: 6_251,
        max_num_seqs: 16,
        max_batched_tokens: 8_192,
        kv_tokens: 60_000,
        prefill_tokens_per_s: 24_000.0,
        step_base_ns: 6.0e6,
        step_per_seq_ns: 200e3,
        step_per_kv_token_ns: 0.0,
    },
];

impl Deployment {
    /// GPUs that serve `rps` requests of this mean size at about two thirds of their capacity.
    pub(crate) fn replicas_for(&self, rps: f64, mean_input: f64, mean_output: f64) -> usize {
        let seqs = self.max_num_seqs as f64 / 2.0;
        let output = if self.generates { mean_output } else { 1.0 };
        let step = self.step_base_ns
            + seqs * self.step_per_seq_ns
            + seqs * (mean_input + output / 2.0) * self.step_per_kv_token_ns;
        let seconds_each = mean_input * 0.7 / self.prefill_tokens_per_s + output * step * 1e-9 / seqs;
        ((rps * seconds_each / 0.65).ceil() as usize).max(1)
    }
}
