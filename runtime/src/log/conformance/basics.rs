//! Appending and reading without groups and transactions.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;

use super::{
    CaseError, CaseResult, LogFactory,
    support::{Bench, EPOCH, POLL_BYTES, ensure, keyed, numbers, record, texts},
};
use crate::log::{Event, LogError, Millis, NewRecord, NextOffset, TopicPartition};

/// Offsets of each partition ascend from 0 in the order of appending, and reading gives that order.
pub async fn order_and_offsets(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("order", 3).await?;
    let mut deliveries = Vec::new();
    for number in 0..300_u32 {
        let at = TopicPartition::new(topic.clone(), number % 3);
        deliveries.push((at.partition, bench.log.append(record(&at, (number / 3).to_string()))?));
    }
    let mut next = [0_u64; 3];
    for (partition, delivery) in deliveries {
        let offset = delivery.await?;
        let expected = &mut next[partition as usize];
        ensure!(offset.0 == *expected, "offset {} instead of {expected} in {partition}", offset.0);
        *expected += 1;
    }
    for partition in 0..3 {
        let records = bench.read(&TopicPartition::new(topic.clone(), partition), 0, 100).await?;
        ensure!(texts(&records) == numbers(0, 100), "out of order: {:?}", texts(&records));
        ensure!((0..100).eq(records.iter().map(|record| record.offset.0)), "offsets have gaps");
    }
    Ok(())
}

/// An acknowledged record is read back at once, from any position.
pub async fn append_is_readable(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("readable", 1).await?, 0);
    for number in 0..5_u64 {
        let offset = bench.append(record(&at, number.to_string())).await?;
        let records = bench.read(&at, offset.0, 1).await?;
        ensure!(records[0].offset == offset && records[0].from == at, "read {:?}", records[0]);
        ensure!(texts(&records) == [number.to_string()], "read {:?}", texts(&records));
    }
    let records = bench.read(&at, 2, 3).await?;
    ensure!(texts(&records) == numbers(2, 3), "from the middle: {:?}", texts(&records));
    Ok(())
}

/// Key, headers (order, duplicates, empty and binary values), timestamp, tombstone and empty payload stay.
pub async fn record_parts_are_kept(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("parts", 1).await?, 0);
    let headers = vec![
        ("b".to_owned(), Bytes::from_static(&[0, 255, 7])),
        ("a".to_owned(), Bytes::new()),
        ("b".to_owned(), Bytes::from_static(b"again")),
    ];
    let compressible = Bytes::from("span ".repeat(20_000));
    let random: Bytes = (0..100_000_u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).wrapping_mul(n | 1) >> 40) as u8)
        .collect();
    let records = [
        NewRecord {
            headers: headers.clone(),
            timestamp: Millis(EPOCH + 17),
            ..keyed(&at, "key", Some("value"))
        },
        keyed(&at, "tombstone", None),
        NewRecord { payload: Some(Bytes::new()), ..record(&at, "") },
        NewRecord { payload: Some(compressible), headers, ..record(&at, "") },
        NewRecord { payload: Some(random), key: Some(Bytes::new()), ..record(&at, "") },
    ];
    for record in &records {
        bench.append(record.clone()).await?;
    }
    let read = bench.read(&at, 0, records.len()).await?;
    for (wrote, read) in records.iter().zip(&read) {
        ensure!(wrote.key == read.key, "key {:?} became {:?}", wrote.key, read.key);
        let lengths = [&wrote.payload, &read.payload].map(|payload| payload.as_ref().map(Bytes::len));
        ensure!(wrote.payload == read.payload, "a payload changed; lengths {lengths:?}");
        ensure!(wrote.headers == read.headers, "headers {:?} became {:?}", wrote.headers, read.headers);
        ensure!(wrote.timestamp == read.timestamp, "{:?} became {:?}", wrote.timestamp, read.timestamp);
    }
    Ok(())
}

/// Unknown topics and partitions are named as such by every call.
pub async fn unknown_topic(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let known = bench.topic("known", 1).await?;
    let unknown = TopicPartition::new(factory.unique("unknown"), 0);
    for at in [unknown.clone(), TopicPartition::new(known, 5)] {
        let append = match bench.log.append(record(&at, "x")) {
            Ok(delivery) => delivery.await.map(drop),
            Err(error) => Err(error),
        };
        let watermarks = bench.log.watermarks(&at).await.map(drop);
        for (call, result) in [("append", append), ("watermarks", watermarks)] {
            let named = matches!(&result, Err(LogError::UnknownTopicPartition(named)) if *named == at);
            ensure!(named, "{call} on {at}: {result:?}");
        }
    }
    let partitions = bench.log.partitions(&unknown.topic).await;
    let named = matches!(&partitions, Err(LogError::UnknownTopicPartition(at)) if at.topic == unknown.topic);
    ensure!(named, "partitions: {partitions:?}");
    Ok(())
}

/// A record that no configuration takes is refused as too large, never retried, and harms nobody.
pub async fn too_large_record(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("large", 1).await?, 0);
    let huge = Bytes::from(vec![1_u8; 80 << 20]);
    let result = match bench.log.append(record(&at, huge)) {
        Ok(delivery) => delivery.await.map(drop),
        Err(error) => Err(error),
    };
    let refused = matches!(&result, Err(error @ LogError::TooLarge { .. }) if !error.is_retriable());
    ensure!(refused, "a huge record: {result:?}");
    let offset = bench.append(record(&at, "after")).await?;
    ensure!(offset.0 == 0, "the refused record took offset {}", offset.0 - 1);
    Ok(())
}

/// One poll gives about `max_bytes`, but always at least one record.
pub async fn reads_are_bounded(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("bounded", 1).await?, 0);
    let payload = Bytes::from(vec![3_u8; 100_000]);
    for _ in 0..20 {
        bench.append(record(&at, payload.clone())).await?;
    }
    let mut reader = bench.reader(&at, 0).await?;
    let mut read = 0;
    let deadline = tokio::time::Instant::now() + bench.patience();
    while read < 20 {
        ensure!(tokio::time::Instant::now() < deadline, "only {read} of 20 records within the time");
        let Event::Records(records) = reader.poll(1, bench.patience()).await? else { continue };
        let bytes: usize = records.iter().filter_map(|record| record.payload.as_ref()).map(Bytes::len).sum();
        ensure!(!records.is_empty(), "an empty list of records");
        ensure!(bytes <= 200_000, "{bytes} bytes for one poll of at most about 1");
        ensure!(records[0].offset.0 == read, "offset {} after {read}", records[0].offset.0);
        read += records.len() as u64;
    }
    Ok(())
}

/// A poll without records ends as idle; one that waits is woken by an append.
pub async fn poll_waits_and_idles(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("wait", 1).await?, 0);
    let mut reader = bench.reader(&at, 0).await?;
    let event = reader.poll(POLL_BYTES, Duration::from_millis(30)).await?;
    ensure!(matches!(event, Event::Idle), "an empty partition gave {event:?}");
    let waiting = async {
        loop {
            match reader.poll(POLL_BYTES, bench.patience()).await? {
                Event::Records(records) => return Ok::<_, CaseError>(records),
                Event::Idle => return Err(CaseError::Failed("not woken".to_owned())),
                _ => {}
            }
        }
    };
    let appending = async {
        tokio::task::yield_now().await;
        bench.append(record(&at, "now")).await
    };
    let (records, appended) = tokio::join!(waiting, appending.fuse());
    appended?;
    ensure!(texts(&records?) == ["now"], "woken by something else");
    Ok(())
}

/// Seek moves the position both ways; a paused partition gives nothing while others go on.
pub async fn seek_pause_resume(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("seek", 2).await?;
    let [first, second] = [0, 1].map(|partition| TopicPartition::new(topic.clone(), partition));
    bench.append_numbers(&first, 0, 10).await?;
    let assign = vec![(first.clone(), NextOffset(0)), (second.clone(), NextOffset(0))];
    let mut reader = bench.log.consumer(super::support::options(None, vec![], assign)).await?;
    bench.take(reader.as_mut(), 10).await?;
    reader.seek(&first, NextOffset(7)).await?;
    let records = bench.take(reader.as_mut(), 3).await?;
    ensure!(texts(&records) == numbers(7, 3), "after a seek back: {:?}", texts(&records));
    reader.pause(&first)?;
    bench.append_numbers(&first, 10, 2).await?;
    bench.append_numbers(&second, 0, 3).await?;
    let records = bench.take(reader.as_mut(), 3).await?;
    ensure!(records.iter().all(|record| record.from == second), "records of a paused partition");
    let event = reader.poll(POLL_BYTES, Duration::from_millis(100)).await?;
    ensure!(matches!(event, Event::Idle), "a paused partition gave {event:?}");
    reader.resume(&first)?;
    let records = bench.take(reader.as_mut(), 2).await?;
    ensure!(texts(&records) == numbers(10, 2), "after resuming: {:?}", texts(&records));
    let foreign = TopicPartition::new(factory.unique("foreign"), 0);
    ensure!(reader.seek(&foreign, NextOffset(0)).await.is_err(), "a foreign partition can be sought");
    Ok(())
}

/// Watermarks: low 0, high the next offset to be written, of one partition as of several asked for together.
pub async fn watermarks_follow(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("watermarks", 2).await?;
    let (at, empty) = (TopicPartition::new(topic.clone(), 0), TopicPartition::new(topic.clone(), 1));
    for expected in 0..4 {
        let ends = bench.log.ends(&[empty.clone(), at.clone()]).await?;
        ensure!(
            ends == [Some(NextOffset(0)), Some(NextOffset(expected))],
            "{ends:?} after {expected} records"
        );
        let watermarks = bench.log.watermarks(&at).await?;
        let right = watermarks.low == NextOffset(0) && watermarks.high == NextOffset(expected);
        ensure!(right, "{watermarks:?} after {expected} records");
        bench.append(record(&at, "x")).await?;
    }
    ensure!(bench.log.ends(&[]).await?.is_empty(), "ends of nothing");
    let unknown = bench.log.ends(&[at, TopicPartition::new(topic, 2)]).await;
    ensure!(matches!(unknown, Err(LogError::UnknownTopicPartition(_))), "of no partition: {unknown:?}");
    bench.log.ready().await?;
    Ok(())
}
