//! A query as a predicate over ClickHouse's table `spans`.
//!
//! Invariants: text, numbers and keys of a query are parameters (`{p0:String}`), never SQL; the predicate holds for
//! the rows that [`crate::evaluate`] says, where `NULL` counts as false as `WHERE` has it. What can be pruned by a key
//! or an index stands as a plain comparison of a column. [`bounded`] makes do with what rows can answer.

mod json;

use std::fmt::Write as _;

use crate::{
    ast::{Comparison, Connective, Expr, Operator, Query, Spanset, Stage, Value},
    error::Unsupported,
    field::{Field, Intrinsic, Place, Scope, Type},
};

/// The key whose value on a resource is a column.
const SERVICE_NAME: &str = "service.name";
/// Maps of attributes, by the type of their values.
const MAPS: [&str; 5] =
    ["attributes_string", "attributes_int", "attributes_double", "attributes_bool", "attributes_other"];

/// SQL and what it is executed with.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {
    /// What stands behind `WHERE`; in parentheses where it stands beside something else.
    pub sql: String,
    /// Values of its parameters.
    pub parameters: Vec<Parameter>,
}

/// A value that is sent beside the SQL.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// As the SQL names it: `p0`, `p1` and so on.
    pub name: String,
    /// What it is.
    pub value: ParameterValue,
}

/// What a parameter is.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterValue {
    /// ClickHouse's `String`.
    Text(String),
    /// `Int64`.
    Integer(i64),
    /// `Float64`.
    Float(f64),
    /// `Bool`.
    Bool(bool),
}

impl ParameterValue {
    const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "String",
            Self::Integer(_) => "Int64",
            Self::Float(_) => "Float64",
            Self::Bool(_) => "Bool",
        }
    }

    /// The value of `param_<name>` in a request over HTTP, before it is encoded for the URL: ClickHouse reads
    /// parameters in its format `Escaped`.
    #[must_use]
    pub fn escaped(&self) -> String {
        match self {
            Self::Text(text) => text.chars().fold(String::with_capacity(text.len()), |mut escaped, next| {
                match next {
                    '\\' => escaped.push_str("\\\\"),
                    '\t' => escaped.push_str("\\t"),
                    '\n' => escaped.push_str("\\n"),
                    '\r' => escaped.push_str("\\r"),
                    '\0' => escaped.push_str("\\0"),
                    plain => escaped.push(plain),
                }
                escaped
            }),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Bool(value) => value.to_string(),
        }
    }
}

/// The rows of `spans` that a query of one spanset finds. `select` is the caller's to read.
///
/// # Errors
/// [`Unsupported`], naming the first part that rows of `spans` cannot answer.
pub fn predicate(query: &Query) -> Result<Predicate, Unsupported> {
    if let Some(stage) = query.stages.iter().find(|stage| !matches!(stage, Stage::Select(_))) {
        return Err(unsupported(format!("the stage `{stage}`")));
    }
    let expression = match &query.spanset {
        Spanset::Filter(expression) => expression.normalised(),
        Spanset::Binary { operator, .. } => {
            return Err(unsupported(format!("`{operator}` between spansets")));
        }
    };
    let mut compiler = Compiler::default();
    let sql = compiler.expression(&expression)?;
    Ok(Predicate { sql, parameters: compiler.parameters })
}

/// Which rows a predicate may find where rows of `spans` cannot answer a part of the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Only rows that satisfy the condition, whatever that part says.
    Certain,
    /// All rows that may satisfy it.
    Possible,
}

/// A condition on one span as a predicate; it is the condition itself where both bounds give the same.
#[must_use]
pub fn bounded(expression: &Expr, bound: Bound) -> Predicate {
    let is_open = |comparison: &Comparison| Compiler::default().comparison(comparison).is_err();
    let answerable = expression.assuming(&is_open, bound == Bound::Possible).normalised();
    let mut compiler = Compiler::default();
    let sql = compiler.expression(&answerable).expect("what rows cannot answer was replaced");
    Predicate { sql, parameters: compiler.parameters }
}

fn unsupported(what: impl Into<String>) -> Unsupported {
    Unsupported { what: what.into(), tier: "ClickHouse's table of spans" }
}

#[derive(Default)]
struct Compiler {
    parameters: Vec<Parameter>,
}

impl Compiler {
    /// The SQL that names a parameter of this value.
    fn bind(&mut self, value: ParameterValue) -> String {
        let known = self.parameters.iter().position(|parameter| parameter.value == value);
        let name = format!("p{}", known.unwrap_or(self.parameters.len()));
        let sql = format!("{{{name}:{}}}", value.type_name());
        if known.is_none() {
            self.parameters.push(Parameter { name, value });
        }
        sql
    }

    fn bind_text(&mut self, text: &str) -> String {
        self.bind(ParameterValue::Text(text.to_owned()))
    }

    fn expression(&mut self, expression: &Expr) -> Result<String, Unsupported> {
        Ok(match expression {
            Expr::Constant(value) => u8::from(*value).to_string(),
            Expr::Compare(comparison) => self.comparison(comparison)?,
            Expr::Not(inner) => format!("NOT ifNull({}, 0)", self.expression(inner)?),
            Expr::Binary { connective, left, right } => {
                let word = match connective {
                    Connective::And => "AND",
                    Connective::Or => "OR",
                };
                format!("({} {word} {})", self.expression(left)?, self.expression(right)?)
            }
        })
    }

    fn comparison(&mut self, comparison: &Comparison) -> Result<String, Unsupported> {
        match comparison.field() {
            Field::Intrinsic(intrinsic) => self.intrinsic(*intrinsic, comparison),
            Field::Attribute { scope, key } => match scope {
                Scope::Any => Ok(self.unscoped(key, comparison)),
                Scope::Span => Ok(self.of_span(key, comparison)),
                Scope::Resource => Ok(self.of_resource(key, comparison)),
                Scope::Event => {
                    let inner = self.in_list("e.attributes", &[], key, comparison);
                    Ok(some_or_none(comparison, &format!("arrayExists(e -> {inner}, events)")))
                }
                Scope::Link | Scope::Instrumentation => {
                    Err(unsupported(format!("the scope `{}.`", scope.prefix())))
                }
            },
        }
    }

    fn intrinsic(&mut self, intrinsic: Intrinsic, comparison: &Comparison) -> Result<String, Unsupported> {
        let is_nil = comparison.value() == &Value::Nil;
        Ok(match intrinsic.place() {
            Place::Column(_) if is_nil => u8::from(comparison.operator() == Operator::NotEqual).to_string(),
            Place::Nullable(column) | Place::Millis(column) if is_nil => {
                let not = if comparison.operator() == Operator::NotEqual { "NOT " } else { "" };
                format!("{column} IS {not}NULL")
            }
            Place::Column(column) | Place::Nullable(column) => {
                let is_id = matches!(intrinsic.value_type(), Type::TraceId | Type::SpanId);
                self.compare(column, comparison, is_id)
            }
            Place::Millis(column) => {
                // Without a value where it is none that nanoseconds can be.
                let nanos = format!("accurateCastOrNull(round({column} * 1e6), 'Int64')");
                self.compare(&nanos, comparison, false)
            }
            Place::EventName if is_nil => some_or_none(comparison, "notEmpty(events)"),
            Place::EventName => {
                format!("arrayExists(e -> {}, events)", self.compare("e.name", comparison, false))
            }
            Place::Elsewhere => return Err(unsupported(format!("`{intrinsic}`"))),
        })
    }

    /// `operand` against the comparison's value, which is not `nil`.
    fn compare(&mut self, operand: &str, comparison: &Comparison, is_id: bool) -> String {
        if let Some(pattern) = comparison.pattern() {
            let not = if comparison.operator() == Operator::NotMatches { "NOT " } else { "" };
            let pattern = self.bind(ParameterValue::Text(pattern.re2()));
            return format!("{not}match({operand}, {pattern})");
        }
        let value = match comparison.value() {
            Value::Text(text) if is_id => format!("unhex({})", self.bind_text(text)),
            Value::Text(text) => self.bind_text(text),
            Value::Integer(number) | Value::Duration(number) => self.bind(ParameterValue::Integer(*number)),
            Value::Float(number) => self.bind(ParameterValue::Float(*number)),
            Value::Bool(value) => self.bind(ParameterValue::Bool(*value)),
            // Words of the language, as their OTLP numbers.
            Value::Status(status) => (*status as u8).to_string(),
            Value::Kind(kind) => (*kind as u8).to_string(),
            Value::Nil => "NULL".to_owned(),
        };
        format!("{operand} {} {value}", comparison.operator())
    }

    /// Whether the span has the attribute, whatever its type.
    fn has(&mut self, key: &str) -> String {
        let key = self.bind_text(key);
        let each: Vec<String> = MAPS.iter().map(|map| format!("mapContains({map}, {key})")).collect();
        format!("({})", each.join(" OR "))
    }

    fn of_span(&mut self, key: &str, comparison: &Comparison) -> String {
        let maps: &[&str] = match comparison.value() {
            Value::Nil => {
                let has = self.has(key);
                return some_or_none(comparison, &has);
            }
            Value::Text(_) => &["attributes_string"],
            Value::Integer(_) | Value::Float(_) | Value::Duration(_) => {
                &["attributes_int", "attributes_double"]
            }
            Value::Bool(_) => &["attributes_bool"],
            Value::Status(_) | Value::Kind(_) => &[],
        };
        // A missing key reads as the empty text: what is equal to any other text is there.
        let is_there = comparison.operator() == Operator::Equal
            && matches!(comparison.value(), Value::Text(text) if !text.is_empty());
        let key = self.bind_text(key);
        let mut sql = String::new();
        for (position, map) in maps.iter().enumerate() {
            let or = if position > 0 { " OR " } else { "" };
            let compared = self.compare(&format!("{map}[{key}]"), comparison, false);
            let _ = if is_there {
                write!(sql, "{or}{compared}")
            } else {
                write!(sql, "{or}(mapContains({map}, {key}) AND {compared})")
            };
        }
        if maps.len() == 1 { sql } else { format!("({sql})") }
    }

    fn of_resource(&mut self, key: &str, comparison: &Comparison) -> String {
        if key == SERVICE_NAME {
            return self.service_name(comparison);
        }
        let sql = self.in_list("resource", &["attributes"], key, comparison);
        some_or_none(comparison, &sql)
    }

    fn service_name(&mut self, comparison: &Comparison) -> String {
        match comparison.value() {
            Value::Nil => u8::from(comparison.operator() == Operator::NotEqual).to_string(),
            Value::Text(_) => self.compare("service_name", comparison, false),
            _ => "0".to_owned(),
        }
    }

    /// On the span, or where it is missing there, on its resource.
    fn unscoped(&mut self, key: &str, comparison: &Comparison) -> String {
        let has = self.has(key);
        if comparison.value() == &Value::Nil {
            let of_resource = match key {
                SERVICE_NAME => "1".to_owned(),
                _ => self.in_list("resource", &["attributes"], key, comparison),
            };
            return some_or_none(comparison, &format!("({has} OR {of_resource})"));
        }
        let of_span = self.of_span(key, comparison);
        format!("({of_span} OR (NOT {has} AND {}))", self.of_resource(key, comparison))
    }
}

/// `sql` says whether there is a value or one that satisfies; `= nil` asks for the opposite.
fn some_or_none(comparison: &Comparison, sql: &str) -> String {
    match (comparison.value(), comparison.operator()) {
        (Value::Nil, Operator::Equal) => format!("NOT {sql}"),
        _ => sql.to_owned(),
    }
}

#[cfg(test)]
mod tests;
