//! Alertmanager's API v2: what `POST /api/v2/alerts` takes.
//!
//! An alert is its labels, so these hold what identifies an insight and nothing that changes with its revisions, but
//! for the severity: when that changes, the alert with the old one is ended. An open alert
//! is sent without `endsAt`: Alertmanager ends it `resolve_timeout` after it was last told, by its own clock.

use std::collections::BTreeMap;

use infertrace_schemas::avro::{Insight, InsightState, Severity};
use serde::Serialize;

use super::text;

/// One alert, with the names of the API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alert {
    pub(crate) labels: BTreeMap<&'static str, String>,
    pub(crate) annotations: BTreeMap<&'static str, String>,
    pub(crate) starts_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ends_at: Option<String>,
}

/// The alert of `insight`, told at `now` (nanoseconds): no time of it is later than that.
pub(crate) fn alert(insight: &Insight, now: i64) -> Alert {
    let resolved = (insight.state == InsightState::Resolved)
        .then(|| insight.resolved_unix_nanos.unwrap_or(insight.window_end_unix_nanos));
    alert_until(insight, resolved, now)
}

/// The alert of `insight` as over at `now`.
pub(crate) fn ended(insight: &Insight, now: i64) -> Alert {
    alert_until(insight, Some(now), now)
}

fn alert_until(insight: &Insight, end: Option<i64>, now: i64) -> Alert {
    let start = insight.opened_unix_nanos.min(now);
    let mut labels = BTreeMap::from([
        ("alertname", alert_name(&insight.kind)),
        ("severity", severity(insight.severity).to_owned()),
        ("kind", insight.kind.clone()),
        ("insight_id", insight.id.clone()),
    ]);
    labels.extend(text::subject(insight).into_iter().map(|(name, value)| (name, value.to_owned())));
    let mut lines: Vec<String> = insight.evidence.iter().map(text::evidence).collect();
    lines.extend(insight.causes.iter().map(text::cause));
    let mut annotations =
        BTreeMap::from([("summary", insight.title.clone()), ("description", lines.join("\n"))]);
    annotations.extend(
        insight.recommendation.as_ref().map(|advice| ("recommendation", text::recommendation(advice))),
    );
    if !insight.example_traces.is_empty() {
        annotations.insert("example_traces", insight.example_traces.join(" "));
    }
    Alert {
        labels,
        annotations,
        starts_at: text::time(start),
        ends_at: end.map(|end| text::time(end.min(now).max(start))),
    }
}

/// As in `InferTraceGpuIdle` for `gpu_idle`.
fn alert_name(kind: &str) -> String {
    let mut name = "InferTrace".to_owned();
    for word in kind.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Page => "page",
    }
}

/// The body of a request.
pub(crate) fn body(alerts: &[Alert]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(alerts)
}
