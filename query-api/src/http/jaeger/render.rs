//! A trace of OTLP as Jaeger tells it: spans with tags, logs and references, and the processes that they ran in.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

const KINDS: [&str; 6] = ["", "internal", "server", "client", "producer", "consumer"];
const CODES: [&str; 3] = ["", "OK", "ERROR"];
const ERROR: u64 = 2;
const SERVICE: &str = "service.name";

/// A trace; `warnings` go to its first span, which is where Jaeger's UI shows them.
pub(super) fn trace(id: &str, otlp: &Json, warnings: &[String]) -> Json {
    let mut processes: BTreeMap<String, Json> = BTreeMap::new();
    let mut spans = Vec::new();
    for resource_spans in items(&otlp["resourceSpans"]) {
        let process = format!("p{}", processes.len() + 1);
        processes.insert(process.clone(), process_of(&resource_spans["resource"]));
        for scope_spans in items(&resource_spans["scopeSpans"]) {
            let scope = scope_spans["scope"]["name"].as_str().unwrap_or_default();
            spans.extend(items(&scope_spans["spans"]).map(|span| span_of(id, span, &process, scope)));
        }
    }
    if let Some(first) = spans.first_mut()
        && !warnings.is_empty()
    {
        first["warnings"] = json!(warnings);
    }
    json!({"traceID": id, "spans": spans, "processes": processes, "warnings": null})
}

fn items(value: &Json) -> impl Iterator<Item = &Json> {
    value.as_array().into_iter().flatten()
}

fn process_of(resource: &Json) -> Json {
    let (mut service, mut tags) = ("", Vec::new());
    for attribute in items(&resource["attributes"]) {
        match attribute["key"].as_str() {
            Some(SERVICE) => service = attribute["value"]["stringValue"].as_str().unwrap_or_default(),
            _ => tags.push(tag_of(attribute)),
        }
    }
    json!({"serviceName": service, "tags": tags})
}

fn span_of(trace_id: &str, span: &Json, process: &str, scope: &str) -> Json {
    let text = |field: &str| span[field].as_str().unwrap_or_default();
    let nanos = |field: &str| text(field).parse::<u64>().unwrap_or_default();
    let (start, end) = (nanos("startTimeUnixNano"), nanos("endTimeUnixNano"));
    let reference =
        |kind: &str, trace: &str, span: &str| json!({"refType": kind, "traceID": trace, "spanID": span});
    let mut references = Vec::new();
    if !text("parentSpanId").is_empty() {
        references.push(reference("CHILD_OF", trace_id, text("parentSpanId")));
    }
    for link in items(&span["links"]) {
        let (trace, span) = (link["traceId"].as_str(), link["spanId"].as_str());
        references.push(reference("FOLLOWS_FROM", trace.unwrap_or_default(), span.unwrap_or_default()));
    }
    let logs = items(&span["events"]).map(|event| {
        let time =
            event["timeUnixNano"].as_str().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
        let name = tag("event", "string", event["name"].clone());
        let fields: Vec<Json> =
            std::iter::once(name).chain(items(&event["attributes"]).map(tag_of)).collect();
        json!({"timestamp": time / 1_000, "fields": fields})
    });
    json!({
        "traceID": trace_id,
        "spanID": text("spanId"),
        "operationName": text("name"),
        "references": references,
        "startTime": start / 1_000,
        "duration": end.saturating_sub(start) / 1_000,
        "tags": tags_of(span, scope),
        "logs": logs.collect::<Vec<_>>(),
        "processID": process,
        "warnings": null,
    })
}

/// Attributes, and what OpenTelemetry's specification makes tags of for Jaeger: kind, status and scope.
fn tags_of(span: &Json, scope: &str) -> Vec<Json> {
    let mut tags: Vec<Json> = items(&span["attributes"]).map(tag_of).collect();
    let named = |names: &[&'static str], number: Option<u64>| {
        number.and_then(|number| names.get(number as usize).copied()).filter(|name| !name.is_empty())
    };
    let mut put = |key: &str, value: &str| tags.push(tag(key, "string", value.into()));
    if let Some(kind) = named(&KINDS, span["kind"].as_u64()) {
        put("span.kind", kind);
    }
    let code = span["status"]["code"].as_u64();
    if let Some(code) = named(&CODES, code) {
        put("otel.status_code", code);
    }
    if let Some(message) = span["status"]["message"].as_str().filter(|message| !message.is_empty()) {
        put("otel.status_description", message);
    }
    if !scope.is_empty() {
        put("otel.scope.name", scope);
    }
    if code == Some(ERROR) {
        tags.push(tag("error", "bool", true.into()));
    }
    tags
}

fn tag(key: &str, kind: &str, value: Json) -> Json {
    json!({"key": key, "type": kind, "value": value})
}

/// An attribute; lists and maps as their JSON, since Jaeger has neither.
fn tag_of(attribute: &Json) -> Json {
    let key = attribute["key"].as_str().unwrap_or_default();
    let empty = Map::new();
    let value = attribute["value"].as_object().unwrap_or(&empty);
    match value.iter().next() {
        Some((kind, value)) => match kind.as_str() {
            "stringValue" => tag(key, "string", value.clone()),
            "boolValue" => tag(key, "bool", value.clone()),
            "intValue" => {
                let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
                tag(key, "int64", number.map_or_else(|| value.clone(), Json::from))
            }
            "doubleValue" => tag(key, "float64", value.clone()),
            "bytesValue" => tag(key, "binary", value.clone()),
            _ => tag(key, "string", value.to_string().into()),
        },
        None => tag(key, "string", "".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a trace with a resource, a scope, a parent, a link, an event, attributes of every type and an error.
    /// Guarantee: each is where Jaeger looks for it, in microseconds.
    #[test]
    fn everything_has_its_place() {
        let otlp = json!({"resourceSpans": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "chat"}},
                {"key": "host", "value": {"stringValue": "a"}},
            ]},
            "scopeSpans": [{"scope": {"name": "sdk"}, "spans": [{
                "traceId": "0a", "spanId": "0b", "parentSpanId": "0c", "name": "x", "kind": 2,
                "startTimeUnixNano": "5000", "endTimeUnixNano": "12000",
                "attributes": [
                    {"key": "n", "value": {"intValue": "7"}},
                    {"key": "f", "value": {"doubleValue": 0.5}},
                    {"key": "l", "value": {"arrayValue": {"values": []}}},
                ],
                "events": [{"timeUnixNano": "6000", "name": "e"}],
                "links": [{"traceId": "0d", "spanId": "0e"}],
                "status": {"code": 2, "message": "m"},
            }]}],
        }]});
        let trace = trace("0a", &otlp, &["a file".to_owned()]);
        let span = &trace["spans"][0];
        assert_eq!(
            trace["processes"]["p1"],
            json!({"serviceName": "chat", "tags": [tag("host", "string", "a".into())]})
        );
        assert_eq!(
            (&span["processID"], &span["startTime"], &span["duration"]),
            (&json!("p1"), &json!(5), &json!(7))
        );
        let kinds: Vec<&str> = items(&span["references"]).filter_map(|one| one["refType"].as_str()).collect();
        assert_eq!(kinds, ["CHILD_OF", "FOLLOWS_FROM"]);
        assert_eq!(span["logs"][0], json!({"timestamp": 6, "fields": [tag("event", "string", "e".into())]}));
        let tags: Vec<&Json> = items(&span["tags"]).collect();
        for wanted in [
            tag("n", "int64", 7.into()),
            tag("f", "float64", 0.5.into()),
            tag("l", "string", "{\"values\":[]}".into()),
            tag("span.kind", "string", "server".into()),
            tag("otel.status_code", "string", "ERROR".into()),
            tag("error", "bool", true.into()),
        ] {
            assert!(tags.contains(&&wanted), "{wanted} in {tags:?}");
        }
        assert_eq!(span["warnings"][0], "a file");
    }
}
