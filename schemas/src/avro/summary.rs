//! The trace summary and its own encoder.
//!
//! One summary is written per trace, so encoding is on the hot path: `apache-avro` goes through a tree of values,
//! which costs several times the assembly itself. [`write_trace_summary`] writes the same bytes directly; the
//! tests compare the two on arbitrary summaries.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{AvroRecord, put_header};

/// Status of the root span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum SpanStatus {
    #[default]
    Unset,
    Ok,
    Error,
}

/// How long a trace is worth keeping, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Importance {
    #[default]
    Plain,
    Sampled,
    Costly,
    Slow,
    Anomalous,
    Error,
}

/// Records of the spans topic behind a record of ours; both ends inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SourceRange {
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
}

/// What one service did in the trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ServiceUse<'a> {
    pub service: Cow<'a, str>,
    pub spans: i32,
    pub errors: i32,
    pub self_nanos: i64,
}

/// Time by stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StageTime<'a> {
    pub stage: Cow<'a, str>,
    pub spans: i32,
    pub self_nanos: i64,
    pub critical_nanos: i64,
}

/// One piece of the critical path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PathSegment<'a> {
    pub span_id: Cow<'a, str>,
    pub offset_nanos: i64,
    pub duration_nanos: i64,
}

/// Calls from one service to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ServiceEdge<'a> {
    pub caller: Cow<'a, str>,
    pub callee: Cow<'a, str>,
    pub calls: i32,
    pub errors: i32,
    pub total_nanos: i64,
}

/// A service whose clock was adjusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ClockShift<'a> {
    pub service: Cow<'a, str>,
    pub shift_nanos: i64,
    pub spans: i32,
}

/// One version of one assembled trace (`trace_summary.v1.avsc`). Strings may be borrowed from the assembler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TraceSummary<'a> {
    pub trace_id: Cow<'a, str>,
    pub version: i32,
    pub tenant: Cow<'a, str>,
    pub root_service: Cow<'a, str>,
    pub root_operation: Cow<'a, str>,
    pub root_span_id: Cow<'a, str>,
    pub status: SpanStatus,
    pub start_unix_nanos: i64,
    pub end_unix_nanos: i64,
    pub duration_nanos: i64,
    pub root_duration_nanos: i64,
    pub span_count: i32,
    pub error_count: i32,
    pub duplicate_spans: i32,
    pub dropped_spans: i64,
    pub complete: bool,
    pub incomplete_reasons: Vec<Cow<'a, str>>,
    pub closed_by: Cow<'a, str>,
    pub importance: Importance,
    pub services: Vec<ServiceUse<'a>>,
    pub models: Vec<Cow<'a, str>>,
    pub stages: Vec<StageTime<'a>>,
    pub critical_path: Vec<PathSegment<'a>>,
    pub critical_path_omitted: i32,
    pub parallelism: f64,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cached_tokens: Option<i64>,
    pub ttft_nanos: Option<i64>,
    pub ttft_queue_nanos: Option<i64>,
    pub ttft_prefill_nanos: Option<i64>,
    pub ttft_measured: bool,
    pub edges: Vec<ServiceEdge<'a>>,
    pub omitted_groups: i32,
    pub cost_nano_usd: Option<i64>,
    pub gpu_micros: Option<i64>,
    pub cost_kind: Cow<'a, str>,
    pub cost_basis: Cow<'a, str>,
    pub price_version: Cow<'a, str>,
    pub clock_shifts: Vec<ClockShift<'a>>,
    pub source: SourceRange,
}

/// Appends `summary` in the Confluent wire format under `schema_id`.
pub fn write_trace_summary(out: &mut Vec<u8>, schema_id: u32, summary: &TraceSummary<'_>) {
    put_header(out, schema_id);
    let w = &mut Writer { out };
    w.text(&summary.trace_id);
    w.int(summary.version);
    w.text(&summary.tenant);
    w.text(&summary.root_service);
    w.text(&summary.root_operation);
    w.text(&summary.root_span_id);
    w.long(summary.status as i64);
    w.long(summary.start_unix_nanos);
    w.long(summary.end_unix_nanos);
    w.long(summary.duration_nanos);
    w.long(summary.root_duration_nanos);
    w.int(summary.span_count);
    w.int(summary.error_count);
    w.int(summary.duplicate_spans);
    w.long(summary.dropped_spans);
    w.boolean(summary.complete);
    w.array(&summary.incomplete_reasons, |w, reason| w.text(reason));
    w.text(&summary.closed_by);
    w.long(summary.importance as i64);
    w.array(&summary.services, |w, service| {
        w.text(&service.service);
        w.int(service.spans);
        w.int(service.errors);
        w.long(service.self_nanos);
    });
    w.array(&summary.models, |w, model| w.text(model));
    w.array(&summary.stages, |w, stage| {
        w.text(&stage.stage);
        w.int(stage.spans);
        w.long(stage.self_nanos);
        w.long(stage.critical_nanos);
    });
    w.array(&summary.critical_path, |w, segment| {
        w.text(&segment.span_id);
        w.long(segment.offset_nanos);
        w.long(segment.duration_nanos);
    });
    w.int(summary.critical_path_omitted);
    w.out.extend_from_slice(&summary.parallelism.to_le_bytes());
    w.optional(summary.input_tokens);
    w.optional(summary.output_tokens);
    w.optional(summary.cached_tokens);
    w.optional(summary.ttft_nanos);
    w.optional(summary.ttft_queue_nanos);
    w.optional(summary.ttft_prefill_nanos);
    w.boolean(summary.ttft_measured);
    w.array(&summary.edges, |w, edge| {
        w.text(&edge.caller);
        w.text(&edge.callee);
        w.int(edge.calls);
        w.int(edge.errors);
        w.long(edge.total_nanos);
    });
    w.int(summary.omitted_groups);
    w.optional(summary.cost_nano_usd);
    w.optional(summary.gpu_micros);
    w.text(&summary.cost_kind);
    w.text(&summary.cost_basis);
    w.text(&summary.price_version);
    w.array(&summary.clock_shifts, |w, shift| {
        w.text(&shift.service);
        w.long(shift.shift_nanos);
        w.int(shift.spans);
    });
    w.int(summary.source.partition);
    w.long(summary.source.first_offset);
    w.long(summary.source.last_offset);
}

/// What identifies a summary, read without decoding the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SummaryHead {
    pub trace_id: [u8; 16],
    pub version: i32,
    pub tenant: String,
    pub source: SourceRange,
}

/// The head of a value written with this build's schema, whatever id a registry gave it; `None` for anything else.
///
/// The source range stands last, behind the zero that ends an array, so it is found from the end.
#[must_use]
pub fn read_summary_head(value: &[u8]) -> Option<SummaryHead> {
    let (_, mut body) = super::split(value).ok()?;
    let mut trace_id = [0; 16];
    hex::decode_to_slice(text(&mut body)?, &mut trace_id).ok()?;
    let version = i32::try_from(long(&mut body)?).ok()?;
    let tenant = text(&mut body)?.to_owned();
    let mut from = body.len();
    for _ in 0..3 {
        from = from.checked_sub(1)?;
        while from > 0 && body[from - 1] & 0x80 != 0 {
            from -= 1;
        }
    }
    let mut tail = &body[from..];
    let partition = i32::try_from(long(&mut tail)?).ok()?;
    let source = SourceRange { partition, first_offset: long(&mut tail)?, last_offset: long(&mut tail)? };
    Some(SummaryHead { trace_id, version, tenant, source })
}

fn long(rest: &mut &[u8]) -> Option<i64> {
    let zigzag = crate::wire::read_varint(rest).ok()?;
    Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(long(rest)?).ok()?;
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(bytes).ok()
}

impl TraceSummary<'_> {
    /// The value as it is appended to the topic where no registry is configured.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        write_trace_summary(&mut out, TraceSummary::<'static>::schema().id, self);
        out
    }
}

/// Avro's binary encoding.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl Writer<'_> {
    fn long(&mut self, value: i64) {
        let zigzag = ((value << 1) ^ (value >> 63)) as u64;
        crate::wire::put_varint(self.out, zigzag);
    }

    fn int(&mut self, value: i32) {
        self.long(i64::from(value));
    }

    fn boolean(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    fn text(&mut self, value: &str) {
        self.long(value.len() as i64);
        self.out.extend_from_slice(value.as_bytes());
    }

    fn optional(&mut self, value: Option<i64>) {
        match value {
            None => self.out.push(0),
            Some(value) => {
                self.out.push(2);
                self.long(value);
            }
        }
    }

    fn array<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        if !items.is_empty() {
            self.long(items.len() as i64);
            for value in items {
                item(self, value);
            }
        }
        self.out.push(0);
    }
}
