//! One row group: which way each column takes into the file.
//!
//! Text, maps and columns in which nothing is set go through [`super::chunk`]; the rest is picked into order
//! and given to the general writer, one column at a time.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array},
    compute::take,
    datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type},
};
use infertrace_schemas::columns::span_schema;
use parquet::{
    arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    data_type::{DoubleType, Int64Type as ParquetInt64},
    errors::ParquetError,
    file::writer::{SerializedFileWriter, SerializedRowGroupWriter},
    schema::types::SchemaDescriptor,
};

use super::{
    EncodeError, SortKey,
    chunk::{self, Numbers, PageCompressor, Values},
    layout::{Layout, MapLevels},
    properties::{MAP_PAGE_ROWS, PAGE_ROWS},
};

type RowGroup<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// Writes the rows of `batch` at `order` as row group `number`.
pub(super) fn write(
    file: &mut SerializedFileWriter<Vec<u8>>,
    general: &ArrowRowGroupWriterFactory,
    number: usize,
    batch: &RecordBatch,
    order: &[SortKey],
    compressor: &mut PageCompressor,
) -> Result<(), EncodeError> {
    let schema = file.schema_descr().clone();
    let general = general.create_column_writers(number)?;
    let mut writer = Writer { schema, general: general.into_iter().map(Some).collect(), leaf: 0, compressor };
    let mut row_group = file.next_row_group()?;
    let picks = UInt32Array::from_iter_values(order.iter().map(|&(_, _, row)| row));
    for (field, column) in span_schema().fields().iter().zip(batch.columns()) {
        writer.write(&mut row_group, field, column, &picks)?;
    }
    row_group.close()?;
    Ok(())
}

struct Writer<'a> {
    schema: SchemaDescriptor,
    /// The general writers of the leaves not written yet.
    general: Vec<Option<ArrowColumnWriter>>,
    /// The next leaf.
    leaf: usize,
    compressor: &'a mut PageCompressor,
}

impl Writer<'_> {
    fn leaves_of_column(&self, column: usize) -> Range<usize> {
        let count = (self.leaf..self.schema.num_columns())
            .take_while(|leaf| self.schema.get_column_root_idx(*leaf) == column)
            .count();
        self.leaf..self.leaf + count
    }

    fn write(
        &mut self,
        row_group: &mut RowGroup<'_>,
        field: &Field,
        column: &ArrayRef,
        picks: &UInt32Array,
    ) -> Result<(), EncodeError> {
        if is_blank(column) {
            return Ok(self.write_blank(row_group, picks.len())?);
        }
        let rows = picks.values();
        match column.data_type() {
            DataType::Dictionary(_, values) if **values == DataType::Utf8 => {
                let column = column.as_dictionary::<Int32Type>();
                let terms = column.values().as_string::<i32>();
                let keys = column.keys().values();
                let layout = Layout::flat(rows, column.nulls(), field.is_nullable(), PAGE_ROWS);
                let set = rows.iter().filter(|row| column.is_valid(**row as usize));
                let values = Values::of_keys(
                    set.map(|row| keys[*row as usize]),
                    |key| terms.value(key).as_bytes(),
                    terms.len(),
                );
                self.append(row_group, &layout, &values)?;
            }
            DataType::Utf8 => {
                let column = column.as_string::<i32>();
                let layout = Layout::flat(rows, column.nulls(), field.is_nullable(), PAGE_ROWS);
                let set: Vec<u32> =
                    rows.iter().copied().filter(|row| column.is_valid(*row as usize)).collect();
                let text = |row| column.value(row).as_bytes();
                let numbers = Numbers::of(column.len(), text, &set, |_, _| 0);
                self.append(row_group, &layout, &Values::of_texts(numbers.as_ref(), text, &set))?;
            }
            DataType::Map(..) => self.write_map(row_group, field, column, picks)?,
            _ => self.write_general(row_group, field, &take(column, picks, None)?)?,
        }
        Ok(())
    }

    fn write_map(
        &mut self,
        row_group: &mut RowGroup<'_>,
        field: &Field,
        column: &ArrayRef,
        picks: &UInt32Array,
    ) -> Result<(), EncodeError> {
        let map = column.as_map();
        let value_type = map.values().data_type();
        let is_known = matches!(value_type, DataType::Utf8 | DataType::Int64 | DataType::Float64);
        let leaf = self.schema.column(self.leaf);
        let is_plain_map = leaf.max_def_level() == 1 && leaf.max_rep_level() == 1;
        if !is_known || !is_plain_map || map.nulls().is_some() || map.values().nulls().is_some() {
            return self.write_general(row_group, field, &take(column, picks, None)?);
        }
        let (page_rows, wants_numbers) = match value_type {
            DataType::Utf8 => (MAP_PAGE_ROWS, false),
            _ => (PAGE_ROWS, true),
        };
        let (layout, entries, levels) = Layout::map(picks.values(), map.offsets(), page_rows, wants_numbers);
        let key_texts = map.keys().as_string::<i32>();
        let key = |entry| key_texts.value(entry).as_bytes();
        // The same keys follow one another in span after span.
        let keys = Numbers::of(key_texts.len(), key, &entries, |_, previous| previous);
        self.append(row_group, &layout, &Values::of_texts(keys.as_ref(), key, &entries))?;
        match value_type {
            DataType::Utf8 => {
                let texts = map.values().as_string::<i32>();
                let text = |entry| texts.value(entry).as_bytes();
                let hint = |entry, _| keys.as_ref().map_or(0, |keys: &Numbers<'_>| keys.codes[entry]);
                let numbers = Numbers::of(texts.len(), text, &entries, hint);
                self.append(row_group, &layout, &Values::of_texts(numbers.as_ref(), text, &entries))?;
            }
            DataType::Int64 => {
                let values = map.values().as_primitive::<Int64Type>().values();
                let values: Vec<i64> = entries.iter().map(|entry| values[*entry as usize]).collect();
                self.write_numbers::<ParquetInt64>(row_group, &values, &levels)?;
            }
            _ => {
                let values = map.values().as_primitive::<Float64Type>().values();
                let values: Vec<f64> = entries.iter().map(|entry| values[*entry as usize]).collect();
                self.write_numbers::<DoubleType>(row_group, &values, &levels)?;
            }
        }
        Ok(())
    }

    fn write_numbers<T: parquet::data_type::DataType>(
        &mut self,
        row_group: &mut RowGroup<'_>,
        values: &[T::T],
        levels: &MapLevels,
    ) -> Result<(), ParquetError> {
        let missing = || ParquetError::General("a leaf without writer".into());
        let mut writer = row_group.next_column()?.ok_or_else(missing)?;
        writer.typed::<T>().write_batch(values, Some(&levels.definition), Some(&levels.repetition))?;
        writer.close()?;
        self.leaf += 1;
        Ok(())
    }

    fn write_blank(&mut self, row_group: &mut RowGroup<'_>, rows: usize) -> Result<(), ParquetError> {
        let column = self.schema.get_column_root_idx(self.leaf);
        for leaf in self.leaves_of_column(column) {
            let leaf = self.schema.column(leaf);
            let layout = Layout::blank(rows, leaf.max_def_level(), leaf.max_rep_level());
            self.append(row_group, &layout, &Values::None)?;
        }
        Ok(())
    }

    fn append(
        &mut self,
        row_group: &mut RowGroup<'_>,
        layout: &Layout,
        values: &Values<'_>,
    ) -> Result<(), ParquetError> {
        let chunk = chunk::write(self.schema.column(self.leaf), layout, values, self.compressor)?;
        row_group.append_column(&chunk.bytes, chunk.close)?;
        self.leaf += 1;
        Ok(())
    }

    fn write_general(
        &mut self,
        row_group: &mut RowGroup<'_>,
        field: &Field,
        sorted: &ArrayRef,
    ) -> Result<(), EncodeError> {
        for leaf in compute_leaves(field, sorted)? {
            let missing = || ParquetError::General("a leaf without writer".into());
            let mut writer = self.general.get_mut(self.leaf).and_then(Option::take).ok_or_else(missing)?;
            writer.write(&leaf)?;
            writer.close()?.append_to_row_group(row_group)?;
            self.leaf += 1;
        }
        Ok(())
    }
}

/// Whether every row is alike: null, or an empty list or map. Then there is nothing to pick.
fn is_blank(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Map(..) => {
            let offsets = column.as_map().offsets();
            offsets.first() == offsets.last() && column.null_count() == 0
        }
        DataType::List(_) => {
            let offsets = column.as_list::<i32>().offsets();
            offsets.first() == offsets.last() && column.null_count() == 0
        }
        _ => !column.is_empty() && column.null_count() == column.len(),
    }
}
