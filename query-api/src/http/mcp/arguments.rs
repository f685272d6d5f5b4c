//! Arguments of a tool, checked: a wrong one is named, with what was expected.

use serde_json::{Map, Value as Json, json};

use super::ask::{ToolError, told};
use crate::http::{App, params};

const LONGEST_TEXT: usize = 1_024;
const MINUTE_NS: i64 = 60_000_000_000;
/// Range where none is given.
const DEFAULT_MINUTES: u64 = 60;
/// Shortest windows of the rollups: no range of metrics is shorter.
const LEAST_NS: i64 = 10_000_000_000;
/// Ranges from which on a minute more or less does not matter.
const LONG_MINUTES: u64 = 120;
const LONG_NS: i64 = LONG_MINUTES as i64 * MINUTE_NS;

pub(super) struct Arguments(Map<String, Json>);

/// From and until, nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
}

impl Range {
    /// As a range of PromQL, whole seconds.
    pub(super) fn promql(self) -> String {
        let length_ns = self.to_ns.saturating_sub(self.from_ns).max(LEAST_NS);
        format!("{}s", length_ns / 1_000_000_000)
    }

    pub(super) fn json(self) -> Json {
        json!({"from": told(self.from_ns), "to": told(self.to_ns)})
    }

    /// As parameters of the API.
    pub(super) fn parameters(self) -> [(&'static str, Option<String>); 2] {
        [("start", Some(told(self.from_ns))), ("end", Some(told(self.to_ns)))]
    }
}

fn wrong<T>(name: &str, expected: &str) -> Result<T, ToolError> {
    Err(ToolError(format!("argument `{name}`: expected {expected}")))
}

impl Arguments {
    /// Arguments whose names must be those of the schema.
    pub(super) fn of(schema: &Json, given: Map<String, Json>) -> Result<Self, ToolError> {
        let known = schema["properties"].as_object();
        for name in given.keys() {
            if !known.is_some_and(|known| known.contains_key(name)) {
                let shown: String = name.chars().take(64).collect();
                let known: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                return Err(ToolError(format!(
                    "there is no argument `{shown}`; arguments: {}",
                    known.join(", ")
                )));
            }
        }
        Ok(Self(given))
    }

    fn given(&self, name: &str) -> Option<&Json> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ToolError> {
        match self.given(name) {
            None => Ok(None),
            Some(Json::String(text)) if text.len() <= LONGEST_TEXT => {
                Ok(Some(text.clone()).filter(|text| !text.is_empty()))
            }
            Some(_) => wrong(name, "a text of at most 1,024 bytes"),
        }
    }

    /// A text that must be there.
    pub(super) fn required(&self, name: &str) -> Result<String, ToolError> {
        self.text(name)?.map_or_else(|| wrong(name, "a text; it is required"), Ok)
    }

    /// A number of milliseconds and the like, 0 or more.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ToolError> {
        match self.given(name).map(Json::as_f64) {
            None => Ok(None),
            Some(Some(number)) if number >= 0.0 => Ok(Some(number)),
            Some(_) => wrong(name, "a number, 0 or more"),
        }
    }

    /// How many, from 1; more than `most` is lowered to it.
    pub(super) fn limit(&self, name: &str, default: usize, most: usize) -> Result<usize, ToolError> {
        match self.given(name).map(Json::as_u64) {
            None => Ok(default),
            Some(Some(number @ 1..)) => Ok(usize::try_from(number).unwrap_or(most).min(most)),
            Some(_) => wrong(name, "a whole number from 1"),
        }
    }

    /// Texts of a list, each one of those that are allowed.
    pub(super) fn words(
        &self,
        name: &str,
        allowed: &[&'static str],
        default: &'static str,
    ) -> Result<Vec<&'static str>, ToolError> {
        let expected = || format!("a list of: {}", allowed.join(", "));
        let Some(given) = self.given(name) else { return Ok(vec![default]) };
        let words = given.as_array().into_iter().flatten().map(|word| {
            let word = word.as_str().unwrap_or_default();
            allowed.iter().copied().find(|one| *one == word)
        });
        let words: Option<Vec<&str>> = words.collect();
        match words {
            Some(words) if !words.is_empty() => Ok(words),
            _ => wrong(name, &expected()),
        }
    }

    /// Whether a range is given.
    pub(super) fn has_range(&self) -> bool {
        ["last_minutes", "from"].iter().any(|name| self.given(name).is_some())
    }

    /// `from` and `to`, or the last `last_minutes`.
    pub(super) fn range(&self, app: &App) -> Result<Range, ToolError> {
        let time = |name: &str| -> Result<Option<i64>, ToolError> {
            let Some(text) = self.text(name)? else { return Ok(None) };
            let expected = "RFC 3339, such as 2026-01-31T12:00:00Z, or seconds since 1970";
            params::parse_time(&text).map_or_else(|| wrong(name, expected), |nanos| Ok(Some(nanos)))
        };
        let minutes = match self.given("last_minutes").map(Json::as_u64) {
            None => DEFAULT_MINUTES,
            Some(Some(minutes @ 1..=525_600)) => minutes,
            Some(_) => return wrong("last_minutes", "a whole number of minutes, 1 to 525600"),
        };
        let (given_ns, now_ns) = (time("to")?, app.clock.now_unix_nanos());
        let from_ns = time("from")?;
        let is_long = minutes >= LONG_MINUTES
            || from_ns.is_some_and(|from_ns| now_ns.saturating_sub(from_ns) >= LONG_NS);
        // A long range until now ends on a minute, so that windows of a minute can be read instead of shorter ones.
        let now_ns = if is_long { now_ns - now_ns.rem_euclid(MINUTE_NS) } else { now_ns };
        let to_ns = given_ns.unwrap_or(now_ns);
        let from_ns = from_ns.unwrap_or_else(|| to_ns.saturating_sub(minutes as i64 * MINUTE_NS));
        if from_ns >= to_ns {
            return wrong("from", "a time before `to`");
        }
        Ok(Range { from_ns, to_ns })
    }
}
