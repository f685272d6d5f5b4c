//! Growth of cumulative series.
//!
//! The first reading of a series only sets its base, also after a restart. A series that starts anew (another start
//! time, or a lower value) has grown by what it shows since. Readings that are not later than the last one count
//! for nothing, so a batch that is delivered twice does not either. Memory is bounded: past the bound, series that were
//! silent for a while make room, else a new one is not followed.

use hashbrown::HashMap;
use infertrace_analytics::rollup::Millis;

/// A series that was silent for so long makes room for another.
const SILENT_MS: Millis = 600_000;

#[derive(Clone, Copy, Debug)]
struct Last {
    value: f64,
    time_ns: i64,
    start_ns: i64,
}

#[derive(Debug)]
pub(super) struct Series {
    last: HashMap<u64, Last, ahash::RandomState>,
    max: usize,
    /// Series that were not followed because there were too many.
    pub(super) refused: u64,
}

impl Series {
    pub(super) fn new(max: usize) -> Self {
        Self { last: HashMap::default(), max, refused: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// By how much the series `id` has grown since its last reading.
    pub(super) fn growth(&mut self, id: u64, value: f64, time_ns: i64, start_ns: i64) -> Option<f64> {
        if !value.is_finite() || value < 0.0 {
            return None;
        }
        let new = Last { value, time_ns, start_ns };
        if let Some(last) = self.last.get_mut(&id) {
            if time_ns <= last.time_ns {
                return None;
            }
            let started_anew = start_ns != 0 && last.start_ns != 0 && start_ns > last.start_ns;
            let since = if started_anew || value < last.value { 0.0 } else { last.value };
            *last = new;
            return Some(value - since);
        }
        if self.last.len() >= self.max {
            let since = time_ns.saturating_sub(SILENT_MS * 1_000_000);
            self.last.retain(|_, last| last.time_ns >= since);
        }
        if self.last.len() < self.max {
            self.last.insert(id, new);
        } else {
            self.refused += 1;
        }
        None
    }
}
