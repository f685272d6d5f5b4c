//! Plumbing without spans: the log, configuration, telemetry, clock and shutdown.

pub mod clickhouse;
pub mod clock;
pub mod config;
pub mod http;
pub mod instance;
pub mod log;
pub mod progress;
pub mod table;
pub mod telemetry;
