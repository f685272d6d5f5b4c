//! OTLP requests as OTLP/JSON, written from the specification and apart from the gateway's reader.

use base64::Engine as _;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};
use serde_json::{Value as Json, json};

fn value(value: &AnyValue) -> Json {
    match &value.value {
        None => json!({}),
        Some(Value::StringValue(text)) => json!({"stringValue": text}),
        Some(Value::BoolValue(value)) => json!({"boolValue": value}),
        Some(Value::IntValue(value)) => json!({"intValue": value.to_string()}),
        Some(Value::DoubleValue(value)) => json!({"doubleValue": value}),
        Some(Value::ArrayValue(array)) => {
            json!({"arrayValue": {"values": array.values.iter().map(self::value).collect::<Vec<_>>()}})
        }
        Some(Value::KvlistValue(list)) => json!({"kvlistValue": {"values": attributes(&list.values)}}),
        Some(Value::BytesValue(bytes)) => {
            json!({"bytesValue": base64::engine::general_purpose::STANDARD.encode(bytes)})
        }
        Some(Value::StringValueStrindex(_)) => unreachable!("only profiles have these"),
    }
}

fn attributes(attributes: &[KeyValue]) -> Json {
    attributes
        .iter()
        .map(|attribute| match &attribute.value {
            Some(any) => json!({"key": attribute.key, "value": value(any)}),
            None => json!({"key": attribute.key}),
        })
        .collect()
}

fn span(span: &Span) -> Json {
    let mut json = json!({
        "traceId": hex::encode(&span.trace_id),
        "spanId": hex::encode(&span.span_id),
        "parentSpanId": hex::encode_upper(&span.parent_span_id),
        "traceState": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": span.end_time_unix_nano,
        "attributes": attributes(&span.attributes),
        "droppedAttributesCount": span.dropped_attributes_count,
        "droppedEventsCount": span.dropped_events_count,
        "droppedLinksCount": span.dropped_links_count,
        "events": span.events.iter().map(|event| json!({
            "timeUnixNano": event.time_unix_nano.to_string(),
            "name": event.name,
            "attributes": attributes(&event.attributes),
            "droppedAttributesCount": event.dropped_attributes_count,
        })).collect::<Vec<_>>(),
        "links": span.links.iter().map(|link| json!({
            "traceId": hex::encode(&link.trace_id),
            "spanId": hex::encode(&link.span_id),
            "traceState": link.trace_state,
            "attributes": attributes(&link.attributes),
            "droppedAttributesCount": link.dropped_attributes_count,
            "flags": link.flags,
        })).collect::<Vec<_>>(),
    });
    if let Some(status) = &span.status {
        json["status"] = json!({"code": status.code, "message": status.message});
    }
    json
}

/// The request as JSON text.
pub fn traces(request: &ExportTraceServiceRequest) -> String {
    let resource_spans: Vec<Json> = request
        .resource_spans
        .iter()
        .map(|part| {
            let scope_spans: Vec<Json> = part
                .scope_spans
                .iter()
                .map(|part| {
                    let mut json = json!({"spans": part.spans.iter().map(span).collect::<Vec<_>>(), "schemaUrl": part.schema_url});
                    if let Some(scope) = &part.scope {
                        json["scope"] = json!({"name": scope.name, "version": scope.version,
                            "attributes": attributes(&scope.attributes), "droppedAttributesCount": scope.dropped_attributes_count});
                    }
                    json
                })
                .collect();
            let mut json = json!({"scopeSpans": scope_spans, "schemaUrl": part.schema_url});
            if let Some(resource) = &part.resource {
                json["resource"] = json!({"attributes": attributes(&resource.attributes),
                    "droppedAttributesCount": resource.dropped_attributes_count});
            }
            json
        })
        .collect();
    json!({"resourceSpans": resource_spans}).to_string()
}
