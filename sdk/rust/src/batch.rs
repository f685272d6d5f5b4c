//! Batches of spans as wire bytes: [`SpanBatchBuilder`] writes protobuf directly, with no message objects.
//!
//! Neighbours: `client` and `frames` send what is built here; `tracer` writes spans as they end.
//! Invariant: `bytes` is a sequence of whole `SpanBatch.spans` fields, one for each entry of `entries`.

use bytes::Bytes;

use crate::{
    Inference, Pipeline, Resources, SpanId, Tokens, TraceId, Value, partition::partition_hash,
    value::put_attribute, wire,
};

/// OTLP's span kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    /// Not said.
    #[default]
    Unspecified = 0,
    /// Work inside a service.
    Internal = 1,
    /// Answers a request.
    Server = 2,
    /// Makes a request.
    Client = 3,
    /// Sends a message.
    Producer = 4,
    /// Receives a message.
    Consumer = 5,
}

/// How a span ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusCode {
    /// Not said.
    #[default]
    Unset = 0,
    /// Explicitly well.
    Ok = 1,
    /// With an error.
    Error = 2,
}

/// Index of a resource and scope within one batch, from [`SpanBatchBuilder::origin`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OriginIndex(pub(crate) u32);

/// Where one span stands in the batch's bytes, and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) partition_hash: u64,
    pub(crate) origin: u32,
}

/// Builds a [`SpanBatch`].
///
/// ```
/// use infertrace_sdk::{Inference, SpanBatchBuilder, SpanId, SpanKind, TraceId};
///
/// let mut batch = SpanBatchBuilder::new();
/// let origin = batch.origin(&[("service.name", "ranker".into())], "my-service", "1.0");
/// batch
///     .span(TraceId::random(), SpanId::random())
///     .origin(origin)
///     .service("ranker")
///     .operation("rank")
///     .kind(SpanKind::Server)
///     .times(1_700_000_000_000_000_000, 2_000_000)
///     .attribute("http.response.status_code", 200)
///     .inference(&Inference { model_name: "ranker-v2", batch_size: Some(8), ..Inference::default() });
/// assert_eq!(batch.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SpanBatchBuilder {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    origins: Vec<Vec<u8>>,
}

impl SpanBatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for `spans` spans of about `bytes` bytes together.
    #[must_use]
    pub fn with_capacity(spans: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), entries: Vec::with_capacity(spans), origins: Vec::new() }
    }

    /// Adds a resource and instrumentation scope that spans of this batch refer to; the same one twice is kept once.
    pub fn origin(
        &mut self,
        resource: &[(&str, Value<'_>)],
        scope_name: &str,
        scope_version: &str,
    ) -> OriginIndex {
        let mut encoded = Vec::with_capacity(256);
        wire::put_message(&mut encoded, 1, |out| {
            for (key, value) in resource {
                put_attribute(out, 1, key, *value);
            }
        });
        wire::put_message(&mut encoded, 2, |out| {
            wire::put_str_nonempty(out, 1, scope_name);
            wire::put_str_nonempty(out, 2, scope_version);
        });
        self.origin_bytes(encoded)
    }

    /// As [`origin`](Self::origin), from an encoded `infertrace.v1.Origin`.
    pub(crate) fn origin_bytes(&mut self, encoded: Vec<u8>) -> OriginIndex {
        if let Some(known) = self.origins.iter().position(|other| *other == encoded) {
            return OriginIndex(known as u32);
        }
        self.origins.push(encoded);
        OriginIndex(self.origins.len() as u32 - 1)
    }

    /// Starts a span; it is complete when the writer is dropped.
    pub fn span(&mut self, trace_id: TraceId, span_id: SpanId) -> SpanWriter<'_> {
        let start = self.bytes.len();
        let message = wire::open(&mut self.bytes, 1, 2);
        wire::put_bytes(&mut self.bytes, 1, &trace_id.0);
        wire::put_bytes(&mut self.bytes, 2, &span_id.0);
        SpanWriter {
            entry: Entry { start, end: start, partition_hash: partition_hash(&trace_id), origin: 0 },
            message: Some(message),
            batch: self,
        }
    }

    /// Adds a span whose fields are already encoded.
    pub(crate) fn push_encoded(&mut self, trace_id: TraceId, origin: OriginIndex, body: &[u8]) {
        let start = self.bytes.len();
        wire::put_bytes(&mut self.bytes, 1, body);
        let end = self.bytes.len();
        self.entries.push(Entry { start, end, partition_hash: partition_hash(&trace_id), origin: origin.0 });
    }

    /// Spans so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the spans so far.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished batch; the builder is empty afterwards and can be used again.
    pub fn build(&mut self) -> SpanBatch {
        SpanBatch {
            bytes: Bytes::from(std::mem::take(&mut self.bytes)),
            entries: std::mem::take(&mut self.entries),
            origins: std::mem::take(&mut self.origins),
        }
    }
}

/// Writes one span of a batch. Call each method at most once, except those that say they add.
#[derive(Debug)]
pub struct SpanWriter<'a> {
    batch: &'a mut SpanBatchBuilder,
    message: Option<wire::Open>,
    entry: Entry,
}

impl SpanWriter<'_> {
    fn out(&mut self) -> &mut Vec<u8> {
        &mut self.batch.bytes
    }

    /// Parent; without one the span is a root.
    pub fn parent(mut self, parent: SpanId) -> Self {
        wire::put_bytes(self.out(), 3, &parent.0);
        self
    }

    /// Service name.
    pub fn service(mut self, name: &str) -> Self {
        wire::put_str_nonempty(self.out(), 4, name);
        self
    }

    /// Operation name.
    pub fn operation(mut self, name: &str) -> Self {
        wire::put_str_nonempty(self.out(), 5, name);
        self
    }

    /// Start since 1970-01-01T00:00:00Z, and duration; both in nanoseconds.
    pub fn times(mut self, start_unix_nanos: i64, duration_nanos: i64) -> Self {
        wire::put_uint_nonzero(self.out(), 6, start_unix_nanos as u64);
        wire::put_uint_nonzero(self.out(), 7, duration_nanos as u64);
        self
    }

    /// What the model did.
    pub fn inference(mut self, inference: &Inference<'_>) -> Self {
        inference.put(self.out(), 8);
        self
    }

    /// Resources used.
    pub fn resources(mut self, resources: &Resources<'_>) -> Self {
        resources.put(self.out(), 9);
        self
    }

    /// Adds a plain text tag.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        wire::put_message(self.out(), 10, |out| {
            wire::put_bytes(out, 1, key.as_bytes());
            wire::put_bytes(out, 2, value.as_bytes());
        });
        self
    }

    /// Adds a typed attribute.
    pub fn attribute<'v>(mut self, key: &str, value: impl Into<Value<'v>>) -> Self {
        put_attribute(self.out(), 11, key, value.into());
        self
    }

    /// Adds an event.
    pub fn event(mut self, time_unix_nanos: i64, name: &str, attributes: &[(&str, Value<'_>)]) -> Self {
        put_event(self.out(), time_unix_nanos, name, attributes);
        self
    }

    /// Adds a link to another span.
    pub fn link(mut self, trace_id: TraceId, span_id: SpanId, attributes: &[(&str, Value<'_>)]) -> Self {
        wire::put_message(self.out(), 13, |out| {
            wire::put_bytes(out, 1, &trace_id.0);
            wire::put_bytes(out, 2, &span_id.0);
            for (key, value) in attributes {
                put_attribute(out, 4, key, *value);
            }
        });
        self
    }

    /// Kind.
    pub fn kind(mut self, kind: SpanKind) -> Self {
        wire::put_uint_nonzero(self.out(), 14, kind as u64);
        self
    }

    /// Status; the message is for errors.
    pub fn status(mut self, code: StatusCode, message: &str) -> Self {
        put_status(self.out(), code, message);
        self
    }

    /// W3C trace flags and OTLP's remote bits.
    pub fn flags(mut self, flags: u32) -> Self {
        wire::put_fixed32(self.out(), 16, flags);
        self
    }

    /// W3C tracestate.
    pub fn trace_state(mut self, trace_state: &str) -> Self {
        wire::put_str_nonempty(self.out(), 19, trace_state);
        self
    }

    /// Resource and scope of this span.
    pub fn origin(mut self, origin: OriginIndex) -> Self {
        self.entry.origin = origin.0;
        wire::put_uint_nonzero(self.out(), 21, u64::from(origin.0));
        self
    }

    /// Place in the serving pipeline.
    pub fn pipeline(mut self, pipeline: &Pipeline<'_>) -> Self {
        pipeline.put(self.out(), 22);
        self
    }

    /// Token timeline.
    pub fn tokens(mut self, tokens: &Tokens<'_>) -> Self {
        tokens.put(self.out(), 23);
        self
    }
}

impl Drop for SpanWriter<'_> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            wire::close(&mut self.batch.bytes, message);
            self.entry.end = self.batch.bytes.len();
            self.batch.entries.push(self.entry);
        }
    }
}

pub(crate) fn put_event(
    out: &mut Vec<u8>,
    time_unix_nanos: i64,
    name: &str,
    attributes: &[(&str, Value<'_>)],
) {
    wire::put_message(out, 12, |out| {
        wire::put_fixed64(out, 1, time_unix_nanos as u64);
        wire::put_str_nonempty(out, 2, name);
        for (key, value) in attributes {
            put_attribute(out, 3, key, *value);
        }
    });
}

pub(crate) fn put_status(out: &mut Vec<u8>, code: StatusCode, message: &str) {
    if code == StatusCode::Unset && message.is_empty() {
        return;
    }
    wire::put_message(out, 15, |out| {
        wire::put_str_nonempty(out, 2, message);
        wire::put_uint_nonzero(out, 3, code as u64);
    });
}

/// Spans ready to be sent, encoded.
#[derive(Clone, Debug, Default)]
pub struct SpanBatch {
    /// Whole `SpanBatch.spans` fields, one after another.
    pub(crate) bytes: Bytes,
    pub(crate) entries: Vec<Entry>,
    /// Encoded `Origin` messages.
    pub(crate) origins: Vec<Vec<u8>>,
}

impl SpanBatch {
    /// Spans in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the spans.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The batch as an encoded `infertrace.v1.SpanBatch` with spans and origins only.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 64);
        out.extend_from_slice(&self.bytes);
        self.put_origins(&mut out);
        out
    }

    pub(crate) fn put_origins(&self, out: &mut Vec<u8>) {
        for origin in &self.origins {
            wire::put_bytes(out, 4, origin);
        }
    }

    /// Cuts into batches of at most `max_spans`; the spans' bytes are shared, not copied.
    pub(crate) fn chunks(self, max_spans: usize) -> Vec<Self> {
        if self.entries.len() <= max_spans {
            return vec![self];
        }
        self.entries
            .chunks(max_spans.max(1))
            .map(|part| {
                let from = part[0].start;
                let to = part[part.len() - 1].end;
                let entries =
                    part.iter().map(|e| Entry { start: e.start - from, end: e.end - from, ..*e }).collect();
                Self { bytes: self.bytes.slice(from..to), entries, origins: self.origins.clone() }
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "batch/tests.rs"]
mod tests;
