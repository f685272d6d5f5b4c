//! Insights to where people and machines look: webhooks, Alertmanager, Slack.
//!
//! One reader (`session`) follows the insights topic in a consumer group of its own and hands each insight to every
//! target that wants it; each `target` has a bounded queue (`outbox`), a task that sends (`http`), retries with
//! jitter (`backoff`) and gives up into the dead-letter topic (`letters`). What goes over the wire is made in `payload`.
//! What people muted or resolved (`triage`) is held back (`following`).
//!
//! Invariants: a position is committed only when every target has taken, refused into the dead-letter topic or not
//! wanted or held back everything before it, so delivery is at least once; a repetition has the same `Idempotency-Key`. A target
//! never waits for another one. An insight that finds its target's queue full goes to the dead-letter topic at once,
//! marked for that target: the reader does not wait either. Who was told that something began is told that it is over, muted or
//! not. URLs and secrets are in no log line and no metric.

mod backoff;
mod config;
mod filter;
mod following;
mod http;
mod letters;
mod metrics;
mod open;
mod outbox;
mod payload;
mod secret;
mod session;
mod target;
mod triage;

use std::{sync::Arc, time::Duration};

use infertrace_runtime::{
    clock::Clock,
    log::{Log, LogError},
    telemetry::MetricsRegistry,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh64::xxh64;

pub use config::{Config, Kind, TargetConfig};
pub use letters::TARGET as TARGET_HEADER;

use metrics::Metrics;
use session::Session;
use target::Target;
use triage::Decisions;

/// Longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the delivery needs from its host.
pub struct Deps<'a> {
    /// Insights, positions and dead letters.
    pub log: Arc<dyn Log>,
    /// Wall time, which goes into signatures and alerts; pauses are counted by a clock that does not jump.
    pub clock: Arc<dyn Clock>,
    /// What the jitter of retries is made from; different in every process.
    pub seed: u64,
    /// Where metrics are registered; it adds the prefix `infertrace_`.
    pub metrics: &'a mut MetricsRegistry,
}

/// The delivery could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value of the configuration makes no sense.
    #[error("delivery: {0}")]
    Config(String),
    /// A target cannot be reached as it is configured: its URL or its secret.
    #[error("delivery: target {name}: {detail}")]
    Target {
        /// Its name.
        name: String,
        /// What is wrong.
        detail: String,
    },
}

/// The delivery cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refused for good.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A target's task panicked.
    #[error("a target's task ended: {0}")]
    Target(String),
}

/// The delivery, ready to run.
pub struct Service {
    config: Config,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    targets: Vec<Arc<Target>>,
    decisions: Arc<Decisions>,
}

/// Checks the configuration, reads the secrets and registers the metrics; nothing is sent before [`Service::run`].
///
/// # Errors
/// [`BuildError`], which names the target and never a secret.
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.check().map_err(BuildError::Config)?;
    let metrics = Metrics::new(deps.metrics);
    let decisions = Arc::new(Decisions::default());
    let mut targets = Vec::new();
    for target in &config.targets {
        let seed = deps.seed ^ xxh64(target.name.as_bytes(), 0);
        let shared = target::Shared {
            open_ms: config.open_ms,
            clock: deps.clock.clone(),
            metrics: metrics.clone(),
            decisions: Arc::clone(&decisions),
        };
        let built = Target::new(target.clone(), seed, shared)
            .map_err(|detail| BuildError::Target { name: target.name.clone(), detail })?;
        targets.push(Arc::new(built));
    }
    Ok(Service { config, log: deps.log, clock: deps.clock, metrics, targets, decisions })
}

impl Service {
    /// Delivers until `shutdown`; then what is under way may finish, and its positions are committed.
    ///
    /// # Errors
    /// When the log refuses for good; everything passing is retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for target in &self.targets {
            workers.spawn(Arc::clone(target).run(Arc::clone(&self.log), stop.clone()));
        }
        let first_pause = Duration::from_millis(self.config.retry_ms);
        let changed = || self.targets.iter().for_each(|target| target.look_again());
        let outcome = tokio::select! {
            outcome = self.read(&shutdown, &stop, &mut workers) => outcome,
            never = self.decisions.follow(self.log.as_ref(), first_pause, changed) => match never {},
        };
        // A worker that still sends when its time is over is cut off here; its insight is sent again.
        workers.shutdown().await;
        outcome
    }

    /// One session after another.
    async fn read(
        &self,
        shutdown: &CancellationToken,
        stop: &CancellationToken,
        workers: &mut JoinSet<Result<(), LogError>>,
    ) -> Result<(), Error> {
        let first_pause = Duration::from_millis(self.config.retry_ms);
        let mut pause = first_pause;
        tokio::select! {
            () = self.decisions.complete() => {}
            () = shutdown.cancelled() => {}
        }
        while !shutdown.is_cancelled() {
            let outcome = match Session::start(self, shutdown.clone()).await {
                Ok(mut session) => {
                    let outcome = tokio::select! {
                        outcome = session.run() => outcome.map_err(Error::from),
                        Some(ended) = workers.join_next() => ended_early(ended),
                    };
                    if outcome.is_ok() {
                        stop.cancel();
                        self.drain(workers).await?;
                        session.finish().await;
                        return Ok(());
                    }
                    if session.made_progress() {
                        pause = first_pause;
                    }
                    session.let_go();
                    outcome
                }
                Err(error) => Err(error.into()),
            };
            let Err(Error::Log(error)) = outcome else { return outcome };
            if !(error.is_retriable() || matches!(error, LogError::Fenced(_) | LogError::Ambiguous(_))) {
                return Err(error.into());
            }
            self.metrics.restarts.inc();
            tracing::warn!(%error, ?pause, "delivery restarts from committed positions");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        stop.cancel();
        self.drain(workers).await
    }

    /// Waits for what is under way.
    async fn drain(&self, workers: &mut JoinSet<Result<(), LogError>>) -> Result<(), Error> {
        let all = async {
            while let Some(ended) = workers.join_next().await {
                match ended {
                    Ok(outcome) => outcome?,
                    Err(panic) => return Err(Error::Target(panic.to_string())),
                }
            }
            Ok(())
        };
        let patience = Duration::from_millis(self.config.drain_timeout_ms);
        match tokio::time::timeout(patience, all).await {
            Ok(outcome) => outcome,
            Err(_) => {
                tracing::warn!(
                    "stopping while a request is under way; its insight is sent again at the next start"
                );
                Ok(())
            }
        }
    }
}

/// A worker ends by itself only when something is wrong.
fn ended_early(ended: Result<Result<(), LogError>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(Ok(())) => Err(Error::Target("without an error".to_owned())),
        Ok(Err(error)) => Err(Error::Target(error.to_string())),
        Err(panic) => Err(Error::Target(panic.to_string())),
    }
}
