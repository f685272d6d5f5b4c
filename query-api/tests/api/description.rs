//! The description, headers, names, health.

use std::collections::BTreeSet;

use crate::{
    common::{
        Setup,
        log::MemoryLog,
        schema,
        spans::{self, hex_id},
    },
    support::{Placement, start},
};

/// Scenario: the description and the routes. Guarantee: each route is described and each description is a route;
/// real answers conform to their schemas, errors included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_true() {
    let server = start(&spans::varied(12), Placement::Both).await;
    let document = server.get("/openapi.json").await.json();
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let routes: BTreeSet<&str> = infertrace_query::paths().iter().copied().collect();
    assert_eq!(described, routes);
    let trace = format!("/api/v1/traces/{}", hex_id(3));
    let missing = format!("/api/v1/traces/{}", hex_id(99));
    let asked = [
        ("/api/v1/traces/{trace_id}", trace.as_str(), "200", "application/json"),
        ("/api/v1/traces/{trace_id}", missing.as_str(), "404", "application/problem+json"),
        ("/api/v1/traces/{trace_id}", "/api/v1/traces/nope", "400", "application/problem+json"),
        ("/api/v1/traces", "/api/v1/traces?limit=5", "200", "application/json"),
        ("/api/v1/traces", "/api/v1/traces?limit=1000&status=error", "200", "application/json"),
        ("/api/v1/traces", "/api/v1/traces?limit=0", "400", "application/problem+json"),
        ("/api/v1/services", "/api/v1/services", "200", "application/json"),
        ("/api/v1/models", "/api/v1/models", "200", "application/json"),
        ("/api/v1/status", "/api/v1/status", "200", "application/json"),
        ("/healthz", "/healthz", "200", "application/json"),
        ("/readyz", "/readyz", "200", "application/json"),
    ];
    for (route, path, status, media) in asked {
        let answer = server.get(path).await;
        assert_eq!(answer.status.as_str(), status, "{path}");
        assert_eq!(answer.header("content-type"), media, "{path}");
        let schema = &document["paths"][route]["get"]["responses"][status]["content"][media]["schema"];
        assert!(schema.is_object(), "{route} {status} is not described");
        let wrong = schema::violations(&document, schema, &answer.json());
        assert!(wrong.is_empty(), "{path}: {wrong:#?}");
    }
    server.stop().await;
}

/// Scenario: a client that asks again and takes gzip. Guarantee: 304 without a body; the same bytes compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entity_tags_and_compression() {
    let server = start(&spans::varied(12), Placement::Hot).await;
    let path = format!("/api/v1/traces/{}", hex_id(3));
    let plain = server.get(&path).await;
    let zipped = server.get_with(&path, &[("accept-encoding", "gzip")]).await;
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(zipped.body.len() * 2 < plain.body.len());
    assert_eq!(zipped.unzipped(), plain.body);
    let again = server.get_with(&path, &[("if-none-match", plain.header("etag"))]).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    let changed = server.get_with(&path, &[("if-none-match", "\"0\"")]).await;
    assert_eq!(changed.status, 200);
    server.stop().await;
}

/// Scenario: services and models in both tiers. Guarantee: every name once, with the tiers that know it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_services_and_models() {
    let server = start(&spans::varied(30), Placement::Both).await;
    let services = server.get("/api/v1/services").await.json();
    let names: Vec<&str> = services["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["engine", "gateway", "ranker"]);
    let gateway = &services["services"][1];
    assert_eq!(gateway["tiers"], serde_json::json!(["hot", "cold"]));
    let operations = gateway["operations"].as_array().unwrap();
    let total: u64 = operations.iter().map(|operation| operation["span_count"].as_u64().unwrap()).sum();
    assert_eq!(gateway["span_count"].as_u64(), Some(total));
    assert!(operations.iter().any(|operation| operation["name"] == "http"));
    let models = server.get("/api/v1/models").await.json();
    assert_eq!(models["models"].as_array().unwrap().len(), 3);
    server.stop().await;
}

/// Scenario: a log that would not keep a span. Guarantee: `/readyz` is 503 and says why; `/healthz` stays 200.
#[tokio::test]
async fn readiness_is_durability() {
    let ready = Setup { log: Some(MemoryLog::new(1)), ..Setup::default() }.start().await;
    assert_eq!(ready.get("/readyz").await.status, 200);
    ready.stop().await;
    let setup =
        Setup { log: Some(MemoryLog::new(1)), not_ready: Some("disk full".into()), ..Setup::default() };
    let server = setup.start().await;
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status.as_u16(), answer.json()["ready"].as_bool()), (503, Some(false)));
    assert!(answer.text().contains("disk full"));
    assert_eq!(server.get("/healthz").await.status, 200);
    let metrics = server.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    server.stop().await;
}
