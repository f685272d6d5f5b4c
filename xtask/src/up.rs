//! `cargo xtask up`: the platform, fed by the load generator, until Ctrl-C.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use infertrace_tests::http;

use crate::build;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::SeqCst);
}

/// Builds, starts, feeds, waits.
pub(crate) fn run(flags: &[String]) -> anyhow::Result<()> {
    build::ui()?;
    let programs = build::programs()?;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
    let value = |name: &str, default: &str| {
        let mut flags = flags.iter().skip_while(|flag| *flag != name);
        flags.nth(1).cloned().unwrap_or_else(|| default.to_owned())
    };
    let api = format!("http://{}", value("--api", "127.0.0.1:8080"));
    let endpoint = format!("http://{}", value("--grpc", "127.0.0.1:4317"));

    // Children live in process groups of their own, so that Ctrl-C reaches them in order: first the sender.
    let mut platform = Command::new(programs.join("infertrace"))
        .args(["up", "--no-demo"])
        .args(flags)
        .process_group(0)
        .spawn()
        .context("starting infertrace")?;
    let outcome = wait_ready(&mut platform, &api).and_then(|()| {
        let mut sender = Command::new(programs.join("infertrace-loadgen"))
            .args(["simulate", "--endpoint", &endpoint, "--rps", "8", "--faults", "demo", "--progress", "30"])
            .process_group(0)
            .spawn()
            .context("starting the load generator")?;
        println!("\n  Traces arrive at {api}/   (Ctrl-C stops; data stays for the next start)\n");
        let outcome = wait(&mut platform, &mut sender);
        stop(&mut sender).and(outcome)
    });
    stop(&mut platform)?;
    outcome
}

fn wait_ready(platform: &mut Child, api: &str) -> anyhow::Result<()> {
    let ready = format!("{api}/readyz");
    let deadline = Instant::now() + Duration::from_secs(120);
    while http::status(&ready) != Some(200) {
        if let Some(status) = platform.try_wait()? {
            bail!("infertrace ended with {status}");
        }
        if STOP.load(Ordering::SeqCst) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{ready} did not answer 200 within two minutes");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn wait(platform: &mut Child, sender: &mut Child) -> anyhow::Result<()> {
    while !STOP.load(Ordering::SeqCst) {
        if let Some(status) = platform.try_wait()? {
            bail!("infertrace ended with {status}");
        }
        if let Some(status) = sender.try_wait()? {
            bail!("the load generator ended with {status}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Asks a child to end and waits for it.
fn stop(child: &mut Child) -> anyhow::Result<()> {
    if child.try_wait()?.is_none() {
        // SAFETY: the id is that of our child, which has not been reaped.
        unsafe { libc::kill(i32::try_from(child.id())?, libc::SIGTERM) };
        child.wait()?;
    }
    Ok(())
}
