//! `GET /api/v1/insights` and `/api/v1/insights/{id}`: what the processors found, why, and what to do about it.

use std::sync::Arc;

use axum::{
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_schemas::avro::{InsightState, Severity};
use serde_json::{Map, Value as Json, json};

use super::{App, error::ApiError, params, respond, triage::triage_json};
use crate::{
    hot::TraceId,
    insights::{
        Insights, cursor,
        store::{Held, InsightFilter, TraceFacts},
    },
    trace::Assembled,
};

/// Insights named in a trace's answer.
const MOST_ABOUT_A_TRACE: usize = 20;
/// Parameters that say which insights are meant, wherever they are listed.
const LIST: &[&str] = &["model", "tenant", "kind", "severity", "state", "start", "end", "limit", "cursor"];

const fn state_name(state: InsightState) -> &'static str {
    match state {
        InsightState::Open => "OPEN",
        InsightState::Updated => "UPDATED",
        InsightState::Resolved => "RESOLVED",
    }
}

pub(super) const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "INFO",
        Severity::Warning => "WARNING",
        Severity::Page => "PAGE",
    }
}

/// An insight as the list, the stream and its own resource show it.
pub(super) fn insight_json(held: &Held, now_ms: i64) -> Json {
    let insight = &held.insight;
    let evidence = insight.evidence.iter().map(|one| {
        // A ratio to nothing is none.
        let ratio = one.baseline.filter(|baseline| *baseline != 0.0).map(|baseline| one.observed / baseline);
        json!({
            "metric": one.metric,
            "unit": one.unit,
            "observed": one.observed,
            "baseline": one.baseline,
            "ratio": ratio.filter(|ratio| ratio.is_finite()),
            "samples": one.samples.to_string(),
        })
    });
    let causes = insight
        .causes
        .iter()
        .map(|cause| json!({"cause": cause.cause, "share": cause.share, "explanation": cause.explanation}));
    let recommendation = insight.recommendation.as_ref().map(|advice| {
        json!({
            "text": advice.text,
            "expected_gain": advice.expected_gain,
            "confidence": advice.confidence,
        })
    });
    json!({
        "id": insight.id,
        "revision": insight.revision,
        "state": state_name(insight.state),
        "severity": severity_name(insight.severity),
        "kind": insight.kind,
        "title": insight.title,
        "tenant": insight.tenant,
        "model": insight.model,
        "model_version": insight.model_version,
        "service": insight.service,
        "stage": insight.stage,
        "device": insight.device,
        "first_window_unix_nano": held.first_window_ns.to_string(),
        "window_start_unix_nano": insight.window_start_unix_nanos.to_string(),
        "window_end_unix_nano": insight.window_end_unix_nanos.to_string(),
        "opened_unix_nano": insight.opened_unix_nanos.to_string(),
        "resolved_unix_nano": insight.resolved_unix_nanos.map(|at| at.to_string()),
        "detector": insight.detector,
        "detector_version": insight.detector_version,
        "evidence": evidence.collect::<Json>(),
        "causes": causes.collect::<Json>(),
        "recommendation": recommendation,
        "example_traces": insight.example_traces,
        "normal_traces": insight.normal_traces,
        "triage": triage_json(held, now_ms),
    })
}

fn revisions(held: &Held) -> Json {
    let revision = |one: &crate::insights::store::Revision| {
        json!({
            "revision": one.revision,
            "state": state_name(one.state),
            "severity": severity_name(one.severity),
            "window_start_unix_nano": one.window_start_ns.to_string(),
            "window_end_unix_nano": one.window_end_ns.to_string(),
            "recorded_unix_nano": one.recorded_ms.saturating_mul(1_000_000).to_string(),
        })
    };
    held.revisions.iter().map(revision).collect()
}

/// What is wanted by name, wherever insights are filtered.
pub(super) fn names(query: &params::Params) -> Result<InsightFilter, ApiError> {
    let severity = match query.get("severity").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("info") => Some(Severity::Info),
        Some("warning") => Some(Severity::Warning),
        Some("page") => Some(Severity::Page),
        Some(_) => return Err(ApiError::bad_parameter("severity", "expected info, warning or page")),
    };
    Ok(InsightFilter {
        model: query.text("model")?,
        tenant: query.text("tenant")?,
        kind: query.text("kind")?,
        severity,
        ..InsightFilter::default()
    })
}

fn filter(query: &params::Params) -> Result<InsightFilter, ApiError> {
    let open = match query.get("state").map(str::to_ascii_lowercase).as_deref() {
        None | Some("all") => None,
        Some("open") => Some(true),
        Some("resolved") => Some(false),
        Some(_) => return Err(ApiError::bad_parameter("state", "expected open, resolved or all")),
    };
    let (start_ns, end_ns) = (query.time("start")?, query.time("end")?);
    if let (Some(start), Some(end)) = (start_ns, end_ns)
        && start >= end
    {
        return Err(ApiError::bad_parameter("end", "not after start"));
    }
    Ok(InsightFilter { open, start_ns, end_ns, ..names(query)? })
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::Params::parse(query.as_deref(), LIST, &[])?;
    let filter = filter(&query)?;
    let limits = &app.config.limits;
    let (limit, lowered) = query.limit(limits)?;
    let after = query
        .get("cursor")
        .map(|text| cursor::decode(text, &filter))
        .transpose()
        .map_err(|error| ApiError::bad_parameter("cursor", error.to_string()))?;
    let now_ms = app.clock.now_unix_millis();
    let (page, more, open) = {
        let store = app.insights.read();
        let (page, more) = store.list(&filter, after.as_ref(), limit);
        (page, more, store.open_counts(now_ms))
    };
    let next = page.last().filter(|_| more).map(|held| {
        let place = (held.insight.opened_unix_nanos, held.insight.id.as_str().into());
        cursor::encode(&place, &filter)
    });
    let mut warnings = Vec::new();
    if let Some(error) = app.insights.feed_error() {
        warnings.push(format!("insights are not being read, newer ones may be missing: {error}"));
    }
    if lowered {
        warnings.push(format!("limit was lowered to {limit}, the most insights a page"));
    }
    let answer = json!({
        "insights": page.iter().map(|held| insight_json(held, now_ms)).collect::<Json>(),
        "next_cursor": next,
        "open": {"page": open.page, "warning": open.warning, "info": open.info, "muted": open.muted},
        "warnings": warnings,
        "truncated": lowered,
    });
    Ok(respond::json(&headers, answer.to_string().into_bytes(), limits.max_response_bytes).await)
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params::Params::parse(query.as_deref(), &[], &[])?;
    let held = app.insights.read().get(&id).ok_or_else(|| ApiError::no_insight(&id))?;
    let mut answer = insight_json(&held, app.clock.now_unix_millis());
    if let Json::Object(answer) = &mut answer {
        answer.insert("revisions".to_owned(), revisions(&held));
    }
    Ok(respond::json(&headers, answer.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}

/// The insights that may be about a trace, in brief.
pub(super) fn about_trace(insights: &Insights, id: &TraceId, trace: &Assembled) -> Json {
    let analysis = &trace.analysis;
    let facts = TraceFacts {
        trace_id: hex::encode(id),
        models: analysis.models.iter().map(|model| trace.names.get(*model)).collect(),
        services: analysis.services.iter().map(|service| trace.names.get(service.service)).collect(),
        start_ns: analysis.start_ns,
        end_ns: analysis.start_ns.saturating_add_unsigned(analysis.duration_ns()),
    };
    let brief = |held: &Arc<Held>| {
        let insight = &held.insight;
        let mut out = Map::new();
        out.insert("id".to_owned(), insight.id.as_str().into());
        out.insert("title".to_owned(), insight.title.as_str().into());
        out.insert("kind".to_owned(), insight.kind.as_str().into());
        out.insert("severity".to_owned(), severity_name(insight.severity).into());
        out.insert("state".to_owned(), state_name(insight.state).into());
        out.insert("is_example".to_owned(), facts.is_example_of(insight).into());
        Json::Object(out)
    };
    let about = insights.read().about(&facts, MOST_ABOUT_A_TRACE);
    about.iter().map(brief).collect()
}
