//! The state machine against a model: the log as a list, and the analysis of everything a summary claims to cover.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use infertrace_schemas::avro::{AvroRecord, SchemaIds, SourceRange, TraceSummary};
use proptest::prelude::*;

use super::*;

const IDLE: i64 = 100;
const LATE: i64 = 400;

fn limits() -> Limits {
    Limits {
        idle_ms: IDLE,
        late_ms: LATE,
        max_age_ms: 1_000_000,
        max_spans: 1_000_000,
        max_traces: 1_000_000,
        max_bytes: 1 << 30,
        slow_ns: 1_000,
        costly_nano_usd: u64::MAX,
    }
}

fn assembly(limits: Limits) -> Assembly {
    Assembly::new(limits, TraceSummary::<'static>::schema().id)
}

fn trace_id(number: u8) -> [u8; 16] {
    [number + 1; 16]
}

fn span(trace: u8, id: u64, parent: u64, start: i64, duration: i64) -> SpanInput {
    SpanInput {
        trace_id: trace_id(trace),
        tenant: NameId::EMPTY,
        node: SpanNode {
            span_id: id,
            parent_id: parent,
            start_ns: start,
            duration_ns: duration,
            service: NameId::EMPTY,
            operation: NameId::EMPTY,
            stage: NameId::EMPTY,
            model: NameId::EMPTY,
            inference: NONE,
            kind: 1,
            status: 0,
        },
        inference: None,
        cost: None,
    }
}

/// One record of the log; its offset is its index.
#[derive(Clone, Debug)]
struct Entry {
    timestamp_ms: i64,
    spans: Vec<SpanInput>,
}

fn feed(assembly: &mut Assembly, log: &[Entry], from: usize, out: &mut Vec<Closed>) {
    for (offset, entry) in log.iter().enumerate().skip(from) {
        assembly.record(0, offset as u64, entry.timestamp_ms, entry.spans.iter().copied(), out);
    }
}

fn run(log: &[Entry], limits: Limits) -> Vec<Closed> {
    let mut assembly = assembly(limits);
    let mut out = Vec::new();
    assembly.assign(0, Resume::default());
    feed(&mut assembly, log, 0, &mut out);
    assembly.advance(0, i64::MAX, &mut out);
    assert_eq!((assembly.traces(), assembly.open_traces(), assembly.bytes), (0, 0, 0));
    assert_eq!(assembly.committable(0), Some(log.len() as u64));
    out
}

fn decode(closed: &Closed) -> TraceSummary<'static> {
    let ids = SchemaIds::embedded::<TraceSummary<'static>>();
    let summary: TraceSummary<'static> = ids.decode(&closed.summary).expect("own encoding");
    assert_eq!(summary.trace_id, Cow::Owned::<str>(hex(&closed.trace_id)));
    assert_eq!(summary.version, closed.version);
    summary
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A summary without what depends on how the spans were delivered.
fn content(summary: TraceSummary<'static>) -> TraceSummary<'static> {
    TraceSummary { source: SourceRange::default(), version: 0, ..summary }
}

type Key = ([u8; 16], i64, i32);

/// Everything visible in the output topic: by assembly and version.
fn visible(out: &[Closed]) -> BTreeMap<Key, Vec<u8>> {
    let mut visible = BTreeMap::new();
    for closed in out {
        let key = (closed.trace_id, decode(closed).source.first_offset, closed.version);
        let before = visible.insert(key, closed.summary.clone());
        assert!(before.is_none_or(|before| before == closed.summary), "two contents under {key:?}");
    }
    visible
}

/// The highest version of each assembly.
fn finals(out: &[Closed]) -> Vec<TraceSummary<'static>> {
    let mut finals = BTreeMap::new();
    for closed in out {
        let summary = decode(closed);
        finals.insert((closed.trace_id, summary.source.first_offset), summary);
    }
    finals.into_values().collect()
}

/// Every final summary is the analysis of the spans in the records it covers, and every span is covered.
fn check_against_log(log: &[Entry], out: &[Closed]) {
    let finals = finals(out);
    let mut covered: BTreeSet<(usize, String)> = BTreeSet::new();
    for summary in &finals {
        let range = summary.source.first_offset as usize..=summary.source.last_offset as usize;
        let mut spans = Vec::new();
        for offset in range {
            covered.insert((offset, summary.trace_id.to_string()));
            let of_trace = |span: &&SpanInput| hex(&span.trace_id) == summary.trace_id;
            spans.extend(log[offset].spans.iter().filter(of_trace).copied());
        }
        let alone = vec![Entry { timestamp_ms: 0, spans }];
        let [expected] = &run(&alone, limits())[..] else { panic!("one trace") };
        assert_eq!(content(summary.clone()), content(decode(expected)));
    }
    for (offset, entry) in log.iter().enumerate() {
        for span in &entry.spans {
            let id = hex(&span.trace_id);
            let is_repeated = || {
                let earlier = log[..offset].iter().flat_map(|entry| &entry.spans);
                earlier.into_iter().any(|before| before == span)
            };
            assert!(covered.contains(&(offset, id)) || is_repeated(), "span of record {offset} is nowhere");
        }
    }
}

/// A log whose timestamps step by `steps` (negative ones are out of order).
fn any_log(steps: std::ops::Range<i64>, ids: u64) -> impl Strategy<Value = Vec<Entry>> {
    let spans = proptest::collection::vec((0u8..5, 1..ids, 0u64..6, 0i64..50, 0i64..2_000), 0..5);
    proptest::collection::vec((steps, spans), 1..40).prop_map(|entries| {
        let mut timestamp_ms = 10_000;
        entries
            .into_iter()
            .map(|(step, spans)| {
                timestamp_ms += step;
                let spans = spans
                    .into_iter()
                    .map(|(trace, id, parent, start, duration)| span(trace, id, parent, start, duration))
                    .collect();
                Entry { timestamp_ms, spans }
            })
            .collect()
    })
}

/// Gives every span an id of its own, so that nothing is delivered twice.
fn without_duplicates(mut log: Vec<Entry>) -> Vec<Entry> {
    let spans = log.iter_mut().flat_map(|entry| &mut entry.spans);
    for (number, span) in spans.enumerate() {
        span.node.span_id = number as u64 + 1;
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Scenario: any log: late, duplicated and out-of-order records, cycles, missing roots. Guarantee: every final summary is the
    /// analysis of all spans of its records, every span is in one, and versions count up by one.
    #[test]
    fn final_summaries_are_the_analysis_of_all_spans(log in any_log(-60..250, 9)) {
        let out = run(&log, limits());
        check_against_log(&log, &out);
        let mut versions: BTreeMap<([u8; 16], i64), i32> = BTreeMap::new();
        for closed in &out {
            let version = versions.entry((closed.trace_id, decode(closed).source.first_offset)).or_default();
            *version += 1;
            prop_assert_eq!(closed.version, *version);
        }
    }

    /// Scenario: the spans of one trace within the idle time, in any order and split over records in any way.
    /// Guarantee: one summary, whose content does not depend on it.
    #[test]
    fn delivery_does_not_matter(
        log in any_log(0..2, 9),
        keys in proptest::collection::vec(any::<u64>(), 200),
        again in any::<prop::sample::Index>(),
    ) {
        let spans: Vec<SpanInput> = log.iter().flat_map(|entry| entry.spans.clone()).collect();
        prop_assume!(!spans.is_empty());
        let mut shuffled: Vec<_> = spans.iter().chain([again.get(&spans)]).copied().zip(keys).collect();
        shuffled.sort_by_key(|&(_, key)| key);
        let other: Vec<Entry> = shuffled
            .chunks(3)
            .map(|chunk| Entry { timestamp_ms: 10_000, spans: chunk.iter().map(|&(span, _)| span).collect() })
            .collect();
        let contents = |log: &[Entry]| -> Vec<_> { finals(&run(log, limits())).into_iter().map(content).collect() };
        let by_trace = |mut all: Vec<TraceSummary<'static>>| { all.sort_by(|a, b| a.trace_id.cmp(&b.trace_id)); all };
        prop_assert_eq!(by_trace(contents(&log)), by_trace(contents(&other)));
    }

    /// Scenario: a crash after any record, and another one after that; each time everything reported so far survives and
    /// reading goes on at the committable position. Guarantee: what is visible in the end is byte for byte what an
    /// uninterrupted run makes visible.
    #[test]
    fn restarts_change_nothing(
        log in any_log(0..250, 9).prop_map(without_duplicates),
        crashes in proptest::collection::vec(any::<prop::sample::Index>(), 1..3),
        max_age in prop_oneof![Just(1_000_000i64), Just(300i64)],
    ) {
        let limits = Limits { max_age_ms: max_age, ..limits() };
        let expected = visible(&run(&log, limits));
        let mut out: Vec<Closed> = Vec::new();
        let mut resume = Resume::default();
        let mut ends: Vec<usize> = crashes.iter().map(|index| index.index(log.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(log.len());
        for (run, &end) in ends.iter().enumerate() {
            let from = resume.from as usize;
            let mut assembly = assembly(limits);
            assembly.assign(0, resume.clone());
            feed(&mut assembly, &log[..end], from, &mut out);
            if run + 1 == ends.len() {
                assembly.advance(0, i64::MAX, &mut out);
            }
            let committable = assembly.committable(0).expect("assigned");
            prop_assert!(committable >= resume.from);
            resume = Resume::new(committable, out.iter().map(reported));
        }
        let mut seen = BTreeSet::new();
        for closed in &out {
            prop_assert!(seen.insert((closed.trace_id, decode(closed).source.first_offset, closed.version)), "made twice");
        }
        prop_assert_eq!(visible(&out), expected);
    }

    /// Scenario: as before, with timestamps out of order and duplicates, so that closings after a restart differ.
    /// Guarantee: still no version has two contents, and the final summaries are the analysis of what they cover.
    #[test]
    fn restarts_are_consistent_whatever_comes(log in any_log(-60..250, 9), crash in any::<prop::sample::Index>()) {
        let mut out = Vec::new();
        let end = crash.index(log.len() + 1);
        let mut first = assembly(limits());
        first.assign(0, Resume::default());
        feed(&mut first, &log[..end], 0, &mut out);
        let from = first.committable(0).expect("assigned");
        let mut second = assembly(limits());
        second.assign(0, Resume::new(from, out.iter().map(reported)));
        feed(&mut second, &log, from as usize, &mut out);
        second.advance(0, i64::MAX, &mut out);
        visible(&out);
        check_against_log(&log, &out);
    }

    /// Scenario: any log under a tight bound of memory, traces or spans. Guarantee: the bound holds between records, every
    /// summary cut short says so, and every span is in a summary.
    #[test]
    fn bounds_hold_and_are_stated(log in any_log(0..60, 9), max_traces in 1usize..4, max_spans in 2usize..6) {
        let limits = Limits { max_traces, max_spans, ..limits() };
        let mut assembly = assembly(limits);
        let mut out = Vec::new();
        assembly.assign(0, Resume::default());
        for (offset, entry) in log.iter().enumerate() {
            assembly.record(0, offset as u64, entry.timestamp_ms, entry.spans.iter().copied(), &mut out);
            prop_assert!(assembly.traces() <= max_traces);
        }
        assembly.advance(0, i64::MAX, &mut out);
        prop_assert_eq!(assembly.bytes, 0);
        for closed in &out {
            let summary = decode(closed);
            let says_so = summary.incomplete_reasons.iter().any(|reason| reason == closed.closed_by.as_str());
            prop_assert_eq!(says_so, closed.closed_by != ClosedBy::Idle);
            prop_assert_eq!(summary.complete, summary.incomplete_reasons.is_empty());
        }
        let plain: Vec<_> = out.iter().map(|closed| (closed.trace_id, decode(closed).source)).collect();
        for (offset, entry) in log.iter().enumerate() {
            for span in &entry.spans {
                let held = |&(id, source): &([u8; 16], SourceRange)| {
                    id == span.trace_id && (source.first_offset..=source.last_offset).contains(&(offset as i64))
                };
                let is_repeated = log[..offset].iter().flat_map(|entry| &entry.spans).any(|before| before == span);
                prop_assert!(plain.iter().any(held) || is_repeated);
            }
        }
    }
}

fn reported(closed: &Closed) -> Reported {
    let head = infertrace_schemas::avro::read_summary_head(&closed.summary).expect("own encoding");
    Reported {
        trace_id: head.trace_id,
        tenant: head.tenant.into(),
        first_offset: head.source.first_offset as u64,
        last_offset: head.source.last_offset as u64,
        version: head.version,
    }
}

/// Scenario: a span comes after its trace was closed, then a copy of it, then one after the trace was forgotten.
/// Guarantee: the first makes version 2 over all spans, the copy nothing, the last a summary of its own.
#[test]
fn late_spans_make_versioned_corrections() {
    let at = |timestamp_ms, spans: &[SpanInput]| Entry { timestamp_ms, spans: spans.to_vec() };
    let (root, child, late) = (span(0, 1, 0, 0, 50), span(0, 2, 1, 5, 10), span(0, 3, 1, 20, 10));
    let log = [
        at(0, &[root, child]),
        at(IDLE, &[]),
        at(IDLE + 10, &[late]),
        at(2 * IDLE + 10, &[]),
        at(2 * IDLE + 20, &[late]),
        at(2 * IDLE + 10 + LATE, &[]),
        at(2 * IDLE + 20 + LATE, &[span(0, 4, 1, 30, 1)]),
    ];
    let out = run(&log, limits());
    let seen: Vec<_> = out
        .iter()
        .map(decode)
        .map(|summary| (summary.version, summary.span_count, summary.source.first_offset, summary.complete))
        .collect();
    assert_eq!(seen, vec![(1, 2, 0, true), (2, 3, 0, true), (1, 1, 6, false)]);
}

/// Scenario: a trace that never ends, one span a record. Guarantee: it is cut by age, says so, and state stays bounded.
#[test]
fn a_never_ending_trace_is_cut() {
    let limits = Limits { max_age_ms: 1_000, ..limits() };
    let log: Vec<_> = (0..100u64)
        .map(|number| Entry {
            timestamp_ms: 50 * number as i64,
            spans: vec![span(0, number + 1, u64::from(number > 0), number as i64, 1)],
        })
        .collect();
    let out = run(&log, limits);
    assert_eq!(out.len(), 5);
    assert!(out[..4].iter().all(|closed| closed.closed_by == ClosedBy::MaxAge && closed.spans == 20));
    assert!(decode(&out[0]).incomplete_reasons.contains(&Cow::Borrowed("max_age")));
    let ranges: Vec<_> = out.iter().map(|closed| decode(closed).source).collect();
    let starts: Vec<_> = ranges.iter().map(|source| source.first_offset).collect();
    assert_eq!(starts, vec![0, 20, 40, 60, 80]);
    assert!(ranges.iter().all(|source| source.last_offset == source.first_offset + 19));
}

/// Scenario: one trace of 100,000 spans over 200 records. Guarantee: one complete summary, in well under a second of CPU.
#[test]
fn a_trace_of_100_000_spans() {
    let begin = std::time::Instant::now();
    let log: Vec<_> = (0..200u64)
        .map(|record| Entry {
            timestamp_ms: 0,
            spans: (1..=500)
                .map(|index| record * 500 + index)
                .map(|id| span(0, id, id / 2, id as i64, 400_000 - 2 * id as i64))
                .collect(),
        })
        .collect();
    let out = run(&log, limits());
    let summary = decode(&out[0]);
    assert_eq!((out.len(), summary.span_count, summary.complete), (1, 100_000, true));
    assert!(!summary.critical_path.is_empty() && summary.critical_path.len() <= 64);
    assert!(begin.elapsed().as_secs() < 5, "took {:?}", begin.elapsed());
}

/// Scenario: one trace id under two tenants and in two partitions. Guarantee: they never mix, and revoking one partition leaves
/// the other.
#[test]
fn tenants_and_partitions_never_mix() {
    let mut assembly = assembly(limits());
    let mut out = Vec::new();
    assembly.assign(0, Resume::default());
    assembly.assign(1, Resume::default());
    let other = SpanInput { tenant: assembly.names().intern("other"), ..span(0, 2, 0, 0, 1) };
    assembly.record(0, 0, 0, [span(0, 1, 0, 0, 1), other], &mut out);
    assembly.record(1, 7, 0, [span(0, 1, 0, 0, 1)], &mut out);
    assert_eq!((assembly.traces(), assembly.committable(1)), (3, Some(7)));
    assembly.revoke(1);
    assert_eq!((assembly.traces(), assembly.committable(1)), (2, None));
    assembly.advance(0, 1_000, &mut out);
    let tenants: BTreeSet<_> = out.iter().map(|closed| decode(closed).tenant.to_string()).collect();
    assert_eq!(tenants, BTreeSet::from(["".to_owned(), "other".to_owned()]));
}

/// Scenario: ever new operation names, as bad instrumentation sends them. Guarantee: names no trace uses are dropped, and those
/// in use keep their meaning.
#[test]
fn names_are_bounded() {
    let mut assembly = assembly(limits());
    let mut out = Vec::new();
    assembly.assign(0, Resume::default());
    let operation = assembly.names().intern("kept");
    let mut kept = span(0, 1, 0, 0, 1);
    kept.node.operation = operation;
    assembly.record(0, 0, 0, [kept], &mut out);
    for number in 0..200_000 {
        assembly.names().intern(&format!("operation number {number} of many"));
    }
    assert!(assembly.names().bytes() > NAMES_BYTES);
    assembly.sweep_names();
    assert!(assembly.names().bytes() < 1_000);
    assembly.advance(0, IDLE, &mut out);
    assert_eq!(decode(&out[0]).root_operation, "kept");
}
