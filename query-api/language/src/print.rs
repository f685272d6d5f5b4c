//! Queries as text that parses to the same query.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::ast::{
    Aggregate, Comparison, Connective, Expr, Operator, Query, Spanset, SpansetOperator, Stage, Value,
};

/// Units of durations, longest first, with their nanoseconds.
pub(crate) const UNITS: [(&str, i64); 9] = [
    ("y", 365 * 86_400_000_000_000),
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Display for Query {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.spanset.fmt(formatter)?;
        self.stages.iter().try_for_each(|stage| write!(formatter, " | {stage}"))
    }
}

impl Display for SpansetOperator {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::And => "&&",
            Self::Or => "||",
            Self::Child => ">",
            Self::Descendant => ">>",
            Self::Parent => "<",
            Self::Ancestor => "<<",
            Self::Sibling => "~",
        })
    }
}

impl Display for Spanset {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(Expr::Constant(true)) => formatter.write_str("{ }"),
            Self::Filter(expression) => write!(formatter, "{{ {expression} }}"),
            Self::Binary { operator, left, right } => {
                // Chains of one operator are the only ones without parentheses: nobody has to know what binds closer.
                match &**left {
                    Self::Binary { operator: inner, .. } if inner != operator => {
                        write!(formatter, "({left})")
                    }
                    _ => left.fmt(formatter),
                }?;
                write!(formatter, " {operator} ")?;
                match &**right {
                    Self::Binary { .. } => write!(formatter, "({right})"),
                    Self::Filter(_) => right.fmt(formatter),
                }
            }
        }
    }
}

impl Display for Connective {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::And => "&&",
            Self::Or => "||",
        })
    }
}

impl Display for Expr {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(value) => value.fmt(formatter),
            Self::Compare(comparison) => comparison.fmt(formatter),
            Self::Not(inner) => write!(formatter, "!({inner})"),
            Self::Binary { connective, left, right } => {
                match &**left {
                    Self::Binary { connective: inner, .. } if inner != connective => {
                        write!(formatter, "({left})")
                    }
                    _ => left.fmt(formatter),
                }?;
                write!(formatter, " {connective} ")?;
                match &**right {
                    Self::Binary { .. } => write!(formatter, "({right})"),
                    _ => right.fmt(formatter),
                }
            }
        }
    }
}

impl Display for Operator {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.symbol())
    }
}

impl Display for Comparison {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.field(), self.operator(), self.value())
    }
}

impl Display for Value {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(text, formatter),
            Self::Integer(number) => number.fmt(formatter),
            // Always with a point or an exponent.
            Self::Float(number) => write!(formatter, "{number:?}"),
            Self::Duration(nanos) => {
                let exact = UNITS.iter().find(|(_, unit)| nanos % unit == 0 && *nanos != 0);
                let (name, unit) = exact.copied().unwrap_or(("ns", 1));
                write!(formatter, "{}{name}", nanos / unit)
            }
            Self::Bool(value) => value.fmt(formatter),
            Self::Status(status) => formatter.write_str(status.word()),
            Self::Kind(kind) => formatter.write_str(kind.word()),
            Self::Nil => formatter.write_str("nil"),
        }
    }
}

/// Text in double quotes, with Go's escapes, so that it is one line.
fn quoted(text: &str, formatter: &mut Formatter<'_>) -> fmt::Result {
    formatter.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(formatter, "\\{character}")?,
            '\n' => formatter.write_str("\\n")?,
            '\r' => formatter.write_str("\\r")?,
            '\t' => formatter.write_str("\\t")?,
            control if control.is_control() => write!(formatter, "\\u{:04x}", control as u32)?,
            plain => formatter.write_char(plain)?,
        }
    }
    formatter.write_char('"')
}

impl Display for Aggregate {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}(", self.function().word())?;
        if let Some(field) = self.field() {
            field.fmt(formatter)?;
        }
        write!(formatter, ") {} {}", self.operator(), self.value())
    }
}

impl Display for Stage {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregate(aggregate) => aggregate.fmt(formatter),
            Self::By(field) => write!(formatter, "by({field})"),
            Self::Select(fields) => {
                formatter.write_str("select(")?;
                for (position, field) in fields.iter().enumerate() {
                    let comma = if position > 0 { ", " } else { "" };
                    write!(formatter, "{comma}{field}")?;
                }
                formatter.write_char(')')
            }
        }
    }
}
