//! `GET /jaeger/api/dependencies`: which service calls which, how often.
//!
//! Of the spans in memory that start in the range: an edge is a span whose parent belongs to another service.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use arrow::record_batch::RecordBatch;
use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_schemas::view::SpanView;
use serde_json::json;

use super::{Parameters, tell};
use crate::http::{App, error::ApiError};

const MILLISECOND_NS: i64 = 1_000_000;
/// Jaeger's own default of `lookback`.
const DEFAULT_LOOKBACK_MS: i64 = 86_400_000;

/// Calls by the calling and the called service.
type Edges = BTreeMap<(String, String), u64>;

pub(super) async fn dependencies(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let millis = |name: &'static str, default: i64| {
        let bad = |_| ApiError::bad_parameter(name, "expected milliseconds");
        asked.get(name).map_or(Ok(default), |text| text.parse::<i64>().map_err(bad))
    };
    let end_ms = millis("endTs", app.clock.now_unix_millis())?;
    let start_ms = end_ms.saturating_sub(millis("lookback", DEFAULT_LOOKBACK_MS)?);
    let range = start_ms.saturating_mul(MILLISECOND_NS)..=end_ms.saturating_mul(MILLISECOND_NS);
    let snapshot = app.store.snapshot().await;
    let batches = match &snapshot.hot {
        Some(hot) => {
            hot.batches(*range.start(), *range.end()).await.map_err(|error| ApiError::internal(&error))?
        }
        None => Vec::new(),
    };
    let batches: Vec<RecordBatch> = batches.into_iter().map(|batch| batch.batch).collect();
    let counting = tokio::task::spawn_blocking(move || edges(&batches, |start_ns| range.contains(&start_ns)));
    let edges = counting.await.map_err(|error| ApiError::internal(&error))?;
    let data = edges
        .into_iter()
        .map(|((parent, child), calls)| json!({"parent": parent, "child": child, "callCount": calls}));
    tell(&app, &headers, data.collect()).await
}

fn edges(batches: &[RecordBatch], is_wanted: impl Fn(i64) -> bool) -> Edges {
    let views: Vec<SpanView<'_>> = batches.iter().filter_map(|batch| SpanView::new(batch).ok()).collect();
    let mut services: HashMap<(&[u8; 16], &[u8; 8]), &str> = HashMap::new();
    for view in &views {
        for row in 0..view.len() {
            services.insert((view.trace_id(row), view.span_id(row)), view.service(row));
        }
    }
    let mut edges = Edges::new();
    let mut counted = HashSet::new();
    for view in &views {
        for row in (0..view.len()).filter(|row| is_wanted(view.start_ns(*row))) {
            let (trace, service) = (view.trace_id(row), view.service(row));
            let caller = view.parent_span_id(row).and_then(|parent| services.get(&(trace, parent)));
            // A span that was sent twice is one call.
            if let Some(caller) = caller.filter(|caller| **caller != service)
                && counted.insert((trace, view.span_id(row)))
            {
                *edges.entry(((*caller).to_owned(), service.to_owned())).or_default() += 1;
            }
        }
    }
    edges
}
