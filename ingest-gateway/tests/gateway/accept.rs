//! Good requests over every protocol: accepted, durable, nothing lost.

use std::io::Write as _;

use http::Method;
use infertrace_gateway::FrameCheck;
use infertrace_proto::v1::{self, ingest_service_client::IngestServiceClient};
use infertrace_schemas::{frame, partition::partition_of, topics};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceResponse},
    common::v1::any_value::Value,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric, number_data_point,
    },
};
use prost::Message as _;

use crate::{
    client::{self, METRICS, TRACES, framed, grpc, h1, h2},
    fake_log::Mode,
    harness::{
        NOW, PARTITIONS, TestGateway, attribute, native_request, native_span, otlp_request, otlp_span, string,
    },
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn names(count: usize) -> Vec<String> {
    let mut names: Vec<_> = (0..count).map(|number| format!("span {number}")).collect();
    names.sort();
    names
}

fn spans(count: usize) -> Vec<opentelemetry_proto::tonic::trace::v1::Span> {
    (0..count).map(|number| otlp_span(number as u64, &format!("span {number}"))).collect()
}

/// Scenario: OTLP over gRPC in every message compression. Guarantee: all spans are in the log once each request, with
/// resource, scope, schema URLs and service name.
#[tokio::test]
async fn otlp_grpc_in_every_compression() {
    let message = otlp_request(spans(50)).encode_to_vec();
    let packed: [(&[(&str, &str)], Vec<u8>); 4] = [
        (&[], message.clone()),
        (&[("grpc-encoding", "gzip")], gzip(&message)),
        (&[("grpc-encoding", "zstd")], zstd::bulk::compress(&message, 1).expect("memory")),
        (&[("grpc-encoding", "snappy")], snap::raw::Encoder::new().compress_vec(&message).expect("memory")),
    ];
    for (headers, body) in packed {
        let gateway = TestGateway::start().await;
        let reply = grpc(gateway.grpc, TRACES, headers, &body).await;
        let response: ExportTraceServiceResponse = reply.decode();
        assert_eq!(response.partial_success, None);
        assert_eq!(gateway.names(), names(50), "{headers:?}");
        for (batch, span) in gateway.spans() {
            let origin = &batch.origins[span.origin as usize];
            assert_eq!(span.service_name, "svc");
            assert_eq!((span.start_time_unix_nano, span.duration_nanos), (NOW - 5_000_000, 4_000_000));
            assert_eq!(origin.resource.as_ref().expect("a resource").attributes.len(), 1);
            assert_eq!(origin.scope.as_ref().expect("a scope").name, "lib");
            assert_eq!(
                (&*origin.resource_schema_url, &*origin.scope_schema_url),
                ("resource-url", "scope-url")
            );
        }
        gateway.stop().await;
    }
}

/// Scenario: OTLP over HTTP/1.1 and h2c, protobuf, plain and compressed, on both ports. Guarantee: 200 in the request's
/// content type, all spans in the log.
#[tokio::test]
async fn otlp_http_on_both_versions_and_ports() {
    let message = otlp_request(spans(20)).encode_to_vec();
    let gateway = TestGateway::start().await;
    let protobuf = ("content-type", "application/x-protobuf");
    let zstd = zstd::bulk::compress(&message, 1).expect("memory");
    let mut sent = 0;
    for addr in [gateway.http, gateway.grpc] {
        for (headers, body) in [
            (vec![protobuf], message.clone()),
            (vec![protobuf, ("content-encoding", "gzip")], gzip(&message)),
            (vec![protobuf, ("content-encoding", "zstd")], zstd.clone()),
        ] {
            let first = h1(addr, Method::POST, "/v1/traces", &headers, body.clone()).await;
            let second = h2(addr, Method::POST, "/v1/traces", &headers, body).await;
            for reply in [first, second] {
                assert_eq!(reply.status, 200, "{reply:?}");
                assert_eq!(reply.headers["content-type"], "application/x-protobuf");
                assert!(reply.body.is_empty());
                sent += 20;
            }
        }
    }
    assert_eq!(gateway.spans().len(), sent);
    gateway.stop().await;
}

/// Scenario: gRPC on the HTTP port. Guarantee: it works there too.
#[tokio::test]
async fn grpc_works_on_the_http_port() {
    let gateway = TestGateway::start().await;
    let reply = grpc(gateway.http, TRACES, &[], &otlp_request(spans(3)).encode_to_vec()).await;
    assert_eq!(reply.code(), 0);
    assert_eq!(gateway.names(), names(3));
    gateway.stop().await;
}

/// Scenario: JSON as the specification's example has it, with unknown fields, snake_case, numbers as strings and null.
/// Guarantee: accepted as the protobuf would be.
#[tokio::test]
async fn otlp_json_is_lenient() {
    let gateway = TestGateway::start().await;
    let json = serde_json::json!({"resourceSpans": [{
    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "svc"}}], "futureField": {"x": [1]}},
    "scopeSpans": [{"scope": {"name": "lib"}, "spans": [
        {"traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174", "parentSpanId": "", "name": "camel",
         "startTimeUnixNano": (NOW - 2).to_string(), "endTimeUnixNano": NOW, "kind": 2, "status": null,
         "attributes": [{"key": "i", "value": {"intValue": "42"}}, {"key": "nan", "value": {"doubleValue": "NaN"}},
                        {"key": "b", "value": {"bytesValue": "aGk="}}]},
        {"trace_id": "5b8efff798038103d269b633813fc60d", "span_id": "eee19b7ec3c1b175", "parent_span_id": "eee19b7ec3c1b174",
         "name": "snake", "start_time_unix_nano": (NOW - 2).to_string(), "end_time_unix_nano": NOW.to_string(),
         "kind": "SPAN_KIND_CLIENT", "status": {"code": "STATUS_CODE_ERROR", "message": "no"}, "unknown": 1},
        {"traceId": "zz", "spanId": "eee19b7ec3c1b175", "name": "bad id", "startTimeUnixNano": "1", "endTimeUnixNano": "2"},
    ]}]}]});
    let headers = [("content-type", "application/json; charset=utf-8")];
    let reply = h1(gateway.http, Method::POST, "/v1/traces", &headers, json.to_string()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1");
    assert!(
        answer["partialSuccess"]["errorMessage"].as_str().is_some_and(|text| text.contains("bad_trace_id"))
    );
    let spans = gateway.spans();
    assert_eq!(gateway.names(), ["camel", "snake"]);
    let camel = &spans.iter().find(|(_, span)| span.operation_name == "camel").expect("there").1;
    assert_eq!(camel.attributes.len(), 3);
    assert!(camel.parent_span_id.is_empty());
    let snake = &spans.iter().find(|(_, span)| span.operation_name == "snake").expect("there").1;
    assert_eq!((snake.kind, snake.parent_span_id.len()), (3, 8));
    assert_eq!(snake.status.as_ref().map(|status| (status.code, &*status.message)), Some((2, "no")));
    gateway.stop().await;
}

/// Scenario: the native protocol through tonic's own client. Guarantee: accepted, the sequence is echoed, the spans are
/// unchanged, and two equal requests make equal records.
#[tokio::test]
async fn native_export_keeps_bytes_and_identity() {
    let gateway = TestGateway::start().await;
    let mut client = IngestServiceClient::connect(format!("http://{}", gateway.grpc)).await.expect("HTTP/2");
    let spans: Vec<_> = (0..30).map(|number| native_span(number, &format!("span {number}"))).collect();
    for _ in 0..2 {
        let response = client.export(native_request(spans.clone())).await.expect("accepted").into_inner();
        assert_eq!((response.accepted_spans, response.rejected_spans, response.sequence), (30, 0, 9));
    }
    let mut batches = gateway.batches();
    let again = batches.split_off(batches.len() / 2);
    assert_eq!(batches, again, "a retry makes the same records, ids included");
    let mut stored: Vec<_> = batches.into_iter().flat_map(|batch| batch.spans).collect();
    stored.sort_by_key(|span| span.span_id.clone());
    assert_eq!(stored, spans);
    gateway.stop().await;
}

/// Scenario: a client's batch id, a tenant in the header and one in the batch. Guarantee: the id changes the records' ids,
/// the header's tenant counts, an invalid one is refused.
#[tokio::test]
async fn batch_ids_and_tenants() {
    let gateway = TestGateway::start().await;
    let mut request = native_request(vec![native_span(1, "x")]);
    let export = |request: &v1::ExportRequest, tenant: &'static str| {
        let message = request.encode_to_vec();
        let addr = gateway.grpc;
        async move {
            let headers: &[(&str, &str)] =
                if tenant.is_empty() { &[] } else { &[("x-infertrace-tenant", tenant)] };
            grpc(addr, client::NATIVE, headers, &message).await
        }
    };
    assert_eq!(export(&request, "").await.code(), 0);
    let batch = request.batch.as_mut().expect("a batch");
    batch.batch_id = b"chosen".to_vec();
    batch.tenant = "inner".into();
    assert_eq!(export(&request, "").await.code(), 0);
    assert_eq!(export(&request, "outer").await.code(), 0);
    assert_eq!(export(&request, "no/good").await.code(), 3);
    let batches = gateway.batches();
    let tenants: Vec<_> = batches.iter().map(|batch| &*batch.tenant).collect();
    assert_eq!(tenants, ["", "inner", "outer"]);
    let ids: std::collections::HashSet<_> = batches.iter().map(|batch| &batch.batch_id).collect();
    assert_eq!(ids.len(), 3);
    assert!(
        gateway
            .metrics()
            .contains(r#"infertrace_gateway_spans_accepted_total{protocol="native",tenant="outer"} 1"#)
    );
    gateway.stop().await;
}

/// Scenario: spans that use some of many origins, in several partitions. Guarantee: every span's origin is what it was.
#[tokio::test]
async fn native_origins_survive_the_split() {
    let gateway = TestGateway::start().await;
    let origins: Vec<_> = (0..10)
        .map(|number| v1::Origin { resource_schema_url: format!("url {number}"), ..v1::Origin::default() })
        .collect();
    let spans: Vec<_> = (0..40)
        .map(|number| v1::Span {
            origin: (number % 7) as u32,
            ..native_span(number, &format!("{}", number % 7))
        })
        .collect();
    let mut request = native_request(spans);
    request.batch.as_mut().expect("a batch").origins = origins;
    let reply = grpc(gateway.grpc, client::NATIVE, &[], &request.encode_to_vec()).await;
    assert_eq!(reply.decode::<v1::ExportResponse>().accepted_spans, 40);
    for (batch, span) in gateway.spans() {
        let url = &batch.origins[span.origin as usize].resource_schema_url;
        assert_eq!(*url, format!("url {}", span.operation_name));
    }
    gateway.stop().await;
}

fn make_frames(spans: &[v1::Span], codec: v1::Codec) -> Vec<v1::Frame> {
    (0..PARTITIONS)
        .filter_map(|partition| {
            let share: Vec<_> = spans
                .iter()
                .filter(|span| {
                    partition_of(&span.trace_id.clone().try_into().expect("16 bytes"), PARTITIONS)
                        == partition
                })
                .cloned()
                .collect();
            if share.is_empty() {
                return None;
            }
            let span_count = share.len() as u32;
            let body = v1::SpanBatch { spans: share, ..v1::SpanBatch::default() }.encode_to_vec();
            let packed = frame::compress(codec, &body);
            Some(v1::Frame {
                partition,
                codec: codec as i32,
                crc32c: crc32c::crc32c(&packed),
                span_count,
                uncompressed_size: body.len() as u64,
                body: packed.into(),
            })
        })
        .collect()
}

/// Scenario: frames in every codec, checked by CRC and in full; one damaged frame. Guarantee: good frames are forwarded
/// with their bodies untouched, the damaged one is counted as bad_crc, the rest is accepted.
#[tokio::test]
async fn frames_are_forwarded_unopened() {
    for check in [FrameCheck::Frame, FrameCheck::Full] {
        let gateway = TestGateway::with(|config| config.validate = check).await;
        let mut client =
            IngestServiceClient::connect(format!("http://{}", gateway.grpc)).await.expect("HTTP/2");
        let map = client.get_partition_map(v1::GetPartitionMapRequest {}).await.expect("a map").into_inner();
        assert_eq!((map.partitions, &*map.topic), (PARTITIONS, topics::SPANS));
        let spans: Vec<_> = (0..40).map(|number| native_span(number, "framed")).collect();
        let mut expected = 0;
        for codec in [v1::Codec::None, v1::Codec::Lz4, v1::Codec::Zstd, v1::Codec::Snappy] {
            let mut frames = make_frames(&spans, codec);
            frames[1].crc32c ^= 1;
            let lost = u64::from(frames[1].span_count);
            let request = v1::ExportRequest {
                frames,
                partition_map_version: map.version,
                ..v1::ExportRequest::default()
            };
            let response = client.export(request).await.expect("accepted").into_inner();
            assert_eq!((response.accepted_spans, response.rejected_spans), (40 - lost, lost), "{codec:?}");
            assert_eq!(response.rejections[0].reason, "bad_crc");
            expected += 40 - lost;
        }
        assert_eq!(gateway.spans().len() as u64, expected);
        let raw = gateway.log.records(topics::SPANS);
        for record in raw {
            let batch =
                v1::SpanBatch::decode(record.payload.as_deref().expect("a value")).expect("a SpanBatch");
            assert!(batch.packed.is_some() && batch.spans.is_empty(), "forwarded as it came");
        }
        gateway.stop().await;
    }
}

/// Scenario: frames split by an old map. Guarantee: nothing is accepted, the new map is in the answer.
#[tokio::test]
async fn a_stale_partition_map_is_answered_with_the_new_one() {
    let gateway = TestGateway::start().await;
    let frames = make_frames(&[native_span(1, "x")], v1::Codec::None);
    let request =
        v1::ExportRequest { frames, partition_map_version: 1, sequence: 3, ..v1::ExportRequest::default() };
    let reply = grpc(gateway.grpc, client::NATIVE, &[], &request.encode_to_vec()).await;
    let response: v1::ExportResponse = reply.decode();
    assert_eq!((response.accepted_spans, response.sequence), (0, 3));
    assert_eq!(response.partition_map.expect("the map").partitions, PARTITIONS);
    assert!(gateway.batches().is_empty());
    gateway.stop().await;
}

/// Scenario: a frame with a bad span, checked in full, and one whose spans belong elsewhere. Guarantee: the good spans are
/// re-encoded into the partitions where they belong.
#[tokio::test]
async fn full_validation_keeps_the_good_spans() {
    let gateway = TestGateway::with(|config| config.validate = FrameCheck::Full).await;
    let map = gateway_map(&gateway).await;
    let mut spans: Vec<_> = (0..10).map(|number| native_span(number, "good")).collect();
    spans[4].span_id = vec![1; 7];
    let body = v1::SpanBatch { spans, ..v1::SpanBatch::default() }.encode_to_vec();
    let packed = frame::compress(v1::Codec::Lz4, &body);
    let frame = v1::Frame {
        partition: 0,
        codec: v1::Codec::Lz4 as i32,
        crc32c: crc32c::crc32c(&packed),
        span_count: 10,
        uncompressed_size: body.len() as u64,
        body: packed.into(),
    };
    let request = v1::ExportRequest {
        frames: vec![frame],
        partition_map_version: map.version,
        ..v1::ExportRequest::default()
    };
    let reply = grpc(gateway.grpc, client::NATIVE, &[], &request.encode_to_vec()).await;
    let response: v1::ExportResponse = reply.decode();
    assert_eq!((response.accepted_spans, response.rejected_spans), (9, 1));
    assert_eq!((&*response.rejections[0].reason, response.rejections[0].first_index), ("bad_span_id", 4));
    assert_eq!(gateway.spans().len(), 9);
    gateway.stop().await;
}

async fn gateway_map(gateway: &TestGateway) -> v1::PartitionMap {
    grpc(gateway.grpc, "/infertrace.v1.IngestService/GetPartitionMap", &[], &[]).await.decode()
}

/// Scenario: requests far larger than a record of the log may be, native, OTLP and as one frame. Guarantee: every record
/// fits, nothing is lost, every record has its own id.
#[tokio::test]
async fn large_shares_are_split() {
    let gateway = TestGateway::with(|config| config.max_record_bytes = 8192).await;
    let filler = "x".repeat(500);
    let native: Vec<_> = (0..100)
        .map(|number| v1::Span { service_name: filler.clone(), ..native_span(number, "n") })
        .collect();
    let reply =
        grpc(gateway.grpc, client::NATIVE, &[], &native_request(native.clone()).encode_to_vec()).await;
    assert_eq!(reply.decode::<v1::ExportResponse>().accepted_spans, 100);
    let mut otlp = spans(100);
    otlp.iter_mut().for_each(|span| span.attributes.push(string("filler", &filler)));
    assert_eq!(grpc(gateway.grpc, TRACES, &[], &otlp_request(otlp).encode_to_vec()).await.code(), 0);
    let map = gateway_map(&gateway).await;
    let frames = make_frames(&native, v1::Codec::None);
    let request =
        v1::ExportRequest { frames, partition_map_version: map.version, ..v1::ExportRequest::default() };
    let reply = grpc(gateway.grpc, client::NATIVE, &[], &request.encode_to_vec()).await;
    assert_eq!(reply.decode::<v1::ExportResponse>().accepted_spans, 100);
    assert_eq!(gateway.spans().len(), 300);
    let ids: std::collections::HashSet<_> =
        gateway.batches().into_iter().map(|batch| batch.batch_id).collect();
    let records = gateway.log.records(topics::SPANS);
    // The frames were opened and split into the same records as the batch: the same ids, as for a retry.
    assert!(ids.len() > 12 && ids.len() < records.len(), "{} ids, {} records", ids.len(), records.len());
    assert!(records.iter().all(|record| record.payload.as_ref().expect("a value").len() <= 8192));
    gateway.stop().await;
}

/// Scenario: the delivery to one partition fails. Guarantee: UNAVAILABLE, and the retry's records equal the first's.
#[tokio::test]
async fn a_partial_failure_is_retriable() {
    let gateway = TestGateway::start().await;
    gateway.log.set(Mode::FailPartition(2));
    let message = otlp_request(spans(40)).encode_to_vec();
    let reply = grpc(gateway.grpc, TRACES, &[], &message).await;
    assert_eq!(reply.code(), 14, "{}", reply.message());
    assert!(reply.retry_delay_ms().is_some());
    let before = gateway.batches();
    gateway.log.set(Mode::Durable);
    assert_eq!(grpc(gateway.grpc, TRACES, &[], &message).await.code(), 0);
    let after = gateway.batches();
    for batch in &before {
        assert_eq!(after.iter().filter(|other| other.batch_id == batch.batch_id).count(), 2);
    }
    let distinct: std::collections::HashSet<_> =
        after.iter().flat_map(|batch| batch.spans.iter().map(|span| span.span_id.clone())).collect();
    assert_eq!(distinct.len(), 40);
    gateway.stop().await;
}

/// Scenario: metrics of every kind. Guarantee: gauges, sums and histograms become samples with their device, the rest is
/// rejected by name.
#[tokio::test]
async fn metrics_become_samples() {
    let gateway = TestGateway::start().await;
    let number = |value| NumberDataPoint {
        time_unix_nano: NOW as u64,
        start_time_unix_nano: NOW as u64 - 9,
        attributes: vec![string("hw.id", "GPU-1"), attribute("n", Value::IntValue(3))],
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let metric = |name: &str, data| Metric {
        name: name.into(),
        unit: "1".into(),
        data: Some(data),
        ..Metric::default()
    };
    let metrics = vec![
        metric(
            "hw.gpu.utilization",
            metric::Data::Gauge(Gauge { data_points: vec![number(number_data_point::Value::AsDouble(0.5))] }),
        ),
        metric(
            "requests",
            metric::Data::Sum(Sum {
                data_points: vec![number(number_data_point::Value::AsInt(-7))],
                aggregation_temporality: AggregationTemporality::Cumulative as i32,
                is_monotonic: true,
            }),
        ),
        metric(
            "gen_ai.client.operation.duration",
            metric::Data::Histogram(Histogram {
                data_points: vec![HistogramDataPoint {
                    time_unix_nano: NOW as u64,
                    count: 3,
                    sum: Some(1.5),
                    bucket_counts: vec![1, 2],
                    explicit_bounds: vec![0.5],
                    max: Some(1.0),
                    ..HistogramDataPoint::default()
                }],
                aggregation_temporality: AggregationTemporality::Delta as i32,
            }),
        ),
        metric("old", metric::Data::Summary(Summary { data_points: vec![SummaryDataPoint::default(); 2] })),
    ];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    };
    let reply = grpc(gateway.grpc, METRICS, &[], &request.encode_to_vec()).await;
    let response: opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse =
        reply.decode();
    let partial = response.partial_success.expect("two points rejected");
    assert_eq!(partial.rejected_data_points, 2);
    assert!(partial.error_message.contains("summaries"), "{}", partial.error_message);
    let mut samples: Vec<_> = gateway
        .log
        .records(topics::GPU)
        .iter()
        .flat_map(|record| {
            assert_eq!(record.headers[0].0, "infertrace-batch-id");
            v1::GpuSampleBatch::decode(record.payload.as_deref().expect("a value")).expect("samples").samples
        })
        .collect();
    samples.sort_by(|left, right| left.name.cmp(&right.name));
    let [histogram, gauge, sum] = &samples[..] else { panic!("three samples: {samples:?}") };
    assert_eq!((&*gauge.name, &*gauge.device_id), ("hw.gpu.utilization", "GPU-1"));
    assert_eq!(gauge.value, Some(v1::sample::Value::Number(0.5)));
    assert_eq!(sum.value, Some(v1::sample::Value::Integer(-7)));
    assert!(sum.monotonic && sum.temporality == 2 && sum.attributes.len() == 2);
    assert_eq!(
        histogram.value,
        Some(v1::sample::Value::Histogram(v1::HistogramValue {
            count: 3,
            sum: 1.5,
            bounds: vec![0.5],
            bucket_counts: vec![1, 2],
            min: None,
            max: Some(1.0),
        }))
    );
    let json = serde_json::json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "g", "gauge": {"dataPoints": [
        {"timeUnixNano": NOW.to_string(), "asInt": "5"}]}}]}]}]});
    let headers = [("content-type", "application/json")];
    let reply = h1(gateway.http, Method::POST, "/v1/metrics", &headers, json.to_string()).await;
    assert_eq!((reply.status.as_u16(), &*reply.body), (200, &b"{}"[..]));
    gateway.stop().await;
}

/// Scenario: the standard health service, server reflection and the HTTP probes. Guarantee: they answer, and say when the
/// log is away.
#[tokio::test]
async fn health_reflection_and_probes() {
    let gateway = TestGateway::start().await;
    let health = "/grpc.health.v1.Health/Check";
    loop {
        // The health service follows readiness within a second.
        let reply = grpc(gateway.grpc, health, &[], &[]).await;
        if reply.code() == 0 && reply.body[5..] == [8, 1] {
            break;
        }
        tokio::task::yield_now().await;
    }
    let list_services = [0x3a, 1, b'*'];
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let reply = grpc(gateway.grpc, path, &[], &list_services).await;
    assert_eq!(reply.code(), 0);
    assert!(String::from_utf8_lossy(&reply.body).contains("infertrace.v1.IngestService"));
    assert_eq!(grpc(gateway.grpc, "/no.such.Service/Call", &[], &[]).await.code(), 12);
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/nothing", 404)] {
        assert_eq!(h1(gateway.http, Method::GET, path, &[], "").await.status, status, "{path}");
    }
    assert!(gateway.handle.ready().await.is_ok());
    gateway.log.set(Mode::Away);
    let reply = h1(gateway.http, Method::GET, "/readyz", &[], "").await;
    assert_eq!(reply.status, 503);
    assert!(String::from_utf8_lossy(&reply.body).contains("no broker"));
    gateway.stop().await;
}

/// Scenario: several messages' bytes, sent in tiny pieces over HTTP/1.1 chunks and as one body. Guarantee: equal results.
#[tokio::test]
async fn a_prefix_may_be_split() {
    let gateway = TestGateway::start().await;
    let body = framed(&otlp_request(spans(2)).encode_to_vec(), false);
    let mut sender = client::connect(gateway.grpc).await;
    for _ in 0..2 {
        let headers = [("content-type", "application/grpc")];
        let reply =
            client::send(&mut sender, client::request(Method::POST, TRACES, &headers, body.clone())).await;
        assert_eq!(reply.code(), 0);
    }
    assert_eq!(gateway.spans().len(), 4);
    gateway.stop().await;
}
