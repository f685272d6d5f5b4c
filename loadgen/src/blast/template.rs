//! The spans of one blast request, made from a seed: the same (seed, variant, count) gives the same spans, in
//! `blast` and in `verify`. As in real traffic, one span of a trace, the engine's, has a request id and tokens.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::content::{Attr, Content, NO_TRACE, REQUEST_ID, request_id_of};

/// Spans of one trace.
pub const SPANS_PER_TRACE: usize = 10;

/// One span of a request, without ids and absolute time.
#[derive(Clone, Debug)]
pub struct SpanSpec {
    /// Trace within the request.
    pub trace: u16,
    /// Index of the parent within the request.
    pub parent: Option<u16>,
    /// Service.
    pub service: &'static str,
    /// Operation.
    pub operation: &'static str,
    /// OTLP's span kind.
    pub kind: u8,
    /// OTLP's status code.
    pub status: u8,
    /// Start, after the request's base time.
    pub start_offset_ns: i64,
    /// Duration.
    pub duration_ns: i64,
    /// Attributes.
    pub attributes: Vec<(&'static str, Attr)>,
    /// Digest of the content.
    pub digest: u64,
}

/// The spans of one request.
#[derive(Clone, Debug)]
pub struct Template {
    /// Spans, trace by trace.
    pub spans: Vec<SpanSpec>,
    /// Number of traces.
    pub traces: u16,
    /// Sum of the spans' digests.
    pub digest: u64,
}

/// service, operation, kind
const STEPS: [(&str, &str, u8); SPANS_PER_TRACE] = [
    ("api-gateway", "POST /v1/chat/completions", 2),
    ("api-gateway", "authorize", 1),
    ("preprocessor", "preprocess", 2),
    ("preprocessor", "tokenize", 1),
    ("model-server", "llm_request", 2),
    ("model-server", "queue", 1),
    ("model-server", "prefill", 1),
    ("model-server", "decode", 1),
    ("postprocessor", "postprocess", 2),
    ("postprocessor", "detokenize", 1),
];
/// The step whose span has a request id.
const LLM_REQUEST: usize = 4;
const PARENTS: [Option<usize>; SPANS_PER_TRACE] =
    [None, Some(0), Some(0), Some(2), Some(0), Some(4), Some(4), Some(4), Some(0), Some(8)];
const MODELS: [&str; 4] = ["llama-3.1-8b-instruct", "qwen2.5-14b-instruct", "mistral-7b-v0.3", "phi-4-mini"];
const REGIONS: [&str; 3] = ["us-east-1", "eu-central-1", "ap-south-1"];

/// What the spans of one trace share.
struct Story {
    model: &'static str,
    region: &'static str,
    session: String,
    prompt_tokens: i64,
    output_tokens: i64,
}

impl Story {
    fn generate(random: &mut SmallRng) -> Self {
        Self {
            model: MODELS[random.random_range(0..MODELS.len())],
            region: REGIONS[random.random_range(0..REGIONS.len())],
            session: format!("{:012x}", random.random::<u64>() >> 16),
            prompt_tokens: random.random_range(20..4_000),
            output_tokens: random.random_range(1..800),
        }
    }
}

impl Template {
    /// The spans of (`seed`, `variant`); `count` is 1 to 65,535.
    #[must_use]
    pub fn generate(seed: u64, variant: u32, count: u16) -> Self {
        let mut random =
            SmallRng::seed_from_u64(seed ^ u64::from(variant).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut spans = Vec::with_capacity(usize::from(count));
        for first in (0..count).step_by(SPANS_PER_TRACE) {
            let story = Story::generate(&mut random);
            for step in 0..SPANS_PER_TRACE.min(usize::from(count - first)) {
                spans.push(span(&mut random, &story, first, step));
            }
        }
        let digest = spans.iter().fold(0u64, |sum, span| sum.wrapping_add(span.digest));
        let traces = count.div_ceil(SPANS_PER_TRACE as u16);
        Self { spans, traces, digest }
    }
}

fn span(random: &mut SmallRng, story: &Story, first: u16, step: usize) -> SpanSpec {
    let (service, operation, kind) = STEPS[step];
    let trace = first / SPANS_PER_TRACE as u16;
    let duration_ns = random.random_range(50_000..900_000_000i64) / (step as i64 + 1);
    let status = if random.random_ratio(1, 50) { 2 } else { 0 };
    let attributes = attributes(random, story, step, status);
    let mut content = Content::new(&NO_TRACE, service, operation, kind, status, duration_ns);
    for (key, value) in &attributes {
        content.attr(key, value);
    }
    SpanSpec {
        trace,
        parent: PARENTS[step].map(|parent| first + parent as u16),
        service,
        operation,
        kind,
        status,
        start_offset_ns: i64::from(trace) * 1_000_000 + step as i64 * 40_000,
        duration_ns,
        attributes,
        digest: content.digest(),
    }
}

/// 12 to 17 attributes, about 450 bytes a span: of its process, and of its step what a server, a worker or an engine reports.
fn attributes(random: &mut SmallRng, story: &Story, step: usize, status: u8) -> Vec<(&'static str, Attr)> {
    let (service, ..) = STEPS[step];
    let mut attributes = vec![
        ("gen_ai.request.model", text(story.model)),
        ("k8s.namespace.name", text("inference")),
        ("k8s.pod.name", Attr::Str(format!("{service}-7c9f6d5b84-{:05x}", random.random_range(0..96)))),
        ("service.instance.id", Attr::Str(instance_id(service, random.random_range(0..96)))),
        ("host.name", Attr::Str(format!("node-{:04}", random.random_range(0..400)))),
        ("server.address", Attr::Str(format!("{service}-{}.svc.local", random.random_range(0..24)))),
        ("cloud.region", text(story.region)),
        ("thread.id", Attr::Int(random.random_range(1..64))),
    ];
    attributes.extend(match step {
        LLM_REQUEST => engine(random, story),
        5..=7 => stage(random),
        _ => web(random, story, status),
    });
    attributes
}

/// What a serving engine says of a request. Numbers are short decimals: every JSON parser reads those exactly.
fn engine(random: &mut SmallRng, story: &Story) -> Vec<(&'static str, Attr)> {
    let mut seconds = |most: u32| Attr::Double(f64::from(random.random_range(0..most)) / 1e6);
    vec![
        ("gen_ai.operation.name", text("chat")),
        ("gen_ai.provider.name", text("vllm")),
        (REQUEST_ID, Attr::Str(request_id_of(&NO_TRACE))),
        ("gen_ai.usage.input_tokens", Attr::Int(story.prompt_tokens)),
        ("gen_ai.usage.output_tokens", Attr::Int(story.output_tokens)),
        ("gen_ai.latency.time_in_queue", seconds(80_000)),
        ("gen_ai.latency.time_to_first_token", seconds(900_000)),
        ("gen_ai.request.temperature", Attr::Double(0.7)),
        ("gen_ai.request.max_tokens", Attr::Int(1_024)),
    ]
}

/// What it says of a stage.
fn stage(random: &mut SmallRng) -> Vec<(&'static str, Attr)> {
    vec![
        ("gen_ai.provider.name", text("vllm")),
        ("gen_ai.operation.name", text("chat")),
        ("engine.scheduler.running", Attr::Int(random.random_range(1..256))),
        ("engine.scheduler.waiting", Attr::Int(random.random_range(0..64))),
        ("engine.process.name", Attr::Str(format!("EngineCore_{}", random.random_range(0..8)))),
    ]
}

/// What a web service says.
fn web(random: &mut SmallRng, story: &Story, status: u8) -> Vec<(&'static str, Attr)> {
    vec![
        ("http.request.method", text("POST")),
        ("http.response.status_code", Attr::Int(if status == 2 { 500 } else { 200 })),
        ("http.route", text("/v1/chat/completions")),
        ("session.id", text(&story.session)),
        ("enduser.id", Attr::Str(format!("{:016x}", random.random::<u64>()))),
        ("app.cache.hit", Attr::Bool(random.random_bool(0.6))),
    ]
}

/// A UUID, the same for each process.
fn instance_id(service: &str, number: u64) -> String {
    let hash = u128::from(xxh3_64_with_seed(service.as_bytes(), number))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15 << 32 | 1);
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn text(value: &str) -> Attr {
    Attr::Str(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the same seed twice, and another variant. Guarantee: same spans; different ones.
    #[test]
    fn templates_are_a_function_of_the_seed() {
        let one = Template::generate(7, 0, 100);
        assert_eq!(one.digest, Template::generate(7, 0, 100).digest);
        assert_ne!(one.digest, Template::generate(7, 1, 100).digest);
        assert_eq!((one.spans.len(), one.traces), (100, 10));
        assert!(one.spans.iter().all(|span| (12..=17).contains(&span.attributes.len())));
    }
}
