//! `cargo xtask test`, `faults` and `lint`.

use std::process::Command;

use anyhow::bail;

use crate::{
    build::{self, cargo},
    setup::{self, run as run_command},
};

/// Installs, builds, and runs every test; with arguments, hands them to `cargo test`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let dist = setup::while_installing(|| {
        let dist = build::ui()?;
        build::programs()?;
        Ok(dist)
    })?;
    if !arguments.is_empty() {
        return run_command(cargo().args(["test", "--locked", "--release"]).args(arguments));
    }
    run_command(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(build::root()))?;
    // Not the examples, which are benchmarks and cost minutes to link.
    run_command(cargo().args([
        "test",
        "--locked",
        "--release",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
    ]))?;
    run_command(cargo().args(["test", "--locked", "--release", "--doc"]))?;
    run_command(
        Command::new("node")
            .args(["--test", "--test-reporter=spec", "e2e/"])
            .env("UI_DIST", &dist)
            .current_dir(build::root().join("ui-leptos")),
    )
}

/// The long runs, as tests with a larger scale.
pub(crate) fn faults(arguments: &[String]) -> anyhow::Result<()> {
    let (test, variable, scale) = match arguments {
        [name] if name == "ledger" => ("ledger", "INFERTRACE_TEST_LEDGER_SPANS", "5000000"),
        [name, spans] if name == "ledger" => ("ledger", "INFERTRACE_TEST_LEDGER_SPANS", spans.as_str()),
        [name] if name == "processor" => ("processor_faults", "INFERTRACE_TEST_PROCESSOR_ROUNDS", "20"),
        [name, rounds] if name == "processor" => {
            ("processor_faults", "INFERTRACE_TEST_PROCESSOR_ROUNDS", rounds.as_str())
        }
        _ => bail!("cargo xtask faults ledger [SPANS] | processor [ROUNDS]"),
    };
    setup::while_installing(|| {
        build::ui()?;
        build::programs()
    })?;
    run_command(
        cargo()
            .args(["test", "--locked", "--release", "--test", test, "--", "--nocapture", "--include-ignored"])
            .env(variable, scale),
    )
}

/// Formatting and lints.
pub(crate) fn lint() -> anyhow::Result<()> {
    run_command(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(build::root()))?;
    run_command(cargo().args(["clippy", "--locked", "--release", "--all-targets", "--", "-D", "warnings"]))?;
    if Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|output| output.status.success())
    {
        run_command(Command::new("cargo").args(["deny", "check"]).current_dir(build::root()))?;
    } else {
        eprintln!("lint: cargo-deny is not installed (cargo install cargo-deny); its check was left out");
    }
    Ok(())
}
