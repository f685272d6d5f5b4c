//! Subscribes to InferTrace's insights and trace summaries and prints each as a line of JSON.
//!
//! ```text
//! cargo run -p infertrace-tests --example insights -- --bootstrap HOST:PORT --registry http://HOST:PORT
//! cargo run -p infertrace-tests --example insights -- --bootstrap HOST:PORT    # topics written without a registry
//! ```
//! `infertrace_schemas::avro` has the records as Rust types and resolves the writer's schema against them; ids of
//! InferTrace's own (their top bit is set) are known to it.

use std::time::Duration;

use anyhow::Context as _;
use infertrace_schemas::{
    avro::{Insight, SchemaIds, TraceSummary, parse_schema, split},
    topics,
};
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::BorrowedMessage,
};
use serde_json::{Value, json};

/// What is known of writers' schemas; a registry is asked once for each id.
struct Schemas {
    registry: Option<String>,
    insights: SchemaIds,
    traces: SchemaIds,
    asked: Vec<u32>,
}

impl Schemas {
    fn learn(&mut self, id: u32) -> anyhow::Result<()> {
        let Some(registry) = self.registry.as_ref().filter(|_| id >> 31 == 0 && !self.asked.contains(&id))
        else {
            return Ok(());
        };
        let url = format!("{registry}/schemas/ids/{id}");
        let mut answer = ureq::get(&url).call().with_context(|| format!("GET {url}"))?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        let schema = parse_schema(answer["schema"].as_str().context("no schema in the answer")?)?;
        self.insights.learn(id, schema.clone());
        self.traces.learn(id, schema);
        self.asked.push(id);
        Ok(())
    }

    fn line(&mut self, message: &BorrowedMessage<'_>) -> anyhow::Result<Value> {
        let value = message.payload().unwrap_or_default();
        let (id, _) = split(value)?;
        self.learn(id)?;
        if message.topic() == topics::TRACES {
            let trace: TraceSummary<'_> = self.traces.decode(value)?;
            return Ok(json!({
                "trace_id": trace.trace_id,
                "version": trace.version,
                "root_service": trace.root_service,
                "duration_nanos": trace.duration_nanos,
                "span_count": trace.span_count,
                "output_tokens": trace.output_tokens,
            }));
        }
        let insight: Insight = self.insights.decode(value)?;
        Ok(json!({
            "id": insight.id,
            "revision": insight.revision,
            "state": insight.state,
            "severity": insight.severity,
            "model": insight.model,
            "title": insight.title,
            "cause": insight.causes.first().map_or("", |cause| cause.cause.as_str()),
            "recommendation": insight.recommendation.as_ref().map_or("", |advice| advice.text.as_str()),
        }))
    }
}

/// Hands `count` records (0 for no end) as JSON to `show`.
pub(crate) fn run(
    bootstrap: &str,
    registry: Option<&str>,
    count: usize,
    mut show: impl FnMut(Value),
) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "insights-rust")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .create()?;
    consumer.subscribe(&[topics::INSIGHTS, topics::TRACES])?;
    let mut schemas = Schemas {
        registry: registry.map(str::to_owned),
        insights: SchemaIds::embedded::<Insight>(),
        traces: SchemaIds::embedded::<TraceSummary<'static>>(),
        asked: Vec::new(),
    };
    let mut seen = 0;
    while count == 0 || seen < count {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        seen += 1;
        // One bad record must not stop the stream: say which, go on.
        let mut line = schemas.line(&message).unwrap_or_else(|error| {
            json!({"partition": message.partition(), "offset": message.offset(), "error": format!("{error:#}")})
        });
        line["topic"] = message.topic().into();
        show(line);
    }
    Ok(())
}

#[allow(dead_code)]
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let flag = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).map(String::as_str)
    };
    let bootstrap = flag("--bootstrap").context("--bootstrap HOST:PORT is missing")?;
    let count = flag("--count").map_or(Ok(0), str::parse)?;
    run(bootstrap, flag("--registry"), count, |line| println!("{line}"))
}
