//! Deletions: traces and tenants that somebody asked to be forgotten.
//!
//! A deletion is a record of the lake, numbered from 0 without a gap, written by conditional create and never changed.
//! Readers leave out what it names from the moment it is there; compaction takes the bytes away. Invariant: a deletion
//! never ends, since spans of its subject may still arrive late; of a tenant it names only spans that began before it.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, TimeUnit, TimestampNanosecondType},
    error::ArrowError,
};
use serde::{Deserialize, Serialize};

use super::{DataFile, DataFileName, Id16, LakeError, check_number, from_json, live::LiveFile, to_json};
use crate::columns::name;

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Every span of a tenant that began before [`Deletion::before_ns`]; the default tenant is "".
    Tenant(String),
    /// Every span of a trace.
    TraceId(Id16),
}

/// A request to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// [`super::FORMAT_VERSION`].
    pub version: u32,
    /// Its number.
    pub number: u64,
    /// What.
    #[serde(flatten)]
    pub subject: Subject,
    /// Spans of a tenant that start from then on are kept, nanoseconds since 1970.
    pub before_ns: i64,
    /// Paths of the files that held spans of a trace when it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// When it was asked for, milliseconds since 1970.
    pub created_unix_ms: i64,
    /// Program and version that wrote it.
    #[serde(default)]
    pub created_by: String,
}

impl Deletion {
    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads the deletion stored at `path`.
    ///
    /// # Errors
    /// [`LakeError`] when it is damaged, newer than this build or under a wrong name.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let deletion: Self = from_json(path, bytes)?;
        check_number(path, deletion.number)?;
        Ok(deletion)
    }
}

/// A tenant's latest deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OfTenant {
    before_ns: i64,
    number: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfTrace {
    number: u64,
    files: Vec<DataFileName>,
}

/// Every deletion of a lake, as readers apply them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    next: u64,
    tenants: BTreeMap<String, OfTenant>,
    traces: BTreeMap<Id16, OfTrace>,
}

impl Deletions {
    /// Adds the next one; one with another number is passed over.
    pub fn add(&mut self, deletion: &Deletion) {
        let number = deletion.number;
        if number != self.next {
            return;
        }
        self.next += 1;
        match &deletion.subject {
            Subject::Tenant(tenant) => {
                let known = self.tenants.entry(tenant.clone());
                let known = known.or_insert(OfTenant { before_ns: i64::MIN, number });
                *known = OfTenant { before_ns: known.before_ns.max(deletion.before_ns), number };
            }
            Subject::TraceId(id) => {
                let known = self.traces.entry(*id).or_default();
                known.number = number;
                known.files.extend(deletion.files.iter().filter_map(|path| DataFileName::parse(path)));
            }
        }
    }

    /// How many there are: the number of the next one.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.next
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Whether a trace is to be forgotten.
    #[must_use]
    pub fn has_trace(&self, trace_id: &[u8; 16]) -> bool {
        self.traces.contains_key(&Id16(*trace_id))
    }

    /// Tenants to be forgotten, each with the first start that is kept.
    pub fn tenants(&self) -> impl Iterator<Item = (&str, i64)> {
        self.tenants.iter().map(|(tenant, of)| (tenant.as_str(), of.before_ns))
    }

    /// Whether a file in which the deletions below `carried_out` were carried out may hold spans of a tenant to be
    /// forgotten.
    #[must_use]
    pub fn may_touch_tenants(&self, file: &DataFile, carried_out: u64) -> bool {
        self.tenants.iter().any(|(tenant, of)| {
            of.number >= carried_out && file.min_start_ns < of.before_ns && file.may_have_tenant(tenant)
        })
    }

    /// Whether a file is to be written again: it may hold spans of a tenant to be forgotten, or held some of a trace when
    /// that was asked for. Late spans of the trace go when their file is merged.
    #[must_use]
    pub fn is_due(&self, file: &LiveFile) -> bool {
        let covers = |name: &DataFileName| {
            (name.partition, name.date) == (file.partition, file.data.date)
                && (file.start..file.next).contains(&name.start)
        };
        self.may_touch_tenants(&file.data, file.deletions)
            || self.traces.values().any(|of| of.number >= file.deletions && of.files.iter().any(covers))
    }

    /// Which rows stay. `batch` has the trace id, and tenant and start where a tenant is to be forgotten.
    ///
    /// # Errors
    /// When such a column is missing or of another type than ours.
    pub fn kept(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
        };
        let mut kept = vec![true; batch.num_rows()];
        if !self.traces.is_empty() {
            let ids = column(name::TRACE_ID)?.as_fixed_size_binary_opt();
            let ids = ids.ok_or_else(|| ArrowError::SchemaError("trace_id is not 16 bytes wide".into()))?;
            for (row, kept) in kept.iter_mut().enumerate() {
                let id = <[u8; 16]>::try_from(ids.value(row)).unwrap_or_default();
                *kept = !self.traces.contains_key(&Id16(id));
            }
        }
        if !self.tenants.is_empty() {
            let tenants: StringArray =
                cast(column(name::TENANT)?, &DataType::Utf8)?.as_string::<i32>().clone();
            let starts = cast(column(name::START_TIME)?, &DataType::Timestamp(TimeUnit::Nanosecond, None))?;
            let starts = starts.as_primitive::<TimestampNanosecondType>();
            for (row, kept) in kept.iter_mut().enumerate() {
                let tenant = if tenants.is_null(row) { "" } else { tenants.value(row) };
                let goes = self.tenants.get(tenant).is_some_and(|of| starts.value(row) < of.before_ns);
                *kept &= !goes;
            }
        }
        Ok(kept.into())
    }
}
