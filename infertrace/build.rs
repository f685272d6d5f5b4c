//! Tells the program which commit it is built from: `INFERTRACE_COMMIT` where a release sets it, else git's answer.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=INFERTRACE_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // Grows with every commit and checkout; absent in a source archive.
    let moves = Path::new("../.git/logs/HEAD");
    if moves.exists() {
        println!("cargo::rerun-if-changed={}", moves.display());
    }
    let git = || {
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if let Some(commit) = env::var("INFERTRACE_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(git)
    {
        println!("cargo::rustc-env=INFERTRACE_COMMIT={commit}");
    }
}
