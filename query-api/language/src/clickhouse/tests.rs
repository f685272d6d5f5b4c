use super::*;
use crate::parse;

fn compiled(text: &str) -> Result<Predicate, Unsupported> {
    predicate(&parse(text).unwrap_or_else(|error| panic!("{}", error.render(text))))
}

/// Scenario: a query of each kind. Guarantee: its SQL and parameters, to the letter; columns and maps of one type
/// stand as plain comparisons, which keys and indexes prune by.
#[test]
fn sql_of_each_kind() {
    const HAS_P0: &str = "(mapContains(attributes_string, {p0:String}) OR mapContains(attributes_int, {p0:String}) \
        OR mapContains(attributes_double, {p0:String}) OR mapContains(attributes_bool, {p0:String}) \
        OR mapContains(attributes_other, {p0:String}))";
    const TEXT_OF_P0: &str = "JSONExtractString(a, 'key') = {p0:String} \
        AND JSONType(a, 'value', 'stringValue') = 'String' \
        AND JSONExtractString(a, 'value', 'stringValue')";
    for (text, sql, parameters) in [
        (
            r#"{ resource.service.name = "chat" && duration > 1.5s && status = error }"#,
            "((service_name = {p0:String} AND duration_ns > {p1:Int64}) AND status_code = 2)",
            &["chat", "1500000000"][..],
        ),
        (
            r#"{ llm:model =~ "llama.*" && !(llm:model = "llama-2") }"#,
            "(match(model_name, {p0:String}) AND NOT ifNull(model_name = {p1:String}, 0))",
            &[r"\\A(?s:llama.*)\\z", "llama-2"],
        ),
        (
            "{ llm:queueWait >= 20ms || llm:ttft = nil }",
            "(accurateCastOrNull(round(queue_wait_ms * 1e6), 'Int64') >= {p0:Int64} OR ttft_ns IS NULL)",
            &["20000000"],
        ),
        (
            r#"{ trace:id = "ab" && span:parentID = nil && span:id != "1" }"#,
            "((trace_id = unhex({p0:String}) AND parent_span_id IS NULL) AND span_id != unhex({p1:String}))",
            &["000000000000000000000000000000ab", "0000000000000001"],
        ),
        (r#"{ span.a = "x" }"#, "attributes_string[{p0:String}] = {p1:String}", &["a", "x"]),
        (
            r#"{ span.a != "x" }"#,
            "(mapContains(attributes_string, {p0:String}) AND attributes_string[{p0:String}] != {p1:String})",
            &["a", "x"],
        ),
        (
            "{ span.a > 5 }",
            "((mapContains(attributes_int, {p0:String}) AND attributes_int[{p0:String}] > {p1:Int64}) \
             OR (mapContains(attributes_double, {p0:String}) AND attributes_double[{p0:String}] > {p1:Int64}))",
            &["a", "5"],
        ),
        (
            "{ span.a = true }",
            "(mapContains(attributes_bool, {p0:String}) AND attributes_bool[{p0:String}] = {p1:Bool})",
            &["a", "true"],
        ),
        ("{ span.a = nil }", &format!("NOT {HAS_P0}"), &["a"]),
        (
            r#"{ .service.name = "chat" }"#,
            &format!(
                "(attributes_string[{{p0:String}}] = {{p1:String}} OR (NOT {HAS_P0} AND service_name = {{p1:String}}))"
            ),
            &["service.name", "chat"],
        ),
        (
            r#"{ resource.a = "x" }"#,
            &format!(
                "(position(resource, {{p0:String}}) > 0 AND arrayExists(a -> {TEXT_OF_P0} = {{p1:String}}, \
                 JSONExtractArrayRaw(resource, 'attributes')))"
            ),
            &["a", "x"],
        ),
        (
            r#"{ event."it's" < "x" }"#,
            &format!(
                "arrayExists(e -> (arrayExists(a -> {TEXT_OF_P0} < {{p1:String}}, \
                 JSONExtractArrayRaw(e.attributes))), events)"
            ),
            &["it's", "x"],
        ),
        (r#"{ event:name = "a" }"#, "arrayExists(e -> e.name = {p0:String}, events)", &["a"]),
        ("{ !(.a = 1 || true) }", "0", &[]),
        ("{ name != nil } | select(.a)", "1", &[]),
    ] {
        let found = compiled(text).expect(text);
        assert_eq!(found.sql, sql, "{text}");
        let escaped: Vec<String> =
            found.parameters.iter().map(|parameter| parameter.value.escaped()).collect();
        assert_eq!(escaped, parameters, "{text}");
        let names =
            found.parameters.iter().enumerate().all(|(at, parameter)| parameter.name == format!("p{at}"));
        assert!(names, "{text}");
    }
}

/// Scenario: queries that need more than one row of spans. Guarantee: refused, naming the part, unless it is decided
/// without it.
#[test]
fn what_rows_cannot_answer() {
    for (text, part) in [
        ("{ } >> { status = error }", "`>>` between spansets"),
        ("{ } | count() > 2", "the stage `count() > 2`"),
        ("{ } | by(name)", "the stage `by(name)`"),
        ("{ .a = 1 && traceDuration > 1s }", "`traceDuration`"),
        ("{ llm:cost > 0.5 }", "`llm:cost`"),
        ("{ link.a = 1 }", "the scope `link.`"),
    ] {
        let error = compiled(text).expect_err(text);
        assert_eq!(error.what, part);
        assert!(error.to_string().starts_with(&format!("{part} is not supported by ClickHouse's table")));
    }
    assert!(compiled("{ false && rootName = `a` }").is_ok());
}

/// Scenario: conditions with a part that rows cannot answer, plain, negated and beside others. Guarantee: one bound leaves
/// it out, the other takes it to be met; conditions without such a part have one predicate.
#[test]
fn parts_that_rows_cannot_answer_are_bounded() {
    let both = |text: &str| {
        let Spanset::Filter(expression) = parse(text).expect(text).spanset else { panic!("{text}") };
        [Bound::Certain, Bound::Possible].map(|bound| bounded(&expression, bound).sql)
    };
    assert_eq!(both("{ link.a = 1 }"), ["0", "1"]);
    assert_eq!(both("{ !(link.a = 1) }"), ["0", "1"]);
    assert_eq!(both("{ status = error && link.a = 1 }"), ["0", "status_code = 2"]);
    assert_eq!(both("{ status = error || !(link.a = 1) }"), ["status_code = 2", "1"]);
    assert_eq!(both("{ status = error }"), ["status_code = 2", "status_code = 2"]);
}

/// Scenario: texts with what ClickHouse's format `Escaped` takes for something else. Guarantee: escaped.
#[test]
fn parameters_are_escaped() {
    let text = ParameterValue::Text("a\\N\tb\n\r\0'é".to_owned());
    assert_eq!(text.escaped(), "a\\\\N\\tb\\n\\r\\0'é");
    assert_eq!(ParameterValue::Float(1e300).escaped(), "1e300");
}
