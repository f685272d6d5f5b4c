//! What real programs sent, through the reader, against what their callers saw.
//!
//! The payloads are not part of the repository: `INFERTRACE_TEST_DATA` names their folder.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use infertrace_schemas::view::{SpanView, to_otlp_json};
use serde_json::{Value as Json, json};

use crate::support::{captures, otlp_to_batch, read_records};
use arrow::array::RecordBatch;
use prost::Message;

/// Every traces body of one capture, one record each.
fn read_capture(folder: &Path) -> RecordBatch {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a capture's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("traces-") && name.ends_with(".binpb")
        })
        .collect();
    files.sort();
    let records: Vec<Vec<u8>> = files
        .iter()
        .map(|file| otlp_to_batch(&std::fs::read(file).expect("a body")).encode_to_vec())
        .collect();
    let spans: usize = records
        .iter()
        .map(|record| infertrace_schemas::record::span_count_of(record).expect("a record"))
        .sum();
    let batch = read_records(&records);
    assert_eq!(batch.num_rows(), spans, "no span of a real program is bad");
    batch
}

fn json_lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).expect("a file of lines");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const FOLDERS: [&str; 5] =
    ["vllm-steady", "genai-openai", "openinference-openai", "litellm-v2", "llamacpp/genai-openai-client"];

/// Whether a value of the examples (Python's JSON of the OTLP values) is what the API shows.
fn is_shown(value: &Json, kind: &str, shown: &Json) -> bool {
    match kind {
        "int_value" => *shown == json!(value.to_string()),
        // The parser that reads the examples may take a double of 17 digits for its neighbour.
        "double_value" => match (value.as_f64(), shown.as_f64()) {
            (Some(value), Some(shown)) => (value - shown).abs() <= value.abs() * f64::EPSILON,
            _ => false,
        },
        _ => value == shown,
    }
}

/// Scenario: the example spans of every capture. Guarantee: ids, names, times, kinds, resources, scopes and all
/// attributes with their types are what was written down when they were received.
#[test]
fn the_examples_come_back() {
    let Some(captures) = captures() else { return };
    let mut compared = 0;
    for folder in FOLDERS {
        let batch = read_capture(&captures.join(folder));
        let view = SpanView::new(&batch).expect("span schema");
        let rows: HashMap<String, usize> =
            (0..view.len()).map(|row| (hex::encode(view.span_id(row)), row)).collect();
        let text = std::fs::read_to_string(captures.join(folder).join("examples.json")).expect("examples");
        let examples: Vec<Json> = serde_json::from_str(&text).expect("JSON");
        for example in &examples {
            let Some(&row) = rows.get(example["spanId"].as_str().expect("an id")) else { continue };
            let shown = view.to_json(row);
            assert_eq!(shown["trace_id"], example["traceId"]);
            assert_eq!(shown["parent_span_id"], example["parentSpanId"]);
            assert_eq!(shown["operation"], example["name"]);
            assert_eq!(shown["trace_state"], example["traceState"]);
            assert_eq!(shown["flags"], example["flags"]);
            assert_eq!(u64::from(view.kind(row)), example["kind"].as_u64().expect("a kind"));
            assert_eq!(shown["start_unix_nano"], example["startTimeUnixNano"].to_string());
            assert_eq!(view.end_ns(row).to_string(), example["endTimeUnixNano"].to_string());
            assert_eq!(u64::from(view.status_code(row)), example["status"]["code"].as_u64().expect("a code"));
            assert_eq!(shown["resource"]["attributes"], example["resource"]);
            assert_eq!(shown["scope"]["name"], example["scope"]["name"]);
            let attributes = example["attributes"].as_object().expect("attributes");
            assert_eq!(shown["attributes"].as_object().map(serde_json::Map::len), Some(attributes.len()));
            for (key, value) in attributes {
                let kind = example["attributeTypes"][key].as_str().expect("a type");
                let found = &shown["attributes"][key];
                assert!(is_shown(value, kind, found), "{folder} {key}: {found} for {value}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 14, "only {compared} examples were found");
}

/// Scenario: a whole capture rendered as OTLP/JSON. Guarantee: it parses, and holds every span once.
#[test]
fn captures_render_as_otlp() {
    let Some(captures) = captures() else { return };
    for folder in FOLDERS {
        let batch = read_capture(&captures.join(folder));
        let view = SpanView::new(&batch).expect("span schema");
        let document: Json =
            serde_json::from_str(&to_otlp_json((0..view.len()).map(|row| (&view, row)))).expect("JSON");
        let spans: usize = document["resourceSpans"]
            .as_array()
            .expect("resource spans")
            .iter()
            .flat_map(|resource| resource["scopeSpans"].as_array().expect("scope spans"))
            .map(|scope| scope["spans"].as_array().expect("spans").len())
            .sum();
        assert_eq!(spans, view.len());
    }
}

/// Seconds of an attribute as nanoseconds.
fn nanos(shown: &Json, key: &str) -> u64 {
    (shown["attributes"][key].as_f64().expect("seconds") * 1e9).round() as u64
}

/// Scenario: 189 requests of a real vLLM, and what its clients were answered. Guarantee: framework, stage, TTFT,
/// queue wait and TPOT come from its attributes, token counts equal the answers' usage, no model is invented.
#[test]
fn vllm_agrees_with_its_clients() {
    let Some(captures) = captures() else { return };
    let folder = captures.join("vllm-steady");
    let batch = read_capture(&folder);
    let view = SpanView::new(&batch).expect("span schema");
    let mut usages: HashMap<String, Json> = HashMap::new();
    for line in json_lines(&folder.join("client.jsonl")) {
        if let (Some(id), true) = (line["id"].as_str(), line["usage"].is_object()) {
            usages.insert(id.to_owned(), line["usage"].clone());
        }
    }
    let (mut requests, mut agreed) = (0, 0);
    let mut outputs: HashMap<String, (u64, u64, u64)> = HashMap::new();
    for row in 0..view.len() {
        assert_eq!(view.framework(row), Some("vllm"));
        assert_eq!(view.model_name(row), None);
        if view.operation(row) != "llm_request" {
            assert_eq!(view.stage(row), None);
            continue;
        }
        requests += 1;
        let shown = view.to_json(row);
        assert_eq!(view.stage(row), Some("inference"));
        assert_eq!(view.ttft_ns(row), Some(nanos(&shown, "gen_ai.latency.time_to_first_token")));
        let wait = shown["attributes"]["gen_ai.latency.time_in_queue"].as_f64().expect("seconds") * 1e3;
        assert_eq!(view.queue_wait_ms(row), Some(wait));
        let (input, output) =
            (view.input_tokens(row).expect("known"), view.output_tokens(row).expect("known"));
        assert_eq!(view.sequence_length(row), Some(input + output));
        if output > 1 {
            let generating = nanos(&shown, "gen_ai.latency.e2e") - view.ttft_ns(row).expect("known");
            let tpot = view.tpot_ns(row).expect("two tokens and more");
            assert!(tpot.abs_diff(generating / (output - 1)) <= 1);
        } else {
            assert_eq!(view.tpot_ns(row), None);
        }
        let id = view.request_id(row).expect("every request has an id");
        let entry = outputs.entry(id.to_owned()).or_insert((input, 0, 0));
        entry.1 += output;
        entry.2 += 1;
    }
    assert_eq!(requests, 189);
    for (id, (input, output, sequences)) in &outputs {
        let answer = usages.get(id).or_else(|| usages.get(id.strip_suffix("-0")?));
        let Some(usage) = answer else { continue };
        assert_eq!(usage["prompt_tokens"].as_u64(), Some(*input), "{id}, {sequences} sequences");
        assert_eq!(usage["completion_tokens"].as_u64(), Some(*output), "{id}, {sequences} sequences");
        agreed += 1;
    }
    assert!(agreed >= 150, "only {agreed} answers were found");
}

/// Usage by response id, from what calls returned.
fn usage_by_id(folder: &Path) -> HashMap<String, Json> {
    let mut usages = HashMap::new();
    for call in json_lines(&folder.join("calls.jsonl")) {
        let answer = if call["result"].is_object() { &call["result"] } else { &call };
        if let (Some(id), true) = (answer["id"].as_str(), answer["usage"].is_object()) {
            usages.insert(id.to_owned(), answer["usage"].clone());
        }
    }
    usages
}

/// Compares client spans of one capture with their answers; returns how many had one.
fn compare_clients(folder: &Path, is_client: impl Fn(&SpanView<'_>, usize) -> bool) -> usize {
    let batch = read_capture(folder);
    let view = SpanView::new(&batch).expect("span schema");
    let usages = usage_by_id(folder);
    let mut compared = 0;
    for row in (0..view.len()).filter(|row| is_client(&view, *row)) {
        let Some(usage) = view.request_id(row).and_then(|id| usages.get(id)) else { continue };
        let Some(input) = view.input_tokens(row) else { continue };
        assert_eq!(usage["prompt_tokens"].as_u64(), Some(input));
        assert_eq!(usage["completion_tokens"].as_u64(), view.output_tokens(row));
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().filter(|cached| *cached > 0);
        if let Some(cached) = cached {
            assert_eq!(view.cached_tokens(row), Some(cached));
            assert_eq!(view.cache_hit(row), Some(true));
            let ratio = view.cache_hit_ratio(row).expect("known");
            assert!((ratio - cached as f64 / input as f64).abs() < 1e-12);
        }
        assert_eq!(view.model_name(row), Some("tiny"));
        assert!(view.finish_reason(row).is_some_and(|reason| !reason.contains(['[', '"'])));
        compared += 1;
    }
    compared
}

/// Scenario: OpenTelemetry's GenAI instrumentation against vLLM and against llama.cpp. Guarantee: tokens, cache,
/// model and finish reasons are what the calls returned; streams have a TTFT.
#[test]
fn gen_ai_clients_agree_with_their_answers() {
    let Some(captures) = captures() else { return };
    for folder in ["genai-openai", "llamacpp/genai-openai-client"] {
        let folder = captures.join(folder);
        let is_chat = |view: &SpanView<'_>, row| view.scope(row).contains("genai.openai");
        assert!(compare_clients(&folder, is_chat) >= 15, "{}", folder.display());
        let batch = read_capture(&folder);
        let view = SpanView::new(&batch).expect("span schema");
        let streams: Vec<usize> = (0..view.len())
            .filter(|row| view.attribute_equals(*row, "gen_ai.request.stream", "true"))
            .collect();
        assert_eq!(streams.len(), 20);
        for row in streams {
            assert_eq!(view.streaming(row), Some(true));
            let shown = view.to_json(row);
            assert_eq!(view.ttft_ns(row), Some(nanos(&shown, "gen_ai.response.time_to_first_chunk")));
            assert!(view.ttft_ns(row) <= Some(view.duration_ns(row) as u64));
        }
        let sessions = (0..view.len()).filter(|row| view.session_id(*row).is_some()).count();
        assert!(sessions >= 1, "the application's session");
    }
}

/// Scenario: OpenInference's spans and LiteLLM's. Guarantee: as above, by other spellings; LiteLLM is known as
/// the framework, and its retried calls keep their errors.
#[test]
fn other_clients_agree_with_their_answers() {
    let Some(captures) = captures() else { return };
    let is_llm = |view: &SpanView<'_>, row| view.attribute(row, "openinference.span.kind").is_some();
    let folder = captures.join("openinference-openai");
    let batch = read_capture(&folder);
    let view = SpanView::new(&batch).expect("span schema");
    let named =
        (0..view.len()).filter(|row| is_llm(&view, *row) && view.model_name(*row) == Some("tiny")).count();
    assert_eq!(named, 43);
    for row in (0..view.len()).filter(|row| is_llm(&view, *row)) {
        let count = |key| match view.attribute(row, key) {
            Some(infertrace_schemas::view::AttributeValue::Int(count)) => Some(count as u64),
            _ => None,
        };
        assert_eq!(view.input_tokens(row), count("llm.token_count.prompt"));
        assert_eq!(view.output_tokens(row), count("llm.token_count.completion"));
        assert_eq!(view.cached_tokens(row), count("llm.token_count.prompt_details.cache_read"));
        assert_eq!(view.sequence_length(row), count("llm.token_count.total"));
        assert_eq!(view.provider(row), Some("openai"));
    }

    let folder = captures.join("litellm-v2");
    let is_chat = |view: &SpanView<'_>, row: usize| {
        view.operation(row) == "chat tiny" && view.framework(row) == Some("litellm")
    };
    assert!(compare_clients(&folder, is_chat) >= 15);
    let batch = read_capture(&folder);
    let view = SpanView::new(&batch).expect("span schema");
    let (mut proxies, mut engines) = (0, 0);
    for row in 0..view.len() {
        match (view.service(row), view.framework(row)) {
            ("litellm-proxy", Some("litellm")) => proxies += 1,
            ("vllm-tiny", Some("vllm")) => engines += 1,
            other => panic!("{other:?}"),
        }
        if view.attribute_equals(row, "llm.is_streaming", "true") {
            assert_eq!(view.streaming(row), Some(true));
        }
    }
    assert_eq!((proxies, engines), (275, 49));
}
