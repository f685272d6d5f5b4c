//! When something is worth telling, when it is over, and what belongs together.
//!
//! A [`Track`] follows one finding over windows: it becomes active after [`Kind::opens_after`] windows in a row and
//! ends after [`Kind::resolves_after`] without. An [`Incident`] is what is told: one a model and [`Group`] at a time,
//! named after the most telling of the findings that opened it; other findings of the group join it as evidence, and
//! one of another group joins where it has the same cause. Invariants: the id is a hash of tenant, model, detector,
//! subject and first window, so a replay repeats it; revisions ascend by one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    cause::Ledger,
    detect::{Finding, Kind, Subject},
    hash,
    output::{Evidence, Recommendation, Severity, State},
    rollup::{Exemplar, Millis},
};

/// What belongs to one incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Group {
    /// Slower, dearer, or about to be.
    Performance,
    /// Failing.
    Errors,
    /// Not reporting.
    Silence,
}

impl Group {
    pub(crate) const ALL: [Self; 3] = [Self::Silence, Self::Errors, Self::Performance];

    pub(crate) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Errors => Self::Errors,
            Kind::Silence => Self::Silence,
            _ => Self::Performance,
        }
    }
}

/// One finding over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Track {
    hits: u32,
    misses: u32,
    pub(crate) active: bool,
    /// Window of the first of the hits in a row.
    pub(crate) first_ms: Millis,
}

/// All findings of one model over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tracks(BTreeMap<(Kind, Subject), Track>);

impl Tracks {
    /// Takes the findings of a window.
    pub(crate) fn step(&mut self, window_ms: Millis, found: &[Finding]) {
        for finding in found {
            let track = self.0.entry((finding.kind, finding.subject.clone())).or_default();
            if finding.holds_only && !track.active {
                // Weak evidence neither counts nor starts the count again.
                continue;
            }
            if track.hits == 0 {
                track.first_ms = window_ms;
            }
            track.hits = track.hits.saturating_add(1);
            track.misses = 0;
            track.active |= track.hits >= finding.kind.opens_after();
        }
        self.0.retain(|(kind, subject), track| {
            let is_found = found.iter().any(|one| one.kind == *kind && one.subject == *subject);
            if !is_found {
                track.misses += 1;
                if !track.active {
                    return false;
                }
            }
            track.misses < kind.resolves_after() && (track.active || track.hits > 0)
        });
    }

    /// Active findings of a group, the most telling first.
    pub(crate) fn active(&self, group: Group) -> impl Iterator<Item = (&(Kind, Subject), &Track)> {
        self.0.iter().filter(move |((kind, _), track)| track.active && Group::of(*kind) == group)
    }

    /// Whether anything is found, active or not yet.
    pub(crate) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Traces that show an incident.
pub(crate) const EXAMPLES: usize = 5;

/// What is told of one incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) group: Group,
    pub(crate) subject: Subject,
    pub(crate) first_ms: Millis,
    pub(crate) opened_ms: Millis,
    pub(crate) resolved_ms: Option<Millis>,
    pub(crate) revision: u32,
    pub(crate) state: State,
    pub(crate) severity: Severity,
    pub(crate) told_ms: Millis,
    pub(crate) told_cause: String,
    pub(crate) members: BTreeSet<Kind>,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) ledger: Ledger,
    pub(crate) title: String,
    pub(crate) recommendation: Option<Recommendation>,
    pub(crate) examples: Vec<Exemplar>,
    /// Greatest excess seen: words are kept of about that time.
    pub(crate) worst: f64,
}

impl Incident {
    pub(crate) fn new(
        tenant: &str,
        model: &str,
        kind: Kind,
        subject: Subject,
        first_ms: Millis,
        now_ms: Millis,
    ) -> Self {
        let texts = [tenant, model, kind.name(), &subject.version, &subject.service, &subject.device];
        let first = first_ms.to_string();
        let all: Vec<&str> = texts.into_iter().chain([first.as_str()]).collect();
        Self {
            id: format!("{:016x}", hash::of_texts(&all)),
            kind,
            group: Group::of(kind),
            subject,
            first_ms,
            opened_ms: now_ms,
            resolved_ms: None,
            revision: 0,
            state: State::Open,
            severity: Severity::Info,
            told_ms: now_ms,
            told_cause: String::new(),
            members: BTreeSet::from([kind]),
            evidence: Vec::new(),
            ledger: Ledger::default(),
            title: String::new(),
            recommendation: None,
            examples: Vec::new(),
            worst: 0.0,
        }
    }

    /// The cause that explains most.
    pub(crate) fn top_cause(&self) -> String {
        self.ledger.ranked().into_iter().next().map_or(String::new(), |cause| cause.cause)
    }

    /// Takes numbers of a finding; of two on the same metric the later stays.
    pub(crate) fn take_evidence(&mut self, finding: &Finding) {
        self.members.insert(finding.kind);
        for (own, other) in [
            (&mut self.subject.version, &finding.subject.version),
            (&mut self.subject.device, &finding.subject.device),
        ] {
            if own.is_empty() {
                own.clone_from(other);
            }
        }
        for number in &finding.evidence {
            match self.evidence.iter_mut().find(|own| own.metric == number.metric) {
                Some(own) => *own = number.clone(),
                None => self.evidence.push(number.clone()),
            }
        }
    }

    /// Considers traces as examples: failed ones where it is about failing, else the longest.
    pub(crate) fn take_examples<'a>(&mut self, exemplars: impl Iterator<Item = &'a Exemplar>) {
        let wants_errors = self.members.contains(&Kind::Errors);
        for exemplar in exemplars {
            if !self.examples.contains(exemplar) {
                self.examples.push(*exemplar);
            }
        }
        self.examples.sort_by_key(|one| {
            (std::cmp::Reverse((wants_errors && one.is_error, one.duration_micros)), one.trace_id)
        });
        self.examples.truncate(EXAMPLES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: Kind, holds_only: bool) -> Finding {
        Finding { kind, subject: Subject::default(), holds_only, evidence: Vec::new() }
    }

    fn is_active(tracks: &Tracks) -> bool {
        tracks.active(Group::Performance).next().is_some()
    }

    /// Scenario: found once, gone, found three times in a row, then weakly, then gone. Guarantee: one window opens
    /// nothing, a row does, weak evidence keeps it, and it is over after the windows it takes.
    #[test]
    fn hysteresis_in_time_and_value() {
        let mut tracks = Tracks::default();
        tracks.step(0, &[finding(Kind::Straggler, false)]);
        tracks.step(1, &[]);
        assert!(!is_active(&tracks) && !tracks.is_any());
        tracks.step(2, &[finding(Kind::Straggler, true)]);
        assert!(!is_active(&tracks));
        (3..6).for_each(|at| tracks.step(at, &[finding(Kind::Straggler, false)]));
        assert!(is_active(&tracks));
        assert_eq!(tracks.active(Group::Performance).next().unwrap().1.first_ms, 3);
        (6..20).for_each(|at| tracks.step(at, &[finding(Kind::Straggler, true)]));
        (20..25).for_each(|at| tracks.step(at, &[]));
        assert!(is_active(&tracks));
        tracks.step(25, &[]);
        assert!(!is_active(&tracks));
    }

    /// Scenario: the same incident twice, and on another device. Guarantee: the same id, another id.
    #[test]
    fn ids_are_functions() {
        let of = |device: &str| {
            let subject = Subject { device: device.to_owned(), ..Subject::default() };
            Incident::new("t", "m", Kind::Straggler, subject, 10, 20).id
        };
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
    }
}
