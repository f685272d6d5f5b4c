//! The spans of one blast request, made from a seed: the same (seed, variant, count) gives the same spans, in
//! `blast` and in `verify`.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::content::{Attr, Content};

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
const PARENTS: [Option<usize>; SPANS_PER_TRACE] =
    [None, Some(0), Some(0), Some(2), Some(0), Some(4), Some(4), Some(4), Some(0), Some(8)];
const MODELS: [&str; 4] = ["llama-3.1-8b-instruct", "qwen2.5-14b-instruct", "mistral-7b-v0.3", "phi-4-mini"];
const REGIONS: [&str; 3] = ["us-east-1", "eu-central-1", "ap-south-1"];

impl Template {
    /// The spans of (`seed`, `variant`); `count` is 1 to 65,535.
    #[must_use]
    pub fn generate(seed: u64, variant: u32, count: u16) -> Self {
        let mut random =
            SmallRng::seed_from_u64(seed ^ u64::from(variant).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut spans = Vec::with_capacity(usize::from(count));
        for index in 0..count {
            let step = usize::from(index) % SPANS_PER_TRACE;
            let first = index - step as u16;
            let trace = index / SPANS_PER_TRACE as u16;
            spans.push(span(&mut random, trace, first, step));
        }
        let digest = spans.iter().fold(0u64, |sum, span| sum.wrapping_add(span.digest));
        let traces = count.div_ceil(SPANS_PER_TRACE as u16);
        Self { spans, traces, digest }
    }
}

fn span(random: &mut SmallRng, trace: u16, first: u16, step: usize) -> SpanSpec {
    let (service, operation, kind) = STEPS[step];
    let duration_ns = random.random_range(50_000..900_000_000i64) / (step as i64 + 1);
    let status = if random.random_ratio(1, 50) { 2 } else { 0 };
    let attributes = attributes(random, service, step, status);
    let mut content = Content::new(service, operation, kind, status, duration_ns);
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

/// 14 or 15 attributes, about 430 bytes. The number is a short decimal: every JSON parser reads those exactly.
fn attributes(random: &mut SmallRng, service: &str, step: usize, status: u8) -> Vec<(&'static str, Attr)> {
    let text = |value: &str| Attr::Str(value.to_owned());
    let model = MODELS[random.random_range(0..MODELS.len())];
    let input = random.random_range(20..4_000i64);
    let output = random.random_range(1..800i64);
    let mut attributes = vec![
        ("gen_ai.operation.name", text("chat")),
        ("gen_ai.provider.name", text("vllm")),
        ("gen_ai.request.model", text(model)),
        ("gen_ai.request.id", Attr::Str(format!("chatcmpl-{:016x}", random.random::<u64>()))),
        ("gen_ai.usage.input_tokens", Attr::Int(input)),
        ("gen_ai.usage.output_tokens", Attr::Int(output)),
        ("gen_ai.latency.time_in_queue", Attr::Double(f64::from(random.random_range(0..80_000u32)) / 1e6)),
        ("http.request.method", text("POST")),
        ("http.response.status_code", Attr::Int(if status == 2 { 500 } else { 200 })),
        ("server.address", Attr::Str(format!("{service}-{}.svc.local", random.random_range(0..24)))),
        ("cloud.region", text(REGIONS[random.random_range(0..REGIONS.len())])),
        ("host.name", Attr::Str(format!("node-{:04}", random.random_range(0..400)))),
        ("thread.id", Attr::Int(random.random_range(1..64))),
        ("app.cache.hit", Attr::Bool(random.random_bool(0.6))),
    ];
    if step % 2 == 0 {
        attributes.push(("session.id", Attr::Str(format!("{:012x}", random.random::<u64>() >> 16))));
    }
    attributes
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
        assert!(one.spans.iter().all(|span| (14..=15).contains(&span.attributes.len())));
    }
}
