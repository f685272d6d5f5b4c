//! Entry points for fuzzers, property tests and the parser benchmark: every decoder on bare bytes.
//!
//! `cargo fuzz` targets call these with their input; none of them may panic. They are not an API.

use crate::{
    config::{FrameCheck, Limits},
    parse::{Context, Outcome, ParseError, Window, frames, json, metrics, native, otlp},
    pool::BufferPool,
};

/// A parser with fixed surroundings: a clock, a number of partitions, a pool.
pub struct Parser {
    limits: Limits,
    window: Window,
    partitions: u32,
    max_record_bytes: usize,
    pool: BufferPool,
}

/// What a parser made of its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Encoded records by partition.
    pub records: Vec<(u32, Vec<u8>)>,
    /// Spans or data points accepted.
    pub accepted: u64,
    /// Reason, count, first index.
    pub rejected: Vec<(&'static str, u64, u64)>,
}

/// Sums of a parse whose records were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records made.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Spans accepted.
    pub accepted: u64,
    /// Spans rejected.
    pub rejected: u64,
}

impl From<Outcome> for Parsed {
    fn from(outcome: Outcome) -> Self {
        Self {
            records: outcome
                .records
                .iter()
                .map(|record| (record.partition, record.payload.to_vec()))
                .collect(),
            accepted: outcome.accepted,
            rejected: outcome
                .rejections
                .iter()
                .map(|entry| (entry.reason.as_str(), entry.count, entry.first_index))
                .collect(),
        }
    }
}

impl From<Outcome> for Totals {
    fn from(outcome: Outcome) -> Self {
        Self {
            records: outcome.records.len(),
            bytes: outcome.records.iter().map(|record| record.payload.len()).sum(),
            accepted: outcome.accepted,
            rejected: outcome.rejections.total(),
        }
    }
}

impl Parser {
    /// A parser that believes clocks around `now_unix_nanos`.
    #[must_use]
    pub fn new(now_unix_nanos: i64, partitions: u32, limits: Limits, max_record_bytes: usize) -> Self {
        let window = Window::around(now_unix_nanos, &limits);
        Self { limits, window, partitions, max_record_bytes, pool: BufferPool::new(32 << 20, 1 << 20) }
    }

    fn context<'a>(&'a self, tenant: &'a str) -> Context<'a> {
        Context {
            limits: &self.limits,
            window: self.window,
            partitions: self.partitions,
            tenant,
            max_record_bytes: self.max_record_bytes,
            pool: &self.pool,
        }
    }

    fn run<T: From<Outcome>>(result: Result<Outcome, ParseError>) -> Result<T, String> {
        result.map(T::from).map_err(|error| error.to_string())
    }

    /// A native `SpanBatch`.
    ///
    /// # Errors
    /// Why the whole batch is refused.
    pub fn native<T: FromOutcome>(&self, batch: &[u8], tenant: &str) -> Result<T, String> {
        Self::run(native::parse(batch, &self.context(tenant)))
    }

    /// An `ExportTraceServiceRequest`.
    ///
    /// # Errors
    /// Why the whole request is refused.
    pub fn otlp<T: FromOutcome>(&self, request: &[u8]) -> Result<T, String> {
        Self::run(otlp::parse(request, &self.context("")))
    }

    /// An `ExportMetricsServiceRequest`.
    ///
    /// # Errors
    /// Why the whole request is refused.
    pub fn metrics<T: FromOutcome>(&self, request: &[u8]) -> Result<T, String> {
        Self::run(metrics::parse(request, &self.context("")))
    }

    /// The frames of an `ExportRequest`.
    ///
    /// # Errors
    /// Why the whole request is refused.
    pub fn frames<T: FromOutcome>(&self, request: &[u8], check: FrameCheck) -> Result<T, String> {
        let export =
            frames::read_export(request, self.limits.max_frames).map_err(|error| error.to_string())?;
        Self::run(frames::parse(&export.frames, check, &self.context("")))
    }

    /// OTLP/JSON traces to protobuf.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn json_traces(&self, json: &[u8]) -> Result<Vec<u8>, String> {
        self.json(json, json::Signal::Traces)
    }

    /// OTLP/JSON metrics to protobuf.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn json_metrics(&self, json: &[u8]) -> Result<Vec<u8>, String> {
        self.json(json, json::Signal::Metrics)
    }

    fn json(&self, json: &[u8], signal: json::Signal) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        json::transcode(json, signal, &self.limits, &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }
}

/// [`Parsed`] or [`Totals`].
pub trait FromOutcome: sealed::Sealed {}
impl FromOutcome for Parsed {}
impl FromOutcome for Totals {}

mod sealed {
    use super::{Outcome, Parsed, Totals};

    #[allow(private_bounds, reason = "sealed: only the two types above")]
    pub trait Sealed: From<Outcome> {}
    impl Sealed for Parsed {}
    impl Sealed for Totals {}
}

/// Every parser, one after the other, on the same bytes.
pub fn fuzz_all(input: &[u8]) {
    let limits = Limits { max_body_bytes: 1 << 20, ..Limits::default() };
    let parser = Parser::new(1_700_000_000_000_000_000, 4, limits, 64 << 10);
    drop(parser.native::<Totals>(input, ""));
    drop(parser.otlp::<Totals>(input));
    drop(parser.metrics::<Totals>(input));
    drop(parser.frames::<Totals>(input, FrameCheck::Frame));
    drop(parser.frames::<Totals>(input, FrameCheck::Full));
    if let Ok(protobuf) = parser.json_traces(input) {
        drop(parser.otlp::<Totals>(&protobuf));
    }
    if let Ok(protobuf) = parser.json_metrics(input) {
        drop(parser.metrics::<Totals>(&protobuf));
    }
}
