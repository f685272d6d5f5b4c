//! What changes while the service runs.

use std::{collections::BTreeSet, sync::Arc};

use infertrace_query::search::SpanFilters;
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    common::{
        self, NOW_NS, Setup, client,
        log::MemoryLog,
        schema,
        spans::{self, TestSpan, hex_id},
    },
    support::{NOW_MS, PARTITIONS, listed, records, write_lake},
};

/// Scenario: spans arrive while a client listens, filtered and not. Guarantee: their traces come as events; the
/// stream ends with the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_traces_are_streamed() {
    let log = MemoryLog::new(1);
    let server = Setup { log: Some(Arc::clone(&log)), ..Setup::default() }.start().await;
    let mut every = client::events(server.address, "/api/v1/stream/traces").await;
    let mut failed =
        client::events(server.address, "/api/v1/stream/traces?status=error&service=engine").await;
    assert_eq!(every.next().await.unwrap().0, "ready");
    assert_eq!(failed.next().await.unwrap().0, "ready");
    let base = TestSpan {
        service: "engine",
        operation: "run",
        start_ns: NOW_NS,
        duration_ns: 5,
        ..TestSpan::default()
    };
    let fine = TestSpan { trace: 1, span: 1, ..base.clone() };
    let bad = TestSpan { trace: 2, span: 2, status: 2, ..base };
    log.push(0, spans::record(&[fine, bad]), NOW_MS);
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let (name, data) = every.next().await.unwrap();
        assert_eq!(name, "trace");
        seen.insert(data["trace_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, BTreeSet::from([hex_id(1), hex_id(2)]));
    let (name, data) = failed.next().await.unwrap();
    assert_eq!((name.as_str(), data["trace_id"].as_str()), ("trace", Some(hex_id(2).as_str())));
    let document = server.get("/openapi.json").await.json();
    let wrong = schema::violations(&document, &document["components"]["schemas"]["TraceSummary"], &data);
    assert!(wrong.is_empty(), "{wrong:#?}");
    server.stop().await;
    while every.next().await.is_some() {}
}

/// Scenario: the sink goes on writing while the service runs, and the hot window moves past what it wrote.
/// Guarantee: nothing is missing or doubled at any time; a gap between the tiers is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_move_from_hot_to_cold_without_a_gap() {
    let all = spans::varied(40);
    let records = records(&all);
    let log = MemoryLog::new(PARTITIONS);
    for (partition, records) in records.iter().enumerate() {
        for record in records {
            log.push(partition as u32, record.clone(), NOW_MS);
        }
    }
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let server = Setup { log: Some(Arc::clone(&log)), store: Some(Arc::clone(&store)), ..Setup::default() }
        .start()
        .await;
    let whole = spans::expected(&all, &SpanFilters::default());
    assert_eq!(listed(&server.get("/api/v1/traces?limit=100").await.json()), whole);
    write_lake(&store, &records[..2], |count| count).await;
    assert_eq!(listed(&server.get("/api/v1/traces?limit=100").await.json()), whole);
    // The window passes; the third partition is not in the lake yet.
    server.clock.advance(16 * 60 * 1_000_000_000);
    common::until("the hot tier is empty", || async {
        server.get("/api/v1/status").await.json()["tiers"]["hot"]["spans"] == 0
    })
    .await;
    let page = server.get("/api/v1/traces?limit=100").await.json();
    assert!(page["partial"].to_string().contains("partition 2"), "{page}");
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["tiers"]["hot"]["evicted"]["aged_spans"], all.len());
    write_lake(&store, &records, |count| count).await;
    common::until("the lake has it all", || async {
        let page = server.get("/api/v1/traces?limit=100").await.json();
        page["partial"] == serde_json::json!([]) && listed(&page) == whole
    })
    .await;
    server.stop().await;
}

/// Scenario: retention overtakes the hot tier's reader, and the topic grows by a partition.
/// Guarantee: reading goes on with what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_was_overtaken_goes_on() {
    let all = spans::varied(3);
    let log = MemoryLog::new(1);
    for span in &all {
        log.push(0, spans::record(std::slice::from_ref(span)), NOW_MS);
    }
    log.retain_from(0, 5);
    let server = Setup { log: Some(Arc::clone(&log)), ..Setup::default() }.start().await;
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["tiers"]["hot"]["spans"], all.len() - 5);
    assert_eq!(status["tiers"]["hot"]["partitions"][0]["from_offset"], 5);
    server.stop().await;
}
