//! Simulated inference traffic inside `infertrace up`: the load generator's simulator, sending to our own gateway.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context as _;
use clap::Parser;
use infertrace_loadgen::simulate;

/// The simulator on a thread of its own.
pub(crate) struct Demo {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: simulate::Args,
}

/// Starts it against the gateway at `endpoint`.
pub(crate) fn start(endpoint: String) -> anyhow::Result<Demo> {
    let line = Line::try_parse_from([
        "demo",
        "--endpoint",
        &endpoint,
        "--rps",
        "5",
        "--faults",
        "demo",
        "--tenants",
        "1",
        "--progress",
        "0",
    ])?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let thread = std::thread::Builder::new()
        .name("demo".into())
        .spawn(move || {
            if let Err(error) = simulate::run(line.args, asked) {
                tracing::warn!(error = format!("{error:#}"), "the demo traffic ended");
            }
        })
        .context("starting the demo's thread")?;
    Ok(Demo { stop, thread })
}

impl Demo {
    /// Lets requests under way finish and ends.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("the demo's thread panicked");
        }
    }
}
