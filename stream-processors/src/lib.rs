//! Stateful stream processors: spans of the log become assembled, analysed traces.
//!
//! `assembly` is the pure core, a state machine without I/O and clock; `summary` turns one analysed trace into the
//! record of `infertrace.traces.v1`; `service` reads the log, drives the core and commits outputs and input
//! positions in one transaction; `restore` rebuilds the state from the log after a restart.
//!
//! Invariants: event time (record timestamps) decides everything, wall time only closes what is idle at the end of
//! the log; a position is committed only when nothing before it is needed any more; state is bounded in
//! bytes, and what a bound cuts off says so.

pub mod assembly;
mod config;
mod dead_letter;
pub mod delivery;
pub mod insights;
mod metrics;
pub mod partials;
pub mod replay;
mod restore;
pub mod rollup;
pub mod rows;
pub mod samples;
pub mod schema_registry;
mod service;
pub mod stitch;
pub mod stitching;
mod summary;
mod supervise;
mod throttle;

pub use config::Config;
pub use service::{BuildError, Deps, Error, Service, build};
