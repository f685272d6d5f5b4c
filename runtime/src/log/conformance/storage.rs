//! Topics, time, compaction, retention, recovery.

use std::{collections::BTreeMap, time::Duration};

use super::{
    CaseError, CaseResult, LogFactory,
    support::{Bench, EPOCH, POLL_BYTES, ensure, keyed, numbers, record, texts},
};
use crate::log::{Event, LogError, Millis, NewRecord, NextOffset, TopicPartition, TopicSpec};

/// Creating an existing topic again changes nothing, whatever the specification says.
pub async fn existing_topics_are_respected(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("existing", 3).await?;
    let at = TopicPartition::new(topic.clone(), 2);
    bench.append_numbers(&at, 0, 2).await?;
    let spec = |name: &str, partitions| TopicSpec {
        name: name.into(),
        partitions,
        retention: Some(Duration::from_secs(60)),
        compacted: false,
        replication: 1,
    };
    let new = factory.unique("new");
    bench.log.create_topics(&[spec(&topic, 7), spec(&new, 2)]).await?;
    let partitions = (bench.log.partitions(&topic).await?, bench.log.partitions(&new).await?);
    ensure!(partitions == (3, 2), "partitions {partitions:?}");
    ensure!(texts(&bench.read(&at, 0, 2).await?) == numbers(0, 2), "its records changed");
    Ok(())
}

/// A position by time is that of the first record at or after it: before, between, at, after.
pub async fn position_by_time(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("time", 1).await?, 0);
    for (number, seconds) in [0_i64, 10, 20, 20, 30].into_iter().enumerate() {
        let timestamp = Millis(EPOCH + seconds * 1000);
        bench.append(NewRecord { timestamp, ..record(&at, number.to_string()) }).await?;
    }
    let table =
        [(-5_000, 0), (0, 0), (1, 1), (10_000, 1), (15_000, 2), (20_000, 2), (20_001, 4), (30_001, 5)];
    for (after, expected) in table {
        let position = bench.log.position_at(&at, Millis(EPOCH + after)).await?;
        ensure!(position == NextOffset(expected), "{after} ms: {position:?} instead of {expected}");
    }
    Ok(())
}

/// Reading a compacted topic from its beginning gives each key's latest value last; a deleted key's value
/// is gone or followed by its tombstone; offsets stay.
pub async fn compaction_keeps_latest(factory: &dyn LogFactory) -> CaseResult {
    if !factory.capabilities().force_compaction {
        return Err(CaseError::Skipped("compaction cannot be forced"));
    }
    let bench = Bench::new(factory).await?;
    let topic = bench.topic_with("compacted", 1, |spec| spec.compacted = true).await?;
    let at = TopicPartition::new(topic.clone(), 0);
    let mut last = BTreeMap::new();
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            let offset = bench.append(keyed(&at, key, Some(&format!("{key}{round}")))).await?;
            last.insert(key, offset);
        }
    }
    bench.append(keyed(&at, "b", None)).await?;
    factory.compact(&topic).await?;
    for round in 0..2 {
        let mut reader = bench.reader(&at, 0).await?;
        let mut records = Vec::new();
        while let Event::Records(more) = reader.poll(POLL_BYTES, Duration::from_millis(300)).await? {
            records.extend(more);
        }
        let mut view = BTreeMap::new();
        let total = records.len();
        for record in records {
            view.insert(record.key.clone(), (record.offset, record.payload));
        }
        for key in ["a", "c"] {
            let found = view.get(&Some(bytes::Bytes::from(key)));
            let expected = Some(bytes::Bytes::from(format!("{key}19")));
            let right = found.is_some_and(|(offset, value)| *offset == last[key] && *value == expected);
            ensure!(right, "latest of {key}: {found:?}");
        }
        let deleted = view.get(&Some(bytes::Bytes::from("b")));
        ensure!(deleted.is_none_or(|(_, value)| value.is_none()), "the deleted key reads {deleted:?}");
        ensure!(total < 60, "nothing was compacted: {total} records");
        if round == 0 {
            let high = bench.log.watermarks(&at).await?.high;
            ensure!(high == NextOffset(61), "the end moved to {high:?}");
            bench.append(keyed(&at, "d", Some("d0"))).await?;
            factory.compact(&topic).await?;
        }
    }
    Ok(())
}

/// A reader whose position retention removed gets a loud error, not the next record; the low watermark
/// tells where to go on.
pub async fn retention_overtakes_reader(factory: &dyn LogFactory) -> CaseResult {
    if !factory.capabilities().force_retention {
        return Err(CaseError::Skipped("retention cannot be forced"));
    }
    let bench = Bench::new(factory).await?;
    let retention = Some(Duration::from_secs(3600));
    let topic = bench.topic_with("expired", 1, |spec| spec.retention = retention).await?;
    let at = TopicPartition::new(topic.clone(), 0);
    bench.append_numbers(&at, 0, 10).await?;
    let mut reader = bench.reader(&at, 0).await?;
    let Event::Records(records) = reader.poll(1, bench.patience()).await? else {
        return Err(CaseError::Failed("no records".to_owned()));
    };
    let stood_at = records.last().map_or(0, |record| record.offset.0 + 1);
    drop(reader);
    factory.expire(&topic).await?;
    let mut reader = bench.reader(&at, stood_at.min(5)).await?;
    let watermarks = bench.log.watermarks(&at).await?;
    let right = watermarks.low == NextOffset(10) && watermarks.high == NextOffset(10);
    ensure!(right, "after retention {watermarks:?}");
    bench.append(record(&at, "10")).await?;
    let deadline = tokio::time::Instant::now() + bench.patience();
    let error = loop {
        match reader.poll(POLL_BYTES, Duration::from_millis(200)).await {
            Err(error) => break error,
            Ok(Event::Records(records)) => {
                return Err(CaseError::Failed(format!("silently skipped to {:?}", records[0].offset)));
            }
            Ok(_) => ensure!(tokio::time::Instant::now() < deadline, "no error within the time"),
        }
    };
    let LogError::DataLoss { at: lost, wanted, low } = &error else {
        return Err(CaseError::Failed(format!("instead of data loss: {error}")));
    };
    ensure!(*lost == at && wanted.0 < 10 && low.0 == 10, "data loss says {error}");
    reader.seek(&at, *low).await?;
    let records = bench.take(reader.as_mut(), 1).await?;
    ensure!(texts(&records) == ["10"], "after the seek {:?}", texts(&records));
    Ok(())
}

/// Everything acknowledged is there after the log was opened again, and it goes on at the right offset.
pub async fn crash_recovery(factory: &dyn LogFactory) -> CaseResult {
    let mut bench = Bench::new(factory).await?;
    let topic = bench.topic("recovery", 2).await?;
    let at = TopicPartition::new(topic.clone(), 1);
    for round in 0..3 {
        bench.append_numbers(&at, round * 50, 50).await?;
        bench = bench.reopened().await?;
        ensure!(bench.log.partitions(&topic).await? == 2, "the topic changed");
        let count = (round + 1) * 50;
        let records = bench.read(&at, 0, usize::try_from(count).unwrap_or(0)).await?;
        ensure!(texts(&records) == numbers(0, count), "after {count}: {:?}", texts(&records));
        let watermarks = bench.log.watermarks(&at).await?;
        ensure!(watermarks.high == NextOffset(count), "{watermarks:?} after {count}");
    }
    Ok(())
}
