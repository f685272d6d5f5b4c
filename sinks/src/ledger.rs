//! The lake as a ledger: plans, data files and manifests in a store, each created once.
//!
//! Every write is a conditional create. When the object is there already — an earlier run, another
//! instance, or our own create whose answer was lost — it is read and followed. Passing faults are waited
//! out here, so callers only see answers. Invariant: nothing in the lake is ever overwritten.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use infertrace_schemas::{
    dedup::Dedup,
    lake::{DataFile, Id16, LakeError, LakeRoot, Manifest, Plan, parse_range_path},
};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, path::Path};

use crate::{
    encode::{EncodeError, EncodedFile, entry_of_stored},
    metrics::Metrics,
    retry::{Fault, Retry, fault_of_store},
};

/// Manifests fetched at the same time when a partition is opened.
const CONCURRENT_READS: usize = 8;

/// What the lake says that the sink cannot go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error("{path}: {source}")]
    Store { path: String, source: object_store::Error },
    #[error(
        "the manifest at {path} ends at offset {next}, the one after it starts at {following}: one is missing or foreign"
    )]
    Broken { path: String, next: u64, following: u64 },
    #[error("{path} is of topic {found}, this sink reads {expected}: give each topic its own lake")]
    OtherTopic { path: String, found: String, expected: String },
    #[error(transparent)]
    File(#[from] EncodeError),
}

/// What the manifests of a partition say.
#[derive(Debug)]
pub(crate) struct History {
    /// First offset not in the lake; `None` while there is no manifest.
    pub(crate) next: Option<u64>,
    /// The latest batch ids.
    pub(crate) seen: Dedup,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    store: Arc<dyn ObjectStore>,
    root: LakeRoot,
    topic: Arc<str>,
    retry: Retry,
    metrics: Metrics,
}

impl Ledger {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        root: LakeRoot,
        topic: Arc<str>,
        retry: Retry,
        metrics: Metrics,
    ) -> Self {
        Self { store, root, topic, retry, metrics }
    }

    /// Reads where the partition's next range starts and the latest `batches` batch ids before it.
    pub(crate) async fn history(&self, partition: u32, batches: usize) -> Result<History, LedgerError> {
        let starts = self.manifest_starts(partition).await?;
        let mut manifests = futures::stream::iter(starts.into_iter().rev())
            .map(|start| self.manifest(partition, start))
            .buffered(CONCURRENT_READS);
        let mut next = None;
        let mut following: Option<u64> = None;
        let mut ids: Vec<Id16> = Vec::new();
        while let Some(manifest) = manifests.try_next().await? {
            if let Some(following) = following
                && manifest.next != following
            {
                let path = self.root.manifest(partition, manifest.start);
                return Err(LedgerError::Broken { path, next: manifest.next, following });
            }
            following = Some(manifest.start);
            next.get_or_insert(manifest.next);
            ids.extend(manifest.batch_ids.iter().rev());
            if ids.len() >= batches {
                break;
            }
        }
        let mut seen = Dedup::new(batches);
        seen.preload(ids.into_iter().rev().map(|id| id.0));
        Ok(History { next, seen })
    }

    async fn manifest_starts(&self, partition: u32) -> Result<Vec<u64>, LedgerError> {
        let folder = self.root.manifests(partition);
        let prefix = Path::from(folder.as_str());
        let listed = self
            .retry
            .run(&self.metrics, "list", &folder, fault_of_listing, || {
                self.store.list(Some(&prefix)).map_ok(|object| object.location).try_collect::<Vec<_>>()
            })
            .await
            .map_err(|source| LedgerError::Store { path: folder.clone(), source })?;
        let mut starts = Vec::with_capacity(listed.len());
        for location in listed {
            match parse_range_path(location.as_ref()) {
                Some((of, start)) if of == partition => starts.push(start),
                _ => tracing::warn!(object = %location, "not a manifest, left alone"),
            }
        }
        starts.sort_unstable();
        Ok(starts)
    }

    async fn manifest(&self, partition: u32, start: u64) -> Result<Manifest, LedgerError> {
        let path = self.root.manifest(partition, start);
        let location = Path::from(path.as_str());
        let bytes = self
            .retry
            .run(&self.metrics, "get", &path, fault_of_store, || async {
                self.store.get(&location).await?.bytes().await
            })
            .await
            .map_err(|source| LedgerError::Store { path: path.clone(), source })?;
        let manifest = Manifest::parse(&path, &bytes)?;
        self.check_topic(path, &manifest.topic)?;
        Ok(manifest)
    }

    fn check_topic(&self, path: String, found: &str) -> Result<(), LedgerError> {
        if found == &*self.topic {
            return Ok(());
        }
        Err(LedgerError::OtherTopic { path, found: found.to_owned(), expected: self.topic.to_string() })
    }

    /// Stores `proposed` unless a plan is there; returns the one that holds.
    pub(crate) async fn plan(&self, proposed: &Plan) -> Result<Plan, LedgerError> {
        let path = self.root.plan(proposed.partition, proposed.start);
        let Some(stored) = self.create_or_read("put_plan", &path, proposed.to_json().into()).await? else {
            return Ok(proposed.clone());
        };
        let plan = Plan::parse(&path, &stored)?;
        self.check_topic(path, &plan.topic)?;
        Ok(plan)
    }

    /// Stores a data file unless it is there; returns the entry of the one that is.
    pub(crate) async fn put_data(&self, file: &EncodedFile, end: u64) -> Result<DataFile, LedgerError> {
        let path = self.root.data_file(&file.name);
        match self.create_or_read("put_data", &path, file.bytes.clone()).await? {
            None => Ok(file.entry.clone()),
            Some(stored) if stored == file.bytes => Ok(file.entry.clone()),
            Some(stored) => {
                let entry = entry_of_stored(&file.name, end, &stored)?;
                tracing::warn!(
                    object = path,
                    rows = entry.rows,
                    own_rows = file.entry.rows,
                    "an earlier run wrote this range differently, its file stays"
                );
                Ok(entry)
            }
        }
    }

    /// Publishes a range; returns the manifest that holds.
    pub(crate) async fn publish(&self, manifest: Manifest) -> Result<Manifest, LedgerError> {
        let path = self.root.manifest(manifest.partition, manifest.start);
        let Some(stored) = self.create_or_read("put_manifest", &path, manifest.to_json().into()).await?
        else {
            return Ok(manifest);
        };
        let stored = Manifest::parse(&path, &stored)?;
        self.check_topic(path, &stored.topic)?;
        Ok(stored)
    }

    /// Creates an object; `None` when this call did, otherwise what is there.
    async fn create_or_read(
        &self,
        what: &'static str,
        path: &str,
        content: Bytes,
    ) -> Result<Option<Bytes>, LedgerError> {
        let location = Path::from(path);
        self.retry
            .run(&self.metrics, what, path, fault_of_create, || async {
                let create = PutOptions::from(PutMode::Create);
                match self.store.put_opts(&location, content.clone().into(), create).await {
                    Ok(_) => Ok(None),
                    Err(
                        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                    ) => self.store.get(&location).await?.bytes().await.map(Some),
                    Err(error) => Err(error),
                }
            })
            .await
            .map_err(|source| LedgerError::Store { path: path.to_owned(), source })
    }
}

/// A missing bucket is an operator's matter, a folder not yet there is an empty one.
fn fault_of_listing(error: &object_store::Error) -> Option<Fault> {
    fault_of_store(error).or(Some(Fault::Refused))
}

/// Not found: a create without its bucket, or an object that vanished after it blocked our create.
fn fault_of_create(error: &object_store::Error) -> Option<Fault> {
    match error {
        object_store::Error::NotFound { .. } => Some(Fault::Refused),
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            Some(Fault::Passing)
        }
        error => fault_of_store(error),
    }
}
