//! What an analyst puts out, as records of the topics that others subscribe to.
//!
//! Invariant: one to one; nothing is computed here but units (milliseconds to nanoseconds).

use std::collections::BTreeMap;

use bytes::Bytes;
use infertrace_analytics::{
    output,
    rollup::{Counter, Millis},
    sketch::{self, Sketch},
};
use infertrace_runtime::log::{self, NewRecord, TopicPartition};
use infertrace_schemas::{
    avro::{self, AvroError, AvroRecord, SchemaIds, SourceRange},
    topics,
};

/// Name and version of what computes baselines, for their records.
const BASELINE_ALGORITHM: &str = "median-mad/1";

/// Writes outputs with the schema ids of this process.
#[derive(Debug)]
pub(crate) struct Converter {
    rollups: SchemaIds,
    baselines: SchemaIds,
    insights: SchemaIds,
}

/// Partitions of the topics that are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partitions {
    pub(crate) rollups: u32,
    pub(crate) baselines: u32,
    pub(crate) insights: u32,
}

impl Converter {
    pub(crate) fn current() -> Self {
        Self {
            rollups: SchemaIds::current::<avro::Rollup>(),
            baselines: SchemaIds::current::<avro::Baseline>(),
            insights: SchemaIds::current::<avro::Insight>(),
        }
    }

    /// The record of `rollup`, for the partition that stands for `partition` of the partials.
    pub(crate) fn rollup(
        &self,
        rollup: &output::Rollup,
        partition: u32,
        to: Partitions,
    ) -> Result<NewRecord, AvroError> {
        let record = rollup_record(rollup);
        let at = TopicPartition::new(topics::ROLLUPS, partition % to.rollups);
        new(at, &record.model, encode(&self.rollups, &record)?, rollup.window_ms + rollup.length_ms)
    }

    pub(crate) fn baseline(
        &self,
        baseline: &output::Baseline,
        partition: u32,
        to: Partitions,
    ) -> Result<NewRecord, AvroError> {
        let record = baseline_record(baseline);
        // The topic is compacted: the key is all that tells one baseline from another.
        let hour = record.hour_of_week.map_or_else(String::new, |hour| hour.to_string());
        let parts =
            [&record.model, &record.tenant, &record.model_version, &record.stage, &record.metric, &hour];
        let key = parts.map(String::as_str).join("\u{1f}");
        let at = TopicPartition::new(topics::BASELINES, partition % to.baselines);
        new(at, &key, encode(&self.baselines, &record)?, baseline.computed_ms)
    }

    pub(crate) fn insight(
        &self,
        insight: &output::Insight,
        partition: u32,
        to: Partitions,
    ) -> Result<NewRecord, AvroError> {
        let record = insight_record(insight);
        let at = TopicPartition::new(topics::INSIGHTS, partition % to.insights);
        new(at, &record.model, encode(&self.insights, &record)?, insight.window_end_ms)
    }
}

fn encode<R: AvroRecord>(ids: &SchemaIds, record: &R) -> Result<Vec<u8>, AvroError> {
    ids.encode(record)
}

fn new(to: TopicPartition, key: &str, payload: Vec<u8>, at_ms: Millis) -> Result<NewRecord, AvroError> {
    Ok(NewRecord {
        to,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        payload: Some(payload.into()),
        headers: Vec::new(),
        timestamp: log::Millis(at_ms),
    })
}

fn nanos(at_ms: Millis) -> i64 {
    at_ms.saturating_mul(1_000_000)
}

fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// `rollup` as subscribers read it. Merged over all sources: the source range says so by -1.
#[must_use]
pub fn rollup_record(rollup: &output::Rollup) -> avro::Rollup {
    let key = &rollup.key;
    let counters = Counter::ALL
        .iter()
        .filter(|counter| rollup.cell.get(**counter) > 0)
        .map(|counter| (counter.name().to_owned(), long(rollup.cell.get(*counter))))
        .collect();
    let exemplar = |one: &infertrace_analytics::rollup::Exemplar| avro::Exemplar {
        trace_id: hex(&one.trace_id),
        duration_micros: long(one.duration_micros),
        is_error: one.is_error,
    };
    let mut exemplars: Vec<avro::Exemplar> = rollup.exemplars.longest.iter().map(exemplar).collect();
    for one in rollup.exemplars.sample.iter().map(exemplar) {
        if !exemplars.contains(&one) {
            exemplars.push(one);
        }
    }
    avro::Rollup {
        window_start_unix_nanos: nanos(rollup.window_ms),
        window_nanos: nanos(rollup.length_ms),
        tenant: key.tenant.to_string(),
        model: key.model.to_string(),
        model_version: key.version.to_string(),
        stage: key.stage.to_string(),
        service: key.service.to_string(),
        device: key.device.to_string(),
        revision: int(rollup.revision),
        source: SourceRange { partition: -1, first_offset: -1, last_offset: -1 },
        counters,
        price_versions: rollup.cell.price_versions().map(str::to_owned).collect(),
        sums: BTreeMap::new(),
        sketches: rollup
            .cell
            .sketches()
            .map(|(measure, sketch)| sketch_record(measure.name(), sketch))
            .collect(),
        exemplars,
    }
}

fn sketch_record(metric: &str, sketch: &Sketch) -> avro::Sketch {
    let (first, bins) = sketch.bins();
    avro::Sketch {
        metric: metric.to_owned(),
        relative_accuracy: sketch::ACCURACY,
        count: long(sketch.count()),
        zero_count: long(sketch.zeros()),
        sum: sketch.sum() as f64,
        min: sketch.min() as f64,
        max: sketch.max() as f64,
        first_bin: first,
        bin_counts: bins.iter().copied().map(long).collect(),
    }
}

/// `baseline` as subscribers read it.
#[must_use]
pub fn baseline_record(baseline: &output::Baseline) -> avro::Baseline {
    avro::Baseline {
        tenant: baseline.tenant.clone(),
        model: baseline.model.clone(),
        model_version: baseline.version.clone(),
        stage: baseline.stage.clone(),
        metric: baseline.metric.clone(),
        hour_of_week: baseline.hour_of_week.map(i32::from),
        computed_unix_nanos: nanos(baseline.computed_ms),
        from_unix_nanos: nanos(baseline.from_ms),
        to_unix_nanos: nanos(baseline.to_ms),
        samples: long(baseline.samples),
        windows: int(baseline.windows),
        winsorised_windows: int(baseline.winsorised_windows),
        cold_start: baseline.cold_start,
        log_scale: baseline.log_scale,
        median: baseline.median,
        mad: baseline.mad,
        p50: baseline.p50,
        p90: baseline.p90,
        p99: baseline.p99,
        algorithm: BASELINE_ALGORITHM.to_owned(),
    }
}

/// `insight` as subscribers read it.
#[must_use]
pub fn insight_record(insight: &output::Insight) -> avro::Insight {
    avro::Insight {
        id: insight.id.clone(),
        revision: int(insight.revision),
        state: match insight.state {
            output::State::Open => avro::InsightState::Open,
            output::State::Updated => avro::InsightState::Updated,
            output::State::Resolved => avro::InsightState::Resolved,
        },
        kind: insight.kind.clone(),
        severity: match insight.severity {
            output::Severity::Info => avro::Severity::Info,
            output::Severity::Warning => avro::Severity::Warning,
            output::Severity::Page => avro::Severity::Page,
        },
        tenant: insight.tenant.clone(),
        model: insight.model.clone(),
        model_version: insight.version.clone(),
        service: insight.service.clone(),
        stage: insight.stage.clone(),
        device: insight.device.clone(),
        window_start_unix_nanos: nanos(insight.window_start_ms),
        window_end_unix_nanos: nanos(insight.window_end_ms),
        opened_unix_nanos: nanos(insight.opened_ms),
        resolved_unix_nanos: insight.resolved_ms.map(nanos),
        title: insight.title.clone(),
        detector: insight.detector.clone(),
        detector_version: insight.detector_version.clone(),
        evidence: insight
            .evidence
            .iter()
            .map(|one| avro::Evidence {
                metric: one.metric.clone(),
                unit: one.unit.clone(),
                observed: one.observed,
                baseline: one.baseline,
                samples: long(one.samples),
            })
            .collect(),
        causes: insight
            .causes
            .iter()
            .map(|one| avro::Cause {
                cause: one.cause.clone(),
                share: one.share,
                explanation: one.explanation.clone(),
            })
            .collect(),
        recommendation: insight.recommendation.as_ref().map(|one| avro::Recommendation {
            text: one.text.clone(),
            expected_gain: one.expected_gain.clone(),
            confidence: one.confidence,
        }),
        example_traces: insight.example_traces.clone(),
        normal_traces: insight.normal_traces.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
