//! MCP's own client asks the tools of `infertrace up`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use infertrace_tests::{
    infertrace::{STOP_TIMEOUT, Setup, count_simulated},
    process::{cache_dir, crate_dir},
};

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A virtual environment with the pinned client, made once.
fn python() -> anyhow::Result<PathBuf> {
    let requirements = crate_dir().join("mcp/requirements.txt");
    let folder = cache_dir().join("mcp-python");
    let done = folder.join("requirements.txt");
    let python = folder.join("bin/python");
    let wanted = std::fs::read_to_string(&requirements)?;
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(&requirements))?;
    std::fs::write(&done, wanted)?;
    Ok(python)
}

/// Scenario: requests of a simulated engine; then MCP's own client from its registry, as it is, negotiates, lists the
/// tools and calls each, also with arguments that are wrong. Guarantee: the answers agree with each other and with what was
/// sent; what is wrong is told as a result that says what to do.
#[test]
fn a_client_of_mcp_finds_out_why() -> anyhow::Result<()> {
    let python = python()?;
    let dir = tempfile::tempdir()?;
    let setup = Setup::new(dir.path())?;
    let mut up = setup.up()?;
    let api = setup.addresses.api_url();
    let requests = count_simulated(&setup, 0)?.to_string();
    let asked = Command::new(&python).arg(crate_dir().join("mcp/ask.py")).args([&api, &requests]).output()?;
    ensure!(asked.status.success(), "{}\n{}", String::from_utf8_lossy(&asked.stderr), up.tail());
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "infertrace up did not end well\n{}", up.tail());
    Ok(())
}
