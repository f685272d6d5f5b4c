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
    lake::Problem,
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
    let snapshot = app.store.snapshot().await;
    let Found { parts, problems, warnings } = app.store.rows(&snapshot, &[id], &None).await;
    let problems: Vec<Problem> = snapshot.problems.into_iter().chain(problems).collect();
    let warnings: Vec<String> = snapshot.warnings.into_iter().chain(warnings).collect();
    let lacks = Lacks { problems, warnings };
    if parts.is_empty() {
        return Err(ApiError::no_trace(&hex::encode(id), &lacks.problems));
    }
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
