//! Tempo's HTTP API below `/tempo`: Grafana's Tempo data source works with `http://HOST:8080/tempo` as its URL.
//!
//! Paths, parameters and shapes are Tempo's (<https://grafana.com/docs/tempo/latest/api_docs/>); behind them are the
//! search and the look-up of `/api/v1`, so an answer is the same. A prefix of its own, since Jaeger's API says other
//! things under the same paths. Errors are plain text, as Tempo's are: Grafana shows the whole body.

mod metrics;
mod search;
mod tags;
mod traces;

use std::sync::Arc;

use axum::{Json, Router, middleware::map_response, response::Response, routing::get};
use infertrace_query_language::Value;
use serde_json::{Value as AnyJson, json};

use super::{App, compat::Parameters, error::ApiError, params};

/// Where it is.
pub(super) const PREFIX: &str = "/tempo";
/// The Tempo whose answers these are, by which Grafana decides what it asks for.
const VERSION: &str = "2.8.0";

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        // What a data source asks to see whether it is configured rightly.
        .route("/api/echo", get(|| async { "echo" }))
        .route("/api/status/buildinfo", get(build_info))
        .route("/api/traces/{trace_id}", get(traces::first))
        .route("/api/v2/traces/{trace_id}", get(traces::second))
        .route("/api/search", get(search::search))
        .route("/api/search/tags", get(tags::all_names))
        .route("/api/v2/search/tags", get(tags::scoped_names))
        .route("/api/search/tag/{tag}/values", get(tags::values))
        .route("/api/v2/search/tag/{tag}/values", get(tags::typed_values))
        .route("/api/metrics/query_range", get(metrics::range))
        .route("/api/metrics/query", get(metrics::instant))
        .layer(map_response(in_plain_text))
}

async fn in_plain_text(mut response: Response) -> Response {
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error.with_body("text/plain; charset=utf-8", error.message()),
        None => response,
    }
}

async fn build_info() -> Json<AnyJson> {
    Json(json!({
        "version": VERSION,
        "revision": env!("CARGO_PKG_VERSION"),
        "branch": "infertrace",
        "buildDate": "",
        "buildUser": "",
        "goVersion": "",
    }))
}

/// A point in time, in nanoseconds; Tempo's clients send seconds.
fn time(asked: &Parameters, name: &'static str) -> Result<Option<i64>, ApiError> {
    let bad = || ApiError::bad_parameter(name, "expected seconds since 1970");
    asked.get(name).map(|text| params::parse_time(text).ok_or_else(bad)).transpose()
}

/// A value as OTLP's `AnyValue` in protobuf's JSON.
fn any_value(value: &Value) -> AnyJson {
    match value {
        Value::Text(text) => json!({"stringValue": text}),
        Value::Integer(number) => json!({"intValue": number.to_string()}),
        Value::Float(number) => json!({"doubleValue": number}),
        Value::Bool(flag) => json!({"boolValue": flag}),
        // Status, kind and durations are text in Tempo's answers too.
        other => json!({"stringValue": other.to_string()}),
    }
}
