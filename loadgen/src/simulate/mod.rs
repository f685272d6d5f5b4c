//! `simulate`: a small serving stack that behaves like one, told as traces, at the pace of the wall clock.
//!
//! Pure and seeded: [`arrivals`], [`engine`], [`kv`], [`world`], [`faults`], [`story`]. Thin and clocked: this file
//! and [`send`]. Invariants: same seed, arrivals and start time, same bytes; a trace is sent when its request has
//! ended; Ctrl-C stops arrivals, and everything that ended is still sent.

mod args;
mod arrivals;
mod device;
mod engine;
pub mod faults;
mod fleet;
mod kv;
pub mod offline;
mod samples;
mod send;
mod span;
mod story;
mod world;

use std::{
    fs::File,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};

pub use args::Args;

use self::{
    faults::{Fault, Kind},
    send::Sending,
    story::Telling,
    world::{Output, Setup, World},
};
use crate::{
    protocol::{Codec, Protocol},
    usage::own_cpu_seconds,
};

const TICK: Duration = Duration::from_millis(50);
const MAX_BATCH_AGE: Duration = Duration::from_millis(250);
/// With --fast: simulated time for requests under way to end; an overloaded fleet may need more than it gets.
const DRAIN_LIMIT_NS: i64 = 900_000_000_000;
const FLUSH_LIMIT: Duration = Duration::from_secs(15);

/// What a simulation did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Requests that ended and were told.
    pub traces: u64,
    /// Their spans.
    pub spans: u64,
    /// Spans acknowledged as durable.
    pub acked_spans: u64,
    /// Spans that the gateway refused one by one.
    pub rejected_spans: u64,
    /// Spans of batches that were given up.
    pub failed_spans: u64,
    /// Spans dropped because too many batches were waiting.
    pub dropped_spans: u64,
    /// Arrivals a second.
    pub achieved_rps: f64,
    /// Arrivals a second aimed at.
    pub target_rps: f64,
    /// Median time from a batch's first span's end to the acknowledgement.
    pub p50_ms: f64,
    /// 99th percentile of it.
    pub p99_ms: f64,
    /// CPU seconds of this process.
    pub own_cpu_s: f64,
    /// Simulated seconds.
    pub seconds: f64,
    /// The last failure, if any.
    pub last_error: Option<String>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{} traces, {} spans in {:.1} s ({:.1} requests/s of {:.1} wanted): {} acknowledged, {} rejected, {} failed, \
             {} dropped; p50 {:.1} ms, p99 {:.1} ms{}",
            self.traces,
            self.spans,
            self.seconds,
            self.achieved_rps,
            self.target_rps,
            self.acked_spans,
            self.rejected_spans,
            self.failed_spans,
            self.dropped_spans,
            self.p50_ms,
            self.p99_ms,
            self.last_error.as_ref().map(|error| format!("; last error: {error}")).unwrap_or_default(),
        )
    }
}

/// Simulates until `stop`, or for the duration asked for.
///
/// # Errors
/// For wrong flags, unreadable recordings, and files that cannot be written.
pub fn run(args: Args, stop: Arc<AtomicBool>) -> anyhow::Result<Report> {
    ensure!(
        args.protocol != Protocol::Otlp || args.compression == Codec::None,
        "--compression is for native and frames"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(simulate(args, stop))
}

fn source(args: &Args) -> anyhow::Result<arrivals::Source> {
    match (&args.azure, &args.mooncake) {
        (Some(path), _) => arrivals::azure(path, args.rps, args.speed, args.seed),
        (None, Some(path)) => arrivals::mooncake(path, args.rps, args.speed, args.seed),
        (None, None) => arrivals::synthetic(args.rps, args.seed),
    }
}

fn now_unix_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64
}

async fn simulate(args: Args, stop: Arc<AtomicBool>) -> anyhow::Result<Report> {
    let source = source(&args)?;
    let target_rps = source.rps;
    let duration_ns = args.duration.map(|seconds| (seconds * 1e9) as i64);
    let start_unix_ns = match (args.fast, args.start) {
        (true, Some(seconds)) => seconds * 1_000_000_000,
        (true, None) => now_unix_ns() - duration_ns.unwrap_or(0),
        (false, _) => now_unix_ns(),
    };
    let faults = faults::parse(&args.faults, args.fault_every, args.seed)?;
    let mut labels = Labels::new(&args, faults.clone(), start_unix_ns)?;
    let setup = Setup {
        seed: args.seed,
        replicas: args.replicas,
        faults,
        sample_every_s: args.sample_every,
        tenants: args.tenants,
    };
    let mut world = World::new(setup, source);
    let mut sending = Sending::new(&args)?;
    let mut teller = Teller::new(&args, start_unix_ns);
    let mut progress = Progress::new(args.progress, target_rps);
    let started = Instant::now();
    let mut now_ns = 0;
    loop {
        if stop.load(Ordering::SeqCst) || duration_ns.is_some_and(|end| now_ns >= end) {
            break;
        }
        now_ns = if args.fast { now_ns + 1_000_000_000 } else { started.elapsed().as_nanos() as i64 };
        now_ns = duration_ns.map_or(now_ns, |end| now_ns.min(end));
        teller.advance(&mut world, now_ns, &mut sending).await;
        labels.tell(now_ns)?;
        sending.send_older_than(MAX_BATCH_AGE).await;
        progress.tell(&world, &teller, &sending);
        if args.fast {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(TICK).await;
        }
    }
    if args.fast {
        // Time costs nothing here: let what is under way end.
        world.close();
        let limit_ns = now_ns + DRAIN_LIMIT_NS;
        while world.under_way() > 0 && !stop.load(Ordering::SeqCst) {
            let Some(next) = world.next_event_ns().filter(|next| *next < limit_ns) else { break };
            teller.advance(&mut world, next, &mut sending).await;
        }
    }
    let answered = sending.flush(FLUSH_LIMIT).await;
    if !answered {
        eprintln!("not every batch was answered within {} s", FLUSH_LIMIT.as_secs());
    }
    let mut report = teller.report;
    report.seconds = now_ns as f64 * 1e-9;
    report.target_rps = target_rps;
    report.achieved_rps = world.arrived as f64 / report.seconds.max(1e-9);
    let sent = &sending.sent;
    report.acked_spans = sent.accepted.load(Ordering::Relaxed);
    report.rejected_spans = sent.rejected.load(Ordering::Relaxed);
    report.failed_spans = sent.failed.load(Ordering::Relaxed);
    report.dropped_spans = sent.dropped.load(Ordering::Relaxed);
    report.p50_ms = sent.latencies.lock().quantile_ms(0.5);
    report.p99_ms = sent.latencies.lock().quantile_ms(0.99);
    report.own_cpu_s = own_cpu_seconds();
    report.last_error = sent.last_error.lock().clone();
    Ok(report)
}

/// Turns what the world hands out into what is sent.
struct Teller {
    telling: Telling,
    samples: bool,
    outputs: Vec<Output>,
    report: Report,
}

impl Teller {
    fn new(args: &Args, start_unix_ns: i64) -> Self {
        let telling =
            Telling { seed: args.seed, start_unix_ns, timelines: args.token_timelines, silent: false };
        Self { telling, samples: !args.no_samples, outputs: Vec::new(), report: Report::default() }
    }

    async fn advance(&mut self, world: &mut World, until_ns: i64, sending: &mut Sending) {
        world.advance(until_ns, &mut self.outputs);
        for output in self.outputs.drain(..) {
            match output {
                Output::Ended(request) => {
                    let silent = world.is_on(Kind::Silence, request.deployment, request.ended_ns);
                    let trace = story::tell(*request, Telling { silent, ..self.telling });
                    self.report.traces += 1;
                    self.report.spans += trace.spans.len() as u64;
                    sending.add(&trace).await;
                }
                Output::Sample { at_ns } if self.samples => {
                    let silent = |deployment| world.is_on(Kind::Silence, deployment, at_ns);
                    let reporting: Vec<_> =
                        world.replicas.iter().filter(|replica| !silent(replica.deployment)).collect();
                    let zero = self.telling.start_unix_ns;
                    sending.send_samples(samples::request(
                        &reporting,
                        world.block_tokens,
                        zero,
                        zero + at_ns,
                    ));
                }
                Output::Sample { .. } => {}
            }
        }
    }
}

/// Says the ground truth when a fault begins.
struct Labels {
    pending: Vec<Fault>,
    start_unix_ns: i64,
    file: Option<File>,
}

impl Labels {
    fn new(args: &Args, mut faults: Vec<Fault>, start_unix_ns: i64) -> anyhow::Result<Self> {
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.from_ns));
        let create = |path: &std::path::PathBuf| {
            File::create(path).with_context(|| format!("creating the labels {}", path.display()))
        };
        let file = args.labels.as_ref().map(create).transpose()?;
        Ok(Self { pending: faults, start_unix_ns, file })
    }

    fn tell(&mut self, now_ns: i64) -> anyhow::Result<()> {
        while let Some(fault) = self.pending.pop_if(|fault| fault.from_ns <= now_ns) {
            let label = fault.label(self.start_unix_ns);
            println!("{label}");
            if let Some(file) = &mut self.file {
                writeln!(file, "{label}").context("writing the labels")?;
            }
        }
        Ok(())
    }
}

/// Prints achieved beside target every few seconds.
struct Progress {
    every: Duration,
    last: Instant,
    arrived: u64,
    target_rps: f64,
}

impl Progress {
    fn new(seconds: f64, target_rps: f64) -> Self {
        let every = Duration::from_secs_f64(seconds.max(0.0));
        Self { every, last: Instant::now(), arrived: 0, target_rps }
    }

    fn tell(&mut self, world: &World, teller: &Teller, sending: &Sending) {
        let elapsed = self.last.elapsed();
        if self.every.is_zero() || elapsed < self.every {
            return;
        }
        let rate = (world.arrived - self.arrived) as f64 / elapsed.as_secs_f64();
        let sent = &sending.sent;
        let waiting: usize = world.replicas.iter().map(|replica| replica.engine.waiting.len()).sum();
        eprintln!(
            "{rate:.1} requests/s of {:.1} wanted · {} under way, {waiting} queued · {} spans told, {} acknowledged, {} lost{}",
            self.target_rps,
            world.under_way(),
            teller.report.spans,
            sent.accepted.load(Ordering::Relaxed),
            sent.failed.load(Ordering::Relaxed) + sent.dropped.load(Ordering::Relaxed),
            sent.last_error.lock().as_ref().map(|error| format!(" · {error}")).unwrap_or_default(),
        );
        self.last = Instant::now();
        self.arrived = world.arrived;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
