//! A blast with lost answers, judged against the log, the lake and the API: real gRPC, a real embedded log, real
//! Parquet files, a real HTTP server.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use infertrace_loadgen::{
    blast,
    protocol::Protocol,
    verify::{self, Against, Verdict},
};
use infertrace_proto::v1::{
    ExportRequest, ExportResponse, GetPartitionMapRequest, PartitionMap,
    ingest_service_server::{IngestService, IngestServiceServer},
};
use infertrace_runtime::log::{
    Log, Millis, NewRecord, TopicPartition, TopicSpec,
    embedded::{Config, EmbeddedLog},
};
use infertrace_schemas::{
    columns,
    dedup::Dedup,
    lake::{DataFile, DataFileName, EventDate, FORMAT_VERSION, Id16, LakeRoot, Manifest},
    reader::{Position, SpanReader},
    record, topics,
    view::SpanView,
};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

/// Stores every request in partition 0; of every fourth it then loses the first answer.
#[derive(Clone)]
struct Gateway {
    log: Arc<dyn Log>,
    requests: Arc<AtomicU64>,
    lose_answers: bool,
    payloads: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[tonic::async_trait]
impl IngestService for Gateway {
    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<ExportResponse>, Status> {
        let batch = request.into_inner().batch.ok_or_else(|| Status::invalid_argument("no batch"))?;
        let accepted_spans = batch.spans.len() as u64;
        let payload = batch.encode_to_vec();
        self.payloads.lock().unwrap().push(payload.clone());
        let record = NewRecord {
            to: TopicPartition::new(topics::SPANS, 0),
            key: None,
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp: Millis(1),
        };
        let delivery = self.log.append(record).map_err(|error| Status::unavailable(error.to_string()))?;
        delivery.await.map_err(|error| Status::unavailable(error.to_string()))?;
        if self.lose_answers && self.requests.fetch_add(1, Ordering::SeqCst) % 4 == 0 {
            return Err(Status::unavailable("stored, but the answer is lost"));
        }
        Ok(Response::new(ExportResponse { accepted_spans, ..Default::default() }))
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
        Ok(Response::new(PartitionMap { version: 1, topic: topics::SPANS.into(), partitions: 1 }))
    }
}

fn verify_args(ledger: &Path, against: Against) -> verify::Args {
    verify::Args {
        ledger: ledger.to_owned(),
        against,
        kafka: None,
        data_dir: None,
        object_store: None,
        api: String::new(),
        topic: topics::SPANS.into(),
        sample: None,
        concurrency: 4,
        wait: 0.0,
        header: Vec::new(),
        json: true,
    }
}

/// Blasts 3,000 spans into an embedded log in `folder` and returns what was stored.
async fn blast_into_log(folder: &Path) -> Vec<Vec<u8>> {
    let log = EmbeddedLog::open(Config { dir: folder.join("data"), ..Config::default() }).unwrap();
    let spec = TopicSpec {
        name: topics::SPANS.into(),
        partitions: 2,
        retention: None,
        compacted: false,
        replication: 1,
    };
    log.create_topics(&[spec]).await.unwrap();
    let payloads = Arc::default();
    let gateway = Gateway {
        log: log.clone(),
        requests: Arc::default(),
        lose_answers: true,
        payloads: Arc::clone(&payloads),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut args = blast::Args::to(&format!("http://{}", listener.local_addr().unwrap()));
    let service = IngestServiceServer::new(gateway).max_decoding_message_size(16 << 20);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server =
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    args.spans_per_request = 100;
    args.count = Some(3_000);
    args.retry = true;
    args.seed = Some(7);
    args.ledger = Some(folder.join("ledger"));
    let report = tokio::task::spawn_blocking(move || blast::run(args, Arc::new(AtomicBool::new(false))))
        .await
        .unwrap();
    let report = report.unwrap();
    assert_eq!((report.acked_spans, report.rejected_spans, report.failed_spans), (3_000, 0, 0));
    assert!(report.retries > 5, "{report:?}");
    server.abort();
    let _ = server.await;
    drop(log);
    std::mem::take(&mut *payloads.lock().unwrap())
}

/// Stores the payloads as one data file with its manifest, as the sink would.
fn store(lake: &Path, payloads: &[Vec<u8>]) -> arrow::array::RecordBatch {
    let (mut reader, mut dedup) = (SpanReader::new(), Dedup::default());
    for (offset, payload) in payloads.iter().enumerate() {
        if dedup.admit(record::batch_id_of(payload)) {
            reader.push(payload, Position { partition: 0, offset: offset as i64 }).unwrap();
        }
    }
    let batch = reader.finish();
    let start_ns = SpanView::new(&batch).unwrap().start_ns(0);
    let name = DataFileName { date: EventDate::of_nanos(start_ns), partition: 0, start: 0, merged: None };
    let root = LakeRoot::new("");
    let path = lake.join(root.data_file(&name));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, columns::span_schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let manifest = Manifest {
        version: FORMAT_VERSION,
        topic: topics::SPANS.into(),
        partition: 0,
        start: 0,
        next: payloads.len() as u64,
        records: payloads.len() as u64,
        rows: batch.num_rows() as u64,
        duplicate_records: 0,
        rejected_spans: 0,
        poison: Vec::new(),
        lost: Vec::new(),
        files: vec![DataFile {
            path: name.path(),
            date: name.date,
            rows: batch.num_rows() as u64,
            bytes: 1,
            footer_bytes: 0,
            min_start_ns: start_ns,
            max_start_ns: start_ns,
            min_trace_id: Id16::default(),
            max_trace_id: Id16([255; 16]),
            services: None,
            models: None,
            tenants: None,
        }],
        batch_ids: Vec::new(),
        created_by: "test".into(),
    };
    let path = lake.join(root.manifest(0, 0));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    batch
}

type Traces = Arc<Mutex<HashMap<String, Vec<serde_json::Value>>>>;

async fn serve_api(traces: Traces) -> String {
    let trace = move |axum::extract::Path(id): axum::extract::Path<String>| async move {
        match traces.lock().unwrap().get(&id) {
            Some(spans) => Ok(axum::Json(serde_json::json!({ "trace_id": id, "spans": spans }))),
            None => Err(http::StatusCode::NOT_FOUND),
        }
    };
    let router = axum::Router::new().route("/api/v1/traces/{id}", axum::routing::get(trace));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn counts(verdict: &Verdict) -> (u64, u64, u64, u64, u64) {
    (verdict.acked, verdict.found, verdict.lost, verdict.duplicated, verdict.changed)
}

/// Scenario: 30 requests, the answers of some lost after they were durable, so the client sent them again; then the
/// lake and the API with and without damage. Guarantee: the log is clean and the retries collapse; the lake is clean,
/// and a stray copy of a file shows; the API is clean, and a missing trace shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_found_once() {
    let folder = tempfile::tempdir().unwrap();
    let payloads = blast_into_log(folder.path()).await;
    let ledger = folder.path().join("ledger");

    let mut args = verify_args(&ledger, Against::Log);
    args.data_dir = Some(folder.path().join("data"));
    let verdict = verify::run(args).await.unwrap();
    assert!(verdict.clean, "{verdict:?}");
    assert_eq!(counts(&verdict), (3_000, 3_000, 0, 0, 0));
    assert_eq!(verdict.collapsed_retries, payloads.len() as u64 - 30);
    assert!(verdict.collapsed_retries > 0);

    let lake = folder.path().join("lake");
    let batch = store(&lake, &payloads);
    let mut args = verify_args(&ledger, Against::Parquet);
    args.object_store = Some(lake.to_string_lossy().into_owned());
    let verdict = verify::run(args.clone()).await.unwrap();
    assert!(verdict.clean, "{verdict:?}");
    assert_eq!(counts(&verdict), (3_000, 3_000, 0, 0, 0));
    let day = std::fs::read_dir(lake.join("spans")).unwrap().next().unwrap().unwrap().path();
    let original = std::fs::read_dir(&day).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(original, day.join("p00000-o00000000000000000077.parquet")).unwrap();
    let verdict = verify::run(args).await.unwrap();
    assert_eq!(counts(&verdict), (3_000, 3_000, 0, 3_000, 0));
    assert!(!verdict.clean && verdict.faults[0].contains("no manifest"), "{verdict:?}");

    let view = SpanView::new(&batch).unwrap();
    let traces: Traces = Arc::default();
    for row in 0..batch.num_rows() {
        let id = hex::encode(view.trace_id(row));
        traces.lock().unwrap().entry(id).or_default().push(view.to_json(row));
    }
    let mut args = verify_args(&ledger, Against::Api);
    args.api = serve_api(Arc::clone(&traces)).await;
    let verdict = verify::run(args.clone()).await.unwrap();
    assert!(verdict.clean, "{verdict:?}");
    assert_eq!(counts(&verdict), (3_000, 3_000, 0, 0, 0));
    args.sample = Some(20);
    let verdict = verify::run(args.clone()).await.unwrap();
    assert_eq!(counts(&verdict), (200, 200, 0, 0, 0));
    args.sample = None;
    let some = traces.lock().unwrap().keys().next().cloned().unwrap();
    traces.lock().unwrap().remove(&some);
    let verdict = verify::run(args).await.unwrap();
    assert_eq!(counts(&verdict), (3_000, 2_990, 10, 0, 0));
}

/// Scenario: every protocol against the sink that drops, closed and open loop. Guarantee: the count asked for is
/// acknowledged, and the open loop keeps its rate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_reaches_its_count() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sink = blast::sink::Args { listen: address, spans_per_request: 200, partitions: 8 };
    tokio::spawn(blast::sink::serve(listener, sink));
    for (protocol, rate) in [
        (Protocol::Native, None),
        (Protocol::Frames, None),
        (Protocol::Otlp, None),
        (Protocol::Native, Some(20_000.0)),
    ] {
        let mut args = blast::Args::to(&format!("http://{address}"));
        args.protocol = protocol;
        args.spans_per_request = 200;
        args.count = Some(10_000);
        args.rate = rate;
        let report = tokio::task::spawn_blocking(move || blast::run(args, Arc::new(AtomicBool::new(false))))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((report.acked_spans, report.failed_spans), (10_000, 0), "{report:?}");
        if rate.is_some() {
            assert!(report.seconds >= 0.45, "10,000 spans at 20,000 a second: {} s", report.seconds);
        }
    }
}
