//! What a blast says while it runs and when it ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{Shared, worker::Counts};

/// The result; as JSON it is one line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Spans acknowledged as durable, and in the ledger if there is one.
    pub acked_spans: u64,
    /// Spans that the gateway refused one by one.
    pub rejected_spans: u64,
    /// Acknowledged spans a second of wall time.
    pub spans_per_s: f64,
    /// Median latency from the intended send time to the acknowledgement.
    pub p50_ms: f64,
    /// 99th percentile of it.
    pub p99_ms: f64,
    /// User and system CPU seconds of this process.
    pub own_cpu_s: f64,
    /// Acknowledged spans for each of them.
    pub spans_per_own_cpu_s: f64,
    /// Spans of requests that failed or were given up.
    pub failed_spans: u64,
    /// Requests made.
    pub requests: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Open loop: requests that left more than 10 ms late.
    pub late: u64,
    /// Request bytes sent, retries included.
    pub bytes: u64,
    /// Wall seconds.
    pub seconds: f64,
    /// Spans a second aimed at, if there was an aim.
    pub target_spans_per_s: Option<f64>,
    /// Protocol.
    pub protocol: &'static str,
    /// Run, as in every trace id.
    pub run: u32,
    /// Seed.
    pub seed: u64,
    /// The last failure, if any.
    pub last_error: Option<String>,
}

impl Report {
    pub(crate) fn new(shared: &Shared, mut counts: Counts, seconds: f64, own_cpu_s: f64) -> Self {
        let acked_spans = shared.acked.load(Ordering::Relaxed);
        Self {
            acked_spans,
            rejected_spans: counts.rejected_spans,
            spans_per_s: acked_spans as f64 / seconds,
            p50_ms: counts.latencies.quantile_ms(0.5),
            p99_ms: counts.latencies.quantile_ms(0.99),
            own_cpu_s,
            spans_per_own_cpu_s: acked_spans as f64 / own_cpu_s,
            failed_spans: counts.failed_spans,
            requests: counts.requests,
            retries: counts.retries,
            late: counts.late,
            bytes: counts.bytes,
            seconds,
            target_spans_per_s: shared.args.rate,
            protocol: shared.args.protocol.name(),
            run: shared.run,
            seed: shared.seed,
            last_error: counts.last_error,
        }
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{} spans acknowledged in {:.1} s: {:.0} spans/s, {:.0} per own CPU-second; p50 {:.1} ms, p99 {:.1} ms; \
             {} rejected, {} failed, {} retries, {} late{}",
            self.acked_spans,
            self.seconds,
            self.spans_per_s,
            self.spans_per_own_cpu_s,
            self.p50_ms,
            self.p99_ms,
            self.rejected_spans,
            self.failed_spans,
            self.retries,
            self.late,
            self.last_error.as_ref().map(|error| format!("; last error: {error}")).unwrap_or_default(),
        )
    }
}

/// Prints achieved beside target until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        if shared.args.progress <= 0.0 {
            return Self { stop: None, thread: None };
        }
        let every = Duration::from_secs_f64(shared.args.progress);
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            let mut before = (Instant::now(), 0);
            while stopped.recv_timeout(every) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let now = (Instant::now(), shared.acked.load(Ordering::Relaxed));
                let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64();
                let target = shared.args.rate.map(|rate| format!(" of {rate:.0} wanted")).unwrap_or_default();
                eprintln!("{:>12} acknowledged, {rate:.0} spans/s{target}", now.1);
                before = now;
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
