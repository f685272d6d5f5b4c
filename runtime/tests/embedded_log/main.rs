//! What only the embedded log promises: crashes, torn and damaged files, full disks, retention on disk.

mod crash;
mod damage;
mod model;
mod retention;
mod space;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, Log, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
    TopicSpec,
    embedded::{Config, EmbeddedLog},
};

/// Small segments, no space reserve.
fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_owned(),
        segment_bytes: 64 << 10,
        max_record_bytes: 32 << 10,
        max_queue_bytes: 4 << 20,
        reserve_bytes: 0,
        ..Config::default()
    }
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.into(), partitions, retention: None, compacted: false, replication: 1 }
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn record(at: &TopicPartition, payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        to: at.clone(),
        key: None,
        payload: Some(payload.into()),
        headers: vec![],
        timestamp: Millis(0),
    }
}

fn keyed(at: &TopicPartition, key: &str, payload: Option<&str>) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        payload: payload.map(|payload| Bytes::copy_from_slice(payload.as_bytes())),
        ..record(at, "")
    }
}

async fn append(log: &EmbeddedLog, record: NewRecord) -> Result<u64, LogError> {
    Ok(log.append(record)?.await?.0)
}

async fn reader(log: &EmbeddedLog, at: &TopicPartition, from: u64) -> Box<dyn Consumer> {
    let options = ConsumerOptions {
        group: None,
        topics: vec![],
        assign: vec![(at.clone(), NextOffset(from))],
        max_buffered_bytes: 1 << 20,
        read_committed: true,
    };
    log.consumer(options).await.unwrap()
}

/// Reads from the position to the end.
async fn read_all(log: &EmbeddedLog, at: &TopicPartition, from: u64) -> Result<Vec<Record>, LogError> {
    let mut reader = reader(log, at, from).await;
    let mut records = Vec::new();
    loop {
        match reader.poll(1 << 20, Duration::ZERO).await? {
            Event::Records(more) => records.extend(more),
            _ => return Ok(records),
        }
    }
}

fn payloads(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| {
        record
            .payload
            .as_ref()
            .map_or("<none>".into(), |payload| String::from_utf8_lossy(payload).into_owned())
    };
    records.iter().map(text).collect()
}

/// Segment files in order.
fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ext| ext == "log")).collect();
    files.sort();
    files
}

fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("log")).unwrap();
    for entry in std::fs::read_dir(from.join("log")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join("log").join(entry.file_name())).unwrap();
    }
}

/// Bytes that do not compress, different for every seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn open(config: Config) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(config).unwrap()
}

/// Scenario: the directory is held by an open log. Guarantee: a second one is refused, clearly, and
/// opens once the first is closed.
#[tokio::test]
async fn one_log_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(config(dir.path()));
    let error = EmbeddedLog::open(config(dir.path())).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    first.close();
    let error = append(&first, record(&at("t", 0), "x")).await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    open(config(dir.path()));
}

/// Scenario: 10,000 records over many segments, closed and opened. Guarantee: opening is fast and all
/// is there, the offsets of every record included.
#[tokio::test]
async fn ten_thousand_records_open_fast() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes: 1 << 20, ..config(dir.path()) };
    let log = open(config.clone());
    log.create_topics(&[spec("t", 4)]).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..10_000_u64 {
        let to = at("t", u32::try_from(number % 4).unwrap());
        deliveries.push(log.append(record(&to, noise(number, 600))).unwrap());
        if deliveries.len() == 1000 {
            futures::future::try_join_all(deliveries.drain(..)).await.unwrap();
        }
    }
    futures::future::try_join_all(deliveries).await.unwrap();
    log.close();
    assert!(segments(dir.path()).len() > 5);
    let started = std::time::Instant::now();
    let log = open(config);
    let took = started.elapsed();
    println!("opened 10,000 records in {took:?}");
    assert!(took < Duration::from_secs(2), "opening took {took:?}");
    for partition in 0..4_u32 {
        let records = read_all(&log, &at("t", partition), 0).await.unwrap();
        assert_eq!(records.len(), 2500);
        for (index, record) in (0_u64..).zip(&records) {
            assert_eq!(record.offset.0, index);
            assert_eq!(record.payload.as_deref(), Some(&noise(index * 4 + u64::from(partition), 600)[..]));
        }
    }
}

/// Scenario: more is appended at once than the queue takes. Guarantee: the rest is refused with a delay,
/// nothing of it is written, and what was taken is acknowledged.
#[tokio::test]
async fn a_full_queue_refuses_with_a_delay() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(Config { max_queue_bytes: 64 << 10, ..config(dir.path()) });
    log.create_topics(&[spec("t", 1)]).await.unwrap();
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0..200 {
        match log.append(record(&at("t", 0), noise(number, 30_000))) {
            Ok(delivery) => taken.push(delivery),
            Err(LogError::Full { retry_after }) => {
                assert!(!retry_after.is_zero());
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "200 records of 30 kB fit a queue of 64 kB");
    let count = taken.len();
    futures::future::try_join_all(taken).await.unwrap();
    assert_eq!(read_all(&log, &at("t", 0), 0).await.unwrap().len(), count);
    assert_eq!(log.stats().queue_bytes, 0);
}
