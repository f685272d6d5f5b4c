//! The service: reads the spans topic as a member of a group and writes summaries and partials exactly once, and the
//! samples topic as a member of another.
//!
//! [`Service::run`] runs, for each input, one session after another. A session ends when it is shut down, or when its outcome in the log
//! became unknown or another member took over ([`LogError::Ambiguous`], [`LogError::Fenced`]): then everything in
//! memory is dropped and the next session starts from committed positions.

mod pending;
mod rollups;
mod samples;
mod session;

use std::{sync::Arc, time::Duration};

use infertrace_analytics::cost::Pricer;
use infertrace_runtime::{
    clock::Clock,
    instance::instance_name,
    log::{Log, LogError},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::topics;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    metrics::{Metrics, ReasonLabels},
    supervise::{self_test, supervise},
};
use samples::Samples;
use session::Session;

/// Longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Offsets at the end of a topic that may be transaction markers, which are never delivered.
pub(crate) const MARKERS: u64 = 8;

/// Whether all of a partition is dealt with: nothing is left, or so little, for so long, that it is markers.
fn is_caught_up(lag: u64, waited_ms: i64, config: &Config) -> bool {
    lag == 0 || (lag <= MARKERS && waited_ms >= 2 * config.trace_idle_ms)
}

/// What the processor needs from its host.
pub struct Deps<'a> {
    /// Input, output and positions.
    pub log: Arc<dyn Log>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered; it adds the prefix `infertrace_`.
    pub metrics: &'a mut MetricsRegistry,
}

/// The processor could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value of the configuration makes no sense.
    #[error("processor: {0}")]
    Config(String),
}

/// The processor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refused for good.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Batches do not have the span schema: a build error.
    #[error(transparent)]
    Columns(#[from] crate::rows::BadColumn),
    /// Likewise.
    #[error(transparent)]
    View(#[from] infertrace_schemas::view::ViewError),
}

/// The assembly processor, ready to run.
pub struct Service {
    config: Config,
    pricer: Arc<Pricer>,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    transactional_id: String,
    samples_transactional_id: String,
}

/// Checks the configuration and registers the metrics; the log is first touched by [`Service::run`].
///
/// # Errors
/// [`BuildError::Config`].
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.check().map_err(BuildError::Config)?;
    let pricer = config.pricer().map_err(BuildError::Config)?;
    tracing::info!(version = &**pricer.version(), "requests are priced");
    let instance = instance_name(&config.instance_id);
    Ok(Service {
        pricer,
        transactional_id: format!("{}-{instance}", config.group),
        samples_transactional_id: format!("{}-{instance}", config.samples_group),
        config,
        log: deps.log,
        clock: deps.clock,
        metrics: Metrics::new(deps.metrics),
    })
}

impl Service {
    /// Assembles and counts until `shutdown`, then commits what is closed and counted and returns. Open traces are read
    /// again at the next start.
    ///
    /// # Errors
    /// When the log refuses for good; everything passing is retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        self_test(self.log.as_ref(), &self.transactional_id, topics::ROLLUP_STATE, &shutdown).await?;
        // One input's end is the other's.
        let stop = shutdown.child_token();
        let spans = async {
            let outcome = self.run_spans(&stop).await;
            stop.cancel();
            outcome
        };
        let samples = async {
            let start = async || Samples::start(&self).await;
            let restarted = |reason| self.count_restart(reason);
            let outcome = supervise("samples", self.config.retry(), &stop, start, restarted).await;
            stop.cancel();
            outcome
        };
        let (spans, samples) = tokio::join!(spans, samples);
        spans?;
        Ok(samples?)
    }

    fn count_restart(&self, reason: &'static str) {
        self.metrics.restarts.get_or_create(&ReasonLabels { reason }).inc();
    }

    async fn run_spans(&self, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut pause = self.config.retry();
        while !shutdown.is_cancelled() {
            let outcome = match Session::start(self).await {
                Ok(mut session) => {
                    let outcome = session.run(shutdown).await;
                    if session.made_progress() {
                        pause = self.config.retry();
                    }
                    outcome
                }
                Err(error) => Err(error.into()),
            };
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(Error::Log(error)) => error,
                Err(error) => return Err(error),
            };
            let reason = match &error {
                LogError::Fenced(_) => "fenced",
                LogError::Ambiguous(_) => "ambiguous",
                error if error.is_retriable() => "unavailable",
                _ => return Err(error.into()),
            };
            self.count_restart(reason);
            tracing::warn!(%error, reason, ?pause, "restarting from committed positions");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }
}
