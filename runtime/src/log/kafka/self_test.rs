//! Whether a cluster's transactions do what exactly-once needs: one is begun, written to, aborted, and not to be seen.
//!
//! Neighbour: [`super::transactions`] is the producer that works. Invariant: whatever is found, nothing of the test is
//! visible to `read_committed` readers of a cluster that passes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::oneshot;

use super::{
    KafkaLog, errors,
    producer::{Reports, send},
};
use crate::log::{ConsumerOptions, Event, Log as _, LogError, Millis, NewRecord, NextOffset, TopicPartition};

/// How long a coordinator may take: a new cluster makes its topic of transactions first, a restarted one loads it.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_TIME: Duration = Duration::from_millis(200);
const POLL_BYTES: usize = 1 << 20;

impl KafkaLog {
    pub(super) async fn test_transactions(
        &self,
        transactional_id: &str,
        scratch: &TopicPartition,
    ) -> Result<(), LogError> {
        let (mut config, _) = self.transactional_config();
        config.set("transactional.id", transactional_id);
        let before = self.watermarks(scratch).await?.high;
        // Not told apart by time: two instances may start at once, each with an id of its own.
        let key = Bytes::from(format!("self-test/{transactional_id}/{}", before.0));
        let record = NewRecord {
            to: scratch.clone(),
            key: Some(key.clone()),
            payload: None,
            headers: Vec::new(),
            timestamp: Millis(0),
        };
        let id = transactional_id.to_owned();
        let (verdict, outcome) = oneshot::channel();
        // librdkafka's calls block; a thread of its own does not hold up a process that is told to stop.
        std::thread::Builder::new()
            .name("txn-self-test".into())
            .spawn(move || {
                let _ = verdict.send(aborted(&config, &record).map_err(|error| refusal(&id, &error)));
            })
            .map_err(|error| LogError::Unavailable(format!("cannot start a thread: {error}")))?;
        outcome.await.unwrap_or_else(|_| Err(LogError::Fatal("the self-test's thread died".into())))?;
        if self.shows(scratch, before, &key).await? {
            return Err(LogError::Fatal(format!(
                "exactly-once is refused: this broker shows {scratch} records of a transaction that was aborted, also \
                 to readers with isolation.level=read_committed; use a broker that implements Kafka's transactions, or \
                 the embedded log"
            )));
        }
        Ok(())
    }

    /// Whether a record of this key can be read.
    async fn shows(&self, at: &TopicPartition, from: NextOffset, key: &[u8]) -> Result<bool, LogError> {
        let mut reader = self
            .consumer(ConsumerOptions {
                group: None,
                topics: Vec::new(),
                assign: vec![(at.clone(), from)],
                max_buffered_bytes: POLL_BYTES,
                read_committed: true,
            })
            .await?;
        let deadline = Instant::now() + PATIENCE;
        while !reader.reached_end(at) && Instant::now() < deadline {
            if let Event::Records(records) = reader.poll(POLL_BYTES, POLL_TIME).await?
                && records.iter().any(|record| record.key.as_deref() == Some(key))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a step of the test ended with.
enum Trouble {
    Kafka(KafkaError),
    Log(LogError),
}

/// Writes a record in a transaction and aborts it.
fn aborted(config: &ClientConfig, record: &NewRecord) -> Result<(), Trouble> {
    let producer: ThreadedProducer<Reports> = config.create_with_context(Reports).map_err(Trouble::Kafka)?;
    patiently(|| producer.init_transactions(PATIENCE))?;
    patiently(|| producer.begin_transaction())?;
    let (report, delivered) = oneshot::channel();
    send(record, Box::new(report), |base| producer.send(base).map_err(|(error, _)| error))
        .map_err(Trouble::Log)?;
    patiently(|| producer.flush(PATIENCE))?;
    let outcome = delivered.blocking_recv();
    patiently(|| producer.abort_transaction(PATIENCE))?;
    outcome
        .unwrap_or_else(|_| Err(LogError::Unavailable("the producer stopped".into())))
        .map_err(Trouble::Log)?;
    Ok(())
}

/// Calls again while the coordinator is on its way, for [`PATIENCE`] in all.
fn patiently(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), Trouble> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = call() else { return Ok(()) };
        let is_passing = match &error {
            KafkaError::Transaction(inner) => inner.is_retriable(),
            _ => errors::classify(&error).is_retriable(),
        };
        if !is_passing || Instant::now() >= deadline {
            return Err(Trouble::Kafka(error));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The refusal in words that say what to do.
fn refusal(transactional_id: &str, trouble: &Trouble) -> LogError {
    let (code, text) = match trouble {
        Trouble::Kafka(error) => (error.rdkafka_error_code(), error.to_string()),
        Trouble::Log(error) => (None, error.to_string()),
    };
    let advice = match code {
        Some(
            Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed,
        ) => format!(
            "this client may not use the transactional id {transactional_id}: allow Write and Describe of it, as \
             `infertrace topics plan` prints"
        ),
        Some(Code::InvalidTransactionTimeout) => {
            "kafka.transaction_timeout_ms is above the brokers' transaction.max.timeout.ms: lower the one or raise the \
             other"
                .to_owned()
        }
        Some(Code::UnsupportedVersion | Code::UnsupportedFeature) => {
            "this broker has no transactions: use Apache Kafka 2.5 or later or a broker that implements them, or the \
             embedded log"
                .to_owned()
        }
        Some(Code::OperationTimedOut | Code::CoordinatorNotAvailable | Code::NotCoordinator | Code::CoordinatorLoadInProgress) => format!(
            "no transaction coordinator within {} s: the brokers cannot make or lead __transaction_state. With fewer \
             brokers than transaction.state.log.replication.factor (3 unless set) or transaction.state.log.min.isr (2), \
             set both to what there is; else see the brokers' logs",
            PATIENCE.as_secs()
        ),
        _ => "see the brokers' logs".to_owned(),
    };
    LogError::Fatal(format!("exactly-once is refused, a test transaction failed ({text}): {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: what brokers answer who have no transactions, no coordinator, or do not allow them. Guarantee: refused
    /// for good, with the broker's words and with what to do.
    #[test]
    fn refusals_say_what_to_do() {
        for (code, advice) in [
            (Code::TransactionalIdAuthorizationFailed, "transactional id group-host-test"),
            (Code::InvalidTransactionTimeout, "transaction.max.timeout.ms"),
            (Code::UnsupportedVersion, "no transactions"),
            (Code::OperationTimedOut, "transaction.state.log.replication.factor"),
            (Code::CoordinatorNotAvailable, "transaction.state.log.min.isr"),
            (Code::BrokerNotAvailable, "brokers' logs"),
        ] {
            let error = refusal("group-host-test", &Trouble::Kafka(KafkaError::Global(code)));
            assert!(matches!(&error, LogError::Fatal(_)) && !error.is_retriable());
            let text = error.to_string();
            assert!(text.contains(advice) && text.contains("refused"), "{text}");
        }
    }
}
