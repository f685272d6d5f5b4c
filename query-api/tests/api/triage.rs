//! What people decide about insights: acknowledged, muted, resolved, taken back.

use bytes::Bytes;
use infertrace_query::config::Config;
use infertrace_schemas::{
    avro::{Insight, InsightState, SchemaIds, Severity, Triage, TriageStatus},
    topics::TRIAGE,
};
use serde_json::{Value as Json, json};

use crate::{
    common::{NOW_NS, Server, Setup, client, schema},
    insights::{ids, insight, log, publish, start},
};

const HOUR: i64 = 3_600_000_000_000;

async fn put(server: &Server, id: &str, body: &Json) -> client::Answer {
    let path = format!("/api/v1/insights/{id}/triage");
    client::request_with(server.address, "PUT", &path, &[], Bytes::from(body.to_string())).await
}

async fn delete(server: &Server, id: &str) -> client::Answer {
    client::request(server.address, "DELETE", &format!("/api/v1/insights/{id}/triage"), &[]).await
}

async fn standing(server: &Server, id: &str) -> Json {
    server.get(&format!("/api/v1/insights/{id}")).await.json()["triage"]["standing"].clone()
}

async fn listed(server: &Server, state: &str) -> (Vec<String>, Json) {
    let page = server.get(&format!("/api/v1/insights?state={state}")).await.json();
    (ids(&page).into_iter().map(str::to_owned).collect(), page["open"].clone())
}

fn until(age_ns: i64) -> String {
    (NOW_NS + age_ns).to_string()
}

/// Scenario: of three open warnings one is muted, one acknowledged, one resolved, on one node; another node reads the same
/// log, as after a restart. Guarantee: the answers are as described and durable in the topic, by id; lists and counts of both
/// nodes follow; a mute ends by itself; a decision that is taken back is gone on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_hold_on_every_node() {
    let log = log();
    for (id, age_s) in [("muted", 300), ("seen", 200), ("over", 100)] {
        publish(&log, 0, &insight(id, 1, InsightState::Open, age_s));
    }
    let server = start(&log).await;
    let document = server.get("/openapi.json").await.json();
    let route = &document["paths"]["/api/v1/insights/{id}/triage"];
    let described = |method: &str, answer: &client::Answer| {
        let media = answer.header("content-type");
        let schema = &route[method]["responses"][answer.status.as_str()]["content"][media]["schema"];
        assert!(schema.is_object(), "{method} {} is not described", answer.status);
        let wrong = schema::violations(&document, schema, &answer.json());
        assert!(wrong.is_empty(), "{wrong:#?}");
    };
    let muted =
        put(&server, "muted", &json!({"muted_until_unix_nano": until(HOUR), "author": "on call"})).await;
    described("put", &muted);
    assert_eq!(muted.status, 200, "{}", muted.text());
    let triage = &muted.json()["triage"];
    assert_eq!([&triage["status"], &triage["standing"], &triage["severity"]], ["OPEN", "MUTED", "WARNING"]);
    assert_eq!([&triage["author"], &triage["decided_unix_nano"]], ["on call", &NOW_NS.to_string()]);
    assert_eq!(put(&server, "seen", &json!({"status": "ACKNOWLEDGED"})).await.status, 200);
    assert_eq!(put(&server, "over", &json!({"status": "RESOLVED", "note": "bad probe"})).await.status, 200);
    assert_eq!(log.ends(TRIAGE), [3]);

    let other = start(&log).await;
    server.has_read(&log).await;
    for node in [&server, &other] {
        let counts = json!({"page": 0, "warning": 1, "info": 0, "muted": 1});
        assert_eq!(listed(node, "open").await, (vec!["seen".to_owned(), "muted".to_owned()], counts));
        assert_eq!(listed(node, "resolved").await.0, ["over"]);
        assert_eq!(standing(node, "seen").await, "ACKNOWLEDGED");
        let one = node.get("/api/v1/insights/over").await.json();
        assert_eq!([&one["state"], &one["triage"]["standing"]], ["OPEN", "RESOLVED"]);
        let detail = &document["components"]["schemas"]["InsightDetail"];
        assert_eq!(schema::violations(&document, detail, &one), Vec::<String>::new());
    }
    other.clock.advance(HOUR);
    assert_eq!(standing(&other, "muted").await, "OPEN");

    let back = delete(&other, "over").await;
    described("delete", &back);
    assert_eq!(back.json()["triage"], Json::Null);
    for node in [&server, &other] {
        node.has_read(&log).await;
        assert_eq!(listed(node, "open").await.0, ["over", "seen", "muted"]);
    }
    server.stop().await;
    other.stop().await;
}

/// Scenario: a warning is resolved by a person; it gets worse; another one is resolved, its detector finds it over, and it
/// comes back. Guarantee: what gets worse and what comes back is open again; what merely goes on is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolution_covers_no_more_than_was_meant() {
    let log = log();
    for id in ["worse", "back"] {
        publish(&log, 0, &insight(id, 1, InsightState::Open, 300));
    }
    let server = start(&log).await;
    for id in ["worse", "back"] {
        assert_eq!(put(&server, id, &json!({"status": "RESOLVED"})).await.status, 200);
        publish(&log, 0, &insight(id, 2, InsightState::Updated, 300));
    }
    server.has_read(&log).await;
    assert_eq!(listed(&server, "open").await.0, Vec::<String>::new());
    let page = Insight { severity: Severity::Page, ..insight("worse", 3, InsightState::Updated, 300) };
    publish(&log, 0, &page);
    publish(&log, 0, &insight("back", 3, InsightState::Resolved, 300));
    publish(&log, 0, &insight("back", 4, InsightState::Updated, 300));
    server.has_read(&log).await;
    assert_eq!(listed(&server, "open").await.0, ["worse", "back"]);
    server.stop().await;
}

/// Scenario: a listener sees a decision, loses its stream, and comes back after another one, which came from elsewhere.
/// Guarantee: it is told of each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_tells_of_decisions() {
    let log = log();
    publish(&log, 0, &insight("a", 1, InsightState::Open, 300));
    publish(&log, 0, &insight("b", 1, InsightState::Open, 300));
    let server = start(&log).await;
    let path = "/api/v1/insights/stream";
    let mut first = client::events(server.address, path).await;
    assert_eq!(first.next().await.unwrap().0, "ready");
    put(&server, "a", &json!({"status": "ACKNOWLEDGED"})).await;
    let (_, told) = first.next().await.unwrap();
    assert_eq!([&told["id"], &told["triage"]["status"]], ["a", "ACKNOWLEDGED"]);
    let last_id = first.last_id.clone();
    drop(first);
    put(&server, "b", &json!({"status": "RESOLVED"})).await;
    server.has_read(&log).await;
    let mut second = client::events_with(server.address, path, &[("last-event-id", &last_id)]).await;
    assert_eq!(second.next().await.unwrap().0, "ready");
    assert_eq!(second.next().await.unwrap().1["id"], "b");
    delete(&server, "b").await;
    let (_, told) = second.next().await.unwrap();
    assert_eq!([&told["id"], &told["triage"]], [&json!("b"), &Json::Null]);
    server.stop().await;
}

/// Scenario: bodies, ids and methods that no client should send; a node on which decisions are switched off; records in the
/// topic that nobody can read. Guarantee: a problem document that says why and nothing written; poison costs only itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decided_is_refused() {
    let log = log();
    publish(&log, 0, &insight("a", 1, InsightState::Open, 300));
    log.push_to(TRIAGE, 0, b"not avro".to_vec(), 0);
    let server = start(&log).await;
    for (id, body, status, word) in [
        ("a", json!({"status": "GONE"}), 400, "GONE"),
        ("a", json!({"mute": true}), 400, "mute"),
        ("a", json!(5), 400, "invalid type"),
        ("a", json!({"muted_until_unix_nano": 5}), 400, "string"),
        ("a", json!({"muted_until_unix_nano": "soon"}), 400, "decimal"),
        ("a", json!({"muted_until_unix_nano": until(0)}), 400, "not after"),
        ("a", json!({"muted_until_unix_nano": until(31 * 24 * HOUR)}), 400, "30 days"),
        ("a", json!({"author": "x".repeat(201)}), 400, "author"),
        ("a", json!({"note": "x".repeat(20_000)}), 400, "limit"),
        ("none", json!({}), 404, "none"),
    ] {
        let answer = put(&server, id, &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{body}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{detail}");
    }
    assert_eq!(delete(&server, "none").await.status, 404);
    let posted = client::request(server.address, "POST", "/api/v1/insights/a/triage", &[]).await;
    assert_eq!(posted.status, 405);
    assert_eq!(log.ends(TRIAGE), [1]);
    assert_eq!(server.get("/api/v1/status").await.json()["insights"]["poison_records"], 1);
    server.stop().await;

    let mut config = Config::default();
    config.insights.triage = false;
    let closed = Setup { log: Some(log.clone()), config, ..Setup::default() }.start().await;
    let refused = put(&closed, "a", &json!({"status": "RESOLVED"})).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].as_str()), (403, Some("triage_off")));
    assert_eq!(log.ends(TRIAGE), [1]);
    closed.stop().await;
}

/// Scenario: a decision stands in the topic before its insight does. Guarantee: the insight appears with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_may_come_before_its_insight() {
    let log = log();
    let triage = Triage {
        insight_id: "a".to_owned(),
        status: TriageStatus::Acknowledged,
        severity: Severity::Warning,
        decided_unix_nanos: NOW_NS,
        ..Triage::default()
    };
    let payload = SchemaIds::embedded::<Triage>().encode(&triage).unwrap();
    log.push_keyed(TRIAGE, "a", payload, NOW_NS / 1_000_000);
    let server = start(&log).await;
    publish(&log, 0, &insight("a", 1, InsightState::Open, 300));
    server.has_read(&log).await;
    assert_eq!(standing(&server, "a").await, "ACKNOWLEDGED");
    server.stop().await;
}
