//! A replay beside the live run of the same records: spans, GPU and engine samples, over the embedded log.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::support::{
    embedded::{create_topics, live_state, open},
    running::Running,
};
use infertrace_analytics::config::AnalystConfig;
use infertrace_processors::{
    Config, Deps, build, insights,
    partials::{all_sources, decode},
    replay::{Filter, Kind, Request, plan, run, topic},
};
use infertrace_proto::v1::{
    AnyValue, GpuMetrics, GpuSampleBatch, InferenceContext, KeyValue, PipelineContext, ResourceMetrics,
    Sample, Span, any_value::Value, sample,
};
use infertrace_runtime::{
    clock::ManualClock,
    log::{
        Log, Millis, NewRecord, TopicPartition,
        embedded::EmbeddedLog,
        range::{RangeReader, whole_topic},
    },
    telemetry::MetricsRegistry,
};
use infertrace_schemas::{
    avro::{Baseline, Insight, Rollup, SchemaIds},
    record::encode_share,
    topics,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 2;
const T0: i64 = 1_795_000_000_000;
const SECOND: i64 = 1_000;
/// What is replayed: 40 minutes; records go on for a minute.
const LENGTH: i64 = 40 * 60 * SECOND;
const END: i64 = LENGTH + 60 * SECOND;
/// A device idles, requests wait and sequences are preempted.
const FAULT: std::ops::Range<i64> = 30 * 60 * SECOND..35 * 60 * SECOND;
/// The record of samples that nobody can read.
const POISON_AT: i64 = 10 * 60 * SECOND;

/// A request a second in each partition, and readings every five.
async fn fill(log: &EmbeddedLog) {
    create_topics(log, PARTITIONS).await;
    let mut last = None;
    for at_ms in (0..=END).step_by(1_000) {
        for partition in 0..PARTITIONS {
            let span = span(partition, at_ms).encode_to_vec();
            last = Some(append(
                log,
                topics::SPANS,
                partition,
                at_ms,
                encode_share("", &[], [span.as_slice()], &[]),
            ));
            if at_ms % 5_000 == 0 {
                let samples = if (partition, at_ms) == (0, POISON_AT) {
                    b"\x0a\xff".to_vec()
                } else {
                    samples(partition, at_ms)
                };
                last = Some(append(log, topics::GPU, partition, at_ms, samples));
            }
        }
        if at_ms % 100_000 == 0
            && let Some(last) = last.take()
        {
            last.await.expect("durable");
        }
    }
}

fn append(
    log: &EmbeddedLog,
    topic: &str,
    partition: u32,
    at_ms: i64,
    payload: Vec<u8>,
) -> infertrace_runtime::log::Delivery {
    let record = NewRecord {
        to: TopicPartition::new(topic, partition),
        key: None,
        payload: Some(payload.into()),
        headers: Vec::new(),
        timestamp: Millis(T0 + at_ms),
    };
    log.append(record).expect("taken")
}

/// Every request is alike: nothing but samples tells of the fault.
fn span(partition: u32, at_ms: i64) -> Span {
    let duration_ms = 200 + at_ms / 1_000 * 7 % 50;
    let mut id = at_ms.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes().to_vec();
    id.extend(u64::from(partition + 1).to_be_bytes());
    Span {
        span_id: id[8..].to_vec(),
        trace_id: id,
        service_name: "engine".into(),
        operation_name: "llm_request".into(),
        start_time_unix_nano: (T0 + at_ms - duration_ms) * 1_000_000,
        duration_nanos: duration_ms * 1_000_000,
        kind: 2,
        inference: Some(InferenceContext {
            model_name: "large".into(),
            input_tokens: Some(100),
            output_tokens: Some(50),
            ttft_nanos: Some(duration_ms as u64 * 700_000),
            ..InferenceContext::default()
        }),
        resources: Some(ResourceMetrics {
            gpu: Some(GpuMetrics {
                device_id: "GPU-0".into(),
                instance_type: "p5.48xlarge".into(),
                ..GpuMetrics::default()
            }),
            ..ResourceMetrics::default()
        }),
        pipeline: Some(PipelineContext { queue_wait_time_ms: Some(1.0), ..PipelineContext::default() }),
        ..Span::default()
    }
}

/// Readings of the device in one partition, of its engine in the other. Those of the engine come a little late for the
/// windows of spans: the record of a window's last readings is stamped after its end.
fn samples(partition: u32, at_ms: i64) -> Vec<u8> {
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
    };
    let is_faulty = FAULT.contains(&at_ms);
    let reading = |name: &str, value: f64| Sample {
        name: name.to_owned(),
        unit: "1".to_owned(),
        time_unix_nano: (T0 + at_ms - i64::from(partition) * 2 * SECOND) * 1_000_000,
        value: Some(sample::Value::Number(value)),
        attributes: vec![text("model_name", "large")],
        ..Sample::default()
    };
    let samples = if partition == 0 {
        let of_device = |name, value| Sample {
            device_id: "GPU-0".to_owned(),
            attributes: vec![text("host.type", "p5.48xlarge"), text("cloud.region", "us-east-1")],
            ..reading(name, value)
        };
        let busy = if is_faulty { 0.15 } else { 0.8 };
        vec![of_device("hw.gpu.utilization", busy), of_device("hw.gpu.clock.sm", 1_900.0)]
    } else {
        let preempted = (at_ms - FAULT.start).clamp(0, FAULT.end - FAULT.start) / 100;
        let counted =
            Sample { temporality: 2, ..reading("vllm:num_preemptions_total", 7.0 + preempted as f64) };
        vec![reading("vllm:num_requests_waiting", if is_faulty { 6.0 } else { 0.0 }), counted]
    };
    GpuSampleBatch { samples, ..GpuSampleBatch::default() }.encode_to_vec()
}

/// Every record of a topic: partition, time stamp and value, in order within the partition.
async fn values(log: &EmbeddedLog, topic: &str) -> Vec<(u32, i64, Vec<u8>)> {
    let ranges = whole_topic(log, topic).await.expect("there");
    let mut reader = RangeReader::open(log, &ranges, 1 << 20).await.expect("opens");
    let mut found: Vec<(u32, u64, i64, Vec<u8>)> = Vec::new();
    while let Some(records) = reader.next(1 << 20).await.expect("reads") {
        found.extend(records.into_iter().map(|record| {
            let payload = record.payload.unwrap_or_default().to_vec();
            (record.from.partition, record.offset.0, record.timestamp.0, payload)
        }));
    }
    found.sort();
    found.into_iter().map(|(partition, _, at_ms, value)| (partition, at_ms, value)).collect()
}

fn deps<'m>(log: &Arc<EmbeddedLog>, metrics: &'m mut MetricsRegistry) -> Deps<'m> {
    let clock = Arc::new(ManualClock::new((T0 + END) * 1_000_000));
    Deps { log: log.clone(), clock, metrics }
}

/// Runs both stages until the second has analysed what the first made of all records.
async fn run_live(log: &Arc<EmbeddedLog>) {
    let mut metrics = [MetricsRegistry::default(), MetricsRegistry::default()];
    let [of_first, of_second] = &mut metrics;
    let config = Config { instance_id: "test".to_owned(), close_by_wall_clock: false, ..Config::default() };
    let first = build(config, deps(log, of_first)).await.expect("a valid configuration");
    // A backlog is read at any pace: no source is idle because another is ahead.
    let config = insights::Config {
        instance_id: "test".to_owned(),
        idle_after_ms: i64::MAX / 2,
        most_behind_ms: i64::MAX / 2,
        ..insights::Config::default()
    };
    let second = insights::build(config, deps(log, of_second)).await.expect("a valid configuration");
    let first = Running::spawn(|shutdown| first.run(shutdown));
    let second = Running::spawn(|shutdown| second.run(shutdown));
    let all_told = async {
        let sources: BTreeSet<u32> = all_sources(PARTITIONS, PARTITIONS).into_iter().collect();
        loop {
            let partials = values(log, topics::PARTIALS).await;
            let told: BTreeSet<u32> = partials
                .iter()
                .map(|(_, _, value)| decode(value).expect("own batch"))
                .filter(|batch| batch.watermark_ms.is_some_and(|mark| mark >= T0 + END))
                .map(|batch| batch.source)
                .collect();
            if told == sources {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_told).await.expect("the first stage reads everything");
    first.stop().await;
    let all_read = async {
        for partition in 0..PARTITIONS {
            let at = TopicPartition::new(topics::PARTIALS, partition);
            let end = log.watermarks(&at).await.expect("there").high;
            while log.committed("infertrace-insights", &at).await.expect("asked") < Some(end) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_read)
        .await
        .expect("the second stage reads everything");
    second.stop().await;
}

fn request(id: &str) -> Request {
    Request {
        id: id.to_owned(),
        from_ms: T0,
        // After the last record whose window is closed.
        to_ms: T0 + LENGTH + 500,
        warm_up_ms: 0,
        filter: Filter::default(),
        processor: Config::default(),
        prices: None,
        analyst: AnalystConfig::default(),
        rate: None,
        dry_run: false,
        threads: 2,
        allow_gaps: false,
        state: None,
        checkpoint: Duration::ZERO,
        replication: 1,
    }
}

fn show(kind: Kind, told: Option<&(u32, i64, Vec<u8>)>) -> String {
    let Some((partition, at_ms, value)) = told else { return "nothing".to_owned() };
    let text = match kind {
        Kind::Rollups => format!("{:?}", SchemaIds::embedded::<Rollup>().decode::<Rollup>(value)),
        Kind::Baselines => format!("{:?}", SchemaIds::embedded::<Baseline>().decode::<Baseline>(value)),
        Kind::Insights => format!("{:?}", SchemaIds::embedded::<Insight>().decode::<Insight>(value)),
    };
    format!("{partition} at {at_ms}: {text}")
}

/// Scenario: both services run over spans and samples of a device that idles while its engine's requests wait; then the range
/// is replayed twice, with different numbers of threads. A record of samples is mangled, and
/// two of the insights that it is compared with: no Avro, and of a schema id that nobody knows.
/// Guarantee: rollups, baselines and insights of the closed windows are those of the live run, byte for byte, each time, with
/// insights that follow from samples alone and the idle cost of the device; live topics and groups stay as they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_with_samples_says_what_was_said_live() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    fill(&log).await;
    run_live(&log).await;
    let mut expected = Vec::new();
    for topic in [topics::ROLLUPS, topics::BASELINES, topics::INSIGHTS] {
        let mut told = values(&log, topic).await;
        // Outputs are stamped with the end of the window that made them.
        told.retain(|(_, at_ms, _)| (T0 + 1..=T0 + LENGTH).contains(at_ms));
        expected.push(told);
    }
    for mangled in [b"mangled".to_vec(), vec![0, 0x80, 0, 0, 1, 2]] {
        append(&log, topics::INSIGHTS, 0, LENGTH / 2, mangled).await.expect("durable");
    }
    let before = live_state(&log, PARTITIONS).await;
    let ids = SchemaIds::embedded::<Insight>();
    let insights: Vec<Insight> =
        expected[2].iter().map(|(.., value)| ids.decode(value).expect("an insight")).collect();
    let kinds: BTreeSet<&str> = insights.iter().map(|insight| insight.kind.as_str()).collect();
    assert!(kinds.contains("gpu_idle") || kinds.contains("memory"), "{kinds:?}");
    let ids = SchemaIds::embedded::<Rollup>();
    let idle_cost = |value: &[u8]| {
        let rollup: Rollup = ids.decode(value).expect("a rollup");
        rollup.counters.get("idle_nano_usd").copied().unwrap_or(0)
    };
    assert!(expected[0].iter().any(|(.., value)| idle_cost(value) > 0));

    let shared: Arc<dyn Log> = log.clone();
    for request in [request("one"), Request { threads: 3, ..request("three") }] {
        let found = plan(shared.as_ref(), &request).await.expect("planned");
        let stop = CancellationToken::new();
        let summary = run(shared.clone(), &request, &found, &stop, |_| {}).await.expect("replays");
        assert_eq!(summary.read.poison, 1, "{}", request.id);
        assert!(summary.read.readings > 1_500, "{:?}", summary.read);
        let diff = &summary.diff;
        assert_eq!((diff.different, diff.only_live, diff.only_replay), (0, 0, 0), "{diff:#?}");
        assert!(diff.same > 0);
        for (kind, expected) in Kind::ALL.into_iter().zip(&expected) {
            let told = values(&log, &topic(&request.id, kind)).await;
            let differs = told.iter().zip(expected).position(|(a, b)| a != b);
            let at = differs.unwrap_or_else(|| told.len().min(expected.len()));
            let (found, live) = (show(kind, told.get(at)), show(kind, expected.get(at)));
            assert!(told == *expected, "{kind:?} {at} of {}: {found}\nis not {live}", request.id);
        }
    }
    assert_eq!(live_state(&log, PARTITIONS).await, before);
}
