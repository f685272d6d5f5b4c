//! Text columns straight into Parquet pages.
//!
//! The general writer wants text picked into order first and then hashes every value of it, though a span's
//! text is mostly what the span before had, or is numbered already. Here values are numbered where they lie, compared
//! with the last one under the same hint (the attribute's key) before anything is hashed; only numbers are picked.
//!
//! Invariants: a chunk is either dictionary-encoded as a whole or plain as a whole; its bytes depend on the
//! values and their order only; a dictionary stays below [`MAX_DICTIONARY_BYTES`].

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashTable;
use parquet::{
    basic::{Compression, Encoding, PageType, Type, ZstdLevel},
    column::{
        page::{CompressedPage, Page, PageWriter},
        writer::ColumnCloseResult,
    },
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats},
        statistics::Statistics,
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};
use zstd::bulk::Compressor;

use super::{
    hybrid::{bit_width, encode},
    layout::Layout,
};

/// A reader decodes the whole dictionary before the first value.
const MAX_DICTIONARY_BYTES: usize = 512 << 10;
/// Until so many values have been seen, a column is not given up as one without repetition.
const TRIAL_VALUES: usize = 4_096;
const UNKNOWN: u32 = u32::MAX;

/// Compresses pages, with one context for a file.
pub(super) struct PageCompressor {
    zstd: Compressor<'static>,
    level: i32,
}

impl PageCompressor {
    pub(super) fn new(level: i32) -> Result<Self, ParquetError> {
        let zstd = Compressor::new(level).map_err(|error| ParquetError::External(error.into()))?;
        Ok(Self { zstd, level })
    }

    fn compress(&mut self, plain: &[u8]) -> Result<Bytes, ParquetError> {
        let packed = self.zstd.compress(plain).map_err(|error| ParquetError::External(error.into()))?;
        Ok(packed.into())
    }

    fn codec(&self) -> Compression {
        Compression::ZSTD(ZstdLevel::try_new(self.level).unwrap_or_default())
    }
}

/// The values of a leaf, in order.
pub(super) enum Values<'a> {
    /// Numbered, with what the numbers stand for.
    Coded { codes: Vec<u32>, terms: Vec<&'a [u8]> },
    /// As they are: most of them differ.
    Plain(Vec<&'a [u8]>),
    /// There are none.
    None,
}

impl<'a> Values<'a> {
    /// Values that stand for numbers already: `keys` are positions in `dictionary`.
    pub(super) fn of_keys(
        keys: impl Iterator<Item = i32>,
        dictionary: impl Fn(usize) -> &'a [u8],
        len: usize,
    ) -> Self {
        let mut local = vec![UNKNOWN; len];
        let mut terms = Vec::new();
        let codes = keys
            .map(|key| {
                let code = &mut local[key as usize];
                if *code == UNKNOWN {
                    *code = terms.len() as u32;
                    terms.push(dictionary(key as usize));
                }
                *code
            })
            .collect();
        Self::coded(codes, terms)
    }

    fn coded(codes: Vec<u32>, terms: Vec<&'a [u8]>) -> Self {
        // Not every reader expects an empty dictionary.
        if terms.is_empty() { Self::None } else { Self::Coded { codes, terms } }
    }

    /// The texts at `picks`, in this order; `text` gives the one at a position.
    pub(super) fn of_texts(
        numbers: Option<&Numbers<'a>>,
        text: impl Fn(usize) -> &'a [u8],
        picks: &[u32],
    ) -> Self {
        let Some(numbers) = numbers else {
            return Self::Plain(picks.iter().map(|pick| text(*pick as usize)).collect());
        };
        let codes = picks.iter().map(|pick| numbers.codes[*pick as usize] as i32);
        Self::of_keys(codes, |code| numbers.terms[code], numbers.terms.len())
    }
}

/// Texts numbered where they lie, one after the other: rows are picked into another order, and to go after their text in
/// that order misses the caches at every step, while numbers are small.
pub(super) struct Numbers<'a> {
    /// By position; [`UNKNOWN`] where nothing is picked.
    pub(super) codes: Vec<u32>,
    terms: Vec<&'a [u8]>,
}

impl<'a> Numbers<'a> {
    /// Numbers those of `len` texts that are among `picks`; `None` where most of them differ. `hint(position, previous
    /// code)` is small, and equal for texts that are likely equal.
    pub(super) fn of(
        len: usize,
        text: impl Fn(usize) -> &'a [u8],
        picks: &[u32],
        hint: impl Fn(usize, u32) -> u32,
    ) -> Option<Self> {
        let mut picked = vec![false; len];
        picks.iter().for_each(|pick| picked[*pick as usize] = true);
        let mut terms: Vec<&'a [u8]> = Vec::new();
        let mut bytes = 0;
        let mut last_of_hint: Vec<u32> = Vec::new();
        // With its hash, so that a growing table need not go back to the texts.
        let mut numbers: HashTable<(u64, u32)> = HashTable::with_capacity(TRIAL_VALUES);
        let hasher = RandomState::new();
        let mut codes = vec![UNKNOWN; len];
        let (mut previous, mut seen) = (0, 0);
        for (position, _) in picked.iter().enumerate().filter(|(_, picked)| **picked) {
            let value = text(position);
            let hint = hint(position, previous) as usize;
            if hint >= last_of_hint.len() {
                last_of_hint.resize(hint + 1, UNKNOWN);
            }
            let last = last_of_hint[hint];
            let code = if last != UNKNOWN && terms[last as usize] == value {
                last
            } else {
                let hash = hasher.hash_one(value);
                let known = numbers.find(hash, |&(of, code)| of == hash && terms[code as usize] == value);
                match known {
                    Some(&(_, code)) => code,
                    None => {
                        let code = terms.len() as u32;
                        terms.push(value);
                        bytes += value.len() + 4;
                        let differs_mostly = seen >= TRIAL_VALUES && terms.len() > seen / 2;
                        if differs_mostly || bytes > MAX_DICTIONARY_BYTES {
                            return None;
                        }
                        numbers.insert_unique(hash, (hash, code), |&(of, _)| of);
                        code
                    }
                }
            };
            last_of_hint[hint] = code;
            codes[position] = code;
            previous = code;
            seen += 1;
        }
        Some(Self { codes, terms })
    }
}

fn put_plain(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// A finished column chunk: its bytes, and what the file's metadata says about it.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) close: ColumnCloseResult,
}

/// Writes one leaf of a row group.
pub(super) fn write(
    leaf: ColumnDescPtr,
    layout: &Layout,
    values: &Values<'_>,
    compressor: &mut PageCompressor,
) -> Result<Chunk, ParquetError> {
    let mut chunk = Pages::new();
    let mut plain = Vec::new();
    let encoding = match values {
        Values::Coded { terms, .. } => {
            for term in terms {
                put_plain(&mut plain, term);
            }
            chunk.put_dictionary(&plain, terms.len(), compressor)?;
            Encoding::RLE_DICTIONARY
        }
        Values::Plain(_) | Values::None => Encoding::PLAIN,
    };
    let mut at = 0;
    for page in &layout.pages {
        plain.clear();
        plain.extend_from_slice(&page.levels);
        match values {
            Values::Coded { codes, terms } => {
                let width = bit_width(terms.len().saturating_sub(1) as u32).max(1);
                plain.push(width);
                encode(&codes[at..at + page.values], width, &mut plain);
            }
            Values::Plain(values) => {
                values[at..at + page.values].iter().for_each(|value| put_plain(&mut plain, value))
            }
            Values::None => {}
        }
        at += page.values;
        chunk.put_data(&plain, page.slots, page.rows, encoding, compressor)?;
    }
    let statistics = matches!(values, Values::None).then(|| all_null(leaf.physical_type(), chunk.slots));
    chunk.finish(leaf, encoding, compressor.codec(), statistics)
}

/// What readers see of a chunk with nothing in it: they need not open it.
fn all_null(physical: Type, slots: u64) -> Statistics {
    let nulls = Some(slots);
    match physical {
        Type::BOOLEAN => Statistics::boolean(None, None, None, nulls, false),
        Type::INT32 => Statistics::int32(None, None, None, nulls, false),
        Type::INT64 => Statistics::int64(None, None, None, nulls, false),
        Type::INT96 => Statistics::int96(None, None, None, nulls, false),
        Type::FLOAT => Statistics::float(None, None, None, nulls, false),
        Type::DOUBLE => Statistics::double(None, None, None, nulls, false),
        Type::BYTE_ARRAY => Statistics::byte_array(None, None, None, nulls, false),
        Type::FIXED_LEN_BYTE_ARRAY => Statistics::fixed_len_byte_array(None, None, None, nulls, false),
    }
}

/// The pages of a chunk as they are written.
struct Pages {
    sink: TrackedWrite<Vec<u8>>,
    dictionary_pages: i32,
    data_pages: i32,
    data_offset: u64,
    slots: u64,
    rows: u64,
    uncompressed: u64,
    offsets: OffsetIndexBuilder,
}

impl Pages {
    fn new() -> Self {
        Self {
            sink: TrackedWrite::new(Vec::new()),
            dictionary_pages: 0,
            data_pages: 0,
            data_offset: 0,
            slots: 0,
            rows: 0,
            uncompressed: 0,
            offsets: OffsetIndexBuilder::new(),
        }
    }

    fn put_dictionary(
        &mut self,
        plain: &[u8],
        terms: usize,
        compressor: &mut PageCompressor,
    ) -> Result<(), ParquetError> {
        let page = Page::DictionaryPage {
            buf: compressor.compress(plain)?,
            num_values: terms as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let written =
            SerializedPageWriter::new(&mut self.sink).write_page(CompressedPage::new(page, plain.len()))?;
        self.dictionary_pages = 1;
        self.uncompressed += written.uncompressed_size as u64;
        self.data_offset = self.sink.bytes_written() as u64;
        Ok(())
    }

    fn put_data(
        &mut self,
        plain: &[u8],
        slots: usize,
        rows: usize,
        encoding: Encoding,
        compressor: &mut PageCompressor,
    ) -> Result<(), ParquetError> {
        let page = Page::DataPage {
            buf: compressor.compress(plain)?,
            num_values: slots as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let written =
            SerializedPageWriter::new(&mut self.sink).write_page(CompressedPage::new(page, plain.len()))?;
        self.data_pages += 1;
        self.slots += slots as u64;
        self.rows += rows as u64;
        self.uncompressed += written.uncompressed_size as u64;
        self.offsets.append_row_count(rows as i64);
        self.offsets.append_offset_and_size(written.offset as i64, written.compressed_size as i32);
        Ok(())
    }

    fn finish(
        self,
        leaf: ColumnDescPtr,
        encoding: Encoding,
        codec: Compression,
        statistics: Option<Statistics>,
    ) -> Result<Chunk, ParquetError> {
        let mut encodings = vec![Encoding::PLAIN, Encoding::RLE];
        let mut stats =
            vec![PageEncodingStats { page_type: PageType::DATA_PAGE, encoding, count: self.data_pages }];
        if self.dictionary_pages > 0 {
            encodings.push(Encoding::RLE_DICTIONARY);
            let count = self.dictionary_pages;
            stats.insert(
                0,
                PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count },
            );
        }
        let bytes = self.sink.into_inner()?;
        let mut metadata = ColumnChunkMetaData::builder(leaf);
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let metadata = metadata
            .set_compression(codec)
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_num_values(self.slots as i64)
            .set_data_page_offset(self.data_offset as i64)
            .set_dictionary_page_offset((self.dictionary_pages > 0).then_some(0))
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(self.offsets.build()),
        };
        Ok(Chunk { bytes: bytes.into(), close })
    }
}
