//! Processors as members of one group, each a process of its own.

use std::path::PathBuf;

use infertrace_tests::{
    http,
    infertrace::Setup,
    process::{Process, free_port},
};

/// One `infertrace processor`.
pub(super) struct Member {
    name: String,
    setup: Setup,
    ops: u16,
    pub(super) process: Process,
}

impl Member {
    /// Starts it; `name` is its identity in the group.
    pub(super) fn start(setup: &Setup, name: &str) -> anyhow::Result<Self> {
        let mut setup = setup.clone();
        setup.dir = setup.dir.join(name);
        std::fs::create_dir_all(&setup.dir)?;
        for role in ["PROCESSOR", "INSIGHTS", "STITCHING"] {
            setup.variables.push((format!("INFERTRACE_{role}_INSTANCE_ID"), name.to_owned()));
        }
        // The proxy knows members by it.
        let properties = format!(r#"{{ "heartbeat.interval.ms" = "1000", "client.id" = "{name}" }}"#);
        setup.variables.push(("INFERTRACE_KAFKA_PROPERTIES".to_owned(), properties));
        let ops = free_port()?;
        let process = spawn(&setup, ops)?;
        Ok(Self { name: name.to_owned(), setup, ops, process })
    }

    /// Its name in the group, and its `client.id`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// SIGKILL, and a new start under the same name.
    pub(super) fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.restart()
    }

    /// A new start under the same name.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.setup, self.ops)?;
        Ok(())
    }

    pub(super) fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.ops)
    }

    /// Partitions of the spans topic that it owns; none while it does not answer.
    pub(super) fn partitions(&self) -> anyhow::Result<usize> {
        let series = series(&self.metrics_url(), "infertrace_consumer_lag_records")?;
        Ok(series.iter().filter(|(labels, _)| labels.contains(r#"role="processor""#)).count())
    }

    /// The sum of a counter's series.
    pub(super) fn sum(&self, name: &str) -> anyhow::Result<f64> {
        Ok(series(&self.metrics_url(), name)?.iter().map(|(_, value)| value).sum())
    }

    /// Everything it has written, over all its starts.
    pub(super) fn log(&self) -> PathBuf {
        self.setup.dir.join("processor.log")
    }
}

fn spawn(setup: &Setup, ops: u16) -> anyhow::Result<Process> {
    setup.start("processor", &["--ops", &format!("127.0.0.1:{ops}")])
}

/// Labels and value of every series whose name starts so; empty while nobody answers.
pub(super) fn series(url: &str, name: &str) -> anyhow::Result<Vec<(String, f64)>> {
    if http::status(url) != Some(200) {
        return Ok(Vec::new());
    }
    let (_, text) = http::get(url)?;
    let series = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| {
        let (labels, value) = line.rsplit_once(' ')?;
        Some((labels.to_owned(), value.parse().ok()?))
    });
    Ok(series.collect())
}
