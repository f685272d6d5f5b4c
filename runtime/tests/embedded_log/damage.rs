//! Torn tails, flipped bits, missing and damaged index files.

use std::path::{Path, PathBuf};

use infertrace_runtime::log::{
    ConsumerOptions, Event, Log, LogError, NextOffset,
    embedded::{Config, EmbeddedLog},
};

use crate::{append, at, config, copy_log, noise, open, payloads, read_all, record, segments, spec};

fn quiet(dir: &Path) -> Config {
    Config { preallocate: false, ..config(dir) }
}

/// A log of two records and, as its last entry, a transaction of three outputs and a group's position.
/// Returns the segment and where that entry starts and ends.
async fn with_a_transaction_at_the_end(dir: &Path) -> (PathBuf, usize, usize) {
    let log = open(quiet(dir));
    log.create_topics(&[spec("in", 1), spec("out", 2)]).await.unwrap();
    append(&log, record(&at("in", 0), "first")).await.unwrap();
    append(&log, record(&at("out", 0), "second")).await.unwrap();
    let options = ConsumerOptions {
        group: Some("g".to_owned()),
        topics: vec!["in".into()],
        assign: vec![],
        max_buffered_bytes: 1 << 20,
        read_committed: true,
    };
    let mut member = log.consumer(options).await.unwrap();
    assert!(matches!(member.poll(1, std::time::Duration::from_secs(5)).await, Ok(Event::Assigned(_))));
    let segment = segments(dir).pop().unwrap();
    let start = std::fs::metadata(&segment).unwrap().len();
    let mut producer = log.transactions("p").await.unwrap();
    let outputs = vec![record(&at("out", 0), "a"), record(&at("out", 1), "b"), record(&at("out", 1), "c")];
    let metadata = member.group_metadata();
    producer.commit(outputs, metadata.as_ref(), &[(at("in", 0), NextOffset(1))]).await.unwrap();
    log.close();
    let end = std::fs::metadata(&segment).unwrap().len();
    (segment, usize::try_from(start).unwrap(), usize::try_from(end).unwrap())
}

/// Nothing of the transaction, everything before it, and the log goes on.
async fn assert_transaction_is_gone(dir: &Path, what: &str) {
    let log = open(quiet(dir));
    assert_eq!(payloads(&read_all(&log, &at("in", 0), 0).await.unwrap()), ["first"], "{what}");
    assert_eq!(payloads(&read_all(&log, &at("out", 0), 0).await.unwrap()), ["second"], "{what}");
    assert!(read_all(&log, &at("out", 1), 0).await.unwrap().is_empty(), "{what}");
    assert_eq!(log.committed("g", &at("in", 0)).await.unwrap(), None, "{what}");
    assert_eq!(append(&log, record(&at("out", 1), "next")).await.unwrap(), 0, "{what}");
    drop(log);
    let log = open(quiet(dir));
    assert_eq!(payloads(&read_all(&log, &at("out", 1), 0).await.unwrap()), ["next"], "{what}");
}

/// Scenario: the write of the last entry, a transaction, stops at every byte: the file ends there, or the
/// rest of the preallocated file is zeros. Guarantee: all before it is kept, nothing of it is visible, and
/// appending goes on at the right offsets.
#[tokio::test]
async fn a_torn_tail_at_every_byte_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (segment, start, end) = with_a_transaction_at_the_end(dir.path()).await;
    let bytes = std::fs::read(&segment).unwrap();
    assert_eq!(bytes.len(), end);
    // The last bytes are padding: without them the entry is not whole either.
    for cut in start..end {
        for zeros in [0, end - cut + 4096] {
            let torn = tempfile::tempdir().unwrap();
            copy_log(dir.path(), torn.path());
            let mut damaged = bytes[..cut].to_vec();
            damaged.resize(cut + zeros, 0);
            std::fs::write(torn.path().join("log").join(segment.file_name().unwrap()), &damaged).unwrap();
            // Zeros in place of zeros are no damage: the entry is whole.
            if zeros > 0 && damaged[..end] == bytes[..] {
                continue;
            }
            assert_transaction_is_gone(torn.path(), &format!("cut at {cut}, {zeros} zeros")).await;
        }
    }
}

/// Scenario: any single byte of the last entry is flipped (a sector of an unfinished write). Guarantee: the
/// entry is not visible in part: gone or, where only padding changed, whole.
#[tokio::test]
async fn a_flipped_byte_in_the_last_entry_takes_it_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (segment, start, end) = with_a_transaction_at_the_end(dir.path()).await;
    let bytes = std::fs::read(&segment).unwrap();
    for position in (start..end).step_by(3) {
        let torn = tempfile::tempdir().unwrap();
        copy_log(dir.path(), torn.path());
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x40;
        std::fs::write(torn.path().join("log").join(segment.file_name().unwrap()), &damaged).unwrap();
        let log = open(quiet(torn.path()));
        let first = read_all(&log, &at("out", 0), 0).await.unwrap().len();
        let second = read_all(&log, &at("out", 1), 0).await.unwrap().len();
        let committed = log.committed("g", &at("in", 0)).await.unwrap();
        let gone = (first, second, committed) == (1, 0, None);
        let whole = (first, second, committed) == (2, 2, Some(NextOffset(1)));
        assert!(gone || (whole && position >= end - 8), "torn at {position}: {first} {second} {committed:?}");
    }
}

/// Scenario: a byte of an acknowledged record in the open segment is flipped, with later records after
/// it. Guarantee: that is damage and not a torn tail: the log refuses to open and says where.
#[tokio::test]
async fn damage_before_acknowledged_entries_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(quiet(dir.path()));
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    append(&log, record(&at("t", 0), "before")).await.unwrap();
    let segment = segments(dir.path()).pop().unwrap();
    let start = std::fs::metadata(&segment).unwrap().len();
    append(&log, record(&at("t", 0), noise(1, 5000))).await.unwrap();
    append(&log, record(&at("t", 0), "after")).await.unwrap();
    log.close();
    let bytes = std::fs::read(&segment).unwrap();
    for offset in [4, 50, 3000] {
        let mut damaged = bytes.clone();
        damaged[usize::try_from(start).unwrap() + offset] ^= 1;
        std::fs::write(&segment, &damaged).unwrap();
        match EmbeddedLog::open(quiet(dir.path())) {
            Err(LogError::Corrupt { path, position, .. }) => {
                assert_eq!(path, segment.display().to_string());
                assert_eq!(position, start);
            }
            other => panic!("byte {offset}: {other:?}"),
        }
    }
    std::fs::write(&segment, &bytes).unwrap();
    let log = open(quiet(dir.path()));
    assert_eq!(read_all(&log, &at("t", 0), 0).await.unwrap().len(), 3);
}

async fn sealed(dir: &Path) -> PathBuf {
    let log = open(quiet(dir));
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    for number in 0..20 {
        append(&log, record(&at("t", 0), noise(number, 1000))).await.unwrap();
    }
    log.maintain().await.unwrap();
    append(&log, record(&at("t", 0), "later")).await.unwrap();
    log.close();
    segments(dir)[0].clone()
}

/// Scenario: a byte in the middle of a sealed segment is flipped. Guarantee: reading it is an error that
/// names file and position, never wrong bytes; records elsewhere are still readable; without its index
/// the segment is scanned at opening and the same damage is found then.
#[tokio::test]
async fn a_flipped_byte_in_a_sealed_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path()).await;
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&segment, &bytes).unwrap();
    let log = open(quiet(dir.path()));
    match read_all(&log, &at("t", 0), 0).await {
        Err(LogError::Corrupt { path, position, .. }) => {
            assert_eq!(path, segment.display().to_string());
            let distance = middle - usize::try_from(position).unwrap();
            assert!(distance < 1100, "damage at {middle}, named {position}");
        }
        other => panic!("{:?}", other.map(|records| records.len())),
    }
    assert_eq!(payloads(&read_all(&log, &at("t", 0), 20).await.unwrap()), ["later"]);
    log.close();
    std::fs::remove_file(segment.with_extension("idx")).unwrap();
    let error = EmbeddedLog::open(quiet(dir.path())).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { path, .. } if *path == segment.display().to_string()),
        "{error}"
    );
}

/// Scenario: the index of a sealed segment is missing, cut short, or any of its bytes is flipped.
/// Guarantee: it is rebuilt, or reading names the damage; no record is ever wrong or silently missing.
#[tokio::test]
async fn a_damaged_index_is_rebuilt_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let segment = sealed(dir.path()).await;
    let index = segment.with_extension("idx");
    let bytes = std::fs::read(&index).unwrap();
    let mut variants: Vec<Option<Vec<u8>>> =
        vec![None, Some(bytes[..bytes.len() / 2].to_vec()), Some(vec![])];
    for position in (0..bytes.len()).step_by(13) {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x10;
        variants.push(Some(flipped));
    }
    for variant in variants {
        match &variant {
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
            None => std::fs::remove_file(&index).unwrap(),
        }
        let log = open(quiet(dir.path()));
        match read_all(&log, &at("t", 0), 0).await {
            Ok(records) => {
                assert_eq!(records.len(), 21);
                for (number, record) in (0_u64..).zip(&records[..20]) {
                    assert_eq!(record.payload.as_deref(), Some(&noise(number, 1000)[..]));
                }
            }
            Err(LogError::Corrupt { path, .. }) => assert_eq!(path, index.display().to_string()),
            Err(error) => panic!("{error}"),
        }
        log.close();
    }
}

/// Scenario: a segment in the middle was deleted by hand, or cut short. Guarantee: the log refuses to open
/// and names it.
#[tokio::test]
async fn a_missing_or_shortened_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = sealed(dir.path()).await;
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() - 100]).unwrap();
    let error = EmbeddedLog::open(quiet(dir.path())).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { path, .. } if *path == first.display().to_string()),
        "{error}"
    );
    std::fs::write(&first, &bytes).unwrap();
    let log = open(quiet(dir.path()));
    log.maintain().await.unwrap();
    log.close();
    let second = &segments(dir.path())[1];
    std::fs::remove_file(second).unwrap();
    let error = EmbeddedLog::open(quiet(dir.path())).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { path, .. } if *path == second.display().to_string()),
        "{error}"
    );
}
