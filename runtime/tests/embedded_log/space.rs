//! Full disks.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use infertrace_runtime::log::{Log, LogError, embedded::Config};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{append, at, config, noise, open, read_all, record, spec};

/// Scenario: the file system has less free space than the reserve. Guarantee: appends are refused as
/// retriable, readiness says why, and what is there can be read; with a smaller reserve it accepts again.
#[tokio::test]
async fn below_the_reserve_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(config(dir.path()));
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    append(&log, record(&at("t", 0), "x")).await.unwrap();
    log.close();
    let log = open(Config { reserve_bytes: u64::MAX / 2, ..config(dir.path()) });
    let error = append(&log, record(&at("t", 0), "y")).await.unwrap_err();
    assert!(matches!(error, LogError::DiskFull { .. }) && error.is_retriable(), "{error}");
    let error = log.ready().await.unwrap_err();
    assert!(error.to_string().contains("reserve_bytes"), "{error}");
    assert_eq!(read_all(&log, &at("t", 0), 0).await.unwrap().len(), 1);
    log.close();
    let log = open(config(dir.path()));
    log.ready().await.unwrap();
    assert_eq!(append(&log, record(&at("t", 0), "y")).await.unwrap(), 1);
}

const DIR: &str = "EMBEDDED_LOG_SPACE_DIR";

fn limit_files(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// Not a test of its own: runs in a child, because the limit is the process's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_fills_its_disk() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    // SAFETY: ignoring a signal installs no handler. Without it a write past the limit kills the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let config = Config {
        segment_bytes: 16 << 20,
        max_record_bytes: 1 << 20,
        preallocate: false,
        ..config(dir.as_ref())
    };
    let log = open(config.clone());
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    let mut acked = Vec::new();
    limit_files(Some(500_000));
    let error = loop {
        let number = acked.len() as u64;
        match append(&log, record(&at("t", 0), noise(number, 60_000))).await {
            Ok(offset) => acked.push(offset),
            Err(error) => break error,
        }
        assert!(acked.len() < 20, "the limit does not hold");
    };
    assert!(matches!(error, LogError::DiskFull { .. }), "{error}");
    assert!(log.append(record(&at("t", 0), "at once")).is_err_and(|error| error.is_retriable()));
    assert!(matches!(log.ready().await, Err(LogError::DiskFull { .. })));
    limit_files(None);
    let deadline = Instant::now() + Duration::from_secs(20);
    let offset = loop {
        match append(&log, record(&at("t", 0), "space again")).await {
            Ok(offset) => break offset,
            Err(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(offset, acked.len() as u64, "the refused record took an offset");
    log.ready().await.unwrap();
    log.close();
    let log = open(config);
    let records = read_all(&log, &at("t", 0), 0).await.unwrap();
    assert_eq!(records.len(), acked.len() + 1);
    for (number, record) in (0_u64..).zip(&records[..acked.len()]) {
        assert_eq!(record.payload.as_deref(), Some(&noise(number, 60_000)[..]));
    }
    println!("filled after {} records", acked.len());
}

/// Scenario: a write fails half-way for want of space (a file-size limit stands for the disk's end), later
/// there is space. Guarantee: the appender learns it, the half-written entry is cut off, nothing
/// acknowledged is lost, and the log accepts again without a restart.
#[test]
fn a_write_that_runs_out_of_space_leaves_nothing() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "space::child_fills_its_disk", "--nocapture", "--test-threads=1"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("filled after"), "the child did not run: {text}");
}
