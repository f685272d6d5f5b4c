//! Errors as RFC 9457 `application/problem+json`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value as Json, json};

use crate::lake::Problem;

/// What a client is told when its request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    /// Stable, snake_case.
    code: &'static str,
    title: &'static str,
    detail: String,
    /// The query or path parameter that is wrong.
    parameter: Option<String>,
    retry_after_s: Option<u32>,
    /// What could not be read, where that may be why.
    partial: Vec<Problem>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            title,
            detail: detail.into(),
            parameter: None,
            retry_after_s: None,
            partial: Vec::new(),
        }
    }

    /// 400: a parameter does not read as what it must be.
    pub(crate) fn bad_parameter(parameter: &str, detail: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", "Invalid parameter", detail);
        Self { parameter: Some(parameter.to_owned()), ..error }
    }

    /// 404: no such trace.
    pub(crate) fn no_trace(trace_id: &str, unread: &[Problem]) -> Self {
        let detail = if unread.is_empty() {
            format!("no span of trace {trace_id} is in any tier; it may be late, expired or never sent")
        } else {
            format!("no span of trace {trace_id} is in what could be read; see `partial` for what could not")
        };
        let error = Self::new(StatusCode::NOT_FOUND, "trace_not_found", "Trace not found", detail);
        Self { partial: unread.to_vec(), ..error }
    }

    /// 400: the body does not read as what it must be.
    pub(crate) fn bad_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", "Invalid body", detail)
    }

    /// 403: nobody may decide about insights here.
    pub(crate) fn no_triage(why: &str) -> Self {
        let detail = format!("insights cannot be acknowledged, muted or resolved here: {why}");
        Self::new(StatusCode::FORBIDDEN, "triage_off", "Not possible here", detail)
    }

    /// 403: a page of another site asks.
    pub(crate) fn foreign_origin(origin: &str) -> Self {
        let shown: String = origin.chars().take(128).collect();
        let detail = format!(
            "pages of {shown} may not ask here; `query.mcp.allowed_origins` names those that may, beside those of this machine"
        );
        Self::new(StatusCode::FORBIDDEN, "foreign_origin", "Foreign origin", detail)
    }

    /// 503: the log does not take what was to be written.
    pub(crate) fn log_away(detail: &str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable", "The log is away", detail);
        Self { retry_after_s: Some(1), ..error }
    }

    /// 404: no such insight.
    pub(crate) fn no_insight(id: &str) -> Self {
        let shown: String = id.chars().take(128).collect();
        let detail = format!("no insight {shown} is held; it may be older than they are kept, or never was");
        Self::new(StatusCode::NOT_FOUND, "insight_not_found", "Insight not found", detail)
    }

    /// 404: no such route.
    pub(crate) fn no_route(path: &str) -> Self {
        let detail = format!("there is nothing at {path}; see /openapi.json");
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// 405.
    pub(crate) fn wrong_method() -> Self {
        let detail = "this resource does not take that method; see /openapi.json";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
    }

    /// 503: too much at once.
    pub(crate) fn busy(what: &str) -> Self {
        let detail = format!("too many {what} are under way; try again");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too busy", detail);
        Self { retry_after_s: Some(1), ..error }
    }

    /// 504: the time-out passed.
    pub(crate) fn timed_out(after_ms: u64) -> Self {
        let detail = format!("no answer within {after_ms} ms; narrow the time range or add filters");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Timed out", detail)
    }

    /// 413: the answer would be too large.
    pub(crate) fn too_large(bytes: usize, most: usize) -> Self {
        let detail = format!("the answer has {bytes} bytes, the limit is {most}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "response_too_large", "Answer too large", detail)
    }

    /// 500: logged whole, told in brief.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "request failed");
        let detail = "the request failed inside the server; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }
}

impl ApiError {
    /// Code of the answer.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, on one line or a few.
    pub(crate) fn message(&self) -> String {
        match &self.parameter {
            Some(parameter) => format!("{parameter}: {}", self.detail),
            None => self.detail.clone(),
        }
    }

    /// As an answer with this body.
    pub(crate) fn with_body(&self, content_type: &'static str, body: String) -> Response {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut problem = Map::new();
        problem.insert("type".to_owned(), "about:blank".into());
        problem.insert("title".to_owned(), self.title.into());
        problem.insert("status".to_owned(), self.status.as_u16().into());
        problem.insert("code".to_owned(), self.code.into());
        problem.insert("detail".to_owned(), self.detail.clone().into());
        if let Some(parameter) = &self.parameter {
            problem.insert("parameter".to_owned(), parameter.clone().into());
        }
        if !self.partial.is_empty() {
            problem.insert("partial".to_owned(), json!(self.partial));
        }
        let mut response = self.with_body("application/problem+json", Json::Object(problem).to_string());
        // For the APIs that tell errors in another form.
        response.extensions_mut().insert(self);
        response
    }
}
