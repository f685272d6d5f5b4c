//! What may be compared with what.

use crate::{
    ast::{Function, Operator, Value},
    field::{Field, Type},
    pattern::{Pattern, PatternError},
};

/// Why a field and a value cannot be compared so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The value is of another type.
    #[error("`{subject}` is {expected}, not {found}; {hint}")]
    Value {
        /// The field or aggregate.
        subject: String,
        /// What it is.
        expected: &'static str,
        /// What it was compared with.
        found: &'static str,
        /// What to write instead.
        hint: &'static str,
    },
    /// The operator says nothing about values of this type.
    #[error("`{operator}` does not apply to {found}; {hint}")]
    Operator {
        /// The operator.
        operator: &'static str,
        /// What it was applied to.
        found: &'static str,
        /// What to write instead.
        hint: &'static str,
    },
    /// Not a regular expression, or one too large.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Not an id.
    #[error("`{field}` is compared with 1 to {digits} hexadecimal digits in quotes")]
    Id {
        /// The field.
        field: String,
        /// Digits of a whole id.
        digits: usize,
    },
    /// Infinite, or not a number.
    #[error("a number that a field is compared with is finite")]
    NotFinite,
    /// A function that needs a field has none, or `count` has one.
    #[error("`{function}` takes {expected} in its parentheses")]
    Argument {
        /// The function.
        function: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// The function needs numbers.
    #[error("`{function}` is of numbers or durations; `{field}` is {found}")]
    NotNumeric {
        /// The function.
        function: &'static str,
        /// Its field.
        field: String,
        /// What the field is.
        found: &'static str,
    },
}

impl TypeError {
    /// Whether the operator is to blame rather than the value.
    #[must_use]
    pub const fn is_about_operator(&self) -> bool {
        matches!(self, Self::Operator { .. })
    }
}

/// With its article, for messages.
const fn type_words(of: Type) -> &'static str {
    match of {
        Type::Text => "text",
        Type::Integer => "a whole number",
        Type::Float => "a number",
        Type::Duration => "a duration",
        Type::Bool => "a truth value",
        Type::Status => "a status",
        Type::Kind => "a kind",
        Type::TraceId | Type::SpanId => "an id",
    }
}

const fn value_words(of: &Value) -> &'static str {
    match of {
        Value::Text(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Duration(_) => "a duration",
        Value::Bool(_) => "a truth value",
        Value::Status(_) => "a status",
        Value::Kind(_) => "a kind",
        Value::Nil => "`nil`",
    }
}

const fn hint(of: Type) -> &'static str {
    match of {
        Type::Text => "put the text in quotes",
        Type::Integer | Type::Float => "write a number without quotes or unit",
        Type::Duration => "write a number with its unit, such as `300ms`",
        Type::Bool => "write `true` or `false`",
        Type::Status => "write `error`, `ok` or `unset`",
        Type::Kind => "write `server`, `client`, `internal`, `producer`, `consumer` or `unspecified`",
        Type::TraceId | Type::SpanId => "write hexadecimal digits in quotes",
    }
}

const fn fits(of: Type, value: &Value) -> bool {
    match of {
        Type::Text | Type::TraceId | Type::SpanId => matches!(value, Value::Text(_)),
        Type::Integer | Type::Float => matches!(value, Value::Integer(_) | Value::Float(_)),
        Type::Duration => matches!(value, Value::Duration(_)),
        Type::Bool => matches!(value, Value::Bool(_)),
        Type::Status => matches!(value, Value::Status(_)),
        Type::Kind => matches!(value, Value::Kind(_)),
    }
}

/// Checks a comparison; returns the value in its normal form, and the pattern if it is one.
pub(crate) fn comparison(
    field: &Field,
    operator: Operator,
    value: Value,
) -> Result<(Value, Option<Pattern>), TypeError> {
    check_operator(operator, &value)?;
    if matches!(value, Value::Float(number) if !number.is_finite()) {
        return Err(TypeError::NotFinite);
    }
    match field {
        _ if value == Value::Nil => {}
        Field::Attribute { .. } => {
            if let Value::Status(_) | Value::Kind(_) = value {
                return Err(TypeError::Value {
                    subject: field.to_string(),
                    expected: "an attribute",
                    found: value_words(&value),
                    hint: "put the text in quotes, or compare `status` or `kind`",
                });
            }
        }
        Field::Intrinsic(intrinsic) => {
            let of = intrinsic.value_type();
            if !fits(of, &value) {
                return Err(TypeError::Value {
                    subject: field.to_string(),
                    expected: type_words(of),
                    found: value_words(&value),
                    hint: hint(of),
                });
            }
            let digits = match of {
                Type::TraceId => 32,
                Type::SpanId => 16,
                _ => 0,
            };
            if digits > 0 {
                return Ok((id(field, operator, &value, digits)?, None));
            }
        }
    }
    match (&value, operator) {
        (Value::Text(pattern), Operator::Matches | Operator::NotMatches) => {
            let pattern = Pattern::new(pattern)?;
            Ok((value, Some(pattern)))
        }
        _ => Ok((value, None)),
    }
}

fn check_operator(operator: Operator, value: &Value) -> Result<(), TypeError> {
    let hint = match value {
        Value::Text(_) => return Ok(()),
        _ if matches!(operator, Operator::Matches | Operator::NotMatches) => {
            "a regular expression is text in quotes"
        }
        Value::Bool(_) | Value::Status(_) | Value::Kind(_) | Value::Nil if operator.is_order() => {
            "compare it with `=` or `!=`"
        }
        _ => return Ok(()),
    };
    Err(TypeError::Operator { operator: operator.symbol(), found: value_words(value), hint })
}

/// An id with all its digits, in lower case.
fn id(field: &Field, operator: Operator, value: &Value, digits: usize) -> Result<Value, TypeError> {
    if !matches!(operator, Operator::Equal | Operator::NotEqual) {
        let hint = "compare it with `=` or `!=`";
        return Err(TypeError::Operator { operator: operator.symbol(), found: "an id", hint });
    }
    match value {
        Value::Text(text)
            if (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            Ok(Value::Text(format!("{:0>digits$}", text.to_ascii_lowercase())))
        }
        _ => Err(TypeError::Id { field: field.to_string(), digits }),
    }
}

/// Checks an aggregate.
pub(crate) fn aggregate(
    function: Function,
    field: Option<&Field>,
    operator: Operator,
    value: &Value,
) -> Result<(), TypeError> {
    let word = function.word();
    if matches!(operator, Operator::Matches | Operator::NotMatches) {
        let hint = "compare it with a number or duration";
        return Err(TypeError::Operator { operator: operator.symbol(), found: "an aggregate", hint });
    }
    if matches!(value, Value::Float(number) if !number.is_finite()) {
        return Err(TypeError::NotFinite);
    }
    let of = match (function, field) {
        (Function::Count, None) => Some(Type::Integer),
        (Function::Count, Some(_)) => {
            return Err(TypeError::Argument { function: word, expected: "nothing" });
        }
        (_, None) => return Err(TypeError::Argument { function: word, expected: "a field" }),
        (_, Some(Field::Attribute { .. })) => None,
        (_, Some(Field::Intrinsic(intrinsic))) => match intrinsic.value_type() {
            of @ (Type::Integer | Type::Float | Type::Duration) => Some(of),
            other => {
                let found = type_words(other);
                return Err(TypeError::NotNumeric { function: word, field: intrinsic.to_string(), found });
            }
        },
    };
    let is_numeric = matches!(value, Value::Integer(_) | Value::Float(_) | Value::Duration(_));
    if of.map_or(is_numeric, |of| fits(of, value)) {
        return Ok(());
    }
    let of = of.unwrap_or(Type::Float);
    let subject = field.map_or_else(|| format!("{word}()"), |field| format!("{word}({field})"));
    Err(TypeError::Value { subject, expected: type_words(of), found: value_words(value), hint: hint(of) })
}
