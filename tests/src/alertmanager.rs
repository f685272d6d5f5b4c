//! One real Alertmanager, built from its Go module.

use std::{fs, path::PathBuf, process::Command};

use anyhow::ensure;
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, cache_dir, free_port, wait_until},
};

/// The pinned version of the Go module.
pub const VERSION: &str = "v0.27.0";

/// Takes alerts, ends those that it does not hear of for two seconds, and tells nobody.
const CONFIG: &str =
    "global: {resolve_timeout: 2s}\nroute: {receiver: nobody}\nreceivers: [{name: nobody}]\n";

/// A running Alertmanager; it forgets its alerts when it ends.
pub struct Alertmanager {
    process: Option<Process>,
    dir: TempDir,
    port: u16,
}

impl Alertmanager {
    /// One that is not running yet, at an address that will be its own.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn stopped() -> anyhow::Result<Self> {
        let program = program();
        ensure!(program.is_file(), "Alertmanager is not at {}: run `cargo xtask setup`", program.display());
        let dir = TempDir::with_prefix("infertrace-alertmanager-")?;
        fs::write(dir.path().join("config.yml"), CONFIG)?;
        Ok(Self { process: None, dir, port: free_port()? })
    }

    /// Starts it, or starts it again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(program());
        command
            .arg(format!("--config.file={}", self.dir.path().join("config.yml").display()))
            .arg(format!("--storage.path={}", self.dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg("--cluster.listen-address=");
        let log = self.dir.path().join("alertmanager.log");
        let mut process = Process::start("alertmanager", command, &log)?;
        let ready = format!("{}/-/ready", self.url());
        wait_until("Alertmanager", START_TIMEOUT, || {
            process.check_alive()?;
            Ok(http::status(&ready) == Some(200))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Its root, which is what a target of delivery names.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Every alert that it holds for active, as its API tells them.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn active(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let alerts = http::get_json(&format!("{}/api/v2/alerts?active=true", self.url()))?;
        Ok(alerts.as_array().cloned().unwrap_or_default())
    }
}

/// Where `cargo xtask setup` installs it.
#[must_use]
pub fn program() -> PathBuf {
    cache_dir().join("alertmanager").join(VERSION).join("alertmanager")
}
