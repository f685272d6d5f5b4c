//! Stamped bodies against prost's reading of them.

use infertrace_proto::v1;
use prost::Message;

use super::*;
use crate::content::request_id_of;

const RUN: u32 = 77;

fn check(spans: &[v1::Span], template: &Template, sequence: u64, partitions: u32, base: i64) {
    assert_eq!(spans.len(), template.spans.len());
    for span in spans {
        let origin = ids::span_origin(&span.span_id).expect("8 bytes");
        assert_eq!(origin.sequence, sequence);
        let spec = &template.spans[usize::from(origin.index)];
        assert_eq!(span.trace_id, expected_trace_id(RUN, sequence, spec.trace, partitions));
        let parent = spec.parent.map(|parent| ids::span_id(sequence, parent).to_vec());
        assert_eq!(span.parent_span_id, parent.unwrap_or_default());
        assert_eq!(span.start_time_unix_nano, base + spec.start_offset_ns);
        assert_eq!((span.service_name.as_str(), span.duration_nanos), (spec.service, spec.duration_ns));
        assert_eq!(span.attributes.len(), spec.attributes.len());
        let request = span.attributes.iter().find(|pair| pair.key == REQUEST_ID);
        let text = |pair: &v1::KeyValue| format!("{:?}", pair.value);
        let trace_id = span.trace_id.as_slice().try_into().expect("16 bytes");
        assert_eq!(request.is_some(), spec.operation == "llm_request");
        assert!(request.is_none_or(|pair| text(pair).contains(&request_id_of(trace_id))));
    }
}

/// Scenario: the same body stamped twice with other numbers. Guarantee: prost reads the second request's ids,
/// times and content, and spans are about 600 bytes.
#[test]
fn a_native_body_is_stamped_in_place() {
    let template = Template::generate(1, 0, 100);
    let mut body = Body::new(template.clone(), Protocol::Native, "t", 0, 0);
    let first = body.stamp(RUN, 1, BASE);
    assert!(body.reclaim(first), "nobody else holds the bytes");
    let bytes = body.stamp(RUN, 2, BASE + 5_000_000_000);
    assert!((550..680).contains(&(bytes.len() / 100)), "{} B a span", bytes.len() / 100);
    let batch = v1::ExportRequest::decode(bytes).expect("a request").batch.expect("a batch");
    assert_eq!((batch.tenant.as_str(), batch.origins.len(), batch.batch_id.len()), ("t", 4, 16));
    check(&batch.spans, &template, 2, 0, BASE + 5_000_000_000);
}

/// Scenario: frames for 8 partitions, as they are and compressed. Guarantee: checksums hold, every trace lies in
/// its frame's partition, all spans are there.
#[test]
fn frames_keep_their_partitions() {
    use infertrace_sdk::Compression::{Lz4, None, Zstd};
    let template = Template::generate(1, 3, 300);
    for codec in [None, Lz4, Zstd] {
        let mut body = Body::new(template.clone(), Protocol::Frames, "", 8, 4);
        let mut bytes = body.stamp(RUN, 9, BASE);
        if codec != None {
            bytes = body.compress(&bytes, codec).expect("compress");
        }
        let request = v1::ExportRequest::decode(bytes).expect("a request");
        assert_eq!((request.partition_map_version, request.frames.len()), (4, 8));
        let mut spans = Vec::new();
        for frame in &request.frames {
            assert_eq!(frame.crc32c, crc32c::crc32c(&frame.body));
            let size = frame.uncompressed_size as usize;
            let plain = match codec {
                Lz4 => lz4_flex::block::decompress(&frame.body, size).expect("lz4"),
                Zstd => zstd::bulk::decompress(&frame.body, size).expect("zstd"),
                _ => frame.body.to_vec(),
            };
            let share = v1::SpanBatch::decode(plain.as_slice()).expect("a batch");
            assert_eq!(share.spans.len() as u32, frame.span_count);
            for span in &share.spans {
                let id = span.trace_id.as_slice().try_into().expect("16 bytes");
                assert_eq!(infertrace_schemas::partition::partition_of(id, 8), frame.partition);
            }
            spans.extend(share.spans);
        }
        check(&spans, &template, 9, 8, BASE);
    }
}

/// Scenario: an OTLP body. Guarantee: opentelemetry's own messages read the stamped ids, times and services.
#[test]
fn an_otlp_body_is_what_opentelemetry_reads() {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    let template = Template::generate(1, 0, 50);
    let mut body = Body::new(template.clone(), Protocol::Otlp, "", 0, 0);
    let request = ExportTraceServiceRequest::decode(body.stamp(RUN, 5, BASE)).expect("OTLP");
    let mut seen = 0;
    for group in &request.resource_spans {
        assert_eq!(group.resource.as_ref().map(|r| r.attributes.len()), Some(2));
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let origin = ids::span_origin(&span.span_id).expect("8 bytes");
            let spec = &template.spans[usize::from(origin.index)];
            assert_eq!(span.trace_id, ids::trace_id(RUN, 5, spec.trace, 0));
            assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, spec.duration_ns as u64);
            assert_eq!(span.name, spec.operation);
            seen += 1;
        }
    }
    assert_eq!(seen, 50);
}
