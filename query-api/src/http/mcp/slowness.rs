//! `explain_slowness`: where the time of a trace, or of a model, went.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::{
    aggregates::matchers,
    arguments::{Arguments, Range},
    ask::{Numbers, ToolError, alone, metrics, millis, moment, rounded, route},
    insights,
    traces::{nanos, span, stages, summary, whole},
};
use crate::http::App;

/// Spans of the critical path that are told.
const MOST_SPANS: usize = 15;
const MOST_INSIGHTS: usize = 5;
/// A change that is worth a sentence.
const NOTABLE: f64 = 1.2;
/// Metrics of a model's requests, and what they are in words.
const METRICS: [(&str, &str, &str); 6] = [
    ("request_duration_seconds", "duration", "the duration"),
    ("ttft_seconds", "ttft", "the time to first token"),
    ("tpot_seconds", "tpot", "the time per output token"),
    ("queue_seconds", "queue", "the wait in the queue"),
    ("prefill_seconds", "prefill", "prefill"),
    ("decode_seconds", "decode", "decode"),
];

pub(super) async fn explain(app: &Arc<App>, arguments: &Arguments) -> Result<Json, ToolError> {
    match (arguments.text("trace_id")?, arguments.text("model")?) {
        (Some(id), _) => of_trace(app, &id).await,
        (None, Some(model)) => {
            let (tenant, range) = (arguments.text("tenant")?, arguments.range(app)?);
            of_model(app, &model, tenant.as_deref(), range).await
        }
        (None, None) => {
            Err(ToolError("give `trace_id` (of find_traces) or `model` (of list_models)".to_owned()))
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    (part / whole.max(1.0) * 1e3).round() / 10.0
}

/// What a baseline of the model says is normal, in milliseconds.
async fn normal(app: &Arc<App>, model: &str) -> Result<Json, ToolError> {
    let parameters = [("model", Some(model.to_owned())), ("limit", Some("500".to_owned()))];
    let page = route(app, "/api/v1/baselines", &parameters).await?;
    let is_whole = |one: &&Json| {
        let is_all = |name: &str| one[name] == "";
        one["hour_of_week"].is_null() && is_all("tenant") && is_all("model_version") && is_all("stage")
    };
    let mut out = Map::new();
    for one in page["baselines"].as_array().into_iter().flatten().filter(is_whole) {
        let Some(name) = one["metric"].as_str().and_then(|metric| metric.strip_suffix("_micros")) else {
            continue;
        };
        let told = |quantile: &str| one[quantile].as_f64().map(|micros| rounded(micros / 1e3));
        out.insert(
            name.to_owned(),
            json!({"p50_ms": told("p50"), "p90_ms": told("p90"), "p99_ms": told("p99")}),
        );
    }
    Ok(out.into())
}

async fn of_trace(app: &Arc<App>, id: &str) -> Result<Json, ToolError> {
    let trace = whole(app, id).await?;
    let begin_ns = nanos(&trace["start_unix_nano"]);
    let duration = nanos(&trace["duration_nano"]) as f64;
    let critical = |span: &&Json| std::cmp::Reverse(nanos(&span["critical_time_nano"]));
    let mut path: Vec<&Json> = trace["spans"].as_array().into_iter().flatten().collect();
    path.retain(|span| nanos(&span["critical_time_nano"]) > 0);
    path.sort_by_key(critical);
    let on_path = path.len();
    path.truncate(MOST_SPANS);
    let stages = stages(&trace);
    let mut findings = Vec::new();
    if let Some(first) = path.first() {
        let share = percent(nanos(&first["critical_time_nano"]) as f64, duration);
        let (service, operation) = (first["service"].as_str(), first["operation"].as_str());
        findings.push(format!(
            "the end waited longest for span {:?} of service {:?}: {share} % of the trace",
            operation.unwrap_or_default(),
            service.unwrap_or_default()
        ));
    }
    if let Some(first) = stages.as_array().and_then(|stages| stages.first()) {
        findings.push(format!(
            "the stage with the most critical time is {}: {} %",
            first["stage"], first["critical_share_percent"]
        ));
    }
    let (ttft, queue) = (nanos(&trace["ttft_nano"]) as f64, nanos(&trace["ttft_queue_nano"]) as f64);
    if ttft > 0.0 && queue > 0.0 {
        findings
            .push(format!("of the time to first token {} % was waiting in the queue", percent(queue, ttft)));
    }
    if trace["error_count"].as_u64().unwrap_or_default() > 0 {
        findings.push(format!("{} spans failed", trace["error_count"]));
    }
    if trace["complete"] != true {
        findings.push(format!("the trace may not be complete: {}", trace["incomplete_reasons"]));
    }
    let models: Vec<&str> =
        trace["models"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut is_normal = Map::new();
    for model in models.iter().take(3) {
        is_normal.insert((*model).to_owned(), normal(app, model).await?);
    }
    let mut about = Vec::new();
    for brief in trace["insights"].as_array().into_iter().flatten().take(MOST_INSIGHTS) {
        let id = brief["id"].as_str().unwrap_or_default();
        let path = format!(
            "/api/v1/insights/{}",
            percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC)
        );
        // One that has left meanwhile says nothing any more.
        if let Ok(one) = route(app, &path, &[]).await {
            about.push(insights::insight(&one));
        }
    }
    Ok(json!({
        "findings": findings,
        "trace": summary(&trace),
        "ended": moment(&(begin_ns.saturating_add(duration as i64)).to_string().into()),
        "stages": stages,
        "critical_path": path.iter().map(|one| span(one, begin_ns)).collect::<Json>(),
        "critical_path_truncated": on_path > MOST_SPANS,
        "normal_by_model": is_normal,
        "parallelism": trace["parallelism"],
        "ttft_ms": millis(&trace["ttft_nano"]),
        "insights": about,
    }))
}

async fn of_model(
    app: &Arc<App>,
    model: &str,
    tenant: Option<&str>,
    range: Range,
) -> Result<Json, ToolError> {
    let matchers = matchers(&[("model", Some(model)), ("tenant", tenant)]);
    let length = range.promql();
    let mut queries = Vec::new();
    for (metric, ..) in METRICS {
        for quantile in ["0.5", "0.99"] {
            for before in ["", " offset "] {
                let before = if before.is_empty() { String::new() } else { format!("{before}{length}") };
                queries.push(format!(
                    "histogram_quantile({quantile}, sum(increase(infertrace_{metric}{matchers}[{length}]{before})))"
                ));
            }
        }
    }
    let percentiles = queries.len();
    queries.push(format!("sum(increase(infertrace_requests_total{matchers}[{length}]))"));
    queries.push(format!("sum(increase(infertrace_request_errors_total{matchers}[{length}]))"));
    queries.push(format!(
        "sum by (stage) (increase(infertrace_stage_critical_path_seconds_sum{matchers}[{length}]))"
    ));
    let found = metrics(app, queries, range.to_ns).await?;
    let Some(requests) = found.get(percentiles).and_then(alone).filter(|requests| *requests > 0.0) else {
        return Err(ToolError(format!(
            "model {model:?} had no requests from {} to {} in the rollups in memory; list_models tells models with requests, and a \
             longer range may help",
            range.json()["from"],
            range.json()["to"]
        )));
    };
    let errors = found.get(percentiles + 1).and_then(alone).unwrap_or_default();
    let mut findings = Vec::new();
    let mut latency = Map::new();
    for ((_, name, words), values) in METRICS.iter().zip(found.chunks(4)) {
        let [p50, p50_before, p99, p99_before] = [0, 1, 2, 3].map(|index| values.get(index).and_then(alone));
        if p50.is_none() && p99.is_none() {
            continue;
        }
        let told = |seconds: Option<f64>| seconds.map(|seconds| rounded(seconds * 1e3));
        latency.insert(
            (*name).to_owned(),
            json!({
                "p50_ms": told(p50),
                "p99_ms": told(p99),
                "p50_before_ms": told(p50_before),
                "p99_before_ms": told(p99_before),
            }),
        );
        for (percentile, now, before) in [("median", p50, p50_before), ("99th percentile", p99, p99_before)] {
            if let (Some(now), Some(before)) = (now, before)
                && before > 0.0
                && now / before >= NOTABLE
            {
                let factor = (now / before * 10.0).round() / 10.0;
                findings
                    .push(format!("{words}: the {percentile} is {factor} times that of the {length} before"));
            }
        }
    }
    let stages = by_stage(found.get(percentiles + 2), &mut findings);
    if errors > 0.0 {
        findings.push(format!("{} % of the requests failed", percent(errors, requests)));
    }
    if findings.is_empty() {
        findings.push(format!("nothing is slower than in the {length} before"));
    }
    Ok(json!({
        "findings": findings,
        "range": range.json(),
        "model": model,
        "requests": requests,
        "error_percent": percent(errors, requests),
        "latency": latency,
        "stages": stages,
        "normal": normal(app, model).await?,
        "insights": insights::of_model(app, model, range, MOST_INSIGHTS).await?,
        "next": "find_traces with this model and min_duration_ms finds slow traces; explain_slowness with a trace_id explains one",
    }))
}

/// Time on the critical path of traces by stage, the longest first.
fn by_stage(seconds: Option<&Numbers>, findings: &mut Vec<String>) -> Json {
    let mut stages: Vec<(&str, f64)> = seconds
        .into_iter()
        .flatten()
        .map(|(labels, seconds)| (labels.get("stage").map_or("none", String::as_str), *seconds))
        .collect();
    stages.sort_by(|one, other| other.1.total_cmp(&one.1));
    let total: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    let share = |seconds: f64| (seconds / total.max(1e-9) * 1e3).round() / 10.0;
    if let Some((stage, seconds)) = stages.first() {
        findings.push(format!(
            "of the time that ends of traces waited, {} % was at stage {stage:?}",
            share(*seconds)
        ));
    }
    let told = |(stage, seconds): &(&str, f64)| json!({"stage": stage, "critical_seconds": rounded(*seconds), "critical_share_percent": share(*seconds)});
    stages.iter().take(20).map(told).collect()
}
