//! The partition hash against `proto/partition_vectors.json`, which other languages test against too.

use std::path::PathBuf;

use infertrace_schemas::partition::partition_of;
use serde_json::Value as Json;

fn vectors() -> Json {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../proto/partition_vectors.json");
    let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
    serde_json::from_str(&text).expect("JSON")
}

/// Scenario: every vector. Guarantee: the partition is the one written down, which never changes.
#[test]
fn the_vectors_hold() {
    let vectors = vectors();
    let cases = vectors["vectors"].as_array().expect("a list");
    assert!(cases.len() >= 20);
    for case in cases {
        let text = case["trace_id"].as_str().expect("hex");
        let mut trace_id = [0; 16];
        hex::decode_to_slice(text, &mut trace_id).expect("16 bytes");
        let partitions = case["partitions"].as_object().expect("an object");
        assert!(partitions.len() >= 6);
        for (count, partition) in partitions {
            let count: u32 = count.parse().expect("a number");
            assert_eq!(
                Some(u64::from(partition_of(&trace_id, count))),
                partition.as_u64(),
                "{text} of {count}"
            );
        }
        let hash = xxhash_rust::xxh64::xxh64(&trace_id, 0);
        assert_eq!(case["xxh64"].as_str(), Some(format!("{hash:016x}").as_str()));
    }
}

/// Scenario: 8,000 trace ids of which only the low or the high 64 bits vary. Guarantee: each of 8 partitions
/// gets its share within a tenth.
#[test]
fn half_random_ids_spread() {
    for high in [true, false] {
        let mut counts = [0u32; 8];
        for index in 0..8_000u64 {
            let mut trace_id = [0; 16];
            let half = if high { &mut trace_id[..8] } else { &mut trace_id[8..] };
            half.copy_from_slice(&(index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            counts[partition_of(&trace_id, 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..=1_100).contains(count)), "{counts:?}");
    }
}
