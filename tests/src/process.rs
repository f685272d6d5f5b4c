//! Child processes that end with their guard, free ports, and waiting with a deadline.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Longest that anything may take to start on a busy machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A child process; killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {name} ({command:?})"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and reaped.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its exit status: at once if it has ended, else after SIGTERM within `patience`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(libc::SIGTERM)?;
        let mut status = None;
        wait_until(&format!("{} to end", self.name), patience, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })
        .with_context(|| self.tail())?;
        status.context("ended without a status")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())?;
        // SAFETY: the id is that of a child not yet reaped.
        if unsafe { libc::kill(id, signal) } != 0 {
            bail!("cannot signal {}: {}", self.name, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Fails when it has ended already, with the end of its log.
    ///
    /// # Errors
    /// When it is over.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("--- {} ({})\n{}", self.name, self.log.display(), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it must be reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Polls `ready` until it is true.
///
/// # Errors
/// The last error, or that it took longer than `patience`.
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        if ready().with_context(|| format!("waiting for {what}"))? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The folder of the crate whose test runs, as cargo says now: a build cache may outlive the checkout that filled it.
#[must_use]
pub fn crate_dir() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// A folder that is removed when the test is over, unless `INFERTRACE_TEST_KEEP` is set.
///
/// # Errors
/// When it cannot be made.
pub fn scratch_dir(prefix: &str) -> std::io::Result<tempfile::TempDir> {
    let mut dir = tempfile::TempDir::with_prefix(prefix)?;
    if std::env::var_os("INFERTRACE_TEST_KEEP").is_some() {
        eprintln!("kept: {}", dir.path().display());
        dir.disable_cleanup(true);
    }
    Ok(dir)
}

/// The folder in which `cargo xtask setup` keeps what it installs.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    base.join("infertrace")
}
