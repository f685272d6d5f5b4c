//! The service on an in-memory log: restarts at every point, poison, rebalances, faults, idle closing.
//!
//! Event time is in the records and wall time in a manual clock; tests wait for changes of the log, never for time.

use std::{collections::BTreeSet, sync::Arc};

use crate::support::{
    FakeLog, Fault,
    counted::{marks, rolled, sum},
    share, span,
};
use infertrace_analytics::rollup::{Counter, Shape};
use infertrace_processors::{
    Config, Deps, Error, build, insights,
    partials::{IDLE_MS, RollupState},
};
use infertrace_runtime::{
    clock::ManualClock,
    log::{Millis, NewRecord, TopicPartition},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::{
    avro::{Rollup, SchemaIds, TraceSummary},
    record::encode_share,
    topics,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const T0: i64 = 1_700_000_000_000;

fn config() -> Config {
    Config {
        instance_id: "test".to_owned(),
        trace_idle_ms: 1_000,
        trace_late_ms: 3_000,
        close_by_wall_clock: false,
        commit_interval_ms: 0,
        position_commit_ms: 0,
        end_check_ms: 1,
        retry_ms: 1,
        ..Config::default()
    }
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    clock: ManualClock,
    metrics: MetricsRegistry,
}

async fn start(log: &FakeLog, config: Config) -> Running {
    let clock = ManualClock::new(T0 * 1_000_000);
    let mut metrics = MetricsRegistry::default();
    let deps = Deps { log: Arc::new(log.clone()), clock: Arc::new(clock.clone()), metrics: &mut metrics };
    let service = build(config, deps).await.expect("a valid configuration");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(service.run(shutdown.clone()));
    Running { shutdown, task, clock, metrics }
}

impl Running {
    async fn stop(self) -> MetricsRegistry {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("no error");
        self.metrics
    }
}

fn metric(metrics: &MetricsRegistry, line: &str) -> bool {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, metrics).expect("encodes");
    text.lines().any(|found| found == line)
}

/// What subscribers see: summaries and dead letters, each once.
fn outputs(log: &FakeLog) -> BTreeSet<(String, Vec<u8>)> {
    let mut seen = BTreeSet::new();
    for topic in [topics::TRACES, topics::DLQ] {
        for record in log.records(topic) {
            let key = record.key.expect("every output has a key").to_vec();
            let payload = record.payload.map(|payload| payload.to_vec()).unwrap_or_default();
            let is_new = seen.insert((format!("{topic} {key:?}"), payload));
            assert!(is_new, "an output of {topic} is there twice");
        }
    }
    seen
}

fn summaries(log: &FakeLog) -> Vec<TraceSummary<'static>> {
    let ids = SchemaIds::embedded::<TraceSummary<'static>>();
    let decode = |record: infertrace_runtime::log::Record| {
        ids.decode(&record.payload.expect("a summary")).expect("our schema")
    };
    log.records(topics::TRACES).into_iter().map(decode).collect()
}

fn first_versions(log: &FakeLog) -> u64 {
    summaries(log).iter().filter(|summary| summary.version == 1).count() as u64
}

/// Overlapping traces, a late span, a retried batch, a poison record, a tombstone, and at last a record that closes everything.
fn fill(log: &FakeLog) {
    let retried = share(&[span(1, 1, 0, 0, 90), span(1, 2, 1, 10, 20)]);
    log.put(0, T0, Some(share(&[span(0, 1, 0, 0, 50)])));
    log.put(0, T0 + 100, Some(retried.clone()));
    log.put(0, T0 + 500, Some(share(&[span(0, 2, 1, 5, 10), span(2, 1, 0, 0, 5)])));
    log.put(0, T0 + 600, Some(retried));
    log.put(0, T0 + 1_200, Some(b"\x0a\xff\xffpoison".to_vec()));
    log.put(0, T0 + 1_700, Some(share(&[span(3, 1, 0, 0, 7), span(2, 2, 1, 1, 2)])));
    log.put(0, T0 + 2_600, Some(share(&[span(0, 3, 2, 6, 3)])));
    log.put(0, T0 + 2_700, None);
    log.put(0, T0 + 4_000, Some(share(&[span(4, 1, 0, 0, 7)])));
    log.put(0, T0 + 9_000, Some(share(&[span(4, 2, 1, 1, 2)])));
    log.put(0, T0 + 90_000, Some(share(&[])));
    // The last traces were closed by the record before; this one makes them be forgotten.
    log.put(0, T0 + 180_000, Some(encode_share("", b"another batch", [], &[])));
}

const FILLED: u64 = 12;
const GROUP: &str = "infertrace-processor";

async fn consumed(log: &FakeLog) {
    log.until("everything is committed", |log| log.committed_at(GROUP, 0) == Some(FILLED)).await;
}

/// Scenario: the session dies at any one call to the log, before or after a transaction took effect.
/// Guarantee: subscribers see exactly what they see without any fault, byte for byte and once.
#[tokio::test]
async fn a_restart_at_any_point_changes_nothing() {
    let log = FakeLog::new(1);
    fill(&log);
    let running = start(&log, config()).await;
    consumed(&log).await;
    running.stop().await;
    let expected = outputs(&log);
    let counted = rolled(&log);
    // A retried batch, a poison record and a tombstone count for nothing.
    assert_eq!(sum(&counted, Shape::Spans, Counter::Spans), 10);
    assert_eq!(sum(&counted, Shape::Trace, Counter::Traces), first_versions(&log));
    assert_eq!(marks(&log, 0).last(), Some(&(T0 + 180_000)));
    let calls = log.calls();
    // Traces 0 (corrected once), 1, 2 (corrected once or not, by time), 3, 4 in two parts; two dead letters.
    assert!(expected.len() >= 8, "{} outputs", expected.len());
    for fault in [Fault::Fenced, Fault::AmbiguousAfter, Fault::Unavailable] {
        for call in 0..calls {
            let log = FakeLog::new(1);
            fill(&log);
            log.fail(call, fault);
            log.fail(call + 7, fault);
            let running = start(&log, config()).await;
            consumed(&log).await;
            running.stop().await;
            assert_eq!(outputs(&log), expected, "{fault:?} at call {call}");
            assert_eq!(rolled(&log), counted, "{fault:?} at call {call}");
        }
    }
}

/// Scenario: many traces, then silence, so that one record closes all of them, where a transaction holds few; the session
/// dies at any call. Guarantee: what is told and counted is what one large transaction tells and counts, each once.
#[tokio::test]
async fn traces_that_close_at_once_are_told_in_portions() {
    const TRACES: u8 = 40;
    let burst = |log: &FakeLog| {
        for trace in 0..TRACES {
            let spans = [span(trace, 1, 0, 0, 50), span(trace, 2, 1, 5, 10)];
            log.put(0, T0 + i64::from(trace), Some(share(&spans)));
        }
        log.put(0, T0 + 90_000, Some(share(&[])));
        log.put(0, T0 + 180_000, Some(encode_share("", b"another batch", [], &[])));
    };
    let all = u64::from(TRACES) + 2;
    let told = async |log: &FakeLog| {
        log.until("everything is committed", |log| log.committed_at(GROUP, 0) == Some(all)).await;
    };
    let log = FakeLog::new(1);
    burst(&log);
    let running = start(&log, config()).await;
    told(&log).await;
    running.stop().await;
    let (expected, counted, in_one) = (outputs(&log), rolled(&log), log.calls());
    assert_eq!(sum(&counted, Shape::Trace, Counter::Traces), u64::from(TRACES));
    let small = || Config { max_pending_bytes: 2_000, ..config() };
    let log = FakeLog::new(1);
    burst(&log);
    let running = start(&log, small()).await;
    told(&log).await;
    running.stop().await;
    assert_eq!((outputs(&log), rolled(&log)), (expected.clone(), counted.clone()));
    let calls = log.calls();
    assert!(calls > in_one + 3, "{calls} calls, {in_one} in one transaction");
    for fault in [Fault::Fenced, Fault::AmbiguousAfter, Fault::Unavailable] {
        for call in 0..calls {
            let log = FakeLog::new(1);
            burst(&log);
            log.fail(call, fault);
            let running = start(&log, small()).await;
            told(&log).await;
            running.stop().await;
            assert_eq!(outputs(&log), expected, "{fault:?} at call {call}");
            assert_eq!(rolled(&log), counted, "{fault:?} at call {call}");
        }
    }
}

/// Scenario: the process is killed between any two calls (its task is dropped), then started again.
/// Guarantee: as above.
#[tokio::test]
async fn a_kill_at_any_point_changes_nothing() {
    let log = FakeLog::new(1);
    fill(&log);
    let running = start(&log, config()).await;
    consumed(&log).await;
    running.stop().await;
    let (expected, counted) = (outputs(&log), rolled(&log));
    for calls in 0..log.calls() {
        let log = FakeLog::new(1);
        fill(&log);
        let running = start(&log, config()).await;
        log.until("that many calls", |log| log.calls() >= calls).await;
        running.task.abort();
        let running = start(&log, config()).await;
        consumed(&log).await;
        running.stop().await;
        assert_eq!(outputs(&log), expected, "killed after {calls} calls");
        assert_eq!(rolled(&log), counted, "killed after {calls} calls");
    }
}

/// Scenario: a record that is no span batch and one without a value between good ones. Guarantee: raw in the dead-letter topic with
/// where they came from and why, and the partition moves on.
#[tokio::test]
async fn poison_goes_to_the_dead_letter_topic() {
    let log = FakeLog::new(1);
    fill(&log);
    let running = start(&log, config()).await;
    consumed(&log).await;
    let metrics = running.stop().await;
    let letters = log.records(topics::DLQ);
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].payload.as_deref(), Some(&b"\x0a\xff\xffpoison"[..]));
    let header = |name: &str| {
        let found = letters[0].headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    assert_eq!(header("infertrace.origin.topic").as_deref(), Some(topics::SPANS));
    assert_eq!(header("infertrace.origin.partition").as_deref(), Some("0"));
    assert_eq!(header("infertrace.origin.offset").as_deref(), Some("4"));
    assert_eq!(header("infertrace.codec_version").as_deref(), Some("1"));
    assert_eq!(header("sender").as_deref(), Some("test"));
    assert!(header("infertrace.error").is_some_and(|error| !error.is_empty()));
    assert!(metric(&metrics, "infertrace_processor_dead_letters_total 2"));
    assert!(metric(&metrics, "infertrace_processor_duplicate_batches_total 1"));
    assert!(metric(&metrics, "infertrace_processor_records_total 12"));
}

/// Scenario: bytes that nobody can read stand in the rollups' state and among summaries, from which a start restores.
/// Guarantee: the start goes on with what can be read, and everything is counted as without them.
#[tokio::test]
async fn what_cannot_be_restored_holds_up_nothing() {
    let calm = FakeLog::new(1);
    fill(&calm);
    let running = start(&calm, config()).await;
    consumed(&calm).await;
    running.stop().await;
    let log = FakeLog::new(1);
    for (topic, key) in
        [(topics::ROLLUP_STATE, "0"), (topics::ROLLUP_STATE, "1000000/series/0"), (topics::TRACES, "trace")]
    {
        log.put_record(NewRecord {
            to: TopicPartition::new(topic, 0),
            key: Some(key.into()),
            payload: Some(b"\xff\xffmangled".as_slice().into()),
            headers: Vec::new(),
            timestamp: Millis(T0),
        });
    }
    fill(&log);
    let running = start(&log, config()).await;
    consumed(&log).await;
    running.stop().await;
    assert!(rolled(&log) == rolled(&calm));
    assert_eq!(log.records(topics::TRACES).len(), calm.records(topics::TRACES).len() + 1);
}

/// Scenario: a partition is taken away with open and remembered traces and given back, after every number of calls.
/// Guarantee: the output is the same; what was ready was committed before the partition was let go.
#[tokio::test]
async fn a_rebalance_changes_nothing() {
    let log = FakeLog::new(1);
    fill(&log);
    let running = start(&log, config()).await;
    consumed(&log).await;
    running.stop().await;
    let (expected, counted) = (outputs(&log), rolled(&log));
    for calls in 1..log.calls() {
        let log = FakeLog::new(1);
        fill(&log);
        let running = start(&log, config()).await;
        log.until("that many calls", |log| log.calls() >= calls).await;
        log.rebalance(0);
        consumed(&log).await;
        running.stop().await;
        assert_eq!(outputs(&log), expected, "rebalanced after {calls} calls");
        assert_eq!(rolled(&log), counted, "rebalanced after {calls} calls");
    }
}

/// Scenario: the last records of the log, then silence. Guarantee: their traces close as wall time passes, counted from the last
/// record's arrival; with `close_by_wall_clock = false` they wait for the log.
#[tokio::test]
async fn idle_traces_at_the_end_of_the_log_close_by_wall_time() {
    let log = FakeLog::new(2);
    log.put(0, T0, Some(share(&[span(0, 1, 0, 0, 50)])));
    log.put(1, T0, Some(share(&[span(1, 1, 0, 0, 50)])));
    let running = start(&log, Config { close_by_wall_clock: true, ..config() }).await;
    log.until("both are read", |log| log.calls() > 60).await;
    assert!(log.records(topics::TRACES).is_empty());
    running.clock.advance(1_000 * 1_000_000);
    log.until("both are closed", |log| log.records(topics::TRACES).len() == 2).await;
    running.clock.advance(3_000 * 1_000_000);
    log.until("both are forgotten", |log| {
        log.committed_at(GROUP, 0) == Some(1) && log.committed_at(GROUP, 1) == Some(1)
    })
    .await;
    // A span that comes now is too late for a correction: it makes a summary of its own.
    log.put(0, T0 + 10, Some(share(&[span(0, 2, 1, 1, 2)])));
    let before = log.calls();
    log.until("it is read", |log| log.calls() > before + 60).await;
    running.clock.advance(1_000 * 1_000_000);
    log.until("it is closed", |log| log.records(topics::TRACES).len() == 3).await;
    let lag = "infertrace_consumer_lag_records{role=\"processor\",partition=\"0\"} 0";
    log.until("there is no lag", |_| metric(&running.metrics, lag)).await;
    let metrics = running.stop().await;
    assert!(!metric(&metrics, lag), "another member tells it now");
    let found = summaries(&log);
    assert!(found.iter().filter(|summary| summary.complete).count() == 2);
}

/// Scenario: the log takes no transactions for a while. Guarantee: input is paused, nothing is lost or doubled, and it goes on.
#[tokio::test]
async fn an_unavailable_log_pauses_the_input() {
    let log = FakeLog::new(1);
    fill(&log);
    for call in 8..40 {
        log.fail(call, Fault::Unavailable);
    }
    let running = start(&log, config()).await;
    consumed(&log).await;
    running.stop().await;
    let healthy = FakeLog::new(1);
    fill(&healthy);
    let running = start(&healthy, config()).await;
    consumed(&healthy).await;
    running.stop().await;
    assert_eq!(outputs(&log), outputs(&healthy));
    assert_eq!(rolled(&log), rolled(&healthy));
}

/// Scenario: retention removed records below the committed position's reach. Guarantee: counted, and reading goes on with the
/// oldest that is left; a position past the end is refused.
#[tokio::test]
async fn data_loss_is_counted_and_a_recreated_topic_refused() {
    let log = FakeLog::new(1);
    // One trace that stays open holds the position at its first record.
    for number in 0..3u8 {
        log.put(0, T0 + i64::from(number), Some(share(&[span(0, number + 1, 0, 0, 5)])));
    }
    let running = start(&log, config()).await;
    log.until("the position is committed", |log| log.committed_at(GROUP, 0) == Some(0)).await;
    running.stop().await;
    log.truncate(0, 2);
    log.put(0, T0 + 90_000, Some(share(&[])));
    log.put(0, T0 + 180_000, None);
    let running = start(&log, config()).await;
    log.until("everything is committed", |log| log.committed_at(GROUP, 0) == Some(5)).await;
    let metrics = running.stop().await;
    assert!(metric(&metrics, "infertrace_processor_lost_records_total 2"));
    let found = summaries(&log);
    assert_eq!((found.len(), found[0].source.first_offset, found[0].span_count), (1, 2, 1));

    let recreated = FakeLog::new(1);
    fill(&recreated);
    let running = start(&recreated, config()).await;
    consumed(&recreated).await;
    running.stop().await;
    recreated.empty(0);
    let running = start(&recreated, config()).await;
    let error = running.task.await.expect("no panic").expect_err("refused");
    assert!(error.to_string().contains("recreated"), "{error}");
}

/// Scenario: a value of the configuration makes no sense, or a key is unknown. Guarantee: refused by name.
#[tokio::test]
async fn bad_configuration_is_refused() {
    let log = FakeLog::new(1);
    let clock = ManualClock::default();
    let mut metrics = MetricsRegistry::default();
    let deps = Deps { log: Arc::new(log), clock: Arc::new(clock), metrics: &mut metrics };
    let config = Config { trace_idle_ms: 0, ..Config::default() };
    let error = build(config, deps).await.err().expect("refused");
    assert!(error.to_string().contains("trace_idle_ms"));
}

/// Scenario: spans that come when their window is closed, across a restart. Guarantee: they keep their window and are seen in the one
/// that is open; the state says up to where records are counted, and what is below is not counted again.
#[tokio::test]
async fn late_spans_are_seen_in_the_open_window() {
    let log = FakeLog::new(1);
    log.put(0, T0 + 25_000, Some(share(&[span(0, 1, 0, 0, 50)])));
    let running = start(&log, config()).await;
    log.until("it is read", |log| log.calls() > 30).await;
    running.stop().await;
    let state = log.records(topics::ROLLUP_STATE).pop().expect("a state");
    let state = RollupState::decode(state.payload.as_deref().expect("a value")).expect("own record");
    assert_eq!(state, RollupState { source: 0, rolled_to: 1, watermark_ms: Some(T0 + 25_000) });
    // Stamped earlier than the first, as by a gateway whose clock is behind.
    log.put(0, T0 + 5_000, Some(share(&[span(1, 1, 0, 0, 50)])));
    let running = start(&log, config()).await;
    let before = log.calls();
    log.until("it is read", |log| log.calls() > before + 30).await;
    running.stop().await;
    let rolled = rolled(&log);
    let windows: Vec<_> = rolled
        .iter()
        .filter(|((.., key), _)| key.shape() == Shape::Spans)
        .map(|((_, window, seen, _), (cell, _))| (*window, *seen, cell.get(Counter::Spans)))
        .collect();
    assert_eq!(windows, [(T0, T0 + 20_000, 2)]);
}

/// Scenario: silence at the end of the log. Guarantee: the watermark moves on with wall time, so that the second stage closes windows.
#[tokio::test]
async fn silence_closes_windows() {
    let log = FakeLog::new(1);
    log.put(0, T0 + 1_000, Some(share(&[span(0, 1, 0, 0, 50)])));
    let running = start(&log, Config { close_by_wall_clock: true, ..config() }).await;
    log.until("it is read", |log| log.calls() > 30).await;
    running.clock.advance(11_000 * 1_000_000);
    log.until("the window is closed", |log| marks(log, 0).last() == Some(&(T0 + 12_000))).await;
    running.stop().await;
    assert_eq!(sum(&rolled(&log), Shape::Spans, Counter::Spans), 1);
}

/// Scenario: one of two partitions never held a record, both stages run; then it gets one. Guarantee: the second stage is told
/// once that there is nothing, and closes the window without waiting until the partition counts as idle (60 s); the first
/// record of the partition is in the first revision of its window.
#[tokio::test]
async fn an_empty_partition_holds_no_window_open() {
    let log = FakeLog::new(2);
    let wall = Config { close_by_wall_clock: true, ..config() };
    let running = start(&log, wall).await;
    let mut metrics = MetricsRegistry::default();
    let deps =
        Deps { log: Arc::new(log.clone()), clock: Arc::new(running.clock.clone()), metrics: &mut metrics };
    let second = insights::Config {
        instance_id: "test".to_owned(),
        commit_interval_ms: 0,
        position_commit_ms: 0,
        ..insights::Config::default()
    };
    let second = insights::build(second, deps).await.expect("a valid configuration");
    let shutdown = CancellationToken::new();
    let second = tokio::spawn(second.run(shutdown.clone()));
    // Rollups of 10 s windows: start, revision, requests or other spans.
    let told = |log: &FakeLog, window: i64| {
        let ids = SchemaIds::embedded::<Rollup>();
        let rollups = log
            .records(topics::ROLLUPS)
            .into_iter()
            .map(|record| ids.decode::<Rollup>(&record.payload.expect("a value")).expect("a rollup"));
        let of_window = |rollup: &Rollup| {
            rollup.window_nanos == 10_000_000_000
                && rollup.window_start_unix_nanos == (T0 + window * 10_000) * 1_000_000
        };
        rollups
            .filter(of_window)
            .map(|rollup| (rollup.revision, rollup.counters.get("spans").copied().unwrap_or(0)))
            .filter(|(_, spans)| *spans > 0)
            .collect::<Vec<_>>()
    };
    log.until("both are idle", |log| marks(log, 0) == [IDLE_MS; 2] && marks(log, 1) == [IDLE_MS; 2]).await;
    log.put(0, T0 + 1_000, Some(share(&[span(0, 1, 0, 0, 50)])));
    log.until("it is read", |log| marks(log, 0).last() == Some(&(T0 + 1_000))).await;
    running.clock.advance(11_000 * 1_000_000);
    log.until("the window is told", |log| told(log, 0) == [(1, 1)]).await;
    assert_eq!(marks(&log, 1), [IDLE_MS; 2]);
    let working = |number: u8| span(number, 1, 0, 13_000_000_000, 50);
    log.put(1, T0 + 13_000, Some(share(&[working(1)])));
    log.until("it is read", |log| marks(log, 1).last() == Some(&(T0 + 13_000))).await;
    log.put(0, T0 + 13_500, Some(share(&[working(2)])));
    let before = log.calls();
    log.until("that is read too", |log| log.calls() > before + 60).await;
    running.clock.advance(12_000 * 1_000_000);
    log.until("the next is told", |log| !told(log, 1).is_empty()).await;
    assert_eq!(told(&log, 1), [(1, 2)]);
    running.stop().await;
    shutdown.cancel();
    second.await.expect("no panic").expect("no error");
}
