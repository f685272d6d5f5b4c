//! What Tempo's and Jaeger's APIs share: parameters, and conditions of the query language made of what a form says.

use infertrace_query_language::{Field, Intrinsic, Kind, Scope, Status, Value};

use super::error::ApiError;

/// Query parameters. As in Tempo and Jaeger, those that are not known are passed over, and an empty value counts as
/// absent.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// Every value of a name, without blanks around it.
    pub(super) fn all<'s, 'n>(
        &'s self,
        name: &'n str,
    ) -> impl DoubleEndedIterator<Item = &'s str> + use<'s, 'n> {
        let values = self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.trim());
        values.filter(|value| !value.is_empty())
    }

    /// The last value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next_back()
    }

    /// [`Self::get`] as a number.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<usize>, ApiError> {
        let bad = |_| ApiError::bad_parameter(name, "expected a number");
        self.get(name).map(|text| text.parse().map_err(bad)).transpose()
    }
}

/// `minDuration` and `maxDuration` as conditions on a field.
///
/// # Errors
/// When one is no duration.
pub(super) fn duration_limits(asked: &Parameters, field: Intrinsic) -> Result<Vec<String>, ApiError> {
    let mut conditions = Vec::new();
    for (name, operator) in [("minDuration", ">="), ("maxDuration", "<=")] {
        let bad = || ApiError::bad_parameter(name, "expected a duration, such as 1.2s, 100ms or 500us");
        if let Some(text) = asked.get(name) {
            let limit = Value::Duration(duration(text).ok_or_else(bad)?);
            conditions.push(format!("{} {operator} {limit}", field.name()));
        }
    }
    Ok(conditions)
}

/// `field = value` as the query language writes it.
pub(super) fn equals(field: Intrinsic, value: &str) -> String {
    format!("{} = {}", field.name(), Value::Text(value.to_owned()))
}

/// That the span's service has this name.
pub(super) fn of_service(name: &str) -> String {
    format!("resource.service.name = {}", Value::Text(name.to_owned()))
}

/// A tag and its text as a condition. What OpenTelemetry writes as tags of Jaeger is a field here; any other is an
/// attribute, which may be a number or a truth value that reads so.
///
/// # Errors
/// When the key is empty, or the status or kind is none.
pub(super) fn tag(parameter: &str, key: &str, value: &str) -> Result<String, ApiError> {
    let word = value.to_ascii_lowercase();
    let bad = |what: &str| ApiError::bad_parameter(parameter, format!("`{value}` is no {what}"));
    Ok(match key {
        "error" if word == "true" => "status = error".to_owned(),
        "error" => "status != error".to_owned(),
        "status" | "status.code" | "otel.status_code" => {
            let status = Status::from_word(&word).ok_or_else(|| bad("status"))?;
            format!("status = {}", status.word())
        }
        "otel.status_description" => equals(Intrinsic::StatusMessage, value),
        "span.kind" | "kind" => {
            let kind = Kind::from_word(&word).ok_or_else(|| bad("kind of span"))?;
            format!("kind = {}", kind.word())
        }
        "otel.scope.name" | "otel.library.name" => equals(Intrinsic::InstrumentationName, value),
        "otel.scope.version" | "otel.library.version" => equals(Intrinsic::InstrumentationVersion, value),
        "name" => equals(Intrinsic::Name, value),
        "root.name" => equals(Intrinsic::RootName, value),
        "root.service.name" => equals(Intrinsic::RootServiceName, value),
        "service.name" => of_service(value),
        key => {
            let field = Field::attribute(Scope::Any, key)
                .ok_or_else(|| ApiError::bad_parameter(parameter, "a key is empty"))?;
            let typed = [
                value.parse().ok().map(Value::Integer),
                value.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float),
                value.parse().ok().map(Value::Bool),
            ];
            let text = format!("{field} = {}", Value::Text(value.to_owned()));
            match typed.into_iter().flatten().next() {
                Some(typed) => format!("({text} || {field} = {typed})"),
                None => text,
            }
        }
    })
}

/// One spanset of which every condition holds for the same span.
pub(super) fn spanset(conditions: &[String]) -> String {
    format!("{{ {} }}", conditions.join(" && "))
}

/// A duration of Go's in nanoseconds: numbers with units, one after another.
pub(super) fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    let mut nanos = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end =
            rest[end..].find(|letter: char| letter.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[end..unit_end])?;
        nanos += number * unit;
        rest = &rest[unit_end..];
    }
    (!text.is_empty() && nanos < i64::MAX as f64).then_some(nanos as i64)
}

/// As [`duration`], or a number of seconds.
pub(super) fn seconds_or_duration(text: &str) -> Option<i64> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    seconds.map(|seconds| (seconds * 1e9) as i64).or_else(|| duration(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::TraceQuery;

    /// Scenario: tags that are fields here, attributes of every type and keys and values with quotes. Guarantee: each
    /// becomes a condition that the language takes; a status, a kind or a key that is none is refused.
    #[test]
    fn tags_are_conditions() {
        for (key, value, condition) in [
            ("error", "true", "status = error"),
            ("error", "false", "status != error"),
            ("otel.status_code", "ERROR", "status = error"),
            ("span.kind", "server", "kind = server"),
            ("otel.scope.name", "sdk", "instrumentation:name = \"sdk\""),
            ("service.name", "chat", "resource.service.name = \"chat\""),
            ("user", "a \"b\"", ".user = \"a \\\"b\\\"\""),
            ("odd key", "x\ny", ".\"odd key\" = \"x\\ny\""),
            ("retries", "3", "(.retries = \"3\" || .retries = 3)"),
            ("ratio", "+.5e1", "(.ratio = \"+.5e1\" || .ratio = 5.0)"),
            ("cached", "true", "(.cached = \"true\" || .cached = true)"),
        ] {
            assert_eq!(tag("tags", key, value).as_deref(), Ok(condition));
            assert!(TraceQuery::parse(&spanset(&[condition.to_owned()])).is_ok(), "{condition}");
        }
        for (key, value) in [("status", "bad"), ("span.kind", "x"), ("", "x")] {
            assert!(tag("tags", key, value).is_err(), "{key}");
        }
    }

    /// Scenario: a parameter twice, an empty one, blanks. Guarantee: the last that says something counts.
    #[test]
    fn the_last_value_counts() {
        let asked = Parameters::parse(Some("limit=5&limit=%207%20&limit=&tag=a&tag=b"));
        assert_eq!(asked.get("limit"), Some("7"));
        assert_eq!(asked.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(asked.get("start"), None);
    }

    /// Scenario: durations as Go writes them, seconds, and what is neither. Guarantee: nanoseconds, or nothing.
    #[test]
    fn durations_are_read() {
        assert_eq!(duration("1h2m3.5s"), Some(3_723_500_000_000));
        assert_eq!(duration("1.5ms"), Some(1_500_000));
        for bad in ["", "5", "fast", "1x", "-1s", "1s2"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(seconds_or_duration("0.5"), Some(500_000_000));
        assert_eq!(seconds_or_duration("15s"), Some(15_000_000_000));
    }
}
