//! Partials merged by key into windows of 10 s, 1 min and 1 h, and corrected by what comes late.
//!
//! Invariants: a window is told once when it is over, then once more after each closed window in which something
//! late is seen of it, with a higher revision; what is told depends neither on the order of partials nor on which source
//! is read first, since what is late waits for the window in which it is seen. A window is kept for corrections for a
//! while; what is later still is counted in [`Windows::uncorrected`] and in the longer windows that are still kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    cost::price_of_time,
    idle::{self, Devices},
    output::{Output, Rollup},
    rollup::{Cell, Counter, Exemplars, Key, Millis, Partial, Shape, WINDOW_MS},
};

/// Numbers and traces of one key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Merged {
    pub(crate) cell: Cell,
    pub(crate) exemplars: Exemplars,
}

impl Merged {
    fn merge(&mut self, cell: &Cell, exemplars: &Exemplars) {
        self.cell.merge(cell);
        self.exemplars.merge(exemplars);
    }
}

/// Everything of one window.
pub(crate) type Cells = BTreeMap<Key, Merged>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    merged: Merged,
    revision: u32,
    changed: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Window {
    entries: BTreeMap<Key, Entry>,
    told: bool,
}

impl Window {
    /// Brings the idle cost of devices up to date.
    fn settle(&mut self) {
        if !self.entries.iter().any(|(key, entry)| entry.changed && key.shape() == Shape::Device) {
            return;
        }
        for key in idle::settle(self.entries.iter_mut().map(|(key, entry)| (key, &mut entry.merged.cell))) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.changed = true;
            }
        }
    }
}

/// Windows of one length.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Level {
    length_ms: Millis,
    /// How long a window is kept for corrections once it is over.
    kept_ms: Millis,
    windows: BTreeMap<Millis, Window>,
}

impl Level {
    fn add(&mut self, window_ms: Millis, key: &Key, cell: &Cell, exemplars: &Exemplars) {
        let start = window_ms - window_ms.rem_euclid(self.length_ms);
        let window = self.windows.entry(start).or_default();
        let entry = match window.entries.get_mut(key) {
            Some(entry) => entry,
            None => window.entries.entry(key.clone()).or_default(),
        };
        entry.merged.merge(cell, exemplars);
        entry.changed = true;
    }

    /// Whether the window that holds `window_ms` is still to be told or kept for corrections.
    const fn keeps(&self, window_ms: Millis, now_ms: Millis) -> bool {
        let start = window_ms - window_ms.rem_euclid(self.length_ms);
        start >= now_ms - self.length_ms - self.kept_ms
    }

    /// What devices ask for an hour, by the windows in which something about them changed, in order of time.
    fn changed_prices(&self, now_ms: Millis) -> Vec<(Millis, Key, u64)> {
        let mut prices = Vec::new();
        for (window_ms, window) in self.windows.range(..=now_ms - self.length_ms) {
            for (key, entry) in window.entries.iter().filter(|(_, entry)| entry.changed) {
                if let Some(price) = idle::price_of_hour(key, &entry.merged.cell) {
                    prices.push((*window_ms, key.clone(), price));
                }
            }
        }
        prices
    }

    /// Tells what is over or changed at `now_ms`, then forgets what is too old to change.
    fn tell(&mut self, now_ms: Millis, is_ours: &impl Fn(&Key) -> bool, out: &mut Vec<Output>) {
        for (&window_ms, window) in self.windows.range_mut(..=now_ms - self.length_ms) {
            window.settle();
            for (key, entry) in window.entries.iter_mut().filter(|(_, entry)| entry.changed) {
                entry.changed = false;
                entry.revision += 1;
                if is_ours(key) {
                    out.push(Output::Rollup(Rollup {
                        window_ms,
                        length_ms: self.length_ms,
                        revision: entry.revision,
                        key: key.clone(),
                        cell: entry.merged.cell.clone(),
                        exemplars: entry.merged.exemplars.clone(),
                    }));
                }
            }
            window.told = true;
        }
        let oldest = now_ms - self.length_ms - self.kept_ms;
        while self.windows.first_key_value().is_some_and(|(start, _)| *start < oldest) {
            self.windows.pop_first();
        }
    }
}

/// All lengths; see the module's words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Windows {
    /// Open base windows, by the window of the events.
    open: BTreeMap<Millis, Cells>,
    /// What is late, by the window in which detectors see it, then by the window of the events.
    late: BTreeMap<Millis, BTreeMap<Millis, Cells>>,
    base: Level,
    longer: [Level; 2],
    devices: Devices,
    /// End of the last closed window.
    closed_to_ms: Option<Millis>,
    /// Keys that were seen after their 10 s window was forgotten.
    pub(crate) uncorrected: u64,
}

fn merge_into(cells: &mut Cells, key: &Key, cell: &Cell, exemplars: &Exemplars) {
    match cells.get_mut(key) {
        Some(merged) => merged.merge(cell, exemplars),
        None => {
            let merged = Merged { cell: cell.clone(), exemplars: exemplars.clone() };
            cells.insert(key.clone(), merged);
        }
    }
}

const MINUTE_MS: Millis = 60_000;
const HOUR_MS: Millis = 3_600_000;

impl Windows {
    pub(crate) fn new() -> Self {
        let level = |length_ms, kept_ms| Level { length_ms, kept_ms, windows: BTreeMap::new() };
        Self {
            open: BTreeMap::new(),
            late: BTreeMap::new(),
            base: level(WINDOW_MS, MINUTE_MS),
            longer: [level(MINUTE_MS, 5 * MINUTE_MS), level(HOUR_MS, 10 * MINUTE_MS)],
            devices: Devices::default(),
            closed_to_ms: None,
            uncorrected: 0,
        }
    }

    /// End of the last closed window.
    pub(crate) const fn closed_to_ms(&self) -> Option<Millis> {
        self.closed_to_ms
    }

    /// Start of the earliest window in which anything is seen and that is not closed. Events may be of earlier ones.
    pub(crate) fn first_seen_ms(&self) -> Option<Millis> {
        [self.open.keys().next().copied(), self.late.keys().next().copied()].into_iter().flatten().min()
    }

    pub(crate) fn add(&mut self, partial: &Partial) {
        let Partial { window_ms, seen_window_ms, key, cell, exemplars } = partial;
        let now_ms = self.closed_to_ms.unwrap_or(Millis::MIN);
        let seen_ms = (*seen_window_ms).max(*window_ms).max(now_ms);
        let cells = if seen_ms == *window_ms {
            self.open.entry(*window_ms).or_default()
        } else {
            self.late.entry(seen_ms).or_default().entry(*window_ms).or_default()
        };
        merge_into(cells, key, cell, exemplars);
    }

    /// Closes the window that begins at `window_ms`: tells rollups and hands over what detectors see of it.
    pub(crate) fn close(
        &mut self,
        window_ms: Millis,
        is_ours: impl Fn(&Key) -> bool,
        out: &mut Vec<Output>,
    ) -> Cells {
        let now_ms = window_ms + WINDOW_MS;
        let mut view = self.open.remove(&window_ms).unwrap_or_default();
        for (key, Merged { cell, exemplars }) in &view {
            self.base.add(window_ms, key, cell, exemplars);
            for level in &mut self.longer {
                level.add(window_ms, key, cell, exemplars);
            }
        }
        for (start_ms, cells) in self.late.remove(&window_ms).unwrap_or_default() {
            for (key, Merged { cell, exemplars }) in &cells {
                self.correct(start_ms, key, cell, exemplars);
                merge_into(&mut view, key, cell, exemplars);
            }
        }
        self.price_devices(now_ms);
        self.base.tell(now_ms, &is_ours, out);
        for level in &mut self.longer {
            level.tell(now_ms, &is_ours, out);
        }
        self.closed_to_ms = Some(now_ms);
        view
    }

    /// Adds what is late to the windows that are still kept; before the first that is closed at all, any are.
    fn correct(&mut self, window_ms: Millis, key: &Key, cell: &Cell, exemplars: &Exemplars) {
        let now_ms = self.closed_to_ms;
        let keeps = |level: &Level| now_ms.is_none_or(|now_ms| level.keeps(window_ms, now_ms));
        self.uncorrected += u64::from(!keeps(&self.base));
        for level in std::iter::once(&mut self.base).chain(&mut self.longer) {
            if keeps(level) {
                level.add(window_ms, key, cell, exemplars);
            }
        }
    }

    /// Adds the price of the time of devices that reported themselves in windows that are over.
    fn price_devices(&mut self, now_ms: Millis) {
        for (reported_ms, key, nano_usd_per_hour) in self.base.changed_prices(now_ms) {
            for window_ms in self.devices.to_price(&key.device, reported_ms) {
                let mut cell = Cell::default();
                let price = price_of_time(window_ms, window_ms + WINDOW_MS, nano_usd_per_hour);
                cell.count(Counter::DeviceNanoUsd, price);
                for level in std::iter::once(&mut self.base).chain(&mut self.longer) {
                    if level.keeps(window_ms, now_ms) {
                        level.add(window_ms, &key, &cell, &Exemplars::default());
                    }
                }
            }
        }
        self.devices.forget(now_ms);
    }
}
