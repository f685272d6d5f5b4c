//! The Parquet sink as a service: its parts put together.

use std::sync::Arc;

use infertrace_runtime::{
    clock::Clock,
    log::{Log, LogError},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::{lake::LakeRoot, topics};
use object_store::{ObjectStore, path::Path};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    compact::{Compactor, Settings},
    config::{Config, Flow},
    job::{Shape, Workshop},
    ledger::Ledger,
    metrics::Metrics,
    retry::Retry,
    service::{self, Error, Parts},
};

/// What the sink is given.
pub struct Deps<'a> {
    /// Where spans come from and dead letters go.
    pub log: Arc<dyn Log>,
    /// Time, for flush intervals and lag only.
    pub clock: Arc<dyn Clock>,
    /// The store, as [`crate::open_store`] returns it.
    pub store: Arc<dyn ObjectStore>,
    /// The path in it below which the lake lies.
    pub prefix: Path,
    /// Where metrics are registered; its prefix is `infertrace`.
    pub metrics: &'a mut MetricsRegistry,
}

/// Why the sink could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting is out of bounds.
    #[error("parquet sink: {0}")]
    Config(String),
    /// The consumer could not be created.
    #[error("parquet sink: {0}")]
    Log(#[from] LogError),
}

/// The Parquet sink, ready to run.
pub struct Service {
    writer: service::Service<Workshop>,
    compactor: Compactor,
}

impl Service {
    /// Runs until `shutdown`, then writes what was read and returns.
    ///
    /// # Errors
    /// [`Error`] when the log fails for good. Faults of the store never end the service.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let ended = shutdown.child_token();
        let writing = async {
            let outcome = self.writer.run(shutdown).await;
            ended.cancel();
            outcome
        };
        tokio::join!(writing, self.compactor.run(ended.clone())).0
    }
}

/// Checks the configuration, registers the metrics and joins the consumer group.
///
/// # Errors
/// [`BuildError`].
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.validate().map_err(BuildError::Config)?;
    let flow = Flow::from(&config);
    let topic: Arc<str> = topics::SPANS.into();
    let metrics = Metrics::register(deps.metrics, "parquet_sink", "sink");
    let retry = Retry::new(&flow);
    let root = LakeRoot::new(deps.prefix.as_ref());
    let compactor = Compactor::new(
        Arc::clone(&deps.store),
        root.clone(),
        &topic,
        Settings::from(&config),
        Arc::clone(&deps.clock),
        deps.metrics,
    );
    let workshop = Workshop {
        log: Arc::clone(&deps.log),
        ledger: Ledger::new(deps.store, root, Arc::clone(&topic), retry, metrics.clone()),
        retry,
        metrics: metrics.clone(),
        topic: Arc::clone(&topic),
        encoders: Semaphore::new(config.concurrent_flushes),
        shape: Shape {
            dedup_batches: config.dedup_batches,
            row_group_rows: config.row_group_rows,
            zstd_level: config.zstd_level,
        },
    };
    let target = Arc::new(workshop);
    let parts = Parts { target, flow, topic, log: deps.log, clock: deps.clock, metrics };
    Ok(Service { writer: service::join(parts).await?, compactor })
}
