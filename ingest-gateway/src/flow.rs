//! From records to an acknowledgement: append every record, wait until all are durable, then answer.
//!
//! Neighbours: `parse` makes the records, `runtime::log` takes them. Invariants: no answer before every
//! delivery report; if one record fails, the sender is told to send the whole request again, and the parts
//! that were durable collapse by their batch ids.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use infertrace_runtime::{
    clock::Clock,
    log::{Delivery, Log, LogError, Millis, NewRecord, TopicPartition},
};
use infertrace_schemas::topics;
use xxhash_rust::{xxh3::xxh3_128, xxh64::xxh64};

use crate::{
    budget::Permit,
    error::{NotReady, Refusal},
    parse::Record,
    pool::PooledBuffer,
    telemetry::Telemetry,
};

/// Header of a sample record: its identity, as a span record has it inside.
const BATCH_ID_HEADER: &str = "infertrace-batch-id";

/// Topics the gateway writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Spans,
    Samples,
}

/// A topic and how many partitions it had when last looked at; 0 while that is unknown.
struct Topic {
    name: Arc<str>,
    partitions: AtomicU32,
}

impl Topic {
    fn new(name: &'static str) -> Self {
        Self { name: Arc::from(name), partitions: AtomicU32::new(0) }
    }
}

/// The log as the gateway sees it.
pub(crate) struct Flow {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    spans: Topic,
    samples: Topic,
    retry_delay: Duration,
    /// Makes the told delays differ.
    jitter: AtomicU64,
}

/// A record's bytes and their share of the budget, which the log holds until it is done with them.
struct Payload {
    bytes: PooledBuffer,
    _permit: Arc<Permit>,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Flow {
    pub(crate) fn new(
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        telemetry: Arc<Telemetry>,
        retry_delay: Duration,
    ) -> Self {
        Self {
            log,
            clock,
            telemetry,
            spans: Topic::new(topics::SPANS),
            samples: Topic::new(topics::GPU),
            retry_delay,
            jitter: AtomicU64::new(0),
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    const fn topic(&self, target: Target) -> &Topic {
        match target {
            Target::Spans => &self.spans,
            Target::Samples => &self.samples,
        }
    }

    /// Looks up how many partitions the topics have.
    pub(crate) async fn refresh_topology(&self) -> Result<(), LogError> {
        for topic in [&self.spans, &self.samples] {
            let partitions = self.log.partitions(&topic.name).await?;
            let before = topic.partitions.swap(partitions, Ordering::Relaxed);
            if before != partitions {
                tracing::info!(topic = %topic.name, partitions, before, "partitions of a topic");
            }
        }
        Ok(())
    }

    /// Partitions of the target's topic.
    pub(crate) fn partitions(&self, target: Target) -> Result<u32, Refusal> {
        let topic = self.topic(target);
        match topic.partitions.load(Ordering::Relaxed) {
            0 => Err(Refusal::Unavailable {
                message: format!("the partitions of {} are not known yet", topic.name),
                retry_after: self.delay(),
            }),
            partitions => Ok(partitions),
        }
    }

    /// What senders of frames split by. The version follows from what it describes, so that every gateway
    /// of a fleet hands out the same.
    pub(crate) fn partition_map(&self) -> Result<infertrace_proto::v1::PartitionMap, Refusal> {
        let partitions = self.partitions(Target::Spans)?;
        let version = xxh64(self.spans.name.as_bytes(), u64::from(partitions)).max(1);
        Ok(infertrace_proto::v1::PartitionMap { version, topic: self.spans.name.to_string(), partitions })
    }

    /// Whether an append would be durable now.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), NotReady> {
        tokio::time::timeout(patience, self.log.ready())
            .await
            .map_err(|_| NotReady::LogSilent(patience))??;
        if self.spans.partitions.load(Ordering::Relaxed) == 0 {
            return Err(NotReady::NoTopology(topics::SPANS));
        }
        Ok(())
    }

    /// The delay to tell a sender: one to two times the configured one.
    pub(crate) fn delay(&self) -> Duration {
        // Weyl's sequence: successive senders get delays far from one another.
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let step = self.jitter.fetch_add(GOLDEN_RATIO, Ordering::Relaxed);
        let share = (step >> 32) as u32;
        self.retry_delay + self.retry_delay.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    /// Hands all records to the log. They are on their way when this returns, in whichever order the log likes.
    pub(crate) fn append(
        &self,
        target: Target,
        records: Vec<Record>,
        permit: Permit,
    ) -> Result<Pending, Refusal> {
        let permit = Arc::new(permit);
        let timestamp = Millis(self.clock.now_unix_millis());
        let mut pending = Pending {
            deliveries: Vec::with_capacity(records.len()),
            permit: Arc::clone(&permit),
            started: Instant::now(),
        };
        let (count, mut bytes) = (records.len() as u64, 0u64);
        for record in records {
            bytes += record.payload.len() as u64;
            let headers = match target {
                Target::Spans => Vec::new(),
                Target::Samples => {
                    let id = xxh3_128(&record.payload).to_be_bytes();
                    vec![(BATCH_ID_HEADER.to_owned(), Bytes::copy_from_slice(&id))]
                }
            };
            let payload = Payload { bytes: record.payload, _permit: Arc::clone(&permit) };
            let new = NewRecord {
                to: TopicPartition {
                    topic: Arc::clone(&self.topic(target).name),
                    partition: record.partition,
                },
                key: None,
                payload: Some(Bytes::from_owner(payload)),
                headers,
                timestamp,
            };
            match self.log.append(new) {
                Ok(delivery) => pending.deliveries.push(delivery),
                Err(error) => return Err(self.refusal(&error)),
            }
        }
        self.telemetry.appended(count, bytes);
        Ok(pending)
    }

    /// Waits until every record is durable.
    pub(crate) async fn durable(&self, pending: Pending) -> Result<(), Refusal> {
        let Pending { deliveries, permit, started } = pending;
        let mut failed = None;
        for delivery in deliveries {
            if let Err(error) = delivery.await {
                // The rest is awaited too: until then the budget is not free.
                failed.get_or_insert(error);
            }
        }
        drop(permit);
        self.telemetry.durable(started.elapsed().as_secs_f64());
        match failed {
            None => Ok(()),
            Some(error) => Err(self.refusal(&error)),
        }
    }

    fn refusal(&self, error: &LogError) -> Refusal {
        if !matches!(error, LogError::Full { .. }) {
            tracing::warn!(%error, "the log took no records");
        }
        Refusal::from_log(error, self.delay())
    }
}

/// Records on their way into the log.
pub(crate) struct Pending {
    deliveries: Vec<Delivery>,
    permit: Arc<Permit>,
    started: Instant,
}
