//! Insights as text, the way an on-call engineer reads them.

use std::collections::BTreeMap;

use infertrace_analytics::{output::Insight, words};
use infertrace_schemas::time;

/// Prints the last revision of each insight, in the order in which they opened.
pub(super) fn tell(seed: u64, insights: &[Insight]) {
    let mut latest: BTreeMap<(i64, &str), &Insight> = BTreeMap::new();
    for insight in insights {
        latest.insert((insight.opened_ms, insight.id.as_str()), insight);
    }
    latest.into_values().for_each(|insight| println!("{}", text(seed, insight)));
}

fn text(seed: u64, insight: &Insight) -> String {
    let Insight { kind, severity, title, evidence, causes, recommendation, .. } = insight;
    let opened = time::text(insight.opened_ms);
    let mut out =
        format!("seed {seed} {opened} {severity:?} {kind} (revision {})\n  {title}\n", insight.revision);
    let mut line = |name: &str, text: String| out.push_str(&format!("  {name:<9}{text}\n"));
    for number in evidence {
        let usual = number.baseline.map(|usual| format!(", normally {}", words::amount(usual, &number.unit)));
        let observed = words::amount(number.observed, &number.unit);
        line("seen", format!("{} {observed}{}", number.metric, usual.unwrap_or_default()));
    }
    for cause in causes {
        line("cause", format!("{} {}: {}", cause.cause, words::percent(cause.share), cause.explanation));
    }
    if let Some(advice) = recommendation {
        line("do", advice.text.clone());
        line("gain", format!("{} (confidence {})", advice.expected_gain, words::percent(advice.confidence)));
    }
    out
}
