//! What an operator runs beside a platform: topics, dlq, audit, replay; on a real Kafka and on the embedded log.

use std::{
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use infertrace_runtime::log::{
    Log, Millis, NewRecord, TopicPartition, TopicSpec,
    kafka::{Config, KafkaLog},
};
use infertrace_schemas::topics;
use infertrace_tests::{
    infertrace::{STOP_TIMEOUT, Setup, loadgen, program},
    kafka::Kafka,
    process::wait_until,
};
use serde_json::Value;

const SPANS: u64 = 20_000;

/// Runs `infertrace ARGS…` to its end.
fn infertrace(args: &[&str]) -> anyhow::Result<Output> {
    Command::new(program("infertrace")?).args(args).output().with_context(|| format!("infertrace {args:?}"))
}

/// As [`infertrace`]; its stdout if it exits with `code`.
fn exits(code: i32, args: &[&str]) -> anyhow::Result<String> {
    let output = infertrace(args)?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.code() == Some(code),
        "infertrace {args:?} ended with {}, not {code}\n{out}\n{error}",
        output.status
    );
    Ok(out.into_owned())
}

/// The JSON of a command's last line.
fn json(args: &[&str]) -> anyhow::Result<Value> {
    let text = exits(0, args)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("{args:?}: {text}"))
}

fn client(kafka: &Kafka) -> anyhow::Result<std::sync::Arc<KafkaLog>> {
    Ok(KafkaLog::new(Config { brokers: kafka.bootstrap(), ..Config::default() })?)
}

/// Scenario: an empty cluster; one topic that somebody made with other settings; `create`; `check`.
/// Guarantee: the plan names what is missing and the rights of each role and changes nothing; `create` makes the rest
/// and leaves the existing topic; `check` names the differences and says so by its exit code.
#[test]
fn topics_are_planned_created_and_checked() -> anyhow::Result<()> {
    let kafka = Kafka::start()?;
    let bootstrap = kafka.bootstrap();
    let runtime = tokio::runtime::Runtime::new()?;
    let other = TopicSpec {
        name: topics::INSIGHTS.into(),
        partitions: 3,
        retention: Some(Duration::from_secs(60)),
        compacted: false,
        replication: 1,
    };
    runtime.block_on(async { client(&kafka)?.create_topics(&[other]).await.map_err(anyhow::Error::from) })?;
    let flags = ["--kafka", &bootstrap, "--partitions", "4"];

    let plan = exits(0, &[&["topics", "plan"], &flags[..]].concat())?;
    ensure!(
        plan.lines().any(|line| line.starts_with(topics::SPANS) && line.contains("to be created")),
        "{plan}"
    );
    ensure!(plan.contains("infertrace.insights.v1: partitions is 3, should be 4"), "{plan}");
    ensure!(
        plan.contains("# infertrace sink")
            && plan.contains("--operation Read --operation Describe --topic infertrace.spans.v1"),
        "{plan}"
    );
    let check = exits(1, &[&["topics", "check"], &flags[..]].concat())?;
    ensure!(check.contains("infertrace.spans.v1: topic is missing"), "the plan created something\n{check}");

    let created = exits(0, &[&["topics", "create"], &flags[..]].concat())?;
    ensure!(
        created.contains("created infertrace.spans.v1")
            && !created.contains("created infertrace.insights.v1"),
        "{created}"
    );
    ensure!(exits(0, &[&["topics", "create"], &flags[..]].concat())?.contains("0 created"));
    let check = exits(1, &[&["topics", "check"], &flags[..]].concat())?;
    let named: Vec<&str> = check.lines().filter(|line| line.contains(", should be")).collect();
    ensure!(named.len() == 2 && named.iter().all(|line| line.starts_with(topics::INSIGHTS)), "{check}");
    ensure!(check.contains("retention is 60 s, should be 30 d"), "{check}");
    Ok(())
}

/// Scenario: a platform on Kafka takes spans and, in between, records that are none. Its dead letters, with noise among
/// them, are listed, shown and sent back; the lake is audited while everything runs, then after a data file was removed and after half of it
/// was put in its place; the range is replayed, dry and twice in earnest.
/// Guarantee: each poison record has its letters and goes back once; the audit finds the two tiers equal, then names
/// the range that is not; replays read every span, agree with each other, and leave live topics and groups alone.
#[test]
fn letters_go_back_the_audit_sees_loss_and_replays_agree() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start()?;
    let bootstrap = kafka.bootstrap();
    let lake = dir.path().join("lake");
    let lake_flag = lake.display().to_string();
    let mut setup = Setup::new(dir.path())?;
    setup.flags = ["--kafka", &bootstrap, "--object-store", &lake_flag, "--partitions", "2"]
        .map(str::to_owned)
        .to_vec();
    setup.variables.push(("INFERTRACE_SINK_FLUSH_INTERVAL_MS".into(), "1000".into()));
    let mut up = setup.up()?;
    let grpc = setup.addresses.grpc_url();
    let count = SPANS.to_string();
    let result = loadgen(&["blast", "--json", "--endpoint", &grpc, "--count", &count])?;
    ensure!(result["acked_spans"] == SPANS, "{result:#}");

    let runtime = tokio::runtime::Runtime::new()?;
    let log = client(&kafka)?;
    let poison = |partition| NewRecord {
        to: TopicPartition::new(topics::SPANS, partition),
        key: None,
        payload: Some(b"\x0a\xff\xff\xff\xff\x0fnot a batch"[..].into()),
        headers: vec![("sender".into(), b"test"[..].into())],
        timestamp: Millis(
            i64::try_from(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_millis(),
            )
            .unwrap_or_default(),
        ),
    };
    for partition in [0, 1] {
        runtime.block_on(async { log.append(poison(partition))?.await })?;
    }
    let kafka_flag = ["--kafka", bootstrap.as_str()];
    let letters = || -> anyhow::Result<Vec<Value>> {
        let text = exits(0, &[&["dlq", "list", "--json"], &kafka_flag[..]].concat())?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    };
    // The processor and the sink each write one.
    let mut found = Vec::new();
    wait_until("four letters", Duration::from_secs(60), || {
        up.check_alive()?;
        found = letters()?;
        Ok(found.len() == 4)
    })
    .with_context(|| format!("{found:#?}\n{}", up.tail()))?;
    ensure!(
        found
            .iter()
            .all(|letter| letter["origin"]["topic"] == topics::SPANS && letter["redriven_at_ms"].is_null()),
        "{found:#?}"
    );
    // Noise among the letters is counted, is no letter, and holds up none of what follows.
    let noise = NewRecord { to: TopicPartition::new(topics::DLQ, 0), headers: Vec::new(), ..poison(0) };
    let noise = runtime.block_on(async { log.append(noise)?.await })?.0;
    let listed = exits(0, &[&["dlq", "list"], &kafka_flag[..]].concat())?;
    ensure!(
        listed.contains("4 of 4 letters") && listed.contains("1 records in the topic are not"),
        "{listed}"
    );
    exits(2, &[&["dlq", "show", &format!("0/{noise}")], &kafka_flag[..]].concat())?;
    let first = found[0]["letter"].as_str().context("a name")?.to_owned();
    let shown = exits(0, &[&["dlq", "show", &first], &kafka_flag[..]].concat())?;
    ensure!(shown.contains("sender = test") && shown.contains("6e 6f 74 20 61"), "{shown}");
    exits(2, &[&["dlq", "show", "0/999999"], &kafka_flag[..]].concat())?;

    let all = [&["dlq", "redrive", "--all"], &kafka_flag[..]].concat();
    let sent = exits(0, &[&all[..], &["--dry-run"]].concat())?;
    ensure!(sent.starts_with("2 records would go back, 2 letters of records already among them"), "{sent}");
    let sent = exits(0, &all)?;
    ensure!(sent.starts_with("2 records sent back, 2 letters"), "{sent}");
    // They are poison still: moved aside again, by both roles, and they say where they came from.
    wait_until("four more letters", Duration::from_secs(60), || {
        found = letters()?;
        Ok(found.len() == 8)
    })
    .with_context(|| format!("{found:#?}\n{}", up.tail()))?;
    let (old, new): (Vec<_>, Vec<_>) = found.iter().partition(|letter| letter["redriven_from"].is_null());
    ensure!(old.len() == 4 && old.iter().all(|letter| letter["redriven_at_ms"].is_u64()), "{old:#?}");
    ensure!(new.len() == 4 && new.iter().all(|letter| letter["redriven_at_ms"].is_null()), "{new:#?}");
    let none = exits(0, &[&["dlq", "redrive", "--origin", topics::GPU], &kafka_flag[..]].concat())?;
    ensure!(none.starts_with("0 records sent back"), "{none}");

    // The lake follows the log; then both have the same spans.
    let state = dir.path().join("audit.json").display().to_string();
    let audit = [&["audit", "--json", "--object-store", &lake_flag], &kafka_flag[..]].concat();
    let mut report = Value::Null;
    wait_until("the lake to have everything", Duration::from_secs(60), || {
        report = json(&audit)?;
        let spans = |tier: &str| -> u64 {
            let ranges = report["partitions"].as_array().into_iter().flatten();
            let ranges = ranges.flat_map(|partition| partition["ranges"].as_array().into_iter().flatten());
            ranges.filter_map(|range| range[tier]["spans"].as_u64()).sum()
        };
        Ok(spans("log") == SPANS && spans("lake") == SPANS)
    })
    .with_context(|| format!("{report:#}\n{}", up.tail()))?;
    ensure!(report["clean"] == true, "{report:#}");
    let ranges = |report: &Value| -> usize {
        let partitions = report["partitions"].as_array().into_iter().flatten();
        partitions.map(|partition| partition["ranges"].as_array().map_or(0, Vec::len)).sum()
    };
    let going_on = [&audit[..], &["--state", &state]].concat();
    ensure!(ranges(&json(&going_on)?) > 0);
    // What was sent back may just be in a range of its own.
    wait_until(
        "nothing to be left to audit",
        Duration::from_secs(30),
        || Ok(ranges(&json(&going_on)?) == 0),
    )?;

    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    replays_agree(&runtime, &log, &kafka_flag)?;

    let file = walk(&lake.join("spans"))?.into_iter().next().context("a data file")?;
    let kept = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    let text = exits(1, &[&["audit", "--object-store", &lake_flag], &kafka_flag[..]].concat())?;
    ensure!(text.contains("does not exist") && text.contains("DIFFER"), "{text}");
    std::fs::write(&file, &kept[..kept.len() / 2])?;
    let text = exits(1, &[&["audit", "--object-store", &lake_flag], &kafka_flag[..]].concat())?;
    ensure!(text.contains("cannot be read"), "{text}");
    std::fs::write(&file, kept)?;
    exits(0, &audit)?;
    let config = dir.path().join("compact.toml");
    std::fs::write(&config, "[sink.compaction]\nmin_files = 2\ngrace_ms = 0\n")?;
    lake_is_tended(&config.display().to_string(), &lake_flag, &audit)
}

/// Merges the lake's files, has the default tenant forgotten, and audits after each.
fn lake_is_tended(config: &str, lake: &str, audit: &[&str]) -> anyhow::Result<()> {
    let flags = ["--config", config, "--object-store", lake];
    let listed = || -> anyhow::Result<usize> {
        Ok(exits(0, &[&["lake", "files"], &flags[..]].concat())?.lines().count())
    };
    let stored = || -> anyhow::Result<usize> { Ok(walk(&std::path::Path::new(lake).join("spans"))?.len()) };
    let sum = |report: &Value, side: &str| -> u64 {
        let partitions = report["partitions"].as_array().into_iter().flatten();
        let ranges = partitions.flat_map(|partition| partition["ranges"].as_array().into_iter().flatten());
        ranges.filter_map(|range| range[side]["spans"].as_u64()).sum()
    };
    let compact = [&["lake", "compact", "--json"], &flags[..]].concat();
    let before = listed()?;
    ensure!(before == stored()?, "{before} files count");
    let look = json(&[&compact[..], &["--dry-run"]].concat())?;
    ensure!(listed()? == before, "a dry run changes nothing");
    let done = json(&compact)?;
    let merges = |pass: &Value| pass["pass"]["steps"].as_array().map_or(0, Vec::len);
    ensure!(merges(&look) == merges(&done), "{look:#}\n{done:#}");
    json(&compact)?;
    ensure!(listed()? == stored()?, "what was merged is removed");
    ensure!(sum(&json(audit)?, "lake") == SPANS);
    let delete = [&["lake", "delete", "--tenant", ""], &flags[..]].concat();
    exits(0, &[&delete[..], &["--dry-run"]].concat())?;
    let text = exits(0, &delete)?;
    ensure!(text.contains("deletion 0 is recorded"), "{text}");
    json(&compact)?;
    json(&compact)?;
    ensure!(listed()? == stored()?, "what was written again is removed");
    let report = json(audit)?;
    ensure!(
        report["clean"] == true && sum(&report, "lake") + sum(&report, "forgotten") == SPANS,
        "{report:#}"
    );
    ensure!(sum(&report, "forgotten") > 0, "the load generator's spans are of the default tenant");
    exits(2, &[&["lake", "delete", "--trace", "abc"], &flags[..]].concat())?;
    Ok(())
}

/// Replays everything: dry, then twice; compares what was written, and live topics before and after.
fn replays_agree(runtime: &tokio::runtime::Runtime, log: &KafkaLog, kafka: &[&str]) -> anyhow::Result<()> {
    let ends = || -> anyhow::Result<Vec<u64>> {
        let mut ends = Vec::new();
        for topic in [topics::INSIGHTS, topics::ROLLUPS, topics::DLQ] {
            for partition in 0..runtime.block_on(log.partitions(topic))? {
                ends.push(runtime.block_on(log.watermarks(&TopicPartition::new(topic, partition)))?.high.0);
            }
        }
        Ok(ends)
    };
    let before = ends()?;
    let replay = [&["replay", "--json", "--from", "-1h"], kafka].concat();
    let dry = json(&[&replay[..], &["--dry-run"]].concat())?;
    ensure!(dry["read"]["spans"] == SPANS && dry["read"]["poison"] == 4, "{dry:#}");
    let at = dry["to_ms"].as_i64().context("an end")?;
    let to = format!("@{at}");
    let from = format!("@{}", at - 3_600_000);
    let one =
        |id: &str| json(&[&["replay", "--json", "--id", id, "--from", &from, "--to", &to], kafka].concat());
    let (first, second) = (one("first")?, one("second")?);
    ensure!(first["read"] == second["read"] && first["told"] == second["told"], "{first:#}\n{second:#}");
    ensure!(first["told"]["rollups"].as_u64() > Some(0), "{first:#}");
    let values = |id: &str, kind: &str| -> anyhow::Result<Vec<Vec<u8>>> {
        let topic = format!("infertrace.replay.{id}.{kind}.v1");
        runtime.block_on(async {
            let ranges = infertrace_runtime::log::range::whole_topic(log, &topic).await?;
            let mut reader = infertrace_runtime::log::range::RangeReader::open(log, &ranges, 1 << 20).await?;
            let mut values = Vec::new();
            while let Some(records) = reader.next(1 << 20).await? {
                values.extend(records.into_iter().map(|record| record.payload.unwrap_or_default().to_vec()));
            }
            values.sort();
            Ok(values)
        })
    };
    for kind in ["rollups", "baselines", "insights"] {
        ensure!(values("first", kind)? == values("second", kind)?, "the {kind} of two replays differ");
    }
    ensure!(ends()? == before, "a replay touched live topics");
    let error = infertrace(&[&["replay", "--id", "first", "--from", "-1h"], kafka].concat())?;
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    ensure!(error.contains("hold records already"), "{error}");
    Ok(())
}

/// Files below a folder, sorted.
fn walk(folder: &std::path::Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(walk(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Scenario: the same commands on the embedded log, while `up` holds it and after; on a folder without a log; with
/// times and letters that are none.
/// Guarantee: each works alone, and where it cannot it says what to do.
#[test]
fn the_embedded_log_is_looked_at_when_nobody_holds_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut setup = Setup::new(dir.path())?;
    setup.variables.push(("INFERTRACE_SINK_FLUSH_INTERVAL_MS".into(), "1000".into()));
    let mut up = setup.up()?;
    let data = dir.path().join("data").display().to_string();
    let at = ["--data-dir", data.as_str()];
    let grpc = setup.addresses.grpc_url();
    loadgen(&["blast", "--json", "--endpoint", &grpc, "--count", "5000"])?;
    let error = infertrace(&[&["dlq", "list"], &at[..]].concat())?;
    ensure!(error.status.code() == Some(2), "it opened a log that another process holds");
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    ensure!(
        error.contains("stop `infertrace up` first") && error.contains("in use by another process"),
        "{error}"
    );
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());

    let check = exits(0, &[&["topics", "check"], &at[..]].concat())?;
    ensure!(check.contains("as it should be"), "{check}");
    ensure!(exits(0, &[&["dlq", "list"], &at[..]].concat())?.contains("0 of 0 letters"));
    let audit = json(&[&["audit", "--json"], &at[..]].concat())?;
    ensure!(audit["clean"] == true, "{audit:#}");
    let replay = json(&[&["replay", "--json", "--dry-run", "--from", "-1h"], &at[..]].concat())?;
    ensure!(replay["read"]["spans"] == 5_000, "{replay:#}");

    let nowhere = dir.path().join("nowhere").display().to_string();
    let plan = exits(0, &["topics", "plan", "--data-dir", &nowhere])?;
    ensure!(plan.contains("to be created"), "{plan}");
    ensure!(!dir.path().join("nowhere").exists(), "a plan made a folder");
    for (args, needle) in [
        (&["dlq", "list", "--data-dir", nowhere.as_str()][..], "there is no log"),
        (&["replay", "--from", "yesterday", "--data-dir", data.as_str()], "is no time"),
        (&["replay", "--from", "now", "--to", "-1h", "--data-dir", data.as_str()], "an empty range"),
        (&["dlq", "show", "x", "--data-dir", data.as_str()], "PARTITION/OFFSET"),
        (&["dlq", "redrive", "--data-dir", data.as_str()], "--all"),
        (&["audit", "--from", "x", "--data-dir", data.as_str()], "is no time"),
    ] {
        let output = infertrace(args)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && error.contains(needle), "{args:?}: {error}");
    }
    Ok(())
}
