//! Hostile and clumsy connections.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::{self, NATIVE, TRACES, framed, grpc},
    harness::{TestGateway, native_request, native_span, otlp_request, otlp_span},
};

/// Scenario: thousands of tiny requests at once on one connection. Guarantee: all are answered.
#[tokio::test]
async fn a_flood_of_small_messages_is_served() {
    let gateway = TestGateway::start().await;
    let sender = client::connect(gateway.grpc).await;
    let tasks: Vec<_> = (0..2000u64)
        .map(|number| {
            let mut sender = sender.clone();
            let body = framed(&native_request(vec![native_span(number, "x")]).encode_to_vec(), false);
            tokio::spawn(async move {
                let headers = [("content-type", "application/grpc")];
                client::send(&mut sender, client::request(Method::POST, NATIVE, &headers, body)).await.code()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), 0);
    }
    assert_eq!(gateway.spans().len(), 2000);
    gateway.stop().await;
}

/// Scenario: a client opens streams and resets them as fast as it can (rapid reset). Guarantee: its connection is cut or
/// the streams are dropped, others are served, nothing stays in the budget.
#[tokio::test]
async fn a_flood_of_resets_harms_only_itself() {
    let gateway = TestGateway::start().await;
    let stream = TcpStream::connect(gateway.grpc).await.expect("the gateway listens");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for _ in 0..5000 {
        sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(_) => break,
        };
        let request = http::Request::post(format!("http://gateway{TRACES}"))
            .header("content-type", "application/grpc")
            .body(())
            .expect("a request");
        let Ok((_, mut body)) = sender.send_request(request, false) else { break };
        drop(body.send_data(Bytes::from_static(&[0, 0, 1, 0, 0]), false));
        body.send_reset(h2::Reason::CANCEL);
        break_if_closed(&connection);
    }
    let reply = grpc(gateway.grpc, TRACES, &[], &otlp_request(vec![otlp_span(1, "x")]).encode_to_vec()).await;
    assert_eq!(reply.code(), 0);
    connection.abort();
    drop(connection.await);
    while gateway.handle.budget_used_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    gateway.stop().await;
}

fn break_if_closed<T>(connection: &tokio::task::JoinHandle<T>) {
    // Only to keep the handle in use: a closed connection shows at the next `ready`.
    let _ = connection.is_finished();
}

/// Scenario: a body that stops halfway, over gRPC and HTTP/1.1. Guarantee: refused after `body_timeout_ms`, and its part
/// of the budget is free again.
#[tokio::test]
async fn a_slow_body_is_refused() {
    let gateway = TestGateway::with(|config| config.transport.body_timeout_ms = 50).await;
    let stream = TcpStream::connect(gateway.grpc).await.expect("the gateway listens");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let (chunks, receiver) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, std::io::Error>>(4);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed();
    chunks.send(Ok(http_body::Frame::data(Bytes::from_static(&[0, 0, 1, 0, 0, 9])))).await.expect("open");
    let request = http::Request::post(format!("http://gateway{TRACES}"))
        .header("content-type", "application/grpc")
        .body(body)
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    let mut stream = TcpStream::connect(gateway.http).await.expect("the gateway listens");
    let head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head).await.expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    gateway.stop().await;
}

/// Scenario: connections that say nothing, or only a little, and more connections than allowed. Guarantee: the silent are
/// closed after `header_timeout_ms`, those past the limit at once, and a place that is free again can be taken.
#[tokio::test]
async fn idle_and_surplus_connections_are_closed() {
    let gateway = TestGateway::with(|config| {
        config.transport.header_timeout_ms = 50;
        config.transport.max_connections = 2;
    })
    .await;
    for part in [&b""[..], b"P", b"POST / HT"] {
        let mut stream = TcpStream::connect(gateway.http).await.expect("the gateway listens");
        stream.write_all(part).await.expect("open");
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "closed after {part:?}");
    }
    let mut first = client::connect(gateway.grpc).await;
    let second = client::connect(gateway.grpc).await;
    let message = framed(&otlp_request(vec![otlp_span(1, "x")]).encode_to_vec(), false);
    let headers = [("content-type", "application/grpc")];
    let reply =
        client::send(&mut first, client::request(Method::POST, TRACES, &headers, message.clone())).await;
    assert_eq!(reply.code(), 0);
    let mut third = TcpStream::connect(gateway.grpc).await.expect("the backlog takes it");
    // Closed without a word: end of stream or reset.
    assert!(matches!(third.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    drop(second);
    loop {
        // The place is free as soon as the gateway has seen the end of the second connection.
        let mut stream = TcpStream::connect(gateway.http).await.expect("the backlog takes it");
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        if stream.write_all(request).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && !answer.is_empty()
        {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            break;
        }
    }
    drop(first);
    gateway.stop().await;
}

/// Scenario: headers larger than allowed. Guarantee: refused, the connection of others is untouched.
#[tokio::test]
async fn large_headers_are_refused() {
    let gateway = TestGateway::start().await;
    let mut sender = client::connect(gateway.grpc).await;
    let large = "x".repeat(40_000);
    let headers = [("content-type", "application/grpc"), ("x-large", &*large)];
    sender.ready().await.expect("open");
    match sender.send_request(client::request(Method::POST, TRACES, &headers, "")).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let reply = grpc(gateway.grpc, TRACES, &[], &[]).await;
    assert_eq!(reply.code(), 0);
    gateway.stop().await;
}

/// Scenario: a connection older than `max_connection_age_ms`. Guarantee: GOAWAY, what is in flight is answered, the client
/// sees an orderly end.
#[tokio::test]
async fn old_connections_are_asked_to_close() {
    let gateway = TestGateway::with(|config| config.transport.max_connection_age_ms = 30).await;
    let stream = TcpStream::connect(gateway.grpc).await.expect("the gateway listens");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ended = tokio::time::timeout(Duration::from_secs(5), connection).await.expect("an end");
    assert!(ended.is_ok(), "an orderly end: {ended:?}");
    drop(sender);
    gateway.stop().await;
}
