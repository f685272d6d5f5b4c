//! What names tell: the framework from scope or service, the stage and request id from a span's name.

/// Frameworks and the words by which scopes and services name them; a longer word stands before one it contains.
pub const FRAMEWORKS: &[(&str, &[&str])] = &[
    ("llm-d", &["llm-d", "llm_d"]),
    ("vllm", &["vllm"]),
    ("sglang", &["sglang"]),
    ("tensorrt-llm", &["tensorrt-llm", "tensorrt_llm", "trtllm"]),
    ("triton", &["triton", "triton-inference-server"]),
    ("dynamo", &["dynamo"]),
    ("litellm", &["litellm"]),
    ("llama.cpp", &["llama.cpp", "llamacpp", "llama-server"]),
    ("text-generation-inference", &["text-generation-inference", "tgi"]),
    ("ollama", &["ollama"]),
    ("onnxruntime", &["onnxruntime"]),
    ("torchserve", &["torchserve"]),
    ("pytorch", &["pytorch"]),
    ("ray-serve", &["ray-serve", "ray.serve"]),
    ("bentoml", &["bentoml"]),
];

/// The framework that an instrumentation scope belongs to: `vllm.tracing.otel`, `litellm`, `sglang server`.
///
/// An instrumentation *for* a framework (`opentelemetry.instrumentation.…`) says what a client calls, not
/// what serves, and names none.
#[must_use]
pub fn framework_of_scope(scope: &str) -> Option<&'static str> {
    let is_named = |word: &str| match scope.strip_prefix(word) {
        Some(rest) => !rest.starts_with(|next: char| next.is_alphanumeric()),
        None => false,
    };
    FRAMEWORKS.iter().find(|(_, words)| words.iter().any(|word| is_named(word))).map(|(name, _)| *name)
}

/// The framework that a service's name mentions as a word: `vllm-tiny`, `prod.sglang`.
#[must_use]
pub fn framework_of_service(service: &str) -> Option<&'static str> {
    let mentions = |word: &str| {
        service.match_indices(word).any(|(start, _)| {
            let edge = |next: Option<char>| !next.is_some_and(char::is_alphanumeric);
            edge(service[..start].chars().next_back()) && edge(service[start + word.len()..].chars().next())
        })
    };
    FRAMEWORKS.iter().find(|(_, words)| words.iter().any(|word| mentions(word))).map(|(name, _)| *name)
}

/// Attribute prefixes that only one framework uses.
pub const KEY_PREFIXES: &[(&str, &str)] =
    &[("triton.", "triton"), ("nv_inference_", "triton"), ("vllm:", "vllm"), ("sglang:", "sglang")];

/// The framework that alone sends attributes like `key`.
#[must_use]
pub fn framework_of_key(key: &str) -> Option<&'static str> {
    KEY_PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(_, framework)| *framework)
}

/// A span name that tells the stage.
#[derive(Clone, Copy, Debug)]
pub struct StageRow {
    /// The framework whose name it is; `None` where the name is unmistakable.
    pub framework: Option<&'static str>,
    /// Span name.
    pub name: &'static str,
    /// Stage.
    pub stage: &'static str,
}

const fn stage(framework: Option<&'static str>, name: &'static str, stage: &'static str) -> StageRow {
    StageRow { framework, name, stage }
}

const VLLM: Option<&str> = Some("vllm");
const SGLANG: Option<&str> = Some("sglang");
const TRITON: Option<&str> = Some("triton");
const DYNAMO: Option<&str> = Some("dynamo");
const LLM_D: Option<&str> = Some("llm-d");

/// Names, and the stages they are.
pub const STAGES: &[StageRow] = &[
    stage(VLLM, "llm_request", "inference"),
    // SGLang: `prefill` as an attribute is dispatch to first token, queue included; its spans are finer.
    stage(SGLANG, "tokenize", "tokenize"),
    stage(None, "api_server_dispatch", "preprocessing"),
    stage(None, "dpc_dispatch", "preprocessing"),
    stage(SGLANG, "request_process", "preprocessing"),
    stage(None, "prefill_waiting", "queue"),
    stage(None, "prefill_forward", "prefill"),
    stage(None, "chunked_prefill", "prefill"),
    stage(None, "decode_forward", "decode"),
    stage(None, "decode_loop", "decode"),
    stage(None, "prefill_transfer_kv_cache", "kv_transfer"),
    stage(None, "decode_transferred", "kv_transfer"),
    stage(TRITON, "InferRequest", "inference"),
    stage(TRITON, "compute", "inference"),
    stage(DYNAMO, "http-request", "gateway"),
    stage(DYNAMO, "handle_payload", "inference"),
    stage(LLM_D, "gateway.request", "gateway"),
    stage(None, "llm_d.epp.scoring", "routing"),
    stage(LLM_D, "forward_request", "inference"),
    stage(LLM_D, "prefill", "prefill"),
    stage(LLM_D, "decode", "decode"),
];

/// The stage that a span's name tells, given its framework.
#[must_use]
pub fn stage_of(name: &str, framework: Option<&str>) -> Option<&'static str> {
    if let Some(row) =
        STAGES.iter().find(|row| row.name == name && (row.framework.is_none() || row.framework == framework))
    {
        return Some(row.stage);
    }
    (framework == SGLANG && request_id_of_name(name).is_some()).then_some("inference")
}

/// Whether [`stage_of`] could answer for `name` under some framework.
#[must_use]
pub fn may_name_a_stage(name: &str) -> bool {
    STAGES.iter().any(|row| row.name == name) || request_id_of_name(name).is_some()
}

/// The request id in the name of SGLang's root span, `<role> Req <rid>`.
#[must_use]
pub fn request_id_of_name(name: &str) -> Option<&str> {
    let id = name.strip_prefix("Req ").or_else(|| name.split_once(" Req ").map(|(_, id)| id))?;
    (!id.is_empty() && !id.contains(' ')).then_some(id)
}
