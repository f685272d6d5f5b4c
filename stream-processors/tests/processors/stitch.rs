//! Requests stitched from what real programs sent, against what their callers wrote down.
//!
//! The payloads are not part of the repository: `INFERTRACE_TEST_DATA` names their folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use arrow::array::RecordBatch;
use infertrace_analytics::stitch::{Link, LinkKind, Role, Sighting, StitchConfig, StitchStats, Stitcher};
use infertrace_processors::{rows, stitch::Sightings};
use infertrace_proto::v1;
use infertrace_schemas::{reader::Position, view::SpanView};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value as Json;

/// The folder of captured payloads, or a loud reason why the test is skipped.
fn captures() -> Option<PathBuf> {
    let root = std::env::var_os("INFERTRACE_TEST_DATA").map_or_else(
        || {
            let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
            PathBuf::from(own).join("../../shared/data")
        },
        PathBuf::from,
    );
    let captures = root.join("captures");
    if captures.is_dir() {
        return Some(captures);
    }
    eprintln!("SKIPPED: no captures in {}; set INFERTRACE_TEST_DATA", captures.display());
    None
}

/// Messages of ours that have OTLP's encoding.
fn recode<From: Message, To: Message + Default>(from: &From) -> To {
    To::decode(from.encode_to_vec().as_slice()).expect("one encoding")
}

/// An OTLP export body as a record of the spans topic.
fn record(body: &[u8]) -> Vec<u8> {
    let request = ExportTraceServiceRequest::decode(body).expect("an OTLP body");
    let mut batch = v1::SpanBatch::default();
    for resource_spans in request.resource_spans {
        let resource: Option<v1::Resource> = resource_spans.resource.as_ref().map(recode);
        let name =
            resource.iter().flat_map(|resource| &resource.attributes).find(|one| one.key == "service.name");
        let service = match name.and_then(|name| name.value.as_ref()?.value.as_ref()) {
            Some(v1::any_value::Value::StringValue(name)) => name.clone(),
            _ => "unknown_service".to_owned(),
        };
        for scope_spans in resource_spans.scope_spans {
            let origin = batch.origins.len() as u32;
            let scope = scope_spans.scope.as_ref().map(recode);
            batch.origins.push(v1::Origin { resource: resource.clone(), scope, ..v1::Origin::default() });
            batch.spans.extend(scope_spans.spans.into_iter().map(|span| v1::Span {
                service_name: service.clone(),
                start_time_unix_nano: span.start_time_unix_nano as i64,
                duration_nanos: (span.end_time_unix_nano - span.start_time_unix_nano) as i64,
                attributes: span.attributes.iter().map(recode).collect(),
                status: span.status.as_ref().map(recode),
                operation_name: span.name,
                trace_id: span.trace_id,
                span_id: span.span_id,
                parent_span_id: span.parent_span_id,
                kind: span.kind,
                origin,
                ..v1::Span::default()
            }));
        }
    }
    batch.encode_to_vec()
}

/// Every span of one capture, in the order in which its bodies came.
fn spans(folder: &Path) -> RecordBatch {
    let entries = std::fs::read_dir(folder).expect("a capture's folder");
    let is_traces = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("traces-") && name.ends_with(".binpb")
    };
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(is_traces).collect();
    files.sort();
    let mut reader = rows::reader(0);
    for (offset, file) in files.iter().enumerate() {
        let body = std::fs::read(file).expect("a body");
        reader.push(&record(&body), Position { partition: 0, offset: offset as i64 }).expect("a record");
    }
    reader.finish()
}

fn sightings(batch: &RecordBatch) -> Vec<Sighting> {
    let mut found = Sightings::new(batch).expect("span schema");
    (0..batch.num_rows()).filter_map(|row| found.of(row)).collect()
}

fn stitch(sightings: &[Sighting]) -> (Vec<Link>, StitchStats) {
    let (mut stitcher, mut links) = (Stitcher::new(StitchConfig::default()), Vec::new());
    stitcher.advance(0, &mut links);
    for sighting in sightings {
        for key in sighting.keys() {
            stitcher.sighting(key, sighting.clone(), &mut links);
        }
    }
    stitcher.finish(&mut links);
    (links, stitcher.stats())
}

fn json_lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).expect("a file of lines");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn nanos(line: &Json, key: &str) -> i64 {
    line[key].as_i64().expect("a time")
}

fn unreported(links: &[Link]) -> Vec<&Link> {
    links.iter().filter(|link| link.kind == LinkKind::Unreported).collect()
}

fn roles(sightings: &[Sighting]) -> BTreeMap<&'static str, usize> {
    sightings.iter().fold(BTreeMap::new(), |mut counts, one| {
        *counts.entry(one.role.name()).or_default() += 1;
        counts
    })
}

/// A caller's line as a sighting of its own, for callers that send no spans.
fn caller(
    index: usize,
    start_ns: i64,
    end_ns: i64,
    id: Option<&str>,
    trace: Option<[u8; 16]>,
    is_error: bool,
) -> Sighting {
    let own = (index as u128 + 1).to_be_bytes();
    Sighting {
        start_ns,
        trace_id: trace.unwrap_or(own),
        span_id: (index as u64 + 1).to_be_bytes(),
        role: Role::Client,
        end_ns,
        is_error,
        has_parent: false,
        tenant: "".into(),
        request: id.unwrap_or("").into(),
        service: "caller".into(),
        model: "tiny".into(),
        prompt_tokens: None,
    }
}

fn trace_of(line: &Json) -> Option<[u8; 16]> {
    let text = line["traceparent"].as_str()?;
    let number = u128::from_str_radix(text.split('-').nth(1)?, 16).ok()?;
    Some(number.to_be_bytes())
}

/// Scenario: 220 requests of which vLLM reported 189 sequences, among them prompts with two sequences, requests that were
/// aborted before or after they had an id, refused, or not sampled. Guarantee: every span is joined to the line
/// that its id implies, by trace where the caller never saw an id; the 37 lines without a span are named; a prompt
/// counts as often as the answer's usage says.
#[test]
fn vllm_and_the_lines_of_its_caller() {
    let Some(captures) = captures() else { return };
    let folder = captures.join("vllm-steady");
    let batch = spans(&folder);
    let engines = sightings(&batch);
    let view = SpanView::new(&batch).expect("span schema");
    let reported: Vec<(&str, [u8; 16], [u8; 8])> = (0..view.len())
        .filter_map(|row| Some((view.request_id(row)?, *view.trace_id(row), *view.span_id(row))))
        .collect();
    assert_eq!(roles(&engines), BTreeMap::from([("engine", 189)]));
    let lines = json_lines(&folder.join("client.jsonl"));
    let mut all = engines.clone();
    for (index, line) in lines.iter().enumerate() {
        let id = line["id"].as_str();
        let status = line["status"].as_u64();
        let is_error =
            line["aborted"].as_bool().unwrap_or(false) || status.is_none_or(|status| status >= 400);
        // With an id the caller stands in a trace of its own: that is the harder case.
        let trace = if id.is_some() { None } else { trace_of(line) };
        all.push(caller(index, nanos(line, "t_send_ns"), nanos(line, "t_end_ns"), id, trace, is_error));
    }
    let (links, stats) = stitch(&all);

    let (mut joined, mut missing, mut by_trace) = (0, 0, 0);
    for (index, line) in lines.iter().enumerate() {
        let span = (index as u64 + 1).to_be_bytes();
        let is_own = |link: &&Link| link.members_of(Role::Client).any(|member| member.span_id == span);
        let own: Vec<&Link> = links.iter().filter(is_own).collect();
        let [link] = own.as_slice() else { panic!("line {index} is told {} times", own.len()) };
        // The rule as the callers know it: the id they were answered, for completions with the number of the prompt.
        let is_chat = line["path"] == "/v1/chat/completions";
        let called = line["id"].as_str().map(|id| if is_chat { id.to_owned() } else { format!("{id}-0") });
        let is_own = |(id, trace, _): &&(&str, [u8; 16], [u8; 8])| match &called {
            Some(called) => id == called,
            None => Some(*trace) == trace_of(line),
        };
        let expected: BTreeSet<[u8; 8]> = reported.iter().filter(is_own).map(|(_, _, span)| *span).collect();
        let found: BTreeSet<[u8; 8]> = link.members_of(Role::Engine).map(|member| member.span_id).collect();
        assert_eq!(found, expected, "line {index}: {line}");
        let is_missing = link.kind == LinkKind::Unreported;
        assert_eq!(is_missing, expected.is_empty(), "line {index}: {line}");
        joined += found.len();
        missing += u64::from(is_missing);
        by_trace += u64::from(link.is_by_trace);
        if let (Some(tokens), false) = (line["usage"]["prompt_tokens"].as_u64(), is_missing) {
            assert_eq!(link.prompt_tokens, Some(tokens), "line {index}");
            let repeated = if found.len() == 2 { tokens } else { 0 };
            assert_eq!(link.repeated_prompt_tokens, repeated, "line {index}");
        }
    }
    assert_eq!((joined, missing, by_trace), (189, 37, 1));
    assert_eq!((stats.unreported, stats.linked), (37, 183));
}

/// The calls of a program whose client spans are captured: the lines of those that failed or were abandoned.
fn failed_calls(lines: &[Json]) -> Vec<&Json> {
    lines.iter().filter(|line| line["error"].is_string() || line["call"] == "stream abandoned").collect()
}

fn contains(line: &Json, member: &Sighting) -> bool {
    nanos(line, "start_ns") <= member.start_ns && member.start_ns <= nanos(line, "end_ns")
}

/// Scenario: a client whose instrumentation propagates its context, so that the engine's spans are in its traces; of 50
/// calls 5 failed and a stream was abandoned. Guarantee: exactly these are unreported, each named by its span; only the prompt
/// with two sequences needs a link.
#[test]
fn a_client_that_propagates_its_context() {
    let Some(captures) = captures() else { return };
    let folder = captures.join("genai-openai");
    let all = sightings(&spans(&folder));
    assert_eq!(roles(&all), BTreeMap::from([("client", 49), ("engine", 45)]));
    let lines = json_lines(&folder.join("calls.jsonl"));
    let (links, stats) = stitch(&all);

    let missing = unreported(&links);
    let failed = failed_calls(&lines);
    assert_eq!((missing.len(), failed.len()), (6, 6));
    for line in failed {
        let named = missing.iter().filter(|link| contains(line, &link.members[0])).count();
        assert_eq!(named, 1, "{line}");
    }
    let linked: Vec<&Link> = links.iter().filter(|link| link.kind == LinkKind::Linked).collect();
    let [two] = linked.as_slice() else { panic!("{} links", linked.len()) };
    let line = lines.iter().find(|line| line["call"] == "n=2").expect("such a call");
    assert_eq!(line["result"]["id"].as_str(), Some(&*two.request));
    assert_eq!(two.members_of(Role::Engine).count(), 2);
    assert_eq!(two.prompt_tokens, line["result"]["usage"]["prompt_tokens"].as_u64());
    assert_eq!(stats.unidentified, 0);
}

/// Scenario: a client whose instrumentation does not propagate context and reports no ids but for the answers' JSON.
/// Guarantee: every answer that is not a stream is joined to the engine's span of its id; the five failed calls are
/// unreported; the 19 streams cannot be told apart and are counted, not guessed.
#[test]
fn a_client_that_is_known_by_its_answers() {
    let Some(captures) = captures() else { return };
    let folder = captures.join("openinference-openai");
    let all = sightings(&spans(&folder));
    assert_eq!(roles(&all), BTreeMap::from([("client", 48), ("engine", 43)]));
    let lines = json_lines(&folder.join("calls.jsonl"));
    let (links, stats) = stitch(&all);

    let linked: Vec<&Link> = links.iter().filter(|link| link.kind == LinkKind::Linked).collect();
    let (mut streams, mut answered) = (0, 0);
    for line in &lines {
        let of_line: Vec<&&Link> = linked
            .iter()
            .filter(|link| link.members_of(Role::Client).any(|member| contains(line, member)))
            .collect();
        if line["call"].as_str().expect("a name").starts_with("stream") {
            assert!(line["call"] == "stream abandoned" || of_line.is_empty(), "{line}");
            streams += 1;
        } else if line["error"].is_null() && line["call"] != "burst" {
            let [link] = of_line.as_slice() else { panic!("{} links of {line}", of_line.len()) };
            if let Some(id) = line["result"]["id"].as_str() {
                assert_eq!(&*link.request, id);
            }
            answered += 1;
        }
    }
    assert_eq!((streams, answered), (9, 14));
    // The bursts run at once, so lines do not tell them apart; ten of the twenty are streams.
    assert_eq!(linked.len(), 14 + 10);
    let identified = all.iter().filter(|one| one.role == Role::Client && !one.request.is_empty()).count();
    assert_eq!(linked.len(), identified, "whoever has an id is joined");
    for link in &linked {
        let clients: Vec<_> = link.members_of(Role::Client).collect();
        assert_eq!(clients.len(), 1);
        assert!(link.members_of(Role::Engine).count() == if link.repeated_prompt_tokens > 0 { 2 } else { 1 });
        assert_eq!(link.prompt_tokens, clients[0].prompt_tokens);
    }
    let missing = unreported(&links);
    assert_eq!(missing.len(), 5);
    for line in failed_calls(&lines).into_iter().filter(|line| line["error"].is_string()) {
        assert_eq!(missing.iter().filter(|link| contains(line, &link.members[0])).count(), 1, "{line}");
    }
    assert_eq!(stats.unidentified, 9 + 10);
}

/// Scenario: a proxy between client and engine that tries other upstreams first; the client's lines are sightings too.
/// Guarantee: every answered call with an id is one link of client, proxy and engine; the attempts that failed and the
/// calls that were refused are unreported.
#[test]
fn a_proxy_between() {
    let Some(captures) = captures() else { return };
    let folder = captures.join("litellm-v2");
    let mut all = sightings(&spans(&folder));
    let counts = roles(&all);
    let lines = json_lines(&folder.join("calls.jsonl"));
    for (index, line) in lines.iter().enumerate() {
        let is_error = line["status"].as_u64().is_none_or(|status| status >= 400);
        if let (None, false) = (line["id"].as_str(), is_error) {
            // A stream whose caller did not write its id down.
            continue;
        }
        let times = (nanos(line, "start_ns"), nanos(line, "end_ns"));
        all.push(caller(index, times.0, times.1, line["id"].as_str(), None, is_error));
    }
    let (links, stats) = stitch(&all);
    let mut answered = 0;
    for line in lines.iter().filter(|line| line["id"].is_string()) {
        let id = line["id"].as_str().expect("checked");
        let of_id: Vec<&Link> = links.iter().filter(|link| &*link.request == id).collect();
        let [link] = of_id.as_slice() else { panic!("{} links of {id}", of_id.len()) };
        assert_eq!(link.kind, LinkKind::Linked);
        let count = |role| link.members_of(role).count();
        assert_eq!((count(Role::Client), count(Role::Proxy), count(Role::Engine)), (1, 1, 1), "{id}");
        assert_eq!(link.prompt_tokens, line["usage"]["prompt_tokens"].as_u64());
        answered += 1;
    }
    assert_eq!(answered, 24);
    let missing = unreported(&links);
    let by =
        |role| missing.iter().filter(|link| link.members.iter().any(|member| member.role == role)).count();
    let refused =
        lines.iter().filter(|line| line["status"].as_u64().is_some_and(|status| status >= 400)).count();
    assert_eq!(by(Role::Client), refused);
    let failed_attempts = all.iter().filter(|one| one.role == Role::Proxy && one.is_error).count();
    assert_eq!(by(Role::Proxy), failed_attempts, "{counts:?} {stats:?}");
}
