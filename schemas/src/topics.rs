//! The topics, as one table: names, keys, retention, compaction.
//!
//! `runtime` creates them, every service names them by the constants here. Invariant: a topic is added,
//! never renamed; a change of a record's meaning gets a new version suffix.

use std::time::Duration;

/// Spans: protobuf `SpanBatch`, one record a partition's share of a request, partitioned by trace id.
pub const SPANS: &str = "infertrace.spans.v1";
/// GPU and engine samples: protobuf `GpuSampleBatch`, keyed by device id.
pub const GPU: &str = "infertrace.gpu.v1";
/// Trace summaries: Avro, keyed by trace id, in the partition of the trace's spans.
pub const TRACES: &str = "infertrace.traces.v1";
/// Mergeable aggregates: Avro, keyed by model.
pub const ROLLUPS: &str = "infertrace.rollups.v1";
/// Rolling baselines a model: Avro, keyed by model, compacted.
pub const BASELINES: &str = "infertrace.baselines.v1";
/// Anomalies and recommendations: Avro, keyed by model.
pub const INSIGHTS: &str = "infertrace.insights.v1";
/// What people decided about insights, by acknowledging, muting or resolving them: Avro, keyed by the insight's id, in one
/// partition so that decisions have one order, compacted.
pub const TRIAGE: &str = "infertrace.triage.v1";
/// What one source partition adds to each key and window, between the two stages of the analytics: protobuf
/// `PartialBatch`, in the partition that XXH64 of the model names. Internal.
pub const PARTIALS: &str = "infertrace.partials.v1";
/// Up to where each source partition is counted in the partials: keyed by source, compacted. Internal.
pub const ROLLUP_STATE: &str = "infertrace.state.rollups.v1";
/// Snapshots of the second stage: keyed by partition of the partials, compacted. Internal.
pub const INSIGHT_STATE: &str = "infertrace.state.insights.v1";
/// Spans in which somebody saw a request, on their way to those of the same request: protobuf, in the partition that
/// XXH64 of the request id names. Internal.
pub const REQUESTS: &str = "infertrace.requests.v1";
/// What several traces say of one request: Avro, keyed by tenant and request id.
pub const LINKS: &str = "infertrace.links.v1";
/// What the ClickHouse sink has inserted and is about to: keyed by group, topic and partition, compacted. Internal.
pub const SINK_STATE: &str = "infertrace.state.clickhouse.v1";
/// Records nobody could read: their raw bytes, with origin and error in headers.
pub const DLQ: &str = "infertrace.dlq.v1";

/// Partitions of the spans topic unless configured otherwise.
pub const DEFAULT_PARTITIONS: u32 = 8;

const DAY: u64 = 24 * 60 * 60;

/// What a topic should be when it is created; an existing topic is respected as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: &'static str,
    /// Partitions, at least 1.
    pub partitions: u32,
    /// Whether only the latest record a key is kept.
    pub compacted: bool,
    /// Age at which records may be removed; `None` keeps them.
    pub retention: Option<Duration>,
    /// What the key of a record is.
    pub key: &'static str,
}

/// Every topic, for a platform whose spans topic has `partitions` partitions.
///
/// `traces` has as many, since a summary stands in the partition of its spans.
#[must_use]
pub fn all(partitions: u32) -> Vec<Topic> {
    let partitions = partitions.max(1);
    let topic = |name, partitions, days: Option<u64>, key| Topic {
        name,
        partitions,
        compacted: days.is_none(),
        retention: days.map(|days| Duration::from_secs(days * DAY)),
        key,
    };
    vec![
        topic(SPANS, partitions, Some(7), "trace id (explicit partition: XXH64 of 16 bytes)"),
        topic(GPU, partitions, Some(7), "device id"),
        topic(TRACES, partitions, Some(7), "trace id (the partition of its spans)"),
        topic(ROLLUPS, partitions, Some(30), "model"),
        topic(BASELINES, partitions, None, "model"),
        topic(INSIGHTS, partitions, Some(30), "model"),
        topic(TRIAGE, 1, None, "insight id"),
        topic(PARTIALS, partitions, Some(2), "source (explicit partition: XXH64 of the model)"),
        topic(
            REQUESTS,
            partitions,
            Some(2),
            "source (explicit partition: XXH64 of the request id or trace id)",
        ),
        topic(LINKS, partitions, Some(7), "tenant and request id (the partition of its sightings)"),
        topic(ROLLUP_STATE, partitions, None, "source"),
        topic(INSIGHT_STATE, partitions, None, "partition of the partials"),
        topic(SINK_STATE, partitions, None, "group, topic and partition"),
        topic(DLQ, 1, Some(14), "origin"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the table for 12 partitions. Guarantee: every name once and versioned, only baselines, decisions
    /// and state compacted, summaries co-partitioned with spans.
    #[test]
    fn the_table_is_consistent() {
        let topics = all(12);
        let mut names: Vec<_> = topics.iter().map(|topic| topic.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 14);
        assert!(names.iter().all(|name| name.starts_with("infertrace.") && name.ends_with(".v1")));
        for topic in &topics {
            let is_state = [BASELINES, TRIAGE].contains(&topic.name) || topic.name.contains(".state.");
            assert_eq!(topic.compacted, is_state);
            assert_eq!(topic.compacted, topic.retention.is_none());
        }
        let partitions = |name| topics.iter().find(|topic| topic.name == name).map(|topic| topic.partitions);
        assert_eq!(partitions(SPANS), Some(12));
        assert_eq!(partitions(SPANS), partitions(TRACES));
        assert_eq!(all(0)[0].partitions, 1);
    }
}
