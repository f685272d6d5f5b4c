//! What the cases share: topics, records, readers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{CaseError, CaseResult, LogFactory};
use crate::log::{
    Consumer, ConsumerOptions, Event, Log, LogError, Millis, NewRecord, NextOffset, Offset, Record,
    TopicPartition, TopicSpec,
};

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::log::conformance::CaseError::Failed(format!($($message)+)));
        }
    };
}
pub(super) use ensure;

/// 2026-01-01T00:00:00Z in milliseconds: records of the cases are about this old.
pub(super) const EPOCH: i64 = 1_767_225_600_000;

pub(super) const POLL_BYTES: usize = 1 << 20;

/// The log under test with what a case needs of its factory.
pub(super) struct Bench<'a> {
    pub(super) factory: &'a dyn LogFactory,
    pub(super) log: Arc<dyn Log>,
}

impl<'a> Bench<'a> {
    pub(super) async fn new(factory: &'a dyn LogFactory) -> Result<Self, LogError> {
        Ok(Self { factory, log: factory.log().await? })
    }

    pub(super) async fn reopened(self) -> Result<Self, LogError> {
        Ok(Self { factory: self.factory, log: self.factory.reopen(self.log).await? })
    }

    pub(super) fn patience(&self) -> Duration {
        self.factory.capabilities().patience
    }

    pub(super) async fn topic(&self, hint: &str, partitions: u32) -> Result<Arc<str>, LogError> {
        self.topic_with(hint, partitions, |_| ()).await
    }

    pub(super) async fn topic_with(
        &self,
        hint: &str,
        partitions: u32,
        change: impl FnOnce(&mut TopicSpec) + Send,
    ) -> Result<Arc<str>, LogError> {
        let name: Arc<str> = self.factory.unique(hint).into();
        let mut spec =
            TopicSpec { name: name.clone(), partitions, retention: None, compacted: false, replication: 1 };
        change(&mut spec);
        self.log.create_topics(&[spec]).await?;
        Ok(name)
    }

    pub(super) async fn append(&self, record: NewRecord) -> Result<Offset, LogError> {
        self.log.append(record)?.await
    }

    /// Appends `count` records with payloads `0`, `1`, … and waits for all.
    pub(super) async fn append_numbers(&self, at: &TopicPartition, from: u64, count: u64) -> CaseResult {
        let mut deliveries = Vec::new();
        for number in from..from + count {
            deliveries.push(self.log.append(record(at, number.to_string()))?);
        }
        for delivery in deliveries {
            delivery.await?;
        }
        Ok(())
    }

    /// A reader of `at` from `from`, without a group.
    pub(super) async fn reader(&self, at: &TopicPartition, from: u64) -> Result<Box<dyn Consumer>, LogError> {
        let assign = vec![(at.clone(), NextOffset(from))];
        self.log.consumer(options(None, vec![], assign)).await
    }

    pub(super) async fn member(&self, group: &str, topic: &Arc<str>) -> Result<Box<dyn Consumer>, LogError> {
        self.log.consumer(options(Some(group), vec![topic.clone()], vec![])).await
    }

    /// Reads exactly `count` records from `from` on, and sees that no more come.
    pub(super) async fn read(
        &self,
        at: &TopicPartition,
        from: u64,
        count: usize,
    ) -> Result<Vec<Record>, CaseError> {
        let mut reader = self.reader(at, from).await?;
        let records = self.take(reader.as_mut(), count).await?;
        let event = reader.poll(POLL_BYTES, Duration::from_millis(50)).await?;
        ensure!(!matches!(event, Event::Records(_)), "more than {count} records in {at}: {event:?}");
        Ok(records)
    }

    /// Polls until `count` records came.
    pub(super) async fn take(
        &self,
        consumer: &mut dyn Consumer,
        count: usize,
    ) -> Result<Vec<Record>, CaseError> {
        let deadline = Instant::now() + self.patience();
        let mut records = Vec::new();
        while records.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} of {count} records within the time", records.len());
            if let Event::Records(more) = consumer.poll(POLL_BYTES, left).await? {
                records.extend(more);
            }
        }
        ensure!(records.len() == count, "{} records instead of {count}", records.len());
        Ok(records)
    }

    /// Polls until partitions are assigned.
    pub(super) async fn assigned(
        &self,
        consumer: &mut dyn Consumer,
        count: usize,
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, CaseError> {
        let deadline = Instant::now() + self.patience() * 3;
        let mut assigned = BTreeMap::new();
        while assigned.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} of {count} partitions assigned within the time", assigned.len());
            match consumer.poll(1, left.min(Duration::from_millis(200))).await? {
                Event::Assigned(partitions) => assigned.extend(partitions),
                Event::Revoked(partitions) => {
                    for at in partitions {
                        assigned.remove(&at);
                    }
                }
                Event::Records(records) => {
                    return Err(CaseError::Failed(format!(
                        "{} records before all is assigned",
                        records.len()
                    )));
                }
                Event::Idle => {}
            }
        }
        Ok(assigned)
    }
}

pub(super) fn options(
    group: Option<&str>,
    topics: Vec<Arc<str>>,
    assign: Vec<(TopicPartition, NextOffset)>,
) -> ConsumerOptions {
    ConsumerOptions {
        group: group.map(str::to_owned),
        topics,
        assign,
        max_buffered_bytes: 4 << 20,
        read_committed: true,
    }
}

pub(super) fn record(at: &TopicPartition, payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        to: at.clone(),
        key: None,
        payload: Some(payload.into()),
        headers: vec![],
        timestamp: Millis(EPOCH),
    }
}

pub(super) fn keyed(at: &TopicPartition, key: &str, payload: Option<&str>) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        payload: payload.map(|payload| Bytes::copy_from_slice(payload.as_bytes())),
        ..record(at, "")
    }
}

/// Payloads as text, for comparison and messages.
pub(super) fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match &record.payload {
        Some(payload) => String::from_utf8_lossy(payload).into_owned(),
        None => "<none>".to_owned(),
    };
    records.iter().map(text).collect()
}

/// `from`, `from + 1`, … as texts.
pub(super) fn numbers(from: u64, count: u64) -> Vec<String> {
    (from..from + count).map(|number| number.to_string()).collect()
}
