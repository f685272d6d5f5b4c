//! What explains a change: the excess over the baseline, cut into parts, each part given to what drives it.
//!
//! [`parts`] cuts the mean latency of a request into queue, prefill, decode and what is outside of the engine.
//! [`slowdown`] explains by how much a unit of work became slower, [`load`] by how much more work there is for the
//! seats. The excess seconds of each part go to the drivers in the proportion of their logarithms: factors multiply,
//! so logarithms add. What is measured directly (clocks, idle time, cache hits, arrivals) comes before contrasts
//! (version against version, device against device), and those before what is left over. Invariants: no negative
//! contribution; contributions of a part sum to its excess at most; nothing here knows which detector fired, except
//! where there is no excess latency to explain ([`direct`]).

mod direct;
mod load;
mod parts;
mod slowdown;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::parts::Parts;
use crate::{
    detect::{DetectorParams, Finding, Look},
    output::Cause,
};

/// Excess latency below this share of normal is not worth explaining.
const LEAST_EXCESS: f64 = 0.1;
/// Share below which a cause is not told.
const LEAST_SHARE: f64 = 0.03;
/// Windows' votes from which on a cause is established.
const ESTABLISHED: f64 = 3.0;
/// Share of the votes from which on traffic was part of it from the start.
const TOOK_PART: f64 = 0.2;
/// Words are those of windows in which the cause was at least so strong, of its strongest.
const AS_STRONG: f64 = 0.7;

/// Seconds of the excess (a request) that a cause explains, and the numbers that say so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contribution {
    pub(crate) cause: &'static str,
    pub(crate) seconds: f64,
    /// How strong the cause itself was, which seconds of waiting for it outlast: of drivers the logarithm of the factor.
    pub(crate) strength: f64,
    pub(crate) explanation: String,
}

/// Drivers of something, with how much of it they explain as a logarithm of a factor.
pub(crate) struct Driver {
    pub(crate) cause: &'static str,
    pub(crate) ln: f64,
    pub(crate) explanation: String,
}

/// What explains the windows that are looked at.
pub(crate) fn contributions(
    look: &Look<'_>,
    params: &DetectorParams,
    active: &[&Finding],
) -> Vec<Contribution> {
    let parts = Parts::of(look);
    if parts.excess() < LEAST_EXCESS * parts.normal || direct::is_not_about_latency(active) {
        return direct::contributions(look, params, active, parts.normal);
    }
    let slowdown = slowdown::drivers(look, params);
    let mut all = Vec::new();
    give(&mut all, parts.decode, &slowdown);
    let prefill: Vec<Driver> =
        load::of_prefill(look).into_iter().chain(slowdown::drivers(look, params)).collect();
    give(&mut all, parts.prefill, &prefill);
    let load: Vec<Driver> = load::of_queue(look).into_iter().chain(slowdown).collect();
    give(&mut all, parts.queue, &load);
    if parts.length > 0.0 {
        all.push(load::of_length(look, parts.length));
    }
    if parts.upstream > 0.0 {
        all.push(load::of_upstream(look, parts.upstream));
    }
    all
}

/// Gives a part's seconds to its drivers in the proportion of their logarithms.
fn give(all: &mut Vec<Contribution>, seconds: f64, drivers: &[Driver]) {
    let total: f64 = drivers.iter().map(|driver| driver.ln).sum();
    if seconds <= 0.0 || total <= 0.0 {
        return;
    }
    for driver in drivers.iter().filter(|driver| driver.ln > 0.0) {
        all.push(Contribution {
            cause: driver.cause,
            seconds: seconds * driver.ln / total,
            strength: driver.ln,
            explanation: driver.explanation.clone(),
        });
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Weighed {
    votes: f64,
    /// How strong it was at most in one window; words are of windows about as strong.
    most: f64,
    explanation: String,
}

/// What explains an incident so far. Each window has one vote, cut by what explains it: requests that end late in an
/// incident have waited for all that came before them, so seconds would let its end decide.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    causes: BTreeMap<String, Weighed>,
}

/// The cause that explains most of a window.
pub(crate) fn heaviest(contributions: &[Contribution]) -> Option<&'static str> {
    contributions.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).map(|one| one.cause)
}

impl Ledger {
    /// Whether nothing is explained yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// Whether a window shows the rest of what is explained already: another cause than traffic is established, that
    /// cause is gone, and what is left looks like traffic. Who waited is served now, faster than requests arrive, and
    /// waited for the cause that is gone.
    pub(crate) fn is_backlog(&self, contributions: &[Contribution]) -> bool {
        let total: f64 = self.causes.values().map(|weighed| weighed.votes).sum();
        let Some((cause, most)) = self.top() else { return false };
        let traffic = self.causes.get("traffic").map_or(0.0, |weighed| weighed.votes);
        let is_established = cause != "traffic" && most >= ESTABLISHED && traffic < TOOK_PART * total;
        let is_gone = contributions.iter().all(|one| one.cause != cause);
        is_established && is_gone && heaviest(contributions) == Some("traffic")
    }

    /// The cause with most votes, and these.
    fn top(&self) -> Option<(&str, f64)> {
        let votes = self.causes.iter().map(|(cause, weighed)| (cause.as_str(), weighed.votes));
        // Of two alike the first by name, as in `ranked`.
        votes.reduce(|most, one| if one.1 > most.1 { one } else { most })
    }

    /// Adds what explains one more window. Whether the words of the cause that is now the first are this window's: then
    /// it shows that cause about as well as any window did.
    pub(crate) fn add(&mut self, contributions: &[Contribution]) -> bool {
        let total: f64 = contributions.iter().map(|one| one.seconds).sum();
        let mut of_window: BTreeMap<&str, (f64, &Contribution)> = BTreeMap::new();
        for one in contributions {
            let (seconds, heaviest) = of_window.entry(one.cause).or_insert((0.0, one));
            *seconds += one.seconds;
            if one.seconds > heaviest.seconds {
                *heaviest = one;
            }
        }
        let mut spoke = Vec::new();
        for (cause, (seconds, Contribution { strength, explanation, .. })) in of_window {
            let weighed = self.causes.entry(cause.to_owned()).or_default();
            weighed.votes += seconds / total.max(1e-9);
            // The latest words that are about as strong as any: numbers of now, but not of the recovery.
            if *strength >= AS_STRONG * weighed.most {
                spoke.push(cause);
                explanation.clone_into(&mut weighed.explanation);
                weighed.most = weighed.most.max(*strength);
            }
        }
        self.top().is_some_and(|(cause, _)| spoke.contains(&cause))
    }

    /// Causes, most likely first; shares sum to 1 at most.
    pub(crate) fn ranked(&self) -> Vec<Cause> {
        let total: f64 = self.causes.values().map(|weighed| weighed.votes).sum();
        if total <= 0.0 {
            return Vec::new();
        }
        let mut causes: Vec<Cause> = self
            .causes
            .iter()
            .map(|(cause, weighed)| Cause {
                cause: cause.clone(),
                share: (weighed.votes / total * 1_000.0).floor() / 1_000.0,
                explanation: weighed.explanation.clone(),
            })
            .filter(|cause| cause.share >= LEAST_SHARE)
            .collect();
        causes.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.cause.cmp(&b.cause)));
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contribution(cause: &'static str, seconds: f64) -> Contribution {
        Contribution { cause, seconds, strength: seconds, explanation: format!("{cause} {seconds}") }
    }

    /// Scenario: two windows with two causes. Guarantee: the heavier is first with its strongest words, shares sum to
    /// at most 1.
    #[test]
    fn a_ledger_ranks() {
        let mut ledger = Ledger::default();
        ledger.add(&[contribution("queue", 0.2), contribution("gpu", 0.5)]);
        ledger.add(&[contribution("queue", 0.1), contribution("gpu", 0.9), contribution("gpu", 0.1)]);
        let causes = ledger.ranked();
        assert_eq!(causes[0].cause, "gpu");
        assert_eq!(causes[0].explanation, "gpu 0.9");
        assert!(causes.iter().map(|cause| cause.share).sum::<f64>() <= 1.0);
    }

    /// Scenario: throttled for some windows, then only traffic is left; the same early on, and where there was traffic from the
    /// start. Guarantee: what is left once a cause is established is its backlog, else it has its vote; a window that shows the
    /// first cause well says so.
    #[test]
    fn what_is_left_of_an_established_cause_is_its_backlog() {
        let (gpu, traffic) = ([contribution("gpu", 0.5)], [contribution("traffic", 0.9)]);
        let mut ledger = Ledger::default();
        assert!(!ledger.is_backlog(&traffic));
        assert!(ledger.add(&gpu) && ledger.add(&gpu) && !ledger.is_backlog(&traffic));
        assert!(ledger.add(&gpu) && ledger.is_backlog(&traffic));
        assert!(!ledger.is_backlog(&[contribution("gpu", 0.1), contribution("traffic", 0.9)]));
        assert!(!ledger.is_backlog(&[contribution("host", 0.9)]) && !ledger.is_backlog(&[]));
        assert!(!ledger.add(&[contribution("gpu", 0.1)]), "weaker words are not taken");
        let mut ledger = Ledger::default();
        for _ in 0..4 {
            ledger.add(&[contribution("gpu", 0.6), contribution("traffic", 0.4)]);
        }
        assert!(!ledger.is_backlog(&traffic));
    }

    /// Scenario: a part without drivers, and one with two. Guarantee: nothing is made up; what is given is the part.
    #[test]
    fn parts_are_given_away_once() {
        let mut all = Vec::new();
        give(&mut all, 1.0, &[]);
        assert!(all.is_empty());
        let driver = |cause, ln| Driver { cause, ln, explanation: String::new() };
        give(&mut all, 2.0, &[driver("gpu", 0.3), driver("host", 0.1), driver("batch", 0.0)]);
        assert_eq!(all.len(), 2);
        assert!((all.iter().map(|one| one.seconds).sum::<f64>() - 2.0).abs() < 1e-12);
    }
}
