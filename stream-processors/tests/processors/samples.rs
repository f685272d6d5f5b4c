//! Samples through the service on an in-memory log: kills and restarts between any two records.

use std::{collections::BTreeMap, sync::Arc};

use crate::support::{
    FakeLog, SAMPLES_GROUP,
    counted::{marks, rolled, sum},
    running::Running,
};
use infertrace_analytics::rollup::{Counter, Measure, Shape};
use infertrace_processors::{
    Config, Deps, build,
    partials::{IDLE_MS, SAMPLE_SOURCES},
};
use infertrace_proto::v1::{GpuSampleBatch, Sample, sample};
use infertrace_runtime::{
    clock::ManualClock,
    log::{Millis, NewRecord, TopicPartition},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::topics;
use prost::Message;

const T0: i64 = 1_700_000_000_000;

fn config() -> Config {
    Config {
        instance_id: "test".to_owned(),
        close_by_wall_clock: false,
        commit_interval_ms: 0,
        position_commit_ms: 0,
        end_check_ms: 1,
        retry_ms: 1,
        ..Config::default()
    }
}

async fn start(log: &FakeLog) -> Running {
    let clock = Arc::new(ManualClock::new(T0 * 1_000_000));
    let mut metrics = MetricsRegistry::default();
    let deps = Deps { log: Arc::new(log.clone()), clock, metrics: &mut metrics };
    let service = build(config(), deps).await.expect("a valid configuration");
    Running::spawn(|shutdown| service.run(shutdown))
}

fn put(log: &FakeLog, partition: u32, at_ms: i64, payload: Vec<u8>) {
    log.put_record(NewRecord {
        to: TopicPartition::new(topics::GPU, partition),
        key: None,
        payload: Some(payload.into()),
        headers: Vec::new(),
        timestamp: Millis(at_ms),
    });
}

fn encode(samples: Vec<Sample>) -> Vec<u8> {
    GpuSampleBatch { samples, ..GpuSampleBatch::default() }.encode_to_vec()
}

fn reading(name: &str, at_ms: i64, value: f64) -> Sample {
    Sample {
        name: name.to_owned(),
        unit: "1".to_owned(),
        time_unix_nano: at_ms * 1_000_000,
        device_id: "GPU-1".to_owned(),
        value: Some(sample::Value::Number(value)),
        ..Sample::default()
    }
}

/// Scenario: samples over three windows, a poison record among them, and the service killed after any number of them was committed.
/// Guarantee: every reading is counted once, in every partition of the partials; the poison record is in the dead-letter topic
/// once; the watermark is told.
#[tokio::test]
async fn samples_are_counted_once() {
    // The last one is empty and closes every window.
    let put_one = |log: &FakeLog, number: i64| {
        let at = T0 + number * 2_500 + if number == 12 { 60_000 } else { 0 };
        let payload = match number {
            3 => b"\x0a\xff".to_vec(),
            12 => encode(Vec::new()),
            _ => encode(
                [(at, 0.5), (at + 1, 0.25)]
                    .map(|(at, value)| reading("hw.gpu.utilization", at, value))
                    .into(),
            ),
        };
        put(log, 0, at, payload);
    };
    let consumed =
        |log: &FakeLog, number: u64| log.committed_in(topics::GPU, SAMPLES_GROUP, 0) >= Some(number);
    for kill_after in 0..12 {
        let log = FakeLog::new(2);
        (0..kill_after).for_each(|number| put_one(&log, number));
        let running = start(&log).await;
        // Windows close at every fourth record; the others wait in memory when it is killed.
        log.until("it is read", |log| consumed(log, (kill_after.max(5) as u64 - 5) / 4 * 4)).await;
        running.kill().await;
        (kill_after..=12).for_each(|number| put_one(&log, number));
        let running = start(&log).await;
        log.until("everything is committed", |log| consumed(log, 13)).await;
        running.stop().await;
        let rolled = rolled(&log);
        // Partials of devices are in both partitions.
        let readings: u64 = rolled
            .iter()
            .filter(|((source, .., key), _)| *source == SAMPLE_SOURCES && key.shape() == Shape::Device)
            .filter_map(|(_, (cell, _))| Some(cell.sketch(Measure::GpuUtilizationPermille)?.count()))
            .sum();
        assert_eq!(readings, 2 * 2 * 11, "killed after {kill_after}");
        assert_eq!(log.records(topics::DLQ).len(), 1);
        assert_eq!(marks(&log, SAMPLE_SOURCES).last(), Some(&(T0 + 90_000)), "killed after {kill_after}");
    }
}

/// Scenario: one of two partitions has a reading and falls silent, the other never had one; ends are looked up for lag once
/// an hour. Guarantee: as soon as wall time passes the window's end the second stage is told, and of the empty one that there
/// is nothing: neither holds a window open.
#[tokio::test]
async fn silence_holds_no_window_open() {
    let log = FakeLog::new(2);
    put(&log, 0, T0 + 1_000, encode(vec![reading("hw.gpu.utilization", T0 + 1_000, 0.5)]));
    let config = Config { close_by_wall_clock: true, end_check_ms: 3_600_000, ..config() };
    let clock = ManualClock::new(T0 * 1_000_000);
    let mut metrics = MetricsRegistry::default();
    let deps = Deps { log: Arc::new(log.clone()), clock: Arc::new(clock.clone()), metrics: &mut metrics };
    let service = build(config, deps).await.expect("a valid configuration");
    let running = Running::spawn(|shutdown| service.run(shutdown));
    log.until("it is read", |log| marks(log, SAMPLE_SOURCES).last() == Some(&(T0 + 1_000))).await;
    clock.advance(11_000 * 1_000_000);
    log.until("the window is over", |log| marks(log, SAMPLE_SOURCES).last() == Some(&(T0 + 12_000))).await;
    assert_eq!(marks(&log, SAMPLE_SOURCES + 1), [IDLE_MS; 2], "once in each partition of the partials");
    running.stop().await;
}

/// Records of counts in each partition; the last is empty and closes every window.
const RECORDS: i64 = 20;

/// Counts of engines, which restart, and memory of devices, every 3 s.
fn put_counts(log: &FakeLog, number: i64) {
    let at_ms = T0 + number * 3_000;
    for partition in 0..2 {
        if number == RECORDS - 1 {
            put(log, partition, at_ms + 60_000, encode(Vec::new()));
            continue;
        }
        let total = (number * number + i64::from(partition)) % 90;
        let counted = Sample {
            device_id: String::new(),
            temporality: 2,
            ..reading("vllm:num_preemptions_total", at_ms, total as f64)
        };
        let memory = if number % 7 == 0 {
            reading("nv_gpu_memory_total_bytes", at_ms, 8e9)
        } else {
            reading("nv_gpu_memory_used_bytes", at_ms, 1e9 * (number % 5) as f64)
        };
        // Every fifth is stamped before the window that it closed: late by the watermark alone.
        let stamp_ms = at_ms - if number % 5 == 0 { 4_000 } else { 0 };
        put(log, partition, stamp_ms, encode(vec![counted, memory]));
    }
}

/// Scenario: growing counts and memory that is told apart from its use, over six windows; the service is stopped or killed
/// after any number of records and started again. Guarantee: growth, shares of memory and the windows in which they are seen are
/// those of a run without a restart; the state has one record a group of series.
#[tokio::test]
async fn a_restart_in_the_middle_equals_a_run_without() {
    let is_read = |log: &FakeLog, records: u64| {
        (0..2).all(|partition| log.committed_in(topics::GPU, SAMPLES_GROUP, partition) >= Some(records))
    };
    let calm = FakeLog::new(2);
    (0..RECORDS).for_each(|number| put_counts(&calm, number));
    let running = start(&calm).await;
    calm.until("windows are over", |log| is_read(log, RECORDS as u64)).await;
    running.stop().await;
    let expected = rolled(&calm);
    assert!(sum(&expected, Shape::Engine, Counter::Preemptions) > 300);
    for first in 1..RECORDS {
        for is_killed in [false, true] {
            let log = FakeLog::new(2);
            (0..first).for_each(|number| put_counts(&log, number));
            let running = start(&log).await;
            // A window is over about every third record; a kill loses what is not committed then.
            log.until("it is read", |log| is_read(log, (first.max(6) as u64 - 6) / 3 * 3)).await;
            if is_killed {
                running.kill().await;
            } else {
                running.stop().await;
                assert!(is_read(&log, first as u64));
            }
            (first..RECORDS).for_each(|number| put_counts(&log, number));
            let running = start(&log).await;
            log.until("windows are over", |log| is_read(log, RECORDS as u64)).await;
            running.stop().await;
            assert!(rolled(&log) == expected, "restarted after {first}, killed: {is_killed}");
            let keys: BTreeMap<_, _> = log
                .records(topics::ROLLUP_STATE)
                .into_iter()
                .map(|record| (record.key.expect("compacted by key"), record.payload))
                .collect();
            assert!(keys.len() <= 2 * 3, "a source, a count and a device's memory a partition");
        }
    }
}
