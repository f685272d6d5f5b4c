//! Installs what building and testing need, each thing once, and says what.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use infertrace_tests::{alertmanager, clickhouse, kafka, minio, process::cache_dir, registry};

/// A program that must be there, and Debian's package for it.
struct Need {
    /// How to see that it is there: a program on PATH, or a file.
    probe: &'static str,
    package: &'static str,
}

const fn need(probe: &'static str, package: &'static str) -> Need {
    Need { probe, package }
}

const BUILD: &[Need] = &[
    need("cc", "build-essential"),
    need("g++", "build-essential"),
    need("make", "build-essential"),
    need("pkg-config", "pkg-config"),
    need("/usr/include/openssl/ssl.h", "libssl-dev"),
    need("/usr/include/zlib.h", "zlib1g-dev"),
    need("node", "nodejs"),
    need("npm", "npm"),
];

/// Debian's Rust for WebAssembly, where rustup's target is not installed.
const WASM: &[Need] = &[
    need("/usr/bin/cargo", "cargo-web"),
    need("/usr/lib/rustlib/src/rust/library", "rust-web-src"),
    need("/usr/bin/rustc", "rustc-web"),
    need("/usr/bin/rust-lld", "rust-web-llvm"),
    need("/usr/bin/wasm-ld-22", "lld-22"),
];

const TESTS: &[Need] = &[
    need("java", "default-jre-headless"),
    // Runs the Java example from its source file.
    need("javac", "default-jdk-headless"),
    need("mvn", "maven"),
    need("python3", "python3"),
    need("/usr/share/doc/python3-venv", "python3-venv"),
    need("chromium", "chromium"),
    // Builds MinIO, Alertmanager and the Go examples: 1.24 or newer.
    need("go", "golang-go"),
];

/// What `cargo xtask up` needs.
pub(crate) fn for_build() -> anyhow::Result<()> {
    install(BUILD)?;
    if !rustup_builds_wasm() {
        install(WASM)?;
    }
    Ok(())
}

/// What the tests need on top: Kafka, a schema registry, MinIO, Alertmanager, ClickHouse's engine, Chromium, language
/// SDKs.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    while_installing(|| Ok(()))
}

/// Installs what the tests need, and does `work` while servers are fetched, which is mostly waiting.
pub(crate) fn while_installing<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for_build()?;
    install(TESTS)?;
    thread::scope(|scope| {
        let servers = scope.spawn(install_servers);
        let done = work();
        servers.join().map_err(|_| anyhow!("installing the servers panicked"))??;
        done
    })
}

fn install_servers() -> anyhow::Result<()> {
    install_kafka()?;
    install_registry()?;
    install_minio()?;
    install_alertmanager()?;
    install_clickhouse()
}

fn rustup_builds_wasm() -> bool {
    let printed = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"])
        .output();
    printed.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn is_there(probe: &str) -> bool {
    if probe.starts_with('/') {
        return Path::new(probe).exists();
    }
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(probe).is_file()))
}

fn install(needs: &[Need]) -> anyhow::Result<()> {
    let mut packages: Vec<&str> =
        needs.iter().filter(|need| !is_there(need.probe)).map(|need| need.package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !is_there("apt-get") {
        bail!("please install, as root: {line}");
    }
    eprintln!("setup: {line}");
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn install_kafka() -> anyhow::Result<()> {
    let jars = kafka::jars();
    if fs::read_dir(&jars).is_ok_and(|mut jars| jars.next().is_some()) {
        return Ok(());
    }
    eprintln!("setup: Kafka {} from Maven Central into {}", kafka::VERSION, jars.display());
    let partial = jars.with_extension("partial");
    fs::create_dir_all(&partial)?;
    run(Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", partial.display()))
        .current_dir(crate::build::root().join("tests/kafka")))?;
    fs::rename(&partial, &jars).context("moving Kafka's jars into place")
}

fn install_registry() -> anyhow::Result<()> {
    let folder = registry::folder();
    if folder.is_dir() {
        return Ok(());
    }
    eprintln!("setup: Apicurio Registry {} from Maven Central into {}", registry::VERSION, folder.display());
    let partial = folder.with_extension("partial");
    fs::create_dir_all(&partial)?;
    run(Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies"])
        .arg(format!("-DoutputDirectory={}", partial.display()))
        .current_dir(crate::build::root().join("tests/registry")))?;
    let archive = partial.join(format!("apicurio-registry-app-{}-all.tar.gz", registry::VERSION));
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&partial))?;
    fs::remove_file(&archive)?;
    fs::rename(&partial, &folder).context("moving the schema registry into place")
}

fn install_minio() -> anyhow::Result<()> {
    go_install("MinIO", "github.com/minio/minio", minio::VERSION, &minio::program())
}

/// Not Debian's package: it would be a server that starts with the machine.
fn install_alertmanager() -> anyhow::Result<()> {
    let module = "github.com/prometheus/alertmanager/cmd/alertmanager";
    go_install("Alertmanager", module, alertmanager::VERSION, &alertmanager::program())
}

/// Builds a program from its Go module, unless it is there.
fn go_install(name: &str, module: &str, version: &str, program: &Path) -> anyhow::Result<()> {
    if program.is_file() {
        return Ok(());
    }
    let folder = program.parent().with_context(|| format!("{name}'s folder"))?;
    fs::create_dir_all(folder)?;
    eprintln!("setup: {name} {version} with go install into {} (a few minutes)", folder.display());
    run(Command::new("go")
        .args(["install", &format!("{module}@{version}")])
        .env("GOBIN", folder)
        .env("GOFLAGS", "-mod=mod")
        .current_dir(cache_dir()))
}

/// ClickHouse's engine as a Python package, unless a server is there.
fn install_clickhouse() -> anyhow::Result<()> {
    let folder = clickhouse::folder();
    if is_there("clickhouse") || folder.join("installed").is_file() {
        return Ok(());
    }
    eprintln!("setup: chDB {} with pip into {}", clickhouse::VERSION, folder.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(folder.join("bin/pip")).args([
        "install",
        "-q",
        "--disable-pip-version-check",
        &format!("chdb=={}", clickhouse::VERSION),
    ]))?;
    fs::write(folder.join("installed"), clickhouse::VERSION).context("noting that chDB is installed")
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
