//! Sinks: records of the log into the tiers that keep them.
//!
//! [`service`] polls the log and owns the partitions; [`buffer`] holds what was read and decides where to cut; what
//! becomes of a range is a [`target`]'s matter. There are two: the lake of Parquet files ([`parquet`]: [`job`] plans,
//! encodes and publishes a range, [`ledger`] is the store with plans and manifests, [`encode`] turns records into
//! sorted Parquet; the layout is in `infertrace_schemas::lake`) and ClickHouse ([`clickhouse`]). [`compact`] tends the
//! lake: it merges small files and takes out what is deleted or has outlived its retention.
//!
//! Invariants: the next offset to read comes from the target alone; a range is cut once, by its plan, and repeated
//! exactly; it counts when the target says so; nothing here waits for another sink.

pub mod audit;
mod buffer;
pub mod clickhouse;
pub mod compact;
mod config;
pub mod encode;
mod job;
mod ledger;
mod letters;
mod metrics;
mod parquet;
mod partition;
mod retry;
mod service;
pub mod store;
mod target;

pub use config::{Config, GROUP};
pub use parquet::{BuildError, Deps, Service, build};
pub use service::Error;
pub use store::{OpenError, open_store};
