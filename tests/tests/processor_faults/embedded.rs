//! The same on the embedded log: one process with all roles, killed and paused.

use std::time::{Duration, Instant};

use anyhow::ensure;
use infertrace_runtime::log::embedded::EmbeddedLog;
use infertrace_schemas::topics;
use infertrace_tests::{
    infertrace::{STOP_TIMEOUT, Setup},
    process::{Process, scratch_dir, wait_until},
};

use super::{
    PATIENCE, decisive,
    input::{Input, TAIL_MS, now_ms},
    judge, number, oracle, traffic, wait_caught_up,
};

const KILLS_A_ROUND: u64 = 3;

/// Opens the log of a process that is not there, for as long as `with` takes.
fn with_log<T>(
    setup: &Setup,
    with: impl AsyncFnOnce(&EmbeddedLog) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let log = oracle::open(&setup.dir)?;
    let outcome = runtime.block_on(with(log.as_ref()));
    log.close();
    outcome
}

fn caught_up(setup: &Setup, up: &mut Process) -> anyhow::Result<()> {
    let url = format!("{}/metrics", setup.addresses.api_url());
    wait_caught_up("the platform", &url, PATIENCE, || up.check_alive())
}

/// Stops every thread of the process for two seconds.
fn pause(up: &Process) -> anyhow::Result<()> {
    up.signal(libc::SIGSTOP)?;
    let until = Instant::now() + Duration::from_secs(2);
    wait_until("two seconds to pass", PATIENCE, || Ok(Instant::now() >= until))?;
    up.signal(libc::SIGCONT)
}

/// Scenario: `up` on the embedded log under simulated traffic, after a past with faults in it, killed and started again at
/// moments that the seed draws, with poison and oversize records written while it is away, and once stopped for a while;
/// then the input ends.
/// Guarantee: what is committed is what one undisturbed run, and the pure code on one thread, make of the same input.
#[test]
fn kills_on_the_embedded_log_change_nothing() -> anyhow::Result<()> {
    let rounds = number("INFERTRACE_TEST_PROCESSOR_ROUNDS", 1)?.max(1);
    let mut input = Input::seeded()?;
    let dir = scratch_dir("infertrace-faults-")?;
    let mut setup = Setup::new(dir.path())?;
    setup.variables = decisive();
    with_log(&setup, async |log| {
        oracle::create_topics(log, topics::DEFAULT_PARTITIONS).await?;
        input.history(log).await
    })?;
    let mut up = setup.up()?;
    let mut traffic = traffic(&setup, &mut input)?;
    for kill in 0..rounds * KILLS_A_ROUND {
        if kill % KILLS_A_ROUND == 1 {
            eprintln!("SIGSTOP of the platform");
            pause(&up)?;
        }
        input.pause(500, 4_000);
        eprintln!("SIGKILL of the platform");
        up.kill()?;
        with_log(&setup, async |log| input.poison(log).await)?;
        traffic.check_alive()?;
        up = setup.up()?;
    }
    input.pause(1_000, 3_000);
    traffic.terminate(STOP_TIMEOUT)?;
    caught_up(&setup, &mut up)?;
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "{}", up.tail());
    let over_ms = now_ms() + TAIL_MS;
    with_log(&setup, async |log| input.tail(log, TAIL_MS).await)?;
    let mut up = setup.up()?;
    caught_up(&setup, &mut up)?;
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "{}", up.tail());

    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let log = oracle::open(&setup.dir)?;
    let traces = judge(&runtime, log.as_ref(), &dir.path().join("oracle"), over_ms)?;
    log.close();
    ensure!(traces > 100, "too little traffic: {traces} of {}", topics::TRACES);
    Ok(())
}
