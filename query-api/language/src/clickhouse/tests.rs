use super::*;
use crate::parse;

fn compiled(text: &str) -> Result<Predicate, Unsupported> {
    predicate(&parse(text).unwrap_or_else(|error| panic!("{}", error.render(text))))
}

#[test]
fn dump() {
    for text in [
        r#"{ resource.service.name = "chat" && duration > 1.5s && status = error }"#,
        r#"{ llm:model =~ "llama.*" && !(llm:model = "llama-2") }"#,
        r#"{ llm:queueWait >= 20ms || llm:ttft = nil }"#,
        r#"{ span.a = "x" }"#,
        r#"{ span.a != "x" }"#,
        r#"{ span.a = "" }"#,
        r#"{ span.a !~ "x" }"#,
        "{ span.a > 5 }",
        "{ span.a = true }",
        "{ span.a = nil }",
        r#"{ .a = "x" }"#,
        "{ .a != nil }",
        r#"{ .service.name = "chat" }"#,
        r#"{ resource.a = "x" }"#,
        "{ resource.a < 0.5 }",
        "{ resource.\"it's\" = false }",
        "{ resource.a = nil }",
        r#"{ event:name = "exception" && event.kind != "x" }"#,
        r#"{ trace:id = "ab" && span:parentID = nil && span:id != "1" }"#,
        "{ }",
        "{ name = nil }",
    ] {
        let p = compiled(text).expect(text);
        println!(
            "{text}\n  {}\n  {:?}",
            p.sql,
            p.parameters.iter().map(|p| p.value.escaped()).collect::<Vec<_>>()
        );
    }
}
