//! The JSON of a trace and of its summary.

use std::collections::{HashMap, hash_map::Entry};

use infertrace_analytics::cost::Pricer;
use infertrace_schemas::{
    trace::NONE,
    view::{SpanView, ViewError, to_otlp_json},
};
use serde_json::{Map, Value as Json, json};

use super::{Assembled, cost::Priced};
use crate::{
    hot::TraceId,
    lake::Problem,
    store::{Part, Tier},
};

/// What an answer lacks, or may.
#[derive(Clone, Debug, Default)]
pub struct Lacks {
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// What failed without a span being missed.
    pub warnings: Vec<String>,
}

fn tier_names(tiers: &[Tier]) -> Vec<&'static str> {
    tiers.iter().map(|tier| tier.name()).collect()
}

/// Whether everything is there, as far as is known.
#[must_use]
pub fn is_complete(trace: &Assembled, problems: &[Problem]) -> bool {
    trace.analysis.completeness.is_complete() && problems.is_empty()
}

/// Why a trace is not complete: what the analysis misses, and what could not be read.
fn incomplete_reasons(trace: &Assembled, problems: &[Problem]) -> Vec<&'static str> {
    let mut reasons: Vec<&'static str> = trace.analysis.completeness.reasons().collect();
    if !problems.is_empty() {
        reasons.push("unreadable_data");
    }
    reasons
}

/// What could not be read, in words.
#[must_use]
pub fn warnings(problems: &[Problem]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| format!("{} tier, {}: {}", problem.tier, problem.what, problem.detail))
        .collect()
}

/// The fields by which a trace is listed.
#[must_use]
pub fn summary(
    trace_id: &TraceId,
    trace: &Assembled,
    parts: &[Part],
    problems: &[Problem],
) -> Map<String, Json> {
    let analysis = &trace.analysis;
    let name = |id| trace.names.get(id);
    let mut out = Map::new();
    let mut put = |key: &str, value: Json| {
        out.insert(key.to_owned(), value);
    };
    put("trace_id", hex::encode(trace_id).into());
    let root =
        (analysis.root != NONE).then(|| trace.spans[analysis.nodes[analysis.root as usize].input as usize]);
    put("root_service", root.map_or("", |root| name(root.service)).into());
    put("root_operation", root.map_or("", |root| name(root.operation)).into());
    put("root_span_id", root.map_or(String::new(), |root| format!("{:016x}", root.span_id)).into());
    let status = match (analysis.errors, root.map(|root| root.status)) {
        (1.., _) => "ERROR",
        (0, Some(1)) => "OK",
        _ => "UNSET",
    };
    put("status", status.into());
    put("start_unix_nano", analysis.start_ns.to_string().into());
    put("duration_nano", analysis.duration_ns().to_string().into());
    put("span_count", analysis.nodes.len().into());
    put("error_count", analysis.errors.into());
    let services = analysis.services.iter().map(|service| {
        json!({
            "service": name(service.service),
            "span_count": service.spans,
            "error_count": service.errors,
            "self_time_nano": service.self_ns.to_string(),
        })
    });
    put("services", analysis.services.iter().map(|service| name(service.service)).collect());
    put("service_breakdown", services.collect());
    put("models", analysis.models.iter().map(|model| name(*model)).collect());
    let stages = analysis.stages.iter().map(|stage| {
        json!({
            "stage": name(stage.stage),
            "span_count": stage.spans,
            "self_time_nano": stage.self_ns.to_string(),
            "critical_time_nano": stage.critical_ns.to_string(),
        })
    });
    put("stages", stages.collect());
    let tokens = &analysis.tokens;
    let ttft = analysis.ttft.as_ref();
    let numbers = [
        ("input_tokens", tokens.input),
        ("output_tokens", tokens.output),
        ("cached_tokens", tokens.cached),
        ("ttft_nano", ttft.map(|ttft| ttft.ttft_ns)),
        ("ttft_queue_nano", ttft.and_then(|ttft| ttft.queue_ns)),
        ("ttft_prefill_nano", ttft.and_then(|ttft| ttft.prefill_ns)),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            put(key, value.to_string().into());
        }
    }
    if let Some(ttft) = ttft {
        put("ttft_measured", ttft.measured.into());
    }
    put("parallelism", json!(analysis.parallelism));
    put("complete", is_complete(trace, problems).into());
    put("incomplete_reasons", incomplete_reasons(trace, problems).into());
    put("tiers", tier_names(&trace.tiers(parts)).into());
    out
}

/// The summary of a trace in a list, with its cost where every column of its spans is at hand, as in the hot tier: a search
/// reads few columns of the lake, and pricing needs most.
#[must_use]
pub fn listed(trace_id: &TraceId, trace: &Assembled, parts: &[Part], pricer: &Pricer) -> Map<String, Json> {
    let mut out = summary(trace_id, trace, parts, &[]);
    if let Ok(priced) = Priced::of(trace, parts, pricer) {
        out.insert("cost".to_owned(), priced.trace_json());
    }
    out
}

/// A trace whole, as the API answers it, with its cost and the insights that may be about it.
///
/// # Errors
/// [`ViewError`] for a batch that is not of the span schema.
pub fn trace(
    trace_id: &TraceId,
    trace: &Assembled,
    parts: &[Part],
    lacks: &Lacks,
    pricer: &Pricer,
    insights: Json,
) -> Result<Vec<u8>, ViewError> {
    let problems = lacks.problems.as_slice();
    let analysis = &trace.analysis;
    let views = parts.iter().map(|part| SpanView::new(&part.rows.batch)).collect::<Result<Vec<_>, _>>()?;
    let mut out = Vec::with_capacity(1_024 * analysis.nodes.len());
    let mut head = summary(trace_id, trace, parts, problems);
    head.remove("trace_id");
    let span_id =
        |node: u32| format!("{:016x}", trace.spans[analysis.nodes[node as usize].input as usize].span_id);
    let mut critical: Vec<u32> = analysis.critical_path.iter().map(|segment| segment.node).collect();
    let segments = analysis.critical_path.iter().map(|segment| {
        json!({
            "span_id": span_id(segment.node),
            "start_unix_nano": segment.start_ns.to_string(),
            "duration_nano": (segment.end_ns - segment.start_ns).max(0).to_string(),
        })
    });
    head.insert("critical_path_segments".to_owned(), segments.collect());
    // A span that waits for a child is on the path before and after it: its id is listed once.
    let mut seen = vec![false; analysis.nodes.len()];
    critical.retain(|&node| !std::mem::replace(&mut seen[node as usize], true));
    head.insert("critical_path".to_owned(), critical.iter().map(|&node| span_id(node)).collect());
    let edges = analysis.edges.iter().map(|edge| {
        json!({
            "caller": trace.names.get(edge.caller),
            "callee": trace.names.get(edge.callee),
            "calls": edge.calls,
            "errors": edge.errors,
            "total_nano": edge.total_ns.to_string(),
        })
    });
    head.insert("edges".to_owned(), edges.collect());
    let shifts = analysis.clock_shifts.iter().map(|shift| {
        json!({
            "service": trace.names.get(shift.service),
            "shift_nano": shift.shift_ns.to_string(),
            "span_count": shift.spans,
        })
    });
    head.insert("clock_shifts".to_owned(), shifts.collect());
    let priced = Priced::of(trace, parts, pricer)?;
    head.insert("cost".to_owned(), priced.trace_json());
    head.insert("insights".to_owned(), insights);
    head.insert("partial".to_owned(), json!(problems));
    let warnings = [warnings(problems), lacks.warnings.clone()].concat();
    head.insert("warnings".to_owned(), warnings.into());
    head.insert("truncated".to_owned(), (trace.dropped > 0).into());
    head.insert("dropped_spans".to_owned(), trace.dropped.into());
    // The head as an object without its closing brace, then the spans one by one.
    out.extend_from_slice(b"{\"trace_id\":\"");
    out.extend_from_slice(hex::encode(trace_id).as_bytes());
    out.extend_from_slice(b"\",");
    let head = Json::Object(head).to_string();
    out.extend_from_slice(&head.as_bytes()[1..head.len() - 1]);
    out.extend_from_slice(b",\"spans\":[");
    for (index, node) in analysis.nodes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let place = trace.place(index);
        let mut span = views[place.part as usize].to_json(place.row as usize);
        if let Json::Object(span) = &mut span {
            span.insert("self_time_nano".to_owned(), node.self_ns.to_string().into());
            span.insert("critical_time_nano".to_owned(), node.critical_ns.to_string().into());
            span.insert("depth".to_owned(), node.depth.into());
            if let Some(cost) = priced.span_json(index) {
                span.insert("cost".to_owned(), cost);
            }
            span.insert("tier".to_owned(), parts[place.part as usize].tier.name().into());
        }
        serde_json::to_writer(&mut out, &span).expect("a JSON value is written to memory");
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// A trace as OTLP/JSON, with nothing lost.
///
/// # Errors
/// [`ViewError`] for a batch that is not of the span schema.
pub fn otlp(trace: &Assembled, parts: &[Part]) -> Result<Vec<u8>, ViewError> {
    let views = parts.iter().map(|part| SpanView::new(&part.rows.batch)).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..trace.analysis.nodes.len()).map(|node| {
        let place = trace.place(node);
        (&views[place.part as usize], place.row as usize)
    });
    Ok(to_otlp_json(rows).into_bytes())
}

/// As [`otlp`], with each span under a resource whose `service.name` is the span's service, which is what other tools
/// take for it. A sender may leave it out of the resource, or name another for a span.
///
/// # Errors
/// As [`otlp`], and when a resource is no JSON.
pub fn otlp_by_service(trace: &Assembled, parts: &[Part]) -> Result<Vec<u8>, OtlpError> {
    let views = parts.iter().map(|part| SpanView::new(&part.rows.batch)).collect::<Result<Vec<_>, _>>()?;
    let mut names: HashMap<&str, Option<String>> = HashMap::new();
    let mut services: Vec<(&str, Vec<(&SpanView<'_>, usize)>)> = Vec::new();
    let mut is_named = true;
    for node in 0..trace.analysis.nodes.len() {
        let place = trace.place(node);
        let (view, row) = (&views[place.part as usize], place.row as usize);
        let (service, resource) = (view.service(row), view.resource(row));
        let name = match names.entry(resource) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(service_of(&serde_json::from_str(resource)?)),
        };
        is_named &= name.as_deref() == Some(service);
        match services.iter_mut().find(|(known, _)| *known == service) {
            Some((_, rows)) => rows.push((view, row)),
            None => services.push((service, vec![(view, row)])),
        }
    }
    if is_named {
        return Ok(otlp(trace, parts)?);
    }
    let mut all = Vec::new();
    for (service, rows) in services {
        let mut told: Json = serde_json::from_str(&to_otlp_json(rows))?;
        for spans in told["resourceSpans"].as_array_mut().into_iter().flatten() {
            name_service(&mut spans["resource"], service);
        }
        if let Json::Array(spans) = told["resourceSpans"].take() {
            all.extend(spans);
        }
    }
    Ok(json!({"resourceSpans": all}).to_string().into_bytes())
}

const SERVICE: &str = "service.name";

/// Why a trace could not be told as OTLP.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A batch lacks a column.
    #[error(transparent)]
    View(#[from] ViewError),
    /// What is stored of a resource is no JSON.
    #[error("a resource is no JSON: {0}")]
    Resource(#[from] serde_json::Error),
}

fn service_of(resource: &Json) -> Option<String> {
    let attributes = resource["attributes"].as_array()?;
    let named = attributes.iter().rfind(|attribute| attribute["key"] == SERVICE);
    named.and_then(|attribute| attribute["value"]["stringValue"].as_str()).map(str::to_owned)
}

fn name_service(resource: &mut Json, service: &str) {
    let attribute = json!({"key": SERVICE, "value": {"stringValue": service}});
    match resource["attributes"].as_array_mut() {
        Some(attributes) => {
            attributes.retain(|attribute| attribute["key"] != SERVICE);
            attributes.insert(0, attribute);
        }
        None => resource["attributes"] = json!([attribute]),
    }
}
