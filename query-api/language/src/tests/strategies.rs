//! Queries at random.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    Aggregate, Comparison, Connective, Expr, Field, Function, Intrinsic, Kind, Operator, Query, Scope,
    Spanset, SpansetOperator, Stage, Status, Value,
};

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

/// Any condition.
pub(super) fn expressions() -> impl Strategy<Value = Expr> {
    expressions_of(comparisons())
}

/// Conditions made of these comparisons.
pub(super) fn expressions_of(
    comparisons: impl Strategy<Value = Expr> + 'static,
) -> impl Strategy<Value = Expr> {
    let leaves = prop_oneof![1 => any::<bool>().prop_map(Expr::Constant), 6 => comparisons];
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

pub(super) fn queries() -> impl Strategy<Value = Query> {
    (spansets(), vec(stages(), 0..3)).prop_map(|(spanset, stages)| Query { spanset, stages })
}
