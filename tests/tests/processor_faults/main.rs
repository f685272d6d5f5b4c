//! Faults of processors on a real Kafka: kills before a transaction's records, before and after its commit, zombies,
//! members that come and go, a broker that dies, poison, retention that overtakes; and kills on the embedded log. What they
//! commit must be what one undisturbed processor, and the pure code on one thread, make of the same input.
//!
//! The tests run one short round; `cargo xtask faults processor ROUNDS` runs many. Moments are drawn from a seed
//! (`INFERTRACE_TEST_SEED`), which is printed.

mod embedded;
mod input;
mod members;
mod oracle;
mod proxy;
mod pure;

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use infertrace_runtime::log::{
    Log, NextOffset, TopicPartition,
    kafka::{Config, KafkaLog},
};
use infertrace_schemas::topics;
use infertrace_tests::{
    infertrace::{STOP_TIMEOUT, Setup, program},
    kafka::Kafka,
    process::{Process, scratch_dir, wait_until},
};
use input::{Input, TAIL_MS, now_ms};
use members::{Member, series};
use oracle::Outputs;
use proxy::{Moment, Proxy};
use rand::Rng as _;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

const GROUP: &str = "infertrace-processor";
const SESSION: Duration = Duration::from_secs(3);
const TRANSACTION: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(90);

/// Which source counts as idle, or as too far behind, is a matter of when its processor was there: here none does, so that
/// all wait for all.
const IDLE_AFTER_MS: i64 = 86_400_000;

/// What decides the outputs; the oracle runs with the same.
fn decisive() -> Vec<(String, String)> {
    let decisive = [
        ("INFERTRACE_PROCESSOR_TRACE_IDLE_MS", "1000".to_owned()),
        ("INFERTRACE_PROCESSOR_TRACE_LATE_MS", "4000".to_owned()),
        // Only the log's time decides; otherwise a pause of a process would close traces early.
        ("INFERTRACE_PROCESSOR_CLOSE_BY_WALL_CLOCK", "false".to_owned()),
        ("INFERTRACE_INSIGHTS_IDLE_AFTER_MS", IDLE_AFTER_MS.to_string()),
        ("INFERTRACE_INSIGHTS_MOST_BEHIND_MS", IDLE_AFTER_MS.to_string()),
        // Decides nothing; but a platform has caught up only when its sink has.
        ("INFERTRACE_SINK_FLUSH_INTERVAL_MS", "1000".to_owned()),
    ];
    decisive.map(|(key, value)| (key.to_owned(), value)).to_vec()
}

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}

/// [`decisive`], for the pure code.
fn pure_config() -> infertrace_processors::Config {
    infertrace_processors::Config {
        trace_idle_ms: 1_000,
        trace_late_ms: 4_000,
        close_by_wall_clock: false,
        ..infertrace_processors::Config::default()
    }
}

/// Simulated inference traffic until it is stopped; it waits for a gateway that is away.
fn traffic(setup: &Setup, input: &mut Input) -> anyhow::Result<Process> {
    let mut command = Command::new(program("infertrace-loadgen")?);
    let rps = number("INFERTRACE_TEST_PROCESSOR_RPS", 100)?;
    let seed: u32 = input.random.random();
    command.args(["simulate", "--endpoint", &setup.addresses.grpc_url(), "--faults", "demo"]).args([
        "--fault-every",
        "20",
        "--seed",
        &seed.to_string(),
        "--rps",
        &rps.to_string(),
    ]);
    Process::start("simulate", command, &setup.dir.join("simulate.log"))
}

/// Compares what is committed in `log` with what both oracles make of its input; the number of summaries.
fn judge(
    runtime: &tokio::runtime::Runtime,
    log: &dyn Log,
    oracle_dir: &Path,
    over_ms: i64,
) -> anyhow::Result<usize> {
    let found = runtime.block_on(Outputs::read(log))?.before(over_ms);
    eprintln!("committed: {:?}", found.counts());
    let mut pure = runtime.block_on(pure::cells(log, &pure_config()))?;
    oracle::closed_before(&mut pure, over_ms);
    pure::ensure_counted(&found.cells, &pure)?;
    runtime.block_on(pure::ensure_told(log))?;
    let expected = oracle::run(runtime, log, oracle_dir, &decisive())?.before(over_ms);
    let counts = expected.counts();
    eprintln!("the oracle: {counts:?}");
    found.ensure_equal(&expected)?;
    for topic in [topics::BASELINES, topics::INSIGHTS] {
        ensure!(counts[topic] > 0, "{topic}: nothing was compared, the input makes none");
    }
    Ok(counts[topics::TRACES])
}

/// Waits until every role behind `url` has dealt with all there is, and still has a moment later.
fn wait_caught_up(
    what: &str,
    url: &str,
    patience: Duration,
    mut alive: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut since = None;
    wait_until(&format!("{what} to catch up"), patience, || {
        alive()?;
        let lags = series(url, "infertrace_consumer_lag_records")?;
        let reads = |(labels, _): &&(String, f64)| labels.contains(r#"role="processor""#);
        let idle = lags.iter().filter(reads).count() > 0 && lags.iter().all(|(_, lag)| *lag == 0.0);
        since = if idle { since.or(Some(Instant::now())) } else { None };
        Ok(since.is_some_and(|since| since.elapsed() > Duration::from_secs(3)))
    })
}

struct Bench {
    kafka: Kafka,
    proxy: Proxy,
    log: Arc<KafkaLog>,
    runtime: tokio::runtime::Runtime,
    setup: Setup,
    dir: tempfile::TempDir,
    input: Input,
}

impl Bench {
    fn start() -> anyhow::Result<Self> {
        let (input, proxy) = (Input::seeded()?, Proxy::start()?);
        let kafka = Kafka::start_with(&proxy.advertised())?;
        proxy.lead_to(kafka.bootstrap());
        let dir = scratch_dir("infertrace-faults-")?;
        let mut setup = Setup::new(dir.path())?;
        setup.flags = vec!["--kafka".to_owned(), kafka.bootstrap()];
        setup.variables = decisive();
        let millis = |time: Duration| time.as_millis().to_string();
        setup.variables.extend([
            ("INFERTRACE_KAFKA_SESSION_TIMEOUT_MS".to_owned(), millis(SESSION)),
            ("INFERTRACE_KAFKA_TRANSACTION_TIMEOUT_MS".to_owned(), millis(TRANSACTION)),
            // Half of what others own: some are taken over from a copy, some from a snapshot.
            ("INFERTRACE_INSIGHTS_STANDBY_PARTITIONS".to_owned(), "4".to_owned()),
        ]);
        let config = Config { brokers: kafka.bootstrap(), max_message_bytes: 1_040_000, ..Config::default() };
        let (log, runtime) = (KafkaLog::new(config)?, tokio::runtime::Runtime::new()?);
        runtime.block_on(oracle::create_topics(log.as_ref(), topics::DEFAULT_PARTITIONS))?;
        Ok(Self { log, runtime, kafka, proxy, setup, dir, input })
    }

    fn partitions(&self) -> anyhow::Result<u32> {
        Ok(self.runtime.block_on(self.log.partitions(topics::SPANS))?)
    }

    fn history(&mut self) -> anyhow::Result<()> {
        self.runtime.block_on(self.input.history(self.log.as_ref()))
    }

    fn poison(&mut self) -> anyhow::Result<()> {
        self.runtime.block_on(self.input.poison(self.log.as_ref()))
    }

    fn tail(&mut self, ahead_ms: i64) -> anyhow::Result<()> {
        self.runtime.block_on(self.input.tail(self.log.as_ref(), ahead_ms))
    }

    fn gateway(&self) -> anyhow::Result<Process> {
        let mut gateway = self.setup.start("gateway", &[])?;
        self.setup.wait_ready(&mut gateway, &self.setup.addresses.http_url())?;
        Ok(gateway)
    }

    fn committed(&self) -> anyhow::Result<Vec<(TopicPartition, u64, u64)>> {
        let mut all = Vec::new();
        for partition in 0..self.partitions()? {
            let at = TopicPartition::new(topics::SPANS, partition);
            let (position, marks) = self.runtime.block_on(async {
                anyhow::Ok((self.log.committed(GROUP, &at).await?, self.log.watermarks(&at).await?))
            })?;
            all.push((at, position.map_or(0, |position| position.0), marks.high.0));
        }
        Ok(all)
    }

    /// Waits until `member` owns everything and has dealt with all there is.
    fn wait_read(&self, member: &mut Member) -> anyhow::Result<()> {
        self.wait_owned(&mut [&mut *member])?;
        wait_caught_up("the processor", &member.metrics_url(), PATIENCE, || member.process.check_alive())
    }

    fn wait_owned(&self, members: &mut [&mut Member]) -> anyhow::Result<()> {
        let partitions = self.partitions()? as usize;
        wait_until("every partition to have one owner", PATIENCE, || {
            let mut owned = 0;
            for member in members.iter_mut() {
                member.process.check_alive()?;
                owned += member.partitions()?;
            }
            Ok(owned == partitions)
        })
    }
}

/// Kills the member before its outputs are in the log, before its commit and after it, each in a transaction that the
/// seed draws.
fn kills(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    for moment in Moment::ALL {
        let skip = bench.input.random.random_range(0..12);
        bench.proxy.set_trap(moment, member.name(), skip);
        bench.proxy.wait_sprung(PATIENCE).with_context(|| member.process.tail())?;
        eprintln!("SIGKILL of a processor, {moment:?}");
        member.kill_and_restart()?;
    }
    bench.wait_owned(&mut [member])
}

/// Stops one member past its session and transaction time-outs while another takes over; then lets it go on.
fn zombie(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    let mut other = Member::start(&bench.setup, "b")?;
    bench.wait_owned(&mut [&mut *member, &mut other])?;
    bench.input.pause(0, 1_000);
    eprintln!("SIGSTOP of a processor for longer than its time-outs");
    member.process.signal(libc::SIGSTOP)?;
    let stopped = Instant::now();
    let partitions = bench.partitions()? as usize;
    wait_until("the other to own everything", PATIENCE, || {
        other.process.check_alive()?;
        Ok(other.partitions()? == partitions && stopped.elapsed() > SESSION.max(TRANSACTION))
    })?;
    member.process.signal(libc::SIGCONT)?;
    bench.wait_owned(&mut [&mut *member, &mut other])?;
    ensure!(other.process.terminate(STOP_TIMEOUT)?.success(), "{}", other.process.tail());
    bench.wait_owned(&mut [member])
}

/// Two more members join and leave every five seconds, in the first turn on their own and in the second by SIGKILL.
fn churn(bench: &mut Bench, member: &mut Member, turns: u32) -> anyhow::Result<()> {
    for turn in 0..turns {
        eprintln!("two members join");
        let mut joined = [Member::start(&bench.setup, "c")?, Member::start(&bench.setup, "d")?];
        let until = Instant::now() + Duration::from_secs(5);
        wait_until("five seconds to pass", PATIENCE, || {
            joined.iter_mut().try_for_each(|member| member.process.check_alive())?;
            Ok(Instant::now() >= until)
        })?;
        eprintln!("and leave");
        for joined in &mut joined {
            if turn == 0 {
                ensure!(joined.process.terminate(STOP_TIMEOUT)?.success(), "{}", joined.process.tail());
            } else {
                joined.process.kill()?;
            }
        }
    }
    bench.wait_owned(&mut [member])
}

fn broker(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    eprintln!("SIGKILL of the broker");
    bench.kafka.kill_and_restart()?;
    bench.wait_owned(&mut [member])
}

/// Scenario: simulated traffic, after a past with faults in it, with poison and oversize records among it, while processors are killed, stopped past their
/// time-outs, joined and left by others, and lose their broker; then the input ends.
/// Guarantee: what is committed (summaries, dead letters, partials, rollups, baselines, insights) is what one undisturbed
/// processor makes of the same input, each once; and its counts and insights are those of the pure code on one thread.
#[test]
fn faults_change_nothing() -> anyhow::Result<()> {
    // The tests run a short round; the command as many whole ones as asked for.
    let whole = number("INFERTRACE_TEST_PROCESSOR_ROUNDS", 0)?;
    let (rounds, turns, least_traces) = if whole == 0 { (1, 1, 100) } else { (whole, 2, 1_000) };
    let mut bench = Bench::start()?;
    // Read as a backlog: the first kills meet it.
    bench.history()?;
    let mut gateway = bench.gateway()?;
    let mut member = Member::start(&bench.setup, "a")?;
    let mut traffic = traffic(&bench.setup, &mut bench.input)?;
    bench.wait_owned(&mut [&mut member])?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        bench.poison()?;
        kills(&mut bench, &mut member)?;
        zombie(&mut bench, &mut member)?;
        churn(&mut bench, &mut member, turns)?;
        broker(&mut bench, &mut member)?;
        traffic.check_alive()?;
        gateway.check_alive()?;
    }
    traffic.terminate(STOP_TIMEOUT)?;
    ensure!(gateway.terminate(STOP_TIMEOUT)?.success(), "{}", gateway.tail());
    let over_ms = now_ms() + TAIL_MS;
    bench.tail(TAIL_MS)?;
    bench.wait_read(&mut member)?;
    ensure!(member.process.terminate(STOP_TIMEOUT)?.success(), "{}", member.process.tail());

    let traces = judge(&bench.runtime, bench.log.as_ref(), &bench.dir.path().join("oracle"), over_ms)?;
    ensure!(traces > least_traces, "too little traffic: {traces} traces");
    Ok(())
}

/// Scenario: a processor is away while retention removes records past its position; then it starts again.
/// Guarantee: it counts and names exactly what is lost, and goes on with what is left: nothing of it is missing or doubled.
#[test]
fn what_retention_took_is_counted() -> anyhow::Result<()> {
    let mut bench = Bench::start()?;
    let mut member = Member::start(&bench.setup, "a")?;
    bench.wait_owned(&mut [&mut member])?;
    for ahead_ms in [0, 60_000, 120_000] {
        bench.tail(ahead_ms)?;
        bench.wait_read(&mut member)?;
    }
    ensure!(member.process.terminate(STOP_TIMEOUT)?.success(), "{}", member.process.tail());
    let before = bench.committed()?;
    ensure!(before.iter().all(|(_, position, _)| *position > 0), "nothing is committed: {before:?}");

    bench.tail(180_000)?;
    bench.tail(240_000)?;
    let mut low = TopicPartitionList::new();
    let mut lost = 0;
    for (at, position, _) in &before {
        // Between the two records that came last.
        let marks = bench.runtime.block_on(bench.log.watermarks(at))?;
        let NextOffset(high) = marks.high;
        lost += high - 1 - position;
        low.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(i64::try_from(high - 1)?))?;
    }
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bench.kafka.bootstrap()).create()?;
    bench.runtime.block_on(admin.delete_records(&low, &AdminOptions::new()))?;

    let known = bench.runtime.block_on(oracle::read(bench.log.as_ref(), topics::TRACES))?.len();
    member.restart()?;
    bench.wait_owned(&mut [&mut member])?;
    bench.tail(300_000)?;
    bench.wait_read(&mut member)?;
    let counted = member.sum("infertrace_processor_lost_records_total")?;
    ensure!(
        counted == lost as f64,
        "{counted} records are counted as lost, {lost} are\n{}",
        member.process.tail()
    );
    let log = std::fs::read_to_string(member.log())?;
    ensure!(
        log.contains("retention removed records"),
        "the loss is not in the log\n{}",
        member.process.tail()
    );
    ensure!(member.process.terminate(STOP_TIMEOUT)?.success(), "{}", member.process.tail());
    // Of each partition: the trace that was left. Open ones that the position still held were lost with their spans.
    let traces = bench.runtime.block_on(oracle::read(bench.log.as_ref(), topics::TRACES))?;
    let partitions = bench.partitions()? as usize;
    ensure!(traces.len() == known + partitions, "{} summaries, {known} before", traces.len());
    Ok(())
}
