//! Configuration of the delivery: the service, and one section a target.

use std::time::Duration;

use infertrace_schemas::avro::{InsightState, Severity};
use serde::{Deserialize, Serialize};

use super::{filter::Filter, secret::Secret};

/// Where insights are sent, and how hard it is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group. Default `infertrace-delivery`.
    pub group: String,
    /// A group with no position yet starts with the insights of the last so many milliseconds. Default 300,000.
    pub first_start_ms: i64,
    /// An open insight that was not updated for so long counts as over: it is not repeated any more, and a restart
    /// looks back no further for open ones. Default 86,400,000.
    pub open_ms: i64,
    /// Longest time between a delivery and the commit of its position. Default 1,000.
    pub commit_interval_ms: u64,
    /// First pause after a fault of the log; it doubles up to 10 s. Default 200.
    pub retry_ms: u64,
    /// How long a shutdown waits for requests under way. Default 5,000.
    pub drain_timeout_ms: u64,
    /// Bytes fetched ahead. Default 4 MiB.
    pub max_buffered_bytes: usize,
    /// Bytes of records taken at once. Default 1 MiB.
    pub max_poll_bytes: usize,
    /// Targets; with none the service does not run.
    pub targets: Vec<TargetConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "infertrace-delivery".to_owned(),
            first_start_ms: 300_000,
            open_ms: 86_400_000,
            commit_interval_ms: 1_000,
            retry_ms: 200,
            drain_timeout_ms: 5_000,
            max_buffered_bytes: 4 << 20,
            max_poll_bytes: 1 << 20,
            targets: Vec::new(),
        }
    }
}

/// What a target understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The insight as JSON, signed as Standard Webhooks says when there is a secret.
    #[default]
    Webhook,
    /// Alertmanager's API v2; the URL is its root.
    Alertmanager,
    /// Slack's incoming webhooks, and what understands the same.
    Slack,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetConfig {
    /// Its name in logs, metrics and dead letters; unique.
    pub name: String,
    /// `webhook`, `alertmanager` or `slack`.
    pub kind: Kind,
    /// Where to. For Alertmanager its root, as in `http://alertmanager:9093`.
    pub url: String,
    /// A variable that holds the URL instead, for URLs that are secrets.
    pub url_env: String,
    /// A file that holds it instead.
    pub url_file: String,
    /// A variable that holds the secret: a webhook signs with it, the others send it as bearer token.
    pub secret_env: String,
    /// A file that holds it instead.
    pub secret_file: String,
    /// The least severity: `INFO`, `WARNING` or `PAGE`.
    pub min_severity: Severity,
    /// Models, by name or by prefix with `*`; empty for all.
    pub models: Vec<String>,
    /// Tenants, likewise.
    pub tenants: Vec<String>,
    /// Kinds of insights, likewise.
    pub kinds: Vec<String>,
    /// States to tell of: `OPEN`, `UPDATED`, `RESOLVED`. Empty: Slack hears of `OPEN` and `RESOLVED`, the others of all.
    pub states: Vec<InsightState>,
    /// Longest that one request may take. Default 10,000.
    pub timeout_ms: u64,
    /// First pause before a failed request is repeated; it doubles, with jitter. Default 500.
    pub retry_base_ms: u64,
    /// Longest such pause. Default 60,000.
    pub retry_max_ms: u64,
    /// After so long an insight that could not be delivered goes to the dead-letter topic. Default 900,000.
    pub retry_budget_ms: u64,
    /// Insights that may wait; those past it go to the dead-letter topic at once. Default 1,000.
    pub queue: usize,
    /// Failures in a row after which only one insight at a time is tried. Default 5.
    pub circuit_failures: u32,
    /// How often Alertmanager is told of what is still open; below its `resolve_timeout`. Default 60,000.
    pub resend_ms: u64,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: Kind::Webhook,
            url: String::new(),
            url_env: String::new(),
            url_file: String::new(),
            secret_env: String::new(),
            secret_file: String::new(),
            min_severity: Severity::Info,
            models: Vec::new(),
            tenants: Vec::new(),
            kinds: Vec::new(),
            states: Vec::new(),
            timeout_ms: 10_000,
            retry_base_ms: 500,
            retry_max_ms: 60_000,
            retry_budget_ms: 900_000,
            queue: 1_000,
            circuit_failures: 5,
            resend_ms: 60_000,
        }
    }
}

impl Config {
    /// What is wrong with the values, if anything. Secrets are read when the service is built.
    ///
    /// # Errors
    /// A sentence that names the target and the key.
    pub fn check(&self) -> Result<(), String> {
        if self.group.is_empty() {
            return Err("group must not be empty".to_owned());
        }
        if self.first_start_ms < 0 || self.open_ms < 0 {
            return Err("first_start_ms and open_ms must not be negative".to_owned());
        }
        if self.max_poll_bytes == 0 {
            return Err("max_poll_bytes must be above 0".to_owned());
        }
        for (index, target) in self.targets.iter().enumerate() {
            let label = if target.name.is_empty() { format!("#{}", index + 1) } else { target.name.clone() };
            target.check().map_err(|error| format!("target {label}: {error}"))?;
            if self.targets[..index].iter().any(|earlier| earlier.name == target.name) {
                return Err(format!("target {label}: another target has this name"));
            }
        }
        Ok(())
    }
}

impl TargetConfig {
    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err("name must be given, of letters, digits, '-', '_' and '.'".to_owned());
        }
        let sources = [&self.url, &self.url_env, &self.url_file];
        if sources.iter().filter(|source| !source.is_empty()).count() != 1 {
            return Err("give one of url, url_env and url_file".to_owned());
        }
        if !self.secret_env.is_empty() && !self.secret_file.is_empty() {
            return Err("set secret_env or secret_file, not both".to_owned());
        }
        let positive = [
            ("timeout_ms", self.timeout_ms),
            ("retry_base_ms", self.retry_base_ms),
            ("retry_max_ms", self.retry_max_ms),
            ("queue", self.queue as u64),
            ("circuit_failures", self.circuit_failures.into()),
            ("resend_ms", self.resend_ms),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("{key} must be above 0")),
            None => Ok(()),
        }
    }

    /// Where to, with the path that the kind's API has.
    pub(super) fn load_url(&self) -> Result<Secret, String> {
        Ok(Secret::load("url", &self.url_env, &self.url_file)?.unwrap_or_else(|| Secret::plain(&self.url)))
    }

    pub(super) fn load_secret(&self) -> Result<Option<Secret>, String> {
        Secret::load("secret", &self.secret_env, &self.secret_file)
    }

    pub(super) fn filter(&self) -> Filter {
        let states = match (self.states.is_empty(), self.kind) {
            (false, _) => self.states.clone(),
            (true, Kind::Slack) => vec![InsightState::Open, InsightState::Resolved],
            (true, _) => vec![InsightState::Open, InsightState::Updated, InsightState::Resolved],
        };
        Filter {
            min_severity: self.min_severity,
            models: self.models.clone(),
            tenants: self.tenants.clone(),
            kinds: self.kinds.clone(),
            states,
        }
    }

    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) const fn resend(&self) -> Duration {
        Duration::from_millis(self.resend_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> TargetConfig {
        TargetConfig {
            name: name.to_owned(),
            url: "http://127.0.0.1:1/".to_owned(),
            ..TargetConfig::default()
        }
    }

    /// Scenario: targets without a name, with two URLs, with one name twice, with a zero.
    /// Guarantee: each is refused by a sentence that names the target and the key.
    #[test]
    fn mistakes_are_named() {
        let check = |targets: Vec<TargetConfig>| Config { targets, ..Config::default() }.check();
        assert_eq!(check(vec![target("a"), target("b")]), Ok(()));
        let cases = [
            (vec![target("")], "target #1: name"),
            (vec![target("a b")], "target a b: name"),
            (vec![target("a"), target("a")], "target a: another target"),
            (vec![TargetConfig { url_env: "U".into(), ..target("a") }], "target a: give one of url"),
            (vec![TargetConfig { url: String::new(), ..target("a") }], "target a: give one of url"),
            (vec![TargetConfig { queue: 0, ..target("a") }], "target a: queue"),
        ];
        for (targets, needle) in cases {
            let error = check(targets).expect_err(needle);
            assert!(error.contains(needle), "{error}");
        }
    }

    /// Scenario: a section as a user writes it, and one with a misspelt key.
    /// Guarantee: keys that are left out have their defaults; the misspelt one is refused by name.
    #[test]
    fn sections_are_read_as_documented() {
        let config: Config = serde_json::from_value(serde_json::json!({"targets": [{
            "name": "oncall", "kind": "alertmanager", "url": "http://alertmanager:9093", "min_severity": "PAGE",
            "models": ["llama-*"], "states": ["OPEN", "RESOLVED"]
        }]}))
        .expect("reads");
        assert_eq!(config.check(), Ok(()));
        let target = &config.targets[0];
        assert_eq!((target.kind, target.min_severity), (Kind::Alertmanager, Severity::Page));
        assert_eq!(target.states, [InsightState::Open, InsightState::Resolved]);
        assert_eq!(target.retry_budget_ms, TargetConfig::default().retry_budget_ms);
        let error = serde_json::from_value::<Config>(serde_json::json!({"targets": [{"nmae": "x"}]}));
        assert!(error.expect_err("misspelt").to_string().contains("nmae"));
    }
}
