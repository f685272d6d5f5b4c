//! Which insights a person wants to see: in the address bar, and in a request.

use super::{Insight, Severity};
use crate::query_string::{self, Writer};

/// State of the filter bar; empty means every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InsightFilter {
    /// Model.
    pub model: String,
    /// Tenant.
    pub tenant: String,
    /// Kind.
    pub kind: String,
    /// `page`, `warning` or `info`.
    pub severity: String,
    /// `resolved` or `all`; empty means open.
    pub state: String,
}

/// Choices of state: name in URLs, words.
pub const STATES: [(&str, &str); 3] = [("", "Open"), ("resolved", "Resolved"), ("all", "Open and resolved")];
/// Choices of severity.
pub const SEVERITIES: [(&str, &str); 4] =
    [("", "Every severity"), ("page", "Page"), ("warning", "Warning"), ("info", "Info")];

impl InsightFilter {
    /// The member that the address calls `name`.
    pub fn member(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "model" => &mut self.model,
            "tenant" => &mut self.tenant,
            "kind" => &mut self.kind,
            "severity" => &mut self.severity,
            "state" => &mut self.state,
            _ => return None,
        })
    }

    fn members(&self) -> [(&'static str, &str); 5] {
        [
            ("model", &self.model),
            ("tenant", &self.tenant),
            ("kind", &self.kind),
            ("severity", &self.severity),
            ("state", &self.state),
        ]
    }

    /// From the location's search; a choice that there is not is the default.
    pub fn from_query(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in query_string::parse(query) {
            if let Some(member) = filter.member(&name) {
                *member = value;
            }
        }
        let known = |choices: &[(&str, &str)], value: &str| choices.iter().any(|(name, _)| *name == value);
        if !known(&STATES, &filter.state) {
            filter.state.clear();
        }
        if !known(&SEVERITIES, &filter.severity) {
            filter.severity.clear();
        }
        filter
    }

    /// For the address bar.
    pub fn to_query(&self) -> String {
        let mut writer = Writer::default();
        for (name, value) in self.members() {
            writer.push_some(name, value);
        }
        writer.finish()
    }

    /// For a request.
    pub fn to_api_query(&self, limit: usize, cursor: Option<&str>) -> String {
        let mut writer = Writer::default();
        for (name, value) in self.members() {
            let open = name == "state" && value.is_empty();
            writer.push_some(name, if open { "open" } else { value });
        }
        writer.push("limit", &limit.to_string());
        writer.push_some("cursor", cursor.unwrap_or_default());
        writer.finish()
    }

    /// Whether more than the state is chosen.
    pub fn is_narrowed(&self) -> bool {
        *self != Self { state: self.state.clone(), ..Self::default() }
    }

    /// Whether an insight passes.
    pub fn passes(&self, insight: &Insight) -> bool {
        let is = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        let severity = match insight.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Page => "page",
        };
        let state = match self.state.as_str() {
            "all" => true,
            "resolved" => insight.is_settled(),
            _ => !insight.is_settled(),
        };
        is(&self.model, &insight.model)
            && is(&self.tenant, &insight.tenant)
            && is(&self.kind, &insight.kind)
            && is(&self.severity, severity)
            && state
    }
}
