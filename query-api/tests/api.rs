//! The API over hot spans, over a lake, and over both with an overlap.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{
    NOW_NS, Server, Setup, client, lake,
    log::MemoryLog,
    schema,
    spans::{self, TestSpan, Value, hex_id},
};
use infertrace_query::search::SpanFilters;
use infertrace_schemas::lake::LakeRoot;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::Value as Json;

const PARTITIONS: u32 = 3;
const NOW_MS: i64 = NOW_NS / 1_000_000;

/// Where the spans of a test lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    Hot,
    Lake,
    /// The lake has the older three quarters, the log and the hot tier the newer three.
    Both,
}

const PLACEMENTS: [Placement; 3] = [Placement::Hot, Placement::Lake, Placement::Both];

/// Records of two traces each, one list a partition; a trace stays in its partition.
fn records(all: &[TestSpan]) -> Vec<Vec<Vec<u8>>> {
    let mut by_partition: Vec<Vec<Vec<TestSpan>>> = vec![Vec::new(); PARTITIONS as usize];
    for chunk in all.chunks(6) {
        // A chunk cuts traces in two, so that a trace lies in several records.
        for partition in 0..u64::from(PARTITIONS) {
            let share: Vec<TestSpan> = chunk
                .iter()
                .filter(|span| span.trace % u64::from(PARTITIONS) == partition)
                .cloned()
                .collect();
            if !share.is_empty() {
                by_partition[partition as usize].push(share);
            }
        }
    }
    by_partition.iter().map(|shares| shares.iter().map(|share| spans::record(share)).collect()).collect()
}

async fn write_lake(store: &Arc<dyn ObjectStore>, records: &[Vec<Vec<u8>>], share: impl Fn(usize) -> usize) {
    for (partition, records) in records.iter().enumerate() {
        let until = share(records.len());
        let mut start = 0;
        while start < until {
            let end = (start + 5).min(until);
            lake::write_range(
                store,
                partition as u32,
                start as u64,
                &records[start..end],
                lake::Layout::default(),
            )
            .await;
            start = end;
        }
    }
}

async fn start(all: &[TestSpan], placement: Placement) -> Server {
    let records = records(all);
    let mut setup = Setup::default();
    if placement != Placement::Lake {
        let log = MemoryLog::new(PARTITIONS);
        for (partition, records) in records.iter().enumerate() {
            for (index, record) in records.iter().enumerate() {
                // Older than the window for the first quarter, when the lake has it.
                let is_old = placement == Placement::Both && index < records.len() / 4;
                let age_ms = if is_old { 3_600_000 } else { 60_000 };
                log.push(partition as u32, record.clone(), NOW_MS - age_ms);
            }
        }
        setup.log = Some(log);
    }
    if placement != Placement::Hot {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let share = |count: usize| if placement == Placement::Both { count * 3 / 4 } else { count };
        write_lake(&store, &records, share).await;
        setup.store = Some(store);
    }
    setup.start().await
}

fn span_ids(trace: &Json) -> Vec<String> {
    trace["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|span| span["span_id"].as_str().unwrap().to_owned())
        .collect()
}

fn listed(page: &Json) -> Vec<String> {
    page["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trace| trace["trace_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Scenario: traces hot, in the lake, and across both with an overlap and parts of traces on either side.
/// Guarantee: each span of a trace once, whole traces complete, tiers named as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_span_once_wherever_it_lies() {
    let all = spans::varied(60);
    for placement in PLACEMENTS {
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

/// A search: its query, and the same as filters.
fn searches() -> Vec<(String, SpanFilters)> {
    let none = SpanFilters::default;
    let text = |text: &str| Some(text.to_owned());
    let attribute = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let from = NOW_NS - 40_000_000_000;
    let to = NOW_NS - 20_000_000_000;
    vec![
        (String::new(), none()),
        ("service=engine".into(), SpanFilters { service: text("engine"), ..none() }),
        ("service=nowhere".into(), SpanFilters { service: text("nowhere"), ..none() }),
        ("operation=rank".into(), SpanFilters { operation: text("rank"), ..none() }),
        ("model=mixtral".into(), SpanFilters { model: text("mixtral"), ..none() }),
        (
            "model=o%27hara%20%22quoted%22%20100%25".into(),
            SpanFilters { model: text("o'hara \"quoted\" 100%"), ..none() },
        ),
        ("status=error".into(), SpanFilters { status: Some(2), ..none() }),
        (
            "status=ok&service=gateway".into(),
            SpanFilters { status: Some(1), service: text("gateway"), ..none() },
        ),
        ("status=unset".into(), SpanFilters { status: Some(0), ..none() }),
        ("min_duration_ms=80".into(), SpanFilters { min_duration_ns: Some(80_000_000), ..none() }),
        ("max_duration_ms=2.5".into(), SpanFilters { max_duration_ns: Some(2_500_000), ..none() }),
        (
            "service=engine&min_duration_ms=50&max_duration_ms=60".into(),
            SpanFilters {
                service: text("engine"),
                min_duration_ns: Some(50_000_000),
                max_duration_ns: Some(60_000_000),
                ..none()
            },
        ),
        (format!("start={from}&end={to}"), SpanFilters { start_ns: Some(from), end_ns: Some(to), ..none() }),
        (format!("end={}", from / 1_000_000_000), SpanFilters { end_ns: Some(from), ..none() }),
        (
            "attr=http.route%3D%2Fv1%2Fchat".into(),
            SpanFilters { attributes: attribute("http.route", "/v1/chat"), ..none() },
        ),
        ("attr=retries%3D3".into(), SpanFilters { attributes: attribute("retries", "3"), ..none() }),
        ("attr=ratio%3D0.25".into(), SpanFilters { attributes: attribute("ratio", "0.25"), ..none() }),
        ("attr=cached%3Dtrue".into(), SpanFilters { attributes: attribute("cached", "true"), ..none() }),
        ("attr=tags%3Dgreen".into(), SpanFilters { attributes: attribute("tags", "green"), ..none() }),
        ("attr=tags%3Dgre".into(), SpanFilters { attributes: attribute("tags", "gre"), ..none() }),
        (
            "attr=deployment.environment%3Dcanary".into(),
            SpanFilters { attributes: attribute("deployment.environment", "canary"), ..none() },
        ),
        (
            "attr=retries%3D1&attr=cached%3Dfalse&service=ranker".into(),
            SpanFilters {
                service: text("ranker"),
                attributes: vec![("retries".into(), "1".into()), ("cached".into(), "false".into())],
                ..none()
            },
        ),
        ("attr=nothing%3D".into(), SpanFilters { attributes: attribute("nothing", ""), ..none() }),
    ]
}

/// Scenario: every filter over spans hot, in the lake and across both. Guarantee: exactly the traces in which one
/// span satisfies all of it, in order of that span's start, newest first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_find_what_a_plain_loop_finds() {
    let all = spans::varied(60);
    for placement in PLACEMENTS {
        let server = start(&all, placement).await;
        for (query, filters) in searches() {
            let wanted = spans::expected(&all, &filters);
            let answer = server.get(&format!("/api/v1/traces?limit=100&{query}")).await;
            assert_eq!(answer.status, 200, "{placement:?} {query}: {}", answer.text());
            let page = answer.json();
            assert_eq!(listed(&page), wanted, "{placement:?} {query} {}", page["partial"]);
            assert_eq!(
                (&page["truncated"], &page["next_cursor"]),
                (&Json::Bool(false), &Json::Null),
                "{query}"
            );
            assert_eq!(page["partial"], serde_json::json!([]), "{placement:?} {query}");
        }
        server.stop().await;
    }
}

/// Scenario: searches read page by page, with many page sizes. Guarantee: the pages put together are the whole
/// list, no trace twice, none left out; each trace has all of its spans in its summary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_put_together_are_the_list() {
    let mut all = spans::varied(60);
    // A trace that goes on for the whole time, and two that start at one moment.
    for span in &mut all {
        if span.trace == 7 && span.parent != 0 {
            span.start_ns = NOW_NS - (span.span % 10) as i64 * 5_000_000_000;
        }
        if span.trace == 30 || span.trace == 31 {
            span.start_ns = NOW_NS - 31_000_000_000;
        }
    }
    let queries = [
        ("", SpanFilters::default()),
        ("service=engine", SpanFilters { service: Some("engine".into()), ..Default::default() }),
    ];
    for placement in PLACEMENTS {
        let server = start(&all, placement).await;
        for (query, filters) in &queries {
            let wanted = spans::expected(&all, filters);
            for limit in [1, 2, 3, 7, 13, wanted.len(), wanted.len() + 1] {
                let mut found = Vec::new();
                let mut cursor = String::new();
                loop {
                    let page = server
                        .get(&format!("/api/v1/traces?{query}&limit={limit}&cursor={cursor}"))
                        .await
                        .json();
                    assert!(page["traces"].as_array().unwrap().len() <= limit);
                    for trace in page["traces"].as_array().unwrap() {
                        assert_eq!(trace["span_count"], 4, "{placement:?} {trace}");
                    }
                    found.extend(listed(&page));
                    match page["next_cursor"].as_str() {
                        Some(next) => cursor = next.to_owned(),
                        None => break,
                    }
                    assert!(found.len() <= wanted.len(), "{placement:?} {query} {limit}: pages without end");
                }
                assert_eq!(found, wanted, "{placement:?} {query:?} by {limit}");
            }
        }
        server.stop().await;
    }
}

/// Scenario: input that no client should send. Guarantee: a problem document that names the parameter, never a 500.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_input_is_refused_by_name() {
    let server = start(&spans::varied(3), Placement::Both).await;
    let long = "x".repeat(2_000);
    let many = "attr=a%3Db&".repeat(17);
    let refused = [
        ("/api/v1/traces?limit=0", 400, "limit"),
        ("/api/v1/traces?limit=-1", 400, "limit"),
        ("/api/v1/traces?limit=ten", 400, "limit"),
        ("/api/v1/traces?status=bad", 400, "status"),
        ("/api/v1/traces?min_duration_ms=NaN", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=1e300", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=-5", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=5&max_duration_ms=4", 400, "max_duration_ms"),
        ("/api/v1/traces?start=yesterday", 400, "start"),
        ("/api/v1/traces?start=2&end=1", 400, "end"),
        ("/api/v1/traces?attr=novalue", 400, "attr"),
        ("/api/v1/traces?attr=%3Dvalue", 400, "attr"),
        ("/api/v1/traces?cursor=AAAA", 400, "cursor"),
        ("/api/v1/traces?cursor=%00%ff", 400, "cursor"),
        ("/api/v1/traces?servise=x", 400, "servise"),
        ("/api/v1/traces?service=a&service=b", 400, "service"),
        (&format!("/api/v1/traces?service={long}"), 400, "service"),
        (&format!("/api/v1/traces?{many}"), 400, "attr"),
        ("/api/v1/traces/xyz", 400, "trace_id"),
        ("/api/v1/traces/0", 400, "trace_id"),
        (&format!("/api/v1/traces/{}", "a".repeat(33)), 400, "trace_id"),
        (&format!("/api/v1/traces/{}?format=xml", hex_id(1)), 400, "format"),
        (&format!("/api/v1/traces/{}?pretty=1", hex_id(1)), 400, "pretty"),
        ("/api/v1/services?limit=1", 400, "limit"),
        ("/api/v1/stream/traces?status=meh", 400, "status"),
        ("/api/v1/nothing", 404, ""),
        ("/api", 404, ""),
    ];
    for (path, status, parameter) in refused {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        let problem = answer.json();
        assert_eq!(problem["parameter"].as_str().unwrap_or_default(), parameter, "{path}: {problem}");
        assert!(!problem["detail"].as_str().unwrap_or_default().is_empty(), "{path}");
    }
    let taken = [
        "/api/v1/traces?limit=99999999999999999999999999",
        "/api/v1/traces?service=%27%3B%20DROP%20TABLE%20spans%3B--",
        "/api/v1/traces?service=%00%01%ff",
        "/api/v1/traces?start=2016-01-01T00:00:00Z&end=2036-01-01T00:00:00Z",
        "/api/v1/traces?start=0001-01-01T00:00:00Z&end=9999-12-31T00:00:00Z",
        "/api/v1/traces?attr=a%3Db%3Dc%3Dd",
        "/api/v1/traces?attr=x%3D%7B%22a%22%3A%7B%22b%22%3A%5B1%5D%7D%7D",
        "/api/v1/traces?attr=x%3D1e309&attr=y%3D-0&attr=z%3DNaN",
        "/api/v1/traces?service=&limit=&cursor=",
    ];
    for path in taken {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let lowered = server.get("/api/v1/traces?limit=100000").await.json();
    assert_eq!((&lowered["truncated"], &lowered["limit"]), (&Json::Bool(true), &serde_json::json!(500)));
    let first = server.get("/api/v1/traces?limit=1").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let foreign = server.get(&format!("/api/v1/traces?service=engine&cursor={cursor}")).await;
    assert_eq!((foreign.status.as_u16(), foreign.json()["parameter"].as_str()), (400, Some("cursor")));
    let posted = client::request(server.address, "POST", "/api/v1/traces", &[]).await;
    assert_eq!((posted.status.as_u16(), posted.header("content-type")), (405, "application/problem+json"));
    server.stop().await;
}

/// Scenario: a data file overwritten, one cut short, one gone, one full of noise inside, a torn manifest.
/// Guarantee: every answer comes, names what is missing, and has everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_costs_only_itself() {
    let all = spans::varied(60);
    let records = records(&all);
    for damage in ["garbage", "cut", "gone", "noise", "manifest"] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        write_lake(&store, &records, |count| count).await;
        let root = LakeRoot::new(lake::ROOT);
        let prefix = Path::from(root.spans());
        let listing: Vec<_> = futures::TryStreamExt::try_collect(store.list(Some(&prefix))).await.unwrap();
        let file = listing.iter().find(|file| file.location.as_ref().contains("p00001-o")).unwrap();
        let bytes = store.get(&file.location).await.unwrap().bytes().await.unwrap();
        match damage {
            "garbage" => drop(store.put(&file.location, vec![7u8; bytes.len()].into()).await.unwrap()),
            "cut" => drop(store.put(&file.location, bytes.slice(..bytes.len() / 2).into()).await.unwrap()),
            "gone" => store.delete(&file.location).await.unwrap(),
            "noise" => {
                let mut noisy = bytes.to_vec();
                let data = noisy.len() / 2;
                noisy[8..data].fill(0x5a);
                store.put(&file.location, noisy.into()).await.unwrap();
            }
            _ => {
                let path = Path::from(root.manifest(1, 0));
                store.put(&path, b"{\"version\":1,".to_vec().into()).await.unwrap();
            }
        }
        let server = Setup { store: Some(store), ..Setup::default() }.start().await;
        let page = server.get("/api/v1/traces?limit=100").await;
        assert_eq!(page.status, 200, "{damage}: {}", page.text());
        let page = page.json();
        let partial = page["partial"].as_array().unwrap();
        assert!(!partial.is_empty(), "{damage}: {page}");
        let named = partial.iter().any(|problem| problem["what"].as_str().unwrap().contains("p00001"));
        assert!(named, "{damage}: {partial:?}");
        let untouched = (1..=60).filter(|trace| trace % 3 != 1).map(hex_id);
        let found: BTreeSet<String> = listed(&page).into_iter().collect();
        for id in untouched {
            assert!(found.contains(&id), "{damage}: {id} is gone");
        }
        let by_engine = server.get("/api/v1/traces?limit=100&service=engine&attr=cached%3Dtrue").await;
        assert_eq!(by_engine.status, 200, "{damage}");
        for trace in 1..=60 {
            let answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await;
            if trace % 3 != 1 {
                assert_eq!(answer.status, 200, "{damage}");
                assert_eq!(answer.json()["spans"].as_array().unwrap().len(), 4, "{damage}");
                continue;
            }
            match answer.status.as_u16() {
                200 => {
                    let found = answer.json();
                    let whole = found["spans"].as_array().unwrap().len() == 4;
                    assert!(whole || found["complete"] == false, "{damage} {trace}: {found}");
                }
                404 => assert!(!answer.json()["partial"].as_array().unwrap().is_empty(), "{damage}"),
                other => panic!("{damage}: {other} {}", answer.text()),
            }
        }
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
