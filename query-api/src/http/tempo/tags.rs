//! Which tags there are and which values they have, for the editor's completion.
//!
//! Of the spans in memory, newest first and at most [`MOST_ROWS`]: completion wants what is there now, at once.
//! Services and models are those of the lake too. Other parameters than `scope` and `limit` are passed over: Tempo
//! narrows values by `q`, `start` and `end`, but need not.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int32Type,
};
use axum::{
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_query_language::{Intrinsic, Place, Type};
use infertrace_schemas::view::{AttributeValue, SpanView};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};

use super::Parameters;
use crate::http::{App, error::ApiError, names, respond};

/// Rows looked at.
const MOST_ROWS: usize = 50_000;
/// Values and tags told at most.
const MOST_TOLD: usize = 1_000;
/// Longer values help nobody who completes a word.
const LONGEST_VALUE: usize = 256;
const SERVICE: &str = "service.name";
const INTRINSIC: &str = "intrinsic";
/// Tempo's; what is not told has no tags.
const SCOPES: [&str; 6] = ["resource", "span", INTRINSIC, "event", "link", "instrumentation"];

pub(super) async fn all_names(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let limit = limit(&asked)?;
    let scopes = scopes(&app, &asked).await?;
    // As in Tempo, the fields of every span are told in this version to those alone who ask for them.
    let is_one = scopes.len() == 1;
    let told = scopes.into_iter().filter(|(name, _)| is_one || *name != INTRINSIC);
    let all: BTreeSet<String> = told.flat_map(|(_, tags)| tags).collect();
    let all: Vec<String> = all.into_iter().take(limit).collect();
    tell(&app, &headers, json!({"tagNames": all})).await
}

pub(super) async fn scoped_names(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let limit = limit(&asked)?;
    let scopes = scopes(&app, &asked).await?.into_iter();
    let scopes = scopes
        .map(|(name, tags)| json!({"name": name, "tags": tags.into_iter().take(limit).collect::<Vec<_>>()}));
    let scopes: Vec<Json> = scopes.collect();
    tell(&app, &headers, json!({"scopes": scopes})).await
}

pub(super) async fn values(
    State(app): State<Arc<App>>,
    Path(tag): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = values_of(&app, &tag, query.as_deref()).await?;
    let texts: Vec<String> = found.map(|(_, value)| value).collect();
    tell(&app, &headers, json!({"tagValues": texts})).await
}

pub(super) async fn typed_values(
    State(app): State<Arc<App>>,
    Path(tag): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = values_of(&app, &tag, query.as_deref()).await?;
    let typed = found.map(|(kind, value)| json!({"type": kind, "value": value}));
    tell(&app, &headers, json!({"tagValues": typed.collect::<Vec<_>>()})).await
}

/// Tags and values wanted at most.
fn limit(asked: &Parameters) -> Result<usize, ApiError> {
    // As in Tempo, 0 is no limit.
    Ok(asked.number("limit")?.filter(|limit| *limit > 0).unwrap_or(MOST_TOLD).min(MOST_TOLD))
}

async fn tell(app: &App, headers: &HeaderMap, answer: Json) -> Result<Response, ApiError> {
    Ok(respond::json(headers, answer.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}

/// Batches in memory, newest first, of about [`MOST_ROWS`] rows.
async fn newest(app: &App) -> Result<Vec<RecordBatch>, ApiError> {
    let snapshot = app.store.snapshot().await;
    let Some(hot) = &snapshot.hot else { return Ok(Vec::new()) };
    let mut batches = hot.batches(i64::MIN, i64::MAX).await.map_err(|error| ApiError::internal(&error))?;
    batches.sort_by_key(|batch| std::cmp::Reverse(batch.max_start_ns));
    let mut rows = 0;
    let wanted = batches.into_iter().take_while(|batch| {
        let is_wanted = rows < MOST_ROWS;
        rows += batch.batch.num_rows();
        is_wanted
    });
    Ok(wanted.map(|batch| batch.batch).collect())
}

/// Does `look` with the newest batches on a thread that may block.
async fn looked_at<T: Send + 'static>(
    app: &App,
    look: impl FnOnce(&[RecordBatch]) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let batches = newest(app).await?;
    tokio::task::spawn_blocking(move || look(&batches)).await.map_err(|error| ApiError::internal(&error))
}

/// Grafana encodes a tag twice, so that its own proxy does not take a slash in it for one of the path.
fn decoded(tag: &str) -> Cow<'_, str> {
    percent_decode_str(tag).decode_utf8().unwrap_or(Cow::Borrowed(tag))
}

/// Tags by scope; with the parameter `scope`, those of one.
async fn scopes(app: &App, asked: &Parameters) -> Result<Vec<(&'static str, BTreeSet<String>)>, ApiError> {
    let wanted = asked.get("scope").filter(|scope| *scope != "none").map(str::to_owned);
    if let Some(scope) = &wanted
        && !SCOPES.contains(&scope.as_str())
    {
        return Err(ApiError::bad_parameter("scope", format!("expected one of {}", SCOPES.join(", "))));
    }
    // Cost is computed, not stored: no search takes it.
    let intrinsics = Intrinsic::ALL.iter().filter(|intrinsic| **intrinsic != Intrinsic::Cost);
    let intrinsics = intrinsics.map(|intrinsic| intrinsic.name().to_owned()).collect();
    let (span, resource) = looked_at(app, tags_of).await?;
    let all = vec![("resource", resource), ("span", span), (INTRINSIC, intrinsics)];
    Ok(all.into_iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)).collect())
}

/// Keys of spans, and of resources.
fn tags_of(batches: &[RecordBatch]) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut span: BTreeSet<String> = BTreeSet::new();
    let mut resource = BTreeSet::from([SERVICE.to_owned()]);
    for view in batches.iter().filter_map(|batch| SpanView::new(batch).ok()) {
        for row in 0..view.len() {
            for (key, _) in view.attributes(row) {
                if span.len() < MOST_TOLD && !span.contains(key) {
                    span.insert(key.to_owned());
                }
            }
        }
        each_resource(&view, |key, _| {
            if resource.len() < MOST_TOLD {
                resource.insert(key.to_owned());
            }
        });
    }
    (span, resource)
}

/// Attributes of each distinct resource of a batch.
fn each_resource(view: &SpanView<'_>, mut each: impl FnMut(&str, &Json)) {
    let mut seen = HashSet::new();
    for row in 0..view.len() {
        let text = view.resource(row);
        if !seen.insert(text.as_ptr()) {
            continue;
        }
        let Ok(resource) = serde_json::from_str::<Json>(text) else { continue };
        for attribute in resource["attributes"].as_array().into_iter().flatten() {
            if let Some(key) = attribute["key"].as_str() {
                each(key, &attribute["value"]);
            }
        }
    }
}

/// Where an attribute is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    key: String,
    in_span: bool,
    in_resource: bool,
}

impl Attribute {
    /// `span.key`, `resource.key`, `.key`, or the key alone as in the first version.
    fn parse(tag: &str) -> Self {
        let scopes = [("span.", true, false), ("resource.", false, true), (".", true, true)];
        let found = scopes.iter().find_map(|(prefix, in_span, in_resource)| {
            Some((tag.strip_prefix(prefix)?, *in_span, *in_resource))
        });
        let (key, in_span, in_resource) = found.unwrap_or((tag, true, true));
        let unquoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
        Self { key: unquoted.to_owned(), in_span, in_resource }
    }
}

/// Type and value, in order.
type Typed = BTreeSet<(&'static str, String)>;

/// The values of a tag as it stands in the path, no more than wanted.
async fn values_of(
    app: &App,
    tag: &str,
    query: Option<&str>,
) -> Result<impl Iterator<Item = (&'static str, String)>, ApiError> {
    let limit = limit(&Parameters::parse(query))?;
    Ok(all_values_of(app, &decoded(tag)).await?.into_iter().take(limit))
}

async fn all_values_of(app: &App, tag: &str) -> Result<Typed, ApiError> {
    if let Some(intrinsic) = Intrinsic::from_name(tag) {
        return of_intrinsic(app, intrinsic).await;
    }
    let attribute = Attribute::parse(tag);
    if attribute.in_resource && attribute.key == SERVICE {
        return Ok(strings(names::of_services(app).await?));
    }
    looked_at(app, move |batches| of_attribute(batches, &attribute)).await
}

async fn of_intrinsic(app: &App, intrinsic: Intrinsic) -> Result<Typed, ApiError> {
    let words: &[&str] = match intrinsic {
        Intrinsic::Status => &["ok", "error", "unset"],
        Intrinsic::Kind => &["unspecified", "internal", "server", "client", "producer", "consumer"],
        _ => &[],
    };
    if !words.is_empty() {
        return Ok(words.iter().map(|word| ("keyword", (*word).to_owned())).collect());
    }
    match intrinsic {
        Intrinsic::Model => return Ok(strings(names::of_models(app).await?)),
        Intrinsic::RootServiceName => return Ok(strings(names::of_services(app).await?)),
        _ => {}
    }
    let column = match (intrinsic.value_type(), intrinsic.place()) {
        (Type::Text, Place::Column(column) | Place::Nullable(column)) => column,
        _ => return Ok(Typed::new()),
    };
    looked_at(app, move |batches| {
        let mut found = Typed::new();
        for batch in batches {
            let terms =
                batch.column_by_name(column).and_then(|values| values.as_dictionary_opt::<Int32Type>());
            let Some(terms) = terms.and_then(|terms| terms.values().as_string_opt::<i32>().cloned()) else {
                continue;
            };
            terms.iter().flatten().for_each(|term| put(&mut found, "string", term.to_owned()));
        }
        found
    })
    .await
}

fn put(found: &mut Typed, kind: &'static str, value: String) {
    if found.len() < MOST_TOLD && !value.is_empty() && value.len() <= LONGEST_VALUE {
        found.insert((kind, value));
    }
}

fn of_attribute(batches: &[RecordBatch], wanted: &Attribute) -> Typed {
    let mut found = Typed::new();
    for view in batches.iter().filter_map(|batch| SpanView::new(batch).ok()) {
        for row in (0..view.len()).filter(|_| wanted.in_span) {
            match view.attribute(row, &wanted.key) {
                Some(AttributeValue::String(text)) => put(&mut found, "string", text.to_owned()),
                Some(AttributeValue::Int(number)) => put(&mut found, "int", number.to_string()),
                Some(AttributeValue::Double(number)) => put(&mut found, "float", number.to_string()),
                Some(AttributeValue::Bool(flag)) => put(&mut found, "bool", flag.to_string()),
                Some(AttributeValue::Other(_)) | None => {}
            }
        }
        if wanted.in_resource {
            each_resource(&view, |key, value| {
                if key != wanted.key {
                    return;
                }
                let kinds = [
                    ("string", "stringValue"),
                    ("int", "intValue"),
                    ("float", "doubleValue"),
                    ("bool", "boolValue"),
                ];
                for (kind, field) in kinds {
                    match &value[field] {
                        Json::Null => {}
                        Json::String(text) => put(&mut found, kind, text.clone()),
                        other => put(&mut found, kind, other.to_string()),
                    }
                }
            });
        }
    }
    found
}

fn strings(names: BTreeSet<String>) -> Typed {
    names.into_iter().take(MOST_TOLD).map(|name| ("string", name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a tag encoded once more than the path says, one that only looks so. Guarantee: the tag.
    #[test]
    fn tags_are_decoded_twice() {
        assert_eq!(decoded("span.%22odd%20key%22"), "span.\"odd key\"");
        assert_eq!(decoded("span.100%"), "span.100%");
        assert_eq!(decoded("span.%ff"), "span.%ff");
    }

    /// Scenario: tags as Grafana asks for them, in both versions. Guarantee: the key, and where it is looked for.
    #[test]
    fn tags_name_scope_and_key() {
        let of = |key: &str, in_span, in_resource| Attribute { key: key.to_owned(), in_span, in_resource };
        assert_eq!(Attribute::parse("span.http.method"), of("http.method", true, false));
        assert_eq!(Attribute::parse("resource.service.name"), of("service.name", false, true));
        assert_eq!(Attribute::parse(".a"), of("a", true, true));
        assert_eq!(Attribute::parse("http.method"), of("http.method", true, true));
        assert_eq!(Attribute::parse("span.\"odd key\""), of("odd key", true, false));
    }
}
