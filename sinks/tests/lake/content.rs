//! What is in the lake: retries collapse, poison goes to the dead letters, dates, holes, real folders.

use std::sync::Arc;

use bytes::Bytes;
use infertrace_runtime::clock::ManualClock;
use infertrace_schemas::lake::Manifest;
use infertrace_sinks::{Config, open_store};

use crate::support::*;

fn at_noon(_: u64) -> i64 {
    NOON_NS
}

/// Scenario: a client sends the same batch again: within a file, into a later file, and after a restart.
/// Guarantee: its spans are in the lake once; the repeats are counted.
#[tokio::test]
async fn a_retried_batch_collapses_across_files_and_restarts() {
    let (log, store) = (FakeLog::new(1), memory());
    for (batch, numbers) in [(1, 0..4), (1, 0..4), (2, 4..8), (1, 0..4), (3, 8..12), (2, 4..8)] {
        log.put(0, record(batch, numbers, at_noon));
    }
    run_to_end(&log, Arc::clone(&store), config()).await;
    for (batch, numbers) in [(1, 0..4), (3, 8..12), (4, 12..16)] {
        log.put(0, record(batch, numbers, at_noon));
    }
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 0..16).await;
    let manifests = manifests(&*store).await;
    assert_eq!(manifests.iter().map(|one| one.duplicate_records).sum::<u64>(), 5);
    assert_eq!(manifests.iter().map(|one| one.batch_ids.len()).sum::<usize>(), 4);
}

/// Scenario: the window of batch ids is short, and a crash comes between plan and manifest.
/// Guarantee: the redo decides about every record as the first attempt did.
#[tokio::test]
async fn a_redo_deduplicates_as_the_first_attempt() {
    let config = || Config { dedup_batches: 2, ..config() };
    let fill_log = |log: &FakeLog| {
        for (batch, number) in [(1, 0), (2, 4), (3, 8), (1, 12), (3, 16), (2, 20), (2, 24), (4, 28)] {
            log.put(0, record(batch, number..number + 4, at_noon));
        }
    };
    let expected = {
        let (log, store) = (FakeLog::new(1), memory());
        fill_log(&log);
        run_to_end(&log, Arc::clone(&store), config()).await;
        objects(&*store, "lake").await
    };
    for put in 0..12 {
        let (log, store) = (FakeLog::new(1), memory());
        fill_log(&log);
        let faulty = FaultyStore::new(Arc::clone(&store), Some((put..put + 1, Mishap::HangAfter)));
        let first = start(&log, faulty.clone(), config(), &ManualClock::new(NOON_NS)).await;
        faulty.until_met().await;
        first.kill().await;
        run_to_end(&log, Arc::clone(&store), config()).await;
        assert!(objects(&*store, "lake").await == expected, "put {put}");
    }
}

/// Scenario: bytes that are no record stand between good ones. Guarantee: they are in the dead-letter
/// topic raw with their origin, once; the partition goes on; the counts are exact.
#[tokio::test]
async fn poison_goes_to_the_dead_letters() {
    let (log, store) = (FakeLog::new(1), memory());
    log.put(0, record(1, 0..4, at_noon));
    let poison = Bytes::from_static(b"\x0a\xff\xff\xff\xff\x0fnot a batch");
    log.put(0, poison.clone());
    log.put(0, record(2, 4..8, at_noon));
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 0..8).await;
    let letters = log.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].payload.as_ref(), Some(&poison));
    let header =
        |name: &str| letters[0].headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert_eq!(header("infertrace.origin.offset"), Some(Bytes::from_static(b"1")));
    assert!(header("infertrace.error").is_some_and(|error| !error.is_empty()));
    let manifests: Vec<Manifest> = manifests(&*store).await;
    let poisoned: Vec<u64> =
        manifests.iter().flat_map(|one| one.poison.iter().map(|one| one.offset)).collect();
    assert_eq!(poisoned, [1]);
    assert_eq!(manifests.iter().map(|one| one.records).sum::<u64>(), 3);
}

/// Scenario: spans of many days arrive in one record. Guarantee: one file a day, in the day's folder.
#[tokio::test]
async fn late_spans_go_to_their_own_date() {
    let (log, store) = (FakeLog::new(1), memory());
    log.put(0, record(1, 0..12, |number| NOON_NS - (number as i64 % 6) * DAY_NS));
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 0..12).await;
    let files = manifests(&*store).await.remove(0).files;
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2; 6]);
    assert!(files.windows(2).all(|pair| pair[0].date < pair[1].date));
}

/// Scenario: offsets have holes, as transactions leave them. Guarantee: ranges follow one another over them.
#[tokio::test]
async fn holes_in_the_offsets_are_nothing_special() {
    let (log, store) = (FakeLog::new(1), memory());
    for index in 0..6 {
        log.put(0, record(1 + u128::from(index), index * 4..index * 4 + 4, at_noon));
        log.skip_offset(0);
    }
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 0..24).await;
}

/// Scenario: the lake is a folder. Guarantee: the same layout, no staging file left, and `spans/` holds
/// nothing but data files.
#[tokio::test]
async fn a_folder_is_a_lake() {
    let folder = tempfile::tempdir().expect("folder");
    let url = format!("file://{}", folder.path().display());
    let (store, _) = open_store(&url, []).expect("open");
    let log = FakeLog::new(2);
    let spans = fill(&log, 2, 5);
    run_to_end(&log, Arc::clone(&store), config()).await;
    assert_lake_holds(&*store, 0..spans).await;
    let staging = std::fs::read_dir(folder.path().join("_staging")).expect("staging");
    assert_eq!(staging.count(), 0);
    let reference = memory();
    run_to_end(&log, Arc::clone(&reference), config()).await;
    assert!(objects(&*store, "lake").await == objects(&*reference, "lake").await);
}

/// Scenario: a data file is opened by an outsider. Guarantee: it says by what it is sorted, has a bloom
/// filter on the trace id and a page index, and its metadata names the range.
#[tokio::test]
async fn files_describe_themselves() {
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    let (log, store) = (FakeLog::new(1), memory());
    fill(&log, 1, 2);
    run_to_end(&log, Arc::clone(&store), config()).await;
    let (_, bytes) = objects(&*store, "lake/spans").await.remove(0);
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&bytes)
        .expect("metadata");
    let row_group = metadata.row_group(0);
    assert_eq!(row_group.sorting_columns().expect("sorted").len(), 2);
    assert!(row_group.column(0).bloom_filter_offset().is_some());
    assert!(row_group.columns().iter().skip(1).all(|column| column.bloom_filter_offset().is_none()));
    let pairs = metadata.file_metadata().key_value_metadata().expect("metadata");
    let range = pairs.iter().find(|pair| pair.key == infertrace_sinks::encode::RANGE_KEY).expect("range");
    assert_eq!(range.value.as_deref(), Some("0..2"));
}
