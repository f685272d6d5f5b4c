//! Cells one by one, for who groups them by other keys than a model.

use std::collections::BTreeMap;

use infertrace_analytics::rollup::Shape;

use super::{Cell, Packed, Rollups};

/// A cell and what it is about.
#[derive(Clone, Copy)]
pub(crate) struct CellView<'a> {
    pub(crate) model: &'a str,
    /// End of its window, nanoseconds since 1970.
    pub(crate) end_ns: i64,
    cell: &'a Cell,
}

impl<'a> CellView<'a> {
    pub(crate) fn tenant(&self) -> &'a str {
        &self.cell.key.tenant
    }

    pub(crate) fn version(&self) -> &'a str {
        &self.cell.key.version
    }

    pub(crate) fn stage(&self) -> &'a str {
        &self.cell.key.stage
    }

    pub(crate) fn service(&self) -> &'a str {
        &self.cell.key.service
    }

    pub(crate) fn device(&self) -> &'a str {
        &self.cell.key.device
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.stage(), self.service(), self.device())
    }

    /// A counter; `None` where it is 0.
    pub(crate) fn counter(&self, name: &str) -> Option<u64> {
        self.cell.counters.iter().find(|(known, _)| **known == *name).map(|(_, value)| *value)
    }

    /// A distribution.
    pub(crate) fn sketch(&self, name: &str) -> Option<&'a Packed> {
        self.cell.sketches.iter().find(|(known, _)| **known == *name).map(|(_, sketch)| sketch)
    }
}

impl Rollups {
    /// Cells of the models that `wanted` takes, whose windows end after `from_ns` and not after `until_ns`, until `visit`
    /// says `false`. Every moment of a model is told once: by windows of `length_ns` where they are held, else by the
    /// longest that are shorter, as of a minute that is not over, else by longer ones, as where memory was short.
    pub(crate) fn cells<'a>(
        &'a self,
        from_ns: i64,
        until_ns: i64,
        length_ns: i64,
        wanted: impl Fn(&str) -> bool,
        mut visit: impl FnMut(CellView<'a>) -> bool,
    ) {
        let lengths = self.lengths();
        let (shorter, longer): (Vec<i64>, Vec<i64>) = lengths.into_iter().partition(|one| *one <= length_ns);
        for (model, windows) in self.by_model.iter().filter(|(model, _)| wanted(model)) {
            let mut told: BTreeMap<i64, i64> = BTreeMap::new();
            for &length in shorter.iter().rev().chain(&longer) {
                let first = from_ns.saturating_sub(length).saturating_add(1);
                let last = until_ns.saturating_sub(length);
                if first > last {
                    continue;
                }
                let mut found = Vec::new();
                for ((_, start), cells) in windows.range((length, first)..=(length, last)) {
                    let end = start + length;
                    let is_told = told.range(..end).next_back().is_some_and(|(_, known)| known > start);
                    if !is_told {
                        found.push((*start, end, cells));
                    }
                }
                for (start, end_ns, cells) in found {
                    told.insert(start, end_ns);
                    if !cells.iter().all(|cell| visit(CellView { model, end_ns, cell })) {
                        return;
                    }
                }
            }
        }
    }

    /// Start of the oldest window that is held and end of the newest, nanoseconds since 1970.
    pub(crate) fn held(&self) -> Option<(i64, i64)> {
        let of = |length: i64| {
            let mut windows =
                self.windows.range((length, i64::MIN)..=(length, i64::MAX)).map(|(window, _)| window.1);
            let oldest = windows.next()?;
            Some((oldest, windows.next_back().unwrap_or(oldest) + length))
        };
        self.lengths()
            .into_iter()
            .filter_map(of)
            .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }
}
