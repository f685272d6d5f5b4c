//! One real schema registry: Apicurio with its store in memory, from the archive that `tests/registry/pom.xml` names.

use std::{path::PathBuf, process::Command};

use anyhow::ensure;
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, cache_dir, free_port, wait_until},
};

/// The version that `tests/registry/pom.xml` names.
pub const VERSION: &str = "2.6.13.Final";

/// A running registry.
pub struct Registry {
    process: Process,
    _dir: TempDir,
    port: u16,
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Errors
    /// When the program is missing or does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let program = program();
        ensure!(program.is_file(), "Apicurio is not at {}: run `cargo xtask setup`", program.display());
        let dir = TempDir::with_prefix("infertrace-registry-")?;
        let port = free_port()?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"])
            .arg(&program)
            .env("QUARKUS_HTTP_HOST", "127.0.0.1")
            .env("QUARKUS_HTTP_PORT", port.to_string())
            .current_dir(dir.path());
        let process = Process::start("registry", command, &dir.path().join("registry.log"))?;
        let mut registry = Self { process, _dir: dir, port };
        let subjects = format!("{}/subjects", registry.url());
        // It takes 5 s of processor time, far more than the others.
        wait_until("the schema registry", 3 * START_TIMEOUT, || {
            registry.process.check_alive()?;
            Ok(http::status(&subjects) == Some(200))
        })?;
        Ok(registry)
    }

    /// The URL of its Confluent API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }
}

/// Where `cargo xtask setup` unpacks it.
#[must_use]
pub fn folder() -> PathBuf {
    cache_dir().join("registry").join(VERSION)
}

fn program() -> PathBuf {
    folder().join(format!("apicurio-registry-app-{VERSION}-runner.jar"))
}
