//! The consumer examples of `docs/consumers`, run as they are: confluent-kafka in Python, franz-go in Go, Kafka's own
//! client in Java, rdkafka in Rust; on a real Kafka, with a real schema registry and without one.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use infertrace_runtime::log::{
    Log, Millis, NewRecord, TopicPartition, TopicSpec,
    kafka::{Config, KafkaLog},
};
use infertrace_schemas::{
    avro::{
        Cause, Insight, InsightState, Recommendation, SchemaIds, Severity, Subject, TraceSummary, subjects,
        write_trace_summary,
    },
    topics,
};
use infertrace_tests::{
    golang, http,
    kafka::Kafka,
    process::{Process, cache_dir, crate_dir, wait_until},
    registry::Registry,
};
use serde_json::{Value, json};

#[path = "../../docs/consumers/rust/insights.rs"]
mod rust_example;

/// Longest that a consumer may take to join its group and read a handful of records on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn examples() -> PathBuf {
    crate_dir().join("../docs/consumers")
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A folder of the cache that `make` fills, once for each content of `wanted`.
fn cached(
    name: &str,
    wanted: &Path,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let folder = cache_dir().join(name);
    let done = folder.join("made-from");
    let wanted = std::fs::read(wanted)?;
    if std::fs::read(&done).ok().as_ref() != Some(&wanted) {
        std::fs::create_dir_all(&folder)?;
        make(&folder)?;
        std::fs::write(&done, wanted)?;
    }
    Ok(folder)
}

fn python() -> anyhow::Result<Command> {
    let requirements = examples().join("python/requirements.txt");
    let folder = cached("consumer-python", &requirements, |folder| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
        run(Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "-q", "-r"])
            .arg(&requirements))
    })?;
    let mut command = Command::new(folder.join("bin/python"));
    command.arg(examples().join("python/insights.py"));
    Ok(command)
}

fn go() -> anyhow::Result<Command> {
    Ok(Command::new(golang::build(&examples().join("go"), "consumer-go/insights")?))
}

fn java() -> anyhow::Result<Command> {
    let source = examples().join("java");
    let folder = cached("consumer-java", &source.join("pom.xml"), |folder| {
        run(Command::new("mvn")
            .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", folder.join("lib").display()))
            .current_dir(&source))
    })?;
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-cp"]).arg(folder.join("lib").join("*")).arg(source.join("Insights.java"));
    Ok(command)
}

fn insights() -> [Insight; 2] {
    let open = Insight {
        id: "5f0c".into(),
        revision: 1,
        state: InsightState::Open,
        severity: Severity::Page,
        kind: "latency".into(),
        model: "llama-3-70b".into(),
        title: "p99 of time to first token is 2.4 s, usually 0.6 s — “queue” ≥ 80 %".into(),
        detector: "latency".into(),
        causes: vec![
            Cause { cause: "queue".into(), share: 0.81, explanation: "waiting grew".into() },
            Cause { cause: "batch".into(), share: 0.1, explanation: String::new() },
        ],
        recommendation: Some(Recommendation {
            text: "add a replica".into(),
            expected_gain: "1.6 s".into(),
            confidence: 0.8,
        }),
        example_traces: vec!["5b8efff798038103d269b633813fc60c".into()],
        window_start_unix_nanos: 1_700_000_000_000_000_000,
        ..Insight::default()
    };
    let resolved = Insight {
        revision: 2,
        state: InsightState::Resolved,
        severity: Severity::Info,
        resolved_unix_nanos: Some(1_700_000_060_000_000_000),
        causes: Vec::new(),
        recommendation: None,
        ..open.clone()
    };
    [open, resolved]
}

fn traces() -> [TraceSummary<'static>; 2] {
    let trace = |id: &'static str, tokens| TraceSummary {
        trace_id: id.into(),
        version: 1,
        root_service: "chat".into(),
        duration_nanos: 1_234_567_890_123,
        span_count: 7,
        output_tokens: tokens,
        ..TraceSummary::default()
    };
    [trace("5b8efff798038103d269b633813fc60c", Some(321)), trace("5b8efff798038103d269b633813fc60d", None)]
}

/// What every example must print, in any order.
fn expected() -> Vec<Value> {
    let [open, resolved] = insights();
    let insight = |insight: &Insight, cause: &str, advice: &str| {
        json!({
            "topic": topics::INSIGHTS, "id": insight.id, "revision": insight.revision, "state": insight.state,
            "severity": insight.severity, "model": insight.model, "title": insight.title, "cause": cause,
            "recommendation": advice,
        })
    };
    let mut lines = vec![insight(&open, "queue", "add a replica"), insight(&resolved, "", "")];
    lines.extend(traces().iter().map(|trace| {
        json!({
            "topic": topics::TRACES, "trace_id": trace.trace_id, "version": 1, "root_service": "chat",
            "duration_nanos": trace.duration_nanos, "span_count": 7, "output_tokens": trace.output_tokens,
        })
    }));
    // The value with an id that nobody knows, and the one that is not framed at all.
    lines
        .extend([json!({"topic": topics::INSIGHTS, "bad": 2}), json!({"topic": topics::INSIGHTS, "bad": 3})]);
    sorted(lines)
}

fn sorted(mut lines: Vec<Value>) -> Vec<Value> {
    lines.sort_by_key(ToString::to_string);
    lines
}

/// An example's lines; a bad record's error is its own words, so only that there are some counts.
fn comparable(lines: impl IntoIterator<Item = Value>) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for line in lines {
        if let Some(error) = line["error"].as_str() {
            ensure!(error.len() > 8, "an error that says nothing: {line}");
            found.push(json!({"topic": line["topic"], "bad": line["offset"]}));
        } else {
            found.push(line);
        }
    }
    Ok(sorted(found))
}

/// The ids to write with: a registry's or our own.
fn ids(registry: Option<&Registry>, subject: &Subject) -> anyhow::Result<SchemaIds> {
    let mut ids = SchemaIds::of(subject.schema);
    if let Some(registry) = registry {
        let url = format!("{}/subjects/{}/versions", registry.url(), subject.name());
        let body = json!({"schema": subject.schema.text}).to_string();
        let (status, answer) = http::post(&url, "application/vnd.schemaregistry.v1+json", body.as_bytes())?;
        ensure!(status == 200, "{url}: {status} {}", String::from_utf8_lossy(&answer));
        let answer: Value = serde_json::from_slice(&answer)?;
        ids.write_as(u32::try_from(answer["id"].as_u64().context("an id")?)?, subject.schema);
    }
    Ok(ids)
}

/// Writes everything to a fresh broker, as the processor does.
async fn fill(bootstrap: &str, registry: Option<&Registry>) -> anyhow::Result<()> {
    let log = KafkaLog::new(Config { brokers: bootstrap.to_owned(), ..Config::default() })?;
    let spec = |name: &str| TopicSpec {
        name: name.into(),
        partitions: 1,
        retention: None,
        compacted: false,
        replication: 1,
    };
    log.create_topics(&[spec(topics::INSIGHTS), spec(topics::TRACES)]).await?;
    let subject = |topic| subjects().into_iter().find(|subject| subject.topic == topic).context("a subject");
    let of_insights = ids(registry, &subject(topics::INSIGHTS)?)?;
    let of_traces = ids(registry, &subject(topics::TRACES)?)?;
    let mut outputs = Vec::new();
    let mut put = |topic: &str, value: Vec<u8>| {
        outputs.push(NewRecord {
            to: TopicPartition::new(topic, 0),
            key: Some("llama-3-70b".into()),
            payload: Some(value.into()),
            headers: Vec::new(),
            timestamp: Millis(1_700_000_000_000),
        });
    };
    for insight in insights() {
        put(topics::INSIGHTS, of_insights.encode(&insight)?);
    }
    // An id that no registry gave and that is none of ours; then no frame at all.
    put(topics::INSIGHTS, vec![0, 0x0f, 0xff, 0xff, 0xff, 1, 2, 3]);
    put(topics::INSIGHTS, b"{}".to_vec());
    for trace in traces() {
        let mut value = Vec::new();
        write_trace_summary(&mut value, of_traces.write_id(), &trace);
        put(topics::TRACES, value);
    }
    log.transactions("consumers-test").await?.commit(outputs, None, &[]).await?;
    log.flush(Duration::from_secs(10))?;
    Ok(())
}

/// Runs every example against one broker and compares what they print.
fn compare(kafka: &Kafka, registry: Option<&Registry>, dir: &Path) -> anyhow::Result<()> {
    let expected = expected();
    let count = expected.len();
    let schemas = crate_dir().join("../schemas/avro").display().to_string();
    let (dash, source) = match registry {
        Some(registry) => ("registry", registry.url()),
        None => ("schemas", schemas),
    };
    for (name, command) in [("python", python()?), ("go", go()?), ("java", java()?)] {
        let mut command = command;
        command
            .args(["--bootstrap", &kafka.bootstrap(), &format!("--{dash}"), &source])
            .args(["--count", &count.to_string()]);
        let log = dir.join(format!("{name}-{dash}.log"));
        let mut process = Process::start(name, command, &log)?;
        wait_until(&format!("{name} to read {count} records"), PATIENCE, || {
            Ok(process.check_alive().is_err())
        })
        .with_context(|| process.tail())?;
        let text = std::fs::read_to_string(&log)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let printed = comparable(lines)?;
        ensure!(
            printed == expected,
            "{name} with {dash}: {printed:#?}\nis not {expected:#?}\n{}",
            process.tail()
        );
    }
    let mut lines = Vec::new();
    rust_example::run(&kafka.bootstrap(), registry.map(Registry::url).as_deref(), count, |line| {
        lines.push(line)
    })?;
    let printed = comparable(lines)?;
    ensure!(printed == expected, "rust with {dash}: {printed:#?}\nis not {expected:#?}");
    Ok(())
}

/// Scenario: insights and trace summaries written by our encoder in one transaction, with a registry's ids and with our
/// own; among them a value with an unknown schema id and one that is not framed. Each example subscribes to both.
/// Guarantee: in every language every record is decoded alike, with nulls, enums, nesting and text beyond ASCII; a
/// bad record is named by its offset and does not stop the stream.
#[test]
fn every_example_reads_what_we_write() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let registry = Registry::start()?;
    for registry in [Some(&registry), None] {
        let kafka = Kafka::start()?;
        runtime.block_on(fill(&kafka.bootstrap(), registry))?;
        compare(&kafka, registry, dir.path())?;
    }
    Ok(())
}
