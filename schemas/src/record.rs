//! One record of the spans topic: writing a share, opening it again.
//!
//! The gateway writes records, every consumer opens them; `reader` turns what is inside into columns.
//! Invariants: a record opens without copying unless it is packed; unpacking is bounded; the batch id
//! stands first, so that [`batch_id_of`] costs nothing; spans are bytes here, never objects.

use infertrace_proto::v1::Codec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::{
    frame::{self, FrameError},
    wire::{Field, Fields, WireError, put_bytes_field, put_varint_field},
};

/// Field numbers of `SpanBatch`.
pub mod field {
    /// `repeated Span spans`.
    pub const SPANS: u32 = 1;
    /// `bytes batch_id`.
    pub const BATCH_ID: u32 = 2;
    /// `string tenant`.
    pub const TENANT: u32 = 3;
    /// `repeated Origin origins`.
    pub const ORIGINS: u32 = 4;
    /// `PackedSpans packed`.
    pub const PACKED: u32 = 5;
}

/// Origins of one record: more than a request of 16 MiB with a resource a span can have.
pub const MAX_ORIGINS: usize = 1 << 20;

/// Identity of a batch within its partition.
pub type BatchId = [u8; 16];

const BATCH_ID_TAG: u8 = (field::BATCH_ID << 3 | 2) as u8;
/// Tag, length and value of the batch id.
const BATCH_ID_BYTES: usize = 18;

/// Why a record is poison: nothing of it can be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no `SpanBatch`.
    #[error("not a span batch: {0}")]
    Wire(#[from] WireError),
    /// The packed body cannot be unpacked.
    #[error("packed body: {0}")]
    Frame(#[from] FrameError),
    /// A batch id that is not 16 bytes long.
    #[error("batch id of {0} bytes")]
    BadBatchId(usize),
    /// The tenant is not UTF-8.
    #[error("tenant is not UTF-8")]
    BadTenant,
    /// Spans beside a packed body, a second packed body, or one inside another.
    #[error("a packed body beside or inside other spans")]
    MixedPacking,
    /// More than [`MAX_ORIGINS`] resources and scopes, which cost memory far beyond their bytes.
    #[error("more than {MAX_ORIGINS} origins")]
    TooManyOrigins,
    /// Not the record's fault: the reader has to finish its batch first, then take the record again.
    #[error("the reader's batch is full")]
    ReaderFull,
}

/// An opened record, borrowed from its payload or from the scratch buffer it was unpacked into.
#[derive(Clone, Debug)]
pub struct SpanRecord<'a> {
    /// Identity for deduplication; `None` in records that carry none.
    pub batch_id: Option<BatchId>,
    /// Tenant, empty for the default one.
    pub tenant: &'a str,
    /// Encoded `Origin`s, as spans index them.
    pub origins: Vec<&'a [u8]>,
    /// The spans.
    pub spans: Spans<'a>,
    /// How many spans the sender of a packed body claims to be in it.
    pub claimed_spans: Option<u32>,
}

/// Iterates over the encoded spans of a record.
///
/// [`open`] has walked the record once, so an error here means that it was built over other bytes.
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    fields: Fields<'a>,
}

impl<'a> Spans<'a> {
    /// The spans of an encoded `SpanBatch`.
    #[must_use]
    pub const fn new(batch: &'a [u8]) -> Self {
        Self { fields: Fields::new(batch) }
    }

    /// Bytes of the batch that have not been walked yet.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.fields.rest().len()
    }
}

impl<'a> Iterator for Spans<'a> {
    type Item = Result<&'a [u8], WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.fields.next()? {
                Ok(field) if field.number == field::SPANS => return Some(field.bytes()),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Opens `payload`; a packed body of up to [`frame::DEFAULT_LIMIT_BYTES`] is unpacked into `scratch`.
///
/// # Errors
/// [`RecordError`]: the record is poison as a whole.
pub fn open<'a>(payload: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<SpanRecord<'a>, RecordError> {
    open_with_limit(payload, scratch, frame::DEFAULT_LIMIT_BYTES)
}

/// As [`open`], with another bound on the unpacked size.
///
/// # Errors
/// [`RecordError`].
pub fn open_with_limit<'a>(
    payload: &'a [u8],
    scratch: &'a mut Vec<u8>,
    limit: usize,
) -> Result<SpanRecord<'a>, RecordError> {
    let mut outer = Outline::of(payload)?;
    let Some(packed) = outer.packed else {
        return Ok(SpanRecord {
            batch_id: outer.batch_id,
            tenant: outer.tenant,
            origins: outer.origins,
            spans: Spans::new(payload),
            claimed_spans: None,
        });
    };
    if outer.has_spans || !outer.origins.is_empty() {
        return Err(RecordError::MixedPacking);
    }
    let packed = Packed::of(packed)?;
    let codec = Codec::try_from(packed.codec).map_err(|_| FrameError::UnknownCodec(packed.codec))?;
    // A body without compression is read where it stands.
    let body: &'a [u8] = if codec == Codec::None {
        check_plain_size(&packed, limit)?;
        packed.body
    } else {
        frame::decompress_into(codec, packed.body, packed.uncompressed_size, limit, scratch)?;
        scratch
    };
    let inner = Outline::of(body)?;
    if inner.packed.is_some() {
        return Err(RecordError::MixedPacking);
    }
    outer.origins = inner.origins;
    Ok(SpanRecord {
        batch_id: outer.batch_id,
        tenant: outer.tenant,
        origins: outer.origins,
        spans: Spans::new(body),
        claimed_spans: Some(packed.span_count),
    })
}

fn check_plain_size(packed: &Packed<'_>, limit: usize) -> Result<(), FrameError> {
    if packed.body.len() > limit {
        return Err(FrameError::TooLarge { claimed: packed.body.len() as u64, limit });
    }
    if packed.body.len() as u64 != packed.uncompressed_size {
        return Err(FrameError::SizeMismatch {
            claimed: packed.uncompressed_size,
            actual: packed.body.len(),
        });
    }
    Ok(())
}

/// The batch id of a record, without opening it; `None` where there is none or the record is broken.
#[must_use]
#[inline]
pub fn batch_id_of(payload: &[u8]) -> Option<BatchId> {
    if let [BATCH_ID_TAG, 16, rest @ ..] = payload {
        return rest.first_chunk::<16>().copied();
    }
    batch_id_anywhere(payload)
}

fn batch_id_anywhere(payload: &[u8]) -> Option<BatchId> {
    for field in Fields::new(payload) {
        let field = field.ok()?;
        if field.number == field::BATCH_ID {
            return field.bytes().ok()?.try_into().ok();
        }
    }
    None
}

/// How many spans a record holds, without unpacking it: counted, or as claimed by a packed body.
///
/// # Errors
/// [`RecordError`] when the outer message is broken.
pub fn span_count_of(payload: &[u8]) -> Result<usize, RecordError> {
    let mut count = 0;
    for field in Fields::new(payload) {
        let field = field?;
        match field.number {
            field::SPANS => count += 1,
            field::PACKED => count += Packed::of(field.bytes()?)?.span_count as usize,
            _ => {}
        }
    }
    Ok(count)
}

/// What the top level of a `SpanBatch` says.
struct Outline<'a> {
    batch_id: Option<BatchId>,
    tenant: &'a str,
    origins: Vec<&'a [u8]>,
    packed: Option<&'a [u8]>,
    has_spans: bool,
}

impl<'a> Outline<'a> {
    fn of(batch: &'a [u8]) -> Result<Self, RecordError> {
        let mut outline =
            Self { batch_id: None, tenant: "", origins: Vec::new(), packed: None, has_spans: false };
        let mut fields = Fields::new(batch);
        let mut ahead = ReadAhead::new(batch);
        while let Some(field) = fields.next() {
            outline.take(&field?)?;
            ahead.keep_before(fields.rest().len());
        }
        Ok(outline)
    }

    #[inline]
    fn take(&mut self, field: &Field<'a>) -> Result<(), RecordError> {
        match field.number {
            field::SPANS => {
                field.bytes()?;
                self.has_spans = true;
            }
            field::BATCH_ID => {
                let id = field.bytes()?;
                self.batch_id = match id.len() {
                    0 => None,
                    16 => id.first_chunk::<16>().copied(),
                    length => return Err(RecordError::BadBatchId(length)),
                };
            }
            field::TENANT => {
                self.tenant =
                    simdutf8::basic::from_utf8(field.bytes()?).map_err(|_| RecordError::BadTenant)?;
            }
            field::ORIGINS if self.origins.len() == MAX_ORIGINS => return Err(RecordError::TooManyOrigins),
            field::ORIGINS => self.origins.push(field.bytes()?),
            field::PACKED if self.packed.is_some() => return Err(RecordError::MixedPacking),
            field::PACKED => self.packed = Some(field.bytes()?),
            _ => {}
        }
        Ok(())
    }
}

/// Brings a record into the cache before it is walked.
///
/// The walk from span to span is a chain of dependent loads, each a cache miss in a record that comes from
/// memory; loads that do not depend on one another overlap.
struct ReadAhead<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> ReadAhead<'a> {
    const LINE: usize = 64;
    const DISTANCE: usize = 16 << 10;

    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, next: 0 }
    }

    /// Keeps ahead of a walk that has `rest` bytes to go.
    #[inline]
    fn keep_before(&mut self, rest: usize) {
        let goal = (self.bytes.len() - rest + Self::DISTANCE).min(self.bytes.len());
        let mut seen = 0;
        while self.next < goal {
            seen ^= self.bytes[self.next];
            self.next += Self::LINE;
        }
        std::hint::black_box(seen);
    }
}

struct Packed<'a> {
    codec: i32,
    span_count: u32,
    uncompressed_size: u64,
    body: &'a [u8],
}

impl<'a> Packed<'a> {
    fn of(message: &'a [u8]) -> Result<Self, WireError> {
        let mut packed = Self { codec: 0, span_count: 0, uncompressed_size: 0, body: &[] };
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => packed.codec = field.varint()? as i32,
                2 => packed.span_count = field.varint()? as u32,
                3 => packed.uncompressed_size = field.varint()?,
                4 => packed.body = field.bytes()?,
                _ => {}
            }
        }
        Ok(packed)
    }
}

/// The identity of a share: XXH3-128 of its bytes, seeded by its tenant and the id its client chose.
///
/// `share` is the encoded spans and origins, or the packed body. The same share sent again has the same
/// id; the same bytes from another tenant, or under another client id, have another.
#[must_use]
pub fn batch_id(share: &[u8], tenant: &str, client_id: &[u8]) -> BatchId {
    let seed = if tenant.is_empty() && client_id.is_empty() {
        0
    } else {
        xxh3_64_with_seed(client_id, xxh3_64(tenant.as_bytes()))
    };
    xxh3_128_with_seed(share, seed).to_be_bytes()
}

/// Writes one record: spans first, then origins, then [`RecordWriter::finish`].
///
/// Spans and origins are copied once, into the record itself.
#[derive(Debug)]
pub struct RecordWriter {
    record: Vec<u8>,
    share_start: usize,
    spans: usize,
}

impl RecordWriter {
    /// A record of `tenant`, with room for `capacity` bytes of spans and origins.
    #[must_use]
    pub fn new(tenant: &str, capacity: usize) -> Self {
        let mut record = Vec::with_capacity(BATCH_ID_BYTES + tenant.len() + 8 + capacity);
        record.extend_from_slice(&[BATCH_ID_TAG, 16]);
        record.resize(BATCH_ID_BYTES, 0);
        if !tenant.is_empty() {
            put_bytes_field(&mut record, field::TENANT, tenant.as_bytes());
        }
        let share_start = record.len();
        Self { record, share_start, spans: 0 }
    }

    /// Appends an encoded `Span`.
    #[inline]
    pub fn push_span(&mut self, span: &[u8]) {
        put_bytes_field(&mut self.record, field::SPANS, span);
        self.spans += 1;
    }

    /// Appends one span as it stands in a `SpanBatch`, tag and length included.
    #[inline]
    pub fn push_raw_span(&mut self, field: &[u8]) {
        self.record.extend_from_slice(field);
        self.spans += 1;
    }

    /// Appends an encoded `Origin`; empty ones keep the indices of those that follow.
    #[inline]
    pub fn push_origin(&mut self, origin: &[u8]) {
        put_bytes_field(&mut self.record, field::ORIGINS, origin);
    }

    /// Spans so far.
    #[must_use]
    pub const fn spans(&self) -> usize {
        self.spans
    }

    /// Bytes so far.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.record.len()
    }

    /// The share's own bytes so far, which callers that write in place may append encoded fields to.
    #[must_use]
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.record
    }

    /// The record, and the batch id it got.
    #[must_use]
    pub fn finish(mut self, tenant: &str, client_id: &[u8]) -> (Vec<u8>, BatchId) {
        let id = batch_id(&self.record[self.share_start..], tenant, client_id);
        self.record[2..BATCH_ID_BYTES].copy_from_slice(&id);
        (self.record, id)
    }
}

/// One share as a record: `spans` are encoded `Span`s, `origins` encoded `Origin`s.
#[must_use]
pub fn encode_share<'s>(
    tenant: &str,
    client_id: &[u8],
    spans: impl IntoIterator<Item = &'s [u8]>,
    origins: &[&[u8]],
) -> Vec<u8> {
    let mut writer = RecordWriter::new(tenant, 0);
    for span in spans {
        writer.push_span(span);
    }
    for origin in origins {
        writer.push_origin(origin);
    }
    writer.finish(tenant, client_id).0
}

/// A frame as a record, its body unopened.
#[must_use]
pub fn encode_packed(
    tenant: &str,
    client_id: &[u8],
    codec: Codec,
    span_count: u32,
    uncompressed_size: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut packed = Vec::with_capacity(32);
    if codec != Codec::None {
        put_varint_field(&mut packed, 1, codec as u64);
    }
    put_varint_field(&mut packed, 2, u64::from(span_count));
    put_varint_field(&mut packed, 3, uncompressed_size);
    let length = packed.len() + 1 + crate::wire::varint_len(body.len() as u64) + body.len();

    let mut record = Vec::with_capacity(BATCH_ID_BYTES + tenant.len() + 16 + length);
    put_bytes_field(&mut record, field::BATCH_ID, &batch_id(body, tenant, client_id));
    if !tenant.is_empty() {
        put_bytes_field(&mut record, field::TENANT, tenant.as_bytes());
    }
    crate::wire::put_varint(&mut record, u64::from(field::PACKED) << 3 | 2);
    crate::wire::put_varint(&mut record, length as u64);
    record.extend_from_slice(&packed);
    put_bytes_field(&mut record, 4, body);
    record
}

#[cfg(test)]
mod tests;
