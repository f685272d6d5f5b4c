//! A plain HTTP client that sends exactly the bytes it is given.

use std::net::SocketAddr;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

pub const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
pub const NATIVE: &str = "/infertrace.v1.IngestService/Export";

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// `grpc-status`, wherever it stands.
    pub fn code(&self) -> i32 {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        value.expect("a grpc-status").to_str().expect("ASCII").parse().expect("a number")
    }

    pub fn message(&self) -> String {
        let value = self.trailers.get("grpc-message").or_else(|| self.headers.get("grpc-message"));
        value.map_or_else(String::new, |value| value.to_str().expect("ASCII").to_owned())
    }

    /// The message behind the gRPC prefix.
    pub fn decode<M: Message + Default>(&self) -> M {
        assert_eq!(self.code(), 0, "{}", self.message());
        M::decode(&self.body[5..]).expect("a message")
    }

    /// The delay of `google.rpc.RetryInfo` in milliseconds.
    pub fn retry_delay_ms(&self) -> Option<u64> {
        #[derive(Clone, PartialEq, prost::Message)]
        struct RetryInfo {
            #[prost(message, optional, tag = "1")]
            retry_delay: Option<Delay>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Delay {
            #[prost(int64, tag = "1")]
            seconds: i64,
            #[prost(int32, tag = "2")]
            nanos: i32,
        }
        let value = self.headers.get("grpc-status-details-bin")?;
        let bytes =
            base64::engine::general_purpose::STANDARD_NO_PAD.decode(value.as_bytes()).expect("base64");
        let status = Status::decode(&*bytes).expect("google.rpc.Status");
        assert_eq!(status.code, self.code());
        let any = status.details.first()?;
        assert_eq!(any.type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let delay = RetryInfo::decode(&*any.value).expect("RetryInfo").retry_delay.expect("a delay");
        Some(delay.seconds as u64 * 1000 + delay.nanos as u64 / 1_000_000)
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

pub type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 connection.
pub async fn connect(addr: SocketAddr) -> Sender {
    let stream = TcpStream::connect(addr).await.expect("the gateway listens");
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

pub fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("http://gateway{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).expect("a request")
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.expect("a whole answer");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Reply { status: head.status, headers: head.headers, trailers, body: collected.to_bytes() }
}

pub async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> Reply {
    sender.ready().await.expect("an open connection");
    read(sender.send_request(request).await.expect("an answer")).await
}

/// One request over HTTP/2.
pub async fn h2(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    send(&mut connect(addr).await, request(method, path, headers, body)).await
}

/// One request over HTTP/1.1.
pub async fn h1(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let stream = TcpStream::connect(addr).await.expect("the gateway listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    read(sender.send_request(request(method, path, headers, body)).await.expect("an answer")).await
}

/// A gRPC message with its prefix.
pub fn framed(message: &[u8], compressed: bool) -> Vec<u8> {
    let mut out = vec![u8::from(compressed)];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// One unary gRPC call with raw message bytes.
pub async fn grpc(addr: SocketAddr, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Reply {
    let compressed = headers.iter().any(|(name, _)| *name == "grpc-encoding");
    let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
    all.extend_from_slice(headers);
    h2(addr, Method::POST, path, &all, framed(message, compressed)).await
}
