//! The client: sends batches, follows the partition map, retries inside its budget.
//!
//! Invariants: a retry sends the same bytes, so that a batch which was durable after all collapses by its batch
//! id; after a stale-map answer (nothing accepted) the batch is split anew and nothing is lost; bytes waiting to
//! be retried never exceed the budget.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use infertrace_proto::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use crate::{
    ClientConfig, ClientError, Code, Compression, ExportError, Mode, PartitionMap, SpanBatch, Status,
    frames::encode_frames,
    grpc::{Channel, ChannelConfig, Message},
    wire,
};

const EXPORT: &str = "/infertrace.v1.IngestService/Export";
const GET_PARTITION_MAP: &str = "/infertrace.v1.IngestService/GetPartitionMap";
/// Carries the tenant where the body cannot: frames.
const TENANT_HEADER: HeaderName = HeaderName::from_static("x-infertrace-tenant");
/// Map changes one export may live through; more means two gateways disagree.
const MAX_MAP_CHANGES: u32 = 8;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOutcome {
    /// Spans that are durable.
    pub accepted: u64,
    /// Spans refused for good, one by one; the rest of their batch was accepted.
    pub rejected: u64,
    /// Why.
    pub rejections: Vec<Rejection>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Bytes of the request, as sent by one attempt.
    pub request_bytes: u64,
}

/// One reason for which spans of a batch were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A stable snake_case name.
    pub reason: String,
    /// Spans.
    pub count: u64,
    /// Index of the first of them in the batch (in frames: in the request).
    pub first_index: u64,
    /// The gateway's words.
    pub message: String,
}

/// A connection to a gateway; cheap to clone and shared by any number of tasks.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    channel: Channel,
    in_flight: Semaphore,
    retry_bytes: Semaphore,
    map: Mutex<Option<PartitionMap>>,
    sequence: AtomicU64,
}

impl Client {
    /// Connects, and in frames mode fetches the partition map.
    ///
    /// # Errors
    /// A wrong configuration, or a gateway that cannot be reached now; see [`Client::lazy`] for hosts that
    /// must start without it.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let client = Self::lazy(config)?;
        client.shared.channel.connect().await.map_err(ClientError::Unreachable)?;
        if client.shared.config.mode == Mode::Frames {
            client.fetch_partition_map().await.map_err(ClientError::Unreachable)?;
        }
        Ok(client)
    }

    /// A client that connects when first used.
    ///
    /// # Errors
    /// A wrong configuration only.
    pub fn lazy(config: ClientConfig) -> Result<Self, ClientError> {
        config.validate()?;
        let headers = headers_of(&config)?;
        let channel = Channel::new(ChannelConfig {
            endpoint: config.endpoint.clone(),
            connections: config.connections,
            connect_timeout: config.connect_timeout,
            send_buffer_bytes: 0,
            headers,
        })?;
        let shared = Shared {
            in_flight: Semaphore::new(config.in_flight),
            retry_bytes: Semaphore::new(config.retry.max_bytes.min(Semaphore::MAX_PERMITS)),
            map: Mutex::new(None),
            sequence: AtomicU64::new(0),
            channel,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Sends `batch` and returns when its spans are durable, or refused for good. A batch larger than
    /// `max_batch_spans` goes as several requests, one after another.
    ///
    /// # Errors
    /// [`ExportError`]; spans of earlier requests of a cut batch may have been accepted.
    pub async fn export(&self, batch: SpanBatch) -> Result<ExportOutcome, ExportError> {
        let mut total = ExportOutcome::default();
        let mut sent_before = 0;
        for part in batch.chunks(self.shared.config.max_batch_spans) {
            if part.is_empty() {
                continue;
            }
            let spans = part.len() as u64;
            let outcome = self.export_part(&part).await?;
            total.accepted += outcome.accepted;
            total.rejected += outcome.rejected;
            total.retries += outcome.retries;
            total.request_bytes += outcome.request_bytes;
            total.rejections.extend(
                outcome
                    .rejections
                    .into_iter()
                    .map(|r| Rejection { first_index: r.first_index + sent_before, ..r }),
            );
            sent_before += spans;
        }
        Ok(total)
    }

    async fn export_part(&self, batch: &SpanBatch) -> Result<ExportOutcome, ExportError> {
        let _slot = self.shared.in_flight.acquire().await.expect("the semaphore is never closed");
        let batch_id: [u8; 16] = rand::random();
        let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let mut retrying = Retrying::new(self);
        for _ in 0..=MAX_MAP_CHANGES {
            let map = match self.shared.config.mode {
                Mode::Batch => None,
                Mode::Frames => Some(self.partition_map(&mut retrying).await?),
            };
            let message = self.encode(batch, batch_id, sequence, map)?;
            let answer = retrying.call(EXPORT, &message).await?;
            let answer = v1::ExportResponse::decode(answer)
                .map_err(|error| ExportError::BadAnswer(error.to_string()))?;
            if let Some(newer) = answer.partition_map {
                self.remember(&newer);
                continue;
            }
            if let Some(error) = answer.error {
                let code = Code(u32::try_from(error.code).unwrap_or(Code::UNKNOWN.0));
                return Err(ExportError::Refused(Status::new(code, error.message)));
            }
            return Ok(ExportOutcome {
                accepted: answer.accepted_spans,
                rejected: answer.rejected_spans,
                rejections: answer
                    .rejections
                    .into_iter()
                    .map(|r| Rejection {
                        reason: r.reason,
                        count: r.count,
                        first_index: r.first_index,
                        message: r.message,
                    })
                    .collect(),
                retries: retrying.attempts.saturating_sub(1),
                request_bytes: message.len() as u64,
            });
        }
        Err(ExportError::UnstablePartitionMap(MAX_MAP_CHANGES))
    }

    fn encode(
        &self,
        batch: &SpanBatch,
        batch_id: [u8; 16],
        sequence: u64,
        map: Option<PartitionMap>,
    ) -> Result<Message, ExportError> {
        let compression = self.shared.config.compression;
        let failed = |error: std::io::Error| ExportError::Compression(error.to_string());
        if let Some(map) = map {
            let mut request = encode_frames(batch, map, compression).map_err(failed)?;
            wire::put_uint(&mut request, 3, sequence);
            wire::put_uint(&mut request, 4, map.version);
            return Ok(Message::plain(request));
        }
        let mut tail = Vec::with_capacity(64);
        wire::put_bytes(&mut tail, 2, &batch_id);
        wire::put_str_nonempty(&mut tail, 3, &self.shared.config.tenant);
        batch.put_origins(&mut tail);
        let mut head = vec![1 << 3 | 2];
        wire::put_varint(&mut head, (batch.bytes.len() + tail.len()) as u64);
        wire::put_uint(&mut tail, 3, sequence);
        let chunks = vec![Bytes::from(head), batch.bytes.clone(), Bytes::from(tail)];
        if compression == Compression::None {
            return Ok(Message { encoding: None, chunks });
        }
        let packed = compression.compress_message(&chunks.concat()).map_err(failed)?;
        Ok(Message { encoding: compression.grpc_encoding(), chunks: vec![Bytes::from(packed)] })
    }

    async fn partition_map(&self, retrying: &mut Retrying<'_>) -> Result<PartitionMap, ExportError> {
        if let Some(map) = *self.shared.map.lock() {
            return Ok(map);
        }
        let answer = retrying.call(GET_PARTITION_MAP, &Message::plain(Bytes::new())).await?;
        let map =
            v1::PartitionMap::decode(answer).map_err(|error| ExportError::BadAnswer(error.to_string()))?;
        Ok(self.remember(&map))
    }

    /// Asks the gateway for the partitions of the spans topic and remembers them.
    ///
    /// # Errors
    /// The gateway's status.
    pub async fn fetch_partition_map(&self) -> Result<PartitionMap, Status> {
        let message = Message::plain(Bytes::new());
        let limit = self.shared.config.request_timeout;
        let answer = self.shared.channel.unary(GET_PARTITION_MAP, &message, limit).await?;
        let map = v1::PartitionMap::decode(answer).map_err(|e| Status::new(Code::INTERNAL, e.to_string()))?;
        Ok(self.remember(&map))
    }

    fn remember(&self, map: &v1::PartitionMap) -> PartitionMap {
        let map = PartitionMap { version: map.version, partitions: map.partitions.max(1) };
        *self.shared.map.lock() = Some(map);
        map
    }
}

fn headers_of(config: &ClientConfig) -> Result<Vec<(HeaderName, HeaderValue)>, ClientError> {
    let mut headers = Vec::with_capacity(config.headers.len() + 1);
    for (name, value) in &config.headers {
        let name = name.parse().map_err(|_| ClientError::BadConfig("a header name is not valid"))?;
        let value = value.parse().map_err(|_| ClientError::BadConfig("a header value is not valid"))?;
        headers.push((name, value));
    }
    if !config.tenant.is_empty() {
        let tenant = config.tenant.parse();
        let tenant = tenant.map_err(|_| ClientError::BadConfig("the tenant is not a valid header value"))?;
        headers.push((TENANT_HEADER, tenant));
    }
    Ok(headers)
}

/// The attempts of one export.
struct Retrying<'a> {
    client: &'a Client,
    started: Instant,
    attempts: u32,
    failures: u32,
    /// Held from the first failure on: this batch's part of the byte budget.
    bytes: Option<SemaphorePermit<'a>>,
}

impl<'a> Retrying<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, started: Instant::now(), attempts: 0, failures: 0, bytes: None }
    }

    /// Sends the same bytes until they are answered, refused, or out of time.
    async fn call(&mut self, path: &str, message: &Message) -> Result<Bytes, ExportError> {
        let shared = &*self.client.shared;
        loop {
            let counts = u32::from(path == EXPORT);
            self.attempts += counts;
            let limit = shared.config.request_timeout;
            let status = match shared.channel.unary(path, message, limit).await {
                Ok(answer) => return Ok(answer),
                Err(status) if !status.is_retriable() => return Err(ExportError::Refused(status)),
                Err(status) => status,
            };
            self.failures += 1;
            let wait = shared.config.retry.wait(self.failures, status.retry_delay, &mut rand::rng());
            if self.started.elapsed() + wait >= shared.config.retry.deadline {
                return Err(ExportError::DeadlineExceeded { attempts: self.attempts.max(1), last: status });
            }
            self.hold(message.len(), &status)?;
            tracing::debug!(%status, wait_ms = wait.as_millis() as u64, "export will be retried");
            tokio::time::sleep(wait).await;
        }
    }

    fn hold(&mut self, bytes: usize, status: &Status) -> Result<(), ExportError> {
        if self.bytes.is_some() {
            return Ok(());
        }
        let shared = &*self.client.shared;
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        match shared.retry_bytes.try_acquire_many(wanted) {
            Ok(permit) => self.bytes = Some(permit),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let budget_bytes = shared.config.retry.max_bytes;
                return Err(ExportError::RetryBudgetExhausted { budget_bytes, last: status.clone() });
            }
        }
        Ok(())
    }
}
