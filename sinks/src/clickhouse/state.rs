//! What the sink has written, in the log itself: a compacted topic, written in transactions of the consumer group.
//!
//! Two kinds of records a partition. A *plan* is written before its range is inserted, so that whoever comes after a
//! crash repeats that range exactly. *Marks* say up to where everything is in ClickHouse and which batches were in it;
//! they form a ring, so that the topic keeps the latest ids and no more. Each transaction also commits the group's
//! position, so an instance that lost the partition is fenced and writes nothing.
//!
//! Invariant: `next` of the latest mark is where to go on; a plan counts when it starts there.

mod records;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use infertrace_runtime::{
    clock::Clock,
    log::{
        GroupMetadata, Log, LogError, Millis, NewRecord, NextOffset, TopicPartition, Transactions,
        range::{Range as LogRange, RangeReader},
    },
};
use infertrace_schemas::{lake::Id16, topics};
use parking_lot::Mutex;
use records::{Found, PLAN, Records, Ring, encode};

pub(super) use self::records::PlanRecord;
use crate::{
    metrics::Metrics,
    retry::{Fault, Retry, fault_of_log},
    target::JobError,
};

/// Bytes read ahead of the state.
const BUFFER_BYTES: usize = 4 << 20;
/// Ids of a mark: at 35 bytes each far below what a record may hold.
const MARK_IDS: u64 = 4_096;
/// Marks that hold the ids to be remembered; two more are in the ring, for the one being filled and the next.
const FULL_MARKS: u64 = 64;

/// See the module.
pub(super) struct StateLog {
    log: Arc<dyn Log>,
    /// Stamps records, so that compaction by age works; decides nothing.
    clock: Arc<dyn Clock>,
    group: String,
    topic: Arc<str>,
    transactional_id: String,
    dedup_batches: u64,
    producer: tokio::sync::Mutex<Option<Box<dyn Transactions>>>,
    rings: Mutex<HashMap<u32, Ring>>,
    retry: Retry,
    metrics: Metrics,
}

impl StateLog {
    pub(super) fn new(
        (log, clock): (Arc<dyn Log>, Arc<dyn Clock>),
        group: String,
        instance: &str,
        topic: Arc<str>,
        dedup_batches: u64,
        (retry, metrics): (Retry, Metrics),
    ) -> Self {
        let transactional_id = format!("{group}-{instance}");
        Self {
            log,
            clock,
            group,
            topic,
            transactional_id,
            dedup_batches,
            producer: tokio::sync::Mutex::new(None),
            rings: Mutex::default(),
            retry,
            metrics,
        }
    }

    /// Reads what is known of a partition.
    pub(super) async fn open(&self, partition: u32) -> Result<Found, JobError> {
        let input = TopicPartition::new(Arc::clone(&self.topic), partition);
        let name = input.to_string();
        // Waits for a transaction of the owner before, whose positions are not settled yet.
        let committed = || self.log.committed(&self.group, &input);
        let committed = self.retry.run(&self.metrics, "state", &name, fault_of_log, committed).await?;
        let read = || self.read(partition);
        let records = self.retry.run(&self.metrics, "state", &name, fault_of_log, read).await?;
        for (key, reason) in records.unreadable() {
            tracing::error!(
                partition,
                key,
                reason,
                "state that cannot be read is passed over; something else wrote it"
            );
        }
        let (found, ring) = records.digest(&self.key(partition, ""), committed)?;
        self.rings.lock().insert(partition, ring);
        Ok(found)
    }

    /// The records of the partition.
    async fn read(&self, partition: u32) -> Result<Records, LogError> {
        let at = self.place(partition).await?;
        let marks = self.log.watermarks(&at).await?;
        let range = LogRange { at, from: marks.low, end: marks.high };
        let mut reader = RangeReader::open(self.log.as_ref(), &[range], BUFFER_BYTES).await?;
        let prefix = self.key(partition, "");
        let mut found = Records::default();
        while let Some(records) = reader.next(BUFFER_BYTES).await? {
            for record in records {
                let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
                if let Some(key) = key.and_then(|key| key.strip_prefix(&prefix)) {
                    found.take(key, record.offset, record.payload.as_deref());
                }
            }
        }
        Ok(found)
    }

    /// Writes down that `[start, end)` is about to be inserted.
    pub(super) async fn plan(
        &self,
        partition: u32,
        start: u64,
        end: u64,
        dedup_batches: u64,
        group: Option<&GroupMetadata>,
    ) -> Result<PlanRecord, JobError> {
        let origin = self.ring(partition).origin;
        let plan = PlanRecord::new(origin, start, end, dedup_batches);
        self.commit(partition, vec![(PLAN.to_owned(), encode(&plan))], start, group).await?;
        Ok(plan)
    }

    /// Writes down that everything before `next` is inserted, `batch_ids` last.
    pub(super) async fn mark(
        &self,
        partition: u32,
        next: u64,
        batch_ids: &[Id16],
        group: Option<&GroupMetadata>,
    ) -> Result<(), JobError> {
        let mut ring = self.ring(partition);
        let (full, places) =
            (self.mark_ids(), FULL_MARKS.max(self.dedup_batches.div_ceil(self.mark_ids())) + 2);
        let mut records = Vec::new();
        let mut rest = batch_ids;
        loop {
            if ring.ids.len() as u64 >= full {
                ring.sequence += 1;
                ring.ids.clear();
            }
            let (now, later) = rest.split_at(rest.len().min(full as usize - ring.ids.len()));
            ring.ids.extend_from_slice(now);
            records.push((format!("mark-{}", ring.sequence % places), encode(&ring.mark(next))));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        // A range of very small batches may wrap the ring: only the latest of each place counts.
        let surplus = records.len().saturating_sub(places as usize);
        self.commit(partition, records.split_off(surplus), next, group).await?;
        self.rings.lock().insert(partition, ring);
        Ok(())
    }

    fn mark_ids(&self) -> u64 {
        self.dedup_batches.div_ceil(FULL_MARKS).clamp(1, MARK_IDS)
    }

    fn ring(&self, partition: u32) -> Ring {
        self.rings.lock().entry(partition).or_insert_with(Ring::begin).clone()
    }

    fn key(&self, partition: u32, of: &str) -> String {
        format!("{}/{}/{partition}/{of}", self.group, self.topic)
    }

    async fn place(&self, partition: u32) -> Result<TopicPartition, LogError> {
        let partitions = self.log.partitions(topics::SINK_STATE).await?.max(1);
        Ok(TopicPartition::new(topics::SINK_STATE, partition % partitions))
    }

    /// Writes records and the group's position, all or nothing; passing faults are waited out.
    async fn commit(
        &self,
        partition: u32,
        records: Vec<(String, Bytes)>,
        position: u64,
        group: Option<&GroupMetadata>,
    ) -> Result<(), JobError> {
        let place = || self.place(partition);
        let to = self.retry.run(&self.metrics, "state", topics::SINK_STATE, fault_of_log, place).await?;
        let timestamp = Millis(self.clock.now_unix_nanos() / 1_000_000);
        let outputs: Vec<NewRecord> = records
            .into_iter()
            .map(|(key, payload)| NewRecord {
                to: to.clone(),
                key: Some(self.key(partition, &key).into()),
                payload: Some(payload),
                headers: Vec::new(),
                timestamp,
            })
            .collect();
        let positions = [(TopicPartition::new(Arc::clone(&self.topic), partition), NextOffset(position))];
        let mut held = self.producer.lock().await;
        for attempt in 0u32.. {
            let outcome = match held.as_mut() {
                Some(producer) => producer.commit(outputs.clone(), group, &positions).await,
                None => match self.log.transactions(&self.transactional_id).await {
                    Ok(producer) => {
                        *held = Some(producer);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match outcome {
                Ok(()) => return Ok(()),
                // Nothing became visible.
                Err(error) if error.is_retriable() => {
                    self.metrics.retries("state").inc();
                    let delay = self.retry.delay(Fault::Passing, attempt);
                    tracing::warn!(%error, partition, delay_ms = delay.as_millis() as u64, "state not written, trying again");
                    tokio::time::sleep(delay).await;
                }
                Err(error) => {
                    *held = None;
                    return Err(error.into());
                }
            }
        }
        unreachable!("the loop ends by an answer")
    }
}
