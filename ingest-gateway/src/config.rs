//! Configuration of the gateway. Defaults serve a single machine with the embedded log or a nearby Kafka.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Configuration of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where gRPC listens: the native protocol and OTLP.
    pub grpc_addr: SocketAddr,
    /// Where OTLP/HTTP, `/healthz` and `/readyz` listen.
    pub http_addr: SocketAddr,
    /// Bytes of requests that may be in flight, from their arrival until they are durable. Past it a request is
    /// refused with a delay after which to try again.
    pub budget_bytes: usize,
    /// How frames are checked.
    pub validate: FrameCheck,
    /// Largest record handed to the log: keep it below the broker's `message.max.bytes`. A larger share is split.
    pub max_record_bytes: usize,
    /// Delay told to refused senders; each gets one to two times it, so that they do not return together.
    pub retry_delay_ms: u64,
    /// Longest time from a request's arrival to its answer, whatever deadline the sender gives.
    pub request_timeout_ms: u64,
    /// How long a shutdown waits for requests in flight.
    pub drain_timeout_ms: u64,
    /// How often the number of partitions is looked up.
    pub topology_refresh_ms: u64,
    /// What a request may hold.
    pub limits: Limits,
    /// What a connection may do.
    pub transport: TransportConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 4317)),
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 4318)),
            budget_bytes: 64 << 20,
            validate: FrameCheck::Frame,
            max_record_bytes: 900 << 10,
            retry_delay_ms: 250,
            request_timeout_ms: 60_000,
            drain_timeout_ms: 20_000,
            topology_refresh_ms: 30_000,
            limits: Limits::default(),
            transport: TransportConfig::default(),
        }
    }
}

/// How frames are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameCheck {
    /// The CRC and the header; the body is forwarded unopened.
    #[default]
    Frame,
    /// Every span too; the body is forwarded as it came when all are good.
    Full,
}

/// What a request may hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request, compressed and uncompressed.
    pub max_body_bytes: usize,
    /// Bytes of one span; also bounded by `max_record_bytes`.
    pub max_span_bytes: usize,
    /// Spans (or data points) in a request; those past it are rejected.
    pub max_spans: usize,
    /// Attributes and tags of a span.
    pub max_attributes: usize,
    /// How deep attribute values may nest.
    pub max_depth: u32,
    /// Entries of `SpanBatch.origins`.
    pub max_origins: usize,
    /// Frames in a request.
    pub max_frames: usize,
    /// How far behind the gateway's clock a span may start. Generous, so that archives can be sent.
    pub max_clock_past_ms: u64,
    /// How far ahead of the gateway's clock a span may end.
    pub max_clock_future_ms: u64,
    /// Tenants with a metric label of their own; the rest share `other`.
    pub max_tenant_labels: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_span_bytes: 768 << 10,
            max_spans: 100_000,
            max_attributes: 4096,
            max_depth: 30,
            max_origins: 4096,
            max_frames: 4096,
            max_clock_past_ms: 365 * 86_400_000,
            max_clock_future_ms: 3_600_000,
            max_tenant_labels: 100,
        }
    }
}

/// What a connection may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportConfig {
    /// Connections at a time, over both ports; more are closed at once.
    pub max_connections: usize,
    /// Age at which a connection is asked to close (GOAWAY), give or take a tenth, so that senders spread over
    /// gateways anew.
    pub max_connection_age_ms: u64,
    /// How long such a connection may take to finish what it has begun.
    pub max_connection_age_grace_ms: u64,
    /// Requests at a time on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Bytes a sender may have under way on one HTTP/2 stream.
    pub stream_window_bytes: u32,
    /// Bytes a sender may have under way on one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 DATA frame: large frames save system calls and copies.
    pub max_frame_bytes: u32,
    /// Bytes of a request's headers.
    pub max_header_bytes: u32,
    /// How long a connection may take to say what it wants.
    pub header_timeout_ms: u64,
    /// How long a request's body may take to arrive.
    pub body_timeout_ms: u64,
    /// How often an idle HTTP/2 connection is pinged.
    pub keep_alive_interval_ms: u64,
    /// How long the answer to a ping may take.
    pub keep_alive_timeout_ms: u64,
    /// Requests of one `ExportStream` that may wait for the log; then the stream is not read on.
    pub stream_in_flight: usize,
    /// How long an `ExportStream` waits for the byte budget before it is refused.
    pub stream_admission_ms: u64,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connection_age_ms: 30 * 60_000,
            max_connection_age_grace_ms: 60_000,
            max_concurrent_streams: 256,
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 4 << 20,
            max_frame_bytes: 1 << 20,
            max_header_bytes: 16 << 10,
            header_timeout_ms: 10_000,
            body_timeout_ms: 20_000,
            keep_alive_interval_ms: 30_000,
            keep_alive_timeout_ms: 10_000,
            stream_in_flight: 32,
            stream_admission_ms: 2_000,
        }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        let window = 65_535..=i32::MAX as u32;
        let transport = &self.transport;
        if self.limits.max_body_bytes > self.budget_bytes {
            return Err(
                "limits.max_body_bytes is larger than budget_bytes: such a request could never be taken"
                    .into(),
            );
        }
        if self.max_record_bytes < 4096 {
            return Err("max_record_bytes is below 4096".into());
        }
        if !(16_384..=16_777_215).contains(&transport.max_frame_bytes) {
            return Err("transport.max_frame_bytes is not between 16384 and 16777215".into());
        }
        if !window.contains(&transport.stream_window_bytes)
            || !window.contains(&transport.connection_window_bytes)
        {
            return Err("transport: an HTTP/2 window is not between 65535 and 2147483647 bytes".into());
        }
        // A level is three messages at most, and protobuf decoders give up at a hundred.
        if self.limits.max_depth == 0 || self.limits.max_depth > 32 {
            return Err("limits.max_depth is not between 1 and 32".into());
        }
        if transport.stream_in_flight == 0 || transport.max_connections == 0 {
            return Err("transport.stream_in_flight and transport.max_connections must be at least 1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the defaults, and keys that contradict each other. Guarantee: the defaults pass, the others are named.
    #[test]
    fn contradictions_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let small = Config { budget_bytes: 1, ..Config::default() };
        assert!(small.check().is_err_and(|message| message.contains("budget_bytes")));
    }

    /// Scenario: an unknown key. Guarantee: it is refused, not ignored.
    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"budget":1}"#).is_err());
        let full: Config = serde_json::from_str(r#"{"validate":"full"}"#).expect("a known key");
        assert_eq!(full.validate, FrameCheck::Full);
    }
}
