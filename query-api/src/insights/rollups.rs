//! The rollups of the last hours, by model, and series made of them.
//!
//! Quantiles come from merged sketches, never from averaged quantiles. Invariants: a key, a window and a source range
//! count once, by their highest revision; sketches are kept as their occupied bins alone.

mod cells;
mod packed;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hashbrown::HashMap;
use infertrace_analytics::sketch::{ACCURACY, Sketch};
use infertrace_schemas::avro::Rollup;

pub(crate) use cells::CellView;
pub(crate) use packed::Packed;

/// What a cell takes besides text, counters and bins, about.
const CELL_OVERHEAD: usize = 256;
/// What a named value takes, about.
const VALUE_BYTES: usize = 48;

/// Why a rollup cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnusableRollup {
    /// Its window has no length, or ends outside of time.
    #[error("a window of {0} ns")]
    Window(i64),
    /// Merging needs equal accuracies.
    #[error("the sketch of {metric} has the accuracy {accuracy}, not {ACCURACY}")]
    Accuracy {
        /// Metric.
        metric: String,
        /// Its relative accuracy.
        accuracy: f64,
    },
    /// More bins than a sketch has, or counts below 0.
    #[error("the sketch of {0} has impossible bins")]
    Bins(String),
}

/// What a cell is about, besides its model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    tenant: String,
    version: String,
    stage: String,
    service: String,
    device: String,
    /// Partition, first and last offset.
    source: (i32, i64, i64),
}

/// Counters and sketches of one key in one window.
#[derive(Clone, Debug)]
struct Cell {
    key: Key,
    revision: i32,
    counters: Vec<(Arc<str>, u64)>,
    price_versions: Vec<Arc<str>>,
    sums: Vec<(Arc<str>, f64)>,
    sketches: Vec<(Arc<str>, Packed)>,
    bytes: usize,
}

/// A window: its length and its start, nanoseconds. In this order the finest come first, the oldest of them first.
type Window = (i64, i64);

/// The rollups.
#[derive(Default)]
pub struct Rollups {
    by_model: HashMap<Arc<str>, BTreeMap<Window, Vec<Cell>>>,
    windows: BTreeMap<Window, BTreeSet<Arc<str>>>,
    /// Names of counters and metrics, and versions of prices, once each.
    names: BTreeSet<Arc<str>>,
    cells: usize,
    bytes: usize,
}

/// Which cells are merged; absent filters match everything but the stage.
#[derive(Clone, Debug, Default)]
pub struct RollupFilter {
    /// Model; empty means cells that name none.
    pub model: String,
    /// Tenant.
    pub tenant: Option<String>,
    /// Model version.
    pub version: Option<String>,
    /// Service.
    pub service: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// Stage; empty means requests and devices: stages count the same time again.
    pub stage: String,
}

impl RollupFilter {
    fn matches(&self, key: &Key) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| wanted == text);
        is(&self.tenant, &key.tenant)
            && is(&self.version, &key.version)
            && is(&self.service, &key.service)
            && is(&self.device, &key.device)
            && self.stage == key.stage
    }
}

/// One step of a series, merged; empty where nothing was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Sums of counters.
    pub counters: BTreeMap<Arc<str>, u64>,
    /// Versions of the price tables behind the costs.
    pub price_versions: BTreeSet<Arc<str>>,
    /// Sums that are not whole.
    pub sums: BTreeMap<Arc<str>, f64>,
    /// Distributions.
    pub metrics: BTreeMap<Arc<str>, Sketch>,
}

impl Step {
    fn merge(&mut self, cell: &Cell) {
        for (name, value) in &cell.counters {
            let sum = self.counters.entry(Arc::clone(name)).or_default();
            *sum = sum.saturating_add(*value);
        }
        self.price_versions.extend(cell.price_versions.iter().cloned());
        for (name, value) in &cell.sums {
            *self.sums.entry(Arc::clone(name)).or_default() += value;
        }
        for (name, sketch) in &cell.sketches {
            self.metrics.entry(Arc::clone(name)).or_default().merge(&sketch.unpack());
        }
    }
}

impl Rollups {
    /// Takes a rollup in, unless one of a higher revision is there, and keeps to `max_bytes`.
    ///
    /// # Errors
    /// [`UnusableRollup`].
    pub fn apply(&mut self, rollup: Rollup, max_bytes: usize) -> Result<(), UnusableRollup> {
        let window = (rollup.window_nanos, rollup.window_start_unix_nanos);
        if window.0 <= 0 || window.0.checked_add(window.1).is_none() {
            return Err(UnusableRollup::Window(window.0));
        }
        let cell = self.cell(&rollup)?;
        let known = self.by_model.get_key_value(rollup.model.as_str()).map(|(known, _)| Arc::clone(known));
        let model = known.unwrap_or_else(|| rollup.model.as_str().into());
        let cells = self.by_model.entry(Arc::clone(&model)).or_default().entry(window).or_default();
        self.windows.entry(window).or_default().insert(model);
        match cells.iter_mut().find(|known| known.key == cell.key) {
            Some(known) if known.revision > cell.revision => return Ok(()),
            Some(known) => {
                self.bytes = self.bytes + cell.bytes - known.bytes;
                *known = cell;
            }
            None => {
                self.bytes += cell.bytes;
                self.cells += 1;
                cells.push(cell);
            }
        }
        while self.bytes > max_bytes
            && let Some((window, models)) = self.windows.pop_first()
        {
            self.drop_window(window, &models);
        }
        Ok(())
    }

    fn cell(&mut self, rollup: &Rollup) -> Result<Cell, UnusableRollup> {
        let sketches = rollup
            .sketches
            .iter()
            .map(|sketch| Ok((self.name(&sketch.metric), Packed::new(sketch)?)))
            .collect::<Result<Vec<_>, _>>()?;
        let counters: Vec<_> = rollup
            .counters
            .iter()
            .filter(|(_, value)| **value > 0)
            .map(|(name, value)| (self.name(name), *value as u64))
            .collect();
        let price_versions = rollup.price_versions.iter().map(|version| self.name(version)).collect();
        let sums: Vec<_> = rollup
            .sums
            .iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(name, value)| (self.name(name), *value))
            .collect();
        let key = Key {
            tenant: rollup.tenant.clone(),
            version: rollup.model_version.clone(),
            stage: rollup.stage.clone(),
            service: rollup.service.clone(),
            device: rollup.device.clone(),
            source: (rollup.source.partition, rollup.source.first_offset, rollup.source.last_offset),
        };
        let texts = [&key.tenant, &key.version, &key.stage, &key.service, &key.device];
        let bytes = CELL_OVERHEAD
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + (counters.len() + sums.len()) * VALUE_BYTES / 2
            + sketches.iter().map(|(_, sketch)| sketch.bins_len() + 2 * VALUE_BYTES).sum::<usize>();
        Ok(Cell { key, revision: rollup.revision, counters, price_versions, sums, sketches, bytes })
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn drop_window(&mut self, window: Window, models: &BTreeSet<Arc<str>>) {
        for model in models {
            let Some(windows) = self.by_model.get_mut(model) else { continue };
            let cells = windows.remove(&window).unwrap_or_default();
            self.cells -= cells.len();
            self.bytes -= cells.iter().map(|cell| cell.bytes).sum::<usize>();
            if windows.is_empty() {
                self.by_model.remove(model);
            }
        }
        if self.by_model.is_empty() {
            self.names.clear();
        }
    }

    /// Lets go of windows that ended before.
    pub fn forget_before(&mut self, oldest_ms: i64) {
        let oldest_ns = oldest_ms.saturating_mul(1_000_000);
        let lengths = self.lengths();
        for length in lengths {
            while let Some((&window, _)) = self.windows.range((length, i64::MIN)..).next()
                && window.0 == length
                && window.0 + window.1 < oldest_ns
            {
                let models = self.windows.remove(&window).unwrap_or_default();
                self.drop_window(window, &models);
            }
        }
    }

    /// Lengths of windows, the shortest first.
    fn lengths(&self) -> Vec<i64> {
        let mut lengths = Vec::new();
        let mut after = i64::MIN;
        while let Some((&(length, _), _)) = self.windows.range((after, i64::MIN)..).next() {
            lengths.push(length);
            match length.checked_add(1) {
                Some(next) => after = next,
                None => break,
            }
        }
        lengths
    }

    /// `steps` steps of `step_ns` from `start_ns`, which lies on a step. Each is made of the longest windows that fit it;
    /// where those are not written yet, of shorter ones.
    #[must_use]
    pub fn series(&self, filter: &RollupFilter, start_ns: i64, step_ns: i64, steps: usize) -> Vec<Step> {
        let mut series = vec![Step::default(); steps];
        let Some(windows) = self.by_model.get(filter.model.as_str()) else { return series };
        let mut lengths = self.lengths();
        lengths.retain(|length| *length <= step_ns && step_ns % length == 0);
        for (index, step) in series.iter_mut().enumerate() {
            let from = start_ns.saturating_add(step_ns.saturating_mul(index as i64));
            let until = from.saturating_add(step_ns);
            for length in lengths.iter().rev() {
                let mut cells = windows
                    .range((*length, from)..(*length, until))
                    .flat_map(|(_, cells)| cells)
                    .filter(|cell| filter.matches(&cell.key))
                    .peekable();
                if cells.peek().is_some() {
                    cells.for_each(|cell| step.merge(cell));
                    break;
                }
            }
        }
        series
    }

    /// The oldest start of a window of `model` that is still held.
    #[must_use]
    pub fn held_from_ns(&self, model: &str) -> Option<i64> {
        self.by_model.get(model)?.keys().map(|(_, start)| *start).min()
    }

    /// Keys times windows.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.cells
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cells == 0
    }

    /// Memory, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests;
