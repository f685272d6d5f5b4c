//! Asks the lake to forget a trace or a tenant: a record that readers follow at once and compaction carries out.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use infertrace_schemas::lake::{
    DataFile, FORMAT_VERSION, LakeRoot,
    deletion::{Deletion, Subject},
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader,
    },
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use serde::Serialize;

use super::{CREATED_BY, CompactError, state::State, state::create_or_read};

/// Names of the columns by which a trace is found.
const TRACE_ID: &str = infertrace_schemas::columns::name::TRACE_ID;

/// What a deletion touches.
#[derive(Clone, Debug, Serialize)]
pub struct Touched {
    /// Number of the deletion; `None` in a dry run.
    pub number: Option<u64>,
    /// Files that hold, or may hold, spans of its subject.
    pub files: Vec<DataFile>,
}

/// Records that `subject` is to be forgotten: a trace altogether, a tenant as far as its spans begin before `now_ns`.
///
/// With `dry_run` nothing is written. Files are named by what their entries say of tenants, and by bloom filters for a
/// trace (about one in a hundred that holds nothing of it is named too).
///
/// # Errors
/// [`CompactError`] when the lake cannot be read or written; then nothing is forgotten.
pub async fn forget(
    store: &Arc<dyn ObjectStore>,
    root: &LakeRoot,
    subject: &Subject,
    now_ns: i64,
    dry_run: bool,
) -> Result<Touched, CompactError> {
    let mut state = State::default();
    state.refresh(store, root).await?;
    let mut files = Vec::new();
    for file in state.live.iter().map(|file| &file.data) {
        let may_hold = match subject {
            Subject::Tenant(tenant) => file.min_start_ns < now_ns && file.may_have_tenant(tenant),
            Subject::TraceId(id) => file.may_have_trace(&id.0) && may_hold(store, root, file, &id.0).await?,
        };
        if may_hold {
            files.push(file.clone());
        }
    }
    if dry_run {
        return Ok(Touched { number: None, files });
    }
    let of_trace = matches!(subject, Subject::TraceId(_));
    let mut deletion = Deletion {
        version: FORMAT_VERSION,
        number: state.deletions.count(),
        subject: subject.clone(),
        before_ns: if of_trace { i64::MAX } else { now_ns },
        files: files.iter().filter(|_| of_trace).map(|file| file.path.clone()).collect(),
        created_unix_ms: now_ns / 1_000_000,
        created_by: CREATED_BY.to_owned(),
    };
    loop {
        let path = root.deletion(deletion.number);
        let content = deletion.to_json();
        match create_or_read(store, &path, content.clone().into()).await? {
            // Somebody else's.
            Some(stored) if stored != content => deletion.number += 1,
            _ => break,
        }
    }
    tracing::warn!(number = deletion.number, subject = ?deletion.subject, files = files.len(), "spans of the lake are to be forgotten");
    Ok(Touched { number: Some(deletion.number), files })
}

/// Whether some row group's bloom filter lets the trace through.
async fn may_hold(
    store: &Arc<dyn ObjectStore>,
    root: &LakeRoot,
    file: &DataFile,
    id: &[u8; 16],
) -> Result<bool, CompactError> {
    let path = Path::from(root.join(&file.path));
    // A file that compaction took out meanwhile is not asked.
    if let Err(object_store::Error::NotFound { .. }) = store.head(&path).await {
        return Ok(false);
    }
    let reader = Ranges { store: Arc::clone(store), path, size: file.bytes };
    let check = async {
        let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
        let columns = builder.parquet_schema();
        let column =
            (0..columns.num_columns()).find(|&leaf| columns.column(leaf).path().string() == TRACE_ID);
        let Some(column) = column else { return Ok(true) };
        for row_group in 0..builder.metadata().num_row_groups() {
            let bloom = builder.get_row_group_column_bloom_filter(row_group, column).await?;
            if bloom.is_none_or(|bloom| bloom.check(&id[..])) {
                return Ok(true);
            }
        }
        Ok::<bool, ParquetError>(false)
    };
    // What cannot be read may hold anything.
    Ok(check.await.unwrap_or(true))
}

/// Reads of a stored file what is asked for.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        Box::pin(async move {
            let read = self.store.get_range(&self.path, range).await;
            read.map_err(|error| ParquetError::External(Box::new(error)))
        })
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        Box::pin(async move {
            let (size, reader) = (self.size, ParquetMetaDataReader::new().with_arrow_reader_options(options));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        })
    }
}
