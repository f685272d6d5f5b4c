//! What tools ask: the API's own routes, and PromQL over the rollups.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, http::Request};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;

use crate::http::{self, App, error::ApiError, prometheus};

/// Characters of a text that is told at most.
const MOST_TEXT: usize = 400;

/// Why a tool has no answer, for the model that called it.
#[derive(Debug)]
pub(super) struct ToolError(pub(super) String);

impl From<ApiError> for ToolError {
    fn from(error: ApiError) -> Self {
        Self(error.message())
    }
}

fn encoded(parameters: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// The answer of a route of the API.
pub(super) async fn route(
    app: &Arc<App>,
    path: &str,
    parameters: &[(&str, Option<String>)],
) -> Result<Json, ToolError> {
    let request = Request::get(format!("{path}?{}", encoded(parameters))).body(Body::empty());
    let request = request.map_err(|error| ToolError(format!("{path}: {error}")))?;
    let answered = http::api().with_state(Arc::clone(app)).oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    if let Some(error) = response.extensions().get::<ApiError>() {
        return Err(error.clone().into());
    }
    let most = app.config.limits.max_response_bytes;
    let body = axum::body::to_bytes(response.into_body(), most);
    let body = body.await.map_err(|error| ApiError::internal(&error))?;
    Ok(serde_json::from_slice(&body).map_err(|error| ApiError::internal(&error))?)
}

/// Values by the labels of their series.
pub(super) type Numbers = Vec<(BTreeMap<String, String>, f64)>;

/// What PromQL says at a moment, nanoseconds since 1970, of each query.
pub(super) async fn metrics(app: &App, queries: Vec<String>, at_ns: i64) -> Result<Vec<Numbers>, ToolError> {
    prometheus::numbers(app, queries, at_ns).await.map_err(ToolError)
}

/// The value of a series alone; `None` where there is none, or it is no number.
pub(super) fn alone(numbers: &Numbers) -> Option<f64> {
    numbers.first().map(|(_, value)| *value).filter(|value| value.is_finite())
}

/// The value of the series whose label is `value`.
pub(super) fn of(numbers: &Numbers, label: &str, value: &str) -> Option<f64> {
    let is_of = |labels: &BTreeMap<String, String>| labels.get(label).map_or("", String::as_str) == value;
    numbers
        .iter()
        .find(|(labels, _)| is_of(labels))
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
}

/// A text as PromQL writes it.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// To four digits after the point; what is smaller is told in full.
pub(super) fn rounded(value: f64) -> Json {
    if value.abs() < 0.01 { json!(value) } else { json!((value * 1e4).round() / 1e4) }
}

/// Nanoseconds, as the API writes them, in milliseconds.
pub(super) fn millis(nanos: &Json) -> Json {
    nanos.as_str().and_then(|text| text.parse::<f64>().ok()).map_or(Json::Null, |nanos| rounded(nanos / 1e6))
}

/// Nanoseconds since 1970, as the API writes them, in RFC 3339.
pub(super) fn moment(nanos: &Json) -> Json {
    nanos.as_str().and_then(|text| text.parse().ok()).map_or(Json::Null, |nanos| told(nanos).into())
}

/// Nanoseconds since 1970 in RFC 3339.
pub(super) fn told(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A text, cut where it is very long.
pub(super) fn brief(text: &Json) -> Json {
    let Some(text) = text.as_str() else { return text.clone() };
    match text.char_indices().nth(MOST_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}
