//! The tools: names, what they are for, what they take.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::{aggregates, arguments::Arguments, ask::ToolError, insights, slowness, traces};
use crate::http::App;

/// All of them.
pub(super) const NAMES: [&str; 7] = [
    "find_traces",
    "get_trace",
    "explain_slowness",
    "list_insights",
    "compare_versions",
    "cost",
    "list_models",
];

fn text(description: &str) -> Json {
    json!({"type": "string", "description": description})
}

fn one_of(values: &[&str], description: &str) -> Json {
    json!({"type": "string", "enum": values, "description": description})
}

fn limit(default: usize, most: usize, what: &str) -> Json {
    json!({"type": "integer", "minimum": 1, "maximum": most, "default": default, "description": format!("{what} at most.")})
}

/// A schema with these properties, and with those of a range of time.
fn schema(properties: Json, required: &[&str], has_range: bool) -> Json {
    let mut properties = properties.as_object().cloned().unwrap_or_default();
    if has_range {
        let last = "Minutes until `to` that are looked at, where `from` is not given.";
        properties.insert(
            "last_minutes".to_owned(),
            json!({"type": "integer", "minimum": 1, "maximum": 525_600, "default": 60, "description": last}),
        );
        properties.insert("from".to_owned(), text("Begin, RFC 3339 or seconds since 1970."));
        properties.insert("to".to_owned(), text("End, RFC 3339 or seconds since 1970; now unless given."));
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

const MODEL: &str = "Model name, exact, as list_models tells it.";
const TENANT: &str = "Tenant, exact.";

/// Title, description and schema of a tool.
fn described(name: &str) -> Option<(&'static str, &'static str, Json)> {
    Some(match name {
        "find_traces" => (
            "Find traces",
            "Traces of requests, newest first, in which one span satisfies every condition. Each comes with its duration and time to \
             first token in milliseconds, tokens, cost in US dollars and errors. For all of a trace call get_trace or explain_slowness.",
            schema(
                json!({
                    "model": text(MODEL),
                    "service": text("Service name, exact."),
                    "operation": text("Name of a span, exact."),
                    "status": one_of(&["ok", "error"], "Status of the span."),
                    "min_duration_ms": {"type": "number", "minimum": 0, "description": "Least duration of the span, milliseconds."},
                    "query": text("A query of the language (TraceQL), such as { llm:ttft > 500ms && status = error }."),
                    "cursor": text("`next_cursor` of an answer, with the same conditions, for what follows."),
                    "limit": limit(10, 50, "Traces"),
                }),
                &[],
                true,
            ),
        ),
        "get_trace" => (
            "Get a trace",
            "One trace: summary, stages, cost, insights, and the spans with the largest self time, in the order of their starts. Times are in \
             milliseconds; offset_ms counts from the start of the trace.",
            schema(
                json!({"trace_id": text("1 to 32 hex digits."), "max_spans": limit(40, 200, "Spans")}),
                &["trace_id"],
                false,
            ),
        ),
        "explain_slowness" => (
            "Explain slowness",
            "Why a trace, or a model in a range of time, is slow: findings in words, the time by stage, the critical path (the spans that the \
             end had to wait for) or percentiles against the time before, what is normal, and insights with causes and advice. \
             Give either trace_id or model.",
            schema(
                json!({"trace_id": text("1 to 32 hex digits."), "model": text(MODEL), "tenant": text(TENANT)}),
                &[],
                true,
            ),
        ),
        "list_insights" => (
            "List insights",
            "What the platform noticed by itself: anomalies with severity, evidence against the baseline, ranked causes and advice, the latest \
             first. Looks back a week unless a range is given.",
            schema(
                json!({
                    "model": text(MODEL),
                    "tenant": text(TENANT),
                    "kind": text("Kind, such as ttft or errors."),
                    "severity": one_of(&["info", "warning", "page"], "Severity."),
                    "state": {"type": "string", "enum": ["open", "resolved", "all"], "default": "open", "description": "Which."},
                    "limit": limit(10, 30, "Insights"),
                }),
                &[],
                true,
            ),
        ),
        "compare_versions" => (
            "Compare versions",
            "Two versions of a model in the same range: requests, share of errors, percentiles of duration, time to first token and time per \
             output token in milliseconds, cost per request in US dollars, and the change from `a` to `b` in percent. Without versions \
             the two with the most requests.",
            schema(
                json!({"model": text(MODEL), "a": text("A version."), "b": text("Another."), "tenant": text(TENANT)}),
                &["model"],
                true,
            ),
        ),
        "cost" => (
            "Cost",
            "What requests cost in a range, in US dollars, dearest first: with requests, how much of it is an estimate, requests without a price, \
             and cost per million output tokens; and what idle devices cost.",
            schema(
                json!({
                    "by": {
                        "type": "array",
                        "items": {"type": "string", "enum": aggregates::COST_LABELS},
                        "default": ["model"],
                        "description": "By what it is told.",
                    },
                    "model": text(MODEL),
                    "tenant": text(TENANT),
                    "limit": limit(20, 100, "Rows"),
                }),
                &[],
                true,
            ),
        ),
        "list_models" => (
            "List models",
            "Models with traffic in a range, busiest first: requests, share of errors, median and 99th percentile of the duration and of the time to first \
             token in milliseconds; and models that are known from before.",
            schema(json!({"limit": limit(20, 100, "Models")}), &[], true),
        ),
        _ => return None,
    })
}

/// As `tools/list` tells them.
pub(super) fn list() -> Json {
    let tool = |name: &&str| {
        let (title, description, schema) = described(name)?;
        let hints = json!({"readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false});
        Some(json!({
            "name": name,
            "title": title,
            "description": description,
            "inputSchema": schema,
            "annotations": hints,
        }))
    };
    NAMES.iter().filter_map(tool).collect()
}

/// Calls a tool; `None` where there is none of that name.
pub(super) async fn call(
    app: &Arc<App>,
    name: &str,
    given: Map<String, Json>,
) -> Option<Result<Json, ToolError>> {
    let (_, _, schema) = described(name)?;
    let arguments = match Arguments::of(&schema, given) {
        Ok(arguments) => arguments,
        Err(error) => return Some(Err(error)),
    };
    Some(match name {
        "find_traces" => traces::find(app, &arguments).await,
        "get_trace" => traces::get(app, &arguments).await,
        "explain_slowness" => slowness::explain(app, &arguments).await,
        "list_insights" => insights::list(app, &arguments).await,
        "compare_versions" => aggregates::compare(app, &arguments).await,
        "cost" => aggregates::cost(app, &arguments).await,
        _ => aggregates::models(app, &arguments).await,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the list of tools. Guarantee: each is described, with a schema that closes its arguments and explains each.
    #[test]
    fn every_tool_is_described() {
        let tools = list();
        assert_eq!(tools.as_array().map(Vec::len), Some(NAMES.len()));
        for tool in tools.as_array().into_iter().flatten() {
            let schema = &tool["inputSchema"];
            assert_eq!((&schema["type"], &schema["additionalProperties"]), (&json!("object"), &json!(false)));
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            }
        }
    }
}
