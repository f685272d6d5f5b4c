//! `infertrace dlq`: the records that no role could read, and the way back for those that can be read now.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use infertrace_runtime::{
    log::{Log, Millis, dead_letter::Letter, dead_letters},
    table::Table,
};
use infertrace_schemas::{access, time, topics};
use serde_json::json;

use super::{block_on, exit, now, open};
use crate::cli::Flags;

/// What to do with the dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Lists the latest dead letters
    List(List),
    /// Shows one whole: its headers, and its bytes as hex and text
    Show(Show),
    /// Sends records back to the partition they came from
    Redrive(Redrive),
}

/// Flags of `dlq list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    flags: Flags,
    /// Letters at most, the latest
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only from this topic
    #[arg(long, value_name = "TOPIC")]
    origin: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Flags of `dlq show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    flags: Flags,
    /// The letter, as `list` names it: OFFSET or PARTITION/OFFSET
    letter: dead_letters::Name,
    /// Bytes shown at most
    #[arg(long, default_value_t = 4_096)]
    bytes: usize,
}

/// Flags of `dlq redrive`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["offset", "all", "origin"])))]
pub(crate) struct Redrive {
    #[command(flatten)]
    flags: Flags,
    /// This letter, as `list` names it: OFFSET or PARTITION/OFFSET; may be given again
    #[arg(long, value_name = "LETTER")]
    offset: Vec<dead_letters::Name>,
    /// Every letter that was not sent back yet
    #[arg(long)]
    all: bool,
    /// Every letter from this topic that was not sent back yet
    #[arg(long, value_name = "TOPIC")]
    origin: Option<String>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(command: &Dlq) -> anyhow::Result<ExitCode> {
    let (Dlq::List(List { flags, .. }) | Dlq::Show(Show { flags, .. }) | Dlq::Redrive(Redrive { flags, .. })) =
        command;
    let config = crate::load(flags)?;
    block_on(&config, async {
        let backend = open(&config).await?;
        let log = backend.log();
        let outcome = match command {
            Dlq::List(args) => list(log.as_ref(), args).await,
            Dlq::Show(args) => show(log.as_ref(), args).await,
            Dlq::Redrive(args) => redrive(log.as_ref(), args).await,
        };
        drop(log);
        backend.close().await;
        outcome
    })
}

async fn list(log: &dyn Log, args: &List) -> anyhow::Result<ExitCode> {
    let shelf = dead_letters::list(log, topics::DLQ, args.origin.as_deref(), args.limit).await?;
    if args.json {
        for (letter, size) in &shelf.letters {
            let back = shelf.redriven_at(letter).map(|at| at.0);
            let line = json!({
                "letter": short(letter),
                "origin": {
                    "topic": &*letter.origin.0.topic,
                    "partition": letter.origin.0.partition,
                    "offset": letter.origin.1.0,
                    "timestamp_ms": letter.origin_timestamp.map(|at| at.0),
                },
                "role": letter.role,
                "error": letter.error,
                "codec": letter.codec,
                "timestamp_ms": letter.timestamp.0,
                "bytes": size,
                "truncated": letter.truncated,
                "redriven_from": letter.redriven_from,
                "redriven_at_ms": back,
            });
            println!("{line}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["letter", "time", "role", "origin", "bytes", "sent back", "error"]);
    for (letter, size) in &shelf.letters {
        table.row([
            short(letter),
            time::text(letter.timestamp.0),
            letter.role.clone(),
            format!("{}/{}", letter.origin.0, letter.origin.1.0),
            size.to_string(),
            shelf.redriven_at(letter).map_or_else(String::new, |at| time::text(at.0)),
            letter.error.clone(),
        ]);
    }
    print!("{table}");
    println!("{} of {} letters, {} sent back", shelf.letters.len(), shelf.total, shelf.redriven());
    if shelf.foreign > 0 {
        println!("{} records in the topic are not dead letters", shelf.foreign);
    }
    Ok(ExitCode::SUCCESS)
}

fn short(letter: &Letter) -> String {
    format!("{}/{}", letter.place.0.partition, letter.place.1.0)
}

async fn show(log: &dyn Log, args: &Show) -> anyhow::Result<ExitCode> {
    let letter = dead_letters::find(log, topics::DLQ, args.letter).await?;
    let letter = letter.with_context(|| {
        format!("{} holds no dead letter at {}; `infertrace dlq list` names them", topics::DLQ, args.letter)
    })?;
    print!("{}", dead_letters::dump(&letter, args.bytes));
    Ok(ExitCode::SUCCESS)
}

async fn redrive(log: &dyn Log, args: &Redrive) -> anyhow::Result<ExitCode> {
    let which = match &args.origin {
        _ if !args.offset.is_empty() => dead_letters::Which::Named(args.offset.clone()),
        Some(topic) => dead_letters::Which::From(topic.clone()),
        None => dead_letters::Which::All,
    };
    let stamp: Millis = now();
    let counts =
        dead_letters::redrive(log, topics::DLQ, &which, access::REDRIVE_ID, stamp, args.dry_run).await?;
    for (name, reason) in &counts.refused {
        eprintln!("{name}: {reason}");
    }
    println!(
        "{} records {}, {} letters of records already among them, {} were sent back before, {} not found, {} refused",
        counts.redriven,
        if args.dry_run { "would go back" } else { "sent back" },
        counts.same_record,
        counts.before,
        counts.missing,
        counts.refused.len(),
    );
    Ok(exit(counts.missing == 0 && counts.refused.is_empty()))
}
