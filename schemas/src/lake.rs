//! The Parquet lake: where its files are, and the plans and manifests that say which of them count.
//!
//! The sink writes these, the query API reads them. A partition of the spans topic is cut into ranges of
//! offsets `[start, next)` that follow one another without a gap. A range has one plan (written first, by
//! conditional create), at most one data file an event date, and one manifest (written last, by conditional
//! create). [`compaction`] says which data files were merged into which since, [`deletion`] what is to be forgotten,
//! and [`live`] puts manifests and compactions together: the files that count. Everything here is pure; no I/O.
//!
//! Invariants: a path is a function of what the file was made of; a file that neither a manifest nor a compaction
//! names is not visible to a query; the live files of a partition and date have ranges of offsets that do not
//! overlap; unknown JSON fields are ignored, a newer format version is refused.

pub mod compaction;
pub mod deletion;
pub mod live;
mod names;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de};

pub use names::{DataFileName, EventDate, Id16, LakeRoot, Merged, parse_numbered_path, parse_range_path};

/// Version of plans and manifests written here; a higher one is refused.
pub const FORMAT_VERSION: u32 = 1;
/// Distinct names a data file's entry lists at most; past it the list is left out and nothing can be pruned by it.
pub const MAX_LISTED_NAMES: usize = 64;

/// What is wrong with a file of the lake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LakeError {
    /// Not the JSON it should be: torn, edited or foreign.
    #[error("{path} is damaged: {detail}; restore it or move it away, the sink does not guess offsets")]
    Malformed {
        /// The file.
        path: String,
        /// What the parser said.
        detail: String,
    },
    /// Written by a later release.
    #[error(
        "{path} has lake format {found}, this build reads up to {FORMAT_VERSION}; use a newer InferTrace"
    )]
    NewerFormat {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// Its content does not belong under its name.
    #[error("{path} does not match its name: {detail}")]
    Misnamed {
        /// The file.
        path: String,
        /// What differs.
        detail: String,
    },
}

/// The range that will be written, stored before any of it: whoever comes later repeats exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// Topic of the records.
    pub topic: String,
    /// Partition of the records.
    pub partition: u32,
    /// First offset.
    pub start: u64,
    /// One past the last offset.
    pub end: u64,
    /// The latest so many batch ids of the manifests before this range, and of the range itself, count as
    /// seen: a record with one of them is a retry.
    pub dedup_batches: u64,
    /// Rows of a row group; part of the plan, so that a repeat writes the same bytes.
    pub row_group_rows: u32,
    /// Level of zstd; part of the plan for the same reason.
    pub zstd_level: i32,
}

/// Ranges of a partition in the lake are described by manifests; see the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// Topic of the records.
    pub topic: String,
    /// Partition of the records.
    pub partition: u32,
    /// First offset of the range.
    pub start: u64,
    /// One past the last offset: where the next range starts.
    pub next: u64,
    /// Records in the range, retries and poison included.
    pub records: u64,
    /// Rows in all its files.
    pub rows: u64,
    /// Records dropped because their batch had been seen.
    #[serde(default)]
    pub duplicate_records: u64,
    /// Spans that could not be decoded inside good records.
    #[serde(default)]
    pub rejected_spans: u64,
    /// Records that went to the dead-letter topic.
    #[serde(default)]
    pub poison: Vec<Poison>,
    /// Offsets that retention had removed before they were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRange>,
    /// Its data files, at most one a date, ascending by date.
    pub files: Vec<DataFile>,
    /// Ids of the batches that were new in this range, in the order of their records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batch_ids: Vec<Id16>,
    /// Program and version that wrote it.
    #[serde(default)]
    pub created_by: String,
}

/// A record that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poison {
    /// Its offset.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

/// Offsets that were gone before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// First.
    pub from: u64,
    /// One past the last.
    pub to: u64,
}

/// One data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path below the lake's root; see [`DataFileName`].
    pub path: String,
    /// Event date of all its spans.
    pub date: EventDate,
    /// Rows.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// Bytes at its end that hold bloom filters, page index and footer; 0 if unknown.
    #[serde(default)]
    pub footer_bytes: u64,
    /// Earliest span start, nanoseconds since 1970.
    pub min_start_ns: i64,
    /// Latest span start.
    pub max_start_ns: i64,
    /// Lowest trace id.
    pub min_trace_id: Id16,
    /// Highest trace id.
    pub max_trace_id: Id16,
    /// Service names in the file, sorted; absent when there are more than [`MAX_LISTED_NAMES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
    /// Model names in the file, sorted; absent when there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Tenants in the file, sorted (the default tenant is ""); absent when there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
}

impl DataFile {
    /// Whether spans of this trace may be here, by range of ids alone.
    #[must_use]
    pub fn may_have_trace(&self, trace_id: &[u8; 16]) -> bool {
        (self.min_trace_id.0..=self.max_trace_id.0).contains(trace_id)
    }

    /// Whether a span may start within `[from_ns, to_ns)`.
    #[must_use]
    pub const fn may_start_within(&self, from_ns: i64, to_ns: i64) -> bool {
        self.min_start_ns < to_ns && self.max_start_ns >= from_ns
    }

    /// Whether a span of this service may be here.
    #[must_use]
    pub fn may_have_service(&self, service: &str) -> bool {
        may_have(self.services.as_deref(), service)
    }

    /// Whether a span of this model may be here.
    #[must_use]
    pub fn may_have_model(&self, model: &str) -> bool {
        may_have(self.models.as_deref(), model)
    }

    /// Whether a span of this tenant may be here.
    #[must_use]
    pub fn may_have_tenant(&self, tenant: &str) -> bool {
        may_have(self.tenants.as_deref(), tenant)
    }
}

fn may_have(listed: Option<&[String]>, name: &str) -> bool {
    listed.is_none_or(|names| names.iter().any(|listed| listed == name))
}

/// A file's distinct names as its entry lists them: sorted, or `None` when there are too many.
#[must_use]
pub fn listed_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut distinct = BTreeSet::new();
    for name in names {
        if !distinct.contains(name) {
            if distinct.len() == MAX_LISTED_NAMES {
                return None;
            }
            distinct.insert(name);
        }
    }
    Some(distinct.into_iter().map(str::to_owned).collect())
}

impl Plan {
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
        check_range(path, plan.partition, plan.start, plan.end)?;
        if plan.dedup_batches == 0 || plan.row_group_rows == 0 {
            return Err(malformed(path, "dedup_batches and row_group_rows must be at least 1"));
        }
        Ok(plan)
    }
}

impl Manifest {
    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads the manifest stored at `path`.
    ///
    /// # Errors
    /// [`LakeError`] when it is damaged, newer than this build or under a wrong name.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let manifest: Self = from_json(path, bytes)?;
        check_range(path, manifest.partition, manifest.start, manifest.next)?;
        for file in &manifest.files {
            let (date, partition, start) = (file.date, manifest.partition, manifest.start);
            let expected = DataFileName { date, partition, start, merged: None };
            if DataFileName::parse(&file.path) != Some(expected) {
                return Err(malformed(path, &format!("data file {} is not of this range", file.path)));
            }
        }
        Ok(manifest)
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("files of the lake have string keys only")
}

fn from_json<T: de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, LakeError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(bytes).map_err(|error| malformed(path, &error.to_string()))?;
    if version > FORMAT_VERSION {
        return Err(LakeError::NewerFormat { path: path.to_owned(), found: version });
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(path, &error.to_string()))
}

fn malformed(path: &str, detail: &str) -> LakeError {
    LakeError::Malformed { path: path.to_owned(), detail: detail.to_owned() }
}

fn check_number(path: &str, number: u64) -> Result<(), LakeError> {
    if parse_numbered_path(path) == Some(number) {
        return Ok(());
    }
    Err(LakeError::Misnamed { path: path.to_owned(), detail: format!("it holds number {number}") })
}

fn check_range(path: &str, partition: u32, start: u64, end: u64) -> Result<(), LakeError> {
    if end <= start {
        return Err(malformed(path, &format!("empty range of offsets {start}..{end}")));
    }
    if parse_range_path(path) != Some((partition, start)) {
        let detail = format!("it holds partition {partition}, start {start}");
        return Err(LakeError::Misnamed { path: path.to_owned(), detail });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
