//! The roles of one process, built on one log and drained in the order in which a span goes through them.
//!
//! Invariant: a role is stopped only after everything upstream of it has drained, so nothing that was
//! acknowledged waits in memory when the process ends.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use infertrace_runtime::{
    clock::{Clock, SystemClock},
    log::{Log, LogError, TopicSpec, embedded::EmbeddedLog, kafka::KafkaLog},
    telemetry,
};
use infertrace_schemas::{lake::LakeRoot, topics};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, demo::Demo, log_metrics, ops};

/// How long a start waits for a broker that does not answer.
const BROKER_PATIENCE: Duration = Duration::from_secs(60);

/// Which roles this process plays.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    /// Ingest gateway.
    pub(crate) gateway: bool,
    /// Trace assembly.
    pub(crate) processor: bool,
    /// Parquet sink, and the ClickHouse sink where one is configured.
    pub(crate) sink: bool,
    /// Query API and UI.
    pub(crate) api: bool,
}

impl Roles {
    /// `infertrace up`.
    #[must_use]
    pub(crate) const fn all() -> Self {
        Self { gateway: true, processor: true, sink: true, api: true }
    }

    /// Whether this is `infertrace up`.
    #[must_use]
    pub(crate) const fn is_all(self) -> bool {
        self.gateway && self.processor && self.sink && self.api
    }
}

/// The log, by what it is.
pub(crate) enum Backend {
    Kafka(Arc<KafkaLog>),
    Embedded(Arc<EmbeddedLog>),
}

impl Backend {
    /// Opens it; a cluster is first spoken to by the first call.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        if config.uses_kafka() {
            return Ok(Self::Kafka(KafkaLog::new(config.kafka.clone())?));
        }
        let mut embedded = config.embedded_log.clone();
        embedded.dir.clone_from(&config.data_dir);
        Ok(Self::Embedded(EmbeddedLog::open(embedded)?))
    }

    /// The log, whatever it is.
    pub(crate) fn log(&self) -> Arc<dyn Log> {
        match self {
            Self::Kafka(log) => log.clone(),
            Self::Embedded(log) => log.clone(),
        }
    }

    /// Writes what waits and lets go.
    pub(crate) async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || match self {
            Self::Kafka(log) => log.flush(Duration::from_secs(10)),
            Self::Embedded(log) => {
                log.close();
                Ok(())
            }
        })
        .await;
        if let Ok(Err(error)) = closed {
            tracing::error!(%error, "the log did not take everything before the end");
        }
    }
}

/// One role's task.
struct Running {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// A process whose ports are bound.
pub(crate) struct Platform {
    backend: Backend,
    gateway: Option<infertrace_gateway::Service>,
    processor: Option<infertrace_processors::Service>,
    insights: Option<infertrace_processors::insights::Service>,
    stitching: Option<infertrace_processors::stitching::Service>,
    delivery: Option<infertrace_processors::delivery::Service>,
    sink: Option<infertrace_sinks::Service>,
    clickhouse: Option<infertrace_sinks::clickhouse::Service>,
    api: Option<infertrace_query::Service>,
    ops: Option<(tokio::net::TcpListener, Arc<dyn Fn() -> String + Send + Sync>)>,
    log_name: String,
    lake: String,
    warm: String,
}

impl Platform {
    /// Opens the log, creates what topics are missing, and builds the roles.
    pub(crate) async fn build(config: Config, roles: Roles) -> anyhow::Result<Self> {
        let log_name = if config.uses_kafka() {
            format!("Kafka at {}", config.kafka.brokers)
        } else {
            format!("embedded log in {}", config.data_dir.join("log").display())
        };
        let lake = config.lake();
        let warm_source = config.warm().map_err(|error| anyhow::anyhow!("query.warm: {error}"))?;
        let reads_warm = roles.api && warm_source.is_some();
        let warm = if reads_warm || roles.sink { config.sink.clickhouse.url.clone() } else { String::new() };
        let backend = Backend::open(&config).with_context(|| format!("opening the {log_name}"))?;
        let log = backend.log();
        create_topics(log.as_ref(), &config)
            .await
            .with_context(|| format!("creating topics on the {log_name}"))?;
        let reads_avro = roles.processor || roles.api || (roles.sink && config.sink.clickhouse.is_used());
        if !config.schema_registry.url.is_empty() && reads_avro {
            use_registry(&config).await?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let registry = Arc::new(Mutex::new(telemetry::MetricsRegistry::default()));
        let exposition: Arc<dyn Fn() -> String + Send + Sync> = {
            let registry = registry.clone();
            Arc::new(move || telemetry::exposition(&registry.lock()))
        };
        let mut metrics = telemetry::MetricsRegistry::default();
        let store = (roles.sink || roles.api)
            .then(|| infertrace_sinks::open_store(&lake, store_options()))
            .transpose()
            .with_context(|| format!("opening the lake {lake}"))?;

        let pricer = config.processor.pricer().map_err(|error| anyhow::anyhow!("processor: {error}"))?;
        let mut gateway = None;
        if roles.gateway {
            let deps =
                infertrace_gateway::Deps { log: log.clone(), clock: clock.clone(), metrics: &mut metrics };
            gateway = Some(infertrace_gateway::build(config.gateway, deps).await?);
        }
        let (mut processor, mut insights, mut stitching) = (None, None, None);
        if roles.processor {
            let deps =
                infertrace_processors::Deps { log: log.clone(), clock: clock.clone(), metrics: &mut metrics };
            processor = Some(infertrace_processors::build(config.processor, deps).await?);
            let deps =
                infertrace_processors::Deps { log: log.clone(), clock: clock.clone(), metrics: &mut metrics };
            insights = Some(infertrace_processors::insights::build(config.insights, deps).await?);
            let deps =
                infertrace_processors::Deps { log: log.clone(), clock: clock.clone(), metrics: &mut metrics };
            stitching = Some(infertrace_processors::stitching::build(config.stitching, deps).await?);
        }
        let mut delivery = None;
        if roles.processor && !config.delivery.targets.is_empty() {
            let deps = infertrace_processors::delivery::Deps {
                log: log.clone(),
                clock: clock.clone(),
                // Retries of several processes must not fall together.
                seed: clock.now_unix_nanos().cast_unsigned() ^ u64::from(std::process::id()).rotate_left(32),
                metrics: &mut metrics,
            };
            delivery = Some(infertrace_processors::delivery::build(config.delivery, deps).await?);
        }
        let mut clickhouse = None;
        if roles.sink && config.sink.clickhouse.is_used() {
            let deps = infertrace_sinks::clickhouse::Deps {
                log: log.clone(),
                clock: clock.clone(),
                metrics: &mut metrics,
            };
            clickhouse = Some(infertrace_sinks::clickhouse::build(&config.sink.clickhouse, deps).await?);
        }
        let mut sink = None;
        if let (true, Some((store, prefix))) = (roles.sink, &store) {
            let deps = infertrace_sinks::Deps {
                log: log.clone(),
                clock: clock.clone(),
                store: store.clone(),
                prefix: prefix.clone(),
                metrics: &mut metrics,
            };
            sink = Some(infertrace_sinks::build(config.sink, deps).await?);
        }
        let mut api = None;
        if let (true, Some((store, prefix))) = (roles.api, store) {
            let lake = infertrace_query::LakeSource { store, root: LakeRoot::new(prefix.as_ref()) };
            let deps = infertrace_query::Deps {
                log: Some(log.clone()),
                warm: warm_source,
                lake: Some(lake),
                pricer,
                clock,
                metrics: &mut metrics,
                exposition: exposition.clone(),
                readiness: readiness(log.clone(), gateway.as_ref()),
            };
            api = Some(infertrace_query::build(config.query, deps).await?);
        }
        if let Backend::Embedded(log) = &backend {
            log_metrics::register(log, &mut metrics);
        }
        *registry.lock() = metrics;
        let mut ops = None;
        if !config.ops_addr.is_empty() {
            ops = Some((ops::bind(&config.ops_addr).await?, exposition));
        }
        Ok(Self {
            backend,
            gateway,
            processor,
            insights,
            stitching,
            delivery,
            sink,
            clickhouse,
            api,
            ops,
            log_name,
            lake,
            warm,
        })
    }

    /// Where this process's own gateway takes gRPC.
    pub(crate) fn grpc_endpoint(&self) -> String {
        self.gateway.as_ref().map_or_else(String::new, |gateway| format!("http://{}", gateway.grpc_addr()))
    }

    /// Prints where everything is.
    pub(crate) fn announce(&self) {
        let mut lines = vec![format!("log      {}", self.log_name)];
        if self.sink.is_some() || self.api.is_some() {
            lines.push(format!("lake     {}", self.lake));
        }
        if !self.warm.is_empty() {
            lines.push(format!("warm     ClickHouse at {}", self.warm));
        }
        if let Some(gateway) = &self.gateway {
            lines.push(format!("gRPC     {}  (OTLP and native)", gateway.grpc_addr()));
            lines.push(format!("HTTP     {}  (OTLP)", gateway.http_addr()));
        }
        if let Some(address) = self.api.as_ref().and_then(|api| api.local_addr().ok()) {
            lines.push(format!("UI, API  http://{address}/"));
        }
        if let Some(address) = self.ops.as_ref().and_then(|(listener, _)| listener.local_addr().ok()) {
            lines.push(format!("ops      http://{address}/metrics"));
        }
        for line in lines {
            eprintln!("  {line}");
        }
    }

    /// Runs until `stop` or until a role fails, then drains: demo, gateway, processor, insights, stitching, delivery and sink,
    /// API, log.
    pub(crate) async fn run(self, stop: CancellationToken, demo: Option<Demo>) -> anyhow::Result<()> {
        let log = self.backend.log();
        let ended = CancellationToken::new();
        // In the order in which they stop.
        let mut running = Vec::new();
        if let Some(service) = self.gateway {
            start(&mut running, &ended, "gateway", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.processor {
            start(&mut running, &ended, "processor", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.insights {
            start(&mut running, &ended, "insights", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.stitching {
            start(&mut running, &ended, "stitching", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.delivery {
            start(&mut running, &ended, "delivery", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.sink {
            start(&mut running, &ended, "sink", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some(service) = self.clickhouse {
            start(
                &mut running,
                &ended,
                "clickhouse sink",
                |stop| async move { Ok(service.run(stop).await?) },
            );
        }
        if let Some(service) = self.api {
            start(&mut running, &ended, "api", |stop| async move { Ok(service.run(stop).await?) });
        }
        if let Some((listener, exposition)) = self.ops {
            start(&mut running, &ended, "ops", |stop| ops::serve(listener, log, exposition, stop));
        }

        tokio::select! {
            () = stop.cancelled() => {}
            () = ended.cancelled() => tracing::error!("a role ended by itself; stopping the others"),
        }
        let asked = stop.is_cancelled();
        if let Some(demo) = demo {
            demo.stop().await;
        }
        let mut outcome = if asked { Ok(()) } else { Err(anyhow::anyhow!("a role ended by itself")) };
        for role in running {
            role.stop.cancel();
            outcome = finish(role).await.and(outcome);
        }
        self.backend.close().await;
        outcome
    }
}

/// Spawns a role; `ended` tells when any role is over.
fn start<F>(
    running: &mut Vec<Running>,
    ended: &CancellationToken,
    name: &'static str,
    role: impl FnOnce(CancellationToken) -> F,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let stop = CancellationToken::new();
    let role = role(stop.clone());
    let ended = ended.clone().drop_guard();
    let task = tokio::spawn(async move {
        let _ended = ended;
        role.await
    });
    running.push(Running { name, stop, task });
}

/// Waits for a role and says how it ended.
async fn finish(role: Running) -> anyhow::Result<()> {
    match role.task.await {
        Ok(outcome) => {
            if let Err(error) = &outcome {
                tracing::error!(role = role.name, error = format!("{error:#}"), "a role failed");
            }
            outcome.with_context(|| format!("{} failed", role.name))
        }
        Err(panic) => Err(anyhow::anyhow!("{} panicked: {panic}", role.name)),
    }
}

/// The topics as they should be.
pub(crate) fn topic_specs(config: &Config) -> Vec<TopicSpec> {
    topics::all(config.partitions)
        .into_iter()
        .map(|topic| TopicSpec {
            name: topic.name.into(),
            partitions: topic.partitions,
            retention: topic.retention,
            compacted: topic.compacted,
            replication: config.replication,
        })
        .collect()
}

/// Creates the topics that are missing; waits for a broker that is away.
async fn create_topics(log: &dyn Log, config: &Config) -> Result<(), LogError> {
    let specs = topic_specs(config);
    let deadline = tokio::time::Instant::now() + BROKER_PATIENCE;
    loop {
        match log.create_topics(&specs).await {
            Err(error) if error.is_retriable() && tokio::time::Instant::now() < deadline => {
                tracing::warn!(%error, "the log does not answer yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Registers the schemas; from then on values are written and read with the ids that they got.
pub(crate) async fn use_registry(config: &Config) -> anyhow::Result<()> {
    let ids = infertrace_processors::schema_registry::register(&config.schema_registry).await?;
    let lookup = infertrace_processors::schema_registry::Lookup::new(&config.schema_registry)?;
    anyhow::ensure!(
        infertrace_schemas::avro::use_registered(ids, Arc::new(lookup)),
        "schema ids are set once a process"
    );
    Ok(())
}

/// Where credentials and endpoints of object stores come from: the environment.
pub(crate) fn store_options() -> Vec<(String, String)> {
    std::env::vars()
        .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|start| name.starts_with(start)))
        .collect()
}

/// Ready means that spans sent now would be durable: the log takes writes, and so does a gateway in this process.
fn readiness(
    log: Arc<dyn Log>,
    gateway: Option<&infertrace_gateway::Service>,
) -> infertrace_query::Readiness {
    let Some(gateway) = gateway.map(infertrace_gateway::Service::gateway) else {
        return infertrace_query::log_readiness(log);
    };
    let of_log = infertrace_query::log_readiness(log);
    Arc::new(move || {
        let (of_log, gateway) = (of_log(), gateway.clone());
        Box::pin(async move {
            let mut checks = of_log.await;
            let detail = gateway.ready().await.err().map(|error| error.to_string());
            checks.push(infertrace_query::Check {
                name: "gateway".to_owned(),
                ok: detail.is_none(),
                required: true,
                detail,
            });
            checks
        })
    })
}
