//! What compaction costs and saves: bytes a span before and after, spans per CPU-second, peak memory.
//!
//! `cargo run --release --example compact_bench -- [--spans N] [--ranges N]` writes a lake of as many ranges in memory, merges
//! it, and prints one JSON line, last on stdout.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use infertrace_runtime::{clock::SystemClock, telemetry::MetricsRegistry};
use infertrace_schemas::{
    dedup::Dedup,
    lake::{FORMAT_VERSION, LakeRoot, Manifest},
    topics,
};
use infertrace_sinks::{
    Config,
    compact::{Compactor, Settings},
    encode::{FileSettings, encode_range},
};
use object_store::{ObjectStore, ObjectStoreExt as _, memory::InMemory, path::Path};

#[path = "support/spans.rs"]
mod spans;

use spans::{cpu_time, peak_rss_mib, records};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Spans of all ranges, and how many ranges.
fn arguments() -> Result<(usize, usize)> {
    let (mut spans, mut ranges) = (500_000, 60);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} wants a value"))?.parse()?;
        match name.as_str() {
            "--spans" => spans = value,
            "--ranges" => ranges = value,
            other => bail!("unknown argument {other}"),
        }
    }
    Ok((spans, ranges))
}

/// Writes the lake; returns rows and bytes of its files.
async fn write(store: &dyn ObjectStore, root: &LakeRoot, spans: usize, ranges: usize) -> Result<(u64, u64)> {
    let all = records(spans);
    let (mut rows, mut bytes) = (0, 0);
    for chunk in all.chunks(all.len().div_ceil(ranges.max(1))) {
        let (first, last) = (chunk.first().context("records")?, chunk.last().context("records")?);
        let settings = FileSettings {
            topic: topics::SPANS.to_owned(),
            partition: 0,
            start: first.offset.0,
            end: last.offset.next().0,
            row_group_rows: Config::default().row_group_rows,
            zstd_level: Config::default().zstd_level,
            merged: None,
        };
        let range = encode_range(chunk.to_vec(), &mut Dedup::default(), &settings)?;
        let files = range.files.iter().map(|file| file.entry.clone());
        let manifest = Manifest {
            version: FORMAT_VERSION,
            topic: settings.topic,
            partition: 0,
            start: settings.start,
            next: settings.end,
            records: range.records,
            rows: range.rows,
            duplicate_records: 0,
            rejected_spans: 0,
            poison: Vec::new(),
            lost: Vec::new(),
            files: files.collect(),
            batch_ids: Vec::new(),
            created_by: "bench".to_owned(),
        };
        for file in range.files {
            rows += file.entry.rows;
            bytes += file.entry.bytes;
            store.put(&Path::from(root.data_file(&file.name)), file.bytes.into()).await?;
        }
        store.put(&Path::from(root.manifest(0, manifest.start)), manifest.to_json().into()).await?;
    }
    Ok((rows, bytes))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (spans, ranges) = arguments()?;
    let (store, root): (Arc<dyn ObjectStore>, _) = (Arc::new(InMemory::new()), LakeRoot::default());
    let (rows, bytes) = write(&*store, &root, spans, ranges).await?;
    let settings = Settings::from(&Config::default());
    let mut registry = MetricsRegistry::default();
    let clock = Arc::new(SystemClock);
    let mut compactor = Compactor::new(store, root, topics::SPANS, settings, clock, &mut registry);
    let (cpu, began, memory) = (cpu_time()?, Instant::now(), peak_rss_mib()?);
    let pass = compactor.pass().await?;
    let (cpu, wall) = (cpu_time()? - cpu, began.elapsed());
    let files = compactor.files().await?;
    ensure!(files.iter().map(|file| file.rows).sum::<u64>() == rows, "rows were lost");
    let (merged, index) = (
        files.iter().map(|file| file.bytes).sum::<u64>(),
        files.iter().map(|file| file.footer_bytes).sum::<u64>(),
    );
    println!(
        "{}",
        serde_json::json!({
            "bench": "lake_compaction",
            "spans": rows,
            "files_before": pass.steps.iter().map(|step| step.files).sum::<usize>(),
            "files_after": files.len(),
            "bytes_per_span_before": bytes as f64 / rows as f64,
            "bytes_per_span_after": merged as f64 / rows as f64,
            "index_share_after": index as f64 / merged as f64,
            "cpu_s": cpu.as_secs_f64(),
            "wall_s": wall.as_secs_f64(),
            "spans_per_cpu_s": (rows as f64 / cpu.as_secs_f64()) as u64,
            "peak_rss_mib_before": memory,
            "peak_rss_mib": peak_rss_mib()?,
        })
    );
    Ok(())
}
