use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::search::TraceQuery;

fn statements() -> Statements {
    Statements { database: "it".into(), timeout_s: 5 }
}

/// The statement with every text taken out that may stand in it whatever was asked.
fn skeleton(filters: &SpanFilters) -> String {
    let condition = Condition::new(filters, Some(7));
    let within = Span { from_ns: 1, to_ns: 2 };
    let [certain, open] =
        [statements().candidates(&condition, within, 9), statements().undecided(&condition, within, 9)];
    for statement in [&certain, &open] {
        for (name, _) in &statement.parameters {
            assert!(
                statement.sql.contains(&format!("{{{name}:")),
                "{name} is bound in vain: {}",
                statement.sql
            );
        }
        assert_eq!(statement.sql.matches('\'').count() % 2, 0, "{}", statement.sql);
    }
    format!("{}\n{}", certain.sql, open.sql)
}

proptest! {
    /// Scenario: any texts as service, operation, model, attribute's key and value. Guarantee: none is in the SQL: it is the
    /// same, letter by letter, as for harmless texts of the same kind.
    #[test]
    fn texts_are_parameters(text in "\\PC{0,40}|[';\\\\{}`\"\n\t\0-]{1,12}") {
        let of = |text: &str| SpanFilters {
            service: Some(text.to_owned()),
            operation: Some(text.to_owned()),
            model: Some(text.to_owned()),
            ..SpanFilters::default()
        };
        prop_assert_eq!(skeleton(&of(&text)), skeleton(&of("x")));
        let attribute = |key: &str, value: &str| SpanFilters {
            attributes: vec![(key.to_owned(), value.to_owned())],
            ..SpanFilters::default()
        };
        let hostile = format!("{text}'); DROP TABLE spans; --");
        // Keys and values that JSON escapes have a condition of their own.
        prop_assert_eq!(skeleton(&attribute(&hostile, &hostile)), skeleton(&attribute("';", "';")));
        let condition = Condition::new(&attribute(&hostile, &hostile), None);
        let carried = ParameterValue::Text(hostile.clone()).escaped();
        prop_assert!(condition.certain.parameters.iter().any(|(_, value)| *value == carried));
    }
}

/// Scenario: filters that SQL decides, and those that it cannot. Guarantee: the former need one statement; of the latter the
/// rows between the bounds are asked for with the columns by which they are decided.
#[test]
fn bounds_differ_where_sql_cannot_decide() {
    let plain =
        SpanFilters { service: Some("chat".into()), min_duration_ns: Some(5), ..SpanFilters::default() };
    assert!(Condition::new(&plain, None).is_exact());
    assert!(Condition::new(&SpanFilters::default(), None).is_exact());
    let of_query = |text: &str| SpanFilters {
        query: Some(Arc::new(TraceQuery::parse(text).expect("a query"))),
        ..SpanFilters::default()
    };
    assert!(Condition::new(&of_query("{ .a = 1 && status = error }"), None).is_exact());
    let open = Condition::new(&of_query("{ link.a = 1 && status = error }"), None);
    assert!(!open.is_exact());
    assert_eq!(open.columns(), [name::TRACE_ID, name::START_TIME, name::STATUS_CODE, name::LINKS]);
    let asked = statements().undecided(&open, Span { from_ns: 0, to_ns: 60 }, 10).sql;
    assert!(asked.contains("(status_code = 2)") && asked.contains("NOT ifNull(((0)), 0)"), "{asked}");
    let attribute = SpanFilters { attributes: vec![("a".into(), "x".into())], ..SpanFilters::default() };
    assert!(!Condition::new(&attribute, None).is_exact());
}

/// Scenario: traces of a few minutes, and one of a week. Guarantee: few minutes are listed, many are a range; ids are
/// hexadecimal digits; the look-up asks for the last eight bytes.
#[test]
fn look_ups_name_minutes() {
    let id: TraceId = [0xAB; 16];
    assert!(statements().minutes(&[id]).sql.contains(&format!("IN ({})", 0xABAB_ABAB_ABAB_ABAB_u64)));
    let few = statements().rows("spans", &[name::SPAN_ID], &[id], &[120, 180]).sql;
    assert!(few.starts_with("SELECT `span_id` FROM `it`.spans WHERE start_time >= "), "{few}");
    assert!(few.contains("toInt64(120000000000)") && few.contains("toInt64(240000000000)"), "{few}");
    assert!(few.contains("IN (toDateTime(120, 'UTC'), toDateTime(180, 'UTC'))"), "{few}");
    assert!(few.contains(&format!("unhex('{}')", "ab".repeat(16))), "{few}");
    let minutes: Vec<i64> = (0..10_000).map(|minute| minute * 60).collect();
    let many = statements().rows("tokens", &[name::SPAN_ID], &[id], &minutes).sql;
    assert!(!many.contains("toStartOfMinute") && many.len() < 1_000, "{many}");
}
