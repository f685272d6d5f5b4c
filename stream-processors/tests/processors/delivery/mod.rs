//! Delivery of insights over the embedded log to real local HTTP servers: targets that are down, slow, hanging or
//! refusing, restarts, dead letters and their way back, Alertmanager's repetitions.
//!
//! Tests wait for requests, records and positions, never for time.

mod receiver;
mod triage;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_processors::delivery::{Config, Deps, Error, Kind, TARGET_HEADER, TargetConfig, build};
use infertrace_runtime::{
    clock::ManualClock,
    log::{
        Log, Millis, NewRecord, NextOffset, Record, TopicPartition, TopicSpec,
        dead_letter::{Entry, Letter},
        embedded::{self, EmbeddedLog, Fsync},
        range::{Range, RangeReader},
    },
    telemetry::{MetricsRegistry, exposition},
};
use infertrace_schemas::{
    avro::{Insight, InsightState, SchemaIds, Severity},
    topics,
};
use receiver::{Answer, Receiver};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const T0: i64 = 1_700_000_000_000;

struct Bench {
    log: Arc<dyn Log>,
    dir: tempfile::TempDir,
    clock: ManualClock,
}

fn open(dir: &Path) -> Arc<dyn Log> {
    let config = embedded::Config {
        dir: dir.to_owned(),
        preallocate: false,
        fsync: Fsync::Never,
        ..embedded::Config::default()
    };
    EmbeddedLog::open(config).expect("opens")
}

fn insights() -> TopicPartition {
    TopicPartition::new(topics::INSIGHTS, 0)
}

fn insight(id: &str, revision: i32, state: InsightState) -> Insight {
    Insight {
        id: id.to_owned(),
        revision,
        state,
        kind: "latency".to_owned(),
        severity: Severity::Warning,
        model: "llama".to_owned(),
        opened_unix_nanos: (T0 - 60_000) * 1_000_000,
        window_end_unix_nanos: T0 * 1_000_000,
        resolved_unix_nanos: (state == InsightState::Resolved).then_some(T0 * 1_000_000),
        title: format!("{id} is slow"),
        ..Insight::default()
    }
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let log = open(dir.path());
        let specs: Vec<_> = topics::all(1)
            .into_iter()
            .map(|topic| TopicSpec {
                name: topic.name.into(),
                partitions: 1,
                retention: None,
                compacted: false,
                replication: 1,
            })
            .collect();
        log.create_topics(&specs).await.expect("creates topics");
        Self { log, dir, clock: ManualClock::new(T0 * 1_000_000) }
    }

    async fn append(&self, timestamp_ms: i64, payload: Option<Bytes>) {
        let record = NewRecord {
            to: insights(),
            key: Some(Bytes::from_static(b"llama")),
            payload,
            headers: Vec::new(),
            timestamp: Millis(timestamp_ms),
        };
        self.log.append(record).expect("taken").await.expect("durable");
    }

    async fn put(&self, insight: &Insight) {
        let payload = SchemaIds::embedded::<Insight>().encode(insight).expect("encodes");
        self.append(T0, Some(payload.into())).await;
    }

    async fn put_open(&self, count: usize) {
        for n in 0..count {
            self.put(&insight(&format!("i{n}"), 1, InsightState::Open)).await;
        }
    }

    async fn start(&self, targets: Vec<TargetConfig>) -> Running {
        self.start_with(Config { targets, ..config() }).await
    }

    async fn start_with(&self, config: Config) -> Running {
        let mut metrics = MetricsRegistry::default();
        let deps = Deps {
            log: Arc::clone(&self.log),
            clock: Arc::new(self.clock.clone()),
            seed: 7,
            metrics: &mut metrics,
        };
        let service = build(config, deps).await.expect("builds");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Running { shutdown, task, metrics }
    }

    async fn committed(&self) -> Option<u64> {
        let position = self.log.committed("infertrace-delivery", &insights()).await.expect("answers");
        position.map(|position| position.0)
    }

    /// Waits for the group's position.
    async fn until_committed(&self, position: u64) {
        let wait = async {
            while self.committed().await != Some(position) {
                tokio::task::yield_now().await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(outcome.is_ok(), "the position is {:?}, not {position}", self.committed().await);
    }

    async fn records(&self, topic: &str) -> Vec<Record> {
        let at = TopicPartition::new(topic, 0);
        let marks = self.log.watermarks(&at).await.expect("answers");
        let range = Range { at, from: NextOffset(0), end: marks.high };
        let mut reader = RangeReader::open(self.log.as_ref(), &[range], 1 << 20).await.expect("opens");
        let mut all = Vec::new();
        while let Some(records) = reader.next(1 << 20).await.expect("reads") {
            all.extend(records);
        }
        all
    }

    async fn letters(&self) -> Vec<Letter> {
        let records = self.records(topics::DLQ).await;
        let letter = |record: &Record| match Entry::of(record) {
            Entry::Letter(letter) => Some(*letter),
            _ => None,
        };
        records.iter().filter_map(letter).collect()
    }
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    metrics: MetricsRegistry,
}

impl Running {
    async fn stop(self) -> String {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("a clean end");
        exposition(&self.metrics)
    }

    /// As SIGKILL: nothing is finished, nothing committed.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

fn config() -> Config {
    Config { commit_interval_ms: 0, retry_ms: 1, ..Config::default() }
}

fn target(name: &str, url: String) -> TargetConfig {
    TargetConfig {
        name: name.to_owned(),
        url,
        timeout_ms: 5_000,
        retry_base_ms: 2,
        retry_max_ms: 20,
        ..TargetConfig::default()
    }
}

fn header<'l>(letter: &'l Letter, name: &str) -> &'l str {
    let found = letter.headers.iter().find(|(header, _)| header == name);
    found.and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or_default()
}

/// Scenario: two targets, one of which is down from the start and comes up later.
/// Guarantee: the other has everything meanwhile; no position is committed before both have it; then both have each insight
/// once, as JSON with key and signature.
#[tokio::test]
async fn a_target_that_is_down_holds_up_only_itself() {
    let bench = Bench::new().await;
    let fast = Receiver::start().await;
    let address = Receiver::nobody().await;
    let secret = bench.dir.path().join("secret");
    std::fs::write(&secret, "s3cret\n").expect("written");
    let down = TargetConfig {
        secret_file: secret.display().to_string(),
        ..target("down", format!("http://{address}/hook"))
    };
    let running = bench.start(vec![down, target("fast", fast.url())]).await;
    bench.put_open(8).await;
    fast.until_count(8).await;
    assert_eq!(bench.committed().await, Some(0));

    let down = Receiver::on(address).await;
    let received = down.until_count(8).await;
    bench.until_committed(8).await;
    let text = running.stop().await;
    assert!(
        text.contains(r#"infertrace_delivery_insights_total{target="down",outcome="delivered"} 8"#),
        "{text}"
    );
    let mut received = received;
    received.sort_by_key(|request| request.header("idempotency-key").to_owned());
    for (n, request) in received.iter().enumerate() {
        assert_eq!(request.path, "/hook");
        assert_eq!(request.header("idempotency-key"), format!("i{n}-1"));
        assert_eq!(request.header("webhook-id"), format!("i{n}-1"));
        assert_eq!(request.header("webhook-timestamp"), (T0 / 1_000).to_string());
        assert!(request.header("webhook-signature").starts_with("v1,"), "{request:?}");
        assert_eq!(request.json()["title"], format!("i{n} is slow"));
    }
    assert_eq!(fast.received().len(), 8);
    assert_eq!(fast.received()[0].header("webhook-signature"), "");
    assert_eq!(bench.letters().await, []);
}

/// Scenario: one target never answers; its queue has room for two. Guarantee: the other gets everything; what finds the
/// queue full is in the dead-letter topic, marked for that target; the position stands where its first insight waits.
#[tokio::test]
async fn a_hanging_target_fills_only_its_own_queue() {
    let bench = Bench::new().await;
    let (hanging, fast) = (Receiver::start().await, Receiver::start().await);
    hanging.default(Answer::Never);
    let slow = TargetConfig { queue: 2, timeout_ms: 60_000, ..target("slow", hanging.url()) };
    let config = Config { drain_timeout_ms: 1, targets: vec![slow, target("fast", fast.url())], ..config() };
    let running = bench.start_with(config).await;
    bench.put_open(6).await;
    fast.until_count(6).await;
    let mut letters = bench.letters().await;
    while letters.len() < 4 {
        letters = bench.letters().await;
    }
    running.stop().await;
    assert_eq!(letters.len(), 4);
    for (n, letter) in letters.iter().enumerate() {
        assert_eq!(header(letter, TARGET_HEADER), "slow");
        assert_eq!(header(letter, "infertrace.insight.id"), format!("i{}", n + 2));
        assert_eq!(letter.origin, (insights(), infertrace_runtime::log::Offset(n as u64 + 2)));
        assert!(letter.error.contains("full"), "{}", letter.error);
    }
    assert_eq!(bench.committed().await, Some(0));
    assert_eq!(hanging.received().len(), 1);
}

/// Scenario: a target answers 500, 401, 503 and 429 before it takes an insight; one insight is refused with 400.
/// Guarantee: the first is repeated with one and the same key until it is taken; the second is never repeated and is in the
/// dead-letter topic with status and answer.
#[tokio::test]
async fn passing_faults_are_repeated_and_refusals_are_not() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let answers = [Answer::Status(500), Answer::Status(401), Answer::RetryAfter(503, 0), Answer::Status(429)];
    receiver.script(answers);
    let running = bench.start(vec![target("t", receiver.url())]).await;
    bench.put_open(1).await;
    let received = receiver.until_count(5).await;
    assert!(received.iter().all(|request| request.header("idempotency-key") == "i0-1"));
    bench.until_committed(1).await;
    receiver.script([Answer::Status(400)]);
    bench.put(&insight("bad", 1, InsightState::Open)).await;
    bench.put(&insight("good", 1, InsightState::Open)).await;
    bench.until_committed(3).await;
    running.stop().await;
    assert_eq!(receiver.received().len(), 7);
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(header(&letters[0], "infertrace.insight.id"), "bad");
    assert_eq!(letters[0].error, "answered 400 Bad Request: said so");
}

/// Scenario: the process is killed after a target took an insight and before the position is committed; it starts anew.
/// Guarantee: the insight is sent again with the same key and body; then the position is committed.
#[tokio::test]
async fn a_kill_before_the_commit_repeats_with_the_same_key() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let targets = vec![target("t", receiver.url())];
    let late = Config { commit_interval_ms: 3_600_000, targets: targets.clone(), ..config() };
    let running = bench.start_with(late).await;
    bench.put_open(3).await;
    receiver.until_count(3).await;
    running.kill().await;
    assert_eq!(bench.committed().await, Some(0));
    let running = bench.start(targets).await;
    bench.until_committed(3).await;
    running.stop().await;
    let received = receiver.received();
    assert_eq!(received.len(), 6);
    for (first, second) in received[..3].iter().zip(&received[3..]) {
        assert_eq!(first.header("idempotency-key"), second.header("idempotency-key"));
        assert_eq!(first.body, second.body);
    }
}

/// Scenario: a target fails until the budget of an insight is used up; the letter is sent back as `dlq redrive` does.
/// Guarantee: the letter says target, insight and last error, and the position moves on; sent back, the insight reaches that
/// target with its old key, and no other target a second time.
#[tokio::test]
async fn after_the_budget_it_is_a_dead_letter_that_can_go_back() {
    let bench = Bench::new().await;
    let (failing, fast) = (Receiver::start().await, Receiver::start().await);
    failing.default(Answer::Status(502));
    let budget =
        TargetConfig { retry_budget_ms: 60, circuit_failures: 2, ..target("failing", failing.url()) };
    let running = bench.start(vec![budget, target("fast", fast.url())]).await;
    bench.put_open(1).await;
    bench.until_committed(1).await;
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(header(&letters[0], TARGET_HEADER), "failing");
    assert_eq!(header(&letters[0], "infertrace.insight.revision"), "1");
    assert_eq!(letters[0].role, "delivery");
    assert_eq!(letters[0].error, "not delivered within 60 ms; last: answered 502 Bad Gateway: said so");
    let tries = failing.received().len();
    assert!(tries >= 2);

    failing.default(Answer::Status(200));
    let outputs = letters[0].redrive(Millis(T0)).expect("goes back").to_vec();
    let mut transactions = bench.log.transactions("redrive").await.expect("begins");
    transactions.commit(outputs, None, &[]).await.expect("commits");
    let received = failing.until_count(tries + 1).await;
    assert_eq!(received[tries].header("idempotency-key"), "i0-1");
    bench.until_committed(bench.log.watermarks(&insights()).await.expect("answers").high.0).await;
    running.stop().await;
    assert_eq!(fast.received().len(), 1);
}

/// Scenario: bytes that are no insight, a record without a value, an unknown schema id, then an insight.
/// Guarantee: the three are dead letters with their bytes, the insight is delivered, the position passes all.
#[tokio::test]
async fn poison_does_not_stop_the_rest() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let running = bench.start(vec![target("a", receiver.url()), target("b", receiver.url())]).await;
    bench.append(T0, Some(Bytes::from_static(b"\xffnonsense"))).await;
    bench.append(T0, None).await;
    bench.append(T0, Some(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2, 3]))).await;
    bench.put_open(1).await;
    bench.until_committed(4).await;
    let text = running.stop().await;
    assert_eq!(receiver.received().len(), 2);
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0].payload.as_deref(), Some(b"\xffnonsense".as_slice()));
    assert!(letters[2].error.contains("schema id"), "{}", letters[2].error);
    assert!(letters.iter().all(|letter| header(letter, TARGET_HEADER).is_empty()));
    assert!(text.contains("infertrace_delivery_unreadable_total 3"), "{text}");
}

/// Scenario: a group that never committed finds insights of ten minutes and of one minute ago; the process ends while the
/// target is down, and starts again an hour later.
/// Guarantee: the old one is not delivered; the young one is, for where the group starts is fixed at the first start.
#[tokio::test]
async fn a_new_group_starts_with_the_present_and_keeps_its_start() {
    let bench = Bench::new().await;
    let encoded = |id: &str| {
        let payload = SchemaIds::embedded::<Insight>().encode(&insight(id, 1, InsightState::Open));
        Bytes::from(payload.expect("encodes"))
    };
    bench.append(T0 - 600_000, Some(encoded("old"))).await;
    bench.append(T0 - 60_000, Some(encoded("young"))).await;
    let address = Receiver::nobody().await;
    let targets = vec![target("t", format!("http://{address}/"))];
    let running = bench.start(targets.clone()).await;
    bench.until_committed(1).await;
    running.kill().await;
    bench.clock.advance(3_600_000 * 1_000_000);
    let receiver = Receiver::on(address).await;
    let running = bench.start(targets).await;
    bench.until_committed(2).await;
    running.stop().await;
    let received = receiver.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("idempotency-key"), "young-1");
}

/// Scenario: a shutdown while a target has been asked and has not yet answered.
/// Guarantee: the answer is waited for and its position committed; nothing is sent again at the next start.
#[tokio::test]
async fn a_shutdown_lets_requests_finish() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    receiver.script([Answer::OnLeave]);
    let targets = vec![target("t", receiver.url())];
    let running = bench.start(targets.clone()).await;
    bench.put_open(1).await;
    receiver.until_count(1).await;
    running.shutdown.cancel();
    receiver.give_leave();
    running.stop().await;
    assert_eq!(bench.committed().await, Some(1));
    let running = bench.start(targets).await;
    bench.put(&insight("next", 1, InsightState::Open)).await;
    bench.until_committed(2).await;
    running.stop().await;
    assert_eq!(receiver.received().len(), 2);
}

/// Scenario: a target wants pages of one model; an insight of it starts as a page, is lowered to information, and is
/// over; others have another model or are never a page. Guarantee: the target hears of the first to its end and of nothing else;
/// what it does not want does not hold the position.
#[tokio::test]
async fn a_target_hears_the_end_of_what_it_heard_the_beginning_of() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let wishes = TargetConfig {
        min_severity: Severity::Page,
        models: vec!["lla*".to_owned()],
        ..target("t", receiver.url())
    };
    let running = bench.start(vec![wishes]).await;
    let page = Insight { severity: Severity::Page, ..insight("a", 1, InsightState::Open) };
    let information = Insight { severity: Severity::Info, ..insight("a", 2, InsightState::Updated) };
    let over = Insight { severity: Severity::Info, ..insight("a", 3, InsightState::Resolved) };
    let other =
        Insight { severity: Severity::Page, model: "tiny".to_owned(), ..insight("b", 1, InsightState::Open) };
    for insight in [&page, &other, &insight("c", 1, InsightState::Open), &information, &over] {
        bench.put(insight).await;
    }
    bench.until_committed(5).await;
    running.stop().await;
    let keys: Vec<_> =
        receiver.received().iter().map(|request| request.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys, ["a-1", "a-2", "a-3"]);
}

/// Scenario: an Alertmanager target hears of an insight, is told again and again, across a restart of the process; the
/// severity rises; the insight is over.
/// Guarantee: while open it is told without an end, also after the restart, from the topic alone; the alert with the old severity
/// ends in the request that begins the new one; at last it has an end, and only what is open is repeated.
#[tokio::test]
async fn alertmanager_is_told_again_until_it_is_over() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let url = format!("http://{}/", receiver.address);
    let alerts =
        vec![TargetConfig { kind: Kind::Alertmanager, resend_ms: 10, ..target("alertmanager", url) }];
    let running = bench.start(alerts.clone()).await;
    bench.put(&insight("a", 1, InsightState::Open)).await;
    bench.put(&insight("b", 1, InsightState::Open)).await;
    let both = |received: &[receiver::Received]| {
        received.iter().filter(|request| request.json().as_array().map(Vec::len) == Some(2)).count() >= 2
    };
    let received = receiver.until("both alerts, twice", both).await;
    assert!(received.iter().all(|request| request.path == "/api/v2/alerts"));
    assert!(received.iter().all(|request| request.json()[0].get("endsAt").is_none()));
    bench.until_committed(2).await;
    running.stop().await;

    let before = receiver.received().len();
    let running = bench.start(alerts).await;
    receiver.until("both alerts after a restart", |received| both(&received[before..])).await;

    let before = receiver.received().len();
    bench.put(&Insight { severity: Severity::Page, ..insight("a", 2, InsightState::Updated) }).await;
    let ended = |received: &[receiver::Received]| {
        let raised = received.iter().find(|request| request.header("idempotency-key") == "a-2")?;
        Some(raised.json())
    };
    let received = receiver.until("the page", |received| ended(&received[before..]).is_some()).await;
    let raised = ended(&received[before..]).expect("is there");
    assert_eq!(raised[0]["labels"]["severity"], "warning");
    assert_eq!(raised[0]["endsAt"], "2023-11-14T22:13:20.000Z");
    assert_eq!(raised[1]["labels"]["severity"], "page");
    assert!(raised[1].get("endsAt").is_none());

    bench.put(&Insight { severity: Severity::Page, ..insight("a", 3, InsightState::Resolved) }).await;
    bench.until_committed(4).await;
    let received = receiver.received();
    let over =
        received.iter().rposition(|request| request.header("idempotency-key") == "a-3").expect("is there");
    let told = &received[over].json()[0];
    assert_eq!(told["endsAt"], "2023-11-14T22:13:20.000Z");
    assert_eq!(told["labels"]["severity"], "page");
    let received = receiver.until_count(over + 4).await;
    running.stop().await;
    for request in &received[over + 1..] {
        let alerts = request.json();
        assert_eq!(alerts.as_array().map(Vec::len), Some(1), "{alerts:#}");
        assert_eq!(alerts[0]["labels"]["insight_id"], "b");
    }
}
