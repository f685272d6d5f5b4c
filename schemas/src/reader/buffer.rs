//! Growing columns, laid out as Arrow wants them and handed over without a copy.
//!
//! Invariants: a sparse column grows only when it gets a value, and is padded when the batch is finished;
//! text enters a column only after it was checked to be UTF-8; offsets ascend and end at their data's
//! length.

use std::sync::Arc;

use ahash::RandomState;
use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, DictionaryArray, Int32Array, PrimitiveArray,
        StringArray,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{ArrowNativeType, Int32Type},
};
use hashbrown::HashTable;

use crate::mapping::key_hash;

/// Takes the content and leaves room for a little more than as much again.
pub(super) fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len() + values.len() / 16);
    std::mem::replace(values, next)
}

/// A bit a row.
#[derive(Debug, Default)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    rows: usize,
}

impl Bits {
    /// Appends a bit in row `row`; rows left out before it are false.
    #[inline]
    pub(super) fn push_at(&mut self, row: usize, bit: bool) {
        let byte = row / 8;
        if byte >= self.bytes.len() {
            self.bytes.resize(byte + 1, 0);
        }
        self.bytes[byte] |= u8::from(bit) << (row % 8);
        self.rows = row + 1;
    }

    #[inline]
    pub(super) fn push(&mut self, bit: bool) {
        self.push_at(self.rows, bit);
    }

    pub(super) const fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        if rows < self.rows {
            self.bytes.truncate(rows.div_ceil(8));
            if !rows.is_multiple_of(8)
                && let Some(last) = self.bytes.last_mut()
            {
                *last &= (1 << (rows % 8)) - 1;
            }
            self.rows = rows;
        }
    }

    pub(super) fn finish(&mut self, rows: usize) -> BooleanBuffer {
        let mut bytes = take(&mut self.bytes);
        bytes.resize(rows.div_ceil(8), 0);
        self.rows = 0;
        BooleanBuffer::new(Buffer::from_vec(bytes), 0, rows)
    }

    fn finish_nulls(&mut self, rows: usize) -> Option<NullBuffer> {
        Some(NullBuffer::new(self.finish(rows))).filter(|nulls| nulls.null_count() > 0)
    }
}

/// Numbers that most rows may lack; rows left out are null, or the default in a column without nulls.
#[derive(Debug)]
pub(super) struct Sparse<T> {
    values: Vec<T>,
    valid: Bits,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { values: Vec::new(), valid: Bits::default() }
    }
}

impl<T: ArrowNativeType> Sparse<T> {
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: T) {
        if self.values.len() < row {
            self.values.resize(row, T::default());
        }
        self.values.push(value);
        self.valid.push_at(row, true);
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.len() * size_of::<T>()
    }

    pub(super) fn finish<P: ArrowPrimitiveType<Native = T>>(&mut self, rows: usize) -> ArrayRef {
        if self.values.is_empty() {
            return Arc::new(PrimitiveArray::<P>::new_null(rows));
        }
        let nulls = self.valid.finish_nulls(rows);
        Arc::new(PrimitiveArray::<P>::new(self.padded(rows), nulls))
    }

    /// As a column without nulls.
    pub(super) fn finish_dense<P: ArrowPrimitiveType<Native = T>>(&mut self, rows: usize) -> ArrayRef {
        self.valid.truncate(0);
        Arc::new(PrimitiveArray::<P>::new(self.padded(rows), None))
    }

    fn padded(&mut self, rows: usize) -> ScalarBuffer<T> {
        let mut values = take(&mut self.values);
        values.resize(rows, T::default());
        values.into()
    }
}

/// Truth values that most rows may lack.
#[derive(Debug, Default)]
pub(super) struct SparseFlags {
    values: Bits,
    valid: Bits,
}

impl SparseFlags {
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: bool) {
        self.values.push_at(row, value);
        self.valid.push_at(row, true);
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        let values = self.values.finish(rows);
        Arc::new(BooleanArray::new(values, Some(NullBuffer::new(self.valid.finish(rows)))))
    }
}

/// Byte strings one after another.
#[derive(Debug)]
pub(super) struct Strings {
    data: Vec<u8>,
    /// Where each begins, and where the last ends.
    offsets: Vec<i32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { data: Vec::new(), offsets: vec![0] }
    }
}

impl Strings {
    #[inline]
    pub(super) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.end();
    }

    /// Appends through a function that writes into the column's own memory.
    #[inline]
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.end();
    }

    #[inline]
    fn end(&mut self) {
        // Callers keep a column below 2 GiB, see `SpanReader::push`.
        self.offsets.push(self.data.len() as i32);
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &[u8] {
        &self.data[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.data.truncate(self.offsets[len] as usize);
    }

    pub(super) const fn bytes(&self) -> usize {
        self.data.len()
    }

    fn finish_buffers(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let mut next = Vec::with_capacity(self.offsets.len() + self.offsets.len() / 16);
        next.push(0);
        let offsets = std::mem::replace(&mut self.offsets, next);
        // SAFETY: the first offset is 0, every further one was the length of data that only grew or was
        // truncated together with its offsets.
        let offsets = unsafe { OffsetBuffer::new_unchecked(offsets.into()) };
        (offsets, Buffer::from_vec(take(&mut self.data)))
    }

    /// As text; everything pushed was UTF-8.
    pub(super) fn finish_text(&mut self, nulls: Option<NullBuffer>) -> StringArray {
        let (offsets, data) = self.finish_buffers();
        // SAFETY: the offsets are valid for the data, and every value was checked to be UTF-8 before it was
        // pushed, or was rendered as JSON from such values.
        unsafe { StringArray::new_unchecked(offsets, data, nulls) }
    }

    pub(super) fn finish_binary(&mut self) -> BinaryArray {
        let (offsets, data) = self.finish_buffers();
        BinaryArray::new(offsets, data, None)
    }
}

/// Texts that most rows may lack.
#[derive(Debug, Default)]
pub(super) struct SparseText {
    values: Strings,
    valid: Bits,
}

impl SparseText {
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: &[u8]) {
        self.pad(row);
        self.values.push(value);
        self.valid.push_at(row, true);
    }

    #[inline]
    fn pad(&mut self, row: usize) {
        if self.values.len() < row {
            let end = self.values.data.len() as i32;
            self.values.offsets.resize(row + 1, end);
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.values.bytes()
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        self.pad(rows);
        let nulls = NullBuffer::new(self.valid.finish(rows));
        Arc::new(self.values.finish_text(Some(nulls)))
    }
}

/// Where each row's entries end in a list's or map's children; rows left out have none.
#[derive(Debug)]
pub(super) struct Lists {
    offsets: Vec<i32>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { offsets: vec![0] }
    }
}

impl Lists {
    /// Entries that belong to rows.
    #[inline]
    pub(super) fn committed(&self) -> usize {
        self.offsets[self.offsets.len() - 1] as usize
    }

    /// Gives row `row` the entries up to `end`.
    #[inline]
    pub(super) fn commit(&mut self, row: usize, end: usize) {
        let committed = self.offsets[self.offsets.len() - 1];
        if end as i32 != committed {
            self.pad(row);
            self.offsets.push(end as i32);
        }
    }

    #[inline]
    fn pad(&mut self, row: usize) {
        if self.offsets.len() <= row {
            let committed = self.offsets[self.offsets.len() - 1];
            self.offsets.resize(row + 1, committed);
        }
    }

    pub(super) fn finish(&mut self, rows: usize) -> OffsetBuffer<i32> {
        self.pad(rows);
        let mut next = Vec::with_capacity(self.offsets.len() + self.offsets.len() / 16);
        next.push(0);
        let offsets = std::mem::replace(&mut self.offsets, next);
        OffsetBuffer::new(offsets.into())
    }
}

const RECENT: usize = 256;

/// Distinct texts, numbered in the order in which they came.
#[derive(Debug)]
pub(super) struct Dictionary {
    values: Strings,
    table: HashTable<i32>,
    hasher: RandomState,
    /// What a cheap hash of the text found last, plus one.
    recent: Box<[i32; RECENT]>,
}

impl Default for Dictionary {
    fn default() -> Self {
        Self {
            values: Strings::default(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            recent: Box::new([0; RECENT]),
        }
    }
}

impl Dictionary {
    /// The key of `value`, if it was seen before.
    #[inline]
    pub(super) fn find(&mut self, value: &[u8]) -> Option<i32> {
        let slot = key_hash(value) as usize % RECENT;
        let recent = self.recent[slot];
        if recent > 0 && self.values.get(recent as usize - 1) == value {
            return Some(recent - 1);
        }
        let values = &self.values;
        let key = *self.table.find(self.hasher.hash_one(value), |key| values.get(*key as usize) == value)?;
        self.recent[slot] = key + 1;
        Some(key)
    }

    /// The key of `value`, which is UTF-8.
    #[inline]
    pub(super) fn intern(&mut self, value: &[u8]) -> i32 {
        match self.find(value) {
            Some(key) => key,
            None => self.insert(value),
        }
    }

    #[cold]
    fn insert(&mut self, value: &[u8]) -> i32 {
        let key = self.values.len() as i32;
        self.values.push(value);
        let (values, hasher) = (&self.values, &self.hasher);
        let rehash = |key: &i32| hasher.hash_one(values.get(*key as usize));
        self.table.insert_unique(hasher.hash_one(value), key, rehash);
        self.recent[key_hash(value) as usize % RECENT] = key + 1;
        key
    }

    #[inline]
    pub(super) fn get(&self, key: i32) -> &[u8] {
        self.values.get(key as usize)
    }

    pub(super) const fn bytes(&self) -> usize {
        self.values.bytes()
    }

    fn finish(&mut self) -> ArrayRef {
        self.table.clear();
        self.recent.fill(0);
        Arc::new(self.values.finish_text(None))
    }
}

/// A dictionary-coded column without nulls.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) dictionary: Dictionary,
    pub(super) keys: Vec<i32>,
}

impl Terms {
    pub(super) fn bytes(&self) -> usize {
        self.dictionary.bytes() + self.keys.len() * 4
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        let keys = Int32Array::new(take(&mut self.keys).into(), None);
        dictionary_array(keys, self.dictionary.finish())
    }
}

/// A dictionary-coded column that most rows may lack.
#[derive(Debug, Default)]
pub(super) struct SparseTerms {
    pub(super) dictionary: Dictionary,
    keys: Sparse<i32>,
}

impl SparseTerms {
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: &[u8]) {
        let key = self.dictionary.intern(value);
        self.keys.set(row, key);
    }

    #[inline]
    pub(super) fn set_key(&mut self, row: usize, key: i32) {
        self.keys.set(row, key);
    }

    pub(super) fn bytes(&self) -> usize {
        self.dictionary.bytes() + self.keys.bytes()
    }

    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        let nulls = self
            .keys
            .valid
            .finish_nulls(rows)
            .or_else(|| (self.keys.values.is_empty() && rows > 0).then(|| NullBuffer::new_null(rows)));
        let keys = Int32Array::new(self.keys.padded(rows), nulls);
        dictionary_array(keys, self.dictionary.finish())
    }
}

fn dictionary_array(keys: Int32Array, values: ArrayRef) -> ArrayRef {
    // SAFETY: a key is either the index of a value of this dictionary or stands in a null row.
    Arc::new(unsafe { DictionaryArray::<Int32Type>::new_unchecked(keys, values) })
}
