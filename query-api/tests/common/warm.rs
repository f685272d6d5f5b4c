//! A ClickHouse that the sink itself fills, and how the API reads it.

use std::{sync::Arc, time::Duration};

use infertrace_query::warm::WarmSource;
use infertrace_runtime::{
    clickhouse::{Access, Client, Password},
    clock::SystemClock,
    log::{
        Log, Millis, NewRecord, TopicPartition, TopicSpec,
        embedded::{self, EmbeddedLog},
    },
    telemetry::MetricsRegistry,
};
use infertrace_schemas::topics;
use infertrace_sinks::clickhouse;
use infertrace_tests::clickhouse::ClickHouse;
use tokio_util::sync::CancellationToken;

/// Database of the tests.
pub const DATABASE: &str = "warm";
/// The sink's group.
pub const GROUP: &str = clickhouse::GROUP;

/// A ClickHouse; `None` where none is installed.
pub async fn server() -> Option<ClickHouse> {
    tokio::task::spawn_blocking(|| ClickHouse::start().expect("ClickHouse starts")).await.unwrap()
}

/// A client with the time-outs of the API's defaults.
pub fn client(url: &str) -> Client {
    let access = Access {
        url: url.to_owned(),
        user: "default".to_owned(),
        password: Password::default(),
        connect_timeout_ms: 500,
        request_timeout_ms: 20_000,
        max_answer_bytes: 64 << 20,
    };
    Client::new(&access).expect("a client")
}

/// The database of the tests, as the API reads it.
pub fn source(url: &str) -> WarmSource {
    WarmSource {
        client: client(url),
        database: DATABASE.to_owned(),
        group: GROUP.to_owned(),
        // The spans of these tests are old.
        ttl_days: 0,
    }
}

/// Lets the sink insert the first `share(records)` records of each partition, from a log of its own.
pub async fn fill(url: &str, records: &[Vec<Vec<u8>>], share: impl Fn(usize) -> usize) {
    let folder = tempfile::tempdir().unwrap();
    let config =
        embedded::Config { dir: folder.path().to_owned(), preallocate: false, ..embedded::Config::default() };
    let log = EmbeddedLog::open(config).unwrap();
    let specs: Vec<TopicSpec> = topics::all(records.len() as u32)
        .into_iter()
        .map(|topic| TopicSpec {
            name: topic.name.into(),
            partitions: topic.partitions,
            retention: None,
            compacted: topic.compacted,
            replication: 1,
        })
        .collect();
    log.create_topics(&specs).await.unwrap();
    let mut ends = Vec::new();
    for (partition, records) in records.iter().enumerate() {
        let share = share(records.len());
        for record in &records[..share] {
            let record = NewRecord {
                to: TopicPartition::new(topics::SPANS, partition as u32),
                key: None,
                payload: Some(record.clone().into()),
                headers: Vec::new(),
                timestamp: Millis(super::NOW_NS / 1_000_000),
            };
            log.append(record).unwrap().await.unwrap();
        }
        ends.push(share as u64);
    }
    let config = clickhouse::Config {
        url: url.to_owned(),
        database: DATABASE.to_owned(),
        batch_age_ms: 20,
        // What is old here is not to be removed.
        ttl_days: 0,
        rollup_ttl_days: 0,
        ..clickhouse::Config::default()
    };
    let mut metrics = MetricsRegistry::default();
    let deps = clickhouse::Deps { log: log.clone(), clock: Arc::new(SystemClock), metrics: &mut metrics };
    let sink = clickhouse::build(&config, deps).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(sink.run(stop.clone()));
    let is_done = || async {
        let committed = log.committed_in(GROUP, topics::SPANS).await.unwrap();
        let reached = committed.iter().map(|position| position.map_or(0, |position| position.0));
        reached.eq(ends.iter().copied())
    };
    let waiting = async {
        while !is_done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("the sink inserts everything");
    stop.cancel();
    running.await.unwrap().unwrap();
}
