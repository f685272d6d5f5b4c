//! What the Parquet sink costs: spans per CPU-second from records to sorted Parquet bytes, and bytes a span.
//!
//! `cargo run --release --example parquet_bench -- [--spans N] [--rounds N] [--zstd N]
//! [--row-group N] [--columns]` prints one JSON line, last on stdout; `--columns` adds the bytes a span of
//! every column.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use infertrace_schemas::{
    dedup::Dedup,
    reader::{Position, SpanReader},
};
use infertrace_sinks::encode::{EncodedFile, FileSettings, encode_range, encode_rows};
use parquet::file::metadata::ParquetMetaDataReader;

#[path = "support/spans.rs"]
mod spans;

use spans::{SPANS_A_TRACE, TRACES_A_RECORD, cpu_time, peak_rss_mib, records};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Arguments {
    spans: usize,
    rounds: usize,
    zstd_level: i32,
    row_group_rows: u32,
    columns: bool,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut parsed =
            Self { spans: 250_000, rounds: 4, zstd_level: 1, row_group_rows: 65_536, columns: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{name} wants a value"));
            match name.as_str() {
                "--spans" => parsed.spans = value()?.parse()?,
                "--rounds" => parsed.rounds = value()?.parse()?,
                "--zstd" => parsed.zstd_level = value()?.parse()?,
                "--row-group" => parsed.row_group_rows = value()?.parse()?,
                "--columns" => parsed.columns = true,
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(parsed)
    }
}

fn measure<T>(rounds: usize, mut work: impl FnMut() -> Result<T>) -> Result<(Duration, T)> {
    let before = cpu_time()?;
    let mut last = None;
    for _ in 0..rounds {
        last = Some(work()?);
    }
    Ok((cpu_time()? - before, last.context("at least one round")?))
}

fn print_columns(file: &EncodedFile, spans: usize) -> Result<()> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file.bytes)?;
    let mut sizes: Vec<(String, i64, i64, String)> = Vec::new();
    for group in metadata.row_groups() {
        for (index, column) in group.columns().iter().enumerate() {
            if sizes.len() <= index {
                sizes.push((column.column_path().string(), 0, 0, String::new()));
            }
            sizes[index].1 += column.compressed_size();
            sizes[index].2 += column.uncompressed_size();
            sizes[index].3 =
                column.encodings().map(|encoding| encoding.to_string()).collect::<Vec<_>>().join(" ");
        }
    }
    sizes.sort_by_key(|(_, compressed, ..)| -compressed);
    for (path, compressed, plain, encodings) in sizes {
        let per_span = |bytes: i64| bytes as f64 / spans as f64;
        println!(
            "{path:44} {:8.3} B/span  {:8.3} before zstd  {encodings}",
            per_span(compressed),
            per_span(plain)
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let records = records(arguments.spans);
    let spans = records.len() * SPANS_A_TRACE * TRACES_A_RECORD;
    let payloads = || records.iter().filter_map(|record| record.payload.as_deref());
    let raw_bytes: usize = payloads().map(<[u8]>::len).sum();
    let thousand: Vec<u8> = payloads().take(5).flatten().copied().collect();
    let zstd_ratio = thousand.len() as f64 / zstd::bulk::compress(&thousand, 3)?.len() as f64;
    let settings = FileSettings {
        topic: "infertrace.spans.v1".to_owned(),
        partition: 0,
        start: 0,
        end: records.len() as u64,
        row_group_rows: arguments.row_group_rows,
        zstd_level: arguments.zstd_level,
        merged: None,
    };

    let began = Instant::now();
    let (whole, range) =
        measure(arguments.rounds, || Ok(encode_range(records.clone(), &mut Dedup::default(), &settings)?))?;
    let wall = began.elapsed();
    let peak = peak_rss_mib()?;
    let (reading, rows) = measure(arguments.rounds, || {
        let mut reader = SpanReader::new();
        for (offset, payload) in payloads().enumerate() {
            reader.push(payload, Position { partition: 0, offset: offset as i64 })?;
        }
        Ok([reader.finish()])
    })?;
    let (writing, _) = measure(arguments.rounds, || Ok(encode_rows(&rows, &settings)?))?;

    let file_bytes: usize = range.files.iter().map(|file| file.bytes.len()).sum();
    let index_bytes: u64 = range.files.iter().map(|file| file.entry.footer_bytes).sum();
    if arguments.columns {
        for file in &range.files {
            print_columns(file, spans)?;
        }
    }
    let rate = |cpu: Duration| (spans * arguments.rounds) as f64 / cpu.as_secs_f64();
    println!(
        "{}",
        serde_json::json!({
            "bench": "parquet_sink",
            "spans": spans,
            "rows": range.rows,
            "raw_bytes_per_span": raw_bytes as f64 / spans as f64,
            "raw_zstd3_ratio": zstd_ratio,
            "cpu_s": whole.as_secs_f64(),
            "wall_s": wall.as_secs_f64(),
            "spans_per_cpu_s": rate(whole) as u64,
            "read_spans_per_cpu_s": rate(reading) as u64,
            "write_spans_per_cpu_s": rate(writing) as u64,
            "bytes_per_span": file_bytes as f64 / spans as f64,
            "index_share": index_bytes as f64 / file_bytes as f64,
            "files": range.files.len(),
            "zstd_level": arguments.zstd_level,
            "row_group_rows": arguments.row_group_rows,
            "peak_rss_mib": peak,
        })
    );
    Ok(())
}
