//! The ingest gateway: spans over the native protocol, frames and OTLP, into the log.
//!
//! Layers, each knowing only the next: `transport` (sockets, HTTP, gRPC framing) → `ingest` (counted) →
//! `flow` (append, await, answer) and `parse` (pure: bytes to records). Neighbours: `runtime::log` takes the
//! records, `schemas` defines them.
//!
//! Invariants: an acknowledgement means durable; one bad span never costs the good ones of its request;
//! memory stays within the byte budget; no span object is ever built.

#![forbid(unsafe_code)]

mod budget;
mod config;
mod error;
mod flow;
pub mod fuzz;
mod ingest;
mod parse;
mod pool;
mod service;
mod telemetry;
mod tenant;
mod transport;

pub use config::{Config, FrameCheck, Limits, TransportConfig};
pub use error::{BuildError, Error, NotReady};
pub use service::{Deps, Gateway, Service, build};
