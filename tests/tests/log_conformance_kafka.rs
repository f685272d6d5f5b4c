//! The conformance suite of the log on a real Kafka.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use infertrace_runtime::log::{
    Log, LogError, TopicPartition,
    conformance::{Capabilities, LogFactory, run_all},
    kafka::{Config, KafkaLog},
};
use infertrace_tests::kafka::Kafka;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use tokio::sync::Mutex;

struct RealKafka {
    broker: Mutex<Kafka>,
    bootstrap: String,
    names: AtomicU64,
}

impl RealKafka {
    fn client(&self) -> Result<Arc<dyn Log>, LogError> {
        let config = Config {
            brokers: self.bootstrap.clone(),
            session_timeout_ms: 6_000,
            transaction_timeout_ms: 10_000,
            delivery_timeout_ms: 20_000,
            ..Config::default()
        };
        Ok(KafkaLog::new(config)?)
    }
}

#[async_trait]
impl LogFactory for RealKafka {
    async fn log(&self) -> Result<Arc<dyn Log>, LogError> {
        self.client()
    }

    /// Kills the broker with SIGKILL and starts it again on its log.
    async fn reopen(&self, log: Arc<dyn Log>) -> Result<Arc<dyn Log>, LogError> {
        drop(log);
        let restarted = self.broker.lock().await.kill_and_restart();
        restarted.map_err(|error| LogError::Unavailable(format!("{error:#}")))?;
        let log = self.client()?;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = log.ready().await {
            if std::time::Instant::now() > deadline {
                return Err(error);
            }
        }
        Ok(log)
    }

    fn unique(&self, hint: &str) -> String {
        format!("{hint}.{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            force_compaction: false,
            force_retention: true,
            restart: true,
            patience: Duration::from_secs(30),
        }
    }

    async fn compact(&self, _topic: &str) -> Result<(), LogError> {
        Err(LogError::Fatal("Kafka's cleaner runs when it likes".into()))
    }

    async fn expire(&self, topic: &str) -> Result<(), LogError> {
        let log = self.client()?;
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .map_err(|error| LogError::Fatal(error.to_string()))?;
        let mut ends = TopicPartitionList::new();
        for partition in 0..log.partitions(topic).await? {
            let end = log.watermarks(&TopicPartition::new(topic, partition)).await?.high;
            ends.add_partition_offset(topic, partition as i32, Offset::Offset(end.0 as i64))
                .map_err(|error| LogError::Fatal(error.to_string()))?;
        }
        let deleted = admin.delete_records(&ends, &AdminOptions::new()).await;
        deleted.map(drop).map_err(|error| LogError::Fatal(error.to_string()))
    }
}

/// Scenario: every case of the suite, on one broker that is killed with SIGKILL where a case asks for a restart.
/// Guarantee: Kafka through this client keeps the log's contract, as the embedded log does.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract() {
    let broker = Kafka::start().expect("a Kafka broker");
    let factory =
        RealKafka { bootstrap: broker.bootstrap(), broker: Mutex::new(broker), names: AtomicU64::new(0) };
    let reports = run_all(&factory).await;
    for report in &reports {
        eprintln!("{report}");
    }
    let failed: Vec<_> = reports.iter().filter(|report| report.failed()).map(|report| report.name).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}
