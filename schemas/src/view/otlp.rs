//! Spans as OTLP/JSON, with nothing lost: the text of `ResourceSpans` that any OTLP receiver reads.

use std::io::Write;

use super::SpanView;
use crate::value::{Separator, put_json_string, put_otlp_entry};

/// What groups spans under one resource and one scope.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin<'a> {
    resource: &'a str,
    resource_url: &'a str,
    scope: &'a str,
    scope_url: &'a str,
}

/// The rows of several batches as one OTLP/JSON `TracesData` document: `{"resourceSpans":[…]}`.
///
/// Spans are grouped by resource and scope, in the order in which these first occur, and keep their order
/// inside a group.
#[must_use]
pub fn to_otlp_json<'v, 'a: 'v>(rows: impl IntoIterator<Item = (&'v SpanView<'a>, usize)>) -> String {
    let mut groups: Vec<(Origin<'a>, Vec<u8>)> = Vec::new();
    for (view, row) in rows {
        let origin = Origin {
            resource: view.resource(row),
            resource_url: view.resource_schema_url(row).unwrap_or_default(),
            scope: view.scope(row),
            scope_url: view.scope_schema_url(row).unwrap_or_default(),
        };
        let index = match groups.iter().position(|(known, _)| *known == origin) {
            Some(index) => index,
            None => {
                groups.push((origin, Vec::new()));
                groups.len() - 1
            }
        };
        let spans = &mut groups[index].1;
        if !spans.is_empty() {
            spans.push(b',');
        }
        view.put_otlp(spans, row);
    }
    let mut out = b"{\"resourceSpans\":[".to_vec();
    let mut separator = Separator::default();
    for (index, (origin, _)) in groups.iter().enumerate() {
        let same = |other: &Origin<'_>| {
            other.resource == origin.resource && other.resource_url == origin.resource_url
        };
        if groups[..index].iter().any(|(other, _)| same(other)) {
            continue;
        }
        separator.put(&mut out);
        put_resource_spans(&mut out, origin, groups[index..].iter().filter(|(other, _)| same(other)));
    }
    out.extend_from_slice(b"]}");
    String::from_utf8(out).expect("JSON is written as UTF-8")
}

fn put_resource_spans<'g, 'a: 'g>(
    out: &mut Vec<u8>,
    origin: &Origin<'_>,
    scopes: impl Iterator<Item = &'g (Origin<'a>, Vec<u8>)>,
) {
    out.extend_from_slice(b"{\"resource\":");
    out.extend_from_slice(origin.resource.as_bytes());
    out.extend_from_slice(b",\"scopeSpans\":[");
    let mut separator = Separator::default();
    for (scope, spans) in scopes {
        separator.put(out);
        out.extend_from_slice(b"{\"scope\":");
        out.extend_from_slice(scope.scope.as_bytes());
        out.extend_from_slice(b",\"spans\":[");
        out.extend_from_slice(spans);
        out.push(b']');
        put_text(out, "schemaUrl", scope.scope_url);
        out.push(b'}');
    }
    out.push(b']');
    put_text(out, "schemaUrl", origin.resource_url);
    out.push(b'}');
}

/// Appends `,"key":"text"` unless the text is empty.
fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    if !text.is_empty() {
        write!(out, ",\"{key}\":").expect("written to memory");
        put_json_string(out, text);
    }
}

/// Appends `,"key":count` unless it is 0.
fn put_count(out: &mut Vec<u8>, key: &str, count: u32) {
    if count != 0 {
        write!(out, ",\"{key}\":{count}").expect("written to memory");
    }
}

/// Appends `,"attributes":[…]`, already rendered, unless there are none.
fn put_attributes(out: &mut Vec<u8>, rendered: &str) {
    if !rendered.is_empty() {
        write!(out, ",\"attributes\":{rendered}").expect("written to memory");
    }
}

impl SpanView<'_> {
    /// The span in `row` as one OTLP/JSON `Span`.
    #[must_use]
    pub fn to_otlp_json(&self, row: usize) -> String {
        let mut out = Vec::new();
        self.put_otlp(&mut out, row);
        String::from_utf8(out).expect("JSON is written as UTF-8")
    }

    fn put_otlp(&self, out: &mut Vec<u8>, row: usize) {
        write!(
            out,
            "{{\"traceId\":\"{}\",\"spanId\":\"{}\"",
            hex::encode(self.trace_id(row)),
            hex::encode(self.span_id(row))
        )
        .expect("written to memory");
        put_text(out, "traceState", self.trace_state(row).unwrap_or_default());
        put_text(out, "parentSpanId", &self.parent_span_id(row).map(hex::encode).unwrap_or_default());
        put_count(out, "flags", self.flags(row));
        put_text(out, "name", self.operation(row));
        put_count(out, "kind", u32::from(self.kind(row)));
        write!(
            out,
            ",\"startTimeUnixNano\":\"{}\",\"endTimeUnixNano\":\"{}\"",
            self.start_ns(row) as u64,
            self.end_ns(row) as u64
        )
        .expect("written to memory");
        self.put_otlp_attributes(out, row);
        put_count(out, "droppedAttributesCount", self.dropped_attributes_count(row));
        self.put_otlp_events(out, row);
        put_count(out, "droppedEventsCount", self.dropped_events_count(row));
        self.put_otlp_links(out, row);
        put_count(out, "droppedLinksCount", self.dropped_links_count(row));
        self.put_otlp_status(out, row);
        out.push(b'}');
    }

    fn put_otlp_attributes(&self, out: &mut Vec<u8>, row: usize) {
        let mut attributes = self.attributes(row).peekable();
        if attributes.peek().is_none() {
            return;
        }
        out.extend_from_slice(b",\"attributes\":[");
        let mut separator = Separator::default();
        for (key, value) in attributes {
            separator.put(out);
            put_otlp_entry(out, key, &value.any_value());
        }
        out.push(b']');
    }

    fn put_otlp_events(&self, out: &mut Vec<u8>, row: usize) {
        let events = self.events(row);
        if events.is_empty() {
            return;
        }
        out.extend_from_slice(b",\"events\":[");
        let mut separator = Separator::default();
        for event in events {
            separator.put(out);
            write!(out, "{{\"timeUnixNano\":\"{}\"", event.time_ns as u64).expect("written to memory");
            put_text(out, "name", event.name);
            put_attributes(out, event.attributes);
            put_count(out, "droppedAttributesCount", event.dropped_attributes_count);
            out.push(b'}');
        }
        out.push(b']');
    }

    fn put_otlp_links(&self, out: &mut Vec<u8>, row: usize) {
        let links = self.links(row);
        if links.is_empty() {
            return;
        }
        out.extend_from_slice(b",\"links\":[");
        let mut separator = Separator::default();
        for link in links {
            separator.put(out);
            let (trace_id, span_id) = (hex::encode(link.trace_id), hex::encode(link.span_id));
            write!(out, "{{\"traceId\":\"{trace_id}\",\"spanId\":\"{span_id}\"").expect("written to memory");
            put_text(out, "traceState", link.trace_state);
            put_attributes(out, link.attributes);
            put_count(out, "droppedAttributesCount", link.dropped_attributes_count);
            put_count(out, "flags", link.flags);
            out.push(b'}');
        }
        out.push(b']');
    }

    fn put_otlp_status(&self, out: &mut Vec<u8>, row: usize) {
        let (code, message) = (self.status_code(row), self.status_message(row).unwrap_or_default());
        out.extend_from_slice(b",\"status\":{");
        let mut separator = Separator::default();
        if !message.is_empty() {
            separator.put(out);
            out.extend_from_slice(b"\"message\":");
            put_json_string(out, message);
        }
        if code != 0 {
            separator.put(out);
            write!(out, "\"code\":{code}").expect("written to memory");
        }
        out.push(b'}');
    }
}
