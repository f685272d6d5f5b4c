//! Causes where there is no excess latency to cut up: failures, silence, and what a detector measured itself.

use super::Contribution;
use crate::{
    detect::{DetectorParams, Finding, Kind, Look, binomial_tail_ln, version_contrast},
    output::Evidence,
    words::{amount, percent},
};

/// Weight of a finding that is its own explanation, as a share of normal latency.
const OWN_WEIGHT: f64 = 0.1;
/// A strength that no other is told apart from.
const MOST_STRENGTH: f64 = 100.0;
/// Probability below which a device's failures are no chance.
const CHANCE: f64 = 1e-6;

/// Whether all that fires is about failing or being silent.
pub(super) fn is_not_about_latency(active: &[&Finding]) -> bool {
    active.iter().all(|finding| matches!(finding.kind, Kind::Errors | Kind::Silence))
}

pub(super) fn contributions(
    look: &Look<'_>,
    params: &DetectorParams,
    active: &[&Finding],
    normal: f64,
) -> Vec<Contribution> {
    if let Some(silence) = active.iter().find(|finding| finding.kind == Kind::Silence) {
        return vec![of_silence(silence)];
    }
    if active.iter().any(|finding| finding.kind == Kind::Errors) && is_not_about_latency(active) {
        return of_errors(look, params);
    }
    let Some(first) = active.iter().find(|finding| finding.kind.own_cause().is_some()) else {
        return Vec::new();
    };
    let Some(cause) = first.kind.own_cause() else { return Vec::new() };
    let seconds = (OWN_WEIGHT * normal).max(1e-3);
    vec![Contribution {
        cause,
        seconds,
        strength: strength(&first.evidence),
        explanation: words(&first.evidence),
    }]
}

/// How far the first number that has a normal value is from it, as a share of that: less while things recover.
fn strength(evidence: &[Evidence]) -> f64 {
    let far = |one: &Evidence| Some((one.observed - one.baseline?).abs() / one.baseline?.abs().max(1e-9));
    evidence.iter().find_map(far).unwrap_or(1.0).min(MOST_STRENGTH)
}

fn words(evidence: &[Evidence]) -> String {
    let one = |number: &Evidence| {
        let (name, unit) = (number.metric.replace('_', " "), &number.unit);
        let usual =
            number.baseline.map_or(String::new(), |usual| format!(" instead of {}", amount(usual, unit)));
        format!("{name} {}{usual}", amount(number.observed, unit))
    };
    evidence.iter().take(2).map(one).collect::<Vec<_>>().join(", ")
}

fn of_silence(finding: &Finding) -> Contribution {
    let number =
        |metric: &str| finding.evidence.iter().find(|one| one.metric == metric).map(|one| one.observed);
    let expected = finding.evidence.first().and_then(|one| one.baseline).unwrap_or(0.0);
    let calls = number("client_calls").map_or(String::new(), |calls| {
        format!("; callers still report {calls:.0} calls in 10 s, so requests are served and the reporting is gone")
    });
    let explanation = format!(
        "no request from {} for {:.0} s where about {expected:.0} were due{calls}",
        finding.subject.service,
        number("silent").unwrap_or(0.0)
    );
    Contribution { cause: "silence", seconds: 1.0, strength: 1.0, explanation }
}

/// Excess failures by what they concentrate on: a version, a device, refusals, or nothing.
fn of_errors(look: &Look<'_>, params: &DetectorParams) -> Vec<Contribution> {
    let rate = look.recent.error_rate().unwrap_or(0.0);
    let of = |cause, explanation| vec![Contribution { cause, seconds: 1.0, strength: rate, explanation }];
    if let Some(contrast) = version_contrast(look, &params.version)
        && let Some(own) = contrast.own.error_rate()
        && binomial_tail_ln(contrast.own.errors, contrast.own.requests, contrast.other_errors.max(0.005))
            < CHANCE.ln()
    {
        let explanation = format!(
            "{} of the requests of version {} fail, {} of {}'s",
            percent(own),
            contrast.newer,
            percent(contrast.other_errors),
            contrast.other
        );
        return of("version", explanation);
    }
    if let Some(explanation) = failing_device(look) {
        return of("host", explanation);
    }
    let spread = match (look.devices.len(), look.versions.len()) {
        (0 | 1, _) => String::new(),
        (devices, _) => format!(" on all {devices} devices alike"),
    };
    let explanation = format!("{} of requests fail{spread}", percent(rate));
    of("errors", explanation)
}

/// The device on which failures concentrate.
fn failing_device(look: &Look<'_>) -> Option<String> {
    let total: u64 = look.devices.values().map(|facts| facts.errors).sum();
    let ((device, _), own) = look.devices.iter().max_by_key(|(_, facts)| facts.errors)?;
    let peers: u64 = look.devices.values().map(|facts| facts.requests).sum::<u64>() - own.requests;
    let peers_rate = (total - own.errors) as f64 / peers.max(1) as f64;
    let is_alone =
        peers > 20 && binomial_tail_ln(own.errors, own.requests, peers_rate.max(0.01)) < CHANCE.ln();
    is_alone.then(|| {
        format!(
            "{} of {total} failures are on device {device}: {} of its requests fail, {} of its peers'",
            own.errors,
            percent(own.error_rate().unwrap_or(0.0)),
            percent(peers_rate)
        )
    })
}
