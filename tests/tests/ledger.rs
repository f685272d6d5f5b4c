//! The ledger run: spans into a real Kafka and a real S3 while every role is killed with SIGKILL, twice each.
//!
//! The short, seeded version runs with the tests; `cargo xtask faults ledger` runs it with 5 million spans.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use infertrace_runtime::log::{
    Log, TopicPartition,
    kafka::{Config, KafkaLog},
};
use infertrace_tests::{
    http,
    infertrace::{STOP_TIMEOUT, Setup, program, try_loadgen},
    kafka::Kafka,
    minio::Minio,
    process::{Process, free_port, wait_until},
};

const SPANS: &str = "infertrace.spans.v1";
const SINK_GROUP: &str = "infertrace-sink-parquet";
const SPANS_A_REQUEST: u64 = 1_000;
const ROLES: [&str; 4] = ["gateway", "processor", "sink", "api"];

struct Role {
    name: &'static str,
    ops: u16,
    process: Process,
}

impl Role {
    fn start(setup: &Setup, name: &'static str) -> anyhow::Result<Self> {
        let ops = free_port()?;
        let process = setup.start(name, &["--ops", &format!("127.0.0.1:{ops}")])?;
        Ok(Self { name, ops, process })
    }

    fn restart(&mut self, setup: &Setup) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process = setup.start(self.name, &["--ops", &format!("127.0.0.1:{}", self.ops)])?;
        Ok(())
    }

    /// The sum of a metric's series.
    fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let url = format!("http://127.0.0.1:{}/metrics", self.ops);
        if http::status(&url) != Some(200) {
            return Ok(None);
        }
        let (_, text) = http::get(&url)?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }
}

/// Records in the spans topic.
fn records(runtime: &tokio::runtime::Runtime, log: &KafkaLog) -> anyhow::Result<u64> {
    runtime.block_on(async {
        let mut total = 0;
        for partition in 0..log.partitions(SPANS).await? {
            total += log.watermarks(&TopicPartition::new(SPANS, partition)).await?.high.0;
        }
        Ok(total)
    })
}

/// Whether a group's positions are at the end of every partition of the spans topic.
fn has_caught_up(runtime: &tokio::runtime::Runtime, log: &KafkaLog, group: &str) -> anyhow::Result<bool> {
    runtime.block_on(async {
        for partition in 0..log.partitions(SPANS).await? {
            let at = TopicPartition::new(SPANS, partition);
            let high = log.watermarks(&at).await?.high;
            if log.committed(group, &at).await?.unwrap_or_default() < high {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn verify(ledger: &str, place: &[&str], variables: &[(String, String)]) -> anyhow::Result<()> {
    let mut args = vec!["verify", "--json", "--ledger", ledger];
    args.extend(place);
    let (clean, verdict) = try_loadgen(&args, variables)?;
    eprintln!("verify {place:?}: {verdict}");
    ensure!(clean, "verify {place:?}: {verdict:#}");
    ensure!(verdict["found"] == verdict["acked"], "{verdict:#}");
    Ok(())
}

/// Scenario: four roles as four processes over one Kafka and one S3; a blast that retries; gateway, processor and sink
/// are killed with SIGKILL in turn, twice each, spread over the run, and started again at once.
/// Guarantee: every acknowledged span is in the topic, and exactly once in the lake and in what the API returns.
#[test]
fn nothing_acknowledged_is_lost_or_doubled() -> anyhow::Result<()> {
    let spans: u64 = match std::env::var("INFERTRACE_TEST_LEDGER_SPANS") {
        Ok(text) => text.parse().context("INFERTRACE_TEST_LEDGER_SPANS")?,
        Err(_) => 300_000,
    };
    let kafka = Kafka::start()?;
    let minio = Minio::start("lake")?;
    let dir = tempfile::tempdir()?;
    let mut setup = Setup::new(dir.path())?;
    setup.flags =
        ["--kafka", &kafka.bootstrap(), "--object-store", "s3://lake/traces"].map(str::to_owned).to_vec();
    setup.variables = minio.variables();
    for (key, value) in [
        ("INFERTRACE_SINK_FLUSH_INTERVAL_MS", "3000"),
        ("INFERTRACE_KAFKA_SESSION_TIMEOUT_MS", "3000"),
        ("INFERTRACE_KAFKA_TRANSACTION_TIMEOUT_MS", "10000"),
    ] {
        setup.variables.push((key.to_owned(), value.to_owned()));
    }
    let mut roles = Vec::new();
    for name in ROLES {
        roles.push(Role::start(&setup, name)?);
    }
    setup.wait_ready(&mut roles[0].process, &setup.addresses.http_url())?;
    setup.wait_ready(&mut roles[3].process, &setup.addresses.api_url())?;

    let ledger = dir.path().join("run.ledger").display().to_string();
    let rate = (spans / 50).clamp(20_000, 100_000).to_string();
    let mut command = Command::new(program("infertrace-loadgen")?);
    command
        .args(["blast", "--json", "--seed", "7", "--retry", "--protocol", "otlp", "--ledger", &ledger])
        .args(["--endpoint", &setup.addresses.grpc_url(), "--count", &spans.to_string(), "--rate", &rate]);
    let mut blast = Process::start("blast", command, &dir.path().join("blast.log"))?;

    let runtime = tokio::runtime::Runtime::new()?;
    let log = KafkaLog::new(Config { brokers: kafka.bootstrap(), ..Config::default() })?;
    let partitions = u64::from(runtime.block_on(log.partitions(SPANS))?);
    let expected = spans / SPANS_A_REQUEST * partitions;
    for kill in 1..=6u64 {
        let role = usize::try_from((kill - 1) % 3)?;
        wait_until("the run to get on", Duration::from_secs(600), || {
            Ok(records(&runtime, &log)? >= expected * kill / 8 || blast.check_alive().is_err())
        })?;
        eprintln!("SIGKILL {} at {} of about {expected} records", roles[role].name, records(&runtime, &log)?);
        roles[role].restart(&setup)?;
    }
    wait_until("the blast to end", Duration::from_secs(900), || Ok(blast.check_alive().is_err()))?;
    ensure!(blast.terminate(Duration::from_secs(1))?.success(), "{}", blast.tail());
    eprintln!("{}", blast.tail().lines().last().unwrap_or_default());

    wait_until("the processor to catch up", Duration::from_secs(300), || {
        roles[1].process.check_alive()?;
        Ok(roles[1].metric("infertrace_consumer_lag_records")?.is_some_and(|lag| lag == 0.0))
    })
    .with_context(|| roles[1].process.tail())?;
    // By Kafka's own account: a metric of the sink may be some seconds old.
    wait_until("the sink to catch up", Duration::from_secs(300), || {
        roles[2].process.check_alive()?;
        has_caught_up(&runtime, &log, SINK_GROUP)
    })
    .with_context(|| roles[2].process.tail())?;
    // What the sink still holds it writes at a clean end.
    ensure!(roles[2].process.terminate(STOP_TIMEOUT)?.success(), "{}", roles[2].process.tail());
    verify(&ledger, &["--against", "log", "--kafka", &kafka.bootstrap()], &[])?;
    verify(&ledger, &["--against", "parquet", "--object-store", "s3://lake/traces"], &minio.variables())?;
    let sample = (spans.min(200_000) / 40).to_string();
    verify(&ledger, &["--against", "api", "--api", &setup.addresses.api_url(), "--sample", &sample], &[])?;
    for name in [0, 1, 3] {
        let role = &mut roles[name];
        ensure!(role.process.terminate(STOP_TIMEOUT)?.success(), "{}", role.process.tail());
    }
    Ok(())
}
