//! The API over hot spans, over a lake, over ClickHouse, over several with overlaps, and over the processors' topics.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod description;
mod insights;
mod jaeger;
mod language;
mod life;
mod live;
mod mcp;
mod prometheus;
mod search;
mod support;
mod tempo;
mod traces;
mod triage;
mod warm;
