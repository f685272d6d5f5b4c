//! A log in memory whose behaviour a test sets.

use std::sync::Arc;

use async_trait::async_trait;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Delivery, Log, LogError, Millis, NewRecord, NextOffset, Offset,
    TopicPartition, TopicSpec, Transactions, Watermarks,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// What the log does with the next appends.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Durable at once.
    #[default]
    Durable,
    /// Durable as soon as a permit is added.
    Held(Arc<Semaphore>),
    /// Buffers full.
    Full,
    /// Disk full.
    DiskFull,
    /// The delivery of this partition fails, the others do not.
    FailPartition(u32),
    /// The partitions are not known.
    Away,
}

pub struct FakeLog {
    partitions: u32,
    max_record_bytes: usize,
    mode: Mutex<Mode>,
    records: Arc<Mutex<Vec<NewRecord>>>,
}

impl FakeLog {
    pub fn new(partitions: u32, max_record_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            partitions,
            max_record_bytes,
            mode: Mutex::new(Mode::Durable),
            records: Arc::new(Mutex::new(Vec::new())),
        })
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    /// The durable records of a topic.
    pub fn records(&self, topic: &str) -> Vec<NewRecord> {
        self.records.lock().iter().filter(|record| &*record.to.topic == topic).cloned().collect()
    }
}

#[async_trait]
impl Log for FakeLog {
    async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    async fn partitions(&self, _: &str) -> Result<u32, LogError> {
        match &*self.mode.lock() {
            Mode::Away => Err(LogError::Unavailable("no broker".into())),
            _ => Ok(self.partitions),
        }
    }

    fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        let size = record.payload.as_ref().map_or(0, bytes::Bytes::len);
        if size > self.max_record_bytes {
            return Err(LogError::TooLarge { topic: record.to.topic, size });
        }
        // As librdkafka does: the log keeps a copy and lets go of the caller's bytes.
        let payload = record.payload.as_deref().map(bytes::Bytes::copy_from_slice);
        let record = NewRecord { payload, ..record };
        let records = Arc::clone(&self.records);
        let durable = move |record| {
            let mut records = records.lock();
            records.push(record);
            Ok(Offset(records.len() as u64 - 1))
        };
        match self.mode.lock().clone() {
            Mode::Durable => {
                let offset = durable(record);
                Ok(Box::pin(async move { offset }))
            }
            Mode::Held(gate) => Ok(Box::pin(async move {
                gate.acquire().await.expect("the gate stays open").forget();
                durable(record)
            })),
            Mode::Full => Err(LogError::Full { retry_after: std::time::Duration::from_millis(10) }),
            Mode::DiskFull => {
                Err(LogError::DiskFull { path: "/data".into(), detail: "no space left on device".into() })
            }
            Mode::FailPartition(partition) if record.to.partition == partition => {
                Ok(Box::pin(async { Err(LogError::Unavailable("broker went away".into())) }))
            }
            Mode::FailPartition(_) => {
                let offset = durable(record);
                Ok(Box::pin(async move { offset }))
            }
            Mode::Away => Err(LogError::Unavailable("no broker".into())),
        }
    }

    async fn transactions(&self, _: &str) -> Result<Box<dyn Transactions>, LogError> {
        Err(LogError::Fatal("the gateway has no transactions".into()))
    }

    async fn consumer(&self, _: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal("the gateway does not read".into()))
    }

    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        Err(LogError::Fatal("the gateway does not read".into()))
    }

    async fn position_at(&self, _: &TopicPartition, _: Millis) -> Result<NextOffset, LogError> {
        Err(LogError::Fatal("the gateway does not read".into()))
    }

    async fn committed(&self, _: &str, _: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        Err(LogError::Fatal("the gateway does not read".into()))
    }

    async fn ready(&self) -> Result<(), LogError> {
        match &*self.mode.lock() {
            Mode::Away => Err(LogError::Unavailable("no broker".into())),
            _ => Ok(()),
        }
    }
}
