//! The client's settings.

use std::time::Duration;

use crate::{ClientError, Compression, RetryBudget};

/// How spans travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One batch a request; the gateway splits it by partition.
    #[default]
    Batch,
    /// Already split by partition and compressed by this side: the gateway forwards frames unopened. For heavy senders.
    Frames,
}

/// The client's settings; `ClientConfig::new(endpoint)` fills in the defaults.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The gateway, `http://HOST:PORT`.
    pub endpoint: String,
    /// Tenant; empty for the default tenant.
    pub tenant: String,
    /// Compression of frames, or of the gRPC message in [`Mode::Batch`] (where LZ4 is not possible).
    pub compression: Compression,
    /// Batch or frames.
    pub mode: Mode,
    /// Larger batches are cut.
    pub max_batch_spans: usize,
    /// Limit of one attempt.
    pub request_timeout: Duration,
    /// Limit of connecting.
    pub connect_timeout: Duration,
    /// Retrying.
    pub retry: RetryBudget,
    /// HTTP/2 connections, used in turn.
    pub connections: usize,
    /// Requests under way at once; `export` waits beyond it.
    pub in_flight: usize,
    /// Headers of every call, e.g. an API key.
    pub headers: Vec<(String, String)>,
}

impl ClientConfig {
    /// Defaults for the gateway at `endpoint`.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            tenant: String::new(),
            compression: Compression::None,
            mode: Mode::Batch,
            max_batch_spans: 2_000,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            retry: RetryBudget::default(),
            connections: 1,
            in_flight: 8,
            headers: Vec::new(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ClientError> {
        if self.compression == Compression::Lz4 && self.mode == Mode::Batch {
            return Err(ClientError::BadConfig(
                "LZ4 compresses frames only: choose zstd or snappy for batches",
            ));
        }
        if self.max_batch_spans == 0 || self.in_flight == 0 || self.connections == 0 {
            return Err(ClientError::BadConfig("max_batch_spans, in_flight and connections are at least 1"));
        }
        if self.request_timeout.is_zero() {
            return Err(ClientError::BadConfig("request_timeout is above 0"));
        }
        Ok(())
    }
}
