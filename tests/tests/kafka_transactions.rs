//! Transactions on real brokers: the self-test, and what a reader may take for the end.

use std::{sync::Arc, time::Duration};

use infertrace_runtime::log::{
    ConsumerOptions, Event, Log, NewRecord, NextOffset, TopicPartition, TopicSpec,
    kafka::{Config, KafkaLog},
};
use infertrace_tests::kafka::Kafka;
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const TOPIC: &str = "scratch";

async fn client(broker: &Kafka) -> Arc<KafkaLog> {
    let config = Config { brokers: broker.bootstrap(), transaction_timeout_ms: 10_000, ..Config::default() };
    let log = KafkaLog::new(config).expect("a client");
    let spec =
        TopicSpec { name: TOPIC.into(), partitions: 1, retention: None, compacted: true, replication: 1 };
    log.create_topics(&[spec]).await.expect("a topic");
    log
}

fn scratch() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// Scenario: a broker as it should be; the test runs twice, as a role that starts again. Guarantee: it passes, nothing can be read
/// of it, and a transaction after it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_broker_passes() {
    let broker = Kafka::start().expect("a Kafka broker");
    let log = client(&broker).await;
    for _ in 0..2 {
        log.self_test("group-host-self-test", &scratch()).await.expect("transactions work");
    }
    let mut producer = log.transactions("group-host").await.expect("a producer");
    let record = NewRecord {
        to: scratch(),
        key: Some("key".into()),
        payload: Some("value".into()),
        headers: Vec::new(),
        timestamp: infertrace_runtime::log::Millis(1),
    };
    producer.commit(vec![record], None, &[]).await.expect("committed");
    let mut reader = log
        .consumer(ConsumerOptions {
            group: None,
            topics: Vec::new(),
            assign: vec![(scratch(), NextOffset(0))],
            max_buffered_bytes: 1 << 20,
            read_committed: true,
        })
        .await
        .expect("a reader");
    let mut keys = Vec::new();
    while !reader.reached_end(&scratch()) {
        if let Ok(Event::Records(records)) = reader.poll(1 << 20, Duration::from_secs(1)).await {
            keys.extend(records.into_iter().filter_map(|record| record.key));
        }
    }
    assert_eq!(keys, ["key"]);
}

/// Scenario: the end is asked for while another producer's transaction is open, which then commits. Guarantee: the answer
/// waits for it, and what it wrote is below the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_end_waits_for_open_transactions() {
    let broker = Kafka::start().expect("a Kafka broker");
    let log = client(&broker).await;
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("transactional.id", "other")
        .create()
        .expect("a producer");
    let patience = Duration::from_secs(30);
    other.init_transactions(patience).expect("an id");
    other.begin_transaction().expect("begun");
    other.send(BaseRecord::to(TOPIC).partition(0).key("key").payload("value")).expect("queued");
    other.flush(patience).expect("written");
    let open = log.watermarks(&scratch()).await.expect("asked").high;
    assert_eq!(open, NextOffset(0), "an open transaction is not readable");
    assert_eq!(log.ends(&[scratch()]).await.expect("asked"), [Some(open)], "asked another way");
    let asked = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.settled_watermarks(&scratch()).await }
    });
    let unsettled =
        tokio::time::timeout(Duration::from_millis(500), log.settled_watermarks(&scratch())).await;
    assert!(unsettled.is_err() && !asked.is_finished(), "the transaction is still open");
    other.commit_transaction(patience).expect("committed");
    let settled = asked.await.expect("no panic").expect("settled").high;
    assert!(settled > NextOffset(0), "the end is {settled:?}");
}

/// Scenario: one broker whose topic of transactions wants three copies. Guarantee: exactly-once is
/// refused for good, and the error names the setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_transactions_is_refused() {
    let broker =
        Kafka::start_with("transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n")
            .expect("a Kafka broker");
    let log = client(&broker).await;
    let error = log.self_test("group-host-self-test", &scratch()).await.expect_err("refused");
    assert!(!error.is_retriable());
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains("transaction.state.log.replication.factor"), "{text}");
}
