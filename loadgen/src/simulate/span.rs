//! A span of the simulation and its two encodings: native and OTLP.

use infertrace_schemas::wire::{put_bytes_field, put_fixed64_field, put_varint_field};
use infertrace_sdk::{
    Gpu, Inference, Pipeline, Resources, SpanBatchBuilder, SpanId, SpanKind, StatusCode, Tokens, TraceId,
    Value,
};

use super::{device::Device, engine::Sequence, fleet::Deployment};
use crate::content::Attr;

pub(crate) type Attributes = Vec<(&'static str, Attr)>;

/// Resource attributes of the process that reports a span.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    pub(crate) service: &'static str,
    pub(crate) attributes: Attributes,
}

/// Which of a sequence's facts a span tells in native fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tells {
    /// None: it is not about the model.
    #[default]
    Nothing,
    /// Model and tokens asked for.
    Call,
    /// Everything.
    Engine,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) queue_depth: Option<u32>,
    pub(crate) queue_wait_ms: Option<f64>,
    pub(crate) batch_fill: Option<f64>,
    pub(crate) cache_hit_ratio: Option<f64>,
    pub(crate) kv_usage: Option<f64>,
    pub(crate) preemptions: Option<u32>,
}

/// What native inference fields say, shared by the spans of one request.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) spec: &'static Deployment,
    pub(crate) version: &'static str,
    pub(crate) request_id: String,
    pub(crate) session_id: String,
    pub(crate) streaming: bool,
    pub(crate) finish_reason: &'static str,
    pub(crate) sequence: Option<Sequence>,
    pub(crate) device: Device,
    pub(crate) itl: [u64; 3],
}

#[derive(Clone, Debug)]
pub(crate) struct SimSpan {
    pub(crate) span_id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) process: usize,
    pub(crate) operation: String,
    pub(crate) kind: SpanKind,
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    pub(crate) error: Option<&'static str>,
    pub(crate) attributes: Attributes,
    pub(crate) events: Vec<(i64, &'static str, Attributes)>,
    pub(crate) stage: Option<Stage>,
    pub(crate) tells: Tells,
    pub(crate) on_gpu: bool,
    pub(crate) timeline: bool,
}

/// A finished request's spans.
#[derive(Clone, Debug)]
pub(crate) struct SimTrace {
    pub(crate) trace_id: TraceId,
    pub(crate) tenant: usize,
    pub(crate) facts: Facts,
    pub(crate) processes: Vec<Process>,
    pub(crate) spans: Vec<SimSpan>,
}

const SCOPE: &str = "infertrace-loadgen";

fn value(attr: &Attr) -> Value<'_> {
    match attr {
        Attr::Str(text) => Value::Str(text),
        Attr::Int(integer) => Value::Int(*integer),
        Attr::Double(number) => Value::Double(*number),
        Attr::Bool(truth) => Value::Bool(*truth),
    }
}

fn values(attributes: &Attributes) -> Vec<(&'static str, Value<'_>)> {
    attributes.iter().map(|(key, attr)| (*key, value(attr))).collect()
}

impl SimTrace {
    /// Appends the spans to a native batch.
    pub(crate) fn write_native(&self, batch: &mut SpanBatchBuilder) {
        let origins: Vec<_> = self
            .processes
            .iter()
            .enumerate()
            .map(|(index, process)| {
                let attributes = if self.reports(index) { values(&process.attributes) } else { Vec::new() };
                batch.origin(&attributes, SCOPE, env!("CARGO_PKG_VERSION"))
            })
            .collect();
        for span in &self.spans {
            let mut writer = batch
                .span(self.trace_id, span.span_id)
                .origin(origins[span.process])
                .service(self.processes[span.process].service)
                .operation(&span.operation)
                .times(span.start_ns, span.end_ns - span.start_ns)
                .kind(span.kind);
            if let Some(parent) = span.parent {
                writer = writer.parent(parent);
            }
            for (key, attr) in &span.attributes {
                writer = writer.attribute(key, value(attr));
            }
            for (at, name, attributes) in &span.events {
                writer = writer.event(*at, name, &values(attributes));
            }
            if let Some(message) = span.error {
                writer = writer.status(StatusCode::Error, message);
            }
            if let Some(inference) = self.inference(span) {
                writer = writer.inference(&inference);
            }
            if span.on_gpu {
                writer = writer.resources(&Resources { gpu: Some(self.gpu()), ..Resources::default() });
            }
            if let Some(stage) = &span.stage {
                writer = writer.pipeline(&pipeline(stage));
            }
            if let (true, Some(sequence)) = (span.timeline, &self.facts.sequence) {
                let (itl_micros, batch_sizes) = (&sequence.itl_micros, &sequence.batch_sizes);
                writer = writer.tokens(&Tokens { itl_micros, batch_sizes, ..Tokens::default() });
            }
            drop(writer);
        }
    }

    /// Whether any span is of this process.
    fn reports(&self, process: usize) -> bool {
        self.spans.iter().any(|span| span.process == process)
    }

    fn inference(&self, span: &SimSpan) -> Option<Inference<'_>> {
        let facts = &self.facts;
        let call = Inference {
            model_name: facts.spec.model,
            model_version: facts.version,
            provider: facts.spec.provider,
            request_id: &facts.request_id,
            session_id: &facts.session_id,
            streaming: Some(facts.streaming),
            ..Inference::default()
        };
        match (span.tells, &facts.sequence) {
            (Tells::Nothing, _) => None,
            (Tells::Call, _) | (Tells::Engine, None) => Some(call),
            (Tells::Engine, Some(sequence)) => {
                let output = u64::from(sequence.generated);
                let ttft = (sequence.first_token_ns - sequence.enqueued_ns) as u64;
                let decode = (sequence.last_token_ns - sequence.first_token_ns) as u64;
                Some(Inference {
                    framework: facts.spec.framework,
                    batch_size: Some(sequence.mean_batch()),
                    max_batch_size: Some(facts.spec.max_num_seqs as u32),
                    input_tokens: Some(u64::from(sequence.prompt_tokens)),
                    output_tokens: Some(output),
                    cached_tokens: Some(u64::from(sequence.cached_tokens)),
                    sequence_length: Some(u64::from(sequence.prompt_tokens) + output),
                    finish_reason: facts.finish_reason,
                    ttft_nanos: Some(ttft),
                    tpot_nanos: (output > 1).then(|| decode / (output - 1)),
                    itl_p50_nanos: (output > 1).then_some(facts.itl[0]),
                    itl_p99_nanos: (output > 1).then_some(facts.itl[1]),
                    itl_max_nanos: (output > 1).then_some(facts.itl[2]),
                    ..call
                })
            }
        }
    }

    fn gpu(&self) -> Gpu<'_> {
        let (device, spec) = (&self.facts.device, self.facts.spec);
        Gpu {
            device_id: &device.id,
            index: Some(device.index),
            name: spec.gpu,
            instance_type: spec.instance_type,
            utilization_percent: Some(device.utilization_percent),
            memory_used_bytes: Some(device.memory_used_bytes),
            memory_total_bytes: Some(spec.memory_bytes),
            power_watts: Some(device.power_watts),
            temperature_celsius: Some(device.temperature_celsius),
            sm_clock_mhz: Some(device.sm_clock_mhz),
            memory_clock_mhz: Some(spec.memory_clock_mhz),
            throttle_reasons: Some(device.throttle_reasons),
            mig_profile: "",
        }
    }

    /// Appends the spans as OTLP `ResourceSpans` fields of an `ExportTraceServiceRequest`.
    pub(crate) fn write_otlp(&self, request: &mut Vec<u8>) {
        for (index, process) in self.processes.iter().enumerate() {
            if !self.reports(index) {
                continue;
            }
            let mut scope = Vec::new();
            put_bytes_field(&mut scope, 1, SCOPE.as_bytes());
            put_bytes_field(&mut scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
            let mut scope_spans = Vec::new();
            put_bytes_field(&mut scope_spans, 1, &scope);
            for span in self.spans.iter().filter(|span| span.process == index) {
                put_bytes_field(&mut scope_spans, 2, &self.otlp_span(span));
            }
            let mut resource = Vec::new();
            put_attributes(&mut resource, 1, &process.attributes);
            let mut resource_spans = Vec::new();
            put_bytes_field(&mut resource_spans, 1, &resource);
            put_bytes_field(&mut resource_spans, 2, &scope_spans);
            put_bytes_field(request, 1, &resource_spans);
        }
    }

    fn otlp_span(&self, span: &SimSpan) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        put_bytes_field(&mut out, 1, &self.trace_id.0);
        put_bytes_field(&mut out, 2, &span.span_id.0);
        if let Some(parent) = span.parent {
            put_bytes_field(&mut out, 4, &parent.0);
        }
        put_bytes_field(&mut out, 5, span.operation.as_bytes());
        put_varint_field(&mut out, 6, span.kind as u64);
        put_fixed64_field(&mut out, 7, span.start_ns as u64);
        put_fixed64_field(&mut out, 8, span.end_ns as u64);
        put_attributes(&mut out, 9, &span.attributes);
        for (at, name, attributes) in &span.events {
            let mut event = Vec::new();
            put_fixed64_field(&mut event, 1, *at as u64);
            put_bytes_field(&mut event, 2, name.as_bytes());
            put_attributes(&mut event, 3, attributes);
            put_bytes_field(&mut out, 11, &event);
        }
        if let Some(message) = span.error {
            let mut status = Vec::new();
            put_bytes_field(&mut status, 2, message.as_bytes());
            put_varint_field(&mut status, 3, 2);
            put_bytes_field(&mut out, 15, &status);
        }
        out
    }
}

fn pipeline(stage: &Stage) -> Pipeline<'_> {
    Pipeline {
        stage: stage.name,
        queue_depth: stage.queue_depth,
        queue_wait_time_ms: stage.queue_wait_ms,
        batch_fill_ratio: stage.batch_fill,
        cache_hit: stage.cache_hit_ratio.map(|ratio| ratio > 0.0),
        cache_hit_ratio: stage.cache_hit_ratio,
        kv_cache_usage_ratio: stage.kv_usage,
        preemptions: stage.preemptions,
    }
}

/// Writes OTLP `KeyValue`s as field `number`.
pub(crate) fn put_attributes(out: &mut Vec<u8>, number: u32, attributes: &Attributes) {
    for (key, attr) in attributes {
        let mut any = Vec::with_capacity(32);
        match attr {
            Attr::Str(text) => put_bytes_field(&mut any, 1, text.as_bytes()),
            Attr::Bool(truth) => put_varint_field(&mut any, 2, u64::from(*truth)),
            Attr::Int(integer) => put_varint_field(&mut any, 3, *integer as u64),
            Attr::Double(number) => put_fixed64_field(&mut any, 4, number.to_bits()),
        }
        let mut pair = Vec::with_capacity(64);
        put_bytes_field(&mut pair, 1, key.as_bytes());
        put_bytes_field(&mut pair, 2, &any);
        put_bytes_field(out, number, &pair);
    }
}
