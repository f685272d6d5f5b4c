//! `GET /api/v1/traces/{trace_id}`: a trace whole, from every tier.

use std::sync::Arc;

use axum::{
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};

use super::{App, error::ApiError, insights, params, respond};
use crate::{
    hot::TraceId,
    search::engine::by_trace,
    store::{Found, Part},
    trace::{
        assemble,
        render::{self, Lacks},
    },
};

/// Larger traces are put together on a thread that may block.
const SPANS_INLINE: usize = 500;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Api,
    Otlp,
}

pub(super) async fn trace(
    State(app): State<Arc<App>>,
    Path(trace_id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = params::parse_trace_id(&trace_id)?;
    let query = params::Params::parse(query.as_deref(), &["format"], &[])?;
    let format = match query.get("format") {
        None | Some("json") => Format::Api,
        Some("otlp") => Format::Otlp,
        Some(_) => return Err(ApiError::bad_parameter("format", "expected json or otlp")),
    };
    let (parts, lacks) = find(&app, id).await?;
    let spans: usize = parts.iter().map(|part| part.rows.rows.len()).sum();
    let body = if spans <= SPANS_INLINE {
        render(&app, id, &parts, &lacks, format)?
    } else {
        let app = Arc::clone(&app);
        let work = move || render(&app, id, &parts, &lacks, format);
        tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))??
    };
    Ok(respond::json(&headers, body, app.config.limits.max_response_bytes).await)
}

/// The rows of a trace from every tier, all columns, and what they lack.
pub(super) async fn find(app: &App, id: TraceId) -> Result<(Vec<Part>, Lacks), ApiError> {
    let (parts, lacks) = look_up(app, &[id]).await;
    if parts.is_empty() {
        return Err(ApiError::no_trace(&hex::encode(id), &lacks.problems));
    }
    Ok((parts, lacks))
}

/// The same of several traces, in their order, without those that no tier holds; what they lack is told of all
/// together.
pub(super) async fn find_all(app: &App, ids: &[TraceId]) -> (Vec<(TraceId, Vec<Part>)>, Lacks) {
    let (parts, lacks) = look_up(app, ids).await;
    let mut by_trace = by_trace(&parts, ids);
    let found = ids.iter().filter_map(|id| by_trace.remove(id).map(|parts| (*id, parts))).collect();
    (found, lacks)
}

async fn look_up(app: &App, ids: &[TraceId]) -> (Vec<Part>, Lacks) {
    let snapshot = app.store.snapshot().await;
    let Found { parts, problems, warnings } = app.store.rows(&snapshot, ids, &None).await;
    let problems = snapshot.problems.into_iter().chain(problems).collect();
    let warnings = snapshot.warnings.into_iter().chain(warnings).collect();
    (parts, Lacks { problems, warnings })
}

fn render(
    app: &App,
    id: TraceId,
    parts: &[Part],
    lacks: &Lacks,
    format: Format,
) -> Result<Vec<u8>, ApiError> {
    let most_spans = app.config.limits.max_spans_per_trace;
    let trace = assemble(parts, most_spans).map_err(|error| ApiError::internal(&error))?;
    let body = match format {
        Format::Api => {
            let about = insights::about_trace(&app.insights, &id, &trace);
            render::trace(&id, &trace, parts, lacks, &app.pricer, about)
        }
        Format::Otlp => render::otlp(&trace, parts),
    };
    body.map_err(|error| ApiError::internal(&error))
}
