//! Builds the UI and the programs, into caches that outlive a checkout.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use infertrace_tests::process::cache_dir;

use crate::setup::{self, run};

/// The repository.
pub(crate) fn root() -> PathBuf {
    // As cargo says now: a build cache may outlive the checkout that filled it.
    let own =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    own.parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or a folder in the user's cache, so that a fresh clone reuses it.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache_dir().join("target"), PathBuf::from)
}

/// Where the UI is built.
pub(crate) fn ui_dist() -> PathBuf {
    cache_dir().join("ui").join("dist")
}

/// A cargo command with the build's environment.
///
/// Without what `cargo xtask` sets about xtask itself: `ring` builds again when `CARGO_PKG_*` differ, and most
/// dependencies with it, so `cargo test` by hand and `cargo xtask test` would undo each other's work.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target_dir()).env("INFERTRACE_UI_DIST", ui_dist());
    cargo
}

/// Builds the web UI and returns its folder.
pub(crate) fn ui() -> anyhow::Result<PathBuf> {
    setup::for_build()?;
    run(Command::new("bash")
        .arg(root().join("ui-leptos/build.sh"))
        .arg(ui_dist())
        .env("CARGO_TARGET_DIR_NATIVE", target_dir())
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR"))?;
    Ok(ui_dist())
}

/// Builds `infertrace` and `infertrace-loadgen` and returns the folder they are in.
///
/// The whole workspace is selected, as the tests do it, so that dependencies are built once.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--locked", "--release", "--bins"]))?;
    Ok(target_dir().join("release"))
}
