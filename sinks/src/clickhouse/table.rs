//! One topic's way into its tables, as a [`Target`].
//!
//! The order is plan (in the log), dead letters, inserts, mark (in the log). An insert whose outcome is not known — the
//! answer was lost, or a run before this one broke off — is looked for before it is repeated, and carries the token of
//! the first try, so it counts once however late it is repeated and whatever still lands meanwhile.

use std::{collections::HashMap, sync::Arc, time::Instant};

use arrow::error::ArrowError;
use async_trait::async_trait;
use infertrace_runtime::{
    clickhouse::Client,
    log::{GroupMetadata, Log, Record, dead_letter::Reader},
};
use infertrace_schemas::{
    avro::{Insight, Rollup, TraceSummary},
    dedup::Dedup,
    topics,
};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    config::Compression,
    error::Error,
    insert::{Insert, encoding_of, inserts_of, token_of},
    migrations,
    rows::{AvroTable, Encoded},
    samples, spans,
    state::{PlanRecord, StateLog},
};
use crate::{
    buffer::Taken,
    letters,
    metrics::Metrics,
    retry::{Fault, Retry},
    target::{JobError, Opened, Range, RangePlan, Target, Written},
};

/// What a topic's records are.
pub(super) enum Source {
    Spans,
    Traces(AvroTable<TraceSummary<'static>>),
    Rollups(AvroTable<Rollup>),
    Insights(AvroTable<Insight>),
    Samples,
}

impl Source {
    /// Every topic that goes into ClickHouse.
    pub(super) fn all() -> [Self; 5] {
        [
            Self::Spans,
            Self::Traces(AvroTable::new()),
            Self::Rollups(AvroTable::new()),
            Self::Insights(AvroTable::new()),
            Self::Samples,
        ]
    }

    pub(super) const fn topic(&self) -> &'static str {
        match self {
            Self::Spans => topics::SPANS,
            Self::Traces(_) => topics::TRACES,
            Self::Rollups(_) => topics::ROLLUPS,
            Self::Insights(_) => topics::INSIGHTS,
            Self::Samples => topics::GPU,
        }
    }

    /// Its main table, the prefix of its metrics, the role of its lag, and what is behind the group's name.
    pub(super) const fn names(&self) -> [&'static str; 4] {
        match self {
            Self::Spans => ["spans", "clickhouse_spans", "sink-clickhouse", ""],
            Self::Traces(_) => ["traces", "clickhouse_traces", "sink-clickhouse-traces", "-traces"],
            Self::Rollups(_) => ["rollups", "clickhouse_rollups", "sink-clickhouse-rollups", "-rollups"],
            Self::Insights(_) => ["insights", "clickhouse_insights", "sink-clickhouse-insights", "-insights"],
            Self::Samples => ["samples", "clickhouse_samples", "sink-clickhouse-samples", "-samples"],
        }
    }

    const fn reader(&self) -> Reader {
        let codec = match self {
            Self::Spans => "infertrace.v1.SpanBatch",
            Self::Traces(_) => "infertrace.TraceSummary",
            Self::Rollups(_) => "infertrace.Rollup",
            Self::Insights(_) => "infertrace.Insight",
            Self::Samples => "infertrace.v1.GpuSampleBatch",
        };
        Reader { role: "clickhouse-sink", codec, codec_version: "1" }
    }

    async fn learn_of(&self, records: &[Record]) {
        match self {
            Self::Spans | Self::Samples => {}
            Self::Traces(table) => table.learn_of(records).await,
            Self::Rollups(table) => table.learn_of(records).await,
            Self::Insights(table) => table.learn_of(records).await,
        }
    }

    fn encode(&self, records: Vec<Record>, seen: &mut Dedup, partition: i32) -> Result<Encoded, ArrowError> {
        match self {
            Self::Spans => spans::encode(records, seen, partition),
            Self::Traces(table) => table.encode(records, partition),
            Self::Rollups(table) => table.encode(records, partition),
            Self::Insights(table) => table.encode(records, partition),
            Self::Samples => samples::encode(records, partition),
        }
    }
}

/// What all topics share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) plan: migrations::Plan,
    pub(super) auto_migrate: bool,
    /// Set once the tables are as this release makes them.
    pub(super) schema: OnceCell<()>,
    pub(super) compression: Compression,
    /// Settings of every insert.
    pub(super) settings: Vec<(String, String)>,
    pub(super) dedup_batches: u64,
}

/// See the module.
pub(super) struct TableSink {
    pub(super) source: Arc<Source>,
    pub(super) shared: Arc<Shared>,
    pub(super) log: Arc<dyn Log>,
    pub(super) state: StateLog,
    pub(super) retry: Retry,
    pub(super) metrics: Metrics,
    pub(super) inserts: Semaphore,
    /// Plans of runs before this one, by partition, until they are repeated.
    pub(super) open_plans: Mutex<HashMap<u32, PlanRecord>>,
}

/// A range written down.
#[derive(Debug)]
pub(super) struct TablePlan {
    partition: u32,
    record: PlanRecord,
    /// Whether an earlier run may have inserted some of it.
    is_repeated: bool,
}

impl RangePlan for TablePlan {
    fn end(&self) -> u64 {
        self.record.end
    }
}

/// What passes or waits for an operator is repeated; the rest is for the caller.
fn fault_of(error: &Error) -> Option<Fault> {
    matches!(error, Error::Server(_) | Error::Schema { .. }).then(|| error.fault())
}

#[async_trait]
impl Target for TableSink {
    const NAME: &'static str = "clickhouse";
    const TIER: &'static str = "database";
    type Plan = TablePlan;

    async fn open(&self, partition: u32) -> Result<Opened, JobError> {
        self.shared.schema.get_or_try_init(|| self.prepare()).await?;
        let found = self.state.open(partition).await?;
        if found.next.is_none() {
            self.refuse_other_log(partition).await?;
        }
        let batches = found.plan.as_ref().map_or(self.shared.dedup_batches, |plan| plan.dedup_batches);
        let mut seen = Dedup::new(usize::try_from(batches).unwrap_or(usize::MAX));
        seen.preload(found.batch_ids.into_iter().map(|id| id.0));
        let mut open_plans = self.open_plans.lock();
        match found.plan {
            Some(plan) => drop(open_plans.insert(partition, plan)),
            None => drop(open_plans.remove(&partition)),
        }
        Ok(Opened { next: found.next, seen })
    }

    async fn plan(&self, range: Range, group: Option<GroupMetadata>) -> Result<TablePlan, JobError> {
        let Range { partition, start, end } = range;
        let before = self.open_plans.lock().remove(&partition).filter(|plan| plan.start == start);
        if let Some(record) = before {
            self.metrics.followed_plans.inc();
            tracing::info!(
                partition,
                start,
                end = record.end,
                own_end = end,
                "this range was planned before, repeating that plan"
            );
            return Ok(TablePlan { partition, record, is_repeated: true });
        }
        let record =
            self.state.plan(partition, start, end, self.shared.dedup_batches, group.as_ref()).await?;
        Ok(TablePlan { partition, record, is_repeated: false })
    }

    async fn write(
        &self,
        plan: TablePlan,
        taken: Taken,
        seen: Dedup,
        group: Option<GroupMetadata>,
    ) -> Result<Written, JobError> {
        let began = Instant::now();
        let _permit = self.inserts.acquire().await.expect("the semaphore is never closed");
        let (range, inserts, seen) = self.encode(&plan, taken.records, seen).await?;
        for poison in &range.poison {
            letters::post(self.log.as_ref(), &self.retry, &self.metrics, self.source.reader(), poison)
                .await?;
        }
        let mut rows = 0;
        for insert in &inserts {
            self.insert(insert, plan.is_repeated).await?;
            self.metrics.files.inc();
            self.metrics.bytes.inc_by(insert.body.len() as u64);
            rows += if insert.table == self.source.names()[0] { insert.rows } else { 0 };
        }
        let next = plan.record.end;
        self.state.mark(plan.partition, next, &range.batch_ids, group.as_ref()).await?;
        self.metrics.rows.inc_by(rows);
        self.metrics.manifests.inc();
        self.metrics.duplicate_records.inc_by(range.duplicate_records);
        self.metrics.rejected_spans.inc_by(range.rejected_spans);
        self.metrics.poison_records.inc_by(range.poison.len() as u64);
        self.metrics.flush_seconds.observe(began.elapsed().as_secs_f64());
        tracing::debug!(
            table = self.source.names()[0],
            partition = plan.partition,
            start = plan.record.start,
            next,
            rows,
            inserts = inserts.len(),
            "range inserted"
        );
        Ok(Written { next, seen: Some(seen) })
    }
}

impl TableSink {
    /// Makes the tables, or looks that they are made.
    async fn prepare(&self) -> Result<(), Error> {
        let (plan, client) = (&self.shared.plan, &self.shared.client);
        self.retry
            .run(&self.metrics, "migrate", &plan.database, fault_of, || async {
                if self.shared.auto_migrate {
                    plan.apply(client, None).await.map(drop)
                } else {
                    plan.check(client).await
                }
            })
            .await
    }

    /// A partition without state whose rows are there: of a log that was thrown away, or of another group.
    async fn refuse_other_log(&self, partition: u32) -> Result<(), Error> {
        let (database, table) = (&self.shared.plan.database, self.source.names()[0]);
        let sql = format!(
            "SELECT 1 FROM `{database}`.{table} WHERE _partition = {partition} LIMIT 1 FORMAT TabSeparated"
        );
        let ask = || async { Ok(self.shared.client.statement(&sql).await?) };
        let answer = self.retry.run(&self.metrics, "select", table, fault_of, ask).await?;
        if answer.trim().is_empty() {
            return Ok(());
        }
        Err(Error::OtherLog(format!(
            "{database}.{table} has rows of partition {partition} that this log and group know nothing of; \
             give the sink another database, or empty the tables to fill them anew"
        )))
    }

    async fn encode(
        &self,
        plan: &TablePlan,
        records: Vec<Record>,
        mut seen: Dedup,
    ) -> Result<(Encoded, Vec<Insert>, Dedup), JobError> {
        let (source, compression) = (Arc::clone(&self.source), self.shared.compression);
        let token =
            token_of(&plan.record.origin, source.topic(), plan.partition, plan.record.start, plan.record.end);
        let partition = i32::try_from(plan.partition).unwrap_or(i32::MAX);
        let began = Instant::now();
        source.learn_of(&records).await;
        let encoder = tokio::task::spawn_blocking(move || {
            let mut range = source.encode(records, &mut seen, partition)?;
            let inserts = inserts_of(&token, &std::mem::take(&mut range.rows), compression)?;
            Ok::<_, Error>((range, inserts, seen))
        });
        let encoded = encoder.await.map_err(|error| JobError::Panicked(error.to_string()))??;
        self.metrics.encode_seconds.observe(began.elapsed().as_secs_f64());
        Ok(encoded)
    }

    /// Repeats an insert until its rows are there.
    async fn insert(&self, insert: &Insert, is_repeated: bool) -> Result<(), Error> {
        let mut is_unknown = is_repeated;
        self.retry
            .run(&self.metrics, "insert", &insert.token, fault_of, || {
                // Whatever goes wrong, some of it may have been applied.
                self.try_insert(insert, std::mem::replace(&mut is_unknown, true))
            })
            .await
    }

    async fn try_insert(&self, insert: &Insert, is_unknown: bool) -> Result<(), Error> {
        let found = if is_unknown { self.find(insert).await? } else { None };
        if found.is_some_and(|found| found >= insert.rows) {
            return Ok(());
        }
        let query = format!(
            "INSERT INTO `{}`.{} ({}) FORMAT ArrowStream",
            self.shared.plan.database, insert.table, insert.columns
        );
        let mut settings: Vec<(&str, &str)> =
            self.shared.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        settings.push(("insert_deduplication_token", &insert.token));
        let what = format!("INSERT INTO {} ({} rows)", insert.table, insert.rows);
        let encoding = encoding_of(self.shared.compression);
        self.shared.client.insert(&what, &query, &settings, insert.body.clone(), encoding).await?;
        if found.is_none_or(|found| found == 0) {
            return Ok(());
        }
        // Shards that had their part dropped it by its token; were it forgotten, rows would be there twice.
        let found = self.find(insert).await?.unwrap_or(insert.rows);
        if found == insert.rows {
            return Ok(());
        }
        Err(Error::Partial {
            table: insert.table,
            range: insert.token.clone(),
            found,
            expected: insert.rows,
            detail: "delete these rows on every shard; the sink then inserts them again",
        })
    }

    /// How many rows of an insert are there; `None` where that does not matter.
    async fn find(&self, insert: &Insert) -> Result<Option<u64>, Error> {
        let Some(trace) = &insert.trace else { return Ok(None) };
        let sql = format!(
            "SELECT count() FROM `{}`.{} WHERE {} FORMAT TabSeparated",
            self.shared.plan.database,
            insert.table,
            trace.condition()
        );
        let answer = self.shared.client.statement(&sql).await?;
        let count = answer.trim().parse();
        count.map(Some).map_err(|_| Error::Schema {
            database: self.shared.plan.database.clone(),
            detail: format!("a count answered {answer:?}; is the URL that of ClickHouse's HTTP interface?"),
        })
    }
}
