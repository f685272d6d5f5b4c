//! Real servers that the end-to-end tests start, and InferTrace's own processes under test.
//!
//! Neighbours: `tests/tests/*.rs` use them; `cargo xtask setup` installs what they start.
//! Invariants: loopback only, ports that the system picks, every process ended by its id when its guard drops.

pub mod alertmanager;
pub mod clickhouse;
pub mod golang;
pub mod http;
pub mod infertrace;
pub mod kafka;
pub mod minio;
pub mod process;
pub mod registry;
