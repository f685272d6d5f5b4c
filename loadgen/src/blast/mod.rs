//! `blast`: as many spans a second as one core can send, each with ids of its own.
//!
//! Bodies are encoded once, stamped in place ([`body`]) and sent without a copy over HTTP/2. Neighbours: the
//! ledger keeps what was acknowledged, `verify` judges by it, [`sink`] measures the generator alone.
//! Invariants: a request's spans count as acknowledged only after their ledger entry is on disk; a retry sends
//! the same bytes; every slot holds one request, so memory is bounded by connections × in-flight.

pub mod body;
mod report;
pub mod sink;
pub mod template;
mod worker;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use infertrace_sdk::{Client, ClientConfig, Mode};

pub use report::Report;

use crate::{
    ledger,
    protocol::{Codec, Protocol},
    usage::own_cpu_seconds,
};

/// Sends pre-encoded spans as fast as wanted and counts the acknowledged ones.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway's gRPC address
    #[arg(long, default_value = "http://127.0.0.1:4317", env = "INFERTRACE_ENDPOINT")]
    pub endpoint: String,
    /// How to send
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// Compression of frames; done for every send, so it costs CPU here
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
    /// Tenant; empty for the default one
    #[arg(long, default_value = "")]
    pub tenant: String,
    /// Spans of one request
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..))]
    pub spans_per_request: u16,
    /// HTTP/2 connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Requests under way on each connection
    #[arg(long, default_value_t = 4)]
    pub in_flight: usize,
    /// OS threads, each with its share of the connections
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Seconds to send for
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Spans to send (rounded up to whole requests), however long it takes; --duration does not count then
    #[arg(long)]
    pub count: Option<u64>,
    /// Spans a second to aim at (open loop); without it the next request leaves when one is answered
    #[arg(long)]
    pub rate: Option<f64>,
    /// Try again what was refused for now or not answered: same bytes, back-off
    #[arg(long)]
    pub retry: bool,
    /// Give a request up after this many seconds of retrying
    #[arg(long, default_value_t = 120.0)]
    pub retry_deadline: f64,
    /// Milliseconds to wait for one answer
    #[arg(long, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// Seed of contents and run id; random if not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write what was acknowledged here, for `verify`; the file must not exist
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Seconds between progress lines on stderr; 0 for none
    #[arg(long, default_value_t = 2.0)]
    pub progress: f64,
    /// End stdout with the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// As the command line without any flag would give them, to `endpoint`.
    #[must_use]
    pub fn to(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.into(),
            protocol: Protocol::Native,
            compression: Codec::None,
            tenant: String::new(),
            spans_per_request: 1_000,
            connections: 4,
            in_flight: 4,
            threads: 1,
            duration: 10.0,
            count: None,
            rate: None,
            retry: false,
            retry_deadline: 120.0,
            timeout_ms: 10_000,
            seed: None,
            ledger: None,
            progress: 0.0,
            json: false,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.connections > 0 && self.in_flight > 0 && self.threads > 0,
            "--connections, --in-flight and --threads are at least 1"
        );
        ensure!(self.rate.is_none_or(|rate| rate > 0.0), "--rate is above 0");
        ensure!(self.duration > 0.0, "--duration is above 0");
        ensure!(
            self.compression == Codec::None || self.protocol == Protocol::Frames,
            "--compression is for --protocol frames; other bodies are pre-encoded and patched in place"
        );
        Ok(())
    }
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) args: Args,
    pub(crate) run: u32,
    pub(crate) seed: u64,
    pub(crate) started: Instant,
    pub(crate) next_sequence: AtomicU64,
    pub(crate) last_sequence: u64,
    pub(crate) interval: Option<Duration>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) acked: Arc<AtomicU64>,
    pub(crate) partitions: u32,
    pub(crate) map_version: u64,
}

impl Shared {
    /// The next request's number and intended send time; `None` when it is time to end.
    pub(crate) fn next(&self) -> Option<(u64, Option<Instant>)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let ends = self.started + Duration::from_secs_f64(self.args.duration);
        if self.args.count.is_none() && Instant::now() >= ends {
            return None;
        }
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        if sequence >= self.last_sequence {
            return None;
        }
        let intended = self.interval.map(|interval| self.started + interval.mul_f64(sequence as f64));
        if self.args.count.is_none() && intended.is_some_and(|intended| intended >= ends) {
            return None;
        }
        Some((sequence, intended))
    }
}

/// Runs a blast; `stop` ends it early and cleanly.
///
/// # Errors
/// For flags that do not go together, a ledger that cannot be written, or a gateway that hands out no partition map.
pub fn run(args: Args, stop: Arc<AtomicBool>) -> anyhow::Result<Report> {
    args.check()?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let run = (seed ^ seed >> 32) as u32;
    let (partitions, map_version) = match args.protocol {
        Protocol::Frames => partition_map(&args)?,
        Protocol::Native | Protocol::Otlp => (0, 0),
    };
    let acked = Arc::new(AtomicU64::new(0));
    let writer = match &args.ledger {
        None => None,
        Some(path) => {
            let header =
                ledger::Header::new(run, seed, args.spans_per_request, args.protocol.name(), &args.tenant);
            let acked = Arc::clone(&acked);
            Some(ledger::Writer::create(path, &header, move |group| {
                let spans: u64 = group.iter().map(|entry| u64::from(entry.spans)).sum();
                acked.fetch_add(spans, Ordering::Relaxed);
            })?)
        }
    };
    let spans_per_request = u64::from(args.spans_per_request);
    let shared = Arc::new(Shared {
        run,
        seed,
        started: Instant::now(),
        next_sequence: AtomicU64::new(0),
        last_sequence: args.count.map_or(u64::MAX, |count| count.div_ceil(spans_per_request)),
        interval: args.rate.map(|rate| Duration::from_secs_f64(spans_per_request as f64 / rate)),
        stop,
        acked,
        partitions,
        map_version,
        args,
    });
    let cpu_before = own_cpu_seconds();
    let threads = start_threads(&shared, writer.as_ref())?;
    let progress = report::Progress::start(Arc::clone(&shared));
    let mut counts = worker::Counts::default();
    for thread in threads {
        counts.merge(thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??);
    }
    let seconds = shared.started.elapsed().as_secs_f64();
    drop(progress);
    if let Some(writer) = writer {
        writer.close()?;
    }
    Ok(Report::new(&shared, counts, seconds, own_cpu_seconds() - cpu_before))
}

type WorkerThread = std::thread::JoinHandle<anyhow::Result<worker::Counts>>;

fn start_threads(shared: &Arc<Shared>, writer: Option<&ledger::Writer>) -> anyhow::Result<Vec<WorkerThread>> {
    let threads = shared.args.threads.min(shared.args.connections);
    let mut started = Vec::with_capacity(threads);
    for thread in 0..threads {
        let shared = Arc::clone(shared);
        let ledger = writer.map(ledger::Writer::handle);
        let connections = (0..shared.args.connections).filter(|c| c % threads == thread).collect::<Vec<_>>();
        let name = format!("blast-{thread}");
        started.push(
            std::thread::Builder::new()
                .name(name)
                .spawn(move || worker::run(&shared, &connections, ledger))?,
        );
    }
    Ok(started)
}

fn partition_map(args: &Args) -> anyhow::Result<(u32, u64)> {
    let mut config = ClientConfig::new(&args.endpoint);
    config.mode = Mode::Frames;
    config.tenant.clone_from(&args.tenant);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let map = runtime
        .block_on(async { Client::lazy(config)?.fetch_partition_map().await.map_err(anyhow::Error::from) })
        .context("fetching the partition map")?;
    Ok((map.partitions, map.version))
}
