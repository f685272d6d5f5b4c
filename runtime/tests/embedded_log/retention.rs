//! Removing old segments, and what must survive it.

use std::{sync::Arc, time::Duration};

use infertrace_runtime::{
    clock::ManualClock,
    log::{
        Log, LogError, Millis, NewRecord, NextOffset, TopicPartition, TopicSpec,
        embedded::{Config, EmbeddedLog},
    },
};

use crate::{append, at, config, keyed, noise, payloads, read_all, record, segments, spec};

const HOUR_MS: i64 = 3_600_000;

fn stamped(at: &TopicPartition, hour: i64, payload: impl Into<bytes::Bytes>) -> NewRecord {
    NewRecord { timestamp: Millis(hour * HOUR_MS), ..record(at, payload) }
}

fn lasting(name: &str, hours: u64) -> TopicSpec {
    TopicSpec { retention: Some(Duration::from_secs(hours * 3600)), ..spec(name, 1) }
}

fn compacted(name: &str) -> TopicSpec {
    TopicSpec { compacted: true, ..spec(name, 1) }
}

async fn commit(log: &EmbeddedLog, group: &str, topic: &str, next: u64) {
    let mut member = log
        .consumer(infertrace_runtime::log::ConsumerOptions {
            group: Some(group.to_owned()),
            topics: vec![topic.into()],
            assign: vec![],
            max_buffered_bytes: 1,
            read_committed: true,
        })
        .await
        .unwrap();
    member.poll(1, Duration::from_secs(5)).await.unwrap();
    member.commit(&[(at(topic, 0), NextOffset(next))]).await.unwrap();
}

/// Scenario: the bulk of the oldest segment expires; beside it stand a topic kept longer, compacted state
/// with superseded records, a deleted key, and a group's position. Guarantee: the file goes; the low
/// watermark moves; all that must survive is there with its offsets, also after opening again; a reader
/// that was overtaken is told.
#[tokio::test]
async fn an_expired_segment_leaves_what_must_survive() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(0);
    let config = Config { segment_bytes: 1 << 20, ..config(dir.path()) };
    let open = || EmbeddedLog::open_with(config.clone(), Arc::new(clock.clone())).unwrap();
    let log = open();
    let topics = [lasting("spans", 1), lasting("insights", 48), compacted("state"), spec("forever", 1)];
    log.create_topics(&topics).await.unwrap();
    for number in 0..30 {
        append(&log, stamped(&at("spans", 0), 0, noise(number, 20_000))).await.unwrap();
    }
    for number in 0..3 {
        append(&log, stamped(&at("insights", 0), 0, format!("i{number}"))).await.unwrap();
        append(&log, stamped(&at("forever", 0), 0, format!("f{number}"))).await.unwrap();
    }
    for (key, value) in [("a", Some("a0")), ("b", Some("b0")), ("a", Some("a1")), ("b", None)] {
        append(&log, keyed(&at("state", 0), key, value)).await.unwrap();
    }
    commit(&log, "g", "spans", 17).await;
    let first = segments(dir.path())[0].clone();
    log.maintain().await.unwrap();
    assert!(first.exists(), "nothing has expired yet");
    append(&log, stamped(&at("spans", 0), 3, "new")).await.unwrap();
    clock.advance(3 * HOUR_MS * 1_000_000);
    log.maintain().await.unwrap();
    assert!(!first.exists() && !first.with_extension("idx").exists(), "the expired segment is still there");
    for reopened in [false, true] {
        let log = if reopened {
            log.close();
            open()
        } else {
            log.clone()
        };
        assert_eq!(log.watermarks(&at("spans", 0)).await.unwrap().low, NextOffset(30));
        assert_eq!(payloads(&read_all(&log, &at("spans", 0), 30).await.unwrap()), ["new"]);
        let error = read_all(&log, &at("spans", 0), 29).await.unwrap_err();
        assert!(
            matches!(error, LogError::DataLoss { wanted: NextOffset(29), low: NextOffset(30), .. }),
            "{error}"
        );
        assert_eq!(payloads(&read_all(&log, &at("insights", 0), 0).await.unwrap()), ["i0", "i1", "i2"]);
        assert_eq!(payloads(&read_all(&log, &at("forever", 0), 1).await.unwrap()), ["f1", "f2"]);
        let state = read_all(&log, &at("state", 0), 0).await.unwrap();
        assert_eq!((payloads(&state), state[0].offset.0), (vec!["a1".to_owned()], 2));
        assert_eq!(log.committed("g", &at("spans", 0)).await.unwrap(), Some(NextOffset(17)));
        assert_eq!(log.position_at(&at("insights", 0), Millis(0)).await.unwrap(), NextOffset(0));
        assert_eq!(log.position_at(&at("spans", 0), Millis(0)).await.unwrap(), NextOffset(30));
        if reopened {
            assert_eq!(append(&log, keyed(&at("state", 0), "c", Some("c0"))).await.unwrap(), 4);
        }
    }
}

/// Scenario: records are written far past the disk budget. Guarantee: the log stays within about its
/// budget, the oldest go first whatever their topic's age allows, the latest of compacted keys stay for
/// ever, and ends of partitions are never forgotten, even of empty ones.
#[tokio::test]
async fn the_budget_holds_and_state_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { retention_bytes: 300 << 10, ..config(dir.path()) };
    let log = EmbeddedLog::open(config.clone()).unwrap();
    log.create_topics(&[spec("spans", 1), spec("quiet", 1), compacted("state")]).await.unwrap();
    append(&log, record(&at("quiet", 0), "old")).await.unwrap();
    for number in 0..5 {
        append(&log, keyed(&at("state", 0), &format!("k{number}"), Some("v"))).await.unwrap();
    }
    for number in 0..200 {
        append(&log, record(&at("spans", 0), noise(number, 10_000))).await.unwrap();
        if number % 20 == 19 {
            log.maintain().await.unwrap();
        }
    }
    let stats = log.stats();
    assert!(stats.disk_bytes < 400 << 10, "{} bytes on disk", stats.disk_bytes);
    assert!(stats.carried_bytes > 0 && stats.carried_bytes < 100 << 10, "carried {}", stats.carried_bytes);
    let spans = log.watermarks(&at("spans", 0)).await.unwrap();
    assert!(spans.low.0 > 100 && spans.high == NextOffset(200), "{spans:?}");
    let left = read_all(&log, &at("spans", 0), spans.low.0).await.unwrap();
    assert_eq!(left.len() as u64, 200 - spans.low.0);
    log.close();
    let log = EmbeddedLog::open(config).unwrap();
    let quiet = log.watermarks(&at("quiet", 0)).await.unwrap();
    assert_eq!((quiet.low, quiet.high), (NextOffset(1), NextOffset(1)));
    assert_eq!(append(&log, record(&at("quiet", 0), "new")).await.unwrap(), 1);
    let state = read_all(&log, &at("state", 0), 0).await.unwrap();
    assert_eq!(state.iter().map(|record| record.offset.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

/// Scenario: a slow reader holds a position while the segment it reads from is removed. Guarantee: it gets
/// data loss, not an I/O error and not the next record.
#[tokio::test]
async fn a_reader_of_a_removed_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { retention_bytes: 150 << 10, ..config(dir.path()) };
    let log = EmbeddedLog::open(config).unwrap();
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    for number in 0..20 {
        append(&log, record(&at("t", 0), noise(number, 10_000))).await.unwrap();
    }
    let mut reader = crate::reader(&log, &at("t", 0), 0).await;
    reader.poll(1, Duration::from_secs(1)).await.unwrap();
    for number in 20..60 {
        append(&log, record(&at("t", 0), noise(number, 10_000))).await.unwrap();
    }
    log.maintain().await.unwrap();
    let low = log.watermarks(&at("t", 0)).await.unwrap().low;
    let error = reader.poll(1, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&error, LogError::DataLoss { low: told, .. } if *told == low), "{error}");
    reader.seek(&at("t", 0), low).await.unwrap();
    reader.poll(1, Duration::from_secs(1)).await.unwrap();
}
