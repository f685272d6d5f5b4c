//! One growing record a partition.
//!
//! Layout of a span record: `batch_id`, `tenant`, then `spans`, then `origins`. The id stands in front so that
//! readers see it without walking the spans; it is the XXH3-128 of all bytes behind it, seeded by the id
//! that the client chose. A sample record is the same without the id. A share that would outgrow the log's record is finished and a new one begun, so
//! a span that was accepted can always be produced.

use infertrace_schemas::wire::{put_bytes_field, put_varint, varint_len};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::{Context, ParseError, Reason};
use crate::pool::PooledBuffer;

/// `batch_id`'s field: tag, length, 16 bytes.
const BATCH_ID_FIELD_BYTES: usize = 18;
/// An `Origin` without content: tag and length.
const EMPTY_ORIGIN_BYTES: usize = 2;

/// Which message a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `SpanBatch`.
    Spans,
    /// `GpuSampleBatch`.
    Samples,
}

impl Layout {
    const fn origins_tag(self) -> u8 {
        match self {
            Self::Spans => 4 << 3 | 2,
            Self::Samples => 3 << 3 | 2,
        }
    }
}

/// One record, ready for the log.
#[derive(Debug)]
pub(crate) struct Record {
    /// Partition of the topic.
    pub(crate) partition: u32,
    /// Spans or data points in it.
    pub(crate) spans: u64,
    /// The encoded message.
    pub(crate) payload: PooledBuffer,
}

/// The distinct origins of one request, encoded.
#[derive(Default)]
pub(super) struct Origins {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Origins {
    /// Adds the origin that `write` appends; returns its number.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        (self.ends.len() - 1) as u32
    }

    fn get(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.bytes[start..self.ends[number]]
    }

    fn field_bytes(&self, number: u32) -> usize {
        let length = self.get(number).len();
        1 + varint_len(length as u64) + length
    }
}

struct Share {
    partition: u32,
    buffer: PooledBuffer,
    spans: u64,
    /// Entry of the record's `origins`: number of the origin, or none for an empty entry.
    slots: Vec<Option<u32>>,
    /// Bytes the slots will take.
    slot_bytes: usize,
}

/// Which entry of a record's `origins` a span refers to.
#[derive(Clone, Copy)]
pub(super) enum OriginRef {
    /// The span has none.
    None,
    /// The span's bytes hold this index and stay as they are.
    Fixed(u32),
    /// The next free entry of the record, or the one it has there already.
    Any(u32),
}

/// The records of one request while they grow.
pub(super) struct Shares<'a> {
    context: &'a Context<'a>,
    layout: Layout,
    origins: Origins,
    shares: Vec<Share>,
    /// Partition to position in `shares`, plus one.
    by_partition: Vec<u32>,
    finished: Vec<Record>,
    tenant: &'a str,
    seed: u64,
    output_limit: usize,
    output_finished: usize,
}

impl<'a> Shares<'a> {
    /// Begins; `batch_id` is the client's, perhaps empty.
    pub(super) fn new(
        context: &'a Context<'a>,
        layout: Layout,
        tenant: &'a str,
        batch_id: &[u8],
        request_bytes: usize,
    ) -> Self {
        Self {
            context,
            layout,
            origins: Origins::default(),
            shares: Vec::new(),
            by_partition: vec![0; context.partitions as usize],
            finished: Vec::new(),
            tenant,
            seed: if batch_id.is_empty() { 0 } else { xxh3_64(batch_id) },
            output_limit: Context::max_output(request_bytes),
            output_finished: 0,
        }
    }

    /// The origins known so far.
    pub(super) const fn origins(&mut self) -> &mut Origins {
        &mut self.origins
    }

    /// Makes room for a span of `span_bytes` (tag and length included) in `partition`; returns its record's
    /// buffer and the index of its origin there.
    pub(super) fn place(
        &mut self,
        partition: u32,
        span_bytes: usize,
        origin: OriginRef,
    ) -> Result<(&mut Vec<u8>, u32), Reason> {
        let known = self.by_partition[partition as usize];
        let position = if known == 0 {
            self.shares.push(self.fresh(partition));
            self.by_partition[partition as usize] = self.shares.len() as u32;
            self.shares.len() - 1
        } else {
            known as usize - 1
        };
        let limit = self.context.max_record_bytes;
        let share = &self.shares[position];
        let needed = share.buffer.len() + share.slot_bytes + span_bytes + share.cost(origin, &self.origins);
        if needed > limit {
            let empty = self.fresh(partition);
            if empty.buffer.len() + span_bytes + empty.cost(origin, &self.origins) > limit {
                return Err(Reason::TooLarge);
            }
            let full = std::mem::replace(&mut self.shares[position], empty);
            self.finish(full);
        }
        let share = &mut self.shares[position];
        let index = share.claim(origin, &self.origins);
        share.spans += 1;
        Ok((&mut share.buffer, index))
    }

    /// Whether the records have outgrown what a request of this size may produce.
    pub(super) fn check_output(&self) -> Result<(), ParseError> {
        let open: usize = self.shares.iter().map(|share| share.buffer.len() + share.slot_bytes).sum();
        if self.output_finished + open > self.output_limit {
            return Err(ParseError::Expands { limit: self.output_limit });
        }
        Ok(())
    }

    /// Ends all records.
    pub(super) fn into_records(mut self) -> Vec<Record> {
        for share in std::mem::take(&mut self.shares) {
            if share.spans > 0 {
                self.finish(share);
            }
        }
        self.finished
    }

    fn fresh(&self, partition: u32) -> Share {
        let mut buffer = self.context.pool.take();
        match self.layout {
            Layout::Spans => begin_record(&mut buffer, self.tenant),
            Layout::Samples if self.tenant.is_empty() => {}
            Layout::Samples => put_bytes_field(&mut buffer, 2, self.tenant.as_bytes()),
        }
        Share { partition, buffer, spans: 0, slots: Vec::new(), slot_bytes: 0 }
    }

    fn finish(&mut self, mut share: Share) {
        for slot in &share.slots {
            let origin = slot.map_or(&[][..], |number| self.origins.get(number));
            share.buffer.push(self.layout.origins_tag());
            put_varint(&mut share.buffer, origin.len() as u64);
            share.buffer.extend_from_slice(origin);
        }
        if self.layout == Layout::Spans {
            seal_record(&mut share.buffer, self.seed);
        }
        self.output_finished += share.buffer.len();
        self.finished.push(Record { partition: share.partition, spans: share.spans, payload: share.buffer });
    }
}

impl Share {
    /// Bytes that a span of `origin` adds to the record's `origins`.
    fn cost(&self, origin: OriginRef, origins: &Origins) -> usize {
        match origin {
            OriginRef::None => 0,
            OriginRef::Any(number) if self.slots.last() == Some(&Some(number)) => 0,
            OriginRef::Any(number) => origins.field_bytes(number),
            OriginRef::Fixed(index) => match self.slots.get(index as usize) {
                Some(Some(_)) => 0,
                Some(None) => origins.field_bytes(index) - EMPTY_ORIGIN_BYTES,
                None => {
                    let empty = (index as usize - self.slots.len()) * EMPTY_ORIGIN_BYTES;
                    origins.field_bytes(index) + empty
                }
            },
        }
    }

    fn claim(&mut self, origin: OriginRef, origins: &Origins) -> u32 {
        self.slot_bytes += self.cost(origin, origins);
        match origin {
            OriginRef::None => 0,
            OriginRef::Any(number) => {
                if self.slots.last() != Some(&Some(number)) {
                    self.slots.push(Some(number));
                }
                (self.slots.len() - 1) as u32
            }
            OriginRef::Fixed(index) => {
                if self.slots.len() <= index as usize {
                    self.slots.resize(index as usize + 1, None);
                }
                self.slots[index as usize] = Some(index);
                index
            }
        }
    }
}

/// Writes the head of a record: room for the batch id, then the tenant.
pub(super) fn begin_record(buffer: &mut Vec<u8>, tenant: &str) {
    buffer.extend_from_slice(&[0x12, 16]);
    buffer.extend_from_slice(&[0; 16]);
    if !tenant.is_empty() {
        put_bytes_field(buffer, 3, tenant.as_bytes());
    }
}

/// Fills in the batch id: the hash of all that stands behind it.
pub(super) fn seal_record(buffer: &mut [u8], seed: u64) {
    let (head, rest) = buffer.split_at_mut(BATCH_ID_FIELD_BYTES);
    head[2..].copy_from_slice(&xxh3_128_with_seed(rest, seed).to_be_bytes());
}
