//! One trace in the list: `GET /api/v1/traces`.
//!
//! Services and stages are read from each shape that fits: names, objects with a name and numbers, or a map from name to
//! number.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::{Nanos, number_of};
use crate::cost::Cost;
use crate::json::Members;

/// A page of traces.
#[derive(Debug, Default)]
pub struct TraceList {
    /// Newest first.
    pub traces: Vec<TraceSummary>,
    /// Asks for the next page; `None` or empty at the end.
    pub next_cursor: Option<String>,
    /// Set when the search stopped before it saw everything.
    pub truncated: Option<bool>,
    /// What the answer leaves out, in words.
    pub warnings: Vec<String>,
}

impl TraceList {
    /// From an answer.
    ///
    /// # Errors
    /// In words, when it is not an object.
    pub fn parse(json: &str) -> Result<Self, String> {
        let members = Members::parse(json)?;
        let traces = members.items(&["traces", "items", "results"]);
        Ok(Self {
            traces: traces.into_iter().map(TraceSummary::of).collect(),
            next_cursor: members.optional_text(&["next_cursor", "cursor"]),
            truncated: members.flag("truncated"),
            warnings: members.texts("warnings"),
        })
    }
}

/// A trace in the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceSummary {
    /// Hexadecimal.
    pub trace_id: String,
    /// Service of the root span.
    pub root_service: String,
    /// Operation of the root span.
    pub root_operation: String,
    /// Since 1970.
    pub start_unix_nano: Nanos,
    /// Of the whole trace.
    pub duration_nano: Nanos,
    /// Spans seen so far.
    pub span_count: u64,
    /// Failed spans.
    pub error_count: u64,
    /// `UNSET`, `OK` or `ERROR`.
    pub status: Value,
    /// Services that took part.
    pub services: Value,
    /// The same with their span counts.
    pub service_breakdown: Value,
    /// Models that took part.
    pub models: Value,
    /// A model, where only one is told.
    pub model: Option<String>,
    /// Prompt tokens.
    pub input_tokens: Value,
    /// Generated tokens.
    pub output_tokens: Value,
    /// Prompt tokens that came from a cache.
    pub cached_tokens: Value,
    /// Time to first token.
    pub ttft_nano: Option<Nanos>,
    /// Self time a stage.
    pub stages: Value,
    /// Whether every span that the trace refers to was seen.
    pub complete: Option<bool>,
    /// What its requests cost, where the list says so.
    pub cost: Option<Cost>,
}

impl TraceSummary {
    fn of(raw: &RawValue) -> Self {
        let members = Members::of(raw.get());
        let start = ["start_unix_nano", "start_unix_nanos", "start_time_unix_nano"];
        Self {
            trace_id: members.text(&["trace_id"]),
            root_service: members.text(&["root_service", "service", "root_service_name"]),
            root_operation: members.text(&["root_operation", "operation", "root_operation_name"]),
            start_unix_nano: members.nanos(&start).unwrap_or_default(),
            duration_nano: members.nanos(&["duration_nano", "duration_nanos"]).unwrap_or_default(),
            span_count: members.count(&["span_count", "spans"]),
            error_count: members.count(&["error_count", "errors"]),
            status: members.value("status"),
            services: members.value("services"),
            service_breakdown: members.value("service_breakdown"),
            models: members.value("models"),
            model: members.optional_text(&["model", "model_name"]),
            input_tokens: members.value("input_tokens"),
            output_tokens: members.value("output_tokens"),
            cached_tokens: members.value("cached_tokens"),
            ttft_nano: members.nanos(&["ttft_nano", "ttft_nanos"]),
            stages: members.value("stages"),
            complete: members.flag("complete"),
            cost: Cost::of(&members),
        }
    }

    /// Whether a span failed.
    pub fn is_error(&self) -> bool {
        let code = match &self.status {
            Value::Object(members) => members.get("code").and_then(Value::as_str),
            other => other.as_str(),
        };
        self.error_count > 0 || code.is_some_and(|code| code.eq_ignore_ascii_case("error"))
    }

    /// Services with their span counts where told, the root's first.
    pub fn service_names(&self) -> Vec<(String, Option<u64>)> {
        let told = if self.service_breakdown.is_array() { &self.service_breakdown } else { &self.services };
        let mut out: Vec<(String, Option<u64>)> =
            named_numbers(told, &["service", "name"], &["spans", "span_count"])
                .into_iter()
                .map(|(name, spans)| (name, spans.map(|spans| spans as u64)))
                .collect();
        if out.is_empty() && !self.root_service.is_empty() {
            out.push((self.root_service.clone(), None));
        }
        out.sort_by_key(|(name, _)| *name != self.root_service);
        out
    }

    /// The first model and how many others.
    pub fn model_names(&self) -> Vec<String> {
        let mut out: Vec<String> = named_numbers(&self.models, &["model", "name", "model_name"], &[])
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        if let Some(model) = &self.model
            && !model.is_empty()
            && !out.contains(model)
        {
            out.insert(0, model.clone());
        }
        out
    }

    /// Self time a stage in nanoseconds, in the order in which a request passes them; nothing without name or time.
    pub fn stage_times(&self) -> Vec<(String, i64)> {
        let keys = ["self_nano", "self_nanos", "self_time_nano", "self_ns", "duration_nano"];
        let mut out: Vec<(String, i64)> = named_numbers(&self.stages, &["stage", "name"], &keys)
            .into_iter()
            .filter_map(|(name, time)| Some((name, time? as i64)))
            .filter(|(_, time)| *time > 0)
            .collect();
        out.sort_by_key(|(name, _)| stage_rank(name));
        out
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> (Option<u64>, Option<u64>) {
        (number_of(&self.input_tokens).map(|n| n as u64), number_of(&self.output_tokens).map(|n| n as u64))
    }
}

/// Stages in the order of a request's way; the name decides, unknown ones last.
pub fn stage_rank(stage: &str) -> usize {
    const ORDER: [&str; 9] = [
        "preprocessing",
        "tokenize",
        "queue",
        "prefill",
        "decode",
        "inference",
        "detokenize",
        "postprocessing",
        "network",
    ];
    ORDER.iter().position(|known| *known == stage).unwrap_or(ORDER.len())
}

/// Class of a stage in the style sheet (`stage-…`).
pub fn stage_class(stage: &str) -> &'static str {
    match stage {
        "queue" | "prefill_waiting" => "stage-queue",
        "prefill" | "prefill_forward" | "chunked_prefill" => "stage-prefill",
        "decode" | "decode_forward" | "decode_loop" => "stage-decode",
        "inference" => "stage-inference",
        "tokenize" | "preprocessing" => "stage-pre",
        "postprocessing" | "detokenize" => "stage-post",
        _ => "stage-other",
    }
}

fn named_numbers(value: &Value, names: &[&str], numbers: &[&str]) -> Vec<(String, Option<f64>)> {
    match value {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| match item {
                Value::String(name) => Some((name.clone(), None)),
                Value::Object(members) => {
                    let name = names.iter().find_map(|key| members.get(*key)?.as_str())?;
                    Some((name.to_owned(), numbers.iter().find_map(|key| number_of(members.get(*key)?))))
                }
                _ => None,
            })
            .filter(|(name, _)| !name.is_empty())
            .collect(),
        Value::Object(members) => {
            members.iter().map(|(name, number)| (name.clone(), number_of(number))).collect()
        }
        _ => Vec::new(),
    }
}

/// Newer answers over older ones: known traces are replaced where they stand, new ones go on top, newest first. Returns
/// how many are new. The list keeps `most` traces.
pub fn merge(list: &mut Vec<TraceSummary>, newer: Vec<TraceSummary>, most: usize) -> usize {
    let mut fresh = Vec::new();
    for trace in newer {
        match list.iter_mut().find(|known| known.trace_id == trace.trace_id) {
            Some(known) => *known = trace,
            None if fresh.iter().all(|other: &TraceSummary| other.trace_id != trace.trace_id) => {
                fresh.push(trace)
            }
            None => {}
        }
    }
    let count = fresh.len();
    list.append(&mut fresh);
    list.sort_by(|a, b| b.start_unix_nano.cmp(&a.start_unix_nano).then_with(|| a.trace_id.cmp(&b.trace_id)));
    list.truncate(most);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scenario: the shapes in which services, stages and models come, with and without a cost. Guarantee: read alike, in a
    /// request's order.
    #[test]
    fn reads_every_shape() {
        let json = r#"{"traces":[
          {"trace_id":"a","root_service":"gw","services":[{"service":"engine","spans":3},{"service":"gw","spans":1}],
           "stages":[{"stage":"decode","self_nanos":"70"},{"stage":"queue","self_nanos":30},{"stage":"","self_nanos":5}],
           "models":["m"],"input_tokens":"12","output_tokens":3,"ttft_nano":"5","error_count":1,
           "cost":{"status":"available","nano_usd":"3822222","kind":"estimated"}},
          {"trace_id":"b","root_service":"gw","services":["gw"],"stages":{"queue":"30"},"model":"m","status":"OK","cost":{"status":"unavailable"}}],
          "next_cursor":null}"#;
        let list = TraceList::parse(json).expect("parses");
        let [a, b] = list.traces.as_slice() else { panic!("two traces") };
        assert_eq!(a.service_names(), [("gw".to_owned(), Some(1)), ("engine".to_owned(), Some(3))]);
        assert_eq!(a.stage_times(), [("queue".to_owned(), 30), ("decode".to_owned(), 70)]);
        assert_eq!(a.tokens(), (Some(12), Some(3)));
        assert!(a.is_error() && !b.is_error());
        assert_eq!(a.cost.as_ref().map(|cost| cost.nano_usd), Some(3_822_222));
        assert_eq!(b.cost, None);
        assert_eq!(b.stage_times(), [("queue".to_owned(), 30)]);
        assert_eq!((a.model_names(), b.model_names()), (vec!["m".to_owned()], vec!["m".to_owned()]));
    }

    proptest! {
        /// Scenario: any answers one after the other. Guarantee: the list stays sorted, without duplicates, bounded.
        #[test]
        fn merging_keeps_order(pages in proptest::collection::vec(proptest::collection::vec((0_u8..30, 0_i64..100), 0..10), 0..6)) {
            let mut list = Vec::new();
            for page in pages {
                let page: Vec<TraceSummary> = page.into_iter().map(|(id, start)| TraceSummary {
                    trace_id: id.to_string(), start_unix_nano: Nanos(start), ..TraceSummary::default()
                }).collect();
                merge(&mut list, page, 20);
                prop_assert!(list.len() <= 20);
                prop_assert!(list.windows(2).all(|pair| pair[0].start_unix_nano >= pair[1].start_unix_nano));
                let mut ids: Vec<&str> = list.iter().map(|trace| trace.trace_id.as_str()).collect();
                let before = ids.len();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), before);
            }
        }
    }
}
