//! Compares the spans topic with the lake, range of offsets by range of offsets.
//!
//! For each manifest the records of its range are read from the log as every reader reads them (a batch whose id was
//! seen is dropped), and the data files that count row by row; counts and hashes (`infertrace_schemas::audit`) must agree.
//! Both sides are read from their bytes: a manifest's own numbers are checked, not believed. What compactions left
//! out, since it was deleted or had outlived its retention, they say with count and hash: that much the lake may lack.
//!
//! Invariants: nothing is written and no group is joined; what can no longer be compared, since the log has
//! dropped it, is named and not counted as good; batches before the first audited range are taken from the
//! manifests, whose lists of batch ids were compared when those ranges were audited.

mod lake;

use std::{collections::BTreeMap, sync::Arc};

use arrow::error::ArrowError;
use futures::TryStreamExt as _;
use infertrace_runtime::log::{
    Log, LogError, NextOffset, Record, TopicPartition,
    range::{Range, RangeReader},
};
use infertrace_schemas::{
    audit::{self, Sum},
    dedup::Dedup,
    lake::{Id16, LakeError, LakeRoot, Manifest, parse_range_path},
    reader::{Position, SpanReader},
    record::{RecordError, batch_id_of},
};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use serde::Serialize;

use lake::Found;

const POLL_BYTES: usize = 8 << 20;
/// Spans decoded into one batch.
const BATCH_SPANS: usize = 8_192;

/// Why an audit could not be made; a difference is a finding, not an error.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error("the lake's store: {0}")]
    Store(#[from] object_store::Error),
    /// A manifest.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// Spans of the log cannot be viewed.
    #[error("columns of the log's spans: {0}")]
    Columns(#[from] ArrowError),
}

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Spans topic.
    pub topic: String,
    /// First offset to audit, by partition; the range that holds it is skipped unless it starts there.
    pub from: BTreeMap<u32, u64>,
    /// Batch ids that count as seen, as the sink has it.
    pub dedup_batches: usize,
}

/// One range of one partition.
#[derive(Clone, Debug, Serialize)]
pub struct RangeReport {
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub start: u64,
    /// One past the last.
    pub next: u64,
    /// Spans by the log; `None` where it no longer has the range.
    pub log: Option<Sum>,
    /// Spans by the data files.
    pub lake: Sum,
    /// Spans that compactions took out.
    pub forgotten: Sum,
    /// Records of the range that are retries, by the log.
    pub retries: u64,
    /// Records that the sink could not read; they are in the dead-letter topic.
    pub poison: u64,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

impl RangeReport {
    /// Whether log and lake agree.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.log.is_none_or(|log| log == self.in_lake_once())
    }
}

impl RangeReport {
    /// Spans that are in the lake or were, until they were taken out.
    fn in_lake_once(&self) -> Sum {
        let mut sum = self.lake;
        sum += self.forgotten;
        sum
    }
}

/// One partition.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartitionReport {
    /// Partition.
    pub partition: u32,
    /// Its ranges, ascending.
    pub ranges: Vec<RangeReport>,
    /// Offsets that the lake does not have yet.
    pub behind: u64,
    /// Where the next audit goes on: the end of the last clean range before any difference.
    pub next: u64,
    /// What is wrong with the partition as a whole.
    pub faults: Vec<String>,
}

impl PartitionReport {
    /// Whether everything agrees that could be compared.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.ranges.iter().all(RangeReport::is_clean)
    }
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Partition that is being compared.
    pub partition: u32,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Offsets read, of the log and of the lake.
    pub done: u64,
    /// Offsets to be read, of both.
    pub total: u64,
}

/// Audits every partition of the topic; `progress` hears of every piece that was read.
///
/// # Errors
/// [`AuditError`] when something cannot be read.
pub async fn audit(
    log: &dyn Log,
    store: &Arc<dyn ObjectStore>,
    root: &LakeRoot,
    options: &Options,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<PartitionReport>, AuditError> {
    let partitions = log.partitions(&options.topic).await?;
    let (mut ends, mut total) = (Vec::new(), 0);
    for partition in 0..partitions {
        let marks = log.watermarks(&TopicPartition::new(options.topic.as_str(), partition)).await?;
        let from = options.from.get(&partition).copied().unwrap_or(0).max(marks.low.0);
        total += 2 * marks.high.0.saturating_sub(from);
        ends.push(total);
    }
    let mut reports = Vec::new();
    let mut now = Progress { partitions, total, ..Progress::default() };
    for (partition, end) in (0..partitions).zip(ends) {
        now.partition = partition;
        let mut read = |offsets: u64| {
            // Records that came since are read too, and count for nothing.
            now.done = end.min(now.done + offsets);
            progress(now);
        };
        reports.push(Auditor { log, store, root, options, partition }.partition(&mut read).await?);
        // What the lake does not have yet is not compared.
        now.done = end;
    }
    Ok(reports)
}

/// Hears how many offsets were read.
type Read<'a> = &'a mut dyn FnMut(u64);

struct Auditor<'a> {
    log: &'a dyn Log,
    store: &'a Arc<dyn ObjectStore>,
    root: &'a LakeRoot,
    options: &'a Options,
    partition: u32,
}

/// What the log says of one range.
#[derive(Clone, Debug, Default)]
struct Expected {
    sum: Sum,
    retries: u64,
    batch_ids: Vec<Id16>,
    /// Records that cannot be read now, though the sink names none there.
    poison: Vec<u64>,
    /// Records that the sink could not read and that can be read now.
    readable: Vec<u64>,
}

impl Auditor<'_> {
    async fn partition(&self, read: Read<'_>) -> Result<PartitionReport, AuditError> {
        let from = self.options.from.get(&self.partition).copied().unwrap_or(0);
        let at = TopicPartition::new(self.options.topic.as_str(), self.partition);
        let marks = self.log.watermarks(&at).await?;
        let manifests = self.manifests().await?;
        let compactions = self.compactions().await?;
        let mut report =
            PartitionReport { partition: self.partition, next: from, ..PartitionReport::default() };
        for pair in manifests.windows(2).filter(|pair| pair[0].next != pair[1].start) {
            let (ends, starts) = (pair[0].next, pair[1].start);
            report.faults.push(format!("a range ends at {ends} and the one after it starts at {starts}"));
        }
        let end = manifests.last().map_or(from, |last| last.next);
        report.behind = marks.high.0.saturating_sub(end.max(marks.low.0));
        let first = manifests.partition_point(|manifest| manifest.start < from);
        let (before, audited) = manifests.split_at(first);
        // What retention has touched cannot be compared, nor can a retry whose first copy may be gone be told.
        let gone = audited.partition_point(|manifest| manifest.start < marks.low.0);
        let expected = self.read_log(&at, before, &audited[..gone], &audited[gone..], read).await?;
        let found = self.read_lake(&manifests, &compactions, audited, gone, read).await?;
        for (index, (manifest, found)) in audited.iter().zip(found).enumerate() {
            let expected = index.checked_sub(gone).map(|index| &expected[index]);
            report.ranges.push(range(manifest, found, expected));
        }
        for range in &report.ranges {
            if !range.is_clean() {
                break;
            }
            report.next = range.next;
        }
        Ok(report)
    }

    /// Every manifest of the partition, ascending.
    async fn manifests(&self) -> Result<Vec<Manifest>, AuditError> {
        let folder = Path::from(self.root.manifests(self.partition));
        let mut listed: Vec<(u64, Path)> = Vec::new();
        let mut objects = self.store.list(Some(&folder));
        while let Some(object) = objects.try_next().await? {
            if let Some((partition, start)) = parse_range_path(object.location.as_ref())
                && partition == self.partition
            {
                listed.push((start, object.location));
            }
        }
        listed.sort();
        let mut manifests = Vec::with_capacity(listed.len());
        for (_, path) in listed {
            let bytes = self.store.get(&path).await?.bytes().await?;
            manifests.push(Manifest::parse(path.as_ref(), &bytes)?);
        }
        Ok(manifests)
    }

    /// Reads the log over `ranges`, which follow one another.
    async fn read_log(
        &self,
        at: &TopicPartition,
        before: &[Manifest],
        gone: &[Manifest],
        ranges: &[Manifest],
        read: Read<'_>,
    ) -> Result<Vec<Expected>, AuditError> {
        let mut reading = Reading {
            ranges,
            expected: vec![Expected::default(); ranges.len()],
            seen: Dedup::new(self.options.dedup_batches),
            reader: SpanReader::new(),
        };
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(Vec::new()) };
        let earlier = before.iter().chain(gone).flat_map(|manifest| &manifest.batch_ids);
        reading.seen.preload(earlier.map(|id| id.0));
        let range = Range { at: at.clone(), from: NextOffset(first.start), end: NextOffset(last.next) };
        let mut reader = RangeReader::open(self.log, &[range], 2 * POLL_BYTES).await?;
        while let Some(records) = reader.next(POLL_BYTES).await? {
            for record in &records {
                reading.take(record)?;
            }
            if let (Some(first), Some(last)) = (records.first(), records.last()) {
                read(last.offset.next().0 - first.offset.0);
            }
        }
        reading.sum()?;
        Ok(reading.expected)
    }
}

fn range(manifest: &Manifest, found: Found, expected: Option<&Expected>) -> RangeReport {
    let mut report = RangeReport {
        partition: manifest.partition,
        start: manifest.start,
        next: manifest.next,
        log: expected.map(|expected| expected.sum),
        lake: found.sum,
        forgotten: found.forgotten,
        retries: expected.map_or(manifest.duplicate_records, |expected| expected.retries),
        poison: manifest.poison.len() as u64,
        faults: found.faults,
    };
    for lost in &manifest.lost {
        report.faults.push(format!(
            "offsets {}..{} were removed by retention before the sink read them",
            lost.from, lost.to
        ));
    }
    if let Some(expected) = expected {
        compare(manifest, expected, &mut report);
    }
    report
}

/// Puts what differs into words.
fn compare(manifest: &Manifest, expected: &Expected, report: &mut RangeReport) {
    let (log, lake) = (expected.sum, report.in_lake_once());
    if log.spans != lake.spans {
        let forgotten = match report.forgotten.spans {
            0 => String::new(),
            spans => format!(", {spans} of them since taken out"),
        };
        report
            .faults
            .push(format!("the log has {} spans, the lake has {}{forgotten}", log.spans, lake.spans));
    } else if log.hash != lake.hash {
        report.faults.push(format!("{} spans each, and they are not the same", log.spans));
    }
    if expected.batch_ids != manifest.batch_ids {
        report.faults.push(format!(
            "the log has {} new batches, the manifest lists {} or others",
            expected.batch_ids.len(),
            manifest.batch_ids.len()
        ));
    }
    for offset in &expected.poison {
        report.faults.push(format!("the record at {offset} cannot be read, and the sink did not say so"));
    }
    for offset in &expected.readable {
        report.faults.push(format!(
            "the record at {offset} was poison to the sink and can be read now: `infertrace dlq redrive` sends it back"
        ));
    }
}

/// The log's side of some ranges that follow one another.
struct Reading<'a> {
    ranges: &'a [Manifest],
    expected: Vec<Expected>,
    seen: Dedup,
    reader: SpanReader,
}

impl Reading<'_> {
    fn take(&mut self, record: &Record) -> Result<(), AuditError> {
        let offset = record.offset.0;
        let Some(index) = index_of(self.ranges, offset) else { return Ok(()) };
        // A tombstone says nothing about spans.
        let Some(payload) = &record.payload else { return Ok(()) };
        let id = batch_id_of(payload);
        if id.is_some_and(|id| self.seen.contains(&id)) {
            self.expected[index].retries += 1;
            return Ok(());
        }
        let was_poison = self.ranges[index].poison.iter().any(|poison| poison.offset == offset);
        if was_poison {
            // Its spans are not wanted in the lake; whether they could be read is told apart.
            let position = Position { partition: 0, offset: 0 };
            if SpanReader::with_capacity(0).push(payload, position).is_ok() {
                self.expected[index].readable.push(offset);
            }
            return Ok(());
        }
        let position =
            Position { partition: record.from.partition.cast_signed(), offset: offset.cast_signed() };
        let pushed = match self.reader.push(payload, position) {
            Err(RecordError::ReaderFull) => {
                self.sum()?;
                self.reader.push(payload, position)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(_) => {
                if let Some(id) = id {
                    self.seen.insert(id);
                    self.expected[index].batch_ids.push(Id16(id));
                }
            }
            Err(_) => self.expected[index].poison.push(offset),
        }
        if self.reader.len() >= BATCH_SPANS || self.reader.is_full() {
            self.sum()?;
        }
        Ok(())
    }

    /// Adds what the reader holds to the ranges it belongs to.
    fn sum(&mut self) -> Result<(), AuditError> {
        let batch = self.reader.finish();
        let (ranges, expected) = (self.ranges, &mut self.expected);
        audit::rows(&batch, |row| {
            if let Some(index) = index_of(ranges, row.offset.cast_unsigned()) {
                expected[index].sum.add(row.hash);
            }
        })?;
        Ok(())
    }
}

/// The range that holds `offset`.
fn index_of(ranges: &[Manifest], offset: u64) -> Option<usize> {
    let index = ranges.partition_point(|manifest| manifest.start <= offset).checked_sub(1)?;
    (offset < ranges[index].next).then_some(index)
}
