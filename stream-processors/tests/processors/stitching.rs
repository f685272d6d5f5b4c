//! Stitching over an in-memory log with faults.

use std::sync::Arc;

use crate::support::{FakeLog, Fault, running::Running};
use bytes::Bytes;
use infertrace_analytics::stitch::{Role, Sighting};
use infertrace_processors::{
    Deps,
    stitching::{Config, SightingWriter, build},
};
use infertrace_runtime::{
    clock::ManualClock,
    log::{Millis, NewRecord, TopicPartition},
    telemetry::MetricsRegistry,
};
use infertrace_schemas::{
    avro::{RequestLink, SchemaIds},
    topics,
};

const GROUP: &str = "infertrace-stitching";
const T0: i64 = 1_700_000_000_000;
const PARTITIONS: u32 = 2;
const STEP_MS: i64 = 3_000;
const STEPS: i64 = 60;

fn config() -> Config {
    Config {
        instance_id: "test".to_owned(),
        window_ms: 12_000,
        idle_ms: 4_000,
        late_ms: 9_000,
        expect_ms: 30_000,
        commit_interval_ms: 0,
        position_commit_ms: 0,
        end_check_ms: 1,
        retry_ms: 1,
        ..Config::default()
    }
}

async fn start(log: &FakeLog) -> Running {
    let mut metrics = MetricsRegistry::default();
    let clock = Arc::new(ManualClock::new(T0 * 1_000_000));
    let deps = Deps { log: Arc::new(log.clone()), clock, metrics: &mut metrics };
    let service = build(config(), deps).await.expect("a valid configuration");
    Running::spawn(|shutdown| service.run(shutdown))
}

fn sighting(role: Role, number: i64, trace: u8) -> Sighting {
    let start_ns = (T0 + number * STEP_MS) * 1_000_000;
    Sighting {
        start_ns,
        trace_id: [trace; 16],
        span_id: (number as u64 * 3 + role as u64 + 1).to_be_bytes(),
        role,
        end_ns: start_ns + 1_000_000_000,
        is_error: false,
        has_parent: false,
        tenant: "".into(),
        request: format!("chatcmpl-{number}").into(),
        service: if role == Role::Engine { "vllm" } else { "shop" }.into(),
        model: if role == Role::Engine { "" } else { "llama" }.into(),
        prompt_tokens: None,
    }
}

/// Every step a client's request, whose engine's span comes in time, late, or, every fifth time, never.
fn fill(log: &FakeLog) {
    let mut writer = SightingWriter::new(0, PARTITIONS);
    for step in 0..STEPS {
        writer.push(&sighting(Role::Client, step, 1));
        for number in [step - 1, step - 6] {
            let is_late = number % 7 == 0;
            if number >= 0 && number % 5 != 4 && is_late == (number == step - 6) {
                writer.push(&sighting(Role::Engine, number, 2));
            }
        }
        let at = Millis(T0 + step * STEP_MS);
        writer.records(at, true).into_iter().for_each(|record| log.put_record(record));
    }
}

fn links(log: &FakeLog) -> Vec<RequestLink> {
    let ids = SchemaIds::embedded::<RequestLink>();
    log.records(topics::LINKS)
        .iter()
        .map(|record| {
            let link: RequestLink =
                ids.decode(record.payload.as_deref().expect("a value")).expect("own bytes");
            assert_eq!(record.key.as_deref(), Some(link.id.as_bytes()));
            link
        })
        .collect()
}

async fn all_read(log: &FakeLog) {
    log.until("every partition is read", |log| {
        (0..PARTITIONS).all(|partition| {
            let of_partition = |record: &&infertrace_runtime::log::Record| record.from.partition == partition;
            let end = log.records(topics::REQUESTS).iter().filter(of_partition).count() as u64;
            log.committed_in(topics::REQUESTS, GROUP, partition) == Some(end)
        })
    })
    .await;
}

async fn undisturbed() -> (Vec<RequestLink>, u64) {
    let log = FakeLog::new(PARTITIONS);
    fill(&log);
    let running = start(&log).await;
    all_read(&log).await;
    let calls = log.calls();
    running.stop().await;
    (links(&log), calls)
}

/// Scenario: requests of which some engines report late and some never. Guarantee: each request is told by its right kind; what
/// came late corrects what was told as unreported.
#[tokio::test]
async fn requests_become_links() {
    let (links, _) = undisturbed().await;
    let of = |number: i64| {
        let id = format!("/chatcmpl-{number}");
        let found = links.iter().filter(|link| link.id == id);
        found.map(|link| (link.version, link.kind.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(of(1), [(1, "linked")]);
    assert_eq!(of(9), [(1, "unreported")]);
    assert_eq!(of(21), [(1, "unreported"), (2, "linked")]);
    let link = links.iter().find(|link| link.id == "/chatcmpl-1").expect("told");
    let members: Vec<_> =
        link.members.iter().map(|member| (member.role.as_str(), member.service.as_str())).collect();
    assert_eq!(members, [("client", "shop"), ("engine", "vllm")]);
}

/// Scenario: the service is interrupted at every single call of the log, by a fault that passes, by another member that takes
/// over, by a commit of which nobody knows the outcome. Guarantee: the links are those of an undisturbed run, each
/// once, in its order.
#[tokio::test]
async fn faults_change_nothing() {
    let (expected, calls) = undisturbed().await;
    assert!(calls > 100, "{calls}");
    for fault in [Fault::Unavailable, Fault::Fenced, Fault::AmbiguousAfter] {
        // Every call of a few, spread over all.
        for call in (0..calls).step_by(7) {
            let log = FakeLog::new(PARTITIONS);
            fill(&log);
            log.fail(call, fault);
            let mut running = start(&log).await;
            tokio::select! {
                () = all_read(&log) => {}
                ended = &mut running.task => panic!("{fault:?} at call {call}: {ended:?}"),
            }
            running.stop().await;
            assert_eq!(links(&log), expected, "{fault:?} at call {call}");
        }
    }
}

/// Scenario: killed and started again and again while sightings come. Guarantee: as without.
#[tokio::test]
async fn kills_change_nothing() {
    let (expected, calls) = undisturbed().await;
    let log = FakeLog::new(PARTITIONS);
    fill(&log);
    for stop in 1..12 {
        let running = start(&log).await;
        log.until("some calls more", |log| log.calls() >= stop * calls / 12).await;
        running.kill().await;
    }
    let running = start(&log).await;
    all_read(&log).await;
    running.stop().await;
    assert_eq!(links(&log), expected);
}

/// Scenario: a record that is no batch of sightings. Guarantee: it is in the dead-letter topic once, and the partition
/// goes on.
#[tokio::test]
async fn poison_goes_to_the_dead_letters() {
    let (expected, _) = undisturbed().await;
    let log = FakeLog::new(PARTITIONS);
    log.put_record(NewRecord {
        to: TopicPartition::new(topics::REQUESTS, 0),
        key: None,
        payload: Some(Bytes::from_static(b"\xff\xffnot a batch")),
        headers: Vec::new(),
        timestamp: Millis(T0),
    });
    fill(&log);
    let running = start(&log).await;
    all_read(&log).await;
    running.kill().await;
    let running = start(&log).await;
    all_read(&log).await;
    running.stop().await;
    assert_eq!(links(&log), expected);
    let letters = log.records(topics::DLQ);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].payload.as_deref(), Some(b"\xff\xffnot a batch".as_slice()));
}
