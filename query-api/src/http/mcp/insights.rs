//! `list_insights`.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    arguments::{Arguments, Range},
    ask::{ToolError, brief, moment, route, told},
};
use crate::http::App;

const WEEK_NS: i64 = 7 * 86_400_000_000_000;

/// An insight in brief.
pub(super) fn insight(one: &Json) -> Json {
    let list = |name: &str, most: usize| one[name].as_array().into_iter().flatten().take(most);
    let causes = list("causes", 3).map(|cause| {
        json!({"cause": cause["cause"], "share": cause["share"], "explanation": brief(&cause["explanation"])})
    });
    let advice = &one["recommendation"];
    json!({
        "id": one["id"],
        "title": brief(&one["title"]),
        "kind": one["kind"],
        "severity": one["severity"],
        "state": one["state"],
        "model": one["model"],
        "model_version": one["model_version"],
        "tenant": one["tenant"],
        "service": one["service"],
        "stage": one["stage"],
        "device": one["device"],
        "opened": moment(&one["opened_unix_nano"]),
        "resolved": moment(&one["resolved_unix_nano"]),
        "evidence": list("evidence", 6).collect::<Vec<_>>(),
        "causes": causes.collect::<Json>(),
        "advice": if advice.is_null() { Json::Null } else { brief(&advice["text"]) },
        "expected_gain": brief(&advice["expected_gain"]),
        "example_traces": list("example_traces", 3).collect::<Vec<_>>(),
    })
}

/// Insights about a model that were alive in a range, the latest first.
pub(super) async fn of_model(
    app: &Arc<App>,
    model: &str,
    range: Range,
    most: usize,
) -> Result<Json, ToolError> {
    let [start, end] = range.parameters();
    let parameters = [("model", Some(model.to_owned())), ("limit", Some(most.to_string())), start, end];
    let page = route(app, "/api/v1/insights", &parameters).await?;
    Ok(page["insights"].as_array().into_iter().flatten().map(insight).collect())
}

pub(super) async fn list(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    let mut range = arguments.range(app)?;
    if !arguments.has_range() {
        range.from_ns = range.to_ns.saturating_sub(WEEK_NS);
    }
    let limit = arguments.limit("limit", 10, 30)?;
    let parameters = [
        ("model", arguments.text("model")?),
        ("tenant", arguments.text("tenant")?),
        ("kind", arguments.text("kind")?),
        ("severity", arguments.text("severity")?),
        ("state", Some(arguments.text("state")?.unwrap_or_else(|| "open".to_owned()))),
        ("limit", Some(limit.to_string())),
        ("start", Some(told(range.from_ns))),
        // One that opened at this very moment is meant too.
        ("end", Some(told(range.to_ns.saturating_add(1_000_000)))),
    ];
    let page = route(app, "/api/v1/insights", &parameters).await?;
    Ok(json!({
        "range": range.json(),
        "open_by_severity": page["open"],
        "insights": page["insights"].as_array().into_iter().flatten().map(insight).collect::<Json>(),
        "truncated": !page["next_cursor"].is_null(),
        "warnings": page["warnings"],
    }))
}
