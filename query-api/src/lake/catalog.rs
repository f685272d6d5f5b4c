//! Which data files there are: manifests, listed from where the last listing ended.
//!
//! Invariants: a manifest once read stays; a damaged one is tried again at each refresh and named until it
//! reads; a partition's end is where its manifests without a gap end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use infertrace_schemas::lake::{LakeRoot, Manifest, parse_range_path};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parking_lot::RwLock;
use tokio::sync::Mutex;

use super::{LakeFile, Problem};
use crate::metrics::LakeMetrics;

const CONCURRENT_MANIFESTS: usize = 16;
/// Damaged manifests that are named one by one.
const NAMED_PROBLEMS: usize = 32;

/// Manifests as of one moment.
#[derive(Debug, Default)]
pub struct CatalogState {
    /// Files, latest span first.
    pub files: Vec<Arc<LakeFile>>,
    /// Where each partition's manifests begin.
    pub starts: BTreeMap<i32, i64>,
    /// Where each partition's gapless manifests end.
    pub ends: BTreeMap<i32, i64>,
    /// Damaged manifests and gaps.
    pub problems: Vec<Problem>,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Offsets that retention removed before the sink read them: no tier has their spans.
    pub lost_offsets: u64,
}

/// What one manifest says, without what only the sink needs.
struct Range {
    next: i64,
    lost: u64,
    files: Vec<Arc<LakeFile>>,
}

#[derive(Default)]
struct Progress {
    /// By partition and start offset.
    ranges: BTreeMap<i32, BTreeMap<i64, Range>>,
    /// The last name listed in each partition.
    listed: BTreeMap<u32, Path>,
    damaged: BTreeMap<Path, String>,
    refreshed: Option<Instant>,
}

/// The manifests of a lake, kept up to date.
pub struct Catalog {
    store: Arc<dyn ObjectStore>,
    root: LakeRoot,
    state: RwLock<Arc<CatalogState>>,
    progress: Mutex<Progress>,
    last_error: RwLock<Option<String>>,
    metrics: LakeMetrics,
}

impl Catalog {
    /// A catalog that knows nothing until its first [`Self::refresh`].
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, root: LakeRoot, metrics: LakeMetrics) -> Self {
        Self {
            store,
            root,
            state: RwLock::default(),
            progress: Mutex::default(),
            last_error: RwLock::new(Some("the lake was not listed yet".to_owned())),
            metrics,
        }
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> Arc<CatalogState> {
        Arc::clone(&self.state.read())
    }

    /// Why the last refresh failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.read().clone()
    }

    /// Looks for new manifests, unless that was done within `fresh_enough`.
    ///
    /// # Errors
    /// When the store cannot be listed; what is known stays.
    pub async fn refresh(&self, fresh_enough: Duration) -> Result<(), object_store::Error> {
        let mut progress = self.progress.lock().await;
        if progress.refreshed.is_some_and(|at| at.elapsed() < fresh_enough) {
            return Ok(());
        }
        let result = self.refresh_locked(&mut progress).await;
        *self.last_error.write() = result.as_ref().err().map(ToString::to_string);
        progress.refreshed = Some(Instant::now());
        result
    }

    async fn refresh_locked(&self, progress: &mut Progress) -> Result<(), object_store::Error> {
        let folder = Path::from(self.root.all_manifests());
        let listing = self.store.list_with_delimiter(Some(&folder)).await?;
        let mut new: Vec<Path> = Vec::new();
        for prefix in &listing.common_prefixes {
            let Some(partition) = prefix.filename().and_then(partition_of_folder) else { continue };
            let found = match progress.listed.get(&partition) {
                Some(last) => self.store.list_with_offset(Some(prefix), last),
                None => self.store.list(Some(prefix)),
            };
            let mut names: Vec<Path> = found.map_ok(|object| object.location).try_collect().await?;
            names.retain(|name| name.extension() == Some("json"));
            names.sort_unstable();
            if let Some(last) = names.last() {
                progress.listed.insert(partition, last.clone());
            }
            new.append(&mut names);
        }
        let retried: Vec<Path> = progress.damaged.keys().cloned().collect();
        let nothing_to_read = new.is_empty() && retried.is_empty();
        if nothing_to_read && progress.refreshed.is_some() {
            return Ok(());
        }
        new.extend(retried);
        let read = stream::iter(new).map(|path| async {
            let manifest = self.read_manifest(&path).await;
            (path, manifest)
        });
        let read: Vec<_> = read.buffer_unordered(CONCURRENT_MANIFESTS).collect().await;
        for (path, manifest) in read {
            match manifest {
                Ok(manifest) => {
                    progress.damaged.remove(&path);
                    self.add(progress, manifest);
                }
                Err(detail) => {
                    if progress.damaged.insert(path.clone(), detail.clone()).is_none() {
                        tracing::error!(%path, %detail, "a manifest of the lake cannot be read");
                    }
                }
            }
        }
        self.publish(progress);
        Ok(())
    }

    async fn read_manifest(&self, path: &Path) -> Result<Manifest, String> {
        let bytes = self.store.get(path).await.map_err(|error| error.to_string())?;
        let bytes = bytes.bytes().await.map_err(|error| error.to_string())?;
        Manifest::parse(path.as_ref(), &bytes).map_err(|error| error.to_string())
    }

    fn add(&self, progress: &mut Progress, manifest: Manifest) {
        let partition = manifest.partition as i32;
        let offsets = manifest.start as i64..manifest.next as i64;
        let file = |data: infertrace_schemas::lake::DataFile| {
            let path = Path::from(self.root.join(&data.path));
            LakeFile::new(path, data, partition, offsets.clone())
        };
        let lost = manifest.lost.iter().map(|lost| lost.to.saturating_sub(lost.from)).sum();
        let files = manifest.files.into_iter().map(file).collect();
        let range = Range { next: offsets.end, lost, files };
        progress.ranges.entry(partition).or_default().insert(offsets.start, range);
    }

    fn publish(&self, progress: &Progress) {
        let mut state = CatalogState::default();
        let mut bad_starts: BTreeSet<(i32, i64)> = BTreeSet::new();
        for (path, detail) in progress.damaged.iter().take(NAMED_PROBLEMS) {
            state.problems.push(Problem::lake(path.to_string(), detail.clone()));
        }
        for path in progress.damaged.keys() {
            if let Some((partition, start)) = parse_range_path(path.as_ref()) {
                bad_starts.insert((partition as i32, start as i64));
            }
        }
        for (&partition, ranges) in &progress.ranges {
            let mut end = ranges.keys().next().copied().unwrap_or(0);
            state.starts.insert(partition, end);
            for (&start, range) in ranges {
                if start > end {
                    // A damaged manifest explains its own gap.
                    if !bad_starts.contains(&(partition, end)) && state.problems.len() < NAMED_PROBLEMS * 2 {
                        let what = format!("partition {partition}, offsets {end}..{start}");
                        state.problems.push(Problem::lake(what, "no manifest covers these offsets"));
                    }
                }
                end = end.max(range.next);
                state.lost_offsets += range.lost;
                state.files.extend(range.files.iter().cloned());
            }
            state.ends.insert(partition, end);
        }
        state.files.sort_by_key(|file| std::cmp::Reverse((file.data.max_start_ns, file.offsets.start)));
        state.rows = state.files.iter().map(|file| file.data.rows).sum();
        state.bytes = state.files.iter().map(|file| file.data.bytes).sum();
        self.metrics.files.set(state.files.len() as i64);
        self.metrics.problems.set(state.problems.len() as i64);
        *self.state.write() = Arc::new(state);
    }
}

fn partition_of_folder(name: &str) -> Option<u32> {
    name.strip_prefix('p')?.parse().ok()
}
