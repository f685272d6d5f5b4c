//! The query API: one answer from the hot tier, ClickHouse and the lake, over HTTP, with the UI.
//!
//! [`hot`] keeps the last minutes in memory, [`warm`] asks ClickHouse, [`lake`] reads Parquet, [`store`] makes one of all, [`search`] and
//! [`trace`] find and render, [`insights`] holds what the processors concluded, `http` serves. Neighbours: `schemas` (columns, lake, analysis) and `runtime` (log,
//! clock); the sinks are met only through what they write: the lake's files, ClickHouse's tables, a position in the log. Invariants: a span is answered once;
//! what could not be read is named in the answer; nothing is unbounded.

pub mod config;
pub mod hot;
mod http;
pub mod insights;
pub mod lake;
pub mod metrics;
pub mod search;
pub mod store;
pub mod trace;
pub mod warm;

use std::{net::SocketAddr, num::NonZero, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use infertrace_analytics::cost::Pricer;
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_runtime::{clock::Clock, log::Log};
use infertrace_schemas::{lake::LakeRoot, topics};
use object_store::ObjectStore;
use serde::Serialize;
use tokio::{net::TcpListener, runtime::Runtime, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use http::paths;

use crate::{
    hot::{HotTier, feed::Feed, memory::MemoryTier},
    http::{App, Tail},
    insights::Insights,
    lake::catalog::CatalogState,
    metrics::{HotMetrics, HttpMetrics, InsightMetrics, LakeMetrics, WarmMetrics},
    store::{Lake, Store},
    warm::{Warm, WarmSource},
};

/// One thing that readiness depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// Whether spans would not be durable without it.
    pub required: bool,
    /// What is wrong.
    pub detail: Option<String>,
}

/// Looks whether spans sent now would be durable.
pub type Readiness = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// Readiness by the log alone.
#[must_use]
pub fn log_readiness(log: Arc<dyn Log>) -> Readiness {
    Arc::new(move || {
        let log = Arc::clone(&log);
        Box::pin(async move {
            let detail = log.ready().await.err().map(|error| error.to_string());
            vec![Check { name: "log".to_owned(), ok: detail.is_none(), required: true, detail }]
        })
    })
}

/// The lake to read.
pub struct LakeSource {
    /// Its store.
    pub store: Arc<dyn ObjectStore>,
    /// Where in it.
    pub root: LakeRoot,
}

/// What the service needs from outside.
pub struct Deps<'a> {
    /// The log, for the hot tier and the insights; without one the others are read.
    pub log: Option<Arc<dyn Log>>,
    /// The ClickHouse that the sink fills.
    pub warm: Option<WarmSource>,
    /// The lake; without one the others are read.
    pub lake: Option<LakeSource>,
    /// Prices, which are the processors' where costs should be the same.
    pub pricer: Arc<Pricer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where figures are registered; its prefix is `infertrace`.
    pub metrics: &'a mut MetricsRegistry,
    /// All figures of the process as OpenMetrics text, for `/metrics`.
    pub exposition: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether spans would be durable, for `/readyz`.
    pub readiness: Readiness,
}

/// Why the service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The port is taken or the address is not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// Threads for scans could not be started.
    #[error("cannot start threads for scans: {0}")]
    Threads(std::io::Error),
    /// The query engine refused its configuration.
    #[error("query engine: {0}")]
    Engine(#[from] datafusion::error::DataFusionError),
}

/// Why the service ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task of the service panicked.
    #[error("a task of the query API failed: {0}")]
    Task(tokio::task::JoinError),
}

/// The service, listening but not yet answering.
pub struct Service {
    listener: TcpListener,
    app: Arc<App>,
    feeds: Option<(Feed, insights::feed::Feed)>,
    scans: Scans,
}

/// Threads for scans, which end with the service.
struct Scans(Option<Runtime>);

impl Drop for Scans {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Dropping it inside a task would block; what still runs is cut off at its next await.
            runtime.shutdown_background();
        }
    }
}

/// Binds the port and puts the service together.
///
/// # Errors
/// [`BuildError`].
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    let address = config.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| BuildError::Listen { address, source })?;
    let threads = match config.lake.scan_threads {
        0 => std::thread::available_parallelism().map_or(2, NonZero::get),
        threads => threads,
    };
    let scans = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("scan")
        .enable_all()
        .build()
        .map_err(BuildError::Threads)?;
    let hot_metrics = HotMetrics::register(deps.metrics);
    let lake_metrics = LakeMetrics::register(deps.metrics);
    let http_metrics = HttpMetrics::register(deps.metrics);
    let mut hot: Option<Arc<dyn HotTier>> = None;
    let mut feeds = None;
    let log = deps.log.clone();
    let insights = Arc::new(Insights::new(config.insights.clone(), InsightMetrics::register(deps.metrics)));
    if let Some(log) = deps.log {
        let (tier, writer) = MemoryTier::new(config.hot.clone(), Arc::clone(&deps.clock), hot_metrics);
        let clock = || Arc::clone(&deps.clock);
        feeds = Some((
            Feed::new(Arc::clone(&log), writer, clock(), topics::SPANS, config.hot.clone()),
            insights::feed::Feed::new(log, Arc::clone(&insights), clock(), config.insights.clone()),
        ));
        hot = Some(tier);
    }
    let context = lake::table::session(threads, deps.lake.as_ref().map(|lake| Arc::clone(&lake.store)))?;
    let handle = scans.handle().clone();
    let warm = deps.warm.map(|source| {
        let (log, clock) = (log.clone(), Arc::clone(&deps.clock));
        Warm::new(source, &config.warm, log, clock, handle.clone(), WarmMetrics::register(deps.metrics))
    });
    let lake =
        deps.lake.map(|lake| Lake::new(lake.store, lake.root, &config.lake, handle.clone(), lake_metrics));
    let limits = &config.limits;
    let app = App {
        requests: Semaphore::new(limits.max_concurrent_requests),
        searches: Semaphore::new(limits.max_concurrent_searches),
        streams: Arc::new(Semaphore::new(limits.max_streams)),
        log,
        store: Store { hot, warm, lake, context, scans: handle },
        insights,
        pricer: Arc::clone(&deps.pricer),
        clock: deps.clock,
        readiness: deps.readiness,
        exposition: deps.exposition,
        metrics: http_metrics,
        tail: Tail::new(deps.pricer),
        shutdown: CancellationToken::new(),
        config,
    };
    Ok(Service { listener, app: Arc::new(app), feeds, scans: Scans(Some(scans)) })
}

impl Service {
    /// The address that answers, with the port that was given for port 0.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `shutdown`, then finishes open requests and returns.
    ///
    /// # Errors
    /// [`Error::Task`] when one of its tasks panicked.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { listener, app, feeds, scans } = self;
        let stop = app.shutdown.clone();
        let mut tasks = JoinSet::new();
        if let Some((spans, insights)) = feeds {
            tasks.spawn(spans.run(stop.clone()));
            tasks.spawn(insights.run(stop.clone()));
        }
        if let Some(hot) = app.store.hot.clone() {
            let (tail, stop) = (Arc::clone(&app), stop.clone());
            tasks.spawn(async move { tail.tail.run(hot, stop).await });
        }
        if app.store.warm.is_some() {
            let (follower, stop) = (Arc::clone(&app), stop.clone());
            tasks.spawn(async move {
                let interval = Duration::from_millis(follower.config.warm.refresh_interval_ms.max(10));
                if let Some(warm) = &follower.store.warm {
                    warm.follow(interval, &stop).await;
                }
            });
        }
        if app.store.lake.is_some() {
            tasks.spawn(follow_lake(Arc::clone(&app), stop.clone()));
        }
        tasks.spawn(http::serve(
            listener,
            http::router(Arc::clone(&app)),
            app.config.limits.clone(),
            app.metrics.clone(),
            stop.clone(),
        ));
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = tasks.join_next() => ended,
            };
            match ended {
                Some(Ok(())) => {}
                // A task that fails takes the service down instead of leaving it blind.
                Some(Err(source)) => {
                    outcome = Err(Error::Task(source));
                    break;
                }
                None => break,
            }
        }
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            if let Err(source) = ended
                && outcome.is_ok()
            {
                outcome = Err(Error::Task(source));
            }
        }
        drop(scans);
        outcome
    }
}

/// Keeps the catalog up to date and reads the tails of new files before somebody asks for them.
async fn follow_lake(app: Arc<App>, stop: CancellationToken) {
    let Some(lake) = &app.store.lake else { return };
    let interval = Duration::from_millis(app.config.lake.refresh_interval_ms.max(10));
    let mut warmed = Arc::new(CatalogState::default());
    loop {
        if let Err(error) = lake.catalog.refresh(Duration::ZERO).await {
            tracing::warn!(%error, "the lake cannot be listed");
        }
        let state = lake.catalog.state();
        if !Arc::ptr_eq(&state, &warmed) {
            lake.cache.warm(&state.files, &stop).await;
            warmed = state;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}
