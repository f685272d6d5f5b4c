//! The one reader: spans as protobuf bytes become Arrow columns, with no span object between.
//!
//! Every consumer of the spans topic goes through it: processors, sinks and the hot tier. `record` opens a
//! record, `mapping` says which attributes fill which columns, `columns` has the schema of what comes out.
//! Invariants: a bad span leaves nothing behind in any column and is counted by its reason; no input
//! panics; nothing is allocated a span once the buffers have grown.

mod assemble;
mod attributes;
mod buffer;
mod derive;
mod nested;
mod origin;
mod scratch;
mod span;

use arrow::array::RecordBatch;

use self::{
    assemble::{Columns, Row},
    attributes::check_text,
    buffer::Dictionary,
    derive::{Names, derive},
    origin::Origins,
    scratch::{Fixed, Scratch, find_or_check},
};
use crate::{
    frame::FrameError,
    mapping::{self, Lookup, Place},
    record::{self, RecordError, SpanRecord},
};

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
    #[cold]
    fn reject(&mut self, error: SpanError, index: usize) {
        self.rejected += 1;
        let (count, first) = &mut self.reasons[error as usize];
        if *count == 0 {
            *first = u32::try_from(index).unwrap_or(u32::MAX);
        }
        *count = count.saturating_add(1);
    }

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
#[derive(Debug)]
pub struct SpanReader {
    columns: Columns,
    origins: Origins,
    names: NameCache,
    attribute_lookup: Lookup,
    resource_lookup: Lookup,
    unpacked: Vec<u8>,
}

impl Default for SpanReader {
    fn default() -> Self {
        Self {
            columns: Columns::default(),
            origins: Origins::default(),
            names: NameCache::default(),
            attribute_lookup: Lookup::new(Place::Anywhere),
            resource_lookup: Lookup::new(Place::Resource),
            unpacked: Vec::new(),
        }
    }
}

/// Bytes that one byte of a record can become in a column: an empty entry of a key-value list is two bytes
/// on the wire and 22 as JSON.
const EXPANSION: usize = 11;
/// What Arrow's 32-bit offsets reach.
const REACH: usize = i32::MAX as usize;
/// Beyond this the buffer for unpacked records is not kept.
const KEPT_UNPACKED_BYTES: usize = 16 << 20;

impl SpanReader {
    /// An empty reader.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty reader with room for `spans` spans of a usual size.
    #[must_use]
    pub fn with_capacity(spans: usize) -> Self {
        let mut reader = Self::default();
        reader.columns.reserve(spans);
        reader
    }

    /// The same reader for a consumer that needs no events, no links and only the attributes of `keys`: its other
    /// columns are empty.
    ///
    /// Everything is still checked and mapped, so that it skips the spans that a whole reader skips and fills the typed
    /// columns alike.
    #[must_use]
    pub const fn keep_only(mut self, keys: &'static [&'static str]) -> Self {
        self.columns.keep_only(keys);
        self
    }

    /// Appends the spans of one record; bad ones are skipped and counted.
    ///
    /// # Errors
    /// [`RecordError`], and nothing of the record was appended: it is poison, except for
    /// [`RecordError::ReaderFull`], which a caller never sees who finishes the batch when
    /// [`SpanReader::is_full`] says so.
    pub fn push(&mut self, payload: &[u8], position: Position) -> Result<Pushed, RecordError> {
        let mut unpacked = std::mem::take(&mut self.unpacked);
        let pushed = match record::open(payload, &mut unpacked) {
            Ok(record) => self.push_record(&record, position),
            Err(error) => Err(error),
        };
        if unpacked.capacity() <= KEPT_UNPACKED_BYTES {
            self.unpacked = unpacked;
        }
        pushed
    }

    fn push_record(&mut self, record: &SpanRecord<'_>, position: Position) -> Result<Pushed, RecordError> {
        self.check_room(record)?;
        self.origins.start_record(record.origins.len());
        let mut pushed = Pushed::default();
        let mut scratch = Scratch::new();
        for (index, span) in record.spans.clone().enumerate() {
            let read = match span {
                Ok(span) => self.push_span(&mut scratch, &record.origins, span),
                Err(error) => Err(SpanError::from(error)),
            };
            match read {
                Ok(()) => pushed.spans += 1,
                Err(error) => {
                    self.columns.rollback();
                    pushed.reject(error, index);
                }
            }
        }
        self.columns.end_record(record.tenant, position);
        Ok(pushed)
    }

    #[inline]
    fn push_span<'a>(
        &mut self,
        scratch: &mut Scratch<'a>,
        origins: &[&[u8]],
        span: &'a [u8],
    ) -> Result<(), SpanError> {
        let columns = &mut self.columns;
        let mut fixed = Fixed::new();
        span::read(columns, &self.attribute_lookup, scratch, &mut fixed, span)?;
        let ids = fixed.ids()?;
        fixed.check_times()?;
        check_text(fixed.status_message)?;
        check_text(fixed.trace_state)?;
        let service = find_or_check(&mut columns.service.dictionary, fixed.service)?;
        let operation = find_or_check(&mut columns.operation.dictionary, fixed.operation)?;
        let origin = self.origins.resolve(fixed.origin, origins, &self.resource_lookup, columns)?;
        let origin = self.origins.get(origin);

        // From here on the span is good.
        let service = service.unwrap_or_else(|| columns.service.dictionary.intern(fixed.service));
        let operation = operation.unwrap_or_else(|| columns.operation.dictionary.intern(fixed.operation));
        let names = Names {
            service_framework: self.names.framework(service, &columns.service.dictionary),
            stage_name: self.names.stage_name(operation, &columns.operation.dictionary),
        };
        derive(scratch, &mut fixed, &mut columns.tokens, origin, names);
        let row = Row { ids, service, operation, fixed: &fixed };
        columns.commit(&row, scratch, origin);
        Ok(())
    }

    /// Refuses a record that could push a column past the reach of its offsets.
    fn check_room(&self, record: &SpanRecord<'_>) -> Result<(), RecordError> {
        let needed = record.spans.bytes().saturating_mul(EXPANSION);
        if needed > REACH {
            let claimed = record.spans.bytes() as u64;
            return Err(FrameError::TooLarge { claimed, limit: REACH / EXPANSION }.into());
        }
        if self.columns.bytes().0 + needed > REACH || self.len() >= REACH / 2 {
            return Err(RecordError::ReaderFull);
        }
        Ok(())
    }

    /// Spans collected.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.columns.rows()
    }

    /// Whether nothing is collected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how much memory the batch will take.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        self.columns.bytes().1
    }

    /// Whether the batch must be finished before another record of up to
    /// [`crate::frame::DEFAULT_LIMIT_BYTES`] is pushed, since a column nears the 2 GiB that Arrow's
    /// 32-bit offsets reach. Callers cut far earlier, by rows or by [`SpanReader::estimated_bytes`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.columns.bytes().0 + crate::frame::DEFAULT_LIMIT_BYTES * EXPANSION > REACH
            || self.len() >= REACH / 2
    }

    /// Takes what was collected as one batch and starts anew.
    pub fn finish(&mut self) -> RecordBatch {
        self.origins.clear();
        self.names.clear();
        self.columns.finish()
    }
}

/// What names of services and operations tell, by their dictionary keys.
#[derive(Debug, Default)]
struct NameCache {
    frameworks: Vec<Option<&'static str>>,
    /// Whether the operation may name a stage.
    stages: Vec<bool>,
}

impl NameCache {
    fn clear(&mut self) {
        self.frameworks.clear();
        self.stages.clear();
    }

    #[inline]
    fn framework(&mut self, key: i32, dictionary: &Dictionary) -> Option<&'static str> {
        while self.frameworks.len() <= key as usize {
            let service = std::str::from_utf8(dictionary.get(self.frameworks.len() as i32));
            self.frameworks.push(service.ok().and_then(mapping::framework_of_service));
        }
        self.frameworks[key as usize]
    }

    #[inline]
    fn stage_name<'d>(&mut self, key: i32, dictionary: &'d Dictionary) -> Option<&'d str> {
        while self.stages.len() <= key as usize {
            let name = std::str::from_utf8(dictionary.get(self.stages.len() as i32)).unwrap_or_default();
            self.stages.push(mapping::may_name_a_stage(name));
        }
        self.stages[key as usize].then(|| std::str::from_utf8(dictionary.get(key)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
