//! Refusals, damage, retention, memory: what the sink does when it cannot simply go on.

use std::sync::Arc;

use infertrace_runtime::clock::ManualClock;
use infertrace_schemas::lake::{LakeRoot, LostRange};
use infertrace_sinks::Config;
use object_store::{ObjectStoreExt as _, path::Path};

use crate::support::*;

/// Scenario: the store answers 403 until somebody repairs the rights. Guarantee: an alarm while it lasts,
/// nothing lost, the sink goes on by itself.
#[tokio::test]
async fn refused_access_raises_an_alarm_and_heals() {
    let (log, store) = (FakeLog::new(1), memory());
    let spans = fill(&log, 1, 5);
    let faulty = FaultyStore::new(Arc::clone(&store), Some((2..usize::MAX, Mishap::Refuse)));
    let running = start(&log, faulty.clone(), config(), &ManualClock::new(NOON_NS)).await;
    log.until_read().await;
    running.until_metric("infertrace_parquet_sink_refused_operations ", 1.0).await;
    faulty.heal();
    running.until_metric("infertrace_parquet_sink_refused_operations ", 0.0).await;
    running.finish().await;
    assert_lake_holds(&*store, 0..spans).await;
}

/// Scenario: a manifest is torn, then restored. Guarantee: the partition halts with an alarm and writes
/// nothing meanwhile, the other partition goes on; after the repair all is there once.
#[tokio::test]
async fn a_torn_manifest_halts_its_partition_only() {
    let (log, store) = (FakeLog::new(2), memory());
    fill(&log, 2, 4);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let torn = Path::from(LakeRoot::new("lake").manifest(0, 2));
    let whole = store.get(&torn).await.expect("get").bytes().await.expect("bytes");
    store.put(&torn, whole.slice(..whole.len() / 2).into()).await.expect("tear");
    log.put(0, record(900, 100..104, |_| NOON_NS));
    log.put(1, record(901, 104..108, |_| NOON_NS));

    let clock = ManualClock::new(NOON_NS);
    let running = start(&log, Arc::clone(&store), config(), &clock).await;
    running.until_metric("infertrace_parquet_sink_halted_partitions ", 1.0).await;
    clock.advance(3_600_000_000_000);
    running.until_metric("infertrace_parquet_sink_rows_total ", 4.0).await;
    store.put(&torn, whole.into()).await.expect("repair");
    log.forget_reads();
    clock.advance(3_600_000_000_000);
    running.until_metric("infertrace_parquet_sink_halted_partitions ", 0.0).await;
    running.finish().await;
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, (0..32).chain(100..108)).await;
}

/// Scenario: the topic was deleted and created anew, the lake is that of the old one.
/// Guarantee: refused, nothing is mixed into the old lake.
#[tokio::test]
async fn a_recreated_topic_is_refused() {
    let store = memory();
    let old = FakeLog::new(1);
    let spans = fill(&old, 1, 4);
    run_to_end(&old, Arc::clone(&store), config()).await;
    let new = FakeLog::new(1);
    new.put(0, record(7, 500..504, |_| NOON_NS));
    let running = start(&new, Arc::clone(&store), config(), &ManualClock::new(NOON_NS)).await;
    running.until_metric("infertrace_parquet_sink_halted_partitions ", 1.0).await;
    running.finish().await;
    assert_lake_holds(&*store, 0..spans).await;
}

/// Scenario: retention removes records before the sink reads them. Guarantee: counted, written down in the
/// manifest, and the rest goes on.
#[tokio::test]
async fn what_retention_took_is_counted() {
    let (log, store) = (FakeLog::new(1), memory());
    fill(&log, 1, 4);
    run_to_end(&log, Arc::clone(&store), config()).await;
    for index in 0..3 {
        log.put(0, record(50 + index, 200 + index as u64 * 4..204 + index as u64 * 4, |_| NOON_NS));
    }
    log.retain_from(0, 6);
    let running = start(&log, Arc::clone(&store), config(), &ManualClock::new(NOON_NS)).await;
    running.until_metric("infertrace_parquet_sink_lost_records_total ", 2.0).await;
    log.until_read().await;
    running.finish().await;
    assert_lake_holds(&*store, (0..16).chain(208..212)).await;
    let last = manifests(&*store).await.pop().expect("manifests");
    assert_eq!((last.start, last.next, last.lost), (4, 7, vec![LostRange { from: 4, to: 6 }]));
}

/// Scenario: the lake is younger than the log. Guarantee: it begins with what is left, and that is no loss.
#[tokio::test]
async fn a_young_lake_begins_at_what_is_left() {
    let (log, store) = (FakeLog::new(1), memory());
    fill(&log, 1, 4);
    log.retain_from(0, 3);
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 12..16).await;
    let first = manifests(&*store).await.remove(0);
    assert_eq!((first.start, first.next, first.lost.len()), (0, 4, 0));
}

/// Scenario: the store hangs while the log is full of records. Guarantee: reading stops at the memory
/// budget; when the store is back everything is written.
#[tokio::test]
async fn memory_stays_within_the_budget() {
    let (log, store) = (FakeLog::new(2), memory());
    let spans = fill(&log, 2, 2_000);
    let faulty = FaultyStore::new(Arc::clone(&store), Some((0..usize::MAX, Mishap::Gate)));
    let budget = 64 << 10;
    let config =
        Config { memory_budget_bytes: budget, max_poll_bytes: 4 << 10, target_rows: 1_000, ..config() };
    let running = start(&log, faulty.clone(), config, &ManualClock::new(NOON_NS)).await;
    faulty.until_met().await;
    running.until_metric("infertrace_parquet_sink_paused ", 1.0).await;
    log.until_paused().await;
    assert!(log.delivered_bytes() <= budget + (4 << 10), "{}", log.delivered_bytes());
    assert!(running.metric("infertrace_parquet_sink_buffered_bytes ") <= (budget + (16 << 10)) as f64);
    faulty.open_gate();
    log.until_read().await;
    running.finish().await;
    assert_lake_holds(&*store, 0..spans).await;
}

/// Scenario: nothing more arrives and the range is small. Guarantee: it is written when its oldest record
/// has waited `flush_interval_ms`, and the group's position follows.
#[tokio::test]
async fn an_idle_partition_is_flushed_by_age() {
    let (log, store) = (FakeLog::new(1), memory());
    let spans = fill(&log, 1, 1);
    let clock = ManualClock::new(NOON_NS);
    let running = start(&log, Arc::clone(&store), config(), &clock).await;
    log.until_read().await;
    clock.advance(61_000_000_000);
    running.until_metric("infertrace_parquet_sink_manifests_total ", 1.0).await;
    assert_lake_holds(&*store, 0..spans).await;
    running.finish().await;
    assert_eq!(log.committed_offset(0), Some(1));
}

/// Scenario: settings out of bounds. Guarantee: refused with the name and the bounds.
#[test]
fn bad_settings_are_refused() {
    let refused = Config { target_bytes: 1 << 40, ..Config::default() }.validate().expect_err("too large");
    assert!(refused.contains("target_bytes") && refused.contains("536870912"), "{refused}");
    Config::default().validate().expect("the defaults are fine");
}
