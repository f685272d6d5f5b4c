//! Jaeger's query API below `/jaeger`: Jaeger's UI and Grafana's Jaeger data source work with `http://HOST:8080/jaeger`
//! as its URL.
//!
//! Paths, parameters and shapes are those of the HTTP JSON API that the UI uses (`/api/…`, not `/api/v3`); behind them
//! are the search and the look-up of `/api/v1`. Times are microseconds. Errors are in the answer's `errors`, as
//! Jaeger's are.

mod dependencies;
mod render;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    middleware::map_response,
    response::Response,
    routing::get,
};
use infertrace_query_language::Intrinsic;
use serde_json::{Value as Json, json};

use super::{
    App,
    compat::{self, Parameters},
    error::ApiError,
    names, params, respond,
    search::page,
    traces::{find, find_all},
};
use crate::{
    hot::TraceId,
    search::{SpanFilters, TraceQuery},
    store::Part,
    trace::{assemble, render as own, render::Lacks},
};

/// Where it is.
pub(super) const PREFIX: &str = "/jaeger";
const DEFAULT_LIMIT: usize = 20;
/// Traces a search answers at most: each is answered whole.
const MOST_TRACES: usize = 200;
const MICROSECOND_NS: i64 = 1_000;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operations_of))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(search))
        .route("/api/traces/{trace_id}", get(trace))
        .route("/api/dependencies", get(dependencies::dependencies))
        .layer(map_response(in_errors))
}

async fn in_errors(mut response: Response) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let errors = json!([{"code": error.status().as_u16(), "msg": error.message()}]);
    let body = json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": errors});
    error.with_body("application/json", body.to_string())
}

async fn tell(app: &App, headers: &HeaderMap, data: Vec<Json>) -> Result<Response, ApiError> {
    let total = data.len();
    let answer = json!({"data": data, "total": total, "limit": 0, "offset": 0, "errors": null});
    Ok(respond::json(headers, answer.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}

async fn services(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let names = names::of_services(&app).await?;
    tell(&app, &headers, names.into_iter().map(Json::from).collect()).await
}

/// Of the spans in memory; the lake's manifests name services, not operations.
async fn operation_names(app: &App, service: &str) -> Result<Vec<String>, ApiError> {
    let counts = names::in_memory(&app.store.snapshot().await).await?;
    Ok(counts.services.get(service).map_or_else(Vec::new, |operations| operations.keys().cloned().collect()))
}

async fn operations_of(
    State(app): State<Arc<App>>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let names = operation_names(&app, &service).await?;
    tell(&app, &headers, names.into_iter().map(Json::from).collect()).await
}

async fn operations(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let service = asked.get("service").ok_or_else(|| ApiError::bad_parameter("service", "is required"))?;
    let names = operation_names(&app, service).await?;
    let data = names.into_iter().map(|name| json!({"name": name, "spanKind": ""}));
    tell(&app, &headers, data.collect()).await
}

async fn trace(
    State(app): State<Arc<App>>,
    Path(trace_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = params::parse_trace_id(&trace_id)?;
    let (parts, lacks) = find(&app, id).await?;
    let data = rendered(&app, vec![(id, parts)], lacks).await?;
    tell(&app, &headers, data).await
}

/// Traces as Jaeger tells them.
async fn rendered(app: &App, traces: Vec<(TraceId, Vec<Part>)>, lacks: Lacks) -> Result<Vec<Json>, ApiError> {
    let most_spans = app.config.limits.max_spans_per_trace;
    let work = move || {
        let warnings = own::warnings(&lacks.problems);
        let rendered = traces.into_iter().map(|(id, parts)| {
            let trace = assemble(&parts, most_spans).map_err(|error| ApiError::internal(&error))?;
            let otlp = own::otlp_by_service(&trace, &parts).map_err(|error| ApiError::internal(&error))?;
            let otlp: Json = serde_json::from_slice(&otlp).map_err(|error| ApiError::internal(&error))?;
            Ok(render::trace(&hex::encode(id), &otlp, &warnings))
        });
        rendered.collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))?
}

async fn search(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    // Jaeger's UI asks for traces by id in this way too.
    let ids: Vec<TraceId> = asked.all("traceID").map(params::parse_trace_id).collect::<Result<_, _>>()?;
    let ids: Vec<TraceId> = if ids.is_empty() {
        let limit = asked.number("limit")?.unwrap_or(DEFAULT_LIMIT);
        let found = page(&app, filters(&asked)?, limit.clamp(1, MOST_TRACES), None).await?;
        found.hits.iter().map(|hit| hit.trace_id).collect()
    } else {
        ids.into_iter().take(MOST_TRACES).collect()
    };
    // Traces that expired meanwhile are not among them.
    let (traces, lacks) = find_all(&app, &ids).await;
    let data = rendered(&app, traces, lacks).await?;
    tell(&app, &headers, data).await
}

/// As in Jaeger, one span must have everything that is asked for.
fn filters(asked: &Parameters) -> Result<SpanFilters, ApiError> {
    let micros = |name: &'static str| {
        let bad = || ApiError::bad_parameter(name, "expected microseconds since 1970");
        let number = asked.get(name).map(|text| text.parse::<i64>().map_err(|_| bad())).transpose()?;
        Ok::<_, ApiError>(number.map(|number| number.saturating_mul(MICROSECOND_NS)))
    };
    let mut conditions = Vec::new();
    conditions.extend(asked.get("service").map(compat::of_service));
    let operation = asked.get("operation").filter(|name| *name != "all");
    conditions.extend(operation.map(|name| compat::equals(Intrinsic::Name, name)));
    conditions.extend(compat::duration_limits(asked, Intrinsic::Duration)?);
    for text in asked.all("tags") {
        let tags: Json = serde_json::from_str(text)
            .map_err(|error| ApiError::bad_parameter("tags", format!("expected a JSON object: {error}")))?;
        let tags =
            tags.as_object().ok_or_else(|| ApiError::bad_parameter("tags", "expected a JSON object"))?;
        for (key, value) in tags {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            conditions.push(compat::tag("tags", key, &text)?);
        }
    }
    for text in asked.all("tag") {
        let (key, value) =
            text.split_once(':').ok_or_else(|| ApiError::bad_parameter("tag", "expected key:value"))?;
        conditions.push(compat::tag("tag", key, value)?);
    }
    let query = if conditions.is_empty() {
        None
    } else {
        let query = TraceQuery::parse(&compat::spanset(&conditions));
        Some(Arc::new(query.map_err(|error| ApiError::bad_parameter("tags", error.to_string()))?))
    };
    let (start_ns, end_ns) = (micros("start")?, micros("end")?.map(|end| end.saturating_add(1)));
    Ok(SpanFilters { start_ns, end_ns, query, ..SpanFilters::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: parameters of Jaeger's search form. Guarantee: the filters that mean the same, all of one span; what
    /// is no duration, no time or no JSON is refused.
    #[test]
    fn parameters_become_filters() {
        let read = |query: &str| filters(&Parameters::parse(Some(query)));
        let tags = "%7B%22error%22%3A%22true%22%2C%22http.status%22%3A500%7D";
        let found =
            read(&format!("service=chat&operation=all&tags={tags}&minDuration=1.5ms&start=1000&end=2000"));
        let found = found.expect("filters");
        let query = TraceQuery::parse(
            "{ resource.service.name = \"chat\" && duration >= 1500us && status = error && \
             (.http.status = \"500\" || .http.status = 500) }",
        );
        assert_eq!(found.query.as_deref(), query.ok().as_ref());
        assert_eq!((found.start_ns, found.end_ns), (Some(1_000_000), Some(2_000_001)));
        assert_eq!(read(""), Ok(SpanFilters::default()));
        for bad in ["minDuration=fast", "start=today", "tags=a", "tag=a", "tag=span.kind:x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
