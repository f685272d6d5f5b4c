//! `ExportStream`: acknowledgements by sequence, in the order of durability, bounded.

use std::sync::Arc;

use infertrace_proto::v1::{self, ingest_service_client::IngestServiceClient};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    fake_log::Mode,
    harness::{TestGateway, native_request, native_span},
};

struct Stream {
    requests: mpsc::Sender<v1::ExportRequest>,
    answers: Streaming<v1::ExportResponse>,
}

async fn open(gateway: &TestGateway) -> Stream {
    let mut client: IngestServiceClient<Channel> =
        IngestServiceClient::connect(format!("http://{}", gateway.grpc)).await.expect("HTTP/2");
    let (requests, receiver) = mpsc::channel(1000);
    let answers = client.export_stream(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    Stream { requests, answers }
}

fn request(sequence: u64) -> v1::ExportRequest {
    v1::ExportRequest { sequence, ..native_request(vec![native_span(sequence, &sequence.to_string())]) }
}

/// Scenario: many requests on one stream, one of them refused as a whole, one with a bad span. Guarantee: each is answered
/// under its sequence, the stream goes on, and ends with OK when its sender ends it.
#[tokio::test]
async fn every_request_is_answered_by_its_sequence() {
    let gateway = TestGateway::start().await;
    let mut stream = open(&gateway).await;
    for sequence in 1..=100 {
        let mut request = request(sequence);
        match sequence {
            7 => request.frames.push(v1::Frame::default()),
            8 => request.batch.as_mut().expect("a batch").spans[0].span_id.clear(),
            _ => {}
        }
        stream.requests.send(request).await.expect("open");
    }
    drop(stream.requests);
    let mut sequences = Vec::new();
    while let Some(answer) = stream.answers.message().await.expect("no error") {
        sequences.push(answer.sequence);
        match answer.sequence {
            7 => {
                let error = answer.error.expect("refused");
                assert_eq!((error.code, error.retry_delay_ms), (3, 0), "{}", error.message);
            }
            8 => assert_eq!((answer.accepted_spans, answer.rejected_spans), (0, 1)),
            _ => assert_eq!((answer.accepted_spans, answer.error), (1, None)),
        }
    }
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
    assert_eq!(gateway.spans().len(), 98);
    gateway.stop().await;
}

/// Scenario: the log confirms nothing for a while. Guarantee: no answer comes before durability, at most `stream_in_flight`
/// requests are taken from the stream, and all are answered in the end.
#[tokio::test]
async fn the_stream_waits_for_the_log() {
    let gateway = TestGateway::with(|config| config.transport.stream_in_flight = 4).await;
    let gate = Arc::new(Semaphore::new(0));
    gateway.log.set(Mode::Held(Arc::clone(&gate)));
    let mut stream = open(&gateway).await;
    for sequence in 1..=20 {
        stream.requests.send(request(sequence)).await.expect("open");
    }
    let mut answered = 0;
    for allowed in 1..=20 {
        gate.add_permits(1);
        assert!(stream.answers.message().await.expect("no error").is_some());
        answered += 1;
        assert_eq!(gateway.spans().len(), allowed, "an answer means durable");
        assert!(gateway.handle.budget_used_bytes() < 5 * 400, "only a few are held");
    }
    assert_eq!(answered, 20);
    drop(stream.requests);
    assert!(stream.answers.message().await.expect("OK").is_none());
    gateway.stop().await;
}

/// Scenario: the log's buffers are full. Guarantee: the answer says RESOURCE_EXHAUSTED with a delay, in the stream.
#[tokio::test]
async fn a_full_log_is_told_in_the_stream() {
    let gateway = TestGateway::start().await;
    gateway.log.set(Mode::Full);
    let mut stream = open(&gateway).await;
    stream.requests.send(request(5)).await.expect("open");
    let answer = stream.answers.message().await.expect("no error").expect("an answer");
    let error = answer.error.expect("refused");
    assert_eq!((answer.sequence, error.code), (5, 8));
    assert!(error.retry_delay_ms > 0);
    drop(stream);
    gateway.stop().await;
}
