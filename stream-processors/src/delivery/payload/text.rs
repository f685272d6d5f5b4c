//! Sentences that people read, in alerts and messages alike.

use chrono::{DateTime, SecondsFormat};
use infertrace_analytics::words::{amount, number};
use infertrace_schemas::avro::{Cause, Evidence, Insight, Recommendation};

fn percent(share: f64) -> String {
    format!("{} %", number((share * 100.0).round()))
}

/// As RFC 3339 in UTC, to the millisecond.
pub(super) fn time(unix_nanos: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nanos).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// As in `ttft_p99: 840 ms, normally 210 ms (4x), 1203 samples`.
pub(super) fn evidence(evidence: &Evidence) -> String {
    let unit = &evidence.unit;
    let mut line = format!("{}: {}", evidence.metric, amount(evidence.observed, unit));
    if let Some(baseline) = evidence.baseline {
        line.push_str(&format!(", normally {}", amount(baseline, unit)));
        let times = evidence.observed / baseline;
        if times.is_finite() && times >= 1.5 {
            line.push_str(&format!(" ({}x)", number(times)));
        }
    }
    if evidence.samples > 0 {
        line.push_str(&format!(", {} samples", evidence.samples));
    }
    line
}

/// As in `queue, 62 % of the change: waiting grew from 12 ms to 410 ms`.
pub(super) fn cause(cause: &Cause) -> String {
    let mut line = format!("{}, {} of the change", cause.cause, percent(cause.share));
    if !cause.explanation.is_empty() {
        line.push_str(&format!(": {}", cause.explanation));
    }
    line
}

/// The advice with its gain and how sure it is.
pub(super) fn recommendation(advice: &Recommendation) -> String {
    let mut line = advice.text.clone();
    if !advice.expected_gain.is_empty() {
        line.push_str(&format!(" Expected: {}.", advice.expected_gain.trim_end_matches('.')));
    }
    if advice.confidence > 0.0 {
        line.push_str(&format!(" Confidence: {}.", percent(advice.confidence)));
    }
    line
}

/// What it is about, from the general to the particular: the parts of the key that are set.
pub(super) fn subject(insight: &Insight) -> Vec<(&'static str, &str)> {
    [
        ("model", insight.model.as_str()),
        ("model_version", &insight.model_version),
        ("tenant", &insight.tenant),
        ("service", &insight.service),
        ("stage", &insight.stage),
        ("device", &insight.device),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .collect()
}
