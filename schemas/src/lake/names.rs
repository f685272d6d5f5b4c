//! Ids, dates and paths of the lake, as text and back.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

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
    /// Hash of what it was made of; see [`super::compaction::CompactionPlan::key`].
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
