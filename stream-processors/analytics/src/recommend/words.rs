//! Titles and numbers as people read them.

use crate::{
    detect::{Kind, Subject},
    output::{Cause, Evidence},
    rollup::Millis,
};

/// `14:03:20` of a day, UTC.
pub(crate) fn clock_time(at_ms: Millis) -> String {
    let second = at_ms.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// `12.3 s`, `45 ms`.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        value if value >= 10.0 => format!("{value:.0} s"),
        value if value >= 1.0 => format!("{value:.1} s"),
        value if value >= 0.01 => format!("{:.0} ms", value * 1e3),
        value => format!("{:.1} ms", value * 1e3),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn find<'a>(evidence: &'a [Evidence], metric: &str) -> Option<&'a Evidence> {
    evidence.iter().find(|number| number.metric == metric)
}

/// `41 ms instead of 15 ms (2.7 ×)`.
fn beside(number: &Evidence) -> String {
    let Some(usual) = number.baseline else { return seconds(number.observed) };
    let ratio = number.observed / usual.max(1e-6);
    if ratio > 999.0 || usual < 1e-3 {
        return format!("{} instead of {}", seconds(number.observed), seconds(usual));
    }
    format!("{} instead of {} ({ratio:.1} ×)", seconds(number.observed), seconds(usual))
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
            format!(
                "{:.1} % of requests fail instead of {:.1} %",
                rate.map_or(0.0, |one| one.observed) * 100.0,
                usual * 100.0
            )
        }
        Kind::Version => format!("version {} is worse than the one it replaces", subject.version),
        Kind::Throttling => match (number("gpu_sm_clock"), number("throttled_devices")) {
            (Some(clock), Some(devices)) => format!(
                "{:.0} of {:.0} GPUs throttled to {:.0} MHz",
                devices.observed,
                devices.baseline.unwrap_or(devices.observed),
                clock.observed
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
                "1,000 tokens cost ${:.5} instead of ${:.5}",
                cost.observed,
                cost.baseline.unwrap_or(0.0)
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

    /// Scenario: numbers of several sizes. Guarantee: as people write them.
    #[test]
    fn numbers_are_readable() {
        assert_eq!(clock_time(1_704_067_200_000 + 3_723_000), "01:02:03");
        assert_eq!([12.34, 1.234, 0.0456, 0.0012].map(seconds), ["12 s", "1.2 s", "46 ms", "1.2 ms"]);
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
