//! Entries gathered for one vectored write, with what happens when it is durable.

use std::{fs::File, io, io::IoSlice, ops::Range, time::Instant};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    disk::write_all_at,
    format::{Body, CARRIED, COMPACTED, ENTRY_HEADER, EntryHeader, OP_HEADER, OpHeader, OpKind, padding},
    queue::{Failure, NewOp, Reply, Ticket},
    state::{Effect, IndexEntry, State},
    stats::{Cells, add},
};
use crate::log::Offset;

/// Bodies up to this size are copied next to their headers, so that small records share a slice.
const COPY_BELOW: usize = 4096;

#[derive(Debug)]
enum Piece {
    Meta(Range<usize>),
    Body(Bytes),
}

#[derive(Debug)]
struct Waiter {
    reply: Reply,
    offset: Option<Offset>,
    ticket: Ticket,
    append: bool,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    meta: Vec<u8>,
    meta_from: usize,
    pieces: Vec<Piece>,
    pub(super) effects: Vec<Effect>,
    waiters: Vec<Waiter>,
    /// Ends of partitions that this batch appends to.
    next: HashMap<(u32, u32), u64, ahash::RandomState>,
    pub(super) bytes: u64,
    pub(super) entries: u64,
    pub(super) records: usize,
    appended: u64,
    raw_bytes: u64,
    carried_bytes: u64,
}

/// Bytes that an entry of `ops` takes in the file.
pub(super) fn entry_size(ops: &[NewOp]) -> u64 {
    let len = ENTRY_HEADER + ops.iter().map(|op| OP_HEADER + op.body_len()).sum::<usize>();
    (len + padding(len)) as u64
}

/// Where an entry goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) salt: u32,
    /// Position of the batch in the segment.
    pub(super) position: u64,
    /// Entries before the batch.
    pub(super) entries: u64,
    pub(super) durable: u64,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0 && self.waiters.is_empty()
    }

    /// Adds one atomic entry; returns the offset of its first append.
    pub(super) fn add_entry(&mut self, ops: Vec<NewOp>, place: Place, state: &State) -> Option<Offset> {
        let size = entry_size(&ops);
        let len: usize = ops.iter().map(|op| OP_HEADER + op.body_len()).sum();
        let header = EntryHeader {
            len: u32::try_from(len).expect("entries are far smaller than 4 GiB"),
            ops: u32::try_from(ops.len()).expect("operations of an entry fit u32"),
            number: place.entries + self.entries,
            durable: place.durable,
        };
        self.meta.extend_from_slice(&header.encode(place.salt));
        let mut at = place.position + self.bytes + ENTRY_HEADER as u64;
        let mut first = None;
        for op in ops {
            at += self.add_op(op, at, place.salt, &mut first, state) as u64;
        }
        self.meta.resize(self.meta.len() + padding(ENTRY_HEADER + len), 0);
        self.bytes += size;
        self.entries += 1;
        first
    }

    /// Adds an operation that will stand at `at`; returns its size.
    fn add_op(&mut self, op: NewOp, at: u64, salt: u32, first: &mut Option<Offset>, state: &State) -> usize {
        let mut header = OpHeader {
            kind: OpKind::Append,
            flags: 0,
            topic: 0,
            partition: 0,
            body_len: u32::try_from(op.body_len()).expect("bodies are far smaller than 4 GiB"),
            value: 0,
            time: 0,
            body_crc: 0,
        };
        let entry = |header: &OpHeader, key: [u64; 2]| IndexEntry {
            offset: header.value,
            timestamp: header.time,
            position: u32::try_from(at).expect("segments are smaller than 4 GiB"),
            len: u32::try_from(header.total()).expect("bodies are far smaller than 4 GiB"),
            key,
        };
        let (effect, body) = match op {
            NewOp::Append { topic, partition, timestamp, key, raw_bytes, body } => {
                let offset = self.take_offset(topic, partition, state);
                first.get_or_insert(Offset(offset));
                header.flags = body.flags | if key.is_some() { COMPACTED } else { 0 };
                header.topic = topic;
                header.partition = partition;
                header.value = offset;
                header.time = timestamp;
                header.body_crc = body.crc;
                self.raw_bytes += raw_bytes as u64;
                self.records += 1;
                self.appended += 1;
                let entry = entry(&header, key.unwrap_or_default());
                (Effect::Record { topic, partition, entry, carried: false }, body)
            }
            NewOp::Carried { header: original, key, body } => {
                header = OpHeader { flags: original.flags | CARRIED, ..original };
                self.records += 1;
                self.carried_bytes += header.total() as u64;
                let (topic, partition) = (header.topic, header.partition);
                let effect = Effect::Record { topic, partition, entry: entry(&header, key), carried: true };
                (effect, Body { head: Vec::new(), payload: body, flags: 0, crc: header.body_crc })
            }
            NewOp::Commit { group, topic, partition, next } => {
                let body = Body::plain(group.as_bytes());
                header.kind = OpKind::Commit;
                (header.topic, header.partition, header.value) = (topic, partition, next);
                header.body_crc = body.crc;
                (Effect::Commit { group, topic, partition, next }, body)
            }
            NewOp::Topic(meta) => {
                let body = Body::plain(meta.name.as_bytes());
                header.kind = OpKind::Topic;
                header.flags = if meta.compacted { COMPACTED } else { 0 };
                (header.topic, header.partition) = (meta.id, meta.partitions);
                header.time =
                    meta.retention.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
                header.body_crc = body.crc;
                (Effect::Topic(meta), body)
            }
            NewOp::Bounds { topic, partition, low, high } => {
                let body = Body::plain(&[]);
                header.kind = OpKind::Bounds;
                (header.topic, header.partition, header.value) = (topic, partition, high);
                header.time = low.cast_signed();
                header.body_crc = body.crc;
                (Effect::Bounds { topic, partition, low, high }, body)
            }
        };
        self.meta.extend_from_slice(&header.encode(salt));
        self.meta.extend_from_slice(&body.head);
        if body.payload.len() <= COPY_BELOW {
            self.meta.extend_from_slice(&body.payload);
        } else {
            self.close_meta();
            self.pieces.push(Piece::Body(body.payload));
        }
        self.effects.push(effect);
        header.total()
    }

    fn take_offset(&mut self, topic: u32, partition: u32, state: &State) -> u64 {
        let end = || state.topics[topic as usize].partitions[partition as usize].high;
        let next = self.next.entry((topic, partition)).or_insert_with(end);
        *next += 1;
        *next - 1
    }

    fn close_meta(&mut self) {
        if self.meta_from < self.meta.len() {
            self.pieces.push(Piece::Meta(self.meta_from..self.meta.len()));
            self.meta_from = self.meta.len();
        }
    }

    /// Has `reply` answered when the batch is durable.
    pub(super) fn wait(&mut self, reply: Reply, offset: Option<Offset>, ticket: Ticket, append: bool) {
        self.waiters.push(Waiter { reply, offset, ticket, append });
    }

    /// Writes everything with one system call where it fits.
    pub(super) fn write(&mut self, file: &File, position: u64) -> io::Result<()> {
        self.close_meta();
        let slices = self.pieces.iter().map(|piece| match piece {
            Piece::Meta(range) => IoSlice::new(&self.meta[range.clone()]),
            Piece::Body(body) => IoSlice::new(body),
        });
        write_all_at(file, slices.collect(), position)
    }

    /// Counts the batch as durable.
    pub(super) fn count(&self, stats: &Cells) {
        add(&stats.batches, 1);
        add(&stats.written_bytes, self.bytes);
        add(&stats.bytes, self.raw_bytes);
        add(&stats.carried_bytes, self.carried_bytes);
        add(&stats.records, self.appended);
    }

    pub(super) fn succeed(self, stats: &Cells) {
        let now = Instant::now();
        for waiter in self.waiters {
            if waiter.append {
                stats.observe_append(now - waiter.ticket.since);
            }
            drop(waiter.ticket);
            waiter.reply.succeed(waiter.offset);
        }
    }

    pub(super) fn fail(self, failure: &Failure) {
        for waiter in self.waiters {
            drop(waiter.ticket);
            waiter.reply.fail(failure);
        }
    }
}
