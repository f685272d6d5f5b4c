//! Ids that look random and say where they come from: run, request sequence and span index can be read back.
//!
//! `verify` needs no list of ids: a bit a span, found by the numbers in its id, tells losses and duplicates.
//! The numbers go through bijective mixers, so ids compress and hash like random ones.
//! Invariants: never all zero; two spans of one run never share an id.

use xxhash_rust::xxh64::xxh64;

/// Sequence numbers stay below this.
pub const MAX_SEQUENCE: u64 = 1 << 47;
const TRACE_KEY: u64 = 0x9e37_79b9_7f4a_7c15;
const SALT_KEY: u64 = 0xc2b2_ae3d_27d4_eb4f;
/// The top bit is set: no sequence below [`MAX_SEQUENCE`] cancels it, so no id is zero.
const SPAN_KEY: u64 = 0xd6e8_feb8_6659_fd93;

/// What a trace id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceOrigin {
    /// The run that made it.
    pub run: u32,
    /// Request within the run.
    pub sequence: u64,
    /// Trace within the request.
    pub trace: u16,
}

/// What a span id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanOrigin {
    /// Request within the run.
    pub sequence: u64,
    /// Span within the request.
    pub index: u16,
}

/// The id of trace `trace` of request `sequence`. `salt` is free: it chooses the partition.
#[must_use]
#[inline]
pub fn trace_id(run: u32, sequence: u64, trace: u16, salt: u32) -> [u8; 16] {
    debug_assert!(sequence < MAX_SEQUENCE);
    let high = mix((sequence << 16 | u64::from(trace)) ^ TRACE_KEY);
    let low = mix((u64::from(run) << 32 | u64::from(salt)) ^ high ^ SALT_KEY);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    id
}

/// As [`trace_id`], with the first salt whose id lies in `partition` of `partitions`.
#[must_use]
#[inline]
pub fn trace_id_in(run: u32, sequence: u64, trace: u16, partition: u32, partitions: u32) -> [u8; 16] {
    // A mask where that is the same: a division costs more than the hash.
    let in_partition = |hash: u64| {
        if partitions.is_power_of_two() {
            hash & u64::from(partitions - 1) == u64::from(partition)
        } else {
            hash % u64::from(partitions) == u64::from(partition)
        }
    };
    for salt in 0..=u32::MAX {
        let id = trace_id(run, sequence, trace, salt);
        if in_partition(xxh64(&id, 0)) {
            return id;
        }
    }
    unreachable!("one of 2^32 ids lies in the partition")
}

/// Reads a trace id back; `None` for ids that are not 16 bytes.
#[must_use]
pub fn trace_origin(id: &[u8]) -> Option<TraceOrigin> {
    let high = u64::from_be_bytes(id.get(..8)?.try_into().ok()?);
    let low = u64::from_be_bytes(id.get(8..16)?.try_into().ok()?);
    let place = unmix(high) ^ TRACE_KEY;
    let run = unmix(low) ^ high ^ SALT_KEY;
    Some(TraceOrigin { run: (run >> 32) as u32, sequence: place >> 16, trace: place as u16 })
}

/// The id of span `index` of request `sequence`.
#[must_use]
#[inline]
pub fn span_id(sequence: u64, index: u16) -> [u8; 8] {
    debug_assert!(sequence < MAX_SEQUENCE);
    mix((sequence << 16 | u64::from(index)) ^ SPAN_KEY).to_be_bytes()
}

/// Reads a span id back; `None` for ids that are not 8 bytes.
#[must_use]
pub fn span_origin(id: &[u8]) -> Option<SpanOrigin> {
    let place = unmix(u64::from_be_bytes(id.try_into().ok()?)) ^ SPAN_KEY;
    Some(SpanOrigin { sequence: place >> 16, index: place as u16 })
}

/// splitmix64's finalizer, a bijection.
#[inline]
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Its inverse.
const fn unmix(mut x: u64) -> u64 {
    x = (x ^ (x >> 31) ^ (x >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    x = (x ^ (x >> 27) ^ (x >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    x ^ (x >> 30) ^ (x >> 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: any run, sequence, index. Guarantee: ids read back to what they were made of.
        #[test]
        fn ids_read_back(run: u32, sequence in 0..MAX_SEQUENCE, trace: u16, index: u16, salt: u32) {
            let id = trace_id(run, sequence, trace, salt);
            prop_assert_eq!(trace_origin(&id), Some(TraceOrigin { run, sequence, trace }));
            let span = span_id(sequence, index);
            prop_assert_eq!(span_origin(&span), Some(SpanOrigin { sequence, index }));
            prop_assert!(span != [0; 8] && id != [0; 16]);
        }

        /// Scenario: a wanted partition. Guarantee: the id lies in it by the project's own hash.
        #[test]
        fn a_chosen_partition_is_met(run: u32, sequence in 0..MAX_SEQUENCE, partition in 0u32..64) {
            let id = trace_id_in(run, sequence, 3, partition, 64);
            prop_assert_eq!(infertrace_schemas::partition::partition_of(&id, 64), partition);
        }
    }
}
