//! Events, links and token timelines: the nested columns.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ListArray, StructArray, TimestampNanosecondArray, UInt32Array},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Fields as ArrowFields},
};

use super::{
    SpanError,
    attributes::check_text,
    buffer::{Bits, Lists, Strings, take},
    scratch::Scratch,
};
use crate::{
    columns,
    value::{AnyValue, Separator, items, key_value, put_otlp_key_value},
    wire::{Field as WireField, Fields, Value, WireError, read_varint},
};

/// Checks one encoded `KeyValue`.
pub(super) fn check_key_value(message: &[u8]) -> Result<(), SpanError> {
    let (key, value) = key_value(message)?;
    check_text(key)?;
    AnyValue::parse(value)?.check()?;
    Ok(())
}

/// Appends the attributes in field `number` of `message`, checked before, as an OTLP/JSON array.
pub(super) fn put_attributes(out: &mut Vec<u8>, message: &[u8], number: u32) {
    out.push(b'[');
    let mut separator = Separator::default();
    for field in Fields::new(message).map_while(Result::ok).filter(|field| field.number == number) {
        if let Value::Bytes(attribute) = field.value {
            separator.put(out);
            put_otlp_key_value(out, attribute);
        }
    }
    out.push(b']');
}

fn list_of(fields: ArrowFields, offsets: OffsetBuffer<i32>, columns: Vec<ArrayRef>) -> ArrayRef {
    let item = Field::new("item", DataType::Struct(fields.clone()), false);
    Arc::new(ListArray::new(Arc::new(item), offsets, Arc::new(StructArray::new(fields, columns, None)), None))
}

fn numbers(values: &mut Vec<u32>) -> ArrayRef {
    Arc::new(UInt32Array::new(take(values).into(), None))
}

/// The events column.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Events are checked and mapped only.
    pub(super) left_out: bool,
    lists: Lists,
    times: Vec<i64>,
    names: Strings,
    attributes: Strings,
    dropped: Vec<u32>,
}

impl Events {
    pub(super) fn push(&mut self, scratch: &mut Scratch<'_>, message: &[u8]) -> Result<(), SpanError> {
        let (mut time, mut name, mut has_attributes, mut dropped) = (0, &[][..], false, 0);
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => time = field.fixed64()?,
                2 => name = field.bytes()?,
                3 => {
                    check_key_value(field.bytes()?)?;
                    has_attributes = true;
                }
                4 => dropped = field.varint()? as u32,
                _ => {}
            }
        }
        check_text(name)?;
        match name {
            b"QUEUE_START" => scratch.queue_start = time,
            b"COMPUTE_START" => scratch.compute_start = time,
            _ => {}
        }
        if self.left_out {
            return Ok(());
        }
        self.times.push(time as i64);
        self.names.push(name);
        self.dropped.push(dropped);
        self.attributes.push_with(|out| {
            if has_attributes {
                put_attributes(out, message, 3);
            }
        });
        Ok(())
    }

    #[inline]
    pub(super) fn commit(&mut self, row: usize) {
        self.lists.commit(row, self.times.len());
    }

    pub(super) fn rollback(&mut self) {
        let committed = self.lists.committed();
        self.times.truncate(committed);
        self.names.truncate(committed);
        self.attributes.truncate(committed);
        self.dropped.truncate(committed);
    }

    pub(super) fn bytes(&self) -> (usize, usize) {
        let (names, attributes) = (self.names.bytes(), self.attributes.bytes());
        (names.max(attributes), names + attributes + 20 * self.times.len())
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        let times = TimestampNanosecondArray::new(take(&mut self.times).into(), None);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(times.with_timezone(columns::UTC)),
            Arc::new(self.names.finish_text(None)),
            Arc::new(self.attributes.finish_text(None)),
            numbers(&mut self.dropped),
        ];
        list_of(columns::event_fields(), self.lists.finish(rows), columns)
    }
}

/// The links column.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Links are checked only.
    pub(super) left_out: bool,
    lists: Lists,
    trace_ids: Strings,
    span_ids: Strings,
    trace_states: Strings,
    attributes: Strings,
    dropped: Vec<u32>,
    flags: Vec<u32>,
}

impl Links {
    pub(super) fn push(&mut self, message: &[u8]) -> Result<(), SpanError> {
        let (mut trace_id, mut span_id, mut trace_state) = (&[][..], &[][..], &[][..]);
        let (mut has_attributes, mut dropped, mut flags) = (false, 0, 0);
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => trace_id = field.bytes()?,
                2 => span_id = field.bytes()?,
                3 => trace_state = field.bytes()?,
                4 => {
                    check_key_value(field.bytes()?)?;
                    has_attributes = true;
                }
                5 => dropped = field.varint()? as u32,
                6 => flags = field.fixed32()?,
                _ => {}
            }
        }
        check_text(trace_state)?;
        if self.left_out {
            return Ok(());
        }
        self.trace_ids.push(trace_id);
        self.span_ids.push(span_id);
        self.trace_states.push(trace_state);
        self.dropped.push(dropped);
        self.flags.push(flags);
        self.attributes.push_with(|out| {
            if has_attributes {
                put_attributes(out, message, 4);
            }
        });
        Ok(())
    }

    #[inline]
    pub(super) fn commit(&mut self, row: usize) {
        self.lists.commit(row, self.flags.len());
    }

    pub(super) fn rollback(&mut self) {
        let committed = self.lists.committed();
        self.trace_ids.truncate(committed);
        self.span_ids.truncate(committed);
        self.trace_states.truncate(committed);
        self.attributes.truncate(committed);
        self.dropped.truncate(committed);
        self.flags.truncate(committed);
    }

    pub(super) fn bytes(&self) -> (usize, usize) {
        let texts = [&self.trace_ids, &self.span_ids, &self.trace_states, &self.attributes];
        let fullest = texts.iter().map(|text| text.bytes()).max().unwrap_or(0);
        (fullest, texts.iter().map(|text| text.bytes()).sum::<usize>() + 24 * self.flags.len())
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.trace_ids.finish_binary()),
            Arc::new(self.span_ids.finish_binary()),
            Arc::new(self.trace_states.finish_text(None)),
            Arc::new(self.attributes.finish_text(None)),
            numbers(&mut self.dropped),
            numbers(&mut self.flags),
        ];
        list_of(columns::link_fields(), self.lists.finish(rows), columns)
    }
}

/// One list of numbers a row.
#[derive(Debug, Default)]
struct NumberLists {
    lists: Lists,
    values: Vec<u32>,
}

impl NumberLists {
    fn pending(&self) -> &[u32] {
        &self.values[self.lists.committed()..]
    }

    fn commit(&mut self, row: usize) {
        self.lists.commit(row, self.values.len());
    }

    fn rollback(&mut self) {
        self.values.truncate(self.lists.committed());
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        let item = Arc::new(Field::new("item", DataType::UInt32, false));
        Arc::new(ListArray::new(item, self.lists.finish(rows), numbers(&mut self.values), None))
    }
}

/// The tokens column.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    valid: Bits,
    ids: NumberLists,
    itl_micros: NumberLists,
    attention_micros: NumberLists,
    ffn_micros: NumberLists,
    batch_sizes: NumberLists,
    text_lists: Lists,
    texts: Strings,
    /// The last inter-token latency, to which the next is a difference.
    last_itl: i64,
    /// The latencies of one span, sorted as far as its percentiles need it.
    sorted: Vec<u32>,
}

/// Inter-token latencies of one span, microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ItlSummary {
    pub(super) p50: u32,
    pub(super) p99: u32,
    pub(super) max: u32,
    pub(super) mean: f64,
}

/// Calls `take` with every varint of a repeated field, packed or not.
fn each_varint(field: &WireField<'_>, mut take: impl FnMut(u64)) -> Result<(), WireError> {
    match field.value {
        Value::Varint(value) => take(value),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                take(read_varint(&mut packed)?);
            }
        }
        Value::Fixed64(_) | Value::Fixed32(_) => return Err(WireError::WrongType(field.number)),
    }
    Ok(())
}

const fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn clamp(value: i64) -> u32 {
    value.clamp(0, i64::from(u32::MAX)) as u32
}

impl Tokens {
    /// Takes one encoded `TokenTimeline`.
    pub(super) fn push(&mut self, message: &[u8]) -> Result<(), SpanError> {
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => each_varint(&field, |value| self.ids.values.push(value as u32))?,
                2 => each_varint(&field, |value| self.push_delta(zigzag(value)))?,
                3 => each_varint(&field, |value| self.attention_micros.values.push(value as u32))?,
                4 => each_varint(&field, |value| self.ffn_micros.values.push(value as u32))?,
                5 => each_varint(&field, |value| self.batch_sizes.values.push(value as u32))?,
                6 => {
                    let text = field.bytes()?;
                    check_text(text)?;
                    self.texts.push(text);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The first two values are latencies themselves, the others differences to the one before.
    fn push_delta(&mut self, delta: i64) {
        let latency =
            if self.itl_micros.pending().len() < 2 { delta } else { self.last_itl.saturating_add(delta) };
        self.last_itl = latency;
        self.itl_micros.values.push(clamp(latency));
    }

    /// Takes LoongSuite's arrays, seconds from the span's start to each token and batch sizes; answers whether
    /// there were any.
    #[inline]
    pub(super) fn push_arrays(&mut self, times: &[u8], batch_sizes: &[u8]) -> bool {
        if times.is_empty() && batch_sizes.is_empty() {
            return false;
        }
        self.push_numbers(times, batch_sizes);
        !(self.itl_micros.pending().is_empty() && self.batch_sizes.pending().is_empty())
    }

    fn push_numbers(&mut self, times: &[u8], batch_sizes: &[u8]) {
        let numbers = |array| {
            items(array).map_while(Result::ok).filter_map(|item| match AnyValue::parse(item) {
                Ok(AnyValue::Double(number)) => Some(number),
                Ok(AnyValue::Int(number)) => Some(number as f64),
                _ => None,
            })
        };
        let mut last = 0.0;
        for seconds in numbers(times) {
            // Casts of floats saturate, and NaN becomes 0.
            self.itl_micros.values.push(((seconds - last) * 1e6).round() as u32);
            last = seconds;
        }
        self.batch_sizes.values.extend(numbers(batch_sizes).map(|size| size.round() as u32));
    }

    /// Time to the first token of the span being read.
    pub(super) fn first_micros(&self) -> Option<u32> {
        self.itl_micros.pending().first().copied()
    }

    /// Mean batch size of the span being read.
    pub(super) fn mean_batch_size(&self) -> Option<u32> {
        let sizes = self.batch_sizes.pending();
        let sum: u64 = sizes.iter().copied().map(u64::from).sum();
        let count = sizes.len() as u64;
        (count > 0).then(|| ((sum + count / 2) / count) as u32)
    }

    /// Latencies between the tokens of the span being read; the first has none.
    pub(super) fn summarise(&mut self) -> Option<ItlSummary> {
        let latencies = self.itl_micros.pending().get(1..)?;
        if latencies.is_empty() {
            return None;
        }
        self.sorted.clear();
        self.sorted.extend_from_slice(latencies);
        let count = self.sorted.len();
        let sum: u64 = self.sorted.iter().copied().map(u64::from).sum();
        let (_, p99, above) = self.sorted.select_nth_unstable((count * 99).div_ceil(100) - 1);
        let p99 = *p99;
        let max = above.iter().copied().max().unwrap_or(p99);
        let (_, p50, _) = self.sorted.select_nth_unstable(count.div_ceil(2) - 1);
        Some(ItlSummary { p50: *p50, p99, max, mean: sum as f64 / count as f64 })
    }

    pub(super) fn commit(&mut self, row: usize) {
        self.valid.push_at(row, true);
        self.ids.commit(row);
        self.itl_micros.commit(row);
        self.attention_micros.commit(row);
        self.ffn_micros.commit(row);
        self.batch_sizes.commit(row);
        self.text_lists.commit(row, self.texts.len());
    }

    pub(super) fn rollback(&mut self) {
        self.ids.rollback();
        self.itl_micros.rollback();
        self.attention_micros.rollback();
        self.ffn_micros.rollback();
        self.batch_sizes.rollback();
        self.texts.truncate(self.text_lists.committed());
    }

    pub(super) fn bytes(&self) -> (usize, usize) {
        let lists =
            [&self.ids, &self.itl_micros, &self.attention_micros, &self.ffn_micros, &self.batch_sizes];
        let numbers: usize = lists.iter().map(|list| list.values.len() * 4).sum();
        (self.texts.bytes(), self.texts.bytes() + numbers)
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        let valid = NullBuffer::new(self.valid.finish(rows));
        let text = Arc::new(Field::new("item", DataType::Utf8, false));
        let texts = Arc::new(self.texts.finish_text(None));
        let columns: Vec<ArrayRef> = vec![
            self.ids.finish(rows),
            self.itl_micros.finish(rows),
            self.attention_micros.finish(rows),
            self.ffn_micros.finish(rows),
            self.batch_sizes.finish(rows),
            Arc::new(ListArray::new(text, self.text_lists.finish(rows), texts, None)),
        ];
        Arc::new(StructArray::new(columns::token_fields(), columns, Some(valid)))
    }
}
