//! Measures trace look-up and search over HTTP: spans on disk as Parquet, more of them in memory.
//!
//! `cargo run --release --example query_bench -- [--spans N] [--hot N] [--dir DIR] [--rounds N] [--searches N]`
//! prints one line of JSON. The lake is kept in DIR and used again.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(unused)]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use infertrace_analytics::cost::{Defaults, PriceTable, Pricer};
use infertrace_proto::v1;
use infertrace_query::{
    Config, Deps, LakeSource, build, hot::memory::MemoryTier, log_readiness, metrics::HotMetrics,
};
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_runtime::{
    clock::SystemClock,
    log::{
        Consumer, ConsumerOptions, Delivery, Event, GroupMetadata, Log, LogError, Millis, NewRecord,
        NextOffset, Offset, Record, TopicPartition, TopicSpec, Transactions, Watermarks,
    },
};
use infertrace_schemas::{
    lake::LakeRoot,
    partition::partition_of,
    reader::{Position, SpanReader},
    record::encode_share,
    topics::SPANS,
};
use infertrace_sinks::encode::{FileSettings, RangeWriter};
use object_store::{ObjectStore, local::LocalFileSystem};
use prost::Message;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// As in the platform's own binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 8;
const SPANS_A_TRACE: u64 = 8;
const TRACES_A_RECORD: u64 = 64;
/// Spans of a range of the lake, so of a file.
const RANGE_SPANS: u64 = 250_000;
const SERVICES: [&str; 8] = ["gateway", "auth", "tokenizer", "router", "vllm", "vllm", "vllm", "postprocess"];
const OPERATIONS: [&str; 8] =
    ["POST /v1/chat", "check", "tokenize", "route", "llm_request", "prefill", "decode", "detokenize"];
const STAGES: [&str; 8] = ["", "", "tokenize", "queue", "inference", "prefill", "decode", "postprocessing"];

struct Options {
    spans: u64,
    hot: u64,
    dir: PathBuf,
    rounds: usize,
    searches: usize,
}

fn options() -> Options {
    let mut options = Options {
        spans: 2_000_000,
        hot: 1_000_000,
        dir: "target/query-bench".into(),
        rounds: 1_000,
        searches: 50,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--spans" => options.spans = value.parse().unwrap(),
            "--hot" => options.hot = value.parse().unwrap(),
            "--dir" => options.dir = value.into(),
            "--searches" => options.searches = value.parse().unwrap(),
            "--rounds" => options.rounds = value.parse().unwrap(),
            _ => panic!("unknown option {name}"),
        }
    }
    options
}

/// A trace's id: all 128 bits look random, and its partition is the one asked for.
fn trace_id(partition: u32, number: u64) -> [u8; 16] {
    (0u64..)
        .map(|salt| {
            let seed = [u64::from(partition), number, salt].map(u64::to_be_bytes).concat();
            xxhash_rust::xxh3::xxh3_128(&seed).to_be_bytes()
        })
        .find(|id| partition_of(id, PARTITIONS) == partition)
        .unwrap()
}

fn text(key: &str, value: String) -> v1::KeyValue {
    let value = v1::AnyValue { value: Some(v1::any_value::Value::StringValue(value)) };
    v1::KeyValue { key: key.to_owned(), value: Some(value) }
}

fn int(key: &str, value: i64) -> v1::KeyValue {
    v1::KeyValue {
        key: key.to_owned(),
        value: Some(v1::AnyValue { value: Some(v1::any_value::Value::IntValue(value)) }),
    }
}

/// Mixes bits, so that figures vary without a generator to carry along.
fn mix(value: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&value.to_be_bytes())
}

fn trace(partition: u32, number: u64, start_ns: i64, out: &mut Vec<Vec<u8>>) {
    let id = trace_id(partition, number);
    let chance = mix(number * 31 + u64::from(partition));
    for index in 0..SPANS_A_TRACE {
        let own = mix(chance ^ index);
        let at = index as usize;
        let failed = chance.is_multiple_of(100) && index == 4;
        let is_engine = (4..7).contains(&index);
        let span = v1::Span {
            trace_id: id.to_vec(),
            span_id: (own | 1).to_be_bytes().to_vec(),
            parent_span_id: if index == 0 { Vec::new() } else { (mix(chance) | 1).to_be_bytes().to_vec() },
            service_name: SERVICES[at].to_owned(),
            operation_name: OPERATIONS[at].to_owned(),
            start_time_unix_nano: start_ns + index as i64 * 3_000_000 + (own % 1_000_000) as i64,
            // A long tail: one in a thousand takes more than a second.
            duration_nanos: (1_000_000
                + own % 40_000_000
                + if own.is_multiple_of(1_000) { 1_000_000_000 } else { 0 })
                as i64,
            kind: if index == 0 { 2 } else { 1 },
            status: Some(v1::Status { code: if failed { 2 } else { 0 }, message: String::new() }),
            inference: is_engine.then(|| v1::InferenceContext {
                model_name: format!("model-{}", chance % 12),
                framework: "vllm".to_owned(),
                input_tokens: Some(own % 4_000),
                output_tokens: Some(own % 500),
                ttft_nanos: Some(own % 300_000_000),
                request_id: format!("chatcmpl-{chance:016x}"),
                ..Default::default()
            }),
            pipeline: Some(v1::PipelineContext { stage: STAGES[at].to_owned(), ..Default::default() }),
            attributes: vec![
                text("http.request.method", "POST".to_owned()),
                text("http.route", "/v1/chat/completions".to_owned()),
                int("http.response.status_code", if failed { 500 } else { 200 }),
                text("user.id", format!("user-{}", own % 50_000)),
                text("server.address", format!("10.0.{}.{}", chance % 4, chance % 250)),
                int("server.port", 8000),
                text("network.protocol.version", "1.1".to_owned()),
                text("gen_ai.operation.name", "chat".to_owned()),
                int("gen_ai.request.max_tokens", 512),
                text("deployment.environment", "prod".to_owned()),
                text("k8s.pod.name", format!("{}-{}", SERVICES[at], chance % 40)),
                text("thread.name", format!("worker-{}", own % 16)),
            ],
            ..Default::default()
        };
        let span = if index == 0 {
            v1::Span { span_id: (mix(chance) | 1).to_be_bytes().to_vec(), ..span }
        } else {
            span
        };
        out.push(span.encode_to_vec());
    }
}

/// The record at `offset` of a partition: whole traces.
fn record(partition: u32, offset: u64, start_ns: i64) -> Vec<u8> {
    let mut spans = Vec::new();
    for index in 0..TRACES_A_RECORD {
        trace(partition, offset * TRACES_A_RECORD + index, start_ns + index as i64 * 10_000, &mut spans);
    }
    let resource = v1::Resource {
        attributes: vec![text("service.namespace", "serving".to_owned())],
        ..Default::default()
    };
    let origin = v1::Origin { resource: Some(resource), ..Default::default() }.encode_to_vec();
    encode_share("", &[], spans.iter().map(Vec::as_slice), &[&origin])
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn memory_mib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// A log whose records are made when they are read, so that it takes no memory.
struct GeneratedLog {
    start: u64,
    end: u64,
    base_ns: i64,
}

impl GeneratedLog {
    fn time_ns(&self, offset: u64) -> i64 {
        self.base_ns + (offset - self.start) as i64 * 20_000_000
    }
}

struct GeneratedConsumer {
    log: Arc<GeneratedLog>,
    next: Vec<u64>,
}

struct SharedLog(Arc<GeneratedLog>);

#[async_trait]
impl Log for SharedLog {
    async fn create_topics(&self, _specs: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }
    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        if topic != SPANS {
            return Err(LogError::UnknownTopicPartition(TopicPartition::new(topic, 0)));
        }
        Ok(PARTITIONS)
    }
    fn append(&self, _record: NewRecord) -> Result<Delivery, LogError> {
        Err(LogError::Fatal("read only".to_owned()))
    }
    async fn transactions(&self, _id: &str) -> Result<Box<dyn Transactions>, LogError> {
        Err(LogError::Fatal("read only".to_owned()))
    }
    async fn consumer(&self, _options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        let log = Arc::clone(&self.0);
        Ok(Box::new(GeneratedConsumer { next: vec![log.start; PARTITIONS as usize], log }))
    }
    async fn watermarks(&self, _at: &TopicPartition) -> Result<Watermarks, LogError> {
        Ok(Watermarks { low: NextOffset(0), high: NextOffset(self.0.end) })
    }
    async fn position_at(&self, _at: &TopicPartition, _time: Millis) -> Result<NextOffset, LogError> {
        Ok(NextOffset(self.0.start))
    }
    async fn committed(&self, _group: &str, _at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        Ok(None)
    }
    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }
}

#[async_trait]
impl Consumer for GeneratedConsumer {
    async fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Event, LogError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        for partition in 0..PARTITIONS {
            let offset = self.next[partition as usize];
            if offset >= self.log.end || bytes > max_bytes {
                continue;
            }
            let time = self.log.time_ns(offset);
            let payload = Bytes::from(record(partition, offset, time));
            bytes += payload.len();
            records.push(Record {
                from: TopicPartition::new(SPANS, partition),
                offset: Offset(offset),
                timestamp: Millis(time / 1_000_000),
                key: None,
                payload: Some(payload),
                headers: Vec::new(),
            });
            self.next[partition as usize] += 1;
        }
        if records.is_empty() {
            tokio::time::sleep(timeout).await;
            return Ok(Event::Idle);
        }
        Ok(Event::Records(records))
    }
    async fn seek(&mut self, _at: &TopicPartition, _to: NextOffset) -> Result<(), LogError> {
        Ok(())
    }
    fn pause(&mut self, _at: &TopicPartition) -> Result<(), LogError> {
        Ok(())
    }
    fn resume(&mut self, _at: &TopicPartition) -> Result<(), LogError> {
        Ok(())
    }
    async fn commit(&mut self, _positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
        Ok(())
    }
    fn group_metadata(&self) -> Option<GroupMetadata> {
        None
    }
}

/// Writes the lake unless it is there; returns the records of each partition.
async fn prepare_lake(options: &Options, store: &Arc<dyn ObjectStore>, base_ns: i64) -> u64 {
    let spans_a_record = TRACES_A_RECORD * SPANS_A_TRACE;
    let records = options.spans / spans_a_record / u64::from(PARTITIONS);
    let marker = options.dir.join(format!("complete-{}-{}", options.spans, RANGE_SPANS));
    if marker.exists() {
        return records;
    }
    // As the sink writes it.
    let sink = infertrace_sinks::Config::default();
    let a_range = RANGE_SPANS.div_ceil(spans_a_record);
    for partition in 0..PARTITIONS {
        let mut start = 0;
        while start < records {
            let next = (start + a_range).min(records);
            let settings = FileSettings {
                topic: SPANS.to_owned(),
                partition,
                start,
                end: next,
                row_group_rows: sink.row_group_rows,
                zstd_level: sink.zstd_level,
                merged: None,
            };
            let mut reader = SpanReader::new();
            let mut writer = RangeWriter::new(&settings).unwrap();
            for offset in start..next {
                let payload = record(partition, offset, base_ns + offset as i64 * 20_000_000);
                reader
                    .push(&payload, Position { partition: partition as i32, offset: offset as i64 })
                    .unwrap();
                if (offset - start + 1) * spans_a_record % u64::from(sink.row_group_rows) < spans_a_record {
                    writer.write(&reader.finish()).unwrap();
                }
            }
            writer.write(&reader.finish()).unwrap();
            let files = writer.finish().unwrap().into_iter();
            let files = files.map(|file| (file.name, file.bytes, file.entry)).collect();
            common::lake::publish(store, partition, start, next, files).await;
            start = next;
        }
        eprintln!("lake: partition {partition} written");
    }
    std::fs::write(marker, base_ns.to_string()).unwrap();
    records
}

struct Client {
    sender: SendRequest<Empty<Bytes>>,
}

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    async fn get(&mut self, path: &str) -> (u16, Bytes, Duration) {
        let begun = Instant::now();
        let request = Request::builder().uri(path).header(header::HOST, "bench").body(Empty::new()).unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body, begun.elapsed())
    }
}

/// Percentiles, and the CPU time of client and server a request: a figure that a busy machine does not spoil.
fn figures(mut times: Vec<Duration>, cpu_s: f64) -> Json {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len() - 1);
        (times[index].as_secs_f64() * 1e6).round() / 1e3
    };
    json!({"n": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
        "cpu_ms": (cpu_s * 1e5 / times.len() as f64).round() / 1e2})
}

/// Spans a CPU-second into the hot tier, from encoded records.
fn measure_ingest() -> f64 {
    let records: Vec<Vec<u8>> = (0..400).map(|offset| record(0, 10_000_000 + offset, now_ns())).collect();
    let config = infertrace_query::config::HotConfig { max_bytes: 4 << 30, ..Default::default() };
    let segment_spans = config.segment_spans;
    let (_tier, mut writer) = MemoryTier::new(config, Arc::new(SystemClock), HotMetrics::default());
    let before = cpu_seconds();
    let mut spans = 0;
    for round in 0..4u8 {
        for (offset, record) in records.iter().enumerate() {
            let mut record = record.clone();
            // Another batch id, or it would be dropped as a repeat.
            record[2] ^= round;
            writer.push(
                0,
                (usize::from(round) * records.len() + offset) as i64,
                now_ns() / 1_000_000,
                &record,
            );
            spans += TRACES_A_RECORD * SPANS_A_TRACE;
            if writer.pending_spans() >= segment_spans {
                writer.publish();
            }
        }
    }
    writer.publish();
    spans as f64 / (cpu_seconds() - before)
}

#[tokio::main]
async fn main() {
    let options = options();
    std::fs::create_dir_all(&options.dir).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(&options.dir).unwrap());
    let base_ns = now_ns() - 3_600_000_000_000;
    let lake_records = prepare_lake(&options, &store, base_ns).await;
    let ingest = measure_ingest();
    let spans_a_record = TRACES_A_RECORD * SPANS_A_TRACE;
    let hot_records = options.hot / spans_a_record / u64::from(PARTITIONS);
    let log = GeneratedLog {
        start: lake_records,
        end: lake_records + hot_records,
        base_ns: now_ns() - 60_000_000_000,
    };
    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
    config.hot.max_bytes = 4 << 30;
    let mut registry = MetricsRegistry::default();
    let log: Arc<dyn Log> = Arc::new(SharedLog(Arc::new(log)));
    let deps = Deps {
        log: Some(Arc::clone(&log)),
        warm: None,
        lake: Some(LakeSource { store, root: LakeRoot::new(common::lake::ROOT) }),
        pricer: Arc::new(Pricer::new(PriceTable::embedded().unwrap(), Defaults::default())),
        clock: Arc::new(SystemClock),
        metrics: &mut registry,
        exposition: Arc::new(String::new),
        readiness: log_readiness(log),
    };
    let service = build(config, deps).await.unwrap();
    let address = service.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone()));
    let mut client = Client::connect(address).await;
    let status = loop {
        let (_, body, _) = client.get("/api/v1/status").await;
        let status: Json = serde_json::from_slice(&body).unwrap();
        let all_read = status["tiers"]["hot"]["partitions"].as_array().is_some_and(|partitions| {
            partitions.len() == PARTITIONS as usize
                && partitions.iter().all(|one| one["next_offset"] == lake_records + hot_records)
        });
        let files = options.spans / RANGE_SPANS;
        if all_read && status["tiers"]["cold"]["files"].as_u64().unwrap_or(0) + 8 > files {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut results = json!({
        "bench": "query",
        "lake_spans": status["tiers"]["cold"]["spans"],
        "lake_files": status["tiers"]["cold"]["files"],
        "lake_bytes_per_span": status["tiers"]["cold"]["bytes"].as_f64().unwrap() / status["tiers"]["cold"]["spans"].as_f64().unwrap(),
        "hot_spans": status["tiers"]["hot"]["spans"],
        "hot_segments": status["tiers"]["hot"]["segments"],
        "hot_bytes_per_span": status["tiers"]["hot"]["bytes"].as_f64().unwrap() / status["tiers"]["hot"]["spans"].as_f64().unwrap(),
        "hot_ingest_spans_per_cpu_s": ingest.round(),
        "cache": status["tiers"]["cold"]["cache"],
    });
    let cpu_before = cpu_seconds();
    let kinds: [(&str, u64, u64, u16); 3] = [
        ("trace_hot", lake_records, hot_records, 200),
        ("trace_cold", 0, lake_records, 200),
        ("trace_missing", 50_000_000, 1_000_000, 404),
    ];
    for (name, first, records, wanted) in kinds {
        let cpu_begun = cpu_seconds();
        let mut times = Vec::new();
        for round in 0..options.rounds as u64 {
            let partition = (round % u64::from(PARTITIONS)) as u32;
            let number = first * TRACES_A_RECORD + mix(round) % (records * TRACES_A_RECORD);
            let id = hex::encode(trace_id(partition, number));
            let (status, body, took) = client.get(&format!("/api/v1/traces/{id}")).await;
            assert_eq!(status, wanted, "{name} {id} {}", String::from_utf8_lossy(&body));
            times.push(took);
        }
        results[name] = figures(times, cpu_seconds() - cpu_begun);
    }
    let slow =
        |round: usize| format!("service={}&min_duration_ms={}", SERVICES[round % 8], 1_000 + round % 30);
    let rare = |round: usize| format!("service=vllm&min_duration_ms={}", 1_039 + round % 2);
    let model = |round: usize| format!("model=model-{}&status=error", round % 12);
    let attribute = |round: usize| format!("attr=user.id%3Duser-{}", mix(round as u64) % 50_000);
    let newest = |round: usize| format!("limit={}", 20 + round % 5);
    let searches: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("search_newest", &newest),
        ("search_service_duration", &slow),
        ("search_service_duration_rare", &rare),
        ("search_model_error", &model),
        ("search_attribute", &attribute),
    ];
    for (name, query) in searches {
        let cpu_begun = cpu_seconds();
        let mut times = Vec::new();
        let mut traces = 0;
        for round in 0..options.searches.max(1) {
            let (status, body, took) = client.get(&format!("/api/v1/traces?{}", query(round))).await;
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            let page: Json = serde_json::from_slice(&body).unwrap();
            assert_eq!(page["partial"], json!([]), "{name}");
            traces += page["traces"].as_array().unwrap().len();
            times.push(took);
        }
        results[name] = figures(times, cpu_seconds() - cpu_begun);
        results[name]["traces"] = traces.into();
    }
    results["query_cpu_s"] = (((cpu_seconds() - cpu_before) * 100.0).round() / 100.0).into();
    results["rss_mib"] = memory_mib("VmRSS").round().into();
    results["peak_rss_mib"] = memory_mib("VmHWM").round().into();
    println!("{results}");
    stop.cancel();
    running.await.unwrap().unwrap();
}
