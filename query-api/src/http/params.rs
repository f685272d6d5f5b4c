//! Query parameters, checked: an unknown one is refused by name, a bad value names its parameter.

use std::sync::Arc;

use chrono::DateTime;
use infertrace_schemas::columns::status;

use super::error::ApiError;
use crate::{
    config::Limits,
    hot::TraceId,
    search::{Cursor, SpanFilters, TraceQuery},
};

const LONGEST_NAME: usize = 1_024;
const LONGEST_VALUE: usize = 8_192;
const MOST_ATTRIBUTES: usize = 16;
const DEFAULT_LIMIT: usize = 20;
const NANOS_PER_MILLI: f64 = 1e6;

/// The parameters of a search.
pub(crate) const SEARCH: &[&str] = &[
    "service",
    "operation",
    "model",
    "status",
    "min_duration_ms",
    "max_duration_ms",
    "start",
    "end",
    "attr",
    "q",
    "limit",
    "cursor",
];

/// Decoded pairs of a query string, all of them known.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Decodes `query`, whose names must be among `allowed`; only those in `repeatable` may come twice.
    pub(crate) fn parse(
        query: Option<&str>,
        allowed: &[&str],
        repeatable: &[&str],
    ) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !allowed.contains(&name.as_ref()) {
                let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                let shown: String = name.chars().take(64).collect();
                return Err(ApiError::bad_parameter(
                    &shown,
                    format!("there is no parameter {shown:?} here; allowed: {known}"),
                ));
            }
            if !repeatable.contains(&name.as_ref()) && pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::bad_parameter(&name, "given more than once"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The value of `name`; an empty one counts as absent, as forms send it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// A name; refused when it is too long.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.get(name) {
            Some(value) if value.len() > LONGEST_NAME => {
                Err(ApiError::bad_parameter(name, format!("longer than {LONGEST_NAME} bytes")))
            }
            value => Ok(value.map(str::to_owned)),
        }
    }

    fn duration(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let millis: f64 = text.parse().unwrap_or(f64::NAN);
        if !millis.is_finite() || millis < 0.0 || millis > i64::MAX as f64 / NANOS_PER_MILLI {
            return Err(ApiError::bad_parameter(
                name,
                "expected milliseconds, 0 or more, such as 250 or 0.5",
            ));
        }
        Ok(Some((millis * NANOS_PER_MILLI) as i64))
    }

    /// A time, nanoseconds since 1970.
    pub(crate) fn time(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        self.get(name).map(|text| parse_time(text).ok_or_else(|| bad_time(name))).transpose()
    }

    fn attributes(&self) -> Result<Vec<(String, String)>, ApiError> {
        let mut attributes = Vec::new();
        for pair in self.all("attr") {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                ApiError::bad_parameter("attr", "expected key=value with the equals sign encoded as %3D")
            })?;
            if key.is_empty() {
                return Err(ApiError::bad_parameter("attr", "the key is empty"));
            }
            if key.len() > LONGEST_NAME || value.len() > LONGEST_VALUE {
                let most = format!("at most {LONGEST_NAME} bytes of key and {LONGEST_VALUE} of value");
                return Err(ApiError::bad_parameter("attr", most));
            }
            attributes.push((key.to_owned(), value.to_owned()));
        }
        if attributes.len() > MOST_ATTRIBUTES {
            return Err(ApiError::bad_parameter("attr", format!("at most {MOST_ATTRIBUTES} attributes")));
        }
        Ok(attributes)
    }

    /// The filters of a search.
    pub(crate) fn filters(&self) -> Result<SpanFilters, ApiError> {
        let filters = SpanFilters {
            service: self.text("service")?,
            operation: self.text("operation")?,
            model: self.text("model")?,
            status: self.status()?,
            min_duration_ns: self.duration("min_duration_ms")?,
            max_duration_ns: self.duration("max_duration_ms")?,
            start_ns: self.time("start")?,
            end_ns: self.time("end")?,
            attributes: self.attributes()?,
            query: self.query()?,
        };
        if let (Some(least), Some(most)) = (filters.min_duration_ns, filters.max_duration_ns)
            && least > most
        {
            return Err(ApiError::bad_parameter("max_duration_ms", "less than min_duration_ms"));
        }
        if let (Some(start), Some(end)) = (filters.start_ns, filters.end_ns)
            && start >= end
        {
            return Err(ApiError::bad_parameter("end", "not after start"));
        }
        Ok(filters)
    }

    /// A query of the language.
    fn query(&self) -> Result<Option<Arc<TraceQuery>>, ApiError> {
        let parsed = self.get("q").map(TraceQuery::parse).transpose();
        parsed
            .map(|query| query.map(Arc::new))
            .map_err(|error| ApiError::bad_parameter("q", error.to_string()))
    }

    fn status(&self) -> Result<Option<u8>, ApiError> {
        match self.get("status") {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("ok") => Ok(Some(status::OK)),
            Some(text) if text.eq_ignore_ascii_case("error") => Ok(Some(status::ERROR)),
            Some(text) if text.eq_ignore_ascii_case("unset") => Ok(Some(status::UNSET)),
            Some(_) => Err(ApiError::bad_parameter("status", "expected ok, error or unset")),
        }
    }

    /// Entries a page, and whether more were asked for than are given.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(usize, bool), ApiError> {
        let Some(text) = self.get("limit") else {
            return Ok((DEFAULT_LIMIT.min(limits.max_traces_per_page), false));
        };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || text.bytes().all(|byte| byte == b'0') {
            return Err(ApiError::bad_parameter("limit", "expected a number from 1"));
        }
        // More digits than a number holds is only a very large limit.
        let asked: usize = text.parse().unwrap_or(usize::MAX);
        Ok((asked.min(limits.max_traces_per_page), asked > limits.max_traces_per_page))
    }

    /// Where the page begins.
    pub(crate) fn cursor(&self, filters: &SpanFilters) -> Result<Option<Cursor>, ApiError> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        let cursor = Cursor::decode(text, filters.fingerprint());
        cursor.map(Some).map_err(|error| ApiError::bad_parameter("cursor", error.to_string()))
    }
}

fn bad_time(name: &'static str) -> ApiError {
    let detail = "expected RFC 3339, such as 2026-01-31T12:00:00Z, or a number since 1970: seconds (up to 11 digits), \
                  milliseconds (12 to 14), microseconds (15 to 17) or nanoseconds (18 and 19)";
    ApiError::bad_parameter(name, detail)
}

/// A time in nanoseconds since 1970; numbers tell their unit by their length.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let value: i64 = text.parse().ok()?;
        let unit = match text.trim_start_matches('0').len() {
            0..=11 => 1_000_000_000,
            12..=14 => 1_000_000,
            15..=17 => 1_000,
            _ => 1,
        };
        return Some(value.saturating_mul(unit));
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    let seconds_limit = i64::MAX / 1_000_000_000;
    Some(time.timestamp_nanos_opt().unwrap_or(if time.timestamp().clamp(-seconds_limit, seconds_limit) < 0 {
        i64::MIN
    } else {
        i64::MAX
    }))
}

/// A trace id: up to 32 hex digits, shorter ones as if zeros stood before.
pub(crate) fn parse_trace_id(text: &str) -> Result<TraceId, ApiError> {
    let bad = || ApiError::bad_parameter("trace_id", "expected 1 to 32 hex digits");
    if text.is_empty() || text.len() > 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let id = u128::from_str_radix(text, 16).map_err(|_| bad())?;
    if id == 0 {
        return Err(ApiError::bad_parameter("trace_id", "an id of zeros is no trace"));
    }
    Ok(id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: times as people and programs write them. Guarantee: each unit is told by its length.
    #[test]
    fn times_in_every_unit() {
        let nanos = 1_769_860_800_000_000_000;
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:00:00+01:00",
            "1769860800",
            "1769860800000",
            "1769860800000000",
            "1769860800000000000",
        ] {
            assert_eq!(parse_time(text), Some(nanos), "{text}");
        }
        assert_eq!(parse_time("0"), Some(0));
        assert_eq!(parse_time("9999-12-31T23:59:59Z"), Some(i64::MAX));
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), Some(i64::MIN));
        for text in ["", "yesterday", "-5", "1e9", "99999999999999999999", "2026-13-01T00:00:00Z"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    /// Scenario: ids short, long and wrong. Guarantee: short ones are padded on the left, wrong ones refused.
    #[test]
    fn trace_ids() {
        assert_eq!(parse_trace_id("1").map(u128::from_be_bytes), Ok(1));
        assert_eq!(parse_trace_id("00000000000000000000000000000aBc").map(u128::from_be_bytes), Ok(0xabc));
        for text in ["", "0", "00000000000000000000000000000000", "xyz", "+1", "-1", "1 ", &"f".repeat(33)] {
            assert!(parse_trace_id(text).is_err(), "{text}");
        }
    }
}
