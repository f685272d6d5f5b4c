//! `GET /api/v1/baselines` and `/api/v1/rollups`: what is normal, and what was.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_analytics::sketch::Sketch;
use infertrace_schemas::avro::Baseline;
use serde_json::{Map, Value as Json, json};

use super::{App, error::ApiError, params, respond};
use crate::insights::{
    baselines::BaselineFilter,
    rollups::{RollupFilter, Step},
};

const SECOND: i64 = 1_000_000_000;
/// Steps that are chosen when none is asked for.
const STEPS: [i64; 3] = [10 * SECOND, 60 * SECOND, 3_600 * SECOND];
/// Points that such a step leads to at most.
const CHOSEN_POINTS: i64 = 400;
/// Points of a series at most.
const MOST_POINTS: i64 = 2_000;
/// Range without a start.
const DEFAULT_RANGE: i64 = 3_600 * SECOND;

fn baseline_json(baseline: &Baseline) -> Json {
    json!({
        "tenant": baseline.tenant,
        "model": baseline.model,
        "model_version": baseline.model_version,
        "stage": baseline.stage,
        "metric": baseline.metric,
        "hour_of_week": baseline.hour_of_week,
        "computed_unix_nano": baseline.computed_unix_nanos.to_string(),
        "from_unix_nano": baseline.from_unix_nanos.to_string(),
        "to_unix_nano": baseline.to_unix_nanos.to_string(),
        "samples": baseline.samples.to_string(),
        "windows": baseline.windows,
        "winsorised_windows": baseline.winsorised_windows,
        "cold_start": baseline.cold_start,
        "log_scale": baseline.log_scale,
        "median": baseline.median,
        "mad": baseline.mad,
        "p50": baseline.p50,
        "p90": baseline.p90,
        "p99": baseline.p99,
        "algorithm": baseline.algorithm,
    })
}

pub(super) async fn baselines(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let allowed = ["model", "tenant", "version", "stage", "metric", "limit"];
    let query = params::Params::parse(query.as_deref(), &allowed, &[])?;
    let filter = BaselineFilter {
        model: query.text("model")?,
        tenant: query.text("tenant")?,
        version: query.text("version")?,
        stage: query.text("stage")?,
        metric: query.text("metric")?,
    };
    let limits = &app.config.limits;
    let limit = match query.get("limit") {
        Some(_) => query.limit(limits)?.0,
        None => limits.max_traces_per_page,
    };
    let body = {
        let held = app.insights.baselines();
        let (page, more) = held.list(&filter, limit);
        let listed: Json = page.into_iter().map(baseline_json).collect();
        json!({"baselines": listed, "truncated": more})
    };
    Ok(respond::json(&headers, body.to_string().into_bytes(), limits.max_response_bytes).await)
}

/// A step such as `10s`, `1m`, `1h`, or a number of seconds.
fn parse_step(text: &str) -> Option<i64> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], SECOND),
        b'm' => (&text[..text.len() - 1], 60 * SECOND),
        b'h' => (&text[..text.len() - 1], 3_600 * SECOND),
        _ => (text, SECOND),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let nanos = number.parse::<i64>().ok().filter(|_| digits)?.checked_mul(unit)?;
    (nanos > 0 && nanos % (10 * SECOND) == 0).then_some(nanos)
}

/// Start on a step, length of a step, number of steps.
fn range(query: &params::Params, now_ns: i64) -> Result<(i64, i64, usize), ApiError> {
    let end = query.time("end")?.unwrap_or(now_ns);
    let start = query.time("start")?.unwrap_or(end.saturating_sub(DEFAULT_RANGE));
    if start >= end {
        return Err(ApiError::bad_parameter("end", "not after start"));
    }
    let length = end.saturating_sub(start);
    let step = match query.get("step") {
        Some(text) => parse_step(text).ok_or_else(|| {
            ApiError::bad_parameter("step", "expected a multiple of 10 seconds, such as 10s, 1m, 1h or 300")
        })?,
        None => STEPS.into_iter().find(|step| length / step <= CHOSEN_POINTS).unwrap_or(STEPS[2]),
    };
    let first = start.saturating_sub(start.rem_euclid(step));
    let points = end.saturating_sub(first) / step + i64::from(end.saturating_sub(first) % step != 0);
    if points > MOST_POINTS {
        let detail = format!("the range has {points} steps, the limit is {MOST_POINTS}; take a longer step");
        return Err(ApiError::bad_parameter("step", detail));
    }
    Ok((first, step, points as usize))
}

fn metric_json<'a>(series: impl Iterator<Item = Option<&'a Sketch>> + Clone) -> Json {
    let of = |read: &dyn Fn(&Sketch) -> Json| -> Json {
        series.clone().map(|sketch| sketch.map_or(Json::Null, read)).collect()
    };
    let quantile = |q: f64| of(&|sketch| json!(sketch.quantile(q)));
    json!({
        "count": of(&|sketch| sketch.count().to_string().into()),
        "mean": of(&|sketch| json!(sketch.mean())),
        "p50": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "max": of(&|sketch| json!(sketch.max() as f64)),
    })
}

fn series_json(series: &[Step]) -> (Json, Json, Json) {
    let named = |names: BTreeSet<&Arc<str>>, values: &dyn Fn(&str) -> Json| -> Json {
        names.into_iter().map(|name| (name.to_string(), values(name))).collect::<Map<_, _>>().into()
    };
    let counters = named(series.iter().flat_map(|step| step.counters.keys()).collect(), &|name| {
        series.iter().map(|step| step.counters.get(name).map(u64::to_string)).map(Json::from).collect()
    });
    let sums = named(series.iter().flat_map(|step| step.sums.keys()).collect(), &|name| {
        series.iter().map(|step| json!(step.sums.get(name))).collect()
    });
    let metrics = named(series.iter().flat_map(|step| step.metrics.keys()).collect(), &|name| {
        metric_json(series.iter().map(move |step| step.metrics.get(name)))
    });
    (counters, sums, metrics)
}

pub(super) async fn rollups(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let allowed = ["model", "tenant", "version", "service", "stage", "device", "start", "end", "step"];
    let query = params::Params::parse(query.as_deref(), &allowed, &[])?;
    let (first, step, points) = range(&query, app.clock.now_unix_nanos())?;
    let filter = RollupFilter {
        model: query.text("model")?.unwrap_or_default(),
        tenant: query.text("tenant")?,
        version: query.text("version")?,
        service: query.text("service")?,
        device: query.text("device")?,
        stage: query.text("stage")?.unwrap_or_default(),
    };
    let work = {
        let insights = Arc::clone(&app.insights);
        move || {
            let (series, held_from) = {
                let rollups = insights.rollups();
                (rollups.series(&filter, first, step, points), rollups.held_from_ns(&filter.model))
            };
            let (counters, sums, metrics) = series_json(&series);
            let prices: BTreeSet<&Arc<str>> = series.iter().flat_map(|step| &step.price_versions).collect();
            let windows = (0..points as i64).map(|index| (first + step * index).to_string());
            json!({
                "model": filter.model,
                "step_nano": step.to_string(),
                "held_from_unix_nano": held_from.map(|from| from.to_string()),
                "window_start_unix_nano": windows.collect::<Json>(),
                "counters": counters,
                "price_versions": prices.into_iter().map(|version| &**version).collect::<Vec<&str>>(),
                "sums": sums,
                "metrics": metrics,
            })
            .to_string()
            .into_bytes()
        }
    };
    // Merging thousands of sketches is work without an await point.
    let body = tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))?;
    Ok(respond::json(&headers, body, app.config.limits.max_response_bytes).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: steps as people write them. Guarantee: multiples of the base window are taken, all else is refused.
    #[test]
    fn steps() {
        let seconds = |text| parse_step(text).map(|nanos| nanos / SECOND);
        assert_eq!(["10s", "30", "1m", "2h", "10s"].map(seconds), [10, 30, 60, 7_200, 10].map(Some));
        for text in ["", "s", "0", "5s", "15s", "-10s", "1d", "10 s", "99999999999999999999h", "+10", "1é"] {
            assert_eq!(parse_step(text), None, "{text}");
        }
    }
}
