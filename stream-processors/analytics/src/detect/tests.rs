//! Each detector through the whole analyst: what it has to find, and what it has to leave alone.

use crate::{
    output::State,
    testing::{Conduct, HEALTHY, Story},
};

/// Runs a story after 100 healthy windows; returns kind, first cause and what to do.
fn found(windows: usize, devices: &[Conduct]) -> (String, String, String) {
    let mut story = Story::warm();
    story.run(windows, devices);
    let (insight, cause) = story.only();
    let text = insight.recommendation.as_ref().map_or(String::new(), |one| one.text.clone());
    (insight.kind.clone(), cause.to_owned(), text)
}

/// What is found when all three devices conduct themselves so.
fn found_on_all(conduct: Conduct) -> (String, String, String) {
    found(20, &[conduct; 3])
}

fn names(found: &(String, String, String)) -> (&str, &str) {
    (&found.0, &found.1)
}

/// Scenario: all GPUs throttle, tokens take longer. Guarantee: throttling, by the GPU, with both clocks in the sentence.
#[test]
fn throttling_is_found() {
    let hot = Conduct { clock_mhz: 800, throttled: true, tpot_us: 26_000, ..HEALTHY };
    let found = found_on_all(hot);
    assert_eq!(names(&found), ("throttling", "gpu"));
    assert!(found.2.contains("800 MHz instead of 1410 MHz"), "{}", found.2);
}

/// Scenario: a throttle reason without a loss of clock, as a power cap at full load. Guarantee: nothing.
#[test]
fn a_power_cap_is_no_throttling() {
    let mut story = Story::warm();
    story.run(30, &[Conduct { throttled: true, ..HEALTHY }; 3]);
    assert!(story.insights.is_empty());
}

/// Scenario: one of three devices is slow. Guarantee: a straggler, by its host, and the device is named.
#[test]
fn a_straggler_is_found() {
    let found = found(20, &[Conduct { tpot_us: 40_000, ..HEALTHY }, HEALTHY, HEALTHY]);
    assert_eq!(names(&found), ("straggler", "host"));
    assert!(found.2.starts_with("Drain device GPU-0"), "{}", found.2);
}

/// Scenario: a device that has been slower than its peers from the start, for hours. Guarantee: that is how it is.
#[test]
fn an_old_slower_gpu_is_no_straggler() {
    let mut story = Story::new(crate::config::AnalystConfig::default());
    let old = Conduct { tpot_us: 21_000, ..HEALTHY };
    story.run(400, &[old, HEALTHY, HEALTHY]);
    assert!(story.insights.is_empty(), "{:?}", story.insights.first().map(|one| &one.title));
}

/// Scenario: hits fall from 60 % to 5 %. Guarantee: the cache, with both ratios.
#[test]
fn a_cold_cache_is_found() {
    let found = found_on_all(Conduct { hit_permille: 50, ..HEALTHY });
    assert_eq!(names(&found), ("cache", "cache"));
    assert!(found.2.contains("from 60 % to 5 %"), "{}", found.2);
}

/// Scenario: batches of 2 of 32 while a dozen requests wait; then the same batches without a queue. Guarantee: small
/// batches in the first, nothing in the second.
#[test]
fn small_batches_need_a_queue() {
    let small = Conduct { batch: 2, waiting: 12, queue_us: 5_000_000, ..HEALTHY };
    let found = found_on_all(small);
    assert_eq!(names(&found), ("small_batches", "batch"));
    assert!(found.2.contains("averages batch 2 of 32 while 12 requests wait"), "{}", found.2);
    let mut story = Story::warm();
    story.run(30, &[Conduct { batch: 2, ..HEALTHY }; 3]);
    assert!(story.insights.is_empty());
}

/// Scenario: GPUs are 20 % busy with eight requests in flight each, and tokens are slow. Guarantee: idle GPUs.
#[test]
fn starved_gpus_are_found() {
    let found = found_on_all(Conduct { busy_permille: 200, tpot_us: 65_000, ..HEALTHY });
    assert_eq!(names(&found), ("gpu_idle", "gpu"));
    assert!(found.2.contains("20 % busy (normally 90 %) with 8 requests in flight"), "{}", found.2);
}

/// Scenario: nearly a third of the requests fail everywhere. Guarantee: errors, at the first window, as a warning.
#[test]
fn errors_are_found_at_once() {
    let mut story = Story::warm();
    story.run(2, &[Conduct { failing: 9, ..HEALTHY }; 3]);
    let (insight, cause) = story.only();
    assert_eq!((insight.kind.as_str(), cause), ("errors", "errors"));
    assert_eq!(insight.opened_ms, insight.window_start_ms + 10_000);
}

/// Scenario: one device gets another version, with slower tokens and failures. Guarantee: the version, once: its
/// failures are no second insight.
#[test]
fn a_bad_version_is_one_insight() {
    let canary = Conduct { version: "2", tpot_us: 30_000, failing: 6, ..HEALTHY };
    let found = found(30, &[canary, HEALTHY, HEALTHY]);
    assert_eq!(found.1, "version");
    assert!(found.2.contains("back from 2 to 1"), "{}", found.2);
}

/// Scenario: four times the requests, and they wait. Guarantee: traffic, by its cause.
#[test]
fn a_flood_is_found() {
    let found = found_on_all(Conduct {
        requests: 120,
        queue_us: 3_000_000,
        batch: 28,
        waiting: 20,
        running: 28,
        ..HEALTHY
    });
    assert_eq!(found.1, "traffic");
    assert!(found.2.contains("36.0 requests a second instead of 9.0"), "{}", found.2);
}

/// Scenario: nothing is reported any more, while time goes on; and requests stop though engines send readings.
/// Guarantee: silence in the first, over when reports return; nothing in the second.
#[test]
fn silence_is_not_idleness() {
    let mut story = Story::warm();
    story.run(8, &[Conduct { requests: 0, reads: false, ..HEALTHY }; 3]);
    assert_eq!(story.only().0.kind, "silence");
    story.run(4, &[HEALTHY; 3]);
    assert_eq!(story.only().0.state, State::Resolved);
    let mut story = Story::warm();
    story.run(30, &[Conduct { requests: 0, ..HEALTHY }; 3]);
    assert!(story.insights.is_empty());
}

/// Scenario: every second minute is quiet, for long. Guarantee: after some pauses they are known.
#[test]
fn pauses_become_usual() {
    let mut story = Story::new(crate::config::AnalystConfig::default());
    let quiet = Conduct { requests: 0, reads: false, ..HEALTHY };
    for _ in 0..12 {
        story.run(6, &[HEALTHY; 3]);
        story.run(6, &[quiet; 3]);
    }
    let told = story.insights.len();
    for _ in 0..12 {
        story.run(6, &[HEALTHY; 3]);
        story.run(6, &[quiet; 3]);
    }
    let later: Vec<&str> = story.insights[told..].iter().map(|one| one.kind.as_str()).collect();
    assert!(!later.contains(&"silence"), "{later:?}");
}

/// Scenario: an incident inside a muted window that outlasts it. Guarantee: told when the mute ends.
#[test]
fn a_muted_incident_is_told_afterwards() {
    let from_ms = crate::testing::START;
    let to_ms = from_ms + 110 * 10_000;
    let mute = crate::config::Mute { tenant: None, model: None, kind: None, from_ms, to_ms };
    let mut story = Story::new(crate::config::AnalystConfig { mutes: vec![mute], ..Default::default() });
    story.run(100, &[HEALTHY; 3]);
    story.run(20, &[Conduct { failing: 9, ..HEALTHY }; 3]);
    assert_eq!(story.only().0.opened_ms, to_ms);
}
