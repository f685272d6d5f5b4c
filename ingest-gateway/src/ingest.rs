//! The instrumented middle: one request's bytes through `parse` and `flow`, counted on the way.
//!
//! Knows no transport. Its callers turn [`Answer`] and `Refusal` into gRPC or HTTP.

use std::{sync::Arc, time::Duration};

use infertrace_proto::v1::{ExportResponse, PartitionMap, Rejection};
use tokio_util::sync::CancellationToken;

use crate::{
    budget::{Budget, Permit},
    config::Config,
    error::{NotReady, Refusal},
    flow::{Flow, Pending, Target},
    parse::{self, Outcome, Rejections, Window, frames, json::Signal},
    pool::BufferPool,
    telemetry::{Protocol, Telemetry},
};

/// Longest wait for the log to say whether it takes writes.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// What all requests share.
pub(crate) struct Ingest {
    pub(crate) config: Config,
    pub(crate) flow: Flow,
    pub(crate) budget: Arc<Budget>,
    pub(crate) telemetry: Arc<Telemetry>,
    /// Buffers of bodies.
    pub(crate) bodies: BufferPool,
    /// Buffers of records.
    pub(crate) records: BufferPool,
    /// Cancelled when the gateway drains.
    pub(crate) draining: CancellationToken,
}

/// What a request's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// `infertrace.v1.ExportRequest`.
    Native,
    /// `ExportTraceServiceRequest`.
    OtlpTraces,
    /// `ExportMetricsServiceRequest`.
    OtlpMetrics,
    /// Either of OTLP's as JSON.
    OtlpJson(Signal),
}

/// What to tell the sender of an acknowledged request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) accepted: u64,
    pub(crate) rejections: Rejections,
    pub(crate) sequence: u64,
    /// The sender's map was stale, nothing was accepted.
    pub(crate) partition_map: Option<PartitionMap>,
}

/// A request whose records are on their way.
pub(crate) struct Submitted {
    answer: Answer,
    pending: Option<Pending>,
    protocol: Protocol,
    tenant: String,
}

impl Ingest {
    /// Parses a request and hands its records to the log. `permit` covers `bytes`; the caller frees them
    /// when this returns.
    pub(crate) fn submit(
        &self,
        content: Content,
        protocol: Protocol,
        bytes: &[u8],
        mut permit: Permit,
        tenant: &str,
    ) -> Result<Submitted, Refusal> {
        let target = match content {
            Content::OtlpMetrics | Content::OtlpJson(Signal::Metrics) => Target::Samples,
            _ => Target::Spans,
        };
        let context = parse::Context {
            limits: &self.config.limits,
            window: Window::around(self.flow.clock().now_unix_nanos(), &self.config.limits),
            partitions: self.flow.partitions(target)?,
            tenant,
            max_record_bytes: self.config.max_record_bytes,
            pool: &self.records,
        };
        let mut protocol = protocol;
        let mut sequence = 0;
        let outcome = match content {
            Content::OtlpTraces => parse::otlp::parse(bytes, &context)?,
            Content::OtlpMetrics => parse::metrics::parse(bytes, &context)?,
            Content::OtlpJson(signal) => {
                let mut protobuf = self.bodies.take();
                parse::json::transcode(bytes, signal, &self.config.limits, &mut protobuf)?;
                match signal {
                    Signal::Traces => parse::otlp::parse(&protobuf, &context)?,
                    Signal::Metrics => parse::metrics::parse(&protobuf, &context)?,
                }
            }
            Content::Native => {
                let export = frames::read_export(bytes, self.config.limits.max_frames)?;
                sequence = export.sequence;
                if export.frames.is_empty() {
                    parse::native::parse(export.batch.unwrap_or_default(), &context)?
                } else {
                    protocol = Protocol::frames;
                    let map = self.flow.partition_map()?;
                    if map.version != export.partition_map_version {
                        return Ok(Submitted::stale(map, sequence));
                    }
                    frames::parse(&export.frames, self.config.validate, &context)?
                }
            }
        };
        let Outcome { records, accepted, rejections } = outcome;
        let output = records.iter().map(|record| record.payload.len()).sum();
        permit.resize(output).map_err(|_| self.over_budget())?;
        let pending =
            if records.is_empty() { None } else { Some(self.flow.append(target, records, permit)?) };
        Ok(Submitted {
            answer: Answer { accepted, rejections, sequence, partition_map: None },
            pending,
            protocol,
            tenant: tenant.to_owned(),
        })
    }

    /// Waits until a submitted request is durable.
    pub(crate) async fn acknowledge(&self, submitted: Submitted) -> Result<Answer, Refusal> {
        let Submitted { answer, pending, protocol, tenant } = submitted;
        if let Some(pending) = pending {
            self.flow.durable(pending).await?;
        }
        self.telemetry.acknowledged(protocol, &tenant, answer.accepted, &answer.rejections);
        Ok(answer)
    }

    /// The refusal of a request that does not fit the budget.
    pub(crate) fn over_budget(&self) -> Refusal {
        Refusal::OverBudget { retry_after: self.flow.delay() }
    }

    /// Refuses before anything of a body is read, when there is no room anyway.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        if self.budget.is_exhausted() { Err(self.over_budget()) } else { Ok(()) }
    }

    /// Whether spans would be taken and durable now.
    pub(crate) async fn ready(&self) -> Result<(), NotReady> {
        if self.draining.is_cancelled() {
            return Err(NotReady::Draining);
        }
        if self.budget.is_exhausted() {
            return Err(NotReady::OverBudget);
        }
        self.flow.ready(READY_PATIENCE).await
    }

    /// An answer in the native protocol.
    pub(crate) fn native_response(&self, answer: Answer) -> ExportResponse {
        let limits = &self.config.limits;
        ExportResponse {
            accepted_spans: answer.accepted,
            rejected_spans: answer.rejections.total(),
            rejections: answer
                .rejections
                .iter()
                .map(|entry| Rejection {
                    reason: entry.reason.as_str().to_owned(),
                    count: entry.count,
                    first_index: entry.first_index,
                    message: entry.reason.message(limits),
                })
                .collect(),
            sequence: answer.sequence,
            partition_map: answer.partition_map,
            error: None,
        }
    }
}

impl Submitted {
    /// The number its sender gave it.
    pub(crate) const fn sequence(&self) -> u64 {
        self.answer.sequence
    }

    fn stale(map: PartitionMap, sequence: u64) -> Self {
        Self {
            answer: Answer { sequence, partition_map: Some(map), ..Answer::default() },
            pending: None,
            protocol: Protocol::frames,
            tenant: String::new(),
        }
    }
}
