//! Search, its pages and its filters.

use infertrace_query::search::SpanFilters;
use serde_json::Value as Json;

use crate::{
    common::{NOW_NS, spans},
    support::{listed, placements, start},
};

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

/// Scenario: every filter over spans in each tier and across them. Guarantee: exactly the traces in which one
/// span satisfies all of it, in order of that span's start, newest first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_find_what_a_plain_loop_finds() {
    let all = spans::varied(60);
    for placement in placements() {
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
    let mut all = spans::varied(40);
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
    for placement in placements() {
        let server = start(&all, placement).await;
        for (query, filters) in &queries {
            let wanted = spans::expected(&all, filters);
            for limit in [1, 3, 7, wanted.len(), wanted.len() + 1] {
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
