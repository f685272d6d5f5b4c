//! Traces by id out of Parquet, without a query engine.
//!
//! Files are pruned by what the hot tier covers, by id range and by bloom filter; in what is left, row groups
//! and pages are chosen by their index, and only rows of the wanted traces are decoded. Invariant: a row is
//! left out only when the hot tier holds it, its id is not asked for, or it is to be forgotten.

use std::sync::Arc;

use arrow::{
    array::{AsArray, BooleanArray},
    compute::filter_record_batch,
    datatypes::{DataType, Int64Type},
    error::ArrowError,
    record_batch::RecordBatch,
};
use futures::{StreamExt, TryStreamExt, stream};
use infertrace_schemas::{
    columns::{conform, name},
    lake::deletion::Deletions,
};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{
            ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, RowFilter, RowSelection,
            RowSelectionPolicy, RowSelector,
        },
    },
    errors::ParquetError,
    file::{metadata::ParquetMetaData, page_index::column_index::ColumnIndexMetaData},
};
use tokio::runtime::Handle;

use super::{
    LakeFile, Problem,
    cache::{Blooms, FileCache, trace_id_leaf},
    contained,
};
use crate::{
    hot::{Coverage, Rows, TraceId},
    metrics::LakeMetrics,
};

/// What a look-up brought.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows, one entry a file and batch.
    pub rows: Vec<Rows>,
    /// Files that could not be read.
    pub problems: Vec<Problem>,
}

/// Columns to read; `None` reads all and makes them the span schema.
pub type Columns = Option<Arc<Vec<&'static str>>>;

/// Finds traces in files.
pub struct Lookup {
    /// Footers and bloom filters.
    pub cache: Arc<FileCache>,
    /// Where files are decoded.
    pub runtime: Handle,
    /// Files opened at a time.
    pub concurrent_files: usize,
    /// Figures.
    pub metrics: LakeMetrics,
}

impl Lookup {
    /// The rows of `ids` in `files`, except those that `hot` covers.
    pub async fn find(
        &self,
        files: &[Arc<LakeFile>],
        ids: &[TraceId],
        hot: &Coverage,
        deletions: &Arc<Deletions>,
        columns: &Columns,
    ) -> Found {
        let mut likely = Vec::new();
        let mut unknown = Vec::new();
        for file in files {
            if hot.contains(file.partition, &file.offsets) {
                continue;
            }
            let in_range: Vec<TraceId> =
                ids.iter().filter(|id| file.data.may_have_trace(id)).copied().collect();
            if in_range.is_empty() {
                self.count("pruned_range");
                continue;
            }
            match self.cache.cached_blooms(file) {
                Some(blooms) => self.keep_likely(&mut likely, file, in_range, &blooms),
                None => unknown.push((Arc::clone(file), in_range)),
            }
        }
        let mut found = Found::default();
        let loading = stream::iter(unknown).map(|(file, in_range)| async move {
            let cache = Arc::clone(&self.cache);
            let of = Arc::clone(&file);
            let load = async move { cache.blooms(&of).await.map_err(|error| error.to_string()) };
            (file, in_range, contained(&self.runtime, load).await)
        });
        let loaded: Vec<_> = loading.buffer_unordered(self.concurrent_files).collect().await;
        for (file, in_range, blooms) in loaded {
            match blooms {
                Ok(blooms) => self.keep_likely(&mut likely, &file, in_range, &blooms),
                Err(detail) => self.fail(&mut found, &file, detail),
            }
        }
        let reading = stream::iter(likely).map(|(file, in_range)| async move {
            let work = read(
                Arc::clone(&self.cache),
                Arc::clone(&file),
                in_range,
                hot.of(file.partition),
                Arc::clone(deletions),
                columns.clone(),
                self.metrics.clone(),
            );
            let work = async move { work.await.map_err(|error| error.to_string()) };
            (file, contained(&self.runtime, work).await)
        });
        let read: Vec<_> = reading.buffer_unordered(self.concurrent_files).collect().await;
        for (file, batches) in read {
            match batches {
                Ok(batches) => found.rows.extend(batches.into_iter().map(all_rows)),
                Err(detail) => self.fail(&mut found, &file, detail),
            }
        }
        found
    }

    fn keep_likely(
        &self,
        likely: &mut Vec<(Arc<LakeFile>, Vec<TraceId>)>,
        file: &Arc<LakeFile>,
        mut ids: Vec<TraceId>,
        blooms: &Blooms,
    ) {
        ids.retain(|id| may_hold(blooms, id));
        if ids.is_empty() {
            self.count("pruned_bloom");
        } else {
            likely.push((Arc::clone(file), ids));
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.lookups.get_or_create(&[("outcome", outcome)]).inc();
    }

    fn fail(&self, found: &mut Found, file: &LakeFile, detail: String) {
        tracing::warn!(path = %file.path, %detail, "a data file of the lake cannot be read");
        self.count("failed");
        found.problems.push(Problem::lake(file.path.to_string(), detail));
    }
}

fn all_rows(batch: RecordBatch) -> Rows {
    let rows = (0..batch.num_rows() as u32).collect();
    Rows { batch, rows }
}

/// Whether some row group may hold the trace; a row group without a filter may.
fn may_hold(blooms: &Blooms, id: &TraceId) -> bool {
    blooms.iter().any(|bloom| bloom.as_ref().is_none_or(|bloom| bloom.check(&id[..])))
}

/// Reads the rows of `ids` from one file.
async fn read(
    cache: Arc<FileCache>,
    file: Arc<LakeFile>,
    ids: Vec<TraceId>,
    held: std::ops::Range<i64>,
    deletions: Arc<Deletions>,
    columns: Columns,
    metrics: LakeMetrics,
) -> Result<Vec<RecordBatch>, ParquetError> {
    let footer = cache.footer(&file).await?;
    let blooms = cache.blooms(&file).await?;
    let metadata = footer.metadata();
    let leaf = trace_id_leaf(metadata)?;
    let (row_groups, selection) = select(metadata, leaf, &blooms, &ids);
    let count = |outcome| metrics.lookups.get_or_create(&[("outcome", outcome)]).inc();
    if row_groups.is_empty() {
        count("pruned_index");
        return Ok(Vec::new());
    }
    count("read");
    let projection = projection(&footer, columns.as_ref(), &row_groups)?;
    let reader = cache.reader(&file, Some(Arc::clone(metadata)));
    let schema = metadata.file_metadata().schema_descr();
    let predicate =
        ArrowPredicateFn::new(ProjectionMask::leaves(schema, [leaf]), move |batch| is_one_of(&batch, &ids));
    let mut predicates: Vec<Box<dyn ArrowPredicate>> = vec![Box::new(predicate)];
    if deletions.may_touch_tenants(&file.data, file.deletions) {
        let mask = ProjectionMask::columns(schema, [name::TRACE_ID, name::START_TIME, name::TENANT]);
        predicates.push(Box::new(ArrowPredicateFn::new(mask, move |batch| deletions.kept(&batch))));
    }
    let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, (*footer).clone())
        .with_row_groups(row_groups)
        .with_row_selection(selection)
        // A few rows of thousands: skip over the others rather than decode and drop them.
        .with_row_selection_policy(RowSelectionPolicy::Selectors)
        .with_row_filter(RowFilter::new(predicates))
        .with_projection(projection)
        .build()?;
    let overlaps = held.start < file.offsets.end && file.offsets.start < held.end;
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    let mut kept = Vec::with_capacity(batches.len());
    for batch in batches {
        let batch = if overlaps { outside(&batch, &held)? } else { batch };
        let batch = if columns.is_none() { conform(&batch)? } else { batch };
        if batch.num_rows() > 0 {
            kept.push(batch);
        }
    }
    Ok(kept)
}

/// The columns to decode. Of all columns those are left out that hold nothing in the chosen row groups:
/// most spans leave most columns empty, and a decoder costs as much for them.
fn projection(
    footer: &ArrowReaderMetadata,
    columns: Option<&Arc<Vec<&'static str>>>,
    row_groups: &[usize],
) -> Result<ProjectionMask, ParquetError> {
    let schema = footer.metadata().file_metadata().schema_descr();
    let roots: Vec<usize> = match columns {
        Some(columns) => columns
            .iter()
            .map(|column| footer.schema().index_of(column))
            .collect::<Result<Vec<_>, ArrowError>>()?,
        None => {
            let blank = blank_roots(footer, row_groups);
            (0..blank.len()).filter(|&root| !blank[root]).collect()
        }
    };
    Ok(ProjectionMask::roots(schema, roots))
}

/// Whether each column says nothing in any row of `row_groups`: nullable ones of one leaf that are null throughout, and lists
/// and maps that are empty throughout. [`conform`] fills them in again.
fn blank_roots(footer: &ArrowReaderMetadata, row_groups: &[usize]) -> Vec<bool> {
    let metadata = footer.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let is_blank = |leaf: usize| {
        row_groups.iter().all(|&row_group| {
            let row_group = metadata.row_group(row_group);
            let nulls =
                row_group.column(leaf).statistics().and_then(|statistics| statistics.null_count_opt());
            // A leaf below an empty list counts it as one null.
            nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(row_group.num_rows()))
                && row_group.column(leaf).num_values() == row_group.num_rows()
        })
    };
    let mut blank = vec![true; footer.schema().fields().len()];
    for leaf in 0..schema.num_columns() {
        let root = schema.get_column_root_idx(leaf);
        let field = footer.schema().field(root);
        let descriptor = schema.column(leaf);
        let is_flat = descriptor.path().parts().len() == 1 && descriptor.max_def_level() == 1;
        // A list that may be null too: the statistics do not tell which it is.
        let is_list =
            matches!(field.data_type(), DataType::List(_) | DataType::Map(..)) && !field.is_nullable();
        blank[root] &= (is_flat || is_list) && is_blank(leaf);
    }
    blank
}

fn is_one_of(batch: &RecordBatch, ids: &[TraceId]) -> Result<BooleanArray, ArrowError> {
    let column = batch
        .column(0)
        .as_fixed_size_binary_opt()
        .ok_or_else(|| ArrowError::SchemaError("trace_id is not 16 bytes wide".to_owned()))?;
    Ok(column
        .iter()
        .map(|value| Some(value.is_some_and(|value| ids.iter().any(|id| id[..] == *value))))
        .collect())
}

/// The rows whose offset lies outside of what the hot tier holds.
fn outside(batch: &RecordBatch, held: &std::ops::Range<i64>) -> Result<RecordBatch, ArrowError> {
    let offsets = batch
        .column_by_name(name::OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| ArrowError::SchemaError("there is no column _offset".to_owned()))?;
    let mask: BooleanArray = offsets.values().iter().map(|offset| Some(!held.contains(offset))).collect();
    filter_record_batch(batch, &mask)
}

/// Row groups that may hold one of `ids`, and in them the pages that may.
fn select(
    metadata: &ParquetMetaData,
    leaf: usize,
    blooms: &Blooms,
    ids: &[TraceId],
) -> (Vec<usize>, RowSelection) {
    let mut row_groups = Vec::new();
    let mut selectors: Vec<RowSelector> = Vec::new();
    for row_group in 0..metadata.num_row_groups() {
        let bloom = blooms.get(row_group).and_then(Option::as_ref);
        let in_group: Vec<TraceId> = ids
            .iter()
            .filter(|id| {
                bloom.is_none_or(|bloom| bloom.check(&id[..])) && within_group(metadata, row_group, leaf, id)
            })
            .copied()
            .collect();
        if in_group.is_empty() {
            continue;
        }
        let pages = page_selectors(metadata, row_group, leaf, &in_group);
        if pages.iter().all(|selector| selector.skip) {
            continue;
        }
        row_groups.push(row_group);
        selectors.extend(pages);
    }
    (row_groups, RowSelection::from(selectors))
}

fn within_group(metadata: &ParquetMetaData, row_group: usize, leaf: usize, id: &TraceId) -> bool {
    let Some(statistics) = metadata.row_group(row_group).column(leaf).statistics() else { return true };
    let above = statistics.min_bytes_opt().is_none_or(|min| min <= &id[..]);
    above && statistics.max_bytes_opt().is_none_or(|max| &id[..] <= max)
}

/// Selects the pages of one row group whose range of ids holds one of `ids`; all rows without an index.
fn page_selectors(
    metadata: &ParquetMetaData,
    row_group: usize,
    leaf: usize,
    ids: &[TraceId],
) -> Vec<RowSelector> {
    let rows = usize::try_from(metadata.row_group(row_group).num_rows()).unwrap_or(0);
    let index = metadata.column_index().and_then(|index| index.get(row_group)?.get(leaf));
    let pages = metadata.offset_index().and_then(|index| index.get(row_group)?.get(leaf));
    let (Some(ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index)), Some(pages)) = (index, pages) else {
        return vec![RowSelector::select(rows)];
    };
    let locations = pages.page_locations();
    let mut selectors = Vec::with_capacity(locations.len());
    for (page, location) in locations.iter().enumerate() {
        let first = usize::try_from(location.first_row_index).unwrap_or(0);
        let next = locations
            .get(page + 1)
            .map_or(rows, |next| usize::try_from(next.first_row_index).unwrap_or(rows));
        let may = match (index.min_value(page), index.max_value(page)) {
            // A bound may be cut short: a cut maximum is raised by its writer, a cut minimum is a prefix.
            (Some(min), Some(max)) => ids.iter().any(|id| min <= &id[..] && &id[..] <= max),
            _ => true,
        };
        let length = next.saturating_sub(first);
        selectors.push(if may { RowSelector::select(length) } else { RowSelector::skip(length) });
    }
    selectors
}
