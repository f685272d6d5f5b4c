//! The ClickHouse sink: spans, timelines, trace summaries, rollups, insights and samples into the warm tier.
//!
//! [`migrations`] are the tables; [`table`] is the way of one topic into its tables ([`spans`], [`rows`] and [`samples`]
//! make columns of records, [`insert`] makes inserts of columns); [`state`] is what was written, in the log;
//! [`infertrace_runtime::clickhouse`] speaks HTTP. [`crate::service`] reads the log, holds what was read and waits, for each topic apart, in a group of its
//! own: a topic that stands still holds up no other.
//!
//! Invariants: a range of offsets is written down before it is inserted and repeated exactly; an insert is one part, known
//! again by its token and by its rows' offsets; a position is committed after its rows are acknowledged.

mod config;
mod error;
mod insert;
pub mod migrations;
mod rows;
mod samples;
mod spans;
mod state;
mod table;

use std::{collections::HashMap, sync::Arc};

use infertrace_runtime::{
    clock::Clock,
    instance::instance_name,
    log::{Log, LogError},
    telemetry::MetricsRegistry,
};
use parking_lot::Mutex;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use infertrace_runtime::clickhouse::{Access, Client, Password};

pub use self::{
    config::{Compression, Config, GROUP, Kind},
    error::Error,
};
use self::{
    migrations::Plan,
    state::StateLog,
    table::{Shared, Source, TableSink},
};
use crate::{
    metrics::Metrics,
    retry::Retry,
    service::{self, Parts},
};

/// What the sink is given.
pub struct Deps<'a> {
    /// Where records come from, and where dead letters and state go.
    pub log: Arc<dyn Log>,
    /// Time, for the age of batches and lag only.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered; its prefix is `infertrace`.
    pub metrics: &'a mut MetricsRegistry,
}

/// Why the sink could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting is out of bounds, or a file cannot be read.
    #[error("clickhouse sink: {0}")]
    Config(String),
    /// A consumer could not be created.
    #[error("clickhouse sink: {0}")]
    Log(#[from] LogError),
}

/// The ClickHouse sink, ready to run.
pub struct Service {
    tables: Vec<service::Service<TableSink>>,
}

impl Service {
    /// Runs until `shutdown`, then inserts what was read and returns.
    ///
    /// # Errors
    /// [`service::Error`] when the log fails for good. Faults of ClickHouse never end the service.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), service::Error> {
        let stop = shutdown.child_token();
        let mut tasks = JoinSet::new();
        for table in self.tables {
            let stop = stop.clone();
            tasks.spawn(async move { table.run(stop).await });
        }
        let mut outcome = Ok(());
        while let Some(joined) = tasks.join_next().await {
            let ended = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            // One that ended by itself takes the others down the same way.
            stop.cancel();
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// A client of the configured server, and what is to be made there.
///
/// # Errors
/// A sentence that names the setting.
pub fn connect(config: &Config) -> Result<(Client, Plan), String> {
    config.validate()?;
    let client = Client::new(&config.access()?)?;
    Ok((client, plan_of(config)))
}

/// What is to be made in the database.
#[must_use]
pub fn plan_of(config: &Config) -> Plan {
    Plan {
        database: config.database.clone(),
        layout: config.layout(),
        ttl_days: config.ttl_days,
        rollup_ttl_days: config.rollup_ttl_days,
    }
}

/// Checks the configuration, registers the metrics and joins the consumer groups. ClickHouse itself is first spoken to
/// when a partition is assigned, and waited for.
///
/// # Errors
/// [`BuildError`].
pub async fn build(config: &Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    let (client, plan) = connect(config).map_err(BuildError::Config)?;
    let shared = Arc::new(Shared {
        client,
        plan,
        auto_migrate: config.auto_migrate,
        schema: OnceCell::new(),
        compression: config.compression,
        settings: settings_of(config),
        dedup_batches: config.dedup_batches,
    });
    let instance = instance_name(&config.instance_id);
    let mut tables = Vec::new();
    for source in Source::all() {
        let [_, prefix, role, suffix] = source.names();
        let mut flow = config.flow();
        flow.group.push_str(suffix);
        let topic: Arc<str> = source.topic().into();
        let metrics = Metrics::register(deps.metrics, prefix, role);
        let retry = Retry::new(&flow);
        let target = TableSink {
            source: Arc::new(source),
            shared: Arc::clone(&shared),
            log: Arc::clone(&deps.log),
            state: StateLog::new(
                (Arc::clone(&deps.log), Arc::clone(&deps.clock)),
                flow.group.clone(),
                &instance,
                Arc::clone(&topic),
                config.dedup_batches,
                (retry, metrics.clone()),
            ),
            retry,
            metrics: metrics.clone(),
            inserts: Semaphore::new(flow.concurrent_flushes),
            open_plans: Mutex::new(HashMap::new()),
        };
        let (log, clock) = (Arc::clone(&deps.log), Arc::clone(&deps.clock));
        tables
            .push(service::join(Parts { target: Arc::new(target), flow, topic, log, clock, metrics }).await?);
    }
    Ok(Service { tables })
}

/// Settings of every insert.
fn settings_of(config: &Config) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> =
        config.settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
    set("insert_deduplicate", "1");
    // A batch of ours is a block and a part as it is.
    set("min_insert_block_size_rows", "0");
    set("min_insert_block_size_bytes", "0");
    set("async_insert", if config.async_insert { "1" } else { "0" });
    if config.async_insert {
        set("wait_for_async_insert", "1");
        set("async_insert_deduplicate", "1");
    }
    if config.kind == Kind::Cluster {
        // An acknowledgement means that every shard has its rows.
        set("distributed_foreground_insert", "1");
    }
    settings
}
