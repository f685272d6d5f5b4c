//! Insights, baselines and rollups, as the processors publish them.

use std::sync::Arc;

use infertrace_schemas::{
    avro::{
        AvroRecord, Baseline, Cause, Evidence, Insight, InsightState, Recommendation, Rollup, SchemaIds,
        Severity, Sketch,
    },
    topics::{BASELINES, INSIGHTS, ROLLUPS, TRIAGE},
};
use serde_json::{Value as Json, json};

use crate::{
    common::{
        self, NOW_NS, Server, Setup, client,
        log::MemoryLog,
        schema,
        spans::{self, TestSpan, hex_id},
    },
    support::NOW_MS,
};

const SECOND: i64 = 1_000_000_000;

fn encode<R: AvroRecord>(record: &R) -> Vec<u8> {
    SchemaIds::embedded::<R>().encode(record).unwrap()
}

pub(crate) fn insight(id: &str, revision: i32, state: InsightState, age_s: i64) -> Insight {
    let opened = NOW_NS - age_s * SECOND;
    Insight {
        id: id.to_owned(),
        revision,
        state,
        kind: "ttft".to_owned(),
        severity: Severity::Warning,
        model: "llama".to_owned(),
        window_start_unix_nanos: opened - 10 * SECOND,
        window_end_unix_nanos: opened,
        opened_unix_nanos: opened,
        resolved_unix_nanos: (state == InsightState::Resolved).then_some(opened + 60 * SECOND),
        title: format!("Time to first token of llama tripled ({id})"),
        detector: "drift".to_owned(),
        detector_version: "1".to_owned(),
        evidence: vec![
            Evidence {
                metric: "ttft_micros".to_owned(),
                unit: "us".to_owned(),
                observed: 900_000.0,
                baseline: Some(300_000.0),
                samples: i64::MAX,
            },
            Evidence { metric: "queue_depth".to_owned(), observed: f64::NAN, ..Evidence::default() },
        ],
        causes: vec![Cause {
            cause: "queue".to_owned(),
            share: 0.8,
            explanation: "waits grew from 2 ms to 540 ms".to_owned(),
        }],
        recommendation: Some(Recommendation {
            text: "Add a replica".to_owned(),
            expected_gain: "p99 back to 0.3 s".to_owned(),
            confidence: 0.7,
        }),
        example_traces: vec![hex_id(2)],
        normal_traces: vec![hex_id(3)],
        ..Insight::default()
    }
}

pub(crate) fn log() -> Arc<MemoryLog> {
    let log = MemoryLog::new(1);
    for topic in [INSIGHTS, BASELINES, ROLLUPS] {
        log.add_topic(topic, 2);
    }
    log.add_topic(TRIAGE, 1);
    log
}

pub(crate) fn publish(log: &MemoryLog, partition: u32, insight: &Insight) {
    log.push_to(INSIGHTS, partition, encode(insight), NOW_MS);
}

pub(crate) async fn start(log: &Arc<MemoryLog>) -> Server {
    Setup { log: Some(Arc::clone(log)), ..Setup::default() }.start().await
}

pub(crate) fn ids(list: &Json) -> Vec<&str> {
    list["insights"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn assert_described(document: &Json, route: &str, answer: &Json) {
    let schema =
        &document["paths"][route]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{route} is not described");
    let wrong = schema::violations(document, schema, answer);
    assert!(wrong.is_empty(), "{route}: {wrong:#?}");
}

/// Scenario: insights in two partitions, some updated and resolved, among them records that nobody can read. Guarantee:
/// the list filters, pages and counts; one insight comes whole with its history; poison costs only itself and is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insights_are_listed_and_shown_whole() {
    let log = log();
    publish(&log, 0, &insight("a", 1, InsightState::Open, 300));
    log.push_to(INSIGHTS, 0, b"not avro".to_vec(), NOW_MS);
    log.push_to(INSIGHTS, 0, vec![0, 0x80, 1, 2, 3, 4], NOW_MS);
    publish(&log, 0, &insight("a", 2, InsightState::Updated, 300));
    publish(&log, 1, &insight("b", 1, InsightState::Resolved, 200));
    let page = Insight {
        severity: Severity::Page,
        kind: "errors".to_owned(),
        tenant: "acme".to_owned(),
        model: "qwen".to_owned(),
        ..insight("c", 1, InsightState::Open, 100)
    };
    publish(&log, 1, &page);
    let server = start(&log).await;
    let document = server.get("/openapi.json").await.json();

    let all = server.get("/api/v1/insights").await.json();
    assert_described(&document, "/api/v1/insights", &all);
    assert_eq!(ids(&all), ["c", "b", "a"]);
    assert_eq!(all["open"], json!({"page": 1, "warning": 1, "info": 0, "muted": 0}));
    for (query, wanted) in [
        ("state=open", vec!["c", "a"]),
        ("state=resolved", vec!["b"]),
        ("state=all&model=llama", vec!["b", "a"]),
        ("severity=page", vec!["c"]),
        ("kind=errors&tenant=acme&model=qwen&severity=PAGE&state=open", vec!["c"]),
        ("kind=nothing", vec![]),
        (&format!("end={}", NOW_NS - 250 * SECOND), vec!["a"]),
        (&format!("start={}", NOW_NS - 100 * SECOND), vec!["c", "a"]),
    ] {
        assert_eq!(ids(&server.get(&format!("/api/v1/insights?{query}")).await.json()), wanted, "{query}");
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/api/v1/insights?limit=1&cursor={cursor}")).await.json();
        found.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = next.to_owned();
    }
    assert_eq!(found, ["c", "b", "a"]);

    let answer = server.get("/api/v1/insights/a").await;
    let one = answer.json();
    assert_described(&document, "/api/v1/insights/{id}", &one);
    assert_eq!((&one["revision"], &one["state"]), (&json!(2), &json!("UPDATED")));
    assert_eq!(one["revisions"].as_array().unwrap().len(), 2);
    assert_eq!(one["revisions"][0]["recorded_unix_nano"], (NOW_MS * 1_000_000).to_string());
    assert_eq!((&one["evidence"][0]["ratio"], &one["evidence"][1]["ratio"]), (&json!(3.0), &Json::Null));
    assert_eq!(one["evidence"][0]["samples"], i64::MAX.to_string());
    assert_eq!(one["evidence"][1]["observed"], Json::Null);
    let again = server.get_with("/api/v1/insights/a", &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!(again.status, 304);

    let status = server.get("/api/v1/status").await.json();
    assert_described(&document, "/api/v1/status", &status);
    assert_eq!(
        (&status["insights"]["insights"], &status["insights"]["open"], &status["insights"]["poison_records"]),
        (&json!(3), &json!(2), &json!(2))
    );
    server.stop().await;
}

/// Scenario: parameters that no client should send. Guarantee: a problem document that names the parameter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_parameters_are_refused_by_name() {
    let log = log();
    publish(&log, 0, &insight("a", 1, InsightState::Open, 300));
    publish(&log, 0, &insight("b", 1, InsightState::Open, 200));
    let server = start(&log).await;
    let first = server.get("/api/v1/insights?limit=1&model=llama").await.json();
    let foreign = format!("/api/v1/insights?cursor={}", first["next_cursor"].as_str().unwrap());
    for (path, status, parameter) in [
        ("/api/v1/insights?state=closed", 400, "state"),
        ("/api/v1/insights?severity=high", 400, "severity"),
        ("/api/v1/insights?limit=0", 400, "limit"),
        ("/api/v1/insights?cursor=AAAA", 400, "cursor"),
        (&foreign, 400, "cursor"),
        ("/api/v1/insights?start=2&end=1", 400, "end"),
        ("/api/v1/insights?modle=x", 400, "modle"),
        ("/api/v1/insights/a?x=1", 400, "x"),
        ("/api/v1/insights/none", 404, ""),
        ("/api/v1/insights/stream?state=open", 400, "state"),
        ("/api/v1/baselines?limit=x", 400, "limit"),
        ("/api/v1/rollups?step=7s", 400, "step"),
        ("/api/v1/rollups?step=10s&start=2016-01-01T00:00:00Z", 400, "step"),
        ("/api/v1/rollups?start=0001-01-01T00:00:00Z&end=9999-12-31T00:00:00Z", 400, "step"),
        ("/api/v1/rollups?start=5&end=5", 400, "end"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["parameter"].as_str().unwrap_or_default(), parameter, "{path}");
    }
    let bad = server.get_with("/api/v1/insights/stream", &[("last-event-id", "nonsense")]).await;
    assert_eq!((bad.status.as_u16(), bad.json()["parameter"].as_str()), (400, Some("Last-Event-ID")));
    server.stop().await;
}

/// Scenario: a listener loses its stream, insights change meanwhile, it comes back with its last event id, then more come.
/// Guarantee: it is told the latest state of exactly what changed, and then what comes; a new listener only what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_resumes_where_it_was_left() {
    let log = log();
    publish(&log, 0, &insight("old", 1, InsightState::Open, 300));
    let server = start(&log).await;
    let path = "/api/v1/insights/stream?model=llama";
    let mut first = client::events(server.address, path).await;
    assert_eq!(first.next().await.unwrap().0, "ready");
    publish(&log, 1, &insight("a", 1, InsightState::Open, 50));
    let (name, data) = first.next().await.unwrap();
    assert_eq!((name.as_str(), data["id"].as_str()), ("insight", Some("a")));
    let document = server.get("/openapi.json").await.json();
    let wrong = schema::violations(&document, &document["components"]["schemas"]["Insight"], &data);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let last_id = first.last_id.clone();
    drop(first);

    publish(&log, 1, &insight("a", 2, InsightState::Updated, 50));
    publish(&log, 1, &insight("a", 3, InsightState::Resolved, 50));
    publish(&log, 0, &insight("b", 1, InsightState::Open, 40));
    publish(&log, 0, &Insight { model: "other".to_owned(), ..insight("c", 1, InsightState::Open, 40) });
    server.has_read(&log).await;
    let resume = [("last-event-id", last_id.as_str())];
    let mut second = client::events_with(server.address, path, &resume).await;
    assert_eq!(second.next().await.unwrap().0, "ready");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (_, data) = second.next().await.unwrap();
        seen.push((data["id"].as_str().unwrap().to_owned(), data["revision"].as_i64().unwrap()));
    }
    seen.sort();
    assert_eq!(seen, [("a".to_owned(), 3), ("b".to_owned(), 1)]);
    publish(&log, 0, &insight("d", 1, InsightState::Open, 1));
    assert_eq!(second.next().await.unwrap().1["id"], "d");
    server.stop().await;
    while second.next().await.is_some() {}
}

/// Scenario: traces of the model of an open insight, of its examples, of its normal case, of another model. Guarantee: a
/// trace names the insights that may be about it, in brief, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_names_its_insights() {
    let log = log();
    let span = |trace: u64, model: &'static str| TestSpan {
        trace,
        span: trace,
        service: "engine",
        operation: "run",
        model,
        start_ns: NOW_NS - 5 * SECOND,
        duration_ns: 1_000,
        ..TestSpan::default()
    };
    let all = [span(1, "llama"), span(2, "llama"), span(3, "llama"), span(4, "other")];
    log.push(0, spans::record(&all), NOW_MS);
    publish(&log, 0, &insight("open", 1, InsightState::Open, 60));
    publish(&log, 0, &insight("over", 1, InsightState::Resolved, 3_600));
    let server = start(&log).await;
    let document = server.get("/openapi.json").await.json();
    for (trace, wanted) in [
        (1, json!([["open", false]])),
        (2, json!([["open", true], ["over", true]])),
        (3, json!([])),
        (4, json!([])),
    ] {
        let found = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await.json();
        assert_described(&document, "/api/v1/traces/{trace_id}", &found);
        let brief = |one: &Json| json!([one["id"], one["is_example"]]);
        let named: Vec<Json> = found["insights"].as_array().unwrap().iter().map(brief).collect();
        assert_eq!(Json::from(named), wanted, "trace {trace}");
    }
    server.stop().await;
}

/// Scenario: baselines computed again, rollups of two windows of very different size, records that nobody can read. Guarantee: the latest baseline a key;
/// quantiles of all requests of a step together, nulls where nothing was counted; integers as decimal strings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn baselines_and_rollups() {
    let log = log();
    // No Avro, and a schema id that nobody knows, before the rest.
    for mangled in [vec![0, 1, 2], vec![0, 0x80, 0, 0, 1, 2]] {
        log.push_to(ROLLUPS, 1, mangled.clone(), NOW_MS);
        log.push_to(BASELINES, 0, mangled, NOW_MS);
    }
    for (hour, median) in [(None, 1.0), (Some(5), 2.0), (None, 3.0)] {
        let baseline = Baseline {
            model: "llama".to_owned(),
            metric: "ttft_micros".to_owned(),
            hour_of_week: hour,
            computed_unix_nanos: NOW_NS + median as i64,
            samples: i64::MAX,
            median,
            ..Baseline::default()
        };
        log.push_to(BASELINES, 0, encode(&baseline), NOW_MS);
    }
    let rollup = |age_s: i64, bin: i32, count: i64| Rollup {
        window_start_unix_nanos: NOW_NS - age_s * SECOND,
        window_nanos: 10 * SECOND,
        model: "llama".to_owned(),
        revision: 1,
        counters: [("requests".to_owned(), count)].into(),
        sketches: vec![Sketch {
            metric: "ttft_micros".to_owned(),
            relative_accuracy: 0.01,
            count,
            sum: 1_000.0 * count as f64,
            min: 0.0,
            max: 1e12,
            first_bin: bin,
            bin_counts: vec![count],
            ..Sketch::default()
        }],
        ..Rollup::default()
    };
    for one in [rollup(60, 700, 1), rollup(50, 350, 999), rollup(20, 350, 5)] {
        log.push_to(ROLLUPS, 1, encode(&one), NOW_MS);
    }
    let server = start(&log).await;
    let document = server.get("/openapi.json").await.json();

    let found = server.get("/api/v1/baselines?model=llama").await.json();
    assert_described(&document, "/api/v1/baselines", &found);
    let medians: Vec<_> = found["baselines"].as_array().unwrap().iter().map(|one| &one["median"]).collect();
    assert_eq!(medians, [&json!(3.0), &json!(2.0)]);
    assert_eq!(server.get("/api/v1/baselines?limit=1").await.json()["truncated"], true);
    assert_eq!(server.get("/api/v1/baselines?model=none").await.json()["baselines"], json!([]));

    let from = NOW_NS - 60 * SECOND;
    let path = format!("/api/v1/rollups?model=llama&start={from}&end={NOW_NS}&step=30s");
    let found = server.get(&path).await.json();
    assert_described(&document, "/api/v1/rollups", &found);
    assert_eq!(found["window_start_unix_nano"], json!([from.to_string(), (from + 30 * SECOND).to_string()]));
    assert_eq!(found["counters"]["requests"], json!(["1000", "5"]));
    let ttft = &found["metrics"]["ttft_micros"];
    assert_eq!(ttft["count"], json!(["1000", "5"]));
    // 350 and 700 are bins: gamma to the 350th is about 1,100, to the 700th about 1.2 million.
    let value = |name: &str| ttft[name][0].as_f64().unwrap();
    assert!(value("p99") < 1_200.0 && value("p50") == value("p99"), "{ttft}");
    assert_eq!(value("mean"), 1_000.0);
    let fine = server.get(&path.replace("30s", "10s")).await.json();
    assert_eq!(fine["counters"]["requests"], json!(["1", "999", null, null, "5", null]));
    assert!(fine["metrics"]["ttft_micros"]["p99"][0].as_f64().unwrap() > 1e6);
    let none = server.get("/api/v1/rollups?model=none").await.json();
    assert_described(&document, "/api/v1/rollups", &none);
    assert_eq!((&none["metrics"], &none["held_from_unix_nano"]), (&json!({}), &Json::Null));

    // Time passes: rollups leave by age.
    server.clock.advance(7 * 3_600 * SECOND);
    common::until("the rollups have left", || async {
        server.get("/api/v1/status").await.json()["insights"]["rollups"] == 0
    })
    .await;
    server.stop().await;
}

/// Scenario: a platform of an older version, whose log has no such topics. Guarantee: the API answers with nothing and
/// serves traces; nothing is reported as broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_not_there() {
    let log = MemoryLog::new(1);
    log.push(0, spans::record(&spans::varied(1)), NOW_MS);
    let server = start(&log).await;
    assert_eq!(server.get("/api/v1/insights").await.json()["insights"], json!([]));
    let found = server.get(&format!("/api/v1/traces/{}", hex_id(1))).await.json();
    assert_eq!(found["insights"], json!([]));
    let checks = server.get("/readyz").await.json();
    assert!(!checks.to_string().contains("\"insights\""), "{checks}");
    server.stop().await;
}
