//! Footers with page indexes, and bloom filters of trace ids, within a byte budget each.
//!
//! A file's tail (bloom filters, page index, footer) is fetched once when the manifest tells its length.
//! Invariants: memory stays within the budgets, the least recently used goes first; data files never
//! change, so nothing here goes stale.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::Mutex;
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
        async_reader::AsyncFileReader,
    },
    bloom_filter::Sbbf,
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
};

use tokio_util::sync::CancellationToken;

use super::LakeFile;
use crate::{config::LakeConfig, metrics::LakeMetrics};

/// Fetched at once when the manifest does not tell the length of the tail.
const TAIL_GUESS: u64 = 256 << 10;
/// Fetched at once at most.
const TAIL_MOST: u64 = 16 << 20;

/// One bloom filter a row group, where the file has them.
pub type Blooms = Vec<Option<Sbbf>>;

/// A map that forgets the least recently used past a number of bytes.
struct ByteLru<V> {
    limit: usize,
    bytes: usize,
    clock: u64,
    entries: HashMap<Path, (Arc<V>, usize, u64)>,
    order: BTreeMap<u64, Path>,
}

impl<V> ByteLru<V> {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, clock: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    fn get(&mut self, path: &Path) -> Option<Arc<V>> {
        self.clock += 1;
        let (value, _, used) = self.entries.get_mut(path)?;
        let path = self.order.remove(used)?;
        *used = self.clock;
        self.order.insert(self.clock, path);
        Some(Arc::clone(value))
    }

    fn insert(&mut self, path: &Path, value: Arc<V>, bytes: usize) {
        if bytes > self.limit {
            return;
        }
        self.clock += 1;
        if let Some((_, old_bytes, used)) = self.entries.insert(path.clone(), (value, bytes, self.clock)) {
            self.bytes -= old_bytes;
            self.order.remove(&used);
        }
        self.order.insert(self.clock, path.clone());
        self.bytes += bytes;
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((_, bytes, _)) = self.entries.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}

/// What was read of files' tails.
pub struct FileCache {
    store: Arc<dyn ObjectStore>,
    footers: Mutex<ByteLru<ArrowReaderMetadata>>,
    blooms: Mutex<ByteLru<Blooms>>,
    metrics: LakeMetrics,
}

/// Bytes held by the caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheSizes {
    /// Footers and page indexes.
    pub footer_bytes: usize,
    /// Bloom filters.
    pub bloom_bytes: usize,
}

impl FileCache {
    /// Empty caches over `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, config: &LakeConfig, metrics: LakeMetrics) -> Self {
        Self {
            store,
            footers: Mutex::new(ByteLru::new(config.footer_cache_bytes)),
            blooms: Mutex::new(ByteLru::new(config.bloom_cache_bytes)),
            metrics,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn sizes(&self) -> CacheSizes {
        CacheSizes { footer_bytes: self.footers.lock().bytes, bloom_bytes: self.blooms.lock().bytes }
    }

    /// The store behind.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// A file's bloom filters, if they are at hand.
    #[must_use]
    pub fn cached_blooms(&self, file: &LakeFile) -> Option<Arc<Blooms>> {
        self.blooms.lock().get(&file.path)
    }

    /// A file's footer and page index.
    ///
    /// # Errors
    /// When the file is away or is not a Parquet file.
    pub async fn footer(&self, file: &LakeFile) -> Result<Arc<ArrowReaderMetadata>, ParquetError> {
        let cached = self.footers.lock().get(&file.path);
        if let Some(footer) = cached {
            self.count("cache");
            return Ok(footer);
        }
        self.load(file).await.map(|(footer, _)| footer)
    }

    /// A file's bloom filters.
    ///
    /// # Errors
    /// As for [`Self::footer`].
    pub async fn blooms(&self, file: &LakeFile) -> Result<Arc<Blooms>, ParquetError> {
        match self.cached_blooms(file) {
            Some(blooms) => Ok(blooms),
            None => self.load(file).await.map(|(_, blooms)| blooms),
        }
    }

    /// Reads the tails of `files`, in order, until the caches are half full: a look-up of an id that is
    /// nowhere then touches no file.
    pub async fn warm(&self, files: &[Arc<LakeFile>], stop: &CancellationToken) {
        for file in files {
            if stop.is_cancelled() || self.is_half_full() {
                return;
            }
            if !self.blooms.lock().entries.contains_key(&file.path) {
                // A damaged file is named when it is asked for.
                let _ = self.load(file).await;
            }
        }
    }

    fn is_half_full(&self) -> bool {
        let is_half = |bytes: usize, limit: usize| bytes >= limit / 2;
        let footers = self.footers.lock();
        let blooms = self.blooms.lock();
        is_half(footers.bytes, footers.limit) || is_half(blooms.bytes, blooms.limit)
    }

    fn count(&self, source: &'static str) {
        self.metrics.footers.get_or_create(&[("source", source)]).inc();
    }

    async fn load(&self, file: &LakeFile) -> Result<(Arc<ArrowReaderMetadata>, Arc<Blooms>), ParquetError> {
        let loaded = self.load_from_store(file).await;
        self.count(if loaded.is_ok() { "store" } else { "failed" });
        let (footer, blooms) = loaded?;
        let (footer, blooms) = (Arc::new(footer), Arc::new(blooms));
        self.footers.lock().insert(&file.path, Arc::clone(&footer), footer.metadata().memory_size());
        let bloom_bytes =
            blooms.iter().flatten().map(|bloom| bloom.num_blocks() * 32 + 32).sum::<usize>() + 64;
        self.blooms.lock().insert(&file.path, Arc::clone(&blooms), bloom_bytes);
        Ok((footer, blooms))
    }

    async fn load_from_store(&self, file: &LakeFile) -> Result<(ArrowReaderMetadata, Blooms), ParquetError> {
        let size = file.data.bytes;
        let wanted = if file.data.footer_bytes > 0 { file.data.footer_bytes } else { TAIL_GUESS };
        let start = size.saturating_sub(wanted.min(TAIL_MOST));
        let tail = self.store.get_range(&file.path, start..size).await.map_err(store_error)?;
        let mut reader = self.reader(file, None);
        reader.tail = Some((start, tail));
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let footer = ArrowReaderMetadata::load_async(&mut reader, options).await?;
        let column = trace_id_leaf(footer.metadata())?;
        let row_groups = footer.metadata().num_row_groups();
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, footer.clone());
        let mut blooms = Vec::with_capacity(row_groups);
        for row_group in 0..row_groups {
            blooms.push(builder.get_row_group_column_bloom_filter(row_group, column).await?);
        }
        Ok((footer, blooms))
    }

    /// A reader of a file, with its footer if that is known.
    pub(crate) fn reader(&self, file: &LakeFile, footer: Option<Arc<ParquetMetaData>>) -> FileReader {
        FileReader {
            store: Arc::clone(&self.store),
            path: file.path.clone(),
            size: file.data.bytes,
            tail: None,
            footer,
        }
    }
}

fn store_error(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The Parquet column of trace ids.
pub(crate) fn trace_id_leaf(metadata: &ParquetMetaData) -> Result<usize, ParquetError> {
    let columns = metadata.file_metadata().schema_descr();
    let name = infertrace_schemas::columns::name::TRACE_ID;
    (0..columns.num_columns())
        .find(|&leaf| columns.column(leaf).path().string() == name)
        .ok_or_else(|| ParquetError::General("there is no column trace_id".to_owned()))
}

/// Reads ranges of one file, serving its tail from memory where that was fetched.
pub(crate) struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    tail: Option<(u64, Bytes)>,
    footer: Option<Arc<ParquetMetaData>>,
}

impl FileReader {
    fn in_tail(&self, range: &Range<u64>) -> Option<Bytes> {
        let (start, tail) = self.tail.as_ref()?;
        let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(*start)?).ok()?;
        (from <= to && to <= tail.len()).then(|| tail.slice(from..to))
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        Box::pin(async move {
            match self.in_tail(&range) {
                Some(bytes) => Ok(bytes),
                None => self.store.get_range(&self.path, range).await.map_err(store_error),
            }
        })
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        Box::pin(async move { self.store.get_ranges(&self.path, &ranges).await.map_err(store_error) })
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        Box::pin(async move {
            if let Some(footer) = &self.footer {
                return Ok(Arc::clone(footer));
            }
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(self.tail.as_ref().map(|(_, tail)| tail.len()));
            let metadata = reader.load_and_finish(&mut *self, size).await?;
            Ok(Arc::new(metadata))
        })
    }
}
