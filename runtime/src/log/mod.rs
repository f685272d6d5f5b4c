//! The log: the one place where an acknowledged span is durable.
//!
//! One trait, two implementations: [`kafka`] over a team's Kafka and [`embedded`] on the local disk.
//! One conformance suite ([`conformance`]) runs against both. The log knows bytes, not spans.
//!
//! Invariants: an append that answered `Ok` is durable; a partition's offsets ascend; a committed
//! transaction is visible whole or not at all; a consumer never skips a record silently.

pub mod conformance;
pub mod dead_letter;
pub mod dead_letters;
pub mod embedded;
pub mod kafka;
pub mod range;
pub mod topic_state;
pub mod tracker;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

/// Position of one record in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The position a consumer stands at after it has handled this record.
    #[must_use]
    pub const fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

/// Position of the next record to read: what is committed, sought and reported as a watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(pub u64);

/// Milliseconds since 1970-01-01T00:00:00Z, the resolution of record timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where to; the partition is always explicit.
    pub to: TopicPartition,
    /// Key, which decides what compaction keeps.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone in a compacted topic.
    pub payload: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
    /// Create time.
    pub timestamp: Millis,
}

/// A record read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it stands.
    pub from: TopicPartition,
    /// Its position there.
    pub offset: Offset,
    /// Create time.
    pub timestamp: Millis,
    /// Key.
    pub key: Option<Bytes>,
    /// Value.
    pub payload: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
}

/// What a topic should be; an existing topic is respected, whatever it is.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: Arc<str>,
    /// Partitions, at least 1.
    pub partitions: u32,
    /// Age at which records may be removed; `None` keeps them.
    pub retention: Option<Duration>,
    /// Whether only the latest record a key is kept.
    pub compacted: bool,
    /// Copies on a cluster (the embedded log has one).
    pub replication: u16,
}

/// Resolves when the record is durable, with the offset it got.
pub type Delivery = Pin<Box<dyn Future<Output = Result<Offset, LogError>> + Send>>;

/// First readable and next writable position of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest record still there.
    pub low: NextOffset,
    /// The end: where the next record will stand.
    pub high: NextOffset,
}

/// Why the log could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The producer's buffers are full: try again after the delay.
    #[error("the log's buffers are full; retry in {} ms", retry_after.as_millis())]
    Full {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is full or below its reserve; nothing was written.
    #[error("no space for the log in {path}: {detail}; free some space or lower the retention")]
    DiskFull {
        /// Directory of the log.
        path: String,
        /// What the system said.
        detail: String,
    },
    /// The record is larger than a partition takes; never retried.
    #[error("a record of {size} bytes is larger than {topic} takes")]
    TooLarge {
        /// Topic.
        topic: Arc<str>,
        /// Bytes of key, value and headers.
        size: usize,
    },
    /// There is no such topic or partition.
    #[error("unknown topic or partition {0}")]
    UnknownTopicPartition(TopicPartition),
    /// Retention removed records between the position and the low watermark.
    #[error("retention overtook the reader of {at}: wanted offset {}, the oldest is {}", wanted.0, low.0)]
    DataLoss {
        /// Partition.
        at: TopicPartition,
        /// Where the reader stood.
        wanted: NextOffset,
        /// What is left.
        low: NextOffset,
    },
    /// Another instance with the same transactional id took over, or the group moved the partition away.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The outcome of a commit is not known: drop the producer, restore from committed offsets.
    #[error("outcome unknown: {0}")]
    Ambiguous(String),
    /// Passing trouble: broker away, time-out.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// Damaged bytes on disk.
    #[error("corrupt log {path} at byte {position}: {detail}")]
    Corrupt {
        /// File.
        path: String,
        /// Where in it.
        position: u64,
        /// What is wrong.
        detail: String,
    },
    /// Everything else, not to be retried.
    #[error("log: {0}")]
    Fatal(String),
}

impl LogError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::DiskFull { .. } | Self::Unavailable(_))
    }
}

/// Which partitions a consumer reads, and how it starts.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Consumer group; `None` reads the partitions given in `assign` with no group.
    pub group: Option<String>,
    /// Topics to subscribe to (with a group).
    pub topics: Vec<Arc<str>>,
    /// Partitions to read (without a group) and where to start each.
    pub assign: Vec<(TopicPartition, NextOffset)>,
    /// Bytes fetched ahead at most.
    pub max_buffered_bytes: usize,
    /// Whether records of open transactions are held back (`read_committed`); defaults to true.
    pub read_committed: bool,
}

/// What a poll brought.
#[derive(Debug)]
pub enum Event {
    /// Records, ascending within each partition.
    Records(Vec<Record>),
    /// Partitions given to this member, with the group's committed position (`None`: no commit yet;
    /// the consumer then starts at the low watermark unless it seeks).
    Assigned(Vec<(TopicPartition, Option<NextOffset>)>),
    /// Partitions to give up. The rebalance waits until the next `poll`, so that the owner can commit.
    Revoked(Vec<TopicPartition>),
    /// Nothing within the time-out.
    Idle,
}

/// One reader. Not shared: one task polls it.
#[async_trait]
pub trait Consumer: Send {
    /// Waits up to `timeout` for the next event and returns at most about `max_bytes` of records.
    ///
    /// # Errors
    /// [`LogError::DataLoss`] when retention overtook a position: loud, never a silent reset.
    async fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Event, LogError>;
    /// Moves the position of an assigned partition.
    async fn seek(&mut self, at: &TopicPartition, to: NextOffset) -> Result<(), LogError>;
    /// Stops fetching a partition; polling goes on.
    fn pause(&mut self, at: &TopicPartition) -> Result<(), LogError>;
    /// Fetches it again.
    fn resume(&mut self, at: &TopicPartition) -> Result<(), LogError>;
    /// Commits positions for the group, synchronously.
    ///
    /// # Errors
    /// [`LogError::Fenced`] when the group gave the partition to another member.
    async fn commit(&mut self, positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError>;
    /// Whether a reader without a group has read all that was there of `at` when the log last looked. Offsets of
    /// transaction markers are never delivered, so a position alone does not tell. A log whose offsets have no gaps
    /// need not say.
    fn reached_end(&self, at: &TopicPartition) -> bool {
        let _ = at;
        false
    }
    /// The group membership that transactions need to fence zombies; opaque.
    fn group_metadata(&self) -> Option<GroupMetadata>;
}

/// A consumer's membership in its group, as transactions need it.
#[derive(Clone, Default)]
pub struct GroupMetadata {
    /// Group id.
    pub group: String,
    pub(crate) kafka: Option<Arc<rdkafka::consumer::ConsumerGroupMetadata>>,
    /// The member within the embedded log; `None` elsewhere.
    pub(crate) embedded: Option<u64>,
}

impl fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMetadata").field("group", &self.group).finish_non_exhaustive()
    }
}

/// Output, state and input offsets that become visible together.
#[async_trait]
pub trait Transactions: Send {
    /// Appends `outputs` (state goes to compacted changelog topics) and commits `positions` for the
    /// group, all or nothing. `Ok` means durable and visible.
    ///
    /// # Errors
    /// [`LogError::Ambiguous`] or [`LogError::Fenced`]: drop this producer and restore from committed offsets.
    /// A retriable error means nothing became visible.
    async fn commit(
        &mut self,
        outputs: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
    ) -> Result<(), LogError>;
}

/// A durable, partitioned log.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Creates the topics that are missing; existing ones are left as they are.
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError>;
    /// Number of partitions of `topic`.
    async fn partitions(&self, topic: &str) -> Result<u32, LogError>;
    /// Hands a record over; the delivery resolves when it is durable.
    ///
    /// # Errors
    /// At once when it cannot be taken: full buffers, no space, too large.
    fn append(&self, record: NewRecord) -> Result<Delivery, LogError>;
    /// A transactional producer; an earlier one with the same id is fenced.
    async fn transactions(&self, transactional_id: &str) -> Result<Box<dyn Transactions>, LogError>;
    /// Tries whether transactions can be relied on: one of `transactional_id`, which nobody else uses, writes to
    /// `scratch`, is aborted, and must not be seen. Done once when a role that claims exactly-once starts. A log whose
    /// own code keeps the promise has nothing to try.
    ///
    /// # Errors
    /// [`LogError::Fatal`] with what to do about it: exactly-once is refused.
    async fn self_test(&self, transactional_id: &str, scratch: &TopicPartition) -> Result<(), LogError> {
        let _ = (transactional_id, scratch);
        Ok(())
    }
    /// A new consumer.
    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError>;
    /// Low and high watermark; records of open transactions are not below the high one.
    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError>;
    /// The high watermarks of several partitions, in order, by as few requests as there are brokers; `None` where it
    /// cannot be known for now.
    async fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<NextOffset>>, LogError> {
        let mut ends = Vec::with_capacity(partitions.len());
        for at in partitions {
            ends.push(match self.watermarks(at).await {
                Ok(marks) => Some(marks.high),
                Err(error) if error.is_retriable() => None,
                Err(error) => return Err(error),
            });
        }
        Ok(ends)
    }
    /// As [`Self::watermarks`], once every transaction that was open at the call is over. Who takes a partition
    /// over reads up to there: what its former owner committed last may not be readable yet when the group's position
    /// says that it is.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when one stays open for longer than transactions may.
    async fn settled_watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        self.watermarks(at).await
    }
    /// Position of the first record whose timestamp is at or after `time`; the end when there is none.
    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError>;
    /// The group's committed position, if any.
    async fn committed(&self, group: &str, at: &TopicPartition) -> Result<Option<NextOffset>, LogError>;
    /// As [`Self::committed`], for every partition of `topic`, by number: one question where the log takes it as one.
    async fn committed_in(&self, group: &str, topic: &str) -> Result<Vec<Option<NextOffset>>, LogError> {
        let mut positions = Vec::new();
        for partition in 0..self.partitions(topic).await? {
            positions.push(self.committed(group, &TopicPartition::new(topic, partition)).await?);
        }
        Ok(positions)
    }
    /// Whether an append would be durable now; the reason if not.
    async fn ready(&self) -> Result<(), LogError>;
}
