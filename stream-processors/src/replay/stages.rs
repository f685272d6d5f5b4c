//! Both stages of the analytics as plain calls: records in, partials and marks between, outputs out.
//!
//! The same code as the services' sessions drive, without groups, transactions and clocks. Invariant: what comes out is
//! a function of the records alone; how they are cut into calls, and how partitions interleave, does not matter.

use std::{collections::BTreeMap, sync::Arc};

use infertrace_analytics::{
    analyst::{Analyst, SnapshotError},
    config::AnalystConfig,
    cost::{CostDiff, Pricer},
    output::Output,
    rollup::{Key, Millis, Partial},
};
use infertrace_runtime::log::Record;
use infertrace_schemas::{
    dedup::Dedup,
    reader::{Position, SpanReader},
    record::batch_id_of,
};
use serde::{Deserialize, Serialize};

use super::prices::Comparison;
use crate::{
    assembly::{Assembly, Closed, Resume},
    config::Config,
    partials::{Route, route},
    rollup::{Columns, Mark, Roller},
    rows::{self, BadColumn, Rows},
};

/// Spans decoded into one batch.
const BATCH_SPANS: usize = 8_192;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records, of spans and of samples.
    pub records: u64,
    /// Spans in them, retries left out.
    pub spans: u64,
    /// Traces assembled.
    pub traces: u64,
    /// Records whose batch had been seen.
    pub retries: u64,
    /// Records that cannot be read.
    pub poison: u64,
    /// Spans that cannot be read in good records.
    pub rejected: u64,
    /// Readings of GPUs and engines.
    pub readings: u64,
}

impl Counts {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.spans += other.spans;
        self.traces += other.traces;
        self.retries += other.retries;
        self.poison += other.poison;
        self.rejected += other.rejected;
        self.readings += other.readings;
    }
}

/// What was read, and what its requests cost at two price tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// How much.
    pub counts: Counts,
    /// Costs; empty unless two tables are compared.
    pub costs: CostDiff,
}

impl Read {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.costs.merge(&other.costs);
    }
}

/// Where one partition goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// First record that is not counted.
    pub rolled_to: u64,
    /// Watermark there.
    pub watermark_ms: Option<Millis>,
}

/// What a source counted, and its watermark if that closed a window.
#[derive(Debug)]
pub struct Counted {
    /// Partition of the spans topic, or of the samples topic ([`sample_source`](crate::partials::sample_source)).
    pub source: u32,
    /// Cells.
    pub partials: Vec<Partial>,
    /// Watermark.
    pub watermark_ms: Option<Millis>,
}

impl Counted {
    /// What came out of a flush of `source`; `None` where that is nothing.
    pub(super) fn of(source: u32, mark: Mark, partials: Vec<Partial>) -> Option<Self> {
        let watermark_ms = mark.watermark_ms.filter(|_| mark.is_new_window);
        (watermark_ms.is_some() || !partials.is_empty()).then_some(Self { source, partials, watermark_ms })
    }
}

struct Source {
    dedup: Dedup,
    /// Records below are counted: they are read again for their traces only.
    rolled_to: u64,
}

/// A record of the chunk being decoded.
struct Step {
    source: u32,
    offset: u64,
    timestamp_ms: i64,
    spans: usize,
}

/// Assembly and rollups of some partitions.
pub struct Stage1 {
    assembly: Assembly,
    roller: Roller,
    reader: SpanReader,
    sources: BTreeMap<u32, Source>,
    steps: Vec<Step>,
    closed: Vec<Closed>,
    dedup_batches: usize,
    comparison: Option<Comparison>,
    counts: Counts,
}

impl Stage1 {
    /// Empty; limits and times as the processor has them, costs at the prices of `pricer`.
    #[must_use]
    pub fn new(config: &Config, pricer: Arc<Pricer>) -> Self {
        Self {
            // Summaries are not written, so any id will do.
            assembly: Assembly::new(config.limits(), 0),
            roller: Roller::priced(config.rollup_limits(), pricer),
            reader: rows::reader(BATCH_SPANS),
            sources: BTreeMap::new(),
            steps: Vec::new(),
            closed: Vec::new(),
            dedup_batches: config.dedup_batches,
            comparison: None,
            counts: Counts::default(),
        }
    }

    /// Compares the costs of requests with those at another table.
    pub(super) fn comparing(self, comparison: Option<Comparison>) -> Self {
        Self { comparison, ..self }
    }

    /// Takes a partition over: records come from `read_from` on, those below `resumed.rolled_to` are counted already.
    pub fn assign(&mut self, source: u32, read_from: u64, resumed: Resumed) {
        self.assembly.assign(source, Resume::new(read_from, []));
        self.roller.assign(source, resumed.rolled_to, resumed.watermark_ms);
        let state = Source { dedup: Dedup::new(self.dedup_batches), rolled_to: resumed.rolled_to };
        self.sources.insert(source, state);
    }

    /// Takes records of assigned partitions, ascending in each, and appends what is ready.
    ///
    /// # Errors
    /// [`BadColumn`] when decoded spans do not have the span schema.
    pub fn records(&mut self, records: &[Record], out: &mut Vec<Counted>) -> Result<(), BadColumn> {
        for record in records {
            self.decode(record);
            if self.reader.len() >= BATCH_SPANS || self.reader.is_full() {
                self.count(out)?;
            }
        }
        self.count(out)
    }

    fn decode(&mut self, record: &Record) {
        let source = record.from.partition;
        let Some(state) = self.sources.get_mut(&source) else { return };
        let offset = record.offset.0;
        let is_new = offset >= state.rolled_to;
        let counts = &mut self.counts;
        counts.records += u64::from(is_new);
        let mut step = Step { source, offset, timestamp_ms: record.timestamp.0, spans: 0 };
        let position = Position { partition: source.cast_signed(), offset: offset.cast_signed() };
        let payload = record.payload.as_deref().unwrap_or_default();
        let id = batch_id_of(payload);
        if record.payload.is_none() {
            counts.poison += u64::from(is_new);
        } else if id.is_some_and(|id| state.dedup.contains(&id)) {
            counts.retries += u64::from(is_new);
        } else {
            match self.reader.push(payload, position) {
                Ok(pushed) => {
                    state.dedup.admit(id);
                    step.spans = pushed.spans;
                    if is_new {
                        counts.spans += pushed.spans as u64;
                        counts.rejected += pushed.rejected as u64;
                    }
                }
                Err(_) => counts.poison += u64::from(is_new),
            }
        }
        self.steps.push(step);
    }

    /// Assembles and counts what the reader holds.
    fn count(&mut self, out: &mut Vec<Counted>) -> Result<(), BadColumn> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let batch = self.reader.finish();
        let mut rows = Rows::new(&batch)?;
        let mut columns = Columns::new(&batch)?;
        let mut row = 0;
        for Step { source, offset, timestamp_ms, spans } in std::mem::take(&mut self.steps) {
            self.assembly.begin_record(source, timestamp_ms, &mut self.closed);
            let counts = self.roller.begin_record(source, offset, timestamp_ms);
            for row in row..row + spans {
                let span = rows.span(row, self.assembly.names());
                let is_new = self.assembly.span(source, offset, &span, &mut self.closed);
                if counts && is_new {
                    let cost = self.roller.cost(&mut columns, row);
                    self.roller.span(source, &mut columns, row, cost.as_ref());
                    if let (Some(cost), Some(comparison)) = (&cost, &mut self.comparison) {
                        comparison.take(&mut columns, row, cost);
                    }
                }
            }
            row += spans;
            self.assembly.end_record(source, offset, &mut self.closed);
            self.count_closed(source, counts);
            self.roller.end_record(source, offset);
            if counts && self.roller.wants_flush(source) {
                self.flush(source, out);
            }
        }
        self.assembly.sweep_names();
        Ok(())
    }

    /// Counts closed traces, unless an earlier run has.
    fn count_closed(&mut self, source: u32, counts: bool) {
        for closed in self.closed.drain(..).filter(|closed| counts && closed.version == 1) {
            debug_assert_eq!(closed.partition, source, "only the partition being read closes traces");
            self.roller.trace(closed.partition, &closed.facts, self.assembly.known_names());
            self.counts.traces += 1;
        }
    }

    fn flush(&mut self, source: u32, out: &mut Vec<Counted>) {
        let mut partials = Vec::new();
        let Some(mark) = self.roller.flush(source, &mut partials) else { return };
        out.extend(Counted::of(source, mark, partials));
    }

    /// Ends a partition: its traces that are idle by `to_ms` close, and everything counted comes out.
    pub fn finish(&mut self, source: u32, to_ms: Millis, out: &mut Vec<Counted>) {
        self.assembly.advance(source, to_ms, &mut self.closed);
        self.count_closed(source, true);
        self.roller.advance(source, to_ms);
        self.flush(source, out);
    }

    /// Flushes everything counted and says where each partition would go on.
    pub fn checkpoint(&mut self, out: &mut Vec<Counted>) -> BTreeMap<u32, Resumed> {
        let sources: Vec<u32> = self.sources.keys().copied().collect();
        let mut resumed = BTreeMap::new();
        for source in sources {
            self.flush(source, out);
            if let Some(rolled_to) = self.roller.rolled_to(source) {
                let watermark_ms = self.roller.watermark_ms(source);
                resumed.insert(source, Resumed { rolled_to, watermark_ms });
            }
        }
        resumed
    }

    /// How much was read so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// What was read so far.
    #[must_use]
    pub fn read(&self) -> Read {
        let costs = self.comparison.as_ref().map(|comparison| comparison.diff.clone());
        Read { counts: self.counts, costs: costs.unwrap_or_default() }
    }
}

/// Which cells are analysed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this model; cells of no model (services, devices) stay.
    pub model: Option<String>,
}

impl Filter {
    /// Whether a request of this tenant and model is analysed.
    pub(super) fn takes_request(&self, tenant: &str, model: &str) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.tenant, tenant) && (model.is_empty() || is(&self.model, model))
    }

    fn takes(&self, key: &Key) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        (key.tenant.is_empty() && key.model.is_empty() || is(&self.tenant, &key.tenant))
            && (key.model.is_empty() || is(&self.model, &key.model))
    }
}

/// An output and the analyst that made it.
pub type Outcome = (u32, Output);

/// The analysts of all partitions of the partials.
#[derive(Debug)]
pub struct Stage2 {
    analysts: Vec<Analyst>,
    filter: Filter,
    lateness_ms: Millis,
    outputs: Vec<Output>,
}

impl Stage2 {
    /// `partitions` analysts that wait for every one of `sources`, however far behind it is.
    #[must_use]
    pub fn new(config: &AnalystConfig, partitions: u32, sources: &[u32], filter: Filter) -> Self {
        let analysts = (0..partitions.max(1))
            .map(|partition| {
                let mut analyst = Analyst::new(of_partition(config, partition, partitions));
                analyst.set_sources(sources);
                analyst
            })
            .collect();
        Self { analysts, filter, lateness_ms: config.lateness_ms, outputs: Vec::new() }
    }

    /// As [`Stage2::snapshot`] saved it.
    ///
    /// # Errors
    /// [`SnapshotError`] when a snapshot is damaged or of another version.
    pub fn restore(
        config: &AnalystConfig,
        snapshots: &[Vec<u8>],
        filter: Filter,
    ) -> Result<Self, SnapshotError> {
        let partitions = snapshots.len() as u32;
        let analysts = (0..partitions)
            .zip(snapshots)
            .map(|(partition, bytes)| Analyst::restore(of_partition(config, partition, partitions), bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self { analysts, filter, lateness_ms: config.lateness_ms, outputs: Vec::new() })
    }

    /// One snapshot an analyst.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        self.analysts.iter().map(Analyst::snapshot).collect()
    }

    /// Takes what a source counted and appends what follows from it.
    pub fn take(&mut self, counted: Counted, out: &mut Vec<Outcome>) {
        let partitions = self.analysts.len() as u32;
        for partial in counted.partials.into_iter().filter(|partial| self.filter.takes(&partial.key)) {
            match route(&partial.key, partitions) {
                Route::One(partition) => {
                    if let Some(analyst) = self.analysts.get_mut(partition as usize) {
                        analyst.partial(counted.source, partial);
                    }
                }
                Route::All => {
                    for analyst in &mut self.analysts {
                        analyst.partial(counted.source, partial.clone());
                    }
                }
            }
        }
        if let Some(watermark_ms) = counted.watermark_ms {
            self.watermark(counted.source, watermark_ms, out);
        }
    }

    /// A source has nothing more before `to_ms`: windows up to there close.
    pub fn finish(&mut self, source: u32, to_ms: Millis, out: &mut Vec<Outcome>) {
        self.watermark(source, to_ms.saturating_add(self.lateness_ms), out);
    }

    fn watermark(&mut self, source: u32, watermark_ms: Millis, out: &mut Vec<Outcome>) {
        for (partition, analyst) in (0..).zip(&mut self.analysts) {
            analyst.watermark(source, watermark_ms, &mut self.outputs);
            out.extend(self.outputs.drain(..).map(|output| (partition, output)));
        }
    }
}

fn of_partition(config: &AnalystConfig, partition: u32, partitions: u32) -> AnalystConfig {
    // A replay reads partitions at its own pace: all wait for all.
    AnalystConfig {
        idle_after_ms: Millis::MAX,
        most_behind_ms: Millis::MAX,
        partition,
        partitions: partitions.max(1),
        ..config.clone()
    }
}
