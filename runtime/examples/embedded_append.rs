//! Appends span-like records to the embedded log and prints what it costs, as one JSON line.
//!
//! `cargo run --release --example embedded_append -- DIR [SECONDS] [TASKS] [KB] [always|never|MS] [lz4|none]`

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use infertrace_runtime::log::{
    Log, LogError, Millis, NewRecord, TopicPartition, TopicSpec,
    embedded::{Compression, Config, EmbeddedLog, Fsync, Stats},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const PARTITIONS: u32 = 8;
/// Bytes of one span, to express the rate in spans.
const SPAN: usize = 600;

/// About `len` bytes that look like spans: random ids and numbers between repeated names.
fn spans(seed: u64, len: usize) -> Bytes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(len + SPAN);
    let models = ["llama-3.1-70b-instruct", "mistral-large", "qwen2.5-32b"];
    while out.len() < len {
        let start = out.len();
        out.extend_from_slice(&random.random::<[u8; 16]>());
        out.extend_from_slice(&random.random::<[u8; 8]>());
        out.extend_from_slice(
            &1_767_225_600_000_000_000_u64.wrapping_add(random.random::<u64>() >> 24).to_le_bytes(),
        );
        let model = models[random.random_range(0..models.len())];
        out.extend_from_slice(b"vllm-engine\x12llm_request\x1agen_ai.request.model");
        out.extend_from_slice(model.as_bytes());
        for name in [
            "gen_ai.usage.prompt_tokens",
            "gen_ai.usage.completion_tokens",
            "gen_ai.latency.time_in_queue",
            "gen_ai.latency.time_to_first_token",
            "gen_ai.latency.e2e",
            "gen_ai.request.max_tokens",
            "gen_ai.request.temperature",
            "hw.gpu.utilization",
            "hw.gpu.memory.used",
            "pipeline.queue.depth",
        ] {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&random.random::<u64>().to_le_bytes());
        }
        let filler = SPAN.saturating_sub(out.len() - start);
        out.extend(std::iter::repeat_n(b"request-".iter().copied(), filler).flatten().take(filler));
    }
    Bytes::from(out)
}

fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole rusage, which the call fills.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

async fn append_until(
    log: Arc<EmbeddedLog>,
    payloads: Vec<Bytes>,
    task: u32,
    end: Instant,
    refused: Arc<AtomicU64>,
) {
    let mut turn = task as usize;
    while Instant::now() < end {
        let record = NewRecord {
            to: TopicPartition::new("infertrace.spans.v1", task % PARTITIONS),
            key: None,
            payload: Some(payloads[turn % payloads.len()].clone()),
            headers: vec![],
            timestamp: Millis(1_767_225_600_000),
        };
        turn += 1;
        match log.append(record) {
            Ok(delivery) => drop(delivery.await.expect("the log takes it")),
            Err(LogError::Full { retry_after }) => {
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(retry_after).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn main() {
    let argument =
        |index: usize, default: &str| std::env::args().nth(index).unwrap_or_else(|| default.to_owned());
    let dir = argument(1, "");
    assert!(!dir.is_empty(), "give a directory");
    let seconds: u64 = argument(2, "10").parse().expect("seconds");
    let tasks: u32 = argument(3, "16").parse().expect("tasks");
    let kilobytes: usize = argument(4, "600").parse().expect("kB");
    let fsync = match argument(5, "always").as_str() {
        "always" => Fsync::Always,
        "never" => Fsync::Never,
        interval => Fsync::IntervalMs(interval.parse().expect("always, never or milliseconds")),
    };
    let compression = if argument(6, "lz4") == "lz4" { Compression::Lz4 } else { Compression::None };
    let payloads: Vec<Bytes> = (0..16).map(|seed| spans(seed, kilobytes * 1000)).collect();
    let config = Config {
        dir: dir.into(),
        fsync,
        compression,
        retention_bytes: 2 << 30,
        retention_check_ms: 1000,
        ..Config::default()
    };
    let log = EmbeddedLog::open(config).expect("the log opens");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let refused = Arc::new(AtomicU64::new(0));
    let (cpu, started) = (cpu_seconds(), Instant::now());
    runtime.block_on(async {
        let spec = TopicSpec {
            name: "infertrace.spans.v1".into(),
            partitions: PARTITIONS,
            retention: None,
            compacted: false,
            replication: 1,
        };
        log.create_topics(&[spec]).await.expect("topic");
        let end = started + Duration::from_secs(seconds);
        let tasks = (0..tasks).map(|task| {
            tokio::spawn(append_until(log.clone(), payloads.clone(), task, end, refused.clone()))
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task ends");
        }
    });
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let Stats { records, bytes, written_bytes, fsyncs, batches, append_seconds, .. } = log.stats();
    let result = serde_json::json!({
        "records": records,
        "records_per_s": records as f64 / wall,
        "mb_per_s": bytes as f64 / 1e6 / wall,
        "spans_per_s": bytes as f64 / SPAN as f64 / wall,
        "written_mb_per_s": written_bytes as f64 / 1e6 / wall,
        "compression_ratio": bytes as f64 / written_bytes as f64,
        "batches_per_s": batches as f64 / wall,
        "fsyncs_per_s": fsyncs as f64 / wall,
        "mean_append_ms": append_seconds * 1e3 / records.max(1) as f64,
        "refused": refused.load(Ordering::Relaxed),
        "wall_s": wall,
        "cpu_s": cpu,
        "mb_per_cpu_s": bytes as f64 / 1e6 / cpu,
    });
    println!("{result}");
}
