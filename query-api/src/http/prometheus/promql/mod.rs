//! PromQL: text, checked, as a tree.
//!
//! The grammar is Prometheus' (<https://prometheus.io/docs/prometheus/latest/querying/basics/>); what is not evaluated
//! here is refused by name, at its place. Pure: no data, no clock. Invariants: every text is answered within [`LENGTH`]
//! and [`DEPTH`]; a [`Query`] is well-typed, so that evaluating it meets no type it did not expect.

mod functions;
mod parser;
mod scanner;
mod selectors;
mod types;

use infertrace_query_language::Pattern;

pub(super) use functions::Function;
pub(super) use parser::{parse, parse_duration, parse_selector};

/// Bytes of a query at most.
const LENGTH: usize = 8 * 1_024;
/// Expressions inside one another at most.
const DEPTH: usize = 48;
/// Selectors of a query at most: each reads the rollups once.
const SELECTORS: usize = 32;

/// What is wrong with a query, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: parse error: {message}")]
pub(super) struct ParseError {
    line: usize,
    column: usize,
    message: String,
}

impl ParseError {
    fn new(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Self { line, column: before[line_start..].chars().count() + 1, message: message.into() }
    }
}

/// A query that can be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    pub(super) expr: Expr,
    pub(super) is_scalar: bool,
    /// What is to be read; [`Expr::Selector`] and [`Expr::Over`] name them by their place.
    pub(super) selectors: Vec<Selector>,
}

/// What a value is computed from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(f64),
    /// The values of a selector now.
    Selector(usize),
    /// A function over the range of a selector, with its number, if it takes one.
    Over(Function, usize, Option<Box<Expr>>),
    /// Any other function.
    Call(Function, Vec<Expr>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    Negate(Box<Expr>),
}

/// Which series, and which of their past.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selector {
    pub(super) matchers: Vec<Matcher>,
    /// Nanoseconds; `None` for an instant.
    pub(super) range_ns: Option<i64>,
    /// Nanoseconds back in time.
    pub(super) offset_ns: i64,
    /// The function it is the range of.
    pub(super) over: Option<Function>,
}

impl Selector {
    /// Whether a label has a value that is wanted; a label that is missing is empty.
    pub(super) fn takes(&self, label: &str, value: &str) -> bool {
        self.matchers.iter().filter(|matcher| matcher.label == label).all(|matcher| matcher.takes(value))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matcher {
    pub(super) label: String,
    pub(super) test: Test,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Is(String),
    IsNot(String),
    Matches(Pattern),
    MatchesNot(Pattern),
}

impl Matcher {
    pub(super) fn takes(&self, value: &str) -> bool {
        match &self.test {
            Test::Is(wanted) => wanted == value,
            Test::IsNot(other) => other != value,
            Test::Matches(pattern) => pattern.matches(value),
            Test::MatchesNot(pattern) => !pattern.matches(value),
        }
    }
}

/// Labels by which samples are grouped or matched: these, or all but these.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Grouping {
    Only(Vec<String>),
    #[default]
    All,
    Without(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregator {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Topk,
    Bottomk,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aggregate {
    pub(super) aggregator: Aggregator,
    /// How many, of [`Aggregator::Topk`] and [`Aggregator::Bottomk`].
    pub(super) number: Option<Expr>,
    pub(super) of: Expr,
    pub(super) grouping: Grouping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Unless,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
}

impl Operator {
    pub(super) const fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::NotEqual
                | Self::Less
                | Self::LessOrEqual
                | Self::Greater
                | Self::GreaterOrEqual
        )
    }

    pub(super) const fn is_set(self) -> bool {
        matches!(self, Self::Or | Self::And | Self::Unless)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binary {
    pub(super) operator: Operator,
    pub(super) left: Expr,
    pub(super) right: Expr,
    /// A comparison that says 0 or 1 instead of filtering.
    pub(super) is_bool: bool,
    pub(super) matching: Grouping,
}

#[cfg(test)]
mod tests;
