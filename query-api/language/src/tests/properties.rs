//! What holds for every query and every text.

use proptest::{collection::vec, prelude::*, sample::select};

use super::strategies::{expressions, queries};
use crate::{
    Comparison, Connective, Expr, Field, Operator, Query, Scope, Spanset, Value, clickhouse,
    evaluate::{Scalar, SpanSource, matches},
    parse,
};

/// A span that has a few attributes, drawn by key and scope.
struct Drawn(u64);

impl SpanSource for Drawn {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        let text = field.to_string();
        let draw = text
            .bytes()
            .fold(self.0, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        match (draw >> 32) % 6 {
            0 => test(Scalar::Text(["", "a", "b"][(draw % 3) as usize])),
            1 => test(Scalar::Integer((draw % 3) as i64 - 1)),
            2 => test(Scalar::Float(0.5)) || test(Scalar::Float(f64::NAN)),
            3 => test(Scalar::Other),
            _ => false,
        }
    }
}

/// Texts that are nearly queries.
fn nearly_queries() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "(",
        ")",
        "!",
        "&&",
        "||",
        "|",
        ">",
        ">>",
        "<",
        "=",
        "!=",
        "=~",
        "~",
        ",",
        ".a",
        "span.",
        "\"",
        "`",
        "\\",
        "duration",
        "status",
        "error",
        "llm:ttft",
        "1s",
        "1.5",
        "-3",
        "9e999",
        "nil",
        "count()",
        "by(",
        "true",
        "\"x\"",
        "é",
        "\n",
        "\\u12",
        "`(a{9}){9}`",
        " ",
    ];
    vec(select(pieces.to_vec()), 0..40).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    /// Scenario: any well-typed query. Guarantee: its text parses to it.
    #[test]
    fn parse_reads_what_is_printed(query in queries()) {
        let text = query.to_string();
        prop_assume!(text.len() < 8_000);
        match parse(&text) {
            Ok(again) => prop_assert_eq!(again, query),
            Err(error) => prop_assert!(false, "{}", error.render(&text)),
        }
    }

    /// Scenario: any bytes read as text, and texts made of a query's pieces. Guarantee: no panic; a refusal's place
    /// is within the text and can be shown; what is taken prints to something that is taken.
    #[test]
    fn any_text_is_taken_or_refused(
        text in prop_oneof![
            vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            "\\{ \\PC{0,60} \\}",
            nearly_queries(),
        ],
    ) {
        match parse(&text) {
            Ok(query) => {
                let again = parse(&query.to_string());
                prop_assert_eq!(again.as_ref(), Ok(&query));
                let _ = clickhouse::predicate(&query);
            }
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.offset()));
                prop_assert!(error.render(&text).ends_with('^'));
            }
        }
    }

    /// Scenario: any condition and span. Guarantee: the normal form holds for the same spans.
    #[test]
    fn the_normal_form_means_the_same(expression in expressions(), seed: u64) {
        let span = Drawn(seed);
        let normal = expression.normalised();
        prop_assert_eq!(matches(&expression, &span), matches(&normal, &span));
        prop_assert_eq!(normal.normalised(), normal);
    }

    /// Scenario: any query of one spanset. Guarantee: its SQL has nothing of the query's texts and keys in it:
    /// the same query with other texts has the same SQL.
    #[test]
    fn no_text_becomes_sql(key in "\\PC{1,20}", text in "\\PC{1,20}") {
        prop_assume!(key != "service.name" && key != text);
        let sql_of = |key: &str, text: &str| {
            let condition = |scope, operator| {
                let field = Field::attribute(scope, key).expect("a key");
                Expr::Compare(Comparison::new(field, operator, Value::Text(text.to_owned())).expect("text"))
            };
            let scopes = [Scope::Any, Scope::Span, Scope::Resource, Scope::Event];
            let all = scopes.into_iter().flat_map(|scope| {
                [Operator::Equal, Operator::NotEqual, Operator::Less].map(|operator| condition(scope, operator))
            });
            let all = all.reduce(|left, right| Expr::Binary {
                connective: Connective::And,
                left: Box::new(left),
                right: Box::new(right),
            });
            let spanset = Spanset::Filter(all.expect("conditions"));
            clickhouse::predicate(&Query { spanset, stages: Vec::new() }).expect("supported")
        };
        let is_plain = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/: ".contains(&byte));
        let other = if is_plain(&key) { "k" } else { "'" };
        prop_assert_eq!(sql_of(&key, &text).sql, sql_of(other, "t").sql);
    }
}
