//! `verify`: is every acknowledged span there, once, unchanged?
//!
//! The ledger says what must be there; [`log`], [`lake`] and [`api`] read what is there; [`tally`] judges.
//! Invariant: the judge's memory is bits, two for every acknowledged span, whatever the number of spans.

mod api;
mod lake;
mod log;
pub mod tally;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use infertrace_runtime::progress::Bar;

use crate::ledger;

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// The spans topic, in Kafka (--kafka) or in the embedded log (--data-dir)
    Log,
    /// The Parquet files of the lake (--object-store, or --data-dir)
    Parquet,
    /// The query API (--api)
    Api,
}

/// Checks that every acknowledged span is there, once and unchanged; exit code 1 if not.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The ledger that `blast --ledger` wrote
    #[arg(long)]
    pub ledger: PathBuf,
    /// Where to look
    #[arg(long, value_enum)]
    pub against: Against,
    /// Kafka brokers, HOST:PORT,…
    #[arg(long)]
    pub kafka: Option<String>,
    /// Data directory of `infertrace up`, which must not be running for --against log
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Root of the lake: a folder, file:// or s3://bucket/prefix
    #[arg(long)]
    pub object_store: Option<String>,
    /// Address of the query API
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub api: String,
    /// Spans topic
    #[arg(long, default_value = infertrace_schemas::topics::SPANS)]
    pub topic: String,
    /// With --against api: ask for so many traces, evenly spread; all if not given
    #[arg(long)]
    pub sample: Option<usize>,
    /// With --against api: requests at once
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// Look again for up to so many seconds until everything is there: the lake and the API follow the log
    #[arg(long, default_value_t = 0.0)]
    pub wait: f64,
    /// Header of API requests, as in `authorization: Bearer …`
    #[arg(long)]
    pub header: Vec<String>,
    /// End stdout with the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Nothing lost, duplicated or changed, and nothing wrong with the store itself.
    pub clean: bool,
    /// Spans that must be there.
    pub acked: u64,
    /// Of them, found at least once.
    pub found: u64,
    /// Of them, not found.
    pub lost: u64,
    /// Of them, found more than once.
    pub duplicated: u64,
    /// Of them, found with other contents.
    pub changed: u64,
    /// Spans of the run that were never acknowledged (their answers were lost): allowed.
    pub unacknowledged: u64,
    /// Of those, found more than once: not allowed either.
    pub unacknowledged_duplicated: u64,
    /// Spans of other runs and programs: ignored.
    pub foreign: u64,
    /// Records (log), files (parquet) or traces (api) read.
    pub read: u64,
    /// Log: records dropped because a record with the same batch id stood before them in their partition.
    pub collapsed_retries: u64,
    /// What is wrong with the store itself: poison records, files and manifests that disagree, traces that failed.
    pub faults: Vec<String>,
    /// Up to ten examples of lost, duplicated or changed spans.
    pub examples: Vec<String>,
}

/// Reads the ledger and the store and compares them, again and again while `--wait` allows and spans are missing.
///
/// # Errors
/// If one of them cannot be read; a lost span is a verdict, not an error.
pub async fn run(args: Args) -> anyhow::Result<Verdict> {
    let (header, entries) = ledger::read(&args.ledger)?;
    let until = Instant::now() + Duration::from_secs_f64(args.wait.max(0.0));
    loop {
        let verdict = look(&args, &header, &entries).await?;
        if verdict.clean || Instant::now() >= until {
            return Ok(verdict);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reads everything once.
async fn look(args: &Args, header: &ledger::Header, entries: &[ledger::Entry]) -> anyhow::Result<Verdict> {
    let mut tally = tally::Tally::new(header, entries)?;
    let bar = Bar::default();
    match args.against {
        Against::Log => {
            let opened = log::open(args).await?;
            log::read(opened.as_ref(), &args.topic, &mut tally, &bar).await?;
        }
        Against::Parquet => {
            let root = match (&args.object_store, &args.data_dir) {
                (Some(url), _) => url.clone(),
                (None, Some(folder)) => lake::folder_of(folder).to_string_lossy().into_owned(),
                (None, None) => bail!("--against parquet needs --object-store URL or --data-dir DIR"),
            };
            lake::read(&root, &mut tally, &bar)
                .await
                .with_context(|| format!("reading the lake at {root}"))?;
        }
        Against::Api => api::read(args, header, entries, &mut tally, &bar).await?,
    }
    bar.clear();
    Ok(tally.verdict())
}
