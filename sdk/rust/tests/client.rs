//! The client against a real gRPC server in this process.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use infertrace_proto::v1::{
    ExportRequest, ExportResponse, GetPartitionMapRequest, PartitionMap, Rejection, SpanBatch,
    ingest_service_server::{IngestService, IngestServiceServer},
};
use infertrace_sdk::{
    Client, ClientConfig, Code, Compression, ExportError, Exporter, ExporterConfig, Mode, SpanBatchBuilder,
    SpanId, TraceId, Tracer, partition_of,
};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

/// What the server does with the next request.
enum Answer {
    Accept,
    Reject(u64),
    Fail(tonic::Code),
    /// RESOURCE_EXHAUSTED with a RetryInfo of so many milliseconds.
    Busy(i32),
    /// Accepts and then never answers.
    Silence,
    StaleMap(PartitionMap),
}

#[derive(Clone, Default)]
struct Gateway {
    script: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<ExportRequest>>>,
    map: Arc<Mutex<PartitionMap>>,
}

#[tonic::async_trait]
impl IngestService for Gateway {
    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<ExportResponse>, Status> {
        let request = request.into_inner();
        let spans = spans_of(&request).len() as u64;
        let sequence = request.sequence;
        self.seen.lock().unwrap().push(request);
        let answer = self.script.lock().unwrap().pop_front().unwrap_or(Answer::Accept);
        let accepted = ExportResponse { accepted_spans: spans, sequence, ..Default::default() };
        match answer {
            Answer::Accept => Ok(Response::new(accepted)),
            Answer::Reject(count) => Ok(Response::new(ExportResponse {
                accepted_spans: spans - count,
                rejected_spans: count,
                rejections: vec![Rejection {
                    reason: "bad_trace_id".into(),
                    count,
                    first_index: 1,
                    message: "15 bytes".into(),
                }],
                sequence,
                ..Default::default()
            })),
            Answer::Fail(code) => Err(Status::new(code, "as scripted")),
            Answer::Busy(milliseconds) => Err(busy(milliseconds)),
            Answer::Silence => std::future::pending().await,
            Answer::StaleMap(map) => {
                *self.map.lock().unwrap() = map.clone();
                Ok(Response::new(ExportResponse { partition_map: Some(map), sequence, ..Default::default() }))
            }
        }
    }

    type ExportStreamStream = tokio_stream::Pending<Result<ExportResponse, Status>>;

    async fn export_stream(
        &self,
        _: Request<Streaming<ExportRequest>>,
    ) -> Result<Response<Self::ExportStreamStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_partition_map(
        &self,
        _: Request<GetPartitionMapRequest>,
    ) -> Result<Response<PartitionMap>, Status> {
        Ok(Response::new(self.map.lock().unwrap().clone()))
    }
}

fn busy(milliseconds: i32) -> Status {
    // google.rpc.Status { details: [Any { RetryInfo { retry_delay } }] }, written by hand.
    let nanos = milliseconds * 1_000_000;
    let mut duration = vec![0x10];
    prost::encoding::encode_varint(nanos as u64, &mut duration);
    let mut info = vec![0x0a, duration.len() as u8];
    info.extend(duration);
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let mut any = vec![0x0a, url.len() as u8];
    any.extend(url);
    any.extend([0x12, info.len() as u8]);
    any.extend(info);
    let mut status = vec![0x08, 8, 0x1a, any.len() as u8];
    status.extend(any);
    Status::with_details(tonic::Code::ResourceExhausted, "over budget", status.into())
}

fn spans_of(request: &ExportRequest) -> Vec<Vec<u8>> {
    let mut batches: Vec<SpanBatch> = request.batch.iter().cloned().collect();
    for frame in &request.frames {
        let body = match frame.codec {
            0 => frame.body.to_vec(),
            2 => zstd::bulk::decompress(&frame.body, frame.uncompressed_size as usize).unwrap(),
            other => panic!("codec {other} is not used here"),
        };
        batches.push(SpanBatch::decode(body.as_slice()).unwrap());
    }
    batches.into_iter().flat_map(|batch| batch.spans).map(|span| span.span_id).collect()
}

impl Gateway {
    async fn start(script: Vec<Answer>, partitions: u32) -> (Self, SocketAddr) {
        let gateway = Self::default();
        *gateway.script.lock().unwrap() = script.into();
        *gateway.map.lock().unwrap() = PartitionMap { version: 1, topic: "spans".into(), partitions };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = IngestServiceServer::new(gateway.clone()).max_decoding_message_size(64 << 20);
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (gateway, address)
    }

    fn seen(&self) -> Vec<ExportRequest> {
        self.seen.lock().unwrap().clone()
    }
}

fn config(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new(format!("http://{address}"));
    config.retry.initial_backoff = Duration::from_millis(1);
    config.retry.max_backoff = Duration::from_millis(5);
    config
}

fn batch_of(spans: u64) -> infertrace_sdk::SpanBatch {
    let mut builder = SpanBatchBuilder::new();
    let origin = builder.origin(&[("service.name", "test".into())], "", "");
    for index in 1..=spans {
        let mut trace = [7u8; 16];
        trace[..8].copy_from_slice(&index.to_be_bytes());
        builder
            .span(TraceId(trace), SpanId(index.to_be_bytes()))
            .origin(origin)
            .service("test")
            .operation("op")
            .times(1_700_000_000_000_000_000, 5);
    }
    builder.build()
}

/// Scenario: 2,500 spans with a limit of 1,000 a request. Guarantee: three requests, every span once, tenant and
/// distinct batch ids in each.
#[tokio::test]
async fn a_large_batch_is_cut() {
    let (gateway, address) = Gateway::start(vec![], 4).await;
    let mut config = config(address);
    config.max_batch_spans = 1_000;
    config.tenant = "blue".into();
    let client = Client::connect(config).await.unwrap();
    let outcome = client.export(batch_of(2_500)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.rejected), (2_500, 0));
    let seen = gateway.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen.iter().flat_map(spans_of).count(), 2_500);
    let batches: Vec<_> = seen.iter().map(|request| request.batch.clone().unwrap()).collect();
    assert!(batches.iter().all(|batch| batch.tenant == "blue" && batch.batch_id.len() == 16));
    assert_ne!(batches[0].batch_id, batches[1].batch_id);
}

/// Scenario: two UNAVAILABLE answers, then an accepting one. Guarantee: three requests with identical contents.
#[tokio::test]
async fn a_retry_sends_identical_bytes() {
    let unavailable = || Answer::Fail(tonic::Code::Unavailable);
    for mode in [Mode::Batch, Mode::Frames] {
        let (gateway, address) = Gateway::start(vec![unavailable(), unavailable()], 4).await;
        let mut config = config(address);
        config.mode = mode;
        config.compression = if mode == Mode::Frames { Compression::Zstd } else { Compression::None };
        let client = Client::connect(config).await.unwrap();
        let outcome = client.export(batch_of(50)).await.unwrap();
        assert_eq!((outcome.accepted, outcome.retries), (50, 2));
        let seen = gateway.seen();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|request| request.encode_to_vec() == seen[0].encode_to_vec()));
    }
}

/// Scenario: the server is over its budget and asks for 80 ms. Guarantee: the client waits at least that long.
#[tokio::test]
async fn retry_info_is_honoured() {
    let (_gateway, address) = Gateway::start(vec![Answer::Busy(80)], 4).await;
    let client = Client::connect(config(address)).await.unwrap();
    let started = std::time::Instant::now();
    let outcome = client.export(batch_of(5)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.retries), (5, 1));
    assert!(started.elapsed() >= Duration::from_millis(80));
}

/// Scenario: the first attempt is never answered, and its time-out passes. Guarantee: a new connection, the same
/// bytes, accepted.
#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let (gateway, address) = Gateway::start(vec![Answer::Silence], 4).await;
    let mut config = config(address);
    config.request_timeout = Duration::from_millis(200);
    let client = Client::connect(config).await.unwrap();
    assert_eq!(client.export(batch_of(5)).await.unwrap().accepted, 5);
    let seen = gateway.seen();
    assert_eq!(seen[0].encode_to_vec(), seen[1].encode_to_vec());
}

/// Scenario: the connection is cut in the middle of a request, by a server that hangs up twice before one that
/// answers stands at the same address. Guarantee: the batch is accepted.
#[tokio::test]
async fn dropped_connections_are_survived() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = Gateway::default();
    let service = IngestServiceServer::new(gateway.clone());
    tokio::spawn(async move {
        for _ in 0..2 {
            let (connection, _) = listener.accept().await.unwrap();
            connection.readable().await.unwrap();
            drop(connection);
        }
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    });
    let client = Client::lazy(config(address)).unwrap();
    let outcome = client.export(batch_of(100)).await.unwrap();
    assert_eq!(outcome.accepted, 100);
    assert!(outcome.retries >= 1);
}

/// Scenario: the topic grew from 4 to 16 partitions since the map was fetched. Guarantee: after the stale answer
/// every span is sent again, split by the new map, and the map is remembered.
#[tokio::test]
async fn a_stale_map_is_followed_and_nothing_is_lost() {
    let newer = PartitionMap { version: 2, topic: "spans".into(), partitions: 16 };
    let (gateway, address) = Gateway::start(vec![Answer::StaleMap(newer)], 4).await;
    let mut config = config(address);
    config.mode = Mode::Frames;
    config.compression = Compression::Zstd;
    let client = Client::connect(config).await.unwrap();
    assert_eq!(client.export(batch_of(200)).await.unwrap().accepted, 200);
    assert_eq!(client.export(batch_of(10)).await.unwrap().accepted, 10);
    let seen = gateway.seen();
    assert_eq!(seen.iter().map(|r| r.partition_map_version).collect::<Vec<_>>(), [1, 2, 2]);
    for (request, partitions) in seen.iter().zip([4, 16, 16]) {
        for frame in &request.frames {
            assert_eq!(frame.crc32c, crc32c::crc32c(&frame.body));
            let body = zstd::bulk::decompress(&frame.body, frame.uncompressed_size as usize).unwrap();
            for span in SpanBatch::decode(body.as_slice()).unwrap().spans {
                let trace = TraceId(span.trace_id.as_slice().try_into().unwrap());
                assert_eq!(partition_of(&trace, partitions), frame.partition);
            }
        }
    }
    assert_eq!(spans_of(&seen[1]).len(), 200);
}

/// Scenario: one bad span in a batch; a refused batch; a gateway that stays away. Guarantee: partial success is
/// reported with its reason; a refusal is not retried; the deadline ends retrying.
#[tokio::test]
async fn outcomes_are_told_apart() {
    let (gateway, address) =
        Gateway::start(vec![Answer::Reject(1), Answer::Fail(tonic::Code::InvalidArgument)], 4).await;
    let mut config = config(address);
    let client = Client::connect(config.clone()).await.unwrap();
    let outcome = client.export(batch_of(3)).await.unwrap();
    assert_eq!((outcome.accepted, outcome.rejected), (2, 1));
    assert_eq!(
        (outcome.rejections[0].reason.as_str(), outcome.rejections[0].first_index),
        ("bad_trace_id", 1)
    );
    match client.export(batch_of(3)).await {
        Err(ExportError::Refused(status)) => assert_eq!(status.code, Code::INVALID_ARGUMENT),
        other => panic!("expected a refusal, not {other:?}"),
    }
    assert_eq!(gateway.seen().len(), 2);

    config.endpoint = "http://127.0.0.1:1".into();
    config.retry.deadline = Duration::from_millis(50);
    let away = Client::lazy(config.clone()).unwrap();
    assert!(matches!(away.export(batch_of(3)).await, Err(ExportError::DeadlineExceeded { .. })));
    config.retry.max_bytes = 10;
    config.retry.deadline = Duration::from_secs(60);
    let poor = Client::lazy(config).unwrap();
    assert!(matches!(poor.export(batch_of(3)).await, Err(ExportError::RetryBudgetExhausted { .. })));
}

/// Scenario: a tracer, nested spans, a shutdown. Guarantee: every span is accepted, with its parent, batch size,
/// tokens and GPU.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracers_spans_arrive() {
    let (gateway, address) = Gateway::start(vec![], 4).await;
    let stats = tokio::task::spawn_blocking(move || {
        let exporter = Arc::new(Exporter::start(config(address), ExporterConfig::default()).unwrap());
        let tracer = Tracer::new(Arc::clone(&exporter), "svc", &[]);
        for _ in 0..250 {
            let root = tracer.start_span("root", None);
            let mut span = tracer.start_inference_span("infer", "m", "1", Some(root.context()));
            span.set_batch_size(4, Some(8));
            span.first_token();
            span.set_tokens(10, 3, Some(5));
            span.set_gpu_metrics(infertrace_sdk::Gpu { device_id: "GPU-0", ..Default::default() });
            span.end();
            root.end();
        }
        assert!(exporter.flush(Duration::from_secs(10)));
        exporter.shutdown()
    })
    .await
    .unwrap();
    assert_eq!((stats.recorded, stats.accepted, stats.dropped, stats.failed), (500, 500, 0, 0));
    let spans: Vec<_> = gateway
        .seen()
        .into_iter()
        .filter_map(|request| request.batch)
        .flat_map(|batch| batch.spans)
        .collect();
    assert_eq!(spans.len(), 500);
    let child = spans.iter().find(|span| span.operation_name == "infer").unwrap();
    let parent = spans.iter().find(|span| span.span_id == child.parent_span_id).unwrap();
    assert_eq!(parent.trace_id, child.trace_id);
    let inference = child.inference.as_ref().unwrap();
    assert_eq!((inference.batch_size, inference.sequence_length), (Some(4), Some(13)));
    assert!(inference.tpot_nanos.is_some());
}

/// Scenario: the vectors that every language reads. Guarantee: this hash agrees with all of them.
#[test]
fn partition_vectors() {
    // As cargo sets it now: a build cache may outlive the checkout that filled it.
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let text = std::fs::read_to_string(format!("{crate_dir}/../../proto/partition_vectors.json"))
        .expect("proto/partition_vectors.json");
    let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let vectors = file["vectors"].as_array().expect("vectors");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let hex = vector["trace_id"].as_str().expect("trace_id");
        let trace = TraceId(u128::from_str_radix(hex, 16).expect("hex").to_be_bytes());
        for (partitions, expected) in vector["partitions"].as_object().expect("partitions") {
            let got = partition_of(&trace, partitions.parse().expect("a number"));
            assert_eq!(u64::from(got), expected.as_u64().expect("a partition"), "{hex} of {partitions}");
        }
    }
}
