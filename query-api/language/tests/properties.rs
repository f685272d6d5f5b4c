//! What holds for every query and every text.

use infertrace_query_language::{
    Aggregate, Comparison, Connective, Expr, Field, Function, Intrinsic, Kind, Operator, Query, Scope,
    Spanset, SpansetOperator, Stage, Status, Value, clickhouse,
    evaluate::{Scalar, SpanSource, matches},
    parse,
};
use proptest::{collection::vec, prelude::*, sample::select};

fn fields() -> impl Strategy<Value = Field> {
    let key = prop_oneof!["[a-c]", "[a-z][a-z._-]{0,6}", "\\PC{1,6}", any::<char>().prop_map(String::from)];
    prop_oneof![
        select(Intrinsic::ALL).prop_map(Field::from),
        (select(&Scope::ALL[..]), key)
            .prop_map(|(scope, key)| Field::attribute(scope, key).expect("keys are not empty")),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let finite = prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO;
    prop_oneof![
        any::<String>().prop_map(Value::Text),
        select(&["", "a", "b", "a.*", r"\d+", "[a-z]|x", "ff"][..])
            .prop_map(|text| Value::Text(text.to_owned())),
        any::<i64>().prop_map(Value::Integer),
        (-2..2_i64).prop_map(Value::Integer),
        finite.prop_map(Value::Float),
        any::<i64>().prop_map(Value::Duration),
        (-5_000..5_000_i64).prop_map(|millis| Value::Duration(millis * 1_000_000)),
        any::<bool>().prop_map(Value::Bool),
        select(Status::ALL).prop_map(Value::Status),
        select(Kind::ALL).prop_map(Value::Kind),
        Just(Value::Nil),
    ]
}

fn comparisons() -> impl Strategy<Value = Expr> {
    (fields(), select(&Operator::ALL[..]), values()).prop_map(|(field, operator, value)| {
        // Most draws do not fit together; they become a test of presence, or of an attribute.
        let of_attribute = |scope| Field::attribute(scope, "a").expect("a key");
        Comparison::new(field.clone(), operator, value.clone())
            .or_else(|_| Comparison::new(of_attribute(Scope::Any), operator, value))
            .or_else(|_| Comparison::new(field, Operator::NotEqual, Value::Nil))
            .map(Expr::Compare)
            .expect("every field may be compared with nil")
    })
}

fn expressions() -> impl Strategy<Value = Expr> {
    let leaves = prop_oneof![1 => any::<bool>().prop_map(Expr::Constant), 6 => comparisons()];
    leaves.prop_recursive(5, 16, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
            (select(&[Connective::And, Connective::Or][..]), inner.clone(), inner).prop_map(
                |(connective, left, right)| Expr::Binary {
                    connective,
                    left: Box::new(left),
                    right: Box::new(right)
                }
            ),
        ]
    })
}

fn spansets() -> impl Strategy<Value = Spanset> {
    use SpansetOperator::{Ancestor, And, Child, Descendant, Or, Parent, Sibling};
    let operators = select(&[And, Or, Child, Descendant, Parent, Ancestor, Sibling][..]);
    expressions().prop_map(Spanset::Filter).prop_recursive(3, 4, 2, move |inner| {
        (operators.clone(), inner.clone(), inner).prop_map(|(operator, left, right)| Spanset::Binary {
            operator,
            left: Box::new(left),
            right: Box::new(right),
        })
    })
}

fn stages() -> impl Strategy<Value = Stage> {
    let aggregate = (select(Function::ALL), fields(), select(&Operator::ALL[..]), values()).prop_map(
        |(function, field, operator, value)| {
            let field = (function != Function::Count).then_some(field);
            Aggregate::new(function, field, operator, value)
                .or_else(|_| Aggregate::new(Function::Count, None, Operator::Greater, Value::Integer(2)))
                .map(Stage::Aggregate)
                .expect("an aggregate")
        },
    );
    prop_oneof![aggregate, fields().prop_map(Stage::By), vec(fields(), 1..4).prop_map(Stage::Select)]
}

fn queries() -> impl Strategy<Value = Query> {
    (spansets(), vec(stages(), 0..3)).prop_map(|(spanset, stages)| Query { spanset, stages })
}

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
        prop_assume!(key != "service.name");
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
