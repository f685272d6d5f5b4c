//! What the tests and the benchmark share: spans, a log in memory, a writer of lakes, a client.
#![allow(dead_code, missing_docs, clippy::unwrap_used, unreachable_pub)]

pub mod client;
pub mod lake;
pub mod log;
pub mod schema;
pub mod spans;
pub mod warm;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use infertrace_analytics::cost::{Defaults, PriceTable, Pricer};
use infertrace_query::{Check, Config, Deps, LakeSource, build, insights::feed::TOPICS, warm::WarmSource};
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_runtime::{
    clock::{Clock, ManualClock},
    log::Log,
};
use infertrace_schemas::{lake::LakeRoot, topics::SPANS};
use infertrace_tests::clickhouse::ClickHouse;
use object_store::ObjectStore;
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A time for tests: 2026-03-01T00:00:00Z.
pub const NOW_NS: i64 = 1_772_323_200_000_000_000;

/// A running service.
pub struct Server {
    pub address: SocketAddr,
    pub clock: ManualClock,
    /// Ends with the server.
    pub clickhouse: Option<ClickHouse>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), infertrace_query::Error>>,
}

/// What to start a service over.
#[derive(Clone, Default)]
pub struct Setup {
    pub log: Option<Arc<log::MemoryLog>>,
    pub warm: Option<WarmSource>,
    pub store: Option<Arc<dyn ObjectStore>>,
    pub config: Config,
    pub not_ready: Option<String>,
}

impl Setup {
    pub async fn start(mut self) -> Server {
        self.config.listen = "127.0.0.1:0".parse().unwrap();
        self.config.hot.publish_interval_ms = 5;
        self.config.lake.refresh_interval_ms = 20;
        self.config.warm.refresh_interval_ms = 100;
        // The engine of the tests answers one question at a time.
        if self.config.warm.lookup_timeout_ms == Config::default().warm.lookup_timeout_ms {
            self.config.warm.lookup_timeout_ms = 10_000;
        }
        // Small enough that a search takes several steps.
        self.config.lake.search_step_rows = 24;
        let clock = ManualClock::new(NOW_NS);
        let mut registry = MetricsRegistry::default();
        let not_ready = self.not_ready.clone();
        let deps = Deps {
            log: self.log.clone().map(|log| log as Arc<dyn Log>),
            warm: self.warm.clone(),
            lake: self.store.clone().map(|store| LakeSource { store, root: LakeRoot::new(lake::ROOT) }),
            pricer: Arc::new(Pricer::new(PriceTable::embedded().unwrap(), Defaults::default())),
            clock: Arc::new(clock.clone()) as Arc<dyn Clock>,
            metrics: &mut registry,
            exposition: Arc::new(|| "# EOF\n".to_owned()),
            readiness: Arc::new(move || {
                let detail = not_ready.clone();
                Box::pin(async move {
                    vec![Check { name: "log".to_owned(), ok: detail.is_none(), required: true, detail }]
                })
            }),
        };
        let service = build(self.config.clone(), deps).await.unwrap();
        let address = service.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(stop.clone()));
        let server = Server { address, clock, clickhouse: None, stop, task };
        if let Some(log) = &self.log {
            server.has_read(log).await;
        }
        if self.warm.is_some() {
            until("ClickHouse was looked at", || async {
                let status = server.get("/api/v1/status").await.json();
                status["tiers"]["warm"]["error"] != "it was not asked yet"
            })
            .await;
        }
        if self.store.is_some() {
            until("the lake is listed", || async {
                let status = server.get("/api/v1/status").await.json();
                status["tiers"]["cold"]["error"].is_null()
            })
            .await;
        }
        server
    }
}

impl Server {
    pub async fn get(&self, path: &str) -> client::Answer {
        client::get(self.address, path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> client::Answer {
        client::get(self.address, path, headers).await
    }

    /// Waits until everything in the log is visible.
    pub async fn has_read(&self, log: &log::MemoryLog) {
        let reached = |partitions: &Json, topic: &str| {
            let partitions = partitions.as_array().cloned().unwrap_or_default();
            log.ends(topic).iter().enumerate().all(|(partition, end)| {
                partitions.iter().any(|known| {
                    known["partition"] == partition
                        && known["next_offset"] == *end
                        && known["topic"].as_str().is_none_or(|known| known == topic)
                })
            })
        };
        until("the service has read the log", || async {
            let status = self.get("/api/v1/status").await.json();
            reached(&status["tiers"]["hot"]["partitions"], SPANS)
                && TOPICS.iter().all(|topic| reached(&status["insights"]["partitions"], topic))
        })
        .await;
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Asks again until it holds; fails after ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asked = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), asked).await.is_ok(), "never: {what}");
}
