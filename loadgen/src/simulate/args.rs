//! The flags of `simulate`.

use std::path::PathBuf;

use crate::protocol::{Codec, Protocol};

/// Realistic traces of a simulated serving engine, at the pace of the wall clock, until Ctrl-C.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway's gRPC address
    #[arg(long, default_value = "http://127.0.0.1:4317", env = "INFERTRACE_ENDPOINT")]
    pub endpoint: String,
    /// How to send spans
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// Compression (lz4 for frames only; none for OTLP)
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
    /// Tenant; empty for the default one
    #[arg(long, default_value = "")]
    pub tenant: String,
    /// Spread requests over so many tenants, named TENANT-1, TENANT-2, …; 1 sends all as --tenant
    #[arg(long, default_value_t = 1)]
    pub tenants: usize,
    /// Requests a second on average; with a file, its own pace is scaled to it
    #[arg(long)]
    pub rps: Option<f64>,
    /// With a file: so many times its own pace (ignored with --rps)
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Arrivals from Azure's traces: CSV with TIMESTAMP,ContextTokens,GeneratedTokens
    #[arg(long, conflicts_with = "mooncake")]
    pub azure: Option<PathBuf>,
    /// Arrivals from Mooncake's traces: JSONL with timestamp, input_length, output_length, hash_ids
    #[arg(long)]
    pub mooncake: Option<PathBuf>,
    /// Seconds to run; until Ctrl-C if not given
    #[arg(long)]
    pub duration: Option<f64>,
    /// GPUs of each model; enough for the load if not given
    #[arg(long)]
    pub replicas: Option<usize>,
    /// Seed: the same seed, arrivals and start time give the same spans, byte for byte
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Faults: `none`, `demo` (one of ten kinds now and then), or a list NAME@START+SECONDS[:MODEL], as in
    /// `throttling@60+120:qwen2.5-14b-instruct,silence@300+60`; names: latency-spike gpu-underuse small-batches
    /// cache-regression throttling straggler bad-version queue-flood error-burst silence
    #[arg(long, default_value = "none")]
    pub faults: String,
    /// With `--faults demo`: seconds from one fault's start to the next
    #[arg(long, default_value_t = 180)]
    pub fault_every: u64,
    /// Write the ground truth of faults here, one JSON line each (they are printed on stdout too)
    #[arg(long)]
    pub labels: Option<PathBuf>,
    /// Share of requests with a token timeline
    #[arg(long, default_value_t = 0.2)]
    pub token_timelines: f64,
    /// Do not send GPU and engine samples as OTLP metrics
    #[arg(long)]
    pub no_samples: bool,
    /// Seconds between GPU and engine samples
    #[arg(long, default_value_t = 5)]
    pub sample_every: u64,
    /// Do not wait for the clock: as fast as possible, needs --duration; spans start at --start
    #[arg(long, requires = "duration")]
    pub fast: bool,
    /// With --fast: first second of the simulated time, Unix time; --duration before now if not given
    #[arg(long)]
    pub start: Option<i64>,
    /// Seconds between progress lines on stderr; 0 for none
    #[arg(long, default_value_t = 5.0)]
    pub progress: f64,
    /// End stdout with the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}
