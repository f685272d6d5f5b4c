use super::*;

/// Scenario: queries as Grafana's editor and people write them. Guarantee: each is read.
#[test]
fn queries_are_read() {
    for query in [
        "1+1",
        "infertrace_requests_total",
        "infertrace_requests_total{model=\"m\", tenant!='x', service=~\"a|b.*\", stage!~`q`,}",
        "{__name__=~\"infertrace_.*\", model=\"m\"}",
        "{\"infertrace_requests_total\", model=\"m\"}",
        "sum by (model) (rate(infertrace_requests_total[5m] offset 1h30m))",
        "sum(rate(infertrace_requests_total{model=\"m\"}[1m])) by (model, tenant)",
        "SUM without(service) (increase(infertrace_cost_usd_total[1d]))",
        "histogram_quantile(0.99, sum by (model) (rate(infertrace_ttft_seconds[5m])))",
        "quantile_over_time(0.9, infertrace_gpu_utilization_ratio{device=\"d\"}[10m])",
        "topk(3, rate(infertrace_requests_total[1m])) > bool 2 # the busiest",
        "a / on(model) b or ignoring (x) c unless d and e",
        "-a ^ 2 * (b - +3.5e-1) % 0x1F + Inf",
        "round(a, 0.5) >= 1",
        "sum(histogram_quantile(0.99, a) > bool 0.5)",
        "clamp(a, 0, 5m)",
    ] {
        if let Err(error) = parse(query) {
            panic!("{query}: {error}");
        }
    }
}

/// Scenario: what is no PromQL, or not evaluated here. Guarantee: the error says what, and at which line and column.
#[test]
fn what_is_refused_is_named_at_its_place() {
    for (query, wanted) in [
        ("", "1:1: parse error: unexpected the end"),
        ("sum(", "1:5: parse error: unexpected the end"),
        ("1 +\n  deriv(a[5m])", "2:3: parse error: the function `deriv` is not supported; supported: rate"),
        ("Rate(a[5m])", "1:1: parse error: the function `Rate` is not supported"),
        ("stddev(a)", "1:1: parse error: the aggregation `stddev` is not supported"),
        ("a * on(x) group_left(y) b", "1:11: parse error: group_left is not supported"),
        ("rate(a)", "1:7: parse error: rate() takes the range of a selector"),
        ("rate(sum(a)[5m])", "1:6: parse error: rate() takes the range of a selector"),
        ("rate(a[5m:1m])", "1:10: parse error: subqueries are not supported"),
        ("a[5m]", "1:2: parse error: a range stands only inside of a function"),
        ("sum(a)[5m:]", "1:7: parse error: a range follows a selector"),
        ("a @ 5", "1:3: parse error: the modifier `@` is not supported"),
        ("rate(a[0s])", "1:8: parse error: expected a duration above 0"),
        ("rate(a[5m], 1)", "1:11: parse error: rate() takes 1 arguments, found `,`"),
        ("abs(1)", "1:5: parse error: expected type instant vector, got scalar"),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("a + bool b", "1:3: parse error: bool modifier can only be used on comparison operators"),
        ("a and 1", "1:3: parse error: set operators are only allowed between instant vectors"),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("{a=~\".*\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("a{b=~\"(\"}", "1:6: parse error: not a regular expression"),
        ("a{b=5}", "1:5: parse error: expected a string in quotes"),
        ("a{b=\"x}", "1:5: parse error: a string that does not end"),
        ("a ! b", "1:3: parse error: unexpected character '!'"),
        ("5x", "1:1: parse error: a malformed number or duration"),
        ("a b", "1:3: parse error: unexpected `b`"),
        (
            "avg by (tenant) (histogram_quantile(0.9, rate(a[5m])))",
            "1:1: parse error: percentiles cannot be added up or averaged; merge their distributions",
        ),
        ("sum(2 * abs(quantile_over_time(0.9, a[5m])))", "1:1: parse error: percentiles cannot be added up"),
    ] {
        let error = parse(query).expect_err(query).to_string();
        assert!(error.starts_with(wanted), "{query}: {error}");
    }
    assert!(parse(&"(".repeat(1_000)).is_err());
    assert!(parse(&"-".repeat(8_000)).is_err());
    assert!(parse(&"a+".repeat(5_000)).is_err());
    assert!(
        parse_selector("a + a").is_err()
            && parse_selector("5").is_err()
            && parse_selector("a{b=\"c\"}").is_ok()
    );
}

/// Scenario: durations, whole, mixed and wrong. Guarantee: nanoseconds, or nothing.
#[test]
fn durations_are_read() {
    assert_eq!(parse_duration("1h30m"), Some(5_400_000_000_000));
    assert_eq!(parse_duration("1500ms"), Some(1_500_000_000));
    assert_eq!(parse_duration("1w"), Some(604_800_000_000_000));
    for text in ["", "5", "m", "30m1h", "1m1m", "99999999999y", "-5m", "1.5h"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}
