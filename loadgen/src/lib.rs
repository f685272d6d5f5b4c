//! Load for InferTrace: realistic (`simulate`), as much as possible (`blast`), and the judge (`verify`).
//!
//! Neighbours: `sdk/rust` sends, `schemas` reads, `runtime` opens logs. The binary only parses and dispatches.

pub mod blast;
pub mod content;
pub mod ids;
pub mod latency;
pub mod ledger;
pub mod protocol;
pub mod simulate;
pub mod usage;
pub mod verify;
