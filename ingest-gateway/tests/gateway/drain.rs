//! Shutdown: what was begun is finished, nothing new is taken.

use std::{sync::Arc, time::Duration};

use infertrace_gateway::Error;
use infertrace_proto::v1::ingest_service_client::IngestServiceClient;
use prost::Message as _;
use tokio::{net::TcpStream, sync::Semaphore};

use crate::{
    client::{TRACES, grpc},
    fake_log::Mode,
    harness::{TestGateway, native_request, native_span, otlp_request, otlp_span},
};

/// Scenario: shutdown while a request waits for the log and a stream is open. Guarantee: the request is acknowledged, the
/// stream is told to go elsewhere, the ports close, `run` returns without an error.
#[tokio::test]
async fn requests_in_flight_are_finished() {
    let gateway = TestGateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut client = IngestServiceClient::connect(format!("http://{}", gateway.grpc)).await.expect("HTTP/2");
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let mut answers = client
        .export_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
        .await
        .expect("a stream")
        .into_inner();
    requests.send(native_request(vec![native_span(1, "streamed")])).await.expect("open");
    assert!(answers.message().await.expect("an answer").is_some());
    gateway.log.set(Mode::Held(Arc::clone(&gate)));
    let addr = gateway.grpc;
    let message = otlp_request(vec![otlp_span(2, "unary")]).encode_to_vec();
    let request = tokio::spawn(async move { grpc(addr, TRACES, &[], &message).await });
    while gateway.handle.budget_used_bytes() == 0 && !request.is_finished() {
        tokio::task::yield_now().await;
    }
    gateway.shutdown.cancel();
    let status = answers.message().await.expect_err("told to go");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(gateway.handle.ready().await.is_err());
    gate.add_permits(10);
    assert_eq!(request.await.expect("no panic").code(), 0);
    drop((client, requests));
    gateway.task.await.expect("no panic").expect("drained");
    assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
}

/// Scenario: the log never confirms. Guarantee: the drain ends at its deadline and says how many were cut.
#[tokio::test]
async fn the_drain_has_a_deadline() {
    let gateway = TestGateway::with(|config| config.drain_timeout_ms = 50).await;
    gateway.log.set(Mode::Held(Arc::new(Semaphore::new(0))));
    let addr = gateway.grpc;
    let message = otlp_request(vec![otlp_span(2, "unary")]).encode_to_vec();
    let request = tokio::spawn(async move { grpc(addr, TRACES, &[], &message).await });
    while gateway.handle.budget_used_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.shutdown.cancel();
    let result = tokio::time::timeout(Duration::from_secs(10), gateway.task).await.expect("an end");
    assert!(matches!(result.expect("no panic"), Err(Error::DrainTimeout { connections: 1 })));
    assert!(request.await.is_err(), "the client saw its connection end");
}
