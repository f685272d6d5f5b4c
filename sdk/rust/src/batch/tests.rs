//! The builder's bytes against prost's reading of them.

use infertrace_proto::v1;
use prost::Message;

use super::*;
use crate::Gpu;

fn decode(batch: &SpanBatch) -> v1::SpanBatch {
    v1::SpanBatch::decode(batch.encode().as_slice()).expect("the builder writes protobuf")
}

/// Scenario: a span with every field set. Guarantee: prost reads each value back, and encodes to a message of
/// the same length (so nothing is written twice and every varint is shortest).
#[test]
fn every_field_is_what_prost_reads() {
    let mut builder = SpanBatchBuilder::new();
    builder.origin(&[("service.name", "first".into())], "", "");
    let origin = builder.origin(&[("service.name", "second".into()), ("n", 3.into())], "scope", "1.2");
    let inference = Inference {
        model_name: "m",
        model_version: "v",
        framework: "vllm",
        provider: "openai",
        batch_size: Some(8),
        max_batch_size: Some(32),
        input_tokens: Some(1_000),
        output_tokens: Some(0),
        cached_tokens: Some(512),
        reasoning_tokens: Some(3),
        sequence_length: Some(1_300),
        request_id: "r",
        session_id: "s",
        streaming: Some(false),
        finish_reason: "stop",
        ttft_nanos: Some(u64::MAX),
        tpot_nanos: Some(1),
        itl_p50_nanos: Some(2),
        itl_p99_nanos: Some(3),
        itl_max_nanos: Some(4),
    };
    let resources = Resources {
        gpu: Some(Gpu {
            device_id: "GPU-1",
            index: Some(0),
            name: "H100",
            instance_type: "p5",
            utilization_percent: Some(50.5),
            memory_used_bytes: Some(1 << 36),
            memory_total_bytes: Some(1 << 37),
            power_watts: Some(300.0),
            temperature_celsius: Some(61.0),
            sm_clock_mhz: Some(1_980),
            memory_clock_mhz: Some(2_619),
            throttle_reasons: Some(4),
            mig_profile: "1g.10gb",
        }),
        cpu_cores_used: Some(1.5),
        memory_heap_bytes: Some(7),
        memory_rss_bytes: Some(8),
    };
    let pipeline = Pipeline {
        stage: "decode",
        queue_depth: Some(0),
        queue_wait_time_ms: Some(0.0),
        batch_fill_ratio: Some(0.25),
        cache_hit: Some(true),
        cache_hit_ratio: Some(0.5),
        kv_cache_usage_ratio: Some(0.9),
        preemptions: Some(2),
    };
    let tokens = Tokens {
        ids: &[5, 70_000],
        itl_micros: &[90_000, 20_000],
        attention_micros: &[1, 2],
        ffn_micros: &[3, 4],
        batch_sizes: &[8, 9],
        texts: &["a", ""],
    };
    builder
        .span(TraceId([1; 16]), SpanId([2; 8]))
        .parent(SpanId([3; 8]))
        .service("api")
        .operation("POST /v1")
        .times(1_700_000_000_000_000_001, 250)
        .inference(&inference)
        .resources(&resources)
        .tag("zone", "a")
        .attribute("text", "x".repeat(300).as_str())
        .attribute("negative", -1)
        .attribute("flag", false)
        .attribute("ratio", 0.5)
        .attribute("raw", &b"\x00\xff"[..])
        .attribute("list", Value::Array(&[Value::Int(1), Value::Str("b")]))
        .attribute("map", Value::Map(&[("k", Value::Bool(true))]))
        .event(1_700_000_000_000_000_100, "first_token", &[("n", 1.into())])
        .link(TraceId([4; 16]), SpanId([5; 8]), &[("why", "retry".into())])
        .kind(SpanKind::Server)
        .status(StatusCode::Error, "boom")
        .flags(0x101)
        .trace_state("a=b")
        .origin(origin)
        .pipeline(&pipeline)
        .tokens(&tokens);
    let batch = builder.build();
    let decoded = decode(&batch);
    assert_eq!(decoded.encoded_len(), batch.encode().len());
    assert_eq!(decoded.origins.len(), 2);
    let span = &decoded.spans[0];
    assert_eq!((span.trace_id.as_slice(), span.span_id.as_slice()), (&[1u8; 16][..], &[2u8; 8][..]));
    assert_eq!((span.start_time_unix_nano, span.duration_nanos), (1_700_000_000_000_000_001, 250));
    assert_eq!((span.kind, span.origin, span.flags), (2, 1, 0x101));
    assert_eq!(span.tags["zone"], "a");
    assert_eq!(span.attributes.len(), 7);
    assert_eq!(span.status.as_ref().map(|s| (s.code, s.message.as_str())), Some((2, "boom")));
    let read = span.inference.as_ref().expect("inference");
    assert_eq!((read.batch_size, read.output_tokens, read.streaming), (Some(8), Some(0), Some(false)));
    assert_eq!(read.ttft_nanos, Some(u64::MAX));
    let gpu = span.resources.as_ref().and_then(|r| r.gpu.as_ref()).expect("gpu");
    assert_eq!(
        (gpu.index, gpu.utilization_percent, gpu.mig_profile.as_str()),
        (Some(0), Some(50.5), "1g.10gb")
    );
    let place = span.pipeline.as_ref().expect("pipeline");
    assert_eq!((place.queue_depth, place.cache_hit, place.preemptions), (Some(0), Some(true), Some(2)));
    let timeline = span.tokens.as_ref().expect("tokens");
    assert_eq!(timeline.generation_micros_delta, [90_000, 20_000]);
    assert_eq!(timeline.texts, ["a", ""]);
}

/// Scenario: 4,096 tokens with all number columns. Guarantee: the timeline costs less than 20 KB and its
/// intervals come back by the rule in the schema.
#[test]
fn a_long_token_timeline_is_small() {
    let itl: Vec<u32> =
        (0..4_096u32).map(|i| if i == 0 { 120_000 } else { 21_000 + (i * 37) % 60 }).collect();
    let small: Vec<u32> = (0..4_096).map(|i| 40 + i % 80).collect();
    let mut builder = SpanBatchBuilder::new();
    let tokens = Tokens { itl_micros: &itl, batch_sizes: &small, ffn_micros: &small, ..Tokens::default() };
    builder.span(TraceId([1; 16]), SpanId([1; 8])).tokens(&tokens);
    let batch = builder.build();
    assert!(batch.byte_len() < 20_000, "{} bytes", batch.byte_len());
    let deltas = &decode(&batch).spans[0].tokens.clone().expect("tokens").generation_micros_delta;
    let mut read = Vec::new();
    for (index, delta) in deltas.iter().enumerate() {
        let before = if index < 2 { 0 } else { i64::from(read[index - 1]) };
        read.push(u32::try_from(before + delta).expect("positive"));
    }
    assert_eq!(read, itl);
}

/// Scenario: a batch of 25 spans cut at 10. Guarantee: 10 + 10 + 5 spans, the same ones in order, with origins.
#[test]
fn chunks_hold_all_spans_in_order() {
    let mut builder = SpanBatchBuilder::new();
    let origin = builder.origin(&[("service.name", "s".into())], "", "");
    for index in 1..=25u64 {
        builder.span(TraceId([9; 16]), SpanId(index.to_be_bytes())).origin(origin).operation("op");
    }
    let chunks = builder.build().chunks(10);
    assert_eq!(chunks.iter().map(SpanBatch::len).collect::<Vec<_>>(), [10, 10, 5]);
    let ids: Vec<Vec<u8>> = chunks.iter().flat_map(|c| decode(c).spans).map(|span| span.span_id).collect();
    assert_eq!(ids, (1..=25u64).map(|i| i.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert!(chunks.iter().all(|chunk| decode(chunk).origins.len() == 1));
}
