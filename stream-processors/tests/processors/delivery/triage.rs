//! What people muted or resolved is not delivered, and is once a mute ends.

use infertrace_schemas::avro::{Triage, TriageStatus};

use super::*;

const MINUTE: i64 = 60_000;

fn muted(id: &str, until_ms: i64) -> Triage {
    Triage {
        insight_id: id.to_owned(),
        muted_until_unix_nanos: Some(until_ms * 1_000_000),
        severity: Severity::Warning,
        decided_unix_nanos: (T0 - 1) * 1_000_000,
        ..Triage::default()
    }
}

fn resolved(id: &str) -> Triage {
    Triage { status: TriageStatus::Resolved, muted_until_unix_nanos: None, ..muted(id, 0) }
}

async fn decide(bench: &Bench, id: &str, triage: Option<Triage>) {
    let encode = |triage| SchemaIds::embedded::<Triage>().encode(&triage).expect("encodes").into();
    let record = NewRecord {
        to: TopicPartition::new(topics::TRIAGE, 0),
        key: Some(Bytes::copy_from_slice(id.as_bytes())),
        payload: triage.map(encode),
        headers: Vec::new(),
        timestamp: Millis(T0),
    };
    bench.log.append(record).expect("taken").await.expect("durable");
}

fn keys(received: &[receiver::Received]) -> Vec<String> {
    let mut keys: Vec<String> =
        received.iter().map(|request| request.header("idempotency-key").to_owned()).collect();
    keys.sort();
    keys
}

/// Scenario: before the start one insight is muted and one resolved by people; they and a third open, go on, and one of
/// them gets worse. Guarantee: only the third is told, and what got worse; positions move on past what is held back.
#[tokio::test]
async fn what_is_muted_is_not_told() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    decide(&bench, "muted", Some(muted("muted", T0 + MINUTE))).await;
    decide(&bench, "over", Some(resolved("over"))).await;
    let running = bench.start(vec![target("t", receiver.url())]).await;
    for revision in [1, 2] {
        let state = if revision == 1 { InsightState::Open } else { InsightState::Updated };
        for id in ["muted", "over", "plain"] {
            bench.put(&insight(id, revision, state)).await;
        }
    }
    bench.until_committed(6).await;
    assert_eq!(keys(&receiver.received()), ["plain-1", "plain-2"]);
    let worse = Insight { severity: Severity::Page, ..insight("over", 3, InsightState::Updated) };
    bench.put(&worse).await;
    bench.until_committed(7).await;
    let text = running.stop().await;
    assert_eq!(keys(&receiver.received()), ["over-3", "plain-1", "plain-2"]);
    assert!(text.contains(r#"outcome="muted"} 4"#), "{text}");
    assert_eq!(bench.letters().await, []);
}

/// Scenario: an insight opens and goes on while muted; the process restarts; the mute ends by the clock. The same where the
/// decision is taken back. The target hears of OPEN and RESOLVED alone. Guarantee: each is told once, in its latest
/// revision, since the target knows nothing of it yet; then its end is told.
#[tokio::test]
async fn after_the_mute_it_is_told() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let states = vec![InsightState::Open, InsightState::Resolved];
    let targets = vec![TargetConfig { states, ..target("t", receiver.url()) }];
    decide(&bench, "a", Some(muted("a", T0 + 200))).await;
    decide(&bench, "b", Some(muted("b", T0 + MINUTE))).await;
    let running = bench.start(targets.clone()).await;
    for id in ["a", "b"] {
        bench.put(&insight(id, 1, InsightState::Open)).await;
        bench.put(&insight(id, 2, InsightState::Updated)).await;
    }
    bench.until_committed(4).await;
    running.stop().await;
    let running = bench.start(targets).await;
    // Told by the second run: it has looked back.
    bench.put(&insight("c", 1, InsightState::Open)).await;
    receiver.until_count(1).await;
    decide(&bench, "b", None).await;
    receiver.until_count(2).await;
    assert_eq!(keys(&receiver.received()), ["b-2", "c-1"]);
    bench.clock.advance(200 * 1_000_000);
    receiver.until_count(3).await;
    for id in ["a", "b"] {
        bench.put(&insight(id, 3, InsightState::Resolved)).await;
    }
    bench.until_committed(7).await;
    running.stop().await;
    assert_eq!(keys(&receiver.received()), ["a-2", "a-3", "b-2", "b-3", "c-1"]);
}

/// Scenario: a target was told that an insight began; it is muted, goes on and ends. Another one opens muted and ends.
/// Guarantee: whoever holds the first for open is told that it is over, and of nothing between; of the second nobody hears.
#[tokio::test]
async fn the_end_is_told_to_who_knows_of_the_beginning() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let running = bench.start(vec![target("t", receiver.url())]).await;
    bench.put(&insight("known", 1, InsightState::Open)).await;
    receiver.until_count(1).await;
    bench.until_committed(1).await;
    decide(&bench, "unknown", Some(muted("unknown", T0 + MINUTE))).await;
    let later = Triage { decided_unix_nanos: (T0 + 1) * 1_000_000, ..muted("known", T0 + MINUTE) };
    decide(&bench, "known", Some(later)).await;
    // A decision is read a moment later than it is written: a restart has read it for certain.
    running.stop().await;
    let running = bench.start(vec![target("t", receiver.url())]).await;
    bench.put(&insight("known", 2, InsightState::Updated)).await;
    bench.put(&insight("known", 3, InsightState::Resolved)).await;
    bench.put(&insight("unknown", 1, InsightState::Open)).await;
    bench.put(&insight("unknown", 2, InsightState::Resolved)).await;
    bench.until_committed(5).await;
    running.stop().await;
    assert_eq!(keys(&receiver.received()), ["known-1", "known-3"]);
}

/// Scenario: a person resolves an insight; its detector finds it over too, and later it is back under the same id.
/// Guarantee: it is told when it is back.
#[tokio::test]
async fn what_comes_back_is_told() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    decide(&bench, "a", Some(resolved("a"))).await;
    let running = bench.start(vec![target("t", receiver.url())]).await;
    bench.put(&insight("a", 1, InsightState::Open)).await;
    bench.put(&insight("a", 2, InsightState::Resolved)).await;
    bench.put(&insight("a", 3, InsightState::Updated)).await;
    bench.until_committed(3).await;
    running.stop().await;
    assert_eq!(keys(&receiver.received()), ["a-3"]);
}

/// Scenario: an insight waits for a target that is down when it is muted; the target comes up, and another insight follows.
/// Guarantee: what was muted while it waited is not sent.
#[tokio::test]
async fn what_is_muted_while_it_waits_is_not_sent() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    receiver.default(Answer::Status(503));
    let running = bench.start(vec![target("t", receiver.url())]).await;
    bench.put(&insight("a", 1, InsightState::Open)).await;
    receiver.until_count(1).await;
    decide(&bench, "a", Some(muted("a", T0 + MINUTE))).await;
    // Held back, it is done with.
    bench.until_committed(1).await;
    receiver.default(Answer::Status(200));
    let before = receiver.received().len();
    bench.put(&insight("b", 1, InsightState::Open)).await;
    bench.until_committed(2).await;
    running.stop().await;
    assert_eq!(keys(&receiver.received()[before..]), ["b-1"]);
}

/// Scenario: Alertmanager holds an alert; the insight is muted; another alert stays. Guarantee: the muted one is not repeated
/// any more, so that Alertmanager ends it by its own clock, and is again once the decision is taken back.
#[tokio::test]
async fn a_muted_alert_is_not_repeated() {
    let bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let alerts = TargetConfig {
        kind: Kind::Alertmanager,
        resend_ms: 5,
        ..target("am", format!("http://{}", receiver.address))
    };
    let running = bench.start(vec![alerts]).await;
    bench.put_open(2).await;
    let repeated = |received: &[receiver::Received]| {
        received.last().map(|last| last.json().as_array().map_or(0, Vec::len))
    };
    receiver.until("both are repeated", |received| repeated(received) == Some(2)).await;
    decide(&bench, "i0", Some(muted("i0", T0 + MINUTE))).await;
    let received = receiver
        .until("one is repeated", |received| received.len() > 3 && repeated(received) == Some(1))
        .await;
    assert_eq!(received.last().expect("one").json()[0]["labels"]["insight_id"], "i1");
    decide(&bench, "i0", None).await;
    receiver.until("both are repeated again", |received| repeated(received) == Some(2)).await;
    running.stop().await;
}
