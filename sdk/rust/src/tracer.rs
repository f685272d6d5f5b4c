//! Spans for programs: start, describe, end. What is said is encoded at once; `end` hands the bytes over.
//!
//! Invariants: a span that is dropped ends; nothing here waits, fails or panics for the host.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    Exporter, Gpu, Inference, Pipeline, Resources, SpanId, SpanKind, StatusCode, Tokens, TraceId, Value,
    batch::{put_event, put_status},
    value::put_attribute,
    wire,
};

/// Makes spans of one service; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    exporter: Arc<Exporter>,
    service: Arc<str>,
    origin: Arc<[u8]>,
}

/// What a child needs to know of its parent, within a process or across (W3C `traceparent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// Trace.
    pub trace_id: TraceId,
    /// The parent span.
    pub span_id: SpanId,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl SpanContext {
    /// The `traceparent` header's value.
    #[must_use]
    pub fn to_traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// Reads a `traceparent`; `None` for anything that the specification calls invalid.
    #[must_use]
    pub fn from_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, digits| {
            (text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                .then_some(())
        };
        hex(version, 2)?;
        hex(trace, 32)?;
        hex(span, 16)?;
        hex(flags, 2)?;
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self {
            trace_id: TraceId(trace_id.to_be_bytes()),
            span_id: SpanId(span_id.to_be_bytes()),
            sampled,
        })
    }
}

impl Tracer {
    /// A tracer of `service`; `resource` describes the process (`service.name` is added).
    pub fn new(exporter: Arc<Exporter>, service: &str, resource: &[(&str, Value<'_>)]) -> Self {
        let mut origin = Vec::new();
        wire::put_message(&mut origin, 1, |out| {
            put_attribute(out, 1, "service.name", Value::Str(service));
            for (key, value) in resource {
                put_attribute(out, 1, key, *value);
            }
        });
        wire::put_message(&mut origin, 2, |out| {
            wire::put_str_nonempty(out, 1, "infertrace-sdk");
            wire::put_str_nonempty(out, 2, env!("CARGO_PKG_VERSION"));
        });
        Self { exporter, service: service.into(), origin: origin.into() }
    }

    /// Starts a span; without a parent it is the root of a new trace.
    #[must_use]
    pub fn start_span(&self, operation: &str, parent: Option<SpanContext>) -> Span {
        let trace_id = parent.map_or_else(TraceId::random, |parent| parent.trace_id);
        let span_id = SpanId::random();
        let mut body = Vec::with_capacity(512);
        wire::put_bytes(&mut body, 1, &trace_id.0);
        wire::put_bytes(&mut body, 2, &span_id.0);
        if let Some(parent) = parent {
            wire::put_bytes(&mut body, 3, &parent.span_id.0);
        }
        wire::put_str_nonempty(&mut body, 4, &self.service);
        wire::put_str_nonempty(&mut body, 5, operation);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        wire::put_uint_nonzero(&mut body, 6, unix.as_nanos() as u64);
        let sampled = parent.is_none_or(|parent| parent.sampled);
        let context = SpanContext { trace_id, span_id, sampled };
        Span {
            tracer: self.clone(),
            context,
            started: Instant::now(),
            body,
            kind: SpanKind::Internal,
            inference: None,
        }
    }

    /// Starts a span for work that a model does.
    #[must_use]
    pub fn start_inference_span(
        &self,
        operation: &str,
        model: &str,
        version: &str,
        parent: Option<SpanContext>,
    ) -> Span {
        let mut span = self.start_span(operation, parent);
        span.kind = SpanKind::Server;
        let inference = span.inference.get_or_insert_default();
        model.clone_into(&mut inference.model_name);
        version.clone_into(&mut inference.model_version);
        span
    }
}

/// What is only known by the span's end.
#[derive(Debug, Default)]
struct OwnedInference {
    model_name: String,
    model_version: String,
    batch_size: Option<u32>,
    max_batch_size: Option<u32>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    ttft_nanos: Option<u64>,
}

/// A span under way; it ends with [`end`](Self::end) or when dropped.
#[derive(Debug)]
pub struct Span {
    tracer: Tracer,
    context: SpanContext,
    started: Instant,
    body: Vec<u8>,
    kind: SpanKind,
    inference: Option<Box<OwnedInference>>,
}

impl Span {
    /// For children, and for the `traceparent` header of calls.
    #[must_use]
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Adds an attribute.
    pub fn set_attribute<'v>(&mut self, key: &str, value: impl Into<Value<'v>>) {
        put_attribute(&mut self.body, 11, key, value.into());
    }

    /// Adds an event, now.
    pub fn add_event(&mut self, name: &str, attributes: &[(&str, Value<'_>)]) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        put_event(&mut self.body, unix.as_nanos() as i64, name, attributes);
    }

    /// Sets the kind.
    pub fn set_kind(&mut self, kind: SpanKind) {
        self.kind = kind;
    }

    /// Sets the status; call once.
    pub fn set_status(&mut self, code: StatusCode, message: &str) {
        put_status(&mut self.body, code, message);
    }

    /// Sequences in the batch, and the engine's limit for it.
    pub fn set_batch_size(&mut self, batch_size: u32, max_batch_size: Option<u32>) {
        let inference = self.inference.get_or_insert_default();
        inference.batch_size = Some(batch_size);
        inference.max_batch_size = max_batch_size;
    }

    /// Token counts; `cached` are input tokens that a KV or prefix cache served.
    pub fn set_tokens(&mut self, input: u64, output: u64, cached: Option<u64>) {
        let inference = self.inference.get_or_insert_default();
        inference.input_tokens = Some(input);
        inference.output_tokens = Some(output);
        inference.cached_tokens = cached;
    }

    /// Marks the first token, now.
    pub fn first_token(&mut self) {
        let elapsed = self.started.elapsed().as_nanos() as u64;
        self.inference.get_or_insert_default().ttft_nanos = Some(elapsed);
    }

    /// The GPU as the span met it; call once.
    pub fn set_gpu_metrics(&mut self, gpu: Gpu<'_>) {
        Resources { gpu: Some(gpu), ..Resources::default() }.put(&mut self.body, 9);
    }

    /// The place in the pipeline; call once.
    pub fn set_pipeline(&mut self, pipeline: &Pipeline<'_>) {
        pipeline.put(&mut self.body, 22);
    }

    /// The token timeline; call once.
    pub fn set_token_timeline(&mut self, tokens: &Tokens<'_>) {
        tokens.put(&mut self.body, 23);
    }

    /// Ends the span.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.context.sampled {
            return;
        }
        let duration = self.started.elapsed().as_nanos() as u64;
        wire::put_uint_nonzero(&mut self.body, 7, duration);
        wire::put_uint_nonzero(&mut self.body, 14, self.kind as u64);
        if let Some(known) = &self.inference {
            let sum = known.input_tokens.zip(known.output_tokens).map(|(input, output)| input + output);
            let decoding = known.ttft_nanos.map(|ttft| duration.saturating_sub(ttft));
            let gaps = known.output_tokens.and_then(|tokens| tokens.checked_sub(1)).filter(|gaps| *gaps > 0);
            let inference = Inference {
                model_name: &known.model_name,
                model_version: &known.model_version,
                batch_size: known.batch_size,
                max_batch_size: known.max_batch_size,
                input_tokens: known.input_tokens,
                output_tokens: known.output_tokens,
                cached_tokens: known.cached_tokens,
                sequence_length: sum,
                ttft_nanos: known.ttft_nanos,
                tpot_nanos: decoding.zip(gaps).map(|(decoding, gaps)| decoding / gaps),
                ..Inference::default()
            };
            inference.put(&mut self.body, 8);
        }
        let SpanContext { trace_id, span_id, .. } = self.context;
        self.tracer.exporter.record_encoded(trace_id, span_id, &self.tracer.origin, &self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: traceparents, good and bad. Guarantee: round trip; everything invalid is none.
    #[test]
    fn traceparent() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = SpanContext::from_traceparent(header).expect("valid");
        assert_eq!(context.to_traceparent(), header);
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::from_traceparent(bad), None, "{bad}");
        }
    }
}
