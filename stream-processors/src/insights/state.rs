//! What the second stage keeps in `infertrace.state.insights.v1`, and how it is put together again.
//!
//! For each partition of the partials: a snapshot of its analyst in chunks that fit a record, with a head that says
//! where the partials after it begin, and how far outputs were told. A restart takes the snapshot, reads the
//! partials after it again, and is silent up to where outputs were told: the analyst repeats itself exactly.
//!
//! Invariants: head and chunks are written in one transaction; a snapshot that does not add up is not used, and the
//! partials are read from the oldest instead.

use bytes::Bytes;
use infertrace_analytics::rollup::Millis;
use infertrace_proto::v1::{Codec, InsightState, SnapshotChunk, SnapshotHead, insight_state::What};
use infertrace_runtime::log::{self, NewRecord, Record, TopicPartition};
use infertrace_schemas::frame;
use prost::Message;

const VERSION: u32 = 1;
/// Bytes of one chunk; a broker takes records of 1 MiB.
const CHUNK_BYTES: usize = 512 << 10;
/// A snapshot larger than this is not believed.
const MAX_BYTES: usize = 4 << 30;

/// A snapshot that was put together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Partials below this offset are in it.
    pub(super) position: u64,
    pub(super) bytes: Vec<u8>,
}

/// What the state topic says about one partition of the partials.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) snapshot: Option<Snapshot>,
    /// Start of the last window whose outputs are in the log.
    pub(super) told_to_ms: Option<Millis>,
    /// Why there is no snapshot although one was written.
    pub(super) problem: Option<String>,
    /// Records that nobody could read.
    pub(super) unreadable: u64,
}

/// Reads the records of one partition of the state topic in order.
#[derive(Debug)]
pub(super) struct Gatherer {
    prefix: String,
    head: Option<SnapshotHead>,
    /// By number, each of whichever head was written last.
    chunks: Vec<Option<SnapshotChunk>>,
    kept: Kept,
}

impl Gatherer {
    pub(super) fn new(partition: u32) -> Self {
        Self { prefix: format!("{partition}/"), head: None, chunks: Vec::new(), kept: Kept::default() }
    }

    pub(super) fn take(&mut self, record: &Record) {
        let (Some(key), Some(payload)) = (&record.key, &record.payload) else { return };
        // Several partitions of partials may share one of the state topic.
        if !key.starts_with(self.prefix.as_bytes()) {
            return;
        }
        match InsightState::decode(payload.as_ref()).map(|state| state.what) {
            Ok(Some(What::Head(head))) => self.head = Some(head),
            Ok(Some(What::ToldToMs(told_to_ms))) => self.kept.told_to_ms = Some(told_to_ms),
            Ok(Some(What::Chunk(chunk))) if (chunk.number as usize) < MAX_BYTES / CHUNK_BYTES => {
                let number = chunk.number as usize;
                self.chunks.resize(self.chunks.len().max(number + 1), None);
                self.chunks[number] = Some(chunk);
            }
            _ => self.kept.unreadable += 1,
        }
    }

    pub(super) fn finish(mut self) -> Kept {
        if let Some(head) = &self.head {
            match assemble(head, &self.chunks) {
                Ok(bytes) => self.kept.snapshot = Some(Snapshot { position: head.position, bytes }),
                Err(problem) => self.kept.problem = Some(problem),
            }
        }
        self.kept
    }
}

fn assemble(head: &SnapshotHead, chunks: &[Option<SnapshotChunk>]) -> Result<Vec<u8>, String> {
    let mut packed = Vec::new();
    for number in 0..head.chunks as usize {
        match chunks.get(number) {
            Some(Some(chunk)) if chunk.position == head.position => packed.extend_from_slice(&chunk.bytes),
            _ => return Err(format!("chunk {number} of {} is missing", head.chunks)),
        }
    }
    if frame::crc(&packed) != head.crc32c {
        return Err("its checksum differs".to_owned());
    }
    frame::decompress(Codec::Zstd, &packed, head.bytes, MAX_BYTES).map_err(|error| error.to_string())
}

/// Records that replace the snapshot of `partition` in the state topic.
pub(super) fn snapshot_records(
    to: &TopicPartition,
    partition: u32,
    position: u64,
    snapshot: &[u8],
    timestamp: log::Millis,
) -> Vec<NewRecord> {
    let packed = frame::compress(Codec::Zstd, snapshot);
    let head = SnapshotHead {
        position,
        chunks: packed.len().div_ceil(CHUNK_BYTES) as u32,
        bytes: snapshot.len() as u64,
        crc32c: frame::crc(&packed),
    };
    let chunk = |(number, bytes): (usize, &[u8])| {
        let chunk = SnapshotChunk { position, number: number as u32, bytes: bytes.to_vec() };
        record(to, format!("{partition}/chunk/{number}"), What::Chunk(chunk), timestamp)
    };
    let mut records: Vec<NewRecord> = packed.chunks(CHUNK_BYTES).enumerate().map(chunk).collect();
    records.push(record(to, format!("{partition}/head"), What::Head(head), timestamp));
    records
}

/// The record that says how far the outputs of `partition` were told.
pub(super) fn told_record(
    to: &TopicPartition,
    partition: u32,
    told_to_ms: Millis,
    timestamp: log::Millis,
) -> NewRecord {
    record(to, format!("{partition}/told"), What::ToldToMs(told_to_ms), timestamp)
}

fn record(to: &TopicPartition, key: String, what: What, timestamp: log::Millis) -> NewRecord {
    let state = InsightState { version: VERSION, what: Some(what) };
    NewRecord {
        to: to.clone(),
        key: Some(Bytes::from(key)),
        payload: Some(state.encode_to_vec().into()),
        headers: Vec::new(),
        timestamp,
    }
}

#[cfg(test)]
mod tests {
    use infertrace_runtime::log::Offset;

    use super::*;

    fn read(records: &[NewRecord], partition: u32) -> Kept {
        let mut gatherer = Gatherer::new(partition);
        for (offset, record) in records.iter().enumerate() {
            gatherer.take(&Record {
                from: record.to.clone(),
                offset: Offset(offset as u64),
                timestamp: record.timestamp,
                key: record.key.clone(),
                payload: record.payload.clone(),
                headers: Vec::new(),
            });
        }
        gatherer.finish()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    /// Scenario: a large snapshot, then a small one, of two partitions in one topic, with and without compaction of what
    /// was replaced. Guarantee: the latest of each is put together, and how far outputs were told.
    #[test]
    fn the_latest_snapshot_wins() {
        let to = TopicPartition::new("state", 0);
        let large = noise(3 * CHUNK_BYTES);
        let mut records = snapshot_records(&to, 3, 10, &large, log::Millis(1));
        assert!(records.len() > 3, "the snapshot is larger than a record");
        records.push(told_record(&to, 3, 5_000, log::Millis(1)));
        records.extend(snapshot_records(&to, 13, 7, b"other", log::Millis(1)));
        let kept = read(&records, 3);
        assert_eq!(kept.snapshot, Some(Snapshot { position: 10, bytes: large }));
        assert_eq!((kept.told_to_ms, kept.problem, kept.unreadable), (Some(5_000), None, 0));

        records.extend(snapshot_records(&to, 3, 20, b"small", log::Millis(2)));
        records.push(told_record(&to, 3, -10_000, log::Millis(2)));
        let small = Some(Snapshot { position: 20, bytes: b"small".to_vec() });
        assert_eq!(read(&records, 3).snapshot, small);
        assert_eq!(read(&records, 3).told_to_ms, Some(-10_000));
        let mut compacted: Vec<NewRecord> = Vec::new();
        for record in &records {
            compacted.retain(|known| known.key != record.key);
            compacted.push(record.clone());
        }
        assert_eq!(read(&compacted, 3).snapshot, small);
        assert_eq!(read(&compacted, 13).snapshot, Some(Snapshot { position: 7, bytes: b"other".to_vec() }));
    }

    /// Scenario: a chunk is missing or damaged; foreign bytes. Guarantee: no snapshot, and the reason is named.
    #[test]
    fn damage_is_noticed() {
        let to = TopicPartition::new("state", 0);
        let records = snapshot_records(&to, 0, 10, &noise(2 * CHUNK_BYTES), log::Millis(1));
        let kept = read(&records[1..], 0);
        assert!(kept.snapshot.is_none() && kept.problem.is_some_and(|problem| problem.contains("chunk 0")));
        let mut damaged = records.clone();
        let chunk = SnapshotChunk { position: 10, number: 1, bytes: vec![1, 2, 3] };
        damaged[1] = record(&to, "0/chunk/1".to_owned(), What::Chunk(chunk), log::Millis(1));
        assert!(read(&damaged, 0).problem.is_some_and(|problem| problem.contains("checksum")));
        let mut foreign = records;
        foreign[0].payload = Some(Bytes::from_static(b"\xff\xff"));
        assert_eq!(read(&foreign, 0).unreadable, 1);
    }
}
