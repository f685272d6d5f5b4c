//! Which partition of `infertrace.spans.v1` a trace lives in.
//!
//! `XXH64(all 16 trace-id bytes, seed 0) mod partitions`: stable across languages and versions, and even
//! where only some of the bits are random (SGLang fills 64 of 128). Vectors: `proto/partition_vectors.json`.

use xxhash_rust::xxh64::xxh64;

/// The partition of `trace_id` among `partitions` (at least 1).
#[must_use]
#[inline]
pub fn partition_of(trace_id: &[u8; 16], partitions: u32) -> u32 {
    (xxh64(trace_id, 0) % u64::from(partitions.max(1))) as u32
}
