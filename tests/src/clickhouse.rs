//! One real ClickHouse: a server where there is one on PATH, else its engine (chDB) behind a small HTTP front.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, cache_dir, free_port, wait_until},
};

/// The pinned version of the Python package `chdb`.
pub const VERSION: &str = "4.4.0";

const FRONT: &str = include_str!("../clickhouse/front.py");

/// A running ClickHouse; its data ends with it.
pub struct ClickHouse {
    process: Option<Process>,
    dir: TempDir,
    port: u16,
}

impl ClickHouse {
    /// Whether there is one to start.
    #[must_use]
    pub fn is_installed() -> bool {
        server().is_some() || folder().join("installed").is_file()
    }

    /// Starts an empty one; `None`, said on standard error, where neither is installed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start() -> anyhow::Result<Option<Self>> {
        if !Self::is_installed() {
            eprintln!(
                "SKIPPED: no `clickhouse` on PATH and no chDB in {}: run `cargo xtask setup`",
                folder().display()
            );
            return Ok(None);
        }
        let dir = TempDir::with_prefix("infertrace-clickhouse-")?;
        let mut started = Self { process: None, dir, port: free_port()? };
        started.restart()?;
        Ok(Some(started))
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL; its data stays for [`ClickHouse::restart`].
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on its data, at the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process = None;
        let data = self.dir.path().join("data");
        std::fs::create_dir_all(&data)?;
        let mut command;
        if let Some(server) = server() {
            command = Command::new(server);
            command
                .args(["server", "--", "--listen_host=127.0.0.1", "--mysql_port=", "--postgresql_port="])
                .arg(format!("--http_port={}", self.port))
                .arg(format!("--tcp_port={}", free_port()?))
                .arg(format!("--path={}", data.display()))
                .current_dir(&data);
        } else {
            let front = self.dir.path().join("front.py");
            std::fs::write(&front, FRONT)?;
            command = Command::new(folder().join("bin/python"));
            command.arg(&front).arg(self.port.to_string()).arg(&data);
        }
        let mut process = Process::start("clickhouse", command, &self.dir.path().join("clickhouse.log"))?;
        let ping = format!("{}/ping", self.url());
        wait_until("ClickHouse", START_TIMEOUT, || {
            process.check_alive()?;
            Ok(http::status(&ping) == Some(200))
        })?;
        self.process = Some(process);
        Ok(())
    }
}

/// Where `cargo xtask setup` installs chDB.
#[must_use]
pub fn folder() -> PathBuf {
    cache_dir().join("clickhouse").join(VERSION)
}

fn server() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("clickhouse")).find(|program| program.is_file())
}
