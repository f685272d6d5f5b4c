//! Stitching as a service: sightings of all sources become links between the traces of one request.
//!
//! `codec` has the records between stage 1 and here, and the writer that stage 1 uses; `session` reads them as a member
//! of a group and drives one pure [`Stitcher`](infertrace_analytics::stitch::Stitcher) a partition; `convert` makes records of
//! links. Outputs and positions are one transaction.
//!
//! Invariant: links are a function of the sightings' log. There is no state but the log: a restart reads again what the
//! stitcher remembers ([`StitchConfig::memory_ms`]), silently up to its committed position.

mod codec;
mod convert;
mod metrics;
mod session;

use std::{sync::Arc, time::Duration};

use infertrace_analytics::stitch::StitchConfig;
use infertrace_runtime::{clock::Clock, instance::instance_name, log::Log};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use codec::{SightingWriter, SightingsError, decode, partition_of};

use crate::{BuildError, Deps, Error, supervise::supervise};
use metrics::Metrics;
use session::Desk;

/// How requests are stitched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group. Default `infertrace-stitching`.
    pub group: String,
    /// Name of this instance, unique in the group. Empty (the default) takes the host's name.
    pub instance_id: String,
    /// How long a caller's span waits for the engine's. Default 30,000.
    pub window_ms: i64,
    /// A request that caller and engine reported is told so long after its last span. Default 5,000.
    pub idle_ms: i64,
    /// A request is remembered so long for late spans, which make a corrected version. Default 30,000.
    pub late_ms: i64,
    /// How long it is expected that an engine reports a caller's requests, after it did for one; only then a request
    /// without an engine's span counts as unreported. Default 300,000.
    pub expect_ms: i64,
    /// Requests held at most, a partition; past it those told are forgotten, then the oldest are told early and counted.
    /// Default 500,000.
    pub max_requests: usize,
    /// Memory for them, a partition. Default 128 MiB.
    pub max_state_bytes: usize,
    /// Spans of one request at most. Default 64.
    pub max_members: usize,
    /// Longest time between a link and its transaction. Default 200.
    pub commit_interval_ms: u64,
    /// Longest time between a position's move and its commit when there is nothing to tell. Default 1,000.
    pub position_commit_ms: u64,
    /// How often the ends of partitions are looked up, for lag. Default 1,000.
    pub end_check_ms: u64,
    /// First pause after a fault of the log; it doubles up to 10 s. Default 200.
    pub retry_ms: u64,
    /// Bytes of links that wait for a transaction; past them they are committed at once. Default 4 MiB.
    pub max_pending_bytes: usize,
    /// Bytes fetched ahead. Default 8 MiB.
    pub max_buffered_bytes: usize,
    /// Bytes of records taken at once. Default 1 MiB.
    pub max_poll_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        let pure = StitchConfig::default();
        Self {
            group: "infertrace-stitching".to_owned(),
            instance_id: String::new(),
            window_ms: pure.window_ms,
            idle_ms: pure.idle_ms,
            late_ms: pure.late_ms,
            expect_ms: pure.expect_ms,
            max_requests: pure.max_groups,
            max_state_bytes: pure.max_bytes,
            max_members: pure.max_members,
            commit_interval_ms: 200,
            position_commit_ms: 1_000,
            end_check_ms: 1_000,
            retry_ms: 200,
            max_pending_bytes: 4 << 20,
            max_buffered_bytes: 8 << 20,
            max_poll_bytes: 1 << 20,
        }
    }
}

impl Config {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.group.is_empty() {
            return Err("group must not be empty".to_owned());
        }
        let numbers = [
            ("window_ms", self.window_ms),
            ("idle_ms", self.idle_ms),
            ("late_ms", self.late_ms + 1),
            ("expect_ms", self.expect_ms),
            ("max_requests", self.max_requests as i64),
            ("max_state_bytes", self.max_state_bytes as i64),
            ("max_members", self.max_members as i64),
            ("max_poll_bytes", self.max_poll_bytes as i64),
        ];
        match numbers.iter().find(|(_, value)| *value <= 0) {
            Some(("late_ms", _)) => Err("late_ms must not be negative".to_owned()),
            Some((key, _)) => Err(format!("{key} must be above 0")),
            None => Ok(()),
        }
    }

    const fn retry(&self) -> Duration {
        Duration::from_millis(self.retry_ms)
    }

    fn stitcher(&self) -> StitchConfig {
        StitchConfig {
            window_ms: self.window_ms,
            idle_ms: self.idle_ms,
            late_ms: self.late_ms,
            expect_ms: self.expect_ms,
            max_groups: self.max_requests,
            max_bytes: self.max_state_bytes,
            max_members: self.max_members,
            ..StitchConfig::default()
        }
    }
}

/// Stitching, ready to run.
pub struct Service {
    config: Config,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    transactional_id: String,
}

/// Checks the configuration and registers the metrics; the log is first touched by [`Service::run`].
///
/// # Errors
/// [`BuildError::Config`].
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.check().map_err(|problem| BuildError::Config(format!("stitching: {problem}")))?;
    Ok(Service {
        transactional_id: format!("{}-{}", config.group, instance_name(&config.instance_id)),
        config,
        log: deps.log,
        clock: deps.clock,
        metrics: Metrics::new(deps.metrics),
    })
}

impl Service {
    /// Stitches until `shutdown`, then commits what is ready and returns.
    ///
    /// # Errors
    /// When the log refuses for good; everything passing is retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let service = Arc::new(self);
        let restarted = |reason| service.metrics.restarted(reason);
        let retry = service.config.retry();
        supervise("stitching", retry, &shutdown, || Desk::start(Arc::clone(&service)), restarted).await?;
        Ok(())
    }
}
