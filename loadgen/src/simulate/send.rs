//! From finished requests to acknowledged spans: batches a tenant, bounded sending, counters.
//!
//! What happens when the gateway is slow or away: up to [`MAX_BATCHES`] batches wait and retry; further ones are
//! dropped and counted, since the simulation keeps the clock. With `--fast` it waits instead.

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use infertrace_sdk::{
    Client, ClientConfig, Mode, RetryBudget, SpanBatch, SpanBatchBuilder,
    grpc::{Channel, ChannelConfig, Message},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Args, samples, span::SimTrace};
use crate::{latency::Latencies, protocol::Protocol};

const MAX_BATCHES: u32 = 64;
const BATCH_SPANS: usize = 1_000;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Counters of the sending side.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) samples_failed: AtomicU64,
    pub(crate) latencies: Mutex<Latencies>,
    pub(crate) last_error: Mutex<Option<String>>,
}

/// Spans of one tenant that wait to be sent.
#[derive(Debug, Default)]
struct Open {
    native: SpanBatchBuilder,
    otlp: Vec<u8>,
    spans: usize,
    since: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Way {
    Native(Client),
    Otlp(Channel),
}

/// Sends; one open batch a tenant.
#[derive(Debug)]
pub(crate) struct Sending {
    ways: Vec<(Way, Channel)>,
    open: Vec<Open>,
    slots: Arc<Semaphore>,
    budget: RetryBudget,
    waits: bool,
    pub(crate) sent: Arc<Sent>,
}

impl Sending {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let mut ways = Vec::new();
        let budget = RetryBudget { deadline: Duration::from_secs(120), ..RetryBudget::default() };
        for tenant in 0..args.tenants.max(1) {
            let tenant = if args.tenants > 1 {
                let prefix = if args.tenant.is_empty() { "tenant" } else { &args.tenant };
                format!("{prefix}-{}", tenant + 1)
            } else {
                args.tenant.clone()
            };
            let mut channel = ChannelConfig::new(&args.endpoint);
            if !tenant.is_empty() {
                let name = http::HeaderName::from_static("x-infertrace-tenant");
                channel.headers.push((name, tenant.parse()?));
            }
            let channel = Channel::new(channel)?;
            let way = match args.protocol {
                Protocol::Otlp => Way::Otlp(channel.clone()),
                Protocol::Native | Protocol::Frames => {
                    let mut config = ClientConfig::new(&args.endpoint);
                    config.tenant = tenant;
                    config.compression = args.compression.into();
                    config.retry = budget.clone();
                    let frames = args.protocol == Protocol::Frames;
                    config.mode = if frames { Mode::Frames } else { Mode::Batch };
                    Way::Native(Client::lazy(config)?)
                }
            };
            ways.push((way, channel));
        }
        Ok(Self {
            open: ways.iter().map(|_| Open::default()).collect(),
            ways,
            slots: Arc::new(Semaphore::new(MAX_BATCHES as usize)),
            budget,
            waits: args.fast,
            sent: Arc::default(),
        })
    }

    /// Adds a trace; sends the tenant's batch when it is full.
    pub(crate) async fn add(&mut self, trace: &SimTrace) {
        let tenant = trace.tenant % self.ways.len();
        let open = &mut self.open[tenant];
        match self.ways[tenant].0 {
            Way::Native(_) => trace.write_native(&mut open.native),
            Way::Otlp(_) => trace.write_otlp(&mut open.otlp),
        }
        open.spans += trace.spans.len();
        open.since.get_or_insert_with(Instant::now);
        if open.spans >= BATCH_SPANS {
            self.send(tenant).await;
        }
    }

    /// Sends batches that have waited longer than `age`.
    pub(crate) async fn send_older_than(&mut self, age: Duration) {
        for tenant in 0..self.open.len() {
            if self.open[tenant].since.is_some_and(|since| since.elapsed() >= age) {
                self.send(tenant).await;
            }
        }
    }

    async fn send(&mut self, tenant: usize) {
        let open = &mut self.open[tenant];
        let (spans, since) = (open.spans as u64, open.since.take().unwrap_or_else(Instant::now));
        let (native, otlp) = (open.native.build(), Bytes::from(std::mem::take(&mut open.otlp)));
        open.spans = 0;
        let permit = if self.waits {
            Arc::clone(&self.slots).acquire_owned().await.ok()
        } else {
            Arc::clone(&self.slots).try_acquire_owned().ok()
        };
        let Some(permit) = permit else {
            self.sent.dropped.fetch_add(spans, Ordering::Relaxed);
            return;
        };
        let way = self.ways[tenant].0.clone();
        let (sent, budget) = (Arc::clone(&self.sent), self.budget.clone());
        tokio::spawn(async move {
            let result = deliver(way, native, otlp, spans, &budget).await;
            match result {
                Ok((accepted, rejected)) => {
                    sent.accepted.fetch_add(accepted, Ordering::Relaxed);
                    sent.rejected.fetch_add(rejected, Ordering::Relaxed);
                    sent.latencies.lock().add(since.elapsed());
                }
                Err(error) => {
                    sent.failed.fetch_add(spans, Ordering::Relaxed);
                    *sent.last_error.lock() = Some(error);
                }
            }
            drop(permit);
        });
    }

    /// Sends a metrics request, once: the next reading comes soon.
    pub(crate) fn send_samples(&self, request: Vec<u8>) {
        let channel = self.ways[0].1.clone();
        let sent = Arc::clone(&self.sent);
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            sent.samples_failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        tokio::spawn(async move {
            let message = Message::plain(request);
            if let Err(status) = channel.unary(samples::PATH, &message, REQUEST_LIMIT).await {
                sent.samples_failed.fetch_add(1, Ordering::Relaxed);
                *sent.last_error.lock() = Some(status.to_string());
            }
            drop(permit);
        });
    }

    /// Sends what is open and waits for every answer, `limit` at most.
    pub(crate) async fn flush(&mut self, limit: Duration) -> bool {
        self.waits = true;
        self.send_older_than(Duration::ZERO).await;
        tokio::time::timeout(limit, self.slots.acquire_many(MAX_BATCHES)).await.is_ok()
    }
}

async fn deliver(
    way: Way,
    native: SpanBatch,
    otlp: Bytes,
    spans: u64,
    budget: &RetryBudget,
) -> Result<(u64, u64), String> {
    let channel = match way {
        Way::Native(client) => {
            let outcome = client.export(native).await.map_err(|error| error.to_string())?;
            return Ok((outcome.accepted, outcome.rejected));
        }
        Way::Otlp(channel) => channel,
    };
    let message = Message::plain(otlp);
    let started = Instant::now();
    for attempt in 1.. {
        let status = match channel.unary(Protocol::Otlp.path(), &message, REQUEST_LIMIT).await {
            Ok(answer) => {
                let rejected = crate::protocol::otlp_rejected(&answer).unwrap_or(0);
                return Ok((spans.saturating_sub(rejected), rejected));
            }
            Err(status) => status,
        };
        let wait = budget.wait(attempt, status.retry_delay, &mut rand::rng());
        if !status.is_retriable() || started.elapsed() + wait >= budget.deadline {
            return Err(status.to_string());
        }
        tokio::time::sleep(wait).await;
    }
    Err("no attempt was made".into())
}
