//! The API as Prometheus: envelopes, forms, errors, limits, names.

use infertrace_schemas::{
    avro::{AvroRecord, Rollup, SchemaIds},
    topics::ROLLUPS,
};
use serde_json::json;

use crate::{
    common::{NOW_NS, Server, client},
    insights::{log, start},
    support::NOW_MS,
};

const SECOND: i64 = 1_000_000_000;
const BASE: &str = "/prometheus/api/v1";

fn encode<R: AvroRecord>(record: &R) -> Vec<u8> {
    SchemaIds::embedded::<R>().encode(record).unwrap()
}

fn rollup(model: &str, age_s: i64) -> Rollup {
    Rollup {
        window_start_unix_nanos: NOW_NS - age_s * SECOND,
        window_nanos: 10 * SECOND,
        model: model.to_owned(),
        service: "engine".to_owned(),
        revision: 1,
        counters: [("requests".to_owned(), 30), ("input_tokens".to_owned(), 600)].into(),
        ..Rollup::default()
    }
}

/// A minute of two models, one named as only quotes can.
async fn server() -> Server {
    let log = log();
    for age_s in (10..=60).step_by(10) {
        for model in ["llama", "odd \"model\"\\ of\nours"] {
            log.push_to(ROLLUPS, 1, encode(&rollup(model, age_s)), NOW_MS);
        }
    }
    start(&log).await
}

/// Scenario: the same query in the address and as a form, at one moment and over a range. Guarantee: Prometheus' envelope
/// with numbers as text and times in seconds; both forms say the same, and a second look costs no body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_are_answered_in_both_forms() {
    let server = server().await;
    let now_s = NOW_NS / SECOND;
    let path = format!(
        "{BASE}/query?query=rate(infertrace_requests_total%7Bmodel%3D%22llama%22%7D%5B1m%5D)&time={now_s}"
    );
    let answer = server.get(&path).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let labels = json!({"model": "llama", "service": "engine"});
    let wanted = json!({
        "status": "success",
        "data": {"resultType": "vector", "result": [{"metric": labels, "value": [now_s, "3"]}]},
    });
    assert_eq!(answer.json(), wanted);
    let again = server.get_with(&path, &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!(again.status, 304);

    let form = "query=sum(increase(infertrace_input_tokens_total[20s]))&start=2026-02-28T23:59:40Z&end=2026-03-01T00:00:00Z&step=10s";
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let posted = client::request_with(
        server.address,
        "POST",
        &format!("{BASE}/query_range"),
        &headers,
        form.replace('[', "%5B").replace(']', "%5D").into(),
    )
    .await;
    let values = json!([[now_s - 20, "2400"], [now_s - 10, "2400"], [now_s, "2400"]]);
    let result = json!([{"metric": {}, "values": values}]);
    assert_eq!(posted.json()["data"], json!({"resultType": "matrix", "result": result}));
    let gotten =
        server.get(&format!("{BASE}/query_range?{form}").replace('[', "%5B").replace(']', "%5D")).await;
    assert_eq!(gotten.body, posted.body);
    server.stop().await;
}

/// Scenario: what there is to ask for, names with quotes and line breaks among it. Guarantee: every name once; a match
/// narrows it; a limit is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_listed() {
    let server = server().await;
    let odd = "odd \"model\"\\ of\nours";
    let asked = async |path: &str| server.get(&format!("{BASE}/{path}")).await.json();
    assert_eq!(asked("labels").await["data"], json!(["__name__", "model", "service"]));
    assert_eq!(asked("label/model/values").await["data"], json!(["llama", odd]));
    let narrowed = "label/model/values?match%5B%5D=infertrace_requests_total%7Bmodel!~%22odd.*%22%7D";
    assert_eq!(asked(narrowed).await["data"], json!(["llama"]));
    let limited = asked("label/model/values?limit=1").await;
    assert_eq!(
        (&limited["data"], &limited["warnings"][0]),
        (&json!(["llama"]), &json!("results truncated due to limit"))
    );
    let series = asked("series?match%5B%5D=infertrace_requests_total&match%5B%5D=none").await;
    assert_eq!(series["data"].as_array().unwrap().len(), 2);
    assert_eq!(series["data"][0]["__name__"], "infertrace_requests_total");
    assert_eq!(asked("label/model/values?start=0&end=100").await["data"], json!([]));
    let metadata = asked("metadata").await;
    assert_eq!(metadata["data"]["infertrace_input_tokens_total"][0]["type"], "counter");
    assert_eq!(asked("metadata?metric=none").await["data"], json!({}));
    assert_eq!(asked("status/buildinfo").await["status"], "success");
    let quoted = "query?query=sum(infertrace_requests_total%7Bmodel%3D%22odd%20%5C%22model%5C%22%5C%5C%20of%5Cnours%22%7D)";
    assert_eq!(asked(quoted).await["data"]["result"][0]["value"][1], "180");
    server.stop().await;
}

/// Scenario: requests that cannot be answered. Guarantee: Prometheus' statuses and types of errors, and what to change; a
/// path that is not there is no page of the UI.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_those_of_prometheus() {
    let server = server().await;
    for (path, status, kind, words) in [
        ("query", 400, "bad_data", "invalid parameter \"query\": is required"),
        ("query?query=sum(", 400, "bad_data", "invalid parameter \"query\": 1:5: parse error"),
        ("query?query=1&time=noon", 400, "bad_data", "cannot parse \"noon\" to a valid timestamp"),
        ("query?query=1&limit=x", 400, "bad_data", "invalid parameter \"limit\""),
        ("query?query=1&timeout=0", 400, "bad_data", "invalid parameter \"timeout\""),
        (
            "query_range?query=1&start=5&end=1&step=1",
            400,
            "bad_data",
            "end timestamp must not be before start time",
        ),
        ("query_range?query=1&start=0&end=1&step=0", 400, "bad_data", "invalid parameter \"step\""),
        (
            "query_range?query=1&start=0&end=99999&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points",
        ),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        ("series?match%5B%5D=1", 400, "bad_data", "invalid parameter \"match[]\""),
        (
            "query?query=avg_over_time(infertrace_requests_total%5B1m%5D)",
            422,
            "execution",
            "does not fit the counter",
        ),
        (
            "query?query=infertrace_requests_total%20%2F%20on()%20infertrace_requests_total",
            422,
            "execution",
            "found duplicate series",
        ),
        ("query?query=sum(infertrace_requests_total)&timeout=1ns", 400, "bad_data", "timeout"),
    ] {
        let answer = server.get(&format!("{BASE}/{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let told = answer.json();
        assert_eq!((&told["status"], &told["errorType"]), (&json!("error"), &json!(kind)), "{path}");
        assert!(told["error"].as_str().unwrap().contains(words), "{path}: {told}");
    }
    let unknown = server.get(&format!("{BASE}/rules")).await;
    assert_eq!((unknown.status.as_u16(), unknown.header("content-type")), (404, "application/problem+json"));
    server.stop().await;
}
