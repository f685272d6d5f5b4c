//! A store on which the process dies at its n-th change, before or after it, and stays dead.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct DyingStore {
    inner: Arc<dyn ObjectStore>,
    changes: Arc<AtomicUsize>,
    dies_at: usize,
    after: bool,
}

impl DyingStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, dies_at: usize, after: bool) -> Arc<Self> {
        Arc::new(Self { inner, changes: Arc::default(), dies_at, after })
    }

    /// Changes asked for.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.changes() > self.dies_at
    }

    fn dead() -> object_store::Error {
        object_store::Error::Generic { store: "dying", source: "the process is dead".into() }
    }
}

impl fmt::Display for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dying({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for DyingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        if number > self.dies_at || (number == self.dies_at && !self.after) {
            return Err(Self::dead());
        }
        let put = self.inner.put_opts(location, payload, opts).await;
        if number == self.dies_at { Err(Self::dead()) } else { put }
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_dead() {
            return Err(Self::dead());
        }
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, changes) = (Arc::clone(&self.inner), Arc::clone(&self.changes));
        let (dies_at, after) = (self.dies_at, self.after);
        let deleted = locations.then(move |path| {
            let (inner, changes) = (Arc::clone(&inner), Arc::clone(&changes));
            async move {
                let path = path?;
                let number = changes.fetch_add(1, Ordering::Relaxed);
                if number > dies_at || (number == dies_at && !after) {
                    return Err(Self::dead());
                }
                inner.delete(&path).await?;
                if number == dies_at { Err(Self::dead()) } else { Ok(path) }
            }
        });
        deleted.boxed()
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
