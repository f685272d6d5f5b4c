//! One analysed trace as the record of `infertrace.traces.v1`.
//!
//! Invariant: a pure function of the spans, the version and the source range; no time of day, no table order.

use std::borrow::Cow;

use infertrace_analytics::cost::TraceCost;
use infertrace_schemas::{
    avro::{
        ClockShift, Importance, PathSegment, ServiceEdge, ServiceUse, SourceRange, SpanStatus, StageTime,
        TraceSummary, write_trace_summary,
    },
    trace::{Analysis, NameId, Names, Segment, SpanNode},
};

use crate::assembly::ClosedBy;

/// Segments of the critical path in a summary.
const MAX_SEGMENTS: usize = 64;
/// Bytes of one name in a summary, so that a summary fits a record.
const MAX_NAME_BYTES: usize = 256;

/// What is known of a trace besides its analysis.
#[derive(Debug)]
pub(crate) struct Closing<'a> {
    pub(crate) trace_id: &'a [u8; 16],
    pub(crate) tenant: &'a str,
    pub(crate) version: i32,
    pub(crate) closed_by: ClosedBy,
    pub(crate) partition: u32,
    pub(crate) first_offset: u64,
    pub(crate) last_offset: u64,
    pub(crate) slow_ns: i64,
    pub(crate) costly_nano_usd: u64,
    pub(crate) cost: Option<TraceCost>,
    /// Version of the prices that it was computed with.
    pub(crate) price_version: &'a str,
}

/// The encoded summary.
pub(crate) fn encode(
    schema_id: u32,
    closing: &Closing<'_>,
    found: &Analysis,
    spans: &[SpanNode],
    names: &Names,
) -> Vec<u8> {
    let mut hex = [0; 32];
    let mut path_ids = [[0; 16]; MAX_SEGMENTS];
    let summary = build(closing, found, spans, names, &mut hex, &mut path_ids);
    let mut out = Vec::with_capacity(320 + 24 * summary.critical_path.len());
    write_trace_summary(&mut out, schema_id, &summary);
    out
}

fn build<'a>(
    closing: &'a Closing<'_>,
    found: &'a Analysis,
    spans: &[SpanNode],
    names: &'a Names,
    trace_id: &'a mut [u8; 32],
    path_ids: &'a mut [[u8; 16]; MAX_SEGMENTS],
) -> TraceSummary<'a> {
    let name = |id: NameId| Cow::Borrowed(clip(names.get(id)));
    let span_of = |node: u32| found.nodes.get(node as usize).map(|node| &spans[node.input as usize]);
    let root = span_of(found.root);
    let root_duration =
        found.nodes.get(found.root as usize).map_or(0, |node| long(node.end_ns.abs_diff(node.start_ns)));
    let duration_nanos = long(found.duration_ns());
    let mut incomplete_reasons: Vec<Cow<'_, str>> = found.completeness.reasons().map(Cow::Borrowed).collect();
    if closing.closed_by != ClosedBy::Idle {
        incomplete_reasons.push(Cow::Borrowed(closing.closed_by.as_str()));
    }
    let importance = if found.errors > 0 {
        Importance::Error
    } else if duration_nanos >= closing.slow_ns {
        Importance::Slow
    } else if closing.cost.is_some_and(|cost| cost.nano_usd >= closing.costly_nano_usd) {
        Importance::Costly
    } else {
        Importance::Plain
    };
    let (critical_path, critical_path_omitted) = path(found, spans, path_ids);
    TraceSummary {
        trace_id: Cow::Borrowed(hex_into(closing.trace_id, trace_id)),
        version: closing.version,
        tenant: Cow::Borrowed(clip(closing.tenant)),
        root_service: root.map_or(Cow::Borrowed(""), |root| name(root.service)),
        root_operation: root.map_or(Cow::Borrowed(""), |root| name(root.operation)),
        root_span_id: root.map_or(Cow::Borrowed(""), |root| Cow::Owned(format!("{:016x}", root.span_id))),
        status: match root.map(|root| root.status) {
            Some(1) => SpanStatus::Ok,
            Some(2) => SpanStatus::Error,
            _ => SpanStatus::Unset,
        },
        start_unix_nanos: found.start_ns,
        end_unix_nanos: found.end_ns,
        duration_nanos,
        root_duration_nanos: root_duration,
        span_count: int(found.nodes.len()),
        error_count: int(found.errors as usize),
        duplicate_spans: int(found.duplicates as usize),
        dropped_spans: long(found.completeness.dropped_spans),
        complete: incomplete_reasons.is_empty(),
        incomplete_reasons,
        closed_by: Cow::Borrowed(closing.closed_by.as_str()),
        importance,
        services: found
            .services
            .iter()
            .map(|service| ServiceUse {
                service: name(service.service),
                spans: int(service.spans as usize),
                errors: int(service.errors as usize),
                self_nanos: long(service.self_ns),
            })
            .collect(),
        models: found.models.iter().map(|&model| name(model)).collect(),
        stages: found
            .stages
            .iter()
            .map(|stage| StageTime {
                stage: name(stage.stage),
                spans: int(stage.spans as usize),
                self_nanos: long(stage.self_ns),
                critical_nanos: long(stage.critical_ns),
            })
            .collect(),
        critical_path,
        critical_path_omitted,
        parallelism: found.parallelism,
        input_tokens: found.tokens.input.map(long),
        output_tokens: found.tokens.output.map(long),
        cached_tokens: found.tokens.cached.map(long),
        ttft_nanos: found.ttft.map(|ttft| long(ttft.ttft_ns)),
        ttft_queue_nanos: found.ttft.and_then(|ttft| ttft.queue_ns).map(long),
        ttft_prefill_nanos: found.ttft.and_then(|ttft| ttft.prefill_ns).map(long),
        ttft_measured: found.ttft.is_some_and(|ttft| ttft.measured),
        edges: found
            .edges
            .iter()
            .map(|edge| ServiceEdge {
                caller: name(edge.caller),
                callee: name(edge.callee),
                calls: int(edge.calls as usize),
                errors: int(edge.errors as usize),
                total_nanos: long(edge.total_ns),
            })
            .collect(),
        omitted_groups: int(found.omitted_groups as usize),
        cost_nano_usd: closing.cost.map(|cost| long(cost.nano_usd)),
        gpu_micros: closing.cost.map(|cost| long(cost.gpu_micros)),
        cost_kind: Cow::Borrowed(closing.cost.map_or("", |cost| cost.kind.name())),
        cost_basis: Cow::Borrowed(closing.cost.map_or("", |cost| cost.basis())),
        price_version: Cow::Borrowed(closing.cost.map_or("", |_| closing.price_version)),
        clock_shifts: found
            .clock_shifts
            .iter()
            .map(|shift| ClockShift {
                service: name(shift.service),
                shift_nanos: shift.shift_ns,
                spans: int(shift.spans as usize),
            })
            .collect(),
        source: SourceRange {
            partition: int(closing.partition as usize),
            first_offset: long(closing.first_offset),
            last_offset: long(closing.last_offset),
        },
    }
}

/// The path, or its longest segments where there are too many, in time order.
fn path<'a>(
    found: &Analysis,
    spans: &[SpanNode],
    ids: &'a mut [[u8; 16]; MAX_SEGMENTS],
) -> (Vec<PathSegment<'a>>, i32) {
    let all = &found.critical_path;
    let mut kept: Vec<&Segment> = Vec::with_capacity(all.len().min(MAX_SEGMENTS));
    if all.len() <= MAX_SEGMENTS {
        kept.extend(all);
    } else {
        let length = |segment: &Segment| segment.end_ns.abs_diff(segment.start_ns);
        let mut longest: Vec<&Segment> = all.iter().collect();
        longest.sort_unstable_by_key(|segment| (std::cmp::Reverse(length(segment)), segment.start_ns));
        kept.extend(&longest[..MAX_SEGMENTS]);
        kept.sort_unstable_by_key(|segment| segment.start_ns);
    }
    let omitted = int(all.len() - kept.len());
    let segments = kept
        .into_iter()
        .zip(ids)
        .map(|(segment, id)| {
            let node = &found.nodes[segment.node as usize];
            let span_id = spans[node.input as usize].span_id.to_be_bytes();
            PathSegment {
                span_id: Cow::Borrowed(hex_into(&span_id, id)),
                offset_nanos: long(segment.start_ns.abs_diff(found.start_ns)),
                duration_nanos: long(segment.end_ns.abs_diff(segment.start_ns)),
            }
        })
        .collect();
    (segments, omitted)
}

/// Lower-case hexadecimal digits of `bytes`; `digits` is twice as long.
fn hex_into<'a>(bytes: &[u8], digits: &'a mut [u8]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    std::str::from_utf8(digits).expect("hexadecimal digits are ASCII")
}

fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME_BYTES)]
}

fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
