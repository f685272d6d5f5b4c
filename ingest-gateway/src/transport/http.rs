//! OTLP over HTTP, protobuf and JSON, and the two probes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{
    body::Body,
    compression::Encoding,
    grpc::{otlp_response, plain_status, rejection_message, retry_status},
    message::{read_body, unpack},
};
use crate::{
    error::{Code, Refusal},
    ingest::{Answer, Content, Ingest},
    parse::json::Signal,
    telemetry::Protocol,
    tenant,
};

/// What is read of a refused HTTP/1 body, and for how long.
const DISCARDED_BYTES: usize = 4 << 20;
const DISCARD_PATIENCE: Duration = Duration::from_secs(1);

/// How a body is written, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

impl Format {
    /// By `content-type`, whatever its parameters.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-protobuf")
            || essence.eq_ignore_ascii_case("application/protobuf")
        {
            Some(Self::Protobuf)
        } else if essence.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }

    const fn header(self) -> HeaderValue {
        match self {
            Self::Protobuf => HeaderValue::from_static("application/x-protobuf"),
            Self::Json => HeaderValue::from_static("application/json"),
        }
    }
}

/// Answers `POST /v1/traces` and `POST /v1/metrics`.
pub(super) async fn export(
    ingest: Arc<Ingest>,
    signal: Signal,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let format = Format::of(request.headers());
    let protocol = match (signal, format) {
        (Signal::Metrics, _) => Protocol::otlp_metrics,
        (Signal::Traces, Some(Format::Json)) => Protocol::otlp_http_json,
        (Signal::Traces, _) => Protocol::otlp_http_protobuf,
    };
    let mut received = 0;
    let limit = Duration::from_millis(ingest.config.request_timeout_ms);
    let (head, mut body) = request.into_parts();
    let handled = handle(&ingest, signal, format, protocol, &head, &mut body, &mut received);
    let result = tokio::time::timeout(limit, handled).await.unwrap_or_else(|_| {
        Err(Refusal::Unavailable {
            message: "the log did not confirm in time; send again".into(),
            retry_after: ingest.flow.delay(),
        })
    });
    let code = result.as_ref().map_or_else(Refusal::code, |_| Code::Ok);
    ingest.telemetry.answered(protocol, code, started.elapsed().as_secs_f64(), received);
    if head.version < Version::HTTP_2
        && let Err(Refusal::OverBudget { .. } | Refusal::Invalid(_) | Refusal::UnsupportedMedia(_)) = &result
    {
        discard(&mut body).await;
    }
    let format = format.unwrap_or(Format::Json);
    match result {
        Ok(answer) => success(&ingest, format, signal, &answer),
        Err(refusal) => refuse(&ingest, format, &refusal),
    }
}

async fn handle(
    ingest: &Ingest,
    signal: Signal,
    format: Option<Format>,
    protocol: Protocol,
    head: &Parts,
    body: &mut Incoming,
    received: &mut u64,
) -> Result<Answer, Refusal> {
    if head.method != Method::POST {
        return Err(Refusal::MethodNotAllowed { method: head.method.to_string() });
    }
    let format = format.ok_or_else(|| {
        Refusal::UnsupportedMedia("content-type must be application/x-protobuf or application/json".into())
    })?;
    ingest.admit()?;
    let encoding = match head.headers.get(CONTENT_ENCODING) {
        None => Encoding::Identity,
        Some(name) => Encoding::from_name(name.as_bytes()).ok_or_else(|| {
            Refusal::UnsupportedMedia("content-encoding must be gzip, zstd, snappy or identity".into())
        })?,
    };
    let tenant = tenant::from_headers(&head.headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let content_length = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let message = read_body(body, content_length, ingest).await?;
    *received = message.data.len() as u64;
    let message = unpack(message, encoding, ingest).await?;
    let content = match (format, signal) {
        (Format::Json, signal) => Content::OtlpJson(signal),
        (Format::Protobuf, Signal::Traces) => Content::OtlpTraces,
        (Format::Protobuf, Signal::Metrics) => Content::OtlpMetrics,
    };
    let submitted = ingest.submit(content, protocol, &message.data, message.permit, tenant)?;
    drop(message.data);
    ingest.acknowledge(submitted).await
}

/// Reads on past a refusal, a bounded while. Closing an HTTP/1 connection on a sender that still writes resets it, and the
/// sender may never see why it was refused.
async fn discard(body: &mut Incoming) {
    let read = async {
        let mut left = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Out of time is out of patience: the answer is sent all the same.
    drop(tokio::time::timeout(DISCARD_PATIENCE, read).await);
}

fn respond(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn success(ingest: &Ingest, format: Format, signal: Signal, answer: &Answer) -> Response<Body> {
    let body = match format {
        Format::Protobuf => otlp_response(answer, ingest),
        Format::Json if answer.rejections.total() == 0 => b"{}".to_vec(),
        Format::Json => {
            let rejected = match signal {
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
            };
            serde_json::json!({"partialSuccess": {
                rejected: answer.rejections.total().to_string(),
                "errorMessage": rejection_message(&answer.rejections, ingest),
            }})
            .to_string()
            .into_bytes()
        }
    };
    respond(StatusCode::OK, format.header(), body)
}

/// A `google.rpc.Status` in the format of the request.
fn refuse(ingest: &Ingest, format: Format, refusal: &Refusal) -> Response<Body> {
    let (code, message) = (refusal.code(), refusal.to_string());
    let body = match (format, refusal.retry_after()) {
        (Format::Json, _) => {
            serde_json::json!({"code": code as i32, "message": message}).to_string().into_bytes()
        }
        (Format::Protobuf, Some(delay)) => retry_status(code, &message, delay),
        (Format::Protobuf, None) => plain_status(code, &message),
    };
    let mut response = respond(refusal.http_status(), format.header(), body);
    if let Some(delay) = refusal.retry_after() {
        ingest.telemetry.retry_told(code.as_str());
        let seconds = delay.as_millis().div_ceil(1000).max(1) as u64;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Refusal::MethodNotAllowed { .. } = refusal {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// Answers a path that is not served, in the format of the request.
pub(super) fn not_served(ingest: &Ingest, headers: &HeaderMap, refusal: &Refusal) -> Response<Body> {
    refuse(ingest, Format::of(headers).unwrap_or(Format::Json), refusal)
}

/// Answers `GET /healthz`: the process serves.
pub(super) fn healthz() -> Response<Body> {
    respond(StatusCode::OK, HeaderValue::from_static("text/plain"), "ok\n")
}

/// Answers `GET /readyz`: 200 only when spans would be durable now.
pub(super) async fn readyz(ingest: Arc<Ingest>) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    match ingest.ready().await {
        Ok(()) => respond(StatusCode::OK, plain, "ready\n"),
        Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, plain, format!("not ready: {reason}\n")),
    }
}
