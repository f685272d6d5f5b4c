//! How well insights find faults whose truth is known.
//!
//! Definitions. An insight is what one id tells; it opens at the end of the window of its first revision. It *hits* a
//! fault of its model when it opens between the fault's start and its end plus [`GRACE_MS`]; a fault is found when any
//! insight hits it. Precision = insights that hit ÷ all insights: several of one fault all count as right, one of no fault
//! is wrong. Recall = faults found ÷ faults. F1 is their harmonic mean. Time to detect = mean time from a fault's start
//! to the opening of its first insight. Cause first = share of the faults found whose first insight, in its last revision
//! before the fault's end plus grace, names the fault's cause first; *at once* looks at its first revision instead.
//! SLO burns are counted apart: they say that users suffer, not what is wrong.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    output::{Insight, Severity},
    rollup::Millis,
};

/// How long after a fault's end an insight may still open for it: windows are closed late and detectors wait.
pub const GRACE_MS: Millis = 60_000;

/// A fault that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Model it was done to.
    pub model: String,
    /// Its name.
    pub fault: String,
    /// The cause that explains it.
    pub cause: String,
    /// Start, event time.
    pub start_ms: Millis,
    /// End.
    pub end_ms: Millis,
}

/// What became of one fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub fault: String,
    /// Model.
    pub model: String,
    /// The cause that explains it.
    pub cause: String,
    /// Seconds from its start to the first insight; none where it was missed.
    pub detected_after_s: Option<f64>,
    /// Kind of the first insight.
    pub kind: String,
    /// Its first cause at last.
    pub named: String,
    /// Its first cause when it opened.
    pub named_at_once: String,
    /// Whether a page was sent.
    pub paged: bool,
}

/// Counts that add up over runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// What became of each fault.
    pub outcomes: Vec<Outcome>,
    /// Insights that hit a fault.
    pub right: u64,
    /// Insights that hit none, as `kind model at-seconds title`.
    pub wrong: Vec<String>,
    /// Pages at times when the model had no fault.
    pub false_pages: u64,
}

/// Figures of a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Insights that hit ÷ all.
    pub precision: f64,
    /// Faults found ÷ all.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Share of faults found whose cause is named first.
    pub cause_first: f64,
    /// The same by the first revision.
    pub cause_first_at_once: f64,
    /// Mean seconds from a fault's start to its first insight.
    pub time_to_detect_s: f64,
}

/// Scores the insights of one run, in the order in which they were told.
#[must_use]
pub fn score(truths: &[Truth], insights: &[Insight]) -> Score {
    let mut by_id: BTreeMap<&str, Vec<&Insight>> = BTreeMap::new();
    insights.iter().for_each(|insight| by_id.entry(&insight.id).or_default().push(insight));
    let hits = |truth: &Truth, at_ms: Millis, model: &str| {
        truth.model == model && (truth.start_ms..=truth.end_ms + GRACE_MS).contains(&at_ms)
    };
    let mut score = Score::default();
    let mut first: Vec<Option<&Vec<&Insight>>> = vec![None; truths.len()];
    let mut paged = vec![false; truths.len()];
    for told in by_id.values() {
        let opened = told[0];
        let of = truths.iter().position(|truth| hits(truth, opened.opened_ms, &opened.model));
        if opened.kind == "slo_burn" {
            let pages = told.iter().any(|one| one.severity == Severity::Page);
            match of {
                Some(at) => paged[at] |= pages,
                None => score.false_pages += u64::from(pages && !is_tail(truths, opened)),
            }
            continue;
        }
        let Some(at) = of else {
            let at_s = opened.opened_ms / 1_000;
            score.wrong.push(format!("{} {} {at_s} {}", opened.kind, opened.model, opened.title));
            continue;
        };
        score.right += 1;
        if first[at].is_none_or(|earlier| opened.opened_ms < earlier[0].opened_ms) {
            first[at] = Some(told);
        }
    }
    for ((truth, told), paged) in truths.iter().zip(first).zip(paged) {
        let cause = |insight: &Insight| insight.causes.first().map_or(String::new(), |one| one.cause.clone());
        let last =
            told.and_then(|told| told.iter().rfind(|one| one.window_end_ms <= truth.end_ms + GRACE_MS));
        score.outcomes.push(Outcome {
            fault: truth.fault.clone(),
            model: truth.model.clone(),
            cause: truth.cause.clone(),
            detected_after_s: told.map(|told| (told[0].opened_ms - truth.start_ms) as f64 * 1e-3),
            kind: told.map_or(String::new(), |told| told[0].kind.clone()),
            named: last.map_or(String::new(), |last| cause(last)),
            named_at_once: told.map_or(String::new(), |told| cause(told[0])),
            paged,
        });
    }
    score
}

/// A page within the hour after a fault is about the budget that the fault burnt.
fn is_tail(truths: &[Truth], page: &Insight) -> bool {
    truths.iter().any(|truth| {
        truth.model == page.model && (truth.end_ms..truth.end_ms + 3_600_000).contains(&page.opened_ms)
    })
}

impl Score {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        self.right += other.right;
        self.wrong.extend(other.wrong);
        self.false_pages += other.false_pages;
    }

    /// The figures; of nothing, they are 0 where nothing was asked for and 1 where nothing was told.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let ratio = |part: f64, of: f64, none: f64| if of > 0.0 { part / of } else { none };
        let found: Vec<&Outcome> =
            self.outcomes.iter().filter(|one| one.detected_after_s.is_some()).collect();
        let count = |is: &dyn Fn(&Outcome) -> bool| found.iter().filter(|one| is(one)).count() as f64;
        let precision = ratio(self.right as f64, self.right as f64 + self.wrong.len() as f64, 1.0);
        let recall = ratio(found.len() as f64, self.outcomes.len() as f64, 0.0);
        let total: f64 = found.iter().filter_map(|one| one.detected_after_s).sum();
        Figures {
            precision,
            recall,
            f1: ratio(2.0 * precision * recall, precision + recall, 0.0),
            cause_first: ratio(count(&|one| one.named == one.cause), found.len() as f64, 0.0),
            cause_first_at_once: ratio(count(&|one| one.named_at_once == one.cause), found.len() as f64, 0.0),
            time_to_detect_s: ratio(total, found.len() as f64, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Cause, State};

    fn insight(id: &str, model: &str, opened_s: i64, cause: &str) -> Insight {
        Insight {
            id: id.into(),
            revision: 1,
            model: model.into(),
            kind: "tpot".into(),
            opened_ms: opened_s * 1_000,
            window_end_ms: opened_s * 1_000,
            causes: vec![Cause { cause: cause.into(), share: 0.9, explanation: String::new() }],
            ..Insight::default()
        }
    }

    fn truth(model: &str, start_s: i64, end_s: i64) -> Truth {
        let (fault, cause) = ("throttling".to_owned(), "gpu".to_owned());
        Truth { model: model.into(), fault, cause, start_ms: start_s * 1_000, end_ms: end_s * 1_000 }
    }

    /// Scenario: two faults; one is found twice, its first insight corrects its cause in a later revision, the other is
    /// missed; one insight is about nothing, one about the wrong model. Guarantee: each counts as the definition says.
    #[test]
    fn the_definition_is_kept() {
        let truths = [truth("a", 100, 200), truth("b", 300, 400)];
        let mut later = insight("1", "a", 130, "gpu");
        (later.revision, later.state, later.window_end_ms) = (2, State::Updated, 180_000);
        let insights = [
            insight("1", "a", 130, "host"),
            later,
            insight("2", "a", 250, "queue"),
            insight("3", "a", 290, "gpu"),
            insight("4", "a", 350, "gpu"),
        ];
        let score = score(&truths, &insights);
        assert_eq!((score.right, score.wrong.len()), (2, 2));
        let figures = score.figures();
        assert_eq!((figures.precision, figures.recall, figures.f1), (0.5, 0.5, 0.5));
        assert_eq!((figures.cause_first, figures.cause_first_at_once), (1.0, 0.0));
        assert!((figures.time_to_detect_s - 30.0).abs() < 1e-9);
    }
}
