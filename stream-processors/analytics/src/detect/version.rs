//! A version is worse than the one it runs beside: canary against baseline, in the same windows.
//!
//! The newer of two versions (by first appearance) fires when its time per token is `factor` × the other's, or when
//! its failures are no chance at the other's rate (binomial tail). Both serve the same traffic at the same time, which
//! rules out what changes with time; source: the canary comparisons of Kayenta and of the SRE workbook, chapter 16.
//! Where the other has gone within `handover_ms`, the model's own baseline takes its place.

use serde::Deserialize;

use super::{Finding, Kind, Look, Subject, binomial_tail_ln, evidence, straggler::pace};
use crate::{baseline::Metric, facts::Facts, rollup::Millis};

/// Parameters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VersionParams {
    /// Times the other version's time per token.
    pub factor: f64,
    /// Probability below which failures are no chance.
    pub chance: f64,
    /// Requests of each version in the last minute below which nothing is said.
    pub least_requests: u64,
    /// How long after its first appearance a version that took over is compared with the baseline.
    pub handover_ms: Millis,
}

impl Default for VersionParams {
    fn default() -> Self {
        Self { factor: 1.25, chance: 1e-5, least_requests: 20, handover_ms: 900_000 }
    }
}

/// The newer version and what it is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Contrast<'a> {
    pub(crate) newer: &'a str,
    pub(crate) other: &'a str,
    /// Share of the requests that the newer one serves.
    pub(crate) share: f64,
    pub(crate) own_pace: Option<f64>,
    pub(crate) other_pace: Option<f64>,
    pub(crate) own: Facts,
    pub(crate) other_errors: f64,
}

/// The contrast of the last minute, if two versions ran, or one has just taken over.
pub(crate) fn contrast<'a>(look: &Look<'a>, params: &VersionParams) -> Option<Contrast<'a>> {
    let first_ms = |version: &str| look.versions_past.get(version).map_or(Millis::MIN, |past| past.first_ms);
    let (newer, own) = look.versions.iter().max_by_key(|(version, _)| first_ms(version))?;
    if look.versions_past.len() < 2 || own.requests < params.least_requests {
        return None;
    }
    let others = look.versions.iter().filter(|(version, _)| *version != newer);
    let share = own.requests as f64 / look.minute.requests.max(1) as f64;
    if let Some((other, facts)) = others
        .max_by_key(|(_, facts)| facts.requests)
        .filter(|(_, facts)| facts.requests >= params.least_requests)
    {
        return Some(Contrast {
            newer,
            other,
            share,
            own_pace: pace(own),
            other_pace: pace(facts),
            own: *own,
            other_errors: facts.error_rate()?,
        });
    }
    let since = look.window_ms - first_ms(newer);
    let (other, _) = look
        .versions_past
        .iter()
        .filter(|(version, _)| version != newer)
        .max_by_key(|(_, past)| past.last_ms)?;
    if since > params.handover_ms || look.baselines.is_cold() {
        return None;
    }
    let has_tpot = own.tpot.get().is_some();
    let usual = look.normal(if has_tpot { Metric::TpotMean } else { Metric::PrefillMean });
    let other_errors = look.baselines.mean(Metric::ErrorRate)?;
    Some(Contrast { newer, other, share, own_pace: pace(own), other_pace: usual, own: *own, other_errors })
}

pub(super) fn look(look: &Look<'_>, params: &VersionParams, found: &mut Vec<Finding>) {
    let Some(contrast) = contrast(look, params) else { return };
    let ratio = contrast.own_pace.zip(contrast.other_pace).map_or(1.0, |(own, other)| own / other);
    let is_slower = ratio >= params.factor;
    let surprise =
        binomial_tail_ln(contrast.own.errors, contrast.own.requests, contrast.other_errors.max(0.005));
    let fails = contrast.own.errors >= 5 && surprise <= params.chance.ln();
    let holds = ratio >= 1.0 + (params.factor - 1.0) * 0.5;
    if !(is_slower || fails || holds) {
        return;
    }
    let requests = contrast.own.requests;
    let mut numbers = vec![evidence("version_share", "share", contrast.share, None, requests)];
    if let Some((own, other)) = contrast.own_pace.zip(contrast.other_pace) {
        numbers.push(evidence("version_tpot", "s", own, Some(other), requests));
    }
    if let Some(rate) = contrast.own.error_rate() {
        numbers.push(evidence("version_error_rate", "share", rate, Some(contrast.other_errors), requests));
    }
    let mut finding = Finding::new(Kind::Version, !(is_slower || fails), numbers);
    finding.subject = Subject { version: contrast.newer.to_owned(), ..Subject::default() };
    found.push(finding);
}
