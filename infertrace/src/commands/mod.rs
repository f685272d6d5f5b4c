//! Commands that look at a log, a lake or a file and end: topics, dlq, clickhouse, audit, lake, detect, evaluate, replay.
//!
//! Each file reads its flags, calls the library that does the work and prints. Exit codes: 0 as wanted, 1 for
//! findings (a difference, a letter that cannot go back), 2 for an error.

pub(crate) mod audit;
pub(crate) mod clickhouse;
pub(crate) mod detect;
pub(crate) mod dlq;
pub(crate) mod evaluate_nab;
pub(crate) mod evaluate_scenarios;
mod insights_text;
pub(crate) mod lake;
pub(crate) mod replay;
pub(crate) mod topics;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use infertrace_runtime::log::{LogError, Millis};

use crate::{config::Config, platform::Backend};

/// How long a command waits for a broker that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a command exits with when it found something.
const FINDINGS: u8 = 1;

fn exit(is_clean: bool) -> ExitCode {
    if is_clean { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) }
}

/// Runs a command; log lines go to stderr from `warn` on.
fn block_on<T>(config: &Config, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // A second command of one process finds the lines set up already.
    let _ = infertrace_runtime::telemetry::init_logs(config.log_format, "warn");
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("infertrace")
        .build()
        .context("starting the runtime")?
        .block_on(command)
}

/// The log that the configuration names; the embedded one only where there is one.
async fn open(config: &Config) -> anyhow::Result<Backend> {
    if !config.uses_kafka() {
        let folder = config.data_dir.join("log");
        anyhow::ensure!(
            folder.is_dir(),
            "there is no log in {}: give --data-dir DIR, or --kafka HOST:PORT",
            config.data_dir.display()
        );
    }
    let backend = Backend::open(config).with_context(|| {
        if config.uses_kafka() {
            format!("opening Kafka at {}", config.kafka.brokers)
        } else {
            "this command needs the embedded log to itself: stop `infertrace up` first (on Kafka both run at once)"
                .to_owned()
        }
    })?;
    let log = backend.log();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match log.ready().await {
            Err(LogError::Unavailable(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(LogError::DiskFull { .. }) | Ok(()) => return Ok(backend),
            Err(error) => {
                backend.close().await;
                return Err(error).context("the log does not answer");
            }
        }
    }
}

fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
