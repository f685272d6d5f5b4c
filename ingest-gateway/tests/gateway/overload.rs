//! Overload: the gateway sheds, tells senders when to return, loses nothing it acknowledged and stays in its budget.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Method;
use prost::Message as _;
use tokio::sync::Semaphore;

use crate::{
    client::{self, NATIVE, TRACES, framed, grpc, h1},
    fake_log::Mode,
    harness::{TestGateway, native_request, native_span, otlp_request, otlp_span},
};

/// Scenario: ten times the budget arrives at once while the log is slow. Guarantee: every request is either acknowledged
/// or refused with RESOURCE_EXHAUSTED and a delay; every acknowledged span is in the log; the budget is never passed
/// and whole again afterwards; then the gateway takes requests as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_budget() {
    const BUDGET: u64 = 1 << 20;
    let gateway = TestGateway::with(|config| {
        config.budget_bytes = BUDGET as usize;
        config.limits.max_body_bytes = BUDGET as usize;
    })
    .await;
    let gate = Arc::new(Semaphore::new(0));
    gateway.log.set(Mode::Held(Arc::clone(&gate)));
    let highest = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for connection in 0..8u64 {
        let sender = client::connect(gateway.grpc).await;
        for number in 0..14 {
            let (mut sender, handle, highest) =
                (sender.clone(), gateway.handle.clone(), Arc::clone(&highest));
            let first = (connection * 14 + number) * 1000;
            let spans = (first..first + 500).map(|number| native_span(number, &"x".repeat(100))).collect();
            let body = framed(&native_request(spans).encode_to_vec(), false);
            tasks.push(tokio::spawn(async move {
                let headers = [("content-type", "application/grpc")];
                let reply =
                    client::send(&mut sender, client::request(Method::POST, NATIVE, &headers, body)).await;
                highest.fetch_max(handle.budget_used_bytes(), Ordering::Relaxed);
                (first, reply)
            }));
        }
    }
    // The log stays silent until everything has been sent and most of it refused.
    while tasks.iter().filter(|task| task.is_finished()).count() < 80 {
        highest.fetch_max(gateway.handle.budget_used_bytes(), Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    gate.add_permits(100_000);
    let mut acknowledged = HashSet::new();
    for task in tasks {
        let (first, reply) = task.await.expect("no panic");
        match reply.code() {
            0 => acknowledged.extend((first..first + 500).map(|number| (number + 1).to_be_bytes().to_vec())),
            8 => {
                assert!(reply.retry_delay_ms().is_some_and(|delay| (250..=500).contains(&delay)), "{reply:?}")
            }
            other => panic!("code {other}: {}", reply.message()),
        }
    }
    let stored: HashSet<_> = gateway.spans().into_iter().map(|(_, span)| span.span_id).collect();
    assert!(!acknowledged.is_empty());
    assert!(acknowledged.is_subset(&stored), "an acknowledged span is missing");
    assert!(highest.load(Ordering::Relaxed) <= BUDGET);
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    let body = native_request(vec![native_span(1, "after")]).encode_to_vec();
    assert_eq!(grpc(gateway.grpc, NATIVE, &[], &body).await.code(), 0);
    gateway.stop().await;
}

/// Scenario: the log is full, the disk is full, the log is away. Guarantee: each protocol says so and when to return.
#[tokio::test]
async fn the_log_refuses() {
    let gateway = TestGateway::start().await;
    let message = otlp_request(vec![otlp_span(1, "x")]).encode_to_vec();
    for (mode, code, status, text) in [
        (Mode::Full, 8, 429, "full"),
        (Mode::DiskFull, 8, 429, "no space"),
        (Mode::Away, 14, 503, "no broker"),
    ] {
        gateway.log.set(mode);
        let reply = grpc(gateway.grpc, TRACES, &[], &message).await;
        assert_eq!(reply.code(), code);
        assert!(reply.message().contains(text), "{}", reply.message());
        assert!(reply.retry_delay_ms().is_some_and(|delay| delay >= 250));
        let headers = [("content-type", "application/x-protobuf")];
        let reply = h1(gateway.http, Method::POST, "/v1/traces", &headers, message.clone()).await;
        assert_eq!(reply.status, status);
        let seconds: u64 = reply.headers["retry-after"].to_str().expect("ASCII").parse().expect("seconds");
        assert!(seconds >= 1);
    }
    assert!(gateway.batches().is_empty());
    gateway.stop().await;
}

/// Scenario: a deadline shorter than the log takes. Guarantee: DEADLINE_EXCEEDED, and the budget is free once the log is
/// done with the records.
#[tokio::test]
async fn deadlines_are_honoured() {
    let gateway = TestGateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    gateway.log.set(Mode::Held(Arc::clone(&gate)));
    let message = otlp_request(vec![otlp_span(1, "x")]).encode_to_vec();
    let reply = grpc(gateway.grpc, TRACES, &[("grpc-timeout", "20m")], &message).await;
    assert_eq!(reply.code(), 4);
    assert_eq!(gateway.handle.budget_used_bytes(), 0);
    gateway.stop().await;
}

/// Scenario: the gateway's own patience ends before the log confirms. Guarantee: UNAVAILABLE, to be repeated.
#[tokio::test]
async fn an_unconfirmed_request_is_to_be_repeated() {
    let gateway = TestGateway::with(|config| config.request_timeout_ms = 20).await;
    gateway.log.set(Mode::Held(Arc::new(Semaphore::new(0))));
    let message = otlp_request(vec![otlp_span(1, "x")]).encode_to_vec();
    let reply = grpc(gateway.grpc, TRACES, &[], &message).await;
    assert_eq!(reply.code(), 14);
    assert!(reply.retry_delay_ms().is_some());
    assert!(tokio::time::timeout(Duration::from_secs(5), gateway.stop()).await.is_ok());
}
