//! Insights: what the API answers about them, and the pages made of it.

pub mod chart;
pub mod filter;
pub mod list;
pub mod page;
pub mod triage;
pub mod words;

use serde_json::Value;

use crate::api::number_of;
use crate::node::{Node, el, icon, link, text};
use crate::route::Route;
use triage::Triage;

/// How much an insight asks of its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// To know.
    #[default]
    Info,
    /// To look at in working hours.
    Warning,
    /// To act on now.
    Page,
}

impl Severity {
    fn of(name: &str) -> Self {
        match name {
            "PAGE" => Self::Page,
            "WARNING" => Self::Warning,
            _ => Self::Info,
        }
    }

    /// Its class, and its word.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Info => ("sev-info", "Info"),
            Self::Warning => ("sev-warning", "Warning"),
            Self::Page => ("sev-page", "Page"),
        }
    }

    /// As a badge.
    fn badge(self) -> Node {
        let (class, word) = self.names();
        let symbol = if self == Self::Info { "info" } else { "alert" };
        el("span", &format!("badge {class}")).add(icon(symbol)).text(word)
    }
}

/// A number that speaks for an insight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Which.
    pub metric: String,
    /// `s`, `share`, `1/s`, …
    pub unit: String,
    /// Now; not a number where the server has none.
    pub observed: f64,
    /// As it is normally.
    pub baseline: Option<f64>,
    /// Observed over baseline.
    pub ratio: Option<f64>,
    /// Observations behind it.
    pub samples: u64,
}

/// What explains a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    /// Name.
    pub cause: String,
    /// Part of the change, 0 to 1.
    pub share: f64,
    /// With numbers.
    pub explanation: String,
}

/// What to do about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advice {
    /// With numbers.
    pub text: String,
    /// What it should bring.
    pub gain: String,
    /// 0 to 1.
    pub confidence: f64,
}

/// One step in an insight's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    /// Number.
    pub revision: i64,
    /// `OPEN`, `UPDATED`, `RESOLVED`.
    pub state: String,
    /// How much it asked then.
    pub severity: Severity,
    /// End of its window, nanoseconds since 1970.
    pub window_end: i64,
}

/// An insight. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Insight {
    pub id: String,
    pub revision: i64,
    pub resolved: bool,
    pub severity: Severity,
    pub kind: String,
    pub title: String,
    pub tenant: String,
    pub model: String,
    pub version: String,
    pub service: String,
    pub stage: String,
    pub device: String,
    pub first_window: i64,
    pub window_start: i64,
    pub window_end: i64,
    pub opened: i64,
    pub resolved_at: Option<i64>,
    pub detector: String,
    pub evidence: Vec<Evidence>,
    pub causes: Vec<Cause>,
    pub advice: Option<Advice>,
    pub examples: Vec<String>,
    pub normal: Vec<String>,
    /// What people decided about it.
    pub triage: Option<Triage>,
    /// Of the insight's own resource alone.
    pub revisions: Vec<Revision>,
    /// The course of its first number, once it is known.
    pub chart: Option<Node>,
}

fn string(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    }
}

fn nanos(value: &Value, name: &str) -> i64 {
    integer(&value[name]).unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value, name: &str) -> Vec<String> {
    items(value, name).iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

impl Insight {
    /// From an answer or an event; unknown members are ignored, absent ones are empty.
    pub fn of(value: &Value) -> Self {
        let resolved_at = integer(&value["resolved_unix_nano"]);
        let evidence = |one: &Value| Evidence {
            metric: string(one, "metric"),
            unit: string(one, "unit"),
            observed: number_of(&one["observed"]).unwrap_or(f64::NAN),
            baseline: number_of(&one["baseline"]),
            ratio: number_of(&one["ratio"]),
            samples: nanos(one, "samples").unsigned_abs(),
        };
        let cause = |one: &Value| Cause {
            cause: string(one, "cause"),
            share: number_of(&one["share"]).unwrap_or_default().clamp(0.0, 1.0),
            explanation: string(one, "explanation"),
        };
        let advice = &value["recommendation"];
        let revision = |one: &Value| Revision {
            revision: nanos(one, "revision"),
            state: string(one, "state"),
            severity: Severity::of(one["severity"].as_str().unwrap_or_default()),
            window_end: nanos(one, "window_end_unix_nano"),
        };
        Self {
            id: string(value, "id"),
            revision: nanos(value, "revision"),
            resolved: value["state"] == "RESOLVED",
            severity: Severity::of(value["severity"].as_str().unwrap_or_default()),
            kind: string(value, "kind"),
            title: string(value, "title"),
            tenant: string(value, "tenant"),
            model: string(value, "model"),
            version: string(value, "model_version"),
            service: string(value, "service"),
            stage: string(value, "stage"),
            device: string(value, "device"),
            first_window: nanos(value, "first_window_unix_nano"),
            window_start: nanos(value, "window_start_unix_nano"),
            window_end: nanos(value, "window_end_unix_nano"),
            opened: nanos(value, "opened_unix_nano"),
            resolved_at,
            detector: string(value, "detector"),
            evidence: items(value, "evidence").iter().map(evidence).collect(),
            causes: items(value, "causes").iter().map(cause).collect(),
            advice: advice.is_object().then(|| Advice {
                text: string(advice, "text"),
                gain: string(advice, "expected_gain"),
                confidence: number_of(&advice["confidence"]).unwrap_or_default().clamp(0.0, 1.0),
            }),
            examples: strings(value, "example_traces"),
            normal: strings(value, "normal_traces"),
            triage: Triage::of(&value["triage"]),
            revisions: items(value, "revisions").iter().map(revision).collect(),
            chart: None,
        }
    }
}

/// A page of the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InsightList {
    /// The latest opened first.
    pub insights: Vec<Insight>,
    /// Leads to the next page.
    pub cursor: Option<String>,
    /// Open ones, whatever the filters.
    pub open: i64,
    /// Of them those that page.
    pub paging: i64,
    /// What may be missing.
    pub warnings: Vec<String>,
}

impl InsightList {
    /// From an answer.
    pub fn of(value: &Value) -> Self {
        let open = |name: &str| value["open"][name].as_i64().unwrap_or_default();
        Self {
            insights: items(value, "insights").iter().map(Insight::of).collect(),
            cursor: value["next_cursor"].as_str().map(str::to_owned),
            open: open("page") + open("warning") + open("info"),
            paging: open("page"),
            warnings: strings(value, "warnings"),
        }
    }
}

/// `newer` with what only the insight's own resource tells, as it was known.
#[must_use]
pub fn with_details_of(newer: Insight, known: &Insight) -> Insight {
    Insight { revisions: known.revisions.clone(), chart: known.chart.clone(), ..newer }
}

/// Takes a newer state into the list, which stays in order; one that no longer passes `keep` leaves.
pub fn merge(list: &mut Vec<Insight>, newer: Insight, keep: bool) {
    if list.iter().any(|known| known.id == newer.id && known.revision > newer.revision) {
        return;
    }
    list.retain(|known| known.id != newer.id);
    if keep {
        let at = list.partition_point(|known| (known.opened, &known.id) > (newer.opened, &newer.id));
        list.insert(at, newer);
    }
}

/// The insights that a trace's answer names, as a strip for its page; none when there are none.
pub fn strip(insights: &Value) -> Option<Node> {
    let found: Vec<&Value> = insights.as_array()?.iter().filter(|one| one["id"].is_string()).collect();
    let heading = match found.len() {
        0 => return None,
        1 => "An insight may be about this trace".to_owned(),
        many => format!("{many} insights may be about this trace"),
    };
    let entry = |one: &&Value| {
        let id = string(one, "id");
        let over = (one["state"] == "RESOLVED").then(|| text("span", "muted", "resolved"));
        let example = (one["is_example"] == true).then(|| text("span", "badge", "names this trace"));
        el("li", "")
            .add(Severity::of(one["severity"].as_str().unwrap_or_default()).badge())
            .add(link("", &Route::insight(&id).to_url(), &string(one, "title")))
            .all(example)
            .all(over)
    };
    let list = el("ul", "").all(found.iter().map(entry));
    Some(el("section", "insight-strip").add(text("h2", "", &heading)).add(list))
}

#[cfg(test)]
mod tests;
