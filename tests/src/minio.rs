//! One real S3 server: MinIO, built from its Go module.

use std::{fs, path::PathBuf, process::Command};

use anyhow::ensure;
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, cache_dir, free_port, wait_until},
};

/// The pinned version of the Go module.
pub const VERSION: &str = "v0.0.0-20260212201848-7aac2a2c5b7c";
const USER: &str = "infertrace";
const PASSWORD: &str = "infertrace-tests";

/// A running MinIO.
pub struct Minio {
    process: Process,
    dir: TempDir,
    port: u16,
}

impl Minio {
    /// Starts MinIO with one empty bucket.
    ///
    /// # Errors
    /// When the program is missing or does not come up.
    pub fn start(bucket: &str) -> anyhow::Result<Self> {
        let program = program();
        ensure!(program.is_file(), "MinIO is not at {}: run `cargo xtask setup`", program.display());
        let dir = TempDir::with_prefix("infertrace-minio-")?;
        // On MinIO's file system backend a folder is a bucket.
        fs::create_dir_all(dir.path().join("data").join(bucket))?;
        let (port, console) = (free_port()?, free_port()?);
        let mut command = Command::new(program);
        command
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            .args(["--console-address", &format!("127.0.0.1:{console}")])
            .arg(dir.path().join("data"))
            .env("MINIO_ROOT_USER", USER)
            .env("MINIO_ROOT_PASSWORD", PASSWORD);
        let process = Process::start("minio", command, &dir.path().join("minio.log"))?;
        let mut minio = Self { process, dir, port };
        let health = format!("{}/minio/health/ready", minio.endpoint());
        wait_until("MinIO", START_TIMEOUT, || {
            minio.process.check_alive()?;
            Ok(http::status(&health) == Some(200))
        })?;
        Ok(minio)
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that S3 clients read.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// Where `cargo xtask setup` installs it.
#[must_use]
pub fn program() -> PathBuf {
    cache_dir().join("minio").join(VERSION).join("minio")
}
