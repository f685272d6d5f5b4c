//! The roller against a naive count; lateness; limits; what a span counts as.

use std::collections::BTreeMap;

use infertrace_analytics::rollup::{Cell, Exemplars, Key, OVERFLOW, Shape, WINDOW_MS, stage, window_of};
use infertrace_proto::v1::{AnyValue, InferenceContext, KeyValue, PipelineContext, Span, any_value::Value};
use infertrace_schemas::{reader::Position, record::encode_share};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::rows;

const T0: i64 = 1_700_000_000_000;
const LATENESS: i64 = 1_500;

fn limits() -> Limits {
    let keys = KeyLimits { max_keys: 1_000, max_keys_per_tenant: 1_000 };
    Limits { lateness_ms: LATENESS, keys, max_bytes: 1 << 30 }
}

/// A span as the tests describe it.
#[derive(Clone, Debug)]
struct Spec {
    role: usize,
    model: u8,
    end_ms: i64,
    duration_ms: i64,
    is_error: bool,
    trace: u8,
}

#[derive(Clone, Debug)]
struct RecordSpec {
    timestamp_ms: i64,
    tenant: &'static str,
    spans: Vec<Spec>,
}

fn span(spec: &Spec) -> Span {
    let inference = InferenceContext {
        model_name: format!("m{}", spec.model),
        model_version: "1".to_owned(),
        framework: if spec.role == 0 { "vllm".to_owned() } else { String::new() },
        input_tokens: Some(100),
        output_tokens: Some(10),
        ttft_nanos: Some(2_000_000),
        ..InferenceContext::default()
    };
    Span {
        trace_id: vec![spec.trace + 1; 16],
        span_id: vec![7; 8],
        service_name: ["vllm-server", "app", "gateway"][spec.role].to_owned(),
        operation_name: "work".to_owned(),
        start_time_unix_nano: (spec.end_ms - spec.duration_ms) * 1_000_000,
        duration_nanos: spec.duration_ms * 1_000_000,
        kind: [2, 3, 1][spec.role],
        status: spec.is_error.then(|| infertrace_proto::v1::Status { code: 2, ..Default::default() }),
        inference: (spec.role < 2).then_some(inference),
        pipeline: (spec.role == 0)
            .then(|| PipelineContext { queue_wait_time_ms: Some(0.5), ..PipelineContext::default() }),
        ..Span::default()
    }
}

fn payload(record: &RecordSpec) -> Vec<u8> {
    let spans: Vec<Vec<u8>> = record.spans.iter().map(|spec| span(spec).encode_to_vec()).collect();
    encode_share(record.tenant, b"", spans.iter().map(Vec::as_slice), &[])
}

type Merged = BTreeMap<(Millis, Millis, Key), (Cell, Exemplars)>;

fn merge(into: &mut Merged, partials: Vec<Partial>) {
    for partial in partials {
        let key = (partial.window_ms, partial.seen_window_ms, partial.key);
        let (cell, exemplars) = into.entry(key).or_default();
        cell.merge(&partial.cell);
        exemplars.merge(&partial.exemplars);
    }
}

/// What the module's words say, as slowly as they say it.
fn oracle(records: &[RecordSpec]) -> Merged {
    let mut merged = Merged::new();
    let mut watermark = i64::MIN;
    for record in records {
        watermark = watermark.max(record.timestamp_ms);
        for spec in &record.spans {
            let window = window_of(spec.end_ms);
            let is_closed = watermark >= window + WINDOW_MS + LATENESS;
            let mut open = window;
            while is_closed && watermark >= open + WINDOW_MS + LATENESS {
                open += WINDOW_MS;
            }
            let is_model = spec.role < 2;
            let key = Key {
                tenant: record.tenant.into(),
                model: if is_model { format!("m{}", spec.model).into() } else { "".into() },
                version: if is_model { "1".into() } else { "".into() },
                service: ["vllm-server", "app", "gateway"][spec.role].into(),
                stage: ["", stage::CALL, stage::NONE][spec.role].into(),
                device: "".into(),
            };
            let (cell, exemplars) = merged.entry((window, open, key)).or_default();
            let micros = spec.duration_ms as u64 * 1_000;
            cell.count(Counter::Spans, 1);
            cell.count(Counter::SpanErrors, u64::from(spec.is_error));
            cell.measure(Measure::DurationMicros, micros);
            if !is_model {
                continue;
            }
            cell.count(Counter::Requests, 1);
            cell.count(Counter::Errors, u64::from(spec.is_error));
            cell.count(Counter::InputTokens, 100);
            cell.count(Counter::OutputTokens, 10);
            cell.measure(Measure::InputTokens, 100);
            cell.measure(Measure::OutputTokens, 10);
            cell.measure(Measure::TtftMicros, 2_000);
            if let Some(decode) = micros.checked_sub(2_000) {
                cell.measure(Measure::TpotMicros, decode * 1_000 / 9 / 1_000);
                if spec.role == 0 {
                    cell.measure(Measure::DecodeMicros, decode);
                }
            }
            if spec.role == 0 {
                cell.measure(Measure::QueueMicros, 500);
                cell.measure(Measure::PrefillMicros, 1_500);
            }
            exemplars.add(Exemplar {
                duration_micros: micros,
                is_error: spec.is_error,
                trace_id: [spec.trace + 1; 16],
            });
        }
    }
    merged
}

/// Counts `records` from `from` on in chunks of `chunk` records.
fn count(roller: &mut Roller, records: &[RecordSpec], range: std::ops::Range<usize>, chunk: usize) {
    let mut reader = rows::reader(0);
    let all: Vec<usize> = range.collect();
    for part in all.chunks(chunk.max(1)) {
        let mut steps = Vec::new();
        for &offset in part {
            let position = Position { partition: 0, offset: offset as i64 };
            let pushed = reader.push(&payload(&records[offset]), position).expect("own record");
            steps.push((offset, pushed.spans));
        }
        let batch = reader.finish();
        let mut columns = Columns::new(&batch).expect("the span schema");
        let mut row = 0;
        for (offset, spans) in steps {
            let counts = roller.begin_record(0, offset as u64, records[offset].timestamp_ms);
            for _ in 0..spans {
                if counts {
                    roller.span(0, &mut columns, row, None);
                }
                row += 1;
            }
            roller.end_record(0, offset as u64);
        }
    }
}

fn whole(records: &[RecordSpec], limits: Limits) -> Merged {
    let mut roller = Roller::new(limits);
    roller.assign(0, 0, None);
    count(&mut roller, records, 0..records.len(), 7);
    let mut partials = Vec::new();
    roller.flush(0, &mut partials).expect("assigned");
    assert_eq!((roller.cells(), roller.spans.bytes() - roller.spans.names().bytes()), (0, 0));
    let mut merged = Merged::new();
    merge(&mut merged, partials);
    merged
}

fn records() -> impl Strategy<Value = Vec<RecordSpec>> {
    let spec = (0usize..3, 0u8..3, -40_000i64..2_000, 0i64..30, prop::bool::weighted(0.2), 0u8..200);
    let record = (0i64..9_000, prop::bool::ANY, prop::collection::vec(spec, 0..5));
    prop::collection::vec(record, 1..25).prop_map(|records| {
        let mut now = T0;
        records
            .into_iter()
            .map(|(step, is_other, specs)| {
                now += step;
                let spans = specs
                    .into_iter()
                    .map(|(role, model, ago, duration_ms, is_error, trace)| Spec {
                        role,
                        model,
                        end_ms: now + ago,
                        duration_ms,
                        is_error,
                        trace,
                    })
                    .collect();
                RecordSpec { timestamp_ms: now, tenant: if is_other { "b" } else { "a" }, spans }
            })
            .collect()
    })
}

proptest! {
    /// Scenario: records with spans on time, late and ahead; cut into chunks, flushed anywhere, and the process killed
    /// anywhere, which loses what was not flushed and reads again from anywhere before. Guarantee: the merged cells, their
    /// windows, the windows in which they are seen and their exemplars are those of a naive count in one pass.
    #[test]
    fn how_it_is_cut_changes_nothing(
        records in records(),
        chunk in 1usize..6,
        flushes in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        kill in any::<prop::sample::Index>(),
        again in 0usize..10,
    ) {
        let expected = oracle(&records);
        prop_assert_eq!(&whole(&records, limits()), &expected);

        let kill = kill.index(records.len() + 1);
        let mut cuts: Vec<usize> = flushes.iter().map(|flush| flush.index(records.len() + 1)).collect();
        cuts.sort_unstable();
        let mut merged = Merged::new();
        let mut roller = Roller::new(limits());
        roller.assign(0, 0, None);
        let (mut at, mut saved) = (0, (0u64, None));
        for &cut in cuts.iter().filter(|cut| **cut <= kill) {
            count(&mut roller, &records, at..cut, chunk);
            at = cut;
            let mut partials = Vec::new();
            let mark = roller.flush(0, &mut partials).expect("assigned");
            prop_assert_eq!(mark.rolled_to, cut as u64);
            saved = (mark.rolled_to, mark.watermark_ms);
            merge(&mut merged, partials);
        }
        count(&mut roller, &records, at..kill, chunk);

        let mut roller = Roller::new(limits());
        roller.assign(0, saved.0, saved.1);
        let mut at = (saved.0 as usize).saturating_sub(again);
        for cut in cuts.into_iter().filter(|cut| *cut > kill).chain([records.len()]) {
            count(&mut roller, &records, at.min(cut)..cut, chunk);
            at = cut;
            let mut partials = Vec::new();
            roller.flush(0, &mut partials);
            merge(&mut merged, partials);
        }
        prop_assert_eq!(&merged, &expected);
    }

    /// Scenario: far more keys than are counted apart, of one tenant and of all. Guarantee: every span and token is counted once
    /// all the same, what was folded says how much, under model `_other` and in its shape; the memory of cells is bounded.
    #[test]
    fn too_many_keys_are_folded_and_say_so(records in records(), max in 1usize..6, of_tenant in 1usize..4) {
        let keys = KeyLimits { max_keys: max, max_keys_per_tenant: of_tenant };
        let folded = whole(&records, Limits { keys, ..limits() });
        let expected = oracle(&records);
        for counter in [Counter::Spans, Counter::Requests, Counter::InputTokens, Counter::Errors] {
            let sum = |merged: &Merged| merged.values().map(|(cell, _)| cell.get(counter)).sum::<u64>();
            prop_assert_eq!(sum(&folded), sum(&expected));
        }
        let by_shape = |merged: &Merged| {
            let mut spans = BTreeMap::<Shape, u64>::new();
            for ((_, _, key), (cell, _)) in merged {
                *spans.entry(key.shape()).or_default() += cell.get(Counter::Spans);
            }
            spans
        };
        prop_assert_eq!(by_shape(&folded), by_shape(&expected));
        for ((_, _, key), (cell, _)) in &folded {
            let is_overflow = &*key.model == OVERFLOW;
            prop_assert_eq!(cell.get(Counter::Folded), if is_overflow { cell.get(Counter::Spans) } else { 0 });
        }
    }
}

fn one(spec: Spec, change: impl FnOnce(&mut Span)) -> Vec<(Key, Cell)> {
    let mut span = span(&spec);
    change(&mut span);
    let payload = encode_share("", b"", [span.encode_to_vec().as_slice()], &[]);
    let mut reader = rows::reader(0);
    reader.push(&payload, Position::default()).expect("own record");
    let batch = reader.finish();
    let mut columns = Columns::new(&batch).expect("the span schema");
    let mut roller = Roller::new(limits());
    roller.assign(0, 0, None);
    assert!(roller.begin_record(0, 0, T0));
    roller.span(0, &mut columns, 0, None);
    let mut partials = Vec::new();
    roller.flush(0, &mut partials);
    partials.into_iter().map(|partial| (partial.key, partial.cell)).collect()
}

const PLAIN: Spec = Spec { role: 0, model: 1, end_ms: T0, duration_ms: 20, is_error: false, trace: 1 };

fn shape_of(spec: Spec, change: impl FnOnce(&mut Span)) -> Shape {
    one(spec, change)[0].0.shape()
}

/// Scenario: spans of engines, clients, proxies, stages and others. Guarantee: each is counted as what it is.
#[test]
fn a_span_counts_as_what_it_is() {
    let engine = || PLAIN;
    let call = || Spec { role: 1, ..PLAIN };
    assert_eq!(shape_of(engine(), |_| {}), Shape::Request);
    // vLLM names no model; SGLang's and Triton's frameworks come from their scopes or attributes.
    assert_eq!(
        shape_of(engine(), |span| span.inference.as_mut().expect("set").model_name.clear()),
        Shape::Request
    );
    assert_eq!(shape_of(engine(), |span| span.kind = 3), Shape::Call);
    assert_eq!(shape_of(call(), |_| {}), Shape::Call);
    assert_eq!(shape_of(call(), |span| span.kind = 1), Shape::Call);
    let framework = |name: &str| {
        let name = name.to_owned();
        move |span: &mut Span| {
            span.kind = 2;
            span.inference.as_mut().expect("set").framework = name;
        }
    };
    assert_eq!(shape_of(call(), framework("sglang")), Shape::Request);
    assert_eq!(shape_of(call(), framework("litellm")), Shape::Call);
    let at_stage = |stage: &str| {
        let stage = stage.to_owned();
        move |span: &mut Span| span.pipeline = Some(PipelineContext { stage, ..PipelineContext::default() })
    };
    assert_eq!(shape_of(engine(), at_stage("inference")), Shape::Request);
    assert_eq!(shape_of(engine(), at_stage("prefill")), Shape::Spans);
    assert_eq!(shape_of(engine(), at_stage("client")), Shape::Spans);
    assert_eq!(shape_of(Spec { role: 2, ..PLAIN }, |_| {}), Shape::Spans);
    // A model that generates nothing: no tokens, but a batch.
    let classifier = |span: &mut Span| {
        let model_name = "resnet".to_owned();
        let inference = InferenceContext { model_name, batch_size: Some(8), ..InferenceContext::default() };
        (span.inference, span.kind) = (Some(inference), 1);
    };
    assert_eq!(shape_of(Spec { role: 2, ..PLAIN }, classifier), Shape::Request);
}

/// Scenario: an engine's span that says everything there is. Guarantee: each number is in its measure, in its unit.
#[test]
fn an_engine_says_everything() {
    let everything = |span: &mut Span| {
        let inference = span.inference.as_mut().expect("set");
        (inference.batch_size, inference.max_batch_size) = (Some(8), Some(32));
        (inference.cached_tokens, inference.itl_p99_nanos) = (Some(40), Some(9_000_000));
        span.pipeline = Some(PipelineContext {
            stage: "inference".to_owned(),
            queue_depth: Some(3),
            queue_wait_time_ms: Some(1.25),
            kv_cache_usage_ratio: Some(0.5),
            preemptions: Some(2),
            ..PipelineContext::default()
        });
        span.resources = Some(infertrace_proto::v1::ResourceMetrics {
            gpu: Some(infertrace_proto::v1::GpuMetrics {
                device_id: "GPU-1".to_owned(),
                utilization_percent: Some(87.5),
                memory_used_bytes: Some(60),
                memory_total_bytes: Some(80),
                power_watts: Some(300.5),
                temperature_celsius: Some(61.0),
                sm_clock_mhz: Some(1_410),
                throttle_reasons: Some(0x41),
                ..Default::default()
            }),
            ..Default::default()
        });
    };
    let cells = one(PLAIN, everything);
    let (key, cell) = &cells[0];
    assert_eq!((&*key.device, &*key.version, key.shape()), ("GPU-1", "1", Shape::Request));
    let expected = [
        (Measure::QueueMicros, 1_250),
        (Measure::PrefillMicros, 750),
        (Measure::DecodeMicros, 18_000),
        (Measure::ItlP99Micros, 9_000),
        (Measure::BatchMilli, 8_000),
        (Measure::BatchFillPermille, 250),
        (Measure::QueueDepth, 3),
        (Measure::CacheHitPermille, 400),
        (Measure::KvUsagePermille, 500),
        (Measure::GpuUtilizationPermille, 875),
        (Measure::GpuMemoryPermille, 750),
        (Measure::GpuPowerMilliwatts, 300_500),
        (Measure::GpuTemperatureMilliCelsius, 61_000),
        (Measure::GpuSmClockMhz, 1_410),
        (Measure::GpuThrottledPermille, 1_000),
    ];
    for (measure, value) in expected {
        let sketch = cell.sketch(measure).unwrap_or_else(|| panic!("{}", measure.name()));
        assert_eq!((sketch.count(), sketch.sum()), (1, value), "{}", measure.name());
    }
    assert_eq!((cell.get(Counter::Preemptions), cell.get(Counter::CachedTokens)), (2, 40));
}

/// Scenario: a root that answers 429, one that answers 200, a child that answers 429. Guarantee: only the first was refused.
#[test]
fn refusals_are_counted_at_the_root() {
    let refused = |code: i64, parent: Vec<u8>| {
        let spec = Spec { role: 2, ..PLAIN };
        let cells = one(spec, |span| {
            span.kind = 2;
            span.parent_span_id = parent;
            span.attributes.push(KeyValue {
                key: "http.response.status_code".to_owned(),
                value: Some(AnyValue { value: Some(Value::IntValue(code)) }),
            });
        });
        cells[0].1.get(Counter::Refused)
    };
    assert_eq!((refused(429, vec![]), refused(200, vec![]), refused(429, vec![9; 8])), (1, 0, 0));
}

/// Scenario: a closed trace with two stages, one unnamed. Guarantee: it is counted in the window of the watermark, as a whole and by
/// stage, under its model; flushed with its summary, apart from spans.
#[test]
fn closed_traces_are_counted_by_stage() {
    let mut names = Names::new();
    let model = names.intern("m");
    let stage = |stage, self_ns| StageTime { stage, spans: 1, self_ns, critical_ns: self_ns / 2 };
    let facts = TraceFacts {
        model,
        duration_ns: 30_000_000,
        ttft_ns: Some(5_000_000),
        ttft_queue_ns: Some(2_000_000),
        stages: vec![stage(NameId::QUEUE, 2_000_000), stage(NameId::EMPTY, 28_000_000)],
        is_error: true,
        unreported_calls: 1,
        ..TraceFacts::default()
    };
    let mut roller = Roller::new(limits());
    roller.assign(0, 0, None);
    roller.begin_record(0, 0, T0 + 25_000);
    roller.trace(0, &facts, &names);
    let mut partials = Vec::new();
    roller.flush_traces(0, &mut partials);
    assert!(partials.iter().all(|partial| {
        (partial.window_ms, partial.seen_window_ms) == (T0 + 20_000, T0 + 20_000)
            && &*partial.key.model == "m"
    }));
    let of = |name: &str| {
        let found = partials.iter().find(|partial| &*partial.key.stage == name);
        found.map(|partial| (partial.key.shape(), &partial.cell)).expect(name)
    };
    let (shape, cell) = of(stage::TRACE);
    assert_eq!(shape, Shape::Trace);
    let counts = [Counter::Traces, Counter::TraceErrors, Counter::IncompleteTraces, Counter::UnreportedCalls];
    assert_eq!(counts.map(|counter| cell.get(counter)), [1, 1, 1, 1]);
    assert_eq!(cell.sketch(Measure::PrefillMicros).map(|sketch| sketch.sum()), Some(3_000));
    let (shape, cell) = of("queue");
    assert_eq!(
        (shape, cell.sketch(Measure::SelfMicros).map(|sketch| sketch.sum())),
        (Shape::Stage, Some(2_000))
    );
    let (_, cell) = of(stage::NONE);
    assert_eq!(cell.sketch(Measure::CriticalMicros).map(|sketch| sketch.sum()), Some(14_000));
    assert_eq!(roller.rolled_to(0), Some(0));
}

/// Scenario: watermarks that move on within and past a window; short memory. Guarantee: a flush is wanted when a window was closed or
/// memory is short, and the mark says whether stage 2 has to know.
#[test]
fn a_flush_is_wanted_when_a_window_is_over() {
    let mut roller = Roller::new(limits());
    roller.assign(0, 5, Some(T0));
    assert!(!roller.wants_flush(0));
    roller.advance(0, T0 + WINDOW_MS);
    roller.advance(0, T0);
    assert!(roller.wants_flush(0), "the window before is closed");
    let mark = roller.flush(0, &mut Vec::new()).expect("assigned");
    assert_eq!(mark, Mark { rolled_to: 5, watermark_ms: Some(T0 + WINDOW_MS), is_new_window: true });
    roller.advance(0, T0 + WINDOW_MS + LATENESS - 1);
    assert!(!roller.wants_flush(0));
    assert!(!roller.flush(0, &mut Vec::new()).expect("assigned").is_new_window);
    roller.advance(0, T0 + WINDOW_MS + LATENESS);
    assert!(roller.wants_flush(0));

    let mut roller = Roller::new(Limits { max_bytes: 100, ..limits() });
    roller.assign(0, 0, Some(T0));
    let records = [RecordSpec { timestamp_ms: T0, tenant: "", spans: vec![PLAIN] }];
    count(&mut roller, &records, 0..1, 1);
    assert!(roller.wants_flush(0));
    roller.flush(0, &mut Vec::new());
    assert!(!roller.wants_flush(0));
}
