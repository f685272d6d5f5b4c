//! Random spans through the reader, compared with what a plain prost decoder makes of the same bytes.

use arrow::array::{Array, AsArray};
use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    frame::{self, Codec},
    reader::{Position, SpanReader},
    record::{encode_packed, encode_share},
    view::{AttributeValue, SpanView, kind_name, to_otlp_json},
};
use proptest::{collection::vec, prelude::*};
use prost::Message;
use serde_json::{Value as Json, json};

use crate::generate::{origin, span};
use crate::support::{check_arrays, otlp_attributes, otlp_value, plain_attributes, read_records};

/// `object` without empty, zero and absent members, as OTLP/JSON writers leave them out.
fn sparse(object: Json) -> Json {
    let Json::Object(object) = object else { return object };
    let keep =
        |value: &Json| *value != json!("") && *value != json!(0) && *value != json!([]) && !value.is_null();
    Json::Object(object.into_iter().filter(|(_, value)| keep(value)).collect())
}

/// A span as OTLP/JSON, the plain way; attributes in the order of the columns' types.
fn otlp_span(span: &v1::Span) -> Json {
    let mut tags: Vec<(&String, &String)> = span.tags.iter().collect();
    tags.sort();
    let mut attributes: Vec<v1::KeyValue> = span.attributes.clone();
    attributes.extend(tags.into_iter().map(|(key, value)| crate::support::text(key, value)));
    let events: Vec<Json> = span
        .events
        .iter()
        .map(|event| {
            sparse(json!({
                "timeUnixNano": event.time_unix_nano.to_string(),
                "name": event.name,
                "attributes": otlp_attributes(&event.attributes),
                "droppedAttributesCount": event.dropped_attributes_count,
            }))
        })
        .collect();
    let links: Vec<Json> = span
        .links
        .iter()
        .map(|link| {
            let mut rendered = sparse(json!({
                "traceState": link.trace_state,
                "attributes": otlp_attributes(&link.attributes),
                "droppedAttributesCount": link.dropped_attributes_count,
                "flags": link.flags,
            }));
            rendered["traceId"] = json!(hex::encode(&link.trace_id));
            rendered["spanId"] = json!(hex::encode(&link.span_id));
            rendered
        })
        .collect();
    let status = span.status.clone().unwrap_or_default();
    let mut rendered = sparse(json!({
        "traceId": hex::encode(&span.trace_id),
        "spanId": hex::encode(&span.span_id),
        "parentSpanId": hex::encode(&span.parent_span_id),
        "traceState": span.trace_state,
        "flags": span.flags,
        "name": span.operation_name,
        "kind": span.kind,
        "startTimeUnixNano": span.start_time_unix_nano.to_string(),
        "endTimeUnixNano": (span.start_time_unix_nano + span.duration_nanos).to_string(),
        "attributes": otlp_attributes(&attributes),
        "droppedAttributesCount": span.dropped_attributes_count,
        "events": events,
        "droppedEventsCount": span.dropped_events_count,
        "links": links,
        "droppedLinksCount": span.dropped_links_count,
    }));
    rendered["status"] = sparse(json!({ "message": status.message, "code": status.code }));
    rendered
}

/// Parses rendered text, and sorts the attributes of each span, whose order OTLP does not define.
fn canonical(text: &str) -> Json {
    fn sort(value: &mut Json) {
        match value {
            Json::Object(object) => {
                for (key, value) in object.iter_mut() {
                    sort(value);
                    if key == "attributes"
                        && let Json::Array(attributes) = value
                    {
                        attributes.sort_by_key(Json::to_string);
                    }
                }
            }
            Json::Array(values) => values.iter_mut().for_each(sort),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text).expect("JSON");
    sort(&mut value);
    value
}

fn otlp_origin(origin: &v1::Origin) -> (Json, Json) {
    let resource = origin.resource.clone().unwrap_or_default();
    let scope = origin.scope.clone().unwrap_or_default();
    (
        sparse(json!({
            "attributes": otlp_attributes(&resource.attributes),
            "droppedAttributesCount": resource.dropped_attributes_count,
        })),
        sparse(json!({
            "name": scope.name,
            "version": scope.version,
            "attributes": otlp_attributes(&scope.attributes),
            "droppedAttributesCount": scope.dropped_attributes_count,
        })),
    )
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What was said explicitly must stand; what was not may have been derived.
fn check_said<T: PartialEq + std::fmt::Debug>(
    said: Option<T>,
    found: Option<T>,
) -> Result<(), TestCaseError> {
    if said.is_some() {
        prop_assert_eq!(said, found);
    }
    Ok(())
}

fn check_columns(span: &v1::Span, view: &SpanView<'_>, row: usize) -> Result<(), TestCaseError> {
    let inference = span.inference.clone().unwrap_or_default();
    prop_assert_eq!(view.model_name(row), given(&inference.model_name));
    prop_assert_eq!(view.model_version(row), given(&inference.model_version));
    check_said(given(&inference.framework), view.framework(row))?;
    prop_assert_eq!(view.provider(row), given(&inference.provider));
    prop_assert_eq!(view.request_id(row), given(&inference.request_id));
    prop_assert_eq!(view.session_id(row), given(&inference.session_id));
    prop_assert_eq!(view.finish_reason(row), given(&inference.finish_reason));
    prop_assert_eq!(view.input_tokens(row), inference.input_tokens);
    prop_assert_eq!(view.output_tokens(row), inference.output_tokens);
    prop_assert_eq!(view.cached_tokens(row), inference.cached_tokens);
    prop_assert_eq!(view.reasoning_tokens(row), inference.reasoning_tokens);
    prop_assert_eq!(view.max_batch_size(row), inference.max_batch_size);
    prop_assert_eq!(view.streaming(row), inference.streaming);
    check_said(inference.sequence_length, view.sequence_length(row))?;
    check_said(inference.batch_size, view.batch_size(row))?;
    check_said(inference.ttft_nanos, view.ttft_ns(row))?;
    check_said(inference.tpot_nanos, view.tpot_ns(row))?;
    check_said(inference.itl_p50_nanos, view.itl_p50_ns(row))?;
    check_said(inference.itl_p99_nanos, view.itl_p99_ns(row))?;
    check_said(inference.itl_max_nanos, view.itl_max_ns(row))?;

    let resources = span.resources.clone().unwrap_or_default();
    let gpu = resources.gpu.unwrap_or_default();
    prop_assert_eq!(view.gpu_device_id(row), given(&gpu.device_id));
    prop_assert_eq!(view.gpu_index(row), gpu.index);
    prop_assert_eq!(view.gpu_name(row), given(&gpu.name));
    prop_assert_eq!(view.gpu_instance_type(row), given(&gpu.instance_type));
    prop_assert_eq!(view.gpu_utilization_percent(row), gpu.utilization_percent);
    prop_assert_eq!(view.gpu_memory_used_bytes(row), gpu.memory_used_bytes);
    prop_assert_eq!(view.gpu_memory_total_bytes(row), gpu.memory_total_bytes);
    prop_assert_eq!(view.gpu_power_watts(row), gpu.power_watts);
    prop_assert_eq!(view.gpu_temperature_celsius(row), gpu.temperature_celsius);
    prop_assert_eq!(view.gpu_sm_clock_mhz(row), gpu.sm_clock_mhz);
    prop_assert_eq!(view.gpu_memory_clock_mhz(row), gpu.memory_clock_mhz);
    prop_assert_eq!(view.gpu_throttle_reasons(row), gpu.throttle_reasons);
    prop_assert_eq!(view.gpu_mig_profile(row), given(&gpu.mig_profile));
    prop_assert_eq!(view.cpu_cores_used(row), resources.cpu.unwrap_or_default().cores_used);
    let memory = resources.memory.unwrap_or_default();
    prop_assert_eq!(view.memory_heap_bytes(row), memory.heap_bytes);
    prop_assert_eq!(view.memory_rss_bytes(row), memory.rss_bytes);

    let pipeline = span.pipeline.clone().unwrap_or_default();
    check_said(given(&pipeline.stage), view.stage(row))?;
    prop_assert_eq!(view.queue_depth(row), pipeline.queue_depth);
    prop_assert_eq!(view.queue_wait_ms(row), pipeline.queue_wait_time_ms);
    prop_assert_eq!(view.kv_cache_usage_ratio(row), pipeline.kv_cache_usage_ratio);
    prop_assert_eq!(view.preemptions(row), pipeline.preemptions);
    check_said(pipeline.batch_fill_ratio, view.batch_fill_ratio(row))?;
    check_said(pipeline.cache_hit, view.cache_hit(row))?;
    check_said(pipeline.cache_hit_ratio, view.cache_hit_ratio(row))
}

fn check_tokens(span: &v1::Span, view: &SpanView<'_>, row: usize) -> Result<(), TestCaseError> {
    let Some(timeline) = &span.tokens else {
        prop_assert_eq!(view.tokens(row), None);
        return Ok(());
    };
    let tokens = view.tokens(row).expect("a timeline was sent");
    prop_assert_eq!(tokens.ids, &timeline.ids);
    prop_assert_eq!(tokens.attention_micros, &timeline.attention_micros);
    prop_assert_eq!(tokens.ffn_micros, &timeline.ffn_micros);
    prop_assert_eq!(tokens.batch_sizes, &timeline.batch_sizes);
    prop_assert_eq!(&tokens.texts, &timeline.texts);
    let mut itl = timeline.generation_micros_delta.clone();
    for index in 2..itl.len() {
        itl[index] += itl[index - 1];
    }
    let found: Vec<i64> = tokens.itl_micros.iter().copied().map(i64::from).collect();
    prop_assert_eq!(&found, &itl);
    let mut gaps = itl.get(1..).unwrap_or_default().to_vec();
    gaps.sort_unstable();
    let said = span.inference.clone().unwrap_or_default();
    if let (Some(max), None) = (gaps.last(), said.itl_max_nanos) {
        prop_assert_eq!(view.itl_max_ns(row), Some(*max as u64 * 1_000));
    }
    if let (false, None) = (gaps.is_empty(), said.itl_p50_nanos) {
        prop_assert_eq!(view.itl_p50_ns(row), Some(gaps[(gaps.len() - 1) / 2] as u64 * 1_000));
    }
    Ok(())
}

/// A value's bytes, for comparisons that tell every NaN and zero from every other.
fn exact(value: AttributeValue<'_>) -> (String, Vec<u8>) {
    match value {
        AttributeValue::String(text) => ("string".to_owned(), text.as_bytes().to_vec()),
        AttributeValue::Int(number) => ("int".to_owned(), number.to_be_bytes().to_vec()),
        AttributeValue::Double(number) => ("double".to_owned(), number.to_bits().to_be_bytes().to_vec()),
        AttributeValue::Bool(flag) => ("bool".to_owned(), vec![u8::from(flag)]),
        AttributeValue::Other(bytes) => ("other".to_owned(), bytes.to_vec()),
    }
}

fn check_attributes(span: &v1::Span, view: &SpanView<'_>, row: usize) -> Result<(), TestCaseError> {
    let mut sent: Vec<(String, (String, Vec<u8>))> = span
        .attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.clone().unwrap_or_default();
            let bytes = value.encode_to_vec();
            let value = match &value.value {
                Some(Value::StringValue(text)) => AttributeValue::String(text),
                Some(Value::IntValue(number)) => AttributeValue::Int(*number),
                Some(Value::DoubleValue(number)) => AttributeValue::Double(*number),
                Some(Value::BoolValue(flag)) => AttributeValue::Bool(*flag),
                _ => AttributeValue::Other(&bytes),
            };
            (attribute.key.clone(), exact(value))
        })
        .chain(span.tags.iter().map(|(key, value)| (key.clone(), exact(AttributeValue::String(value)))))
        .collect();
    let mut found: Vec<_> = view.attributes(row).map(|(key, value)| (key.to_owned(), exact(value))).collect();
    sent.sort();
    found.sort();
    prop_assert_eq!(sent, found);
    Ok(())
}

fn check_json(
    span: &v1::Span,
    origin: &v1::Origin,
    view: &SpanView<'_>,
    row: usize,
) -> Result<(), TestCaseError> {
    let json = view.to_json(row);
    prop_assert_eq!(&json["trace_id"], &json!(hex::encode(&span.trace_id)));
    prop_assert_eq!(&json["parent_span_id"], &json!(hex::encode(&span.parent_span_id)));
    prop_assert_eq!(&json["service"], &json!(span.service_name));
    prop_assert_eq!(&json["kind"], &json!(kind_name(span.kind as u8)));
    prop_assert_eq!(&json["duration_nano"], &json!(span.duration_nanos.to_string()));
    let mut attributes = plain_attributes(&span.attributes);
    for (key, value) in &span.tags {
        attributes[key] = json!(value);
    }
    prop_assert_eq!(&json["attributes"], &attributes);
    for attribute in &span.attributes {
        let kind = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::IntValue(_)) => json!("int"),
            Some(Value::BytesValue(_)) => json!("bytes"),
            Some(Value::DoubleValue(number)) if !number.is_finite() => json!("double"),
            Some(Value::ArrayValue(_)) => continue,
            _ => Json::Null,
        };
        prop_assert_eq!(&json["attribute_types"][&attribute.key], &kind);
    }
    for (event, sent) in json["events"].as_array().expect("an array").iter().zip(&span.events) {
        prop_assert_eq!(&event["time_unix_nano"], &json!(sent.time_unix_nano.to_string()));
        prop_assert_eq!(&event["attributes"], &plain_attributes(&sent.attributes));
    }
    for (link, sent) in json["links"].as_array().expect("an array").iter().zip(&span.links) {
        prop_assert_eq!(&link["span_id"], &json!(hex::encode(&sent.span_id)));
        prop_assert_eq!(&link["attributes"], &plain_attributes(&sent.attributes));
    }
    let resource = origin.resource.clone().unwrap_or_default();
    prop_assert_eq!(&json["resource"]["attributes"], &plain_attributes(&resource.attributes));
    let scope = origin.scope.clone().unwrap_or_default();
    prop_assert_eq!(&json["scope"]["attributes"], &plain_attributes(&scope.attributes));
    Ok(())
}

fn check_otlp(
    span: &v1::Span,
    origin: &v1::Origin,
    view: &SpanView<'_>,
    row: usize,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(canonical(&view.to_otlp_json(row)), canonical(&otlp_span(span).to_string()));
    let (resource, scope) = otlp_origin(origin);
    let document = json!({ "resourceSpans": [sparse(json!({
        "resource": resource,
        "schemaUrl": origin.resource_schema_url,
        "scopeSpans": [sparse(json!({
            "scope": scope,
            "schemaUrl": origin.scope_schema_url,
            "spans": [otlp_span(span)],
        }))],
    }))] });
    prop_assert_eq!(canonical(&to_otlp_json([(view, row)])), canonical(&document.to_string()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Scenario: random spans with every field, every attribute type and nesting, in one record and in two.
    /// Guarantee: columns, attributes with their types, the API's JSON and OTLP/JSON say what a plain prost
    /// decoder says, and every array is valid.
    #[test]
    fn the_reader_agrees_with_a_plain_decoder(spans in vec(span(), 1..6), origins in vec(origin(), 0..3), tenant in "[a-z]{0,4}") {
        let batch = v1::SpanBatch { spans: spans.clone(), origins: origins.clone(), tenant: tenant.clone(), ..v1::SpanBatch::default() };
        let records = vec![batch.encode_to_vec(), batch.encode_to_vec()];
        let decoded = v1::SpanBatch::decode(records[0].as_slice()).expect("own encoding");
        let columns = read_records(&records);
        let view = SpanView::new(&columns).expect("span schema");
        prop_assert_eq!(view.len(), 2 * spans.len());
        for (row, span) in decoded.spans.iter().chain(&decoded.spans).enumerate() {
            let origin = decoded.origins.get(span.origin as usize).cloned().unwrap_or_default();
            prop_assert_eq!(view.trace_id(row).as_slice(), span.trace_id.as_slice());
            prop_assert_eq!(view.span_id(row).as_slice(), span.span_id.as_slice());
            prop_assert_eq!(view.parent_span_id(row).map_or(&[][..], |id| id.as_slice()), span.parent_span_id.as_slice());
            prop_assert_eq!(view.start_ns(row), span.start_time_unix_nano);
            prop_assert_eq!(view.operation(row), &span.operation_name);
            prop_assert_eq!(view.tenant(row), &tenant);
            prop_assert_eq!((view.partition(row), view.offset(row)), (3, (row / spans.len()) as i64));
            check_columns(span, &view, row)?;
            check_tokens(span, &view, row)?;
            check_attributes(span, &view, row)?;
            check_json(span, &origin, &view, row)?;
            check_otlp(span, &origin, &view, row)?;
        }
    }

    /// Scenario: one batch plain and as a frame under each codec, and a reader used twice. Guarantee: the same
    /// columns each time.
    #[test]
    fn frames_and_reuse_change_nothing(spans in vec(span(), 0..5), origins in vec(origin(), 0..3)) {
        let body = v1::SpanBatch { spans: spans.clone(), origins: origins.clone(), ..v1::SpanBatch::default() }.encode_to_vec();
        let encoded: Vec<Vec<u8>> = spans.iter().map(Message::encode_to_vec).collect();
        let origins: Vec<Vec<u8>> = origins.iter().map(Message::encode_to_vec).collect();
        let origins: Vec<&[u8]> = origins.iter().map(Vec::as_slice).collect();
        let plain = encode_share("t", b"", encoded.iter().map(Vec::as_slice), &origins);
        let mut reader = SpanReader::new();
        let mut read = |record: &[u8]| {
            let pushed = reader.push(record, Position::default()).expect("own record");
            assert_eq!((pushed.spans, pushed.rejected), (spans.len(), 0));
            let batch = reader.finish();
            check_arrays(&batch);
            batch
        };
        let expected = read(&plain);
        prop_assert_eq!(&read(&plain), &expected);
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy] {
            let packed = encode_packed("t", b"", codec, spans.len() as u32, body.len() as u64, &frame::compress(codec, &body));
            prop_assert_eq!(&read(&packed), &expected);
        }
    }

    /// Scenario: random spans, some of them spoilt, through a whole reader and through one that keeps the attributes of
    /// two keys. Guarantee: the same spans are skipped for the same reasons; events and links are empty, the maps hold
    /// those two keys, and every other column is the same.
    #[test]
    fn a_projection_checks_and_maps_everything(mut spans in vec(span(), 1..5), origins in vec(origin(), 0..3), change in any::<(prop::sample::Index, u8)>()) {
        const KEPT: &[&str] = &["kept", "gen_ai.response.id"];
        for key in ["kept", "gen_ai.response.id", "gen_ai.request.model", "left out"] {
            let value = v1::AnyValue { value: Some(Value::StringValue(key.to_owned())) };
            spans[0].attributes.push(v1::KeyValue { key: key.to_owned(), value: Some(value) });
        }
        let mut body = v1::SpanBatch { spans, origins, ..v1::SpanBatch::default() }.encode_to_vec();
        let (mut whole, mut projected) = (SpanReader::new(), SpanReader::new().keep_only(KEPT));
        for _ in 0..2 {
            let expected = whole.push(&body, Position::default());
            let pushed = projected.push(&body, Position::default());
            prop_assert_eq!(format!("{pushed:?}"), format!("{expected:?}"));
            let (all, some) = (whole.finish(), projected.finish());
            check_arrays(&some);
            let (all_view, view) = (SpanView::new(&all).expect("span schema"), SpanView::new(&some).expect("span schema"));
            for row in 0..all_view.len() {
                let kept = all_view.attributes(row).filter(|(key, _)| KEPT.contains(key));
                prop_assert!(view.attributes(row).eq(kept));
            }
            for (index, field) in all.schema().fields().iter().enumerate() {
                let name = field.name().as_str();
                if name == "events" || name == "links" {
                    prop_assert_eq!(some.column(index).as_list::<i32>().values().len(), 0);
                } else if !name.starts_with("attributes") {
                    prop_assert_eq!(some.column(index), all.column(index), "{}", name);
                }
            }
            let at = change.0.index(body.len());
            body[at] = change.1;
        }
    }

    /// Scenario: any bytes, and valid records with some bytes changed. Guarantee: no panic, every array valid,
    /// every row rendered.
    #[test]
    fn any_bytes_are_read_safely(noise in vec(any::<u8>(), 0..200), spans in vec(span(), 1..3), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut reader = SpanReader::new();
        let _ = reader.push(&noise, Position::default());
        let mut spoilt = v1::SpanBatch { spans, origins: vec![v1::Origin::default()], ..v1::SpanBatch::default() }.encode_to_vec();
        for (index, byte) in changes {
            let index = index.index(spoilt.len());
            spoilt[index] = byte;
        }
        let _ = reader.push(&spoilt, Position::default());
        let spoilt_span = encode_share("", b"", [noise.as_slice()], &[&noise]);
        let _ = reader.push(&spoilt_span, Position::default());
        let batch = reader.finish();
        check_arrays(&batch);
        let view = SpanView::new(&batch).expect("span schema");
        for row in 0..view.len() {
            let _ = view.to_json(row);
            let _: Json = serde_json::from_str(&view.to_otlp_json(row)).expect("JSON");
        }
    }
}

/// Scenario: an array, a list and an empty value as attributes. Guarantee: their bytes are kept, and render as
/// the plain decoder renders them.
#[test]
fn compound_values_keep_their_bytes() {
    let values = vec![
        v1::AnyValue { value: Some(Value::IntValue(i64::MIN)) },
        v1::AnyValue { value: Some(Value::IntValue(7)) },
    ];
    let array = v1::AnyValue { value: Some(Value::ArrayValue(v1::ArrayValue { values })) };
    let span = v1::Span {
        attributes: vec![
            v1::KeyValue { key: "array".to_owned(), value: Some(array.clone()) },
            v1::KeyValue { key: "nothing".to_owned(), value: None },
        ],
        ..crate::support::bare_span()
    };
    let batch = crate::support::read_spans(vec![span], v1::Origin::default());
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.attribute(0, "array"), Some(AttributeValue::Other(&array.encode_to_vec())));
    assert_eq!(view.attribute(0, "nothing"), Some(AttributeValue::Other(b"")));
    assert_eq!(view.attribute(0, "absent"), None);
    let json = view.to_json(0);
    assert_eq!(json["attributes"]["array"], json!(["-9223372036854775808", "7"]));
    assert_eq!(json["attribute_types"], json!({"array": "array<int>"}));
    assert_eq!(otlp_value(Some(&array))["arrayValue"]["values"][1], json!({"intValue": "7"}));
}
