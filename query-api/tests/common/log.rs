//! A log in memory, as far as readers without a group need one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

type Topics = BTreeMap<String, Vec<Partition>>;

pub struct MemoryLog {
    topics: Arc<Mutex<Topics>>,
    /// Positions on the spans topic by group and partition.
    committed: Mutex<BTreeMap<(String, u32), u64>>,
    changed: watch::Sender<u64>,
}

/// A partition that a test or a service may name.
fn of<'a>(topics: &'a mut Topics, topic: &str, partition: u32) -> Result<&'a mut Partition, LogError> {
    let held = topics.get_mut(topic).and_then(|partitions| partitions.get_mut(partition as usize));
    held.ok_or_else(|| LogError::UnknownTopicPartition(TopicPartition::new(topic, partition)))
}

impl MemoryLog {
    /// With the spans topic alone.
    pub fn new(partitions: u32) -> Arc<Self> {
        let log = Self { topics: Arc::default(), committed: Mutex::default(), changed: watch::channel(0).0 };
        log.add_topic(SPANS, partitions);
        Arc::new(log)
    }

    pub fn add_topic(&self, topic: &str, partitions: u32) {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        self.topics.lock().insert(topic.to_owned(), partitions);
    }

    /// Appends a record of spans.
    pub fn push(&self, partition: u32, payload: Vec<u8>, time_ms: i64) -> u64 {
        self.push_to(SPANS, partition, payload, time_ms)
    }

    pub fn push_to(&self, topic: &str, partition: u32, payload: Vec<u8>, time_ms: i64) -> u64 {
        self.push_record(topic, partition, None, Some(Bytes::from(payload)), time_ms)
    }

    /// Appends a record with a key to partition 0.
    pub fn push_keyed(&self, topic: &str, key: &str, payload: Vec<u8>, time_ms: i64) -> u64 {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.push_record(topic, 0, Some(key), Some(Bytes::from(payload)), time_ms)
    }

    fn push_record(
        &self,
        topic: &str,
        partition: u32,
        key: Option<Bytes>,
        payload: Option<Bytes>,
        time_ms: i64,
    ) -> u64 {
        let mut topics = self.topics.lock();
        let held = of(&mut topics, topic, partition).unwrap();
        let offset = held.end();
        held.records.push(Record {
            from: TopicPartition::new(topic, partition),
            offset: Offset(offset),
            timestamp: Millis(time_ms),
            key,
            payload,
            headers: Vec::new(),
        });
        drop(topics);
        self.changed.send_modify(|version| *version += 1);
        offset
    }

    /// Notes how far a group is on the spans topic.
    pub fn commit(&self, group: &str, partition: u32, position: u64) {
        self.committed.lock().insert((group.to_owned(), partition), position);
    }

    /// Removes spans that lie before `offset`, as retention does.
    pub fn retain_from(&self, partition: u32, offset: u64) {
        let mut topics = self.topics.lock();
        let held = of(&mut topics, SPANS, partition).unwrap();
        let gone = (offset - held.low) as usize;
        held.records.drain(..gone);
        held.low = offset;
    }

    /// Ends of the partitions of `topic`; none without the topic.
    pub fn ends(&self, topic: &str) -> Vec<u64> {
        self.topics
            .lock()
            .get(topic)
            .map(|held| held.iter().map(Partition::end).collect())
            .unwrap_or_default()
    }
}

impl Partition {
    fn end(&self) -> u64 {
        self.low + self.records.len() as u64
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn create_topics(&self, _specs: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let unknown = || LogError::UnknownTopicPartition(TopicPartition::new(topic, 0));
        self.topics.lock().get(topic).map(|held| held.len() as u32).ok_or_else(unknown)
    }

    fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        of(&mut self.topics.lock(), &record.to.topic, record.to.partition)?;
        let NewRecord { to, key, payload, timestamp, .. } = record;
        let offset = self.push_record(&to.topic, to.partition, key, payload, timestamp.0);
        Ok(Box::pin(async move { Ok(Offset(offset)) }))
    }

    async fn transactions(&self, _id: &str) -> Result<Box<dyn Transactions>, LogError> {
        Err(LogError::Fatal("no transactions here".to_owned()))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        let positions = options.assign.into_iter().map(|(at, position)| (at, position.0)).collect();
        let changed = self.changed.subscribe();
        Ok(Box::new(MemoryConsumer { topics: Arc::clone(&self.topics), positions, changed }))
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let mut topics = self.topics.lock();
        let held = of(&mut topics, &at.topic, at.partition)?;
        Ok(Watermarks { low: NextOffset(held.low), high: NextOffset(held.end()) })
    }

    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError> {
        let mut topics = self.topics.lock();
        let held = of(&mut topics, &at.topic, at.partition)?;
        let first = held.records.iter().find(|record| record.timestamp >= time).map(|record| record.offset.0);
        Ok(NextOffset(first.unwrap_or(held.end())))
    }

    async fn committed(&self, group: &str, at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        Ok(self.committed.lock().get(&(group.to_owned(), at.partition)).copied().map(NextOffset))
    }

    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }
}

struct MemoryConsumer {
    topics: Arc<Mutex<Topics>>,
    positions: Vec<(TopicPartition, u64)>,
    changed: watch::Receiver<u64>,
}

impl MemoryConsumer {
    fn take(&mut self, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let mut topics = self.topics.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        for (at, position) in &mut self.positions {
            let held = of(&mut topics, &at.topic, at.partition)?;
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
