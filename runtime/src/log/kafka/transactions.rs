//! Kafka transactions on a thread of their own, since librdkafka's calls block; its delivery reports are taken on another,
//! so that a flush ends with the last of them.
//!
//! Invariant: whatever is not known to be aborted is answered `Ambiguous` or `Fenced`, and from then on the
//! producer refuses to work: its owner drops it and restores from committed offsets (librdkafka lacks KIP-890).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, TopicPartitionList,
    bindings::rd_kafka_flush,
    error::KafkaError,
    producer::{BaseProducer, Producer},
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    errors::{TransactionFault, classify_transaction},
    producer::{send, serve_reports},
    to_list,
};
use crate::log::{GroupMetadata, LogError, NewRecord, NextOffset, TopicPartition, Transactions};

/// How long to wait for room in librdkafka's queue.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

struct Commit {
    outputs: Vec<NewRecord>,
    group: Option<GroupMetadata>,
    positions: Vec<(TopicPartition, NextOffset)>,
    reply: oneshot::Sender<Result<(), LogError>>,
}

/// One transactional producer; dropping it aborts what is open and ends its thread.
pub(super) struct KafkaTransactions {
    commits: mpsc::Sender<Commit>,
    over: Option<String>,
}

impl KafkaTransactions {
    /// Creates the producer and fences earlier ones with the same id.
    pub(super) async fn start(
        mut config: ClientConfig,
        transactional_id: &str,
        timeout: Duration,
    ) -> Result<Self, LogError> {
        config.set("transactional.id", transactional_id);
        // The commit tells of all records at once.
        config.set("delivery.report.only.error", "true");
        let (commits, inbox) = mpsc::channel(1);
        let (ready, started) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("txn-{transactional_id}"))
            .spawn(move || run(&config, timeout, ready, inbox))
            .map_err(|error| LogError::Unavailable(format!("cannot start a thread: {error}")))?;
        started.await.unwrap_or_else(|_| Err(LogError::Unavailable("the transaction thread died".into())))?;
        Ok(Self { commits, over: None })
    }
}

#[async_trait]
impl Transactions for KafkaTransactions {
    async fn commit(
        &mut self,
        outputs: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
    ) -> Result<(), LogError> {
        if let Some(reason) = &self.over {
            return Err(LogError::Fenced(format!("this producer ended earlier: {reason}")));
        }
        let (reply, outcome) = oneshot::channel();
        let commit = Commit { outputs, group: group.cloned(), positions: positions.to_vec(), reply };
        // Set until the outcome is known: a caller that drops this future must not commit again.
        self.over = Some("a commit was abandoned".into());
        if self.commits.send(commit).await.is_err() {
            return Err(LogError::Ambiguous("the transaction thread died".into()));
        }
        let outcome =
            outcome.await.unwrap_or_else(|_| Err(LogError::Ambiguous("the transaction thread died".into())));
        self.over = match &outcome {
            Err(error @ (LogError::Ambiguous(_) | LogError::Fenced(_))) => Some(error.to_string()),
            _ => None,
        };
        outcome
    }
}

fn run(
    config: &ClientConfig,
    timeout: Duration,
    ready: oneshot::Sender<Result<(), LogError>>,
    mut inbox: mpsc::Receiver<Commit>,
) {
    let created =
        config.create().map_err(|error| LogError::Fatal(format!("cannot create the producer: {error}")));
    let served = created.and_then(|producer: BaseProducer| {
        let producer = Arc::new(producer);
        serve_reports(&producer).map(|()| producer)
    });
    let producer = match served {
        Ok(producer) => producer,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let initialised = retry_until(timeout, || producer.init_transactions(timeout));
    let failed = initialised.is_err();
    let outcome = initialised.map_err(|fault| match fault {
        TransactionFault::Retry(error) | TransactionFault::Abort(error) | TransactionFault::Over(error) => {
            error
        }
    });
    if ready.send(outcome).is_err() || failed {
        return;
    }
    while let Some(commit) = inbox.blocking_recv() {
        let outcome = transact(&producer, timeout, &commit);
        let over = matches!(outcome, Err(LogError::Ambiguous(_) | LogError::Fenced(_)));
        let _ = commit.reply.send(outcome);
        if over {
            return;
        }
    }
}

/// One transaction, whole or not at all.
fn transact(producer: &BaseProducer, timeout: Duration, commit: &Commit) -> Result<(), LogError> {
    match retry_until(timeout, || producer.begin_transaction()) {
        Ok(()) => {}
        Err(TransactionFault::Retry(error)) => return Err(error),
        Err(TransactionFault::Abort(error)) => return abort(producer, timeout, error),
        Err(TransactionFault::Over(error)) => return Err(error),
    }
    if let Err(error) = produce_all(producer, timeout, &commit.outputs) {
        return abort(producer, timeout, error);
    }
    if let Some(group) = commit.group.as_ref().and_then(|group| group.kafka.as_ref())
        && !commit.positions.is_empty()
    {
        let positions: TopicPartitionList = to_list(&commit.positions)?;
        match retry_until(timeout, || producer.send_offsets_to_transaction(&positions, group, timeout)) {
            Ok(()) => {}
            Err(TransactionFault::Retry(error) | TransactionFault::Abort(error)) => {
                return abort(producer, timeout, error);
            }
            Err(TransactionFault::Over(error)) => return Err(error),
        }
    } else if !commit.positions.is_empty() {
        return abort(producer, timeout, LogError::Fatal("positions without a group".into()));
    }
    match retry_until(timeout, || {
        flush(producer, timeout).and_then(|()| producer.commit_transaction(timeout))
    }) {
        Ok(()) => Ok(()),
        // The coordinator told us that this transaction can only be aborted: nothing is visible.
        Err(TransactionFault::Abort(error)) => abort(producer, timeout, error),
        // A commit that timed out may have been applied.
        Err(TransactionFault::Retry(error)) => Err(LogError::Ambiguous(error.to_string())),
        Err(TransactionFault::Over(error)) => Err(error),
    }
}

fn produce_all(producer: &BaseProducer, timeout: Duration, outputs: &[NewRecord]) -> Result<(), LogError> {
    let deadline = Instant::now() + timeout;
    for record in outputs {
        loop {
            let sent = send(record, (), |base| producer.send(base).map_err(|(error, _)| error));
            match sent {
                Ok(()) => break,
                Err(LogError::Full { .. }) if Instant::now() < deadline => std::thread::sleep(ROOM_PAUSE),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Waits until every record is reported. rdkafka's own flush, which a commit begins with, looks once and then polls for a
/// tenth of a second whatever comes: every transaction took that long.
fn flush(producer: &BaseProducer, timeout: Duration) -> Result<(), KafkaError> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives as long as `producer`, and librdkafka's calls may be made from any thread.
    match unsafe { rd_kafka_flush(producer.client().native_ptr(), millis) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(KafkaError::Flush(error.into())),
    }
}

/// Aborts; the original error is answered when the abort is certain.
fn abort(producer: &BaseProducer, timeout: Duration, cause: LogError) -> Result<(), LogError> {
    match retry_until(timeout, || producer.abort_transaction(timeout)) {
        Ok(()) => Err(cause),
        Err(
            TransactionFault::Retry(error) | TransactionFault::Abort(error) | TransactionFault::Over(error),
        ) => Err(match cause {
            LogError::Fenced(text) => LogError::Fenced(text),
            cause => LogError::Ambiguous(format!("{cause}; and the abort failed: {error}")),
        }),
    }
}

fn retry_until(
    timeout: Duration,
    mut call: impl FnMut() -> Result<(), KafkaError>,
) -> Result<(), TransactionFault> {
    let deadline = Instant::now() + timeout;
    loop {
        let Err(error) = call() else { return Ok(()) };
        let fault = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OperationTimedOut) if Instant::now() < deadline => continue,
            _ => classify_transaction(&error),
        };
        match fault {
            TransactionFault::Retry(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            fault => return Err(fault),
        }
    }
}
