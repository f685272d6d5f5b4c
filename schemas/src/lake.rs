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

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Version of plans and manifests written here; a higher one is refused.
pub const FORMAT_VERSION: u32 = 1;
/// Distinct names a data file's entry lists at most; past it the list is left out and nothing can be pruned by it.
pub const MAX_LISTED_NAMES: usize = 64;

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

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

/// A 16-byte trace or batch id, in JSON as 32 hex digits. Ordered as its bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id16(pub [u8; 16]);

impl fmt::Display for Id16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Id16 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| "expected 32 hex digits")?;
        Ok(Self(id))
    }
}

/// A UTC calendar day, as days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventDate(pub i32);

impl EventDate {
    /// The day in which `unix_nanos` falls.
    #[must_use]
    pub const fn of_nanos(unix_nanos: i64) -> Self {
        // At most 106,752 days either side of the epoch.
        Self(unix_nanos.div_euclid(NANOS_PER_DAY) as i32)
    }

    /// First nanosecond of the day, clamped to what 64 bits hold.
    #[must_use]
    pub const fn start_nanos(self) -> i64 {
        (self.0 as i64).saturating_mul(NANOS_PER_DAY)
    }
}

impl fmt::Display for EventDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to civil date, Howard Hinnant's algorithm, on eras of 400 years that begin on 1 March.
        let days = i64::from(self.0) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl FromStr for EventDate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected YYYY-MM-DD";
        let mut parts = text.splitn(3, '-');
        let mut next = |digits: usize| -> Result<i64, &'static str> {
            let part = parts.next().ok_or(WRONG)?;
            if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(WRONG);
            }
            part.parse().map_err(|_| WRONG)
        };
        let (year, month, day) = (next(4)?, next(2)?, next(2)?);
        let year = year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let date = Self((era * 146_097 + day_of_era - 719_468) as i32);
        // Writing it back catches the 13th month and the 31st of April.
        if date.to_string() == text { Ok(date) } else { Err(WRONG) }
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
serde_as_text!(Id16);
serde_as_text!(EventDate);

/// What a data file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataFileName {
    /// Event date of every span in the file.
    pub date: EventDate,
    /// Partition of the spans topic.
    pub partition: u32,
    /// First offset of the range.
    pub start: u64,
    /// What else names a file that was made of others.
    pub merged: Option<Merged>,
}

/// What tells a merged file from others that start where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Merged {
    /// One past the last offset.
    pub next: u64,
    /// Hash of what it was made of; see [`compaction::CompactionPlan::key`].
    pub key: u64,
}

impl DataFileName {
    /// The path below the lake's root.
    #[must_use]
    pub fn path(&self) -> String {
        let Self { date, partition, start, merged } = self;
        match merged {
            None => format!("spans/date={date}/p{partition:05}-o{start:020}.parquet"),
            Some(Merged { next, key }) => {
                format!("spans/date={date}/p{partition:05}-o{start:020}-e{next:020}-{key:016x}.parquet")
            }
        }
    }

    /// Reads a path that ends as [`Self::path`] writes it, whatever stands before `spans/`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.rsplit('/');
        let file = parts.next()?;
        let date = parts.next()?.strip_prefix("date=")?.parse().ok()?;
        if parts.next()? != "spans" {
            return None;
        }
        let (partition, range) = file.strip_prefix('p')?.strip_suffix(".parquet")?.split_once("-o")?;
        let (start, merged) = match range.split_once("-e") {
            None => (range, None),
            Some((start, rest)) => {
                let (next, key) = rest.split_once('-')?;
                let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if key.len() != 16 || !key.bytes().all(is_hex) {
                    return None;
                }
                let key = u64::from_str_radix(key, 16).ok()?;
                (start, Some(Merged { next: digits(next, 20)?, key }))
            }
        };
        Some(Self { date, partition: digits(partition, 5)?, start: digits(start, 20)?, merged })
    }
}

fn digits<T: FromStr>(text: &str, at_least: usize) -> Option<T> {
    if text.len() < at_least || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Where a lake's files are, as `/`-separated paths in its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LakeRoot {
    prefix: String,
}

impl LakeRoot {
    /// A lake below `prefix`, which may be empty.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_matches('/').to_owned() }
    }

    /// `path`, which is relative to the lake, as a path in the store.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// The folder that outside readers glob: data files only.
    #[must_use]
    pub fn spans(&self) -> String {
        self.join("spans")
    }

    /// The folder of one event date.
    #[must_use]
    pub fn spans_of(&self, date: EventDate) -> String {
        self.join(&format!("spans/date={date}"))
    }

    /// A data file.
    #[must_use]
    pub fn data_file(&self, name: &DataFileName) -> String {
        self.join(&name.path())
    }

    /// The folder of all manifests, one folder a partition below it.
    #[must_use]
    pub fn all_manifests(&self) -> String {
        self.join("_manifests/spans")
    }

    /// The folder of a partition's manifests; their names ascend with their offsets.
    #[must_use]
    pub fn manifests(&self, partition: u32) -> String {
        self.join(&format!("_manifests/spans/p{partition:05}"))
    }

    /// The manifest of the range that starts at `start`.
    #[must_use]
    pub fn manifest(&self, partition: u32, start: u64) -> String {
        self.join(&format!("_manifests/spans/p{partition:05}/{start:020}.json"))
    }

    /// The folder of compactions; their names ascend with their numbers.
    #[must_use]
    pub fn compactions(&self) -> String {
        self.join("_compactions/spans")
    }

    /// Compaction number `number`.
    #[must_use]
    pub fn compaction(&self, number: u64) -> String {
        self.join(&format!("_compactions/spans/{number:020}.json"))
    }

    /// The plan of compaction number `number`.
    #[must_use]
    pub fn compaction_plan(&self, number: u64) -> String {
        self.join(&format!("_plans/compactions/{number:020}.json"))
    }

    /// The folder of deletions; their names ascend with their numbers.
    #[must_use]
    pub fn deletions(&self) -> String {
        self.join("_deletions/spans")
    }

    /// Deletion number `number`.
    #[must_use]
    pub fn deletion(&self, number: u64) -> String {
        self.join(&format!("_deletions/spans/{number:020}.json"))
    }

    /// The plan of the range that starts at `start`.
    #[must_use]
    pub fn plan(&self, partition: u32, start: u64) -> String {
        self.join(&format!("_plans/spans/p{partition:05}/{start:020}.json"))
    }
}

/// Partition and start offset in the path of a plan or manifest.
#[must_use]
pub fn parse_range_path(path: &str) -> Option<(u32, u64)> {
    let mut parts = path.rsplit('/');
    let start = parts.next()?.strip_suffix(".json")?;
    let partition = parts.next()?.strip_prefix('p')?;
    Some((digits(partition, 5)?, digits(start, 20)?))
}

/// The number in the path of a compaction or deletion.
#[must_use]
pub fn parse_numbered_path(path: &str) -> Option<u64> {
    digits(path.rsplit('/').next()?.strip_suffix(".json")?, 20)
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
