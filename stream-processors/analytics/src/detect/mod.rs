//! Detectors: one file each, with formula, source and parameters.
//!
//! A detector looks at the last windows of one model beside its baseline and returns what it finds; it decides
//! nothing about opening and closing, which is [`crate::lifecycle`]'s. A finding that only *holds* is too weak to open
//! something and strong enough to keep it open: that is the hysteresis in value; the one in time is in [`Kind`].

mod cache;
mod cost;
mod drift;
mod errors;
mod gpu_idle;
mod latency;
mod look;
mod memory;
mod silence;
mod small_batches;
mod stats;
mod straggler;
mod throttling;
mod traffic;
mod version;

use serde::{Deserialize, Serialize};

pub use self::{
    cache::CacheParams, cost::CostParams, drift::DriftParams, errors::ErrorParams, gpu_idle::GpuIdleParams,
    latency::LatencyParams, memory::MemoryParams, silence::SilenceParams, small_batches::SmallBatchParams,
    straggler::StragglerParams, throttling::ThrottlingParams, traffic::TrafficParams, version::VersionParams,
};
pub(crate) use self::{
    drift::Drifts,
    look::{DevicePast, Look, Memory, Past, REMEMBERED, VersionPast},
    silence::Services,
    stats::{binomial_tail_ln, median, step_towards},
    straggler::{pace, slowness},
    version::contrast as version_contrast,
};
use crate::output::Evidence;

/// Version of all detectors together: part of every insight.
pub(crate) const VERSION: &str = "1";

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $opens:literal, $resolves:literal;)+) => {
        /// What a detector finds: its name in records, windows in a row until it opens, windows without until it is over.
        /// The order is that of preference: of several that open together, the first gives the insight its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind { $($(#[$doc])* $variant),+ }

        impl Kind {
            /// The name in records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Windows in a row in which it has to be found before anything opens.
            pub(crate) const fn opens_after(self) -> u32 {
                match self { $(Self::$variant => $opens),+ }
            }

            /// Windows in a row in which it has to be gone before it is over.
            pub(crate) const fn resolves_after(self) -> u32 {
                match self { $(Self::$variant => $resolves),+ }
            }
        }
    };
}

kinds! {
    /// A model stopped reporting.
    Silence = "silence", 1, 2;
    /// A version is worse than the other.
    Version = "version_regression", 2, 6;
    /// More requests fail.
    Errors = "errors", 1, 6;
    /// Hot or power-limited GPUs run slower.
    Throttling = "throttling", 2, 4;
    /// One device is slower than its peers.
    Straggler = "straggler", 3, 6;
    /// The prefix cache hits less.
    Cache = "cache", 3, 6;
    /// Batches stay small though requests wait.
    SmallBatches = "small_batches", 3, 6;
    /// GPUs idle though there is work.
    GpuIdle = "gpu_idle", 3, 6;
    /// No room for the KV cache.
    Memory = "memory", 3, 6;
    /// Much more or less traffic.
    Traffic = "traffic", 6, 6;
    /// The slowest requests take several times as long.
    Latency = "latency", 5, 6;
    /// The first token comes later.
    Ttft = "ttft", 6, 6;
    /// Tokens come slower.
    Tpot = "tpot", 6, 6;
    /// Requests wait longer.
    Queue = "queue", 6, 6;
    /// Tokens cost more.
    Cost = "cost", 18, 12;
    /// An objective's error budget burns.
    Slo = "slo_burn", 1, 6;
}

impl Kind {
    /// The cause that a kind names by itself; none for symptoms.
    pub(crate) const fn own_cause(self) -> Option<&'static str> {
        Some(match self {
            Self::Silence => "silence",
            Self::Version => "version",
            Self::Throttling | Self::GpuIdle => "gpu",
            Self::Straggler => "host",
            Self::Cache => "cache",
            Self::SmallBatches => "batch",
            Self::Memory => "memory",
            Self::Traffic => "traffic",
            Self::Errors => "errors",
            Self::Latency | Self::Ttft | Self::Tpot | Self::Queue | Self::Cost | Self::Slo => return None,
        })
    }
}

/// Which part of a model a finding is about; empty for all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Subject {
    pub(crate) version: String,
    pub(crate) service: String,
    pub(crate) device: String,
}

/// What a detector found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
    /// Too weak to open something.
    pub(crate) holds_only: bool,
    pub(crate) evidence: Vec<Evidence>,
}

impl Finding {
    fn new(kind: Kind, holds_only: bool, evidence: Vec<Evidence>) -> Self {
        Self { kind, subject: Subject::default(), holds_only, evidence }
    }
}

/// Parameters of all detectors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorParams {
    /// Of the 99th percentile of latency.
    pub latency: LatencyParams,
    /// Of time to first token, time per token and queue wait.
    pub drift: DriftParams,
    /// Of idle GPUs.
    pub gpu_idle: GpuIdleParams,
    /// Of small batches.
    pub small_batches: SmallBatchParams,
    /// Of cache hits.
    pub cache: CacheParams,
    /// Of failures.
    pub errors: ErrorParams,
    /// Of slow devices.
    pub straggler: StragglerParams,
    /// Of throttled devices.
    pub throttling: ThrottlingParams,
    /// Of memory pressure.
    pub memory: MemoryParams,
    /// Of versions.
    pub version: VersionParams,
    /// Of cost.
    pub cost: CostParams,
    /// Of traffic.
    pub traffic: TrafficParams,
    /// Of silence.
    pub silence: SilenceParams,
}

/// Asks every detector.
pub(crate) fn findings(look: &Look<'_>, params: &DetectorParams, drifts: &mut Drifts) -> Vec<Finding> {
    let mut found = Vec::new();
    silence::look(look, &params.silence, &mut found);
    drifts.look(look, &params.drift, &mut found);
    if look.recent.requests > 0 && !look.baselines.is_cold() {
        latency::look(look, &params.latency, &mut found);
        gpu_idle::look(look, &params.gpu_idle, &mut found);
        small_batches::look(look, &params.small_batches, &mut found);
        cache::look(look, &params.cache, &mut found);
        errors::look(look, &params.errors, &mut found);
        straggler::look(look, &params.straggler, &mut found);
        throttling::look(look, &params.throttling, &mut found);
        memory::look(look, &params.memory, &mut found);
        version::look(look, &params.version, &mut found);
        cost::look(look, &params.cost, &mut found);
        traffic::look(look, &params.traffic, &mut found);
    }
    found
}

/// A number with its unit, beside what it should be.
pub(crate) fn evidence(
    metric: &str,
    unit: &str,
    observed: f64,
    baseline: Option<f64>,
    samples: u64,
) -> Evidence {
    Evidence { metric: metric.to_owned(), unit: unit.to_owned(), observed, baseline, samples }
}

#[cfg(test)]
mod tests;
