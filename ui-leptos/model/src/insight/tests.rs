use serde_json::{Value, json};

use super::chart::{self, Band, Course};
use super::filter::InsightFilter;
use super::page::{self, Frame};
use super::*;

const SECOND: i64 = 1_000_000_000;

fn answer() -> Value {
    json!({
        "id": "a/1", "revision": 2, "state": "UPDATED", "severity": "PAGE", "kind": "ttft",
        "title": "llama: first token after 1.8 s", "tenant": "", "model": "llama", "model_version": "1.4",
        "first_window_unix_nano": "1000000000000", "window_start_unix_nano": "1050000000000",
        "window_end_unix_nano": "1060000000000", "opened_unix_nano": "1010000000000",
        "resolved_unix_nano": null, "detector": "drift", "later": {"unknown": 1},
        "evidence": [
            {"metric": "slo_burn_rate", "unit": "", "observed": 14.4, "baseline": null, "ratio": null, "samples": "9"},
            {"metric": "ttft_p50", "unit": "s", "observed": 1.82, "baseline": 0.24, "ratio": 7.58, "samples": "9000000000000000000"},
        ],
        "causes": [{"cause": "queue", "share": 0.6, "explanation": "Waits grew."}, {"cause": "new_thing", "share": 7.0}],
        "recommendation": {"text": "Add a replica.", "expected_gain": "0.3 s", "confidence": 0.8},
        "example_traces": ["ab"], "normal_traces": [],
        "revisions": [
            {"revision": 1, "state": "OPEN", "severity": "WARNING", "window_end_unix_nano": "1010000000000"},
            {"revision": 2, "state": "UPDATED", "severity": "PAGE", "window_end_unix_nano": "1060000000000"},
        ],
    })
}

fn frame() -> Frame {
    Frame { now_ms: 1_100_000, offset_minutes: 0, list_url: "/insights?state=all".to_owned() }
}

fn seen(id: &str, revision: i64, opened: i64) -> Insight {
    Insight { id: id.to_owned(), revision, opened, ..Insight::default() }
}

/// Scenario: an answer with members that this version does not know, and an empty one. Guarantee: both are read; shares
/// are shares; 64-bit strings keep their digits.
#[test]
fn reads_answers() {
    let insight = Insight::of(&answer());
    assert_eq!(
        (insight.severity, insight.resolved, insight.evidence[1].samples),
        (Severity::Page, false, 9_000_000_000_000_000_000)
    );
    assert_eq!((insight.causes[1].share, insight.evidence[0].baseline), (1.0, None));
    assert_eq!(insight.revisions.len(), 2);
    assert_eq!(Insight::of(&Value::Null), Insight { ..Insight::default() });
    let list = InsightList::of(
        &json!({"insights": [answer()], "open": {"page": 1, "warning": 2, "info": 3}, "next_cursor": "x"}),
    );
    assert_eq!((list.open, list.paging, list.cursor.as_deref(), list.insights.len()), (6, 1, Some("x"), 1));
}

/// Scenario: states of insights arrive by the stream, some of them old, some that no longer pass the filter. Guarantee: the
/// list stays in order with each insight once, in its latest state.
#[test]
fn merging_keeps_order() {
    let mut list = vec![seen("c", 1, 30), seen("b", 1, 20), seen("a", 1, 10)];
    merge(&mut list, seen("d", 1, 25), true);
    merge(&mut list, seen("b", 3, 20), true);
    merge(&mut list, seen("b", 2, 20), true);
    merge(&mut list, seen("a", 2, 10), false);
    merge(&mut list, seen("e", 1, 99), false);
    let got: Vec<_> = list.iter().map(|one| (one.id.as_str(), one.revision)).collect();
    assert_eq!(got, [("c", 1), ("d", 1), ("b", 3)]);
}

/// Scenario: the filter of an address, of a request, and of what the stream brings. Guarantee: open is the default and said
/// to the server; unknown choices fall back; all three agree.
#[test]
fn filters_agree() {
    let plain = InsightFilter::from_query("?state=nonsense&severity=high&x=1");
    assert_eq!(
        (plain.to_query(), plain.to_api_query(50, None)),
        (String::new(), "state=open&limit=50".to_owned())
    );
    let filter = InsightFilter::from_query("model=llama&severity=page&state=all");
    assert_eq!(filter.to_api_query(5, Some("c")), "model=llama&severity=page&state=all&limit=5&cursor=c");
    let insight = Insight::of(&answer());
    assert!(
        filter.passes(&insight) && plain.passes(&insight) && filter.is_narrowed() && !plain.is_narrowed()
    );
    for other in ["model=qwen", "severity=info", "kind=cache", "tenant=t", "state=resolved"] {
        assert!(!InsightFilter::from_query(other).passes(&insight), "{other}");
    }
}

/// Scenario: a list of an open and a resolved insight. Guarantee: each row leads to its page and says severity, subject, how
/// long it lasts and its causes; text is text.
#[test]
fn rows_say_what_matters() {
    let open = Insight::of(&answer());
    let over = Insight {
        resolved: true,
        resolved_at: Some(open.opened + 90 * SECOND),
        causes: Vec::new(),
        title: "<b>".to_owned(),
        ..open.clone()
    };
    let rows = list::rows(&[open, over], 1_100_000);
    let rows = rows.find("insight-row");
    let link = rows[0].find("row-link")[0];
    assert_eq!(link.get("href"), Some("/insights/a%2F1"));
    assert_eq!(
        rows[0].words(),
        "Page llama: first token after 1.8 s Time to first token llama · 1.4 for 1 m 30 s queue 60 % new thing 100 %"
    );
    assert!(rows[1].words().starts_with("Page Resolved <b> "), "{}", rows[1].words());
    assert!(rows[1].words().contains("1 m ago, lasted 1 m 30 s No cause stands out"), "{}", rows[1].words());
}

/// Scenario: one insight whole, and one of which little is known. Guarantee: sentence, advice, causes by rank, numbers beside
/// their baseline, traces, history with the latest first; what is missing is said.
#[test]
fn the_page_says_all() {
    let insight = Insight::of(&answer());
    let head = page::head(&insight, &frame()).words();
    assert!(head.contains("llama: first token after 1.8 s Page Open Model llama Version 1.4"), "{head}");
    assert_eq!(
        page::advice(&insight).words(),
        "What to do Add a replica. Expected gain 0.3 s Confidence 80 %"
    );
    assert!(page::causes(&insight).words().ends_with("Queue wait 60 % Waits grew. New thing 100 %"));
    let numbers = page::evidence(&insight).words();
    assert!(
        numbers.contains("Slo burn rate 14.4 – – 9 Time to first token, median 1.82 s 240 ms 7.58 × "),
        "{numbers}"
    );
    let history = page::history(&insight, &frame()).words();
    assert!(history.find("Updated") < history.find("Opened"), "{history}");
    let traces = page::traces(&insight);
    assert!(traces.words().contains("Show it ab Normal, to compare None was kept."));
    let links: Vec<_> = traces.find("mono").iter().filter_map(|link| link.get("href")).collect();
    assert_eq!(links, ["/traces/ab"]);
    let little = Insight::default();
    assert!(page::advice(&little).words().contains("No change is known"));
    assert!(page::causes(&little).words().contains("No cause stands out"));
    assert!(page::evidence(&little).words().contains("no numbers"));
}

/// Scenario: the values that detectors give, with their units, and numbers that are none. Guarantee: each reads as people
/// write it.
#[test]
fn values_and_names() {
    let read = |value, unit| words::value(value, unit).replace('\u{a0}', " ");
    for (value, unit, wanted) in [
        (0.0418, "s", "41.8 ms"),
        (0.453, "share", "45 %"),
        (312.0, "1/min", "312 /min"),
        (0.0041, "USD", "$0.0041"),
        (12.5, "USD", "$12.50"),
        (83.0, "Cel", "83 °C"),
        (1_395.0, "MHz", "1.4k MHz"),
        (8.3, "sequences", "8.3"),
        (f64::NAN, "s", "–"),
    ] {
        assert_eq!(read(value, unit), wanted);
    }
    assert_eq!(
        (words::name("gpu_idle").as_str(), words::name("some_new").as_str(), words::name("").as_str()),
        ("GPU idle", "Some new", "")
    );
}

fn course() -> Value {
    json!({
        "step_nano": "10000000000",
        "window_start_unix_nano": ["1000000000000", "1010000000000", "1020000000000", "1030000000000"],
        "counters": {"requests": ["100", null, "50", "10"], "errors": ["1", null, null, "5"], "spans": ["900", null, "450", "90"],
            "input_tokens": ["1000", null, "500", "0"], "output_tokens": ["1000", null, "500", "0"], "cost_nano_usd": ["6000000", null, "1000000", "0"]},
        "metrics": {"ttft_micros": {"p50": [250000.0, null, 1000000.0, 500000.0]}},
    })
}

fn of(metric: &str, unit: &str) -> Evidence {
    Evidence { metric: metric.to_owned(), unit: unit.to_owned(), ..Evidence::default() }
}

/// Scenario: rollups with a gap. Guarantee: distributions, ratios and rates are read in the evidence's unit; where nothing
/// was counted there is no value, where nothing failed there is a zero.
#[test]
fn courses_are_read_from_rollups() {
    let values = |metric, unit| Course::of(&course(), &of(metric, unit)).map(|course| course.values);
    assert_eq!(values("ttft_p50", "s"), Some(vec![Some(0.25), None, Some(1.0), Some(0.5)]));
    assert_eq!(values("error_rate", "share"), Some(vec![Some(0.01), None, Some(0.0), Some(0.5)]));
    assert_eq!(values("arrivals", "1/s"), Some(vec![Some(10.0), None, Some(5.0), Some(1.0)]));
    assert_eq!(values("preemptions", "1/min"), Some(vec![Some(0.0), None, Some(0.0), Some(0.0)]));
    let cost = values("cost_per_1k_tokens", "USD").unwrap();
    assert!((cost[0].unwrap() - 0.003).abs() < 1e-12 && cost[3].is_none());
    assert_eq!(values("slo_burn_rate", ""), None);
    let insight = Insight::of(&answer());
    assert_eq!(chart::drawn(&insight).map(|one| one.metric.as_str()), Some("ttft_p50"));
}

/// Scenario: baselines of other hours, of all hours, of another version, on a logarithm. Guarantee: the closest one that
/// applies, back on the metric's own scale.
#[test]
fn the_band_of_the_hour() {
    // Thursday 1970-01-01 00:17 UTC is hour 72.
    let insight = Insight::of(&answer());
    let one = |version: &str, hour: Value, median: f64, log: bool| json!({"metric": "ttft_p50", "model_version": version, "hour_of_week": hour, "median": median, "mad": 0.1, "log_scale": log});
    let middle = |list: Vec<Value>| {
        chart::band(&json!({"baselines": list}), &insight, &of("ttft_p50", "s")).map(|band| band.middle)
    };
    assert_eq!(middle(vec![one("", json!(71), 1.0, false), one("2", Value::Null, 2.0, false)]), None);
    assert_eq!(middle(vec![one("", Value::Null, 3.0, false), one("", json!(72), 4.0, false)]), Some(4.0));
    assert_eq!(middle(vec![one("", json!(72), 4.0, false), one("1.4", Value::Null, 5.0, false)]), Some(5.0));
    assert_eq!(middle(vec![one("", Value::Null, 0.0, true)]), Some(1.0));
}

/// Scenario: courses of any shape, with and without a band. Guarantee: a chart with marks inside its area; without values a
/// sentence.
#[test]
fn charts() {
    let insight = Insight::of(&answer());
    let evidence = &insight.evidence[1];
    let whole = Course::of(&course(), evidence).unwrap();
    let band = Some(Band { middle: 0.24, low: 0.2, high: 0.3 });
    let drawn = chart::chart(&insight, evidence, &whole, band, 0);
    assert_eq!(drawn.find("chart-course")[0].get("d").map(|d| d.matches('M').count()), Some(2));
    assert_eq!((drawn.find("chart-hit").len(), drawn.find("chart-band").len()), (3, 1));
    for row in drawn.find("plot-row") {
        let style = row.get("style").unwrap();
        let at: f64 = style.trim_start_matches("bottom:").trim_end_matches('%').parse().unwrap();
        assert!((0.0..=100.0).contains(&at), "{style}");
    }
    let nothing = Course { values: vec![None; 4], ..whole };
    assert!(chart::chart(&insight, evidence, &nothing, band, 0).words().contains("not in memory"));
    assert!(chart::chart(&insight, evidence, &Course::default(), None, 0).words().contains("not in memory"));
}

/// Scenario: insights of seconds and of days, open and resolved. Guarantee: the range holds the insight's life and some time
/// before it, in a bounded number of steps.
#[test]
fn ranges_are_bounded() {
    for (life_s, resolved) in [(0, false), (30, true), (7_200, false), (86_400 * 7, true)] {
        let end = (2_000_000 + life_s) * SECOND;
        let insight = Insight {
            first_window: 2_000_000 * SECOND,
            window_end: end,
            resolved_at: resolved.then_some(end),
            ..Insight::default()
        };
        let (start, until) = chart::range(&insight, end + 40 * SECOND);
        assert!(start <= insight.first_window - 600 * SECOND && until >= end, "{life_s}");
        let query = chart::rollup_query(&insight, end + 40 * SECOND);
        let step: i64 = query.rsplit_once("step=").unwrap().1.parse().unwrap();
        assert!((until - start) / (step * SECOND) <= 240, "{query}");
    }
}

/// Scenario: what a trace's answer names. Guarantee: a strip that leads to each insight; nothing where there is none.
#[test]
fn the_strip_of_a_trace() {
    assert_eq!((strip(&Value::Null), strip(&json!([]))), (None, None));
    let two = json!([
        {"id": "a", "title": "A", "severity": "PAGE", "state": "OPEN", "is_example": true},
        {"id": "b", "title": "B", "severity": "INFO", "state": "RESOLVED", "is_example": false},
    ]);
    let strip = strip(&two).unwrap();
    assert_eq!(strip.words(), "2 insights may be about this trace Page A names this trace Info B resolved");
}
