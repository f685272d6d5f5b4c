//! Searches by the query language.

use infertrace_query_language::{
    Field, Intrinsic, Kind, Scope, Status,
    evaluate::{Scalar, SpanSource, Trace},
    parse,
};

use crate::{
    common::spans::{self, TestSpan, Value},
    support::{Placement, listed, placements, start},
};

const QUERIES: &[&str] = &[
    "{ }",
    "{ false }",
    r#"{ resource.service.name = "engine" && status = error }"#,
    r#"{ resource.service.name =~ "eng.*|rank.*" && duration < 5ms }"#,
    r#"{ .service.name = "gateway" && kind = internal }"#,
    "{ .retries >= 3 }",
    "{ span.retries < 1.5 && .ratio = 0.5 }",
    r#"{ span.cached = true && name = "rank" }"#,
    r#"{ .http.route = "/v1/chat" && status != ok }"#,
    "{ !(.retries = 1) && llm:model != nil }",
    "{ .tags != nil && .missing = nil && duration >= 80ms }",
    r#"{ resource.deployment.environment = "canary" } >> { name = "generate" }"#,
    r#"{ duration > 85ms } || { llm:model = "mixtral" }"#,
    "{ kind = server && status = ok } && { status = error }",
    r#"{ name = "rank" } ~ { name = "generate" && duration > 60ms }"#,
    "{ status = error } < { kind = server }",
    "{ traceDuration > 100ms }",
    r#"{ rootName = "http" && span:childCount = 3 && status = ok }"#,
    r#"{ instrumentation:name = "test" && span:parentID = nil && duration > 70ms }"#,
    "{ status = error } | count() > 1",
    r#"{ name =~ "gen.*" } | avg(duration) > 60ms"#,
    "{ .cached } | by(.http.route) | count() >= 2 | select(duration)",
    r#"{ llm:model = "o'hara \"quoted\" 100%" }"#,
];

/// A span, by the words that made it.
impl SpanSource for &TestSpan {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        let text = |text: &str, test: &mut dyn FnMut(Scalar<'_>) -> bool| {
            !text.is_empty() && test(Scalar::Text(text))
        };
        match field {
            Field::Intrinsic(intrinsic) => match intrinsic {
                Intrinsic::Name => text(self.operation, test),
                Intrinsic::Duration => test(Scalar::Duration(self.duration_ns)),
                Intrinsic::Status => {
                    test(Scalar::Status([Status::Unset, Status::Ok, Status::Error][self.status as usize]))
                }
                Intrinsic::Kind => {
                    test(Scalar::Kind(if self.parent == 0 { Kind::Server } else { Kind::Internal }))
                }
                Intrinsic::ParentId => self.parent != 0 && test(Scalar::Id(&self.parent.to_be_bytes())),
                Intrinsic::Model => text(self.model, test),
                Intrinsic::InstrumentationName => text("test", test),
                // The traces of `spans::varied` have one root with three children, which start within 30 ms.
                Intrinsic::ChildCount => test(Scalar::Integer(if self.parent == 0 { 3 } else { 0 })),
                Intrinsic::RootName => text("http", test),
                other => panic!("the test does not know {other}"),
            },
            Field::Attribute { scope: Scope::Resource, key } => match key.as_str() {
                "service.name" => text(self.service, test),
                "deployment.environment" => text(self.environment, test),
                _ => false,
            },
            Field::Attribute { scope: Scope::Span, key } => {
                let mut named = self.attributes.iter().filter(|(known, _)| known == key);
                named.any(|(_, value)| match value {
                    Value::Text(text) => test(Scalar::Text(text)),
                    Value::Int(number) => test(Scalar::Integer(*number)),
                    Value::Double(number) => test(Scalar::Float(*number)),
                    Value::Bool(flag) => test(Scalar::Bool(*flag)),
                    Value::Texts(_) => test(Scalar::Other),
                })
            }
            Field::Attribute { .. } => false,
        }
    }
}

/// With what a whole trace has in common.
struct Within<'a>(&'a TestSpan, i64);

impl SpanSource for Within<'_> {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        match field {
            Field::Intrinsic(Intrinsic::TraceDuration) => test(Scalar::Duration(self.1)),
            field => self.0.any(field, test),
        }
    }
}

/// Ids of the traces that the reference finds, newest first.
fn expected(all: &[TestSpan], query: &str) -> Vec<String> {
    let query = parse(query).expect("a query");
    let mut found: Vec<(i64, String)> = Vec::new();
    for trace in all.chunk_by(|a, b| a.trace == b.trace) {
        let begin = trace.iter().map(|span| span.start_ns).min().unwrap();
        let end = trace.iter().map(|span| span.start_ns + span.duration_ns).max().unwrap();
        let spans: Vec<Within<'_>> = trace.iter().map(|span| Within(span, end - begin)).collect();
        let parent = |at: usize| trace.iter().position(|span| span.span == trace[at].parent);
        if !Trace::new(&spans, parent).find(&query).is_empty() {
            found.push((begin, spans::hex_id(trace[0].trace)));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, id)| id).collect()
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Scenario: queries of one span, of several and of whole traces, over spans in each tier and across them; some read in pages.
/// Guarantee: exactly the traces that the language's reference finds in the spans as they were sent, newest first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_find_what_the_reference_finds() {
    let all = spans::varied(60);
    for placement in placements() {
        let server = start(&all, placement).await;
        for query in QUERIES {
            let wanted = expected(&all, query);
            // Pages are read where that is quick; the tiers' own pages are another test's.
            let has_warm = matches!(placement, Placement::Warm | Placement::Three);
            for limit in if has_warm { &[100][..] } else { &[100, 7] } {
                let mut found = Vec::new();
                let mut cursor = String::new();
                loop {
                    let path = format!("/api/v1/traces?limit={limit}&q={}&cursor={cursor}", encoded(query));
                    let answer = server.get(&path).await;
                    assert_eq!(answer.status, 200, "{placement:?} {query}: {}", answer.text());
                    let page = answer.json();
                    assert_eq!(page["partial"], serde_json::json!([]), "{placement:?} {query}");
                    found.extend(listed(&page));
                    assert!(found.len() <= wanted.len(), "{placement:?} {query}: {found:?}, not {wanted:?}");
                    match page["next_cursor"].as_str() {
                        Some(next) => cursor = next.to_owned(),
                        None => break,
                    }
                }
                assert_eq!(found, wanted, "{placement:?} {query} by {limit}");
            }
        }
        server.stop().await;
    }
}

/// Scenario: filters beside a query, one of another service. Guarantee: both hold for the same span and its trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_a_query_hold_together() {
    let all = spans::varied(40);
    let server = start(&all, Placement::Hot).await;
    let query = encoded(r#"{ name = "rank" && status = error }"#);
    let together = server.get(&format!("/api/v1/traces?limit=100&service=ranker&q={query}")).await.json();
    let wanted = expected(&all, r#"{ name = "rank" && status = error && resource.service.name = "ranker" }"#);
    assert!(!wanted.is_empty());
    assert_eq!(listed(&together), wanted);
    server.stop().await;
}

/// Scenario: texts that are no query, one too long, one about what is not stored. Guarantee: each is refused as the
/// caller's mistake, with the place where there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_shown_where_they_are() {
    let server = start(&spans::varied(1), Placement::Hot).await;
    let long = format!("{{ name = \"{}\" }}", "a".repeat(9_000));
    let deep = format!("{{ {}true{} }}", "(".repeat(500), ")".repeat(500));
    let cases = [
        ("{ duration = }", "column 14"),
        ("{ duration = \"x\" }", "duration"),
        ("{ name =~ \"(\" }", "column"),
        ("{ llm:cost > 0.1 }", "llm:cost"),
        ("'; DROP TABLE spans; --", "column 1"),
        (&long, "8"),
        (&deep, "32"),
    ];
    for (query, part) in cases {
        let answer = server.get(&format!("/api/v1/traces?q={}", encoded(query))).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["parameter"], "q", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{query}: {problem}");
    }
    server.stop().await;
}
