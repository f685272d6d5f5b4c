//! What the query API answers, as far as the UI reads it.
//!
//! Unknown members are ignored and absent ones have defaults, so that an older page works with a newer server and the
//! other way round. Attributes stay as JSON text until a person opens a span: a trace of 10,000 spans parses in a
//! fraction of the time, and search runs over the text.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::cost::Cost;
use crate::json::Members;

/// A 64-bit quantity, most often in nanoseconds; a decimal string on the wire (as OTLP/JSON writes it), a number is taken too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub i64);

/// A small JSON object whose members are looked up by name: `inference`, `gpu`, `queue`, `batch`, `cache`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(pub Map<String, Value>);

impl Fields {
    /// The first of `names` that is a number, or a decimal string.
    pub fn number(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| number_of(self.0.get(*name)?))
    }

    /// The first of `names` that is a non-empty string.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.0.get(*name)?.as_str().filter(|text| !text.is_empty()))
    }

    /// The first of `names` that is a boolean.
    pub fn boolean(&self, names: &[&str]) -> Option<bool> {
        names.iter().find_map(|name| self.0.get(*name)?.as_bool())
    }
}

/// A JSON number, or a string that holds one.
pub fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// `GET /api/v1/traces/{id}`.
#[derive(Debug, Default)]
pub struct TraceDetail {
    /// Hexadecimal.
    pub trace_id: String,
    /// Whether every span that the trace refers to is there.
    pub complete: Option<bool>,
    /// Why not, in words or as an object with a `reason`.
    pub completeness: Option<Value>,
    /// Which tiers answered: `hot`, `warm`, `cold`.
    pub tiers: Vec<String>,
    /// In no particular order.
    pub spans: Vec<Span>,
    /// Ids of the spans on the critical path.
    pub critical_path: Vec<String>,
    /// The path's parts, by clocks that the server adjusted.
    pub critical_path_segments: Vec<PathSegment>,
    /// Services whose clocks the server adjusted.
    pub clock_shifts: Vec<ClockShift>,
    /// What its requests cost, where that is known.
    pub cost: Option<Cost>,
    /// Insights that may be about it, in brief.
    pub insights: Value,
    /// Models that took part.
    pub models: Vec<String>,
    /// Prompt tokens, each request counted once.
    pub input_tokens: Option<Nanos>,
    /// Generated tokens.
    pub output_tokens: Option<Nanos>,
    /// Prompt tokens that came from a cache.
    pub cached_tokens: Option<Nanos>,
    /// Time to first token of the first request.
    pub ttft_nano: Option<Nanos>,
    /// Its share in the queue.
    pub ttft_queue_nano: Option<Nanos>,
    /// Its share in prefill.
    pub ttft_prefill_nano: Option<Nanos>,
    /// Whether it was reported; else it was derived from queue and prefill spans.
    pub ttft_measured: Option<bool>,
    /// Sum of self times over duration.
    pub parallelism: Option<f64>,
    /// What the answer leaves out, in words.
    pub warnings: Vec<String>,
    /// Set when the server left spans out.
    pub truncated: Option<bool>,
}

impl TraceDetail {
    /// From an answer.
    ///
    /// # Errors
    /// In words, when it is not an object.
    pub fn parse(json: &str) -> Result<Self, String> {
        let members = Members::parse(json)?;
        let known = ["completeness", "incomplete_reason", "incomplete_reasons", "reason"];
        let completeness = known.iter().map(|name| members.value(name)).find(|value| !value.is_null());
        let segment = |raw: &RawValue| {
            let members = Members::of(raw.get());
            PathSegment {
                span_id: members.text(&["span_id"]),
                start_unix_nano: members.nanos(&["start_unix_nano"]).unwrap_or_default(),
                duration_nano: members.nanos(&["duration_nano"]).unwrap_or_default(),
            }
        };
        let shift = |raw: &RawValue| {
            let members = Members::of(raw.get());
            let shift_nano = members.nanos(&["shift_nano"]).unwrap_or_default();
            ClockShift { service: members.text(&["service"]), shift_nano }
        };
        Ok(Self {
            trace_id: members.text(&["trace_id"]),
            complete: members.flag("complete"),
            completeness,
            tiers: members.texts("tiers"),
            spans: members.items(&["spans"]).into_iter().map(|raw| Span::of(raw.get())).collect(),
            critical_path: members.texts("critical_path"),
            critical_path_segments: members
                .items(&["critical_path_segments"])
                .into_iter()
                .map(segment)
                .collect(),
            clock_shifts: members.items(&["clock_shifts"]).into_iter().map(shift).collect(),
            cost: Cost::of(&members),
            insights: members.value("insights"),
            models: members.texts("models"),
            input_tokens: members.nanos(&["input_tokens"]),
            output_tokens: members.nanos(&["output_tokens"]),
            cached_tokens: members.nanos(&["cached_tokens"]),
            ttft_nano: members.nanos(&["ttft_nano"]),
            ttft_queue_nano: members.nanos(&["ttft_queue_nano"]),
            ttft_prefill_nano: members.nanos(&["ttft_prefill_nano"]),
            ttft_measured: members.flag("ttft_measured"),
            parallelism: members.number(&["parallelism"]),
            warnings: members.texts("warnings"),
            truncated: members.flag("truncated"),
        })
    }

    /// Why the trace is incomplete, if the server says so.
    pub fn incomplete_reason(&self) -> Option<String> {
        fn words(value: &Value) -> Option<String> {
            match value {
                Value::String(text) if !text.is_empty() => Some(text.replace('_', " ")),
                Value::Array(items) => {
                    let parts: Vec<String> = items.iter().filter_map(words).collect();
                    (!parts.is_empty()).then(|| parts.join(", "))
                }
                Value::Object(members) => ["reason", "reasons", "message", "detail", "state"]
                    .iter()
                    .find_map(|name| words(members.get(*name)?)),
                _ => None,
            }
        }
        self.completeness.as_ref().and_then(words)
    }
}

/// A part of the critical path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSegment {
    /// Hexadecimal.
    pub span_id: String,
    /// Since 1970.
    pub start_unix_nano: Nanos,
    /// Not negative.
    pub duration_nano: Nanos,
}

/// How far a service's clock was off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockShift {
    /// Service name.
    pub service: String,
    /// The greatest shift that was added to its times.
    pub shift_nano: Nanos,
}

/// One span of a trace.
#[derive(Debug, Default)]
pub struct Span {
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal, empty for a root.
    pub parent_span_id: String,
    /// Service name.
    pub service: String,
    /// Operation name.
    pub operation: String,
    /// `SERVER`, `CLIENT`, …
    pub kind: String,
    /// Since 1970.
    pub start_unix_nano: Nanos,
    /// Not negative.
    pub duration_nano: Nanos,
    /// Outcome.
    pub status: SpanStatus,
    /// Object of attributes, unparsed.
    pub attributes: Option<Box<RawValue>>,
    /// Types that the JSON alone does not tell, unparsed.
    pub attribute_types: Option<Box<RawValue>>,
    /// Resource, unparsed.
    pub resource: Option<Box<RawValue>>,
    /// Instrumentation scope, unparsed.
    pub scope: Option<Box<RawValue>>,
    /// What happened during the span.
    pub events: Vec<Event>,
    /// Spans that this one refers to.
    pub links: Vec<Link>,
    /// Model, tokens, latencies.
    pub inference: Option<Fields>,
    /// Device and its use.
    pub gpu: Option<Fields>,
    /// Processor use.
    pub cpu: Option<Fields>,
    /// Host memory.
    pub memory: Option<Fields>,
    /// Depth and wait.
    pub queue: Option<Fields>,
    /// Size, limit, fill.
    pub batch: Option<Fields>,
    /// Hit, ratio, usage.
    pub cache: Option<Fields>,
    /// Token timeline, unparsed.
    pub tokens: Option<Box<RawValue>>,
    /// `queue`, `prefill`, `decode`, …
    pub stage: Option<String>,
    /// Duration less what children cover.
    pub self_time_nano: Option<Nanos>,
    /// What the request cost that it reports, where that is known; boxed, since few spans have one.
    pub cost: Option<Box<Cost>>,
    /// Which tier the span came from.
    pub tier: Option<String>,
    /// W3C trace state.
    pub trace_state: String,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u64,
    /// Events that the sender left out.
    pub dropped_events_count: u64,
    /// Links that the sender left out.
    pub dropped_links_count: u64,
}

/// A group of fields; none where it is empty or no object.
fn fields(members: &Members<'_>, name: &str) -> Option<Fields> {
    // Most groups of most spans are empty.
    members.get(name).filter(|raw| raw.get() != "{}")?;
    match members.value(name) {
        Value::Object(fields) => Some(Fields(fields)),
        _ => None,
    }
}

impl Span {
    /// From an object's text.
    pub fn of(json: &str) -> Self {
        let members = Members::of(json);
        let status = Members::of(members.get("status").map_or("", RawValue::get));
        let event = |raw: &RawValue| {
            let members = Members::of(raw.get());
            Event {
                time_unix_nano: members.nanos(&["time_unix_nano"]).unwrap_or_default(),
                name: members.text(&["name"]),
                attributes: members.raw("attributes"),
                attribute_types: members.raw("attribute_types"),
            }
        };
        let link = |raw: &RawValue| {
            let members = Members::of(raw.get());
            Link {
                trace_id: members.text(&["trace_id"]),
                span_id: members.text(&["span_id"]),
                attributes: members.raw("attributes"),
                attribute_types: members.raw("attribute_types"),
            }
        };
        Self {
            span_id: members.text(&["span_id"]),
            parent_span_id: members.text(&["parent_span_id"]),
            service: members.text(&["service"]),
            operation: members.text(&["operation"]),
            kind: members.text(&["kind"]),
            start_unix_nano: members.nanos(&["start_unix_nano"]).unwrap_or_default(),
            duration_nano: members.nanos(&["duration_nano"]).unwrap_or_default(),
            status: SpanStatus { code: status.text(&["code"]), message: status.text(&["message"]) },
            attributes: members.raw("attributes"),
            attribute_types: members.raw("attribute_types"),
            resource: members.raw("resource"),
            scope: members.raw("scope"),
            events: members.items(&["events"]).into_iter().map(event).collect(),
            links: members.items(&["links"]).into_iter().map(link).collect(),
            inference: fields(&members, "inference"),
            gpu: fields(&members, "gpu"),
            cpu: fields(&members, "cpu"),
            memory: fields(&members, "memory"),
            queue: fields(&members, "queue"),
            batch: fields(&members, "batch"),
            cache: fields(&members, "cache"),
            tokens: members.raw("tokens"),
            stage: members.optional_text(&["stage"]),
            self_time_nano: members.nanos(&["self_time_nano"]),
            cost: Cost::of(&members).map(Box::new),
            tier: members.optional_text(&["tier"]),
            trace_state: members.text(&["trace_state"]),
            dropped_attributes_count: members.count(&["dropped_attributes_count", "dropped_attributes"]),
            dropped_events_count: members.count(&["dropped_events_count", "dropped_events"]),
            dropped_links_count: members.count(&["dropped_links_count", "dropped_links"]),
        }
    }

    /// Whether the span failed.
    pub fn is_error(&self) -> bool {
        self.status.code.eq_ignore_ascii_case("error")
    }

    /// Start and end since 1970.
    pub fn interval(&self) -> (i64, i64) {
        let start = self.start_unix_nano.0;
        (start, start.saturating_add(self.duration_nano.0.max(0)))
    }

    /// Whether a token timeline came with the span.
    pub fn has_tokens(&self) -> bool {
        self.tokens.as_ref().is_some_and(|raw| raw.get().len() > 4)
    }
}

/// Outcome of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanStatus {
    /// `UNSET`, `OK` or `ERROR`.
    pub code: String,
    /// Set by the instrumented program.
    pub message: String,
}

/// An event of a span.
#[derive(Debug, Default)]
pub struct Event {
    /// Since 1970.
    pub time_unix_nano: Nanos,
    /// Name.
    pub name: String,
    /// Unparsed.
    pub attributes: Option<Box<RawValue>>,
    /// Unparsed.
    pub attribute_types: Option<Box<RawValue>>,
}

/// A link from one span to another.
#[derive(Debug, Default)]
pub struct Link {
    /// Hexadecimal.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
    /// Unparsed.
    pub attributes: Option<Box<RawValue>>,
    /// Unparsed.
    pub attribute_types: Option<Box<RawValue>>,
}

/// `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// A short summary of the kind of problem.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// A stable name for programs.
    pub code: String,
}

impl Problem {
    /// From an answer; empty from anything else.
    pub fn of(json: &str) -> Self {
        let members = Members::of(json);
        Self {
            title: members.text(&["title"]),
            status: u16::try_from(members.count(&["status"])).unwrap_or_default(),
            detail: members.text(&["detail"]),
            code: members.text(&["code"]),
        }
    }
}

/// `GET /api/v1/services` and `/api/v1/models`: the list in the named member, or a bare one, of names or of objects with a
/// name.
pub fn names_from(json: &str, member: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<Value>(json) else {
        return Vec::new();
    };
    let list = match &value {
        Value::Array(items) => Some(items),
        Value::Object(members) => members.get(member).and_then(Value::as_array),
        _ => None,
    };
    let mut names: Vec<String> = list.into_iter().flatten().filter_map(name_of).collect();
    names.sort();
    names.dedup();
    names
}

fn name_of(item: &Value) -> Option<String> {
    let text = match item {
        Value::String(text) => text.as_str(),
        Value::Object(members) => ["name", "service", "service_name", "model", "model_name"]
            .iter()
            .find_map(|key| members.get(*key)?.as_str())?,
        _ => return None,
    };
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a span as the contract writes it, with members that this version does not know. Guarantee: it parses,
    /// 64-bit strings become numbers, and absent members have defaults.
    #[test]
    fn tolerates_unknown_and_absent_members() {
        let json = r#"{"trace_id":"ab","complete":false,"completeness":{"reason":"missing_root"},"new_thing":[1],
            "spans":[{"span_id":"1","start_unix_nano":"1700000000000000001","duration_nano":5,"status":{"code":"ERROR"},
            "inference":{"model_name":"m","ttft_nano":"12"},"later":{"a":1},"attributes":{"k":"v"}}]}"#;
        let trace = TraceDetail::parse(json).expect("parses");
        let span = &trace.spans[0];
        assert_eq!(span.interval(), (1_700_000_000_000_000_001, 1_700_000_000_000_000_006));
        assert!(span.is_error());
        let inference = span.inference.as_ref().expect("inference");
        assert_eq!(inference.number(&["ttft_ns", "ttft_nano"]), Some(12.0));
        assert_eq!(inference.text(&["model_name"]), Some("m"));
        assert_eq!(trace.incomplete_reason().as_deref(), Some("missing root"));
        assert!(!span.has_tokens());
    }

    /// Scenario: lists of names in each shape that an API writes them. Guarantee: the same sorted names.
    #[test]
    fn reads_names_from_every_shape() {
        for json in [
            r#"["b","a"]"#,
            r#"{"services":["b","a"]}"#,
            r#"{"services":[{"name":"b"},{"service":"a","spans":3}]}"#,
        ] {
            assert_eq!(names_from(json, "services"), ["a", "b"], "{json}");
        }
        assert!(names_from("not json", "services").is_empty());
    }
}
