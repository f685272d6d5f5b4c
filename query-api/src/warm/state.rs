//! What the warm tier holds, as of one moment: offsets and days.
//!
//! Invariants: every span of a covered offset whose day is kept is in the tables, and its start lies within a day's
//! bounds; offsets are read before the tables are looked at, so this holds whatever the sink inserts meanwhile.

use std::ops::Range;

use infertrace_schemas::lake::EventDate;

use super::sql::Span;
use crate::{hot::Coverage, lake::LakeFile};

/// Slices that a day is cut into at most: 5 minutes of an evenly filled one.
const MOST_SLICES: u64 = 288;
/// Days before one is removed in which it is no longer relied on: clocks differ, and a request takes time.
const MARGIN_DAYS: i32 = 2;

/// Rows of one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    pub(crate) rows: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarmState {
    /// Offsets of each partition of which every span was inserted.
    pub(crate) coverage: Coverage,
    /// Days with rows.
    pub(crate) days: Vec<Day>,
    /// First day that is kept for certain.
    pub(crate) kept_from: Option<EventDate>,
}

impl WarmState {
    /// The first day that is not about to be removed, with `ttl_days` of retention; `None` without.
    pub(crate) fn kept_from(now_ns: i64, ttl_days: u32) -> Option<EventDate> {
        let kept = i32::try_from(ttl_days).unwrap_or(i32::MAX).saturating_sub(MARGIN_DAYS);
        (ttl_days > 0).then(|| EventDate(EventDate::of_nanos(now_ns).0.saturating_sub(kept)))
    }

    /// Rows in all days.
    pub(crate) fn rows(&self) -> u64 {
        self.days.iter().map(|day| day.rows).sum()
    }

    /// Whether this tier, together with the hot one, has every span of a file of the lake.
    pub(crate) fn covers(&self, file: &LakeFile, hot: &Coverage) -> bool {
        let is_kept = self.kept_from.is_none_or(|first| first.0 <= file.data.date.0);
        let joined = joined(&self.coverage.of(file.partition), &hot.of(file.partition));
        is_kept && joined.start <= file.offsets.start && file.offsets.end <= joined.end
    }

    /// Ranges of start times with at most about `rows` rows each, that together hold every row.
    pub(crate) fn slices(&self, rows: u64) -> Vec<(Span, u64)> {
        let mut slices = Vec::new();
        for day in &self.days {
            let pieces = day.rows.div_ceil(rows.max(1)).clamp(1, MOST_SLICES);
            let length = day.last_ns.saturating_sub(day.first_ns).saturating_add(1);
            // At least a nanosecond each.
            let pieces = pieces.min(length.unsigned_abs().max(1));
            let edge = |piece: u64| {
                let share = i128::from(length) * i128::from(piece) / i128::from(pieces);
                day.first_ns.saturating_add(i64::try_from(share).unwrap_or(i64::MAX))
            };
            slices.extend((0..pieces).map(|piece| {
                (Span { from_ns: edge(piece), to_ns: edge(piece + 1) }, day.rows.div_ceil(pieces))
            }));
        }
        slices
    }
}

/// Offsets that are held by one or the other, beginning with the older; only the older where they do not meet.
pub(crate) fn joined(older: &Range<i64>, newer: &Range<i64>) -> Range<i64> {
    if older.is_empty() {
        newer.clone()
    } else if newer.is_empty() || older.end < newer.start || newer.end < older.start {
        older.clone()
    } else {
        older.start.min(newer.start)..older.end.max(newer.end)
    }
}

/// What of `range` is in none of `held`.
pub(crate) fn outside(range: Range<i64>, held: &[Range<i64>]) -> Vec<Range<i64>> {
    let mut left = vec![range];
    for held in held.iter().filter(|held| !held.is_empty()) {
        left = left
            .into_iter()
            .flat_map(|part| [part.start..part.end.min(held.start), part.start.max(held.end)..part.end])
            .filter(|part| !part.is_empty())
            .collect();
    }
    left.retain(|part| !part.is_empty());
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: days of any length and fill. Guarantee: slices follow one another without a gap or an overlap, from
        /// the first start to the last.
        #[test]
        fn slices_hold_every_row(first_ns in -5_000i64..5_000, length in 0i64..10_000, rows in 1u64..100_000, step in 0u64..1_000) {
            let day = Day { first_ns, last_ns: first_ns + length, rows };
            let state = WarmState { days: vec![day], ..WarmState::default() };
            let slices = state.slices(step);
            prop_assert!(slices.len() as u64 <= MOST_SLICES);
            let mut at = first_ns;
            for (slice, _) in &slices {
                prop_assert_eq!(slice.from_ns, at);
                prop_assert!(slice.to_ns > at);
                at = slice.to_ns;
            }
            prop_assert_eq!(at, day.last_ns + 1);
            prop_assert!(slices.iter().map(|(_, rows)| rows).sum::<u64>() >= rows);
        }

        /// Scenario: any ranges of offsets. Guarantee: an offset is outside if and only if it is in the range and in none
        /// that is held.
        #[test]
        fn what_is_outside(start in 0i64..20, length in 0i64..20, held in proptest::collection::vec((0i64..40, 0i64..10), 0..4)) {
            let range = start..start + length;
            let held: Vec<_> = held.into_iter().map(|(start, length)| start..start + length).collect();
            let left = outside(range.clone(), &held);
            for offset in 0..60 {
                let expected = range.contains(&offset) && !held.iter().any(|held| held.contains(&offset));
                prop_assert_eq!(left.iter().any(|part| part.contains(&offset)), expected);
            }
        }
    }

    /// Scenario: retention of some days, and none. Guarantee: what is about to be removed is not relied on.
    #[test]
    fn days_about_to_go_are_not_relied_on() {
        let now = 100 * 86_400_000_000_000;
        assert_eq!(WarmState::kept_from(now, 30), Some(EventDate(72)));
        assert_eq!(WarmState::kept_from(now, 1), Some(EventDate(101)));
        assert_eq!(WarmState::kept_from(now, 0), None);
        assert_eq!(joined(&(5..10), &(10..20)), 5..20);
        assert_eq!(joined(&(5..10), &(11..20)), 5..10);
        assert_eq!(joined(&(0..0), &(11..20)), 11..20);
    }
}
