//! `GET /tempo/api/metrics/query_range` and `/query`: TraceQL's metrics, counted over the traces that a search finds.
//!
//! Nothing is stored for them: each request reads its traces, page by page, newest first, until the range is done or
//! one of the limits is met; then the answer is `PARTIAL` and says from when on it counts. Intervals are Tempo's:
//! aligned to the step, without their start and with their end, which is the time of their sample. Durations are told
//! in seconds.

mod tally;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use self::tally::{Intervals, MOST_INTERVALS, MOST_SERIES, Tally};
use super::time;
use crate::{
    http::{
        App,
        compat::{self, Parameters},
        error::ApiError,
        respond,
        search::page,
    },
    search::{Metrics, SpanFilters, TraceQuery},
    trace::{MissingColumn, render::warnings},
};

/// What one answer counts at most.
const MOST_TRACES: usize = 20_000;
const MOST_SPANS: usize = 1_000_000;
/// Asked for without a range.
const DEFAULT_RANGE_NS: i64 = 3_600 * SECOND_NS;
const SECOND_NS: i64 = 1_000_000_000;
/// Points that a range without a step is cut into, about.
const DEFAULT_POINTS: i64 = 240;

pub(super) async fn range(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let (start_ns, end_ns) = bounds(&app, &asked)?;
    let step_ns = match asked.get("step") {
        None => ((end_ns - start_ns) / DEFAULT_POINTS / SECOND_NS).max(1) * SECOND_NS,
        Some(text) => compat::seconds_or_duration(text)
            .filter(|step| *step > 0)
            .ok_or_else(|| ApiError::bad_parameter("step", "expected a duration, such as 15s, or seconds"))?,
    };
    let intervals = Intervals::aligned(start_ns, end_ns, step_ns).ok_or_else(|| {
        ApiError::bad_parameter("step", format!("a range has at most {MOST_INTERVALS} steps"))
    })?;
    answer(&app, &headers, &asked, intervals, Tally::samples).await
}

pub(super) async fn instant(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let (start_ns, end_ns) = bounds(&app, &asked)?;
    let intervals = Intervals { start_ns, step_ns: end_ns - start_ns, count: 1 };
    answer(&app, &headers, &asked, intervals, Tally::values).await
}

fn bounds(app: &App, asked: &Parameters) -> Result<(i64, i64), ApiError> {
    let end_ns = time(asked, "end")?.unwrap_or_else(|| app.clock.now_unix_nanos());
    let start_ns = time(asked, "start")?.unwrap_or_else(|| end_ns.saturating_sub(DEFAULT_RANGE_NS));
    if start_ns < 0 || start_ns >= end_ns || end_ns > i64::MAX / 2 {
        return Err(ApiError::bad_parameter("start", "the range is empty: `start` is not before `end`"));
    }
    Ok((start_ns, end_ns))
}

async fn answer(
    app: &App,
    headers: &HeaderMap,
    asked: &Parameters,
    intervals: Intervals,
    tell: fn(&Tally) -> Vec<Json>,
) -> Result<Response, ApiError> {
    // Grafana sends `q`; Prometheus' name is what Tempo takes too.
    let text = asked.get("q").or_else(|| asked.get("query"));
    let text = text.ok_or_else(|| ApiError::bad_parameter("q", "is required"))?;
    let metrics =
        TraceQuery::parse_metrics(text).map_err(|error| ApiError::bad_parameter("q", error.to_string()))?;
    let (tally, missing) = count(app, metrics, intervals).await?;
    let mut answer = json!({
        "series": tell(&tally),
        "metrics": {"inspectedTraces": tally.traces, "completedJobs": 1, "totalJobs": 1},
    });
    if !missing.is_empty() {
        answer["status"] = "PARTIAL".into();
        answer["message"] = missing.join("; ").into();
    }
    Ok(respond::json(headers, answer.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}

/// Counts page after page; with the counts comes what they lack.
async fn count(app: &App, metrics: Metrics, intervals: Intervals) -> Result<(Tally, Vec<String>), ApiError> {
    let limits = &app.config.limits;
    let deadline = Instant::now() + Duration::from_millis(limits.search_budget_ms);
    let filters = SpanFilters {
        start_ns: Some(intervals.start_ns + 1),
        end_ns: Some(intervals.end_ns() + 1),
        query: Some(Arc::new(metrics.query.clone())),
        ..SpanFilters::default()
    };
    let mut tally = Tally::new(metrics, intervals);
    let mut missing: Vec<String> = Vec::new();
    let mut cursor = None;
    loop {
        let found = page(app, filters.clone(), limits.max_traces_per_page, cursor).await?;
        for problem in warnings(&found.problems) {
            if !missing.contains(&problem) {
                missing.push(problem);
            }
        }
        cursor = found.next;
        let counting = tokio::task::spawn_blocking(move || {
            tally.add_page(&found.hits)?;
            Ok::<_, MissingColumn>(tally)
        });
        let counted = counting.await.map_err(|error| ApiError::internal(&error))?;
        tally = counted.map_err(|error| ApiError::internal(&error))?;
        let Some(next) = cursor else { break };
        if tally.traces >= MOST_TRACES || tally.spans >= MOST_SPANS || Instant::now() >= deadline {
            let from =
                DateTime::from_timestamp_nanos(next.start_ns).to_rfc3339_opts(SecondsFormat::Millis, true);
            missing.push(format!(
                "only what starts at {from} or later is counted: narrow the range or the query"
            ));
            break;
        }
    }
    if tally.left_out > 0 {
        missing.push(format!("spans of more than {MOST_SERIES} series are left out"));
    }
    Ok((tally, missing))
}
