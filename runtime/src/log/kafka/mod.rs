//! The log on a team's own Kafka, through librdkafka.
//!
//! Neighbours: [`producer`] appends, [`consumer`] reads, [`transactions`] commits output and offsets together,
//! [`self_test`] says whether the cluster can.
//! Invariants: the producer is idempotent with `acks=all` and one request in flight a broker; offsets are never
//! reset silently.

mod consumer;
mod describe;
mod errors;
mod memory;
mod producer;
mod self_test;
mod transactions;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    types::RDKafkaErrorCode,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use self::{consumer::KafkaConsumer, producer::KafkaProducer, transactions::KafkaTransactions};
use super::{
    Consumer, ConsumerOptions, Delivery, Log, LogError, Millis, NewRecord, NextOffset, TopicPartition,
    TopicSpec, Transactions, Watermarks,
};

/// How to reach Kafka and how to write to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `HOST:PORT,…`; empty for the embedded log.
    pub brokers: String,
    /// Compression of record batches: `none`, `lz4`, `zstd`, `snappy` or `gzip`.
    pub compression: String,
    /// How long a record waits for others to the same partition, in milliseconds.
    pub linger_ms: u32,
    /// Bytes of one record batch at most.
    pub batch_bytes: u32,
    /// Bytes of one produce request at most; below the brokers' `message.max.bytes`.
    pub max_message_bytes: u32,
    /// Bytes buffered by the producer at most.
    pub buffer_bytes: u64,
    /// After this time an unanswered record fails, in milliseconds.
    pub delivery_timeout_ms: u32,
    /// After this time an open transaction is aborted by the broker, in milliseconds.
    pub transaction_timeout_ms: u32,
    /// After this silence a group member is taken for dead, in milliseconds.
    pub session_timeout_ms: u32,
    /// librdkafka properties passed through as they are: TLS, SASL, client id.
    pub properties: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            compression: "lz4".into(),
            linger_ms: 5,
            batch_bytes: 1 << 20,
            max_message_bytes: 1_000_000,
            buffer_bytes: 256 << 20,
            delivery_timeout_ms: 30_000,
            transaction_timeout_ms: 60_000,
            session_timeout_ms: 10_000,
            properties: BTreeMap::new(),
        }
    }
}

/// Client of one Kafka cluster.
pub struct KafkaLog {
    config: Config,
    producer: KafkaProducer,
    /// Asks for metadata, watermarks and times; belongs to no group.
    inspector: Arc<BaseConsumer>,
    /// The same, which sees what open transactions have written; made when a partition is taken over.
    uncommitted: OnceCell<Arc<BaseConsumer>>,
    admin: AdminClient<DefaultClientContext>,
    partitions: Mutex<HashMap<String, (u32, Instant)>>,
}

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long creating topics is tried, each try for [`CALL_TIMEOUT`].
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
const METADATA_AGE: Duration = Duration::from_secs(30);
/// Bytes of one partition in a fetch, but always a whole record. A fetch of several partitions is one piece of memory: past
/// some MiB it is mapped anew each time, and a third of a processor's page faults were its.
const FETCH_BYTES: usize = 512 << 10;

impl KafkaLog {
    /// Creates the clients; the cluster is first spoken to by the first call.
    ///
    /// # Errors
    /// [`LogError::Fatal`] for properties that librdkafka refuses.
    pub fn new(config: Config) -> Result<Arc<Self>, LogError> {
        memory::keep_fetch_buffers();
        Ok(Arc::new(Self {
            producer: KafkaProducer::new(&producer_config(&config))?,
            inspector: inspector(&config, "read_committed")?,
            uncommitted: OnceCell::new(),
            admin: base_config(&config).create().map_err(|error| fatal(&error))?,
            partitions: Mutex::new(HashMap::new()),
            config,
        }))
    }

    /// Waits for appends in flight.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when some are not answered in time.
    pub fn flush(&self, timeout: Duration) -> Result<(), LogError> {
        self.producer.flush(timeout)
    }

    /// Properties of a transactional producer without its id, and how long its calls may take.
    fn transactional_config(&self) -> (ClientConfig, Duration) {
        let mut config = producer_config(&self.config);
        // A transaction must be over before the broker gives it up.
        let timeout = Duration::from_millis(u64::from(self.config.transaction_timeout_ms));
        config
            .set("transaction.timeout.ms", self.config.transaction_timeout_ms.to_string())
            .set("delivery.timeout.ms", (self.config.transaction_timeout_ms / 2).max(1_000).to_string())
            .set("linger.ms", "0");
        (config, timeout / 2)
    }

    /// Asks the cluster, again while it is electing leaders or away, for `patience` at most.
    async fn inspect<T: Send + 'static>(
        &self,
        patience: Duration,
        call: impl Fn(&BaseConsumer) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let inspector = self.inspector.clone();
        patiently(patience, move || call(&inspector)).await
    }

    async fn fetch_partitions(&self, topic: &str) -> Result<u32, LogError> {
        let name = topic.to_owned();
        self.inspect(CALL_TIMEOUT, move |inspector| {
            let metadata = inspector
                .fetch_metadata(Some(&name), CALL_TIMEOUT)
                .map_err(|error| errors::classify(&error))?;
            let found = metadata.topics().iter().find(|found| found.name() == name);
            match found {
                Some(found) if found.error().is_none() && !found.partitions().is_empty() => {
                    Ok(found.partitions().len() as u32)
                }
                _ => Err(LogError::UnknownTopicPartition(TopicPartition::new(name.as_str(), 0))),
            }
        })
        .await
    }

    /// Waits until created topics are known to the brokers.
    async fn await_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        for spec in specs {
            while let Err(error) = self.fetch_partitions(&spec.name).await {
                if Instant::now() > deadline {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

fn base_config(config: &Config) -> ClientConfig {
    let mut base = ClientConfig::new();
    base.set("bootstrap.servers", &config.brokers)
        .set("client.id", "infertrace")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.max.ms", "2000");
    for (key, value) in &config.properties {
        base.set(key, value);
    }
    base
}

fn producer_config(config: &Config) -> ClientConfig {
    let mut producer = base_config(config);
    producer
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // Or acknowledged records are lost. With more, a first batch may be refused by a leader that is not ready
        // while the second is accepted, since brokers take any sequence from a producer they do not know yet; the
        // first is then out of order, which librdkafka takes for "stored before" and reports as delivered.
        .set("max.in.flight.requests.per.connection", "1")
        .set("compression.codec", &config.compression)
        .set("linger.ms", config.linger_ms.to_string())
        .set("batch.size", config.batch_bytes.to_string())
        .set("batch.num.messages", "100000")
        // How long an unknown topic may be one that was created a moment ago.
        .set("topic.metadata.propagation.max.ms", "3000")
        .set("message.max.bytes", config.max_message_bytes.to_string())
        .set("queue.buffering.max.kbytes", (config.buffer_bytes >> 10).max(1).to_string())
        .set("queue.buffering.max.messages", "1000000")
        .set("delivery.timeout.ms", config.delivery_timeout_ms.to_string());
    producer
}

/// Makes a blocking call on a thread of its own, again while the cluster is electing or away.
async fn patiently<T: Send + 'static>(
    patience: Duration,
    call: impl Fn() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + patience;
        loop {
            match call() {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    })
    .await
    .map_err(|error| LogError::Fatal(format!("inspection panicked: {error}")))?
}

fn consumer_config(config: &Config, options: &ConsumerOptions) -> ClientConfig {
    let mut consumer = base_config(config);
    consumer
        .set("group.id", options.group.as_deref().unwrap_or("infertrace-unassigned"))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Who reads to an end wants to know when it is there; a member of a group reads for ever.
        .set("enable.partition.eof", if options.group.is_none() { "true" } else { "false" })
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", if options.read_committed { "read_committed" } else { "read_uncommitted" })
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        // Two may be lost or late before the group gives the member up; librdkafka's own default is fixed.
        .set("heartbeat.interval.ms", (config.session_timeout_ms / 3).clamp(1, 3_000).to_string())
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.message.max.bytes", FETCH_BYTES.to_string())
        // What a full queue waits before it looks again: with the default, a second, a backlog comes in at a queue's worth a
        // second, however fast it is worked off.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "1000")
        .set(
            "queued.max.messages.kbytes",
            (options.max_buffered_bytes >> 10).clamp(64, 2_097_151).to_string(),
        );
    consumer
}

/// Partitions with the offsets to seek, commit or assign.
fn to_list(positions: &[(TopicPartition, NextOffset)]) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (at, position) in positions {
        let partition =
            i32::try_from(at.partition).map_err(|_| LogError::UnknownTopicPartition(at.clone()))?;
        let offset = i64::try_from(position.0)
            .map_err(|_| LogError::Fatal(format!("offset {} of {at} is out of range", position.0)))?;
        list.add_partition_offset(&at.topic, partition, KafkaOffset::Offset(offset))
            .map_err(|error| errors::classify(&error))?;
    }
    Ok(list)
}

fn fatal(error: &rdkafka::error::KafkaError) -> LogError {
    LogError::Fatal(format!("Kafka client: {error}"))
}

/// A client that asks and reads nothing.
fn inspector(config: &Config, isolation: &str) -> Result<Arc<BaseConsumer>, LogError> {
    let mut inspecting = base_config(config);
    inspecting
        .set("group.id", "infertrace-inspector")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation);
    inspecting.create().map(Arc::new).map_err(|error| fatal(&error))
}

/// The position that the consumer's group has committed.
fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    at: &TopicPartition,
) -> Result<Option<NextOffset>, LogError> {
    Ok(committed_at(consumer, std::slice::from_ref(at))?.pop().flatten())
}

/// The positions that the consumer's group has committed, in the order asked.
fn committed_at<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    places: &[TopicPartition],
) -> Result<Vec<Option<NextOffset>>, LogError> {
    let Some(first) = places.first() else { return Ok(Vec::new()) };
    let asked: Vec<_> = places.iter().map(|at| (at.clone(), NextOffset(0))).collect();
    let found = consumer
        .committed_offsets(to_list(&asked)?, CALL_TIMEOUT)
        .map_err(|error| unknown_or(first, &error))?;
    let position = |at: &TopicPartition| match found
        .find_partition(&at.topic, at.partition as i32)
        .map(|element| element.offset())
    {
        Some(KafkaOffset::Offset(offset)) if offset >= 0 => Some(NextOffset(offset as u64)),
        _ => None,
    };
    Ok(places.iter().map(position).collect())
}

fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    at: &TopicPartition,
) -> Result<Watermarks, LogError> {
    let (low, high) = consumer
        .fetch_watermarks(&at.topic, at.partition as i32, CALL_TIMEOUT)
        .map_err(|error| unknown_or(at, &error))?;
    Ok(Watermarks { low: NextOffset(low.max(0) as u64), high: NextOffset(high.max(0) as u64) })
}

fn ends(
    consumer: &BaseConsumer<impl ConsumerContext>,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<NextOffset>>, LogError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for at in partitions {
        // In place of a time: the time after every record.
        list.add_partition_offset(&at.topic, at.partition as i32, KafkaOffset::End)
            .map_err(|error| errors::classify(&error))?;
    }
    let found = consumer.offsets_for_times(list, CALL_TIMEOUT).map_err(|error| errors::classify(&error))?;
    let end = |at: &TopicPartition| {
        let Some(element) = found.find_partition(&at.topic, at.partition as i32) else { return Ok(None) };
        match (element.error(), element.offset()) {
            (Ok(()), KafkaOffset::Offset(end)) => Ok(Some(NextOffset(end.max(0) as u64))),
            (Ok(()), _) => Ok(None),
            (Err(error), _) => match unknown_or(at, &error) {
                error if error.is_retriable() => Ok(None),
                error => Err(error),
            },
        }
    };
    partitions.iter().map(end).collect()
}

fn unknown_or(at: &TopicPartition, error: &rdkafka::error::KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopic,
        ) => LogError::UnknownTopicPartition(at.clone()),
        _ => errors::classify(error),
    }
}

impl KafkaLog {
    /// A client that only asks for positions of `group`; it joins nothing.
    fn member(&self, group: &str) -> Result<BaseConsumer, LogError> {
        let mut config = base_config(&self.config);
        config.set("group.id", group).set("enable.auto.commit", "false");
        config.create().map_err(|error| errors::classify(&error))
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let retention: Vec<String> = specs
            .iter()
            .map(|spec| spec.retention.map_or_else(|| "-1".to_owned(), |age| age.as_millis().to_string()))
            .collect();
        let topics: Vec<NewTopic<'_>> = specs
            .iter()
            .zip(&retention)
            .map(|(spec, retention)| {
                let replication = TopicReplication::Fixed(i32::from(spec.replication));
                NewTopic::new(&spec.name, spec.partitions as i32, replication)
                    .set("cleanup.policy", if spec.compacted { "compact" } else { "delete" })
                    .set("retention.ms", retention)
            })
            .collect();
        let options =
            AdminOptions::new().request_timeout(Some(CALL_TIMEOUT)).operation_timeout(Some(CALL_TIMEOUT));
        let deadline = Instant::now() + CREATE_TIMEOUT;
        // A broker that has just started may have no controller yet, and librdkafka then waits in vain.
        let created = loop {
            match self.admin.create_topics(&topics, &options).await.map_err(|error| errors::classify(&error))
            {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    tracing::warn!(%error, "topics could not be created; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => break outcome?,
            }
        };
        for outcome in created {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(errors::classify_code(code, &format!("cannot create topic {topic}: {code}")));
                }
            }
        }
        self.await_topics(specs).await
    }

    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        if let Some((partitions, read_at)) = self.partitions.lock().get(topic)
            && read_at.elapsed() < METADATA_AGE
        {
            return Ok(*partitions);
        }
        let partitions = self.fetch_partitions(topic).await?;
        self.partitions.lock().insert(topic.to_owned(), (partitions, Instant::now()));
        Ok(partitions)
    }

    fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        self.producer.append(record)
    }

    async fn transactions(&self, transactional_id: &str) -> Result<Box<dyn Transactions>, LogError> {
        let (config, timeout) = self.transactional_config();
        Ok(Box::new(KafkaTransactions::start(config, transactional_id, timeout).await?))
    }

    async fn self_test(&self, transactional_id: &str, scratch: &TopicPartition) -> Result<(), LogError> {
        self.test_transactions(transactional_id, scratch).await
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        for topic in options.topics.iter().chain(options.assign.iter().map(|(at, _)| &at.topic)) {
            self.partitions(topic).await?;
        }
        Ok(Box::new(KafkaConsumer::start(consumer_config(&self.config, &options), options).await?))
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let at = at.clone();
        self.inspect(CALL_TIMEOUT, move |inspector| watermarks(inspector, &at)).await
    }

    async fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<NextOffset>>, LogError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let asked = partitions.to_vec();
        let answer = self.inspect(CALL_TIMEOUT, move |inspector| ends(inspector, &asked)).await;
        match answer {
            Err(error) if error.is_retriable() => Ok(vec![None; partitions.len()]),
            answer => answer,
        }
    }

    async fn settled_watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let uncommitted = self
            .uncommitted
            .get_or_try_init(|| async { inspector(&self.config, "read_uncommitted") })
            .await?;
        let (uncommitted, of) = (Arc::clone(uncommitted), at.clone());
        let written = patiently(CALL_TIMEOUT, move || watermarks(&uncommitted, &of)).await?.high;
        // The broker aborts a transaction that is open for longer.
        let patience = Duration::from_millis(self.config.transaction_timeout_ms.into()) + CALL_TIMEOUT;
        let deadline = Instant::now() + patience;
        loop {
            let committed = self.watermarks(at).await?;
            if committed.high >= written {
                return Ok(committed);
            }
            if Instant::now() > deadline {
                return Err(LogError::Unavailable(format!(
                    "a transaction holds {at} at {} of {} for longer than {} s; find it with kafka-transactions.sh \
                     find-hanging",
                    committed.high.0,
                    written.0,
                    patience.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError> {
        let at = at.clone();
        self.inspect(CALL_TIMEOUT, move |inspector| {
            let mut times = TopicPartitionList::new();
            times
                .add_partition_offset(&at.topic, at.partition as i32, KafkaOffset::Offset(time.0.max(0)))
                .map_err(|error| errors::classify(&error))?;
            let found =
                inspector.offsets_for_times(times, CALL_TIMEOUT).map_err(|error| unknown_or(&at, &error))?;
            match found.find_partition(&at.topic, at.partition as i32).map(|element| element.offset()) {
                Some(KafkaOffset::Offset(offset)) if offset >= 0 => Ok(NextOffset(offset as u64)),
                _ => {
                    let (_, high) = inspector
                        .fetch_watermarks(&at.topic, at.partition as i32, CALL_TIMEOUT)
                        .map_err(|error| unknown_or(&at, &error))?;
                    Ok(NextOffset(high.max(0) as u64))
                }
            }
        })
        .await
    }

    async fn committed(&self, group: &str, at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        let member = self.member(group)?;
        let at = at.clone();
        patiently(CALL_TIMEOUT, move || committed(&member, &at)).await
    }

    async fn committed_in(&self, group: &str, topic: &str) -> Result<Vec<Option<NextOffset>>, LogError> {
        let member = self.member(group)?;
        let partitions = self.partitions(topic).await?;
        let places: Vec<_> = (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect();
        patiently(CALL_TIMEOUT, move || committed_at(&member, &places)).await
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.inspect(Duration::ZERO, |inspector| {
            let metadata = inspector
                .fetch_metadata(None, Duration::from_secs(2))
                .map_err(|error| errors::classify(&error))?;
            if metadata.brokers().is_empty() {
                return Err(LogError::Unavailable("no broker answers".into()));
            }
            Ok(())
        })
        .await
    }
}
