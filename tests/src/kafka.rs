//! One real Kafka broker (KRaft) from the jars of `tests/kafka/pom.xml`.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::process::{Process, START_TIMEOUT, cache_dir, free_port, scratch_dir, wait_until};

/// The version that `tests/kafka/pom.xml` names.
pub const VERSION: &str = "4.3.0";

/// A running broker.
pub struct Kafka {
    process: Process,
    dir: TempDir,
    port: u16,
}

impl Kafka {
    /// Formats a fresh log and starts a broker on it.
    ///
    /// # Errors
    /// When the jars are missing or the broker does not come up.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with("")
    }

    /// The same with lines of `server.properties` that override those of [`Kafka::start`].
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_with(overrides: &str) -> anyhow::Result<Self> {
        let dir = scratch_dir("infertrace-kafka-")?;
        let (port, controller) = (free_port()?, free_port()?);
        let properties = dir.path().join("server.properties");
        // Of two lines of one key, Java takes the last.
        fs::write(&properties, server_properties(dir.path(), port, controller) + overrides)?;
        let formatted = java("128m")?
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "infertracetests0000000"])
            .arg("-c")
            .arg(&properties)
            .output()
            .context("running Kafka's storage tool")?;
        ensure!(
            formatted.status.success(),
            "formatting Kafka's log failed: {}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        let process = spawn(dir.path())?;
        let mut kafka = Self { process, dir, port };
        kafka.wait()?;
        Ok(kafka)
    }

    /// `HOST:PORT` for clients.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The broker's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGKILL, then a new start on the same log and port.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process = spawn(self.dir.path())?;
        self.wait()
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let address = self.bootstrap();
        wait_until("Kafka", START_TIMEOUT, || {
            self.process.check_alive()?;
            Ok(TcpStream::connect(&address).is_ok())
        })
    }
}

fn spawn(dir: &Path) -> anyhow::Result<Process> {
    let mut command = java("768m")?;
    command.arg("kafka.Kafka").arg(dir.join("server.properties")).current_dir(dir);
    Process::start("kafka", command, &dir.join("kafka.log"))
}

/// Java with Kafka's jars.
fn java(heap: &str) -> anyhow::Result<Command> {
    let lib = jars();
    ensure!(
        fs::read_dir(&lib).is_ok_and(|mut jars| jars.next().is_some()),
        "Kafka's jars are not in {}: run `cargo xtask setup`",
        lib.display()
    );
    let mut command = Command::new("java");
    command.arg(format!("-Xmx{heap}")).arg("-cp").arg(lib.join("*"));
    Ok(command)
}

/// Where the jars are.
#[must_use]
pub fn jars() -> PathBuf {
    cache_dir().join("kafka").join(VERSION).join("lib")
}

fn server_properties(dir: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=500
",
        dir.join("data").display()
    )
}
