use std::collections::HashMap;

use super::*;
use crate::{Expr, Spanset, parse};

/// A span as a table of its fields, as queries name them.
#[derive(Default)]
struct Span(HashMap<&'static str, Vec<Scalar<'static>>>);

impl SpanSource for Span {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        assert!(!matches!(field, Field::Attribute { scope: Scope::Any, .. }), "unscoped is resolved before");
        self.0.get(field.to_string().as_str()).is_some_and(|values| values.iter().any(|value| test(*value)))
    }
}

fn span(fields: &[(&'static str, Scalar<'static>)]) -> Span {
    let mut span = Span::default();
    for (field, value) in fields {
        span.0.entry(field).or_default().push(*value);
    }
    span
}

fn holds(text: &str, span: &Span) -> bool {
    let query = parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)));
    let Spanset::Filter(expression) = query.spanset else { panic!("one filter") };
    matches(&expression, span)
}

/// Scenario: a field that is there, missing, or of another type. Guarantee: comparisons with a missing field or
/// another type are false, `!=` included, and their negation true; `nil` asks for presence.
#[test]
fn missing_fields() {
    let span =
        span(&[("span.a", Scalar::Text("x")), ("span.odd", Scalar::Other), ("span.n", Scalar::Integer(5))]);
    for (text, expected) in [
        (r#"{ .a = "x" }"#, true),
        (r#"{ .a != "x" }"#, false),
        (r#"{ .a != "y" }"#, true),
        (r#"{ .b = "x" }"#, false),
        (r#"{ .b != "x" }"#, false),
        (r#"{ .b !~ "x" }"#, false),
        (r#"{ !(.b = "x") }"#, true),
        (r#"{ !(.b != "x") }"#, true),
        ("{ .a != 5 }", false),
        ("{ .a = nil }", false),
        ("{ .a != nil }", true),
        ("{ .b = nil }", true),
        ("{ .b != nil }", false),
        ("{ .odd != nil }", true),
        (r#"{ .odd != "x" }"#, false),
        ("{ resource.a = nil }", true),
        ("{ llm:ttft < 1s }", false),
        ("{ .n > 4.5 && .n < 5ns || false }", false),
        ("{ .n = 5ns }", true),
        (r#"{ .a =~ "x|y" && .a !~ "xx" }"#, true),
    ] {
        assert_eq!(holds(text, &span), expected, "{text}");
    }
}

/// Scenario: an attribute on the span and on its resource. Guarantee: without a scope the span's counts alone; the
/// resource's where the span has none.
#[test]
fn unscoped_attributes() {
    let both = span(&[("span.a", Scalar::Integer(1)), ("resource.a", Scalar::Integer(2))]);
    assert!(holds("{ .a = 1 && resource.a = 2 }", &both));
    assert!(!holds("{ .a = 2 }", &both));
    let resource = span(&[("resource.a", Scalar::Integer(2))]);
    assert!(holds("{ .a = 2 && .a != nil && span.a = nil }", &resource));
}

/// Scenario: several events. Guarantee: a comparison holds when one of them satisfies it.
#[test]
fn several_values() {
    let span = span(&[("event:name", Scalar::Text("a")), ("event:name", Scalar::Text("b"))]);
    assert!(holds(r#"{ event:name = "b" && event:name = "a" && event:name != "a" }"#, &span));
    assert!(!holds(r#"{ event:name = "c" }"#, &span));
}

/// Scenario: intrinsics of each type. Guarantee: ids compare by their digits, words by their meaning.
#[test]
fn intrinsics() {
    let span = span(&[
        ("status", Scalar::Status(Status::Error)),
        ("kind", Scalar::Kind(Kind::Server)),
        ("span:id", Scalar::Id(&[0, 0, 0, 0, 0, 0, 0, 0xAB])),
        ("duration", Scalar::Duration(1_500_000_000)),
        ("llm:cacheHit", Scalar::Bool(true)),
    ]);
    assert!(holds(r#"{ status = error && kind = server && span:id = "AB" && llm:cacheHit }"#, &span));
    assert!(holds("{ duration = 1.5s && duration >= 1500ms && status != ok && span:parentID = nil }", &span));
}

/// Scenario: whole numbers that a float cannot hold, infinities, NaN. Guarantee: the comparison is exact.
#[test]
fn numbers_compare_exactly() {
    use Ordering::{Equal, Greater, Less};
    let big = (1_i64 << 53) + 1;
    assert_eq!(integer_with_float(big, (1_i64 << 53) as f64), Some(Greater));
    assert_eq!(integer_with_float(i64::MAX, i64::MAX as f64), Some(Less));
    assert_eq!(integer_with_float(i64::MIN, i64::MIN as f64), Some(Equal));
    assert_eq!(integer_with_float(-1, -1.5), Some(Greater));
    assert_eq!(integer_with_float(-2, -1.5), Some(Less));
    assert_eq!(integer_with_float(i64::MIN, f64::NEG_INFINITY), Some(Greater));
    assert_eq!(integer_with_float(0, f64::NAN), None);
    let nan = span(&[("span.x", Scalar::Float(f64::NAN))]);
    assert!(holds("{ .x != 1 && .x != 1.0 && !(.x < 1) && !(.x >= 1) }", &nan));
}

/// A trace: root 0 has 1 and 2; 1 has 3; 4 has no parent; 5 and 6 are parents of one another.
fn trace() -> Vec<Span> {
    let at = |position: i64, model: &'static str, millis: i64| {
        span(&[
            ("span.n", Scalar::Integer(position)),
            ("llm:model", Scalar::Text(model)),
            ("duration", Scalar::Duration(millis * 1_000_000)),
        ])
    };
    vec![
        at(0, "a", 100),
        at(1, "a", 50),
        at(2, "b", 30),
        at(3, "b", 10),
        at(4, "b", 5),
        at(5, "c", 1),
        at(6, "c", 1),
    ]
}

/// Scenario: spansets related in every way, one of them in a circle. Guarantee: the spans are those of the right
/// side that stand in the relation; nothing runs round for ever.
#[test]
fn structure() {
    let spans = trace();
    let parents = [None, Some(0), Some(0), Some(1), None, Some(6), Some(5)];
    let trace = Trace::new(&spans, |span| parents[span]);
    for (text, expected) in [
        ("{ .n = 0 } && { .n = 4 }", vec![vec![0, 4]]),
        ("{ .n = 0 } && { .n = 9 }", vec![]),
        ("{ .n = 0 } || { .n = 9 }", vec![vec![0]]),
        ("{ .n = 0 } > { }", vec![vec![1, 2]]),
        ("{ .n = 0 } >> { }", vec![vec![1, 2, 3]]),
        ("{ .n = 1 } >> { .n = 2 }", vec![]),
        ("{ .n = 3 } < { }", vec![vec![1]]),
        ("{ .n = 3 } << { }", vec![vec![0, 1]]),
        ("{ .n = 1 } ~ { }", vec![vec![2]]),
        ("{ .n < 3 } ~ { }", vec![vec![1, 2]]),
        ("{ .n = 4 } ~ { }", vec![]),
        ("{ .n = 5 } >> { }", vec![vec![5, 6]]),
        ("{ .n = 5 } << { }", vec![vec![5, 6]]),
        ("({ .n = 0 } > { .n = 1 }) > { }", vec![vec![3]]),
    ] {
        assert_eq!(trace.find(&parse(text).expect(text)), expected, "{text}");
    }
}

/// Scenario: stages behind a spanset. Guarantee: aggregates keep the groups for which they hold, `by` makes one a
/// value, a group without any number satisfies nothing.
#[test]
fn stages() {
    let spans = trace();
    let trace = Trace::new(&spans, |_| None);
    for (text, expected) in [
        ("{ } | count() > 6", vec![vec![0, 1, 2, 3, 4, 5, 6]]),
        ("{ } | count() > 7", vec![]),
        ("{ .n < 3 } | avg(duration) = 60ms", vec![vec![0, 1, 2]]),
        ("{ .n < 3 } | sum(.n) = 3 | min(.n) = 0 | max(.n) >= 2.0 | select(.n)", vec![vec![0, 1, 2]]),
        ("{ } | by(llm:model) | count() = 2", vec![vec![0, 1], vec![5, 6]]),
        ("{ } | by(llm:model) | max(duration) > 20ms", vec![vec![0, 1], vec![2, 3, 4]]),
        ("{ } | by(.missing) | count() = 7", vec![vec![0, 1, 2, 3, 4, 5, 6]]),
        ("{ } | avg(.missing) != 1", vec![]),
    ] {
        assert_eq!(trace.find(&parse(text).expect(text)), expected, "{text}");
    }
}

/// Scenario: a constant filter. Guarantee: all or nothing.
#[test]
fn constants() {
    assert!(matches(&Expr::Constant(true), &Span::default()));
    assert!(!holds("{ false }", &Span::default()));
}
