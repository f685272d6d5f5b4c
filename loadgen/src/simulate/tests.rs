//! The simulated world as a whole: determinism, shape of traces, symptoms of faults.

use std::collections::HashMap;

use infertrace_proto::v1;
use infertrace_sdk::SpanBatchBuilder;
use prost::Message;

use super::{span::SimTrace, *};

const START: i64 = 1_760_000_000_000_000_000;

fn simulate_for(seconds: i64, seed: u64, rps: f64, faults: &str) -> (Vec<SimTrace>, World) {
    let faults = faults::parse(faults, 60, seed).unwrap();
    let setup = Setup { seed, replicas: None, faults, sample_every_s: 5, tenants: 2 };
    let mut world = World::new(setup, arrivals::synthetic(Some(rps), seed).unwrap());
    let mut outputs = Vec::new();
    world.advance(seconds * 1_000_000_000, &mut outputs);
    let telling = Telling { seed, start_unix_ns: START, timelines: 0.5, silent: false };
    let traces = outputs
        .into_iter()
        .filter_map(|output| match output {
            Output::Ended(request) => {
                let silent = world.is_on(Kind::Silence, request.deployment, request.ended_ns);
                Some(story::tell(*request, Telling { silent, ..telling }))
            }
            Output::Sample { .. } => None,
        })
        .collect();
    (traces, world)
}

fn encode(traces: &[SimTrace]) -> (Vec<u8>, Vec<u8>) {
    let (mut native, mut otlp) = (SpanBatchBuilder::new(), Vec::new());
    for trace in traces {
        trace.write_native(&mut native);
        trace.write_otlp(&mut otlp);
    }
    (native.build().encode(), otlp)
}

fn spans_of(traces: &[SimTrace]) -> Vec<v1::Span> {
    v1::SpanBatch::decode(encode(traces).0.as_slice()).unwrap().spans
}

/// Scenario: the same seed twice, and another one. Guarantee: the same bytes in both encodings; other bytes.
#[test]
fn same_seed_same_bytes() {
    let run = |seed| encode(&simulate_for(60, seed, 10.0, "demo").0);
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first.0, run(2).0);
}

/// Scenario: two minutes of traffic. Guarantee: 8 to 15 spans a served trace, one root, every child inside its
/// parent, nothing later than the simulation, model and tokens on the engine's span.
#[test]
fn traces_are_well_formed() {
    let (traces, _) = simulate_for(120, 3, 10.0, "none");
    assert!(traces.len() > 900, "{}", traces.len());
    for trace in &traces {
        let spans = spans_of(std::slice::from_ref(trace));
        assert!((8..=15).contains(&spans.len()), "{} spans", spans.len());
        let by_id: HashMap<_, _> = spans.iter().map(|span| (span.span_id.clone(), span)).collect();
        assert_eq!(by_id.len(), spans.len());
        assert_eq!(spans.iter().filter(|span| span.parent_span_id.is_empty()).count(), 1);
        for span in &spans {
            let end = span.start_time_unix_nano + span.duration_nanos;
            assert!(end <= START + 120_000_000_000);
            if let Some(parent) = by_id.get(&span.parent_span_id) {
                let parent_end = parent.start_time_unix_nano + parent.duration_nanos;
                assert!(
                    span.start_time_unix_nano >= parent.start_time_unix_nano && end <= parent_end,
                    "{} leaves {}",
                    span.operation_name,
                    parent.operation_name
                );
            } else {
                assert!(span.parent_span_id.is_empty());
            }
        }
        let engine = spans.iter().find(|span| span.operation_name == "llm_request").unwrap();
        let inference = engine.inference.as_ref().unwrap();
        assert!(!inference.model_name.is_empty() && inference.input_tokens > Some(0));
        assert!(inference.ttft_nanos.unwrap() <= engine.duration_nanos as u64);
        let gpu = engine.resources.as_ref().unwrap().gpu.as_ref().unwrap();
        assert!(gpu.device_id.starts_with("GPU-"));
    }
    let timelines = traces.iter().flat_map(|t| &t.spans).filter(|span| span.timeline).count();
    assert!(timelines > traces.len() / 5);
}

fn engine_means(traces: &[SimTrace], model: &str, from_s: i64, to_s: i64) -> HashMap<&'static str, f64> {
    let mut sums: HashMap<&'static str, (f64, f64)> = HashMap::new();
    let mut add = |key, value: f64| {
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    };
    for span in spans_of(traces) {
        let Some(inference) = span.inference.as_ref().filter(|i| i.model_name == model) else { continue };
        // By its end: what began early in a fault may have waited until after it.
        let second = (span.start_time_unix_nano + span.duration_nanos - START) / 1_000_000_000;
        if span.operation_name != "llm_request" || !(from_s..to_s).contains(&second) {
            continue;
        }
        let (pipeline, gpu) = (span.pipeline.unwrap(), span.resources.unwrap().gpu.unwrap());
        add("tpot_ms", inference.tpot_nanos.unwrap_or(0) as f64 * 1e-6);
        add("batch", f64::from(inference.batch_size.unwrap()));
        add("hit_ratio", pipeline.cache_hit_ratio.unwrap());
        add("wait_ms", pipeline.queue_wait_time_ms.unwrap());
        add("utilization", gpu.utilization_percent.unwrap());
        add("clock", f64::from(gpu.sm_clock_mhz.unwrap()));
        add("error", f64::from(u8::from(span.status.is_some_and(|status| status.code == 2))));
        add("next_version", f64::from(u8::from(inference.model_version == "1.5.0")));
    }
    sums.into_iter().map(|(key, (sum, count))| (key, sum / count)).collect()
}

/// Scenario: each fault on one model for a minute, after a clean minute. Guarantee: the spans show its symptom.
#[test]
fn faults_show_their_symptoms() {
    let model = "llama-3.1-8b-instruct";
    let compare = |fault: &str| {
        let (traces, _) = simulate_for(130, 11, 24.0, &format!("{fault}@60+60"));
        (engine_means(&traces, model, 20, 60), engine_means(&traces, model, 90, 119))
    };
    let (clean, slow) = compare("latency-spike");
    assert!(slow["tpot_ms"] > 2.0 * clean["tpot_ms"], "{clean:?} {slow:?}");
    let (clean, hot) = compare("throttling");
    assert!(hot["clock"] < 0.7 * clean["clock"] && hot["tpot_ms"] > 1.3 * clean["tpot_ms"]);
    let (clean, small) = compare("small-batches");
    assert!(
        small["batch"] < 0.6 * clean["batch"] && small["wait_ms"] > 5.0 * clean["wait_ms"],
        "{clean:?} {small:?}"
    );
    let (clean, cold) = compare("cache-regression");
    assert!(cold["hit_ratio"] < 0.05 && clean["hit_ratio"] > 0.3, "{clean:?} {cold:?}");
    let (clean, idle) = compare("gpu-underuse");
    assert!(idle["utilization"] < 60.0 && clean["utilization"] > idle["utilization"], "{clean:?} {idle:?}");
    let (clean, failing) = compare("error-burst");
    assert!(failing["error"] > 0.1 && clean["error"] < 0.05);
    let (clean, canary) = compare("bad-version");
    assert!(canary["next_version"] > 0.1 && clean["next_version"] < 0.01, "{clean:?} {canary:?}");
}

/// Scenario: silence and a flood. Guarantee: while silent no span of the model's server is told; a flood brings
/// more of the model's requests.
#[test]
fn silence_and_flood() {
    let (traces, _) = simulate_for(60, 5, 10.0, "silence@0+60");
    let silent = traces.iter().filter(|trace| trace.facts.spec.model == "llama-3.1-8b-instruct");
    assert!(silent.clone().count() > 50);
    assert!(silent.flat_map(|trace| &trace.spans).all(|span| span.operation != "llm_request"));
    let arrived = |faults| simulate_for(60, 5, 10.0, faults).1.arrived;
    assert!(arrived("queue-flood@0+60") > arrived("none") * 17 / 10);
}

/// Scenario: a reading of the fleet after a minute. Guarantee: OpenTelemetry's own messages read it; utilisation is
/// a ratio, counters are cumulative sums.
#[test]
fn samples_are_otlp_metrics() {
    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        metrics::v1::{metric::Data, number_data_point::Value},
    };
    let (_, world) = simulate_for(60, 5, 10.0, "none");
    let replicas: Vec<_> = world.replicas.iter().collect();
    let bytes = samples::request(&replicas, world.block_tokens, START, START + 60_000_000_000);
    let request = ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(request.resource_metrics.len(), replicas.len());
    let (mut gauges, mut sums, mut busy) = (0, 0, 0.0);
    for metric in request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics) {
        match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => {
                gauges += 1;
                if metric.name == "hw.gpu.utilization"
                    && let Some(Value::AsDouble(ratio)) = gauge.data_points[0].value
                {
                    assert!((0.0..=1.0).contains(&ratio));
                    busy += ratio;
                }
            }
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                sums += 1;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((gauges, sums), (11 * replicas.len(), 3 * replicas.len()));
    assert!(busy > 0.1);
}
