//! Titles as people read them.

use crate::{
    detect::{Kind, Subject},
    output::{Cause, Evidence},
    rollup::Millis,
    words::{amount, percent, seconds},
};

/// `14:03:20` of a day, UTC.
pub(crate) fn clock_time(at_ms: Millis) -> String {
    let second = at_ms.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

fn find<'a>(evidence: &'a [Evidence], metric: &str) -> Option<&'a Evidence> {
    evidence.iter().find(|number| number.metric == metric)
}

/// `41 ms instead of 15 ms (2.7 ×)`.
fn beside(number: &Evidence) -> String {
    let Some(usual) = number.baseline else { return seconds(number.observed) };
    let ratio = number.observed / usual.max(1e-6);
    let both = format!("{} instead of {}", seconds(number.observed), seconds(usual));
    match ratio {
        _ if ratio > 999.0 || usual < 1e-3 => both,
        _ if ratio >= 10.0 => format!("{both} ({ratio:.0} ×)"),
        _ => format!("{both} ({ratio:.1} ×)"),
    }
}

/// How a version is worse than the one beside it.
fn version(subject: &Subject, pace: Option<&Evidence>, failing: Option<&Evidence>) -> String {
    let pace = pace.filter(|one| one.baseline.is_some_and(|other| one.observed > other));
    let pace = pace.map(|one| format!("a token takes {}", beside(one)));
    let failing = failing.and_then(|one| {
        let other = one.baseline.filter(|other| one.observed > 2.0 * other.max(0.005))?;
        Some(format!("{} of requests fail instead of {}", percent(one.observed), percent(other)))
    });
    let worse: Vec<String> = [pace, failing].into_iter().flatten().collect();
    let name = format!("version {} is worse than the one it replaces", subject.version);
    if worse.is_empty() { name } else { format!("{name}: {}", worse.join(", ")) }
}

/// What a request notices, worst first.
fn symptom(evidence: &[Evidence]) -> Option<String> {
    let shown = [
        ("queue_mean", "requests wait"),
        ("ttft_p50", "first token after"),
        ("tpot_p50", "a token takes"),
        ("latency_p99", "p99 latency is"),
    ];
    let ratio = |number: &Evidence| number.observed / number.baseline.unwrap_or(number.observed).max(1e-2);
    let (number, words) = shown
        .into_iter()
        .filter_map(|(metric, words)| Some((find(evidence, metric)?, words)))
        .max_by(|a, b| ratio(a.0).total_cmp(&ratio(b.0)))?;
    Some(format!("{words} {}", beside(number)))
}

/// One line: model, what, how much, since when.
pub(crate) fn title(
    model: &str,
    kind: Kind,
    subject: &Subject,
    evidence: &[Evidence],
    causes: &[Cause],
    first_ms: Millis,
) -> String {
    let number = |metric: &str| find(evidence, metric);
    let what = match kind {
        Kind::Silence => {
            let silent = number("silent").map_or(0.0, |one| one.observed);
            format!("no report from {} for {}", subject.service, seconds(silent))
        }
        Kind::Errors => {
            let rate = number("error_rate");
            let usual = rate.and_then(|one| one.baseline).unwrap_or(0.0);
            let rate = rate.map_or(0.0, |one| one.observed);
            format!("{} of requests fail instead of {}", percent(rate), percent(usual))
        }
        Kind::Version => version(subject, number("version_tpot"), number("version_error_rate")),
        Kind::Throttling => match (number("gpu_sm_clock"), number("throttled_devices"), number("devices")) {
            (Some(clock), Some(hot), Some(all)) => format!(
                "{:.0} of {:.0} GPUs throttled to {:.0} MHz",
                hot.observed, all.observed, clock.observed
            ),
            _ => "GPUs throttled".to_owned(),
        },
        Kind::Straggler => {
            let pace = number("device_tpot");
            let ratio = pace.map_or(1.0, |one| one.observed / one.baseline.unwrap_or(one.observed).max(1e-9));
            format!("device {} is {ratio:.1} × slower than its peers", subject.device)
        }
        Kind::Cache => match number("cache_hit_ratio") {
            Some(hits) => format!(
                "prefix-cache hits {} instead of {}",
                percent(hits.observed),
                percent(hits.baseline.unwrap_or(0.0))
            ),
            None => "prefix-cache hits fell".to_owned(),
        },
        Kind::SmallBatches => match (number("batch"), number("waiting")) {
            (Some(batch), Some(waiting)) => {
                format!(
                    "batches of {:.0} while {:.0} requests wait an engine",
                    batch.observed, waiting.observed
                )
            }
            _ => "small batches while requests wait".to_owned(),
        },
        Kind::GpuIdle => match (number("gpu_busy"), number("running")) {
            (Some(busy), Some(running)) => {
                format!(
                    "GPUs {} busy with {:.0} requests in flight each",
                    percent(busy.observed),
                    running.observed
                )
            }
            _ => "GPUs idle while there is work".to_owned(),
        },
        Kind::Memory => {
            let preempted = number("preemptions").map_or(0.0, |one| one.observed);
            format!("KV cache full: {preempted:.0} preemptions a minute")
        }
        Kind::Traffic => match number("arrivals") {
            Some(rate) => format!(
                "{:.1} requests a second instead of {:.1}",
                rate.observed,
                rate.baseline.unwrap_or(0.0)
            ),
            None => "traffic has shifted".to_owned(),
        },
        Kind::Cost => match number("cost_per_1k_tokens") {
            Some(cost) => format!(
                "1,000 tokens cost {} instead of {}",
                amount(cost.observed, &cost.unit),
                amount(cost.baseline.unwrap_or(0.0), &cost.unit)
            ),
            None => "tokens cost more".to_owned(),
        },
        Kind::Slo => "error budget burns".to_owned(),
        Kind::Latency | Kind::Ttft | Kind::Tpot | Kind::Queue => {
            symptom(evidence).unwrap_or_else(|| "slower".to_owned())
        }
    };
    let is_symptom = matches!(kind, Kind::Latency | Kind::Ttft | Kind::Tpot | Kind::Queue);
    let effect = match kind {
        Kind::Silence | Kind::Slo | Kind::Errors => None,
        _ if is_symptom => causes.first().map(|cause| format!("mostly {}", cause_words(&cause.cause))),
        _ => symptom(evidence),
    };
    let effect = effect.map_or(String::new(), |effect| format!("; {effect}"));
    format!("{model}: {what} since {} UTC{effect}", clock_time(first_ms))
}

/// A cause in words.
fn cause_words(cause: &str) -> &str {
    match cause {
        "host" => "a slow host",
        "gpu" => "the GPU",
        "batch" => "small batches",
        "cache" => "the prefix cache",
        "version" => "the new version",
        "traffic" => "more traffic",
        "memory" => "KV-cache memory",
        "upstream" => "stages outside of the engine",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a time of a day. Guarantee: as a clock shows it in UTC.
    #[test]
    fn times_are_readable() {
        assert_eq!(clock_time(1_704_067_200_000 + 3_723_000), "01:02:03");
    }

    /// Scenario: a version that is slower and fails, one that only fails, one of which neither was measured. Guarantee: the
    /// title says what is worse with its numbers, and makes none up.
    #[test]
    fn a_title_says_how_a_version_is_worse() {
        let pace = crate::detect::evidence("version_tpot", "s", 0.028, Some(0.016), 90);
        let failing = crate::detect::evidence("version_error_rate", "share", 0.05, Some(0.001), 90);
        let subject = Subject { version: "2.0".into(), ..Subject::default() };
        let titled = |evidence: &[Evidence]| title("m", Kind::Version, &subject, evidence, &[], 3_723_000);
        let name = "m: version 2.0 is worse than the one it replaces";
        let both = titled(&[pace.clone(), failing.clone()]);
        assert_eq!(
            both,
            format!(
                "{name}: a token takes 28 ms instead of 16 ms (1.8 ×), 5 % of requests fail instead of 0.1 % since 01:02:03 UTC"
            )
        );
        assert!(titled(&[failing]).starts_with(&format!("{name}: 5 % of requests fail")));
        assert_eq!(titled(&[]), format!("{name} since 01:02:03 UTC"));
    }

    /// Scenario: slow tokens with a cause. Guarantee: the title says model, how much, since when, and why.
    #[test]
    fn a_title_says_what_and_why() {
        let evidence = [crate::detect::evidence("tpot_p50", "s", 0.041, Some(0.015), 90)];
        let causes = [Cause { cause: "host".into(), share: 0.9, explanation: String::new() }];
        let title = title("m", Kind::Tpot, &Subject::default(), &evidence, &causes, 3_723_000);
        assert_eq!(
            title,
            "m: a token takes 41 ms instead of 15 ms (2.7 ×) since 01:02:03 UTC; mostly a slow host"
        );
    }
}
