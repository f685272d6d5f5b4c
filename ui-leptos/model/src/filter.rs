//! Which traces a person wants to see: the state of the filter bar, its form in the address bar, and its form in a
//! request to the API.

use crate::format;
use crate::query_string::{self, Writer};

/// Status of a span. A trace is listed when one of its spans passes every filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusFilter {
    /// Every span.
    #[default]
    Any,
    /// Set to OK by the program.
    Ok,
    /// Failed.
    Error,
}

impl StatusFilter {
    /// Name in URLs, empty for any.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }

    /// The inverse of [`Self::name`]; anything unknown is any.
    pub fn from_name(name: &str) -> Self {
        match name {
            "ok" => Self::Ok,
            "error" => Self::Error,
            _ => Self::Any,
        }
    }
}

/// Presets of the time range: name in URLs, words, milliseconds.
pub const PRESETS: [(&str, &str, i64); 8] = [
    ("5m", "Last 5 minutes", 5 * MINUTE),
    ("15m", "Last 15 minutes", 15 * MINUTE),
    ("1h", "Last hour", 60 * MINUTE),
    ("6h", "Last 6 hours", 6 * 60 * MINUTE),
    ("24h", "Last 24 hours", DAY),
    ("7d", "Last 7 days", 7 * DAY),
    ("30d", "Last 30 days", 30 * DAY),
    ("all", "All time", 0),
];
const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;
/// What live mode asks for again and again: traces that started within these milliseconds.
const LIVE_WINDOW: i64 = 2 * MINUTE;
/// Index of the preset that an URL without a range means: the last hour.
pub const DEFAULT_PRESET: usize = 2;

/// The time range of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeRange {
    /// Index into [`PRESETS`]; moves with the clock.
    Preset(usize),
    /// Milliseconds since 1970, start before end.
    Custom {
        /// Inclusive.
        start_ms: i64,
        /// Exclusive.
        end_ms: i64,
    },
}

impl Default for TimeRange {
    fn default() -> Self {
        Self::Preset(DEFAULT_PRESET)
    }
}

impl TimeRange {
    /// Start and end at a given now; `None` is unbounded.
    pub fn bounds(self, now_ms: i64) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Preset(index) => {
                let span = PRESETS.get(index).map_or(0, |preset| preset.2);
                ((span > 0).then(|| now_ms - span), None)
            }
            Self::Custom { start_ms, end_ms } => (Some(start_ms), Some(end_ms)),
        }
    }
}

/// Which part of the traces that pass a filter is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page<'a> {
    /// The newest.
    First,
    /// What comes after a cursor.
    After(&'a str),
    /// What started in the last two minutes: all that live mode has to look at.
    Recent,
}

/// The state of the filter bar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Exact service name, empty for all.
    pub service: String,
    /// Exact model name, empty for all.
    pub model: String,
    /// Exact operation name, empty for all.
    pub operation: String,
    /// Status.
    pub status: StatusFilter,
    /// Microseconds.
    pub min_duration: Option<u64>,
    /// Microseconds.
    pub max_duration: Option<u64>,
    /// Range of the start time.
    pub range: TimeRange,
    /// `key=value`, all of them have to match.
    pub attributes: Vec<(String, String)>,
    /// A query of the query language, as typed; empty for none. The server reads it.
    pub query: String,
}

impl Filter {
    /// Whether anything beside the time range is set.
    pub fn is_narrowed(&self) -> bool {
        *self != Self { range: self.range, ..Self::default() }
    }

    /// Whether new traces can appear: the range ends at now.
    pub fn can_be_live(&self) -> bool {
        matches!(self.range, TimeRange::Preset(_))
    }

    /// The address bar's form; defaults are left out.
    pub fn to_query(&self) -> String {
        let mut writer = Writer::default();
        writer.push_some("service", &self.service);
        writer.push_some("model", &self.model);
        writer.push_some("operation", &self.operation);
        writer.push_some("status", self.status.name());
        if let Some(micros) = self.min_duration {
            writer.push("min", &format::duration_input(micros));
        }
        if let Some(micros) = self.max_duration {
            writer.push("max", &format::duration_input(micros));
        }
        match self.range {
            TimeRange::Preset(DEFAULT_PRESET) => {}
            TimeRange::Preset(index) => {
                writer.push_some("range", PRESETS.get(index).map_or("", |preset| preset.0))
            }
            TimeRange::Custom { start_ms, end_ms } => {
                writer.push("start", &start_ms.to_string());
                writer.push("end", &end_ms.to_string());
            }
        }
        for (key, value) in &self.attributes {
            writer.push("attr", &format!("{key}={value}"));
        }
        writer.push_some("q", &self.query);
        writer.finish()
    }

    /// The inverse of [`Self::to_query`]. What does not parse is left at its default.
    pub fn from_query(query: &str) -> Self {
        let mut filter = Self::default();
        let (mut start, mut end) = (None, None);
        for (name, value) in query_string::parse(query) {
            match name.as_str() {
                "service" => filter.service = value,
                "model" => filter.model = value,
                "operation" => filter.operation = value,
                "status" => filter.status = StatusFilter::from_name(&value),
                "min" => filter.min_duration = format::parse_duration_micros(&value).ok().flatten(),
                "max" => filter.max_duration = format::parse_duration_micros(&value).ok().flatten(),
                "range" => {
                    if let Some(index) = PRESETS.iter().position(|preset| preset.0 == value) {
                        filter.range = TimeRange::Preset(index);
                    }
                }
                "start" => start = value.parse().ok(),
                "end" => end = value.parse().ok(),
                "attr" => filter.attributes.extend(parse_attribute(&value)),
                "q" => filter.query = value,
                _ => {}
            }
        }
        if let (Some(start_ms), Some(end_ms)) = (start, end)
            && start_ms < end_ms
        {
            filter.range = TimeRange::Custom { start_ms, end_ms };
        }
        filter
    }

    /// The query of `GET /api/v1/traces`.
    pub fn to_api_query(&self, now_ms: i64, limit: usize, page: Page<'_>) -> String {
        let mut writer = Writer::default();
        writer.push_some("service", &self.service);
        writer.push_some("model", &self.model);
        writer.push_some("operation", &self.operation);
        writer.push_some("status", self.status.name());
        let milliseconds = |micros: u64| format!("{}.{:03}", micros / 1_000, micros % 1_000);
        if let Some(micros) = self.min_duration {
            writer.push("min_duration_ms", &milliseconds(micros));
        }
        if let Some(micros) = self.max_duration {
            writer.push("max_duration_ms", &milliseconds(micros));
        }
        let (start, end) = self.range.bounds(now_ms);
        let start = if page == Page::Recent { start.max(Some(now_ms - LIVE_WINDOW)) } else { start };
        if let Some(start) = start {
            writer.push("start", &rfc3339(start));
        }
        if let Some(end) = end {
            writer.push("end", &rfc3339(end));
        }
        for (key, value) in &self.attributes {
            writer.push("attr", &format!("{key}={value}"));
        }
        writer.push_some("q", &self.query);
        writer.push("limit", &limit.to_string());
        if let Page::After(cursor) = page {
            writer.push_some("cursor", cursor);
        }
        writer.finish()
    }
}

/// `key=value` as typed; a key is needed.
pub fn parse_attribute(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

/// Whether what was typed is meant as a query of the query language, right or wrong: those begin with a bracket.
pub fn is_query(text: &str) -> bool {
    text.trim_start().starts_with(['{', '('])
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub fn rfc3339(unix_ms: i64) -> String {
    let date = format::civil(unix_ms, 0);
    let time = format::clock(date.second_of_day, true);
    format!("{:04}-{:02}-{:02}T{time}.{:03}Z", date.year, date.month, date.day, unix_ms.rem_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_filter() -> impl Strategy<Value = Filter> {
        let range = prop_oneof![
            (0..PRESETS.len()).prop_map(TimeRange::Preset),
            (0_i64..2_000_000_000_000, 1_i64..1_000_000_000)
                .prop_map(|(start_ms, length)| TimeRange::Custom { start_ms, end_ms: start_ms + length }),
        ];
        let status = prop_oneof![Just(StatusFilter::Any), Just(StatusFilter::Ok), Just(StatusFilter::Error)];
        let attribute = ("[a-z_.]{1,8}", "[^ \t\r\n]?[a-zA-Z0-9=&%+ü]{0,8}")
            .prop_map(|(key, value)| (key, value.trim().to_owned()));
        (
            (".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}"),
            status,
            proptest::option::of(0_u64..1_000_000_000_000),
            proptest::option::of(0_u64..1_000_000_000_000),
            range,
            proptest::collection::vec(attribute, 0..4),
        )
            .prop_map(
                |(
                    (service, model, operation, query),
                    status,
                    min_duration,
                    max_duration,
                    range,
                    attributes,
                )| {
                    Filter {
                        service,
                        model,
                        operation,
                        status,
                        min_duration,
                        max_duration,
                        range,
                        attributes,
                        query,
                    }
                },
            )
    }

    proptest! {
        /// Scenario: any state of the filter bar. Guarantee: the address bar restores it.
        #[test]
        fn url_round_trips(filter in any_filter()) {
            prop_assert_eq!(Filter::from_query(&filter.to_query()), filter);
        }

        /// Scenario: any text after the question mark. Guarantee: a filter, never a panic.
        #[test]
        fn any_url_is_read(text in ".{0,64}") {
            Filter::from_query(&text);
        }
    }

    /// Scenario: a filter with everything set. Guarantee: the API's parameters, with their names and units.
    #[test]
    fn api_query() {
        let filter = Filter::from_query(
            "service=gw&status=error&min=1.5s&max=2m&range=15m&attr=a.b%3Dc%20d&q=%7B.a%20%3D%201%7D",
        );
        assert_eq!(
            filter.to_api_query(1_700_000_000_000, 50, Page::After("next")),
            "service=gw&status=error&min_duration_ms=1500.000&max_duration_ms=120000.000&start=2023-11-14T21:58:20.000Z\
             &attr=a.b%3Dc%20d&q=%7B.a%20%3D%201%7D&limit=50&cursor=next"
        );
        assert_eq!(
            Filter::default().to_api_query(1_700_000_000_000, 50, Page::Recent),
            "start=2023-11-14T22:11:20.000Z&limit=50"
        );
        assert_eq!(Filter::default().to_query(), "");
        assert!(!Filter::from_query("range=7d").is_narrowed());
    }
}
