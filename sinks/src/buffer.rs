//! Records of one partition that are read and not yet written, and where to cut them. Pure.
//!
//! Invariants: records ascend by offset; the position never falls behind a record taken in; a cut lies
//! after a record, so that every record belongs to one range.

use std::collections::VecDeque;

use infertrace_runtime::log::Record;
use infertrace_schemas::{
    lake::LostRange,
    record::field,
    wire::{Fields, Value},
};

/// Memory a record takes beside its bytes.
const RECORD_OVERHEAD: usize = 256;

#[derive(Debug)]
struct Held {
    record: Record,
    spans: u64,
    unpacked_bytes: u64,
    held_bytes: usize,
    since_ns: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    start: u64,
    position: u64,
    records: VecDeque<Held>,
    spans: u64,
    unpacked_bytes: u64,
    held_bytes: usize,
    lost: Vec<LostRange>,
}

impl Buffer {
    /// Empty; the next range starts at `start`.
    pub(crate) fn new(start: u64) -> Self {
        Self { start, position: start, ..Self::default() }
    }

    /// First offset of the next range.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Next offset to be read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a record in; one from before the position (read again after a seek) is left out.
    pub(crate) fn push(&mut self, record: Record, now_ns: i64) {
        let offset = record.offset.0;
        if offset < self.position {
            return;
        }
        self.position = offset + 1;
        let (spans, unpacked_bytes) = record.payload.as_deref().map_or((0, 0), measure);
        let payload_bytes = record.payload.as_ref().map_or(0, bytes::Bytes::len);
        let key_bytes = record.key.as_ref().map_or(0, bytes::Bytes::len);
        let header_bytes: usize =
            record.headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let held_bytes = RECORD_OVERHEAD + payload_bytes + key_bytes + header_bytes;
        self.spans += spans;
        self.unpacked_bytes += unpacked_bytes;
        self.held_bytes += held_bytes;
        self.records.push_back(Held { record, spans, unpacked_bytes, held_bytes, since_ns: now_ns });
    }

    /// Retention removed what stood before `low`; returns how many offsets that were.
    pub(crate) fn lose_until(&mut self, low: u64) -> u64 {
        if low <= self.position {
            return 0;
        }
        let lost = LostRange { from: self.position, to: low };
        self.lost.push(lost);
        self.position = low;
        lost.to - lost.from
    }

    /// There never was anything to read before `low`: the log is older than the lake.
    pub(crate) fn begin_at(&mut self, low: u64) {
        self.position = self.position.max(low);
    }

    /// The end of a full range, once there is enough for one.
    pub(crate) fn full_end(&self, target_rows: u64, target_bytes: u64) -> Option<u64> {
        if self.spans < target_rows && self.unpacked_bytes < target_bytes {
            return None;
        }
        let (mut spans, mut unpacked_bytes) = (0, 0);
        for held in &self.records {
            spans += held.spans;
            unpacked_bytes += held.unpacked_bytes;
            if spans >= target_rows || unpacked_bytes >= target_bytes {
                return Some(held.record.offset.0 + 1);
            }
        }
        None
    }

    /// The end of a range of everything read, if that is anything.
    pub(crate) fn whole_end(&self) -> Option<u64> {
        self.records.back().map(|held| held.record.offset.0 + 1)
    }

    /// How long the oldest record has waited. A clock set back starts the wait anew.
    pub(crate) fn waited_ns(&mut self, now_ns: i64) -> i64 {
        let Some(oldest) = self.records.front_mut() else { return 0 };
        oldest.since_ns = oldest.since_ns.min(now_ns);
        now_ns - oldest.since_ns
    }

    /// Timestamp of the oldest record.
    pub(crate) fn oldest_timestamp_ms(&self) -> Option<i64> {
        self.records.front().map(|held| held.record.timestamp.0)
    }

    /// Cuts the range `[start, end)` off; the next one starts at `end`.
    pub(crate) fn take_until(&mut self, end: u64) -> Taken {
        let count = self.records.partition_point(|held| held.record.offset.0 < end);
        let mut taken = Taken { records: Vec::with_capacity(count), held_bytes: 0, lost: Vec::new() };
        for held in self.records.drain(..count) {
            self.spans -= held.spans;
            self.unpacked_bytes -= held.unpacked_bytes;
            self.held_bytes -= held.held_bytes;
            taken.held_bytes += held.held_bytes;
            taken.records.push(held.record);
        }
        taken.lost = self.lost.extract_if(.., |lost| lost.from < end).collect();
        self.start = end;
        self.position = self.position.max(end);
        taken
    }
}

/// One range's records.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) records: Vec<Record>,
    pub(crate) held_bytes: usize,
    pub(crate) lost: Vec<LostRange>,
}

/// Spans in a record and the bytes they unpack to, by its outline alone. Poison counts by its size.
fn measure(payload: &[u8]) -> (u64, u64) {
    let mut spans = 0;
    let mut unpacked_bytes = payload.len() as u64;
    for read in Fields::new(payload) {
        match read.map(|found| (found.number, found.value)) {
            Ok((field::SPANS, _)) => spans += 1,
            Ok((field::PACKED, Value::Bytes(packed))) => {
                let (claimed_spans, claimed_bytes) = measure_packed(packed);
                spans += claimed_spans;
                unpacked_bytes = unpacked_bytes.max(claimed_bytes);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    (spans, unpacked_bytes)
}

/// Claims of a packed body; they only steer where to cut, so a lie costs no more than a small file.
fn measure_packed(packed: &[u8]) -> (u64, u64) {
    const SPAN_COUNT: u32 = 2;
    const UNCOMPRESSED_SIZE: u32 = 3;
    let mut claims = (0, 0);
    for read in Fields::new(packed) {
        match read.map(|found| (found.number, found.value)) {
            Ok((SPAN_COUNT, Value::Varint(count))) => claims.0 = count.min(u64::from(u32::MAX)),
            Ok((UNCOMPRESSED_SIZE, Value::Varint(size))) => claims.1 = size.min(u64::from(u32::MAX)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use infertrace_runtime::log::{Millis, Offset, TopicPartition};
    use infertrace_schemas::wire::put_bytes_field;
    use proptest::prelude::*;

    use super::*;

    fn record(offset: u64, spans: usize) -> Record {
        let mut payload = Vec::new();
        for _ in 0..spans {
            put_bytes_field(&mut payload, field::SPANS, b"span");
        }
        Record {
            from: TopicPartition::new("t", 0),
            offset: Offset(offset),
            timestamp: Millis(offset as i64),
            key: None,
            payload: Some(Bytes::from(payload)),
            headers: Vec::new(),
        }
    }

    proptest! {
        /// Scenario: records with gaps, cut at any targets. Guarantee: the ranges follow one another, every
        /// record is in exactly one, and all accounting ends at zero.
        #[test]
        fn cuts_neither_lose_nor_repeat(steps in proptest::collection::vec((1u64..4, 0usize..5), 1..60), target in 1u64..12) {
            let mut buffer = Buffer::new(0);
            let (mut offset, mut pushed, mut taken) = (0, Vec::new(), Vec::new());
            let mut expected_start = 0;
            let mut cut = |buffer: &mut Buffer, end: u64| {
                prop_assert_eq!(buffer.start(), expected_start);
                for record in buffer.take_until(end).records {
                    prop_assert!((expected_start..end).contains(&record.offset.0));
                    taken.push(record.offset.0);
                }
                expected_start = end;
                Ok(())
            };
            for (gap, spans) in steps {
                offset += gap;
                buffer.push(record(offset, spans), 0);
                buffer.push(record(offset, spans), 0);
                pushed.push(offset);
                while let Some(end) = buffer.full_end(target, 1 << 20) {
                    cut(&mut buffer, end)?;
                }
            }
            if let Some(end) = buffer.whole_end() {
                cut(&mut buffer, end)?;
            }
            prop_assert_eq!(taken, pushed);
            prop_assert_eq!((buffer.spans, buffer.unpacked_bytes, buffer.held_bytes), (0, 0, 0));
        }
    }

    /// Scenario: retention removes offsets before they are read. Guarantee: they are counted and reported
    /// with the range in which they stood.
    #[test]
    fn lost_offsets_are_reported_once() {
        let mut buffer = Buffer::new(10);
        buffer.push(record(10, 1), 0);
        assert_eq!(buffer.lose_until(15), 4);
        assert_eq!(buffer.lose_until(15), 0);
        buffer.push(record(15, 1), 0);
        assert!(buffer.take_until(11).lost.is_empty());
        assert_eq!(buffer.take_until(16).lost, vec![LostRange { from: 11, to: 15 }]);
    }

    /// Scenario: the clock is set back by an hour. Guarantee: the wait starts anew, it never turns negative.
    #[test]
    fn a_clock_set_back_restarts_the_wait() {
        let mut buffer = Buffer::new(0);
        buffer.push(record(0, 1), 3_600);
        assert_eq!(buffer.waited_ns(0), 0);
        assert_eq!(buffer.waited_ns(5), 5);
    }
}
