//! A trace by its id, as OTLP in protobuf or JSON.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use infertrace_schemas::{
    otlp_json::{self, Bounds, Signal},
    wire::{put_bytes_field, put_varint_field},
};
use serde_json::{Map, Value as Json, json};

use crate::{
    http::{App, error::ApiError, params, respond, traces::find},
    trace::{assemble, render},
};

const PROTOBUF: &str = "application/protobuf";
/// Values nest as deep in what the gateway took.
const DEEPEST: u32 = 100;
/// `tempopb.PartialStatus`.
const PARTIAL: u64 = 1;

/// Which answer: `Trace`, or `TraceByIDResponse` around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    First,
    Second,
}

pub(super) async fn first(
    state: State<Arc<App>>,
    id: Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(state, id, headers, Version::First).await
}

pub(super) async fn second(
    state: State<Arc<App>>,
    id: Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(state, id, headers, Version::Second).await
}

async fn answer(
    State(app): State<Arc<App>>,
    Path(trace_id): Path<String>,
    headers: HeaderMap,
    version: Version,
) -> Result<Response, ApiError> {
    let id = params::parse_trace_id(&trace_id)?;
    let (parts, lacks) = find(&app, id).await?;
    let wants_protobuf = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(PROTOBUF));
    let most_bytes = app.config.limits.max_response_bytes;
    let work = {
        let app = Arc::clone(&app);
        move || {
            let trace = assemble(&parts, app.config.limits.max_spans_per_trace)
                .map_err(|error| ApiError::internal(&error))?;
            let otlp = render::otlp_by_service(&trace, &parts).map_err(|error| ApiError::internal(&error))?;
            let mut missing = render::warnings(&lacks.problems);
            if trace.dropped > 0 {
                missing.push(format!("{} spans were left out: the trace is too large", trace.dropped));
            }
            let missing = missing.join("; ");
            if wants_protobuf {
                protobuf(&otlp, version, &missing, most_bytes)
            } else {
                json_of(&otlp, version, &missing)
            }
        }
    };
    let body = tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))??;
    if !wants_protobuf {
        return Ok(respond::json(&headers, body, most_bytes).await);
    }
    if body.len() > most_bytes {
        return Err(ApiError::too_large(body.len(), most_bytes));
    }
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    Ok(response)
}

/// `tempopb.Trace` is encoded as OTLP's `TracesData`.
fn protobuf(otlp: &[u8], version: Version, missing: &str, most_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut trace = Vec::with_capacity(otlp.len() / 2);
    let bounds = Bounds { depth: DEEPEST, bytes: most_bytes };
    otlp_json::transcode(otlp, Signal::Traces, bounds, &mut trace)
        .map_err(|error| ApiError::internal(&error))?;
    if version == Version::First {
        return Ok(trace);
    }
    let mut out = Vec::with_capacity(trace.len() + 16);
    put_bytes_field(&mut out, 1, &trace);
    if !missing.is_empty() {
        put_varint_field(&mut out, 3, PARTIAL);
        put_bytes_field(&mut out, 4, missing.as_bytes());
    }
    Ok(out)
}

/// As protobuf's own JSON: ids in base64, enumerations by name, and `batches` in the first version.
fn json_of(otlp: &[u8], version: Version, missing: &str) -> Result<Vec<u8>, ApiError> {
    let mut trace: Json = serde_json::from_slice(otlp).map_err(|error| ApiError::internal(&error))?;
    as_protobuf_json(&mut trace);
    let answer = match version {
        Version::First => json!({"batches": trace["resourceSpans"].take()}),
        Version::Second if missing.is_empty() => json!({"trace": trace}),
        Version::Second => json!({"trace": trace, "status": "PARTIAL", "message": missing}),
    };
    Ok(answer.to_string().into_bytes())
}

const KINDS: [&str; 6] = ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
const CODES: [&str; 3] = ["UNSET", "OK", "ERROR"];

/// OTLP/JSON differs from protobuf's JSON in ids and enumerations. Attributes are left as they are: a key is a value
/// there.
fn as_protobuf_json(value: &mut Json) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(as_protobuf_json),
        Json::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "traceId" | "spanId" | "parentSpanId" => {
                        let id = value.as_str().and_then(|id| hex::decode(id).ok());
                        if let Some(id) = id {
                            *value = STANDARD.encode(id).into();
                        }
                    }
                    "attributes" => {}
                    _ => as_protobuf_json(value),
                }
            }
            name_enumeration(fields, "kind", "SPAN_KIND_", &KINDS);
            name_enumeration(fields, "code", "STATUS_CODE_", &CODES);
        }
        _ => {}
    }
}

fn name_enumeration(fields: &mut Map<String, Json>, field: &str, prefix: &str, names: &[&str]) {
    let number = fields.get(field).and_then(Json::as_u64).and_then(|number| usize::try_from(number).ok());
    if let Some(name) = number.and_then(|number| names.get(number)) {
        fields.insert(field.to_owned(), format!("{prefix}{name}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTLP: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"kind","value":{"intValue":"2"}}]},
        "scopeSpans":[{"spans":[{"traceId":"0102","spanId":"03","name":"x","kind":2,"status":{"code":2}}]}]}]}"#;

    /// Scenario: a trace in either version's JSON. Guarantee: ids in base64, enumerations by name, attributes
    /// untouched, and the second says what is missing.
    #[test]
    fn json_is_that_of_protobuf() {
        let read = |version, missing| -> Json {
            serde_json::from_slice(&json_of(OTLP.as_bytes(), version, missing).expect("OTLP")).expect("JSON")
        };
        let first = read(Version::First, "");
        let span = &first["batches"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "AQI=");
        assert_eq!(
            (&span["kind"], &span["status"]["code"]),
            (&json!("SPAN_KIND_SERVER"), &json!("STATUS_CODE_ERROR"))
        );
        assert_eq!(
            first["batches"][0]["resource"]["attributes"][0],
            json!({"key": "kind", "value": {"intValue": "2"}})
        );
        let second = read(Version::Second, "a file");
        assert_eq!(second["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"], "Aw==");
        assert_eq!((&second["status"], &second["message"]), (&json!("PARTIAL"), &json!("a file")));
    }

    /// Scenario: the same as protobuf. Guarantee: the second version is the first in field 1, with what is missing
    /// behind it.
    #[test]
    fn the_second_version_wraps_the_first() {
        let first = protobuf(OTLP.as_bytes(), Version::First, "", 1 << 20).expect("OTLP");
        let second = protobuf(OTLP.as_bytes(), Version::Second, "m", 1 << 20).expect("OTLP");
        let mut expected = Vec::new();
        put_bytes_field(&mut expected, 1, &first);
        expected.extend_from_slice(&[0x18, 1, 0x22, 1, b'm']);
        assert_eq!(second, expected);
    }
}
