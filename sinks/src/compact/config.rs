//! Settings of compaction and of the lake's retention.

use infertrace_schemas::{
    avro::Importance,
    lake::{EventDate, compaction::Kept},
};
use serde::{Deserialize, Serialize};

use crate::config::within;

const DAY_NS: i64 = 86_400_000_000_000;

/// Settings of compaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often it is looked whether files can be merged; 0 switches compaction, retention and the removal of deleted
    /// spans off.
    pub interval_ms: u64,
    /// Size of merged files. The compactor holds one while it is made; smaller ones are merged, half of it is final.
    pub target_bytes: u64,
    /// Files that are worth a merge when they are far smaller than that.
    pub min_files: usize,
    /// How long files stay that were merged: longer than any query takes.
    pub grace_ms: u64,
    /// After so long another instance repeats a merge that one began and did not end.
    pub takeover_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval_ms: 600_000,
            target_bytes: 128 << 20,
            min_files: 8,
            grace_ms: 900_000,
            takeover_ms: 300_000,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<(), String> {
        within("interval_ms", self.interval_ms, 0, 24 * 3_600_000)?;
        within("target_bytes", self.target_bytes, 1, 4 << 30)?;
        within("min_files", self.min_files as u64, 2, 10_000)?;
        within("grace_ms", self.grace_ms, 0, 30 * 24 * 3_600_000)?;
        within("takeover_ms", self.takeover_ms, 0, 24 * 3_600_000)
    }
}

/// How long traces stay in the lake, by importance: days after the event date; 0 keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Traces with a span that failed.
    pub error_days: u32,
    /// Traces without one that took at least `slow_trace_ms`.
    pub slow_days: u32,
    /// All other traces.
    pub plain_days: u32,
    /// As `processor.slow_trace_ms`.
    pub slow_trace_ms: u64,
    /// Tenants with policies of their own.
    pub tenants: Vec<OfTenant>,
}

/// The policy of one tenant, instead of the general one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfTenant {
    /// Its name; the default tenant is "".
    pub tenant: String,
    /// As the general ones.
    #[serde(default)]
    pub error_days: u32,
    /// As the general ones.
    #[serde(default)]
    pub slow_days: u32,
    /// As the general ones.
    #[serde(default)]
    pub plain_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { error_days: 0, slow_days: 0, plain_days: 0, slow_trace_ms: 10_000, tenants: Vec::new() }
    }
}

impl Retention {
    pub(crate) fn validate(&self) -> Result<(), String> {
        let names: std::collections::BTreeSet<&str> =
            self.tenants.iter().map(|of| of.tenant.as_str()).collect();
        if names.len() < self.tenants.len() {
            return Err("tenants names one tenant twice".to_owned());
        }
        within("slow_trace_ms", self.slow_trace_ms, 1, i64::MAX as u64)
    }

    /// What is kept at `now_ns` of the traces of `date`; empty when that is everything.
    #[must_use]
    pub(crate) fn kept(&self, date: EventDate, now_ns: i64) -> Vec<Kept> {
        // The day must be over, and the policy's days after it too.
        let age_days = now_ns.saturating_sub(date.start_nanos()) / DAY_NS - 1;
        let of = |tenant: Option<&str>, error: u32, slow: u32, plain: u32| {
            let classes = [(Importance::Plain, plain), (Importance::Slow, slow), (Importance::Error, error)];
            let kept = classes.iter().filter(|(_, days)| *days == 0 || age_days < i64::from(*days));
            let importance: Vec<Importance> = kept.map(|(importance, _)| *importance).collect();
            Kept { tenant: tenant.map(str::to_owned), importance }
        };
        let mut kept = vec![of(None, self.error_days, self.slow_days, self.plain_days)];
        let tenants = self.tenants.iter();
        kept.extend(tenants.map(|one| of(Some(&one.tenant), one.error_days, one.slow_days, one.plain_days)));
        kept.sort();
        if kept.iter().all(|one| one.importance.len() == 3) { Vec::new() } else { kept }
    }
}
