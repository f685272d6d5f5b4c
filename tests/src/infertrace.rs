//! InferTrace's own processes: `infertrace up`, single roles, and the load generator.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    http,
    process::{Process, START_TIMEOUT, cache_dir, free_port, wait_until},
};

/// How long a clean stop may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Addresses of one platform, chosen before it starts so that a restarted role comes back where it was.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// gRPC port.
    pub grpc: u16,
    /// OTLP/HTTP port.
    pub http: u16,
    /// API port.
    pub api: u16,
}

impl Addresses {
    /// Free ports.
    ///
    /// # Errors
    /// When there are none.
    pub fn pick() -> anyhow::Result<Self> {
        Ok(Self { grpc: free_port()?, http: free_port()?, api: free_port()? })
    }

    /// URL of the gRPC port.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// URL of the OTLP/HTTP port.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// URL of the API.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }
}

/// What every role of one platform is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Ports.
    pub addresses: Addresses,
    /// Folder for logs, and for data where the log is embedded.
    pub dir: PathBuf,
    /// Flags beside the addresses.
    pub flags: Vec<String>,
    /// Environment.
    pub variables: Vec<(String, String)>,
}

impl Setup {
    /// A platform with its data in `dir`.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            addresses: Addresses::pick()?,
            dir: dir.to_owned(),
            flags: Vec::new(),
            variables: Vec::new(),
        })
    }

    /// Starts `infertrace ROLE …` without waiting for it.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start(&self, role: &str, extra: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(program("infertrace")?);
        command
            .arg(role)
            .args(["--data-dir".as_ref(), self.dir.join("data").as_os_str()])
            .args(["--grpc", &format!("127.0.0.1:{}", self.addresses.grpc)])
            .args(["--http", &format!("127.0.0.1:{}", self.addresses.http)])
            .args(["--api", &format!("127.0.0.1:{}", self.addresses.api)])
            .args(&self.flags)
            .args(extra)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::start(role, command, &self.dir.join(format!("{role}.log")))
    }

    /// Starts `infertrace up` without demo traffic and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn up(&self) -> anyhow::Result<Process> {
        let mut up = self.start("up", &["--no-demo"])?;
        self.wait_ready(&mut up, &self.addresses.api_url())?;
        Ok(up)
    }

    /// Waits for `/readyz` of the API or of a gateway.
    ///
    /// # Errors
    /// When the process ends or takes too long.
    pub fn wait_ready(&self, process: &mut Process, url: &str) -> anyhow::Result<()> {
        let ready = format!("{url}/readyz");
        wait_until(&ready, START_TIMEOUT, || {
            process.check_alive()?;
            Ok(http::status(&ready) == Some(200))
        })
        .with_context(|| process.tail())
    }
}

/// Runs the load generator and returns the JSON of its last line.
///
/// # Errors
/// When it fails or prints none.
pub fn loadgen(args: &[&str]) -> anyhow::Result<Value> {
    let (success, value) = try_loadgen(args, &[])?;
    ensure!(success, "infertrace-loadgen {args:?} failed: {value}");
    Ok(value)
}

/// Sends requests of a simulated engine for three seconds and waits until the rollups count them, and traces that were sent
/// `before`. How many model requests the rollups count then.
///
/// # Errors
/// When they are not counted within a minute.
pub fn count_simulated(setup: &Setup, before: u64) -> anyhow::Result<u64> {
    let (api, grpc) = (setup.addresses.api_url(), setup.addresses.grpc_url());
    let target = ["simulate", "--json", "--endpoint", &grpc];
    let simulated = loadgen(&[&target[..], &["--rps", "20", "--duration", "3", "--seed", "1"]].concat())?;
    let traces = before + simulated["traces"].as_u64().context("traces that were sent")?;
    let counted = |metric: &str| -> anyhow::Result<u64> {
        let answer = http::get_json(&format!("{api}/prometheus/api/v1/query?query=sum({metric})"))?;
        let text = answer["data"]["result"][0]["value"][1].as_str();
        Ok(text.map_or(Ok(0), str::parse)?)
    };
    // A trace closes after its requests ended: once all are counted, so are they.
    wait_until("the rollups of all traces", Duration::from_secs(60), || {
        Ok(counted("infertrace_traces_total")? >= traces)
    })?;
    let requests = counted("infertrace_requests_total")?;
    ensure!(requests > 0, "no model requests in {simulated}");
    Ok(requests)
}

/// As [`loadgen`], with variables; tells whether it exited with 0.
///
/// # Errors
/// When it prints no JSON.
pub fn try_loadgen(args: &[&str], variables: &[(String, String)]) -> anyhow::Result<(bool, Value)> {
    let output = Command::new(program("infertrace-loadgen")?)
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .context("running infertrace-loadgen")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let value = serde_json::from_str(last).with_context(|| {
        format!("infertrace-loadgen {args:?} printed no JSON: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok((output.status.success(), value))
}

/// A binary built beside the test that runs; of a benchmark, whose runner lies elsewhere, where `cargo xtask` builds.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let beside = test.ancestors().skip(1).take(3).map(|folder| folder.join(name));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache_dir().join("target"), PathBuf::from);
    let found = beside.chain([target.join("release").join(name)]).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo xtask test`, or first `cargo build --release -p {name}`")
    })
}
