//! Replays of a past range over the embedded log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::support::embedded::{create_topics, live_state, open};
use infertrace_analytics::config::AnalystConfig;
use infertrace_processors::{
    Config,
    replay::{Filter, Kind, ReplayError, Request, Summary, plan, run, topic},
};
use infertrace_proto::v1::{
    AnyValue, GpuMetrics, GpuSampleBatch, InferenceContext, KeyValue, PipelineContext, ResourceMetrics,
    Sample, Span, Status, StatusCode, any_value, sample,
};
use infertrace_runtime::log::{
    Log, Millis, NewRecord, NextOffset, TopicPartition, TopicSpec,
    embedded::EmbeddedLog,
    range::{RangeReader, whole_topic},
};
use infertrace_schemas::{
    avro::{Baseline, Insight, Rollup, SchemaIds},
    record::encode_share,
    topics,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 3;
const T0: i64 = 1_795_000_000_000;
const SECOND: i64 = 1_000;
/// An hour of calm, ten minutes in which one model is slow and fails, ten minutes of calm.
const LENGTH: i64 = 80 * 60 * SECOND;
const SLOW: std::ops::Range<i64> = 60 * 60 * SECOND..70 * 60 * SECOND;

/// One request of one span every half second and partition, with a length that depends on nothing but its number, and an
/// engine's count every ten seconds.
async fn fill(log: &EmbeddedLog) {
    create_topics(log, PARTITIONS).await;
    let mut last = None;
    for number in 0..(LENGTH / 500) {
        let at_ms = T0 + number * 500;
        for partition in 0..PARTITIONS {
            let spans: Vec<Vec<u8>> =
                (0..2).map(|which| span(number as u64, partition, which, at_ms).encode_to_vec()).collect();
            let payload = encode_share("", &[], spans.iter().map(Vec::as_slice), &[]);
            let record = NewRecord {
                to: TopicPartition::new(topics::SPANS, partition),
                key: None,
                payload: Some(payload.into()),
                headers: Vec::new(),
                timestamp: Millis(at_ms),
            };
            last = Some(log.append(record).expect("taken"));
        }
        if number % 20 == 0 {
            let record = NewRecord {
                to: TopicPartition::new(topics::GPU, 0),
                key: None,
                payload: Some(count(number, at_ms).into()),
                headers: Vec::new(),
                timestamp: Millis(at_ms),
            };
            last = Some(log.append(record).expect("taken"));
        }
        if number % 500 == 0
            && let Some(last) = last.take()
        {
            last.await.expect("durable");
        }
    }
    last.expect("some").await.expect("durable");
}

/// Preemptions since the start of an engine.
fn count(number: i64, at_ms: i64) -> Vec<u8> {
    let text = AnyValue { value: Some(any_value::Value::StringValue("large".to_owned())) };
    let counted = Sample {
        name: "vllm:num_preemptions_total".to_owned(),
        unit: "1".to_owned(),
        time_unix_nano: at_ms * 1_000_000,
        temporality: 2,
        attributes: vec![KeyValue { key: "model_name".to_owned(), value: Some(text) }],
        value: Some(sample::Value::Number((number * number % 7 + number / 20) as f64)),
        ..Sample::default()
    };
    GpuSampleBatch { samples: vec![counted], ..GpuSampleBatch::default() }.encode_to_vec()
}

fn span(number: u64, partition: u32, which: u64, at_ms: i64) -> Span {
    let model = ["small", "large"][which as usize];
    let is_slow = model == "large" && SLOW.contains(&(at_ms - T0));
    let mixed =
        (number * 7 + u64::from(partition) * 13 + which * 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let usual_ms = 200 + (mixed % 100) as i64;
    let duration_ms = if is_slow { usual_ms * 8 } else { usual_ms };
    let mut id = number.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes().to_vec();
    id.extend((u64::from(partition) << 8 | which | 1 << 20).to_be_bytes());
    Span {
        span_id: id[8..].to_vec().into(),
        trace_id: id.into(),
        service_name: "engine".into(),
        operation_name: "llm_request".into(),
        start_time_unix_nano: (at_ms - duration_ms) * 1_000_000,
        duration_nanos: duration_ms * 1_000_000,
        kind: 2,
        status: Some(Status {
            code: if is_slow && number % 4 == 0 { StatusCode::Error as i32 } else { 0 },
            ..Status::default()
        }),
        inference: Some(InferenceContext {
            model_name: model.into(),
            input_tokens: Some(100),
            output_tokens: Some(50),
            ttft_nanos: Some(duration_ms as u64 * 700_000),
            batch_size: Some(4),
            ..InferenceContext::default()
        }),
        resources: Some(ResourceMetrics {
            gpu: Some(GpuMetrics {
                instance_type: ["g6.xlarge", "p5.48xlarge"][which as usize].into(),
                ..GpuMetrics::default()
            }),
            ..ResourceMetrics::default()
        }),
        pipeline: Some(PipelineContext {
            queue_wait_time_ms: Some(if is_slow { (duration_ms / 2) as f64 } else { 1.0 }),
            ..PipelineContext::default()
        }),
        ..Span::default()
    }
}

fn request(id: &str) -> Request {
    Request {
        id: id.to_owned(),
        from_ms: T0,
        to_ms: T0 + LENGTH,
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

async fn replay(log: &Arc<EmbeddedLog>, request: &Request) -> Result<Summary, ReplayError> {
    let log: Arc<dyn Log> = log.clone();
    let plan = plan(log.as_ref(), request).await?;
    run(log, request, &plan, &CancellationToken::new(), |_| {}).await
}

/// Every value of a topic with its partition, in order.
async fn values(log: &EmbeddedLog, topic: &str) -> Vec<(u32, Vec<u8>)> {
    let ranges = whole_topic(log, topic).await.expect("there");
    let mut reader = RangeReader::open(log, &ranges, 1 << 20).await.expect("opens");
    let mut found: Vec<(u32, u64, Vec<u8>)> = Vec::new();
    while let Some(records) = reader.next(1 << 20).await.expect("reads") {
        found.extend(records.into_iter().map(|record| {
            (record.from.partition, record.offset.0, record.payload.unwrap_or_default().to_vec())
        }));
    }
    found.sort();
    found.into_iter().map(|(partition, _, value)| (partition, value)).collect()
}

async fn outputs(log: &EmbeddedLog, id: &str) -> Vec<Vec<(u32, Vec<u8>)>> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        all.push(values(log, &topic(id, kind)).await);
    }
    all
}

/// Compares kind by kind and names the first value that differs.
fn assert_same(found: &[Vec<(u32, Vec<u8>)>], expected: &[Vec<(u32, Vec<u8>)>]) {
    for (kind, (found, expected)) in found.iter().zip(expected).enumerate() {
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        let show = |value: Option<&(u32, Vec<u8>)>| {
            let Some((partition, value)) = value else { return "nothing".to_owned() };
            let text = match kind {
                0 => format!("{:?}", SchemaIds::embedded::<Rollup>().decode::<Rollup>(value)),
                1 => format!("{:?}", SchemaIds::embedded::<Baseline>().decode::<Baseline>(value)),
                _ => format!("{:?}", SchemaIds::embedded::<Insight>().decode::<Insight>(value)),
            };
            format!("{partition}: {text}")
        };
        if let Some(at) = differs {
            let (found, expected) = (show(found.get(at)), show(expected.get(at)));
            panic!("{:?} number {at}: {found}\nis not {expected}", Kind::ALL[kind]);
        }
        assert_eq!(found.len(), expected.len(), "{:?}", Kind::ALL[kind]);
    }
}

/// Scenario: one range replayed with one thread and with three; a dry run; one model only; its last part after a warm-up. A
/// live group stands somewhere.
/// Guarantee: outputs are byte for byte the same each time, whole and once; they hold insights about the model that
/// was slow; a dry run writes nothing; a filter leaves the other model out; groups and live topics stay as they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_the_same_however_it_is_run_and_touches_nothing_live() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    fill(&log).await;
    let at = TopicPartition::new(topics::SPANS, 1);
    let mut transactions = log.transactions("live").await.expect("begins");
    let mut member = log
        .consumer(infertrace_runtime::log::ConsumerOptions {
            group: Some("infertrace-processor".into()),
            topics: vec![topics::SPANS.into()],
            assign: Vec::new(),
            max_buffered_bytes: 1 << 20,
            read_committed: true,
        })
        .await
        .expect("joins");
    member.poll(1, Duration::from_secs(5)).await.expect("assigned");
    let group = member.group_metadata();
    transactions.commit(Vec::new(), group.as_ref(), &[(at, NextOffset(7))]).await.expect("committed");
    drop(member);
    let before = live_state(&log, PARTITIONS).await;
    assert!(before.iter().any(|(_, _, position)| *position == Some(NextOffset(7))));

    let whole = replay(&log, &Request { threads: 1, ..request("one") }).await.expect("replays");
    assert_eq!(whole.read.spans, (LENGTH / 500) as u64 * u64::from(PARTITIONS) * 2);
    assert_eq!((whole.read.poison, whole.read.retries), (0, 0));
    assert_eq!(whole.read.readings, (LENGTH / 10_000) as u64);
    let expected = outputs(&log, "one").await;
    assert!(expected[0].len() > 1_000, "{} rollups", expected[0].len());
    let ids = SchemaIds::embedded::<Insight>();
    let insights: Vec<Insight> =
        expected[2].iter().map(|(_, value)| ids.decode(value).expect("an insight")).collect();
    assert!(!insights.is_empty(), "nothing was said of the slow model");
    assert!(insights.iter().all(|insight| insight.model == "large"), "{insights:#?}");
    assert_eq!(whole.diff.only_live, 0);
    assert!(whole.diff.only_replay > 0);

    replay(&log, &Request { threads: 3, ..request("three") }).await.expect("replays");
    assert_same(&outputs(&log, "three").await, &expected);

    let dry = replay(&log, &Request { dry_run: true, ..request("dry") }).await.expect("replays");
    assert_eq!((dry.read, dry.told), (whole.read, whole.told));
    assert!(log.partitions(&topic("dry", Kind::Insights)).await.is_err(), "a dry run made a topic");

    let only = Filter { tenant: None, model: Some("small".into()) };
    let filtered = replay(&log, &Request { filter: only, ..request("small") }).await.expect("replays");
    assert_eq!(filtered.told.insight_states, 0);
    assert!(filtered.told.rollups > 0 && filtered.told.rollups < whole.told.rollups);

    let later = Request { from_ms: T0 + SLOW.start, warm_up_ms: SLOW.start, ..request("warm") };
    let warm = replay(&log, &later).await.expect("replays");
    assert_eq!(outputs(&log, "warm").await[2], expected[2], "warmed up, the same is said");
    assert!(warm.told.rollups < whole.told.rollups);
    assert_eq!(live_state(&log, PARTITIONS).await, before);
}

/// Sums of the requests' cost, billionths of a US dollar, by model, of 10 s rollups; and the price versions on them.
fn costs_told(rollups: &[(u32, Vec<u8>)]) -> (BTreeMap<String, i64>, BTreeSet<String>) {
    let ids = SchemaIds::embedded::<Rollup>();
    let (mut last, mut versions) = (BTreeMap::new(), BTreeSet::new());
    for (_, value) in rollups {
        let rollup: Rollup = ids.decode(value).expect("a rollup");
        versions.extend(rollup.price_versions.iter().cloned());
        if rollup.window_nanos == 10_000_000_000 {
            let cost = rollup.counters.get("cost_nano_usd").copied().unwrap_or(0);
            let key =
                (rollup.window_start_unix_nanos, rollup.model, rollup.service, rollup.stage, rollup.device);
            last.insert(key, cost);
        }
    }
    let mut sums = BTreeMap::new();
    for ((_, model, ..), cost) in last {
        *sums.entry(model).or_default() += cost;
    }
    sums.retain(|_, cost| *cost > 0);
    (sums, versions)
}

/// Scenario: a range replayed at the configured prices, then at a table in which one model's GPU is half as dear; the second also
/// in pieces. A table that is wrong.
/// Guarantee: rows of the first stay, those of the second carry the new version; the difference by model is that of the
/// rows and of nothing else, however it was run; groups, positions and live topics stay as they were; the wrong table is
/// refused by name before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn prices_can_be_changed_for_the_past() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    fill(&log).await;
    let before = live_state(&log, PARTITIONS).await;
    let file = dir.path().join("prices.toml");
    let entry = "extend = true\n[[gpu]]\nprovider = \"aws\"\nregion = \"us-east-1\"\n\
                 instance_type = \"p5.48xlarge\"\ngpu = \"H100\"\ngpus = 8\nper_gpu_hour = 3.44\n\
                 valid_from = 2026-07-01\nsource = \"contract\"\n";
    std::fs::write(&file, entry).expect("written");
    let processor = Config { default_region: "us-east-1".to_owned(), ..Config::default() };
    let old = Request { processor, ..request("old") };
    let new = Request { id: "new".to_owned(), prices: Some(file.display().to_string()), ..old.clone() };
    let whole = replay(&log, &old).await.expect("replays");
    assert!(whole.costs.is_none(), "one table is compared with nothing");
    let old_rows = outputs(&log, "old").await;

    let costs = replay(&log, &new).await.expect("replays").costs.expect("two tables");
    assert_same(&outputs(&log, "old").await, &old_rows);
    let (told_before, old_versions) = costs_told(&old_rows[0]);
    let (told_after, new_versions) = costs_told(&values(&log, &topic("new", Kind::Rollups)).await);
    assert_eq!(old_versions.into_iter().collect::<Vec<_>>(), [costs.before_version.as_str()]);
    assert_eq!(new_versions.into_iter().collect::<Vec<_>>(), [costs.after_version.as_str()]);
    assert_ne!(costs.before_version, costs.after_version);
    let each = (LENGTH / 500) as u64 * u64::from(PARTITIONS);
    for (model, diff) in &costs.models {
        assert_eq!(diff.requests, each, "{model}");
        assert_eq!(diff.before_nano_usd, told_before[model].unsigned_abs(), "{model}");
        assert_eq!(diff.after_nano_usd, told_after[model].unsigned_abs(), "{model}");
    }
    let (small, large) = (costs.models["small"], costs.models["large"]);
    assert_eq!((small.changed, small.before_nano_usd), (0, small.after_nano_usd), "of another instance type");
    assert_eq!(large.changed, each);
    assert!(large.before_nano_usd.abs_diff(2 * large.after_nano_usd) <= 2 * each);
    assert_eq!(costs.total.after_nano_usd, small.after_nano_usd + large.after_nano_usd);

    let pieces =
        Request { id: "pieces".to_owned(), state: Some(dir.path().join("state.json")), ..new.clone() };
    let shared: Arc<dyn Log> = log.clone();
    let found = plan(shared.as_ref(), &pieces).await.expect("planned");
    let stop = CancellationToken::new();
    let outcome = run(shared, &pieces, &found, &stop, |progress| {
        if progress.offsets > progress.total / 2 && progress.offsets < progress.total {
            stop.cancel();
        }
    })
    .await;
    let again = match outcome {
        Err(ReplayError::Interrupted) => replay(&log, &pieces).await.expect("replays"),
        outcome => outcome.expect("replays"),
    };
    assert_eq!(again.costs.as_ref(), Some(&costs));
    assert_eq!(live_state(&log, PARTITIONS).await, before);

    std::fs::write(&file, "[[gpu]]\nprovider = \"aws\"\n").expect("written");
    let wrong = Request { id: "wrong".to_owned(), ..new };
    let error = replay(&log, &wrong).await.expect_err("no table").to_string();
    assert!(error.contains("prices.toml") && error.contains("gpus: it is missing"), "{error}");
    assert!(log.partitions(&topic("wrong", Kind::Rollups)).await.is_err(), "nothing was written");
}

/// Scenario: a replay that is stopped after every sixth of the range and run again with the same state, until it is through;
/// meanwhile the same request with other settings.
/// Guarantee: the topics are as an undisturbed replay makes them; another request does not take the state.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    fill(&log).await;
    replay(&log, &request("whole")).await.expect("replays");
    let expected = outputs(&log, "whole").await;

    let state = dir.path().join("replay.json");
    let request = Request { state: Some(state.clone()), ..request("pieces") };
    let shared: Arc<dyn Log> = log.clone();
    let found = plan(shared.as_ref(), &request).await.expect("planned");
    let mut interruptions = 0;
    let mut reached = 0;
    loop {
        let stop = CancellationToken::new();
        let aim = reached + found.offsets() / 6;
        let outcome = run(shared.clone(), &request, &found, &stop, |progress| {
            reached = progress.offsets;
            if (aim..progress.total).contains(&reached) {
                stop.cancel();
            }
        })
        .await;
        match outcome {
            Err(ReplayError::Interrupted) => interruptions += 1,
            outcome => {
                outcome.expect("replays");
                break;
            }
        }
        assert!(interruptions < 10, "it does not get on");
        if interruptions == 1 {
            let other = Request { warm_up_ms: 5, ..request.clone() };
            let error = replay(&log, &other).await.expect_err("other settings").to_string();
            assert!(error.contains("of other settings"), "{error}");
        }
    }
    let pieces = outputs(&log, "pieces").await;
    assert_same(&pieces, &expected);
    assert!(interruptions > 0);
    assert!(!state.exists());
}

/// Scenario: a range whose beginning retention has removed, of spans and of samples too, an empty range, an id that names no topic.
/// Guarantee: each is refused in words, before anything is written; what is left can be replayed on request.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_gone_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open(dir.path());
    let spec = |name: &str, retention| TopicSpec {
        name: name.into(),
        partitions: 1,
        retention,
        compacted: false,
        replication: 1,
    };
    let kept = Some(Duration::from_secs(3_600));
    log.create_topics(&[spec(topics::SPANS, kept), spec(topics::INSIGHTS, None)]).await.expect("created");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis()
        as i64;
    for (number, at_ms) in [(0, now - 7_200_000), (1, now - 7_100_000), (2, now - 60_000)] {
        let payload = encode_share("", &[], [span(number, 0, 0, at_ms).encode_to_vec().as_slice()], &[]);
        let record = NewRecord {
            to: TopicPartition::new(topics::SPANS, 0),
            key: None,
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp: Millis(at_ms),
        };
        log.append(record).expect("taken").await.expect("durable");
    }
    log.compact().await.expect("expired records are removed");
    let request = Request { from_ms: now - 7_200_000, to_ms: now, ..request("gone") };
    let error = replay(&log, &request).await.expect_err("gone").to_string();
    assert!(error.contains("no longer in the log") && error.contains("infertrace.spans.v1/0"), "{error}");
    let left = Request { allow_gaps: true, ..request.clone() };
    assert_eq!(replay(&log, &left).await.expect("what is left").read.spans, 1);
    log.create_topics(&[spec(topics::GPU, kept)]).await.expect("created");
    for at_ms in [now - 7_200_000, now - 60_000] {
        let record = NewRecord {
            to: TopicPartition::new(topics::GPU, 0),
            key: None,
            payload: Some(count(0, at_ms).into()),
            headers: Vec::new(),
            timestamp: Millis(at_ms),
        };
        log.append(record).expect("taken").await.expect("durable");
    }
    log.compact().await.expect("expired records are removed");
    let of_spans = Request { from_ms: now - 60_000, id: "spans".into(), ..request.clone() };
    assert_eq!(replay(&log, &of_spans).await.expect("all of it is there").read.readings, 1);
    let error =
        replay(&log, &Request { from_ms: now - 60_001, ..of_spans }).await.expect_err("gone").to_string();
    assert!(error.contains("infertrace.gpu.v1/0"), "{error}");
    let turned = Request { from_ms: now, to_ms: now - 5, ..request.clone() };
    assert!(replay(&log, &turned).await.expect_err("empty").to_string().contains("an empty range"));
    let named = Request { id: "A B".into(), ..request };
    assert!(replay(&log, &named).await.expect_err("no name").to_string().contains("names topics"));
}
