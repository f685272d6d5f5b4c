//! The lake as a [`Target`]: the order is plan, dead letters, data files, manifest.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use infertrace_runtime::log::{GroupMetadata, Log, Record, dead_letter::Reader};
use infertrace_schemas::{
    dedup::Dedup,
    lake::{FORMAT_VERSION, Manifest, Plan, Poison},
};
use tokio::sync::Semaphore;

use crate::{
    buffer::Taken,
    encode::{EncodedRange, FileSettings, PoisonRecord, encode_range},
    ledger::{History, Ledger},
    letters,
    metrics::Metrics,
    retry::Retry,
    target::{JobError, Opened, Range, RangePlan, Target, Written},
};

const CREATED_BY: &str = concat!("infertrace ", env!("CARGO_PKG_VERSION"));
const READER: Reader = Reader { role: "parquet-sink", codec: "infertrace.v1.SpanBatch", codec_version: "1" };

/// What jobs share.
pub(crate) struct Workshop {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) ledger: Ledger,
    pub(crate) retry: Retry,
    pub(crate) metrics: Metrics,
    pub(crate) topic: Arc<str>,
    pub(crate) encoders: Semaphore,
    pub(crate) shape: Shape,
}

/// What the bytes of new files depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) dedup_batches: u64,
    pub(crate) row_group_rows: u32,
    pub(crate) zstd_level: i32,
}

impl RangePlan for Plan {
    fn end(&self) -> u64 {
        self.end
    }
}

#[async_trait]
impl Target for Workshop {
    const NAME: &'static str = "parquet";
    const TIER: &'static str = "lake";
    type Plan = Plan;

    async fn open(&self, partition: u32) -> Result<Opened, JobError> {
        let batches = usize::try_from(self.shape.dedup_batches).unwrap_or(usize::MAX);
        let History { next, seen } = self.ledger.history(partition, batches).await?;
        Ok(Opened { next, seen })
    }

    async fn plan(&self, range: Range, _: Option<GroupMetadata>) -> Result<Plan, JobError> {
        let proposed = Plan {
            version: FORMAT_VERSION,
            topic: self.topic.to_string(),
            partition: range.partition,
            start: range.start,
            end: range.end,
            dedup_batches: self.shape.dedup_batches,
            row_group_rows: self.shape.row_group_rows,
            zstd_level: self.shape.zstd_level,
        };
        let plan = self.ledger.plan(&proposed).await?;
        if plan != proposed {
            self.metrics.followed_plans.inc();
            tracing::info!(
                partition = plan.partition,
                start = plan.start,
                end = plan.end,
                own_end = proposed.end,
                "this range was planned before, repeating that plan"
            );
        }
        Ok(plan)
    }

    async fn write(
        &self,
        plan: Plan,
        taken: Taken,
        seen: Dedup,
        _: Option<GroupMetadata>,
    ) -> Result<Written, JobError> {
        let began = Instant::now();
        let Taken { records, lost, .. } = taken;
        let seen = self.window_of(&plan, seen).await?;
        let (mut range, seen) = self.encode(&plan, records, seen).await?;
        for poison in &range.poison {
            letters::post(self.log.as_ref(), &self.retry, &self.metrics, READER, poison).await?;
        }
        let mut files = Vec::with_capacity(range.files.len());
        for file in &range.files {
            files.push(self.ledger.put_data(file, plan.end).await?);
        }
        let poison_of =
            |poison: &PoisonRecord| Poison { offset: poison.record.offset.0, reason: poison.reason.clone() };
        let proposed = Manifest {
            version: FORMAT_VERSION,
            topic: plan.topic.clone(),
            partition: plan.partition,
            start: plan.start,
            next: plan.end,
            records: range.records,
            rows: files.iter().map(|file| file.rows).sum(),
            duplicate_records: range.duplicate_records,
            rejected_spans: range.rejected_spans,
            poison: range.poison.iter().map(poison_of).collect(),
            lost,
            files,
            batch_ids: std::mem::take(&mut range.batch_ids),
            created_by: CREATED_BY.to_owned(),
        };
        let manifest = self.ledger.publish(proposed.clone()).await?;
        let agrees = manifest.next == proposed.next && manifest.batch_ids == proposed.batch_ids;
        if agrees {
            self.count(&manifest);
        }
        self.metrics.flush_seconds.observe(began.elapsed().as_secs_f64());
        tracing::info!(
            partition = manifest.partition,
            start = manifest.start,
            next = manifest.next,
            rows = manifest.rows,
            files = manifest.files.len(),
            duplicates = manifest.duplicate_records,
            "range published"
        );
        Ok(Written { next: manifest.next, seen: agrees.then_some(seen) })
    }
}

impl Workshop {
    /// The window the plan asks for: ours, unless the plan was made with another setting.
    async fn window_of(&self, plan: &Plan, seen: Dedup) -> Result<Dedup, JobError> {
        let batches = usize::try_from(plan.dedup_batches).unwrap_or(usize::MAX);
        if seen.capacity() == batches {
            return Ok(seen);
        }
        let history = self.ledger.history(plan.partition, batches).await?;
        Ok(history.seen)
    }

    async fn encode(
        &self,
        plan: &Plan,
        records: Vec<Record>,
        mut seen: Dedup,
    ) -> Result<(EncodedRange, Dedup), JobError> {
        let settings = FileSettings {
            topic: plan.topic.clone(),
            partition: plan.partition,
            start: plan.start,
            end: plan.end,
            row_group_rows: plan.row_group_rows,
            zstd_level: plan.zstd_level,
            merged: None,
        };
        let _permit = self.encoders.acquire().await.expect("the semaphore is never closed");
        let began = Instant::now();
        let encoder = tokio::task::spawn_blocking(move || {
            encode_range(records, &mut seen, &settings).map(|range| (range, seen))
        });
        let encoded = encoder.await.map_err(|error| JobError::Panicked(error.to_string()))??;
        self.metrics.encode_seconds.observe(began.elapsed().as_secs_f64());
        Ok(encoded)
    }

    fn count(&self, manifest: &Manifest) {
        let metrics = &self.metrics;
        metrics.rows.inc_by(manifest.rows);
        metrics.files.inc_by(manifest.files.len() as u64);
        metrics.bytes.inc_by(manifest.files.iter().map(|file| file.bytes).sum());
        metrics.manifests.inc();
        metrics.duplicate_records.inc_by(manifest.duplicate_records);
        metrics.rejected_spans.inc_by(manifest.rejected_spans);
        metrics.poison_records.inc_by(manifest.poison.len() as u64);
    }
}
