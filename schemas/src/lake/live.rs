//! The files that count: those of manifests, less what compactions took out, with what they put in.
//!
//! Invariants: compactions apply in the order of their numbers; manifests may come before or after the compactions that
//! merged their files; at every number the files hold each span once.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DataFile, Manifest,
    compaction::{Compaction, Kept},
};

/// A file that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFile {
    /// Partition of its records.
    pub partition: u32,
    /// First offset of its range; it holds the rows of its date.
    pub start: u64,
    /// One past the last offset.
    pub next: u64,
    /// Deletions with a lower number were carried out in it.
    pub deletions: u64,
    /// What retention left in it; empty when it was not carried out.
    pub kept: Vec<Kept>,
    /// What its manifest or compaction says of it.
    pub data: DataFile,
}

/// See the module; `T` is what is kept of a file.
#[derive(Clone, Debug)]
pub struct LiveFiles<T = LiveFile> {
    files: BTreeMap<String, T>,
    /// Taken out before their manifest was read.
    awaited: BTreeSet<String>,
    next_compaction: u64,
}

impl<T> Default for LiveFiles<T> {
    fn default() -> Self {
        Self { files: BTreeMap::new(), awaited: BTreeSet::new(), next_compaction: 0 }
    }
}

impl<T> LiveFiles<T> {
    /// Adds the files of a manifest, which is added once.
    pub fn add(&mut self, manifest: &Manifest, make: impl Fn(LiveFile) -> T) {
        let Manifest { partition, start, next, .. } = *manifest;
        for data in &manifest.files {
            if !self.awaited.remove(&data.path) {
                let file =
                    LiveFile { partition, start, next, deletions: 0, kept: Vec::new(), data: data.clone() };
                self.files.insert(data.path.clone(), make(file));
            }
        }
    }

    /// Applies the next compaction; `false` for one that is not the next.
    pub fn apply(&mut self, compaction: &Compaction, make: impl Fn(LiveFile) -> T) -> bool {
        if compaction.number != self.next_compaction {
            return false;
        }
        self.next_compaction += 1;
        for path in &compaction.removes {
            if self.files.remove(path).is_none() {
                self.awaited.insert(path.clone());
            }
        }
        if let Some(data) = &compaction.adds {
            let Compaction { partition, start, next, deletions, .. } = *compaction;
            let file = LiveFile {
                partition,
                start,
                next,
                deletions,
                kept: compaction.kept.clone(),
                data: data.clone(),
            };
            self.files.insert(data.path.clone(), make(file));
        }
        true
    }

    /// The number of the compaction to apply next.
    #[must_use]
    pub const fn next_compaction(&self) -> u64 {
        self.next_compaction
    }

    /// The file at `path`, if it counts.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&T> {
        self.files.get(path)
    }

    /// The files, ascending by path: by date, partition and start.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.files.values()
    }
}
