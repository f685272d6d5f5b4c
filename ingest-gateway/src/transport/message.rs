//! Bodies and length-prefixed messages, read within the byte budget.
//!
//! A message that arrives in one piece is used where it lies; otherwise it is gathered in a pooled buffer.
//! [`MessageReader::next`] keeps its state in itself, so a caller may drop its future and call again.

use std::{ops::Deref, time::Duration};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::compression::{Encoding, UnpackError, decompress};
use crate::{budget::Permit, error::Refusal, ingest::Ingest, pool::PooledBuffer};

/// Compressed bodies above this are unpacked off the threads that serve connections.
const UNPACK_INLINE_BYTES: usize = 256 << 10;
/// Compression flag and length.
const PREFIX_BYTES: usize = 5;

/// Contiguous bytes.
#[derive(Debug)]
pub(crate) enum Data {
    Shared(Bytes),
    Pooled(PooledBuffer),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Pooled(buffer) => buffer,
        }
    }
}

/// A message and its part of the budget.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) data: Data,
    pub(crate) permit: Permit,
    pub(crate) compressed: bool,
}

/// Reads the messages of one gRPC request.
pub(crate) struct MessageReader {
    body: Incoming,
    chunk: Bytes,
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Until when the message that began must have room in the budget, and must have arrived.
    deadlines: Option<Deadlines>,
    partial: Option<Message>,
    length: usize,
    /// How long to wait for the budget.
    patience: Duration,
}

#[derive(Clone, Copy)]
struct Deadlines {
    room: Instant,
    arrival: Instant,
}

impl MessageReader {
    pub(crate) fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            prefix: [0; PREFIX_BYTES],
            prefix_filled: 0,
            deadlines: None,
            partial: None,
            length: 0,
            patience,
        }
    }

    /// The next message, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self, ingest: &Ingest) -> Result<Option<Message>, Refusal> {
        loop {
            if self.partial.is_none() && self.prefix_filled < PREFIX_BYTES {
                let taken = self.chunk.len().min(PREFIX_BYTES - self.prefix_filled);
                self.chunk.copy_to_slice(&mut self.prefix[self.prefix_filled..][..taken]);
                self.prefix_filled += taken;
            }
            if self.partial.is_none() && self.prefix_filled == PREFIX_BYTES {
                self.begin(ingest).await?;
            }
            if let Some(message) = self.take_complete() {
                return Ok(Some(message));
            }
            if !self.read_chunk(ingest).await? {
                return Ok(None);
            }
        }
    }

    /// Whether nothing follows the message that was read. Waits for the end of the stream.
    pub(crate) async fn expect_end(&mut self, ingest: &Ingest) -> Result<(), Refusal> {
        loop {
            if !self.chunk.is_empty() {
                return Err(Refusal::Invalid("more than one message in a unary request".into()));
            }
            if !self.read_chunk(ingest).await? {
                return Ok(());
            }
        }
    }

    /// Takes the next chunk off the wire; false at the end.
    async fn read_chunk(&mut self, ingest: &Ingest) -> Result<bool, Refusal> {
        let started = self.partial.is_some() || self.prefix_filled > 0;
        if started && self.deadlines.is_none() {
            let now = Instant::now();
            self.deadlines =
                Some(Deadlines { room: now + self.patience, arrival: now + body_timeout(ingest) });
        }
        let frame = match self.deadlines {
            Some(deadlines) => tokio::time::timeout_at(deadlines.arrival, self.body.frame())
                .await
                .map_err(|_| Refusal::SlowBody(body_timeout(ingest)))?,
            None => self.body.frame().await,
        };
        match frame {
            Some(Ok(frame)) => {
                self.chunk = frame.into_data().unwrap_or_default();
                Ok(true)
            }
            Some(Err(error)) => Err(Refusal::BrokenBody(error.to_string())),
            None if started => Err(Refusal::Invalid("truncated message: the stream ended inside it".into())),
            None => Ok(false),
        }
    }

    /// Reads the prefix and takes the message's bytes from the budget.
    async fn begin(&mut self, ingest: &Ingest) -> Result<(), Refusal> {
        let [flag, length @ ..] = self.prefix;
        let compressed = match flag {
            0 => false,
            1 => true,
            _ => return Err(Refusal::Invalid(format!("compression flag {flag} of a gRPC message"))),
        };
        let length = u32::from_be_bytes(length) as usize;
        let limit = ingest.config.limits.max_body_bytes;
        if length > limit {
            return Err(Refusal::TooLarge { limit });
        }
        let now = Instant::now();
        let deadlines = *self
            .deadlines
            .get_or_insert(Deadlines { room: now + self.patience, arrival: now + body_timeout(ingest) });
        let permit = match ingest.budget.acquire(length) {
            Ok(permit) => permit,
            Err(_) if self.patience.is_zero() => return Err(ingest.over_budget()),
            Err(_) => tokio::time::timeout_at(deadlines.room, ingest.budget.acquire_later(length))
                .await
                .map_err(|_| ingest.over_budget())?,
        };
        // Waiting for room was ours, not the sender's.
        self.deadlines = Some(Deadlines { arrival: Instant::now() + body_timeout(ingest), ..deadlines });
        self.prefix_filled = 0;
        self.length = length;
        let data = if self.chunk.len() >= length {
            Data::Shared(self.chunk.split_to(length))
        } else {
            let mut buffer = ingest.bodies.take();
            buffer.reserve(length);
            Data::Pooled(buffer)
        };
        self.partial = Some(Message { data, permit, compressed });
        Ok(())
    }

    fn take_complete(&mut self) -> Option<Message> {
        let message = self.partial.as_mut()?;
        if let Data::Pooled(buffer) = &mut message.data {
            let missing = self.length - buffer.len();
            let taken = self.chunk.split_to(missing.min(self.chunk.len()));
            buffer.extend_from_slice(&taken);
        }
        if message.data.len() < self.length {
            return None;
        }
        self.deadlines = None;
        self.partial.take()
    }
}

fn body_timeout(ingest: &Ingest) -> Duration {
    Duration::from_millis(ingest.config.transport.body_timeout_ms)
}

/// Reads a whole HTTP body.
pub(crate) async fn read_body(
    body: &mut Incoming,
    content_length: Option<u64>,
    ingest: &Ingest,
) -> Result<Message, Refusal> {
    let limit = ingest.config.limits.max_body_bytes;
    let announced = match content_length.map(usize::try_from) {
        Some(Ok(length)) if length <= limit => Some(length),
        Some(_) => return Err(Refusal::TooLarge { limit }),
        None => None,
    };
    let mut permit = ingest.budget.acquire(announced.unwrap_or(0)).map_err(|_| ingest.over_budget())?;
    let read = async {
        let mut gathered: Option<PooledBuffer> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::BrokenBody(error.to_string()))?;
            let Ok(chunk) = frame.into_data() else { continue };
            if gathered.is_none() && announced == Some(chunk.len()) {
                return Ok(Data::Shared(chunk));
            }
            let buffer = gathered.get_or_insert_with(|| {
                let mut buffer = ingest.bodies.take();
                buffer.reserve(announced.unwrap_or(0));
                buffer
            });
            if buffer.len() + chunk.len() > limit {
                return Err(Refusal::TooLarge { limit });
            }
            if announced.is_none() {
                permit.grow(chunk.len()).map_err(|_| ingest.over_budget())?;
            }
            buffer.extend_from_slice(&chunk);
        }
        Ok(gathered.map_or(Data::Shared(Bytes::new()), Data::Pooled))
    };
    let timeout = body_timeout(ingest);
    let data = tokio::time::timeout(timeout, read).await.map_err(|_| Refusal::SlowBody(timeout))??;
    Ok(Message { data, permit, compressed: true })
}

/// The message unpacked, if it is compressed.
pub(crate) async fn unpack(
    message: Message,
    encoding: Encoding,
    ingest: &Ingest,
) -> Result<Message, Refusal> {
    if !message.compressed || encoding == Encoding::Identity {
        return Ok(message);
    }
    let limit = ingest.config.limits.max_body_bytes;
    let mut out = ingest.bodies.take();
    let Message { data, mut permit, .. } = message;
    let large = data.len() > UNPACK_INLINE_BYTES;
    let run = move || {
        let result = decompress(encoding, &data, &mut out, limit, &mut |bytes| permit.grow(bytes));
        drop(data);
        // Less than was granted: the packed bytes are gone, and the last step was not filled.
        result.and_then(|()| permit.resize(out.len()).map_err(UnpackError::from)).map(|()| (out, permit))
    };
    let unpacked = if large { tokio::task::spawn_blocking(run).await } else { Ok(run()) };
    match unpacked {
        Ok(Ok((out, permit))) => Ok(Message { data: Data::Pooled(out), permit, compressed: false }),
        Ok(Err(UnpackError::TooLarge)) => Err(Refusal::TooLarge { limit }),
        Ok(Err(UnpackError::OverBudget)) => Err(ingest.over_budget()),
        Ok(Err(UnpackError::Corrupt(detail))) => {
            Err(Refusal::Invalid(format!("{encoding:?} body: {detail}")))
        }
        Err(error) => {
            Err(Refusal::Unavailable { message: error.to_string(), retry_after: ingest.flow.delay() })
        }
    }
}
