//! The ClickHouse sink on the real engine and the embedded log, with a proxy between that misbehaves on demand.

mod columns;
mod faults;
mod migrations;
mod proxy;
mod support;
mod tables;
