//! Faults of processors on a real Kafka: kills, zombies, members that come and go, a broker that dies, poison,
//! retention that overtakes. What they commit must be what one undisturbed processor makes of the same input.
//!
//! `cargo xtask faults processor ROUNDS` runs it; what retention takes is looked at with the tests. Moments are drawn
//! from a seed (`INFERTRACE_TEST_SEED`), which is printed.

mod members;
mod oracle;

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use infertrace_proto::v1::Span;
use infertrace_runtime::log::{
    Log, Millis, NewRecord, NextOffset, TopicPartition,
    kafka::{Config, KafkaLog},
};
use infertrace_schemas::{partition::partition_of, record::encode_share, topics};
use infertrace_tests::{
    infertrace::{STOP_TIMEOUT, Setup, program},
    kafka::Kafka,
    process::{Process, wait_until},
};
use members::{Member, series};
use oracle::Outputs;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

const GROUP: &str = "infertrace-processor";
const SESSION: Duration = Duration::from_secs(3);
const TRANSACTION: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(90);
/// How far the last spans lie ahead, so that everything before them is over.
const TAIL_MS: i64 = 40_000;

/// Each scenario keeps both cores busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What decides the outputs; the oracle runs with the same.
const DECISIVE: [(&str, &str); 3] = [
    ("INFERTRACE_PROCESSOR_TRACE_IDLE_MS", "1000"),
    ("INFERTRACE_PROCESSOR_TRACE_LATE_MS", "4000"),
    // Only the log's time decides; otherwise a pause of a process would close traces early.
    ("INFERTRACE_PROCESSOR_CLOSE_BY_WALL_CLOCK", "false"),
];

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}

fn decisive() -> Vec<(String, String)> {
    DECISIVE.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
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
    log: Arc<KafkaLog>,
    runtime: tokio::runtime::Runtime,
    setup: Setup,
    dir: tempfile::TempDir,
    random: StdRng,
}

impl Bench {
    fn start() -> anyhow::Result<Self> {
        let seed = number("INFERTRACE_TEST_SEED", 1)?;
        eprintln!("INFERTRACE_TEST_SEED={seed}");
        let kafka = Kafka::start()?;
        let dir = tempfile::tempdir()?;
        let mut setup = Setup::new(dir.path())?;
        setup.flags = vec!["--kafka".to_owned(), kafka.bootstrap()];
        setup.variables = decisive();
        let millis = |time: Duration| time.as_millis().to_string();
        setup.variables.extend([
            ("INFERTRACE_KAFKA_SESSION_TIMEOUT_MS".to_owned(), millis(SESSION)),
            ("INFERTRACE_KAFKA_TRANSACTION_TIMEOUT_MS".to_owned(), millis(TRANSACTION)),
            ("INFERTRACE_KAFKA_PROPERTIES".to_owned(), r#"{ "heartbeat.interval.ms" = "1000" }"#.to_owned()),
        ]);
        let config = Config { brokers: kafka.bootstrap(), max_message_bytes: 1_040_000, ..Config::default() };
        let (log, runtime) = (KafkaLog::new(config)?, tokio::runtime::Runtime::new()?);
        runtime.block_on(oracle::create_topics(log.as_ref(), topics::DEFAULT_PARTITIONS))?;
        Ok(Self { log, runtime, kafka, setup, dir, random: StdRng::seed_from_u64(seed) })
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) {
        // Not to wait for anything: the seed says when the next fault comes.
        std::thread::sleep(Duration::from_millis(self.random.random_range(from_ms..to_ms)));
    }

    fn partitions(&self) -> anyhow::Result<u32> {
        Ok(self.runtime.block_on(self.log.partitions(topics::SPANS))?)
    }

    fn append(&self, partition: u32, timestamp_ms: i64, payload: Option<Vec<u8>>) -> anyhow::Result<()> {
        let record = NewRecord {
            to: TopicPartition::new(topics::SPANS, partition),
            key: None,
            payload: payload.map(Into::into),
            headers: Vec::new(),
            timestamp: Millis(timestamp_ms),
        };
        let delivery = self.log.append(record)?;
        self.runtime.block_on(delivery)?;
        Ok(())
    }

    /// Records that no reader can read, among the others: noise, nothing, half a record, and noise so large that a
    /// dead letter with all of it would be larger than the broker takes.
    fn poison(&mut self) -> anyhow::Result<()> {
        let partitions = self.partitions()?;
        let whole = share(&self.trace_in(0, partitions), now_ms());
        let half = whole[..whole.len() / 2].to_vec();
        let mut noise = |bytes: usize| (0..bytes).map(|_| self.random.random()).collect::<Vec<u8>>();
        let bad = [Some(noise(100)), None, Some(half), Some(noise(900_000)), Some(noise(999_800))];
        for (payload, partition) in bad.into_iter().zip((0..partitions).cycle()) {
            self.append(partition, now_ms(), payload)?;
        }
        Ok(())
    }

    /// A trace id that lives in `partition`.
    fn trace_in(&mut self, partition: u32, partitions: u32) -> [u8; 16] {
        loop {
            let id: [u8; 16] = self.random.random();
            if partition_of(&id, partitions) == partition {
                return id;
            }
        }
    }

    /// One trace a partition, so far ahead that all before it closes.
    fn tail(&mut self, ahead_ms: i64) -> anyhow::Result<()> {
        let partitions = self.partitions()?;
        for partition in 0..partitions {
            let id = self.trace_in(partition, partitions);
            let time = now_ms() + ahead_ms;
            self.append(partition, time, Some(share(&id, time)))?;
        }
        Ok(())
    }

    fn gateway(&self) -> anyhow::Result<Process> {
        let mut gateway = self.setup.start("gateway", &[])?;
        self.setup.wait_ready(&mut gateway, &self.setup.addresses.http_url())?;
        Ok(gateway)
    }

    /// Simulated inference traffic until it is stopped.
    fn traffic(&mut self) -> anyhow::Result<Process> {
        let mut command = Command::new(program("infertrace-loadgen")?);
        let rps = number("INFERTRACE_TEST_PROCESSOR_RPS", 100)?;
        let seed: u32 = self.random.random();
        command
            .args(["simulate", "--endpoint", &self.setup.addresses.grpc_url(), "--faults", "demo"])
            .args(["--fault-every", "20", "--seed", &seed.to_string(), "--rps", &rps.to_string()]);
        Process::start("simulate", command, &self.dir.path().join("simulate.log"))
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

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A record with one span.
fn share(trace_id: &[u8; 16], time_ms: i64) -> Vec<u8> {
    let span = Span {
        trace_id: trace_id.to_vec(),
        span_id: trace_id[..8].to_vec(),
        service_name: "tail".to_owned(),
        operation_name: "tail".to_owned(),
        start_time_unix_nano: time_ms * 1_000_000,
        duration_nanos: 1_000_000,
        ..Span::default()
    };
    let encoded = span.encode_to_vec();
    encode_share("", b"", [encoded.as_slice()], &[])
}

/// Kills one member at three moments that the seed draws: before it produces, before or after it commits.
fn kills(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    for _ in 0..3 {
        bench.pause(300, 2_500);
        eprintln!("SIGKILL of a processor");
        member.kill_and_restart()?;
    }
    bench.wait_owned(&mut [member])
}

/// Stops one member past its session and transaction time-outs while another takes over; then lets it go on.
fn zombie(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    let mut other = Member::start(&bench.setup, "b")?;
    bench.wait_owned(&mut [&mut *member, &mut other])?;
    bench.pause(0, 1_000);
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

/// Two more members join and leave every five seconds.
fn churn(bench: &mut Bench, member: &mut Member) -> anyhow::Result<()> {
    for round in 0..2 {
        eprintln!("two members join");
        let mut joined = [Member::start(&bench.setup, "c")?, Member::start(&bench.setup, "d")?];
        let until = Instant::now() + Duration::from_secs(5);
        wait_until("five seconds to pass", PATIENCE, || {
            joined.iter_mut().try_for_each(|member| member.process.check_alive())?;
            Ok(Instant::now() >= until)
        })?;
        eprintln!("and leave");
        for joined in &mut joined {
            if round == 0 {
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

/// Scenario: simulated traffic with poison and oversize records among it, while processors are killed, stopped past their
/// time-outs, joined and left by others, and lose their broker; then the input ends.
/// Guarantee: what is committed (summaries, dead letters, partials, rollups, baselines, insights) is what one undisturbed processor makes
/// of the same input, each once.
#[test]
fn faults_change_nothing() -> anyhow::Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = number("INFERTRACE_TEST_PROCESSOR_ROUNDS", 0)?;
    if rounds == 0 {
        eprintln!("SKIPPED: takes minutes; run it by `cargo xtask faults processor [ROUNDS]`");
        return Ok(());
    }
    let mut bench = Bench::start()?;
    let mut gateway = bench.gateway()?;
    let mut member = Member::start(&bench.setup, "a")?;
    let mut traffic = bench.traffic()?;
    bench.wait_owned(&mut [&mut member])?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        bench.poison()?;
        kills(&mut bench, &mut member)?;
        zombie(&mut bench, &mut member)?;
        churn(&mut bench, &mut member)?;
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

    let found = bench.runtime.block_on(Outputs::read(bench.log.as_ref()))?.before(over_ms);
    eprintln!("committed: {:?}", found.counts());
    let expected =
        oracle::run(&bench.runtime, bench.log.as_ref(), &bench.dir.path().join("oracle"), &decisive())?
            .before(over_ms);
    eprintln!("the oracle: {:?}", expected.counts());
    ensure!(expected.counts()[topics::TRACES] > 1_000, "too little traffic: {:?}", expected.counts());
    found.ensure_equal(&expected)
}

/// Scenario: a processor is away while retention removes records past its position; then it starts again.
/// Guarantee: it counts and names exactly what is lost, and goes on with what is left: nothing of it is missing or doubled.
#[test]
fn what_retention_took_is_counted() -> anyhow::Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
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
