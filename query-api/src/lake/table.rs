//! A set of data files and batches as a DataFusion table: what searches scan.
//!
//! Footers come from the shared cache, filters are pushed into the Parquet decoder so that only matching
//! rows of the wanted columns are decoded. Invariant: the table is what it was given, nothing is listed.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource},
        source::DataSourceExec,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::{ExecutionPlan, empty::EmptyExec, metrics::ExecutionPlanMetricsSet, union::UnionExec},
    prelude::{SessionConfig, SessionContext},
};
use infertrace_schemas::columns::span_schema;
use object_store::ObjectStore;
use parquet::{arrow::async_reader::AsyncFileReader, errors::ParquetError};

use super::{
    LakeFile,
    cache::{FileCache, FileReader},
};

/// Under which address the lake's store is known to the engine.
const STORE_URL: &str = "lake://spans";
const BATCH_ROWS: usize = 8_192;

/// Spans to scan.
pub struct SpansTable {
    files: Vec<Arc<LakeFile>>,
    batches: Vec<RecordBatch>,
    cache: Option<Arc<FileCache>>,
}

impl std::fmt::Debug for SpansTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpansTable")
            .field("files", &self.files.len())
            .field("batches", &self.batches.len())
            .finish()
    }
}

impl SpansTable {
    /// The spans of data files.
    #[must_use]
    pub fn of_files(files: Vec<Arc<LakeFile>>, cache: Arc<FileCache>) -> Self {
        Self { files, batches: Vec::new(), cache: Some(cache) }
    }

    /// The spans of batches in memory.
    #[must_use]
    pub fn of_batches(batches: Vec<RecordBatch>) -> Self {
        Self { files: Vec::new(), batches, cache: None }
    }

    fn scan_files(
        &self,
        cache: &Arc<FileCache>,
        partitions: usize,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let readers = Readers { cache: Arc::clone(cache) };
        let source = ParquetSource::new(span_schema())
            .with_parquet_file_reader_factory(Arc::new(readers))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_bloom_filter_on_read(false);
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(self.file_groups(partitions))
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Files dealt out so that every group has about as many rows.
    fn file_groups(&self, partitions: usize) -> Vec<FileGroup> {
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); partitions.max(1)];
        for file in &self.files {
            let smallest =
                groups.iter_mut().min_by_key(|(rows, _)| *rows).expect("there is at least one group");
            smallest.0 += file.data.rows;
            let named = PartitionedFile::new(file.path.to_string(), file.data.bytes);
            smallest.1.push(named.with_extension(Arc::clone(file)));
        }
        groups
            .into_iter()
            .filter(|(_, files)| !files.is_empty())
            .map(|(_, files)| FileGroup::new(files))
            .collect()
    }

    fn scan_batches(
        &self,
        partitions: usize,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut dealt: Vec<Vec<RecordBatch>> =
            vec![Vec::new(); partitions.clamp(1, self.batches.len().max(1))];
        for (index, batch) in self.batches.iter().enumerate() {
            let group = index % dealt.len();
            dealt[group].push(batch.clone());
        }
        let exec = MemorySourceConfig::try_new_exec(&dealt, span_schema(), projection.cloned())?;
        Ok(exec)
    }
}

#[async_trait]
impl TableProvider for SpansTable {
    fn schema(&self) -> SchemaRef {
        span_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // The optimiser moves them from the filter above into the decoder where that is exact.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = state.config().target_partitions();
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !self.batches.is_empty() {
            parts.push(self.scan_batches(partitions, projection)?);
        }
        if let Some(cache) = self.cache.as_ref().filter(|_| !self.files.is_empty()) {
            parts.push(self.scan_files(cache, partitions, projection)?);
        }
        match parts.len() {
            0 => {
                let schema = match projection {
                    Some(projection) => Arc::new(span_schema().project(projection)?),
                    None => span_schema(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

/// Opens files with the footers of the shared cache.
#[derive(Clone)]
struct Readers {
    cache: Arc<FileCache>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        _partition_index: usize,
        partitioned_file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let file =
            partitioned_file.extensions.get::<Arc<LakeFile>>().cloned().ok_or_else(|| {
                DataFusionError::Execution("a file of the lake without its entry".to_owned())
            })?;
        let reader = self.cache.reader(&file, None);
        Ok(Box::new(CachedFooter { file, cache: Arc::clone(&self.cache), reader }))
    }
}

/// A reader whose footer comes from the cache.
struct CachedFooter {
    file: Arc<LakeFile>,
    cache: Arc<FileCache>,
    reader: FileReader,
}

impl AsyncFileReader for CachedFooter {
    fn get_bytes(
        &mut self,
        range: std::ops::Range<u64>,
    ) -> futures::future::BoxFuture<'_, std::result::Result<bytes::Bytes, ParquetError>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<std::ops::Range<u64>>,
    ) -> futures::future::BoxFuture<'_, std::result::Result<Vec<bytes::Bytes>, ParquetError>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a parquet::arrow::arrow_reader::ArrowReaderOptions>,
    ) -> futures::future::BoxFuture<
        'a,
        std::result::Result<Arc<parquet::file::metadata::ParquetMetaData>, ParquetError>,
    > {
        Box::pin(async move { Ok(Arc::clone(self.cache.footer(&self.file).await?.metadata())) })
    }
}

/// An engine that scans with `threads` streams at a time, in `store` if there is a lake.
///
/// # Errors
/// Only when the engine's own configuration is wrong.
pub fn session(threads: usize, store: Option<Arc<dyn ObjectStore>>) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(threads.max(1)).with_batch_size(BATCH_ROWS);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    // The trace is found by its own path; a search has no use for the filters.
    options.execution.parquet.bloom_filter_on_read = false;
    options.execution.collect_statistics = false;
    options.optimizer.repartition_file_scans = false;
    let context = SessionContext::new_with_config(config);
    if let Some(store) = store {
        context.register_object_store(ObjectStoreUrl::parse(STORE_URL)?.as_ref(), store);
    }
    Ok(context)
}
