//! gRPC over HTTP/2, written by hand for the unary calls: status, trailers, deadlines, error details.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use infertrace_schemas::wire::{put_bytes_field, put_varint_field};
use prost::Message as _;

use super::{
    body::Body,
    compression::{ACCEPTED, Encoding},
    message::{MessageReader, unpack},
};
use crate::{
    error::{Code, Refusal},
    ingest::{Answer, Content, Ingest},
    parse::Rejections,
    telemetry::Protocol,
    tenant,
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
const GRPC_DETAILS: &str = "grpc-status-details-bin";
const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

/// The unary calls that carry data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Native,
    OtlpTraces,
    OtlpMetrics,
}

impl Call {
    const fn content(self) -> Content {
        match self {
            Self::Native => Content::Native,
            Self::OtlpTraces => Content::OtlpTraces,
            Self::OtlpMetrics => Content::OtlpMetrics,
        }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Native => Protocol::native,
            Self::OtlpTraces => Protocol::otlp_grpc,
            Self::OtlpMetrics => Protocol::otlp_metrics,
        }
    }
}

/// Answers a unary call.
pub(super) async fn unary(ingest: Arc<Ingest>, call: Call, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let mut received = 0;
    let limit = Duration::from_millis(ingest.config.request_timeout_ms);
    let deadline = deadline_of(request.headers());
    let timeout = deadline.map_or(limit, |deadline| deadline.min(limit));
    let result = tokio::time::timeout(timeout, handle(&ingest, call, request, &mut received)).await;
    let result = match result {
        Ok(result) => result,
        Err(_) if deadline.is_some_and(|deadline| deadline <= limit) => Err(Refusal::DeadlineExceeded),
        Err(_) => Err(Refusal::Unavailable {
            message: "the log did not confirm in time; send again".into(),
            retry_after: ingest.flow.delay(),
        }),
    };
    let code = result.as_ref().map_or_else(Refusal::code, |_| Code::Ok);
    ingest.telemetry.answered(call.protocol(), code, started.elapsed().as_secs_f64(), received);
    match result {
        Ok(message) => message_response(&message),
        Err(refusal) => refuse(&ingest, &refusal),
    }
}

async fn handle(
    ingest: &Ingest,
    call: Call,
    request: Request<Incoming>,
    received: &mut u64,
) -> Result<Bytes, Refusal> {
    ingest.admit()?;
    let (head, body) = request.into_parts();
    let encoding = encoding_of(&head.headers)?;
    let tenant = tenant::from_headers(&head.headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let mut reader = MessageReader::new(body, Duration::ZERO);
    let patience = Duration::from_millis(ingest.config.transport.body_timeout_ms);
    let read = async {
        let message = reader.next(ingest).await?;
        let message = message.ok_or_else(|| Refusal::Invalid("a unary request without a message".into()))?;
        reader.expect_end(ingest).await?;
        Ok::<_, Refusal>(message)
    };
    let message = tokio::time::timeout(patience, read).await.map_err(|_| Refusal::SlowBody(patience))??;
    *received = message.data.len() as u64;
    let message = unpack(message, encoding, ingest).await?;
    let submitted = ingest.submit(call.content(), call.protocol(), &message.data, message.permit, tenant)?;
    drop(message.data);
    drop(reader);
    let answer = ingest.acknowledge(submitted).await?;
    Ok(match call {
        Call::Native => ingest.native_response(answer).encode_to_vec().into(),
        Call::OtlpTraces | Call::OtlpMetrics => otlp_response(&answer, ingest).into(),
    })
}

/// `ExportTraceServiceResponse`, or the one of metrics, which is encoded alike.
pub(super) fn otlp_response(answer: &Answer, ingest: &Ingest) -> Vec<u8> {
    let mut out = Vec::new();
    if answer.rejections.total() > 0 {
        let mut partial = Vec::new();
        put_varint_field(&mut partial, 1, answer.rejections.total());
        put_bytes_field(&mut partial, 2, rejection_message(&answer.rejections, ingest).as_bytes());
        put_bytes_field(&mut out, 1, &partial);
    }
    out
}

/// The sentence for OTLP's `error_message`.
pub(super) fn rejection_message(rejections: &Rejections, ingest: &Ingest) -> String {
    rejections.summary(&ingest.config.limits)
}

/// Answers `GetPartitionMap`.
pub(super) async fn partition_map(ingest: Arc<Ingest>, request: Request<Incoming>) -> Response<Body> {
    let patience = Duration::from_millis(ingest.config.transport.body_timeout_ms);
    let mut reader = MessageReader::new(request.into_body(), Duration::ZERO);
    let read = tokio::time::timeout(patience, reader.next(&ingest)).await;
    let result = match read {
        Ok(Ok(_)) => ingest.flow.partition_map(),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::SlowBody(patience)),
    };
    match result {
        Ok(map) => message_response(&map.encode_to_vec()),
        Err(refusal) => refuse(&ingest, &refusal),
    }
}

/// A message with its prefix.
pub(super) fn prefixed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn message_response(message: &[u8]) -> Response<Body> {
    let mut response = Response::new(Body::Unary(prefixed(message)));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The headers with which a stream of answers begins.
pub(super) fn stream_response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The trailers of success.
pub(super) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// A response that is only a status.
pub(super) fn refuse(ingest: &Ingest, refusal: &Refusal) -> Response<Body> {
    if refusal.retry_after().is_some() {
        ingest.telemetry.retry_told(refusal.code().as_str());
    }
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = status_headers(refusal);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// `grpc-status` and what explains it, as headers or trailers.
pub(super) fn status_headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    let message = refusal.to_string();
    headers.insert(GRPC_STATUS, HeaderValue::from(refusal.code() as i32));
    if let Ok(value) = HeaderValue::try_from(percent_encode(&message)) {
        headers.insert(GRPC_MESSAGE, value);
    }
    if let Some(delay) = refusal.retry_after() {
        let details = STANDARD_NO_PAD.encode(retry_status(refusal.code(), &message, delay));
        if let Ok(value) = HeaderValue::try_from(details) {
            headers.insert(GRPC_DETAILS, value);
        }
    }
    if refusal.code() == Code::Unimplemented {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
    }
    headers
}

/// A `google.rpc.Status` with a `RetryInfo`, or without one when there is no delay to tell.
pub(super) fn retry_status(code: Code, message: &str, delay: Duration) -> Vec<u8> {
    let mut duration = Vec::new();
    if delay.as_secs() > 0 {
        put_varint_field(&mut duration, 1, delay.as_secs());
    }
    if delay.subsec_nanos() > 0 {
        put_varint_field(&mut duration, 2, u64::from(delay.subsec_nanos()));
    }
    let mut retry_info = Vec::new();
    put_bytes_field(&mut retry_info, 1, &duration);
    let mut any = Vec::new();
    put_bytes_field(&mut any, 1, RETRY_INFO);
    put_bytes_field(&mut any, 2, &retry_info);
    let mut status = plain_status(code, message);
    put_bytes_field(&mut status, 3, &any);
    status
}

/// A `google.rpc.Status` without details.
pub(super) fn plain_status(code: Code, message: &str) -> Vec<u8> {
    let mut status = Vec::new();
    put_varint_field(&mut status, 1, code as u64);
    put_bytes_field(&mut status, 2, message.as_bytes());
    status
}

fn percent_encode(message: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(message.len());
    for &byte in message.as_bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes every write");
        }
    }
    encoded
}

/// How the request's messages are compressed.
pub(super) fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let Some(name) = headers.get("grpc-encoding") else { return Ok(Encoding::Identity) };
    Encoding::from_name(name.as_bytes()).ok_or_else(|| {
        Refusal::Unimplemented(format!(
            "grpc-encoding {} is not supported, only {ACCEPTED}",
            String::from_utf8_lossy(name.as_bytes())
        ))
    })
}

/// `grpc-timeout`: up to eight digits and a unit. An unreadable one counts as none.
fn deadline_of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every unit of `grpc-timeout`, and nonsense. Guarantee: read as the specification says, nonsense ignored.
    #[test]
    fn deadlines_are_read() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().expect("visible ASCII"));
            deadline_of(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for nonsense in ["", "S", "1", "-1S", "123456789S", "1x"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    /// Scenario: a message with a percent sign, a line break and a letter outside ASCII. Guarantee: a legal header value.
    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("50%\nµ"), "50%25%0A%C2%B5");
    }
}
