//! `cargo xtask test`, `faults` and `lint`.

use std::{
    fs::File,
    io::{self, Seek as _},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

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
    run_command(test().args(["--no-run", "--lib", "--bins", "--tests"]))?;
    let Programs { with_servers, others } = Programs::list()?;
    // Half of the time of tests with real servers is waiting, for sessions to time out and servers to start.
    let beside = Beside::start(test().args(with_servers))?;
    let here = [
        run_command(test().args(["--lib", "--bins"]).args(others)),
        run_command(test().arg("--doc")),
        run_command(
            Command::new("node")
                .args(["--test", "--test-reporter=spec", "e2e/"])
                .env("UI_DIST", &dist)
                .current_dir(build::root().join("ui-leptos")),
        ),
    ];
    let beside = beside.finish();
    here.into_iter().chain([beside]).collect()
}

fn test() -> Command {
    let mut cargo = cargo();
    cargo.args(["test", "--locked", "--release", "--no-fail-fast"]);
    cargo
}

/// The programs of tests, as flags of `cargo test`.
struct Programs {
    with_servers: Vec<String>,
    others: Vec<String>,
}

impl Programs {
    /// Asks cargo. Tests that need servers are a package of their own.
    fn list() -> anyhow::Result<Self> {
        let printed = cargo()
            .args(["metadata", "--locked", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("running cargo metadata")?;
        let metadata: Value =
            serde_json::from_slice(&printed.stdout).context("what cargo metadata printed")?;
        let (mut with_servers, mut others) = (Vec::new(), Vec::new());
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let list = if package["name"] == "infertrace-tests" { &mut with_servers } else { &mut others };
            let targets = package["targets"].as_array().into_iter().flatten();
            for target in targets.filter(|target| target["kind"][0] == "test") {
                let name = target["name"].as_str().context("a test without a name")?;
                list.extend(["--test".to_owned(), name.to_owned()]);
            }
        }
        Ok(Self { with_servers, others })
    }
}

/// A command that runs while others print; what it prints comes when it has ended.
struct Beside {
    child: Child,
    command: String,
    printed: File,
}

impl Beside {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let printed = tempfile::tempfile()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed.try_clone()?)
            .spawn()
            .with_context(|| format!("running {command:?}"))?;
        Ok(Self { child, command: format!("{command:?}"), printed })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            eprintln!("tests with servers are still running");
        }
        let status = self.child.wait()?;
        self.printed.rewind()?;
        io::copy(&mut self.printed, &mut io::stdout())?;
        if !status.success() {
            bail!("{} ended with {status}", self.command);
        }
        Ok(())
    }
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
