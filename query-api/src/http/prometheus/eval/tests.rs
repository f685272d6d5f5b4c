use std::time::{Duration, Instant};

use infertrace_analytics::sketch::{ACCURACY, Sketch};
use infertrace_schemas::avro::{Rollup, Sketch as AvroSketch};
use serde_json::{Value as Json, json};

use super::{super::promql, *};

const S: i64 = SECOND_NS;

fn sketch(metric: &str, values: impl IntoIterator<Item = u64>) -> AvroSketch {
    let mut sketch = Sketch::default();
    values.into_iter().for_each(|value| sketch.add(value));
    let (first_bin, bins) = sketch.bins();
    AvroSketch {
        metric: metric.into(),
        relative_accuracy: ACCURACY,
        count: sketch.count() as i64,
        zero_count: sketch.zeros() as i64,
        sum: sketch.sum() as f64,
        min: sketch.min() as f64,
        max: sketch.max() as f64,
        first_bin,
        bin_counts: bins.iter().map(|count| *count as i64).collect(),
    }
}

fn window(start_s: i64, length_s: i64) -> Rollup {
    Rollup {
        window_start_unix_nanos: start_s * S,
        window_nanos: length_s * S,
        revision: 1,
        ..Rollup::default()
    }
}

/// Requests of a model at a service in one window, with times to the first token in microseconds.
fn requests(start_s: i64, service: &str, errors: i64, ttft: &[u64]) -> Rollup {
    Rollup {
        model: "m".into(),
        tenant: "t".into(),
        service: service.into(),
        counters: [("requests".into(), ttft.len() as i64), ("errors".into(), errors)].into(),
        sketches: vec![sketch("ttft_micros", ttft.iter().copied())],
        ..window(start_s, 10)
    }
}

fn readings(start_s: i64, device: &str, permille: &[u64]) -> Rollup {
    Rollup {
        device: device.into(),
        sketches: vec![sketch("gpu_utilization_permille", permille.iter().copied())],
        ..window(start_s, 10)
    }
}

/// A minute of two services, one fast with much traffic, one slow with little, and of two devices.
fn held() -> Rollups {
    let mut held = Rollups::default();
    for start in (0..60).step_by(10) {
        let all = [
            requests(start, "fast", 0, &[1_000; 90]),
            requests(start, "slow", 1, &[1_000_000; 10]),
            readings(start, "gpu-0", &[100, 300]),
            readings(start, "gpu-1", &[900]),
        ];
        for rollup in all {
            held.apply(rollup, usize::MAX).expect("own rollup");
        }
    }
    held
}

fn run(rollups: &Rollups, query: &str, steps: Steps) -> Result<Vec<Outcome>, QueryError> {
    let mut budget =
        Budget { points: source::MOST_POINTS, deadline: Instant::now() + Duration::from_secs(60) };
    let mut evaluator = Evaluator::read(promql::parse(query)?, rollups, steps, &mut budget)?;
    (0..steps.count).map(|index| evaluator.at(steps.at(index))).collect()
}

/// Labels and a rounded number a sample; of a distribution its count.
fn shown(outcome: &Outcome) -> Json {
    let rounded = |number: f64| json!((number * 1e6).round() / 1e6);
    match outcome {
        Outcome::Scalar(number) => rounded(*number),
        Outcome::Vector(samples) => samples
            .iter()
            .map(|sample| match &sample.value {
                Value::Number(number) => json!([sample.labels.shown(), rounded(*number)]),
                Value::Histogram(all) => json!([sample.labels.shown(), {"count": rounded(all.count())}]),
            })
            .collect(),
    }
}

fn at(rollups: &Rollups, query: &str, at_s: i64) -> Json {
    let steps = Steps { start_ns: at_s * S, step_ns: 1, count: 1 };
    run(rollups, query, steps).map(|all| shown(&all[0])).unwrap_or_else(|error| error.message.into())
}

/// Scenario: a minute of requests and readings. Guarantee: each expression has the value that Prometheus' rules give it;
/// percentiles are those of all requests together.
#[test]
fn expressions_have_their_values() {
    let held = held();
    let fast = r#"{model="m", service="fast", tenant="t"}"#;
    let slow = r#"{model="m", service="slow", tenant="t"}"#;
    for (query, wanted) in [
        ("1 + 2 * 3 ^ 2 - -1", json!(20.0)),
        ("-2 ^ 2", json!(-4.0)),
        ("7 % 4 > bool 2", json!(1.0)),
        ("time()", json!(60.0)),
        ("vector(3)", json!([["{}", 3.0]])),
        ("scalar(sum(infertrace_requests_total)) / 2", json!(300.0)),
        ("sum(infertrace_requests_total)", json!([["{}", 600.0]])),
        ("rate(infertrace_requests_total[1m])", json!([[fast, 9.0], [slow, 1.0]])),
        ("increase(infertrace_requests_total[20s])", json!([[fast, 180.0], [slow, 20.0]])),
        // Rounded up to whole windows.
        ("increase(infertrace_requests_total[15s])", json!([[fast, 180.0], [slow, 20.0]])),
        ("rate(infertrace_requests_total{service=\"slow\"}[15s])", json!([[slow, 1.0]])),
        ("increase(infertrace_requests_total[1m] offset 30s)", json!([[fast, 270.0], [slow, 30.0]])),
        ("rate(infertrace_requests_total{service=~\"s.*\", tenant!=\"x\"}[1m])", json!([[slow, 1.0]])),
        ("rate(infertrace_requests_total{model=\"n\"}[1m])", json!([])),
        ("rate(infertrace_requests_total{unknown=\"n\"}[1m])", json!([])),
        ("rate(infertrace_requests_total{unknown=\"\", service=\"slow\"}[1m])", json!([[slow, 1.0]])),
        ("none_of_ours", json!([])),
        (
            "sum by (service) (rate({__name__=\"infertrace_request_errors_total\"}[1m]))",
            json!([[r#"{service="fast"}"#, 0.0], [r#"{service="slow"}"#, 0.1]]),
        ),
        // Nothing failed at one of them: its share is told as 0.
        (
            "rate(infertrace_request_errors_total[1m]) / rate(infertrace_requests_total[1m])",
            json!([[fast, 0.0], [slow, 0.1]]),
        ),
        (
            "avg without (service) (rate(infertrace_requests_total[1m]))",
            json!([[r#"{model="m", tenant="t"}"#, 5.0]]),
        ),
        ("min(rate(infertrace_requests_total[1m]))", json!([["{}", 1.0]])),
        ("max(rate(infertrace_requests_total[1m]))", json!([["{}", 9.0]])),
        ("count(infertrace_requests_total)", json!([["{}", 2.0]])),
        ("topk(1, rate(infertrace_requests_total[1m]))", json!([[fast, 9.0]])),
        ("bottomk(1, rate(infertrace_requests_total[1m]))", json!([[slow, 1.0]])),
        ("rate(infertrace_requests_total[1m]) > 5", json!([[fast, 9.0]])),
        ("5 < bool rate(infertrace_requests_total[1m])", json!([[fast, 1.0], [slow, 0.0]])),
        ("sort(rate(infertrace_requests_total[1m]))", json!([[slow, 1.0], [fast, 9.0]])),
        ("round(rate(infertrace_requests_total{service=\"fast\"}[1m]) / 4, 0.5)", json!([[fast, 2.5]])),
        ("clamp_max(rate(infertrace_requests_total{service=\"fast\"}[1m]), 2)", json!([[fast, 2.0]])),
        (
            "rate(infertrace_requests_total[1m]) and on(service) infertrace_requests_total{service=\"slow\"}",
            json!([[slow, 1.0]]),
        ),
        (
            "rate(infertrace_requests_total[1m]) unless on(service) infertrace_requests_total{service=\"slow\"}",
            json!([[fast, 9.0]]),
        ),
        (
            "vector(1) or rate(infertrace_requests_total{service=\"slow\"}[1m])",
            json!([["{}", 1.0], [slow, 1.0]]),
        ),
        // Distributions.
        ("rate(infertrace_ttft_seconds{service=\"slow\"}[1m])", json!([[slow, {"count": 1.0}]])),
        ("histogram_count(sum(increase(infertrace_ttft_seconds[1m])))", json!([["{}", 600.0]])),
        ("histogram_sum(sum(increase(infertrace_ttft_seconds[1m])))", json!([["{}", 60.54]])),
        ("histogram_avg(sum(rate(infertrace_ttft_seconds[1m])))", json!([["{}", 0.1009]])),
        (
            "rate(infertrace_ttft_seconds_sum[1m]) / rate(infertrace_ttft_seconds_count[1m])",
            json!([[fast, 0.001], [slow, 1.0]]),
        ),
        ("histogram_fraction(0, 0.5, sum(rate(infertrace_ttft_seconds[1m])))", json!([["{}", 0.9]])),
        ("histogram_quantile(1.5, sum(rate(infertrace_ttft_seconds[1m]))) > 1e300", json!([["{}", null]])),
        // Readings of devices.
        (
            "infertrace_gpu_utilization_ratio",
            json!([
                [r#"{__name__="infertrace_gpu_utilization_ratio", device="gpu-0"}"#, 0.2],
                [r#"{__name__="infertrace_gpu_utilization_ratio", device="gpu-1"}"#, 0.9]
            ]),
        ),
        ("avg(infertrace_gpu_utilization_ratio)", json!([["{}", 0.55]])),
        (
            "max_over_time(infertrace_gpu_utilization_ratio{device=\"gpu-0\"}[1m])",
            json!([[r#"{device="gpu-0"}"#, 0.3]]),
        ),
        (
            "count_over_time(infertrace_gpu_utilization_ratio{device=\"gpu-0\"}[1m])",
            json!([[r#"{device="gpu-0"}"#, 12.0]]),
        ),
        (
            "avg_over_time(infertrace_gpu_utilization_ratio{device=\"gpu-0\"}[1m])",
            json!([[r#"{device="gpu-0"}"#, 0.2]]),
        ),
    ] {
        assert_eq!(at(&held, query, 60), wanted, "{query}");
    }
}

/// Scenario: percentiles of two services of very different traffic together. Guarantee: they are those of all requests,
/// which no average of the services' percentiles is.
#[test]
fn percentiles_come_from_merged_sketches() {
    let held = held();
    let quantile = |q: f64| {
        let query = format!("histogram_quantile({q}, sum by (model) (rate(infertrace_ttft_seconds[1m])))");
        at(&held, &query, 60)[0][1].as_f64().expect("a number")
    };
    // A tenth of all requests took a second.
    assert!((quantile(0.5) - 0.001).abs() < 2e-5 && (quantile(0.89) - 0.001).abs() < 2e-5);
    assert!((quantile(0.91) - 1.0).abs() < 0.02 && (quantile(0.99) - 1.0).abs() < 0.02);
}

/// Scenario: what the data do not allow. Guarantee: an error that names the series and says what to write instead.
#[test]
fn what_data_do_not_allow_is_refused() {
    let held = held();
    for (query, wanted) in [
        (
            "rate(infertrace_gpu_utilization_ratio[1m])",
            "rate() does not fit the gauge {__name__=\"infertrace_gpu",
        ),
        ("avg_over_time(infertrace_requests_total[1m])", "avg_over_time() does not fit the counter"),
        ("max_over_time(infertrace_ttft_seconds[1m])", "max_over_time() does not fit the histogram"),
        (
            "max(rate(infertrace_ttft_seconds[1m]))",
            "{model=\"m\", service=\"fast\", tenant=\"t\"} is a distribution",
        ),
        ("infertrace_ttft_seconds * infertrace_ttft_seconds", "the distributions of"),
        (
            "infertrace_requests_total / on(model) infertrace_requests_total",
            "found duplicate series for the match group {model=\"m\"}",
        ),
        (
            "infertrace_requests_total / on(model) sum by (model) (infertrace_requests_total)",
            "multiple matches for labels {model=\"m\"}",
        ),
    ] {
        let error = at(&held, query, 60);
        assert!(error.as_str().is_some_and(|error| error.starts_with(wanted)), "{query}: {error}");
    }
}

/// Scenario: a range query whose steps lie anywhere, with windows that slide, and one past the last window. Guarantee: each
/// step is what an instant query at its time is; a rate divides by the time for which windows are closed.
#[test]
fn steps_are_moments() {
    let held = held();
    for query in [
        "rate(infertrace_requests_total[30s])",
        "increase(infertrace_ttft_seconds[30s])",
        "histogram_quantile(0.95, sum(rate(infertrace_ttft_seconds[20s])))",
        "infertrace_gpu_utilization_ratio",
        "infertrace_ttft_seconds",
        "max_over_time(infertrace_gpu_utilization_ratio[20s])",
    ] {
        for (start_ns, step_ns) in [(0, 10 * S), (3 * S, 7 * S), (-20 * S, 60 * S)] {
            let steps = Steps { start_ns, step_ns, count: 12 };
            let all = run(&held, query, steps).expect("a value");
            for (index, outcome) in all.iter().enumerate() {
                let alone = Steps { start_ns: steps.at(index), step_ns: 1, count: 1 };
                assert_eq!(
                    *outcome,
                    run(&held, query, alone).expect("a value")[0],
                    "{query} at {}",
                    steps.at(index)
                );
            }
        }
    }
    let slow = "rate(infertrace_requests_total{service=\"slow\"}[1m])";
    for (at_s, wanted) in [(60, 1.0), (90, 1.0), (119, 1.0)] {
        assert_eq!(at(&held, slow, at_s)[0][1], wanted, "at {at_s}");
    }
    assert_eq!(at(&held, slow, 120), json!([]));
}

/// Scenario: windows of ten seconds and of a minute of the same time; then the short ones have left for lack of memory.
/// Guarantee: every request counts once, whichever windows the step allows.
#[test]
fn every_moment_counts_once() {
    let minutes = || {
        (0..3).map(|minute| {
            let counters = [("requests".to_owned(), 6)].into();
            Rollup { model: "m".into(), service: "s".into(), counters, ..window(minute * 60, 60) }
        })
    };
    let tens = (0..21).map(|ten| requests(ten * 10, "s", 0, &[1]));
    let tens = tens.map(|rollup| Rollup { tenant: String::new(), ..rollup });
    let of = |all: Vec<Rollup>| {
        let mut held = Rollups::default();
        all.into_iter().for_each(|rollup| held.apply(rollup, usize::MAX).expect("own rollup"));
        held
    };
    let both = of(tens.chain(minutes()).collect());
    let count = |held: &Rollups, range: &str, at_s| {
        at(held, &format!("increase(infertrace_requests_total[{range}])"), at_s)[0][1].as_f64()
    };
    assert_eq!(count(&both, "3m", 180), Some(18.0));
    assert_eq!(count(&both, "3m", 200), Some(18.0));
    assert_eq!(count(&both, "10m", 210), Some(21.0));
    assert_eq!(count(&both, "20s", 50), Some(2.0));
    let left = of(minutes().collect());
    assert_eq!(count(&left, "3m", 180), Some(18.0));
    assert_eq!(count(&left, "2m", 130), Some(12.0));
}

/// Scenario: queries that would read too much, or have no time left. Guarantee: they are refused, not answered in part.
#[test]
fn limits_are_kept() {
    let held = held();
    let steps = Steps { start_ns: 60 * S, step_ns: 1, count: 1 };
    let query = || promql::parse("infertrace_requests_total").expect("a query");
    let far = Instant::now() + Duration::from_secs(60);
    let mut few = Budget { points: 11, deadline: far };
    assert!(Evaluator::read(query(), &held, steps, &mut few).is_err());
    let mut enough = Budget { points: 12, deadline: far };
    assert!(Evaluator::read(query(), &held, steps, &mut enough).is_ok());
    let late = Budget { points: 12, deadline: Instant::now() };
    assert!(late.in_time().is_err());
}
