//! The ClickHouse sink on the real engine and the embedded log, with a proxy between that misbehaves on demand.

mod columns;
mod faults;
mod migrations;
mod proxy;
#[path = "../shared/mod.rs"]
#[allow(dead_code)] // each sink's tests use their part
mod shared;
mod support;
mod tables;
