//! A log of its own on disk, a ClickHouse, and sinks at work between them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use infertrace_proto::v1::{Span, SpanBatch};
use infertrace_runtime::{
    clock::SystemClock,
    log::{
        Log, Millis, NewRecord, TopicPartition, TopicSpec,
        embedded::{self, EmbeddedLog},
        range::{RangeReader, whole_topic},
    },
    telemetry::{self, LogFormat, MetricsRegistry},
};
use infertrace_schemas::topics;
use infertrace_sinks::clickhouse::{self, Client, Config, Deps};
use infertrace_tests::clickhouse::ClickHouse;
use prost::Message as _;

use crate::shared::{self, start_over_two_days};
pub(crate) use crate::shared::{NOON_NS, Running};

const PATIENCE: Duration = Duration::from_secs(120);

/// A log with every topic.
pub(crate) struct World {
    pub(crate) log: Arc<EmbeddedLog>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(partitions: u32) -> Self {
        // Shows what the sinks say where RUST_LOG asks for it.
        let _ = telemetry::init_logs(LogFormat::Text, "off");
        let dir = tempfile::tempdir().expect("a folder");
        let config = embedded::Config {
            dir: dir.path().to_owned(),
            preallocate: false,
            ..embedded::Config::default()
        };
        let log = EmbeddedLog::open(config).expect("opens");
        let specs: Vec<TopicSpec> = topics::all(partitions)
            .into_iter()
            .map(|topic| TopicSpec {
                name: topic.name.into(),
                partitions: topic.partitions,
                // The spans of these tests are old.
                retention: None,
                compacted: topic.compacted,
                replication: 1,
            })
            .collect();
        log.create_topics(&specs).await.expect("created");
        Self { log, _dir: dir }
    }

    pub(crate) async fn append(&self, topic: &str, partition: u32, payload: Vec<u8>) -> u64 {
        self.append_keyed(topic, partition, None, payload).await
    }

    pub(crate) async fn append_keyed(
        &self,
        topic: &str,
        partition: u32,
        key: Option<String>,
        payload: Vec<u8>,
    ) -> u64 {
        let record = NewRecord {
            to: TopicPartition::new(topic, partition),
            key: key.map(Into::into),
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp: Millis(NOON_NS / 1_000_000),
        };
        self.log.append(record).expect("taken").await.expect("durable").0
    }

    /// Every key in a topic, once.
    pub(crate) async fn keys(&self, topic: &str) -> Vec<String> {
        let ranges = whole_topic(self.log.as_ref(), topic).await.expect("there");
        let mut reader = RangeReader::open(self.log.as_ref(), &ranges, 1 << 20).await.expect("opens");
        let mut keys = BTreeSet::new();
        while let Some(records) = reader.next(1 << 20).await.expect("reads") {
            let key = |key: &bytes::Bytes| String::from_utf8_lossy(key).into_owned();
            keys.extend(records.iter().filter_map(|record| record.key.as_ref().map(key)));
        }
        keys.into_iter().collect()
    }

    /// `records` records of 4 spans a partition, from record number `from` on, over two days; returns the spans.
    pub(crate) async fn fill(&self, partitions: u32, from: u64, records: u64) -> u64 {
        for index in from..from + records {
            for partition in 0..partitions {
                let batch = u128::from(index) << 32 | u128::from(partition) << 1 | 1;
                let first = (index * u64::from(partitions) + u64::from(partition)) * 4;
                let spans = (first..first + 4).map(span).collect();
                let batch =
                    SpanBatch { spans, batch_id: batch.to_be_bytes().to_vec(), ..SpanBatch::default() };
                self.append(topics::SPANS, partition, batch.encode_to_vec()).await;
            }
        }
        records * u64::from(partitions) * 4
    }

    pub(crate) async fn start(&self, config: &Config) -> Running {
        let mut metrics = MetricsRegistry::default();
        let deps = Deps { log: self.log.clone(), clock: Arc::new(SystemClock), metrics: &mut metrics };
        let service = clickhouse::build(config, deps).await.expect("builds");
        Running::spawn(metrics, PATIENCE, |shutdown| service.run(shutdown))
    }

    pub(crate) async fn dead_letters(&self) -> u64 {
        self.log.watermarks(&TopicPartition::new(topics::DLQ, 0)).await.expect("there").high.0
    }
}

/// A span; four of them share a trace, and every second one is from the day before.
pub(crate) fn span(number: u64) -> Span {
    let mut span = shared::span(number, start_over_two_days(number));
    // The half by which the look-up finds it differs, too.
    span.trace_id[8..].copy_from_slice(&(number / 4 + 1).to_be_bytes());
    span
}

/// Waits until `holds`, looking again every few milliseconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A sink of small batches and short waits.
pub(crate) fn config(url: String, database: &str) -> Config {
    Config {
        url,
        database: database.to_owned(),
        batch_rows: 8,
        batch_age_ms: 50,
        retry_base_ms: 1,
        retry_max_ms: 20,
        refused_retry_ms: 20,
        request_timeout_ms: 30_000,
        // What is old here is not to be removed.
        ttl_days: 0,
        rollup_ttl_days: 0,
        ..Config::default()
    }
}

/// A ClickHouse, unless none is installed.
pub(crate) fn server() -> Option<ClickHouse> {
    ClickHouse::start().expect("ClickHouse starts")
}

/// A client of the server itself.
pub(crate) fn client(server: &ClickHouse) -> Client {
    clickhouse::connect(&config(server.url(), "unused")).expect("a client").0
}

/// The only value that `sql` answers.
pub(crate) async fn value(client: &Client, sql: &str) -> String {
    client.statement(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).trim().to_owned()
}

/// Whether `database` has exactly the spans `0..spans`, once each, with their look-up rows.
pub(crate) async fn assert_holds(client: &Client, database: &str, spans: u64) {
    let sql = format!(
        "SELECT count(), uniqExact(span_id), min(reinterpretAsUInt64(reverse(span_id))), \
         max(reinterpretAsUInt64(reverse(span_id))) FROM {database}.spans FORMAT TabSeparated"
    );
    assert_eq!(value(client, &sql).await, format!("{spans}\t{spans}\t1\t{spans}"));
    let sql = format!(
        "SELECT count() FROM {database}.spans WHERE (reinterpretAsUInt64(reverse(substring(trace_id, 9, 8))), \
         toStartOfMinute(start_time)) NOT IN (SELECT trace_low, minute FROM {database}.trace_times)"
    );
    assert_eq!(value(client, &sql).await, "0", "every span is found by its trace");
}

/// Waits until the group's position in every partition is at the end of the log.
pub(crate) async fn until_committed(world: &World, partitions: u32) {
    until("all positions at the end", || async {
        for partition in 0..partitions {
            let at = TopicPartition::new(topics::SPANS, partition);
            let end = world.log.watermarks(&at).await.expect("there").high;
            if world.log.committed(clickhouse::GROUP, &at).await.expect("asked") != Some(end) {
                return false;
            }
        }
        true
    })
    .await;
}
