//! A finished request told as a trace: 12 to 15 spans from the API gateway to the answer (5 when refused).
//!
//! Invariants: every span lies within its parent; siblings are in order; ids follow from the seed and the
//! request's number.

use infertrace_sdk::{SpanId, SpanKind, TraceId};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    engine::Sequence,
    fleet::{Deployment, FLEET},
    span::{Attributes, Facts, Process, SimSpan, SimTrace, Stage, Tells},
    world::Request,
};
use crate::content::Attr;

const GATEWAY: usize = 0;
const PREPROCESSOR: usize = 1;
const POSTPROCESSOR: usize = 2;
const SERVER: usize = 3;
/// Chunks of a long prompt's prefill that become events.
const MAX_CHUNK_EVENTS: usize = 8;

/// What the story needs beside the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    pub(crate) seed: u64,
    pub(crate) start_unix_ns: i64,
    /// Share of requests with a token timeline.
    pub(crate) timelines: f64,
    /// The model's server does not report.
    pub(crate) silent: bool,
}

struct Story<'a> {
    request: &'a Request,
    spec: &'static Deployment,
    zero: i64,
    random: SmallRng,
    spans: Vec<SimSpan>,
}

/// The trace of `request`.
pub(crate) fn tell(request: Request, telling: Telling) -> SimTrace {
    let seed = telling.seed ^ request.number.wrapping_mul(0xd134_2543_de82_ef95);
    let mut random = SmallRng::seed_from_u64(seed);
    let trace_id = TraceId(random.random::<u128>().max(1).to_be_bytes());
    let timeline = random.random_bool(telling.timelines.clamp(0.0, 1.0));
    let spec = &FLEET[request.deployment];
    let mut story =
        Story { request: &request, spec, zero: telling.start_unix_ns, random, spans: Vec::with_capacity(15) };
    if request.refused {
        story.refused();
    } else if let Some(sequence) = &request.done {
        story.served(sequence, timeline);
    }
    let mut spans = story.spans;
    if telling.silent {
        spans.retain(|span| span.process != SERVER);
    }
    let facts = facts(&request, spec);
    let processes = processes(&request, spec);
    SimTrace { trace_id, tenant: request.tenant, facts, processes, spans }
}

fn facts(request: &Request, spec: &'static Deployment) -> Facts {
    let sequence = request.done.clone().map(|mut sequence| {
        let zero = sequence.enqueued_ns;
        sequence.first_token_ns -= zero;
        sequence.last_token_ns -= zero;
        sequence.enqueued_ns = 0;
        sequence
    });
    let mut gaps =
        sequence.as_ref().map_or(Vec::new(), |s| s.itl_micros.get(1..).unwrap_or_default().to_vec());
    gaps.sort_unstable();
    let at = |share: f64| {
        let rank = ((gaps.len() as f64 * share).ceil() as usize).clamp(1, gaps.len().max(1)) - 1;
        gaps.get(rank).map_or(0, |micros| u64::from(*micros) * 1_000)
    };
    let finish_reason = match (request.fails, spec.generates) {
        (true, _) => "error",
        (false, true) => "stop",
        (false, false) => "",
    };
    Facts {
        spec,
        version: request.version,
        request_id: request_id(request),
        session_id: session_id(request),
        streaming: request.streaming,
        finish_reason,
        itl: [at(0.5), at(0.99), at(1.0)],
        device: request.device.clone(),
        sequence,
    }
}

fn request_id(request: &Request) -> String {
    format!("chatcmpl-{:08x}{:08x}", request.arrival.session as u32, request.number)
}

fn session_id(request: &Request) -> String {
    format!("sess-{:012x}", request.arrival.session >> 16)
}

fn processes(request: &Request, spec: &'static Deployment) -> Vec<Process> {
    let pod = request.number % 3;
    let process = |service: &'static str, version: &str, host: String| Process {
        service,
        attributes: vec![
            ("service.name", Attr::Str(service.into())),
            ("service.version", Attr::Str(version.into())),
            ("service.instance.id", Attr::Str(format!("{service}-{host}"))),
            ("host.name", Attr::Str(host)),
            ("deployment.environment.name", Attr::Str("simulation".into())),
            ("cloud.region", Attr::Str("us-east-1".into())),
            ("telemetry.sdk.language", Attr::Str("rust".into())),
        ],
    };
    let mut server = process(server_name(spec), request.version, request.device.host.clone());
    server.attributes.push(("gpu.simulated", Attr::Bool(true)));
    vec![
        process("api-gateway", "3.2.0", format!("edge-{pod}")),
        process("preprocessor", "1.8.1", format!("cpu-{pod}")),
        process("postprocessor", "1.5.0", format!("cpu-{}", pod + 3)),
        server,
    ]
}

/// The service that runs a framework's engines.
pub(crate) fn server_name(spec: &Deployment) -> &'static str {
    match spec.framework {
        "vllm" => "vllm-server",
        "sglang" => "sglang-server",
        _ => "triton-server",
    }
}

fn text(value: &str) -> Attr {
    Attr::Str(value.to_owned())
}

fn seconds(nanos: i64) -> Attr {
    Attr::Double(nanos as f64 * 1e-9)
}

impl Story<'_> {
    fn add(
        &mut self,
        parent: Option<SpanId>,
        process: usize,
        operation: &str,
        kind: SpanKind,
        times: (i64, i64),
        attributes: Attributes,
    ) -> &mut SimSpan {
        let span_id = SpanId(self.random.random::<u64>().max(1).to_be_bytes());
        self.spans.push(SimSpan {
            span_id,
            parent,
            process,
            operation: operation.to_owned(),
            kind,
            start_ns: self.zero + times.0,
            end_ns: self.zero + times.1.max(times.0),
            error: None,
            attributes,
            events: Vec::new(),
            stage: None,
            tells: Tells::Nothing,
            on_gpu: false,
            timeline: false,
        });
        let last = self.spans.len() - 1;
        &mut self.spans[last]
    }

    fn operation(&self) -> (&'static str, &'static str) {
        if self.spec.generates {
            ("POST /v1/chat/completions", "chat")
        } else {
            ("POST /v1/rerank", "rerank")
        }
    }

    fn root(&mut self, status: i64) -> SpanId {
        let request = self.request;
        let (route, _) = self.operation();
        let attributes = vec![
            ("http.request.method", text("POST")),
            ("http.route", text(&route[5..])),
            ("url.path", text(&route[5..])),
            ("http.response.status_code", Attr::Int(status)),
            ("server.address", text("api.inference.internal")),
            ("user_agent.original", text("openai-python/2.9.0")),
            ("gen_ai.request.model", text(self.spec.model)),
            ("session.id", Attr::Str(session_id(request))),
            ("app.tenant.tier", text(if request.tenant == 0 { "standard" } else { "premium" })),
        ];
        let times = (request.arrived_ns, request.ended_ns);
        let root = self.add(None, GATEWAY, route, SpanKind::Server, times, attributes);
        if status >= 400 {
            root.error = Some(if status == 429 { "too many requests" } else { "upstream failed" });
        }
        root.span_id
    }

    /// Everything before the engine; returns when it ended.
    fn front(&mut self, root: SpanId) -> i64 {
        let request = self.request;
        let authorized = request.arrived_ns + request.gateway_ns + request.authorize_ns;
        let times = (request.arrived_ns + request.gateway_ns / 2, authorized);
        let attributes = vec![("app.auth.method", text("api_key")), ("app.auth.cached", Attr::Bool(true))];
        self.add(Some(root), GATEWAY, "authorize", SpanKind::Internal, times, attributes);
        let dispatched = request.dispatched_ns;
        let attributes = vec![
            ("rpc.system", text("grpc")),
            ("rpc.method", text("Preprocess")),
            ("app.prompt.characters", Attr::Int(i64::from(request.arrival.input_tokens) * 4)),
        ];
        let times = (authorized, dispatched);
        let span = self.add(Some(root), PREPROCESSOR, "preprocess", SpanKind::Server, times, attributes);
        span.stage = Some(Stage { name: "preprocessing", ..Stage::default() });
        let preprocess = span.span_id;
        let rendered = authorized + request.template_ns;
        let attributes = vec![("app.template.name", text("chatml"))];
        let times = (authorized, rendered);
        self.add(Some(preprocess), PREPROCESSOR, "render_template", SpanKind::Internal, times, attributes);
        let attributes = vec![
            ("gen_ai.usage.input_tokens", Attr::Int(i64::from(request.arrival.input_tokens))),
            ("app.tokenizer.name", text(self.spec.model)),
        ];
        let times = (rendered, dispatched);
        let span =
            self.add(Some(preprocess), PREPROCESSOR, "tokenize", SpanKind::Internal, times, attributes);
        span.stage = Some(Stage { name: "tokenize", ..Stage::default() });
        dispatched
    }

    fn refused(&mut self) {
        let root = self.root(429);
        self.front(root);
    }

    fn served(&mut self, sequence: &Sequence, timeline: bool) {
        let request = self.request;
        let root = self.root(if request.fails { 500 } else { 200 });
        let dispatched = self.front(root);
        let engine_end = sequence.last_token_ns;
        let call = self.call(root, sequence, (dispatched, engine_end));
        self.engine(call, sequence, timeline);
        if !request.fails {
            self.post(root, engine_end);
        }
    }

    fn call(&mut self, root: SpanId, sequence: &Sequence, times: (i64, i64)) -> SpanId {
        let request = self.request;
        let spec = self.spec;
        let (_, operation) = self.operation();
        let mut attributes = vec![
            ("gen_ai.operation.name", text(operation)),
            ("gen_ai.provider.name", text(spec.provider)),
            ("gen_ai.request.model", text(spec.model)),
            ("gen_ai.response.model", text(spec.model)),
            ("gen_ai.response.id", Attr::Str(request_id(request))),
            ("gen_ai.usage.input_tokens", Attr::Int(i64::from(sequence.prompt_tokens))),
            ("gen_ai.usage.output_tokens", Attr::Int(i64::from(sequence.generated))),
            ("gen_ai.usage.cache_read.input_tokens", Attr::Int(i64::from(sequence.cached_tokens))),
            ("server.address", Attr::Str(format!("{}.{}", request.device.host, server_name(spec)))),
        ];
        if spec.generates {
            attributes.push(("gen_ai.request.temperature", Attr::Double(0.7)));
            attributes.push(("gen_ai.request.max_tokens", Attr::Int(4_096)));
        }
        if request.streaming {
            let first = sequence.first_token_ns - sequence.enqueued_ns;
            attributes.push(("gen_ai.response.time_to_first_chunk", seconds(first)));
        }
        if request.fails {
            attributes.push(("error.type", text("EngineError")));
        }
        let name = format!("{operation} {}", spec.model);
        let fails = request.fails;
        let span = self.add(Some(root), GATEWAY, &name, SpanKind::Client, times, attributes);
        span.tells = Tells::Call;
        if fails {
            span.error = Some("engine failed the request");
        }
        span.span_id
    }

    fn engine(&mut self, call: SpanId, sequence: &Sequence, timeline: bool) {
        let request = self.request;
        let spec = self.spec;
        let (queued, scheduled) = (sequence.enqueued_ns, sequence.scheduled_ns);
        let (first, last) = (sequence.first_token_ns, sequence.last_token_ns);
        let fill = f64::from(sequence.mean_batch()) / spec.max_num_seqs as f64;
        let hit_ratio = f64::from(sequence.cached_tokens) / f64::from(sequence.prompt_tokens.max(1));
        let preemptions = sequence.preempted_ns.len() as u32;
        let attributes = vec![
            ("gen_ai.request.id", Attr::Str(request_id(request))),
            ("gen_ai.request.model", text(spec.model)),
            ("gen_ai.usage.prompt_tokens", Attr::Int(i64::from(sequence.prompt_tokens))),
            ("gen_ai.usage.completion_tokens", Attr::Int(i64::from(sequence.generated))),
            ("gen_ai.usage.cached_tokens", Attr::Int(i64::from(sequence.cached_tokens))),
            ("gen_ai.latency.time_in_queue", seconds(scheduled - queued)),
            ("gen_ai.latency.time_to_first_token", seconds(first - queued)),
            ("gen_ai.latency.time_in_model_prefill", seconds(first - scheduled)),
            ("gen_ai.latency.time_in_model_decode", seconds(last - first)),
            ("gen_ai.latency.time_in_model_inference", seconds(last - scheduled)),
            ("gen_ai.latency.e2e", seconds(last - queued)),
        ];
        let zero = self.zero;
        let span = self.add(Some(call), SERVER, "llm_request", SpanKind::Server, (queued, last), attributes);
        span.tells = Tells::Engine;
        span.on_gpu = true;
        span.stage = Some(Stage {
            name: "inference",
            queue_depth: Some(sequence.queue_depth),
            queue_wait_ms: Some((scheduled - queued) as f64 * 1e-6),
            batch_fill: Some(fill),
            cache_hit_ratio: Some(hit_ratio),
            kv_usage: Some(sequence.kv_usage),
            preemptions: Some(preemptions),
        });
        span.events.push((zero + first, "first_token", vec![]));
        if request.fails {
            span.error = Some("CUDA error: device-side assert triggered");
            let exception = vec![
                ("exception.type", text("EngineError")),
                ("exception.message", text("CUDA error: device-side assert triggered")),
            ];
            span.events.push((zero + last, "exception", exception));
        }
        let server = span.span_id;
        let attributes = vec![("app.queue.policy", text("fcfs"))];
        let span =
            self.add(Some(server), SERVER, "queue", SpanKind::Internal, (queued, scheduled), attributes);
        span.stage = Some(Stage {
            name: "queue",
            queue_depth: Some(sequence.queue_depth),
            queue_wait_ms: Some((scheduled - queued) as f64 * 1e-6),
            ..Stage::default()
        });
        let looked_up = scheduled + ((first - scheduled) / 50).min(400_000);
        let attributes = vec![
            ("app.kv_cache.queried_blocks", Attr::Int(sequence.blocks.len() as i64)),
            ("app.kv_cache.hit_tokens", Attr::Int(i64::from(sequence.cached_tokens))),
        ];
        let times = (scheduled, looked_up);
        let span = self.add(Some(server), SERVER, "kv_cache.lookup", SpanKind::Internal, times, attributes);
        span.stage = Some(Stage { name: "cache", cache_hit_ratio: Some(hit_ratio), ..Stage::default() });
        self.prefill(server, sequence, looked_up);
        if spec.generates && last > first {
            self.decode(server, sequence, fill, timeline);
        }
    }

    fn prefill(&mut self, server: SpanId, sequence: &Sequence, from: i64) {
        let attributes = vec![
            ("app.prefill.chunks", Attr::Int(sequence.chunks.len() as i64)),
            ("gen_ai.usage.input_tokens", Attr::Int(i64::from(sequence.prompt_tokens))),
        ];
        let zero = self.zero;
        let times = (from, sequence.first_token_ns);
        let span = self.add(Some(server), SERVER, "prefill", SpanKind::Internal, times, attributes);
        span.on_gpu = true;
        span.stage = Some(Stage { name: "prefill", kv_usage: Some(sequence.kv_usage), ..Stage::default() });
        for chunk in sequence.chunks.iter().take(MAX_CHUNK_EVENTS) {
            let tokens = vec![("app.prefill.tokens", Attr::Int(i64::from(chunk.tokens)))];
            span.events.push((zero + chunk.to_ns.clamp(times.0, times.1), "prefill_chunk", tokens));
        }
    }

    fn decode(&mut self, server: SpanId, sequence: &Sequence, fill: f64, timeline: bool) {
        let attributes = vec![
            ("gen_ai.usage.output_tokens", Attr::Int(i64::from(sequence.generated))),
            ("app.decode.steps", Attr::Int(sequence.itl_micros.len() as i64)),
        ];
        let zero = self.zero;
        let times = (sequence.first_token_ns, sequence.last_token_ns);
        let span = self.add(Some(server), SERVER, "decode", SpanKind::Internal, times, attributes);
        span.tells = Tells::Engine;
        span.on_gpu = true;
        span.timeline = timeline;
        span.stage = Some(Stage {
            name: "decode",
            batch_fill: Some(fill),
            preemptions: Some(sequence.preempted_ns.len() as u32),
            ..Stage::default()
        });
        for at in sequence.preempted_ns.iter().filter(|at| **at >= times.0).take(4) {
            span.events.push((
                zero + at,
                "preempted",
                vec![("app.preemption.reason", text("kv_cache_full"))],
            ));
        }
    }

    fn post(&mut self, root: SpanId, from: i64) {
        let request = self.request;
        let end = from + request.post_ns();
        let attributes = vec![("rpc.system", text("grpc")), ("rpc.method", text("Postprocess"))];
        let span =
            self.add(Some(root), POSTPROCESSOR, "postprocess", SpanKind::Server, (from, end), attributes);
        span.stage = Some(Stage { name: "postprocessing", ..Stage::default() });
        let post = span.span_id;
        let mut at = from + request.detokenize_ns;
        let attributes = vec![("app.tokenizer.name", text(self.spec.model))];
        self.add(Some(post), POSTPROCESSOR, "detokenize", SpanKind::Internal, (from, at), attributes);
        let attributes = vec![("app.safety.flagged", Attr::Bool(request.number.is_multiple_of(97)))];
        let times = (at, at + request.safety_ns);
        self.add(Some(post), POSTPROCESSOR, "safety_filter", SpanKind::Internal, times, attributes);
        at = times.1;
        if request.ranks() {
            let attributes = vec![("app.rank.candidates", Attr::Int(4))];
            let times = (at, at + request.rank_ns);
            self.add(Some(post), POSTPROCESSOR, "rank", SpanKind::Internal, times, attributes);
        }
    }
}
