//! Which data files count: manifests, compactions and deletions, each listed from where the last listing ended.
//!
//! Invariants: what was read once stays, so a compaction costs one object to read; a damaged object is tried again at each
//! refresh and named until it reads, and compactions after it wait for it; a partition's end is where its manifests
//! without a gap end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use infertrace_schemas::lake::{
    LakeRoot, Manifest,
    compaction::Compaction,
    deletion::{Deletion, Deletions},
    live::{LiveFile, LiveFiles},
    parse_range_path,
};
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
    /// What is to be left out of every answer.
    pub deletions: Arc<Deletions>,
}

/// What one manifest says, without what only the sink needs.
struct Range {
    next: i64,
    lost: u64,
}

/// What the lake's list consists of.
enum Object {
    Manifest(Manifest),
    Compaction(Compaction),
    Deletion(Deletion),
}

#[derive(Default)]
struct Progress {
    /// By partition and start offset.
    ranges: BTreeMap<i32, BTreeMap<i64, Range>>,
    /// The files that count.
    live: LiveFiles<Arc<LakeFile>>,
    deletions: Arc<Deletions>,
    /// Compactions and deletions that wait for one before them, by number.
    compactions: BTreeMap<u64, Compaction>,
    asked: BTreeMap<u64, Deletion>,
    /// The last name listed in each folder.
    listed: BTreeMap<Path, Path>,
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
        let of_partition = |prefix: &Path| prefix.filename().is_some_and(is_folder_of_partition);
        let mut folders: Vec<Path> = listing.common_prefixes.into_iter().filter(of_partition).collect();
        folders.extend([self.root.deletions(), self.root.compactions()].map(Path::from));
        let mut new: Vec<Path> = Vec::new();
        for folder in folders {
            let found = match progress.listed.get(&folder) {
                Some(last) => self.store.list_with_offset(Some(&folder), last),
                None => self.store.list(Some(&folder)),
            };
            let mut names: Vec<Path> = found.map_ok(|object| object.location).try_collect().await?;
            names.retain(|name| name.extension() == Some("json"));
            names.sort_unstable();
            if let Some(last) = names.last() {
                progress.listed.insert(folder, last.clone());
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
            let object = self.read_object(&path).await;
            (path, object)
        });
        let read: Vec<_> = read.buffer_unordered(CONCURRENT_MANIFESTS).collect().await;
        for (path, object) in read {
            match object {
                Ok(object) => {
                    progress.damaged.remove(&path);
                    self.add(progress, object);
                }
                Err(detail) => {
                    if progress.damaged.insert(path.clone(), detail.clone()).is_none() {
                        tracing::error!(%path, %detail, "an object of the lake's list cannot be read");
                    }
                }
            }
        }
        self.follow(progress);
        self.publish(progress);
        Ok(())
    }

    async fn read_object(&self, path: &Path) -> Result<Object, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let bytes = self.store.get(path).await.map_err(|error| text(&error))?;
        let bytes = bytes.bytes().await.map_err(|error| text(&error))?;
        let name = path.as_ref();
        let read = if name.starts_with(&self.root.compactions()) {
            Compaction::parse(name, &bytes).map(Object::Compaction)
        } else if name.starts_with(&self.root.deletions()) {
            Deletion::parse(name, &bytes).map(Object::Deletion)
        } else {
            Manifest::parse(name, &bytes).map(Object::Manifest)
        };
        read.map_err(|error| text(&error))
    }

    fn add(&self, progress: &mut Progress, object: Object) {
        match object {
            Object::Compaction(compaction) => {
                progress.compactions.insert(compaction.number, compaction);
            }
            Object::Deletion(deletion) => {
                progress.asked.insert(deletion.number, deletion);
            }
            Object::Manifest(manifest) => {
                progress.live.add(&manifest, |file| self.file(file));
                let lost = manifest.lost.iter().map(|lost| lost.to.saturating_sub(lost.from)).sum();
                let range = Range { next: manifest.next as i64, lost };
                let ranges = progress.ranges.entry(manifest.partition as i32).or_default();
                ranges.insert(manifest.start as i64, range);
            }
        }
    }

    /// Applies the compactions and deletions that follow on those applied.
    fn follow(&self, progress: &mut Progress) {
        while let Some(compaction) = progress.compactions.remove(&progress.live.next_compaction()) {
            progress.live.apply(&compaction, |file| self.file(file));
        }
        while let Some(deletion) = progress.asked.remove(&progress.deletions.count()) {
            Arc::make_mut(&mut progress.deletions).add(&deletion);
        }
    }

    fn file(&self, file: LiveFile) -> Arc<LakeFile> {
        let path = Path::from(self.root.join(&file.data.path));
        Arc::new(LakeFile {
            path,
            data: file.data,
            partition: file.partition as i32,
            offsets: file.start as i64..file.next as i64,
            deletions: file.deletions,
        })
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
            }
            state.ends.insert(partition, end);
        }
        for (what, waiting, wanted) in [
            ("compaction", progress.compactions.len(), progress.live.next_compaction()),
            ("deletion", progress.asked.len(), progress.deletions.count()),
        ] {
            if waiting > 0 {
                let detail = format!("it cannot be read, and {waiting} after it wait for it");
                state.problems.push(Problem::lake(format!("{what} {wanted}"), detail));
            }
        }
        state.deletions = Arc::clone(&progress.deletions);
        state.files = progress.live.iter().cloned().collect();
        state.files.sort_by_key(|file| std::cmp::Reverse((file.data.max_start_ns, file.offsets.start)));
        state.rows = state.files.iter().map(|file| file.data.rows).sum();
        state.bytes = state.files.iter().map(|file| file.data.bytes).sum();
        self.metrics.files.set(state.files.len() as i64);
        self.metrics.problems.set(state.problems.len() as i64);
        *self.state.write() = Arc::new(state);
    }
}

fn is_folder_of_partition(name: &str) -> bool {
    name.strip_prefix('p').is_some_and(|number| number.parse::<u32>().is_ok())
}
