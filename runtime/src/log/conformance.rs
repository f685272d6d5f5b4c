//! What every log must do, as cases that run against any implementation.
//!
//! Public and without a test harness, so that the same cases run on the embedded log (in this crate's
//! tests) and on a real Kafka (in the `tests` crate). A [`LogFactory`] gives the log, restarts it and
//! says what it can force. Each case makes its own topics and groups, so cases may share one log.

mod basics;
mod groups;
mod storage;
mod support;
mod transactions;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration, time::Instant};

use async_trait::async_trait;

use super::{Log, LogError};

pub use self::{
    basics::{
        append_is_readable, order_and_offsets, poll_waits_and_idles, reads_are_bounded,
        record_parts_are_kept, seek_pause_resume, too_large_record, unknown_topic, watermarks_follow,
    },
    groups::{
        commit_and_resume, committed_is_per_group, moved_partition_is_fenced,
        rebalance_commits_before_handover,
    },
    storage::{
        compaction_keeps_latest, crash_recovery, existing_topics_are_respected, position_by_time,
        retention_overtakes_reader,
    },
    transactions::{
        fenced_producer, read_committed_order, refused_transaction_is_invisible, transaction_is_atomic,
        transaction_survives_reopen,
    },
};

/// What the factory can force in the log under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`LogFactory::compact`] works.
    pub force_compaction: bool,
    /// [`LogFactory::expire`] works.
    pub force_retention: bool,
    /// [`LogFactory::reopen`] restarts the log; otherwise it returns a new client of the same log.
    pub restart: bool,
    /// How long the log may take to answer anything.
    pub patience: Duration,
}

/// Gives the log under test.
#[async_trait]
pub trait LogFactory: Send + Sync {
    /// The log.
    async fn log(&self) -> Result<Arc<dyn Log>, LogError>;
    /// Gives the log up and opens it again: what was acknowledged must be there.
    async fn reopen(&self, log: Arc<dyn Log>) -> Result<Arc<dyn Log>, LogError>;
    /// A name that no other case or run uses.
    fn unique(&self, hint: &str) -> String;
    /// What can be forced.
    fn capabilities(&self) -> Capabilities;
    /// Makes the log drop superseded records of `topic`, now.
    async fn compact(&self, topic: &str) -> Result<(), LogError>;
    /// Makes retention remove every record that `topic` holds, now.
    async fn expire(&self, topic: &str) -> Result<(), LogError>;
}

/// Why a case did not pass.
#[derive(Debug)]
pub enum CaseError {
    /// The log cannot be made to show it; the reason.
    Skipped(&'static str),
    /// The log does something else; what.
    Failed(String),
}

impl From<LogError> for CaseError {
    fn from(error: LogError) -> Self {
        Self::Failed(format!("unexpected error: {error}"))
    }
}

/// Outcome of one case.
pub type CaseResult = Result<(), CaseError>;

/// A case's future.
pub type CaseFuture<'a> = Pin<Box<dyn Future<Output = CaseResult> + Send + 'a>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Case {
    /// Name, as printed.
    pub name: &'static str,
    /// Runs it.
    pub run: for<'a> fn(&'a dyn LogFactory) -> CaseFuture<'a>,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        [$(Case { name: stringify!($name), run: |factory| Box::pin($name(factory)) }),*]
    };
}

/// All cases.
pub const CASES: &[Case] = &cases![
    order_and_offsets,
    append_is_readable,
    record_parts_are_kept,
    unknown_topic,
    too_large_record,
    reads_are_bounded,
    poll_waits_and_idles,
    seek_pause_resume,
    watermarks_follow,
    commit_and_resume,
    committed_is_per_group,
    rebalance_commits_before_handover,
    moved_partition_is_fenced,
    transaction_is_atomic,
    refused_transaction_is_invisible,
    fenced_producer,
    read_committed_order,
    transaction_survives_reopen,
    existing_topics_are_respected,
    position_by_time,
    compaction_keeps_latest,
    retention_overtakes_reader,
    crash_recovery,
];

/// One case's result, to be printed.
#[derive(Debug)]
pub struct Report {
    /// Name of the case.
    pub name: &'static str,
    /// How it ended.
    pub outcome: CaseResult,
    /// How long it took.
    pub took: Duration,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let took = self.took.as_millis();
        match &self.outcome {
            Ok(()) => write!(f, "ok      {} ({took} ms)", self.name),
            Err(CaseError::Skipped(reason)) => write!(f, "skipped {}: {reason}", self.name),
            Err(CaseError::Failed(reason)) => write!(f, "FAILED  {} ({took} ms): {reason}", self.name),
        }
    }
}

impl Report {
    /// Whether the log broke its contract.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Err(CaseError::Failed(_)))
    }
}

/// Runs all cases one after the other; a case that hangs fails.
pub async fn run_all(factory: &dyn LogFactory) -> Vec<Report> {
    let mut reports = Vec::with_capacity(CASES.len());
    for case in CASES {
        reports.push(run_one(factory, case).await);
    }
    reports
}

/// Runs one case within 8 times the log's patience.
pub async fn run_one(factory: &dyn LogFactory, case: &Case) -> Report {
    let started = Instant::now();
    let limit = factory.capabilities().patience * 8;
    let outcome = match tokio::time::timeout(limit, (case.run)(factory)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CaseError::Failed(format!("no end after {} s", limit.as_secs()))),
    };
    Report { name: case.name, outcome, took: started.elapsed() }
}
