//! Crashes, zombies, lost answers: the lake ends as if nothing had happened.

use std::sync::Arc;

use infertrace_runtime::clock::ManualClock;

use crate::support::*;

/// More puts than any of these scenarios makes.
const ALL_PUTS: usize = 40;

/// Scenario: the process dies before or after its n-th put, for every n; a new one takes over.
/// Guarantee: every span exactly once, no partial file, one live file a start offset and date.
#[tokio::test]
async fn a_crash_at_any_put_loses_and_doubles_nothing() {
    for mishap in [Mishap::HangBefore, Mishap::HangAfter] {
        let mut crashes = 0;
        for put in 0..ALL_PUTS {
            let (log, store) = (FakeLog::new(2), memory());
            let spans = fill(&log, 2, 5);
            let faulty = FaultyStore::new(Arc::clone(&store), Some((put..put + 1, mishap)));
            let clock = ManualClock::new(NOON_NS);
            let first = start(&log, faulty.clone(), config(), &clock).await;
            log.until_read().await;
            // Either the put is met now, or while draining, or there are fewer puts.
            tokio::select! {
                () = faulty.until_met() => { crashes += 1; first.kill().await }
                () = log_is_written(&log, 2) => first.finish_or_kill(&faulty, &mut crashes).await,
            }
            run_to_end(&log, Arc::clone(&store), config()).await;
            assert_lake_holds(&*store, 0..spans).await;
        }
        // 2 partitions, 3 ranges each of 1 plan, 2 dates and 1 manifest.
        assert_eq!(crashes, 24, "{mishap:?}");
    }
}

/// Both full ranges of each partition are committed.
async fn log_is_written(log: &FakeLog, partitions: u32) {
    while (0..partitions).any(|partition| log.committed_offset(partition) != Some(4)) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

impl Running {
    /// Drains it; when that meets the mishap, kills it.
    async fn finish_or_kill(self, faulty: &FaultyStore, crashes: &mut usize) {
        let task = self.task.abort_handle();
        let mut finished = std::pin::pin!(self.finish());
        tokio::select! {
            () = faulty.until_met_or_never() => {
                *crashes += 1;
                task.abort();
            }
            () = &mut finished => {}
        }
    }
}

/// Scenario: an instance is stopped at its n-th put (any n), another takes over and finishes, then the
/// first goes on. Guarantee: what the zombie does changes nothing.
#[tokio::test]
async fn a_zombie_changes_nothing() {
    for put in 0..12 {
        let (log, store) = (FakeLog::new(1), memory());
        let spans = fill(&log, 1, 5);
        let faulty = FaultyStore::new(Arc::clone(&store), Some((put..put + 1, Mishap::Gate)));
        let clock = ManualClock::new(NOON_NS);
        let zombie = start(&log, faulty.clone(), config(), &clock).await;
        log.until_read().await;
        if put >= 8 {
            // The third range is only due by age.
            clock.advance(3_600_000_000_000);
        }
        faulty.until_met().await;
        // It cuts elsewhere, so it must follow the zombie's plan where there is one.
        let other = infertrace_sinks::Config { target_rows: 4, ..config() };
        run_to_end(&log, Arc::clone(&store), other).await;
        let before = objects(&*store, "lake").await;
        faulty.open_gate();
        zombie.finish().await;
        let after = objects(&*store, "lake").await;
        assert_lake_holds(&*store, 0..spans).await;
        let of_lake = |objects: &[(String, bytes::Bytes)]| -> Vec<(String, bytes::Bytes)> {
            objects.iter().filter(|(path, _)| !path.contains("_plans")).cloned().collect()
        };
        assert!(of_lake(&before) == of_lake(&after), "put {put}");
    }
}

/// Scenario: two instances own the same partitions all the time and cut differently.
/// Guarantee: they agree on every range; every span exactly once.
#[tokio::test]
async fn two_owners_agree() {
    for round in 0..8u64 {
        let (log, store) = (FakeLog::new(2), memory());
        let spans = fill(&log, 2, 9);
        let clock = ManualClock::new(NOON_NS);
        let other =
            infertrace_sinks::Config { target_rows: 4 + round * 4, max_poll_bytes: 1_024, ..config() };
        let (one, two) = tokio::join!(
            start(&log, Arc::clone(&store), config(), &clock),
            start(&log, Arc::clone(&store), other, &clock)
        );
        log.until_read().await;
        tokio::join!(one.finish(), two.finish());
        run_to_end(&log, Arc::clone(&store), config()).await;
        assert_lake_holds(&*store, 0..spans).await;
    }
}

/// Scenario: each put fails once, or is stored while its answer is lost. Guarantee: repeated and recognised
/// as our own; the lake is whole without a restart.
#[tokio::test]
async fn failed_puts_and_lost_answers_are_repeated() {
    for mishap in [Mishap::Fail, Mishap::LoseAnswer] {
        for put in 0..12 {
            let (log, store) = (FakeLog::new(1), memory());
            let spans = fill(&log, 1, 5);
            let faulty = FaultyStore::new(Arc::clone(&store), Some((put..put + 1, mishap)));
            run_to_end(&log, faulty.clone(), config()).await;
            assert_eq!(faulty.puts(), 13, "one put repeated");
            assert_lake_holds(&*store, 0..spans).await;
        }
    }
}

/// Scenario: a plan without a manifest lies in the lake, cutting later than the sink would.
/// Guarantee: it is repeated exactly.
#[tokio::test]
async fn an_open_plan_is_followed() {
    let (log, store) = (FakeLog::new(1), memory());
    let spans = fill(&log, 1, 5);
    let faulty = FaultyStore::new(Arc::clone(&store), Some((1..2, Mishap::HangBefore)));
    let clock = ManualClock::new(NOON_NS);
    let large = infertrace_sinks::Config { target_rows: 14, ..config() };
    let first = start(&log, faulty.clone(), large, &clock).await;
    faulty.until_met().await;
    first.kill().await;
    run_to_end(&log, Arc::clone(&store), infertrace_sinks::Config { target_rows: 4, ..config() }).await;
    let ranges: Vec<(u64, u64)> = manifests(&*store).await.iter().map(|one| (one.start, one.next)).collect();
    assert_eq!(ranges, [(0, 4), (4, 5)]);
    assert_lake_holds(&*store, 0..spans).await;
}

/// Scenario: the same log written twice, polled in other portions. Guarantee: byte-identical lakes.
#[tokio::test]
async fn the_same_range_gives_the_same_bytes() {
    let log = FakeLog::new(2);
    fill(&log, 2, 7);
    let (one, two) = (memory(), memory());
    run_to_end(&log, Arc::clone(&one), config()).await;
    run_to_end(&log, Arc::clone(&two), infertrace_sinks::Config { max_poll_bytes: 1_024, ..config() }).await;
    let (one, two) = (objects(&*one, "lake").await, objects(&*two, "lake").await);
    assert_eq!(one.len(), 4 * (3 + 1) * 2);
    assert!(one == two, "byte-identical");
}
