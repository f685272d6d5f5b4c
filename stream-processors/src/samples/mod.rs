//! GPU and engine samples of the samples topic, counted by device or engine and window.
//!
//! `record` reads a batch, `table` says what each name becomes, `series` turns cumulative counts into growth, `state`
//! keeps their last readings over a restart, `price` finds what a device costs.
//! Neighbours: `rollup` has the cells and the rules of windows; `partials` carries them to the second stage.
//!
//! A device's readings are one cell a window (`Shape::Device`: tenant, model where the reading names it, device), an
//! engine's another (`Shape::Engine`: tenant, model, service). Invariants: as in `rollup`; a record that cannot be
//! read counts for nothing. No I/O, no clock.

mod price;
mod record;
mod series;
mod state;
mod table;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use infertrace_analytics::{
    cost::Pricer,
    rollup::{Measure, Millis, Partial},
};
use infertrace_schemas::trace::NameId;
use xxhash_rust::xxh3::xxh3_64;

pub use record::SampleError;
pub use state::{SeriesGroup, SeriesStateError};

use crate::{
    rollup::{Cells, KeyIds, Limits, Mark, RollupCounts, permille},
    throttle::throttled_permille,
};
use price::Prices;
use record::{Reading, SampleBatch, Temporality};
use series::{Last, Series};
use table::{Kind, Row, normalised};

/// Labels with a GPU's UUID, where the sample has no device of its own.
const DEVICE_LABELS: &[&str] = &["hw.id", "gpu.uuid", "UUID", "gpu_uuid", "uuid"];
/// Labels with a model.
const MODEL_LABELS: &[&str] = &["model_name", "gen_ai.request.model", "model", "model.name"];

/// What became of a record's readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Readings in the record.
    pub readings: u64,
    /// Those that nothing is made of: unknown names, histograms, devices without an id.
    pub ignored: u64,
}

/// A device's memory as one record tells it.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    key: KeyIds,
    permille: Option<u64>,
    used: Option<u64>,
    total: Option<u64>,
    free: Option<u64>,
}

/// Counts readings of the samples topic's partitions; see the module's words.
#[derive(Debug)]
pub struct SampleRoller {
    cells: Cells,
    /// By source: cumulative counts, and by xxh3 of tenant and device all memory of devices, which some senders tell apart
    /// from what is used.
    series: BTreeMap<u32, Series>,
    /// Of the record being read, by device and time.
    memory: BTreeMap<(u64, i64), Memory>,
    /// Of the record being read.
    prices: Prices,
    max_series: usize,
    refused: u64,
    scratch: Vec<u8>,
}

impl SampleRoller {
    /// An empty roller that follows so many series of each source.
    #[must_use]
    pub fn new(limits: Limits, max_series: usize) -> Self {
        Self {
            cells: Cells::new(limits),
            series: BTreeMap::new(),
            memory: BTreeMap::new(),
            prices: Prices::default(),
            max_series,
            refused: 0,
            scratch: Vec::new(),
        }
    }

    /// One that says what devices cost, too.
    #[must_use]
    pub fn priced(limits: Limits, max_series: usize, pricer: Arc<Pricer>) -> Self {
        Self { prices: Prices::new(pricer), ..Self::new(limits, max_series) }
    }

    /// Takes over a source that is read from `from` on, with the watermark and series that were kept there.
    pub fn assign(
        &mut self,
        source: u32,
        from: u64,
        watermark_ms: Option<Millis>,
        kept: impl IntoIterator<Item = SeriesGroup>,
    ) {
        self.cells.assign(source, from, watermark_ms);
        let mut series = Series::new(self.max_series);
        kept.into_iter().for_each(|group| series.restore(group.series));
        self.series.insert(source, series);
    }

    /// Drops a source and what was not flushed.
    pub fn revoke(&mut self, source: u32) {
        self.cells.revoke(source);
        self.series.remove(&source);
    }

    /// Moves a source's watermark, never back.
    pub fn advance(&mut self, source: u32, to_ms: Millis) {
        self.cells.advance(source, to_ms);
    }

    /// Counts a record.
    ///
    /// # Errors
    /// [`SampleError`]: the record is poison and counts for nothing, but the source has passed it.
    pub fn record(
        &mut self,
        source: u32,
        offset: u64,
        timestamp_ms: Millis,
        payload: &[u8],
    ) -> Result<Taken, SampleError> {
        let is_new = self.cells.begin_record(source, offset, timestamp_ms);
        let batch = SampleBatch::read(payload);
        let mut taken = Taken::default();
        if let (true, Ok(batch)) = (is_new, &batch) {
            for reading in &batch.readings {
                taken.readings += 1;
                taken.ignored += u64::from(self.reading(source, batch, reading).is_none());
            }
            self.count_memory(source);
            let cells = &mut self.cells;
            self.prices.drain(|key, at_ms, price| cells.count(source, key, at_ms, |cell, _| price(cell)));
        }
        self.cells.end_record(source, offset);
        batch.map(|_| taken)
    }

    /// `None` for a reading of which nothing is made.
    fn reading(&mut self, source: u32, batch: &SampleBatch<'_>, reading: &Reading<'_>) -> Option<()> {
        let Row { name, kind, scale } = table::find(reading.name)?;
        let value = reading.value?;
        let at_ms = reading.time_ns.div_euclid(1_000_000);
        match *kind {
            Kind::Engine(measure) => {
                let value = normalised(value, *scale, reading.unit)?;
                let key = self.engine(batch, reading);
                self.cells.count(source, key, at_ms, |cell, _| cell.measure(measure, value));
            }
            Kind::Total(counter) => {
                let growth = if reading.temporality == Temporality::Delta {
                    (value.is_finite() && value >= 0.0).then_some(value)?
                } else {
                    let id = self.series_of(name, batch, reading);
                    let new = Last { id, value, time_ns: reading.time_ns, start_ns: reading.start_ns };
                    let growth = self.series.get_mut(&source)?.growth(new);
                    self.refused += u64::from(growth.is_err());
                    // The first reading of a series is of use: it is the base.
                    growth.ok().flatten().unwrap_or(0.0)
                };
                let key = self.engine(batch, reading);
                if growth > 0.0 {
                    self.cells
                        .count(source, key, at_ms, |cell, _| cell.count(counter, growth.round() as u64));
                }
            }
            Kind::Hardware(_) if reading.attribute("hw.type").is_some_and(|kind| kind != "gpu") => {
                return None;
            }
            Kind::Device(_) if reading.attribute("hw.gpu.task").is_some_and(|task| task != "general") => {
                return None;
            }
            Kind::Device(Measure::GpuMemoryPermille) => {
                let value = normalised(value, *scale, reading.unit)?;
                self.memory(batch, reading)?.permille = Some(value);
            }
            Kind::Device(measure) | Kind::Hardware(measure) => {
                let value = normalised(value, *scale, reading.unit)?;
                let (key, _) = self.device(batch, reading)?;
                self.cells.count(source, key, at_ms, |cell, _| cell.measure(measure, value));
            }
            Kind::ThrottleReasons => {
                let reasons = normalised(value, *scale, "")?;
                let (key, _) = self.device(batch, reading)?;
                let held = throttled_permille(reasons);
                let measure = Measure::GpuThrottledPermille;
                self.cells.count(source, key, at_ms, |cell, _| cell.measure(measure, held));
            }
            Kind::MemoryUsed | Kind::MemoryTotal | Kind::MemoryFree => {
                let bytes = normalised(value, *scale, reading.unit)?;
                let memory = self.memory(batch, reading)?;
                match kind {
                    Kind::MemoryUsed => memory.used = Some(bytes),
                    Kind::MemoryTotal => memory.total = Some(bytes),
                    _ => memory.free = Some(bytes),
                }
            }
        }
        Some(())
    }

    /// What the record says of this device's memory at this time.
    fn memory(&mut self, batch: &SampleBatch<'_>, reading: &Reading<'_>) -> Option<&mut Memory> {
        let (key, device) = self.device(batch, reading)?;
        let empty = Memory { key, ..Memory::default() };
        Some(self.memory.entry((device, reading.time_ns)).or_insert(empty))
    }

    fn count_memory(&mut self, source: u32) {
        let Some(series) = self.series.get_mut(&source) else { return };
        for ((id, time_ns), memory) in std::mem::take(&mut self.memory) {
            let total = memory.total.or_else(|| Some(memory.used?.saturating_add(memory.free?)));
            if let Some(total) = total {
                let new = Last { id, value: total as f64, time_ns, start_ns: 0 };
                self.refused += u64::from(series.set(new).is_err());
            }
            let total = total.or_else(|| Some(series.value(id)? as u64)).filter(|total| *total > 0);
            let of_bytes = || Some(permille(memory.used?, total?));
            if let Some(value) = memory.permille.or_else(of_bytes) {
                let at_ms = time_ns.div_euclid(1_000_000);
                self.cells.count(source, memory.key, at_ms, |cell, _| {
                    cell.measure(Measure::GpuMemoryPermille, value)
                });
            }
        }
    }

    /// Key of a device's cell and hash of the device; `None` where nothing names it.
    fn device(&mut self, batch: &SampleBatch<'_>, reading: &Reading<'_>) -> Option<(KeyIds, u64)> {
        let device =
            if reading.device.is_empty() { batch.label(reading, DEVICE_LABELS) } else { reading.device };
        if device.is_empty() {
            return None;
        }
        self.scratch.clear();
        for text in [batch.tenant, device] {
            self.scratch.extend_from_slice(text.as_bytes());
            self.scratch.push(0xff);
        }
        let hash = xxh3_64(&self.scratch);
        let model = batch.label(reading, MODEL_LABELS);
        let mut intern = |text: &str| self.cells.names().intern(text);
        let key = KeyIds {
            tenant: intern(batch.tenant),
            model: intern(model),
            device: intern(device),
            ..KeyIds::default()
        };
        self.prices.note(batch, reading, key, hash);
        Some((key, hash))
    }

    fn engine(&mut self, batch: &SampleBatch<'_>, reading: &Reading<'_>) -> KeyIds {
        let model = batch.label(reading, MODEL_LABELS);
        let service = batch.resource(reading, &["service.name"]).unwrap_or("unknown_service");
        let stage: NameId = self.cells.own().engine;
        let mut intern = |text: &str| self.cells.names().intern(text);
        KeyIds {
            tenant: intern(batch.tenant),
            model: intern(model),
            service: intern(service),
            stage,
            ..KeyIds::default()
        }
    }

    /// Identity of a series: everything that its sender says of it but values and times.
    fn series_of(&mut self, name: &str, batch: &SampleBatch<'_>, reading: &Reading<'_>) -> u64 {
        self.scratch.clear();
        for part in [batch.tenant.as_bytes(), name.as_bytes(), batch.origin(reading)] {
            self.scratch.extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.scratch.extend_from_slice(part);
        }
        for attribute in &reading.attributes {
            self.scratch.extend_from_slice(attribute);
        }
        xxh3_64(&self.scratch)
    }

    /// Whether cells of the source should be flushed now.
    #[must_use]
    pub fn wants_flush(&self, source: u32) -> bool {
        self.cells.wants_flush(source)
    }

    /// Whether a watermark of `to_ms` would close a window of the source that is open since the last flush.
    #[must_use]
    pub fn would_close(&self, source: u32, to_ms: Millis) -> bool {
        self.cells.would_close(source, to_ms)
    }

    /// Appends what was counted since the last flush; `None` for a source not assigned.
    pub fn flush(&mut self, source: u32, out: &mut Vec<Partial>) -> Option<Mark> {
        self.cells.flush(source, out)
    }

    /// Records below this offset are in flushed partials.
    #[must_use]
    pub fn rolled_to(&self, source: u32) -> Option<u64> {
        self.cells.rolled_to(source)
    }

    /// The next record to take.
    #[must_use]
    pub fn next_offset(&self, source: u32) -> Option<u64> {
        self.cells.next_offset(source)
    }

    /// The watermark of a source.
    #[must_use]
    pub fn watermark_ms(&self, source: u32) -> Option<Millis> {
        self.cells.watermark_ms(source)
    }

    /// Cells that wait for a flush.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Distinct keys of about a window.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.cells.known_keys()
    }

    /// About the memory that cells take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    /// Groups of series that changed since the last call. Called with each flush, they are those of the records below
    /// [`Mark::rolled_to`].
    pub fn take_series(&mut self, source: u32) -> Vec<SeriesGroup> {
        let changed = self.series.get_mut(&source).map(Series::take_changed).unwrap_or_default();
        changed.into_iter().map(|(group, series)| SeriesGroup { group, series }).collect()
    }

    /// All groups of series, as of the records taken.
    #[must_use]
    pub fn all_series(&self, source: u32) -> Vec<SeriesGroup> {
        let all = self.series.get(&source).map(Series::all).unwrap_or_default();
        all.into_iter().map(|(group, series)| SeriesGroup { group, series }).collect()
    }

    /// Series followed, and how often one was not because there were too many.
    #[must_use]
    pub fn series(&self) -> (usize, u64) {
        (self.series.values().map(Series::len).sum(), self.refused)
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> RollupCounts {
        self.cells.take_counts()
    }
}
