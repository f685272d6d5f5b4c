//! A span as the API's JSON object.
//!
//! 64-bit integers are decimal strings; numbers nobody knows are left out; `attribute_types` names a type only
//! where the plain JSON of a value does not tell it.

use serde_json::{Map, Value as Json, json};

use super::{EventView, LinkView, SpanView, TokensView};
use crate::{columns::status, value};

/// OTLP's name of a span kind, without its prefix.
#[must_use]
pub const fn kind_name(kind: u8) -> &'static str {
    match kind {
        1 => "INTERNAL",
        2 => "SERVER",
        3 => "CLIENT",
        4 => "PRODUCER",
        5 => "CONSUMER",
        _ => "UNSPECIFIED",
    }
}

const fn status_name(code: u8) -> &'static str {
    match code {
        status::OK => "OK",
        status::ERROR => "ERROR",
        _ => "UNSET",
    }
}

/// An object that takes only what is known.
#[derive(Default)]
struct Known(Map<String, Json>);

impl Known {
    fn put(&mut self, key: &str, value: Option<impl Into<Json>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    fn put_u64(&mut self, key: &str, value: Option<u64>) {
        self.put(key, value.map(|value| value.to_string()));
    }

    fn put_f64(&mut self, key: &str, value: Option<f64>) {
        self.put(key, value.map(double));
    }
}

fn double(value: f64) -> Json {
    value::non_finite(value).map_or_else(|| Json::from(value), |name| Json::String(name.to_owned()))
}

impl SpanView<'_> {
    /// The span in `row` as the API shows it.
    #[must_use]
    pub fn to_json(&self, row: usize) -> Json {
        let mut span = Map::new();
        let mut put = |key: &str, value: Json| {
            span.insert(key.to_owned(), value);
        };
        put("trace_id", hex::encode(self.trace_id(row)).into());
        put("span_id", hex::encode(self.span_id(row)).into());
        put("parent_span_id", self.parent_span_id(row).map(hex::encode).unwrap_or_default().into());
        put("service", self.service(row).into());
        put("operation", self.operation(row).into());
        put("kind", kind_name(self.kind(row)).into());
        put("start_unix_nano", self.start_ns(row).to_string().into());
        put("duration_nano", self.duration_ns(row).to_string().into());
        let code = status_name(self.status_code(row));
        put("status", json!({"code": code, "message": self.status_message(row).unwrap_or_default()}));
        put("tenant", self.tenant(row).into());
        let (attributes, types) = self.attributes_json(row);
        put("attributes", attributes);
        put("attribute_types", types);
        put("resource", self.resource_json(row));
        put("scope", self.scope_json(row));
        put("events", self.events(row).iter().map(event_json).collect());
        put("links", self.links(row).iter().map(link_json).collect());
        put("inference", self.inference_json(row));
        put("gpu", self.gpu_json(row));
        put("cpu", self.cpu_json(row));
        put("memory", self.memory_json(row));
        put("queue", self.queue_json(row));
        put("batch", self.batch_json(row));
        put("cache", self.cache_json(row));
        put("stage", self.stage(row).map_or(Json::Null, Json::from));
        put("tokens", self.tokens(row).as_ref().map_or_else(|| json!([]), tokens_json));
        put("trace_state", self.trace_state(row).unwrap_or_default().into());
        put("flags", self.flags(row).into());
        put("dropped_attributes_count", self.dropped_attributes_count(row).into());
        put("dropped_events_count", self.dropped_events_count(row).into());
        put("dropped_links_count", self.dropped_links_count(row).into());
        Json::Object(span)
    }

    fn attributes_json(&self, row: usize) -> (Json, Json) {
        let (mut plain, mut types) = (Map::new(), Map::new());
        for (key, attribute) in self.attributes(row) {
            put_plain(&mut plain, &mut types, key, value::plain_json(&attribute.any_value()));
        }
        (Json::Object(plain), Json::Object(types))
    }

    fn resource_json(&self, row: usize) -> Json {
        let mut resource = plain_origin(self.resource(row));
        if let Some(url) = self.resource_schema_url(row) {
            resource.insert("schema_url".to_owned(), url.into());
        }
        Json::Object(resource)
    }

    fn scope_json(&self, row: usize) -> Json {
        let mut scope = plain_origin(self.scope(row));
        if let Some(url) = self.scope_schema_url(row) {
            scope.insert("schema_url".to_owned(), url.into());
        }
        Json::Object(scope)
    }

    fn inference_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put("model_name", self.model_name(row));
        known.put("model_version", self.model_version(row));
        known.put("framework", self.framework(row));
        known.put("provider", self.provider(row));
        known.put("batch_size", self.batch_size(row));
        known.put("max_batch_size", self.max_batch_size(row));
        known.put_u64("input_tokens", self.input_tokens(row));
        known.put_u64("output_tokens", self.output_tokens(row));
        known.put_u64("cached_tokens", self.cached_tokens(row));
        known.put_u64("reasoning_tokens", self.reasoning_tokens(row));
        known.put_u64("sequence_length", self.sequence_length(row));
        known.put("request_id", self.request_id(row));
        known.put("session_id", self.session_id(row));
        known.put("streaming", self.streaming(row));
        known.put("finish_reason", self.finish_reason(row));
        known.put_u64("ttft_nano", self.ttft_ns(row));
        known.put_u64("tpot_nano", self.tpot_ns(row));
        known.put_u64("itl_p50_nano", self.itl_p50_ns(row));
        known.put_u64("itl_p99_nano", self.itl_p99_ns(row));
        known.put_u64("itl_max_nano", self.itl_max_ns(row));
        Json::Object(known.0)
    }

    fn gpu_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put("device_id", self.gpu_device_id(row));
        known.put("index", self.gpu_index(row));
        known.put("name", self.gpu_name(row));
        known.put("instance_type", self.gpu_instance_type(row));
        known.put_f64("utilization_percent", self.gpu_utilization_percent(row));
        known.put_u64("memory_used_bytes", self.gpu_memory_used_bytes(row));
        known.put_u64("memory_total_bytes", self.gpu_memory_total_bytes(row));
        known.put_f64("power_watts", self.gpu_power_watts(row));
        known.put_f64("temperature_celsius", self.gpu_temperature_celsius(row));
        known.put("sm_clock_mhz", self.gpu_sm_clock_mhz(row));
        known.put("memory_clock_mhz", self.gpu_memory_clock_mhz(row));
        known.put_u64("throttle_reasons", self.gpu_throttle_reasons(row));
        known.put("mig_profile", self.gpu_mig_profile(row));
        Json::Object(known.0)
    }

    fn cpu_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put_f64("cores_used", self.cpu_cores_used(row));
        Json::Object(known.0)
    }

    fn memory_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put_u64("heap_bytes", self.memory_heap_bytes(row));
        known.put_u64("rss_bytes", self.memory_rss_bytes(row));
        Json::Object(known.0)
    }

    fn queue_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put("depth", self.queue_depth(row));
        known.put_f64("wait_time_ms", self.queue_wait_ms(row));
        known.put("preemptions", self.preemptions(row));
        Json::Object(known.0)
    }

    fn batch_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put("size", self.batch_size(row));
        known.put("max_size", self.max_batch_size(row));
        known.put_f64("fill_ratio", self.batch_fill_ratio(row));
        Json::Object(known.0)
    }

    fn cache_json(&self, row: usize) -> Json {
        let mut known = Known::default();
        known.put("hit", self.cache_hit(row));
        known.put_f64("hit_ratio", self.cache_hit_ratio(row));
        known.put_u64("cached_tokens", self.cached_tokens(row));
        known.put_f64("kv_usage_ratio", self.kv_cache_usage_ratio(row));
        Json::Object(known.0)
    }
}

fn put_plain(
    plain: &mut Map<String, Json>,
    types: &mut Map<String, Json>,
    key: &str,
    (value, kind): (Json, Option<String>),
) {
    match kind {
        Some(kind) => types.insert(key.to_owned(), kind.into()),
        // A repeated key counts once, with its last value.
        None => types.remove(key),
    };
    plain.insert(key.to_owned(), value);
}

fn event_json(event: &EventView<'_>) -> Json {
    let (attributes, types) = plain_attributes(&parse_otlp(event.attributes));
    json!({
        "time_unix_nano": (event.time_ns as u64).to_string(),
        "name": event.name,
        "attributes": attributes,
        "attribute_types": types,
        "dropped_attributes_count": event.dropped_attributes_count,
    })
}

fn link_json(link: &LinkView<'_>) -> Json {
    let (attributes, types) = plain_attributes(&parse_otlp(link.attributes));
    json!({
        "trace_id": hex::encode(link.trace_id),
        "span_id": hex::encode(link.span_id),
        "trace_state": link.trace_state,
        "attributes": attributes,
        "attribute_types": types,
        "dropped_attributes_count": link.dropped_attributes_count,
        "flags": link.flags,
    })
}

fn tokens_json(tokens: &TokensView<'_>) -> Json {
    (0..tokens.len())
        .map(|index| {
            let mut known = Known::default();
            known.put("index", Some(index));
            known.put("id", tokens.ids.get(index).copied());
            known.put("itl_micros", tokens.itl_micros.get(index).copied());
            known.put("attention_micros", tokens.attention_micros.get(index).copied());
            known.put("ffn_micros", tokens.ffn_micros.get(index).copied());
            known.put("batch_size", tokens.batch_sizes.get(index).copied());
            known.put("text", tokens.texts.get(index).copied());
            Json::Object(known.0)
        })
        .collect()
}

/// A resource or scope, OTLP/JSON in its column, with its attributes as plain JSON.
fn plain_origin(otlp: &str) -> Map<String, Json> {
    let parsed = parse_otlp(otlp);
    let mut origin = Map::new();
    for (key, value) in parsed.as_object().into_iter().flatten() {
        match key.as_str() {
            "attributes" => {}
            "droppedAttributesCount" => {
                origin.insert("dropped_attributes_count".to_owned(), value.clone());
            }
            _ => {
                origin.insert(key.clone(), value.clone());
            }
        }
    }
    let (attributes, types) = plain_attributes(&parsed["attributes"]);
    origin.insert("attributes".to_owned(), attributes);
    origin.insert("attribute_types".to_owned(), types);
    origin
}

/// The plain form of an OTLP/JSON array of KeyValue, and the ambiguous types.
fn plain_attributes(entries: &Json) -> (Json, Json) {
    let (mut plain, mut types) = (Map::new(), Map::new());
    for entry in entries.as_array().into_iter().flatten() {
        let key = entry["key"].as_str().unwrap_or_default();
        put_plain(&mut plain, &mut types, key, plain_value(&entry["value"]));
    }
    (Json::Object(plain), Json::Object(types))
}

/// The plain form of an OTLP/JSON AnyValue whose doubles [`parse_otlp`] left as text.
fn plain_value(otlp: &Json) -> (Json, Option<String>) {
    let Some((kind, content)) = otlp.as_object().and_then(|object| object.iter().next()) else {
        return (Json::Null, None);
    };
    match kind.as_str() {
        "intValue" => (content.clone(), Some("int".to_owned())),
        "bytesValue" => (content.clone(), Some("bytes".to_owned())),
        "doubleValue" => {
            let text = content.as_str().unwrap_or_default();
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => (Json::from(number), None),
                _ => (content.clone(), Some("double".to_owned())),
            }
        }
        "arrayValue" => {
            let items = content["values"].as_array().into_iter().flatten().map(plain_value);
            let (values, kinds): (Vec<Json>, Vec<Option<String>>) = items.unzip();
            (Json::Array(values), value::array_type(kinds))
        }
        "kvlistValue" => (plain_attributes(&content["values"]).0, None),
        _ => (content.clone(), None),
    }
}

/// Parses OTLP/JSON text of our own making, with doubles as text: serde_json may round a double of 17
/// digits to its neighbour, the standard library does not.
fn parse_otlp(text: &str) -> Json {
    const KEY: &str = "doubleValue";
    let bytes = text.as_bytes();
    let mut quoted = Vec::with_capacity(text.len());
    let mut rest = 0;
    while let Some(open) = find_quote(bytes, rest) {
        let close = end_of_string(bytes, open);
        quoted.extend_from_slice(&bytes[rest..close]);
        rest = close;
        let number = close + 1;
        if &bytes[open + 1..close.saturating_sub(1).max(open + 1)] == KEY.as_bytes()
            && bytes.get(close) == Some(&b':')
            && bytes.get(number).is_some_and(|&byte| byte != b'"')
        {
            let length = bytes[number..].iter().position(|byte| matches!(byte, b'}' | b',')).unwrap_or(0);
            quoted.extend_from_slice(b":\"");
            quoted.extend_from_slice(&bytes[number..number + length]);
            quoted.push(b'"');
            rest = number + length;
        }
    }
    quoted.extend_from_slice(&bytes[rest..]);
    serde_json::from_slice(&quoted).unwrap_or(Json::Null)
}

fn find_quote(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].iter().position(|&byte| byte == b'"').map(|index| from + index)
}

/// One past the quote that closes the string which opens at `open`.
fn end_of_string(bytes: &[u8], open: usize) -> usize {
    let mut index = open + 1;
    while let Some(&byte) = bytes.get(index) {
        match byte {
            b'"' => return index + 1,
            b'\\' => index += 2,
            _ => index += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: OTLP/JSON with doubles of 17 digits, text that looks like JSON, and the key as a text.
    /// Guarantee: every number is exact and no text is touched.
    #[test]
    fn doubles_survive_their_text() {
        let numbers = [0.1, 123_456.789_012_345_68, 2.2250738585072014e-308, 9007199254740993.0, -0.0, 1e300];
        for number in numbers {
            let mut text = Vec::new();
            value::put_otlp_entry(&mut text, "a\"doubleValue\":1", &value::AnyValue::Double(number));
            let text = format!("[{}]", String::from_utf8(text).expect("JSON is text"));
            let (plain, types) = plain_attributes(&parse_otlp(&text));
            assert_eq!(
                plain["a\"doubleValue\":1"].as_f64().map(f64::to_bits),
                Some(number.to_bits()),
                "{text}"
            );
            assert_eq!(types, json!({}));
        }
        let text = r#"[{"key":"doubleValue","value":{"stringValue":"\\\"doubleValue\":7}"}}]"#;
        assert_eq!(plain_attributes(&parse_otlp(text)).0["doubleValue"], "\\\"doubleValue\":7}");
        assert_eq!(plain_attributes(&parse_otlp("")).0, json!({}));
    }
}
