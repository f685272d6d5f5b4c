//! `infertrace`: parses, loads the configuration, builds the roles, waits, drains.

mod allocator;
mod cli;
mod commands;
mod config;
mod demo;
mod log_metrics;
mod ops;
mod platform;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use infertrace_runtime::telemetry;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Cli, Command, ConfigCommand, Evaluate, Flags},
    config::Config,
    platform::{Platform, Roles},
};

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Topics(command) => return commands::topics::run(&command),
        Command::Dlq(command) => return commands::dlq::run(&command),
        Command::ClickHouse(command) => return commands::clickhouse::run(&command),
        Command::Audit(args) => return commands::audit::run(&args),
        Command::Lake(command) => return commands::lake::run(&command),
        Command::Detect(args) => return commands::detect::run(&args),
        Command::Evaluate(Evaluate::Nab(args)) => return commands::evaluate_nab::run(&args),
        Command::Evaluate(Evaluate::Scenarios(args)) => return commands::evaluate_scenarios::run(&args),
        Command::Replay(args) => return commands::replay::run(&args),
        Command::Up { flags, no_demo } => serve(&flags, Roles::all(), !no_demo)?,
        Command::Gateway(flags) => serve(&flags, Roles { gateway: true, ..Roles::default() }, false)?,
        Command::Processor(flags) => serve(&flags, Roles { processor: true, ..Roles::default() }, false)?,
        Command::Sink(flags) => serve(&flags, Roles { sink: true, ..Roles::default() }, false)?,
        Command::Api(flags) => serve(&flags, Roles { api: true, ..Roles::default() }, false)?,
        Command::Config(ConfigCommand::Print { defaults: true, .. }) => {
            print!("{}", config::DEFAULTS);
        }
        Command::Config(ConfigCommand::Print { flags, .. }) => {
            print!("{}", load(&flags)?.shown()?);
        }
        Command::Config(ConfigCommand::Check(flags)) => {
            load(&flags)?;
            println!("the configuration is good");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(flags: &Flags) -> anyhow::Result<Config> {
    Ok(Config::load(flags.config.as_deref(), flags.keys())?)
}

fn serve(flags: &Flags, roles: Roles, demo: bool) -> anyhow::Result<()> {
    let config = load(flags)?;
    if !roles.is_all() && !config.uses_kafka() {
        anyhow::bail!(
            "a single role shares its log with the others, so it needs Kafka: give --kafka HOST:PORT, or run `infertrace up`"
        );
    }
    telemetry::init_logs(config.log_format, &config.log_filter).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("infertrace")
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let demo = demo && !config.uses_kafka();
        let stop = stop_on_signal()?;
        let platform = Platform::build(config, roles).await?;
        platform.announce();
        let demo = demo.then(|| demo::start(platform.grpc_endpoint())).transpose()?;
        let outcome = platform.run(stop, demo).await;
        tracing::info!("stopped");
        outcome
    })
}

/// Ctrl-C and SIGTERM ask for a drain; a second one ends at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked.is_cancelled() {
                std::process::exit(130);
            }
            eprintln!("draining; once more to stop at once");
            asked.cancel();
        }
    });
    Ok(stop)
}
