//! Health, readiness, metrics, status and the API's description.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value as Json, json};

use super::{App, error::ApiError, params, respond};
use crate::Check;

/// The API's description.
pub(crate) const OPENAPI: &str = include_str!("../../openapi.json");

fn plain_json(status: StatusCode, body: &Json) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}

/// The process answers.
pub(super) async fn healthz() -> Response {
    plain_json(StatusCode::OK, &json!({"status": "ok"}))
}

/// Spans sent now would be durable.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let mut checks = (app.readiness)().await;
    checks.extend(own_checks(&app));
    let ready = checks.iter().all(|check| check.ok || !check.required);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    plain_json(status, &json!({"ready": ready, "checks": checks}))
}

/// What makes answers poorer but endangers no span.
fn own_checks(app: &App) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(hot) = &app.store.hot {
        let error = hot.status().feed_error;
        checks.push(Check {
            name: "hot tier".to_owned(),
            ok: error.is_none(),
            required: false,
            detail: error,
        });
    }
    if let Some(error) = app.insights.feed_error() {
        checks.push(Check { name: "insights".to_owned(), ok: false, required: false, detail: Some(error) });
    }
    if let Some(warm) = &app.store.warm {
        let error = warm.away();
        checks.push(Check {
            name: "warm tier".to_owned(),
            ok: error.is_none(),
            required: false,
            detail: error,
        });
    }
    if let Some(lake) = &app.store.lake {
        let error = lake.catalog.last_error();
        checks.push(Check { name: "lake".to_owned(), ok: error.is_none(), required: false, detail: error });
    }
    checks
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from((app.exposition)()));
    let text = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

pub(super) async fn openapi(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    respond::json(&headers, OPENAPI.as_bytes().to_vec(), app.config.limits.max_response_bytes).await
}

pub(super) async fn status(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params::Params::parse(query.as_deref(), &[], &[])?;
    let mut tiers = Map::new();
    if let Some(hot) = &app.store.hot {
        tiers.insert("hot".to_owned(), json!(hot.status()));
    }
    if let Some(warm) = &app.store.warm {
        tiers.insert("warm".to_owned(), warm.status());
    }
    if let Some(lake) = &app.store.lake {
        let state = lake.catalog.state();
        let ends =
            state.ends.iter().map(|(partition, end)| json!({"partition": partition, "next_offset": end}));
        tiers.insert(
            "cold".to_owned(),
            json!({
                "files": state.files.len(),
                "spans": state.rows,
                "bytes": state.bytes,
                "lost_offsets": state.lost_offsets,
                "partitions": ends.collect::<Vec<_>>(),
                "problems": state.problems,
                "error": lake.catalog.last_error(),
                "cache": lake.cache.sizes(),
            }),
        );
    }
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time_unix_nano": app.clock.now_unix_nanos().to_string(),
        "tiers": tiers,
        "insights": app.insights.status(),
        "streams": app.config.limits.max_streams - app.streams.available_permits(),
    });
    Ok(respond::json(&headers, body.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}
