//! The second stage: partials of all sources become rollups, baselines and insights, by model.
//!
//! `session` reads the partials topic as a member of a group and drives one pure
//! [`Analyst`](infertrace_analytics::analyst::Analyst) a partition; `convert` makes records of what it puts out;
//! `state` keeps snapshots, `restore` takes a partition over, `standby` follows partitions of other members to make
//! that quick. Outputs, state and positions are one transaction.
//!
//! Invariant: outputs are a function of the partials; a restart repeats the analysis from a snapshot and is silent
//! about windows that were told already.

pub mod convert;
mod metrics;
mod restore;
mod session;
mod standby;
mod state;

use std::{sync::Arc, time::Duration};

use infertrace_analytics::config::AnalystConfig;
use infertrace_runtime::{clock::Clock, instance::instance_name, log::Log};
use infertrace_schemas::topics;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    BuildError, Deps, Error,
    supervise::{self_test, supervise},
};
use metrics::Metrics;
use restore::Restored;
use session::Desk;
use standby::{Follower, Standby};

/// How insights are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group. Default `infertrace-insights`.
    pub group: String,
    /// Name of this instance, unique in the group. Empty (the default) takes the host's name.
    pub instance_id: String,
    /// How far all sources must have passed a window's end before it closes. Not below the processor's
    /// `rollup_lateness_ms`. Default 1,500.
    pub lateness_ms: i64,
    /// A source (a partition of spans or samples) that writes nothing for so long, while others do, does not hold windows
    /// open; what it brings later counts as late. Default 60,000.
    pub idle_after_ms: i64,
    /// A source that catches up is waited for, unless it is so far behind the foremost in event time: windows that wait are
    /// kept in memory. Default 3,600,000.
    pub most_behind_ms: i64,
    /// Event time between snapshots; a restart reads the partials since the last. Default 300,000.
    pub snapshot_interval_ms: i64,
    /// Longest time between a closed window and its transaction. Default 100.
    pub commit_interval_ms: u64,
    /// Longest time between a position's move and its commit when there is nothing to tell. Default 1,000.
    pub position_commit_ms: u64,
    /// How often the ends of partitions are looked up, for lag. Default 1,000.
    pub end_check_ms: u64,
    /// First pause after a fault of the log; it doubles up to 10 s. Default 200.
    pub retry_ms: u64,
    /// Bytes of outputs that wait for a transaction; past them partitions are paused. Default 16 MiB.
    pub max_pending_bytes: usize,
    /// Bytes fetched ahead. Default 16 MiB.
    pub max_buffered_bytes: usize,
    /// Bytes of records taken at once. Default 1 MiB.
    pub max_poll_bytes: usize,
    /// Partitions of other members whose analysis is followed, so that taking one over reads only its last second instead of
    /// the partials since its snapshot. Each takes the memory and work of one more partition. The group does not know of
    /// it: set it to all partitions of the partials on a pair of members. Default 0: none.
    pub standby_partitions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "infertrace-insights".to_owned(),
            instance_id: String::new(),
            lateness_ms: 1_500,
            idle_after_ms: 60_000,
            most_behind_ms: 3_600_000,
            snapshot_interval_ms: 300_000,
            commit_interval_ms: 100,
            position_commit_ms: 1_000,
            end_check_ms: 1_000,
            retry_ms: 200,
            max_pending_bytes: 16 << 20,
            max_buffered_bytes: 16 << 20,
            max_poll_bytes: 1 << 20,
            standby_partitions: 0,
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
        if self.lateness_ms < 0 {
            return Err("lateness_ms must not be negative".to_owned());
        }
        let positive = [
            ("idle_after_ms", self.idle_after_ms),
            ("most_behind_ms", self.most_behind_ms),
            ("snapshot_interval_ms", self.snapshot_interval_ms),
            ("max_poll_bytes", self.max_poll_bytes as i64),
        ];
        match positive.iter().find(|(_, value)| *value <= 0) {
            Some((key, _)) => Err(format!("{key} must be above 0")),
            None => Ok(()),
        }
    }

    const fn retry(&self) -> Duration {
        Duration::from_millis(self.retry_ms)
    }

    /// Settings of the analyst of one of `partitions` partitions.
    fn analyst(&self, partition: u32, partitions: u32) -> AnalystConfig {
        AnalystConfig {
            lateness_ms: self.lateness_ms,
            idle_after_ms: self.idle_after_ms,
            most_behind_ms: self.most_behind_ms,
            partition,
            partitions,
            ..AnalystConfig::default()
        }
    }
}

/// The second stage, ready to run.
pub struct Service {
    config: Config,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    transactional_id: String,
    standby: Option<Arc<Standby>>,
}

/// Checks the configuration and registers the metrics; the log is first touched by [`Service::run`].
///
/// # Errors
/// [`BuildError::Config`].
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.check().map_err(|problem| BuildError::Config(format!("insights: {problem}")))?;
    Ok(Service {
        transactional_id: format!("{}-{}", config.group, instance_name(&config.instance_id)),
        config,
        log: deps.log,
        clock: deps.clock,
        metrics: Metrics::new(deps.metrics),
        standby: None,
    })
}

impl Service {
    /// Analyses until `shutdown`, then commits what is ready and returns.
    ///
    /// # Errors
    /// When the log refuses for good; everything passing is retried.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let (standby, requests) = Standby::new();
        let follows = self.config.standby_partitions > 0;
        self.standby = follows.then(|| Arc::clone(&standby));
        let service = Arc::new(self);
        self_test(service.log.as_ref(), &service.transactional_id, topics::INSIGHT_STATE, &shutdown).await?;
        let ended = shutdown.child_token();
        // Ends with this call, however that ends.
        let mut follower = JoinSet::new();
        if follows {
            follower.spawn(Follower::new(Arc::clone(&service), standby, requests).run(ended.clone()));
        }
        let restarted = |reason| service.metrics.restarted(reason);
        let retry = service.config.retry();
        let outcome =
            supervise("insights", retry, &shutdown, || Desk::start(Arc::clone(&service)), restarted).await;
        ended.cancel();
        if let Some(Err(error)) = follower.join_next().await {
            tracing::error!(%error, "the standby ended by itself; partitions were restored from their snapshots");
        }
        Ok(outcome?)
    }

    /// The copy of `partition` that was followed, if any; it is this member's now.
    async fn take_standby(&self, partition: u32) -> Option<Restored> {
        self.standby.as_ref()?.take(partition).await
    }

    /// `partition` is not this member's any more.
    fn left(&self, partition: u32) {
        if let Some(standby) = &self.standby {
            standby.leave(partition);
        }
    }
}
