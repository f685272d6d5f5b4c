//! `/prometheus/api/v1/query` and `/query_range`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use bytes::Bytes;
use chrono::DateTime;

use super::{
    QueryError, answer, computed,
    eval::{Evaluator, Steps},
    parameters,
    promql::{self, Query},
    source::{Budget, MOST_POINTS},
    value::{Outcome, Sample, Value},
};
use crate::{
    http::{App, compat::Parameters, respond},
    insights::Insights,
};

/// Points a series at most, as in Prometheus.
const MOST_STEPS: i64 = 11_000;

pub(super) async fn instant(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Bytes,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &form);
    let query = parsed(&asked)?;
    let at_ns = time(&asked, "time")?.unwrap_or_else(|| app.clock.now_unix_nanos());
    let most = limit(&asked)?;
    let steps = Steps { start_ns: at_ns, step_ns: 1, count: 1 };
    let work = move |insights: &Insights, budget: &mut Budget| {
        let mut evaluator = Evaluator::read(query, &insights.rollups(), steps, budget)?;
        answer::instant(at_ns, evaluator.at(at_ns)?, most)
    };
    let body = computed(&app, &asked, work).await?;
    Ok(respond::json(&headers, body, app.config.limits.max_response_bytes).await)
}

pub(super) async fn range(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Bytes,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &form);
    let query = parsed(&asked)?;
    let steps = steps(&asked)?;
    let most = limit(&asked)?;
    let work = move |insights: &Insights, budget: &mut Budget| {
        let mut evaluator = Evaluator::read(query, &insights.rollups(), steps, budget)?;
        let mut matrix = answer::Matrix::default();
        for index in 0..steps.count {
            budget.in_time()?;
            let at_ns = steps.at(index);
            matrix.add(at_ns, evaluator.at(at_ns)?)?;
        }
        Ok(matrix.told(most))
    };
    let body = computed(&app, &asked, work).await?;
    Ok(respond::json(&headers, body, app.config.limits.max_response_bytes).await)
}

/// Labels and value of each sample that queries have at a moment, nanoseconds since 1970, for others than Prometheus'
/// clients. Distributions are left out.
///
/// # Errors
/// In words, when one cannot be evaluated.
pub(in crate::http) async fn numbers(
    app: &App,
    queries: Vec<String>,
    at_ns: i64,
) -> Result<Vec<Vec<(BTreeMap<String, String>, f64)>>, String> {
    let work = move |insights: &Insights, budget: &mut Budget| {
        let steps = Steps { start_ns: at_ns, step_ns: 1, count: 1 };
        let evaluated = queries.iter().map(|query| {
            // One after the other, each within the limits of a query; what reads the topics may go on between them.
            budget.points = MOST_POINTS;
            let mut evaluator = Evaluator::read(promql::parse(query)?, &insights.rollups(), steps, budget)?;
            let samples = match evaluator.at(at_ns)? {
                Outcome::Scalar(_) => Vec::new(),
                Outcome::Vector(samples) => samples,
            };
            let number = |sample: Sample| match sample.value {
                Value::Number(number) => {
                    let labels = sample.labels.iter();
                    Some((labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), number))
                }
                Value::Histogram(_) => None,
            };
            Ok(samples.into_iter().filter_map(number).collect())
        });
        evaluated.collect()
    };
    computed(app, &Parameters::parse(None), work).await.map_err(|error: QueryError| error.message)
}

fn parsed(asked: &Parameters) -> Result<Query, QueryError> {
    let text = asked.get("query").ok_or_else(|| QueryError::bad("query", "is required"))?;
    Ok(promql::parse(text)?)
}

fn steps(asked: &Parameters) -> Result<Steps, QueryError> {
    let required = |name| time(asked, name)?.ok_or_else(|| QueryError::bad(name, "is required"));
    let (start_ns, end_ns) = (required("start")?, required("end")?);
    if end_ns < start_ns {
        return Err(QueryError::bad("end", "end timestamp must not be before start time"));
    }
    let text = asked.get("step").ok_or_else(|| QueryError::bad("step", "is required"))?;
    let bad = || QueryError::bad("step", "expected a duration above 0, such as 15s, or seconds");
    let step_ns = duration(text).filter(|nanos| *nanos > 0).ok_or_else(bad)?;
    let count = (end_ns - start_ns) / step_ns;
    if count > MOST_STEPS {
        let message = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(QueryError::bad("step", message));
    }
    Ok(Steps { start_ns, step_ns, count: count as usize + 1 })
}

/// Series that are told at most; `None` for all.
pub(super) fn limit(asked: &Parameters) -> Result<Option<usize>, QueryError> {
    let bad = |_| QueryError::bad("limit", "expected a number");
    let limit: Option<usize> = asked.get("limit").map(|text| text.parse().map_err(bad)).transpose()?;
    Ok(limit.filter(|limit| *limit > 0))
}

/// A moment in nanoseconds since 1970: seconds with a fraction, or RFC 3339.
pub(super) fn time(asked: &Parameters, name: &'static str) -> Result<Option<i64>, QueryError> {
    let Some(text) = asked.get(name) else { return Ok(None) };
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.abs() < 9e9);
    // Milliseconds, as Prometheus has them: a fraction of seconds is not exact in nanoseconds.
    let nanos = seconds.map(|seconds| (seconds * 1e3).round() as i64 * 1_000_000);
    let nanos = nanos.or_else(|| DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt());
    let bad = || {
        QueryError::bad(
            name,
            format!("cannot parse {text:?} to a valid timestamp: expected seconds since 1970 or RFC 3339"),
        )
    };
    nanos.map(Some).ok_or_else(bad)
}

/// A duration in nanoseconds: seconds with a fraction, or with units.
pub(super) fn duration(text: &str) -> Option<i64> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.abs() < 9e9);
    seconds.map(|seconds| (seconds * 1e9) as i64).or_else(|| promql::parse_duration(text))
}
