//! Which partition of the spans topic a trace lives in: `XXH64(trace id, seed 0) mod partitions`.
//!
//! The same line stands in `schemas`; `proto/partition_vectors.json` keeps every language to it.

use xxhash_rust::xxh64::xxh64;

use crate::TraceId;

/// The hash of all 16 bytes that decides the partition.
#[must_use]
#[inline]
pub fn partition_hash(trace_id: &TraceId) -> u64 {
    xxh64(&trace_id.0, 0)
}

/// The partition of `trace_id` among `partitions` (at least 1).
#[must_use]
#[inline]
pub fn partition_of(trace_id: &TraceId, partitions: u32) -> u32 {
    (partition_hash(trace_id) % u64::from(partitions.max(1))) as u32
}
