//! `find_traces` and `get_trace`.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::{
    arguments::Arguments,
    ask::{ToolError, brief, millis, moment, route},
};
use crate::http::App;

/// A trace in brief, of the API's summary.
pub(super) fn summary(trace: &Json) -> Map<String, Json> {
    let mut out = Map::new();
    let mut put = |name: &str, value: Json| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("trace_id", trace["trace_id"].clone());
    put("start", moment(&trace["start_unix_nano"]));
    put("duration_ms", millis(&trace["duration_nano"]));
    put("ttft_ms", millis(&trace["ttft_nano"]));
    put("ttft_queue_ms", millis(&trace["ttft_queue_nano"]));
    put("ttft_prefill_ms", millis(&trace["ttft_prefill_nano"]));
    for name in ["root_service", "root_operation"] {
        put(name, brief(&trace[name]));
    }
    for name in [
        "models",
        "status",
        "span_count",
        "error_count",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "complete",
    ] {
        put(name, trace[name].clone());
    }
    put("cost_usd", trace["cost"]["usd"].clone());
    out
}

pub(super) async fn find(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let range = arguments.range(app)?;
    let limit = arguments.limit("limit", 10, 50)?;
    let [start, end] = range.parameters();
    let parameters = [
        ("model", arguments.text("model")?),
        ("service", arguments.text("service")?),
        ("operation", arguments.text("operation")?),
        ("status", arguments.text("status")?),
        ("min_duration_ms", arguments.number("min_duration_ms")?.map(|millis| millis.to_string())),
        ("q", arguments.text("query")?),
        ("cursor", arguments.text("cursor")?),
        ("limit", Some(limit.to_string())),
        start,
        end,
    ];
    let page = route(app, "/api/v1/traces", &parameters).await?;
    let traces = page["traces"].as_array().into_iter().flatten().map(|trace| Json::Object(summary(trace)));
    Ok(json!({
        "range": range.json(),
        "traces": traces.collect::<Json>(),
        "next_cursor": page["next_cursor"],
        "truncated": !page["next_cursor"].is_null() || page["truncated"] == true,
        "warnings": page["warnings"],
    }))
}

/// Nanoseconds as the API writes them.
pub(super) fn nanos(value: &Json) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A span in brief; `begin_ns` is the start of the trace.
pub(super) fn span(span: &Json, begin_ns: i64) -> Json {
    let offset_ns = nanos(&span["start_unix_nano"]).saturating_sub(begin_ns);
    let mut out = json!({
        "span_id": span["span_id"],
        "parent_span_id": span["parent_span_id"],
        "service": brief(&span["service"]),
        "operation": brief(&span["operation"]),
        "stage": span["stage"],
        "offset_ms": millis(&offset_ns.to_string().into()),
        "duration_ms": millis(&span["duration_nano"]),
        "self_ms": millis(&span["self_time_nano"]),
        "critical_ms": millis(&span["critical_time_nano"]),
    });
    if span["status"]["code"] == "ERROR" {
        out["error"] = brief(&span["status"]["message"]);
    }
    out
}

/// Stages of a trace with their share of its duration, the longest on the critical path first.
pub(super) fn stages(trace: &Json) -> Json {
    let duration = nanos(&trace["duration_nano"]).max(1) as f64;
    let mut all: Vec<&Json> = trace["stages"].as_array().into_iter().flatten().collect();
    all.sort_by_key(|stage| std::cmp::Reverse(nanos(&stage["critical_time_nano"])));
    let stage = |stage: &&Json| {
        let critical = nanos(&stage["critical_time_nano"]) as f64;
        json!({
            "stage": stage["stage"],
            "span_count": stage["span_count"],
            "self_ms": millis(&stage["self_time_nano"]),
            "critical_ms": millis(&stage["critical_time_nano"]),
            "critical_share_percent": (critical / duration * 1e3).round() / 10.0,
        })
    };
    all.iter().take(20).map(stage).collect()
}

pub(super) async fn get(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let id = arguments.required("trace_id")?;
    let most = arguments.limit("max_spans", 40, 200)?;
    let trace = whole(app, &id).await?;
    let begin_ns = nanos(&trace["start_unix_nano"]);
    let mut spans: Vec<&Json> = trace["spans"].as_array().into_iter().flatten().collect();
    let held = spans.len();
    spans.sort_by_key(|span| std::cmp::Reverse(nanos(&span["self_time_nano"])));
    spans.truncate(most);
    spans.sort_by_key(|span| nanos(&span["start_unix_nano"]));
    let mut out = summary(&trace);
    out.insert("incomplete_reasons".to_owned(), trace["incomplete_reasons"].clone());
    out.insert("stages".to_owned(), stages(&trace));
    out.insert("cost".to_owned(), trace["cost"].clone());
    out.insert("insights".to_owned(), trace["insights"].clone());
    out.insert("spans".to_owned(), spans.iter().map(|one| span(one, begin_ns)).collect());
    out.insert("truncated".to_owned(), (held > most || trace["truncated"] == true).into());
    out.insert("warnings".to_owned(), trace["warnings"].clone());
    Ok(out.into())
}

/// A trace as the API tells it.
pub(super) async fn whole(app: &Arc<App>, id: &str) -> Result<Json, ToolError> {
    // An id is part of the path: nothing else may come into it.
    if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ToolError(
            "argument `trace_id`: expected 1 to 32 hex digits, as find_traces tells them".to_owned(),
        ));
    }
    route(app, &format!("/api/v1/traces/{id}"), &[]).await
}
