//! Attributes as rows of a table: flattened keys, readable values, OTLP's types.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::{Fields, number_of};
use crate::format;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Key.
    pub key: String,
    /// Value; strings without quotes, arrays and objects as JSON.
    pub value: String,
    /// `string`, `int`, `double`, `bool`, `array`, `object`, `bytes` or `null`.
    pub kind: &'static str,
}

/// Rows of an object of attributes, by key. `types` says what the JSON alone does not.
pub fn rows(attributes: Option<&RawValue>, types: Option<&RawValue>) -> Vec<Row> {
    let parse = |raw: Option<&RawValue>| {
        raw.and_then(|raw| serde_json::from_str::<Map<String, Value>>(raw.get()).ok()).unwrap_or_default()
    };
    rows_of(&parse(attributes), &parse(types))
}

fn rows_of(attributes: &Map<String, Value>, types: &Map<String, Value>) -> Vec<Row> {
    let mut out: Vec<Row> = attributes
        .iter()
        .map(|(key, value)| Row {
            key: key.clone(),
            value: text_of(value),
            kind: kind_of(value, types.get(key).and_then(Value::as_str)),
        })
        .collect();
    out.sort_by(|a, b| a.key.cmp(&b.key));
    out
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn kind_of(value: &Value, told: Option<&str>) -> &'static str {
    match (told, value) {
        (Some("int"), _) => "int",
        (Some("bytes"), _) => "bytes",
        (Some("double"), _) => "double",
        (_, Value::String(_)) => "string",
        (_, Value::Bool(_)) => "bool",
        (_, Value::Number(_)) => "double",
        (_, Value::Array(_)) => "array",
        (_, Value::Object(_)) => "object",
        (_, Value::Null) => "null",
    }
}

/// Rows of a resource or scope: its attributes, and its other members before them.
pub fn origin_rows(origin: Option<&RawValue>) -> Vec<Row> {
    let Some(Value::Object(members)) = origin.and_then(|raw| serde_json::from_str(raw.get()).ok()) else {
        return Vec::new();
    };
    let empty = Map::new();
    let object = |name: &str| members.get(name).and_then(Value::as_object);
    let Some(attributes) = object("attributes") else {
        // A plain map of attributes is taken as it is.
        return rows_of(&members, &empty)
            .into_iter()
            .filter(|row| row.key != "attribute_types" && !row.value.is_empty())
            .collect();
    };
    let mut out: Vec<Row> = members
        .iter()
        .filter(|(key, _)| *key != "attributes" && *key != "attribute_types")
        .map(|(key, value)| Row { key: key.clone(), value: text_of(value), kind: kind_of(value, None) })
        .filter(|row| !row.value.is_empty() && row.value != "0")
        .collect();
    out.extend(rows_of(attributes, object("attribute_types").unwrap_or(&empty)));
    out
}

/// A known field of `inference`, `gpu`, … in words, with its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Words.
    pub label: String,
    /// With unit.
    pub value: String,
    /// Exact value for the tooltip, where `value` is rounded.
    pub exact: String,
}

/// Fields of a group in the order of `ORDER` below, unknown ones after them.
pub fn fields(group: &Fields) -> Vec<Field> {
    let mut out: Vec<(usize, Field)> = group
        .0
        .iter()
        .filter_map(|(name, value)| {
            let rank = ORDER.iter().position(|known| known.0 == name).unwrap_or(ORDER.len());
            let label = ORDER.get(rank).map_or_else(|| words(name), |known| known.1.to_owned());
            let text = field_text(name, value)?;
            Some((rank, Field { label, exact: text_of(value), value: text }))
        })
        .collect();
    out.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.label.cmp(&b.1.label)));
    out.into_iter().map(|(_, field)| field).collect()
}

const ORDER: [(&str, &str); 42] = [
    ("model_name", "Model"),
    ("model_version", "Model version"),
    ("framework", "Framework"),
    ("provider", "Provider"),
    ("request_id", "Request id"),
    ("session_id", "Session id"),
    ("input_tokens", "Input tokens"),
    ("output_tokens", "Output tokens"),
    ("reasoning_tokens", "Reasoning tokens"),
    ("sequence_length", "Sequence length"),
    ("ttft_nano", "TTFT"),
    ("tpot_nano", "TPOT"),
    ("itl_p50_nano", "ITL median"),
    ("itl_p99_nano", "ITL p99"),
    ("itl_max_nano", "ITL max"),
    ("streaming", "Streaming"),
    ("finish_reason", "Finish reason"),
    ("batch_size", "Batch size"),
    ("max_batch_size", "Batch size limit"),
    ("name", "Device"),
    ("device_id", "Device id"),
    ("index", "Index"),
    ("instance_type", "Instance type"),
    ("mig_profile", "MIG profile"),
    ("utilization_percent", "Utilisation"),
    ("memory_used_bytes", "Memory used"),
    ("memory_total_bytes", "Memory total"),
    ("power_watts", "Power"),
    ("temperature_celsius", "Temperature"),
    ("sm_clock_mhz", "SM clock"),
    ("memory_clock_mhz", "Memory clock"),
    ("throttle_reasons", "Throttling"),
    ("depth", "Depth"),
    ("wait_time_ms", "Wait"),
    ("size", "Size"),
    ("max_size", "Limit"),
    ("fill_ratio", "Fill"),
    ("hit", "Hit"),
    ("hit_ratio", "Hit ratio"),
    ("cached_tokens", "Cached tokens"),
    ("kv_usage_ratio", "KV cache in use"),
    ("preemptions", "Preemptions"),
];

/// Units are in the names: `_nano`, `_ms`, `_bytes`, `_ratio`, `_percent`, `_watts`, `_celsius`, `_mhz`, `_tokens`.
fn field_text(name: &str, value: &Value) -> Option<String> {
    let plain = match value {
        Value::Null => return None,
        Value::Bool(flag) => return Some(if *flag { "yes" } else { "no" }.to_owned()),
        other => text_of(other),
    };
    if plain.is_empty() {
        return None;
    }
    let Some(number) = number_of(value) else {
        return Some(plain);
    };
    let ends = |suffix: &str| name.ends_with(suffix);
    let unit = |unit: &str| format!("{}\u{a0}{unit}", format::significant(number));
    Some(match () {
        () if ends("_nano") || ends("_ns") || ends("_nanos") => format::duration(number as i64),
        () if ends("_ms") => format::duration((number * 1e6) as i64),
        () if ends("_bytes") => format::bytes(number),
        () if ends("_ratio") => format::percent(number),
        () if ends("_percent") => unit("%"),
        () if ends("_watts") => unit("W"),
        () if ends("_celsius") => unit("°C"),
        () if ends("_mhz") => unit("MHz"),
        () if name == "throttle_reasons" => throttle_reasons(number as u64),
        () if ends("tokens") || ends("sequence_length") => format::count(number as u64),
        () => plain,
    })
}

/// NVML's clocks event reasons in words.
pub fn throttle_reasons(mask: u64) -> String {
    const NAMES: [(u64, &str); 9] = [
        (0x1, "idle"),
        (0x2, "application clocks"),
        (0x4, "software power cap"),
        (0x8, "hardware slowdown"),
        (0x10, "sync boost"),
        (0x20, "software thermal"),
        (0x40, "hardware thermal"),
        (0x80, "power brake"),
        (0x100, "display clocks"),
    ];
    let named: Vec<&str> = NAMES.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect();
    match (mask, named.is_empty()) {
        (0, _) => "none".to_owned(),
        (_, true) => format!("0x{mask:x}"),
        _ => named.join(", "),
    }
}

fn words(name: &str) -> String {
    let text = name.replace('_', " ");
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("json")
    }

    /// Scenario: every OTLP type as the API writes it. Guarantee: type and text are told, rows are sorted.
    #[test]
    fn attribute_types() {
        let attributes = raw(
            r#"{"s":"x","i":"9007199254740993","f":1.5,"n":"NaN","b":true,"a":[1,"2"],"o":{"k":1},"y":"aGk="}"#,
        );
        let types = raw(r#"{"i":"int","n":"double","y":"bytes"}"#);
        let found: Vec<(String, String, &str)> = rows(Some(&attributes), Some(&types))
            .into_iter()
            .map(|row| (row.key, row.value, row.kind))
            .collect();
        let expected = [
            ("a", r#"[1,"2"]"#, "array"),
            ("b", "true", "bool"),
            ("f", "1.5", "double"),
            ("i", "9007199254740993", "int"),
            ("n", "NaN", "double"),
            ("o", r#"{"k":1}"#, "object"),
            ("s", "x", "string"),
            ("y", "aGk=", "bytes"),
        ];
        assert_eq!(found, expected.map(|(key, value, kind)| (key.to_owned(), value.to_owned(), kind)));
        assert!(rows(None, None).is_empty());
    }

    /// Scenario: a resource with and without the wrapping member. Guarantee: the same rows.
    #[test]
    fn origins() {
        let wrapped = origin_rows(Some(&raw(
            r#"{"attributes":{"service.name":"gw"},"attribute_types":{},"schema_url":"u"}"#,
        )));
        assert_eq!(
            wrapped.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(),
            ["schema_url", "service.name"]
        );
        assert_eq!(origin_rows(Some(&raw(r#"{"service.name":"gw"}"#)))[0].value, "gw");
    }

    /// Scenario: known and unknown fields. Guarantee: words, units from the names, the order of the table.
    #[test]
    fn grouped_fields() {
        let members = serde_json::from_str(
            r#"{"utilization_percent":87.25,"memory_used_bytes":"76441190400","name":"H100","new_thing_ms":2,"throttle_reasons":"68"}"#,
        )
        .expect("json");
        let group = Fields(members);
        let found: Vec<String> = fields(&group)
            .into_iter()
            .map(|field| format!("{}={}", field.label, field.value.replace('\u{a0}', " ")))
            .collect();
        assert_eq!(
            found,
            [
                "Device=H100",
                "Utilisation=87.2 %",
                "Memory used=71.2 GiB",
                "Throttling=software power cap, hardware thermal",
                "New thing ms=2 ms"
            ]
        );
    }
}
