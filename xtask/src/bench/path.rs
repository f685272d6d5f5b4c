//! The whole path of a span, gateway to Parquet with assembly: its cost in CPU-seconds of all our processes together.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use infertrace_tests::{
    http,
    infertrace::{STOP_TIMEOUT, Setup},
    kafka::Kafka,
    process::{Process, free_port, wait_until},
};
use serde_json::{Map, Value, json};

use super::{blast, cpu_seconds, round, rss_mib};
use crate::{build, setup};

/// One process under test.
struct Role {
    name: &'static str,
    process: Process,
    metrics: String,
    cpu_before: f64,
}

/// What a process has used.
struct Usage {
    cpu_s: f64,
    rss_mib: u64,
}

impl Role {
    fn start(setup: &Setup, name: &'static str) -> anyhow::Result<Self> {
        let ops = free_port()?;
        let mut process = setup.start(name, &["--ops", &format!("127.0.0.1:{ops}")])?;
        let url = format!("http://127.0.0.1:{ops}");
        setup.wait_ready(&mut process, &url)?;
        Ok(Self { name, process, metrics: format!("{url}/metrics"), cpu_before: 0.0 })
    }

    fn up(setup: &Setup) -> anyhow::Result<Self> {
        let metrics = format!("{}/metrics", setup.addresses.api_url());
        Ok(Self { name: "up", process: setup.up()?, metrics, cpu_before: 0.0 })
    }

    fn counter(&self, name: &str) -> anyhow::Result<f64> {
        let (_, text) = http::get(&self.metrics)?;
        let values =
            text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// A clean end, which closes what is open and writes what is held: its CPU counts.
    fn end(mut self) -> anyhow::Result<Usage> {
        let id = self.process.id();
        let mut usage = Usage { cpu_s: cpu_seconds(id)?, rss_mib: rss_mib(id)? };
        self.process.signal(libc::SIGTERM)?;
        wait_until("the drain", STOP_TIMEOUT, || match (cpu_seconds(id), rss_mib(id)) {
            (Ok(cpu_s), Ok(rss_mib)) if self.process.check_alive().is_ok() => {
                usage = Usage { cpu_s, rss_mib };
                Ok(false)
            }
            _ => Ok(true),
        })?;
        usage.cpu_s -= self.cpu_before;
        Ok(usage)
    }
}

/// On Kafka each role is a process of its own, without and with the producers' default compression; on the embedded log
/// all are in one, with the hot tier, stage 2 and the API.
pub(super) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let spans = arguments.first().map_or("2000000", String::as_str);
    setup::for_tests()?;
    build::programs()?;
    for (log, compression) in [("kafka", "none"), ("kafka", "lz4"), ("embedded", "lz4")] {
        let kafka = (log == "kafka").then(Kafka::start).transpose()?;
        let dir = tempfile::tempdir()?;
        let mut setup = Setup::new(dir.path())?;
        let mut roles = Vec::new();
        if let Some(kafka) = &kafka {
            setup.flags = vec!["--kafka".into(), kafka.bootstrap()];
            setup.variables = vec![("INFERTRACE_KAFKA_COMPRESSION".into(), compression.into())];
            for name in ["gateway", "processor", "sink"] {
                roles.push(Role::start(&setup, name)?);
            }
        } else {
            roles.push(Role::up(&setup)?);
        }
        let mut line = measure(&setup, roles, spans)?;
        let acked = line["acked_spans"].as_f64().unwrap_or_default();
        let lake_bytes = folder_bytes(&dir.path().join("data/lake/spans"))? as f64;
        line.insert("bench".into(), "path".into());
        line.insert("log".into(), log.into());
        line.insert("log_compression".into(), compression.into());
        line.insert("lake_bytes_per_span".into(), round(lake_bytes / acked, 1).into());
        println!("{}", Value::Object(line));
    }
    Ok(())
}

fn measure(setup: &Setup, mut roles: Vec<Role>, spans: &str) -> anyhow::Result<Map<String, Value>> {
    for role in &mut roles {
        role.cpu_before = cpu_seconds(role.process.id())?;
    }
    let started = Instant::now();
    let arguments = ["--endpoint", &setup.addresses.grpc_url(), "--protocol", "otlp", "--count", spans];
    let (result, _) = blast(&roles[0].process, &arguments)?;
    let acked = result["acked_spans"].as_f64().unwrap_or_default();
    let total = |name: &str| -> anyhow::Result<f64> { roles.iter().map(|role| role.counter(name)).sum() };
    wait_until("every role to have read all", Duration::from_secs(300), || {
        let records = total("infertrace_processor_records_total")?;
        Ok(total("infertrace_processor_spans_total")? >= acked
            && total("infertrace_parquet_sink_read_records_total")? >= records)
    })?;
    let read_s = started.elapsed().as_secs_f64();
    let (mut cpu_s, mut by_role) = (0.0, Map::new());
    for role in roles {
        let name = role.name;
        let usage = role.end().with_context(|| format!("ending the {name}"))?;
        cpu_s += usage.cpu_s;
        by_role.insert(name.into(), json!({"cpu_s": round(usage.cpu_s, 2), "rss_mib": usage.rss_mib}));
    }
    let line = json!({
        "protocol": "otlp", "acked_spans": result["acked_spans"], "acked_spans_per_s": result["spans_per_s"],
        "p99_ms": result["p99_ms"], "read_s": round(read_s, 2), "cpu_s": round(cpu_s, 2),
        "spans_per_cpu_s": round(acked / cpu_s, 0), "roles": by_role,
    });
    Ok(line.as_object().cloned().unwrap_or_default())
}

fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
