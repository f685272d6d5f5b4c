//! `infertrace replay`: a past range of the spans and samples topics, analysed again beside what was said live.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use infertrace_processors::replay::{self, Costs, Filter, Kind, Request, Summary};
use infertrace_runtime::progress::{Bar, pace, short};
use infertrace_schemas::time;

use super::{block_on, now, open};
use crate::{cli::Flags, config::Config, platform::Backend};

const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

/// Flags of `replay`.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    flags: Flags,
    /// From records of this time on, as in 2026-11-23T10:00:00Z, 2026-11-23 or -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: String,
    /// To records before this time
    #[arg(long, value_name = "TIME", default_value = "now", allow_hyphen_values = true)]
    to: String,
    /// Read so much before the range too, to learn what is normal; nothing is told of it (s, m, h, d)
    #[arg(long, value_name = "TIME", default_value = "0s")]
    warm_up: String,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this model
    #[arg(long)]
    model: Option<String>,
    /// Parameters of detectors, objectives and mutes (TOML) instead of the defaults
    #[arg(long, value_name = "FILE")]
    detectors: Option<PathBuf>,
    /// Another price table (TOML): costs are told at its prices, and compared by model with the configured table's
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Name of the output topics infertrace.replay.ID.…; the time of the start if not given
    #[arg(long)]
    id: Option<String>,
    /// Analyse, count and compare, and write nothing
    #[arg(long, conflicts_with = "state")]
    dry_run: bool,
    /// Spans a second at most
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Threads that decode and count; one a core if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Notes here how far it is; after an interruption the same command goes on from there
    #[arg(long, value_name = "FILE", requires = "id")]
    state: Option<PathBuf>,
    /// Replay what is left of a range whose beginning retention has removed
    #[arg(long)]
    allow_gaps: bool,
    /// The summary as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Replay) -> anyhow::Result<ExitCode> {
    let config = crate::load(&args.flags)?;
    let request = request(args, &config)?;
    block_on(&config, async {
        let stop = crate::stop_on_signal()?;
        let backend = open(&config).await?;
        let outcome = act(args, &request, &backend, &stop).await;
        backend.close().await;
        outcome
    })
}

fn request(args: &Replay, config: &Config) -> anyhow::Result<Request> {
    let now_ms = now().0;
    let at =
        |flag: &'static str, text: &str| time::parse(text, now_ms).map_err(anyhow::Error::msg).context(flag);
    let warm_up = at("--warm-up", &format!("-{}", args.warm_up))?;
    let mut analyst = read_detectors(args.detectors.as_deref())?;
    if args.detectors.is_none() {
        analyst.lateness_ms = config.insights.lateness_ms;
    }
    let id = match &args.id {
        Some(id) => id.clone(),
        None => time::text(now_ms).to_lowercase().replace([':', '.'], "-"),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Request {
        id,
        from_ms: at("--from", &args.from)?,
        to_ms: at("--to", &args.to)?.min(now_ms),
        warm_up_ms: now_ms - warm_up,
        filter: Filter { tenant: args.tenant.clone(), model: args.model.clone() },
        processor: config.processor.clone(),
        prices: args.prices.as_ref().map(|path| path.display().to_string()),
        analyst,
        rate: args.rate,
        dry_run: args.dry_run,
        threads: args.threads.unwrap_or(cores),
        allow_gaps: args.allow_gaps,
        state: args.state.clone(),
        checkpoint: CHECKPOINT_EVERY,
        replication: config.replication,
    })
}

fn read_detectors(path: Option<&Path>) -> anyhow::Result<replay::AnalystConfig> {
    let Some(path) = path else { return Ok(replay::AnalystConfig::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} does not describe detectors", path.display()))
}

async fn act(
    args: &Replay,
    request: &Request,
    backend: &Backend,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<ExitCode> {
    let log = backend.log();
    let plan = replay::plan(log.as_ref(), request).await?;
    for gap in &plan.gaps {
        eprintln!("not replayed: what came before, {gap}");
    }
    let (from, to) = (time::text(request.from_ms), time::text(request.to_ms));
    let aim = if request.dry_run { "would be written to" } else { "go to" };
    eprintln!("replaying {} offsets from {from} to {to}; outputs {aim}:", plan.offsets());
    for kind in Kind::ALL {
        eprintln!("  {}", replay::topic(&request.id, kind));
    }
    let bar = Bar::default();
    let mut before = None;
    let summary = replay::run(Arc::clone(&log), request, &plan, stop, |progress| {
        let before = *before.get_or_insert(progress.spans);
        bar.show(progress.offsets, progress.total, |elapsed| pace(progress.spans - before, "spans", elapsed));
    })
    .await;
    bar.clear();
    let summary = summary?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print(&summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// A line a model, costs in US dollars.
fn print_costs(costs: &Costs) {
    println!("costs     at prices {} before, {} now:", costs.before_version, costs.after_version);
    let all = ("all models", &costs.total);
    let models =
        costs.models.iter().map(|(model, diff)| (if model.is_empty() { "(none)" } else { model }, diff));
    for (model, diff) in models.chain([all]) {
        let usd = |nanos: u64| nanos as f64 * 1e-9;
        let (before, after) = (usd(diff.before_nano_usd), usd(diff.after_nano_usd));
        let percent =
            if before > 0.0 { format!(", {:+.1} %", (after / before - 1.0) * 100.0) } else { String::new() };
        println!(
            "  {model}: {before:.4} -> {after:.4} USD ({:+.4}{percent}); {} of {} requests changed, {} without a price",
            after - before,
            diff.changed,
            diff.requests,
            diff.unknown_after
        );
    }
}

fn print(summary: &Summary) {
    let read = summary.read;
    let rate = short(read.spans as f64 / summary.seconds.max(1e-3));
    println!(
        "read      {} records, {} spans, {} traces, {} readings in {:.1} s ({rate} spans/s)",
        read.records, read.spans, read.traces, read.readings, summary.seconds
    );
    println!(
        "left out  {} retries, {} poison records, {} unreadable spans",
        read.retries, read.poison, read.rejected
    );
    let told = summary.told;
    println!(
        "told      {} rollups, {} baselines, {} states of insights, over {} windows",
        told.rollups, told.baselines, told.insight_states, told.windows
    );
    if let Some(costs) = &summary.costs {
        print_costs(costs);
    }
    let diff = &summary.diff;
    println!(
        "insights  {} as live, {} different, {} only in the replay, {} only live",
        diff.same, diff.different, diff.only_replay, diff.only_live
    );
    let lists = [
        ("only in the replay", &diff.listed_only_replay),
        ("only live", &diff.listed_only_live),
        ("different", &diff.listed_different),
    ];
    for (what, listed) in lists {
        for named in listed {
            let at = time::text(named.window_start_ms);
            let fields = named.differs_in.join(", ");
            let fields = if fields.is_empty() { fields } else { format!(" ({fields})") };
            println!("  {what}: {at} {} {} {}{fields}", named.kind, named.model, named.title);
        }
    }
}
