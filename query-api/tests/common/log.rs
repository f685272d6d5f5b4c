//! A log in memory, as far as a reader without a group needs one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Delivery, Event, GroupMetadata, Log, LogError, Millis, NewRecord, NextOffset,
    Offset, Record, TopicPartition, TopicSpec, Transactions, Watermarks,
};
use infertrace_schemas::topics::SPANS;
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Default)]
struct Partition {
    low: u64,
    records: Vec<Record>,
}

pub struct MemoryLog {
    partitions: Arc<Mutex<Vec<Partition>>>,
    changed: watch::Sender<u64>,
}

impl MemoryLog {
    pub fn new(partitions: u32) -> Arc<Self> {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Arc::new(Self { partitions: Arc::new(Mutex::new(partitions)), changed: watch::channel(0).0 })
    }

    pub fn push(&self, partition: u32, payload: Vec<u8>, time_ms: i64) -> u64 {
        let mut partitions = self.partitions.lock();
        let held = &mut partitions[partition as usize];
        let offset = held.low + held.records.len() as u64;
        held.records.push(Record {
            from: TopicPartition::new(SPANS, partition),
            offset: Offset(offset),
            timestamp: Millis(time_ms),
            key: None,
            payload: Some(Bytes::from(payload)),
            headers: Vec::new(),
        });
        drop(partitions);
        self.changed.send_modify(|version| *version += 1);
        offset
    }

    /// Removes what lies before `offset`, as retention does.
    pub fn retain_from(&self, partition: u32, offset: u64) {
        let mut partitions = self.partitions.lock();
        let held = &mut partitions[partition as usize];
        let gone = (offset - held.low) as usize;
        held.records.drain(..gone);
        held.low = offset;
    }

    pub fn add_partition(&self) {
        self.partitions.lock().push(Partition::default());
    }

    pub fn records(&self, partition: u32) -> Vec<Record> {
        self.partitions.lock()[partition as usize].records.clone()
    }

    pub fn ends(&self) -> Vec<i64> {
        self.partitions.lock().iter().map(|held| (held.low + held.records.len() as u64) as i64).collect()
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn create_topics(&self, _specs: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    async fn partitions(&self, _topic: &str) -> Result<u32, LogError> {
        Ok(self.partitions.lock().len() as u32)
    }

    fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        let payload = record.payload.unwrap_or_default().to_vec();
        let offset = self.push(record.to.partition, payload, record.timestamp.0);
        Ok(Box::pin(async move { Ok(Offset(offset)) }))
    }

    async fn transactions(&self, _id: &str) -> Result<Box<dyn Transactions>, LogError> {
        Err(LogError::Fatal("no transactions here".to_owned()))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        let positions = options.assign.into_iter().map(|(at, position)| (at, position.0)).collect();
        let changed = self.changed.subscribe();
        Ok(Box::new(MemoryConsumer { partitions: Arc::clone(&self.partitions), positions, changed }))
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let partitions = self.partitions.lock();
        let held = &partitions[at.partition as usize];
        Ok(Watermarks { low: NextOffset(held.low), high: NextOffset(held.low + held.records.len() as u64) })
    }

    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError> {
        let partitions = self.partitions.lock();
        let held = &partitions[at.partition as usize];
        let first = held.records.iter().find(|record| record.timestamp >= time).map(|record| record.offset.0);
        Ok(NextOffset(first.unwrap_or(held.low + held.records.len() as u64)))
    }

    async fn committed(&self, _group: &str, _at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        Ok(None)
    }

    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }
}

struct MemoryConsumer {
    partitions: Arc<Mutex<Vec<Partition>>>,
    positions: Vec<(TopicPartition, u64)>,
    changed: watch::Receiver<u64>,
}

impl MemoryConsumer {
    fn take(&mut self, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let partitions = self.partitions.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        for (at, position) in &mut self.positions {
            let held = &partitions[at.partition as usize];
            if *position < held.low {
                let (wanted, low) = (NextOffset(*position), NextOffset(held.low));
                return Err(LogError::DataLoss { at: at.clone(), wanted, low });
            }
            while bytes < max_bytes
                && let Some(record) = held.records.get((*position - held.low) as usize)
            {
                bytes += record.payload.as_ref().map_or(0, Bytes::len);
                taken.push(record.clone());
                *position += 1;
            }
        }
        Ok(taken)
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Event, LogError> {
        self.changed.mark_unchanged();
        let taken = self.take(max_bytes)?;
        if !taken.is_empty() {
            return Ok(Event::Records(taken));
        }
        let _ = tokio::time::timeout(timeout, self.changed.changed()).await;
        let taken = self.take(max_bytes)?;
        Ok(if taken.is_empty() { Event::Idle } else { Event::Records(taken) })
    }

    async fn seek(&mut self, at: &TopicPartition, to: NextOffset) -> Result<(), LogError> {
        for (known, position) in &mut self.positions {
            if known == at {
                *position = to.0;
            }
        }
        Ok(())
    }

    fn pause(&mut self, _at: &TopicPartition) -> Result<(), LogError> {
        Ok(())
    }

    fn resume(&mut self, _at: &TopicPartition) -> Result<(), LogError> {
        Ok(())
    }

    async fn commit(&mut self, _positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
        Ok(())
    }

    fn group_metadata(&self) -> Option<GroupMetadata> {
        None
    }
}
