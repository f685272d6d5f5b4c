//! `ExportStream`: many requests on one stream, each answered when it is durable.
//!
//! One state machine, polled by the connection as the response's body: no task of its own, so a stream that
//! goes away takes everything with it. Invariants: at most `stream_in_flight` requests wait for the log, then
//! the stream is not read; answers come in the order in which requests became durable; a refused request is
//! answered by its sequence and the stream goes on.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use infertrace_proto::v1::{ExportError, ExportResponse};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    body::Body,
    compression::Encoding,
    grpc,
    message::{Message, MessageReader, unpack},
};
use crate::{
    error::{Code, Refusal},
    ingest::{Content, Ingest, Submitted},
    parse::frames::sequence_of,
    telemetry::Protocol,
    tenant,
};

type Driver = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// The answers of one stream.
pub(crate) struct StreamBody {
    driver: Option<Driver>,
    answers: mpsc::Receiver<Bytes>,
    trailers: Option<HeaderMap>,
}

impl StreamBody {
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(result) = driver.as_mut().poll(context)
        {
            self.driver = None;
            self.trailers = Some(match result {
                Ok(()) => grpc::ok_trailers(),
                Err(refusal) => grpc::status_headers(&refusal),
            });
        }
        match self.answers.poll_recv(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Frame::data(answer))),
            // The driver holds the sender: the channel ends with it.
            Poll::Ready(None) => Poll::Ready(self.trailers.take().map(Frame::trailers)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Answers `ExportStream`; `stop` ends it politely.
pub(super) fn export(
    ingest: Arc<Ingest>,
    request: Request<Incoming>,
    stop: CancellationToken,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let checked = grpc::encoding_of(&head.headers).and_then(|encoding| {
        let tenant = tenant::from_headers(&head.headers);
        Ok((encoding, tenant.map_err(|error| Refusal::Invalid(error.to_string()))?.to_owned()))
    });
    let (encoding, tenant) = match checked {
        Ok(checked) => checked,
        Err(refusal) => return grpc::refuse(&ingest, &refusal),
    };
    let patience = Duration::from_millis(ingest.config.transport.stream_admission_ms);
    let (sender, answers) = mpsc::channel(ingest.config.transport.stream_in_flight);
    let driver = drive(ingest, MessageReader::new(body, patience), encoding, tenant, stop, sender);
    let body = StreamBody { driver: Some(Box::pin(driver)), answers, trailers: None };
    grpc::stream_response(Body::Stream(Box::new(body)))
}

async fn drive(
    ingest: Arc<Ingest>,
    mut reader: MessageReader,
    encoding: Encoding,
    tenant: String,
    stop: CancellationToken,
    answers: mpsc::Sender<Bytes>,
) -> Result<(), Refusal> {
    let mut in_flight = FuturesUnordered::new();
    let mut end: Option<Result<(), Refusal>> = None;
    loop {
        let may_read = end.is_none() && in_flight.len() < ingest.config.transport.stream_in_flight;
        tokio::select! {
            biased;
            Some(response) = in_flight.next(), if !in_flight.is_empty() => {
                let response: ExportResponse = response;
                let framed = grpc::prefixed(&response.encode_to_vec());
                if answers.send(framed).await.is_err() {
                    return Ok(());
                }
            }
            () = stop.cancelled(), if end.is_none() => {
                end = Some(Err(Refusal::Unavailable {
                    message: "the gateway closes this connection; open another".into(),
                    retry_after: Duration::ZERO,
                }));
            }
            message = reader.next(&ingest), if may_read => match message {
                Ok(Some(message)) => {
                    let started = Instant::now();
                    let received = message.data.len() as u64;
                    let (sequence, submitted) = submit(&ingest, message, encoding, &tenant).await;
                    in_flight.push(answer(Arc::clone(&ingest), started, received, sequence, submitted));
                }
                Ok(None) => end = Some(Ok(())),
                Err(refusal) => end = Some(Err(refusal)),
            },
            else => break,
        }
    }
    end.unwrap_or(Ok(()))
}

async fn submit(
    ingest: &Ingest,
    message: Message,
    encoding: Encoding,
    tenant: &str,
) -> (u64, Result<Submitted, Refusal>) {
    match unpack(message, encoding, ingest).await {
        Ok(Message { data, permit, .. }) => {
            let submitted = ingest.submit(Content::Native, Protocol::native_stream, &data, permit, tenant);
            let sequence = if submitted.is_err() { sequence_of(&data) } else { 0 };
            (sequence, submitted)
        }
        Err(refusal) => (0, Err(refusal)),
    }
}

async fn answer(
    ingest: Arc<Ingest>,
    started: Instant,
    received: u64,
    sequence: u64,
    submitted: Result<Submitted, Refusal>,
) -> ExportResponse {
    // A refused request is told its sequence too, also when the log refused it after it was taken.
    let (sequence, result) = match submitted {
        Ok(submitted) => {
            let sequence = submitted.sequence();
            let limit = Duration::from_millis(ingest.config.request_timeout_ms);
            let result = tokio::time::timeout(limit, ingest.acknowledge(submitted)).await;
            (
                sequence,
                result.unwrap_or_else(|_| {
                    Err(Refusal::Unavailable {
                        message: "the log did not confirm in time; send again".into(),
                        retry_after: ingest.flow.delay(),
                    })
                }),
            )
        }
        Err(refusal) => (sequence, Err(refusal)),
    };
    let code = result.as_ref().map_or_else(Refusal::code, |_| Code::Ok);
    ingest.telemetry.answered(Protocol::native_stream, code, started.elapsed().as_secs_f64(), received);
    match result {
        Ok(answer) => ingest.native_response(answer),
        Err(refusal) => {
            let retry_delay_ms = refusal.retry_after().map_or(0, |delay| (delay.as_millis() as u64).max(1));
            if retry_delay_ms > 0 {
                ingest.telemetry.retry_told(refusal.code().as_str());
            }
            ExportResponse {
                sequence,
                error: Some(ExportError { code: code as i32, message: refusal.to_string(), retry_delay_ms }),
                ..ExportResponse::default()
            }
        }
    }
}
