//! What is done for a partition beside the polling: opening it, planning a range, writing a range.
//!
//! Each is one task, owned and joined by [`crate::service`]; dropping it at any point is safe, since
//! whoever comes later finds the plan, the files and the manifest as far as they got. The order is fixed:
//! plan, dead letters, data files, manifest.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use infertrace_runtime::log::{
    Log, LogError, NewRecord, Record, TopicPartition, Watermarks,
    dead_letter::{self, Reader},
};
use infertrace_schemas::{
    dedup::Dedup,
    lake::{FORMAT_VERSION, Manifest, Plan, Poison},
    topics,
};
use tokio::sync::Semaphore;

use crate::{
    buffer::Taken,
    encode::{EncodeError, EncodedRange, FileSettings, PoisonRecord, encode_range},
    ledger::{History, Ledger, LedgerError},
    metrics::Metrics,
    retry::{Retry, fault_of_log},
};

const CREATED_BY: &str = concat!("infertrace ", env!("CARGO_PKG_VERSION"));
const READER: Reader = Reader { role: "parquet-sink", codec: "infertrace.v1.SpanBatch", codec_version: "1" };

/// Why a partition cannot go on by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "the lake is at offset {next} but the topic ends at {high}: the topic or cluster was recreated; \
         give it a new lake, the old one is complete as it is"
    )]
    TopicRecreated { next: u64, high: u64 },
    #[error("the encoder panicked: {0}")]
    Panicked(String),
}

/// What a job brought.
#[derive(Debug)]
pub(crate) enum Done {
    Opened {
        history: History,
        watermarks: Watermarks,
    },
    Planned(Plan),
    Written(Written),
    /// For the lag; `None` when the log did not say.
    EndOfLog(Option<u64>),
}

/// A published range.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) manifest: Manifest,
    /// The batches seen up to and including this range; `None` when another instance published something
    /// else, and the manifests must be read again.
    pub(crate) seen: Option<Dedup>,
}

/// What jobs share.
pub(crate) struct Workshop {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) ledger: Ledger,
    pub(crate) retry: Retry,
    pub(crate) metrics: Metrics,
    pub(crate) topic: Arc<str>,
    pub(crate) encoders: Semaphore,
}

impl Workshop {
    pub(crate) async fn open(self: Arc<Self>, partition: u32, batches: usize) -> Result<Done, JobError> {
        let history = self.ledger.history(partition, batches).await?;
        let watermarks = self.watermarks(partition).await?;
        let (next, high) = (history.next.unwrap_or(0), watermarks.high.0);
        if next > high {
            return Err(JobError::TopicRecreated { next, high });
        }
        Ok(Done::Opened { history, watermarks })
    }

    pub(crate) async fn end_of_log(self: Arc<Self>, partition: u32) -> Result<Done, JobError> {
        let at = TopicPartition::new(Arc::clone(&self.topic), partition);
        Ok(Done::EndOfLog(self.log.watermarks(&at).await.ok().map(|watermarks| watermarks.high.0)))
    }

    async fn watermarks(&self, partition: u32) -> Result<Watermarks, JobError> {
        let at = TopicPartition::new(Arc::clone(&self.topic), partition);
        let name = at.to_string();
        let read = || self.log.watermarks(&at);
        Ok(self.retry.run(&self.metrics, "watermarks", &name, fault_of_log, read).await?)
    }

    pub(crate) async fn plan(self: Arc<Self>, proposed: Plan) -> Result<Done, JobError> {
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
        Ok(Done::Planned(plan))
    }

    pub(crate) async fn write(
        self: Arc<Self>,
        plan: Plan,
        taken: Taken,
        seen: Dedup,
    ) -> Result<Done, JobError> {
        let began = Instant::now();
        let Taken { records, lost, .. } = taken;
        let seen = self.window_of(&plan, seen).await?;
        let (mut range, seen) = self.encode(&plan, records, seen).await?;
        for poison in &range.poison {
            self.dead_letter(poison).await?;
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
        Ok(Done::Written(Written { manifest, seen: agrees.then_some(seen) }))
    }

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

    /// Appends the raw record with its origin to the dead-letter topic and waits until it is durable there.
    async fn dead_letter(&self, poison: &PoisonRecord) -> Result<(), JobError> {
        let name = format!("{}@{}", poison.record.from, poison.record.offset.0);
        tracing::error!(
            record = name,
            reason = poison.reason,
            "poison record moved to the dead-letter topic"
        );
        let mut letter = dead_letter_of(poison);
        loop {
            let sent = self
                .retry
                .run(&self.metrics, "dlq", &name, fault_of_log, || async {
                    self.log.append(letter.clone())?.await
                })
                .await;
            match sent {
                Ok(_) => return Ok(()),
                // It fitted without our headers, so half of it will fit with them.
                Err(LogError::TooLarge { .. })
                    if letter.payload.as_ref().is_some_and(|bytes| bytes.len() > 1) =>
                {
                    letter.payload = letter.payload.map(|bytes| bytes.slice(..bytes.len() / 2));
                    letter.headers.push((dead_letter::TRUNCATED.to_owned(), Bytes::from_static(b"true")));
                }
                Err(error) => return Err(error.into()),
            }
        }
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

fn dead_letter_of(poison: &PoisonRecord) -> NewRecord {
    let record = &poison.record;
    READER.letter(record, TopicPartition::new(topics::DLQ, 0), &poison.reason, record.timestamp)
}
