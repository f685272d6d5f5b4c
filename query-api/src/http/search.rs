//! `GET /api/v1/traces`: traces in which one span satisfies every filter, newest first.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Value as Json, json};

use super::{App, error::ApiError, params, respond};
use crate::{
    search::{Cursor, Page, PageRequest, SpanFilters, engine},
    trace::render,
};

pub(super) async fn search(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::Params::parse(query.as_deref(), params::SEARCH, &["attr"])?;
    let filters = query.filters()?;
    let limits = &app.config.limits;
    let (limit, lowered) = query.limit(limits)?;
    let cursor = query.cursor(&filters)?;
    let fingerprint = filters.fingerprint();
    let page = page(&app, filters, limit, cursor).await?;
    let mut traces = Vec::with_capacity(page.hits.len());
    for hit in &page.hits {
        let mut summary = render::listed(&hit.trace_id, &hit.trace, &hit.parts, &app.pricer);
        summary.insert("matched_start_unix_nano".to_owned(), hit.start_ns.to_string().into());
        traces.push(Json::Object(summary));
    }
    let next = page.next.map(|next| next.encode(fingerprint));
    let mut warnings = render::warnings(&page.problems);
    warnings.extend(page.warnings);
    if page.truncated {
        warnings.push(
            "the search ran out of time before it saw everything; follow next_cursor or narrow it".to_owned(),
        );
    }
    if lowered {
        warnings.push(format!("limit was lowered to {limit}, the most traces a page"));
    }
    let mut answer = json!({
        "traces": traces,
        "next_cursor": next,
        "partial": page.problems,
        "warnings": warnings,
        "truncated": page.truncated || lowered,
    });
    if lowered {
        answer["limit"] = limit.into();
    }
    let body = answer.to_string().into_bytes();
    Ok(respond::json(&headers, body, limits.max_response_bytes).await)
}

/// A page of traces, within the limits of a search.
pub(super) async fn page(
    app: &App,
    filters: SpanFilters,
    limit: usize,
    cursor: Option<Cursor>,
) -> Result<Page, ApiError> {
    let limits = &app.config.limits;
    let request = PageRequest {
        filters,
        limit,
        cursor,
        budget: Duration::from_millis(limits.search_budget_ms),
        step_rows: app.config.lake.search_step_rows,
        most_spans: limits.max_spans_per_trace,
    };
    let _permit = app.searches.acquire().await.map_err(|error| ApiError::internal(&error))?;
    engine::find(&app.store, &request).await.map_err(|error| ApiError::internal(&error))
}
