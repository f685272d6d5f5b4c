//! Attributes: typed maps for all of them, typed columns for those that the mapping knows.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, MapArray, StructArray},
    datatypes::DataType,
};

use super::{
    SpanError,
    buffer::{Bits, Lists, Strings, take},
    scratch::Scratch,
};
use crate::{
    columns,
    mapping::{Entry, Lookup},
    value::{AnyValue, ValueError, key_value},
    wire::{WireError, read_bytes, read_varint},
};

/// Keys of one map column; its values stand beside it.
#[derive(Debug, Default)]
struct Keys {
    keys: Strings,
    lists: Lists,
}

impl Keys {
    #[inline]
    fn commit(&mut self, row: usize) {
        self.lists.commit(row, self.keys.len());
    }

    /// Drops the keys that belong to no row yet; answers how many entries stay.
    fn rollback(&mut self) -> usize {
        let committed = self.lists.committed();
        self.keys.truncate(committed);
        committed
    }

    fn finish(&mut self, rows: usize, column: usize, values: ArrayRef) -> ArrayRef {
        let schema = columns::span_schema();
        let DataType::Map(entries, ordered) = schema.field(column).data_type() else {
            unreachable!("attribute columns are maps");
        };
        let DataType::Struct(fields) = entries.data_type() else {
            unreachable!("a map's entries are structs");
        };
        let keys = Arc::new(self.keys.finish_text(None));
        let pairs = StructArray::new(fields.clone(), vec![keys, values], None);
        Arc::new(MapArray::new(Arc::clone(entries), self.lists.finish(rows), pairs, None, *ordered))
    }
}

/// The five attribute columns.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// The keys that enter the columns; `None` is all.
    kept: Option<&'static [&'static str]>,
    string_keys: Keys,
    strings: Strings,
    int_keys: Keys,
    ints: Vec<i64>,
    double_keys: Keys,
    doubles: Vec<f64>,
    bool_keys: Keys,
    bools: Bits,
    other_keys: Keys,
    others: Strings,
}

impl Maps {
    /// From now on attributes of other keys are checked and mapped only.
    pub(super) const fn keep_only(&mut self, keys: &'static [&'static str]) {
        self.kept = Some(keys);
    }

    #[inline(always)]
    fn keeps(&self, key: &[u8]) -> bool {
        self.kept.is_none_or(|keys| keys.iter().any(|kept| kept.as_bytes() == key))
    }

    #[inline]
    pub(super) fn commit(&mut self, row: usize) {
        self.string_keys.commit(row);
        self.int_keys.commit(row);
        self.double_keys.commit(row);
        self.bool_keys.commit(row);
        self.other_keys.commit(row);
    }

    pub(super) fn rollback(&mut self) {
        self.strings.truncate(self.string_keys.rollback());
        self.ints.truncate(self.int_keys.rollback());
        self.doubles.truncate(self.double_keys.rollback());
        self.bools.truncate(self.bool_keys.rollback());
        self.others.truncate(self.other_keys.rollback());
    }

    /// Bytes of the fullest text column, and of all.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let texts = [
            &self.string_keys.keys,
            &self.strings,
            &self.int_keys.keys,
            &self.double_keys.keys,
            &self.bool_keys.keys,
            &self.other_keys.keys,
            &self.others,
        ];
        let fullest = texts.iter().map(|text| text.bytes()).max().unwrap_or(0);
        let all: usize = texts.iter().map(|text| text.bytes() + 4 * text.len()).sum();
        (fullest, all + 8 * (self.ints.len() + self.doubles.len()))
    }

    pub(super) fn finish(&mut self, rows: usize) -> [(usize, ArrayRef); 5] {
        use columns::index;
        let strings = Arc::new(self.strings.finish_text(None));
        let ints = Arc::new(Int64Array::new(take(&mut self.ints).into(), None));
        let doubles = Arc::new(Float64Array::new(take(&mut self.doubles).into(), None));
        let entries = self.bools.len();
        let bools = Arc::new(BooleanArray::new(self.bools.finish(entries), None));
        let others = Arc::new(self.others.finish_binary());
        let column = |keys: &mut Keys, column, values| (column, keys.finish(rows, column, values));
        [
            column(&mut self.string_keys, index::ATTRIBUTES_STRING, strings),
            column(&mut self.int_keys, index::ATTRIBUTES_INT, ints),
            column(&mut self.double_keys, index::ATTRIBUTES_DOUBLE, doubles),
            column(&mut self.bool_keys, index::ATTRIBUTES_BOOL, bools),
            column(&mut self.other_keys, index::ATTRIBUTES_OTHER, others),
        ]
    }

    /// Takes one encoded `KeyValue`.
    #[inline]
    pub(super) fn attribute<'a>(
        &mut self,
        lookup: &Lookup,
        scratch: &mut Scratch<'a>,
        message: &'a [u8],
    ) -> Result<(), SpanError> {
        let (key, raw) = split_key_value(message)?;
        let known = lookup.find(key);
        if known.is_none() {
            check_text(key)?;
        }
        // The forms that every encoder writes; whatever else means the same is taken apart by `any`.
        match raw {
            [0x0a, tail @ ..] => {
                let mut rest = tail;
                let text = read_bytes(&mut rest)?;
                if rest.is_empty() {
                    return self.string(scratch, key, known, text);
                }
            }
            [0x18, tail @ ..] => {
                let mut rest = tail;
                let number = read_varint(&mut rest)? as i64;
                if rest.is_empty() {
                    self.int(scratch, key, known, number);
                    return Ok(());
                }
            }
            [0x21, bits @ ..] if bits.len() == 8 => {
                let bits = *bits.first_chunk::<8>().expect("eight bytes");
                self.double(scratch, key, known, f64::from_le_bytes(bits));
                return Ok(());
            }
            [0x10, flag @ (0 | 1)] => {
                self.bool(scratch, key, known, *flag == 1);
                return Ok(());
            }
            _ => {}
        }
        self.any(scratch, key, known, raw)
    }

    #[inline(always)]
    fn string<'a>(
        &mut self,
        scratch: &mut Scratch<'a>,
        key: &[u8],
        known: Option<&Entry>,
        text: &'a [u8],
    ) -> Result<(), SpanError> {
        check_text(text)?;
        if self.keeps(key) {
            self.string_keys.keys.push(key);
            self.strings.push(text);
        }
        if let Some(entry) = known {
            scratch.offer_entry(entry, &AnyValue::String(text));
        }
        Ok(())
    }

    #[inline(always)]
    fn int(&mut self, scratch: &mut Scratch<'_>, key: &[u8], known: Option<&Entry>, number: i64) {
        if self.keeps(key) {
            self.int_keys.keys.push(key);
            self.ints.push(number);
        }
        if let Some(entry) = known {
            scratch.offer_entry(entry, &AnyValue::Int(number));
        }
    }

    #[inline(always)]
    fn double(&mut self, scratch: &mut Scratch<'_>, key: &[u8], known: Option<&Entry>, number: f64) {
        if self.keeps(key) {
            self.double_keys.keys.push(key);
            self.doubles.push(number);
        }
        if let Some(entry) = known {
            scratch.offer_entry(entry, &AnyValue::Double(number));
        }
    }

    #[inline(always)]
    fn bool(&mut self, scratch: &mut Scratch<'_>, key: &[u8], known: Option<&Entry>, flag: bool) {
        if self.keeps(key) {
            self.bool_keys.keys.push(key);
            self.bools.push(flag);
        }
        if let Some(entry) = known {
            scratch.offer_entry(entry, &AnyValue::Bool(flag));
        }
    }

    /// Takes a value of any kind, however it is encoded.
    fn any<'a>(
        &mut self,
        scratch: &mut Scratch<'a>,
        key: &[u8],
        known: Option<&Entry>,
        raw: &'a [u8],
    ) -> Result<(), SpanError> {
        let value = AnyValue::parse(raw)?;
        match value {
            AnyValue::String(text) => return self.string(scratch, key, known, text),
            AnyValue::Int(number) => self.int(scratch, key, known, number),
            AnyValue::Double(number) => self.double(scratch, key, known, number),
            AnyValue::Bool(flag) => self.bool(scratch, key, known, flag),
            AnyValue::Empty | AnyValue::Array(_) | AnyValue::KvList(_) | AnyValue::Bytes(_) => {
                value.check()?;
                if self.keeps(key) {
                    self.other_keys.keys.push(key);
                    self.others.push(raw);
                }
                if let Some(entry) = known {
                    scratch.offer_entry(entry, &value);
                }
            }
        }
        Ok(())
    }

    /// Takes one entry of the native `tags`, which are attributes of text.
    pub(super) fn tag<'a>(
        &mut self,
        lookup: &Lookup,
        scratch: &mut Scratch<'a>,
        entry: &'a [u8],
    ) -> Result<(), SpanError> {
        // A map entry has the shape of a KeyValue whose value is the text itself.
        let (key, text) = split_key_value(entry)?;
        check_text(key)?;
        self.string(scratch, key, lookup.find(key), text)
    }
}

/// Key and value of a message `{1: bytes, 2: bytes}`, quickly where it has the form that every encoder writes.
#[inline(always)]
fn split_key_value(message: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    if let [0x0a, key_length @ 0..=0x7f, rest @ ..] = message
        && let Some((key, [0x12, tail @ ..])) = rest.split_at_checked(usize::from(*key_length))
    {
        let mut rest = tail;
        let value = read_bytes(&mut rest)?;
        if rest.is_empty() {
            return Ok((key, value));
        }
    }
    key_value(message)
}

/// Whether all of `bytes` is ASCII, eight at a time.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk);
    let (chunks, _) = bytes.as_chunks::<8>();
    match bytes.last_chunk::<8>() {
        // The last eight bytes overlap the chunk before them where the length is no multiple of eight.
        Some(last) => chunks.iter().fold(word(last), |all, chunk| all | word(chunk)) & HIGH == 0,
        None => bytes.iter().fold(0, |all, byte| all | byte) < 0x80,
    }
}

/// Checks that `bytes` are UTF-8.
#[inline]
pub(super) fn check_text(bytes: &[u8]) -> Result<(), SpanError> {
    if is_ascii(bytes) || simdutf8::basic::from_utf8(bytes).is_ok() {
        return Ok(());
    }
    Err(SpanError::BadUtf8)
}

impl From<WireError> for SpanError {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

impl From<ValueError> for SpanError {
    fn from(error: ValueError) -> Self {
        match error {
            ValueError::Wire(_) => Self::Malformed,
            ValueError::Utf8 => Self::BadUtf8,
            ValueError::TooDeep => Self::TooDeep,
        }
    }
}
