//! Objectives and how fast their error budget burns: the only thing that pages.
//!
//! Burn rate = share of bad requests ÷ (1 − target). Pages at 14.4 over 1 h and 5 min, and at 6 over 6 h and 30 min;
//! a ticket at 1 over 3 d and 6 h (Google, "The Site Reliability Workbook", 2018, chapter 5, table 5-8). Both windows
//! of a pair have to burn: the long one says that it matters, the short one that it goes on. Time before the first
//! request counts as good, and few bad requests page nobody.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    output::Severity,
    rollup::{Cell, Counter, Measure, Millis},
};

/// What is to hold for the requests of a model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Name in insights.
    pub name: String,
    /// Only this tenant, if given.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Only this model, if given.
    #[serde(default)]
    pub model: Option<String>,
    /// What a request has to do.
    pub goal: Goal,
    /// Share of requests that have to, as 0.99.
    pub target: f64,
}

/// What a good request does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// It does not fail.
    Success,
    /// It takes this many milliseconds at most.
    LatencyMs(u64),
    /// Its first token comes within this many milliseconds.
    TtftMs(u64),
    /// Its tokens after the first take this many milliseconds each at most.
    TpotMs(u64),
}

impl Objective {
    /// Whether it is about this model.
    pub(crate) fn is_of(&self, tenant: &str, model: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
            && self.model.as_deref().is_none_or(|own| own == model)
    }

    /// Requests that count, and how many of them are bad.
    fn count(&self, cell: &Cell) -> (u64, u64) {
        let slow = |measure, millis: u64| {
            let Some(sketch) = cell.sketch(measure) else { return (0, 0) };
            let share = sketch.share_above(millis.saturating_mul(1_000));
            (sketch.count(), (share * sketch.count() as f64).round() as u64)
        };
        match self.goal {
            Goal::Success => (cell.get(Counter::Requests), cell.get(Counter::Errors)),
            Goal::LatencyMs(millis) => slow(Measure::DurationMicros, millis),
            Goal::TtftMs(millis) => slow(Measure::TtftMicros, millis),
            Goal::TpotMs(millis) => slow(Measure::TpotMicros, millis),
        }
    }
}

/// A pair of windows and the burn rate that both have to reach.
#[derive(Clone, Copy, Debug)]
struct Rule {
    long_minutes: usize,
    short_minutes: usize,
    burn: f64,
    severity: Severity,
}

const RULES: [Rule; 3] = [
    Rule { long_minutes: 60, short_minutes: 5, burn: 14.4, severity: Severity::Page },
    Rule { long_minutes: 360, short_minutes: 30, burn: 6.0, severity: Severity::Page },
    Rule { long_minutes: 4_320, short_minutes: 360, burn: 1.0, severity: Severity::Warning },
];
/// Bad requests in the long window below which nothing is told.
const LEAST_BAD: u64 = 10;
const MINUTES: usize = 360;
const BLOCK_MINUTES: usize = 30;
const BLOCKS: usize = 144;

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Count {
    total: u64,
    bad: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.bad += other.bad;
    }
}

/// What burns, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Burn {
    pub(crate) severity: Severity,
    pub(crate) long_minutes: usize,
    pub(crate) long: f64,
    pub(crate) short_minutes: usize,
    pub(crate) short: f64,
    pub(crate) bad: u64,
    pub(crate) total: u64,
}

/// Good and bad requests of one objective of one model: minutes of six hours, half-hours of three days.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Budget {
    minutes: VecDeque<Count>,
    blocks: VecDeque<Count>,
    last_minute: Millis,
    started: bool,
}

impl Budget {
    /// Takes a window.
    pub(crate) fn add(&mut self, window_ms: Millis, cell: Option<&Cell>, objective: &Objective) {
        let (total, bad) = cell.map_or((0, 0), |cell| objective.count(cell));
        if !self.started && total == 0 {
            return;
        }
        let minute = window_ms.div_euclid(60_000);
        let missed = if self.started { minute - self.last_minute } else { 1 };
        for step in 1..=missed.min(MINUTES as Millis) {
            push(&mut self.minutes, MINUTES);
            let at = minute - missed.min(MINUTES as Millis) + step;
            if at % BLOCK_MINUTES as Millis == 0 || self.blocks.is_empty() {
                push(&mut self.blocks, BLOCKS);
            }
        }
        (self.started, self.last_minute) = (true, minute);
        for newest in [self.minutes.back_mut(), self.blocks.back_mut()].into_iter().flatten() {
            newest.add(Count { total, bad });
        }
    }

    /// Counts and burn rate of the last minutes.
    fn burn(&self, minutes: usize, target: f64) -> (Count, f64) {
        let mut sum = Count::default();
        let (seen, wanted) = if minutes <= MINUTES {
            self.minutes.iter().rev().take(minutes).for_each(|count| sum.add(*count));
            (self.minutes.len().min(minutes), minutes)
        } else {
            let blocks = minutes / BLOCK_MINUTES;
            self.blocks.iter().rev().take(blocks).for_each(|count| sum.add(*count));
            (self.blocks.len().min(blocks), blocks)
        };
        let covered = seen as f64 / wanted as f64;
        let share = sum.bad as f64 / sum.total.max(1) as f64;
        (sum, share / (1.0 - target).max(1e-6) * covered)
    }

    /// The worst rule that burns, if any.
    pub(crate) fn burning(&self, target: f64) -> Option<Burn> {
        RULES.iter().find_map(|rule| {
            let (count, long) = self.burn(rule.long_minutes, target);
            let (_, short) = self.burn(rule.short_minutes, target);
            let burns = long >= rule.burn && short >= rule.burn && count.bad >= LEAST_BAD;
            burns.then_some(Burn {
                severity: rule.severity,
                long_minutes: rule.long_minutes,
                long,
                short_minutes: rule.short_minutes,
                short,
                bad: count.bad,
                total: count.total,
            })
        })
    }
}

fn push(counts: &mut VecDeque<Count>, most: usize) {
    if counts.len() == most {
        counts.pop_front();
    }
    counts.push_back(Count::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective() -> Objective {
        Objective { name: "success".into(), tenant: None, model: None, goal: Goal::Success, target: 0.99 }
    }

    fn cell(requests: u64, errors: u64) -> Cell {
        let mut cell = Cell::default();
        cell.count(Counter::Requests, requests);
        cell.count(Counter::Errors, errors);
        cell
    }

    /// Scenario: six good hours, then half of the requests fail for ten minutes. Guarantee: no page before it matters
    /// for the hour's budget, a page within those ten minutes, and none half an hour after the end.
    #[test]
    fn a_fast_burn_pages_and_ends() {
        let mut budget = Budget::default();
        let mut at = 0;
        let mut run = |budget: &mut Budget, minutes: i64, errors: u64| {
            let mut paged_after = None;
            for window in 0..minutes * 6 {
                budget.add(at, Some(&cell(20, errors)), &objective());
                at += 10_000;
                let pages = budget.burning(0.99).is_some_and(|burn| burn.severity == Severity::Page);
                if pages && paged_after.is_none() {
                    paged_after = Some(window);
                }
            }
            paged_after
        };
        assert_eq!(run(&mut budget, 360, 0), None);
        let after = run(&mut budget, 25, 10).unwrap();
        assert!((30..120).contains(&after), "{after}");
        run(&mut budget, 35, 0);
        assert!(budget.burning(0.99).is_none_or(|burn| burn.severity != Severity::Page));
    }

    /// Scenario: one failure of three requests in the first minute. Guarantee: nobody is woken.
    #[test]
    fn few_requests_page_nobody() {
        let mut budget = Budget::default();
        budget.add(0, Some(&cell(3, 1)), &objective());
        assert_eq!(budget.burning(0.99), None);
    }
}
