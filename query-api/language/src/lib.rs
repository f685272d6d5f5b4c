//! The filter language of searches: a subset of TraceQL, with fields of its own for LLM inference.
//!
//! ```text
//! { resource.service.name = "chat" && llm:ttft > 500ms } >> { status = error } | count() > 2
//! ```
//!
//! [`parse`] makes a [`Query`] of text, typed and within [`limits`]; its `Display` is the text again; [`parse_metrics`]
//! a [`MetricsQuery`], which ends in what is counted over time. [`evaluate`] is what a query means; [`clickhouse`] is
//! the same as SQL. The grammar is in `docs/query-language.md`.
//!
//! Invariants: a [`Query`] is well-typed, however it was made; [`parse`] takes any text without panicking, in memory
//! and depth bounded by [`limits`]; no text of a query becomes SQL, only parameters; every tier answers what
//! [`evaluate`] answers, or says that it cannot ([`Unsupported`]). The crate is pure: no I/O, no columns, no clock.

mod ast;
mod check;
pub mod clickhouse;
mod error;
pub mod evaluate;
mod field;
mod metrics;
mod normal;
mod parser;
mod pattern;
mod print;
mod scanner;
#[cfg(test)]
mod tests;

pub use ast::{
    Aggregate, Comparison, Connective, Expr, Function, Kind, Measure, MetricsQuery, Operator, Query, Spanset,
    SpansetOperator, Stage, Status, Value,
};
pub use check::TypeError;
pub use error::{QueryError, Unsupported};
pub use field::{Field, Intrinsic, Place, Scope, Type};
pub use metrics::parse_metrics;
pub use parser::parse;
pub use pattern::{Pattern, PatternError};

/// What a query may ask for at most; more is refused by [`parse`], naming the limit.
pub mod limits {
    /// Bytes of a query.
    pub const LENGTH: usize = 8 * 1_024;
    /// Parentheses and `!` inside one another.
    pub const DEPTH: usize = 32;
    /// Comparisons, spansets, stages and selected fields.
    pub const TERMS: usize = 128;
    /// Regular expressions.
    pub const PATTERNS: usize = 16;
    /// Bytes of one regular expression.
    pub const PATTERN_LENGTH: usize = 1_024;
    /// Bytes of one compiled regular expression: `(a{100}){100}` meets it.
    pub const PATTERN_COMPILED: usize = 256 * 1_024;
    /// Groups inside one another in a regular expression.
    pub const PATTERN_DEPTH: u32 = 32;
    /// Repetitions that a regular expression may count to; RE2's limit.
    pub const PATTERN_REPEAT: u32 = 1_000;
}
