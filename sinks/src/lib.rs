//! The Parquet sink: spans from the log into a lake of Parquet files on disk or an object store.
//!
//! [`service`] polls the log and owns the partitions; [`buffer`] holds what was read and decides where to
//! cut; [`job`] plans, encodes and publishes one range; [`ledger`] is the store with plans and manifests;
//! [`encode`] turns records into sorted Parquet. Layout and types of the lake are in
//! `infertrace_schemas::lake`.
//!
//! Invariants: the next offset to read comes from the manifests alone; a range is cut once, by its plan;
//! data files are never overwritten and their bytes are a function of the plan, the records and the
//! manifests before; a range counts when its manifest exists; nothing here waits for another sink.

pub mod audit;
mod buffer;
mod config;
pub mod encode;
mod job;
mod ledger;
mod metrics;
mod partition;
mod retry;
mod service;
pub mod store;

pub use config::{Config, GROUP};
pub use service::{BuildError, Deps, Error, Service, build};
pub use store::{OpenError, open_store};
