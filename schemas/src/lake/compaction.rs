//! Compactions: data files of one partition and event date made into one, in steps that survive a crash at any point.
//!
//! Compactions are numbered from 0 without a gap, over the whole lake. Number `n` has a plan, written first by
//! conditional create, then at most one data file, and a record, written last by conditional create: it takes the
//! files that were merged out of the lake and puts the new one in, at once. Whoever finds a plan without a record
//! repeats the plan. The files taken out stay in the store for a grace period, for readers that still know them.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    DataFile, DataFileName, EventDate, LakeError, Merged, check_number, from_json, malformed, to_json,
};
use crate::{
    audit::{Hash, Sum},
    avro::Importance,
};

/// What will be merged, and every setting that the bytes of the result depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionPlan {
    /// [`super::FORMAT_VERSION`].
    pub version: u32,
    /// Number of the compaction.
    pub number: u64,
    /// Topic of the records.
    pub topic: String,
    /// Partition of the records.
    pub partition: u32,
    /// Event date of every span.
    pub date: EventDate,
    /// First offset of the first file.
    pub start: u64,
    /// One past the last offset of the last file.
    pub next: u64,
    /// Paths of the files to merge, ascending by offset; each was live when this was planned.
    pub inputs: Vec<String>,
    /// Deletions with a lower number are carried out.
    pub deletions: u64,
    /// Retention that is carried out; `None` keeps every trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<PlannedRetention>,
    /// Rows of a row group.
    pub row_group_rows: u32,
    /// Level of zstd.
    pub zstd_level: i32,
    /// When it was planned, milliseconds since 1970; tells only how long its author has been silent.
    pub created_unix_ms: i64,
    /// Program and version that planned it.
    #[serde(default)]
    pub created_by: String,
}

/// Which traces outlive a compaction, and how their importance is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRetention {
    /// A trace that took at least so long is [`Importance::Slow`], milliseconds.
    pub slow_trace_ms: i64,
    /// What is kept.
    pub kept: Vec<Kept>,
    /// Paths of the files that hold the traces' other spans: all live ones of the partition and date.
    pub context: Vec<String>,
}

/// Traces that a tenant's policy still keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kept {
    /// Tenant; `None` for every tenant that has no entry of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// How important they are, ascending.
    pub importance: Vec<Importance>,
}

impl CompactionPlan {
    /// Hash of everything that the result depends on; part of its name.
    #[must_use]
    pub fn key(&self) -> u64 {
        let content = Self { number: 0, created_unix_ms: 0, created_by: String::new(), ..self.clone() };
        xxh3_64(&to_json(&content))
    }

    /// The name of the file to be made.
    #[must_use]
    pub fn output(&self) -> DataFileName {
        let merged = Some(Merged { next: self.next, key: self.key() });
        DataFileName { date: self.date, partition: self.partition, start: self.start, merged }
    }

    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads the plan stored at `path`.
    ///
    /// # Errors
    /// [`LakeError`] when it is damaged, newer than this build or under a wrong name.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let plan: Self = from_json(path, bytes)?;
        check_number(path, plan.number)?;
        if plan.inputs.is_empty() || plan.next <= plan.start || plan.row_group_rows == 0 {
            return Err(malformed(path, "inputs, offsets or row_group_rows are empty"));
        }
        Ok(plan)
    }
}

/// Rows of one range that a compaction left out, for the audit of log against lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// First offset of the range.
    pub start: u64,
    /// How many.
    pub spans: u64,
    /// Sum of their hashes, as in [`crate::audit`].
    pub hash: Hash,
}

impl Dropped {
    /// As a sum to add.
    #[must_use]
    pub const fn sum(&self) -> Sum {
        Sum { spans: self.spans, hash: self.hash }
    }
}

/// What a compaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// [`super::FORMAT_VERSION`].
    pub version: u32,
    /// Its number.
    pub number: u64,
    /// Topic of the records.
    pub topic: String,
    /// Partition of the records.
    pub partition: u32,
    /// First offset of the new file's range.
    pub start: u64,
    /// One past its last offset.
    pub next: u64,
    /// Paths of the files that no longer count.
    pub removes: Vec<String>,
    /// The file that counts in their place; none where every row was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adds: Option<DataFile>,
    /// Paths of the files that could not be read: nothing was done, and they are left alone from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<String>,
    /// Deletions with a lower number were carried out.
    pub deletions: u64,
    /// What retention left; empty when it was not carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// What was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// When, milliseconds since 1970: the removed files stay for a grace period from then on.
    pub created_unix_ms: i64,
    /// Files removed by compactions with a lower number are gone from the store.
    pub swept: u64,
    /// Program and version that wrote it.
    #[serde(default)]
    pub created_by: String,
}

impl Compaction {
    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads the compaction stored at `path`.
    ///
    /// # Errors
    /// [`LakeError`] when it is damaged, newer than this build or under a wrong name.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let compaction: Self = from_json(path, bytes)?;
        check_number(path, compaction.number)?;
        if let Some(file) = &compaction.adds {
            let name = DataFileName::parse(&file.path);
            let is_ours = name.is_some_and(|name| {
                (name.date, name.partition, name.start) == (file.date, compaction.partition, compaction.start)
                    && name.merged.is_some_and(|merged| merged.next == compaction.next)
            });
            if !is_ours {
                return Err(malformed(path, &format!("data file {} is not of this compaction", file.path)));
            }
        }
        Ok(compaction)
    }
}
