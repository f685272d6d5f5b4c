//! Opens a log directory: sidecars for sealed segments, a full scan of the last one.
//!
//! A torn tail (bytes after the last whole entry of the last segment, which were never acknowledged as
//! durable) is cut off and logged. Damage anywhere else is [`LogError::Corrupt`] with file and position:
//! the log does not start, because what was lost there had been acknowledged.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Shared, disk,
    disk::io_error,
    format::{CARRIED, COMPACTED, Op, OpKind, SegmentHeader, key_hash, key_of},
    segment::{self, Scan, Segment, Step},
    sidecar::{self, Table},
    state::{Effect, IndexEntry, Run, State, TopicMeta},
    writer::{self, Active},
};
use crate::log::LogError;

/// Loads the directory into `shared.state` and returns the segment to go on in.
pub(super) fn open(shared: &Shared) -> Result<Active, LogError> {
    let dir = &shared.dir;
    let seqs = list(dir)?;
    let Some((last, sealed)) = seqs.split_last() else {
        let active = writer::create(shared, 0, &State::default())?;
        shared.state.write().segments.insert(0, active.segment.clone());
        return Ok(active);
    };
    if let Some(gap) = seqs.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(segment::corrupt(&segment::path(dir, gap[0] + 1), 0, "the segment is missing"));
    }
    let mut state = shared.state.write();
    checkpoint(dir, *last, &mut state)?;
    for seq in sealed {
        load_sealed(dir, *seq, &mut state)?;
    }
    scan_last(shared, *last, &mut state)
}

/// Segment numbers in order; removes what a crash left half made.
fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let failed = |error: std::io::Error| io_error("cannot list", dir, &error);
    let mut seqs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(seq) = segment::seq_of(name) {
            seqs.push(seq);
        } else if name.ends_with(".tmp") {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    seqs.sort_unstable();
    Ok(seqs)
}

/// Applies the entry at the head of the last segment: all topics, watermarks and group positions.
fn checkpoint(dir: &Path, seq: u64, state: &mut State) -> Result<(), LogError> {
    let path = segment::path(dir, seq);
    let mut scan = Scan::open(&path)?;
    let placeholder = Arc::new(Segment::new(dir, scan.header, 0));
    let step = scan.step(|position, ops| apply_all(state, &placeholder, position, ops))?;
    match step {
        Step::Entry => Ok(()),
        Step::End => Err(segment::corrupt(&path, scan.position(), "the checkpoint is missing")),
        Step::Stop(stop) => Err(segment::corrupt(&path, stop.position, stop.detail)),
    }
}

fn effect(op: &Op<'_>, entry_at: u64) -> Result<Effect, &'static str> {
    let header = op.header;
    let (topic, partition) = (header.topic, header.partition);
    let name = || std::str::from_utf8(op.body).map(Arc::<str>::from).map_err(|_| "name is not UTF-8");
    Ok(match header.kind {
        OpKind::Append => {
            let key = if header.flags & COMPACTED != 0 {
                key_hash(key_of(header, op.body)?.ok_or("record without a key in a compacted topic")?)
            } else {
                [0; 2]
            };
            let position = entry_at + op.at as u64;
            let entry = IndexEntry {
                offset: header.value,
                timestamp: header.time,
                position: u32::try_from(position).map_err(|_| "segment too large")?,
                len: u32::try_from(header.total()).map_err(|_| "record too large")?,
                key,
            };
            Effect::Record { topic, partition, entry, carried: header.flags & CARRIED != 0 }
        }
        OpKind::Topic => Effect::Topic(TopicMeta {
            id: topic,
            name: name()?,
            partitions: partition,
            retention: u64::try_from(header.time).ok().map(Duration::from_millis),
            compacted: header.flags & COMPACTED != 0,
        }),
        OpKind::Commit => Effect::Commit { group: name()?, topic, partition, next: header.value },
        OpKind::Bounds => {
            Effect::Bounds { topic, partition, low: header.time.cast_unsigned(), high: header.value }
        }
    })
}

fn apply_all(
    state: &mut State,
    segment: &Arc<Segment>,
    position: u64,
    ops: &[Op<'_>],
) -> Result<(), LogError> {
    for op in ops {
        let at = position + op.at as u64;
        let effect = effect(op, position).map_err(|detail| segment.corrupt(at, detail))?;
        if !state.apply(effect, segment) {
            return Err(segment.corrupt(at, "an operation names an unknown topic or partition"));
        }
    }
    Ok(())
}

fn load_sealed(dir: &Path, seq: u64, state: &mut State) -> Result<(), LogError> {
    let path = segment::path(dir, seq);
    let file_len = std::fs::metadata(&path).map_err(|error| io_error("cannot read", &path, &error))?.len();
    let header = Scan::open(&path)?.header;
    let segment = Arc::new(Segment::new(dir, header, file_len));
    let tables = match sidecar::open(&segment) {
        Ok(_) if segment.len() > file_len => {
            return Err(segment.corrupt(file_len, "the file is shorter than when it was sealed"));
        }
        Ok(tables) => tables,
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "scanning a segment whose index cannot be used");
            rebuild(&segment)?
        }
    };
    for Table { topic, partition, carried, run } in tables {
        let topic = state.topics.get_mut(topic as usize);
        let compacted = topic.as_ref().is_some_and(|topic| topic.meta.compacted);
        let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(partition as usize)) else {
            return Err(segment.corrupt(0, "a record of an unknown topic or partition"));
        };
        partition.high = partition.high.max(run.last + 1);
        if compacted {
            let entries = sidecar::load(&run, run.base, run.count())
                .map_err(|error| super::read::index_error(&segment, &error))?;
            for entry in entries {
                let latest = partition.latest.entry(entry.key).or_insert(entry.offset);
                *latest = entry.offset.max(*latest);
            }
        }
        if carried { partition.carried.push(run) } else { partition.regular.push(run) }
    }
    state.segments.insert(seq, segment);
    Ok(())
}

/// Scans a sealed segment and writes its sidecar again.
fn rebuild(segment: &Arc<Segment>) -> Result<Vec<Table>, LogError> {
    let mut runs: BTreeMap<(u32, u32, bool), Run> = BTreeMap::new();
    let mut scan = Scan::open(&segment.path)?;
    let stop = scan.run(|position, ops| {
        for op in ops {
            let found = effect(op, position).map_err(|detail| segment.corrupt(position, detail))?;
            if let Effect::Record { topic, partition, entry, carried } = found {
                let run = runs.entry((topic, partition, carried));
                run.or_insert_with(|| Run::new(segment.clone())).insert(entry);
            }
        }
        Ok(())
    })?;
    // Zeros that were reserved and not yet cut off when the process died are fine; anything else is not.
    if let Some(stop) = stop
        && (stop.garbage || stop.damaged)
    {
        return Err(segment.corrupt(stop.position, stop.detail));
    }
    segment.set_len(scan.position());
    let table = |((topic, partition, carried), run)| Table { topic, partition, carried, run };
    let mut tables: Vec<Table> = runs.into_iter().map(table).collect();
    match sidecar::write(segment, &tables) {
        Ok(entries) => sidecar::adopt(&mut tables, entries),
        Err(error) => {
            tracing::warn!(path = %segment.index_path().display(), %error, "cannot write an index");
        }
    }
    Ok(tables)
}

fn scan_last(shared: &Shared, seq: u64, state: &mut State) -> Result<Active, LogError> {
    let path = segment::path(&shared.dir, seq);
    let mut scan = Scan::open(&path)?;
    let header: SegmentHeader = scan.header;
    let segment = Arc::new(Segment::new(&shared.dir, header, 0));
    let mut records = 0;
    let stop = scan.run(|position, ops| {
        records += ops.iter().filter(|op| op.header.kind == OpKind::Append).count();
        apply_all(state, &segment, position, ops)
    })?;
    let end = scan.position();
    let failed = |error: std::io::Error| io_error("cannot write", &path, &error);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    if let Some(stop) = stop {
        if stop.damaged {
            return Err(segment::corrupt(&path, stop.position, stop.detail));
        }
        if stop.garbage {
            let path = path.display();
            tracing::warn!(%path, position = end, reason = stop.detail, "cut off a torn tail: it was never acknowledged as durable");
        }
    }
    file.set_len(end).map_err(failed)?;
    if shared.config.preallocate
        && let Err(error) = disk::preallocate(&file, 0, shared.config.segment_bytes)
    {
        tracing::warn!(path = %path.display(), %error, "cannot reserve space for the segment");
    }
    file.sync_all().map_err(failed)?;
    segment.set_len(end);
    state.segments.insert(seq, segment.clone());
    let (file, since) = (Arc::new(file), Instant::now());
    Ok(Active { segment, file, position: end, durable: end, entries: scan.entries(), records, since })
}
