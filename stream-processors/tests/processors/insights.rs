//! The second stage over an in-memory log with faults.

use std::{collections::BTreeMap, sync::Arc};

use crate::support::{FakeLog, Fault, running::Running};
use bytes::Bytes;
use infertrace_analytics::rollup::{Cell, Counter, Exemplars, Key, Measure, Partial, WINDOW_MS};
use infertrace_processors::{
    Deps,
    insights::{Config, build},
    partials::{IDLE_MS, Writer, sample_source},
};
use infertrace_runtime::{
    clock::ManualClock,
    log::{Millis, NewRecord, TopicPartition},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::{
    avro::{Rollup, SchemaIds},
    topics,
};

const GROUP: &str = "infertrace-insights";
const T0: i64 = 1_700_000_000_000;
const PARTITIONS: u32 = 2;
const WINDOWS: i64 = 12;

fn config() -> Config {
    Config {
        instance_id: "test".to_owned(),
        commit_interval_ms: 0,
        position_commit_ms: 0,
        end_check_ms: 1,
        retry_ms: 1,
        snapshot_interval_ms: 3 * WINDOW_MS,
        ..Config::default()
    }
}

async fn start(log: &FakeLog) -> Running {
    let mut metrics = MetricsRegistry::default();
    let clock = Arc::new(ManualClock::new(T0 * 1_000_000));
    let deps = Deps { log: Arc::new(log.clone()), clock, metrics: &mut metrics };
    let service = build(config(), deps).await.expect("a valid configuration");
    Running::spawn(|shutdown| service.run(shutdown))
}

fn put(log: &FakeLog, partition: u32, timestamp_ms: i64, payload: Vec<u8>) {
    log.put_record(NewRecord {
        to: TopicPartition::new(topics::PARTIALS, partition),
        key: None,
        payload: Some(payload.into()),
        headers: Vec::new(),
        timestamp: Millis(timestamp_ms),
    });
}

fn partial(window_ms: i64, model: &str, source: u32) -> Partial {
    let mut cell = Cell::default();
    cell.count(Counter::Requests, 3 + u64::from(source));
    cell.measure(Measure::DurationMicros, 1_000_000 + window_ms.unsigned_abs() % 7_919);
    let key = Key { model: model.into(), service: "engine".into(), ..Key::default() };
    Partial { window_ms, seen_window_ms: window_ms, key, cell, exemplars: Exemplars::default() }
}

/// Two sources tell of a model in each partition, window by window; there are no samples.
fn fill(log: &FakeLog, windows: std::ops::Range<i64>) {
    for partition in (0..PARTITIONS).filter(|_| windows.start == 0) {
        for source in (0..PARTITIONS).map(sample_source) {
            put(log, partition, T0, Writer::default().finish(source, Some(IDLE_MS)));
        }
    }
    for window in windows {
        let window_ms = T0 + window * WINDOW_MS;
        for partition in 0..PARTITIONS {
            for source in 0..2 {
                let mut writer = Writer::default();
                writer.push(&partial(window_ms, &format!("model-{partition}"), source));
                let watermark_ms = window_ms + WINDOW_MS + 2_000;
                put(log, partition, watermark_ms, writer.finish(source, Some(watermark_ms)));
            }
        }
    }
}

/// Committed rollups by model, window start and length, each with how often it is there and its requests.
fn rollups(log: &FakeLog) -> BTreeMap<(String, i64, i64), Vec<i64>> {
    let ids = SchemaIds::embedded::<Rollup>();
    let mut all: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for record in log.records(topics::ROLLUPS) {
        let rollup: Rollup = ids.decode(&record.payload.expect("a value")).expect("a rollup");
        let key = (rollup.model, rollup.window_start_unix_nanos / 1_000_000, rollup.window_nanos / 1_000_000);
        all.entry(key).or_default().push(rollup.counters["requests"]);
    }
    all
}

fn is_read(log: &FakeLog) -> bool {
    (0..PARTITIONS).all(|partition| {
        let end =
            log.records(topics::PARTIALS).iter().filter(|record| record.from.partition == partition).count();
        log.committed_in(topics::PARTIALS, GROUP, partition) == Some(end as u64)
    })
}

/// What subscribers see, byte by byte.
fn told(log: &FakeLog) -> Vec<(String, Option<Bytes>, Option<Bytes>)> {
    let mut all: Vec<_> = [topics::ROLLUPS, topics::BASELINES, topics::INSIGHTS]
        .into_iter()
        .flat_map(|topic| log.records(topic).into_iter().map(move |record| (topic, record)))
        .map(|(topic, record)| (format!("{topic}/{}", record.from.partition), record.key, record.payload))
        .collect();
    all.sort();
    all
}

/// Scenario: two sources, two models, twelve windows. Guarantee: every closed window is told once, merged over the
/// sources.
#[tokio::test]
async fn windows_are_merged_and_told_once() {
    let log = FakeLog::new(PARTITIONS);
    fill(&log, 0..WINDOWS);
    let running = start(&log).await;
    log.until("all partials to be read", is_read).await;
    running.stop().await;
    let rollups = rollups(&log);
    for partition in 0..PARTITIONS {
        for window in 0..WINDOWS {
            let key = (format!("model-{partition}"), T0 + window * WINDOW_MS, WINDOW_MS);
            assert_eq!(rollups.get(&key), Some(&vec![7]), "{key:?}");
        }
    }
}

/// Scenario: at each call of the log in turn the outcome is a fault (nothing happened, fenced, or done but unknown).
/// Guarantee: subscribers see the very records of the undisturbed run, each once.
#[tokio::test]
async fn faults_change_nothing() {
    let calm = FakeLog::new(PARTITIONS);
    fill(&calm, 0..WINDOWS);
    let running = start(&calm).await;
    calm.until("all partials to be read", is_read).await;
    running.stop().await;
    let expected = told(&calm);
    assert!(expected.len() >= 2 * WINDOWS as usize);
    for fault in [Fault::Unavailable, Fault::Fenced, Fault::AmbiguousAfter] {
        for call in (1..110).step_by(3) {
            let log = FakeLog::new(PARTITIONS);
            fill(&log, 0..WINDOWS);
            log.fail(call, fault);
            let running = start(&log).await;
            log.until("all partials to be read", is_read).await;
            running.stop().await;
            assert_eq!(told(&log), expected, "{fault:?} at call {call}");
        }
    }
}

/// Scenario: the process is killed after every few windows, and poison lies in the topic. Guarantee: as if it had run
/// through; the poison is in the dead-letter topic once.
#[tokio::test]
async fn kills_change_nothing() {
    let calm = FakeLog::new(PARTITIONS);
    fill(&calm, 0..WINDOWS);
    let running = start(&calm).await;
    calm.until("all partials to be read", is_read).await;
    running.stop().await;

    let log = FakeLog::new(PARTITIONS);
    put(&log, 0, T0, b"\xff\xff\xff".to_vec());
    for window in 0..WINDOWS {
        fill(&log, window..window + 1);
        let running = start(&log).await;
        log.until("all partials to be read", is_read).await;
        running.kill().await;
    }
    assert_eq!(told(&log), told(&calm));
    assert_eq!(log.records(topics::DLQ).len(), 1);
}
