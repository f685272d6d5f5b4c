//! What the web UI decides, without a browser: API types, URL state, layout, scales, formatting.
//!
//! Nothing here touches the DOM or the clock, so all of it is tested natively; `infertrace-ui` renders what these
//! modules compute.
//!
//! Invariants: times are nanoseconds, relative to the start of the trace once a [`trace::TraceModel`] is built; a span
//! is drawn in exactly one row; every value that reaches the address bar comes back from it unchanged.
#![forbid(unsafe_code)]

pub mod api;
pub mod attributes;
pub mod colour;
pub mod cost;
pub mod critical;
pub mod filter;
pub mod flame;
pub mod format;
pub mod insight;
pub mod json;
pub mod minimap;
pub mod node;
pub mod query_string;
pub mod route;
pub mod scale;
pub mod scatter;
pub mod search;
pub mod summary;
pub mod tokens;
pub mod trace;
pub mod waterfall;

#[cfg(test)]
mod testing;
