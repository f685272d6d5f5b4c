//! The Parquet sink against an in-memory log and faulty stores: every acknowledged span is in the lake
//! exactly once, whatever crashes, hangs, repeats or lies in between.

mod compaction;
mod content;
mod crashes;
mod dying;
mod faults;
mod forgetting;
mod lake;
#[path = "../shared/mod.rs"]
#[allow(dead_code)] // each sink's tests use their part
mod shared;
mod support;
