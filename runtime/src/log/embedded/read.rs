//! Reads records: which entries come next, then their bytes in large chunks, every one checked.
//!
//! Blocking; consumers call it on the blocking pool. The state's lock is held only to look up where to
//! read; a segment that retention unlinks meanwhile is looked up again.

use std::{io, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;

use super::{
    Shared,
    disk::io_error,
    format::{OP_HEADER, OpHeader, OpKind, decode_record},
    segment::Segment,
    sidecar,
    state::{Entries, IndexEntry, Partition, Run},
};
use crate::log::{LogError, Millis, NextOffset, Offset, Record, TopicPartition};

/// Index entries looked at at once.
const ENTRIES: usize = 1024;
/// Bytes read at once; a record pins its chunk in memory, so it is not larger.
const CHUNK: usize = 1 << 20;
/// Records further apart than this are read separately.
const GAP: u64 = 16 << 10;
/// Look-ups that may race with retention before something else must be wrong.
const ATTEMPTS: usize = 8;

/// Records of one partition.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) records: Vec<Record>,
    /// Where to go on.
    pub(super) next: u64,
    pub(super) bytes: usize,
}

/// Damage in a sidecar, or a sidecar that is gone.
pub(super) fn index_error(segment: &Segment, error: &io::Error) -> LogError {
    let path = segment.index_path();
    if error.kind() == io::ErrorKind::InvalidData || error.kind() == io::ErrorKind::UnexpectedEof {
        return super::segment::corrupt(&path, 0, &error.to_string());
    }
    io_error("cannot read", &path, error)
}

/// Whether `position` can be read in `partition`, and whether there is something to read.
pub(super) fn check_position(
    at: &TopicPartition,
    partition: &Partition,
    compacted: bool,
    position: u64,
) -> Result<bool, LogError> {
    if position < partition.low && !compacted {
        let (wanted, low) = (NextOffset(position), NextOffset(partition.low));
        return Err(LogError::DataLoss { at: at.clone(), wanted, low });
    }
    if position > partition.high {
        let end = partition.high;
        return Err(LogError::Fatal(format!(
            "position {position} of {at} is past the end {end}: was the log made anew since it was stored?"
        )));
    }
    Ok(position < partition.high)
}

/// Entries of one run from a position on.
struct Source {
    segment: Arc<Segment>,
    entries: Vec<IndexEntry>,
    /// The run has more after these.
    more: bool,
    sealed: bool,
}

/// What a look-up under the lock found: entries in memory, runs to read from sidecars, where it ends.
struct Plan {
    loaded: Vec<Source>,
    on_disk: Vec<Run>,
    /// First position that other runs hold.
    end: u64,
    high: u64,
    compacted: bool,
}

fn plan(shared: &Shared, at: &TopicPartition, position: u64) -> Result<Option<Plan>, LogError> {
    let state = shared.state.read();
    let (topic, partition) =
        state.partition(at).ok_or_else(|| LogError::UnknownTopicPartition(at.clone()))?;
    let compacted = topic.meta.compacted;
    if !check_position(at, partition, compacted, position)? {
        return Ok(None);
    }
    let first = partition.regular.partition_point(|run| run.last < position);
    let end = partition.regular.get(first + 1).map_or(partition.high, |run| run.base);
    let carried = partition.carried.iter().filter(|run| run.last >= position);
    let mut plan = Plan { loaded: Vec::new(), on_disk: Vec::new(), end, high: partition.high, compacted };
    for run in partition.regular.get(first).into_iter().chain(carried) {
        match &run.entries {
            Entries::Disk { .. } => plan.on_disk.push(run.clone()),
            Entries::Memory(entries) => {
                let start = entries.partition_point(|entry| entry.offset < position);
                let stop = entries.len().min(start + ENTRIES);
                plan.loaded.push(Source {
                    segment: run.segment.clone(),
                    entries: entries[start..stop].to_vec(),
                    more: stop < entries.len(),
                    sealed: false,
                });
            }
        }
    }
    Ok(Some(plan))
}

/// The next entries at or after `position`, in order, and the position after them.
fn look_up(
    shared: &Shared,
    at: &TopicPartition,
    position: u64,
) -> Result<Option<(Vec<(Arc<Segment>, IndexEntry)>, u64)>, Lookup> {
    let Some(mut plan) = plan(shared, at, position)? else { return Ok(None) };
    for run in &plan.on_disk {
        let entries =
            sidecar::load(run, position, ENTRIES).map_err(|error| gone(&run.segment, error, true))?;
        let more = entries.last().is_some_and(|last| last.offset < run.last);
        plan.loaded.push(Source { segment: run.segment.clone(), entries, more, sealed: true });
    }
    let mut end = plan.end;
    for source in plan.loaded.iter().filter(|source| source.more) {
        end = end.min(source.entries.last().map_or(end, |last| last.offset + 1));
    }
    let mut found: Vec<(Arc<Segment>, IndexEntry, bool)> = Vec::new();
    for source in &plan.loaded {
        let inside = source.entries.iter().filter(|entry| entry.offset < end);
        found.extend(inside.map(|entry| (source.segment.clone(), *entry, source.sealed)));
    }
    found.sort_by_key(|(_, entry, _)| entry.offset);
    found.dedup_by_key(|(_, entry, _)| entry.offset);
    if plan.compacted {
        let state = shared.state.read();
        if let Some((_, partition)) = state.partition(at) {
            // Of sealed segments only the latest of a key is given; the open one is given whole.
            found.retain(|(_, entry, sealed)| {
                !sealed || partition.latest.get(&entry.key).is_none_or(|latest| *latest <= entry.offset)
            });
        }
    }
    let found = found.into_iter().map(|(segment, entry, _)| (segment, entry)).collect();
    Ok(Some((found, end.min(plan.high))))
}

/// Why a look-up or a read failed.
enum Lookup {
    Failed(LogError),
    /// The segment was removed meanwhile: look again.
    Gone,
}

impl From<LogError> for Lookup {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

fn gone(segment: &Segment, error: io::Error, index: bool) -> Lookup {
    if error.kind() == io::ErrorKind::NotFound {
        return Lookup::Gone;
    }
    Lookup::Failed(if index {
        index_error(segment, &error)
    } else {
        io_error("cannot read", &segment.path, &error)
    })
}

/// Reads records of `at` from `position` on, about `max_bytes` of them but at least one if there is one.
pub(super) fn fetch(
    shared: &Shared,
    at: &TopicPartition,
    mut position: u64,
    max_bytes: usize,
) -> Result<Fetched, LogError> {
    let mut attempts = 0;
    loop {
        let result = look_up(shared, at, position).and_then(|found| {
            let Some((mut entries, mut next)) = found else {
                return Ok(Some(Fetched { records: Vec::new(), next: position, bytes: 0 }));
            };
            if entries.is_empty() {
                position = next;
                return Ok(None);
            }
            let kept = fitting(&entries, max_bytes);
            if kept < entries.len() {
                entries.truncate(kept);
                next = entries[kept - 1].1.offset + 1;
            }
            let (records, bytes) = read_records(at, &entries, max_bytes)?;
            if records.len() < entries.len() {
                next = entries[records.len() - 1].1.offset + 1;
            }
            Ok(Some(Fetched { records, next, bytes }))
        });
        match result {
            Ok(Some(fetched)) => return Ok(fetched),
            Ok(None) => {}
            Err(Lookup::Failed(error)) => return Err(error),
            Err(Lookup::Gone) if attempts < ATTEMPTS => attempts += 1,
            Err(Lookup::Gone) => {
                return Err(LogError::Fatal(format!(
                    "a segment with records of {at} is missing on the disk"
                )));
            }
        }
    }
}

/// How many of `entries` fit `max_bytes`; at least one.
fn fitting(entries: &[(Arc<Segment>, IndexEntry)], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|(_, entry)| {
        bytes += entry.len as usize;
        bytes <= max_bytes
    });
    fitting.count().max(1)
}

/// Reads the entries until they make `max_bytes` uncompressed; at least one.
fn read_records(
    at: &TopicPartition,
    entries: &[(Arc<Segment>, IndexEntry)],
    max_bytes: usize,
) -> Result<(Vec<Record>, usize), Lookup> {
    let mut sum = 0;
    let mut records = Vec::with_capacity(entries.len());
    let mut rest = entries;
    while let Some((segment, first)) = rest.first() {
        let mut end = u64::from(first.position) + u64::from(first.len);
        let near = rest[1..].iter().take_while(|(other, entry)| {
            let start = u64::from(entry.position);
            let stop = start + u64::from(entry.len);
            let joins = other.header.seq == segment.header.seq
                && start >= end
                && start - end <= GAP
                && stop - u64::from(first.position) <= CHUNK as u64;
            if joins {
                end = stop;
            }
            joins
        });
        let (chunk, after) = rest.split_at(1 + near.count());
        let start = u64::from(first.position);
        let file = segment.file().map_err(|error| gone(segment, error, false))?;
        let mut bytes = vec![0; usize::try_from(end - start).expect("chunks are small")];
        file.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Lookup::Failed(segment.corrupt(start, "the file ends within a record"))
            }
            _ => gone(segment, error, false),
        })?;
        let bytes = Bytes::from(bytes);
        for (_, entry) in chunk {
            let from = (u64::from(entry.position) - start) as usize;
            let record = record(at, segment, entry, &bytes.slice(from..from + entry.len as usize))?;
            sum += OP_HEADER + record.payload.as_ref().map_or(0, Bytes::len);
            records.push(record);
            if sum >= max_bytes {
                return Ok((records, sum));
            }
        }
        rest = after;
    }
    Ok((records, sum))
}

fn record(
    at: &TopicPartition,
    segment: &Segment,
    entry: &IndexEntry,
    bytes: &Bytes,
) -> Result<Record, LogError> {
    let corrupt = |detail| segment.corrupt(u64::from(entry.position), detail);
    let header = OpHeader::decode(bytes, segment.header.salt).map_err(corrupt)?;
    let expected = header.kind == OpKind::Append
        && header.value == entry.offset
        && header.partition == at.partition
        && header.total() == bytes.len();
    if !expected {
        return Err(corrupt("a record is not what the index says"));
    }
    let body = bytes.slice(OP_HEADER..);
    if crc32c::crc32c(&body) != header.body_crc {
        return Err(corrupt("record checksum mismatch"));
    }
    let body = decode_record(header, &body).map_err(corrupt)?;
    Ok(Record {
        from: at.clone(),
        offset: Offset(entry.offset),
        timestamp: body.timestamp,
        key: body.key,
        payload: body.payload,
        headers: body.headers,
    })
}

/// Position of the first record at or after `time`; the end when there is none.
pub(super) fn position_at(
    shared: &Shared,
    at: &TopicPartition,
    time: Millis,
) -> Result<NextOffset, LogError> {
    let (runs, low, high) = {
        let state = shared.state.read();
        let (_, partition) =
            state.partition(at).ok_or_else(|| LogError::UnknownTopicPartition(at.clone()))?;
        let runs = partition.carried.iter().chain(&partition.regular);
        let runs: Vec<Run> = runs.filter(|run| run.max_timestamp >= time.0).cloned().collect();
        (runs, partition.low, partition.high)
    };
    let mut best = high;
    for run in runs {
        if run.base >= best {
            continue;
        }
        let mut from = low.max(run.base);
        'run: loop {
            let chunk = match sidecar::load(&run, from, ENTRIES) {
                Ok(chunk) => chunk,
                // Retention removed the segment meanwhile, and the low watermark passed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(index_error(&run.segment, &error)),
            };
            let Some(last) = chunk.last() else { break };
            from = last.offset + 1;
            for entry in &chunk {
                if entry.timestamp >= time.0 {
                    best = best.min(entry.offset);
                    break 'run;
                }
            }
        }
    }
    Ok(NextOffset(best))
}
