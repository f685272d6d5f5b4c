//! `infertrace-loadgen`: parses, dispatches, and prints the result.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use infertrace_loadgen::{blast, simulate, verify};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load generator for InferTrace: realistic inference traffic, raw throughput, and a judge of what arrived.
#[derive(Debug, Parser)]
#[command(name = "infertrace-loadgen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A simulated serving engine: realistic traces, GPU and engine samples, faults with ground truth
    Simulate(Box<simulate::Args>),
    /// As many spans as possible: pre-encoded, every span with ids of its own
    Blast(Box<blast::Args>),
    /// Compares a ledger with the log, the lake or the API; exit code 1 unless everything is there once
    Verify(Box<verify::Args>),
    /// A server that drops everything, to measure the generator alone
    #[command(hide = true)]
    BlastSink(blast::sink::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    match command {
        Command::Simulate(args) => {
            stop_on_signal(&stop)?;
            let json = args.json;
            let report = simulate::run(*args, stop)?;
            eprintln!("{}", report.to_text());
            if json {
                println!("{}", serde_json::to_string(&report)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Blast(args) => {
            stop_on_signal(&stop)?;
            let json = args.json;
            let report = blast::run(*args, stop)?;
            eprintln!("{}", report.to_text());
            if json {
                println!("{}", serde_json::to_string(&report)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(args) => {
            let json = args.json;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let verdict = runtime.block_on(verify::run(*args))?;
            if json {
                println!("{}", serde_json::to_string(&verdict)?);
            } else {
                println!("{}", serde_json::to_string_pretty(&verdict)?);
            }
            Ok(if verdict.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::BlastSink(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind(args.listen).await?;
                eprintln!("dropping spans on {}", listener.local_addr()?);
                tokio::select! {
                    () = blast::sink::serve(listener, args) => {}
                    signal = tokio::signal::ctrl_c() => signal?,
                }
                eprintln!("{:.2} CPU-seconds used", infertrace_loadgen::usage::own_cpu_seconds());
                anyhow::Ok(ExitCode::SUCCESS)
            })
        }
    }
}

/// Ctrl-C and SIGTERM ask for a clean end; a second one ends at once.
fn stop_on_signal(stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let stop = Arc::clone(stop);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut interrupt), Ok(mut terminate)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                for round in 0.. {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if round > 0 {
                        std::process::exit(130);
                    }
                    eprintln!("ending; what is under way is still sent (once more to quit at once)");
                    stop.store(true, Ordering::SeqCst);
                }
            });
        })
        .context("starting the signal thread")?;
    Ok(())
}
