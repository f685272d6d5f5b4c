//! kill -9 while records are being appended.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use infertrace_runtime::log::{Log, embedded::Config};

use crate::{at, config, noise, open, read_all, record, spec};

const DIR: &str = "EMBEDDED_LOG_TEST_DIR";
const TASKS: u64 = 4;

fn payload(round: u64, task: u64, number: u64) -> Vec<u8> {
    let mut payload = format!("{round} {task} {number} ").into_bytes();
    let len = 200 + usize::try_from(number % 50).unwrap() * 100;
    payload.extend(noise(round << 40 | task << 32 | number, len));
    payload
}

fn configured(dir: PathBuf) -> Config {
    Config { segment_bytes: 1 << 20, ..config(&dir) }
}

/// Not a test of its own: the child that the next one kills. Appends and prints what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_appends_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let round: u64 = std::env::var("EMBEDDED_LOG_TEST_ROUND").unwrap().parse().unwrap();
    let log = open(configured(dir.into()));
    log.create_topics(&[spec("t", 3)]).await.unwrap();
    let tasks = (0..TASKS).map(|task| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let partition = u32::try_from((task + number) % 3).unwrap();
                let to = at("t", partition);
                let offset = log.append(record(&to, payload(round, task, number))).unwrap().await.unwrap();
                let line = format!("acked {round} {task} {number} {partition} {}\n", offset.0);
                // One write a line, so that a kill tears at most the last.
                std::io::stdout().write_all(line.as_bytes()).unwrap();
                std::io::stdout().flush().unwrap();
            }
        })
    });
    futures::future::join_all(tasks).await;
}

/// Scenario: a process that appends from several tasks is killed (-9) after some hundred
/// acknowledgements, five times over the same directory. Guarantee: every acknowledged record is there at
/// its offset with its bytes, offsets have no gaps, and the next process goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acked: BTreeMap<(u32, u64), Vec<u8>> = BTreeMap::new();
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_appends_until_killed", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env("EMBEDDED_LOG_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut count = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                break;
            }
            let whole = line.ends_with('\n');
            let Some((_, fields)) = line.split_once("acked ") else { continue };
            let fields: Vec<u64> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            if let ([round, task, number, partition, offset], true) = (&fields[..], whole) {
                acked.insert((u32::try_from(*partition).unwrap(), *offset), payload(*round, *task, *number));
                count += 1;
            }
            if count == 150 + round * 37 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 150, "the child ended by itself after {count}");
        let log = open(configured(dir.path().to_owned()));
        let mut there = BTreeMap::new();
        for partition in 0..3 {
            let records = read_all(&log, &at("t", partition), 0).await.unwrap();
            for (index, record) in (0_u64..).zip(records) {
                assert_eq!(record.offset.0, index, "a gap in partition {partition}");
                there.insert((partition, index), record.payload.unwrap());
            }
        }
        for (place, payload) in &acked {
            assert_eq!(there.get(place).map(|bytes| &bytes[..]), Some(&payload[..]), "lost {place:?}");
        }
        println!("round {round}: {} acknowledged, {} there", acked.len(), there.len());
        log.close();
    }
}
