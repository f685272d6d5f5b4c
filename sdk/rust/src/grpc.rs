//! A small gRPC client for messages that are already bytes: unary calls over HTTP/2 (plain text).
//!
//! Generated clients encode message objects into a buffer; here the request's chunks go to the socket as they
//! are. The load generator uses it for OTLP too. Invariants: a call sends each chunk once and in order; a
//! connection that failed or fell silent is dropped and made anew by the next call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use tokio::{net::TcpSocket, sync::Mutex, time::timeout};

use crate::{ClientError, Code, Status, retry::retry_delay_of};

/// How connections are made.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// Connections, used in turn.
    pub connections: usize,
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// Socket send buffer; 0 leaves the system's.
    pub send_buffer_bytes: u32,
    /// Headers of every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl ChannelConfig {
    /// One connection to `endpoint`, defaults otherwise.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            connections: 1,
            connect_timeout: Duration::from_secs(5),
            send_buffer_bytes: 0,
            headers: Vec::new(),
        }
    }
}

/// Connections to one server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Channel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ChannelConfig,
    authority: String,
    slots: Vec<Mutex<Slot>>,
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct Slot {
    sender: Option<SendRequest<Bytes>>,
    /// Tells a failed call whether the connection it used is still the one in the slot.
    generation: u64,
}

/// One request: gRPC framing is added by the channel.
#[derive(Clone, Debug)]
pub struct Message {
    /// `grpc-encoding`, when the chunks are compressed.
    pub encoding: Option<&'static str>,
    /// The message's bytes in pieces.
    pub chunks: Vec<Bytes>,
}

impl Message {
    /// An uncompressed message.
    #[must_use]
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { encoding: None, chunks: vec![bytes.into()] }
    }

    /// Bytes of all chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Channel {
    /// Checks the configuration; connects when first used.
    ///
    /// # Errors
    /// [`ClientError::BadEndpoint`].
    pub fn new(config: ChannelConfig) -> Result<Self, ClientError> {
        let authority = authority_of(&config.endpoint)?;
        let slots = (0..config.connections.max(1)).map(|_| Mutex::default()).collect();
        Ok(Self { shared: Arc::new(Shared { config, authority, slots, next: AtomicUsize::new(0) }) })
    }

    /// Makes the first connection now.
    ///
    /// # Errors
    /// `UNAVAILABLE` with the reason.
    pub async fn connect(&self) -> Result<(), Status> {
        self.sender(0).await.map(|_| ())
    }

    /// Calls `path` (`/package.Service/Method`) and returns the answer's message.
    ///
    /// # Errors
    /// The server's status; `UNAVAILABLE` for broken connections; `DEADLINE_EXCEEDED` after `limit`.
    pub async fn unary(&self, path: &str, message: &Message, limit: Duration) -> Result<Bytes, Status> {
        let slot = self.shared.next.fetch_add(1, Ordering::Relaxed) % self.shared.slots.len();
        self.unary_on(slot, path, message, limit).await
    }

    /// As [`unary`](Self::unary), on connection `slot`.
    ///
    /// # Errors
    /// As there.
    pub async fn unary_on(
        &self,
        slot: usize,
        path: &str,
        message: &Message,
        limit: Duration,
    ) -> Result<Bytes, Status> {
        let slot = slot % self.shared.slots.len();
        let mut generation = None;
        let call = async {
            let (sender, of) = self.sender(slot).await?;
            generation = Some(of);
            self.call(sender, path, message, limit).await
        };
        let answer = timeout(limit, call).await.unwrap_or_else(|_| {
            let text = format!("no answer within {} ms", limit.as_millis());
            Err(Status::new(Code::DEADLINE_EXCEEDED, text))
        });
        if let Err(status) = &answer
            && matches!(status.code, Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED)
            && status.retry_delay.is_none()
        {
            self.forget(slot, generation).await;
        }
        answer
    }

    async fn sender(&self, slot: usize) -> Result<(SendRequest<Bytes>, u64), Status> {
        let mut slot = self.shared.slots[slot].lock().await;
        if let Some(sender) = &slot.sender {
            return Ok((sender.clone(), slot.generation));
        }
        let sender = connect(&self.shared.config, &self.shared.authority).await?;
        slot.sender = Some(sender.clone());
        slot.generation += 1;
        Ok((sender, slot.generation))
    }

    async fn forget(&self, slot: usize, generation: Option<u64>) {
        let mut slot = self.shared.slots[slot].lock().await;
        if generation == Some(slot.generation) {
            slot.sender = None;
        }
    }

    async fn call(
        &self,
        sender: SendRequest<Bytes>,
        path: &str,
        message: &Message,
        limit: Duration,
    ) -> Result<Bytes, Status> {
        let request = self.request(path, message.encoding, limit)?;
        let mut sender = sender.ready().await.map_err(broken)?;
        let (response, mut stream) = sender.send_request(request, false).map_err(broken)?;
        let mut prefix = [0u8; 5];
        prefix[0] = u8::from(message.encoding.is_some());
        let length = u32::try_from(message.len())
            .map_err(|_| Status::new(Code::INVALID_ARGUMENT, "a message of 4 GiB or more"))?;
        prefix[1..].copy_from_slice(&length.to_be_bytes());
        stream.send_data(Bytes::copy_from_slice(&prefix), message.chunks.is_empty()).map_err(broken)?;
        for (index, chunk) in message.chunks.iter().enumerate() {
            let last = index + 1 == message.chunks.len();
            if stream.send_data(chunk.clone(), last).is_err() {
                break; // the server answered early; its answer says why
            }
        }
        read_answer(response.await.map_err(broken)?).await
    }

    fn request(
        &self,
        path: &str,
        encoding: Option<&'static str>,
        limit: Duration,
    ) -> Result<Request<()>, Status> {
        let uri = format!("http://{}{path}", self.shared.authority);
        let mut request = Request::post(uri)
            .header("te", HeaderValue::from_static("trailers"))
            .header("content-type", HeaderValue::from_static("application/grpc"))
            .header("grpc-timeout", format!("{}m", limit.as_millis().clamp(1, 99_999_999)));
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", HeaderValue::from_static(encoding));
        }
        for (name, value) in &self.shared.config.headers {
            request = request.header(name, value);
        }
        request.body(()).map_err(|error| Status::new(Code::INVALID_ARGUMENT, error.to_string()))
    }
}

fn authority_of(endpoint: &str) -> Result<String, ClientError> {
    let bad = |reason| ClientError::BadEndpoint { endpoint: endpoint.to_owned(), reason };
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let uri: Uri = with_scheme.parse().map_err(|_| bad("not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("only http:// is supported by this client"));
    }
    let authority = uri.authority().ok_or_else(|| bad("no host"))?;
    let port = authority.port_u16().unwrap_or(4317);
    Ok(format!("{}:{port}", authority.host()))
}

async fn connect(config: &ChannelConfig, authority: &str) -> Result<SendRequest<Bytes>, Status> {
    let connecting = async {
        let mut last = None;
        for address in tokio::net::lookup_host(authority).await? {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_nodelay(true)?;
            if config.send_buffer_bytes > 0 {
                socket.set_send_buffer_size(config.send_buffer_bytes)?;
            }
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| std::io::Error::other("the name has no address")))
    };
    let unavailable =
        |detail: String| Status::new(Code::UNAVAILABLE, format!("cannot connect to {authority}: {detail}"));
    let stream = timeout(config.connect_timeout, connecting)
        .await
        .map_err(|_| unavailable(format!("no answer within {} ms", config.connect_timeout.as_millis())))?
        .map_err(|error: std::io::Error| unavailable(error.to_string()))?;
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_frame_size(1 << 20)
        .handshake(stream)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    // Ends when every sender of this connection is gone, or with the connection; errors reach the calls.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn broken(error: h2::Error) -> Status {
    Status::new(Code::UNAVAILABLE, format!("connection: {error}"))
}

/// An answer larger than this is not an ingest answer.
const MAX_ANSWER_BYTES: usize = 4 << 20;

async fn read_answer(response: http::Response<h2::RecvStream>) -> Result<Bytes, Status> {
    let (head, mut body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        let code = match head.status.as_u16() {
            400 => Code::INTERNAL,
            404 => Code::UNIMPLEMENTED,
            429 | 502..=504 => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        };
        return Err(Status::new(code, format!("HTTP status {}", head.status)));
    }
    check_status(&head.headers)?;
    let mut answer = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        // Window updates only matter to answers that are still coming.
        let _ = body.flow_control().release_capacity(chunk.len());
        if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Status::new(Code::INTERNAL, "the answer is too large"));
        }
        answer.extend_from_slice(&chunk);
    }
    match body.trailers().await.map_err(broken)? {
        Some(trailers) => check_status(&trailers)?,
        None if head.headers.contains_key("grpc-status") => {}
        None => return Err(Status::new(Code::UNAVAILABLE, "the answer has no gRPC status")),
    }
    unframe(answer.freeze())
}

fn unframe(answer: Bytes) -> Result<Bytes, Status> {
    let Some((prefix, rest)) = answer.split_first_chunk::<5>() else {
        return Err(Status::new(Code::INTERNAL, "the answer has no message"));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if prefix[0] != 0 || rest.len() != length {
        return Err(Status::new(Code::INTERNAL, "the answer is not one plain gRPC message"));
    }
    Ok(answer.slice(5..))
}

fn check_status(headers: &HeaderMap) -> Result<(), Status> {
    let Some(code) = headers.get("grpc-status") else { return Ok(()) };
    let code = code.to_str().ok().and_then(|text| text.parse().ok()).map_or(Code::UNKNOWN, Code);
    if code == Code::OK {
        return Ok(());
    }
    let message =
        headers.get("grpc-message").map(|value| percent_decode(value.as_bytes())).unwrap_or_default();
    let details = headers.get("grpc-status-details-bin").and_then(|value| base64_decode(value.as_bytes()));
    Err(Status { code, message, retry_delay: details.and_then(|details| retry_delay_of(&details)) })
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%'
            && let Some((digits, after)) = tail.split_first_chunk::<2>()
            && let Some(value) = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok())
        {
            out.push(value);
            rest = after;
            continue;
        }
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Standard alphabet, padding optional, as gRPC sends binary headers.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for &byte in text.iter().filter(|byte| **byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: endpoints as people write them. Guarantee: host and port, default 4317; https is refused clearly.
    #[test]
    fn endpoints() {
        assert_eq!(authority_of("http://127.0.0.1:5").expect("ok"), "127.0.0.1:5");
        assert_eq!(authority_of("gateway").expect("ok"), "gateway:4317");
        assert!(matches!(authority_of("https://x:1"), Err(ClientError::BadEndpoint { .. })));
        assert!(authority_of("http://").is_err());
    }

    /// Scenario: header encodings of gRPC. Guarantee: base64 with and without padding, percent escapes, garbage is none.
    #[test]
    fn header_encodings() {
        assert_eq!(base64_decode(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64_decode(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64_decode(b"a\xff"), None);
        assert_eq!(percent_decode(b"50%25 of%2"), "50% of%2");
    }
}
