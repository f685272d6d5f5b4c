//! The nested columns of a span batch: attribute maps, events, links and token timelines.

use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, TimestampNanosecondArray, UInt32Array,
};

use super::column::Column;
use crate::value::AnyValue;

/// One map column: the rows' ranges, the keys, the values.
pub struct TypedMap<'a, V> {
    offsets: &'a [i32],
    keys: &'a StringArray,
    values: &'a V,
}

impl<V> Clone for TypedMap<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for TypedMap<'_, V> {}

impl<'a, V: 'static> TypedMap<'a, V> {
    pub(super) fn open(array: &'a dyn Array) -> Option<Self> {
        let map = array.as_any().downcast_ref::<MapArray>()?;
        let keys = map.keys().as_any().downcast_ref::<StringArray>()?;
        let values = map.values().as_any().downcast_ref::<V>()?;
        Some(Self { offsets: map.value_offsets(), keys, values })
    }

    #[inline]
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// Entry of `key` in `row`; the last one where a sender repeated it.
    #[inline]
    fn find(&self, row: usize, key: &str) -> Option<usize> {
        self.range(row).rev().find(|&entry| self.keys.value(entry) == key)
    }
}

/// The five attribute maps.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub(super) strings: TypedMap<'a, StringArray>,
    pub(super) ints: TypedMap<'a, Int64Array>,
    pub(super) doubles: TypedMap<'a, Float64Array>,
    pub(super) bools: TypedMap<'a, BooleanArray>,
    pub(super) others: TypedMap<'a, BinaryArray>,
}

/// One attribute's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttributeValue<'a> {
    /// Text.
    String(&'a str),
    /// 64-bit integer.
    Int(i64),
    /// 64-bit float.
    Double(f64),
    /// Truth value.
    Bool(bool),
    /// An encoded OTLP `AnyValue`: an array, a key-value list, bytes or nothing; see [`AnyValue::parse`].
    Other(&'a [u8]),
}

impl<'a> AttributeValue<'a> {
    /// The value as an OTLP value of one level.
    #[must_use]
    pub fn any_value(&self) -> AnyValue<'a> {
        match *self {
            Self::String(text) => AnyValue::String(text.as_bytes()),
            Self::Int(value) => AnyValue::Int(value),
            Self::Double(value) => AnyValue::Double(value),
            Self::Bool(value) => AnyValue::Bool(value),
            Self::Other(message) => AnyValue::parse(message).unwrap_or(AnyValue::Empty),
        }
    }
}

impl<'a> Attributes<'a> {
    /// Every attribute of `row`: texts, integers, doubles, truth values, then the others.
    pub fn iter(self, row: usize) -> impl Iterator<Item = (&'a str, AttributeValue<'a>)> {
        let Self { strings, ints, doubles, bools, others } = self;
        let strings = strings
            .range(row)
            .map(move |i| (strings.keys.value(i), AttributeValue::String(strings.values.value(i))));
        let ints =
            ints.range(row).map(move |i| (ints.keys.value(i), AttributeValue::Int(ints.values.value(i))));
        let doubles = doubles
            .range(row)
            .map(move |i| (doubles.keys.value(i), AttributeValue::Double(doubles.values.value(i))));
        let bools =
            bools.range(row).map(move |i| (bools.keys.value(i), AttributeValue::Bool(bools.values.value(i))));
        let others = others
            .range(row)
            .map(move |i| (others.keys.value(i), AttributeValue::Other(others.values.value(i))));
        strings.chain(ints).chain(doubles).chain(bools).chain(others)
    }

    /// The attribute `key` of `row`.
    #[must_use]
    pub fn get(&self, row: usize, key: &str) -> Option<AttributeValue<'a>> {
        let string = |i| AttributeValue::String(self.strings.values.value(i));
        let int = |i| AttributeValue::Int(self.ints.values.value(i));
        let double = |i| AttributeValue::Double(self.doubles.values.value(i));
        let bool = |i| AttributeValue::Bool(self.bools.values.value(i));
        let other = |i| AttributeValue::Other(self.others.values.value(i));
        (self.strings.find(row, key).map(string))
            .or_else(|| self.ints.find(row, key).map(int))
            .or_else(|| self.doubles.find(row, key).map(double))
            .or_else(|| self.bools.find(row, key).map(bool))
            .or_else(|| self.others.find(row, key).map(other))
    }

    /// Whether `row` has an attribute `key` that reads as `value`: the text itself, or a number or truth
    /// value that it spells.
    #[must_use]
    pub fn equals(&self, row: usize, key: &str, value: &str) -> bool {
        match self.get(row, key) {
            Some(AttributeValue::String(text)) => text == value,
            Some(AttributeValue::Int(number)) => value.parse() == Ok(number),
            Some(AttributeValue::Double(number)) => value.parse() == Ok(number),
            Some(AttributeValue::Bool(flag)) => value.parse() == Ok(flag),
            Some(AttributeValue::Other(_)) | None => false,
        }
    }
}

fn text<'a>(columns: &'a StructArray, name: &str) -> Option<&'a StringArray> {
    columns.column_by_name(name)?.as_any().downcast_ref()
}

fn numbers<'a>(columns: &'a StructArray, name: &str) -> Option<&'a UInt32Array> {
    columns.column_by_name(name)?.as_any().downcast_ref()
}

fn binary<'a>(columns: &'a StructArray, name: &str) -> Option<&'a BinaryArray> {
    columns.column_by_name(name)?.as_any().downcast_ref()
}

fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventView<'a> {
    /// When, in nanoseconds since 1970; bits of OTLP's unsigned value.
    pub time_ns: i64,
    /// Name.
    pub name: &'a str,
    /// OTLP/JSON array of KeyValue, or empty.
    pub attributes: &'a str,
    /// Attributes its sender dropped.
    pub dropped_attributes_count: u32,
}

/// The events column.
#[derive(Clone, Copy)]
pub struct Events<'a> {
    offsets: &'a [i32],
    times: &'a TimestampNanosecondArray,
    names: &'a StringArray,
    attributes: &'a StringArray,
    dropped: &'a UInt32Array,
}

impl<'a> Column<'a> for Events<'a> {
    type Item = Vec<EventView<'a>>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        let list = array.as_any().downcast_ref::<ListArray>()?;
        let columns = list.values().as_any().downcast_ref::<StructArray>()?;
        Some(Self {
            offsets: list.value_offsets(),
            times: columns.column_by_name("time")?.as_any().downcast_ref()?,
            names: text(columns, "name")?,
            attributes: text(columns, "attributes")?,
            dropped: numbers(columns, "dropped_attributes_count")?,
        })
    }

    fn get(&self, row: usize) -> Self::Item {
        range(self.offsets, row)
            .map(|i| EventView {
                time_ns: self.times.value(i),
                name: self.names.value(i),
                attributes: self.attributes.value(i),
                dropped_attributes_count: self.dropped.value(i),
            })
            .collect()
    }
}

/// One link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkView<'a> {
    /// Trace, as sent.
    pub trace_id: &'a [u8],
    /// Span, as sent.
    pub span_id: &'a [u8],
    /// W3C tracestate.
    pub trace_state: &'a str,
    /// OTLP/JSON array of KeyValue, or empty.
    pub attributes: &'a str,
    /// Attributes its sender dropped.
    pub dropped_attributes_count: u32,
    /// W3C trace flags and OTLP's remote bits.
    pub flags: u32,
}

/// The links column.
#[derive(Clone, Copy)]
pub struct Links<'a> {
    offsets: &'a [i32],
    trace_ids: &'a BinaryArray,
    span_ids: &'a BinaryArray,
    trace_states: &'a StringArray,
    attributes: &'a StringArray,
    dropped: &'a UInt32Array,
    flags: &'a UInt32Array,
}

impl<'a> Column<'a> for Links<'a> {
    type Item = Vec<LinkView<'a>>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        let list = array.as_any().downcast_ref::<ListArray>()?;
        let columns = list.values().as_any().downcast_ref::<StructArray>()?;
        Some(Self {
            offsets: list.value_offsets(),
            trace_ids: binary(columns, "trace_id")?,
            span_ids: binary(columns, "span_id")?,
            trace_states: text(columns, "trace_state")?,
            attributes: text(columns, "attributes")?,
            dropped: numbers(columns, "dropped_attributes_count")?,
            flags: numbers(columns, "flags")?,
        })
    }

    fn get(&self, row: usize) -> Self::Item {
        range(self.offsets, row)
            .map(|i| LinkView {
                trace_id: self.trace_ids.value(i),
                span_id: self.span_ids.value(i),
                trace_state: self.trace_states.value(i),
                attributes: self.attributes.value(i),
                dropped_attributes_count: self.dropped.value(i),
                flags: self.flags.value(i),
            })
            .collect()
    }
}

/// One span's token timeline: parallel columns, each empty or as long as the longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokensView<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Microseconds from the token before; the first from the span's start.
    pub itl_micros: &'a [u32],
    /// Microseconds of attention.
    pub attention_micros: &'a [u32],
    /// Microseconds of the feed-forward part.
    pub ffn_micros: &'a [u32],
    /// Sequences in the step that made the token.
    pub batch_sizes: &'a [u32],
    /// Texts, which SDKs send only when told to.
    pub texts: Vec<&'a str>,
}

impl TokensView<'_> {
    /// Tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        [self.ids, self.itl_micros, self.attention_micros, self.ffn_micros, self.batch_sizes]
            .iter()
            .map(|column| column.len())
            .max()
            .unwrap_or(0)
            .max(self.texts.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tokens column.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    columns: &'a StructArray,
    ids: &'a ListArray,
    itl_micros: &'a ListArray,
    attention_micros: &'a ListArray,
    ffn_micros: &'a ListArray,
    batch_sizes: &'a ListArray,
    texts: &'a ListArray,
}

impl<'a> Column<'a> for Tokens<'a> {
    type Item = Option<TokensView<'a>>;

    fn open(array: &'a dyn Array) -> Option<Self> {
        let columns = array.as_any().downcast_ref::<StructArray>()?;
        let numbers = |name| {
            let list = columns.column_by_name(name)?.as_any().downcast_ref::<ListArray>()?;
            list.values().as_any().is::<UInt32Array>().then_some(list)
        };
        let texts = columns.column_by_name("texts")?.as_any().downcast_ref::<ListArray>()?;
        texts.values().as_any().is::<StringArray>().then_some(Self {
            columns,
            ids: numbers("ids")?,
            itl_micros: numbers("itl_micros")?,
            attention_micros: numbers("attention_micros")?,
            ffn_micros: numbers("ffn_micros")?,
            batch_sizes: numbers("batch_sizes")?,
            texts,
        })
    }

    fn get(&self, row: usize) -> Self::Item {
        if self.columns.is_null(row) {
            return None;
        }
        let numbers = |list: &'a ListArray| {
            let values = list.values().as_primitive::<arrow::datatypes::UInt32Type>();
            &values.values()[range(list.value_offsets(), row)]
        };
        let texts = self.texts.values().as_string::<i32>();
        Some(TokensView {
            ids: numbers(self.ids),
            itl_micros: numbers(self.itl_micros),
            attention_micros: numbers(self.attention_micros),
            ffn_micros: numbers(self.ffn_micros),
            batch_sizes: numbers(self.batch_sizes),
            texts: range(self.texts.value_offsets(), row).map(|i| texts.value(i)).collect(),
        })
    }
}
