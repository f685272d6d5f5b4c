//! All columns of the batch being built: a span's row goes in whole, or not at all.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray,
        UInt8Array,
    },
    buffer::{Buffer, NullBuffer},
    datatypes::{Float64Type, UInt32Type, UInt64Type},
};

use super::{
    Position,
    attributes::Maps,
    buffer::{Bits, Sparse, SparseFlags, SparseTerms, SparseText, Terms, take},
    nested::{Events, Links, Tokens},
    origin::Origin,
    scratch::{Fixed, Ids, Scratch},
};
use crate::{
    columns::{UTC, index, name, span_schema},
    mapping::{Kind, Target, joined_reasons},
};

/// A span's fixed fields, checked, its texts already numbered.
pub(super) struct Row<'a, 'f> {
    pub(super) ids: Ids,
    pub(super) service: i32,
    pub(super) operation: i32,
    pub(super) fixed: &'f Fixed<'a>,
}

/// The columns.
#[derive(Debug, Default)]
pub(super) struct Columns {
    trace_ids: Vec<u8>,
    span_ids: Vec<u8>,
    parent_ids: Vec<u8>,
    has_parent: Bits,
    starts: Vec<i64>,
    durations: Vec<i64>,
    pub(super) service: Terms,
    pub(super) operation: Terms,
    kinds: Vec<u8>,
    status_codes: Vec<u8>,
    status_messages: SparseText,
    tenant: Terms,
    pub(super) terms: [SparseTerms; Target::count(Kind::Term)],
    texts: [SparseText; Target::count(Kind::Text)],
    u32s: [Sparse<u32>; Target::count(Kind::U32)],
    u64s: [Sparse<u64>; Target::count(Kind::U64)],
    f64s: [Sparse<f64>; Target::count(Kind::F64)],
    flags: [SparseFlags; Target::count(Kind::Flag)],
    pub(super) maps: Maps,
    pub(super) events: Events,
    pub(super) links: Links,
    pub(super) tokens: Tokens,
    trace_states: SparseText,
    trace_flags: Sparse<u32>,
    dropped_attributes: Sparse<u32>,
    dropped_events: Sparse<u32>,
    dropped_links: Sparse<u32>,
    pub(super) resource: Terms,
    pub(super) scope: Terms,
    pub(super) resource_url: SparseTerms,
    pub(super) scope_url: SparseTerms,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    /// Where several finish reasons are joined.
    reasons: Vec<u8>,
}

/// The targets that are columns, as bits.
const COLUMNS: u64 = (1 << Target::COLUMNS.len()) - 1;

impl Columns {
    pub(super) fn reserve(&mut self, rows: usize) {
        self.trace_ids.reserve(rows * 16);
        self.span_ids.reserve(rows * 8);
        self.parent_ids.reserve(rows * 8);
        self.starts.reserve(rows);
        self.durations.reserve(rows);
        self.service.keys.reserve(rows);
        self.operation.keys.reserve(rows);
    }

    /// Leaves out events, links and all attributes but those of `keys`.
    pub(super) const fn keep_only(&mut self, keys: &'static [&'static str]) {
        self.maps.keep_only(keys);
        self.events.left_out = true;
        self.links.left_out = true;
    }

    #[inline]
    pub(super) const fn rows(&self) -> usize {
        self.starts.len()
    }

    /// Forgets what a bad span has left in the nested columns.
    #[cold]
    pub(super) fn rollback(&mut self) {
        self.maps.rollback();
        self.events.rollback();
        self.links.rollback();
        self.tokens.rollback();
    }

    /// Appends a span whose every part was checked.
    #[inline]
    pub(super) fn commit(&mut self, row: &Row<'_, '_>, scratch: &Scratch<'_>, origin: &Origin) {
        let at = self.rows();
        let fixed = row.fixed;
        self.trace_ids.extend_from_slice(&row.ids.trace_id);
        self.span_ids.extend_from_slice(&row.ids.span_id);
        self.parent_ids.extend_from_slice(&row.ids.parent_span_id.unwrap_or_default());
        self.has_parent.push(row.ids.parent_span_id.is_some());
        self.starts.push(fixed.start_ns);
        self.durations.push(fixed.duration_ns);
        self.service.keys.push(row.service);
        self.operation.keys.push(row.operation);
        self.kinds.push(fixed.kind);
        self.status_codes.push(fixed.status_code);
        if !fixed.status_message.is_empty() {
            self.status_messages.set(at, fixed.status_message);
        }
        if !fixed.trace_state.is_empty() {
            self.trace_states.set(at, fixed.trace_state);
        }
        for (column, value) in [
            (&mut self.trace_flags, fixed.flags),
            (&mut self.dropped_attributes, fixed.dropped_attributes),
            (&mut self.dropped_events, fixed.dropped_events),
            (&mut self.dropped_links, fixed.dropped_links),
        ] {
            if value != 0 {
                column.set(at, value);
            }
        }
        self.maps.commit(at);
        self.events.commit(at);
        self.links.commit(at);
        if fixed.has_tokens {
            self.tokens.commit(at);
        }
        self.commit_scalars(at, scratch);
        self.commit_origin(at, scratch, origin);
    }

    #[inline]
    fn commit_scalars(&mut self, at: usize, scratch: &Scratch<'_>) {
        let mut targets = scratch.targets() & COLUMNS;
        while targets != 0 {
            let target = Target::ALL[targets.trailing_zeros() as usize];
            targets &= targets - 1;
            let slot = target.slot();
            let bits = scratch.bits(target).unwrap_or(0);
            match target.kind() {
                Kind::Term => match (target, &scratch.reasons) {
                    (Target::FinishReason, Some(reasons)) => {
                        self.reasons.clear();
                        joined_reasons(reasons, &mut self.reasons);
                        if !self.reasons.is_empty() {
                            self.terms[slot].set(at, &self.reasons);
                        }
                    }
                    _ => self.terms[slot].set(at, scratch.text(target)),
                },
                Kind::Text => self.texts[slot].set(at, scratch.text(target)),
                Kind::U32 => self.u32s[slot].set(at, bits as u32),
                Kind::U64 => self.u64s[slot].set(at, bits),
                Kind::F64 => self.f64s[slot].set(at, f64::from_bits(bits)),
                Kind::Flag => self.flags[slot].set(at, bits != 0),
                Kind::Helper => {}
            }
        }
    }

    #[inline]
    fn commit_origin(&mut self, at: usize, scratch: &Scratch<'_>, origin: &Origin) {
        self.resource.keys.push(origin.resource);
        self.scope.keys.push(origin.scope);
        if let Some(key) = origin.resource_url {
            self.resource_url.set_key(at, key);
        }
        if let Some(key) = origin.scope_url {
            self.scope_url.set_key(at, key);
        }
        for (target, key) in &origin.terms {
            if !scratch.has(*target) {
                self.terms[target.slot()].set_key(at, *key);
            }
        }
    }

    /// Fills what all spans of a record share.
    pub(super) fn end_record(&mut self, tenant: &str, position: Position) {
        let rows = self.rows();
        if rows > self.partitions.len() {
            let tenant = self.tenant.dictionary.intern(tenant.as_bytes());
            self.tenant.keys.resize(rows, tenant);
            self.partitions.resize(rows, position.partition);
            self.offsets.resize(rows, position.offset);
        }
    }

    /// Bytes of the fullest column with 32-bit offsets, and of all columns.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let rows = self.rows();
        let nested = [self.maps.bytes(), self.events.bytes(), self.links.bytes(), self.tokens.bytes()];
        let terms = [&self.service, &self.operation, &self.tenant, &self.resource, &self.scope];
        let sparse = self.terms.iter().chain([&self.resource_url, &self.scope_url]);
        let texts = self.texts.iter().chain([&self.status_messages, &self.trace_states]);
        let dictionaries = terms.iter().map(|terms| terms.dictionary.bytes());
        let fullest = nested
            .iter()
            .map(|(fullest, _)| *fullest)
            .chain(texts.clone().map(SparseText::bytes))
            .chain(dictionaries)
            .chain(sparse.clone().map(SparseTerms::bytes))
            .max()
            .unwrap_or(0);
        let all = nested.iter().map(|(_, all)| all).sum::<usize>()
            + texts.map(|text| text.bytes() + 4 * rows).sum::<usize>()
            + terms.iter().map(|terms| terms.bytes()).sum::<usize>()
            + sparse.map(SparseTerms::bytes).sum::<usize>()
            + self.u32s.iter().map(Sparse::bytes).sum::<usize>()
            + self.u64s.iter().map(Sparse::bytes).sum::<usize>()
            + self.f64s.iter().map(Sparse::bytes).sum::<usize>()
            // Ids, times, kinds, status, flags, drops, positions and the offsets of eight lists.
            + rows * (16 + 8 + 8 + 8 + 8 + 2 + 16 + 12 + 32);
        (fullest, all)
    }

    /// The batch; every buffer is handed over and the columns are empty again.
    pub(super) fn finish(&mut self) -> RecordBatch {
        let rows = self.rows();
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; name::ALL.len()];
        let mut put = |column: usize, array: ArrayRef| arrays[column] = Some(array);

        put(index::TRACE_ID, ids(16, &mut self.trace_ids, None));
        put(index::SPAN_ID, ids(8, &mut self.span_ids, None));
        let has_parent = NullBuffer::new(self.has_parent.finish(rows));
        put(index::PARENT_SPAN_ID, ids(8, &mut self.parent_ids, Some(has_parent)));
        let starts = TimestampNanosecondArray::new(take(&mut self.starts).into(), None);
        put(index::START_TIME, Arc::new(starts.with_timezone(UTC)));
        put(index::DURATION_NS, Arc::new(Int64Array::new(take(&mut self.durations).into(), None)));
        put(index::SERVICE_NAME, self.service.finish());
        put(index::OPERATION_NAME, self.operation.finish());
        put(index::KIND, Arc::new(UInt8Array::new(take(&mut self.kinds).into(), None)));
        put(index::STATUS_CODE, Arc::new(UInt8Array::new(take(&mut self.status_codes).into(), None)));
        put(index::STATUS_MESSAGE, self.status_messages.finish(rows));
        put(index::TENANT, self.tenant.finish());
        for (target, column) in Target::COLUMNS {
            let slot = target.slot();
            let array = match target.kind() {
                Kind::Term => self.terms[slot].finish(rows),
                Kind::Text => self.texts[slot].finish(rows),
                Kind::U32 => self.u32s[slot].finish::<UInt32Type>(rows),
                Kind::U64 => self.u64s[slot].finish::<UInt64Type>(rows),
                Kind::F64 => self.f64s[slot].finish::<Float64Type>(rows),
                Kind::Flag => self.flags[slot].finish(rows),
                Kind::Helper => unreachable!("helpers are no columns"),
            };
            put(*column, array);
        }
        for (column, array) in self.maps.finish(rows) {
            put(column, array);
        }
        put(index::EVENTS, self.events.finish(rows));
        put(index::LINKS, self.links.finish(rows));
        put(index::TOKENS, self.tokens.finish(rows));
        put(index::TRACE_STATE, self.trace_states.finish(rows));
        put(index::FLAGS, self.trace_flags.finish_dense::<UInt32Type>(rows));
        put(index::DROPPED_ATTRIBUTES_COUNT, self.dropped_attributes.finish_dense::<UInt32Type>(rows));
        put(index::DROPPED_EVENTS_COUNT, self.dropped_events.finish_dense::<UInt32Type>(rows));
        put(index::DROPPED_LINKS_COUNT, self.dropped_links.finish_dense::<UInt32Type>(rows));
        put(index::RESOURCE, self.resource.finish());
        put(index::SCOPE, self.scope.finish());
        put(index::RESOURCE_SCHEMA_URL, self.resource_url.finish(rows));
        put(index::SCOPE_SCHEMA_URL, self.scope_url.finish(rows));
        put(index::PARTITION, Arc::new(Int32Array::new(take(&mut self.partitions).into(), None)));
        put(index::OFFSET, Arc::new(Int64Array::new(take(&mut self.offsets).into(), None)));

        let arrays = arrays.into_iter().map(|array| array.expect("every column was put")).collect();
        RecordBatch::try_new(span_schema(), arrays).expect("columns are built to the span schema")
    }
}

fn ids(width: i32, bytes: &mut Vec<u8>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(FixedSizeBinaryArray::new(width, Buffer::from_vec(take(bytes)), nulls))
}
