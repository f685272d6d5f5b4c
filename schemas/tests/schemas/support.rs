//! What the tests share: building spans, reading them, OTLP bodies as batches, rendering by plain prost.

use std::path::PathBuf;

use arrow::array::{Array, RecordBatch};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    reader::{Position, SpanReader},
    view::SpanView,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value as Json, json};

/// The folder of captured payloads, or a loud reason why the test is skipped.
pub(crate) fn captures() -> Option<PathBuf> {
    let root = std::env::var_os("INFERTRACE_TEST_DATA").map_or_else(
        || {
            PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
                .join("../../shared/data")
        },
        PathBuf::from,
    );
    let captures = root.join("captures");
    if captures.is_dir() {
        return Some(captures);
    }
    eprintln!("SKIPPED: no captures in {}; set INFERTRACE_TEST_DATA", captures.display());
    None
}

pub(crate) fn attribute(key: &str, value: Value) -> v1::KeyValue {
    v1::KeyValue { key: key.to_owned(), value: Some(v1::AnyValue { value: Some(value) }) }
}

pub(crate) fn text(key: &str, value: &str) -> v1::KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// A valid span without anything optional.
pub(crate) fn bare_span() -> v1::Span {
    v1::Span {
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        service_name: "service".to_owned(),
        operation_name: "operation".to_owned(),
        start_time_unix_nano: 1_795_386_821_708_909_056,
        duration_nanos: 2_000_000_000,
        ..v1::Span::default()
    }
}

/// A batch as `pushes` of one record each, every array checked for Arrow's own invariants.
pub(crate) fn read_records(records: &[Vec<u8>]) -> RecordBatch {
    let mut reader = SpanReader::new();
    for (offset, record) in records.iter().enumerate() {
        let position = Position { partition: 3, offset: offset as i64 };
        reader.push(record, position).expect("a record that opens");
    }
    let batch = reader.finish();
    check_arrays(&batch);
    batch
}

/// Arrow's own validation of every buffer, text included.
pub(crate) fn check_arrays(batch: &RecordBatch) {
    for column in batch.columns() {
        column.to_data().validate_full().expect("valid arrays");
    }
}

pub(crate) fn read_batch(batch: &v1::SpanBatch) -> RecordBatch {
    read_records(&[batch.encode_to_vec()])
}

/// Reads spans of one origin.
pub(crate) fn read_spans(spans: Vec<v1::Span>, origin: v1::Origin) -> RecordBatch {
    read_batch(&v1::SpanBatch { spans, origins: vec![origin], ..v1::SpanBatch::default() })
}

/// The API's JSON of one span with these attributes, service and scope.
pub(crate) fn json_of(span: v1::Span, origin: v1::Origin) -> Json {
    let batch = read_spans(vec![span], origin);
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.len(), 1, "the span is good");
    view.to_json(0)
}

/// An OTLP export body as a batch, the plain way: decoded, converted field by field.
pub(crate) fn otlp_to_batch(body: &[u8]) -> v1::SpanBatch {
    let request = ExportTraceServiceRequest::decode(body).expect("an OTLP body");
    let mut batch = v1::SpanBatch::default();
    for resource_spans in request.resource_spans {
        let resource = resource_spans.resource.as_ref().map(recode::<_, v1::Resource>);
        let service = resource
            .iter()
            .flat_map(|resource| &resource.attributes)
            .find(|attribute| attribute.key == "service.name")
            .and_then(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
                Value::StringValue(name) => Some(name.clone()),
                _ => None,
            })
            .unwrap_or_else(|| "unknown_service".to_owned());
        for scope_spans in resource_spans.scope_spans {
            let origin = batch.origins.len() as u32;
            batch.origins.push(v1::Origin {
                resource: resource.clone(),
                scope: scope_spans.scope.as_ref().map(recode::<_, v1::Scope>),
                resource_schema_url: resource_spans.schema_url.clone(),
                scope_schema_url: scope_spans.schema_url.clone(),
            });
            for span in scope_spans.spans {
                batch.spans.push(v1::Span {
                    service_name: service.clone(),
                    operation_name: span.name,
                    start_time_unix_nano: span.start_time_unix_nano as i64,
                    duration_nanos: (span.end_time_unix_nano - span.start_time_unix_nano) as i64,
                    attributes: span.attributes.iter().map(recode).collect(),
                    events: span.events.iter().map(recode).collect(),
                    links: span.links.iter().map(recode).collect(),
                    status: span.status.as_ref().map(recode),
                    trace_id: span.trace_id,
                    span_id: span.span_id,
                    parent_span_id: span.parent_span_id,
                    kind: span.kind,
                    flags: span.flags,
                    trace_state: span.trace_state,
                    dropped_attributes_count: span.dropped_attributes_count,
                    dropped_events_count: span.dropped_events_count,
                    dropped_links_count: span.dropped_links_count,
                    origin,
                    ..v1::Span::default()
                });
            }
        }
    }
    batch
}

/// The same message under our name: both have one encoding.
fn recode<F: Message, T: Message + Default>(from: &F) -> T {
    T::decode(from.encode_to_vec().as_slice()).expect("one encoding")
}

/// Plain rendering of a value as OTLP/JSON.
pub(crate) fn otlp_value(value: Option<&v1::AnyValue>) -> Json {
    match value.and_then(|value| value.value.as_ref()) {
        None => json!({}),
        Some(Value::StringValue(text)) => json!({ "stringValue": text }),
        Some(Value::BoolValue(flag)) => json!({ "boolValue": flag }),
        Some(Value::IntValue(number)) => json!({ "intValue": number.to_string() }),
        Some(Value::DoubleValue(number)) => json!({ "doubleValue": double(*number) }),
        Some(Value::BytesValue(bytes)) => json!({ "bytesValue": BASE64.encode(bytes) }),
        Some(Value::ArrayValue(array)) => {
            let values: Vec<Json> = array.values.iter().map(|value| otlp_value(Some(value))).collect();
            json!({ "arrayValue": { "values": values } })
        }
        Some(Value::KvlistValue(list)) => {
            json!({ "kvlistValue": { "values": otlp_attributes(&list.values) } })
        }
    }
}

fn double(number: f64) -> Json {
    if number.is_finite() {
        json!(number)
    } else if number.is_nan() {
        json!("NaN")
    } else if number > 0.0 {
        json!("Infinity")
    } else {
        json!("-Infinity")
    }
}

/// Plain rendering of attributes as OTLP/JSON.
pub(crate) fn otlp_attributes(attributes: &[v1::KeyValue]) -> Json {
    attributes
        .iter()
        .map(|attribute| json!({ "key": attribute.key, "value": otlp_value(attribute.value.as_ref()) }))
        .collect()
}

/// Plain rendering of a value as the API's JSON.
pub(crate) fn plain_value(value: Option<&v1::AnyValue>) -> Json {
    match value.and_then(|value| value.value.as_ref()) {
        None => Json::Null,
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(flag)) => json!(flag),
        Some(Value::IntValue(number)) => json!(number.to_string()),
        Some(Value::DoubleValue(number)) => double(*number),
        Some(Value::BytesValue(bytes)) => json!(BASE64.encode(bytes)),
        Some(Value::ArrayValue(array)) => array.values.iter().map(|value| plain_value(Some(value))).collect(),
        Some(Value::KvlistValue(list)) => plain_attributes(&list.values),
    }
}

/// Plain rendering of attributes as the API's JSON.
pub(crate) fn plain_attributes(attributes: &[v1::KeyValue]) -> Json {
    let pairs =
        attributes.iter().map(|attribute| (attribute.key.clone(), plain_value(attribute.value.as_ref())));
    Json::Object(pairs.collect())
}
