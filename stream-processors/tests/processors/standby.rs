//! Members of the second stage that follow one another's partitions, over the embedded log.

use std::{path::Path, sync::Arc, time::Duration};

use crate::support::{embedded, running::Running};
use infertrace_analytics::rollup::{Cell, Counter, Exemplars, Key, Measure, Partial, WINDOW_MS};
use infertrace_processors::{
    Deps,
    insights::{Config, build},
    partials::Writer,
};
use infertrace_runtime::{
    clock::ManualClock,
    log::{
        Log, Millis, NewRecord, TopicPartition,
        embedded::EmbeddedLog,
        range::{RangeReader, whole_topic},
    },
    telemetry::{MetricsRegistry, exposition},
};
use infertrace_schemas::topics;

const GROUP: &str = "infertrace-insights";
const T0: i64 = 1_700_000_000_000;
const PARTITIONS: u32 = 4;
/// Each session reads its partitions at once; this is for a machine that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(dir: &Path) -> Arc<EmbeddedLog> {
    let log = embedded::open(dir);
    embedded::create_topics(&log, PARTITIONS).await;
    log
}

struct Member {
    running: Running,
    metrics: MetricsRegistry,
}

/// A member that follows `standby` partitions of others and snapshots once, at its first window.
async fn start(log: &Arc<EmbeddedLog>, name: &str, standby: u32) -> Member {
    let mut metrics = MetricsRegistry::default();
    let config = Config {
        instance_id: name.to_owned(),
        commit_interval_ms: 0,
        position_commit_ms: 0,
        end_check_ms: 1,
        retry_ms: 1,
        snapshot_interval_ms: 1_000 * WINDOW_MS,
        standby_partitions: standby as usize,
        ..Config::default()
    };
    let clock = Arc::new(ManualClock::new(T0 * 1_000_000));
    let deps = Deps { log: log.clone(), clock, metrics: &mut metrics };
    let service = build(config, deps).await.expect("a valid configuration");
    Member { running: Running::spawn(|shutdown| service.run(shutdown)), metrics }
}

impl Member {
    /// The sum of the series whose line begins so.
    fn sum(&self, series: &str) -> u64 {
        let text = exposition(&self.metrics);
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Series whose line begins so and ends with ` 0`.
    fn zeros(&self, series: &str) -> usize {
        let text = exposition(&self.metrics);
        text.lines().filter(|line| line.starts_with(series) && line.ends_with(" 0")).count()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Two sources tell of a model in each partition, window by window.
async fn fill(log: &EmbeddedLog, windows: std::ops::Range<i64>) {
    for window in windows {
        let window_ms = T0 + window * WINDOW_MS;
        for partition in 0..PARTITIONS {
            for source in 0..PARTITIONS {
                let mut cell = Cell::default();
                cell.count(Counter::Requests, 3 + u64::from(source));
                cell.measure(Measure::DurationMicros, 1_000_000 + window_ms.unsigned_abs() % 7_919);
                let model = format!("model-{partition}");
                let key = Key { model: model.as_str().into(), service: "engine".into(), ..Key::default() };
                let mut writer = Writer::default();
                writer.push(&Partial {
                    window_ms,
                    seen_window_ms: window_ms,
                    key,
                    cell,
                    exemplars: Exemplars::default(),
                });
                let watermark_ms = window_ms + WINDOW_MS + 2_000;
                let record = NewRecord {
                    to: TopicPartition::new(topics::PARTIALS, partition),
                    key: None,
                    payload: Some(writer.finish(source, Some(watermark_ms)).into()),
                    headers: Vec::new(),
                    timestamp: Millis(watermark_ms),
                };
                log.append(record).expect("taken").await.expect("durable");
            }
        }
    }
}

async fn read_all(log: &EmbeddedLog) {
    until("all partials to be read", async || {
        for partition in 0..PARTITIONS {
            let at = TopicPartition::new(topics::PARTIALS, partition);
            let high = log.watermarks(&at).await.expect("there").high;
            if log.committed(GROUP, &at).await.expect("asked") != Some(high) {
                return false;
            }
        }
        true
    })
    .await;
}

/// What subscribers see, byte by byte.
async fn told(log: &EmbeddedLog) -> Vec<(TopicPartition, Option<Vec<u8>>, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for topic in [topics::ROLLUPS, topics::BASELINES, topics::INSIGHTS] {
        let ranges = whole_topic(log, topic).await.expect("there");
        let mut reader = RangeReader::open(log, &ranges, 1 << 20).await.expect("opens");
        while let Some(records) = reader.next(1 << 20).await.expect("reads") {
            all.extend(records.into_iter().map(|record| {
                let bytes = |part: Option<bytes::Bytes>| part.map(|part| part.to_vec());
                (record.from, bytes(record.key), bytes(record.payload))
            }));
        }
    }
    all.sort();
    all
}

async fn undisturbed(windows: i64) -> Vec<(TopicPartition, Option<Vec<u8>>, Option<Vec<u8>>)> {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path()).await;
    fill(&log, 0..windows).await;
    let member = start(&log, "calm", 0).await;
    read_all(&log).await;
    member.running.stop().await;
    told(&log).await
}

/// What a member reads again when it takes over all that a killed one owned: (partials, partitions) by a copy, and the
/// same by snapshots.
async fn taken_over(standby: u32, windows: i64) -> ((u64, u64), (u64, u64)) {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path()).await;
    let owner = start(&log, "owner", 0).await;
    fill(&log, 0..windows / 2).await;
    read_all(&log).await;
    let heir = start(&log, "heir", standby).await;
    let owns = "infertrace_consumer_lag_records{role=\"insights\"";
    let half = PARTITIONS as usize / 2;
    until("each to own half", async || owner.zeros(owns) == half && heir.zeros(owns) == half).await;
    fill(&log, windows / 2..windows - 1).await;
    read_all(&log).await;
    if standby > 0 {
        // Of every partition there are as many partials.
        let at = TopicPartition::new(topics::PARTIALS, 0);
        let end = log.watermarks(&at).await.expect("there").high.0;
        let position = "infertrace_insights_standby_position{";
        until("the copies to be up to date", async || heir.sum(position) == half as u64 * end).await;
        assert_eq!(heir.sum("infertrace_insights_standby_partitions "), half as u64);
    }
    let restored = |from: &str| {
        let of =
            |name: &str| heir.sum(&format!("infertrace_insights_restored_{name}_total{{from=\"{from}\"}}"));
        (of("records"), of("partitions"))
    };
    let before = (restored("standby"), restored("snapshot"));
    owner.running.kill().await;
    until("the heir to own all", async || heir.zeros(owns) == PARTITIONS as usize).await;
    fill(&log, windows - 1..windows).await;
    read_all(&log).await;
    let since = |now: (u64, u64), before: (u64, u64)| (now.0 - before.0, now.1 - before.1);
    let by_copy = since(restored("standby"), before.0);
    let by_snapshot = since(restored("snapshot"), before.1);
    assert_eq!(heir.zeros("infertrace_insights_standby_lag_records{"), 0, "nothing is left to follow");
    heir.running.stop().await;
    assert_eq!(told(&log).await, undisturbed(windows).await, "standby {standby}");
    (by_copy, by_snapshot)
}

/// Scenario: the owner of half of the partitions is killed, forty windows after its only snapshot; the other member
/// follows those partitions, or does not.
/// Guarantee: outputs are those of an undisturbed run either way; with copies nothing before the committed positions is
/// read again, without them all since the snapshots is.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_taken_over_where_its_owner_was() {
    let windows = 40;
    let (by_copy, by_snapshot) = taken_over(PARTITIONS, windows).await;
    assert_eq!((by_copy, by_snapshot.1), ((0, u64::from(PARTITIONS / 2)), 0));
    let (by_copy, (records, partitions)) = taken_over(0, windows).await;
    assert_eq!((by_copy.1, partitions), (0, u64::from(PARTITIONS / 2)));
    let since_snapshots = u64::from(PARTITIONS / 2) * u64::from(PARTITIONS) * (windows as u64 - 2);
    assert!(records > since_snapshots / 2, "{records} of {since_snapshots}");
}

/// Scenario: two members that follow all of each other's partitions; after every few windows one of them is killed, in
/// the midst of its work, and started again. Guarantee: outputs are those of an undisturbed run.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_take_over_from_each_other_change_nothing() {
    let windows = 36;
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path()).await;
    let mut members = vec![start(&log, "a", PARTITIONS).await, start(&log, "b", PARTITIONS).await];
    for (turn, window) in (0..windows).step_by(3).enumerate() {
        fill(&log, window..window + 3).await;
        let turn = turn % 2;
        let name = ["a", "b"][turn];
        // Not when all is read: the copies and the owner are somewhere in between.
        let first = TopicPartition::new(topics::PARTIALS, 0);
        let least = (window as u64 + 1) * u64::from(PARTITIONS);
        until("some of it to be read", async || {
            log.committed(GROUP, &first).await.expect("asked").is_some_and(|position| position.0 >= least)
        })
        .await;
        members.remove(turn).running.kill().await;
        members.insert(turn, start(&log, name, PARTITIONS).await);
    }
    read_all(&log).await;
    for member in members {
        member.running.stop().await;
    }
    assert_eq!(told(&log).await, undisturbed(windows).await);
}
