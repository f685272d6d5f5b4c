//! The Parquet sink against an in-memory log and faulty stores: every acknowledged span is in the lake
//! exactly once, whatever crashes, hangs, repeats or lies in between.

mod content;
mod crashes;
mod faults;
mod support;
