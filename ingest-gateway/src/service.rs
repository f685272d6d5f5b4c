//! Building, running and draining the gateway.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_runtime::{clock::Clock, log::Log};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    budget::Budget,
    config::Config,
    error::{BuildError, Error, NotReady},
    flow::Flow,
    ingest::Ingest,
    pool::BufferPool,
    telemetry::Telemetry,
    transport::{
        Router,
        listener::{self, Connections},
    },
};

/// How often readiness is looked up for the health service, and partitions while they are unknown.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const SERVICES: [&str; 4] = [
    "",
    "infertrace.v1.IngestService",
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
];

/// What the gateway needs from its surroundings.
pub struct Deps<'a> {
    /// Where accepted spans become durable.
    pub log: Arc<dyn Log>,
    /// The time by which clocks of spans are judged.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered: the `infertrace` registry.
    pub metrics: &'a mut MetricsRegistry,
}

/// Cheap handle on a gateway, for other parts of the same process.
#[derive(Clone)]
pub struct Gateway(Arc<Ingest>);

impl Gateway {
    /// Whether spans sent now would be durable.
    ///
    /// # Errors
    /// The reason why not.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.0.ready().await
    }

    /// Bytes of requests in flight.
    #[must_use]
    pub fn budget_used_bytes(&self) -> u64 {
        self.0.budget.used()
    }
}

/// A gateway whose ports are bound.
pub struct Service {
    ingest: Arc<Ingest>,
    router: Router,
    health: HealthReporter,
    grpc: TcpListener,
    http: TcpListener,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
}

/// Binds the ports and looks the topics up. A log that is away does not stop the gateway from starting: it
/// refuses requests, retriably, and is not ready until the log is back.
///
/// # Errors
/// [`BuildError`] when the configuration contradicts itself or a port cannot be bound.
pub async fn build(config: Config, deps: Deps<'_>) -> Result<Service, BuildError> {
    config.check().map_err(BuildError::Config)?;
    let (grpc, grpc_addr) = bind(config.grpc_addr)?;
    let (http, http_addr) = bind(config.http_addr)?;
    let telemetry = Arc::new(Telemetry::new(deps.metrics, config.limits.max_tenant_labels));
    let retry_delay = Duration::from_millis(config.retry_delay_ms);
    let flow = Flow::new(deps.log, deps.clock, Arc::clone(&telemetry), retry_delay);
    let ingest = Arc::new(Ingest {
        flow,
        budget: Budget::new(config.budget_bytes),
        telemetry,
        bodies: BufferPool::new(config.budget_bytes / 4, 4 << 20),
        records: BufferPool::new(config.budget_bytes / 8, 512 << 10),
        draining: CancellationToken::new(),
        config,
    });
    let looked_up = tokio::time::timeout(WATCH_INTERVAL, ingest.flow.refresh_topology()).await;
    if let Ok(Err(error)) = looked_up {
        tracing::warn!(%error, "the topics are not known yet");
    }
    let (health, services) = services().await?;
    let router = Router::new(Arc::clone(&ingest), services);
    Ok(Service { ingest, router, health, grpc, http, grpc_addr, http_addr })
}

fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), BuildError> {
    let bound = listener::bind(addr).and_then(|listener| {
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    });
    bound.map_err(|source| BuildError::Bind { addr, source })
}

/// The standard health service and server reflection.
async fn services() -> Result<(HealthReporter, axum::Router), BuildError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(infertrace_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = |error: tonic_reflection::server::Error| BuildError::Reflection(error.to_string());
    let router = tonic::service::Routes::new(health_service)
        .add_service(descriptors().build_v1().map_err(reflection)?)
        .add_service(descriptors().build_v1alpha().map_err(reflection)?)
        .into_axum_router();
    Ok((health, router))
}

impl Service {
    /// A handle that outlives `run`.
    #[must_use]
    pub fn gateway(&self) -> Gateway {
        Gateway(Arc::clone(&self.ingest))
    }

    /// Where gRPC listens.
    #[must_use]
    pub const fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where HTTP listens.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Serves until `shutdown`, then drains: no new connections, GOAWAY on the others, requests in flight finish.
    ///
    /// # Errors
    /// [`Error::DrainTimeout`] when some did not finish in time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { ingest, router, health, grpc, http, grpc_addr, http_addr } = self;
        tracing::info!(%grpc_addr, %http_addr, "gateway listens");
        let connections = Connections {
            router,
            slots: Arc::new(Semaphore::new(ingest.config.transport.max_connections)),
            tasks: TaskTracker::new(),
            draining: ingest.draining.clone(),
            cut: CancellationToken::new(),
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = connections.clone().accept(grpc) => {}
            () = connections.clone().accept(http) => {}
            () = watch(&ingest, &health) => {}
        }
        ingest.draining.cancel();
        for service in SERVICES {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
        let deadline = Instant::now() + Duration::from_millis(ingest.config.drain_timeout_ms);
        match listener::drain(&connections, deadline.into()).await {
            0 => Ok(()),
            connections => Err(Error::DrainTimeout { connections }),
        }
    }
}

/// Keeps the health service, the partition counts and the gauges up to date.
async fn watch(ingest: &Ingest, health: &HealthReporter) {
    let refresh = Duration::from_millis(ingest.config.topology_refresh_ms);
    let mut refreshed: Option<Instant> = None;
    let mut was_ready = false;
    loop {
        if refreshed.is_none_or(|at| at.elapsed() >= refresh) {
            match ingest.flow.refresh_topology().await {
                Ok(()) => refreshed = Some(Instant::now()),
                Err(error) => tracing::debug!(%error, "the topics could not be looked up"),
            }
        }
        let ready = ingest.ready().await;
        if was_ready != ready.is_ok() {
            was_ready = ready.is_ok();
            match &ready {
                Ok(()) => tracing::info!("ready"),
                Err(reason) => tracing::warn!(%reason, "not ready"),
            }
            let status = if was_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                health.set_service_status(service, status).await;
            }
        }
        let used = i64::try_from(ingest.budget.used()).unwrap_or(i64::MAX);
        ingest.telemetry.budget_used_bytes.set(used);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}
