//! `GET /tempo/api/search`: by a query of TraceQL, or by tags and durations, which are made into one.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use infertrace_query_language::{Field, Intrinsic, Value};
use serde_json::{Map, Value as Json, json};

use super::{any_value, time};
use crate::{
    http::{
        App,
        compat::{self, Parameters},
        error::ApiError,
        respond,
        search::page,
    },
    search::{Found, SpanFilters, TraceQuery, engine::Hit},
    trace::{Assembled, MissingColumn},
};

const DEFAULT_TRACES: usize = 20;
/// Spans listed a set (`spss`).
const DEFAULT_SPANS: usize = 3;
const MOST_SPANS: usize = 100;
/// What Tempo says of a trace whose root it has not seen.
const NO_ROOT: &str = "<root span not yet received>";

pub(super) async fn search(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Parameters::parse(query.as_deref());
    let number = |name: &'static str, default: usize, most: usize| {
        Ok::<_, ApiError>(asked.number(name)?.filter(|number| *number > 0).unwrap_or(default).min(most))
    };
    let limit = number("limit", DEFAULT_TRACES, app.config.limits.max_traces_per_page)?;
    let most_spans = number("spss", DEFAULT_SPANS, MOST_SPANS)?;
    let mut filters = filters(&asked)?;
    let query = filters.query.get_or_insert_with(|| Arc::new(TraceQuery::all())).clone();
    let found = page(&app, filters, limit, None).await?;
    let traces = found.hits.iter().map(|hit| listed(hit, &query, most_spans));
    let traces = traces.collect::<Result<Vec<Json>, _>>().map_err(|error| ApiError::internal(&error))?;
    let answer = json!({
        "traces": traces,
        // One job, which is not completed when time ran out.
        "metrics": {"inspectedTraces": found.hits.len(), "completedJobs": u8::from(!found.truncated), "totalJobs": 1},
    });
    Ok(respond::json(&headers, answer.to_string().into_bytes(), app.config.limits.max_response_bytes).await)
}

fn filters(asked: &Parameters) -> Result<SpanFilters, ApiError> {
    let text = match asked.get("q") {
        Some(text) => Some(("q", text.to_owned())),
        None => of_tags(asked)?.map(|text| ("tags", text)),
    };
    let query = text.map(|(parameter, text)| {
        TraceQuery::parse(&text).map_err(|error| ApiError::bad_parameter(parameter, error.to_string()))
    });
    let query = query.transpose()?.map(Arc::new);
    let (start_ns, end_ns) = (time(asked, "start")?, time(asked, "end")?);
    Ok(SpanFilters { start_ns, end_ns, query, ..SpanFilters::default() })
}

/// The query that tags in logfmt and durations of the trace stand for; `None` without any.
fn of_tags(asked: &Parameters) -> Result<Option<String>, ApiError> {
    let mut conditions = Vec::new();
    for (key, value) in logfmt(asked.get("tags").unwrap_or_default())? {
        conditions.push(compat::tag("tags", &key, &value)?);
    }
    conditions.extend(compat::duration_limits(asked, Intrinsic::TraceDuration)?);
    Ok((!conditions.is_empty()).then(|| compat::spanset(&conditions)))
}

/// `key=value key="a value"`; a key alone is `true`.
fn logfmt(text: &str) -> Result<Vec<(String, String)>, ApiError> {
    let bad = |detail: &str| {
        ApiError::bad_parameter(
            "tags",
            format!("{detail}; expected logfmt, such as service.name=chat error=true"),
        )
    };
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|letter: char| letter == '=' || letter.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        if key.is_empty() || key.contains('"') {
            return Err(bad("a key is missing or quoted"));
        }
        let Some(after) = after.strip_prefix('=') else {
            pairs.push((key.to_owned(), "true".to_owned()));
            rest = after.trim_start();
            continue;
        };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => read_quoted(quoted).ok_or_else(|| bad("a quote is not closed"))?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// What stands before the closing quote, and what follows it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

/// A trace as Tempo lists it, with the first spans of each set that the query finds, and of each what the query names.
fn listed(hit: &Hit, query: &TraceQuery, most_spans: usize) -> Result<Json, MissingColumn> {
    let trace = &hit.trace;
    let analysis = &trace.analysis;
    let sets: Vec<Json> = query
        .found(trace, &hit.parts)?
        .iter()
        .map(|set| {
            let spans: Vec<Json> =
                set.iter().take(most_spans).map(|span| span_of(trace, span, query.shown())).collect();
            json!({"spans": spans, "matched": set.len()})
        })
        .collect();
    let root = analysis.nodes.get(analysis.root as usize).map(|root| &trace.spans[root.input as usize]);
    let services = analysis.services.iter().map(|service| {
        let counts = json!({"spanCount": service.spans, "errorCount": service.errors});
        (trace.names.get(service.service).to_owned(), counts)
    });
    Ok(json!({
        "traceID": hex::encode(hit.trace_id),
        "rootServiceName": root.map_or(NO_ROOT, |root| trace.names.get(root.service)),
        "rootTraceName": root.map_or("", |root| trace.names.get(root.operation)),
        "startTimeUnixNano": analysis.start_ns.to_string(),
        "durationMs": u32::try_from(analysis.duration_ns() / 1_000_000).unwrap_or(u32::MAX),
        // The first set on its own is what data sources before version 10 of Grafana read.
        "spanSet": sets.first(),
        "spanSets": sets,
        "serviceStats": services.collect::<Map<String, Json>>(),
    }))
}

/// A span of a set: the service, and the values that it has for fields of the query, by their keys alone.
fn span_of(trace: &Assembled, found: &Found, shown: &[Field]) -> Json {
    let span = &trace.spans[trace.analysis.nodes[found.node].input as usize];
    let service = Value::Text(trace.names.get(span.service).to_owned());
    let mut attributes = vec![json!({"key": "service.name", "value": any_value(&service)})];
    for (field, value) in shown.iter().zip(&found.values) {
        let key = match field {
            // Told on their own.
            Field::Intrinsic(
                Intrinsic::Name | Intrinsic::Duration | Intrinsic::TraceId | Intrinsic::SpanId,
            ) => continue,
            Field::Attribute { key, .. } if key == "service.name" => continue,
            Field::Attribute { key, .. } => key.clone(),
            Field::Intrinsic(intrinsic) => intrinsic.name().to_owned(),
        };
        if let Some(value) = value {
            attributes.push(json!({"key": key, "value": any_value(value)}));
        }
    }
    json!({
        "spanID": format!("{:016x}", span.span_id),
        "name": trace.names.get(span.operation),
        "startTimeUnixNano": span.start_ns.to_string(),
        "durationNanos": span.duration_ns.to_string(),
        "attributes": attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(parameters: &str) -> Result<Option<String>, ApiError> {
        of_tags(&Parameters::parse(Some(parameters)))
    }

    /// Scenario: tags and durations as Grafana's search form sends them. Guarantee: the query that means the same,
    /// which the language takes; what is no logfmt is refused by name.
    #[test]
    fn tags_become_a_query() {
        let text = query(
            "tags=service.name%3Dchat%20error%3Dtrue%20user%3D%22a%20%5C%22b%22%20retries%3D3&minDuration=100ms",
        );
        let text = text.expect("logfmt").expect("conditions");
        assert_eq!(
            text,
            "{ resource.service.name = \"chat\" && status = error && .user = \"a \\\"b\" && \
             (.retries = \"3\" || .retries = 3) && traceDuration >= 100ms }"
        );
        assert!(TraceQuery::parse(&text).is_ok());
        assert_eq!(query(""), Ok(None));
        for bad in ["tags=a%3D%22b", "tags=%3Db", "minDuration=5", "maxDuration=1s%20||%20true"] {
            assert!(query(bad).is_err(), "{bad}");
        }
    }
}
