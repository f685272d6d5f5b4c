//! A lake as readers of manifests, compactions and deletions see it.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    compute::filter_record_batch,
};
use infertrace_schemas::{
    columns::{conform, index},
    lake::{
        LakeRoot,
        compaction::Compaction,
        deletion::{Deletion, Deletions},
        live::{LiveFile, LiveFiles},
    },
};
use infertrace_sinks::{Config, compact};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::*;

pub(crate) const GRACE_NS: i64 = 900_000_000_000;

/// Settings by which the tests' small files are merged, and nobody waits for anybody.
pub(crate) fn compacting() -> Config {
    let compaction = compact::Config { min_files: 4, takeover_ms: 0, ..compact::Config::default() };
    Config { compaction, ..config() }
}

/// The files that count, ascending by path.
pub(crate) async fn live_files(store: &Arc<dyn ObjectStore>) -> Vec<LiveFile> {
    let mut live: LiveFiles = LiveFiles::default();
    for manifest in manifests(&**store).await {
        live.add(&manifest, |file| file);
    }
    for (path, bytes) in objects(&**store, &LakeRoot::new("lake").compactions()).await {
        assert!(live.apply(&Compaction::parse(&path, &bytes).expect("a compaction"), |file| file), "{path}");
    }
    live.iter().cloned().collect()
}

pub(crate) async fn deletions(store: &Arc<dyn ObjectStore>) -> Deletions {
    let mut deletions = Deletions::default();
    for (path, bytes) in objects(&**store, &LakeRoot::new("lake").deletions()).await {
        deletions.add(&Deletion::parse(&path, &bytes).expect("a deletion"));
    }
    deletions
}

/// Numbers of the spans that readers see, sorted; rows in row groups are sorted, entries tell what the files hold.
pub(crate) async fn live_spans(store: &Arc<dyn ObjectStore>) -> Vec<u64> {
    let deletions = deletions(store).await;
    let mut spans = Vec::new();
    for batch in stored_rows(store).await {
        let kept = deletions.kept(&batch).expect("our columns");
        spans.extend(numbers(&filter_record_batch(&batch, &kept).expect("a filter")));
    }
    spans.sort_unstable();
    spans
}

/// Numbers of the spans whose bytes are in the files that count, sorted.
pub(crate) async fn stored_spans(store: &Arc<dyn ObjectStore>) -> Vec<u64> {
    let mut spans: Vec<u64> = stored_rows(store).await.iter().flat_map(numbers).collect();
    spans.sort_unstable();
    spans
}

async fn stored_rows(store: &Arc<dyn ObjectStore>) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for file in live_files(store).await {
        let path = Path::from(format!("lake/{}", file.data.path));
        let bytes = store.get(&path).await.expect("a file that counts").bytes().await.expect("bytes");
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("footer");
        let mut rows = 0;
        for row_group in 0..builder.metadata().num_row_groups() {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("footer");
            let mut last = ([0u8; 16], i64::MIN);
            for batch in reader.with_row_groups(vec![row_group]).build().expect("reader") {
                let batch = conform(&batch.expect("rows")).expect("the span schema");
                let ids = batch.column(index::TRACE_ID).as_fixed_size_binary();
                let starts = batch.column(index::START_TIME);
                let starts = starts.as_primitive::<arrow::datatypes::TimestampNanosecondType>();
                for row in 0..batch.num_rows() {
                    let key = (ids.value(row).try_into().expect("16 bytes"), starts.value(row));
                    assert!(last <= key, "{path} is not sorted");
                    last = key;
                    assert!(file.data.may_have_trace(&key.0));
                    assert!(file.data.may_start_within(key.1, key.1 + 1));
                }
                rows += batch.num_rows() as u64;
                batches.push(batch);
            }
        }
        assert_eq!(rows, file.data.rows, "{path}");
    }
    batches
}

fn numbers(batch: &RecordBatch) -> Vec<u64> {
    let ids = batch.column(index::SPAN_ID).as_fixed_size_binary();
    let number = |row| u64::from_be_bytes(ids.value(row).try_into().expect("8 bytes")) - 1;
    (0..batch.num_rows()).map(number).collect()
}

/// The folder of data files holds those that count and no other.
pub(crate) async fn assert_glob_is_live(store: &Arc<dyn ObjectStore>) {
    let seen: Vec<String> = objects(&**store, "lake/spans").await.into_iter().map(|(path, _)| path).collect();
    let live = live_files(store).await;
    let live: Vec<String> = live.iter().map(|file| format!("lake/{}", file.data.path)).collect();
    assert_eq!(seen, live);
}

/// A store of its own with the same objects.
pub(crate) async fn copy_of(store: &Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    let copy = memory();
    for (path, bytes) in objects(&**store, "lake").await {
        copy.put(&Path::from(path), bytes.into()).await.expect("put");
    }
    copy
}
