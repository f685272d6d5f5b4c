//! What a query means: the reference that every tier agrees with.
//!
//! A comparison holds when one of the field's values satisfies it. So one with a missing field, or with a value of
//! another type, is false, `!=` and `!~` included; `= nil` and `!= nil` ask whether there is a value. Whole numbers,
//! numbers and durations (as nanoseconds) compare exactly with one another; text by its bytes.

mod trace;

use std::cmp::Ordering;

pub use trace::Trace;

use crate::{
    ast::{Comparison, Connective, Expr, Kind, Operator, Status, Value},
    field::{Field, Scope},
};

/// One value that a span has for a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// Text.
    Text(&'a str),
    /// Whole number; what a column of 64 bits without sign holds above [`i64::MAX`] is that.
    Integer(i64),
    /// Number.
    Float(f64),
    /// Nanoseconds. Milliseconds of a column of floats are `(ms * 1e6).round_ties_even()`.
    Duration(i64),
    /// Truth value.
    Bool(bool),
    /// How the span ended.
    Status(Status),
    /// Kind of span.
    Kind(Kind),
    /// An id's bytes.
    Id(&'a [u8]),
    /// Anything that is no single value: bytes, an array, a list. It is there, and compares with nothing.
    Other,
}

/// A span, as what it has for each field.
pub trait SpanSource {
    /// Whether `test` holds for one of the span's values for `field`; false when it has none.
    ///
    /// Fields of [`Scope::Any`] are never asked for: they are looked for on the span and then on its resource.
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool;
}

/// Whether `span` satisfies `expression`.
#[must_use]
pub fn matches(expression: &Expr, span: &impl SpanSource) -> bool {
    match expression {
        Expr::Constant(value) => *value,
        Expr::Compare(comparison) => holds(comparison, span),
        Expr::Not(inner) => !matches(inner, span),
        Expr::Binary { connective: Connective::And, left, right } => {
            matches(left, span) && matches(right, span)
        }
        Expr::Binary { connective: Connective::Or, left, right } => {
            matches(left, span) || matches(right, span)
        }
    }
}

fn holds(comparison: &Comparison, span: &impl SpanSource) -> bool {
    if comparison.value() == &Value::Nil {
        let is_there = any(span, comparison.field(), &mut |_| true);
        return is_there == (comparison.operator() == Operator::NotEqual);
    }
    any(span, comparison.field(), &mut |value| satisfies(value, comparison))
}

/// As [`SpanSource::any`], with the order of scopes that an unscoped attribute is looked for in.
fn any(span: &impl SpanSource, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
    let Field::Attribute { scope: Scope::Any, key } = field else { return span.any(field, test) };
    let of_span = Field::Attribute { scope: Scope::Span, key: key.clone() };
    let mut is_there = false;
    let holds = span.any(&of_span, &mut |value| {
        is_there = true;
        test(value)
    });
    let of_resource = || Field::Attribute { scope: Scope::Resource, key: key.clone() };
    holds || (!is_there && span.any(&of_resource(), test))
}

/// The first value that a span has for `field`, for showing it or counting by it: ids are hexadecimal text; `None`
/// without one, and for what is no single value or not finite.
#[must_use]
pub fn first(field: &Field, span: &impl SpanSource) -> Option<Value> {
    let mut first = None;
    any(span, field, &mut |value| {
        first = match value {
            Scalar::Text(text) => Some(Value::Text(text.to_owned())),
            Scalar::Integer(number) => Some(Value::Integer(number)),
            Scalar::Float(number) => Some(number).filter(|number| number.is_finite()).map(Value::Float),
            Scalar::Duration(nanos) => Some(Value::Duration(nanos)),
            Scalar::Bool(flag) => Some(Value::Bool(flag)),
            Scalar::Status(status) => Some(Value::Status(status)),
            Scalar::Kind(kind) => Some(Value::Kind(kind)),
            Scalar::Id(bytes) => Some(Value::Text(hexadecimal(bytes))),
            Scalar::Other => None,
        };
        true
    });
    first
}

fn satisfies(value: Scalar<'_>, comparison: &Comparison) -> bool {
    match (comparison.operator(), comparison.pattern(), value) {
        (Operator::Matches, Some(pattern), Scalar::Text(text)) => pattern.matches(text),
        (Operator::NotMatches, Some(pattern), Scalar::Text(text)) => !pattern.matches(text),
        (Operator::Matches | Operator::NotMatches, ..) => false,
        (operator, ..) => compare(value, operator, comparison.value()),
    }
}

/// Whether the values are of types that compare, and the operator holds.
fn compare(left: Scalar<'_>, operator: Operator, right: &Value) -> bool {
    let order = match (left, right) {
        (Scalar::Text(left), Value::Text(right)) => Some(left.as_bytes().cmp(right.as_bytes())),
        (Scalar::Id(left), Value::Text(right)) => Some(hexadecimal(left).cmp(right)),
        (Scalar::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Scalar::Status(left), Value::Status(right)) => Some((left as u8).cmp(&(*right as u8))),
        (Scalar::Kind(left), Value::Kind(right)) => Some((left as u8).cmp(&(*right as u8))),
        (Scalar::Integer(left) | Scalar::Duration(left), Value::Integer(right) | Value::Duration(right)) => {
            Some(left.cmp(right))
        }
        (Scalar::Integer(left) | Scalar::Duration(left), Value::Float(right)) => {
            integer_with_float(left, *right)
        }
        (Scalar::Float(left), Value::Integer(right) | Value::Duration(right)) => {
            integer_with_float(*right, left).map(Ordering::reverse)
        }
        (Scalar::Float(left), Value::Float(right)) => left.partial_cmp(right),
        _ => return false,
    };
    match operator {
        Operator::Equal => order == Some(Ordering::Equal),
        // As IEEE 754 has it, NaN differs from every number.
        Operator::NotEqual => order != Some(Ordering::Equal),
        Operator::Less => order.is_some_and(Ordering::is_lt),
        Operator::LessOrEqual => order.is_some_and(Ordering::is_le),
        Operator::Greater => order.is_some_and(Ordering::is_gt),
        Operator::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        Operator::Matches | Operator::NotMatches => false,
    }
}

/// Exactly, also where a float cannot hold the whole number; `None` for NaN.
fn integer_with_float(whole: i64, float: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= BEYOND {
        return Some(Ordering::Less);
    }
    if float < -BEYOND {
        return Some(Ordering::Greater);
    }
    let truncated = float.trunc();
    let order = whole.cmp(&(truncated as i64));
    Some(order.then_with(|| truncated.partial_cmp(&float).unwrap_or(Ordering::Equal)))
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
