//! Bad input: a clear status, the good spans kept, memory bounded.

use std::io::Write as _;

use http::Method;
use infertrace_proto::v1;
use infertrace_schemas::wire::put_bytes_field;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceResponse,
    common::v1::{AnyValue, ArrayValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;

use crate::{
    client::{self, NATIVE, TRACES, grpc, h1, h2},
    harness::{NOW, TestGateway, attribute, native_request, native_span, otlp_request, otlp_span, string},
};

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::IntValue(1), |value, _| {
        Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] })
    })
}

type Spoil = fn(&mut Span);

/// Scenario: one bad span of each kind between two good ones. Guarantee: it alone is rejected, counted by its reason, named
/// with its index in the answer; the good ones are durable.
#[tokio::test]
async fn one_bad_span_is_rejected_alone() {
    let cases: &[(&str, Spoil)] = &[
        ("bad_trace_id", |span| span.trace_id = vec![1; 15]),
        ("bad_trace_id", |span| span.trace_id = vec![1; 17]),
        ("bad_span_id", |span| span.span_id = vec![1; 16]),
        ("empty_id", |span| span.trace_id = vec![0; 16]),
        ("empty_id", |span| span.trace_id.clear()),
        ("empty_id", |span| span.span_id = vec![0; 8]),
        ("empty_id", |span| span.span_id.clear()),
        ("bad_parent_span_id", |span| span.parent_span_id = vec![1; 4]),
        ("negative_duration", |span| span.end_time_unix_nano = span.start_time_unix_nano - 1),
        ("negative_duration", |span| span.end_time_unix_nano = 0),
        ("clock_skew", |span| {
            span.start_time_unix_nano = 0;
            span.end_time_unix_nano = 1;
        }),
        ("clock_skew", |span| {
            span.start_time_unix_nano = u64::MAX;
            span.end_time_unix_nano = u64::MAX;
        }),
        ("clock_skew", |span| span.end_time_unix_nano = NOW as u64 * 2),
        ("too_large", |span| span.name = "x".repeat(800 << 10)),
        ("too_many_attributes", |span| span.attributes = vec![string("k", "v"); 5000]),
        ("too_deep", |span| span.attributes.push(attribute("deep", nested(40)))),
        ("too_deep", |span| {
            span.events.push(opentelemetry_proto::tonic::trace::v1::span::Event {
                attributes: vec![attribute("deep", nested(90))],
                ..Default::default()
            });
        }),
    ];
    let gateway = TestGateway::start().await;
    for (index, (reason, spoil)) in cases.iter().enumerate() {
        let mut bad = otlp_span(1, "bad");
        spoil(&mut bad);
        let request = otlp_request(vec![otlp_span(0, "good"), bad, otlp_span(2, "good")]);
        let reply = grpc(gateway.grpc, TRACES, &[], &request.encode_to_vec()).await;
        let partial = reply.decode::<ExportTraceServiceResponse>().partial_success.expect("a rejected span");
        assert_eq!(partial.rejected_spans, 1, "case {index}, {reason}");
        assert!(
            partial.error_message.contains(&format!("1 {reason} (first at index 1)")),
            "{}",
            partial.error_message
        );
        assert_eq!(gateway.names().len(), 2 * (index + 1), "case {index}, {reason}");
    }
    assert!(gateway.names().iter().all(|name| name == "good"));
    let metrics = gateway.metrics();
    let line = r#"infertrace_gateway_spans_rejected_total{protocol="otlp_grpc",reason="empty_id"} 4"#;
    assert!(metrics.contains(line), "{metrics}");
    gateway.stop().await;
}

/// A native span with `extra` raw bytes behind it.
fn native_with(extra: &[u8]) -> Vec<u8> {
    let mut span = native_span(1, "bad").encode_to_vec();
    span.extend_from_slice(extra);
    span
}

fn native_batch(spans: &[Vec<u8>]) -> Vec<u8> {
    let mut batch = Vec::new();
    for span in spans {
        put_bytes_field(&mut batch, 1, span);
    }
    let mut request = Vec::new();
    put_bytes_field(&mut request, 1, &batch);
    request
}

/// Scenario: native spans with broken fields: wrong wire types, cut fields, invalid UTF-8 everywhere a string may be.
/// Guarantee: rejected alone under the right name.
#[tokio::test]
async fn broken_native_spans_are_rejected_alone() {
    let bad_utf8 = b"\x0a\x02\xff\xfe";
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("malformed", vec![0x0a]),
        ("malformed", vec![0x0a, 0x50, 1]),
        ("malformed", vec![0x08, 1]),
        ("malformed", vec![0x35, 0, 0, 0, 0]),
        ("malformed", vec![0x8a, 0x00, 0x00]),
        ("malformed", vec![0x0b]),
        ("malformed", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("malformed", [&[0x5a, 4], &b"\x12\x02\x0a\x09"[..]].concat()),
        ("malformed", [&[0xba, 0x01, 3], &b"\x0a\x01\x80"[..]].concat()),
        ("bad_utf8", vec![0x2a, 2, 0xc3, 0x28]),
        ("bad_utf8", [&[0x52, 4], &bad_utf8[..]].concat()),
        ("bad_utf8", [&[0x5a, 4], &bad_utf8[..]].concat()),
        ("bad_utf8", [&[0x5a, 8], &b"\x0a\x00\x12\x04"[..], bad_utf8].concat()),
        ("bad_utf8", [&[0x42, 4], &bad_utf8[..]].concat()),
        ("bad_utf8", [&[0x62, 4], &b"\x12\x02\xff\xff"[..]].concat()),
        ("bad_utf8", [&[0x7a, 4], &b"\x12\x02\xff\xff"[..]].concat()),
        ("bad_utf8", [&[0x9a, 0x01, 1], &b"\xff"[..]].concat()),
        ("bad_origin", vec![0xa8, 0x01, 5]),
        ("negative_duration", [&[0x38][..], &[0xff; 9], &[0x01]].concat()),
        ("clock_skew", [&[0x30][..], &[0xff; 9], &[0x01]].concat()),
        ("bad_parent_span_id", vec![0x1a, 1, 1]),
    ];
    let gateway = TestGateway::start().await;
    for (index, (reason, extra)) in cases.iter().enumerate() {
        let good = native_span(2, "good").encode_to_vec();
        let reply = grpc(gateway.grpc, NATIVE, &[], &native_batch(&[native_with(extra), good])).await;
        let response: v1::ExportResponse = reply.decode();
        assert_eq!((response.accepted_spans, response.rejected_spans), (1, 1), "case {index}, {reason}");
        assert_eq!(
            (&*response.rejections[0].reason, response.rejections[0].first_index),
            (*reason, 0),
            "case {index}"
        );
    }
    assert_eq!(gateway.names().len(), cases.len());
    gateway.stop().await;
}

/// Scenario: things that look odd and are legal: NaN, infinities, all-zero parents, unknown fields, empty attributes.
/// Guarantee: accepted.
#[tokio::test]
async fn odd_but_legal_spans_are_accepted() {
    let gateway = TestGateway::start().await;
    let mut odd = otlp_span(1, "odd");
    odd.parent_span_id = vec![0; 8];
    odd.attributes = vec![
        attribute("nan", Value::DoubleValue(f64::NAN)),
        attribute("inf", Value::DoubleValue(f64::NEG_INFINITY)),
        Default::default(),
    ];
    let mut span = odd.encode_to_vec();
    // Unknown field 17 (another thing in our own schema) and 1000.
    span.extend_from_slice(&[0x8a, 0x01, 1, 0xff, 0xc2, 0x3e, 2, b'h', b'i']);
    let (mut scope, mut resource, mut request) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes_field(&mut scope, 2, &span);
    put_bytes_field(&mut resource, 2, &scope);
    put_bytes_field(&mut request, 1, &resource);
    let reply = grpc(gateway.grpc, TRACES, &[], &request).await;
    assert_eq!(reply.decode::<ExportTraceServiceResponse>().partial_success, None);
    let native = v1::Span { parent_span_id: vec![0; 8], ..native_span(3, "root") };
    let reply = grpc(gateway.grpc, NATIVE, &[], &native_request(vec![native]).encode_to_vec()).await;
    assert_eq!(reply.decode::<v1::ExportResponse>().accepted_spans, 1);
    let spans = gateway.spans();
    assert_eq!(gateway.names(), ["odd", "root"]);
    assert!(spans.iter().all(|(_, span)| span.parent_span_id.is_empty()));
    let odd = &spans.iter().find(|(_, span)| span.operation_name == "odd").expect("there").1;
    assert_eq!(
        (&*odd.service_name, odd.attributes.len(), odd.dropped_events_count),
        ("unknown_service", 3, 0)
    );
    gateway.stop().await;
}

fn gzip_bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&[0; 1 << 20]).expect("memory");
    }
    encoder.finish().expect("memory")
}

/// Scenario: requests that are wrong as a whole. Guarantee: the code says so, the message says why, none tells the sender
/// to repeat it, nothing is stored, the budget is whole again.
#[tokio::test]
async fn wrong_requests_are_refused_clearly() {
    let gateway = TestGateway::start().await;
    let good = otlp_request(vec![otlp_span(1, "x")]).encode_to_vec();
    let truncated = &good[..good.len() - 3];
    let zstd_bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).expect("memory");
    let cases: Vec<(&str, &str, Vec<(&str, &str)>, Vec<u8>, i32, &str)> = vec![
        ("cut", TRACES, vec![], truncated.to_vec(), 3, "malformed"),
        ("garbage", TRACES, vec![], vec![0xff; 100], 3, "malformed"),
        ("wrong type", TRACES, vec![], vec![0x08, 1], 3, "wrong wire type"),
        ("native cut", NATIVE, vec![], vec![0x0a, 9, 1], 3, "truncated"),
        ("both", NATIVE, vec![], vec![0x0a, 0, 0x12, 0], 3, "not both"),
        ("packed", NATIVE, vec![], vec![0x0a, 2, 0x2a, 0], 3, "packed"),
        ("gzip bomb", TRACES, vec![("grpc-encoding", "gzip")], gzip_bomb(), 3, "larger than"),
        ("zstd bomb", TRACES, vec![("grpc-encoding", "zstd")], zstd_bomb, 3, "larger than"),
        ("not gzip", TRACES, vec![("grpc-encoding", "gzip")], good.clone(), 3, "Gzip"),
        ("unknown coding", TRACES, vec![("grpc-encoding", "lzma")], good.clone(), 12, "lzma"),
        ("17 MiB", TRACES, vec![], vec![0; 17 << 20], 3, "16777216"),
        ("tenant", TRACES, vec![("x-scope-orgid", "a b")], good.clone(), 3, "tenant"),
        ("logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export", vec![], vec![], 12, "logs"),
    ];
    for (name, path, headers, body, code, text) in cases {
        let reply = grpc(gateway.grpc, path, &headers, &body).await;
        assert_eq!(reply.code(), code, "{name}: {}", reply.message());
        assert!(reply.message().contains(text), "{name}: {}", reply.message());
        assert_eq!(reply.retry_delay_ms(), None, "{name}");
        assert_eq!(reply.status, 200, "{name}");
    }
    let headers = [("content-type", "application/grpc")];
    for (name, body) in [
        ("no message", vec![]),
        ("cut prefix", vec![0, 0]),
        ("cut message", vec![0, 0, 0, 0, 9, 1]),
        ("two messages", client::framed(&good, false).repeat(2)),
        ("flag", vec![7, 0, 0, 0, 0]),
    ] {
        let reply = h2(gateway.grpc, Method::POST, TRACES, &headers, body).await;
        assert_eq!(reply.code(), 3, "{name}: {}", reply.message());
    }
    assert!(gateway.batches().is_empty());
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    gateway.stop().await;
}

/// Scenario: OTLP/HTTP requests that are wrong as a whole. Guarantee: the status the specification names, and a
/// `google.rpc.Status` in the request's format.
#[tokio::test]
async fn wrong_http_requests_are_refused_clearly() {
    let gateway = TestGateway::start().await;
    let json = ("content-type", "application/json");
    let protobuf = ("content-type", "application/x-protobuf");
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    let deep_value = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{}{{}}{}}}]}}}}]}}"#,
        r#"{"arrayValue":{"values":["#.repeat(60),
        "]}}".repeat(60)
    );
    let bad_utf8 = b"{\"resourceSpans\":[{\"schemaUrl\":\"\xff\"}]}".to_vec();
    let cases: Vec<(&str, &str, Vec<(&str, &str)>, Vec<u8>, u16)> = vec![
        ("not JSON", "/v1/traces", vec![json], b"{".to_vec(), 400),
        ("an array", "/v1/traces", vec![json], b"[]".to_vec(), 400),
        ("wrong type", "/v1/traces", vec![json], br#"{"resourceSpans": 5}"#.to_vec(), 400),
        ("trailing", "/v1/traces", vec![json], b"{} {}".to_vec(), 400),
        ("deep value", "/v1/traces", vec![json], deep_value.into_bytes(), 400),
        ("bad UTF-8", "/v1/traces", vec![json], bad_utf8, 400),
        ("not protobuf", "/v1/traces", vec![protobuf], vec![0xff; 9], 400),
        ("no type", "/v1/traces", vec![], vec![], 415),
        ("text", "/v1/traces", vec![("content-type", "text/plain")], vec![], 415),
        ("coding", "/v1/traces", vec![protobuf, ("content-encoding", "br")], vec![], 415),
        ("bomb", "/v1/traces", vec![json, ("content-encoding", "gzip")], gzip_bomb(), 413),
        ("large", "/v1/traces", vec![protobuf], vec![0; 17 << 20], 413),
        ("logs", "/v1/logs", vec![json], vec![], 501),
        ("path", "/v1/other", vec![json], vec![], 404),
    ];
    for (name, path, headers, body, status) in cases {
        for version in [1, 2] {
            let reply = match version {
                1 if body.len() > 1 << 20 => continue,
                1 => h1(gateway.http, Method::POST, path, &headers, body.clone()).await,
                _ => h2(gateway.http, Method::POST, path, &headers, body.clone()).await,
            };
            assert_eq!(reply.status, status, "{name}: {reply:?}");
            if headers.contains(&protobuf) {
                assert_eq!(reply.headers["content-type"], "application/x-protobuf", "{name}");
                let error = client::Status::decode(reply.body).expect("google.rpc.Status");
                assert!(error.code > 0 && !error.message.is_empty(), "{name}");
            } else {
                let error: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
                assert!(error["code"].as_i64().is_some_and(|code| code > 0), "{name}: {error}");
                assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {error}");
            }
        }
    }
    // Unknown fields are ignored however deep they are, without recursion.
    let reply = h1(gateway.http, Method::POST, "/v1/traces", &[json], deep).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = h1(gateway.http, Method::GET, "/v1/traces", &[], "").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["allow"]),
        (405, &http::HeaderValue::from_static("POST"))
    );
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    gateway.stop().await;
}

/// Scenario: a small request that would become a large one: a long service name repeated by many tiny spans. Guarantee:
/// refused by name, memory bounded.
#[tokio::test]
async fn growth_is_bounded() {
    let gateway = TestGateway::start().await;
    let tiny =
        |number: u64| Span { name: String::new(), attributes: vec![], kind: 0, ..otlp_span(number, "") };
    let mut request = otlp_request((0..40_000).map(tiny).collect());
    let resource = request.resource_spans[0].resource.as_mut().expect("a resource");
    resource.attributes = vec![string("service.name", &"s".repeat(1000))];
    let reply = grpc(gateway.grpc, TRACES, &[], &request.encode_to_vec()).await;
    assert_eq!(reply.code(), 3);
    assert!(reply.message().contains("grow"), "{}", reply.message());
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    gateway.stop().await;
}

/// Scenario: more spans than a request may hold. Guarantee: the first are accepted, the rest is rejected by name.
#[tokio::test]
async fn spans_past_the_limit_are_rejected() {
    let gateway = TestGateway::with(|config| config.limits.max_spans = 10).await;
    let request = native_request((0..25).map(|number| native_span(number, "x")).collect());
    let reply = grpc(gateway.grpc, NATIVE, &[], &request.encode_to_vec()).await;
    let response: v1::ExportResponse = reply.decode();
    assert_eq!((response.accepted_spans, response.rejected_spans), (10, 15));
    assert_eq!((&*response.rejections[0].reason, response.rejections[0].first_index), ("too_many_spans", 10));
    gateway.stop().await;
}
