//! Random use against a model in memory.

use std::collections::BTreeMap;

use infertrace_runtime::log::{
    Log,
    embedded::{Compression, Config},
};
use proptest::prelude::*;

use crate::{at, config, noise, open, read_all, record, spec};

#[derive(Clone, Debug)]
enum Step {
    /// Concurrent producers: payload lengths of each.
    Append(Vec<Vec<(u32, usize)>>),
    Transaction(Vec<(u32, usize)>),
    Seal,
    Compact,
    Reopen,
}

fn writes() -> impl Strategy<Value = Vec<(u32, usize)>> {
    prop::collection::vec((0..3_u32, 0..6000_usize), 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(writes(), 1..4).prop_map(Step::Append),
        3 => writes().prop_map(Step::Transaction),
        1 => Just(Step::Seal),
        1 => Just(Step::Compact),
        2 => Just(Step::Reopen),
    ]
}

/// Payload that tells who wrote it; every other one compresses.
fn payload(id: u64, len: usize) -> Vec<u8> {
    let mut payload = id.to_le_bytes().to_vec();
    payload.extend(if id.is_multiple_of(2) { noise(id, len) } else { vec![id as u8; len] });
    payload
}

async fn run(steps: Vec<Step>, compression: Compression) {
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config { compression, segment_bytes: 16 << 10, max_record_bytes: 8 << 10, ..config(dir.path()) };
    let mut log = open(config.clone());
    log.create_topics(&[spec("t", 3)]).await.unwrap();
    let mut model: BTreeMap<u32, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
    let mut ids = 0_u64;
    for step in steps {
        match step {
            Step::Append(producers) => {
                let mut tasks = Vec::new();
                for writes in producers {
                    let log = log.clone();
                    let first = ids;
                    ids += writes.len() as u64;
                    tasks.push(tokio::spawn(async move {
                        let mut deliveries = Vec::new();
                        for (id, (partition, len)) in (first..).zip(writes) {
                            let bytes = payload(id, len);
                            let delivery = log.append(record(&at("t", partition), bytes.clone())).unwrap();
                            deliveries.push((partition, bytes, delivery));
                        }
                        let mut last = BTreeMap::new();
                        let mut done = Vec::new();
                        for (partition, bytes, delivery) in deliveries {
                            let offset = delivery.await.unwrap().0;
                            // One producer's records keep their order.
                            assert!(last.insert(partition, offset).is_none_or(|before| before < offset));
                            done.push((partition, offset, bytes));
                        }
                        done
                    }));
                }
                for task in tasks {
                    for (partition, offset, bytes) in task.await.unwrap() {
                        let taken = model.entry(partition).or_default().insert(offset, bytes);
                        assert!(taken.is_none(), "offset {offset} of {partition} was given twice");
                    }
                }
            }
            Step::Transaction(writes) => {
                let mut outputs = Vec::new();
                for (partition, len) in writes {
                    let bytes = payload(ids, len.min(800));
                    ids += 1;
                    outputs.push(record(&at("t", partition), bytes.clone()));
                    let records = model.entry(partition).or_default();
                    records.insert(records.len() as u64, bytes);
                }
                log.transactions("p").await.unwrap().commit(outputs, None, &[]).await.unwrap();
            }
            Step::Seal => log.maintain().await.unwrap(),
            Step::Compact => log.compact().await.unwrap(),
            Step::Reopen => {
                log.close();
                log = open(config.clone());
            }
        }
    }
    for partition in 0..3 {
        let records = read_all(&log, &at("t", partition), 0).await.unwrap();
        let read: Vec<_> =
            records.iter().map(|record| (record.offset.0, record.payload.as_deref().unwrap())).collect();
        let expected = model.remove(&partition).unwrap_or_default();
        assert!((0..expected.len() as u64).eq(expected.keys().copied()), "gaps in {partition}");
        assert_eq!(read.len(), expected.len());
        for ((offset, bytes), (expected_offset, expected_bytes)) in read.iter().zip(&expected) {
            assert_eq!((offset, *bytes), (expected_offset, expected_bytes.as_slice()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Scenario: any sequence of concurrent appends, transactions, seals, rewrites and restarts, over
    /// segments of 16 KiB. Guarantee: every partition reads back as exactly what was acknowledged, in
    /// order, without gaps; each producer's order is kept.
    #[test]
    fn reads_what_was_acknowledged(steps in prop::collection::vec(step(), 1..16), lz4 in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps, if lz4 { Compression::Lz4 } else { Compression::None }));
    }
}
