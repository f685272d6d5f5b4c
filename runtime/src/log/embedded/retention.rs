//! Removes the oldest segment when its records have expired or the disk budget is exceeded.
//!
//! What must survive is carried forward into the active segment with its offsets, synced, and only then
//! is the file unlinked. Topics, watermarks and group positions need no carrying: every segment begins
//! with a checkpoint of them.
//! Invariants: of a topic that is not compacted only a prefix of offsets goes away, and the low watermark
//! moves past it, so a reader never skips silently; the latest record of a key in a compacted topic stays
//! (tombstones go with their segment, which is never younger than what they delete).

use std::{os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;

use super::{
    disk,
    format::{OP_HEADER, OpHeader},
    queue::{Failure, NewOp},
    segment::Segment,
    sidecar,
    state::{IndexEntry, Run, State},
    writer::Writer,
};
use crate::log::LogError;

/// Carried records written as one entry at most.
const CARRY_BYTES: usize = 4 << 20;
/// Entries of an index looked at at once.
const CHUNK: usize = 4096;
/// An expired segment is removed when at most this share of it must be carried (in percent).
const CARRY_SHARE: u64 = 25;
/// Above this share the budget is held by what must stay; carrying it round and round would not help.
const FUTILE_SHARE: u64 = 90;

/// What retention does with one partition's records in the oldest segment.
#[derive(Debug)]
struct Verdict {
    topic: u32,
    partition: u32,
    survivors: Vec<IndexEntry>,
    /// Low watermark afterwards; `None` if it stays.
    low: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Budget,
    Compact,
}

impl Writer {
    /// Removes segments, oldest first, while there is a reason to; all sealed ones if `compact`.
    pub(super) fn retain(&mut self, compact: bool) -> Result<(), Failure> {
        let stop_at = self.active.segment.header.seq;
        let mut futile = 0;
        loop {
            let (oldest, total) = {
                let state = self.shared.state.read();
                let oldest = state.segments.values().next().expect("there is an active segment").clone();
                (oldest, state.segments.values().map(|segment| segment.len()).sum::<u64>())
            };
            let budget = self.shared.config.retention_bytes;
            // What this pass itself writes is not looked at again: the pass ends.
            if oldest.header.seq >= stop_at {
                return Ok(());
            }
            let reason = match () {
                () if budget > 0 && total > budget => Reason::Budget,
                () if compact => Reason::Compact,
                () => Reason::Age,
            };
            let verdicts = match self.judge(&oldest, reason) {
                Ok(Some(verdicts)) => verdicts,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, path = %oldest.path.display(), "retention cannot read a segment");
                    return Ok(());
                }
            };
            let carried: u64 =
                verdicts.iter().flat_map(|verdict| &verdict.survivors).map(|e| u64::from(e.len)).sum();
            if reason == Reason::Age && too_much_to_carry(carried, &oldest) {
                return Ok(());
            }
            futile = if carried * 100 > oldest.len() * FUTILE_SHARE { futile + 1 } else { 0 };
            if reason == Reason::Budget && futile > 1 {
                tracing::warn!(budget, total, "compacted topics hold more than the log's disk budget");
                return Ok(());
            }
            self.remove(&oldest, verdicts, reason)?;
        }
    }

    fn judge(&self, oldest: &Arc<Segment>, reason: Reason) -> Result<Option<Vec<Verdict>>, LogError> {
        let now = self.shared.clock.now_unix_millis();
        let mut work: Vec<(u32, u32, bool, i64, u64, Vec<Run>)> = Vec::new();
        {
            let state = self.shared.state.read();
            for (topic, index, partition) in state.partitions() {
                let runs: Vec<Run> = partition
                    .regular
                    .iter()
                    .chain(&partition.carried)
                    .filter(|run| run.segment.header.seq == oldest.header.seq)
                    .cloned()
                    .collect();
                if !runs.is_empty() {
                    let age = topic
                        .meta
                        .retention
                        .map_or(i64::MAX, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
                    let expired_before = now.saturating_sub(age);
                    let compacted = topic.meta.compacted;
                    work.push((topic.meta.id, index, compacted, expired_before, partition.low, runs));
                }
            }
        }
        // What has not begun to expire would be carried whole: often that is answer enough.
        let live =
            work.iter().filter(|(_, _, compacted, ..)| !compacted).flat_map(|(.., before, _, runs)| {
                runs.iter().filter(move |run| run.min_timestamp >= *before).map(|run| run.bytes)
            });
        if reason == Reason::Age && too_much_to_carry(live.sum(), oldest) {
            return Ok(None);
        }
        let mut verdicts = Vec::with_capacity(work.len());
        for (topic, partition, compacted, expired_before, low, runs) in work {
            let mut verdict = Verdict { topic, partition, survivors: Vec::new(), low: None };
            let last = runs.iter().map(|run| run.last).max().unwrap_or(0);
            let all_expired = runs.iter().all(|run| run.max_timestamp < expired_before);
            if compacted {
                let entries = load_all(&runs)?;
                let state = self.shared.state.read();
                verdict.survivors = latest(&state, topic, partition, entries);
            } else if reason == Reason::Budget || all_expired {
                verdict.low = (last + 1 > low).then_some(last + 1);
            } else {
                // Keep everything from the first record that has not expired, so that no gap opens.
                let entries: Vec<IndexEntry> =
                    load_all(&runs)?.into_iter().filter(|entry| entry.offset >= low).collect();
                let kept = entries.iter().position(|entry| entry.timestamp >= expired_before);
                let kept = kept.unwrap_or(entries.len());
                verdict.low = kept.checked_sub(1).map(|dropped| entries[dropped].offset + 1);
                verdict.survivors = entries[kept..].to_vec();
            }
            verdicts.push(verdict);
        }
        Ok(Some(verdicts))
    }

    fn remove(
        &mut self,
        oldest: &Arc<Segment>,
        verdicts: Vec<Verdict>,
        reason: Reason,
    ) -> Result<(), Failure> {
        let mut ops = Vec::new();
        let mut bytes = 0;
        let mut carried = 0_u64;
        let mut tombstones = Vec::new();
        for verdict in &verdicts {
            for entry in &verdict.survivors {
                let op = match read_survivor(oldest, verdict, entry) {
                    Ok(Some(op)) => op,
                    Ok(None) => {
                        tombstones.push((verdict.topic, verdict.partition, *entry));
                        continue;
                    }
                    Err(error) => {
                        tracing::error!(%error, "retention cannot read a record that must stay");
                        return Ok(());
                    }
                };
                bytes += OP_HEADER + op.body_len();
                carried += 1;
                ops.push(op);
                if bytes >= CARRY_BYTES {
                    self.write_own(std::mem::take(&mut ops))?;
                    bytes = 0;
                }
            }
        }
        for verdict in &verdicts {
            if let Some(low) = verdict.low {
                let (topic, partition) = (verdict.topic, verdict.partition);
                let state = self.shared.state.read();
                let high = state.topics[topic as usize].partitions[partition as usize].high;
                ops.push(NewOp::Bounds { topic, partition, low, high });
            }
        }
        if !ops.is_empty() {
            self.write_own(ops)?;
        }
        self.sync()?;
        self.forget(oldest, &tombstones);
        for path in [&oldest.index_path(), &oldest.path] {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a segment's file");
            }
        }
        if let Err(error) = disk::sync_dir(&self.shared.dir) {
            return Err(self.shared.poison(&format!("cannot sync the log's directory: {error}")));
        }
        tracing::info!(path = %oldest.path.display(), ?reason, bytes = oldest.len(), carried, "segment removed");
        Ok(())
    }

    /// Drops the segment from the state, and the keys whose tombstones went with it.
    fn forget(&self, oldest: &Segment, tombstones: &[(u32, u32, IndexEntry)]) {
        let mut state = self.shared.state.write();
        state.remove_segment(oldest.header.seq);
        for (topic, partition, entry) in tombstones {
            let latest = &mut state.topics[*topic as usize].partitions[*partition as usize].latest;
            if latest.get(&entry.key) == Some(&entry.offset) {
                latest.remove(&entry.key);
            }
        }
    }
}

/// Whether a segment that expired should wait until more of it has.
fn too_much_to_carry(carried: u64, oldest: &Segment) -> bool {
    carried * 100 > oldest.len() * CARRY_SHARE
}

fn load_all(runs: &[Run]) -> Result<Vec<IndexEntry>, LogError> {
    let mut all = Vec::new();
    for run in runs {
        let mut from = run.base;
        loop {
            let chunk = sidecar::load(run, from, CHUNK)
                .map_err(|error| super::read::index_error(&run.segment, &error))?;
            let Some(last) = chunk.last() else { break };
            from = last.offset + 1;
            all.extend_from_slice(&chunk);
        }
    }
    all.sort_unstable_by_key(|entry| entry.offset);
    all.dedup_by_key(|entry| entry.offset);
    Ok(all)
}

fn latest(state: &State, topic: u32, partition: u32, mut entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    let latest = &state.topics[topic as usize].partitions[partition as usize].latest;
    entries.retain(|entry| latest.get(&entry.key) == Some(&entry.offset));
    entries
}

/// Reads a record to carry; `None` for the tombstone of a compacted topic.
fn read_survivor(
    segment: &Segment,
    verdict: &Verdict,
    entry: &IndexEntry,
) -> Result<Option<NewOp>, LogError> {
    let unreadable = |error: std::io::Error| disk::io_error("cannot read", &segment.path, &error);
    let file = segment.file().map_err(unreadable)?;
    let mut bytes = vec![0; entry.len as usize];
    let position = u64::from(entry.position);
    file.read_exact_at(&mut bytes, position).map_err(unreadable)?;
    let bytes = Bytes::from(bytes);
    let header =
        OpHeader::decode(&bytes, segment.header.salt).map_err(|detail| segment.corrupt(position, detail))?;
    let body = bytes.slice(OP_HEADER..);
    let right = header.total() == bytes.len()
        && (header.topic, header.partition, header.value) == (verdict.topic, verdict.partition, entry.offset);
    if !right || crc32c::crc32c(&body) != header.body_crc {
        return Err(segment.corrupt(position, "a record is not what the index says"));
    }
    let tombstone =
        header.flags & super::format::COMPACTED != 0 && header.flags & super::format::HAS_PAYLOAD == 0;
    Ok((!tombstone).then_some(NewOp::Carried { header, key: entry.key, body }))
}
