//! Records between the two stages: `PartialBatch` and `RollupState` of `proto/infertrace/v1/partials.proto`.
//!
//! Stage 1 writes, in one transaction, for each source partition and each partition of the partials topic:
//! - batches of cells ([`Writer::push`], [`Writer::finish`] without a watermark when one is full), and
//! - when the source's watermark entered a new window, that watermark in the last batch ([`Writer::finish`]).
//!
//! Stage 2 hands the cells of a batch to its analyst first, then the watermark:
//! ```ignore
//! let batch = partials::decode(&payload)?;
//! for partial in batch.partials { analyst.partial(batch.source, partial); }
//! if let Some(watermark_ms) = batch.watermark_ms { analyst.watermark(batch.source, watermark_ms, &mut out); }
//! ```
//! A cell lives in the partition that XXH64 of its model names, so that everything about a model meets in one place;
//! cells of no model, and those of devices, which several models may share, are in all partitions ([`route`]).
//!
//! Texts are numbered within a batch, counters and measures by their place in [`Counter::ALL`] and
//! [`Measure::ALL`], which only grow at the end; numbers that this release does not know are left out. Sketches
//! hold only bins that are not empty. Invariants: `decode(encode(x)) == x`; no input makes [`decode`] panic, recurse or
//! allocate more than a small multiple of its length.

use std::sync::Arc;

use hashbrown::HashMap;
use infertrace_analytics::{
    rollup::{Cell, Counter, EXEMPLARS, Exemplar, Exemplars, Key, Measure, Millis, Partial, Shape},
    sketch::Sketch,
};
use infertrace_schemas::wire::{
    Field, Fields, WireError, put_bytes_field, put_varint, put_varint_field, read_varint,
};
use xxhash_rust::xxh64::xxh64;

/// Source number of partition 0 of the samples topic; those of the spans topic begin at 0.
pub const SAMPLE_SOURCES: u32 = 1_000_000;

/// The source that partition `partition` of the samples topic is.
#[must_use]
pub const fn sample_source(partition: u32) -> u32 {
    SAMPLE_SOURCES.saturating_add(partition)
}

/// Every source that a window waits for, where the spans and samples topics have so many partitions.
#[must_use]
pub fn all_sources(spans: u32, samples: u32) -> Vec<u32> {
    (0..spans).chain((0..samples).map(sample_source)).collect()
}

/// The watermark of a source that has nothing yet: it holds no window open until it tells another.
pub const IDLE_MS: Millis = Millis::MIN;
/// Bytes of cells after which a batch is written: a broker takes records of 1 MiB.
pub const BATCH_BYTES: usize = 512 << 10;

const VERSION: u64 = 1;
/// A sketch of 64-bit numbers has no more bins, and none below 0.
const MAX_BINS: u64 = 4_096;

/// Why a record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartialsError {
    /// The bytes are no such message.
    #[error("not a batch of partials: {0}")]
    Wire(#[from] WireError),
    /// A newer release wrote it.
    #[error("version {0} of the partials is newer than this release; upgrade all processors")]
    Version(u64),
    /// A text that is not UTF-8.
    #[error("a name is not UTF-8")]
    BadName,
    /// A cell's key is not six numbers of names.
    #[error("a key that its batch does not name")]
    BadKey,
    /// Bins that no sketch of 64-bit numbers has.
    #[error("a sketch with impossible bins")]
    BadSketch,
    /// A list of pairs with an odd number of entries, or a trace id that is not 16 bytes long.
    #[error("a list of the wrong length")]
    BadLength,
}

/// One record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialBatch {
    /// Who wrote it: partition of the spans topic, or [`SAMPLE_SOURCES`] and more.
    pub source: u32,
    /// What it adds.
    pub partials: Vec<Partial>,
    /// How far the source has come, counted after the partials.
    pub watermark_ms: Option<Millis>,
}

/// Where a cell belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One partition.
    One(u32),
    /// Every partition.
    All,
}

/// The partition of `partitions` (at least 1) in which stage 2 wants cells of `key`.
#[must_use]
pub fn route(key: &Key, partitions: u32) -> Route {
    if key.model.is_empty() || key.shape() == Shape::Device {
        return Route::All;
    }
    Route::One((xxh64(key.model.as_bytes(), 0) % u64::from(partitions.max(1))) as u32)
}

/// Collects the cells of one source for one partition into records.
#[derive(Debug, Default)]
pub struct Writer {
    numbers: HashMap<Arc<str>, u32, ahash::RandomState>,
    names: Vec<u8>,
    cells: Vec<u8>,
    cell: Vec<u8>,
    nested: Vec<u8>,
}

impl Writer {
    /// Whether no cell waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Whether the cells should become a record now.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.cells.len() + self.names.len() >= BATCH_BYTES
    }

    /// Adds a cell.
    pub fn push(&mut self, partial: &Partial) {
        let Key { tenant, model, version, service, stage, device } = &partial.key;
        self.nested.clear();
        for name in [tenant, model, version, service, stage, device] {
            let number = self.number(name);
            put_varint(&mut self.nested, u64::from(number));
        }
        let out = &mut self.cell;
        out.clear();
        put_varint_field(out, 1, zigzag(partial.window_ms));
        if partial.seen_window_ms != partial.window_ms {
            put_varint_field(out, 2, zigzag(partial.seen_window_ms.wrapping_sub(partial.window_ms)));
        }
        put_bytes_field(out, 3, &self.nested);
        self.nested.clear();
        for (number, counter) in Counter::ALL.iter().enumerate() {
            let value = partial.cell.get(*counter);
            if value > 0 {
                put_varint(&mut self.nested, number as u64);
                put_varint(&mut self.nested, value);
            }
        }
        if !self.nested.is_empty() {
            put_bytes_field(out, 4, &self.nested);
        }
        for (measure, sketch) in partial.cell.sketches() {
            self.nested.clear();
            put_sketch(&mut self.nested, measure, sketch);
            put_bytes_field(out, 5, &self.nested);
        }
        for (field, list) in [(6, &partial.exemplars.longest), (7, &partial.exemplars.sample)] {
            for exemplar in list {
                self.nested.clear();
                put_exemplar(&mut self.nested, exemplar);
                put_bytes_field(out, field, &self.nested);
            }
        }
        self.nested.clear();
        for version in partial.cell.price_versions() {
            let number = self.number(version);
            put_varint(&mut self.nested, u64::from(number));
        }
        if !self.nested.is_empty() {
            put_bytes_field(&mut self.cell, 8, &self.nested);
        }
        put_bytes_field(&mut self.cells, 4, &self.cell);
    }

    fn number(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.numbers.len() as u32 + 1;
        self.numbers.insert(Arc::from(name), number);
        put_bytes_field(&mut self.names, 3, name.as_bytes());
        number
    }

    /// The record of what was pushed, and perhaps a watermark after it; the writer is empty again.
    pub fn finish(&mut self, source: u32, watermark_ms: Option<Millis>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.names.len() + self.cells.len() + 24);
        put_varint_field(&mut out, 1, VERSION);
        if source != 0 {
            put_varint_field(&mut out, 2, u64::from(source));
        }
        out.extend_from_slice(&self.names);
        out.extend_from_slice(&self.cells);
        if let Some(watermark_ms) = watermark_ms {
            put_varint_field(&mut out, 5, zigzag(watermark_ms));
        }
        self.numbers.clear();
        self.names.clear();
        self.cells.clear();
        out
    }
}

fn put_sketch(out: &mut Vec<u8>, measure: Measure, sketch: &Sketch) {
    let (first, bins) = sketch.bins();
    put_varint_field(out, 1, measure as u64);
    for (field, value) in [(2, sketch.zeros()), (3, sketch.sum()), (4, sketch.min()), (5, sketch.max())] {
        if value > 0 {
            put_varint_field(out, field, value);
        }
    }
    if bins.is_empty() {
        return;
    }
    put_varint_field(out, 6, zigzag(i64::from(first)));
    let mut pairs = Vec::with_capacity(4 * bins.len().min(64));
    let mut skipped = 0u64;
    for &count in bins {
        if count == 0 {
            skipped += 1;
        } else {
            put_varint(&mut pairs, skipped);
            put_varint(&mut pairs, count);
            skipped = 0;
        }
    }
    put_bytes_field(out, 7, &pairs);
}

fn put_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    put_bytes_field(out, 1, &exemplar.trace_id);
    put_varint_field(out, 2, exemplar.duration_micros);
    if exemplar.is_error {
        put_varint_field(out, 3, 1);
    }
}

const fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn signed(field: &Field<'_>) -> Result<i64, WireError> {
    Ok(unzigzag(field.varint()?))
}

/// Reads a record.
///
/// # Errors
/// [`PartialsError`]: the record is poison.
pub fn decode(payload: &[u8]) -> Result<PartialBatch, PartialsError> {
    let empty: Arc<str> = Arc::from("");
    let mut names = vec![empty];
    let mut cells = Vec::new();
    let mut batch = PartialBatch { source: 0, partials: Vec::new(), watermark_ms: None };
    for field in Fields::new(payload) {
        let field = field?;
        match field.number {
            1 => match field.varint()? {
                VERSION => {}
                other => return Err(PartialsError::Version(other)),
            },
            2 => batch.source = field.varint()? as u32,
            3 => {
                let name = std::str::from_utf8(field.bytes()?).map_err(|_| PartialsError::BadName)?;
                names.push(Arc::from(name));
            }
            4 => cells.push(field.bytes()?),
            5 => batch.watermark_ms = Some(signed(&field)?),
            _ => {}
        }
    }
    batch.partials.reserve_exact(cells.len());
    for cell in cells {
        batch.partials.push(read_cell(cell, &names)?);
    }
    Ok(batch)
}

fn read_cell(bytes: &[u8], names: &[Arc<str>]) -> Result<Partial, PartialsError> {
    let (mut window_ms, mut seen_after_ms) = (0i64, 0i64);
    let mut key = None;
    let mut cell = Cell::default();
    let mut exemplars = Exemplars::default();
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => window_ms = signed(&field)?,
            2 => seen_after_ms = signed(&field)?,
            3 => key = Some(read_key(field.bytes()?, names)?),
            4 => {
                let mut rest = field.bytes()?;
                while !rest.is_empty() {
                    let number = read_varint(&mut rest)?;
                    let value = if rest.is_empty() {
                        return Err(PartialsError::BadLength);
                    } else {
                        read_varint(&mut rest)?
                    };
                    if let Some(counter) = usize::try_from(number).ok().and_then(|at| Counter::ALL.get(at)) {
                        cell.count(*counter, value);
                    }
                }
            }
            5 => read_sketch(field.bytes()?, &mut cell)?,
            6 => keep(&mut exemplars.longest, read_exemplar(field.bytes()?)?),
            7 => keep(&mut exemplars.sample, read_exemplar(field.bytes()?)?),
            8 => {
                let mut rest = field.bytes()?;
                while !rest.is_empty() {
                    let number = read_varint(&mut rest)?;
                    let version = usize::try_from(number).ok().and_then(|number| names.get(number));
                    cell.note_prices(version.ok_or(PartialsError::BadKey)?);
                }
            }
            _ => {}
        }
    }
    let key = key.ok_or(PartialsError::BadKey)?;
    let seen_window_ms = window_ms.wrapping_add(seen_after_ms);
    Ok(Partial { window_ms, seen_window_ms, key, cell, exemplars })
}

fn keep(list: &mut Vec<Exemplar>, exemplar: Exemplar) {
    if list.len() < EXEMPLARS {
        list.push(exemplar);
    }
}

fn read_key(mut rest: &[u8], names: &[Arc<str>]) -> Result<Key, PartialsError> {
    let mut next = || {
        let number = read_varint(&mut rest).map_err(|_| PartialsError::BadKey)?;
        let name = usize::try_from(number).ok().and_then(|number| names.get(number));
        name.cloned().ok_or(PartialsError::BadKey)
    };
    Ok(Key {
        tenant: next()?,
        model: next()?,
        version: next()?,
        service: next()?,
        stage: next()?,
        device: next()?,
    })
}

fn read_sketch(bytes: &[u8], cell: &mut Cell) -> Result<(), PartialsError> {
    let (mut measure, mut first) = (0, 0);
    let [mut zeros, mut sum, mut min, mut max] = [0; 4];
    let mut bins: Vec<u64> = Vec::new();
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => measure = field.varint()?,
            2 => zeros = field.varint()?,
            3 => sum = field.varint()?,
            4 => min = field.varint()?,
            5 => max = field.varint()?,
            6 => first = signed(&field)?,
            7 => {
                let mut rest = field.bytes()?;
                while !rest.is_empty() {
                    let skipped = read_varint(&mut rest)?;
                    if skipped >= MAX_BINS || bins.len() as u64 + skipped >= MAX_BINS {
                        return Err(PartialsError::BadSketch);
                    }
                    if rest.is_empty() {
                        return Err(PartialsError::BadLength);
                    }
                    bins.resize(bins.len() + skipped as usize, 0);
                    bins.push(read_varint(&mut rest)?);
                }
            }
            _ => {}
        }
    }
    if !(0..MAX_BINS as i64).contains(&first) {
        return Err(PartialsError::BadSketch);
    }
    let Some(&measure) = usize::try_from(measure).ok().and_then(|at| Measure::ALL.get(at)) else {
        return Ok(());
    };
    // Counts that cannot be added up are no counts.
    let total = bins.iter().try_fold(zeros, |all, &bin| all.checked_add(bin));
    if total.is_none_or(|total| total > u64::MAX >> 8) {
        return Err(PartialsError::BadSketch);
    }
    *cell.sketch_mut(measure) = Sketch::from_parts(zeros, sum, min, max, first as i32, bins);
    Ok(())
}

fn read_exemplar(bytes: &[u8]) -> Result<Exemplar, PartialsError> {
    let mut exemplar = Exemplar { duration_micros: 0, is_error: false, trace_id: [0; 16] };
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            1 => exemplar.trace_id = field.bytes()?.try_into().map_err(|_| PartialsError::BadLength)?,
            2 => exemplar.duration_micros = field.varint()?,
            3 => exemplar.is_error = field.varint()? != 0,
            _ => {}
        }
    }
    Ok(exemplar)
}

/// Up to where one source is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollupState {
    /// The source.
    pub source: u32,
    /// Records below this offset are counted in the partials.
    pub rolled_to: u64,
    /// Watermark there.
    pub watermark_ms: Option<Millis>,
}

impl RollupState {
    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        put_varint_field(&mut out, 1, VERSION);
        put_varint_field(&mut out, 2, u64::from(self.source));
        put_varint_field(&mut out, 3, self.rolled_to);
        if let Some(watermark_ms) = self.watermark_ms {
            put_varint_field(&mut out, 4, zigzag(watermark_ms));
        }
        out
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`PartialsError`].
    pub fn decode(payload: &[u8]) -> Result<Self, PartialsError> {
        let mut state = Self::default();
        for field in Fields::new(payload) {
            let field = field?;
            match field.number {
                1 => match field.varint()? {
                    VERSION => {}
                    other => return Err(PartialsError::Version(other)),
                },
                2 => state.source = field.varint()? as u32,
                3 => state.rolled_to = field.varint()?,
                4 => state.watermark_ms = Some(signed(&field)?),
                _ => {}
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
