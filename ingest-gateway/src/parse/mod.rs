//! The pure part of the gateway: request bytes in, log records and a list of rejected spans out.
//!
//! No I/O, no clock, no metrics. `transport` hands contiguous bytes in, `flow` appends what comes out.
//! Invariants: no input panics, recurses without bound or allocates more than [`Context::max_output`];
//! one bad span is rejected alone; every record fits [`Context::max_record_bytes`]; equal bytes give
//! equal records, so a client's retry collapses by batch id.

mod check;
pub(crate) mod frames;
pub(crate) mod json;
pub(crate) mod metrics;
pub(crate) mod native;
mod number_points;
pub(crate) mod otlp;
mod reason;
mod shares;

use infertrace_schemas::wire::WireError;

pub(crate) use self::reason::{Reason, Rejections};
pub(crate) use self::shares::Record;
use crate::{config::Limits, pool::BufferPool};

/// What a parser needs to know besides the bytes.
pub(crate) struct Context<'a> {
    /// Limits a request is held to.
    pub(crate) limits: &'a Limits,
    /// Earliest and latest time a span may carry.
    pub(crate) window: Window,
    /// Partitions of the topic the records go to.
    pub(crate) partitions: u32,
    /// Tenant from the transport, already valid; empty for the default.
    pub(crate) tenant: &'a str,
    /// Largest record the log takes.
    pub(crate) max_record_bytes: usize,
    /// Where buffers come from.
    pub(crate) pool: &'a BufferPool,
}

impl Context<'_> {
    /// Bytes the records of a request of `request_bytes` may take together. Transcoding repeats the service
    /// name a span and the origin a record: this stops a small request from growing into a large one.
    const fn max_output(request_bytes: usize) -> usize {
        request_bytes * 4 + 4 * 1024 * 1024
    }
}

/// The times that are believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    earliest: i64,
    latest: i64,
}

impl Window {
    /// The window around `now`.
    pub(crate) fn around(now_unix_nanos: i64, limits: &Limits) -> Self {
        let nanos = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self {
            earliest: now_unix_nanos.saturating_sub(nanos(limits.max_clock_past_ms)),
            latest: now_unix_nanos.saturating_add(nanos(limits.max_clock_future_ms)),
        }
    }

    fn contains(self, unix_nanos: i64) -> bool {
        self.earliest <= unix_nanos && unix_nanos <= self.latest
    }

    /// Whether a span from `start` for `duration` is believable.
    #[inline]
    fn check(self, start: i64, duration: i64) -> Result<(), Reason> {
        if duration < 0 {
            return Err(Reason::NegativeDuration);
        }
        match start.checked_add(duration) {
            Some(end) if start >= self.earliest && end <= self.latest => Ok(()),
            _ => Err(Reason::ClockSkew),
        }
    }
}

/// What came of one request.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Records to append.
    pub(crate) records: Vec<Record>,
    /// Spans (or data points) in them.
    pub(crate) accepted: u64,
    /// What was left out, by reason.
    pub(crate) rejections: Rejections,
}

/// Why a whole request is refused: it can never be accepted as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// The outer message is truncated or garbled.
    #[error("malformed {what}: {source}")]
    Wire { what: &'static str, source: WireError },
    /// The bytes are well-formed and make no sense.
    #[error("{0}")]
    Invalid(String),
    /// The records would be much larger than the request.
    #[error(
        "the request would grow to more than {limit} bytes in the log: shorten service.name or the resource"
    )]
    Expands { limit: usize },
}

impl ParseError {
    fn wire(what: &'static str) -> impl Fn(WireError) -> Self {
        move |source| Self::Wire { what, source }
    }
}
