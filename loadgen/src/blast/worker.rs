//! One thread of `blast`: its connections, its slots, its counts.

use std::{
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use infertrace_proto::v1;
use infertrace_sdk::{
    Code, Compression, RetryBudget, Status,
    grpc::{Channel, ChannelConfig, Message},
};
use prost::Message as _;

use super::{Shared, body::Body, template::Template};
use crate::{
    latency::Latencies,
    ledger::Entry,
    protocol::{Codec, Protocol, otlp_rejected},
};

/// What the senders counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) acked_spans: u64,
    pub(crate) rejected_spans: u64,
    pub(crate) failed_spans: u64,
    pub(crate) bytes: u64,
    pub(crate) retries: u64,
    pub(crate) late: u64,
    pub(crate) latencies: Latencies,
    pub(crate) last_error: Option<String>,
}

impl Counts {
    pub(crate) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.acked_spans += other.acked_spans;
        self.rejected_spans += other.rejected_spans;
        self.failed_spans += other.failed_spans;
        self.bytes += other.bytes;
        self.retries += other.retries;
        self.late += other.late;
        self.latencies.merge(other.latencies);
        self.last_error = other.last_error.or(self.last_error.take());
    }
}

/// Runs the connections numbered `connections` until there is nothing left to send.
pub(crate) fn run(
    shared: &Arc<Shared>,
    connections: &[usize],
    ledger: Option<SyncSender<Entry>>,
) -> anyhow::Result<Counts> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut slots = Vec::new();
        for &connection in connections {
            let mut config = ChannelConfig::new(&shared.args.endpoint);
            config.send_buffer_bytes = 4 << 20;
            if !shared.args.tenant.is_empty() {
                let name = http::HeaderName::from_static("x-infertrace-tenant");
                config.headers.push((name, shared.args.tenant.parse()?));
            }
            let channel = Channel::new(config)?;
            for slot in 0..shared.args.in_flight {
                let variant = (connection * shared.args.in_flight + slot) as u32;
                let sender = Sender::new(shared, channel.clone(), variant, ledger.clone());
                slots.push(tokio::spawn(sender.run()));
            }
        }
        let mut counts = Counts::default();
        for slot in slots {
            counts.merge(slot.await?);
        }
        Ok(counts)
    })
}

/// One request under way at a time.
struct Sender {
    shared: Arc<Shared>,
    channel: Channel,
    variant: u32,
    body: Body,
    budget: RetryBudget,
    ledger: Option<SyncSender<Entry>>,
    counts: Counts,
}

enum Outcome {
    Answered { accepted: u64, rejected: u64 },
    StaleMap(v1::PartitionMap),
    Failed(Status),
}

impl Sender {
    fn new(shared: &Arc<Shared>, channel: Channel, variant: u32, ledger: Option<SyncSender<Entry>>) -> Self {
        let args = &shared.args;
        let template = Template::generate(shared.seed, variant, args.spans_per_request);
        let body = Body::new(template, args.protocol, &args.tenant, shared.partitions, shared.map_version);
        let budget = RetryBudget {
            deadline: Duration::from_secs_f64(if args.retry { args.retry_deadline } else { 0.0 }),
            ..RetryBudget::default()
        };
        Self { shared: Arc::clone(shared), channel, variant, body, budget, ledger, counts: Counts::default() }
    }

    async fn run(mut self) -> Counts {
        while let Some((sequence, intended)) = self.shared.next() {
            if let Some(intended) = intended {
                let now = Instant::now();
                if now < intended {
                    tokio::time::sleep_until(intended.into()).await;
                } else if now > intended + Duration::from_millis(10) {
                    self.counts.late += 1;
                }
            }
            let from = intended.unwrap_or_else(Instant::now);
            self.send(sequence, from).await;
        }
        self.counts
    }

    async fn send(&mut self, sequence: u64, from: Instant) {
        let spans = u64::from(self.shared.args.spans_per_request);
        let base_time_ns = base_time(&self.body);
        self.counts.requests += 1;
        loop {
            let stamped = self.body.stamp(self.shared.run, sequence, base_time_ns);
            let outcome = match self.message(&stamped) {
                Ok(message) => self.deliver(message, from).await,
                Err(error) => Outcome::Failed(Status::new(Code::INTERNAL, error.to_string())),
            };
            self.body.reclaim(stamped);
            match outcome {
                Outcome::Answered { accepted, rejected } => {
                    self.counts.latencies.add(from.elapsed());
                    self.counts.rejected_spans += rejected;
                    self.counts.acked_spans += accepted;
                    self.acknowledge(sequence, base_time_ns, accepted, accepted == spans);
                }
                Outcome::StaleMap(map) => {
                    let template = self.body.template().clone();
                    let args = &self.shared.args;
                    self.body =
                        Body::new(template, args.protocol, &args.tenant, map.partitions.max(1), map.version);
                    continue;
                }
                Outcome::Failed(status) => {
                    self.counts.failed_spans += spans;
                    self.counts.last_error = Some(status.to_string());
                    // A closed loop must not spin on a gateway that is away.
                    if self.shared.interval.is_none() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            return;
        }
    }

    fn message(&self, stamped: &Bytes) -> std::io::Result<Message> {
        match self.shared.args.compression {
            Codec::None => Ok(Message::plain(stamped.clone())),
            codec => Ok(Message::plain(self.body.compress(stamped, Compression::from(codec))?)),
        }
    }

    /// Sends the same bytes until they are answered or the budget's deadline has passed.
    async fn deliver(&mut self, message: Message, from: Instant) -> Outcome {
        let limit = Duration::from_millis(self.shared.args.timeout_ms);
        let path = self.shared.args.protocol.path();
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.counts.bytes += message.len() as u64;
            let status = match self.channel.unary(path, &message, limit).await {
                Ok(answer) => return self.read(&answer),
                Err(status) => status,
            };
            let retriable = status.is_retriable() || status.code == Code::RESOURCE_EXHAUSTED;
            let wait = self.budget.wait(attempt, status.retry_delay, &mut rand::rng());
            if !retriable || from.elapsed() + wait >= self.budget.deadline {
                return Outcome::Failed(status);
            }
            self.counts.retries += 1;
            tokio::time::sleep(wait).await;
        }
    }

    fn read(&self, answer: &Bytes) -> Outcome {
        let unreadable =
            |what: String| Outcome::Failed(Status::new(Code::INTERNAL, format!("the answer: {what}")));
        let spans = u64::from(self.shared.args.spans_per_request);
        if self.shared.args.protocol == Protocol::Otlp {
            return match otlp_rejected(answer) {
                Some(rejected) => Outcome::Answered { accepted: spans.saturating_sub(rejected), rejected },
                None => unreadable("not an ExportTraceServiceResponse".into()),
            };
        }
        match v1::ExportResponse::decode(answer.clone()) {
            Err(error) => unreadable(error.to_string()),
            Ok(v1::ExportResponse { partition_map: Some(map), .. }) => Outcome::StaleMap(map),
            Ok(response) => {
                Outcome::Answered { accepted: response.accepted_spans, rejected: response.rejected_spans }
            }
        }
    }

    fn acknowledge(&self, sequence: u64, base_time_ns: i64, accepted: u64, whole: bool) {
        let Some(ledger) = &self.ledger else {
            self.shared.acked.fetch_add(accepted, Ordering::Relaxed);
            return;
        };
        // Of a partly rejected request it is not known which spans are durable: it is not in the ledger.
        if whole {
            let entry = Entry {
                sequence,
                base_time_ns,
                spans: accepted as u32,
                variant: self.variant,
                partitions: self.body.partitions(),
                content: self.body.template().digest,
            };
            // The writer is gone only after a failed write, which `close` reports.
            let _ = ledger.send(entry);
        }
    }
}

/// Now, less the time that the request's spans cover: no span ends in the future.
fn base_time(body: &Body) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
    now - i64::from(body.template().traces) * 1_000_000 - 2_000_000_000
}
