//! A trace by its id.

use std::{collections::BTreeSet, sync::Arc};

use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value as Json;

use crate::{
    common::{
        NOW_NS, Setup, lake,
        log::MemoryLog,
        schema,
        spans::{self, TestSpan, Value, hex_id},
    },
    support::{NOW_MS, Placement, placements, span_ids, start},
};

/// Scenario: traces in each tier, and across them with an overlap and parts of traces on either side.
/// Guarantee: each span of a trace once, whole traces complete, tiers named as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_span_once_wherever_it_lies() {
    let all = spans::varied(60);
    for placement in placements() {
        let server = start(&all, placement).await;
        let mut tiers = BTreeSet::new();
        for trace in 1..=60 {
            let answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await;
            assert_eq!(answer.status, 200, "{placement:?} {trace}: {}", answer.text());
            let found = answer.json();
            let mut ids = span_ids(&found);
            ids.sort();
            let wanted: Vec<String> = (1..=4).map(|index| format!("{:016x}", trace * 100 + index)).collect();
            assert_eq!(ids, wanted, "{placement:?} {trace}");
            assert_eq!(found["complete"], true, "{placement:?}: {found}");
            assert_eq!(found["cost"]["status"], "unavailable");
            assert_eq!(found["root_service"], "gateway");
            assert_eq!(found["spans"][0]["parent_span_id"], "");
            tiers.extend(
                found["tiers"].as_array().unwrap().iter().map(|tier| tier.as_str().unwrap().to_owned()),
            );
        }
        let wanted: &[&str] = match placement {
            Placement::Hot => &["hot"],
            Placement::Lake => &["cold"],
            Placement::Both => &["cold", "hot"],
            Placement::Warm => &["warm"],
            Placement::Three => &["cold", "hot", "warm"],
        };
        assert_eq!(tiers.iter().map(String::as_str).collect::<Vec<_>>(), wanted, "{placement:?}");
        server.stop().await;
    }
}

/// Scenario: a batch that a client sent twice, in both tiers. Guarantee: its spans are there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_collapses() {
    let all = spans::varied(2);
    let record = spans::record(&all);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    lake::write_range(&store, 0, 0, std::slice::from_ref(&record), lake::Layout::default()).await;
    let log = MemoryLog::new(1);
    log.push(0, record.clone(), NOW_MS - 3_600_000);
    for _ in 0..3 {
        log.push(0, record.clone(), NOW_MS);
    }
    let server = Setup { log: Some(log), store: Some(store), ..Setup::default() }.start().await;
    let found = server.get(&format!("/api/v1/traces/{}", hex_id(1))).await.json();
    assert_eq!(span_ids(&found).len(), 4);
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["tiers"]["hot"]["duplicate_records"], 2);
    let page = server.get("/api/v1/traces").await.json();
    assert_eq!(page["traces"][0]["span_count"], 4);
    server.stop().await;
}

/// Scenario: a client's call above an engine's request in a batch of 4 on an H100, hot and from Parquet.
/// Guarantee: the engine's cost stands once, as computed by hand, and says what it is, for the trace and for its span; the
/// call, which has no price, says nothing; the answer is as described. The list says the same of what is in memory, and
/// nothing of what is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_says_what_it_cost() {
    use infertrace_proto::v1;
    use prost::Message;
    const SECOND: i64 = 1_000_000_000;
    let inference = v1::InferenceContext {
        model_name: "llama".to_owned(),
        framework: "vllm".to_owned(),
        input_tokens: Some(100),
        output_tokens: Some(4),
        ttft_nanos: Some(3 * SECOND as u64),
        ..Default::default()
    };
    let call = v1::Span {
        trace_id: spans::trace_id(1).to_vec(),
        span_id: 1u64.to_be_bytes().to_vec(),
        service_name: "chat".to_owned(),
        start_time_unix_nano: NOW_NS,
        duration_nanos: 10 * SECOND,
        kind: 3,
        inference: Some(v1::InferenceContext { framework: String::new(), ..inference.clone() }),
        ..Default::default()
    };
    let engine = v1::Span {
        span_id: 2u64.to_be_bytes().to_vec(),
        parent_span_id: call.span_id.clone(),
        service_name: "vllm".to_owned(),
        kind: 2,
        inference: Some(v1::InferenceContext { batch_size: Some(4), ..inference }),
        pipeline: Some(v1::PipelineContext { queue_wait_time_ms: Some(2_000.0), ..Default::default() }),
        resources: Some(v1::ResourceMetrics {
            gpu: Some(v1::GpuMetrics { instance_type: "p5.48xlarge".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        ..call.clone()
    };
    let record = infertrace_schemas::record::encode_share(
        "",
        &[],
        [&call.encode_to_vec()[..], &engine.encode_to_vec()[..]],
        &[],
    );
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    lake::write_range(&store, 0, 0, std::slice::from_ref(&record), lake::Layout::default()).await;
    let log = MemoryLog::new(1);
    log.push(0, record, NOW_MS);
    let places = [
        (true, Setup { log: Some(log), ..Setup::default() }),
        (false, Setup { store: Some(store), ..Setup::default() }),
    ];
    for (is_hot, setup) in places {
        let server = setup.start().await;
        let trace = server.get(&format!("/api/v1/traces/{}", hex_id(1))).await.json();
        let document = server.get("/openapi.json").await.json();
        let described = &document["paths"]["/api/v1/traces/{trace_id}"]["get"]["responses"]["200"]["content"];
        let wrong = schema::violations(&document, &described["application/json"]["schema"], &trace);
        assert!(wrong.is_empty(), "{wrong:#?}");
        let of_span = |service: &str| {
            let span = trace["spans"].as_array().unwrap().iter().find(|span| span["service"] == service);
            &span.unwrap()["cost"]
        };
        let of_engine = of_span("vllm");
        assert_eq!((&of_engine["nano_usd"], &of_engine["counted"]), (&"3822222".into(), &true.into()));
        assert_eq!(
            [&of_engine["kind"], &of_engine["basis"]],
            ["estimated", "gpu"].map(Json::from).each_ref()
        );
        assert!(of_span("chat").is_null());
        let cost = &trace["cost"];
        // 8 s ÷ 4 at 6.88 USD an hour.
        assert_eq!(cost["nano_usd"], "3822222", "{cost}");
        assert_eq!(cost["gpu_micros"], "2000000");
        assert_eq!(
            [&cost["status"], &cost["kind"], &cost["basis"]],
            ["available", "estimated", "gpu"].map(Json::from).each_ref()
        );
        assert_eq!((&cost["priced_requests"], &cost["unpriced_requests"]), (&1.into(), &0.into()));
        assert!(cost["price_version"].as_str().is_some_and(|version| version.starts_with("20")), "{cost}");
        let list = server.get("/api/v1/traces").await.json();
        let described = &document["paths"]["/api/v1/traces"]["get"]["responses"]["200"]["content"];
        let wrong = schema::violations(&document, &described["application/json"]["schema"], &list);
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(list["traces"][0].get("cost"), is_hot.then_some(cost));
        server.stop().await;
    }
}

/// Scenario: ids that were never sent. Guarantee: 404 as a problem, and no page of data is read for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_id_is_a_problem_document() {
    let server = start(&spans::varied(30), Placement::Both).await;
    for trace in 1_000..1_050 {
        let answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (404, Some("trace_not_found")));
    }
    server.stop().await;
}

/// Scenario: a span with every part that OTLP has, hot and from Parquet. Guarantee: `format=otlp` gives all of it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_comes_back_whole() {
    use infertrace_proto::v1;
    use prost::Message;
    let attributes = vec![
        spans::attribute("text", &Value::Text("ü\"\\\n")),
        spans::attribute("int", &Value::Int(i64::MIN)),
        spans::attribute("double", &Value::Double(1.5)),
        spans::attribute("bool", &Value::Bool(false)),
        spans::attribute("texts", &Value::Texts(vec!["a", "b"])),
    ];
    let span = v1::Span {
        trace_id: spans::trace_id(1).to_vec(),
        span_id: 1u64.to_be_bytes().to_vec(),
        service_name: "checkout".to_owned(),
        operation_name: "pay".to_owned(),
        start_time_unix_nano: NOW_NS,
        duration_nanos: 1_234_567,
        kind: 3,
        status: Some(v1::Status { code: 2, message: "card refused".to_owned() }),
        attributes: attributes.clone(),
        events: vec![v1::Event {
            time_unix_nano: NOW_NS as u64 + 5,
            name: "retry".to_owned(),
            attributes: attributes.clone(),
            dropped_attributes_count: 3,
        }],
        links: vec![v1::Link {
            trace_id: spans::trace_id(2).to_vec(),
            span_id: 7u64.to_be_bytes().to_vec(),
            trace_state: "k=v".to_owned(),
            attributes: attributes.clone(),
            dropped_attributes_count: 4,
            flags: 1,
        }],
        flags: 257,
        dropped_attributes_count: 5,
        dropped_events_count: 6,
        dropped_links_count: 7,
        trace_state: "a=1,b=2".to_owned(),
        origin: 0,
        ..Default::default()
    };
    let origin = v1::Origin {
        resource: Some(v1::Resource { attributes: attributes.clone(), dropped_attributes_count: 8 }),
        scope: Some(v1::Scope {
            name: "lib".into(),
            version: "2".into(),
            attributes,
            dropped_attributes_count: 9,
        }),
        resource_schema_url: "https://r".to_owned(),
        scope_schema_url: "https://s".to_owned(),
    };
    let record = infertrace_schemas::record::encode_share(
        "",
        &[],
        [&span.encode_to_vec()[..]],
        &[&origin.encode_to_vec()],
    );
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    lake::write_range(&store, 0, 0, std::slice::from_ref(&record), lake::Layout::default()).await;
    let log = MemoryLog::new(1);
    log.push(0, record, NOW_MS);
    let mut answers = Vec::new();
    for setup in
        [Setup { log: Some(log), ..Setup::default() }, Setup { store: Some(store), ..Setup::default() }]
    {
        let server = setup.start().await;
        answers.push(server.get(&format!("/api/v1/traces/{}?format=otlp", hex_id(1))).await.json());
        server.stop().await;
    }
    let values = serde_json::json!([
        {"key": "text", "value": {"stringValue": "ü\"\\\n"}},
        {"key": "int", "value": {"intValue": i64::MIN.to_string()}},
        {"key": "double", "value": {"doubleValue": 1.5}},
        {"key": "bool", "value": {"boolValue": false}},
        {"key": "texts", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}},
    ]);
    let wanted = serde_json::json!({"resourceSpans": [{
        "resource": {"attributes": values, "droppedAttributesCount": 8},
        "schemaUrl": "https://r",
        "scopeSpans": [{
            "scope": {"name": "lib", "version": "2", "attributes": values, "droppedAttributesCount": 9},
            "schemaUrl": "https://s",
            "spans": [{
                "traceId": hex_id(1), "spanId": "0000000000000001", "name": "pay", "kind": 3,
                "startTimeUnixNano": NOW_NS.to_string(), "endTimeUnixNano": (NOW_NS + 1_234_567).to_string(),
                "status": {"code": 2, "message": "card refused"}, "traceState": "a=1,b=2", "flags": 257,
                "attributes": values, "droppedAttributesCount": 5, "droppedEventsCount": 6, "droppedLinksCount": 7,
                "events": [{"timeUnixNano": (NOW_NS + 5).to_string(), "name": "retry", "attributes": values,
                            "droppedAttributesCount": 3}],
                "links": [{"traceId": hex_id(2), "spanId": "0000000000000007", "traceState": "k=v",
                           "attributes": values, "droppedAttributesCount": 4, "flags": 1}],
            }],
        }],
    }]});
    assert_eq!(sorted(&answers[0]), sorted(&wanted));
    assert_eq!(sorted(&answers[1]), sorted(&wanted));
}

/// `json` with attribute lists in the order of their keys: the columns keep types apart, not their order.
fn sorted(json: &Json) -> Json {
    match json {
        Json::Array(items) => {
            let mut items: Vec<Json> = items.iter().map(sorted).collect();
            if items.iter().all(|item| item.get("key").is_some()) {
                items.sort_by_key(|item| item["key"].to_string());
            }
            Json::Array(items)
        }
        Json::Object(members) => members.iter().map(|(key, value)| (key.clone(), sorted(value))).collect(),
        other => other.clone(),
    }
}

/// Scenario: a trace of more spans than are answered. Guarantee: it is cut and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_too_large_is_cut_and_says_so() {
    let span = |span: u64| TestSpan {
        trace: 1,
        span,
        parent: span.saturating_sub(1).min(1),
        service: "engine",
        operation: "step",
        start_ns: NOW_NS + span as i64,
        duration_ns: 1,
        ..TestSpan::default()
    };
    let all: Vec<TestSpan> = (1..=2_000).map(span).collect();
    let log = MemoryLog::new(1);
    for chunk in all.chunks(100) {
        log.push(0, spans::record(chunk), NOW_MS);
    }
    let mut setup = Setup { log: Some(log), ..Setup::default() };
    setup.config.limits.max_spans_per_trace = 1_500;
    let server = setup.start().await;
    let found = server.get(&format!("/api/v1/traces/{}", hex_id(1))).await.json();
    assert_eq!(found["spans"].as_array().unwrap().len(), 1_500);
    assert_eq!((&found["truncated"], &found["complete"]), (&Json::Bool(true), &Json::Bool(false)));
    assert_eq!(found["dropped_spans"], 500);
    server.stop().await;
}
