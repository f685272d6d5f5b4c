//! The conformance suite on the embedded log, with small segments so that every case crosses some.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use infertrace_runtime::{
    clock::ManualClock,
    log::{
        Log, LogError,
        conformance::{CASES, Capabilities, LogFactory, run_all},
        embedded::{Config, EmbeddedLog},
    },
};
use parking_lot::Mutex;

struct Embedded {
    config: Config,
    clock: ManualClock,
    log: Mutex<Arc<EmbeddedLog>>,
    names: AtomicU64,
}

impl Embedded {
    fn new(config: Config) -> Self {
        let clock = ManualClock::new(1_767_225_660_000_000_000);
        let log = EmbeddedLog::open_with(config.clone(), Arc::new(clock.clone())).unwrap();
        Self { config, clock, log: Mutex::new(log), names: AtomicU64::new(0) }
    }

    fn current(&self) -> Arc<EmbeddedLog> {
        self.log.lock().clone()
    }
}

#[async_trait]
impl LogFactory for Embedded {
    async fn log(&self) -> Result<Arc<dyn Log>, LogError> {
        Ok(self.current())
    }

    async fn reopen(&self, log: Arc<dyn Log>) -> Result<Arc<dyn Log>, LogError> {
        drop(log);
        self.current().close();
        let log = EmbeddedLog::open_with(self.config.clone(), Arc::new(self.clock.clone()))?;
        *self.log.lock() = log.clone();
        Ok(log)
    }

    fn unique(&self, hint: &str) -> String {
        format!("{hint}.{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            force_compaction: true,
            force_retention: true,
            restart: true,
            patience: Duration::from_secs(10),
        }
    }

    async fn compact(&self, _topic: &str) -> Result<(), LogError> {
        self.current().compact().await
    }

    async fn expire(&self, _topic: &str) -> Result<(), LogError> {
        self.clock.advance(2 * 3_600_000_000_000);
        self.current().compact().await
    }
}

async fn passes(change: impl FnOnce(&mut Config)) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        dir: dir.path().to_owned(),
        segment_bytes: 512 << 10,
        max_record_bytes: 256 << 10,
        max_queue_bytes: 4 << 20,
        reserve_bytes: 0,
        ..Config::default()
    };
    change(&mut config);
    let reports = run_all(&Embedded::new(config)).await;
    for report in &reports {
        println!("{report}");
    }
    assert_eq!(reports.len(), CASES.len());
    let failed: Vec<_> = reports.iter().filter(|report| report.failed()).map(|report| report.name).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Scenario: every case, with the defaults (sync before every answer, LZ4). Guarantee: the log's contract.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_log_conforms() {
    passes(|_| ()).await;
}

/// Scenario: every case with the smallest segments, no compression, no preallocation, syncs by interval.
/// Guarantee: the contract does not hang on any of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_log_conforms_when_configured_otherwise() {
    use infertrace_runtime::log::embedded::{Compression, Fsync};
    passes(|config| {
        config.segment_records = 20;
        config.compression = Compression::None;
        config.preallocate = false;
        config.fsync = Fsync::IntervalMs(20);
    })
    .await;
}
