//! Sentences that people read, in alerts and messages alike.

use chrono::{DateTime, SecondsFormat};
use infertrace_schemas::avro::{Cause, Evidence, Insight, Recommendation};

/// At most three significant digits, without trailing zeros; whole above 100.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let size = value.abs();
    let decimals = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => (2.0 - size.log10().floor()).min(12.0) as usize,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(share: f64) -> String {
    format!("{} %", number((share * 100.0).round()))
}

/// As RFC 3339 in UTC, to the millisecond.
pub(super) fn time(unix_nanos: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nanos).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// As in `ttft_p99: 840 ms, normally 210 ms (4x), 1203 samples`.
pub(super) fn evidence(evidence: &Evidence) -> String {
    let unit = if evidence.unit.is_empty() { String::new() } else { format!(" {}", evidence.unit) };
    let mut line = format!("{}: {}{unit}", evidence.metric, number(evidence.observed));
    if let Some(baseline) = evidence.baseline {
        line.push_str(&format!(", normally {}{unit}", number(baseline)));
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
