//! What the ClickHouse sink costs: rows per CPU-second of this process, from the embedded log to acknowledged inserts,
//! and bytes a span in the tables. The server's own CPU is not counted.
//!
//! `cargo run --release -p infertrace-sinks --example clickhouse_bench -- [--spans N] [--compression none|lz4|zstd]
//! [--url URL]` prints one JSON line, last on stdout. Without a URL it starts the engine that `cargo xtask setup`
//! installs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use infertrace_runtime::{
    clock::SystemClock,
    log::{
        Log as _, NewRecord, TopicPartition, TopicSpec,
        embedded::{self, EmbeddedLog},
    },
    telemetry::MetricsRegistry,
};
use infertrace_schemas::topics;
use infertrace_sinks::clickhouse::{self, Compression, Config, Deps};
use infertrace_tests::clickhouse::ClickHouse;
use tokio_util::sync::CancellationToken;

#[path = "support/spans.rs"]
mod spans;

use spans::{SPANS_A_TRACE, TRACES_A_RECORD, cpu_time, peak_rss_mib, records};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 4;

struct Arguments {
    spans: usize,
    compression: Compression,
    url: Option<String>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut parsed = Self { spans: 2_000_000, compression: Compression::Lz4, url: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} wants a value"))?;
            match (name.as_str(), value.as_str()) {
                ("--spans", count) => parsed.spans = count.parse()?,
                ("--compression", "none") => parsed.compression = Compression::None,
                ("--compression", "lz4") => parsed.compression = Compression::Lz4,
                ("--compression", "zstd") => parsed.compression = Compression::Zstd,
                ("--url", _) => parsed.url = Some(value),
                _ => bail!("unknown argument {name} {value}"),
            }
        }
        Ok(parsed)
    }
}

async fn filled(dir: &std::path::Path, spans: usize) -> Result<(Arc<EmbeddedLog>, u64)> {
    let config = embedded::Config { dir: dir.to_owned(), ..embedded::Config::default() };
    let log = EmbeddedLog::open(config)?;
    let specs: Vec<TopicSpec> = topics::all(PARTITIONS)
        .into_iter()
        .map(|topic| TopicSpec {
            name: topic.name.into(),
            partitions: topic.partitions,
            retention: None,
            compacted: topic.compacted,
            replication: 1,
        })
        .collect();
    log.create_topics(&specs).await?;
    let records = records(spans);
    let rows = records.len() * SPANS_A_TRACE * TRACES_A_RECORD;
    for (number, record) in records.into_iter().enumerate() {
        let to = TopicPartition::new(topics::SPANS, number as u32 % PARTITIONS);
        let (payload, timestamp) = (record.payload, record.timestamp);
        log.append(NewRecord { to, key: None, payload, headers: Vec::new(), timestamp })?.await?;
    }
    Ok((log, rows as u64))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let server = match &arguments.url {
        Some(_) => None,
        None => Some(ClickHouse::start()?.context("no ClickHouse is installed: run `cargo xtask setup`")?),
    };
    let url = arguments.url.clone().or_else(|| server.as_ref().map(ClickHouse::url)).context("a server")?;
    let config = Config {
        url,
        database: "infertrace_bench".to_owned(),
        compression: arguments.compression,
        ttl_days: 0,
        ..Config::default()
    };
    let (client, plan) = clickhouse::connect(&config).map_err(anyhow::Error::msg)?;
    client.statement("DROP DATABASE IF EXISTS infertrace_bench").await?;
    plan.apply(&client, None).await?;
    let dir = tempfile::tempdir()?;
    let (log, rows) = filled(dir.path(), arguments.spans).await?;

    let mut metrics = MetricsRegistry::default();
    let deps = Deps { log, clock: Arc::new(SystemClock), metrics: &mut metrics };
    let service = clickhouse::build(&config, deps).await?;
    let shutdown = CancellationToken::new();
    let (began, cpu_before) = (Instant::now(), cpu_time()?);
    let running = tokio::spawn(service.run(shutdown.clone()));
    let count = |table: &'static str| {
        let client = client.clone();
        async move {
            anyhow::Ok(client.statement(&format!("SELECT count() FROM infertrace_bench.{table}")).await?)
        }
    };
    while count("spans").await?.trim().parse::<u64>()? < rows {
        anyhow::ensure!(!running.is_finished(), "the sink ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    shutdown.cancel();
    running.await??;
    let (cpu, wall) = (cpu_time()? - cpu_before, began.elapsed());
    client.statement("OPTIMIZE TABLE infertrace_bench.spans FINAL").await?;
    client.statement("OPTIMIZE TABLE infertrace_bench.trace_times FINAL").await?;
    let bytes = |what: &'static str, table: &'static str| {
        let client = client.clone();
        let sql = format!(
            "SELECT sum({what}) FROM system.parts WHERE active AND database = 'infertrace_bench' AND table = '{table}'"
        );
        async move { anyhow::Ok(client.statement(&sql).await?.trim().parse::<u64>()? as f64) }
    };
    let spans_bytes = bytes("bytes_on_disk", "spans").await?;
    let skip_bytes = bytes("secondary_indices_compressed_bytes", "spans").await?;
    let key_bytes = bytes("primary_key_size", "spans").await?;
    let times_bytes = bytes("bytes_on_disk", "trace_times").await?;
    println!(
        "{}",
        serde_json::json!({
            "bench": "clickhouse_sink",
            "rows": rows,
            "compression": format!("{:?}", arguments.compression).to_lowercase(),
            "cpu_s": cpu.as_secs_f64(),
            "wall_s": wall.as_secs_f64(),
            "rows_per_cpu_s": (rows as f64 / cpu.as_secs_f64()) as u64,
            "bytes_per_span": (spans_bytes + times_bytes) / rows as f64,
            "index_share": (skip_bytes + key_bytes + times_bytes) / (spans_bytes + times_bytes),
            "trace_times_bytes_per_span": times_bytes / rows as f64,
            "peak_rss_mib": peak_rss_mib()?,
        })
    );
    Ok(())
}
