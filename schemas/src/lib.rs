//! What the services share: topics, the span's columns and codecs, and pure analysis of traces.
//!
//! Services never depend on one another; they meet here and in `proto`.

pub mod access;
pub mod audit;
pub mod avro;
pub mod columns;
pub mod dedup;
pub mod frame;
pub mod lake;
pub mod mapping;
pub mod otlp_json;
pub mod partition;
pub mod reader;
pub mod record;
pub mod time;
pub mod topics;
pub mod trace;
pub mod triage;
pub mod usage;
pub mod value;
pub mod view;
pub mod wire;
