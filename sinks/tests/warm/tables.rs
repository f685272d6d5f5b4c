//! The other topics: trace summaries, rollups, insights, samples.

use std::collections::BTreeMap;

use infertrace_proto::v1;
use infertrace_schemas::{
    avro::{
        AvroRecord, Cause, Evidence, Exemplar, Importance, Insight, Recommendation, Rollup, SchemaIds,
        ServiceEdge, ServiceUse, Severity, Sketch, SourceRange, SpanStatus, TraceSummary,
    },
    topics,
};
use prost::Message as _;

use crate::support::*;

const SOURCE: SourceRange = SourceRange { partition: 3, first_offset: 40, last_offset: 41 };

fn encoded<R: AvroRecord>(record: &R) -> Vec<u8> {
    SchemaIds::embedded::<R>().encode(record).expect("encodes")
}

fn summary(version: i32) -> TraceSummary<'static> {
    TraceSummary {
        trace_id: "5a00000000000000000000000000000f".into(),
        version,
        tenant: "acme".into(),
        root_service: "gateway".into(),
        status: SpanStatus::Error,
        importance: Importance::Slow,
        start_unix_nanos: NOON_NS,
        end_unix_nanos: NOON_NS + 7,
        duration_nanos: 7,
        complete: true,
        incomplete_reasons: vec!["missing_root".into()],
        services: vec![ServiceUse { service: "gateway".into(), spans: 2, errors: 1, self_nanos: 5 }],
        models: vec!["llama".into()],
        input_tokens: Some(0),
        edges: vec![ServiceEdge {
            caller: "a".into(),
            callee: "b".into(),
            calls: 1,
            ..ServiceEdge::default()
        }],
        parallelism: 1.5,
        source: SOURCE,
        ..TraceSummary::default()
    }
}

fn rollup() -> Rollup {
    let sketch = Sketch {
        metric: "ttft_nanos".into(),
        count: 2,
        sum: 3.5,
        bin_counts: vec![1, 0, 1],
        ..Sketch::default()
    };
    Rollup {
        window_start_unix_nanos: NOON_NS,
        window_nanos: 10_000_000_000,
        model: "llama".into(),
        revision: 2,
        source: SOURCE,
        counters: BTreeMap::from([("requests".into(), 4), ("errors".into(), 0)]),
        sums: BTreeMap::from([("cost_usd".into(), 0.25)]),
        sketches: vec![sketch],
        exemplars: vec![Exemplar { trace_id: "ab".into(), duration_micros: 9, is_error: true }],
        ..Rollup::default()
    }
}

fn insight(id: &str, recommendation: Option<Recommendation>) -> Insight {
    Insight {
        id: id.into(),
        revision: 1,
        severity: Severity::Page,
        kind: "ttft".into(),
        opened_unix_nanos: NOON_NS,
        evidence: vec![Evidence { metric: "ttft".into(), observed: 2.0, samples: 5, ..Evidence::default() }],
        causes: vec![Cause { cause: "queue".into(), share: 0.75, ..Cause::default() }],
        recommendation,
        example_traces: vec!["ab".into()],
        ..Insight::default()
    }
}

fn samples() -> v1::GpuSampleBatch {
    let sample = |name: &str, value| v1::Sample {
        name: name.into(),
        time_unix_nano: NOON_NS,
        device_id: "GPU-1".into(),
        attributes: vec![v1::KeyValue {
            key: "model_name".into(),
            value: Some(v1::AnyValue { value: Some(v1::any_value::Value::StringValue("llama".into())) }),
        }],
        temporality: 1,
        value: Some(value),
        ..v1::Sample::default()
    };
    let histogram = v1::HistogramValue {
        count: 3,
        sum: 4.5,
        bounds: vec![1.0],
        bucket_counts: vec![1, 2],
        min: None,
        max: Some(2.0),
    };
    v1::GpuSampleBatch {
        tenant: "acme".into(),
        samples: vec![
            sample("a.number", v1::sample::Value::Number(f64::NAN)),
            sample("b.integer", v1::sample::Value::Integer(-5)),
            sample("c.histogram", v1::sample::Value::Histogram(histogram)),
        ],
        ..v1::GpuSampleBatch::default()
    }
}

/// Scenario: two versions of a summary, a rollup, insights with and without advice, samples of each kind, and a record
/// of each topic that cannot be read. Guarantee: rows with every value, absent ones as nulls; of a trace the latest
/// version counts; the unreadable ones are dead letters and hold up nothing.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_other_topics_become_rows() {
    let Some(server) = server() else { return };
    let client = client(&server);
    let world = World::new(1).await;
    world.append(topics::TRACES, 0, summary(1).to_bytes()).await;
    world.append(topics::TRACES, 0, summary(2).to_bytes()).await;
    let mut damaged = summary(3);
    damaged.trace_id = "nonsense".into();
    world.append(topics::TRACES, 0, damaged.to_bytes()).await;
    world.append(topics::ROLLUPS, 0, encoded(&rollup())).await;
    world.append(topics::ROLLUPS, 0, b"no Avro".to_vec()).await;
    let advice = Recommendation { text: "raise it".into(), expected_gain: "2x".into(), confidence: 0.5 };
    world.append(topics::INSIGHTS, 0, encoded(&insight("i1", Some(advice)))).await;
    world.append(topics::INSIGHTS, 0, encoded(&insight("i2", None))).await;
    world.append(topics::INSIGHTS, 0, b"no Avro".to_vec()).await;
    // An id that nobody knows.
    world.append(topics::INSIGHTS, 0, vec![0, 0x80, 0, 0, 1, 2]).await;
    world.append(topics::GPU, 0, samples().encode_to_vec()).await;
    world.append(topics::GPU, 0, b"\xff\xff".to_vec()).await;

    let sink = world.start(&config(server.url(), "other_topics")).await;
    let complete = "SELECT (SELECT count() FROM other_topics.traces FINAL) + (SELECT count() FROM other_topics.rollups) + \
                    (SELECT count() FROM other_topics.insights) + (SELECT count() FROM other_topics.samples)";
    until("all rows", || async { client.statement(complete).await.is_ok_and(|count| count.trim() == "7") })
        .await;
    until("all letters", || async { world.dead_letters().await == 5 }).await;
    sink.finish().await;

    let row = |sql: &'static str| value(&client, sql);
    assert_eq!(
        row("SELECT hex(trace_id), version, status, importance, toUnixTimestamp64Nano(start_time), duration_ns, complete, \
             incomplete_reasons, services, models, input_tokens, output_tokens, edges, parallelism, source_partition, \
             source_last_offset FROM other_topics.traces FINAL FORMAT TabSeparatedRaw")
        .await,
        format!("5A00000000000000000000000000000F\t2\tERROR\tSLOW\t{NOON_NS}\t7\ttrue\t['missing_root']\t[('gateway',2,1,5)]\t\
                 ['llama']\t0\t\\N\t[('a','b',1,0,0)]\t1.5\t3\t41")
    );
    assert_eq!(
        row("SELECT counters['requests'], sums, sketches.metric, sketches.bin_counts, exemplars, source_first_offset, revision \
             FROM other_topics.rollups FORMAT TabSeparatedRaw")
        .await,
        "4\t{'cost_usd':0.25}\t['ttft_nanos']\t[[1,0,1]]\t[('ab',9,true)]\t40\t2"
    );
    assert_eq!(
        row("SELECT id, severity, state, resolved, evidence, causes, recommendation_text, recommendation_confidence, \
             example_traces FROM other_topics.insights ORDER BY id FORMAT TabSeparatedRaw")
        .await,
        "i1\tPAGE\tOPEN\t\\N\t[('ttft','',2,NULL,5)]\t[('queue',0.75,'')]\traise it\t0.5\t['ab']\n\
         i2\tPAGE\tOPEN\t\\N\t[('ttft','',2,NULL,5)]\t[('queue',0.75,'')]\t\\N\t\\N\t['ab']"
    );
    assert_eq!(
        row("SELECT name, number, integer, count, max, bounds, bucket_counts, attributes, temporality FROM other_topics.samples \
             ORDER BY name FORMAT TabSeparatedRaw")
        .await,
        "a.number\tnan\t\\N\t\\N\t\\N\t[]\t[]\t{'model_name':'llama'}\tdelta\n\
         b.integer\t\\N\t-5\t\\N\t\\N\t[]\t[]\t{'model_name':'llama'}\tdelta\n\
         c.histogram\t\\N\t\\N\t3\t2\t[1]\t[1,2]\t{'model_name':'llama'}\tdelta"
    );
}
