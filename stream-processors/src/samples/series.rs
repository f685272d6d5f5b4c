//! Last readings of one partition's series: cumulative counts, whose growth is counted, and memory sizes.
//!
//! The first reading of a series only sets its base. A series that starts anew (another start
//! time, or a lower value) has grown by what it shows since. Readings that are not later than the last one count
//! for nothing, so a batch that is delivered twice does not either. Memory is bounded: past the bound, series that were
//! silent for a while make room, else a new one is not followed. Invariant: what is kept is a function of the
//! partition's records alone, so a restart that takes it over goes on as if it had not been.

use hashbrown::HashMap;
use infertrace_analytics::rollup::Millis;

/// A series that was silent for so long makes room for another.
const SILENT_MS: Millis = 600_000;

/// The latest reading of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Last {
    pub(super) id: u64,
    pub(super) value: f64,
    pub(super) time_ns: i64,
    pub(super) start_ns: i64,
}

impl Last {
    /// Series are kept in 64 groups, each of which is written as one record when one of its series moved.
    const fn group(&self) -> u8 {
        (self.id >> 58) as u8
    }
}

#[derive(Debug)]
pub(super) struct Series {
    last: HashMap<u64, Last, ahash::RandomState>,
    max: usize,
    /// A bit for each group that changed since it was taken.
    changed: u64,
}

/// There were too many series, and a new one is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl Series {
    pub(super) fn new(max: usize) -> Self {
        Self { last: HashMap::default(), max, changed: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// Takes over what an earlier owner of the partition has kept.
    pub(super) fn restore(&mut self, kept: impl IntoIterator<Item = Last>) {
        self.last.extend(kept.into_iter().map(|last| (last.id, last)));
    }

    /// The last value of a series.
    pub(super) fn value(&self, id: u64) -> Option<f64> {
        self.last.get(&id).map(|last| last.value)
    }

    /// By how much the series has grown since its last reading; `None` where that cannot be known.
    pub(super) fn growth(&mut self, new: Last) -> Result<Option<f64>, Refused> {
        if !new.value.is_finite() || new.value < 0.0 {
            return Ok(None);
        }
        let Some(last) = self.last.get(&new.id).copied() else {
            return self.set(new).map(|()| None);
        };
        if new.time_ns <= last.time_ns {
            return Ok(None);
        }
        let started_anew = new.start_ns != 0 && last.start_ns != 0 && new.start_ns > last.start_ns;
        let since = if started_anew || new.value < last.value { 0.0 } else { last.value };
        self.set(new)?;
        Ok(Some(new.value - since))
    }

    /// Keeps a reading as the last of its series.
    pub(super) fn set(&mut self, new: Last) -> Result<(), Refused> {
        if self.last.len() >= self.max && !self.last.contains_key(&new.id) {
            let since = new.time_ns.saturating_sub(SILENT_MS * 1_000_000);
            let changed = &mut self.changed;
            self.last.retain(|_, last| {
                let is_kept = last.time_ns >= since;
                *changed |= u64::from(!is_kept) << last.group();
                is_kept
            });
            if self.last.len() >= self.max {
                return Err(Refused);
            }
        }
        self.changed |= 1 << new.group();
        self.last.insert(new.id, new);
        Ok(())
    }

    /// Groups that changed since the last call, each whole and in the order of ids.
    pub(super) fn take_changed(&mut self) -> Vec<(u8, Vec<Last>)> {
        let changed = std::mem::take(&mut self.changed);
        self.groups(changed)
    }

    /// Every group that has a series, each whole and in the order of ids.
    pub(super) fn all(&self) -> Vec<(u8, Vec<Last>)> {
        self.groups(self.last.values().fold(0, |groups, last| groups | 1 << last.group()))
    }

    /// The groups that have a bit in `wanted`.
    fn groups(&self, wanted: u64) -> Vec<(u8, Vec<Last>)> {
        if wanted == 0 {
            return Vec::new();
        }
        let mut groups: Vec<(u8, Vec<Last>)> =
            (0..64).filter(|group| wanted >> group & 1 == 1).map(|group| (group, Vec::new())).collect();
        for last in self.last.values() {
            if let Ok(at) = groups.binary_search_by_key(&last.group(), |(group, _)| *group) {
                groups[at].1.push(*last);
            }
        }
        groups.iter_mut().for_each(|(_, group)| group.sort_unstable_by_key(|last| last.id));
        groups
    }
}
