//! Errors as Prometheus tells them.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Kind, promql::ParseError, source::MOST_POINTS, value::Labels};
use crate::http::error::ApiError;

/// Prometheus' types of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorType {
    BadData,
    Execution,
    Timeout,
    NotFound,
    Unavailable,
    Internal,
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueryError {
    pub(super) kind: ErrorType,
    pub(super) message: String,
}

impl QueryError {
    /// A parameter does not read as what it must be.
    pub(super) fn bad(parameter: &str, message: impl std::fmt::Display) -> Self {
        let message = format!("invalid parameter \"{parameter}\": {message}");
        Self { kind: ErrorType::BadData, message }
    }

    /// The query cannot be evaluated.
    pub(super) fn execution(message: impl Into<String>) -> Self {
        Self { kind: ErrorType::Execution, message: message.into() }
    }

    pub(super) fn timeout() -> Self {
        let message = "query timed out; narrow the range or the selector, or take a longer step";
        Self { kind: ErrorType::Timeout, message: message.to_owned() }
    }

    pub(super) fn too_much() -> Self {
        Self::execution(format!(
            "query processing would load too many samples: at most {MOST_POINTS} windows and series; narrow the range \
             or the selector, or take a longer step"
        ))
    }

    /// A function over a metric of another kind.
    pub(super) fn wrong_kind(function: &str, labels: &Labels, kind: Kind) -> Self {
        let hint = match kind {
            Kind::Gauge => "take avg_over_time() or another function over time",
            Kind::Counter => "take rate() or increase()",
            Kind::Histogram => "take histogram_quantile(0.99, rate(…)), or the metric's _sum over its _count",
        };
        Self::execution(format!("{function}() does not fit the {} {}: {hint}", kind.name(), labels.shown()))
    }

    /// An operator between a distribution and something that does not fit it.
    pub(super) fn unlike(labels: &Labels) -> Self {
        Self::execution(format!(
            "the distributions of {} have other units, or are no distributions: only those of one metric and one range can \
             be merged",
            labels.shown()
        ))
    }

    fn told(&self) -> (StatusCode, &'static str) {
        match self.kind {
            ErrorType::BadData => (StatusCode::BAD_REQUEST, "bad_data"),
            ErrorType::Execution => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            ErrorType::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            ErrorType::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ErrorType::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ErrorType::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

impl From<ApiError> for QueryError {
    fn from(error: ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::BAD_REQUEST => ErrorType::BadData,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ErrorType::NotFound,
            StatusCode::SERVICE_UNAVAILABLE => ErrorType::Unavailable,
            StatusCode::GATEWAY_TIMEOUT => ErrorType::Timeout,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorType::Execution,
            _ => ErrorType::Internal,
        };
        Self { kind, message: error.message() }
    }
}

impl From<ParseError> for QueryError {
    fn from(error: ParseError) -> Self {
        Self::bad("query", error)
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let (status, name) = self.told();
        let body = json!({"status": "error", "errorType": name, "error": self.message});
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
