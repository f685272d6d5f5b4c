//! `infertrace lake`: merges its files, lists those that count, and has it forget a tenant or a trace.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use infertrace_runtime::{clock::SystemClock, table::Table, telemetry::MetricsRegistry};
use infertrace_schemas::{
    lake::{DataFile, Id16, LakeRoot, deletion::Subject},
    topics,
};
use infertrace_sinks::compact::{Compactor, Pass, Settings, deletion::forget};
use object_store::ObjectStore;
use serde_json::json;

use super::{block_on, exit, now};
use crate::{cli::Flags, config::Config, platform::store_options};

/// What to do with the lake.
#[derive(Debug, Subcommand)]
pub(crate) enum Lake {
    /// Merges small files, takes out what was deleted or outlived its retention, removes what was merged before
    Compact(Compact),
    /// Has every span of a tenant so far, or of a trace, forgotten: readers follow at once, the bytes go at the next compaction
    Delete(Delete),
    /// Prints the files that count, one a line: for readers that want none twice while merged files wait for their removal
    Files(Files),
}

/// Flags of `lake compact`.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    flags: Flags,
    /// Only says what would be merged and taken out
    #[arg(long)]
    dry_run: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `lake delete`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["tenant", "trace"])))]
pub(crate) struct Delete {
    #[command(flatten)]
    flags: Flags,
    /// Every span of this tenant that began before now; "" is the default tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Every span of this trace, late ones too: 32 hex digits
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// Only says which files hold such spans
    #[arg(long)]
    dry_run: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `lake files`.
#[derive(Debug, Args)]
pub(crate) struct Files {
    #[command(flatten)]
    flags: Flags,
    /// Only of this event date, as in 2026-11-23
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
}

pub(crate) fn run(command: &Lake) -> anyhow::Result<ExitCode> {
    let (Lake::Compact(Compact { flags, .. })
    | Lake::Delete(Delete { flags, .. })
    | Lake::Files(Files { flags, .. })) = command;
    let config = crate::load(flags)?;
    let (store, root) = open(&config)?;
    block_on(&config, async {
        match command {
            Lake::Compact(args) => compact(args, &config, store, root).await,
            Lake::Delete(args) => delete(args, &store, &root).await,
            Lake::Files(args) => files(args, &config, store, root).await,
        }
        .with_context(|| format!("the lake {}", config.lake()))
    })
}

fn open(config: &Config) -> anyhow::Result<(Arc<dyn ObjectStore>, LakeRoot)> {
    let lake = config.lake();
    // Opening a folder makes it; a lake that was misspelt is not to come into being.
    anyhow::ensure!(
        lake.contains("://") || std::path::Path::new(&lake).is_dir(),
        "there is no lake in {lake}: give --data-dir DIR or --object-store URL"
    );
    let (store, prefix) = infertrace_sinks::open_store(&lake, store_options())
        .with_context(|| format!("opening the lake {lake}"))?;
    Ok((store, LakeRoot::new(prefix.as_ref())))
}

fn compactor(config: &Config, store: Arc<dyn ObjectStore>, root: LakeRoot) -> anyhow::Result<Compactor> {
    config.sink.validate().map_err(|error| anyhow::anyhow!("sink: {error}"))?;
    let settings = Settings::from(&config.sink);
    let mut registry = MetricsRegistry::default();
    Ok(Compactor::new(store, root, topics::SPANS, settings, Arc::new(SystemClock), &mut registry))
}

async fn compact(
    args: &Compact,
    config: &Config,
    store: Arc<dyn ObjectStore>,
    root: LakeRoot,
) -> anyhow::Result<ExitCode> {
    let mut compactor = compactor(config, store, root)?;
    let pass = if args.dry_run { compactor.dry_run().await? } else { compactor.pass().await? };
    if args.json {
        println!("{}", json!({"dry_run": args.dry_run, "pass": pass}));
    } else {
        print(&pass, args.dry_run);
    }
    Ok(exit(!pass.busy))
}

fn print(pass: &Pass, dry_run: bool) {
    let mut table = Table::new(&[
        "date",
        "partition",
        "files",
        "spans",
        "bytes",
        "new bytes",
        "taken out",
        "why",
        "kept",
    ]);
    for step in &pass.steps {
        table.row([
            step.date.to_string(),
            step.partition.to_string(),
            step.files.to_string(),
            step.rows.to_string(),
            step.bytes.to_string(),
            step.new_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            if dry_run { "-".to_owned() } else { step.dropped.to_string() },
            format!("{:?}", step.reason).to_lowercase(),
            if step.kept.is_empty() { "all".to_owned() } else { step.kept.join("; ") },
        ]);
    }
    print!("{table}");
    let (merges, files) = (pass.steps.len(), pass.steps.iter().map(|step| step.files).sum::<usize>());
    if dry_run {
        println!("would merge {files} files into {merges}, and remove {} merged before", pass.removed);
    } else {
        println!("merged {files} files into {merges}, removed {} merged before", pass.removed);
    }
    if pass.busy {
        println!("another instance is at work: what else is due waits for it");
    }
}

async fn delete(args: &Delete, store: &Arc<dyn ObjectStore>, root: &LakeRoot) -> anyhow::Result<ExitCode> {
    let subject = match (&args.tenant, &args.trace) {
        (_, Some(trace)) => {
            let id: Id16 = trace.parse().map_err(|error| anyhow::anyhow!("--trace {trace}: {error}"))?;
            Subject::TraceId(id)
        }
        (tenant, None) => Subject::Tenant(tenant.clone().unwrap_or_default()),
    };
    let now_ns = now().0.saturating_mul(1_000_000);
    let touched = forget(store, root, &subject, now_ns, args.dry_run).await?;
    if args.json {
        println!("{}", json!({"subject": subject, "deletion": touched.number, "files": touched.files}));
        return Ok(ExitCode::SUCCESS);
    }
    for file in &touched.files {
        println!("{}  {} spans, {} bytes", file.path, file.rows, file.bytes);
    }
    let files = touched.files.len();
    match touched.number {
        None => println!("{files} files hold such spans, as far as their lists and bloom filters tell"),
        Some(number) => println!(
            "deletion {number} is recorded: the API leaves these spans out from its next look at the lake on, and \
             `infertrace lake compact` or the sink writes {files} files again without them"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

async fn files(
    args: &Files,
    config: &Config,
    store: Arc<dyn ObjectStore>,
    root: LakeRoot,
) -> anyhow::Result<ExitCode> {
    let date = args.date.as_deref().map(str::parse::<infertrace_schemas::lake::EventDate>);
    let date = date.transpose().map_err(|error| anyhow::anyhow!("--date: {error}"))?;
    let base = config.lake();
    let wanted = |file: &&DataFile| date.is_none_or(|date| file.date == date);
    for file in compactor(config, store, root)?.files().await?.iter().filter(wanted) {
        println!("{}/{}", base.trim_end_matches('/'), file.path);
    }
    Ok(ExitCode::SUCCESS)
}
