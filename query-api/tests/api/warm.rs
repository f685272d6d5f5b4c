//! ClickHouse as a tier: the same answers, gone and back, of another schema, under hostile texts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use infertrace_proto::v1;
use infertrace_schemas::record::encode_share;
use infertrace_tests::clickhouse::ClickHouse;
use object_store::{ObjectStore, memory::InMemory};
use prost::Message as _;
use serde_json::Value as Json;

use crate::{
    common::{
        NOW_NS, Server, Setup, lake,
        log::MemoryLog,
        schema,
        spans::{self, TestSpan, Value, hex_id},
        until, warm,
    },
    support::{NOW_MS, Placement, listed, records, start},
};

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// An answer without the names of tiers.
fn without_tiers(mut answer: Json) -> Json {
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("tiers");
        fields.remove("tier");
    }
    match &mut answer {
        Json::Object(fields) => fields.values_mut().for_each(|value| *value = without_tiers(value.take())),
        Json::Array(items) => items.iter_mut().for_each(|value| *value = without_tiers(value.take())),
        _ => {}
    }
    answer
}

fn everything() -> Vec<v1::KeyValue> {
    use v1::any_value::Value as Any;
    let bytes = v1::AnyValue { value: Some(Any::BytesValue(vec![0, 255, 1])) };
    vec![
        spans::attribute("text", &Value::Text("ü\"\\\n\t'")),
        spans::attribute("empty", &Value::Text("")),
        spans::attribute("int", &Value::Int(i64::MIN)),
        spans::attribute("double", &Value::Double(-0.1)),
        spans::attribute("bool", &Value::Bool(false)),
        spans::attribute("texts", &Value::Texts(vec!["a", "b"])),
        v1::KeyValue { key: "bytes".to_owned(), value: Some(bytes) },
        v1::KeyValue { key: "nothing".to_owned(), value: None },
    ]
}

/// A record of one trace: a span with every field, one with few, and one that began an hour later.
fn full_record() -> Vec<u8> {
    let attributes = everything();
    let root = v1::Span {
        trace_id: spans::trace_id(1).to_vec(),
        span_id: vec![0, 255, 3, 4, 5, 6, 7, 8],
        service_name: "chat".to_owned(),
        operation_name: "generate \u{1F600}".to_owned(),
        start_time_unix_nano: NOW_NS + 123_456_789,
        duration_nanos: 5_000_000_001,
        kind: 2,
        ..Default::default()
    };
    let full = v1::Span {
        span_id: vec![9; 8],
        parent_span_id: root.span_id.clone(),
        status: Some(v1::Status { code: 2, message: "why".to_owned() }),
        kind: 3,
        inference: Some(v1::InferenceContext {
            model_name: "llama".to_owned(),
            model_version: "1.4".to_owned(),
            framework: "vllm".to_owned(),
            batch_size: Some(0),
            max_batch_size: Some(u32::MAX),
            input_tokens: Some(1),
            output_tokens: Some(3),
            sequence_length: Some(u64::from(u32::MAX) + 1),
            request_id: "req-1".to_owned(),
            streaming: Some(false),
            ttft_nanos: Some(5),
            ..Default::default()
        }),
        resources: Some(v1::ResourceMetrics {
            gpu: Some(v1::GpuMetrics {
                device_id: "GPU-1".to_owned(),
                instance_type: "p5.48xlarge".to_owned(),
                utilization_percent: Some(25.5),
                memory_total_bytes: Some(u64::MAX / 2),
                temperature_celsius: Some(-1.0),
                ..Default::default()
            }),
            ..Default::default()
        }),
        attributes: attributes.clone(),
        events: vec![
            v1::Event {
                time_unix_nano: NOW_NS as u64 + 5,
                name: "retry".to_owned(),
                attributes: attributes.clone(),
                dropped_attributes_count: 3,
            },
            v1::Event::default(),
        ],
        links: vec![v1::Link {
            trace_id: vec![200; 16],
            span_id: vec![201; 8],
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
        pipeline: Some(v1::PipelineContext {
            stage: "decode".to_owned(),
            queue_depth: Some(0),
            queue_wait_time_ms: Some(0.25),
            cache_hit: Some(true),
            ..Default::default()
        }),
        tokens: Some(v1::TokenTimeline {
            ids: vec![10, 0, u32::MAX],
            generation_micros_delta: vec![9, 8, -1],
            attention_micros: vec![1, 2, 3],
            ffn_micros: Vec::new(),
            batch_sizes: vec![4, 4, 5],
            texts: vec!["a".to_owned(), String::new(), "ü".to_owned()],
        }),
        ..root.clone()
    };
    let late = v1::Span {
        span_id: vec![7; 8],
        parent_span_id: root.span_id.clone(),
        start_time_unix_nano: NOW_NS + 3_600_000_000_000,
        kind: 1,
        ..root.clone()
    };
    let origin = v1::Origin {
        resource: Some(v1::Resource { attributes: attributes.clone(), dropped_attributes_count: 8 }),
        scope: Some(v1::Scope {
            name: "lib".to_owned(),
            version: "2".to_owned(),
            attributes,
            dropped_attributes_count: 9,
        }),
        resource_schema_url: "https://r".to_owned(),
        scope_schema_url: "https://s".to_owned(),
    };
    let encoded = [root, full, late].map(|span| span.encode_to_vec());
    encode_share("acme", &[], encoded.iter().map(Vec::as_slice), &[&origin.encode_to_vec()])
}

/// Scenario: a trace with every field, every type of attribute, events, links and a timeline, over an hour, in each tier.
/// Guarantee: each tier's answer is the others' but for the tier's name; as OTLP it is the same byte for byte; a missing
/// id is missing; the answers are as described.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_the_same_from_each_tier() {
    let Some(server) = warm::server().await else { return };
    let record = full_record();
    let one = vec![vec![record.clone()]];
    warm::fill(&server.url(), &one, |count| count).await;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    lake::write_range(&store, 0, 0, std::slice::from_ref(&record), lake::Layout::default()).await;
    let hot = MemoryLog::new(1);
    hot.push(0, record.clone(), NOW_MS);
    let old = MemoryLog::new(1);
    old.push(0, record, NOW_MS - 3_600_000);
    old.commit(warm::GROUP, 0, 1);
    let setups = [
        ("hot", Setup { log: Some(hot), ..Setup::default() }),
        ("warm", Setup { log: Some(old), warm: Some(warm::source(&server.url())), ..Setup::default() }),
        ("cold", Setup { store: Some(store), ..Setup::default() }),
    ];
    let mut answers = Vec::new();
    for (tier, setup) in setups {
        let server = setup.start().await;
        let path = format!("/api/v1/traces/{}", hex_id(1));
        let json = server.get(&path).await.json();
        assert_eq!(json["tiers"], serde_json::json!([tier]), "{json}");
        assert_eq!(
            (&json["warnings"], &json["complete"]),
            (&serde_json::json!([]), &Json::Bool(true)),
            "{tier}"
        );
        assert!(json["spans"].as_array().unwrap().iter().all(|span| span["tier"] == tier));
        let document = server.get("/openapi.json").await.json();
        for (route, path) in
            [("/api/v1/traces/{trace_id}", path.as_str()), ("/api/v1/status", "/api/v1/status")]
        {
            let described =
                &document["paths"][route]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
            let found = schema::violations(&document, described, &server.get(path).await.json());
            assert!(found.is_empty(), "{tier} {route}: {found:?}");
        }
        let otlp = server.get(&format!("{path}?format=otlp")).await.text();
        assert_eq!(server.get(&format!("/api/v1/traces/{}", hex_id(99))).await.status, 404);
        answers.push((without_tiers(json), otlp));
        server.stop().await;
    }
    assert_eq!(answers[0].0["spans"].as_array().unwrap().len(), 3);
    assert!(answers[0].1.contains("https://r"));
    assert_eq!(answers[0], answers[1], "hot and warm");
    assert_eq!(answers[0], answers[2], "hot and cold");
}

/// Kills or restarts ClickHouse without blocking the test's runtime.
async fn change(mut server: ClickHouse, change: impl FnOnce(&mut ClickHouse) + Send + 'static) -> ClickHouse {
    let work = move || {
        change(&mut server);
        server
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn is_back(server: &Server) {
    until("ClickHouse is read again", || async {
        server.get("/api/v1/status").await.json()["tiers"]["warm"]["error"].is_null()
    })
    .await;
}

/// Scenario: ClickHouse is killed while it alone holds the spans, asked for a trace and a search, and started again.
/// Guarantee: answers come, say which offsets of which partitions are out of reach, and are whole again by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_clickhouse_holds_is_named_while_it_is_away() {
    if !ClickHouse::is_installed() {
        return;
    }
    let all = spans::varied(30);
    let mut server = start(&all, Placement::Warm).await;
    let path = format!("/api/v1/traces/{}", hex_id(7));
    let before = server.get(&path).await.json();
    assert_eq!(before["complete"], true);
    let clickhouse = server.clickhouse.take().unwrap();
    let clickhouse = change(clickhouse, ClickHouse::kill).await;
    for _ in 0..2 {
        let page = server.get("/api/v1/traces?service=engine").await;
        assert_eq!(page.status, 200);
        let page = page.json();
        let problem = &page["partial"][0];
        assert_eq!(problem["tier"], "warm", "{page}");
        let count = records(&all)[0].len();
        assert_eq!(problem["what"], format!("partition 0, offsets 0..{count}"));
        assert!(problem["detail"].as_str().unwrap().contains("gave no answer"), "{page}");
        let missing = server.get(&path).await;
        assert_eq!(missing.status, 404);
        let missing = missing.json();
        assert_eq!(missing["partial"].as_array().unwrap().len(), 3, "{missing}");
        assert!(missing["detail"].as_str().unwrap().contains("what could be read"), "{missing}");
    }
    let ready = server.get("/readyz").await.json();
    let check =
        ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == "warm tier").cloned();
    assert_eq!(
        check.map(|check| (check["ok"].clone(), check["required"].clone())),
        Some((false.into(), false.into()))
    );
    assert_eq!(ready["ready"], true);
    let clickhouse = change(clickhouse, |server| server.restart().unwrap()).await;
    is_back(&server).await;
    assert_eq!(server.get(&path).await.json(), before);
    drop(clickhouse);
    server.stop().await;
}

/// Scenario: the same where the lake or the hot tier holds everything too. Guarantee: the same spans and lists as before,
/// nothing called missing, and a warning that the tier is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_tiers_answer_where_they_can() {
    if !ClickHouse::is_installed() {
        return;
    }
    let all = spans::varied(30);
    let mut server = start(&all, Placement::Three).await;
    let path = format!("/api/v1/traces/{}", hex_id(15));
    let query = format!("/api/v1/traces?limit=100&q={}", encoded("{ .retries >= 3 }"));
    let before = (server.get(&path).await.json(), server.get(&query).await.json());
    assert_eq!(before.1["warnings"], serde_json::json!([]));
    let clickhouse = change(server.clickhouse.take().unwrap(), ClickHouse::kill).await;
    let mut after = (server.get(&path).await.json(), server.get(&query).await.json());
    for answer in [&mut after.0, &mut after.1] {
        assert_eq!(answer["partial"], serde_json::json!([]), "{answer}");
        let warnings = answer["warnings"].take();
        assert!(
            warnings[0].as_str().unwrap().starts_with("warm tier, ClickHouse at 127.0.0.1:"),
            "{warnings}"
        );
        assert!(warnings[0].as_str().unwrap().contains("the other tiers hold what it does"), "{warnings}");
        answer["warnings"] = serde_json::json!([]);
    }
    let comparable = |(trace, page): (Json, Json)| (without_tiers(trace), without_tiers(page));
    assert_eq!(comparable(after), comparable(before));
    drop(clickhouse);
    server.stop().await;
}

/// Scenario: a server that takes connections and never answers. Guarantee: one request waits its time-out, the others do
/// not wait at all; every one is answered and names the tier.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let hanging = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            open.push(stream);
        }
    });
    let all = spans::varied(10);
    let log = MemoryLog::new(3);
    for (partition, records) in records(&all).into_iter().enumerate() {
        log.commit(warm::GROUP, partition as u32, 1);
        for record in records {
            log.push(partition as u32, record, NOW_MS);
        }
    }
    let mut setup = Setup { log: Some(log), warm: Some(warm::source(&url)), ..Setup::default() };
    setup.config.warm.lookup_timeout_ms = 1_500;
    let server = setup.start().await;
    let began = Instant::now();
    for trace in 1..=10 {
        let found = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await.json();
        assert_eq!(found["tiers"], serde_json::json!(["hot"]));
        let warnings = found["warnings"].to_string();
        assert!(warnings.contains("did not answer within 1500 ms"), "{warnings}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "ten requests waited {:?}", began.elapsed());
    assert!(taken.load(Ordering::Relaxed) < 10, "requests went to a server that is away");
    hanging.abort();
    server.stop().await;
}

/// Scenario: tables that lack a column, have one more, and have one of another type. Guarantee: what is missing or strange is
/// named with what to do, the other tiers answer; one more column changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_schema_is_named() {
    if !ClickHouse::is_installed() {
        return;
    }
    let all = spans::varied(12);
    let server = start(&all, Placement::Three).await;
    let client = warm::client(&server.clickhouse.as_ref().unwrap().url());
    let alter = |change: &str| {
        let sql = format!("ALTER TABLE {}.spans {change} SETTINGS mutations_sync = 2", warm::DATABASE);
        let client = client.clone();
        async move { client.statement(&sql).await.unwrap() }
    };
    let path = format!("/api/v1/traces/{}", hex_id(6));
    let before = server.get(&path).await.json();
    alter("DROP COLUMN gpu_mig_profile").await;
    until("the missing column is named", || async {
        let status = server.get("/api/v1/status").await.json();
        let error = status["tiers"]["warm"]["error"].as_str().unwrap_or_default().to_owned();
        error.contains("has no spans.gpu_mig_profile") && error.contains("infertrace clickhouse migrate")
    })
    .await;
    let found = server.get(&path).await.json();
    assert!(found["warnings"].to_string().contains("gpu_mig_profile"), "{}", found["warnings"]);
    assert_eq!(found["span_count"], before["span_count"]);
    alter(
        "ADD COLUMN gpu_mig_profile LowCardinality(Nullable(String)), ADD COLUMN of_a_later_release String",
    )
    .await;
    is_back(&server).await;
    assert_eq!(server.get(&path).await.json(), before);
    alter("MODIFY COLUMN queue_wait_ms Nullable(String)").await;
    let found = server.get(&path).await.json();
    assert!(found["warnings"].to_string().contains("column queue_wait_ms is"), "{}", found["warnings"]);
    assert_eq!(found["span_count"], before["span_count"]);
    server.stop().await;
}

const HOSTILE: [&str; 9] = [
    "'; DROP TABLE warm.spans; --",
    "\\",
    "\\N",
    "a\tb\nc\r",
    "{c0:String}",
    "\"quoted\" \\u0022",
    "%' OR 1 = 1 --",
    "`tick`",
    "ü\u{1F600}\u{200B}",
];

/// Scenario: spans whose services, operations, models, keys and values are hostile texts, asked for by filters and queries, hot
/// and from ClickHouse. Guarantee: the same traces, at least one for each text; the tables stay as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_texts_find_only_themselves() {
    if !ClickHouse::is_installed() {
        return;
    }
    let mut all = Vec::new();
    for (index, text) in (0..).zip(HOSTILE) {
        let other = HOSTILE[(index as usize + 1) % HOSTILE.len()];
        all.push(TestSpan {
            trace: index + 1,
            span: index + 1,
            service: text,
            operation: text,
            model: text,
            start_ns: NOW_NS - index as i64 * 1_000_000_000,
            duration_ns: 5,
            attributes: vec![(text, Value::Text(other)), ("list", Value::Texts(vec![text, "x"]))],
            environment: text,
            ..TestSpan::default()
        });
    }
    let hot = start(&all, Placement::Hot).await;
    let warm = start(&all, Placement::Warm).await;
    for (index, text) in (0..).zip(HOSTILE) {
        let other = HOSTILE[(index + 1) % HOSTILE.len()];
        let quoted = serde_json::to_string(text).unwrap();
        let mut asked = vec![
            format!("service={}", encoded(text)),
            format!("operation={}", encoded(text)),
            format!("model={}", encoded(text)),
            format!("attr={}", encoded(&format!("{text}={other}"))),
            format!("attr={}", encoded(&format!("list={text}"))),
            format!("attr={}", encoded(&format!("deployment.environment={text}"))),
        ];
        // The language's strings know fewer escapes than JSON's.
        if !text.contains(['\\', '\t', '\n', '\r']) {
            asked.push(format!("q={}", encoded(&format!("{{ name = {quoted} }}"))));
            asked
                .push(format!("q={}", encoded(&format!("{{ resource.deployment.environment = {quoted} }}"))));
            asked.push(format!("q={}", encoded(&format!("{{ span.{quoted} != nil }}"))));
        }
        for query in asked {
            let [expected, found] = [&hot, &warm].map(|server| {
                let path = format!("/api/v1/traces?limit=100&{query}");
                async move { server.get(&path).await }
            });
            let (expected, found) = (expected.await, found.await);
            assert_eq!(
                (expected.status.as_u16(), found.status.as_u16()),
                (200, 200),
                "{query}: {}",
                found.text()
            );
            let (expected, found) = (expected.json(), found.json());
            assert_eq!(found["partial"], serde_json::json!([]), "{query}");
            // A filter's key ends at its first `=`, so one of these asks for another key.
            let is_split = text.contains('=') && query.starts_with("attr=") && query.contains(&encoded(text));
            assert!(is_split || !listed(&expected).is_empty(), "{text:?} by {query}");
            assert_eq!(listed(&found), listed(&expected), "{text:?} by {query}");
        }
    }
    let client = warm::client(&warm.clickhouse.as_ref().unwrap().url());
    let count = client.statement("SELECT count() FROM warm.spans FORMAT TabSeparated").await.unwrap();
    assert_eq!(count.trim(), all.len().to_string());
    hot.stop().await;
    warm.stop().await;
}
