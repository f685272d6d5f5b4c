//! Builders and strategies shared by the tests of this crate.

use proptest::prelude::*;

use crate::api::{Nanos, Span, SpanStatus, TraceDetail};
use crate::trace::TraceModel;

/// A span with the given id, parent (0 for none), start and duration.
pub(crate) fn span(id: u64, parent: u64, start: i64, duration: i64) -> Span {
    Span {
        span_id: format!("{id:016x}"),
        parent_span_id: if parent == 0 { String::new() } else { format!("{parent:016x}") },
        service: format!("service-{}", id % 5),
        operation: format!("operation-{}", id % 7),
        start_unix_nano: Nanos(1_700_000_000_000_000_000 + start),
        duration_nano: Nanos(duration),
        status: SpanStatus {
            code: if id % 11 == 0 { "ERROR".into() } else { "UNSET".into() },
            message: String::new(),
        },
        ..Span::default()
    }
}

/// A trace of the given spans.
pub(crate) fn trace(spans: Vec<Span>) -> TraceModel {
    TraceModel::build(TraceDetail { trace_id: "ab".repeat(16), spans, ..TraceDetail::default() })
}

/// Any trace: parents before or after children, missing, circular, or the span itself; ids that repeat.
pub(crate) fn any_trace() -> impl Strategy<Value = TraceModel> {
    proptest::collection::vec((1_u64..40, 0_u64..44, 0_i64..1_000, 0_i64..400), 0..40).prop_map(|rows| {
        trace(rows.into_iter().map(|(id, parent, start, length)| span(id, parent, start, length)).collect())
    })
}

/// A well-formed trace of many spans: a tree with children inside their parents.
pub(crate) fn large_trace(count: u64) -> TraceModel {
    let spans = (1..=count)
        .map(|id| {
            let parent = if id == 1 {
                0
            } else {
                1 + (id.wrapping_mul(2_654_435_761) >> 7) % (id - 1).min(id / 2 + 1)
            };
            let start = i64::try_from(id).expect("small") * 1_000;
            span(id, parent, start, 2_000_000 - start.min(1_990_000))
        })
        .collect();
    trace(spans)
}
