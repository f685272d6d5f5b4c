//! Pages and their addresses. The address bar holds everything that makes two people see the same thing.

use crate::filter::Filter;
use crate::insight::filter::InsightFilter;
use crate::query_string::{self, Writer};

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/traces`, and `/` which means it.
    Traces(Filter),
    /// `/traces/{id}`.
    Trace {
        /// Hexadecimal, lower case.
        id: String,
        /// What is open on the page.
        view: TraceView,
    },
    /// `/insights`.
    Insights(InsightFilter),
    /// `/insights/{id}`.
    Insight(String),
    /// Anything else.
    Unknown(String),
}

/// Tabs of the trace page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Spans over time.
    #[default]
    Waterfall,
    /// Self time by call path.
    Flame,
}

/// What is open on the trace page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceView {
    /// Tab.
    pub tab: Tab,
    /// Selected span, hexadecimal, empty for none.
    pub span: String,
    /// Text searched for.
    pub search: String,
    /// Zoomed range in nanoseconds from the start of the trace, start before end.
    pub zoom: Option<(i64, i64)>,
}

impl Route {
    /// From the location's path and search.
    pub fn parse(path: &str, query: &str) -> Self {
        let trimmed = path.trim_end_matches('/');
        if trimmed.is_empty() || trimmed == "/traces" {
            return Self::Traces(Filter::from_query(query));
        }
        if trimmed == "/insights" {
            return Self::Insights(InsightFilter::from_query(query));
        }
        if let Some(id) = trimmed.strip_prefix("/insights/").filter(|id| !id.contains('/')) {
            return Self::Insight(query_string::decode(id));
        }
        match trimmed.strip_prefix("/traces/") {
            Some(id) if !id.contains('/') => {
                let id = query_string::decode(id).to_ascii_lowercase();
                Self::Trace { id, view: TraceView::from_query(query) }
            }
            _ => Self::Unknown(path.to_owned()),
        }
    }

    /// The address.
    pub fn to_url(&self) -> String {
        let (path, query) = match self {
            Self::Traces(filter) => ("/traces".to_owned(), filter.to_query()),
            Self::Trace { id, view } => {
                let mut path = "/traces/".to_owned();
                query_string::encode(id, &mut path);
                (path, view.to_query())
            }
            Self::Insights(filter) => ("/insights".to_owned(), filter.to_query()),
            Self::Insight(id) => {
                let mut path = "/insights/".to_owned();
                query_string::encode_segment(id, &mut path);
                (path, String::new())
            }
            Self::Unknown(path) => (path.clone(), String::new()),
        };
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    /// The page of an insight.
    pub fn insight(id: &str) -> Self {
        Self::Insight(id.to_owned())
    }

    /// The page of a trace with nothing open.
    pub fn trace(id: &str) -> Self {
        Self::Trace { id: id.to_owned(), view: TraceView::default() }
    }
}

impl TraceView {
    fn to_query(&self) -> String {
        let mut writer = Writer::default();
        if self.tab == Tab::Flame {
            writer.push("tab", "flame");
        }
        writer.push_some("span", &self.span);
        writer.push_some("q", &self.search);
        if let Some((from, to)) = self.zoom {
            writer.push("from", &from.to_string());
            writer.push("to", &to.to_string());
        }
        writer.finish()
    }

    fn from_query(query: &str) -> Self {
        let mut view = Self::default();
        let (mut from, mut to) = (None, None);
        for (name, value) in query_string::parse(query) {
            match name.as_str() {
                "tab" if value == "flame" => view.tab = Tab::Flame,
                "span" => view.span = value.to_ascii_lowercase(),
                "q" => view.search = value,
                "from" => from = value.parse().ok(),
                "to" => to = value.parse().ok(),
                _ => {}
            }
        }
        if let (Some(from), Some(to)) = (from, to)
            && from < to
        {
            view.zoom = Some((from, to));
        }
        view
    }
}

/// Whether a text can be a trace id: 32 hexadecimal digits, not all zero.
pub fn is_trace_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any trace page. Guarantee: its address leads back to it.
        #[test]
        fn trace_address_round_trips(
            id in "[0-9a-f]{32}", span in "([0-9a-f]{16})?", search in ".{0,10}",
            zoom in proptest::option::of((0_i64..1_000_000, 1_i64..1_000_000)), flame in any::<bool>(),
        ) {
            let view = TraceView {
                tab: if flame { Tab::Flame } else { Tab::Waterfall },
                span,
                search,
                zoom: zoom.map(|(from, length)| (from, from + length)),
            };
            let route = Route::Trace { id, view };
            let url = route.to_url();
            let (path, query) = url.split_once('?').unwrap_or((&url, ""));
            prop_assert_eq!(Route::parse(path, query), route);
        }
    }

    proptest! {
        /// Scenario: any insight, any filter of the list. Guarantee: their addresses lead back to them.
        #[test]
        fn insight_addresses_round_trip(id in "\\PC{1,20}", model in "\\PC{0,12}", kind in "[a-z_]{0,8}", severity in 0..4_usize, state in 0..3_usize) {
            use crate::insight::filter::{SEVERITIES, STATES};
            let severity = SEVERITIES[severity].0.to_owned();
            let filter = InsightFilter { model, kind, severity, state: STATES[state].0.to_owned(), ..Default::default() };
            for route in [Route::Insights(filter), Route::insight(&id)] {
                let url = route.to_url();
                let (path, query) = url.split_once('?').unwrap_or((&url, ""));
                prop_assert_eq!(Route::parse(path, query), route);
            }
        }
    }

    /// Scenario: addresses that people type. Guarantee: the page they mean.
    #[test]
    fn paths() {
        assert_eq!(Route::parse("/", ""), Route::Traces(Filter::default()));
        assert_eq!(Route::parse("/traces/", ""), Route::Traces(Filter::default()));
        assert_eq!(Route::parse("/traces/ABC", ""), Route::trace("abc"));
        assert!(matches!(Route::parse("/traces/a/b", ""), Route::Unknown(_)));
        assert!(matches!(Route::parse("/nope", ""), Route::Unknown(_)));
        assert!(
            is_trace_id("0af7651916cd43dd8448eb211c80319c")
                && !is_trace_id(&"0".repeat(32))
                && !is_trace_id("0af")
        );
    }
}
