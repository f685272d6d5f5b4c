//! Tempo's API: what Grafana's data source asks, and what it must be able to read.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{common::v1::any_value, trace::v1::TracesData};
use prost::Message;
use serde_json::{Value as Json, json};

use crate::{
    common::{
        NOW_NS, Server,
        spans::{self, TestSpan, Value},
    },
    support::{Placement, placements, start},
};

const PROTOBUF: (&str, &str) = ("accept", "application/protobuf");

/// `tempopb.TraceByIDResponse`.
#[derive(Clone, PartialEq, Message)]
struct TraceByIdResponse {
    #[prost(message, optional, tag = "1")]
    trace: Option<TracesData>,
    #[prost(int32, tag = "3")]
    status: i32,
    #[prost(string, tag = "4")]
    message: String,
}

fn span_ids(trace: &TracesData) -> BTreeSet<String> {
    let scopes = trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| &scope.spans).map(|span| hex::encode(&span.span_id)).collect()
}

/// Each span with its resource's `service.name`, which is what Grafana shows.
fn services(trace: &TracesData) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for spans in &trace.resource_spans {
        let resource = spans.resource.as_ref().expect("a resource");
        let named = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
        let service = match named.and_then(|name| name.value.as_ref()?.value.as_ref()) {
            Some(any_value::Value::StringValue(name)) => name.clone(),
            other => panic!("service.name is {other:?}"),
        };
        for span in spans.scope_spans.iter().flat_map(|scope| &scope.spans) {
            all.insert((hex::encode(&span.span_id), service.clone()));
        }
    }
    all
}

async fn found(server: &Server, path: &str, field: &str) -> BTreeSet<String> {
    let answer = server.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let answer = answer.json();
    let ids = answer["traces"].as_array().expect("traces").iter();
    ids.map(|trace| trace[field].as_str().expect("an id").to_owned()).collect()
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Scenario: each trace by its id in both versions, as protobuf and as JSON, from every tier. Guarantee: the spans of
/// the API's own answer with their ids, resources and types; an unknown one is 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_by_id_in_both_versions() {
    let all = spans::varied(20);
    for placement in placements() {
        let server = start(&all, placement).await;
        for trace in 1..=20 {
            let id = spans::hex_id(trace);
            let wanted: BTreeSet<String> =
                (1..=4).map(|index| format!("{:016x}", trace * 100 + index)).collect();
            let first = server.get_with(&format!("/tempo/api/traces/{id}"), &[PROTOBUF]).await;
            assert_eq!(first.status, 200, "{placement:?}: {}", first.text());
            let first = TracesData::decode(first.body.as_ref()).expect("a trace");
            assert_eq!(span_ids(&first), wanted, "{placement:?}");
            let sent = all.iter().filter(|span| span.trace == trace);
            let sent: BTreeSet<_> =
                sent.map(|span| (format!("{:016x}", span.span), span.service.to_owned())).collect();
            assert_eq!(services(&first), sent, "{placement:?}");
            let second = server.get_with(&format!("/tempo/api/v2/traces/{id}"), &[PROTOBUF]).await;
            let second = TraceByIdResponse::decode(second.body.as_ref()).expect("an answer");
            assert_eq!((second.trace.as_ref(), second.status), (Some(&first), 0), "{}", second.message);
            let text = server.get(&format!("/tempo/api/traces/{id}")).await.json();
            let spans = text["batches"].as_array().expect("batches").iter();
            let spans = spans.flat_map(|batch| batch["scopeSpans"][0]["spans"].as_array().expect("spans"));
            assert!(
                spans
                    .clone()
                    .all(|span| span["kind"].as_str().is_some_and(|kind| kind.starts_with("SPAN_KIND_")))
            );
            assert_eq!(spans.count(), 4);
        }
        let unknown = server.get_with(&format!("/tempo/api/v2/traces/{:032x}", 77), &[PROTOBUF]).await;
        assert_eq!(unknown.status, 404);
        server.stop().await;
    }
}

/// Scenario: searches by TraceQL, by tags in logfmt and by durations, over every tier. Guarantee: the traces of the
/// API's own search; sets of spans with their counts; a mistake is 400 with its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_as_grafana_sends_them() {
    let all = spans::varied(60);
    for placement in placements() {
        let server = start(&all, placement).await;
        for query in [
            "{}",
            "{ status = error }",
            r#"{ resource.service.name = "gateway" && duration > 1ms } | count() > 0"#,
        ] {
            let own =
                found(&server, &format!("/api/v1/traces?limit=100&q={}", encoded(query)), "trace_id").await;
            let path =
                format!("/tempo/api/search?limit=100&spss=2&start=0&end=4000000000&q={}", encoded(query));
            assert_eq!(found(&server, &path, "traceID").await, own, "{placement:?} {query}");
            let answer = server.get(&path).await.json();
            for trace in answer["traces"].as_array().expect("traces") {
                let set = &trace["spanSets"][0];
                let (listed, matched) =
                    (set["spans"].as_array().expect("spans").len(), set["matched"].as_u64());
                assert!(listed == matched.expect("a count").min(2) as usize && listed > 0, "{set}");
                assert_eq!(trace["rootServiceName"], "gateway");
            }
        }
        let by_tags =
            format!("/tempo/api/search?limit=100&tags={}", encoded("service.name=gateway error=true"));
        let by_query = format!(
            "/api/v1/traces?limit=100&q={}",
            encoded(r#"{ resource.service.name = "gateway" && status = error }"#)
        );
        assert_eq!(
            found(&server, &by_tags, "traceID").await,
            found(&server, &by_query, "trace_id").await,
            "{placement:?}"
        );
        let wrong = server.get(&format!("/tempo/api/search?q={}", encoded("{ duration = }"))).await;
        assert_eq!((wrong.status.as_u16(), wrong.header("content-type")), (400, "text/plain; charset=utf-8"));
        assert!(wrong.text().starts_with("q: ") && wrong.text().contains("column 14"), "{}", wrong.text());
        server.stop().await;
    }
}

/// Scenario: a query with conditions and `select`, over every tier. Guarantee: each span listed has the values that the
/// query names, with their types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_listed_have_what_the_query_names() {
    let all = spans::varied(20);
    let query = r#"{ .retries >= 2 && status = error } | select(.ratio, span.cached, llm:model)"#;
    for placement in placements() {
        let server = start(&all, placement).await;
        let path = format!("/tempo/api/search?limit=100&spss=10&q={}", encoded(query));
        let answer = server.get(&path).await.json();
        let mut seen = 0;
        for listed in answer["traces"].as_array().expect("traces") {
            for span in listed["spanSets"][0]["spans"].as_array().expect("spans") {
                let id = u64::from_str_radix(span["spanID"].as_str().expect("an id"), 16).expect("an id");
                let sent = all.iter().find(|sent| sent.span == id).expect("a span that was sent");
                let value = |key: &str| match sent.attributes.iter().find(|(known, _)| *known == key) {
                    Some((_, Value::Int(number))) => json!({"intValue": number.to_string()}),
                    Some((_, Value::Double(number))) => json!({"doubleValue": number}),
                    Some((_, Value::Bool(flag))) => json!({"boolValue": flag}),
                    other => panic!("{key} is {other:?}"),
                };
                let text = |text: &str| json!({"stringValue": text});
                let mut wanted = vec![
                    ("service.name", text(sent.service)),
                    ("retries", value("retries")),
                    ("status", text("error")),
                    ("ratio", value("ratio")),
                    ("cached", value("cached")),
                ];
                wanted.extend((!sent.model.is_empty()).then(|| ("llm:model", text(sent.model))));
                let wanted: Vec<Json> =
                    wanted.into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
                assert_eq!(span["attributes"], Json::from(wanted), "{placement:?}");
                seen += 1;
            }
        }
        let found =
            all.iter().filter(|span| span.status == 2 && matches!(span.attributes[1].1, Value::Int(2..)));
        assert_eq!(seen, found.count(), "{placement:?}");
        server.stop().await;
    }
}

/// Scenario: rates and quantiles by service over every tier, an instant count, a function that is not taken. Guarantee:
/// the numbers of a plain loop over the spans, in Tempo's intervals; the mistake is 400 and names what is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_counted_over_time() {
    const STEP_S: i64 = 10;
    let all = spans::varied(60);
    let (start_s, end_s) = (NOW_NS / 1_000_000_000 - 70, NOW_NS / 1_000_000_000 + 10);
    let range = format!("start={start_s}&end={end_s}");
    // An interval is without its start and with its end.
    let interval = |span: &TestSpan| (span.start_ns - 1) / (STEP_S * 1_000_000_000);
    for placement in placements() {
        let server = start(&all, placement).await;
        let query = encoded("{ status = error } | rate() by (resource.service.name)");
        let path = format!("/tempo/api/metrics/query_range?{range}&step={STEP_S}s&exemplars=10&q={query}");
        let answer = server.get(&path).await.json();
        assert_eq!(answer.get("status"), None, "{placement:?}: {answer}");
        for series in answer["series"].as_array().expect("series") {
            let label = &series["labels"][0];
            assert_eq!(label["key"], "resource.service.name");
            let service = label["value"]["stringValue"].as_str().expect("a service");
            for sample in series["samples"].as_array().expect("samples") {
                let millis: i64 =
                    sample["timestampMs"].as_str().and_then(|text| text.parse().ok()).expect("ms");
                let is_counted = |span: &&TestSpan| {
                    span.service == service
                        && span.status == 2
                        && interval(span) == millis / 1_000 / STEP_S - 1
                };
                let spans = all.iter().filter(is_counted).count();
                assert_eq!(sample["value"], json!(spans as f64 / STEP_S as f64), "{placement:?} {service}");
            }
        }
        let services: BTreeSet<&str> =
            all.iter().filter(|span| span.status == 2).map(|span| span.service).collect();
        assert_eq!(answer["series"].as_array().map(Vec::len), Some(services.len()), "{placement:?}");

        let longest = all.iter().filter(|span| span.operation == "rank").map(|span| span.duration_ns).max();
        let query = encoded(r#"{ name = "rank" } | quantile_over_time(duration, 1)"#);
        let answer = server.get(&format!("/tempo/api/metrics/query?{range}&q={query}")).await.json();
        let wanted = json!([{
            "labels": [{"key": "p", "value": {"doubleValue": 1.0}}],
            "value": longest.expect("spans") as f64 / 1e9,
        }]);
        assert_eq!(answer["series"], wanted, "{placement:?}");

        let wrong = server
            .get(&format!("/tempo/api/metrics/query_range?{range}&q={}", encoded("{ } | compare({ })")))
            .await;
        assert_eq!(wrong.status, 400);
        assert!(wrong.text().contains("`rate()`"), "{}", wrong.text());
        server.stop().await;
    }
}

/// Scenario: what the editor asks to complete names and values. Guarantee: tags by scope, values with types, services
/// of every tier, keywords of status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_values_for_completion() {
    let server = start(&spans::varied(20), Placement::Hot).await;
    assert_eq!(server.get("/tempo/api/echo").await.text(), "echo");
    let version = server.get("/tempo/api/status/buildinfo").await.json();
    assert!(version["version"].as_str().is_some_and(|version| version.starts_with("2.")), "{version}");
    let scopes = server.get("/tempo/api/v2/search/tags").await.json();
    let tags = |scope: &str| -> Vec<String> {
        let all = scopes["scopes"].as_array().expect("scopes").iter();
        let one =
            all.filter(|one| one["name"] == scope).flat_map(|one| one["tags"].as_array().expect("tags"));
        one.map(|tag| tag.as_str().expect("a tag").to_owned()).collect()
    };
    assert!(tags("resource").contains(&"service.name".to_owned()));
    assert!(tags("intrinsic").contains(&"duration".to_owned()));
    let only = server.get("/tempo/api/v2/search/tags?scope=span").await.json();
    assert_eq!(only["scopes"].as_array().map(Vec::len), Some(1));
    let plain = server.get("/tempo/api/search/tags").await.json();
    let mut both = [tags("resource"), tags("span")].concat();
    both.sort();
    assert_eq!(plain, json!({"tagNames": both}));
    let wrong = server.get("/tempo/api/v2/search/tags?scope=all").await;
    assert_eq!(wrong.status, 400);
    for key in tags("span") {
        let values =
            server.get(&format!("/tempo/api/v2/search/tag/{}/values", encoded(&format!("span.{key}")))).await;
        assert_eq!(values.status, 200, "{key}");
    }
    let services = server.get("/tempo/api/v2/search/tag/resource.service.name/values").await.json();
    let is_gateway = |value: &Json| value["type"] == "string" && value["value"] == "gateway";
    assert!(services["tagValues"].as_array().expect("values").iter().any(is_gateway), "{services}");
    let plain = server.get("/tempo/api/search/tag/service.name/values").await.json();
    assert!(plain["tagValues"].as_array().expect("values").contains(&"gateway".into()));
    let status = server.get("/tempo/api/v2/search/tag/status/values").await.json();
    assert!(
        status["tagValues"]
            .as_array()
            .expect("values")
            .contains(&json!({"type": "keyword", "value": "error"}))
    );
    server.stop().await;
}
