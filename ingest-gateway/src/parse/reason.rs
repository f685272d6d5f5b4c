//! Why single spans are rejected. The names are part of the protocol and label a metric.

use crate::config::Limits;

/// Why one span (or frame, or data point) is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Malformed,
    BadTraceId,
    BadSpanId,
    EmptyId,
    BadParentSpanId,
    BadUtf8,
    NegativeDuration,
    ClockSkew,
    TooLarge,
    TooManyAttributes,
    TooDeep,
    BadOrigin,
    TooManySpans,
    BadCrc,
    BadFrame,
    UnsupportedMetric,
}

impl Reason {
    /// The stable name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadTraceId => "bad_trace_id",
            Self::BadSpanId => "bad_span_id",
            Self::EmptyId => "empty_id",
            Self::BadParentSpanId => "bad_parent_span_id",
            Self::BadUtf8 => "bad_utf8",
            Self::NegativeDuration => "negative_duration",
            Self::ClockSkew => "clock_skew",
            Self::TooLarge => "too_large",
            Self::TooManyAttributes => "too_many_attributes",
            Self::TooDeep => "too_deep",
            Self::BadOrigin => "bad_origin",
            Self::TooManySpans => "too_many_spans",
            Self::BadCrc => "bad_crc",
            Self::BadFrame => "bad_frame",
            Self::UnsupportedMetric => "unsupported_metric",
        }
    }

    /// What to tell the sender.
    pub(crate) fn message(self, limits: &Limits) -> String {
        match self {
            Self::Malformed => "truncated, or a field has the wrong type".into(),
            Self::BadTraceId => "trace_id must be 16 bytes".into(),
            Self::BadSpanId => "span_id must be 8 bytes".into(),
            Self::EmptyId => "trace_id and span_id must be present and not all zero".into(),
            Self::BadParentSpanId => "parent_span_id must be empty or 8 bytes".into(),
            Self::BadUtf8 => "a string is not valid UTF-8".into(),
            Self::NegativeDuration => "it ends before it starts".into(),
            Self::ClockSkew => format!(
                "its time is more than {} s behind or {} s ahead of the gateway's clock",
                limits.max_clock_past_ms / 1000,
                limits.max_clock_future_ms / 1000
            ),
            Self::TooLarge => {
                format!("larger than {} bytes, or than a record of the log", limits.max_span_bytes)
            }
            Self::TooManyAttributes => format!("more than {} attributes", limits.max_attributes),
            Self::TooDeep => format!("attribute values nested more than {} deep", limits.max_depth),
            Self::BadOrigin => "origin is not an index into origins".into(),
            Self::TooManySpans => format!("past the first {} of the request", limits.max_spans),
            Self::BadCrc => "the frame's CRC-32C does not match its body".into(),
            Self::BadFrame => {
                "the frame's partition, codec, span count or uncompressed size cannot be right".into()
            }
            Self::UnsupportedMetric => {
                "exponential histograms and summaries are not supported; send gauges, sums or explicit-bucket histograms".into()
            }
        }
    }
}

/// One reason's share of the rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: Reason,
    pub(crate) count: u64,
    /// Index of the first one in the request.
    pub(crate) first_index: u64,
}

/// The rejected, one entry a reason, in order of first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejections {
    entries: Vec<Rejection>,
}

impl Rejections {
    /// Counts `count` rejected from `index` on.
    pub(crate) fn add(&mut self, reason: Reason, index: u64, count: u64) {
        match self.entries.iter_mut().find(|entry| entry.reason == reason) {
            Some(entry) => entry.count += count,
            None => self.entries.push(Rejection { reason, count, first_index: index }),
        }
    }

    /// All rejected.
    pub(crate) fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// The entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rejection> {
        self.entries.iter()
    }

    /// Adds another list, shifting its indices by `offset`.
    pub(crate) fn absorb(&mut self, other: &Self, offset: u64) {
        for entry in &other.entries {
            self.add(entry.reason, entry.first_index + offset, entry.count);
        }
    }

    /// One line for OTLP's `error_message`.
    pub(crate) fn summary(&self, limits: &Limits) -> String {
        let parts: Vec<String> = self
            .entries
            .iter()
            .map(|entry| {
                format!(
                    "{} {} (first at index {}): {}",
                    entry.count,
                    entry.reason.as_str(),
                    entry.first_index,
                    entry.reason.message(limits)
                )
            })
            .collect();
        parts.join("; ")
    }
}
