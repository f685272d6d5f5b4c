//! Outputs that wait for their transaction, and the pause while the log takes none.
//!
//! Invariants: what is pending is committed whole, with the positions it belongs to, or stays as it is; what was sealed
//! goes before it, each part in a transaction of its own.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use infertrace_runtime::log::{
    GroupMetadata, LogError, NewRecord, NextOffset, TopicPartition, Transactions, dead_letter,
};
use infertrace_schemas::topics;
use tokio::time::Instant;

use super::LONGEST_PAUSE;
use crate::metrics::Metrics;

/// About what a record takes besides key and value.
const RECORD_BYTES: usize = 64;

/// An output that waits for its transaction, and the input partition it comes from.
struct Output {
    partition: u32,
    record: NewRecord,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Committed; `resumed` after earlier ones failed.
    Done { resumed: bool },
    /// Not now; `first` of a row of failures.
    Later { first: bool },
}

/// Outputs that are a transaction of their own, and the positions that it leaves as they are.
struct Sealed {
    outputs: Vec<Output>,
    positions: Vec<(TopicPartition, NextOffset)>,
    bytes: usize,
}

pub(super) struct Pending {
    transactions: Box<dyn Transactions>,
    sealed: VecDeque<Sealed>,
    outputs: Vec<Output>,
    bytes: usize,
    last_commit: Instant,
    /// Set while transactions fail: when to try again, and the pause after that.
    retry: Option<(Instant, Duration)>,
    first_pause: Duration,
    commits: u64,
}

impl Pending {
    pub(super) fn new(transactions: Box<dyn Transactions>, first_pause: Duration) -> Self {
        Self {
            transactions,
            sealed: VecDeque::new(),
            outputs: Vec::new(),
            bytes: 0,
            last_commit: Instant::now(),
            retry: None,
            first_pause,
            commits: 0,
        }
    }

    pub(super) fn push(&mut self, partition: u32, record: NewRecord) {
        self.bytes += record.payload.as_ref().map_or(0, Bytes::len) + RECORD_BYTES;
        self.outputs.push(Output { partition, record });
    }

    /// Makes what was pushed since the last time a transaction of its own, which leaves `positions` as they are.
    pub(super) fn seal(&mut self, positions: Vec<(TopicPartition, NextOffset)>) {
        let (outputs, bytes) = (std::mem::take(&mut self.outputs), std::mem::take(&mut self.bytes));
        self.sealed.push_back(Sealed { outputs, positions, bytes });
    }

    /// Forgets what comes from a partition that another member makes again.
    pub(super) fn drop_partition(&mut self, partition: u32) {
        for sealed in &mut self.sealed {
            sealed.outputs.retain(|output| output.partition != partition);
            sealed.positions.retain(|(at, _)| at.partition != partition);
        }
        self.sealed.retain(|sealed| !sealed.outputs.is_empty());
        self.outputs.retain(|output| output.partition != partition);
        if self.outputs.is_empty() {
            self.bytes = 0;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.sealed.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.outputs.len() + self.sealed.iter().map(|sealed| sealed.outputs.len()).sum::<usize>()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.sealed.iter().map(|sealed| sealed.bytes).sum::<usize>()
    }

    /// Bytes of what was not sealed.
    pub(super) const fn open_bytes(&self) -> usize {
        self.bytes
    }

    /// Transactions so far.
    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }

    /// Since the last transaction was tried.
    pub(super) fn elapsed(&self) -> Duration {
        self.last_commit.elapsed()
    }

    /// While transactions fail: whether it is time to try again.
    pub(super) fn retry_is_due(&self) -> Option<bool> {
        self.retry.map(|(at, _)| Instant::now() >= at)
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.retry.is_some()
    }

    /// Nothing had to be committed.
    pub(super) fn skip(&mut self) {
        self.last_commit = Instant::now();
    }

    /// A transaction of each sealed part, then one of everything else pending, `states` and `positions`.
    ///
    /// # Errors
    /// When the session has to end; a passing fault is [`Outcome::Later`].
    pub(super) async fn commit(
        &mut self,
        states: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
        metrics: &Metrics,
    ) -> Result<Outcome, LogError> {
        self.last_commit = Instant::now();
        match self.commit_all(states, group, positions, metrics).await {
            Ok(()) => {
                let resumed = self.retry.take().is_some();
                if resumed {
                    tracing::info!("the log takes transactions again");
                }
                Ok(Outcome::Done { resumed })
            }
            Err(error) if error.is_retriable() => {
                metrics.commit_failures.inc();
                let first = self.retry.is_none();
                if first {
                    tracing::warn!(%error, "the log takes no transactions; input is paused");
                }
                let pause = self.retry.map_or(self.first_pause, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                self.retry = Some((Instant::now() + pause, pause));
                Ok(Outcome::Later { first })
            }
            Err(error) => Err(error),
        }
    }

    async fn commit_all(
        &mut self,
        states: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
        metrics: &Metrics,
    ) -> Result<(), LogError> {
        while let Some(mut sealed) = self.sealed.pop_front() {
            let committed =
                self.commit_one(&mut sealed.outputs, &[], group, &sealed.positions, metrics).await;
            if let Err(error) = committed {
                self.sealed.push_front(sealed);
                return Err(error);
            }
        }
        if self.outputs.is_empty() && states.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        let committed = self.commit_one(&mut outputs, &states, group, positions, metrics).await;
        match committed {
            Ok(()) => self.bytes = 0,
            Err(_) => self.outputs = outputs,
        }
        committed
    }

    async fn commit_one(
        &mut self,
        outputs: &mut [Output],
        states: &[NewRecord],
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
        metrics: &Metrics,
    ) -> Result<(), LogError> {
        let begin = Instant::now();
        loop {
            let records = outputs.iter().map(|output| output.record.clone()).chain(states.iter().cloned());
            match self.transactions.commit(records.collect(), group, positions).await {
                // Nothing was written. A record that just fitted its own topic does not fit with a letter's headers.
                Err(LogError::TooLarge { topic, .. })
                    if *topic == *topics::DLQ && cut_largest_letter(outputs) => {}
                Ok(()) => {
                    metrics.transaction_seconds.observe(begin.elapsed().as_secs_f64());
                    self.commits += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes the bytes out of the largest dead letter; `false` when none has any.
fn cut_largest_letter(outputs: &mut [Output]) -> bool {
    let size = |record: &NewRecord| record.payload.as_ref().map_or(0, Bytes::len);
    let letters = outputs.iter_mut().filter(|output| *output.record.to.topic == *topics::DLQ);
    let Some(largest) = letters.max_by_key(|output| size(&output.record)) else { return false };
    let bytes = size(&largest.record);
    if bytes == 0 {
        return false;
    }
    tracing::warn!(
        bytes,
        "a poison record is too large for the dead-letter topic; its letter says where it stands"
    );
    largest.record = dead_letter::cut(largest.record.clone());
    true
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use infertrace_runtime::{
        log::{Millis, dead_letter::TRUNCATED},
        telemetry::MetricsRegistry,
    };

    use super::*;

    /// Takes transactions whose records have at most ten bytes.
    struct Small(std::sync::Arc<parking_lot::Mutex<Vec<NewRecord>>>);

    #[async_trait]
    impl Transactions for Small {
        async fn commit(
            &mut self,
            outputs: Vec<NewRecord>,
            _: Option<&GroupMetadata>,
            _: &[(TopicPartition, NextOffset)],
        ) -> Result<(), LogError> {
            let size = |record: &NewRecord| record.payload.as_ref().map_or(0, Bytes::len);
            if let Some(large) = outputs.iter().find(|record| size(record) > 10) {
                return Err(LogError::TooLarge { topic: large.to.topic.clone(), size: size(large) });
            }
            *self.0.lock() = outputs;
            Ok(())
        }
    }

    fn record(topic: &'static str, bytes: usize) -> NewRecord {
        NewRecord {
            to: TopicPartition::new(topic, 0),
            key: None,
            payload: Some(Bytes::from(vec![0; bytes])),
            headers: Vec::new(),
            timestamp: Millis(0),
        }
    }

    /// Scenario: one dead letter fits, two are larger than the topic takes; then a summary that is too large.
    /// Guarantee: the large letters are written without their bytes and marked, the rest as it is; what is no letter is
    /// an error, as before.
    #[tokio::test]
    async fn letters_too_large_lose_their_bytes_and_nothing_else() {
        let written = std::sync::Arc::default();
        let small = Small(std::sync::Arc::clone(&written));
        let mut pending = Pending::new(Box::new(small), Duration::ZERO);
        let metrics = Metrics::new(&mut MetricsRegistry::default());
        for (topic, bytes) in [(topics::TRACES, 5), (topics::DLQ, 11), (topics::DLQ, 7), (topics::DLQ, 400)] {
            pending.push(0, record(topic, bytes));
        }
        let outcome = pending.commit(Vec::new(), None, &[], &metrics).await;
        assert!(matches!(outcome, Ok(Outcome::Done { resumed: false })), "{outcome:?}");
        let sizes: Vec<_> =
            written.lock().iter().map(|record| record.payload.as_ref().map(Bytes::len)).collect();
        assert_eq!(sizes, [Some(5), None, Some(7), None]);
        let marked = |record: &NewRecord| record.headers.iter().any(|(name, _)| name == TRUNCATED);
        assert_eq!(written.lock().iter().map(marked).collect::<Vec<_>>(), [false, true, false, true]);
        pending.push(0, record(topics::TRACES, 11));
        let outcome = pending.commit(Vec::new(), None, &[], &metrics).await;
        assert!(matches!(outcome, Err(LogError::TooLarge { .. })), "{outcome:?}");
    }
}
