//! A gateway before a log that confirms at once and keeps nothing: what the gateway itself costs.
//!
//! `cargo run --release --example null_log [ADDR]`, then send it spans, for example with
//! `infertrace-loadgen blast`; every two seconds a JSON line with accepted spans and spans per CPU-second of this process.

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use infertrace_gateway::{Config, Deps, build};
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_runtime::{
    clock::SystemClock,
    log::{
        Consumer, ConsumerOptions, Delivery, Log, LogError, Millis, NewRecord, NextOffset, Offset,
        TopicPartition, TopicSpec, Transactions, Watermarks,
    },
};
use tokio_util::sync::CancellationToken;

struct NullLog;

fn absent<T>() -> Result<T, LogError> {
    Err(LogError::Fatal("this log keeps nothing".into()))
}

#[async_trait]
impl Log for NullLog {
    async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }
    async fn partitions(&self, _: &str) -> Result<u32, LogError> {
        Ok(8)
    }
    fn append(&self, _: NewRecord) -> Result<Delivery, LogError> {
        Ok(Box::pin(async { Ok(Offset(0)) }))
    }
    async fn transactions(&self, _: &str) -> Result<Box<dyn Transactions>, LogError> {
        absent()
    }
    async fn consumer(&self, _: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        absent()
    }
    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        absent()
    }
    async fn position_at(&self, _: &TopicPartition, _: Millis) -> Result<NextOffset, LogError> {
        absent()
    }
    async fn committed(&self, _: &str, _: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        absent()
    }
    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr: SocketAddr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4317".into()).parse()?;
    let config = Config { grpc_addr: addr, http_addr: SocketAddr::new(addr.ip(), 0), ..Config::default() };
    let mut registry = MetricsRegistry::default();
    let deps = Deps { log: Arc::new(NullLog), clock: Arc::new(SystemClock), metrics: &mut registry };
    let service = build(config, deps).await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(service.run(shutdown.clone()));
    let (mut before, mut cpu_before) = (0, cpu_seconds());
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let (spans, cpu) = (accepted(&registry)?, cpu_seconds());
        if spans > before {
            let line = serde_json::json!({
                "bench": "gateway_null_log", "spans": spans - before, "cpu_s": cpu - cpu_before,
                "spans_per_cpu_second": ((spans - before) as f64 / (cpu - cpu_before)).round(),
                "rss_mib": rss_mib(),
            });
            writeln!(std::io::stdout(), "{line}")?;
        }
        (before, cpu_before) = (spans, cpu);
    }
    shutdown.cancel();
    running.await??;
    Ok(())
}

fn accepted(registry: &MetricsRegistry) -> anyhow::Result<u64> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    let lines = text.lines().filter(|line| line.starts_with("infertrace_gateway_spans_accepted_total{"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: f64 = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

fn rss_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}
