//! What is normal, what is not, why, and what to do about it.
//!
//! Pure: no I/O, no clock, no randomness; event time in, insights out, the same bytes for the same input in any
//! order of arrival within a window.

pub mod analyst;
mod baseline;
mod cause;
pub mod config;
pub mod cost;
pub mod detect;
mod facts;
mod hash;
mod idle;
mod lifecycle;
mod merge;
mod model;
pub mod output;
mod recommend;
pub mod rollup;
pub mod score;
pub mod series;
pub mod sketch;
pub mod slo;
pub mod stitch;
#[cfg(test)]
mod testing;
pub mod words;
