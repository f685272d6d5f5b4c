//! What is normal, what is not, why, and what to do about it.
//!
//! Pure: no I/O, no clock, no randomness; event time in, insights out, the same bytes for the same input in any
//! order of arrival within a window.

pub mod analyst;
pub mod config;
pub mod cost;
mod hash;
mod merge;
pub mod output;
pub mod rollup;
pub mod score;
pub mod series;
pub mod sketch;
