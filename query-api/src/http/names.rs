//! `GET /api/v1/services` and `/api/v1/models`: what there is to look for.
//!
//! Counts are of the hot tier; the lake's manifests add names and the time they were last seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_schemas::lake::DataFile;
use serde_json::{Map, Value as Json, json};

use super::{App, error::ApiError, params, respond};
use crate::{
    hot::{NameCount, NameCounts},
    store::Snapshot,
};

/// Operations listed a service.
const MOST_OPERATIONS: usize = 200;

#[derive(Default)]
struct Entry {
    count: NameCount,
    operations: BTreeMap<String, NameCount>,
    hot: bool,
    lake: bool,
}

pub(super) async fn services(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let of_hot = |counts: NameCounts| {
        let entry = |(name, operations): (String, BTreeMap<String, NameCount>)| {
            let mut count = NameCount { last_seen_ns: i64::MIN, ..NameCount::default() };
            for operation in operations.values() {
                count.merge(operation);
            }
            (name, Entry { count, operations, hot: true, lake: false })
        };
        counts.services.into_iter().map(entry).collect()
    };
    answer(&app, query.as_deref(), &headers, "services", of_hot, |file| file.services.as_deref()).await
}

pub(super) async fn models(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let of_hot = |counts: NameCounts| {
        let entry = |(name, count)| (name, Entry { count, hot: true, ..Entry::default() });
        counts.models.into_iter().map(entry).collect()
    };
    answer(&app, query.as_deref(), &headers, "models", of_hot, |file| file.models.as_deref()).await
}

/// Counts of the hot tier; none where there is no such tier.
pub(super) async fn in_memory(snapshot: &Snapshot) -> Result<NameCounts, ApiError> {
    match &snapshot.hot {
        Some(hot) => hot.names().await.map_err(|error| ApiError::internal(&error)),
        None => Ok(NameCounts::default()),
    }
}

/// Names of services, of memory and of the lake's manifests.
pub(super) async fn of_services(app: &App) -> Result<BTreeSet<String>, ApiError> {
    all(app, |counts| counts.services.into_keys().collect(), |file| file.services.as_deref()).await
}

/// Names of models, of memory and of the lake's manifests.
pub(super) async fn of_models(app: &App) -> Result<BTreeSet<String>, ApiError> {
    all(app, |counts| counts.models.into_keys().collect(), |file| file.models.as_deref()).await
}

async fn all(
    app: &App,
    of_hot: impl FnOnce(NameCounts) -> BTreeSet<String>,
    of_file: impl Fn(&DataFile) -> Option<&[String]>,
) -> Result<BTreeSet<String>, ApiError> {
    let snapshot = app.store.snapshot().await;
    let mut names = of_hot(in_memory(&snapshot).await?);
    for file in &snapshot.files.files {
        names.extend(of_file(&file.data).into_iter().flatten().cloned());
    }
    Ok(names)
}

async fn answer(
    app: &App,
    query: Option<&str>,
    headers: &HeaderMap,
    key: &str,
    of_hot: impl FnOnce(NameCounts) -> BTreeMap<String, Entry>,
    of_file: impl Fn(&DataFile) -> Option<&[String]>,
) -> Result<Response, ApiError> {
    params::Params::parse(query, &[], &[])?;
    let snapshot = app.store.snapshot().await;
    let mut entries = BTreeMap::new();
    let mut problems = snapshot.problems;
    if let Some(hot) = &snapshot.hot {
        match hot.names().await {
            Ok(counts) => entries = of_hot(counts),
            Err(error) => problems.push(crate::lake::Problem::hot(error.to_string())),
        }
    }
    // A file with very many names lists none of them.
    let mut unlisted = 0usize;
    for file in &snapshot.files.files {
        let Some(names) = of_file(&file.data) else {
            unlisted += 1;
            continue;
        };
        for name in names {
            let entry = match entries.get_mut(name) {
                Some(entry) => entry,
                None => entries.entry(name.clone()).or_default(),
            };
            entry.lake = true;
            if !entry.hot {
                entry.count.last_seen_ns = entry.count.last_seen_ns.max(file.data.max_start_ns);
            }
        }
    }
    let listed: Vec<Json> = entries.iter().map(|(name, entry)| entry_json(key, name, entry)).collect();
    let mut answer = Map::new();
    answer.insert(key.to_owned(), listed.into());
    answer.insert("counted_window_ms".to_owned(), app.config.hot.window_ms.into());
    answer.insert("unread".to_owned(), json!(problems));
    answer.insert("truncated".to_owned(), (unlisted > 0).into());
    let body = Json::Object(answer).to_string().into_bytes();
    Ok(respond::json(headers, body, app.config.limits.max_response_bytes).await)
}

fn entry_json(key: &str, name: &str, entry: &Entry) -> Json {
    let mut out = count_json(name, &entry.count);
    if key == "services" {
        let operations = entry.operations.iter().take(MOST_OPERATIONS);
        let operations = operations.map(|(name, count)| Json::Object(count_json(name, count)));
        out.insert("operations".to_owned(), operations.collect());
        out.insert("operations_truncated".to_owned(), (entry.operations.len() > MOST_OPERATIONS).into());
    }
    let tiers = [(entry.hot, "hot"), (entry.lake, "cold")];
    out.insert(
        "tiers".to_owned(),
        tiers.iter().filter(|(is_there, _)| *is_there).map(|(_, tier)| *tier).collect(),
    );
    Json::Object(out)
}

fn count_json(name: &str, count: &NameCount) -> Map<String, Json> {
    let mut out = Map::new();
    out.insert("name".to_owned(), name.into());
    out.insert("span_count".to_owned(), count.spans.into());
    out.insert("error_count".to_owned(), count.errors.into());
    out.insert("last_seen_unix_nano".to_owned(), count.last_seen_ns.to_string().into());
    out
}
