//! Jaeger's query API: what its UI and Grafana's data source ask.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::{
    common::{
        Server,
        spans::{self, TestSpan},
    },
    support::{Placement, listed, placements, start},
};

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn data(server: &Server, path: &str) -> Vec<Json> {
    let answer = server.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["errors"], Json::Null, "{path}");
    answer["data"].as_array().expect("data").clone()
}

/// What Jaeger's form of a span says, as far as the test's spans say it.
fn told(span: &TestSpan) -> Json {
    let parent = (span.parent != 0).then(|| format!("{:016x}", span.parent));
    json!({
        "span": format!("{:016x}", span.span),
        "parent": parent,
        "service": span.service,
        "operation": span.operation,
        "start": span.start_ns / 1_000,
        "duration": span.duration_ns / 1_000,
        "is_error": span.status == 2,
    })
}

fn read(trace: &Json, span: &Json) -> Json {
    let process = &trace["processes"][span["processID"].as_str().expect("a process")];
    let is_error = span["tags"]
        .as_array()
        .expect("tags")
        .iter()
        .any(|tag| *tag == json!({"key": "error", "type": "bool", "value": true}));
    json!({
        "span": span["spanID"],
        "parent": span["references"][0]["spanID"],
        "service": process["serviceName"],
        "operation": span["operationName"],
        "start": span["startTime"],
        "duration": span["duration"],
        "is_error": is_error,
    })
}

fn sorted(mut all: Vec<Json>) -> Vec<Json> {
    all.sort_by_key(ToString::to_string);
    all
}

/// Scenario: each trace by its id, from every tier, and one that nobody sent. Guarantee: every span with its ids,
/// process, times and error; the unknown one is 404 with Jaeger's form of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_by_id() {
    let all = spans::varied(20);
    for placement in placements() {
        let server = start(&all, placement).await;
        for trace in 1..=20 {
            let id = spans::hex_id(trace);
            let found = data(&server, &format!("/jaeger/api/traces/{id}")).await;
            assert_eq!((found.len(), &found[0]["traceID"]), (1, &json!(id)), "{placement:?}");
            let wanted = all.iter().filter(|span| span.trace == trace).map(told).collect();
            let got = found[0]["spans"].as_array().expect("spans").iter();
            let got = got.map(|span| read(&found[0], span)).collect();
            assert_eq!(sorted(got), sorted(wanted), "{placement:?}");
        }
        let unknown = server.get(&format!("/jaeger/api/traces/{:032x}", 77)).await;
        assert_eq!(unknown.status, 404);
        assert_eq!(unknown.json()["errors"][0]["code"], 404);
        server.stop().await;
    }
}

/// Scenario: Jaeger's search form filled in: service, operation, tags of either kind, durations and times, over every
/// tier; and traces by their ids. Guarantee: the traces that the query language finds for the same span, each whole; a
/// mistake is 400.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_as_the_form_sends_them() {
    let all = spans::varied(60);
    let tags = encoded(r#"{"error":"true","retries":"3"}"#);
    let searches = [
        ("service=engine".to_owned(), r#"{ resource.service.name = "engine" }"#),
        (
            "service=engine&operation=generate&minDuration=20ms&maxDuration=60ms".to_owned(),
            r#"{ resource.service.name = "engine" && name = "generate" && duration >= 20ms && duration <= 60ms }"#,
        ),
        (
            format!("service=engine&tags={tags}"),
            r#"{ resource.service.name = "engine" && status = error && .retries = 3 }"#,
        ),
        (
            "service=gateway&tag=span.kind:server&tag=deployment.environment:canary".to_owned(),
            r#"{ resource.service.name = "gateway" && kind = server && .deployment.environment = "canary" }"#,
        ),
    ];
    for placement in placements() {
        let server = start(&all, placement).await;
        for (form, query) in &searches {
            let own = server.get(&format!("/api/v1/traces?limit=100&q={}", encoded(query))).await.json();
            let wanted: BTreeSet<String> = listed(&own).into_iter().collect();
            assert!(!wanted.is_empty() && wanted.len() <= 60, "{query} finds nothing to compare");
            let found = data(
                &server,
                &format!("/jaeger/api/traces?limit=100&start=0&end=4000000000000000&lookback=1h&{form}"),
            )
            .await;
            let ids = found.iter().map(|trace| trace["traceID"].as_str().expect("an id").to_owned());
            assert_eq!(ids.collect::<BTreeSet<_>>(), wanted, "{placement:?} {form}");
            assert!(found.iter().all(|trace| trace["spans"].as_array().map(Vec::len) == Some(4)), "{form}");
        }
        let by_id = format!("traceID={}&traceID={}&traceID={:032x}", spans::hex_id(3), spans::hex_id(5), 77);
        assert_eq!(data(&server, &format!("/jaeger/api/traces?{by_id}")).await.len(), 2);
        let wrong = server.get("/jaeger/api/traces?service=engine&minDuration=long").await;
        assert_eq!(wrong.status, 400);
        assert!(wrong.json()["errors"][0]["msg"].as_str().is_some_and(|text| text.contains("minDuration")));
        server.stop().await;
    }
}

/// Scenario: services, operations in both forms, and dependencies, of spans in memory; services of the lake alone.
/// Guarantee: the names and the calls that a plain loop over the spans finds; nothing outside the range is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_dependencies() {
    let all = spans::varied(30);
    let services: BTreeSet<&str> = all.iter().map(|span| span.service).collect();
    let server = start(&all, Placement::Lake).await;
    assert_eq!(
        data(&server, "/jaeger/api/services").await,
        services.iter().map(|name| json!(name)).collect::<Vec<_>>()
    );
    server.stop().await;

    let server = start(&all, Placement::Hot).await;
    assert_eq!(
        data(&server, "/jaeger/api/services").await,
        services.iter().map(|name| json!(name)).collect::<Vec<_>>()
    );
    let of_engine: BTreeSet<&str> =
        all.iter().filter(|span| span.service == "engine").map(|span| span.operation).collect();
    let names: Vec<Json> = of_engine.iter().map(|name| json!(name)).collect();
    assert_eq!(data(&server, "/jaeger/api/services/engine/operations").await, names);
    let typed: Vec<Json> = of_engine.iter().map(|name| json!({"name": name, "spanKind": ""})).collect();
    assert_eq!(data(&server, "/jaeger/api/operations?service=engine").await, typed);

    // Every root is the gateway's, and every other span its child.
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    for span in all.iter().filter(|span| span.parent != 0 && span.service != "gateway") {
        *calls.entry(span.service).or_default() += 1;
    }
    let edges: Vec<Json> = calls
        .iter()
        .map(|(child, calls)| json!({"parent": "gateway", "child": child, "callCount": calls}))
        .collect();
    assert_eq!(data(&server, "/jaeger/api/dependencies").await, edges);
    assert!(data(&server, "/jaeger/api/dependencies?endTs=1000&lookback=1000").await.is_empty());
    server.stop().await;
}
