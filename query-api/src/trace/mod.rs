//! Traces out of rows: analysis, summary and the API's JSON.
//!
//! [`nodes`] turns rows into what `schemas::trace` analyses, [`cost`] prices them, [`render`] writes the answer. Invariant: a span is
//! in an answer once, whatever tiers and copies it came from.

pub mod cost;
pub mod nodes;
pub mod render;

pub use nodes::{Assembled, MissingColumn, SUMMARY_COLUMNS, assemble};
