//! Every column of a span comes back as it was.

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch},
    compute::{cast, concat_batches},
    datatypes::DataType,
    ipc::reader::StreamReader,
};
use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    columns::{index, name, span_schema},
    reader::{Position, SpanReader},
    topics,
};
use infertrace_sinks::clickhouse::{Client, Compression};
use prost::Message as _;

use crate::support::*;

fn pair(key: &str, value: Value) -> v1::KeyValue {
    v1::KeyValue { key: key.into(), value: Some(v1::AnyValue { value: Some(value) }) }
}

/// A span with every field.
fn full() -> v1::Span {
    let attributes = vec![
        pair("x.text", Value::StringValue("späße \0 'quoted' \\ \n".into())),
        pair("x.int", Value::IntValue(i64::MIN)),
        pair("x.double", Value::DoubleValue(f64::NEG_INFINITY)),
        pair("x.bool", Value::BoolValue(true)),
        pair("x.bytes", Value::BytesValue(vec![0, 255, 1])),
        pair(
            "x.list",
            Value::ArrayValue(v1::ArrayValue {
                values: vec![v1::AnyValue { value: Some(Value::IntValue(7)) }],
            }),
        ),
    ];
    v1::Span {
        trace_id: (1..=16).collect(),
        span_id: vec![0, 255, 3, 4, 5, 6, 7, 8],
        parent_span_id: vec![9; 8],
        service_name: "chat".into(),
        operation_name: "generate \u{1F600}".into(),
        start_time_unix_nano: NOON_NS + 123_456_789,
        duration_nanos: i64::from(u32::MAX) * 10,
        inference: Some(v1::InferenceContext {
            model_name: "llama".into(),
            model_version: "1.4".into(),
            framework: "vllm".into(),
            provider: "p".into(),
            batch_size: Some(0),
            max_batch_size: Some(u32::MAX),
            input_tokens: Some(1),
            output_tokens: Some(3),
            cached_tokens: Some(0),
            reasoning_tokens: Some(4),
            sequence_length: Some(u64::from(u32::MAX) + 1),
            request_id: "req-1".into(),
            session_id: "s".into(),
            streaming: Some(false),
            finish_reason: "stop".into(),
            ttft_nanos: Some(5),
            tpot_nanos: Some(6),
            itl_p50_nanos: Some(7),
            itl_p99_nanos: Some(8),
            itl_max_nanos: Some(9),
        }),
        resources: Some(v1::ResourceMetrics {
            gpu: Some(v1::GpuMetrics {
                device_id: "GPU-1".into(),
                index: Some(3),
                name: "H100".into(),
                instance_type: "p5".into(),
                utilization_percent: Some(25.5),
                memory_used_bytes: Some(1),
                memory_total_bytes: Some(u64::MAX / 2),
                power_watts: Some(0.1),
                temperature_celsius: Some(-1.0),
                sm_clock_mhz: Some(1),
                memory_clock_mhz: Some(2),
                throttle_reasons: Some(3),
                mig_profile: "1g".into(),
            }),
            cpu: Some(v1::CpuMetrics { cores_used: Some(1.5) }),
            memory: Some(v1::MemoryMetrics { heap_bytes: Some(1), rss_bytes: Some(2) }),
        }),
        attributes: attributes.clone(),
        events: vec![
            v1::Event {
                time_unix_nano: NOON_NS as u64,
                name: "e1".into(),
                attributes: attributes.clone(),
                dropped_attributes_count: 2,
            },
            v1::Event::default(),
        ],
        links: vec![v1::Link {
            trace_id: vec![200; 16],
            span_id: vec![201; 8],
            trace_state: "a=b".into(),
            attributes,
            dropped_attributes_count: 1,
            flags: 257,
        }],
        kind: 3,
        status: Some(v1::Status { message: "why".into(), code: 2 }),
        flags: 257,
        dropped_events_count: 1,
        dropped_links_count: 2,
        trace_state: "c=d".into(),
        dropped_attributes_count: 3,
        origin: 1,
        pipeline: Some(v1::PipelineContext {
            stage: "decode".into(),
            queue_depth: Some(0),
            queue_wait_time_ms: Some(0.25),
            batch_fill_ratio: Some(1.0),
            cache_hit: Some(true),
            cache_hit_ratio: Some(0.5),
            kv_cache_usage_ratio: Some(0.75),
            preemptions: Some(1),
        }),
        tokens: Some(v1::TokenTimeline {
            ids: vec![10, 0, u32::MAX],
            generation_micros_delta: vec![9, 8, -1],
            attention_micros: vec![1, 2, 3],
            ffn_micros: vec![],
            batch_sizes: vec![4, 4, 5],
            texts: vec!["a".into(), String::new(), "ü".into()],
        }),
        ..v1::Span::default()
    }
}

fn batch() -> v1::SpanBatch {
    let resource = v1::Resource {
        attributes: vec![pair("host.name", Value::StringValue("n1".into()))],
        ..v1::Resource::default()
    };
    let scope = v1::Scope { name: "vllm".into(), version: "1".into(), ..v1::Scope::default() };
    let origin = v1::Origin {
        resource: Some(resource),
        scope: Some(scope),
        resource_schema_url: "https://r".into(),
        scope_schema_url: "https://s".into(),
    };
    // The second has only what a span must have.
    v1::SpanBatch {
        spans: vec![full(), span(4_000)],
        tenant: "acme".into(),
        origins: vec![v1::Origin::default(), origin],
        ..v1::SpanBatch::default()
    }
}

async fn read(client: &Client, sql: &str) -> RecordBatch {
    let bytes = client.fetch(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let reader = StreamReader::try_new(bytes.as_ref(), None).expect("Arrow");
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("rows")).collect();
    concat_batches(&schema, &batches).expect("of one schema")
}

/// A column by name, texts as plain texts, in the type of `like`.
fn plain(batch: &RecordBatch, column: &str, like: &RecordBatch) -> ArrayRef {
    let wanted = match like.column_by_name(column).expect("a column of spans").data_type() {
        DataType::Dictionary(_, texts) => texts.as_ref().clone(),
        other => other.clone(),
    };
    let values = batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}"));
    cast(values, &wanted).unwrap_or_else(|error| panic!("{column}: {error}"))
}

/// Scenario: a span with every field and one with none, through each compression. Guarantee: each column of the tables,
/// read as Arrow, is the reader's own column: values, nulls, bytes that are no text, arrays, maps, tokens.
#[tokio::test(flavor = "multi_thread")]
async fn every_column_comes_back() {
    let Some(server) = server() else { return };
    let client = client(&server);
    let payload = batch().encode_to_vec();
    let mut reader = SpanReader::new();
    reader.push(&payload, Position { partition: 0, offset: 0 }).expect("read");
    let expected = reader.finish();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let database = format!("columns_{compression:?}").to_lowercase();
        let world = World::new(1).await;
        world.append(topics::SPANS, 0, payload.clone()).await;
        let sink = world
            .start(&infertrace_sinks::clickhouse::Config { compression, ..config(server.url(), &database) })
            .await;
        until_committed(&world, 1).await;
        sink.finish().await;
        let all: Vec<&str> = name::ALL.iter().copied().filter(|column| *column != name::TOKENS).collect();
        // Bytes that are no text, as hexadecimal digits.
        let hex = [name::ATTRIBUTES_OTHER, name::LINKS];
        let list: Vec<String> =
            all.iter().filter(|column| !hex.contains(column)).map(|column| format!("`{column}`")).collect();
        let sql = format!(
            "SELECT {} FROM {database}.spans ORDER BY service_name \
             SETTINGS output_format_arrow_compression_method = 'none' FORMAT ArrowStream",
            list.join(", ")
        );
        let found = read(&client, &sql).await;
        assert_eq!(found.num_rows(), 2);
        for column in all.iter().filter(|column| !hex.contains(column)) {
            assert_eq!(&plain(&found, column, &expected), &plain(&expected, column, &expected), "{column}");
        }
        check_bytes(&client, &database, &expected).await;
        check_tokens(&client, &database).await;
    }
    assert_eq!(expected.schema_ref(), &span_schema());
    assert_eq!(expected.column(index::OFFSET).len(), 2);
}

async fn check_bytes(client: &Client, database: &str, expected: &RecordBatch) {
    let others = expected.column(index::ATTRIBUTES_OTHER).as_map().value(0);
    let (keys, values) = (others.column(0).as_string::<i32>(), others.column(1).as_binary::<i32>());
    let entries: Vec<String> = (0..others.len())
        .map(|entry| {
            format!(
                "{}={}",
                keys.value(entry),
                values.value(entry).iter().map(|b| format!("{b:02X}")).collect::<String>()
            )
        })
        .collect();
    let sql = format!(
        "SELECT arrayStringConcat(arrayMap((k, v) -> concat(k, '=', hex(v)), mapKeys(attributes_other), mapValues(attributes_other)), ';') \
         FROM {database}.spans WHERE service_name = 'chat' FORMAT TabSeparatedRaw"
    );
    assert_eq!(value(client, &sql).await, entries.join(";"));
    let sql = format!(
        "SELECT hex(links[1].trace_id), hex(links[1].span_id), links[1].trace_state, links[1].dropped_attributes_count, \
         links[1].flags, links[1].attributes FROM {database}.spans WHERE service_name = 'chat' FORMAT TabSeparatedRaw"
    );
    let links = expected.column(index::LINKS).as_list::<i32>().value(0);
    let attributes =
        links.as_struct().column_by_name("attributes").expect("there").as_string::<i32>().value(0).to_owned();
    let (trace, span) = ("C8".repeat(16), "C9".repeat(8));
    assert_eq!(value(client, &sql).await, format!("{trace}\t{span}\ta=b\t1\t257\t{attributes}"));
}

async fn check_tokens(client: &Client, database: &str) {
    let sql = format!(
        "SELECT hex(span_id), tenant, ids, itl_micros, attention_micros, ffn_micros, batch_sizes, texts FROM {database}.tokens \
         FORMAT TabSeparatedRaw"
    );
    assert_eq!(
        value(client, &sql).await,
        "00FF030405060708\tacme\t[10,0,4294967295]\t[9,8,7]\t[1,2,3]\t[]\t[4,4,5]\t['a','','ü']"
    );
}
