//! The one reader: spans as protobuf bytes become Arrow columns, with no span object between.
//!
//! Every consumer of the spans topic goes through it: processors, sinks and the hot tier. `record` opens a
//! record, `mapping` says which attributes fill which columns, `columns` has the schema of what comes out.
//! Invariants: a bad span leaves nothing behind in any column and is counted by its reason; no input
//! panics; nothing is allocated a span once the buffers have grown.

use arrow::array::RecordBatch;

use crate::record::RecordError;

/// Where in the log a record stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Partition.
    pub partition: i32,
    /// Offset of the record in it.
    pub offset: i64,
}

/// Why one span was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SpanError {
    /// The bytes are no `Span`: truncated, or a field of the wrong type.
    Malformed,
    /// A trace id that is not 16 bytes long.
    BadTraceId,
    /// A span id that is not 8 bytes long.
    BadSpanId,
    /// A trace id or span id of zeros.
    EmptyId,
    /// A parent span id that is neither empty nor 8 bytes long.
    BadParentSpanId,
    /// Text that is not UTF-8.
    BadUtf8,
    /// A duration below zero, or an end past the year 2262.
    NegativeDuration,
    /// An attribute nested deeper than [`crate::value::MAX_DEPTH`] levels.
    TooDeep,
    /// The resource or scope that the span refers to is broken.
    BadOrigin,
}

impl SpanError {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::BadTraceId,
        Self::BadSpanId,
        Self::EmptyId,
        Self::BadParentSpanId,
        Self::BadUtf8,
        Self::NegativeDuration,
        Self::TooDeep,
        Self::BadOrigin,
    ];

    /// The stable name, as in the ingest answer's `Rejection.reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadTraceId => "bad_trace_id",
            Self::BadSpanId => "bad_span_id",
            Self::EmptyId => "empty_id",
            Self::BadParentSpanId => "bad_parent_span_id",
            Self::BadUtf8 => "bad_utf8",
            Self::NegativeDuration => "negative_duration",
            Self::TooDeep => "too_deep",
            Self::BadOrigin => "bad_origin",
        }
    }
}

/// What became of one record's spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Spans now in the columns.
    pub spans: usize,
    /// Spans skipped.
    pub rejected: usize,
    /// Per reason: how many, and the index of the first in the record.
    reasons: [(u32, u32); SpanError::ALL.len()],
}

impl Pushed {
    /// The reasons that occurred: reason, count, index of the first such span in the record.
    pub fn rejections(&self) -> impl Iterator<Item = (SpanError, u32, u32)> + '_ {
        SpanError::ALL
            .into_iter()
            .zip(self.reasons)
            .filter(|(_, (count, _))| *count > 0)
            .map(|(reason, (count, first))| (reason, count, first))
    }
}

/// Collects the spans of many records into one batch of [`crate::columns::span_schema`].
#[derive(Debug, Default)]
pub struct SpanReader {
    rows: usize,
}

impl SpanReader {
    /// An empty reader.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty reader with room for `spans` spans of a usual size.
    #[must_use]
    pub fn with_capacity(spans: usize) -> Self {
        let _ = spans;
        Self::default()
    }

    /// Appends the spans of one record; bad ones are skipped and counted.
    ///
    /// # Errors
    /// [`RecordError`]: the record is poison and nothing of it was appended.
    pub fn push(&mut self, payload: &[u8], position: Position) -> Result<Pushed, RecordError> {
        let _ = (payload, position);
        Ok(Pushed::default())
    }

    /// Spans collected.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Whether nothing is collected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// About how much memory the batch will take.
    #[must_use]
    pub const fn estimated_bytes(&self) -> usize {
        0
    }

    /// Whether the batch must be finished before another record of up to
    /// [`crate::frame::DEFAULT_LIMIT_BYTES`] is pushed, since a column nears the 2 GiB that Arrow's
    /// 32-bit offsets reach.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        false
    }

    /// Takes what was collected as one batch and starts anew.
    pub fn finish(&mut self) -> RecordBatch {
        RecordBatch::new_empty(crate::columns::span_schema())
    }
}
