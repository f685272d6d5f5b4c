//! Spans as a test says them, their encoding, and what a search over them must find.

use infertrace_proto::v1;
use infertrace_query::search::SpanFilters;
use infertrace_schemas::record::encode_share;
use prost::Message;

/// A span in few words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestSpan {
    pub trace: u64,
    pub span: u64,
    pub parent: u64,
    pub service: &'static str,
    pub operation: &'static str,
    pub model: &'static str,
    pub start_ns: i64,
    pub duration_ns: i64,
    pub status: i32,
    pub attributes: Vec<(&'static str, Value)>,
    /// Value of the resource attribute `deployment.environment`.
    pub environment: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(&'static str),
    Int(i64),
    Double(f64),
    Bool(bool),
    Texts(Vec<&'static str>),
}

pub fn trace_id(trace: u64) -> [u8; 16] {
    // Spread over the whole range, as random ids are.
    let mixed = u128::from(trace).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1;
    mixed.to_be_bytes()
}

pub fn hex_id(trace: u64) -> String {
    hex::encode(trace_id(trace))
}

fn any(value: &Value) -> v1::AnyValue {
    use v1::any_value::Value as Any;
    let text = |text: &&str| v1::AnyValue { value: Some(Any::StringValue((*text).to_owned())) };
    let value = match value {
        Value::Text(text) => Any::StringValue((*text).to_owned()),
        Value::Int(value) => Any::IntValue(*value),
        Value::Double(value) => Any::DoubleValue(*value),
        Value::Bool(value) => Any::BoolValue(*value),
        Value::Texts(values) => Any::ArrayValue(v1::ArrayValue { values: values.iter().map(text).collect() }),
    };
    v1::AnyValue { value: Some(value) }
}

pub fn attribute(key: &str, value: &Value) -> v1::KeyValue {
    v1::KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

impl TestSpan {
    pub fn message(&self) -> v1::Span {
        let id = |id: u64| id.to_be_bytes().to_vec();
        v1::Span {
            trace_id: trace_id(self.trace).to_vec(),
            span_id: id(self.span),
            parent_span_id: if self.parent == 0 { Vec::new() } else { id(self.parent) },
            service_name: self.service.to_owned(),
            operation_name: self.operation.to_owned(),
            start_time_unix_nano: self.start_ns,
            duration_nanos: self.duration_ns,
            inference: (!self.model.is_empty())
                .then(|| v1::InferenceContext { model_name: self.model.to_owned(), ..Default::default() }),
            status: Some(v1::Status { code: self.status, message: String::new() }),
            kind: if self.parent == 0 { 2 } else { 1 },
            attributes: self.attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
            ..Default::default()
        }
    }

    fn origin(&self) -> Vec<u8> {
        let attributes = if self.environment.is_empty() {
            Vec::new()
        } else {
            vec![attribute("deployment.environment", &Value::Text(self.environment))]
        };
        let resource = v1::Resource { attributes, dropped_attributes_count: 0 };
        let scope = v1::Scope { name: "test".to_owned(), ..Default::default() };
        v1::Origin { resource: Some(resource), scope: Some(scope), ..Default::default() }.encode_to_vec()
    }

    pub fn matches(&self, filters: &SpanFilters) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&filters.service, self.service)
            && is(&filters.operation, self.operation)
            && is(&filters.model, self.model)
            && filters.status.is_none_or(|status| i32::from(status) == self.status)
            && filters.min_duration_ns.is_none_or(|least| self.duration_ns >= least)
            && filters.max_duration_ns.is_none_or(|most| self.duration_ns <= most)
            && filters.start_ns.is_none_or(|from| self.start_ns >= from)
            && filters.end_ns.is_none_or(|to| self.start_ns < to)
            && filters.attributes.iter().all(|(key, value)| self.has(key, value))
    }

    fn has(&self, key: &str, wanted: &str) -> bool {
        if key == "deployment.environment" && !self.environment.is_empty() && self.environment == wanted {
            return true;
        }
        self.attributes.iter().filter(|(known, _)| *known == key).any(|(_, value)| match value {
            Value::Text(text) => *text == wanted,
            Value::Int(value) => wanted.parse() == Ok(*value),
            Value::Double(value) => wanted.parse() == Ok(*value),
            Value::Bool(value) => wanted.parse() == Ok(*value),
            Value::Texts(values) => values.contains(&wanted),
        })
    }
}

/// One record: each span with an origin of its own.
pub fn record(spans: &[TestSpan]) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = spans
        .iter()
        .enumerate()
        .map(|(index, span)| v1::Span { origin: index as u32, ..span.message() }.encode_to_vec())
        .collect();
    let origins: Vec<Vec<u8>> = spans.iter().map(TestSpan::origin).collect();
    let origins: Vec<&[u8]> = origins.iter().map(Vec::as_slice).collect();
    encode_share("", &[], encoded.iter().map(Vec::as_slice), &origins)
}

/// Ids of the traces that a search must list, in order.
pub fn expected<'s>(spans: impl IntoIterator<Item = &'s TestSpan>, filters: &SpanFilters) -> Vec<String> {
    let mut earliest: std::collections::BTreeMap<[u8; 16], i64> = Default::default();
    for span in spans.into_iter().filter(|span| span.matches(filters)) {
        let start = earliest.entry(trace_id(span.trace)).or_insert(span.start_ns);
        *start = span.start_ns.min(*start);
    }
    let mut order: Vec<_> = earliest.into_iter().map(|(id, start)| (start, id)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    order.into_iter().map(|(_, id)| hex::encode(id)).collect()
}

/// A varied set of `traces` traces, four spans each, one every second up to [`super::NOW_NS`].
pub fn varied(traces: u64) -> Vec<TestSpan> {
    const SERVICES: [&str; 3] = ["gateway", "engine", "ranker"];
    const MODELS: [&str; 3] = ["llama-3", "mixtral", "o'hara \"quoted\" 100%"];
    let mut spans = Vec::new();
    for trace in 1..=traces {
        let start = super::NOW_NS - (traces - trace + 1) as i64 * 1_000_000_000;
        for index in 0..4u64 {
            let chosen = (trace * 7 + index * 3) as usize;
            spans.push(TestSpan {
                trace,
                span: trace * 100 + index + 1,
                parent: if index == 0 { 0 } else { trace * 100 + 1 },
                service: if index == 0 { "gateway" } else { SERVICES[chosen % 3] },
                operation: ["http", "generate", "rank", "generate"][index as usize],
                model: if index == 1 { MODELS[trace as usize % 3] } else { "" },
                start_ns: start + index as i64 * 10_000_000,
                duration_ns: ((trace * 37 + index * 11) % 90 + 1) as i64 * 1_000_000,
                status: [0, 1, 2, 0][chosen % 4],
                attributes: vec![
                    ("http.route", Value::Text(["/v1/chat", "/v1/embed"][chosen % 2])),
                    ("retries", Value::Int((chosen % 5) as i64)),
                    ("ratio", Value::Double(chosen as f64 % 4.0 / 4.0)),
                    ("cached", Value::Bool(chosen.is_multiple_of(2))),
                    ("tags", Value::Texts(vec![["red", "green", "blue"][chosen % 3], "all"])),
                ],
                environment: ["prod", "canary"][trace as usize % 2],
            });
        }
    }
    spans
}
