//! Compaction: the same spans in fewer files, whatever dies in between, whoever reads meanwhile, whoever else compacts.

use std::sync::Arc;

use infertrace_runtime::{clock::ManualClock, telemetry::MetricsRegistry};
use infertrace_schemas::{
    lake::{LakeRoot, compaction::Compaction},
    topics,
};
use infertrace_sinks::{
    audit::{self, Options, PartitionReport},
    compact::{self, Compactor, Pass, Retention, Settings},
    open_store,
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use proptest::prelude::*;

use crate::{dying::DyingStore, lake::*, shared::start_over_two_days, support::*};

/// Scenario: files of two partitions and dates. Guarantee: few files with the same spans, sorted in row groups, no larger
/// together; the second time nothing is due; after the grace the glob sees each span once; the audit agrees throughout.
#[tokio::test]
async fn small_files_become_one() {
    let (log, store) = (FakeLog::new(2), memory());
    let spans = fill(&log, 2, 16);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let before = live_files(&store).await;
    let clock = ManualClock::new(NOON_NS);
    let pass = compact(&store, &clock).await;
    assert_eq!((pass.steps.len(), pass.removed), (4, 0), "{pass:?}");
    assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
    let after = live_files(&store).await;
    assert_eq!((before.len(), after.len()), (32, 4));
    let bytes = |files: &[infertrace_schemas::lake::live::LiveFile]| {
        files.iter().map(|file| file.data.bytes).sum::<u64>()
    };
    assert!(bytes(&after) <= bytes(&before));
    assert_audit_is_clean(&log, &store, 0).await;
    let again = compact(&store, &clock).await;
    assert!(again.steps.is_empty() && again.removed == 0, "{again:?}");
    clock.advance(GRACE_NS);
    assert_eq!(compact(&store, &clock).await.removed, 32);
    assert_glob_is_live(&store).await;
    assert_audit_is_clean(&log, &store, 0).await;
    // The sink goes on where it was, late data included.
    log.put(0, record(1 << 90, spans..spans + 4, start_over_two_days));
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_eq!(live_spans(&store).await, (0..spans + 4).collect::<Vec<_>>());
    assert_audit_is_clean(&log, &store, 0).await;
}

/// Scenario: the process dies before or after its n-th change of the store, for every n, while it merges and while it removes;
/// another takes over. Guarantee: readers see every span once at every moment, and the lake ends as if nothing had
/// happened, byte for byte.
#[tokio::test]
async fn a_crash_at_any_change_is_repeated() {
    let (log, made) = (FakeLog::new(2), memory());
    let spans: Vec<u64> = (0..fill(&log, 2, 12)).collect();
    run_to_end(&log, Arc::clone(&made), config()).await;
    let run = async |store: Arc<dyn ObjectStore>| {
        let clock = ManualClock::new(NOON_NS);
        let mut compactor = compactor(store, &clock, Settings::from(&compacting()));
        compactor.pass().await?;
        clock.advance(GRACE_NS);
        compactor.pass().await
    };
    let expected = copy_of(&made).await;
    run(Arc::clone(&expected)).await.expect("nothing dies");
    let expected = objects(&*expected, "lake/spans").await;
    assert_eq!(expected.len(), 4);
    for after in [false, true] {
        let mut crashes = 0;
        for change in 0.. {
            let store = copy_of(&made).await;
            let dying = DyingStore::new(Arc::clone(&store), change, after);
            let outcome = run(dying.clone()).await;
            if !dying.is_dead() {
                break;
            }
            assert!(outcome.is_err(), "change {change}");
            crashes += 1;
            assert_eq!(live_spans(&store).await, spans, "after the crash at change {change}");
            run(Arc::clone(&store)).await.expect("nothing dies any more");
            // What the first had merged may still be in its grace.
            let clock = ManualClock::new(NOON_NS + 3 * GRACE_NS);
            compact(&store, &clock).await;
            assert_eq!(live_spans(&store).await, spans, "change {change}");
            assert!(objects(&*store, "lake/spans").await == expected, "change {change}");
        }
        // Four times plan, file and record, then the files of 12 / 2 ranges at two dates in two partitions.
        assert_eq!(crashes, 4 * 3 + 24, "after: {after}");
    }
}

/// Scenario: a reader holds the list of files from before a compaction. Guarantee: until the grace is over it finds them all.
#[tokio::test]
async fn readers_keep_their_files() {
    let (log, store) = (FakeLog::new(1), memory());
    fill(&log, 1, 12);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let held = live_files(&store).await;
    let clock = ManualClock::new(NOON_NS);
    compact(&store, &clock).await;
    clock.advance(GRACE_NS - 1_000_000);
    compact(&store, &clock).await;
    for file in &held {
        store.head(&Path::from(format!("lake/{}", file.data.path))).await.expect("still there");
    }
    clock.advance(1_000_000);
    compact(&store, &clock).await;
    for file in &held {
        assert!(store.head(&Path::from(format!("lake/{}", file.data.path))).await.is_err());
    }
}

/// Scenario: two compactors work at once, each taking the other's plans over at once; then one that waits for the other.
/// Guarantee: they agree; every span once; the one that waits does nothing.
#[tokio::test]
async fn two_compactors_agree() {
    for round in 0..8 {
        let (log, store) = (FakeLog::new(2), memory());
        let spans = fill(&log, 2, 12 + round);
        run_to_end(&log, Arc::clone(&store), config()).await;
        let clock = ManualClock::new(NOON_NS);
        let mut one = compactor(Arc::clone(&store), &clock, Settings::from(&compacting()));
        let mut two = compactor(Arc::clone(&store), &clock, Settings::from(&compacting()));
        let (first, second) = tokio::join!(one.pass(), two.pass());
        first.and(second).expect("both go on");
        compact(&store, &clock).await;
        assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
        assert_audit_is_clean(&log, &store, 0).await;
    }
    let (log, made) = (FakeLog::new(1), memory());
    fill(&log, 1, 12);
    run_to_end(&log, Arc::clone(&made), config()).await;
    let clock = ManualClock::new(NOON_NS);
    let dying = DyingStore::new(Arc::clone(&made), 1, false);
    compactor(dying, &clock, Settings::from(&compacting())).pass().await.expect_err("it dies after its plan");
    let patient = compact::Config { takeover_ms: 5_000, ..compacting().compaction };
    let settings = Settings { compaction: patient, ..Settings::from(&compacting()) };
    let mut waiting = compactor(Arc::clone(&made), &clock, settings);
    let pass = waiting.pass().await.expect("a look");
    assert!(pass.busy && pass.steps.is_empty(), "{pass:?}");
    clock.advance(5_000_000_000);
    let pass = waiting.pass().await.expect("a look");
    assert!(!pass.busy && pass.steps.len() == 2, "{pass:?}");
}

/// Scenario: one data file is torn, one gone, one full of noise inside. Guarantee: they are left alone and named, the others are merged; what
/// was readable stays so.
#[tokio::test]
async fn what_cannot_be_read_is_left_alone() {
    let (log, store) = (FakeLog::new(1), memory());
    fill(&log, 1, 40);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let files = live_files(&store).await;
    let path = |index: usize| Path::from(format!("lake/{}", files[index].data.path));
    store.put(&path(3), "torn".into()).await.expect("overwritten");
    store.delete(&path(8)).await.expect("deleted");
    let mut noisy = store.get(&path(12)).await.expect("get").bytes().await.expect("bytes").to_vec();
    let data = noisy.len() / 2;
    noisy[8..data].fill(0x5a);
    store.put(&path(12), noisy.into()).await.expect("overwritten");
    let clock = ManualClock::new(NOON_NS);
    for _ in 0..4 {
        compact(&store, &clock).await;
    }
    let left: Vec<String> = live_files(&store).await.into_iter().map(|file| file.data.path).collect();
    let unfit = [3, 8, 12].map(|index| files[index].data.path.clone());
    assert!(unfit.iter().all(|path| left.contains(path)), "{left:?}");
    assert!(left.len() < 15, "{left:?}");
    let named: Vec<String> =
        compactions(&store).await.into_iter().flat_map(|compaction| compaction.unfit).collect();
    assert_eq!(named, unfit);
}

/// Scenario: a file was written before a column was added to the schema. Guarantee: it is merged with younger ones, and the
/// column is blank in its rows.
#[tokio::test]
async fn old_files_are_read_with_the_present_schema() {
    let (log, store) = (FakeLog::new(1), memory());
    let spans = fill(&log, 1, 12);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let file = live_files(&store).await.remove(2);
    let path = Path::from(format!("lake/{}", file.data.path));
    let bytes = store.get(&path).await.expect("get").bytes().await.expect("bytes");
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
    let mut old: Option<ArrowWriter<Vec<u8>>> = None;
    for batch in reader {
        let mut batch = batch.expect("rows");
        let youngest = batch.schema().index_of("scope_schema_url").expect("a column");
        batch.remove_column(youngest);
        let writer = old
            .get_or_insert_with(|| ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer"));
        writer.write(&batch).expect("rows");
    }
    store.put(&path, old.expect("rows").into_inner().expect("footer").into()).await.expect("replaced");
    compact(&store, &ManualClock::new(NOON_NS)).await;
    assert_eq!(live_files(&store).await.len(), 2);
    assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
    assert_audit_is_clean(&log, &store, 0).await;
}

/// Scenario: the lake is a folder, and a bucket of a real S3 server. Guarantee: as in memory.
#[tokio::test(flavor = "multi_thread")]
async fn real_stores_behave_alike() {
    let log = FakeLog::new(2);
    let spans = fill(&log, 2, 12);
    let reference = memory();
    run_to_end(&log, Arc::clone(&reference), config()).await;
    compact_whole(&reference).await;
    let folder = tempfile::tempdir().expect("folder");
    let minio = infertrace_tests::minio::Minio::start("lake").expect("MinIO");
    let lower = minio.variables().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let (bucket, _) = open_store("s3://lake/x", lower).expect("bucket");
    let (local, _) = open_store(folder.path().to_str().expect("utf-8"), []).expect("folder");
    for store in [local, bucket] {
        run_to_end(&log, Arc::clone(&store), config()).await;
        compact_whole(&store).await;
        assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
        assert!(objects(&*store, "lake").await == objects(&*reference, "lake").await, "{store}");
        assert_audit_is_clean(&log, &store, 0).await;
    }
}

async fn compact_whole(store: &Arc<dyn ObjectStore>) {
    let clock = ManualClock::new(NOON_NS);
    compact(store, &clock).await;
    clock.advance(GRACE_NS);
    assert_eq!(compact(store, &clock).await.removed, 24);
    assert_glob_is_live(store).await;
}

/// What happens to a lake.
#[derive(Clone, Debug)]
enum Event {
    /// Records of four spans each arrive, so many days late.
    Arrive {
        records: u64,
        days_late: i64,
    },
    Compact,
    Wait,
    /// The compactor dies at a change.
    Crash {
        change: usize,
        after: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u64..12, 0i64..3).prop_map(|(records, days_late)| Event::Arrive { records, days_late }),
        2 => Just(Event::Compact),
        1 => Just(Event::Wait),
        2 => (0usize..12, any::<bool>()).prop_map(|(change, after)| Event::Crash { change, after }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Scenario: records arrive, some late, while compactors work, die and are replaced, in any order. Guarantee: after each
    /// event readers see exactly the spans that were written, and at the end the glob sees them too.
    #[test]
    fn the_multiset_of_spans_stays(events in proptest::collection::vec(event(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (log, store) = (FakeLog::new(2), memory());
            let clock = ManualClock::new(NOON_NS);
            let mut spans = 0;
            for event in events {
                match event {
                    Event::Arrive { records, days_late } => {
                        for number in 0..records {
                            let start = |span: u64| NOON_NS - days_late * DAY_NS - span as i64;
                            let batch = u128::from(spans) + 1;
                            log.put((number % 2) as u32, record(batch, spans..spans + 4, start));
                            spans += 4;
                        }
                        run_to_end(&log, Arc::clone(&store), config()).await;
                    }
                    Event::Compact => drop(compact(&store, &clock).await),
                    Event::Wait => clock.advance(GRACE_NS),
                    Event::Crash { change, after } => {
                        let dying = DyingStore::new(Arc::clone(&store), change, after);
                        let _ = compactor(dying, &clock, Settings::from(&compacting())).pass().await;
                    }
                }
                assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
            }
            compact(&store, &clock).await;
            clock.advance(GRACE_NS);
            compact(&store, &clock).await;
            assert_eq!(live_spans(&store).await, (0..spans).collect::<Vec<_>>());
            assert_glob_is_live(&store).await;
            assert_audit_is_clean(&log, &store, 0).await;
        });
    }
}

/// Every compaction, ascending.
pub(crate) async fn compactions(store: &Arc<dyn ObjectStore>) -> Vec<Compaction> {
    let stored = objects(&**store, &LakeRoot::new("lake").compactions()).await;
    stored.iter().map(|(path, bytes)| Compaction::parse(path, bytes).expect("a compaction")).collect()
}

pub(crate) fn compactor(store: Arc<dyn ObjectStore>, clock: &ManualClock, settings: Settings) -> Compactor {
    let mut registry = MetricsRegistry::default();
    let clock = Arc::new(clock.clone());
    Compactor::new(store, LakeRoot::new("lake"), topics::SPANS, settings, clock, &mut registry)
}

/// Compacts as [`compacting`] says, as a process that has just started.
pub(crate) async fn compact(store: &Arc<dyn ObjectStore>, clock: &ManualClock) -> Pass {
    let mut compactor = compactor(Arc::clone(store), clock, Settings::from(&compacting()));
    compactor.pass().await.expect("a pass")
}

/// As [`compact`], with a policy.
pub(crate) async fn compact_with(
    store: &Arc<dyn ObjectStore>,
    clock: &ManualClock,
    retention: Retention,
    dry_run: bool,
) -> Pass {
    let settings = Settings { retention, ..Settings::from(&compacting()) };
    let mut compactor = compactor(Arc::clone(store), clock, settings);
    let pass = if dry_run { compactor.dry_run().await } else { compactor.pass().await };
    pass.expect("a pass")
}

/// The audit finds nothing, and that `forgotten` spans were taken out.
pub(crate) async fn assert_audit_is_clean(log: &FakeLog, store: &Arc<dyn ObjectStore>, forgotten: u64) {
    let options = Options {
        topic: topics::SPANS.to_owned(),
        from: Default::default(),
        dedup_batches: config().dedup_batches as usize,
    };
    let reports = audit::audit(log, store, &LakeRoot::new("lake"), &options, |_| {}).await.expect("an audit");
    assert!(reports.iter().all(PartitionReport::is_clean), "{reports:?}");
    let taken: u64 =
        reports.iter().flat_map(|report| &report.ranges).map(|range| range.forgotten.spans).sum();
    assert_eq!(taken, forgotten);
}
