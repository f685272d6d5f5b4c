//! Why requests wait: more of them, more work each, or fewer seats.
//!
//! With arrivals λ, work a request s and seats c, the load is ρ = λ s ÷ c (utilisation law; J. D. C. Little's law gives
//! the wait). ln ρ grows by ln of arrivals, ln of work (computed prompt tokens, and the slowdown of a unit of work),
//! and ln of missing seats: seats that stay empty while requests wait.

use super::{Contribution, Driver};
use crate::{
    baseline::{Metric, is_engine_stage},
    detect::Look,
};

/// How much of a factor of computed prompt tokens shows as work of a request; the rest is generating.
const PROMPT_WORK: f64 = 0.5;
/// Fill that a busy scheduler reaches.
const REACHABLE_FILL: f64 = 0.9;
/// KV cache usage above which empty seats are the memory's doing.
const KV_FULL: f64 = 0.88;

/// Standard deviations of its own ups and downs below which traffic explains nothing.
const USUAL_DEVIATIONS: f64 = 1.5;

/// Growth of arrivals beyond their usual ups and downs, as a logarithm, with words.
pub(super) fn arrivals(look: &Look<'_>) -> Option<(f64, String)> {
    let rate = look.arrival_rate();
    let usual = look.normal(Metric::RequestRate)?;
    let refused = look.recent.refused;
    let words = format!(
        "{rate:.1} requests arrive a second instead of {usual:.1}{}",
        if refused > 0 { format!(", {refused} were refused in 30 s") } else { String::new() }
    );
    let beyond =
        (rate / usual.max(0.05)).ln() - USUAL_DEVIATIONS * look.baselines.spread(Metric::RequestRate);
    (beyond > 0.1).then_some((beyond, words))
}

/// More prompt tokens to compute a request: as logarithms, by cause.
pub(super) fn prompt_work(look: &Look<'_>) -> Vec<(&'static str, f64, String)> {
    let recent = &look.recent;
    let mut all = Vec::new();
    let (Some(hits), Some(usual_hits)) = (recent.hit_ratio(), look.normal(Metric::HitRatio)) else {
        return all;
    };
    let (Some(input), Some(usual_input)) = (recent.input_each(), look.normal(Metric::InputTokens)) else {
        return all;
    };
    let missed = ((1.0 - hits).max(0.01) / (1.0 - usual_hits).max(0.01)).ln();
    let is_no_chance = look.compare(Metric::HitRatio, hits).is_some_and(|shift| shift.z <= -2.0);
    if missed > 0.1 && usual_hits - hits > 0.05 && is_no_chance {
        let words = format!(
            "prefix cache hits {:.0} % of prompt tokens instead of {:.0} %: {:.0} tokens are computed a request instead of {:.0}",
            hits * 100.0,
            usual_hits * 100.0,
            input * (1.0 - hits),
            look.normal(Metric::Uncached).unwrap_or(usual_input * (1.0 - usual_hits)),
        );
        all.push(("cache", missed, words));
    }
    let is_longer = look.shift(Metric::InputTokens).is_some_and(|shift| shift.z >= 3.0);
    let longer = (input / usual_input.max(1.0)).ln();
    if is_longer && longer > 0.2 {
        let words = format!("prompts have {input:.0} tokens instead of {usual_input:.0}");
        all.push(("traffic", longer, words));
    }
    all
}

pub(super) fn of_prefill(look: &Look<'_>) -> Vec<Driver> {
    let drivers = prompt_work(look).into_iter();
    let mut all: Vec<Driver> =
        drivers.map(|(cause, ln, explanation)| Driver { cause, ln, explanation }).collect();
    // A chunk of prefill waits for its turn among more others.
    if let Some((ln, explanation)) = arrivals(look) {
        all.push(Driver { cause: "traffic", ln, explanation });
    }
    all
}

pub(super) fn of_queue(look: &Look<'_>) -> Vec<Driver> {
    let mut all = Vec::new();
    if let Some((ln, explanation)) = arrivals(look) {
        all.push(Driver { cause: "traffic", ln, explanation });
    }
    for (cause, ln, explanation) in prompt_work(look) {
        all.push(Driver { cause, ln: ln * PROMPT_WORK, explanation });
    }
    all.extend(seats(look));
    all
}

/// Seats that stay empty while requests wait. A scheduler that runs clearly more than usual does admit: what waits then
/// waits for the step under way.
fn seats(look: &Look<'_>) -> Option<Driver> {
    let recent = &look.recent;
    let (fill, batch) = (recent.fill.get()?, recent.batch.get()?);
    let waiting = recent.backlog();
    let grew = look.normal(Metric::Batch).is_some_and(|usual| batch >= 1.5 * usual);
    if waiting < 2.0 || fill >= 0.7 * REACHABLE_FILL || fill <= 0.0 || grew {
        return None;
    }
    let seats = batch / fill;
    let kv = recent.kv.get().unwrap_or(0.0);
    let ln = (REACHABLE_FILL / fill).ln();
    Some(if kv >= KV_FULL {
        let explanation = format!(
            "the KV cache is {:.0} % full: {batch:.0} of {seats:.0} sequences run while {waiting:.0} requests wait",
            kv * 100.0
        );
        Driver { cause: "memory", ln, explanation }
    } else {
        let explanation = format!(
            "{batch:.0} of {seats:.0} sequences run while {waiting:.0} requests wait and the KV cache is {:.0} % full",
            kv * 100.0
        );
        Driver { cause: "batch", ln, explanation }
    })
}

pub(super) fn of_length(look: &Look<'_>, seconds: f64) -> Contribution {
    let now = look.recent.output_each().unwrap_or(0.0);
    let usual = look.normal(Metric::OutputTokens).unwrap_or(0.0);
    let explanation = format!("answers have {now:.0} tokens instead of {usual:.0}");
    let strength = (now / usual.max(1.0)).max(1.0).ln();
    Contribution { cause: "traffic", seconds, strength, explanation }
}

pub(super) fn of_upstream(look: &Look<'_>, seconds: f64) -> Contribution {
    let usual = look.normal(Metric::Upstream).unwrap_or(0.0);
    let slowest = look
        .stages
        .iter()
        .filter(|(stage, _)| !is_engine_stage(stage))
        .filter_map(|(stage, mean)| Some((stage, mean.get()?)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let stage = slowest
        .map_or(String::new(), |(stage, seconds)| format!(", most of all in {stage} ({seconds:.2} s)"));
    let explanation = format!(
        "{:.2} s a request are spent outside of the engine instead of {usual:.2} s{stage}",
        usual + seconds
    );
    let strength = (1.0 + seconds / usual.max(1e-3)).ln();
    Contribution { cause: "upstream", seconds, strength, explanation }
}
