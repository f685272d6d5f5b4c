//! Go programs that tests run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::process::cache_dir;

/// Whether there is a Go; says what is skipped where there is none.
#[must_use]
pub fn is_installed() -> bool {
    let is_installed = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    if !is_installed {
        eprintln!("SKIPPED: there is no `go`; `cargo xtask setup` says what to install");
    }
    is_installed
}

/// Builds the program in `source` as `name` of the cache. Go's own cache makes the second time quick.
///
/// # Errors
/// When Go is missing or the program does not build.
pub fn build(source: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let program = cache_dir().join(name);
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program).arg(".").current_dir(source);
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}
