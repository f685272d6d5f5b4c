//! Replay: a past range of the spans and samples topics, analysed again, beside what was said live.
//!
//! `stages` is both stages of the analytics as plain calls, `samples` the first of samples; `plan` finds the range in the log; `run` reads it in no
//! group, on several threads, and hands outputs to `output`, which writes topics of its own; `state` is what an
//! interrupted replay goes on from; `diff` compares insights with the live ones, `prices` costs at two tables. Invariants: nothing live is touched:
//! no group is joined, no position committed, no live topic written, nobody paged; the same range with the same
//! settings gives the same insights, byte for byte.
//!
//! Records are read again with their own times, so windows, baselines and identities of insights are those that a live
//! run gives. What differs from it: no source is ever idle, and the analysis begins at the range's start without
//! history, unless it is warmed up on what came before. Links between traces of one request are not made again: no count
//! and no insight comes from them.

pub mod diff;
mod output;
mod plan;
mod prices;
mod run;
mod samples;
pub mod stages;
mod state;

use std::{path::PathBuf, time::Duration};

pub use infertrace_analytics::config::AnalystConfig;
use infertrace_analytics::rollup::Millis;
use infertrace_runtime::log::LogError;
use serde::Serialize;

use crate::{config::Config, rows::BadColumn};

pub use output::{Kind, Tally, topic};
pub use plan::{Gap, Plan, plan};
pub use prices::Costs;
pub use run::run;
pub use stages::{Counts, Filter, Read};

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Names the output topics: lower-case letters, digits and `-`.
    pub id: String,
    /// From records of this time on.
    pub from_ms: Millis,
    /// To records before this time.
    pub to_ms: Millis,
    /// So much before is read too, to learn what is normal; nothing is told of it.
    pub warm_up_ms: Millis,
    /// What is analysed.
    pub filter: Filter,
    /// Assembly and rollups.
    pub processor: Config,
    /// Another price table, as in [`Config::prices`]: costs are told at its prices and compared by model with those of
    /// the configured one.
    pub prices: Option<String>,
    /// Detectors.
    pub analyst: AnalystConfig,
    /// Spans a second at most.
    pub rate: Option<u64>,
    /// Analyse and count, write nothing.
    pub dry_run: bool,
    /// Threads of the first stage.
    pub threads: usize,
    /// Go on although retention has removed the beginning of the range.
    pub allow_gaps: bool,
    /// Where to note how far it is; none for a replay that cannot be resumed.
    pub state: Option<PathBuf>,
    /// How often that is done.
    pub checkpoint: Duration,
    /// Copies of the output topics.
    pub replication: u16,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Request(String),
    /// Retention has removed the beginning of the range.
    #[error("{}", gaps(.0))]
    Gone(Vec<Gap>),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Decoded spans without the span schema.
    #[error(transparent)]
    Columns(#[from] BadColumn),
    /// An output does not fit its schema.
    #[error("an output does not fit its schema: {0}")]
    Avro(#[from] infertrace_schemas::avro::AvroError),
    /// The file of an interrupted replay.
    #[error("{path}: {detail}")]
    State {
        /// File.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Asked to stop.
    #[error("interrupted; the same command goes on from where it was if --state was given")]
    Interrupted,
    /// A thread ended by itself.
    #[error("a thread of the replay ended by itself: {0}")]
    Panicked(String),
}

fn gaps(gaps: &[Gap]) -> String {
    let listed: Vec<String> = gaps.iter().take(8).map(ToString::to_string).collect();
    let more = if gaps.len() > 8 { format!(" and {} more", gaps.len() - 8) } else { String::new() };
    format!(
        "the beginning of the range is no longer in the log: {}{more}; \
         begin later, or give --allow-gaps to replay what is left",
        listed.join("; ")
    )
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Offsets read.
    pub offsets: u64,
    /// Offsets in the range.
    pub total: u64,
    /// Spans counted.
    pub spans: u64,
    /// Record time that all partitions have reached.
    pub at_ms: Millis,
}

/// What a replay did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// From.
    pub from_ms: Millis,
    /// To.
    pub to_ms: Millis,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What was read.
    pub read: Counts,
    /// What was told.
    pub told: Tally,
    /// Topics that were written, or would be.
    pub topics: Vec<String>,
    /// Beside what was told live.
    pub diff: diff::Diff,
    /// What the requests cost at both price tables, if another one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    /// Seconds it took, since it began or was resumed.
    pub seconds: f64,
}
