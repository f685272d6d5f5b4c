//! `/prometheus/api/v1/series`, `/labels`, `/label/{name}/values` and `/metadata`: what there is to ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::{
    QueryError, computed, metrics, parameters,
    promql::{self, Selector},
    query::{limit, time},
    source::{self, Budget, Span},
    value::{Labels, NAME},
};
use crate::{
    http::{App, compat::Parameters, respond},
    insights::Insights,
};

/// Windows times series that are looked at for names: nothing is kept of them but the labels.
const MOST_LOOKED_AT: usize = 20_000_000;

pub(super) async fn series(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Bytes,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &form);
    if asked.get("match[]").is_none() {
        return Err(QueryError::bad("match[]", "no match[] parameter provided"));
    }
    let found = known(&app, &asked).await?;
    let told = found.iter().map(|labels| -> Json {
        labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>().into()
    });
    answer(&app, &headers, &asked, told.collect()).await
}

pub(super) async fn labels(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Bytes,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &form);
    let found = known(&app, &asked).await?;
    let names: BTreeSet<&str> = found.iter().flat_map(Labels::iter).map(|(name, _)| name).collect();
    answer(&app, &headers, &asked, names.into_iter().map(Json::from).collect()).await
}

pub(super) async fn values(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &[]);
    let found = known(&app, &asked).await?;
    let values: BTreeSet<&str> = found
        .iter()
        .flat_map(Labels::iter)
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value)
        .collect();
    answer(&app, &headers, &asked, values.into_iter().map(Json::from).collect()).await
}

pub(super) async fn metadata(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, QueryError> {
    let asked = parameters(query.as_deref(), &[]);
    let found = known(&app, &asked).await?;
    let held: BTreeSet<&str> = found
        .iter()
        .flat_map(Labels::iter)
        .filter(|(known, _)| *known == NAME)
        .map(|(_, value)| value)
        .collect();
    let most = limit(&asked)?.unwrap_or(usize::MAX);
    let wanted = asked.get("metric");
    let of_metric = |metric: &metrics::Metric| {
        let told = json!([{"type": metric.kind.name(), "help": metric.help, "unit": ""}]);
        (metric.name.clone(), told)
    };
    let told: BTreeMap<String, Json> = metrics::ALL
        .iter()
        .filter(|metric| held.contains(metric.name.as_str()))
        .filter(|metric| wanted.is_none_or(|wanted| wanted == metric.name))
        .map(of_metric)
        .collect();
    let told: Map<String, Json> = told.into_iter().take(most).collect();
    let body = json!({"status": "success", "data": told}).to_string().into_bytes();
    Ok(respond::json(&headers, body, app.config.limits.max_response_bytes).await)
}

/// The labels of the series that one of `match[]` takes, of all where none is given, within `start` and `end`.
async fn known(app: &App, asked: &Parameters) -> Result<BTreeSet<Labels>, QueryError> {
    let parse = |text| promql::parse_selector(text).map_err(|error| QueryError::bad("match[]", error));
    let mut selectors = asked.all("match[]").map(parse).collect::<Result<Vec<_>, _>>()?;
    if selectors.is_empty() {
        selectors.push(Selector::default());
    }
    let span = Span {
        from_ns: time(asked, "start")?.unwrap_or(i64::MIN),
        until_ns: time(asked, "end")?.unwrap_or(i64::MAX),
        // The longest windows have every series with the least to look at.
        length_ns: i64::MAX,
    };
    let work = move |insights: &Insights, budget: &mut Budget| {
        budget.points = MOST_LOOKED_AT;
        let rollups = insights.rollups();
        let mut all = BTreeSet::new();
        for selector in &selectors {
            all.extend(source::labels(&rollups, selector, span, budget)?);
        }
        Ok(all)
    };
    computed(app, asked, work).await
}

async fn answer(
    app: &App,
    headers: &HeaderMap,
    asked: &Parameters,
    mut told: Vec<Json>,
) -> Result<Response, QueryError> {
    let most = limit(asked)?.unwrap_or(usize::MAX);
    let is_truncated = told.len() > most;
    told.truncate(most);
    let mut body = json!({"status": "success", "data": told});
    if is_truncated {
        body["warnings"] = json!(["results truncated due to limit"]);
    }
    Ok(respond::json(headers, body.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}
