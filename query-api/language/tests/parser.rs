//! What is parsed, and what is said about what is not.

use infertrace_query_language::{Expr, Intrinsic, Query, QueryError, Spanset, limits, parse};

fn parsed(text: &str) -> Query {
    parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn refused(text: &str) -> QueryError {
    parse(text).expect_err(text)
}

/// Scenario: queries as people and Grafana write them. Guarantee: they parse, and print in one form.
#[test]
fn queries_print_in_one_form() {
    for (written, printed) in [
        ("{}", "{ }"),
        ("{ true }", "{ }"),
        (
            r#"{resource.service.name="chat"&&duration>1.5s}"#,
            r#"{ resource.service.name = "chat" && duration > 1500ms }"#,
        ),
        ("{ 300ms < duration }", "{ duration > 300ms }"),
        ("{ .cached }", "{ .cached = true }"),
        ("{ !.cached && !(name = `a`) }", r#"{ !(.cached = true) && !(name = "a") }"#),
        (r#"{ .a = 1 || .b = 2 && .c = 3 }"#, r#"{ (.a = 1 || .b = 2) && .c = 3 }"#),
        (r#"{ .a = 1 || (.b = 2 && .c = 3) }"#, r#"{ .a = 1 || (.b = 2 && .c = 3) }"#),
        (r#"{ span."odd key".x = -2.50 }"#, r#"{ span."odd key.x" = -2.5 }"#),
        ("{ .http-status != nil && span:kind = server }", "{ .http-status != nil && kind = server }"),
        ("{ trace:id = \"AB\" }", "{ trace:id = \"000000000000000000000000000000ab\" }"),
        (r#"{ name =~ "a\"\\d\u00e9" }"#, r#"{ name =~ "a\"\\dé" }"#),
        ("{ duration = 1h30m }", "{ duration = 90m }"),
        ("{ llm:ttft > 0.25s } >> { status = error }", "{ llm:ttft > 250ms } >> { status = error }"),
        ("{} || {} > {} && ({} ~ {})", "({ } || ({ } > { })) && ({ } ~ { })"),
        (
            "{ } | by(resource.service.name) | avg(duration) > 1s | select(.a, llm:model) | count() >= 2",
            "{ } | by(resource.service.name) | avg(duration) > 1s | select(.a, llm:model) | count() >= 2",
        ),
    ] {
        assert_eq!(parsed(written).to_string(), printed);
        assert_eq!(parsed(printed), parsed(written));
    }
}

/// Scenario: mistakes, one a query. Guarantee: the message names the mistake and its column.
#[test]
fn mistakes_are_pointed_at() {
    for (text, message) in [
        ("", "expected `{`; the query ends here at column 1"),
        ("{ duration = }", "expected a value after `=` at column 14"),
        ("{ duration = ", "expected a value after `=`; the query ends here at column 14"),
        (
            "{ duration > \"1s\" }",
            "`duration` is a duration, not text; write a number with its unit, such as `300ms` at column 14",
        ),
        (
            "{ duration > 100 }",
            "`duration` is a duration, not a whole number; write a number with its unit, such as `300ms` at column 14",
        ),
        ("{ status > error }", "`>` does not apply to a status; compare it with `=` or `!=` at column 10"),
        (
            "{ status = 2 }",
            "`status` is a status, not a whole number; write `error`, `ok` or `unset` at column 12",
        ),
        (
            "{ .level = error }",
            "`.level` is an attribute, not a status; put the text in quotes, or compare `status` or `kind` at column 12",
        ),
        (
            "{ .a = x }",
            "there is no field `x`; an attribute begins with a dot (`.x`), text stands in quotes at column 8",
        ),
        (
            "{ model = \"a\" }",
            "there is no field `model`; an attribute begins with a dot (`.model`), text stands in quotes at column 3",
        ),
        ("{ llm:modle = \"a\" }", "there is no field `llm:modle` at column 3"),
        (
            "{ http.status = 2 }",
            "`http.` is no scope; attributes begin with `.` or with `span.`, `resource.`, `event.`, `link.`, `instrumentation.` at column 3",
        ),
        ("{ .a = 'b' }", "text stands in double quotes or backticks at column 8"),
        ("{ .a == 1 }", "equality is written `=` at column 6"),
        ("{ .a = 1 and .b = 2 }", "expected `&&`, `||` or `}`; write `&&` at column 10"),
        ("{ .a = 1 & .b = 2 }", "conditions are joined by `&&` at column 10"),
        ("{ .a = .b }", "comparing two fields is not supported; expected a value at column 8"),
        ("{ !.a = 1 }", "what `!` negates stands in parentheses: `!( … )` at column 3"),
        ("{ name }", "expected an operator such as `=` after `name` at column 8"),
        ("{ .a = 5x }", "\"x\" is no unit; there are ns, us, ms, s, m, h, d, w and y at column 9"),
        ("{ .a = 99999999999999999999 }", "this number does not fit into 64 bits at column 8"),
        ("{ .a =~ \"(\" }", "not a regular expression: unclosed group at column 9"),
        (
            "{ .a =~ 5 }",
            "`=~` does not apply to a whole number; a regular expression is text in quotes at column 6",
        ),
        (
            "{ .a =~ \"\\d\" }",
            "`\\d` is no escape; write `\\\\d`, or put the text in backticks instead of quotes at column 10",
        ),
        ("{ .a = \"b }", "this quote is not closed at column 8"),
        ("{ . = 1 }", "expected an attribute's key after `.` at column 4"),
        (
            "{ trace:id = \"xyz\" }",
            "`trace:id` is compared with 1 to 32 hexadecimal digits in quotes at column 14",
        ),
        ("{ (.a = 1 }", "expected `)` at column 11"),
        ("{ } }", "expected `|` and a stage, or the query's end at column 5"),
        (
            "{ } | rate()",
            "`rate` is not supported as a stage; expected `count()`, `avg(…)`, `min(…)`, `max(…)`, `sum(…)`, `by(…)` or `select(…)` at column 7",
        ),
        ("{ } | avg(name) > 1", "`avg` is of numbers or durations; `name` is text at column 11"),
        (
            "{ } | avg(duration) > 1",
            "`avg(duration)` is a duration, not a whole number; write a number with its unit, such as `300ms` at column 23",
        ),
        ("({ } | count() > 1)", "stages stand behind the whole query, not in parentheses at column 6"),
        ("{ parent.a = 1 }", "attributes of the parent (`parent.`) are not supported; use `>` at column 3"),
    ] {
        assert_eq!(refused(text).to_string(), message, "{text}");
    }
    let text = "{ duration = }";
    let expected = format!("expected a value after `=` at column 14\n  {text}\n               ^");
    assert_eq!(refused(text).render(text), expected);
}

/// Scenario: queries just within and just beyond each limit. Guarantee: the first are taken, the others refused by
/// the limit's name, however large they are.
#[test]
fn limits_hold() {
    let nested = |open: &str, depth: usize| {
        let close = if open.contains('(') { ")".repeat(depth) } else { String::new() };
        format!("{{ {}(.a = 1){close} }}", open.repeat(depth))
    };
    for open in ["(", "!", "!("] {
        let per_level = open.len();
        parsed(&nested(open, (limits::DEPTH - 1) / per_level));
        assert!(refused(&nested(open, 1 + limits::DEPTH / per_level)).message().contains("nested"), "{open}");
        assert!(parse(&nested(open, 2_000)).is_err());
    }
    let spansets = |depth| format!("{}{{ }}{}", "(".repeat(depth), ")".repeat(depth));
    parsed(&spansets(limits::DEPTH));
    assert!(refused(&spansets(limits::DEPTH + 1)).message().contains("nested"));

    let terms = |count| format!("{{ {} }}", vec![".a = 1"; count].join(" && "));
    parsed(&terms(limits::TERMS - 1));
    assert!(refused(&terms(limits::TERMS)).message().contains("terms"));
    let patterns = |count| format!("{{ {} }}", vec![".a =~ `b`"; count].join(" && "));
    parsed(&patterns(limits::PATTERNS));
    assert!(refused(&patterns(limits::PATTERNS + 1)).message().contains("regular expressions"));
    let long = |length: usize| format!("{{ .a = \"{}\" }}", "b".repeat(length - 11));
    parsed(&long(limits::LENGTH));
    assert!(refused(&long(limits::LENGTH + 1)).message().contains("long"));
    assert!(refused("{ .a =~ `((a{99}){99}){99}` }").message().contains("memory"));
}

/// Scenario: negations around everything. Guarantee: the normal form negates comparisons only and has no constants
/// beside anything.
#[test]
fn normal_form() {
    for (written, normal) in [
        ("{ !(.a = 1 && !(.b = 2 || .c = 3)) }", "{ !(.a = 1) || .b = 2 || .c = 3 }"),
        ("{ !(true && .a = 1) }", "{ !(.a = 1) }"),
        ("{ .a = 1 || !false }", "{ }"),
        ("{ .a = 1 && (false || false) }", "{ false }"),
    ] {
        let Spanset::Filter(expression) = parsed(written).spanset else { panic!("one filter") };
        let normal = normal.replace("|| .b = 2 || .c = 3", "|| (.b = 2 || .c = 3)");
        assert_eq!(
            Query { spanset: Spanset::Filter(expression.normalised()), stages: Vec::new() }.to_string(),
            normal
        );
        assert!(!matches!(expression.normalised(), Expr::Not(inner) if !matches!(*inner, Expr::Compare(_))));
    }
}

/// Scenario: the document of the language. Guarantee: its examples parse, and it names every field.
#[test]
fn the_document_is_true() {
    let document = include_str!("../../../docs/query-language.md");
    let (_, examples) = document.split_once("```traceql\n").expect("examples");
    let (examples, _) = examples.split_once("```").expect("their end");
    assert!(examples.lines().map(parsed).count() > 3);
    for intrinsic in Intrinsic::ALL {
        assert!(document.contains(&format!("`{intrinsic}`")), "{intrinsic} is not documented");
    }
}
