//! Prometheus' HTTP API below `/prometheus`: Grafana's Prometheus data source works with
//! `http://HOST:8080/prometheus` as its URL.
//!
//! Paths, parameters, shapes and errors are Prometheus' (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
//! What is told are the rollups in memory, so nothing is counted for a query: [`metrics`] names them, [`promql`] reads
//! queries, [`source`] finds series, [`eval`] computes. Invariants: percentiles come from merged sketches and are never
//! averaged; a query reads and answers a bounded number of points in bounded time, or is refused whole.

mod answer;
mod error;
mod eval;
mod metrics;
mod names;
mod promql;
mod query;
mod source;
mod value;
mod window;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value as AnyJson, json};

pub(super) use self::query::numbers;
use self::{
    error::QueryError,
    source::{Budget, MOST_POINTS},
};
use super::{App, compat::Parameters, error::ApiError};
use crate::insights::Insights;

/// Where it is.
pub(super) const PREFIX: &str = "/prometheus";
/// The Prometheus whose answers these are, by which Grafana decides what it asks for.
const VERSION: &str = "3.1.0";
/// Bytes of a form at most.
const MOST_FORM_BYTES: usize = 64 << 10;

/// What kind of metric one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/query", get(query::instant).post(query::instant))
        .route("/api/v1/query_range", get(query::range).post(query::range))
        .route("/api/v1/series", get(names::series).post(names::series))
        .route("/api/v1/labels", get(names::labels).post(names::labels))
        .route("/api/v1/label/{name}/values", get(names::values))
        .route("/api/v1/metadata", get(names::metadata))
        .route("/api/v1/status/buildinfo", get(build_info))
        .layer(DefaultBodyLimit::max(MOST_FORM_BYTES))
        .layer(map_response(in_an_envelope))
}

async fn in_an_envelope(mut response: Response) -> Response {
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => QueryError::from(error).into_response(),
        None => response,
    }
}

async fn build_info() -> Json<AnyJson> {
    Json(json!({
        "status": "success",
        "data": {
            "version": VERSION,
            "revision": env!("CARGO_PKG_VERSION"),
            "branch": "infertrace",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        },
    }))
}

/// Parameters of the address and, where one is sent, of the form.
fn parameters(query: Option<&str>, form: &[u8]) -> Parameters {
    let form = String::from_utf8_lossy(form);
    Parameters::parse(Some(&format!("{form}&{}", query.unwrap_or_default())))
}

/// Does `work`, which has no await point, within the limits of a search.
async fn computed<T: Send + 'static>(
    app: &App,
    asked: &Parameters,
    work: impl FnOnce(&Insights, &mut Budget) -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    let mut allowed = Duration::from_millis(app.config.limits.search_budget_ms);
    if let Some(text) = asked.get("timeout") {
        let wanted = query::duration(text)
            .filter(|nanos| *nanos > 0)
            .ok_or_else(|| QueryError::bad("timeout", "expected a duration, such as 10s, or seconds"))?;
        allowed = allowed.min(Duration::from_nanos(wanted.unsigned_abs()));
    }
    let deadline = Instant::now() + allowed;
    let permit = tokio::time::timeout(allowed, app.searches.acquire());
    let _permit =
        permit.await.map_err(|_| QueryError::timeout())?.map_err(|error| ApiError::internal(&error))?;
    let insights = Arc::clone(&app.insights);
    let mut budget = Budget { points: MOST_POINTS, deadline };
    let work = tokio::task::spawn_blocking(move || work(&insights, &mut budget));
    work.await.map_err(|error| ApiError::internal(&error))?
}
