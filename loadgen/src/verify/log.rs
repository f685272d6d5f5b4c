//! Reads the spans topic whole, as every reader must: a record whose batch id stood before in its partition is a
//! retry and collapses.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use infertrace_runtime::{
    log::{
        ConsumerOptions, Event, Log, NextOffset, TopicPartition, Watermarks,
        embedded::{self, EmbeddedLog},
        kafka::{self, KafkaLog},
    },
    progress::Bar,
};
use infertrace_schemas::{
    dedup::Dedup,
    record,
    wire::{Fields, WireError},
};

use super::{
    Args,
    tally::{Found, Tally},
};
use crate::content::Content;

const FETCH_BYTES: usize = 16 << 20;
const POLL: Duration = Duration::from_secs(1);
/// Silence after which a partition that has not reached its end is given up.
const MAX_IDLE_POLLS: u32 = 30;

pub(super) async fn open(args: &Args) -> anyhow::Result<Arc<dyn Log>> {
    match (&args.kafka, &args.data_dir) {
        (Some(brokers), None) => {
            let config = kafka::Config { brokers: brokers.clone(), ..kafka::Config::default() };
            Ok(KafkaLog::new(config)?)
        }
        (None, Some(folder)) => {
            ensure!(folder.join("log").is_dir(), "there is no log in {}", folder.display());
            let config = embedded::Config { dir: folder.clone(), ..embedded::Config::default() };
            Ok(EmbeddedLog::open(config)?)
        }
        _ => bail!("--against log needs either --kafka HOST:PORT or --data-dir DIR"),
    }
}

pub(super) async fn read(log: &dyn Log, topic: &str, tally: &mut Tally, bar: &Bar) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for partition in 0..log.partitions(topic).await.with_context(|| format!("topic {topic}"))? {
        let at = TopicPartition::new(topic, partition);
        let ends = log.watermarks(&at).await.with_context(|| at.to_string())?;
        all.push((at, ends));
    }
    let total = all.iter().map(|(_, ends)| ends.high.0.saturating_sub(ends.low.0)).sum();
    let mut done = 0;
    for (at, ends) in all {
        let shown = |records: u64| bar.show(done + records, total, |_| at.to_string());
        read_partition(log, &at, ends, tally, shown).await.with_context(|| at.to_string())?;
        done += ends.high.0.saturating_sub(ends.low.0);
    }
    Ok(())
}

/// Reads a partition up to its end; `show` is told how many of its records are done.
async fn read_partition(
    log: &dyn Log,
    at: &TopicPartition,
    ends: Watermarks,
    tally: &mut Tally,
    show: impl Fn(u64),
) -> anyhow::Result<()> {
    let mut position = ends.low;
    if position >= ends.high {
        return Ok(());
    }
    let mut consumer = log
        .consumer(ConsumerOptions {
            group: None,
            topics: Vec::new(),
            assign: vec![(at.clone(), position)],
            max_buffered_bytes: 2 * FETCH_BYTES,
            read_committed: true,
        })
        .await?;
    let mut dedup = Dedup::default();
    let mut scratch = Vec::new();
    let mut idle = 0;
    while position < ends.high {
        match consumer.poll(FETCH_BYTES, POLL).await? {
            Event::Records(records) => {
                idle = 0;
                for found in records {
                    position = NextOffset(position.0.max(found.offset.next().0));
                    if found.offset.0 >= ends.high.0 {
                        break;
                    }
                    if let Some(payload) = &found.payload {
                        read_record(payload, found.offset.0, &mut dedup, &mut scratch, tally);
                    }
                }
                show(position.0 - ends.low.0);
            }
            Event::Assigned(_) | Event::Revoked(_) => {}
            Event::Idle => {
                idle += 1;
                ensure!(
                    idle < MAX_IDLE_POLLS,
                    "stands at {} of {} and nothing comes",
                    position.0,
                    ends.high.0
                );
            }
        }
    }
    Ok(())
}

fn read_record(payload: &[u8], offset: u64, dedup: &mut Dedup, scratch: &mut Vec<u8>, tally: &mut Tally) {
    tally.read();
    let opened = match record::open(payload, scratch) {
        Ok(opened) => opened,
        Err(error) => return tally.fault(format!("poison record at {offset}: {error}")),
    };
    if !dedup.admit(opened.batch_id) {
        return tally.collapsed();
    }
    for span in opened.spans {
        if let Err(error) = span.and_then(|span| observe(span, tally)) {
            return tally.fault(format!("unreadable span in the record at {offset}: {error}"));
        }
    }
}

/// Reads one native span.
fn observe(span: &[u8], tally: &mut Tally) -> Result<(), WireError> {
    let (mut trace_id, mut span_id, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    let (mut service, mut operation): (&[u8], &[u8]) = (&[], &[]);
    let (mut start, mut duration, mut kind, mut status) = (0, 0, 0, 0);
    for field in Fields::new(span) {
        let field = field?;
        match field.number {
            1 => trace_id = field.bytes()?,
            2 => span_id = field.bytes()?,
            3 => parent = field.bytes()?,
            4 => service = field.bytes()?,
            5 => operation = field.bytes()?,
            6 => start = field.varint()? as i64,
            7 => duration = field.varint()? as i64,
            14 => kind = field.varint()? as u8,
            15 => {
                for inner in Fields::new(field.bytes()?) {
                    let inner = inner?;
                    if inner.number == 3 {
                        status = inner.varint()? as u8;
                    }
                }
            }
            _ => {}
        }
    }
    if !tally.is_of_run(trace_id) {
        tally.foreign();
        return Ok(());
    }
    let (service, operation) = (String::from_utf8_lossy(service), String::from_utf8_lossy(operation));
    let mut content = Content::new(trace_id, &service, &operation, kind, status, duration);
    for field in Fields::new(span) {
        let field = field?;
        if field.number == 11 {
            add_attribute(&mut content, field.bytes()?)?;
        }
    }
    tally.observe(&Found {
        trace_id,
        span_id,
        parent_span_id: parent,
        start_ns: start,
        content: content.digest(),
    });
    Ok(())
}

fn add_attribute(content: &mut Content, pair: &[u8]) -> Result<(), WireError> {
    let (mut key, mut any): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::new(pair) {
        let field = field?;
        match field.number {
            1 => key = field.bytes()?,
            2 => any = field.bytes()?,
            _ => {}
        }
    }
    let key = String::from_utf8_lossy(key);
    for field in Fields::new(any) {
        let field = field?;
        match field.number {
            1 => content.string(&key, &String::from_utf8_lossy(field.bytes()?)),
            2 => content.bool(&key, field.varint()? != 0),
            3 => content.int(&key, field.varint()? as i64),
            4 => content.double(&key, f64::from_bits(field.fixed64()?)),
            _ => content.other(&key, field.raw),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
