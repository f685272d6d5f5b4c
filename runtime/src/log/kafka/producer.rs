//! Appends to Kafka: one idempotent producer, `acks=all`; the delivery report answers the caller.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext, Message,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
    types::RDKafkaErrorCode,
};
use tokio::sync::oneshot;

use super::errors::classify_code;
use crate::log::{Delivery, LogError, NewRecord, Offset, TopicPartition};

type Report = oneshot::Sender<Result<Offset, LogError>>;

/// Hands each delivery report to the append that waits for it.
pub(super) struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Report>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Box<Report>) {
        let outcome = match result {
            // Delivered to nowhere: librdkafka believes that it was stored before, the broker did not say so.
            Ok(message) => u64::try_from(message.offset()).map(Offset).map_err(|_| {
                let (topic, partition) = (message.topic(), message.partition());
                LogError::Unavailable(format!("{topic}/{partition} acknowledged a record without an offset"))
            }),
            Err((error, message)) => {
                let text = format!("delivery to {}/{}: {error}", message.topic(), message.partition());
                Err(match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                        LogError::TooLarge { topic: message.topic().into(), size: message.payload_len() }
                    }
                    Some(
                        RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::UnknownTopic,
                    ) => LogError::UnknownTopicPartition(TopicPartition::new(
                        message.topic(),
                        message.partition().max(0) as u32,
                    )),
                    Some(code) => classify_code(code, &text),
                    None => LogError::Fatal(text),
                })
            }
        };
        // A caller that went away has no use for the report.
        let _ = report.send(outcome);
    }
}

/// How long one wait for reports lasts; they are handed on as they come. rdkafka spins through the last millisecond of every
/// wait, so its own `ThreadedProducer`, which waits 100 ms, takes a percent of a core for nothing.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// The producer of plain appends.
#[derive(Clone)]
pub(super) struct KafkaProducer(Arc<BaseProducer<Reports>>);

impl KafkaProducer {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, LogError> {
        let producer: BaseProducer<Reports> = config
            .create_with_context(Reports)
            .map_err(|error| LogError::Fatal(format!("cannot create the producer: {error}")))?;
        let producer = Arc::new(producer);
        serve_reports(&producer)?;
        Ok(Self(producer))
    }

    pub(super) fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        let (report, outcome) = oneshot::channel();
        send(&record, Box::new(report), |base| self.0.send(base).map_err(|(error, _)| error))?;
        Ok(Box::pin(async move {
            outcome.await.unwrap_or_else(|_| Err(LogError::Unavailable("the producer stopped".into())))
        }))
    }

    /// Waits for what is in flight.
    pub(super) fn flush(&self, timeout: Duration) -> Result<(), LogError> {
        self.0.flush(timeout).map_err(|error| super::errors::classify(&error))
    }
}

/// Hands on delivery reports, on a thread that ends within [`REPORT_WAIT`] of the last user of the producer.
pub(super) fn serve_reports<C: ProducerContext + 'static>(
    producer: &Arc<BaseProducer<C>>,
) -> Result<(), LogError> {
    let producer = Arc::downgrade(producer);
    std::thread::Builder::new()
        .name("delivery-reports".into())
        .spawn(move || {
            while let Some(producer) = producer.upgrade() {
                producer.poll(REPORT_WAIT);
            }
        })
        .map(drop)
        .map_err(|error| LogError::Unavailable(format!("cannot start a thread: {error}")))
}

/// Builds the base record of `record` and hands it to `produce`.
pub(super) fn send<'a, D: rdkafka::util::IntoOpaque>(
    record: &'a NewRecord,
    opaque: D,
    produce: impl FnOnce(BaseRecord<'a, [u8], [u8], D>) -> Result<(), rdkafka::error::KafkaError>,
) -> Result<(), LogError> {
    let partition =
        i32::try_from(record.to.partition).map_err(|_| LogError::UnknownTopicPartition(record.to.clone()))?;
    let mut base = BaseRecord::with_opaque_to(&record.to.topic, opaque)
        .partition(partition)
        .timestamp(record.timestamp.0);
    if let Some(key) = &record.key {
        base = base.key(key.as_ref());
    }
    if let Some(payload) = &record.payload {
        base = base.payload(payload.as_ref());
    }
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: Some(value.as_ref()) });
        }
        base = base.headers(headers);
    }
    produce(base).map_err(|error| match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::TooLarge {
            topic: record.to.topic.clone(),
            size: record.payload.as_ref().map_or(0, bytes::Bytes::len),
        },
        Some(RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic) => {
            LogError::UnknownTopicPartition(record.to.clone())
        }
        _ => super::errors::classify(&error),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use crate::log::{
        Log, Millis, NewRecord, TopicPartition,
        kafka::{Config, KafkaLog},
        range::{RangeReader, whole_topic},
    };

    const TOPIC: &str = "spans";
    const RECORDS: usize = 20;

    /// Scenario: a leader refuses the first batch, as one does that was elected a moment ago, and would take the next.
    /// Guarantee: no batch overtakes another, so no broker meets a producer for the first time with its second batch.
    #[tokio::test]
    async fn no_batch_overtakes_a_refused_one() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic(TOPIC, 1, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        // Every record is a batch.
        let config = Config { brokers, linger_ms: 0, batch_bytes: 64, ..Config::default() };
        let log = KafkaLog::new(config).expect("a client");
        // The connection stands and the leader is known before the refusal.
        append(&log, "first").await;
        cluster.broker_round_trip_time(1, Duration::from_millis(100)).expect("a slower broker");
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
        );
        let mut deliveries = Vec::new();
        for number in 0..RECORDS {
            deliveries.push(log.append(record(&number.to_string())).expect("room"));
        }
        for delivery in deliveries {
            delivery.await.expect("delivered");
        }
        let expected: Vec<String> = std::iter::once("first".to_owned())
            .chain((0..RECORDS).map(|number| number.to_string()))
            .collect();
        assert_eq!(read(&log).await, expected);
    }

    fn record(text: &str) -> NewRecord {
        NewRecord {
            to: TopicPartition::new(TOPIC, 0),
            key: None,
            payload: Some(format!("{text:<64}").into()),
            headers: Vec::new(),
            timestamp: Millis(1),
        }
    }

    async fn append(log: &KafkaLog, text: &str) {
        log.append(record(text)).expect("room").await.expect("delivered");
    }

    async fn read(log: &KafkaLog) -> Vec<String> {
        let ranges = whole_topic(log, TOPIC).await.expect("watermarks");
        let mut reader = RangeReader::open(log, &ranges, 1 << 20).await.expect("a reader");
        let mut texts = Vec::new();
        while let Some(records) = reader.next(1 << 20).await.expect("records") {
            texts.extend(
                records
                    .into_iter()
                    .filter_map(|record| record.payload)
                    .map(|payload| String::from_utf8_lossy(&payload).trim_end().to_owned()),
            );
        }
        texts
    }
}
