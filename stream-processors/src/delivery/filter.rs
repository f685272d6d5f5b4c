//! Which insights a target wants.

use infertrace_schemas::avro::{Insight, InsightState, Severity};

/// One target's wishes.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) min_severity: Severity,
    pub(super) models: Vec<String>,
    pub(super) tenants: Vec<String>,
    pub(super) kinds: Vec<String>,
    pub(super) states: Vec<InsightState>,
}

impl Filter {
    /// Whether the target follows this insight, whatever state it is in.
    pub(super) fn follows(&self, insight: &Insight) -> bool {
        insight.severity >= self.min_severity
            && matches(&self.models, &insight.model)
            && matches(&self.tenants, &insight.tenant)
            && matches(&self.kinds, &insight.kind)
    }

    /// Whether it is told of this state.
    pub(super) fn tells(&self, state: InsightState) -> bool {
        self.states.contains(&state)
    }
}

fn matches(patterns: &[String], value: &str) -> bool {
    let one = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => pattern == value,
    };
    patterns.is_empty() || patterns.iter().any(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Filter {
        Filter {
            min_severity: Severity::Warning,
            models: vec!["llama-*".into(), "tiny".into()],
            tenants: Vec::new(),
            kinds: vec!["latency".into()],
            states: vec![InsightState::Open, InsightState::Resolved],
        }
    }

    fn insight(severity: Severity, model: &str, kind: &str) -> Insight {
        Insight { severity, model: model.into(), kind: kind.into(), tenant: "t".into(), ..Insight::default() }
    }

    /// Scenario: severities around the least, models by name and by prefix, another kind, an empty list of tenants.
    /// Guarantee: an insight is followed only when every part of the filter takes it; an empty list takes everything.
    #[test]
    fn every_part_must_take_it() {
        let cases = [
            (insight(Severity::Warning, "llama-70b", "latency"), true),
            (insight(Severity::Page, "tiny", "latency"), true),
            (insight(Severity::Info, "tiny", "latency"), false),
            (insight(Severity::Page, "tiny-2", "latency"), false),
            (insight(Severity::Page, "my-llama-70b", "latency"), false),
            (insight(Severity::Page, "tiny", "latency2"), false),
        ];
        for (insight, expected) in cases {
            assert_eq!(filter().follows(&insight), expected, "{insight:?}");
        }
        assert!(filter().tells(InsightState::Open) && !filter().tells(InsightState::Updated));
    }
}
