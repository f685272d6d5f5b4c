//! Which slots of a leaf column hold values, page by page: Parquet's repetition and definition levels.
//!
//! Only the shapes that [`super::chunk`] writes: flat columns with or without nulls, maps of required keys
//! and values, and columns in which nothing is set. A map's two leaves share one layout.

use arrow::buffer::NullBuffer;

use super::hybrid::{bit_width, encode, encode_run};

/// One data page.
#[derive(Debug)]
pub(super) struct PageLayout {
    /// Rows.
    pub(super) rows: usize,
    /// Slots, empty ones included.
    pub(super) slots: usize,
    /// How many of them hold a value.
    pub(super) values: usize,
    /// Both levels, as a page begins.
    pub(super) levels: Vec<u8>,
}

/// A map's levels as numbers, for writers that want them so.
#[derive(Debug, Default)]
pub(super) struct MapLevels {
    pub(super) definition: Vec<i16>,
    pub(super) repetition: Vec<i16>,
}

/// A row group's pages.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) pages: Vec<PageLayout>,
}

fn put_levels(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

impl Layout {
    /// A flat column's rows at `picks`; `nulls` is its validity, if the column may have nulls at all.
    pub(super) fn flat(picks: &[u32], nulls: Option<&NullBuffer>, nullable: bool, page_rows: usize) -> Self {
        let mut definition = Vec::with_capacity(page_rows);
        let pages = picks.chunks(page_rows).map(|rows| {
            let mut levels = Vec::new();
            let mut values = rows.len();
            if nullable {
                definition.clear();
                definition.extend(
                    rows.iter().map(|row| u32::from(nulls.is_none_or(|nulls| nulls.is_valid(*row as usize)))),
                );
                values = definition.iter().map(|level: &u32| *level as usize).sum();
                put_levels(&mut levels, |out| encode(&definition, 1, out));
            }
            PageLayout { rows: rows.len(), slots: rows.len(), values, levels }
        });
        Self { pages: pages.collect() }
    }

    /// A map's rows at `picks`, with the positions of their entries among its children and, if wanted,
    /// its levels as numbers.
    pub(super) fn map(
        picks: &[u32],
        offsets: &[i32],
        page_rows: usize,
        wants_numbers: bool,
    ) -> (Self, Vec<u32>, MapLevels) {
        let mut entries = Vec::with_capacity(picks.len() * 8);
        let mut numbers = MapLevels::default();
        let (mut repetition, mut definition): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut pages = Vec::with_capacity(picks.len().div_ceil(page_rows));
        for rows in picks.chunks(page_rows) {
            repetition.clear();
            definition.clear();
            let before = entries.len();
            for &row in rows {
                let (start, end) = (offsets[row as usize] as u32, offsets[row as usize + 1] as u32);
                repetition.push(0);
                definition.push(u32::from(end > start));
                if end > start {
                    let more = repetition.len() + (end - start - 1) as usize;
                    repetition.resize(more, 1);
                    definition.resize(more, 1);
                    entries.extend(start..end);
                }
            }
            let mut levels = Vec::with_capacity(repetition.len() / 4 + 32);
            put_levels(&mut levels, |out| encode(&repetition, 1, out));
            put_levels(&mut levels, |out| encode(&definition, 1, out));
            if wants_numbers {
                numbers.repetition.extend(repetition.iter().map(|level| *level as i16));
                numbers.definition.extend(definition.iter().map(|level| *level as i16));
            }
            let values = entries.len() - before;
            pages.push(PageLayout { rows: rows.len(), slots: repetition.len(), values, levels });
        }
        (Self { pages }, entries, numbers)
    }

    /// `rows` rows in which nothing is set, as one page.
    pub(super) fn blank(rows: usize, max_definition: i16, max_repetition: i16) -> Self {
        let mut levels = Vec::with_capacity(24);
        for max in [max_repetition, max_definition] {
            if max > 0 {
                put_levels(&mut levels, |out| encode_run(0, rows, bit_width(max as u32), out));
            }
        }
        Self { pages: vec![PageLayout { rows, slots: rows, values: 0, levels }] }
    }
}
