//! Bounds of memory and age, coverage, and order of eviction.

use infertrace_proto::v1;
use infertrace_runtime::clock::ManualClock;
use infertrace_schemas::{columns::index, record::encode_share};
use proptest::prelude::*;
use prost::Message;

use super::*;

const SECOND_NS: i64 = 1_000_000_000;

fn id(trace: u64) -> TraceId {
    (u128::from(trace) + 1).to_be_bytes()
}

/// A record of `spans` spans of one trace; the first fails if asked for.
fn record(trace: u64, spans: u64, failed: bool, salt: u64) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = (0..spans)
        .map(|span| {
            v1::Span {
                trace_id: id(trace).to_vec(),
                span_id: (salt * 1_000 + span + 1).to_be_bytes().to_vec(),
                service_name: "engine".to_owned(),
                operation_name: "step".to_owned(),
                start_time_unix_nano: trace as i64 * SECOND_NS,
                duration_nanos: 1,
                status: (failed && span == 0).then(|| v1::Status { code: 2, message: "x".repeat(40) }),
                ..Default::default()
            }
            .encode_to_vec()
        })
        .collect();
    encode_share("", &[], encoded.iter().map(Vec::as_slice), &[])
}

fn tier(config: HotConfig) -> (Arc<MemoryTier>, Writer, ManualClock) {
    let clock = ManualClock::new(1_000 * SECOND_NS);
    let (tier, writer) = MemoryTier::new(config, Arc::new(clock.clone()), HotMetrics::default());
    (tier, writer, clock)
}

fn spans_of(tier: &MemoryTier, trace: u64) -> usize {
    let snapshot = tier.snapshot();
    snapshot.segments.iter().map(|segment| segment.rows(&id(trace), &snapshot.hasher).len()).sum()
}

/// Scenario: many small publications. Guarantee: they merge into few segments, every span is found by its trace,
/// rows ascend, and coverage is exactly what was read.
#[test]
fn small_segments_merge_and_stay_searchable() {
    let (tier, mut writer, _) = tier(HotConfig::default());
    writer.start(3, 10);
    for number in 0..500u64 {
        writer.push(3, 10 + number as i64, 999_000, &record(number % 50, 3, false, number));
        writer.publish();
    }
    let snapshot = tier.snapshot();
    assert!(snapshot.segments.len() < 40, "{} segments", snapshot.segments.len());
    assert_eq!(snapshot.coverage.of(3), 10..510);
    for trace in 0..50 {
        assert_eq!(spans_of(&tier, trace), 30, "trace {trace}");
    }
    for segment in &snapshot.segments {
        let rows = segment.rows(&id(7), &snapshot.hasher);
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
    }
    assert_eq!(spans_of(&tier, 99), 0);
}

/// Scenario: time passes. Guarantee: segments leave by the age of their newest record, the coverage begins after
/// them, a sender's clock that runs ahead does not keep them.
#[test]
fn old_segments_leave() {
    let (tier, mut writer, clock) = tier(HotConfig { window_ms: 60_000, ..HotConfig::default() });
    writer.start(0, 0);
    writer.push(0, 0, 1_000_000, &record(1, 2, true, 1));
    writer.publish();
    clock.advance(50 * SECOND_NS);
    writer.push(0, 1, 9_000_000_000, &record(2, 2, false, 2));
    writer.publish();
    clock.advance(20 * SECOND_NS);
    writer.publish();
    assert_eq!((spans_of(&tier, 1), spans_of(&tier, 2)), (0, 2));
    assert_eq!(tier.snapshot().coverage.of(0), 1..2);
    clock.advance(100 * SECOND_NS);
    writer.publish();
    assert_eq!(tier.snapshot().segments.len(), 0);
    assert_eq!(tier.snapshot().coverage.of(0), 2..2);
    assert_eq!(tier.status().evicted.aged_spans, 4);
}

/// Scenario: memory runs out with failed and plain traces of equal age. Guarantee: plain ones leave first, oldest
/// first; a plain span of a failed trace stays with it; what left is counted.
#[test]
fn plain_traces_leave_before_failed_ones() {
    let one = {
        let (tier, mut writer, _) = tier(HotConfig::default());
        writer.push(0, 0, 999_000, &record(0, 4_000, false, 1));
        writer.publish();
        tier.status().bytes
    };
    let config =
        HotConfig { max_bytes: one * 6, important_share: 0.5, segment_spans: 4_000, ..HotConfig::default() };
    let (tier, mut writer, _) = tier(config);
    writer.start(0, 0);
    for number in 0..12u64 {
        // One failed trace among four thousand plain spans, told in another segment than its other spans.
        let failed = number % 2 == 0;
        writer.push(0, 3 * number as i64, 999_000, &record(1_000 + number, 4_000, false, 10 + number));
        writer.push(0, 3 * number as i64 + 1, 999_000, &record(number / 2, 5, failed, 100 + number));
        writer.push(0, 3 * number as i64 + 2, 999_000, &record(500 + number, 5, false, 200 + number));
        writer.publish();
    }
    let status = tier.status();
    assert!(status.bytes <= status.max_bytes, "{status:?}");
    assert!(status.evicted.plain_spans > 0);
    assert_eq!(status.evicted.error_spans, 0);
    for trace in 0..6 {
        assert_eq!(spans_of(&tier, trace), 10, "failed trace {trace} is whole");
    }
    assert_eq!(spans_of(&tier, 1_000), 0);
    assert_eq!(spans_of(&tier, 1_011), 4_000);
    let covered = tier.snapshot().coverage.of(0);
    assert!(covered.start > 0 && covered.end == 36);
}

/// Scenario: a batch sent again, and a record of noise. Guarantee: neither becomes a span, both are counted and passed.
#[test]
fn repeats_and_poison_are_passed_over() {
    let (tier, mut writer, _) = tier(HotConfig::default());
    let batch = record(1, 3, false, 1);
    writer.push(0, 0, 999_000, &batch);
    writer.push(0, 1, 999_000, &batch);
    writer.push(0, 2, 999_000, &[0xff; 32]);
    writer.push(1, 0, 999_000, &batch);
    writer.publish();
    let status = tier.status();
    assert_eq!((status.duplicate_records, status.poison_records), (1, 1));
    assert_eq!(spans_of(&tier, 1), 6, "another partition has a window of its own");
    assert_eq!(tier.snapshot().coverage.of(0), 0..3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Scenario: any mix of records, publications and pauses under a small limit. Guarantee: memory stays within the
    /// limit; every span inside the coverage is held; spans held and evicted add up to spans read.
    #[test]
    fn bounds_and_coverage_hold(steps in proptest::collection::vec((0u64..40, 1u64..200, any::<bool>(), 0u8..8), 1..120)) {
        let config = HotConfig { max_bytes: 600_000, window_ms: 60_000, segment_spans: 2_000, ..HotConfig::default() };
        let max_bytes = config.max_bytes;
        let (tier, mut writer, clock) = tier(config);
        let mut read: Vec<(i64, u64, u64)> = Vec::new();
        writer.start(0, 0);
        for (offset, (trace, spans, failed, action)) in steps.into_iter().enumerate() {
            let offset = offset as i64;
            writer.push(0, offset, clock.now_unix_millis(), &record(trace, spans, failed, offset as u64));
            read.push((offset, trace, spans));
            if action == 0 {
                clock.advance(20 * SECOND_NS);
            }
            if action < 4 {
                writer.publish();
                prop_assert!(tier.status().bytes <= max_bytes);
            }
        }
        writer.publish();
        let status = tier.status();
        prop_assert!(status.bytes <= max_bytes);
        let snapshot = tier.snapshot();
        let covered = snapshot.coverage.of(0);
        let mut held: BTreeMap<i64, u64> = BTreeMap::new();
        for segment in &snapshot.segments {
            use arrow::array::AsArray;
            let offsets = segment.batch.column(index::OFFSET).as_primitive::<arrow::datatypes::Int64Type>();
            for offset in offsets.values() {
                *held.entry(*offset).or_default() += 1;
            }
        }
        for (offset, _, spans) in &read {
            if covered.contains(offset) {
                prop_assert_eq!(held.get(offset), Some(spans));
            }
        }
        let evicted = status.evicted.aged_spans + status.evicted.plain_spans + status.evicted.error_spans;
        let total: u64 = read.iter().map(|(_, _, spans)| spans).sum();
        prop_assert_eq!(status.spans + evicted, total);
    }
}
