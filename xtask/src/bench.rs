//! `cargo xtask bench NAME`: one JSON line a measurement, CPU-seconds beside wall time.
//!
//! Parts are measured by the examples of their crates; the gateway and the whole path here, over real servers.

mod path;

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use infertrace_tests::{
    infertrace::Setup,
    kafka::Kafka,
    process::{Process, free_port, wait_until},
};
use serde_json::{Value, json};

use crate::{
    build::{self, cargo},
    setup::{self, run as run_command},
};

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!(
            "cargo xtask bench gateway | path | overload | reader | transcode | parquet | compaction | clickhouse | processor | query | log | loadgen"
        );
    };
    // Of the whole workspace: a package alone gets other features of its dependencies and builds them again.
    let example = |example: &str, arguments: &[String]| {
        run_command(
            cargo().args(["run", "--locked", "--release", "--example", example, "--"]).args(arguments),
        )
    };
    match name.as_str() {
        "gateway" => gateway(rest),
        "path" => path::run(rest),
        "overload" => overload(rest),
        "loadgen" => loadgen(),
        "reader" => example("reader_bench", rest),
        "transcode" => example("transcode_bench", rest),
        "parquet" => example("parquet_bench", rest),
        "compaction" => example("compact_bench", rest),
        "clickhouse" => example("clickhouse_bench", rest),
        "processor" => example("processor_bench", rest),
        "query" => example("query_bench", rest),
        "log" => {
            let folder = tempfile::tempdir()?;
            let folder = folder.path().display().to_string();
            let rest: Vec<_> = [folder].into_iter().chain(rest.iter().cloned()).collect();
            example("embedded_append", &rest)
        }
        other => bail!("no benchmark is called {other:?}"),
    }
}

/// CPU-seconds (user and system) that a process has used.
fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The command's name is in parentheses and may hold anything; fields 14 and 15 are counted after it.
    let (_, fields) = stat.rsplit_once(')').context("reading /proc")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // SAFETY: sysconf has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

/// Resident memory in MiB.
fn rss_mib(id: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("reading /proc")?;
    let kib: u64 = line.split_whitespace().nth(1).context("reading /proc")?.parse()?;
    Ok(kib / 1024)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Blasts and returns the generator's JSON with the CPU-seconds that `under_test` used meanwhile.
fn blast(under_test: &Process, arguments: &[&str]) -> anyhow::Result<(Value, f64)> {
    let before = cpu_seconds(under_test.id())?;
    let mut all = vec!["blast", "--json", "--progress", "0", "--retry"];
    all.extend(arguments);
    let output = Command::new(build::target_dir().join("release/infertrace-loadgen")).args(&all).output()?;
    ensure!(output.status.success(), "blast: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let result: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    Ok((result, cpu_seconds(under_test.id())? - before))
}

/// Acknowledged spans through one gateway into a real Kafka with 8 partitions.
fn gateway(arguments: &[String]) -> anyhow::Result<()> {
    let seconds = arguments.first().map_or("6", String::as_str);
    setup::for_tests()?;
    build::programs()?;
    for compression in ["none", "lz4", "zstd"] {
        // A broker of its own for each: a log that grows would tell on the later ones.
        let kafka = Kafka::start()?;
        let dir = tempfile::tempdir()?;
        let mut setup = Setup::new(dir.path())?;
        setup.flags = vec!["--kafka".into(), kafka.bootstrap()];
        setup.variables = vec![("INFERTRACE_KAFKA_COMPRESSION".into(), compression.into())];
        let mut process = setup.start("gateway", &[])?;
        setup.wait_ready(&mut process, &setup.addresses.http_url())?;
        let endpoint = setup.addresses.grpc_url();
        let mut cases: Vec<(&str, &str, &str)> = vec![("native", "none", "1000"), ("otlp", "none", "1000")];
        if compression == "none" {
            cases.extend([("frames", "none", "1000"), ("frames", "lz4", "1000"), ("frames", "zstd", "1000")]);
            cases.extend([("native", "none", "100"), ("otlp", "none", "100")]);
        }
        for (protocol, frames, spans) in cases {
            let (result, cpu) = blast(
                &process,
                &[
                    "--endpoint",
                    &endpoint,
                    "--protocol",
                    protocol,
                    "--compression",
                    frames,
                    "--spans-per-request",
                    spans,
                    "--duration",
                    seconds,
                ],
            )?;
            let acked = result["acked_spans"].as_f64().unwrap_or_default();
            println!(
                "{}",
                json!({
                    "bench": "gateway", "log": "kafka", "kafka_compression": compression, "protocol": protocol,
                    "frame_compression": frames, "spans_per_request": spans, "acked_spans": result["acked_spans"],
                    "acked_spans_per_s": result["spans_per_s"], "gateway_cpu_s": round(cpu, 2),
                    "spans_per_gateway_cpu_s": round(acked / cpu, 0), "p50_ms": result["p50_ms"], "p99_ms": result["p99_ms"],
                    "rss_mib": rss_mib(process.id())?, "generator_cpu_s": result["own_cpu_s"],
                })
            );
        }
    }
    Ok(())
}

/// Ten times the gateway's byte budget in flight: memory stays, nothing acknowledged is lost, the rate recovers.
fn overload(arguments: &[String]) -> anyhow::Result<()> {
    let seconds = arguments.first().map_or("30", String::as_str);
    setup::for_tests()?;
    build::programs()?;
    let kafka = Kafka::start()?;
    let dir = tempfile::tempdir()?;
    let mut setup = Setup::new(dir.path())?;
    setup.flags = vec!["--kafka".into(), kafka.bootstrap()];
    setup.variables = vec![("INFERTRACE_GATEWAY_BUDGET_BYTES".into(), (16 << 20).to_string())];
    let mut process = setup.start("gateway", &[])?;
    setup.wait_ready(&mut process, &setup.addresses.http_url())?;
    let endpoint = setup.addresses.grpc_url();
    let ledger = dir.path().join("overload.ledger").display().to_string();
    // 16 connections with 16 requests of about 600 kB: 150 MB that want in.
    let crowd = ["--connections", "16", "--in-flight", "16", "--duration", seconds, "--ledger", &ledger];
    let calm = ["--duration", "5"];
    for (phase, extra) in [("before", &calm[..]), ("overload", &crowd[..]), ("after", &calm[..])] {
        let mut all = vec!["--endpoint", &endpoint, "--protocol", "otlp"];
        all.extend(extra);
        let (result, cpu) = blast(&process, &all)?;
        println!(
            "{}",
            json!({
                "bench": "overload", "phase": phase, "budget_mib": 16, "acked_spans_per_s": result["spans_per_s"],
                "acked_spans": result["acked_spans"], "retries": result["retries"], "failed_spans": result["failed_spans"],
                "p99_ms": result["p99_ms"], "gateway_cpu_s": round(cpu, 2), "rss_mib": rss_mib(process.id())?,
            })
        );
    }
    let verified = Command::new(build::target_dir().join("release/infertrace-loadgen"))
        .args(["verify", "--json", "--against", "log", "--ledger", &ledger, "--kafka", &kafka.bootstrap()])
        .output()?;
    print!("{}", String::from_utf8_lossy(&verified.stdout));
    ensure!(verified.status.success(), "an acknowledged span is missing");
    Ok(())
}

/// The generator alone, against a server that drops everything.
fn loadgen() -> anyhow::Result<()> {
    build::programs()?;
    let port = free_port()?;
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(build::target_dir().join("release/infertrace-loadgen"));
    command.args(["blast-sink", "--listen", &format!("127.0.0.1:{port}")]);
    let sink = Process::start("blast-sink", command, &dir.path().join("sink.log"))?;
    let address = format!("127.0.0.1:{port}");
    wait_until("the sink", Duration::from_secs(10), || Ok(std::net::TcpStream::connect(&address).is_ok()))?;
    for protocol in ["native", "otlp"] {
        let endpoint = format!("http://{address}");
        let (result, _) =
            blast(&sink, &["--endpoint", &endpoint, "--protocol", protocol, "--duration", "5"])?;
        let acked = result["acked_spans"].as_f64().unwrap_or_default();
        let own = result["own_cpu_s"].as_f64().unwrap_or(f64::NAN);
        println!(
            "{}",
            json!({"bench": "loadgen", "protocol": protocol, "spans_per_s": result["spans_per_s"], "own_cpu_s": own, "spans_per_own_cpu_s": round(acked / own, 0)})
        );
    }
    Ok(())
}
