//! [`crate::evaluate`] and [`crate::clickhouse`] on the same spans, the latter in a real ClickHouse.

use std::fmt::Write as _;

use infertrace_tests::{clickhouse::ClickHouse, http};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value as Json, json};

use super::strategies::expressions_of;
use crate::{
    Comparison, Expr, Field, Intrinsic, Kind, Operator, Query, Scope, Spanset, Status, Type, Value,
    clickhouse,
    evaluate::{Scalar, SpanSource, matches},
    field::Place,
};

const TABLE: &str = include_str!("../../../../sinks/migrations/clickhouse/0001_spans.sql");
const SPANS: u64 = 60;
const QUERIES: usize = 400;
const TEXTS: [&str; 8] = ["", "a", "b", "aé", "it's", "a\tb\n", "\\N", "\"q\"\\"];
const KEYS: [&str; 4] = ["a", "http.status", "service.name", "it's \"odd\"\\\n"];
const FLOATS: [f64; 5] = [0.5, 1.0, -1.0, 9_007_199_254_740_992.0, f64::NAN];
const INTEGERS: [i64; 4] = [0, 1, -1, 9_007_199_254_740_993];

/// A value that a span has, owned.
#[derive(Clone, Debug)]
enum Owned {
    Text(String),
    Id(Vec<u8>),
    Plain(Scalar<'static>),
}

struct Span(Vec<(Field, Owned)>);

impl SpanSource for Span {
    fn any(&self, field: &Field, test: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        self.0.iter().filter(|(known, _)| known == field).any(|(_, value)| match value {
            Owned::Text(text) => test(Scalar::Text(text)),
            Owned::Id(id) => test(Scalar::Id(id)),
            Owned::Plain(value) => test(*value),
        })
    }
}

/// Numbers in a fixed order that looks random (SplitMix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "\\'").replace('\t', "\\t").replace('\n', "\\n");
    format!("'{escaped}'")
}

fn float(number: f64) -> String {
    if number.is_nan() { "nan".to_owned() } else { format!("{number:?}") }
}

/// A value of an intrinsic, and the SQL of it in its column.
fn intrinsic_value(of: Type, place: Place, draws: &mut Draws) -> (Owned, String) {
    let plain = |value: Scalar<'static>, sql: String| (Owned::Plain(value), sql);
    match of {
        Type::Text => {
            let text = draws.one_of(&TEXTS).to_owned();
            let sql = quoted(&text);
            (Owned::Text(text), sql)
        }
        Type::Integer => {
            let number = draws.one_of(&[0_i64, 1, 7, 100]);
            plain(Scalar::Integer(number), number.to_string())
        }
        Type::Float => {
            let number = draws.one_of(&FLOATS);
            plain(Scalar::Float(number), float(number))
        }
        Type::Duration => match place {
            Place::Millis(_) => {
                let millis = draws.one_of(&[0.0, 1.1, 20.0]);
                let nanos = (millis * 1e6_f64).round_ties_even() as i64;
                plain(Scalar::Duration(nanos), float(millis))
            }
            _ => {
                let nanos = draws.one_of(&[0_i64, 1_100_000, 20_000_000]);
                plain(Scalar::Duration(nanos), nanos.to_string())
            }
        },
        Type::Bool => {
            let value = draws.below(2) == 1;
            plain(Scalar::Bool(value), value.to_string())
        }
        Type::Status => {
            let status = draws.one_of(Status::ALL);
            plain(Scalar::Status(status), (status as u8).to_string())
        }
        Type::Kind => {
            let kind = draws.one_of(Kind::ALL);
            plain(Scalar::Kind(kind), (kind as u8).to_string())
        }
        Type::TraceId | Type::SpanId => {
            let mut id = vec![0; if of == Type::TraceId { 16 } else { 8 }];
            let last = id.len() - 1;
            id[last] = draws.one_of(&[1_u8, 0xAB]);
            let sql = format!("unhex('{}')", id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            (Owned::Id(id), sql)
        }
    }
}

/// A value of an attribute, as OTLP/JSON, its map and the SQL of it there.
fn attribute_value(draws: &mut Draws) -> (Owned, Json, &'static str, String) {
    match draws.below(5) {
        0 => {
            let text = draws.one_of(&TEXTS);
            (Owned::Text(text.to_owned()), json!({"stringValue": text}), "attributes_string", quoted(text))
        }
        1 => {
            let number = draws.one_of(&INTEGERS);
            let json = json!({"intValue": number.to_string()});
            (Owned::Plain(Scalar::Integer(number)), json, "attributes_int", number.to_string())
        }
        2 => {
            let number = draws.one_of(&FLOATS);
            // JSON has no NaN: OTLP/JSON writes it as text, which compares with nothing.
            let json = if number.is_nan() { json!("NaN") } else { json!(number) };
            (
                Owned::Plain(Scalar::Float(number)),
                json!({"doubleValue": json}),
                "attributes_double",
                float(number),
            )
        }
        3 => {
            let value = draws.below(2) == 1;
            (
                Owned::Plain(Scalar::Bool(value)),
                json!({"boolValue": value}),
                "attributes_bool",
                value.to_string(),
            )
        }
        _ => {
            let json = json!({"arrayValue": {"values": [{"stringValue": "a"}]}});
            (Owned::Plain(Scalar::Other), json, "attributes_other", quoted("x"))
        }
    }
}

/// A few attributes as a list of OTLP/JSON, also added to `span`.
fn json_attributes(scope: Scope, span: &mut Span, draws: &mut Draws) -> Vec<Json> {
    let mut list = Vec::new();
    for key in KEYS.into_iter().filter(|key| *key != "service.name") {
        if draws.below(3) > 0 {
            continue;
        }
        let (mut value, json, ..) = attribute_value(draws);
        if matches!(value, Owned::Plain(Scalar::Float(number)) if number.is_nan()) {
            value = Owned::Plain(Scalar::Other);
        }
        list.push(json!({"key": key, "value": json}));
        span.0.push((Field::attribute(scope, key).expect("a key"), value));
    }
    list
}

/// A span, and the columns and values that its row is inserted with.
fn draw_span(number: u64, draws: &mut Draws) -> (Span, String) {
    let mut span = Span(Vec::new());
    let mut columns =
        vec![("_offset".to_owned(), number.to_string()), ("start_time".to_owned(), "0".to_owned())];
    for &intrinsic in Intrinsic::ALL {
        let place = intrinsic.place();
        let column = match place {
            Place::Column(column) => column,
            Place::Nullable(column) | Place::Millis(column) if draws.below(3) > 0 => column,
            _ => continue,
        };
        let (value, sql) = intrinsic_value(intrinsic.value_type(), place, draws);
        columns.push((column.to_owned(), sql));
        span.0.push((intrinsic.into(), value));
    }
    for map in
        ["attributes_string", "attributes_int", "attributes_double", "attributes_bool", "attributes_other"]
    {
        columns.push((map.to_owned(), String::new()));
    }
    for key in KEYS.into_iter().filter(|_| draws.below(2) == 0).collect::<Vec<_>>() {
        let (value, _, map, sql) = attribute_value(draws);
        let entries = &mut columns.iter_mut().find(|(name, _)| name == map).expect("a map").1;
        let comma = if entries.is_empty() { "" } else { ", " };
        let _ = write!(entries, "{comma}{}, {sql}", quoted(key));
        span.0.push((Field::attribute(Scope::Span, key).expect("a key"), value));
    }
    for (_, entries) in columns.iter_mut().filter(|(name, _)| name.starts_with("attributes_")) {
        *entries = format!("map({entries})");
    }
    let service = draws.one_of(&TEXTS);
    let mut resource = json_attributes(Scope::Resource, &mut span, draws);
    resource.push(json!({"key": "service.name", "value": {"stringValue": service}}));
    let of_service = Field::attribute(Scope::Resource, "service.name").expect("a key");
    span.0.push((of_service, Owned::Text(service.to_owned())));
    columns.push(("service_name".to_owned(), quoted(service)));
    columns.push(("resource".to_owned(), quoted(&json!({ "attributes": resource }).to_string())));
    let mut events = Vec::new();
    for _ in 0..draws.below(3) {
        let name = draws.one_of(&TEXTS);
        span.0.push((Intrinsic::EventName.into(), Owned::Text(name.to_owned())));
        let attributes = json_attributes(Scope::Event, &mut span, draws);
        let text = if attributes.is_empty() { String::new() } else { json!(attributes).to_string() };
        events.push(format!("(0, {}, {}, 0)", quoted(name), quoted(&text)));
    }
    columns.push(("events".to_owned(), format!("[{}]", events.join(", "))));
    let (names, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
    (span, format!("INSERT INTO spans ({}) VALUES ({})", names.join(", "), values.join(", ")))
}

/// Comparisons of what the spans have with what they may have.
fn comparisons() -> impl Strategy<Value = Expr> {
    let attributes =
        (select(&[Scope::Any, Scope::Span, Scope::Resource, Scope::Event][..]), select(&KEYS[..]))
            .prop_map(|(scope, key)| Field::attribute(scope, key).expect("a key"));
    let stored: Vec<Intrinsic> =
        Intrinsic::ALL.iter().copied().filter(|known| known.place() != Place::Elsewhere).collect();
    let fields = prop_oneof![attributes, select(stored).prop_map(Field::from)];
    let texts: Vec<&str> =
        TEXTS.into_iter().chain(["1", "AB", ".*", "a.*", r"\W.*", r"(?i)A\t?b?.", "[^a]"]).collect();
    let values = prop_oneof![
        3 => select(texts).prop_map(|text| Value::Text(text.to_owned())),
        2 => select(&INTEGERS[..]).prop_map(Value::Integer),
        2 => select(&FLOATS[..4]).prop_map(Value::Float),
        2 => select(&[0, 1_100_000, 20_000_000_i64][..]).prop_map(Value::Duration),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => select(Status::ALL).prop_map(Value::Status),
        1 => select(Kind::ALL).prop_map(Value::Kind),
        1 => Just(Value::Nil),
    ];
    let drawn = (fields, select(&Operator::ALL[..]), values);
    drawn.prop_filter_map("of types that compare", |(field, operator, value)| {
        Comparison::new(field, operator, value).ok().map(Expr::Compare)
    })
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn execute(url: &str, sql: &str) -> String {
    let (status, body) = http::post(url, "text/plain", sql.as_bytes()).expect("an answer");
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, 200, "{sql}\n{body}");
    body
}

/// Scenario: random spans in the table of the migration, with every column that queries ask for, awkward texts, keys
/// and numbers; random conditions over them. Guarantee: ClickHouse finds the spans that the reference finds.
#[test]
fn clickhouse_agrees_with_the_reference() {
    let Some(server) = ClickHouse::start().expect("starts") else { return };
    let url = format!("{}/?database=default", server.url());
    let table = TABLE.split("-- distributed").next().expect("a table");
    let table: String = table.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    let replacements = [
        ("{database}.", "default."),
        ("{local:spans}", "spans"),
        ("{on_cluster}", ""),
        ("{engine:MergeTree}", "MergeTree"),
        ("{dedup_window}", "non_replicated_deduplication_window = 0"),
    ];
    let table = replacements.iter().fold(table, |table, (from, to)| table.replace(from, to));
    execute(&url, table.trim().trim_end_matches(';'));
    let mut draws = Draws(7);
    let spans: Vec<Span> = (0..SPANS)
        .map(|number| {
            let (span, insert) = draw_span(number, &mut draws);
            execute(&url, &insert);
            span
        })
        .collect();

    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let conditions = expressions_of(comparisons());
    let mut found = 0;
    for _ in 0..QUERIES {
        let expression = conditions.new_tree(&mut runner).expect("a condition").current();
        let query = Query { spanset: Spanset::Filter(expression.clone()), stages: Vec::new() };
        let predicate = clickhouse::predicate(&query).expect("supported");
        let parameters: String = predicate
            .parameters
            .iter()
            .map(|parameter| format!("&param_{}={}", parameter.name, encoded(&parameter.value.escaped())))
            .collect();
        let sql = format!("SELECT _offset FROM spans WHERE {} ORDER BY _offset", predicate.sql);
        let answer = execute(&format!("{url}{parameters}"), &sql);
        let answer: Vec<usize> = answer.lines().map(|line| line.parse().expect("an offset")).collect();
        let expected: Vec<usize> = (0..spans.len()).filter(|&at| matches(&expression, &spans[at])).collect();
        assert_eq!(answer, expected, "{query}\n{}\n{:?}", predicate.sql, predicate.parameters);
        found += usize::from(!expected.is_empty() && expected.len() < spans.len());
    }
    assert!(found > QUERIES / 4, "only {found} queries found some spans and not others");
}
