//! The parsers against plain prost, on random input.

use infertrace_gateway::{
    FrameCheck, Limits,
    fuzz::{self, Parsed, Parser},
};
use infertrace_proto::v1;
use infertrace_schemas::partition::partition_of;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{InstrumentationScope, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use proptest::prelude::*;
use prost::Message;

use crate::{harness::NOW, json_text, random_otlp::Random};

const PARTITIONS: u32 = 3;

fn parser(max_record_bytes: usize) -> Parser {
    Parser::new(NOW, PARTITIONS, Limits::default(), max_record_bytes)
}

/// Our message read as OTLP's of the same encoding.
fn same_bytes<M: Message + Default>(message: &impl Message) -> M {
    M::decode(&*message.encode_to_vec()).expect("the encodings are one")
}

/// One span with everything that belongs to it, as OTLP has it.
#[derive(Clone, Debug, PartialEq)]
struct Whole {
    resource: Option<Resource>,
    resource_url: String,
    scope: Option<InstrumentationScope>,
    scope_url: String,
    service: String,
    span: Span,
}

fn expected(request: &ExportTraceServiceRequest) -> Vec<Whole> {
    let mut all = Vec::new();
    for ResourceSpans { resource, scope_spans, schema_url: resource_url } in &request.resource_spans {
        let service = resource
            .iter()
            .flat_map(|resource| &resource.attributes)
            .filter(|attribute| attribute.key == "service.name")
            .find_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
                Value::StringValue(name) if !name.is_empty() => Some(name.clone()),
                _ => None,
            })
            .unwrap_or_else(|| "unknown_service".into());
        for ScopeSpans { scope, spans, schema_url: scope_url } in scope_spans {
            all.extend(spans.iter().map(|span| Whole {
                resource: resource.clone(),
                resource_url: resource_url.clone(),
                scope: scope.clone(),
                scope_url: scope_url.clone(),
                service: service.clone(),
                span: span.clone(),
            }));
        }
    }
    all.sort_by(|left, right| left.span.trace_id.cmp(&right.span.trace_id));
    all
}

fn found(parsed: &Parsed) -> Vec<Whole> {
    let mut all = Vec::new();
    for (partition, payload) in &parsed.records {
        let batch = v1::SpanBatch::decode(&**payload).expect("a SpanBatch");
        for span in &batch.spans {
            let trace_id: [u8; 16] = span.trace_id.clone().try_into().expect("16 bytes");
            assert_eq!(*partition, partition_of(&trace_id, PARTITIONS));
            let origin = &batch.origins[span.origin as usize];
            let start = span.start_time_unix_nano as u64;
            all.push(Whole {
                resource: origin.resource.as_ref().map(same_bytes),
                resource_url: origin.resource_schema_url.clone(),
                scope: origin.scope.as_ref().map(same_bytes),
                scope_url: origin.scope_schema_url.clone(),
                service: span.service_name.clone(),
                span: Span {
                    trace_id: span.trace_id.clone(),
                    span_id: span.span_id.clone(),
                    trace_state: span.trace_state.clone(),
                    parent_span_id: span.parent_span_id.clone(),
                    flags: span.flags,
                    name: span.operation_name.clone(),
                    kind: span.kind,
                    start_time_unix_nano: start,
                    end_time_unix_nano: start + span.duration_nanos as u64,
                    attributes: span.attributes.iter().map(same_bytes).collect(),
                    dropped_attributes_count: span.dropped_attributes_count,
                    events: span.events.iter().map(same_bytes).collect(),
                    dropped_events_count: span.dropped_events_count,
                    links: span.links.iter().map(same_bytes).collect(),
                    dropped_links_count: span.dropped_links_count,
                    status: span.status.as_ref().map(same_bytes),
                },
            });
        }
    }
    all.sort_by(|left, right| left.span.trace_id.cmp(&right.span.trace_id));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Scenario: random OTLP requests, records large and small. Guarantee: what a plain decoder reads from the records is
    /// what was sent, span by span, with resource, scope and URLs; nothing else; records are canonical protobuf and fit.
    #[test]
    fn otlp_is_transcoded_without_loss(seed: u64, small: bool) {
        let request = Random::new(seed).request();
        let limit = if small { 40_000 } else { 900_000 };
        let parsed: Parsed = parser(limit).otlp(&request.encode_to_vec()).expect("valid");
        prop_assert_eq!(&parsed.rejected, &vec![]);
        prop_assert!(found(&parsed) == expected(&request), "what came out is not what went in");
        for (_, payload) in &parsed.records {
            prop_assert!(payload.len() <= limit);
            let reencoded = v1::SpanBatch::decode(&**payload).expect("a SpanBatch").encode_to_vec();
            prop_assert_eq!(reencoded.len(), payload.len());
        }
    }

    /// Scenario: the same request as JSON and as protobuf. Guarantee: equal records, ids included, except for the order of
    /// fields that JSON does not keep: what a decoder reads is equal.
    #[test]
    fn json_and_protobuf_agree(seed: u64) {
        let request = Random::new(seed).request();
        let parser = parser(900_000);
        let protobuf = parser.json_traces(json_text::traces(&request).as_bytes()).expect("valid JSON");
        let parsed: Parsed = parser.otlp(&protobuf).expect("valid");
        prop_assert_eq!(&parsed.rejected, &vec![]);
        prop_assert!(found(&parsed) == expected(&request), "what came out is not what went in");
    }

    /// Scenario: random spans as a native batch. Guarantee: each span's bytes are in its partition's record, unchanged.
    #[test]
    fn native_spans_stay_as_they_are(seed: u64, small: bool) {
        let request = Random::new(seed).request();
        let parser = parser(if small { 40_000 } else { 900_000 });
        let otlp: Parsed = parser.otlp(&request.encode_to_vec()).expect("valid");
        let mut sent: Vec<v1::Span> = otlp
            .records
            .iter()
            .flat_map(|(_, payload)| v1::SpanBatch::decode(&**payload).expect("a SpanBatch").spans)
            .map(|span| v1::Span { origin: 0, ..span })
            .collect();
        let batch = v1::SpanBatch { spans: sent.clone(), batch_id: b"client".to_vec(), ..v1::SpanBatch::default() };
        let parsed: Parsed = parser.native(&batch.encode_to_vec(), "tenant").expect("valid");
        prop_assert_eq!(&parsed.rejected, &vec![]);
        let mut stored = Vec::new();
        for (_, payload) in &parsed.records {
            let batch = v1::SpanBatch::decode(&**payload).expect("a SpanBatch");
            prop_assert_eq!(&batch.tenant, "tenant");
            stored.extend(batch.spans);
        }
        sent.sort_by(|left, right| left.trace_id.cmp(&right.trace_id));
        stored.sort_by(|left, right| left.trace_id.cmp(&right.trace_id));
        prop_assert!(stored == sent, "a span changed");
    }

    /// Scenario: a valid request with bytes changed, removed and inserted. Guarantee: no parser panics, and every record
    /// that comes out still decodes.
    #[test]
    fn damaged_requests_are_survived(seed: u64, edits in proptest::collection::vec((any::<u16>(), any::<u8>(), 0u8..3), 1..8)) {
        let request = Random::new(seed).request();
        let json = json_text::traces(&request).into_bytes();
        for mut bytes in [request.encode_to_vec(), json] {
            for &(position, byte, kind) in &edits {
                let position = usize::from(position) % (bytes.len() + 1);
                match kind {
                    0 => bytes.insert(position, byte),
                    1 if position < bytes.len() => { bytes.remove(position); }
                    _ => if let Some(target) = bytes.get_mut(position) { *target = byte },
                }
            }
            fuzz::fuzz_all(&bytes);
            if let Ok(parsed) = parser(900_000).otlp::<Parsed>(&bytes) {
                for (_, payload) in &parsed.records {
                    v1::SpanBatch::decode(&**payload).expect("what was accepted can be read");
                }
            }
            if let Ok(parsed) = parser(900_000).native::<Parsed>(&bytes, "") {
                for (_, payload) in &parsed.records {
                    v1::SpanBatch::decode(&**payload).expect("what was accepted can be read");
                }
            }
        }
    }

    /// Scenario: any bytes. Guarantee: no parser panics.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz::fuzz_all(&bytes);
    }

    /// Scenario: text that looks like JSON. Guarantee: no parser panics.
    #[test]
    fn any_json_is_survived(text in r#"(\{|\}|\[|\]|,|:|"(resourceSpans|scopeSpans|spans|traceId|attributes|key|value|arrayValue|values|x)"|null|true|-?[0-9]{1,20}(\.[0-9])?){0,40}"#) {
        fuzz::fuzz_all(text.as_bytes());
    }
}

/// Scenario: frames cut and damaged at every byte. Guarantee: no panic in either mode.
#[test]
fn damaged_frames_are_survived() {
    let batch =
        v1::SpanBatch { spans: vec![crate::harness::native_span(1, "x")], ..v1::SpanBatch::default() };
    let body = batch.encode_to_vec();
    let frame = v1::Frame {
        codec: v1::Codec::None as i32,
        crc32c: crc32c::crc32c(&body),
        span_count: 1,
        uncompressed_size: body.len() as u64,
        body: body.into(),
        ..v1::Frame::default()
    };
    let request = v1::ExportRequest { frames: vec![frame], ..v1::ExportRequest::default() }.encode_to_vec();
    for position in 0..request.len() {
        let mut damaged = request.clone();
        damaged[position] ^= 0xff;
        for check in [FrameCheck::Frame, FrameCheck::Full] {
            drop(parser(900_000).frames::<Parsed>(&damaged, check));
            drop(parser(900_000).frames::<Parsed>(&request[..position], check));
        }
    }
}
