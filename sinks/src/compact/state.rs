//! What the lake holds, as the compactor and the commands of the lake know it: manifests, compactions and deletions, each read once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use infertrace_schemas::lake::{
    LakeRoot, Manifest, compaction::Compaction, deletion::Deletion, deletion::Deletions, live::LiveFiles,
    parse_numbered_path, parse_range_path,
};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, path::Path};

use super::CompactError;

const CONCURRENT_READS: usize = 16;

/// Files of a compaction that wait for their removal.
#[derive(Clone, Debug)]
pub(crate) struct Unswept {
    pub(crate) number: u64,
    pub(crate) since_ms: i64,
    pub(crate) paths: Vec<String>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) live: LiveFiles,
    pub(crate) deletions: Deletions,
    asked: Vec<Deletion>,
    /// Offsets at which ranges start and end, by partition.
    pub(crate) ranges: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// Files that could not be read.
    pub(crate) unfit: BTreeSet<String>,
    pub(crate) unswept: Vec<Unswept>,
    /// Files of compactions below it are gone.
    pub(crate) swept: u64,
    listed: BTreeMap<Path, Path>,
}

impl State {
    /// Reads what is new.
    pub(crate) async fn refresh(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        root: &LakeRoot,
    ) -> Result<(), CompactError> {
        let folders = store.list_with_delimiter(Some(&Path::from(root.all_manifests()))).await?;
        for folder in folders.common_prefixes {
            self.read_new(store, folder, |state, path, bytes| {
                if parse_range_path(path).is_some() {
                    state.add(&Manifest::parse(path, &bytes)?);
                }
                Ok(())
            })
            .await?;
        }
        self.read_new(store, Path::from(root.deletions()), |state, path, bytes| {
            if parse_numbered_path(path).is_some() {
                let deletion = Deletion::parse(path, &bytes)?;
                state.deletions.add(&deletion);
                state.asked.push(deletion);
            }
            Ok(())
        })
        .await?;
        self.read_new(store, Path::from(root.compactions()), |state, path, bytes| {
            if parse_numbered_path(path).is_none() {
                return Ok(());
            }
            let compaction = Compaction::parse(path, &bytes)?;
            let next = state.live.next_compaction();
            if compaction.number > next {
                return Err(CompactError::Missing { number: next });
            }
            state.apply(&compaction);
            Ok(())
        })
        .await
    }

    /// Hands the objects of `folder` after the last one that was taken to `take`, ascending.
    async fn read_new(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        folder: Path,
        take: impl Fn(&mut Self, &str, Bytes) -> Result<(), CompactError>,
    ) -> Result<(), CompactError> {
        let listed = match self.listed.get(&folder) {
            Some(last) => store.list_with_offset(Some(&folder), last),
            None => store.list(Some(&folder)),
        };
        let mut paths: Vec<Path> = listed.map_ok(|object| object.location).try_collect().await?;
        paths.retain(|path| path.extension() == Some("json"));
        paths.sort_unstable();
        let mut read = stream::iter(paths)
            .map(|path| async move {
                let bytes = store.get(&path).await?.bytes().await?;
                Ok::<_, CompactError>((path, bytes))
            })
            .buffered(CONCURRENT_READS);
        while let Some((path, bytes)) = read.try_next().await? {
            take(self, path.as_ref(), bytes)?;
            self.listed.insert(folder.clone(), path);
        }
        Ok(())
    }

    fn add(&mut self, manifest: &Manifest) {
        let ranges = self.ranges.entry(manifest.partition).or_default();
        if ranges.insert(manifest.start, manifest.next).is_none() {
            self.live.add(manifest, |file| file);
        }
    }

    /// Applies a compaction unless it was; `false` when it is not the next.
    pub(crate) fn apply(&mut self, compaction: &Compaction) -> bool {
        if !self.live.apply(compaction, |file| file) {
            return false;
        }
        self.unfit.extend(compaction.unfit.iter().cloned());
        self.swept = self.swept.max(compaction.swept);
        self.unswept.push(Unswept {
            number: compaction.number,
            since_ms: compaction.created_unix_ms,
            paths: compaction.removes.clone(),
        });
        let swept = self.swept;
        self.unswept.retain(|one| one.number >= swept && !one.paths.is_empty());
        true
    }

    /// Where the ranges without a gap end, by partition.
    pub(crate) fn ends(&self) -> BTreeMap<u32, u64> {
        let end_of = |ranges: &BTreeMap<u64, u64>| {
            let mut end = ranges.keys().next().copied().unwrap_or_default();
            for (&start, &next) in ranges {
                if start > end {
                    break;
                }
                end = end.max(next);
            }
            end
        };
        self.ranges.iter().map(|(partition, ranges)| (*partition, end_of(ranges))).collect()
    }

    /// The deletions with a lower number.
    pub(crate) fn deletions_below(&self, number: u64) -> Deletions {
        let mut deletions = Deletions::default();
        self.asked.iter().filter(|deletion| deletion.number < number).for_each(|one| deletions.add(one));
        deletions
    }

    /// The start of every range of a partition.
    pub(crate) fn starts(&self, partition: u32) -> BTreeSet<u64> {
        self.ranges.get(&partition).map(|ranges| ranges.keys().copied().collect()).unwrap_or_default()
    }
}

/// Creates an object; `None` when it was not there, otherwise what is.
pub(crate) async fn create_or_read(
    store: &Arc<dyn ObjectStore>,
    path: &str,
    content: Bytes,
) -> Result<Option<Bytes>, CompactError> {
    let location = Path::from(path);
    let create = PutOptions::from(PutMode::Create);
    match store.put_opts(&location, content.into(), create).await {
        Ok(_) => Ok(None),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(Some(store.get(&location).await?.bytes().await?))
        }
        Err(error) => Err(error.into()),
    }
}
