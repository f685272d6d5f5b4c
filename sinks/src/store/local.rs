//! A folder as an object store whose puts survive a power cut.
//!
//! `object_store`'s own local store writes atomically but does not flush; here a put writes a staging
//! file, flushes it, links or renames it to its name and flushes the folder. Reading, listing and deleting
//! are its own. Invariants: a put that answered is durable; no partial file has ever a final name; a
//! `Create` never replaces; staging files lie in `_staging`, outside every glob.

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, local::LocalFileSystem,
    path::Path,
};

const STAGING: &str = "_staging";
/// Staging files this old belong to nobody alive: a put takes seconds.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    staging: PathBuf,
    next_staging: AtomicU64,
}

impl DurableLocal {
    /// Opens `folder`, creating it, and removes what long-dead writers left in its staging area.
    ///
    /// # Errors
    /// When the folder cannot be created or written.
    pub fn open(folder: &FilePath) -> io::Result<Self> {
        create_folders_durably(folder)?;
        let root = folder.canonicalize()?;
        let staging = root.join(STAGING);
        create_folders_durably(&staging)?;
        remove_stale(&staging)?;
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self { inner, staging, next_staging: AtomicU64::new(0) })
    }

    fn staging_path(&self) -> PathBuf {
        let number = self.next_staging.fetch_add(1, Ordering::Relaxed);
        let random: u64 = rand::random();
        self.staging.join(format!("{}-{number}-{random:016x}", std::process::id()))
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable{}", self.inner)
    }
}

fn remove_stale(staging: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        let age =
            entry.metadata().and_then(|meta| meta.modified()).map(|at| SystemTime::now().duration_since(at));
        if matches!(age, Ok(Ok(age)) if age > STALE) {
            // Another instance may have removed it in between.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Creates missing folders and makes their names durable in their parents.
fn create_folders_durably(folder: &FilePath) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folders_durably(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent.unwrap_or(FilePath::new(".")))
}

fn put_durably(staged: &FilePath, target: &FilePath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
    use io::Write as _;
    let parent = target.parent().ok_or_else(|| io::Error::other("an object needs a folder"))?;
    create_folders_durably(parent)?;
    let mut file = fs::File::create_new(staged)?;
    for part in payload {
        file.write_all(part)?;
    }
    file.sync_all()?;
    drop(file);
    match mode {
        PutMode::Create => {
            fs::hard_link(staged, target)?;
            fs::remove_file(staged)?;
        }
        _ => fs::rename(staged, target)?,
    }
    sync_folder(parent)
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return Err(object_store::Error::NotImplemented {
                operation: "`put_opts` with `PutMode::Update` or attributes".into(),
                implementer: self.to_string(),
            });
        }
        let target = self.inner.path_to_filesystem(location)?;
        let staged = self.staging_path();
        let name = location.to_string();
        let put = tokio::task::spawn_blocking(move || {
            put_durably(&staged, &target, &payload, &opts.mode).map_err(|source| {
                // Already gone where it was renamed; otherwise `remove_stale` has a second chance.
                let _ = fs::remove_file(&staged);
                if source.kind() == io::ErrorKind::AlreadyExists {
                    object_store::Error::AlreadyExists { path: name, source: Box::new(source) }
                } else if source.kind() == io::ErrorKind::PermissionDenied {
                    object_store::Error::PermissionDenied { path: name, source: Box::new(source) }
                } else {
                    object_store::Error::Generic { store: "DurableLocal", source: Box::new(source) }
                }
            })
        });
        put.await.map_err(|source| object_store::Error::JoinError { source })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    /// Scenario: two writers create the same object. Guarantee: the first stays, the second is told, nothing
    /// is left in the staging area.
    #[tokio::test]
    async fn create_never_replaces() {
        let folder = tempfile::tempdir().expect("folder");
        let store = DurableLocal::open(folder.path()).expect("open");
        let path = Path::from("a/b/c.json");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&path, "one".into(), create()).await.expect("first");
        let second = store.put_opts(&path, "two".into(), create()).await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })));
        assert_eq!(store.get(&path).await.expect("get").bytes().await.expect("bytes"), "one");
        store.put(&path, "three".into()).await.expect("overwrite");
        assert_eq!(store.get(&path).await.expect("get").bytes().await.expect("bytes"), "three");
        assert_eq!(fs::read_dir(folder.path().join(STAGING)).expect("staging").count(), 0);
    }
}
