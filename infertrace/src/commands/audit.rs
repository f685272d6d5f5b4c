//! `infertrace audit`: is every span of the log in the lake, once and unchanged?

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use infertrace_runtime::{
    log::{Log, Millis, TopicPartition},
    progress::Bar,
    table::Table,
};
use infertrace_schemas::{audit::Sum, lake::LakeRoot, time, topics};
use infertrace_sinks::audit::{Options, PartitionReport, audit};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{block_on, exit, now, open};
use crate::{
    cli::Flags,
    config::Config,
    platform::{Backend, store_options},
};

/// Flags of `audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    flags: Flags,
    /// From records of this time on, as in 2026-11-23T10:00:00Z or -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Goes on where the audit before this one ended, and notes where this one ends
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    state: Option<PathBuf>,
    /// Every range, not only those that differ
    #[arg(long)]
    ranges: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// Up to where the log and a lake were found to agree.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    lake: String,
    topic: String,
    next: BTreeMap<u32, u64>,
}

pub(crate) fn run(args: &Audit) -> anyhow::Result<ExitCode> {
    let config = crate::load(&args.flags)?;
    block_on(&config, async {
        let backend = open(&config).await?;
        let outcome = act(args, &config, &backend).await;
        backend.close().await;
        outcome
    })
}

async fn act(args: &Audit, config: &Config, backend: &Backend) -> anyhow::Result<ExitCode> {
    let log = backend.log();
    let lake = config.lake();
    let (store, prefix) = infertrace_sinks::open_store(&lake, store_options())
        .with_context(|| format!("opening the lake {lake}"))?;
    let mut state = read_state(args.state.as_deref(), &lake)?;
    if let Some(from) = &args.from {
        let from = time::parse(from, now().0).map_err(anyhow::Error::msg).context("--from")?;
        state.next = positions_at(log.as_ref(), Millis(from)).await?;
    }
    let options = Options {
        topic: topics::SPANS.to_owned(),
        from: state.next.clone(),
        dedup_batches: usize::try_from(config.sink.dedup_batches).unwrap_or(usize::MAX),
    };
    let root = LakeRoot::new(prefix.as_ref());
    let bar = Bar::default();
    let outcome = audit(log.as_ref(), &store, &root, &options, |progress| {
        bar.show(progress.done, progress.total, |_| {
            format!("comparing partition {} of {}", progress.partition + 1, progress.partitions)
        });
    })
    .await;
    bar.clear();
    let reports = outcome.with_context(|| format!("comparing {} with {lake}", topics::SPANS))?;
    state.next = reports.iter().map(|report| (report.partition, report.next)).collect();
    write_state(args.state.as_deref(), &state)?;
    let is_clean = reports.iter().all(PartitionReport::is_clean);
    if args.json {
        println!(
            "{}",
            json!({"clean": is_clean, "lake": lake, "topic": topics::SPANS, "partitions": reports})
        );
    } else {
        print(&reports, args.ranges);
        println!("{}", if is_clean { "the log and the lake agree" } else { "the log and the lake DIFFER" });
    }
    Ok(exit(is_clean))
}

async fn positions_at(log: &dyn Log, from: Millis) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut positions = BTreeMap::new();
    for partition in 0..log.partitions(topics::SPANS).await? {
        let at = TopicPartition::new(topics::SPANS, partition);
        positions.insert(partition, log.position_at(&at, from).await?.0);
    }
    Ok(positions)
}

fn read_state(path: Option<&Path>, lake: &str) -> anyhow::Result<State> {
    let fresh = State { lake: lake.to_owned(), topic: topics::SPANS.to_owned(), next: BTreeMap::new() };
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(fresh) };
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let state: State = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no audit's state; remove it to begin anew", path.display()))?;
    anyhow::ensure!(
        state.lake == fresh.lake && state.topic == fresh.topic,
        "{} is of {} and the lake {}; give another file",
        path.display(),
        state.topic,
        state.lake
    );
    Ok(state)
}

/// Whole or not at all.
fn write_state(path: Option<&Path>, state: &State) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let temporary = path.with_extension("partial");
    std::fs::write(&temporary, serde_json::to_vec_pretty(state)?)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("writing {}", path.display()))
}

fn print(reports: &[PartitionReport], all_ranges: bool) {
    let mut table = Table::new(&[
        "partition",
        "offsets",
        "spans in log",
        "spans in lake",
        "forgotten",
        "hash",
        "retries",
        "poison",
        "is",
    ]);
    for report in reports {
        let (mut log, mut lake, mut forgotten) = (Sum::default(), Sum::default(), 0);
        let (mut retries, mut poison, mut gone) = (0, 0, 0);
        for range in &report.ranges {
            match range.log {
                Some(sum) => {
                    log += sum;
                    lake += range.lake;
                    forgotten += range.forgotten.spans;
                }
                None => gone += 1,
            }
            retries += range.retries;
            poison += range.poison;
            if all_ranges || !range.is_clean() {
                table.row([
                    range.partition.to_string(),
                    format!("{}..{}", range.start, range.next),
                    range.log.map_or_else(|| "gone".to_owned(), |sum| sum.spans.to_string()),
                    range.lake.spans.to_string(),
                    range.forgotten.spans.to_string(),
                    range.lake.hash.to_string(),
                    range.retries.to_string(),
                    range.poison.to_string(),
                    if range.is_clean() { "same" } else { "DIFFERENT" }.to_owned(),
                ]);
            }
        }
        let from = report.ranges.first().map_or(report.next, |range| range.start);
        let to = report.ranges.last().map_or(report.next, |range| range.next);
        let mut is = vec![if report.is_clean() { "same" } else { "DIFFERENT" }.to_owned()];
        if gone > 0 {
            is.push(format!("{gone} ranges are no longer in the log"));
        }
        if report.behind > 0 {
            is.push(format!("the lake is {} offsets behind", report.behind));
        }
        table.row([
            format!("{} all", report.partition),
            format!("{from}..{to}"),
            log.spans.to_string(),
            lake.spans.to_string(),
            forgotten.to_string(),
            lake.hash.to_string(),
            retries.to_string(),
            poison.to_string(),
            is.join(", "),
        ]);
    }
    print!("{table}");
    for report in reports {
        for fault in &report.faults {
            println!("partition {}: {fault}", report.partition);
        }
        for range in &report.ranges {
            for fault in &range.faults {
                println!("partition {} {}..{}: {fault}", range.partition, range.start, range.next);
            }
        }
    }
}
