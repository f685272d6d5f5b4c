//! Cells by source, key and window: what both rollers count into, and what is flushed as partials.
//!
//! A cell is open from its first count to the next flush of its source; what is flushed is a delta. Invariants: the
//! windows of a count follow from event time and the source's watermark alone, so how a source is cut
//! into flushes changes nothing but the number of partials; a watermark never goes back.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashTable;
use infertrace_analytics::rollup::{Cell, Counter, Exemplar, Exemplars, Key, Millis, Partial, window_of};
use infertrace_schemas::trace::{NameId, Names};

use super::keys::{KeyIds, KeyLimits, Keys, Own, folded};

/// Texts are forgotten, once every source is flushed, when they take more than this.
const NAMES_BYTES: usize = 8 << 20;

/// Bounds and lateness of a roller; [`crate::Config`] says what each means.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A window is open until the watermark is this far past its end.
    pub lateness_ms: Millis,
    /// Keys counted apart.
    pub keys: KeyLimits,
    /// Memory of cells past which they are flushed before their window is over.
    pub max_bytes: usize,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollupCounts {
    /// Things counted under the overflow model.
    pub folded: u64,
    /// Things that came after their window was closed.
    pub late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CellKey {
    window_ms: Millis,
    seen_window_ms: Millis,
    key: KeyIds,
}

#[derive(Debug)]
struct Slot {
    key: CellKey,
    cell: Cell,
    exemplars: Exemplars,
}

const SLOT_BYTES: usize = size_of::<Slot>() + 8 + 6 * size_of::<Exemplar>();

#[derive(Debug, Default)]
struct Source {
    watermark_ms: Option<Millis>,
    /// The open window that the last flush told.
    told_ms: Option<Millis>,
    next_offset: u64,
    /// Everything below is flushed.
    rolled_to: u64,
    slots: Vec<Slot>,
    table: HashTable<u32>,
}

/// How far a source is, as of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Records below this offset are counted in partials.
    pub rolled_to: u64,
    /// Watermark.
    pub watermark_ms: Option<Millis>,
    /// Whether the watermark closed a window since the last flush, so that stage 2 has to know.
    pub is_new_window: bool,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Cells {
    limits: Limits,
    names: Names,
    own: Own,
    keys: Keys,
    sources: BTreeMap<u32, Source>,
    /// The latest open window of any source: when it moves, keys are counted anew.
    latest_open_ms: Millis,
    hasher: ahash::RandomState,
    bytes: usize,
    counts: RollupCounts,
}

impl Cells {
    pub(crate) fn new(limits: Limits) -> Self {
        let mut names = Names::new();
        let own = Own::new(&mut names);
        Self {
            limits,
            names,
            own,
            keys: Keys::new(limits.keys),
            sources: BTreeMap::new(),
            latest_open_ms: Millis::MIN,
            hasher: ahash::RandomState::new(),
            bytes: 0,
            counts: RollupCounts::default(),
        }
    }

    pub(crate) const fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    pub(crate) const fn own(&self) -> &Own {
        &self.own
    }

    pub(crate) fn assign(&mut self, source: u32, rolled_to: u64, watermark_ms: Option<Millis>) {
        self.revoke(source);
        let state = Source {
            watermark_ms,
            told_ms: watermark_ms.map(|at| self.open_at(at)),
            next_offset: rolled_to,
            rolled_to,
            ..Source::default()
        };
        self.sources.insert(source, state);
    }

    pub(crate) fn revoke(&mut self, source: u32) {
        if let Some(state) = self.sources.remove(&source) {
            self.bytes -= state.slots.iter().map(bytes_of).sum::<usize>();
        }
    }

    /// The earliest window that is open at `watermark_ms`.
    const fn open_at(&self, watermark_ms: Millis) -> Millis {
        window_of(watermark_ms.saturating_sub(self.limits.lateness_ms))
    }

    /// Moves a watermark, never back.
    pub(crate) fn advance(&mut self, source: u32, to_ms: Millis) {
        let open_ms = self.open_at(to_ms);
        let Some(state) = self.sources.get_mut(&source) else { return };
        if state.watermark_ms.is_some_and(|at| at >= to_ms) {
            return;
        }
        state.watermark_ms = Some(to_ms);
        if open_ms > self.latest_open_ms {
            self.latest_open_ms = open_ms;
            self.keys.forget();
        }
    }

    /// Whether record `offset` is still to be counted; moves the watermark if it is.
    pub(crate) fn begin_record(&mut self, source: u32, offset: u64, timestamp_ms: Millis) -> bool {
        let is_new = self.sources.get(&source).is_some_and(|state| offset >= state.rolled_to);
        if is_new {
            self.advance(source, timestamp_ms);
        }
        is_new
    }

    pub(crate) fn end_record(&mut self, source: u32, offset: u64) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.next_offset = state.next_offset.max(offset + 1);
        }
    }

    /// The watermark of an assigned source that has seen a record.
    pub(crate) fn watermark_ms(&self, source: u32) -> Option<Millis> {
        self.sources.get(&source)?.watermark_ms
    }

    /// Counts something of `key` that happened at `at_ms` into its window.
    pub(crate) fn count(
        &mut self,
        source: u32,
        key: KeyIds,
        at_ms: Millis,
        count: impl FnOnce(&mut Cell, &mut Exemplars),
    ) {
        let lateness_ms = self.limits.lateness_ms;
        let Some(state) = self.sources.get_mut(&source) else { return };
        let window_ms = window_of(at_ms);
        let open_ms = state
            .watermark_ms
            .map_or(Millis::MIN, |watermark| window_of(watermark.saturating_sub(lateness_ms)));
        let seen_window_ms = window_ms.max(open_ms);
        self.counts.late += u64::from(seen_window_ms != window_ms);
        let mut cell_key = CellKey { window_ms, seen_window_ms, key };
        let mut is_folded = false;
        let hash = self.hasher.hash_one(cell_key);
        let mut found = state.find(hash, &cell_key);
        if found.is_none() {
            let mut hash = hash;
            if !self.keys.admit(key) {
                is_folded = true;
                cell_key.key = folded(key, &self.own);
                hash = self.hasher.hash_one(cell_key);
                found = state.find(hash, &cell_key);
            }
            if found.is_none() {
                found = Some(state.insert(hash, cell_key, &self.hasher));
                self.bytes += SLOT_BYTES;
            }
        }
        let Some(slot) = found.and_then(|at| state.slots.get_mut(at)) else { return };
        let before = slot.cell.heap_bytes();
        count(&mut slot.cell, &mut slot.exemplars);
        if is_folded {
            self.counts.folded += 1;
            slot.cell.count(Counter::Folded, 1);
        }
        self.bytes = self.bytes + slot.cell.heap_bytes() - before;
    }

    /// Whether cells or texts take too much memory.
    pub(crate) const fn wants_memory(&self) -> bool {
        self.bytes > self.limits.max_bytes || self.names.bytes() > NAMES_BYTES
    }

    /// Whether a source closed a window since its last flush, or memory is short.
    pub(crate) fn wants_flush(&self, source: u32) -> bool {
        if self.wants_memory() {
            return true;
        }
        let Some(state) = self.sources.get(&source) else { return false };
        state.watermark_ms.map(|at| self.open_at(at)) != state.told_ms
    }

    /// Whether a watermark of `to_ms` would close a window that is open since the last flush.
    pub(crate) fn would_close(&self, source: u32, to_ms: Millis) -> bool {
        let told_ms = self.sources.get(&source).and_then(|state| state.told_ms);
        told_ms.is_some_and(|told_ms| told_ms < self.open_at(to_ms))
    }

    /// The next record to count.
    pub(crate) fn next_offset(&self, source: u32) -> Option<u64> {
        Some(self.sources.get(&source)?.next_offset)
    }

    /// Everything below is in partials already.
    pub(crate) fn rolled_to(&self, source: u32) -> Option<u64> {
        Some(self.sources.get(&source)?.rolled_to)
    }

    /// What was counted since the last flush.
    pub(crate) fn flush(&mut self, source: u32, out: &mut Vec<Partial>) -> Option<Mark> {
        let lateness_ms = self.limits.lateness_ms;
        let state = self.sources.get_mut(&source)?;
        state.rolled_to = state.next_offset;
        let open_ms = state.watermark_ms.map(|at| window_of(at.saturating_sub(lateness_ms)));
        let is_new_window = open_ms != state.told_ms;
        state.told_ms = open_ms;
        let mark = Mark { rolled_to: state.rolled_to, watermark_ms: state.watermark_ms, is_new_window };
        state.table.clear();
        let slots = std::mem::take(&mut state.slots);
        if slots.is_empty() && !self.wants_memory() {
            return Some(mark);
        }
        self.bytes -= slots.iter().map(bytes_of).sum::<usize>();
        let mut texts = Texts::new(&self.names);
        out.reserve(slots.len());
        for Slot { key, cell, exemplars } in slots {
            let CellKey { window_ms, seen_window_ms, key } = key;
            out.push(Partial { window_ms, seen_window_ms, key: texts.key(key), cell, exemplars });
        }
        if self.names.bytes() > NAMES_BYTES && self.sources.values().all(|state| state.slots.is_empty()) {
            self.names = Names::new();
            self.own = Own::new(&mut self.names);
            self.keys.forget();
        }
        Some(mark)
    }

    pub(crate) fn len(&self) -> usize {
        self.sources.values().map(|state| state.slots.len()).sum()
    }

    pub(crate) fn known_keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes + self.names.bytes()
    }

    pub(crate) fn take_counts(&mut self) -> RollupCounts {
        std::mem::take(&mut self.counts)
    }
}

fn bytes_of(slot: &Slot) -> usize {
    SLOT_BYTES + slot.cell.heap_bytes()
}

impl Source {
    fn find(&self, hash: u64, key: &CellKey) -> Option<usize> {
        let slots = &self.slots;
        self.table.find(hash, |&at| slots[at as usize].key == *key).map(|&at| at as usize)
    }

    fn insert(&mut self, hash: u64, key: CellKey, hasher: &ahash::RandomState) -> usize {
        let at = self.slots.len();
        self.slots.push(Slot { key, cell: Cell::default(), exemplars: Exemplars::default() });
        let slots = &self.slots;
        self.table.insert_unique(hash, at as u32, |&at| hasher.hash_one(slots[at as usize].key));
        at
    }
}

/// Shared texts of the names met in one flush.
struct Texts<'n> {
    names: &'n Names,
    shared: Vec<Option<Arc<str>>>,
}

impl<'n> Texts<'n> {
    fn new(names: &'n Names) -> Self {
        Self { names, shared: vec![None; names.len()] }
    }

    fn get(&mut self, id: NameId) -> Arc<str> {
        let Some(shared) = self.shared.get_mut(id.0 as usize) else { return Arc::from("") };
        Arc::clone(shared.get_or_insert_with(|| Arc::from(self.names.get(id))))
    }

    fn key(&mut self, key: KeyIds) -> Key {
        Key {
            tenant: self.get(key.tenant),
            model: self.get(key.model),
            version: self.get(key.version),
            service: self.get(key.service),
            stage: self.get(key.stage),
            device: self.get(key.device),
        }
    }
}
