//! `infertrace clickhouse migrate`: the warm tier's tables as this release makes them.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use infertrace_sinks::clickhouse::{connect, plan_of};

use super::block_on;
use crate::cli::Flags;

/// What to do with ClickHouse.
#[derive(Debug, Subcommand)]
pub(crate) enum ClickHouse {
    /// Applies what migrations are missing and sets the retention; the second time it changes nothing
    Migrate(Migrate),
}

/// Flags of `clickhouse migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    flags: Flags,
    /// Prints the statements of a new database instead, for somebody else to run; asks no server
    #[arg(long)]
    print: bool,
}

pub(crate) fn run(command: &ClickHouse) -> anyhow::Result<ExitCode> {
    let ClickHouse::Migrate(args) = command;
    let config = crate::load(&args.flags)?;
    let settings = &config.sink.clickhouse;
    if args.print {
        for statement in plan_of(settings).script() {
            println!("{statement};\n");
        }
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(
        settings.is_used(),
        "there is no ClickHouse: give --clickhouse URL, or sink.clickhouse.url"
    );
    let (client, plan) = connect(settings).map_err(anyhow::Error::msg).context("sink.clickhouse")?;
    let report = block_on(&config, async { Ok(plan.apply(&client, None).await?) })
        .with_context(|| format!("migrating {} at {}", plan.database, client.server()))?;
    for name in &report.applied {
        println!("applied {name}");
    }
    for table in &report.retained {
        println!("retention of {table} set");
    }
    println!("{} is at version {}", plan.database, report.version);
    Ok(ExitCode::SUCCESS)
}
