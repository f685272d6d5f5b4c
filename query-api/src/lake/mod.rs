//! The lake as this crate reads it: Parquet files that manifests name, on any object store.
//!
//! [`catalog`] knows which files there are, [`cache`] keeps footers and bloom filters, [`lookup`] finds traces by
//! id without a query engine, [`table`] scans for searches through DataFusion. Invariants: a file that no
//! manifest names is never read; a damaged file costs its own rows, never the answer, and is named in it.

pub mod cache;
pub mod catalog;
pub mod lookup;
pub mod table;

use std::ops::Range;

use infertrace_schemas::lake::DataFile;
use object_store::path::Path;
use serde::Serialize;

/// A data file that a manifest names.
#[derive(Debug)]
pub struct LakeFile {
    /// Where it is in the store.
    pub path: Path,
    /// What the manifest says of it.
    pub data: DataFile,
    /// Partition of its records.
    pub partition: i32,
    /// Offsets of its manifest, or of those whose files were merged into it; the file holds those of its date.
    pub offsets: Range<i64>,
    /// Deletions with a lower number were carried out in it.
    pub deletions: u64,
}

/// Something that could not be read; part of every answer it may touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Tier: `hot`, `warm` or `cold`.
    pub tier: &'static str,
    /// File, or range of offsets.
    pub what: String,
    /// Why.
    pub detail: String,
}

impl Problem {
    /// Trouble with one file or range of the lake.
    pub(crate) fn lake(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { tier: "cold", what: what.into(), detail: detail.into() }
    }

    /// Trouble with the warm tier.
    pub(crate) fn warm(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { tier: "warm", what: what.into(), detail: detail.into() }
    }

    /// Trouble with the hot tier.
    pub(crate) fn hot(detail: impl Into<String>) -> Self {
        Self { tier: "hot", what: "hot tier".to_owned(), detail: detail.into() }
    }
}

/// Runs `work` as a task of its own, so that a panic inside a decoder becomes an error and dropping the
/// future ends the work.
pub(crate) async fn contained<T: Send + 'static>(
    handle: &tokio::runtime::Handle,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    struct AbortOnDrop(tokio::task::AbortHandle);
    impl Drop for AbortOnDrop {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let task = handle.spawn(work);
    let _guard = AbortOnDrop(task.abort_handle());
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err("the file cannot be decoded".to_owned()),
        Err(_) => Err("cancelled".to_owned()),
    }
}
