//! The server of the Model Context Protocol: messages, protection, and tools over what processors publish.

use infertrace_schemas::{
    avro::{AvroRecord, InsightState, Rollup, SchemaIds},
    topics::ROLLUPS,
};
use serde_json::{Value as Json, json};

use crate::{
    common::{NOW_NS, Server, Setup, client, spans, spans::hex_id},
    insights::{insight, log, publish, start},
    support::{self, NOW_MS, Placement},
};

const SECOND: i64 = 1_000_000_000;
const JSON: (&str, &str) = ("content-type", "application/json");

fn encode<R: AvroRecord>(record: &R) -> Vec<u8> {
    SchemaIds::embedded::<R>().encode(record).unwrap()
}

async fn post(server: &Server, headers: &[(&str, &str)], body: impl Into<String>) -> client::Answer {
    client::request_with(server.address, "POST", "/mcp", headers, body.into().into()).await
}

async fn call(server: &Server, tool: &str, arguments: Json) -> Json {
    let message = json!({
        "jsonrpc": "2.0",
        "id": "one",
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    });
    let answer = post(server, &[JSON], message.to_string()).await;
    assert_eq!(answer.status, 200, "{tool}: {}", answer.text());
    answer.json()["result"].clone()
}

/// Scenario: messages of every kind, whole and broken, of programs and of pages in a browser. Guarantee: JSON-RPC's codes and
/// HTTP's, as the specification has them; no foreign page is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_messages_are_answered_as_specified() {
    let server = start(&log()).await;
    let ping = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    let answer = post(&server, &[JSON], ping).await;
    assert_eq!(answer.json(), json!({"jsonrpc": "2.0", "id": 7, "result": {}}));
    for (body, status, code) in [
        ("{", 400, -32_700),
        ("[]", 400, -32_600),
        (r#"{"id":1,"method":"ping"}"#, 400, -32_600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32_600),
        (r#"{"jsonrpc":"2.0","id":1}"#, 400, -32_600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#, 200, -32_601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"none"}}"#, 200, -32_602),
    ] {
        let answer = post(&server, &[JSON], body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_i64()),
            (status, Some(code)),
            "{body}"
        );
    }
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    ] {
        let answer = post(&server, &[JSON], body).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0), "{body}");
    }
    for (asked, told) in
        [("2025-06-18", "2025-06-18"), ("2025-03-26", "2025-03-26"), ("2099-01-01", "2025-06-18")]
    {
        let message =
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": asked}});
        let answer = post(&server, &[JSON], message.to_string()).await.json();
        assert_eq!(answer["result"]["protocolVersion"], told);
    }
    for (headers, status) in [
        (vec![JSON, ("origin", "http://localhost:5173")], 200),
        (vec![JSON, ("origin", "http://evil.example")], 403),
        (vec![JSON, ("origin", "null")], 403),
        (vec![JSON, ("mcp-protocol-version", "2025-06-18")], 200),
        (vec![JSON, ("mcp-protocol-version", "1999-01-01")], 400),
        (vec![("content-type", "text/plain")], 400),
        (vec![], 400),
    ] {
        assert_eq!(post(&server, &headers, ping).await.status, status, "{headers:?}");
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(client::request(server.address, method, "/mcp", &[]).await.status, 405, "{method}");
    }
    assert_eq!(post(&server, &[JSON], " ".repeat(70_000)).await.status, 413);
    server.stop().await;

    let mut setup = Setup::default();
    setup.config.mcp.enabled = false;
    let without = setup.start().await;
    assert_eq!(post(&without, &[JSON], ping).await.status, 404);
    without.stop().await;
}

/// Scenario: two versions of a model, the new one slower by half, with an insight. Guarantee: the comparison, the
/// explanation and the cost say so, in the units that their names have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_tools_tell_what_rollups_hold() {
    let log = log();
    let rollup = |version: &str, age_s: i64, bin: i32, sum: f64| Rollup {
        window_start_unix_nanos: NOW_NS - age_s * SECOND,
        window_nanos: 10 * SECOND,
        model: "llama".to_owned(),
        model_version: version.to_owned(),
        service: "engine".to_owned(),
        tenant: "acme".to_owned(),
        revision: 1,
        counters: [
            ("requests".to_owned(), 10),
            ("errors".to_owned(), 1),
            ("output_tokens".to_owned(), 1_000),
            ("cost_nano_usd".to_owned(), 20_000_000),
        ]
        .into(),
        sketches: vec![infertrace_schemas::avro::Sketch {
            metric: "duration_micros".to_owned(),
            relative_accuracy: 0.01,
            count: 10,
            sum,
            min: 0.0,
            max: 1e12,
            first_bin: bin,
            bin_counts: vec![10],
            ..Default::default()
        }],
        ..Rollup::default()
    };
    // Bin 575 is about 0.1 s, bin 610 twice as much.
    for age_s in [20, 30] {
        log.push_to(ROLLUPS, 0, encode(&rollup("1", age_s, 575, 1e6)), NOW_MS);
    }
    log.push_to(ROLLUPS, 0, encode(&rollup("2", 10, 610, 2e6)), NOW_MS);
    publish(&log, 0, &insight("a", 1, InsightState::Open, 30));
    let server = start(&log).await;

    let compared =
        call(&server, "compare_versions", json!({"model": "llama"})).await["structuredContent"].clone();
    assert_eq!((&compared["a"]["version"], &compared["b"]["version"]), (&json!("1"), &json!("2")));
    assert_eq!(compared["a"]["figures"]["requests"], 20.0);
    assert_eq!(compared["b"]["figures"]["error_percent"], 10.0);
    assert_eq!(compared["b"]["figures"]["cost_per_request_usd"], 0.002);
    let slower = compared["change_percent"]["duration_p50_ms"].as_f64().unwrap();
    assert!((95.0..110.0).contains(&slower), "{compared}");

    // The last ten seconds against the ten before.
    let now_s = NOW_NS / SECOND;
    let range = json!({"model": "llama", "from": (now_s - 10).to_string(), "to": now_s.to_string()});
    let why = call(&server, "explain_slowness", range).await["structuredContent"].clone();
    assert_eq!(why["findings"][0], "the duration: the median is 2 times that of the 10s before", "{why}");
    assert_eq!((&why["requests"], &why["error_percent"]), (&json!(10.0), &json!(10.0)));
    assert_eq!(why["insights"][0]["causes"][0]["cause"], "queue");

    let cost = call(&server, "cost", json!({"by": ["tenant", "version"]})).await["structuredContent"].clone();
    assert_eq!((&cost["total_usd"], &cost["rows"][0]["cost_usd"]), (&json!(0.06), &json!(0.04)));
    assert_eq!((&cost["rows"][1]["tenant"], &cost["rows"][1]["version"]), (&json!("acme"), &json!("2")));
    assert_eq!(cost["rows"][0]["usd_per_million_output_tokens"], 20.0);
    let listed = call(&server, "list_insights", json!({"model": "llama"})).await["structuredContent"].clone();
    assert_eq!(
        (&listed["insights"][0]["id"], &listed["insights"][0]["opened"]),
        (&json!("a"), &json!("2026-02-28T23:59:30.000Z"))
    );
    server.stop().await;
}

/// Scenario: traces in memory and in the lake. Guarantee: the list goes on where its cursor says; a trace is bounded, and no
/// more of it is critical than it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_tools_tell_traces_of_every_tier() {
    let server = support::start(&spans::varied(12), Placement::Both).await;
    let range = json!({"last_minutes": 525_600, "limit": 5});
    let first = call(&server, "find_traces", range.clone()).await["structuredContent"].clone();
    assert_eq!((first["traces"].as_array().map(Vec::len), &first["truncated"]), (Some(5), &json!(true)));
    let mut next = range;
    next["cursor"] = first["next_cursor"].clone();
    let second = call(&server, "find_traces", next).await["structuredContent"].clone();
    assert_ne!(first["traces"][4]["trace_id"], second["traces"][0]["trace_id"]);

    let id = hex_id(3);
    let trace =
        call(&server, "get_trace", json!({"trace_id": id, "max_spans": 1})).await["structuredContent"]
            .clone();
    assert_eq!((&trace["trace_id"], trace["spans"].as_array().map(Vec::len)), (&json!(id), Some(1)));
    let why = call(&server, "explain_slowness", json!({"trace_id": id})).await["structuredContent"].clone();
    let path = why["critical_path"].as_array().unwrap();
    let critical: f64 = path.iter().map(|span| span["critical_ms"].as_f64().unwrap()).sum();
    let whole = why["trace"]["duration_ms"].as_f64().unwrap();
    assert!(critical > 0.0 && critical <= 1.01 * whole, "{why}");
    let missing = call(&server, "get_trace", json!({"trace_id": hex_id(99)})).await;
    assert_eq!(missing["isError"], true);
    assert!(missing["content"][0]["text"].as_str().unwrap().contains("no span of trace"));
    server.stop().await;
}
