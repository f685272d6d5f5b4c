//! Random spans and origins with every field, for property tests.

use infertrace_proto::v1::{self, any_value::Value};
use proptest::{collection::vec, option, prelude::*};

fn any_value() -> impl Strategy<Value = v1::AnyValue> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|flag| Some(Value::BoolValue(flag))),
        any::<i64>().prop_map(|number| Some(Value::IntValue(number))),
        any::<f64>().prop_map(|number| Some(Value::DoubleValue(number))),
        prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0)]
            .prop_map(|number| Some(Value::DoubleValue(number))),
        vec(any::<u8>(), 0..12).prop_map(|bytes| Some(Value::BytesValue(bytes))),
        Just(None),
    ]
    .prop_map(|value| v1::AnyValue { value });
    leaf.prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| v1::AnyValue {
                value: Some(Value::ArrayValue(v1::ArrayValue { values })),
            }),
            vec((".{0,6}", option::of(inner)), 0..4).prop_map(|pairs| v1::AnyValue {
                value: Some(Value::KvlistValue(v1::KeyValueList { values: key_values(pairs) })),
            }),
        ]
    })
}

fn key_values(pairs: Vec<(String, Option<v1::AnyValue>)>) -> Vec<v1::KeyValue> {
    let mut seen = std::collections::HashSet::new();
    pairs
        .into_iter()
        .filter(|(key, _)| seen.insert(key.clone()))
        .map(|(key, value)| v1::KeyValue { key, value })
        .collect()
}

/// Keys that OTLP wants to be unique, and that no row of the mapping knows.
fn attributes(most: usize) -> impl Strategy<Value = Vec<v1::KeyValue>> {
    vec(("x.{0,10}", option::weighted(0.95, any_value())), 0..most).prop_map(key_values)
}

fn event() -> impl Strategy<Value = v1::Event> {
    (any::<u64>(), ".{0,10}", attributes(4), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| v1::Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = v1::Link> {
    (vec(any::<u8>(), 0..17), vec(any::<u8>(), 0..9), ".{0,10}", attributes(3), any::<u32>(), any::<u32>())
        .prop_map(|(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| v1::Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        })
}

fn inference() -> impl Strategy<Value = v1::InferenceContext> {
    let count = || option::of(any::<u32>().prop_map(u64::from));
    let name = || prop_oneof![Just(String::new()), "[a-z]{1,8}"];
    let texts = (name(), name(), name(), name(), name(), name(), name());
    let tokens = (count(), count(), count(), count(), count());
    let times = (count(), count(), count(), count(), count());
    let rest = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<bool>()));
    (texts, tokens, times, rest).prop_map(|(texts, tokens, times, rest)| v1::InferenceContext {
        model_name: texts.0,
        model_version: texts.1,
        framework: texts.2,
        provider: texts.3,
        request_id: texts.4,
        session_id: texts.5,
        finish_reason: texts.6,
        input_tokens: tokens.0,
        output_tokens: tokens.1,
        cached_tokens: tokens.2,
        reasoning_tokens: tokens.3,
        sequence_length: tokens.4,
        ttft_nanos: times.0,
        tpot_nanos: times.1,
        itl_p50_nanos: times.2,
        itl_p99_nanos: times.3,
        itl_max_nanos: times.4,
        batch_size: rest.0,
        max_batch_size: rest.1,
        streaming: rest.2,
    })
}

fn resources() -> impl Strategy<Value = v1::ResourceMetrics> {
    let name = || prop_oneof![Just(String::new()), "[A-Z0-9-]{1,8}"];
    let number = || option::of(-1e9..1e9f64);
    let gpu = (
        (name(), name(), name(), name()),
        (number(), number(), number()),
        (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>())),
        (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>())),
    )
        .prop_map(|(texts, numbers, smalls, counts)| v1::GpuMetrics {
            device_id: texts.0,
            name: texts.1,
            instance_type: texts.2,
            mig_profile: texts.3,
            utilization_percent: numbers.0,
            power_watts: numbers.1,
            temperature_celsius: numbers.2,
            index: smalls.0,
            sm_clock_mhz: smalls.1,
            memory_clock_mhz: smalls.2,
            memory_used_bytes: counts.0,
            memory_total_bytes: counts.1,
            throttle_reasons: counts.2,
        });
    let memory = (option::of(any::<u64>()), option::of(any::<u64>()));
    (option::of(gpu), option::of(number()), option::of(memory)).prop_map(|(gpu, cpu, memory)| {
        v1::ResourceMetrics {
            gpu,
            cpu: cpu.map(|cores_used| v1::CpuMetrics { cores_used }),
            memory: memory.map(|(heap_bytes, rss_bytes)| v1::MemoryMetrics { heap_bytes, rss_bytes }),
        }
    })
}

fn pipeline() -> impl Strategy<Value = v1::PipelineContext> {
    let number = || option::of(0.0..1e6f64);
    (
        prop_oneof![Just(String::new()), "[a-z]{1,8}"],
        (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<bool>())),
        (number(), number(), number(), number()),
    )
        .prop_map(|(stage, rest, numbers)| v1::PipelineContext {
            stage,
            queue_depth: rest.0,
            preemptions: rest.1,
            cache_hit: rest.2,
            queue_wait_time_ms: numbers.0,
            batch_fill_ratio: numbers.1,
            cache_hit_ratio: numbers.2,
            kv_cache_usage_ratio: numbers.3,
        })
}

fn timeline() -> impl Strategy<Value = v1::TokenTimeline> {
    (
        vec(any::<u32>(), 0..6),
        vec(0i64..1_000_000, 0..6),
        vec(any::<u32>(), 0..6),
        vec(any::<u32>(), 0..6),
        vec(any::<u32>(), 0..6),
        vec(".{0,4}", 0..3),
    )
        .prop_map(|(ids, itl, attention_micros, ffn_micros, batch_sizes, texts)| v1::TokenTimeline {
            ids,
            generation_micros_delta: itl
                .iter()
                .enumerate()
                .map(|(index, value)| if index < 2 { *value } else { value - itl[index - 1] })
                .collect(),
            attention_micros,
            ffn_micros,
            batch_sizes,
            texts,
        })
}

fn id<const N: usize>() -> impl Strategy<Value = Vec<u8>> {
    any::<[u8; N]>().prop_filter_map("an id says something", |id| (id != [0; N]).then(|| id.to_vec()))
}

pub(crate) fn span() -> impl Strategy<Value = v1::Span> {
    let identity = (id::<16>(), id::<8>(), prop_oneof![Just(Vec::new()), id::<8>()]);
    let names = (".{0,12}", ".{0,12}", prop_oneof![Just(String::new()), ".{1,12}"]);
    let times = (0i64..4_000_000_000_000_000_000, 0i64..4_000_000_000_000_000_000);
    let status = option::of((prop_oneof![Just(String::new()), ".{1,9}"], 0i32..3));
    let counts = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), 0i32..6, 0u32..3);
    let tags = proptest::collection::hash_map("t.{0,5}", ".{0,5}", 0..3);
    let parts =
        (option::of(inference()), option::of(resources()), option::of(pipeline()), option::of(timeline()));
    let nested = (attributes(10), vec(event(), 0..3), vec(link(), 0..3), tags);
    (identity, names, times, status, counts, parts, nested).prop_map(
        |(identity, names, times, status, counts, parts, nested)| v1::Span {
            trace_id: identity.0,
            span_id: identity.1,
            parent_span_id: identity.2,
            service_name: names.0,
            operation_name: names.1,
            trace_state: names.2,
            start_time_unix_nano: times.0,
            duration_nanos: times.1,
            status: status.map(|(message, code)| v1::Status { message, code }),
            flags: counts.0,
            dropped_attributes_count: counts.1,
            dropped_events_count: counts.2,
            dropped_links_count: counts.3,
            kind: counts.4,
            origin: counts.5,
            inference: parts.0,
            resources: parts.1,
            pipeline: parts.2,
            tokens: parts.3,
            attributes: nested.0,
            events: nested.1,
            links: nested.2,
            tags: nested.3,
        },
    )
}

pub(crate) fn origin() -> impl Strategy<Value = v1::Origin> {
    let resource = option::of((attributes(4), 0u32..3));
    let scope = option::of((".{0,8}", ".{0,5}", attributes(3), 0u32..3));
    let url = || prop_oneof![Just(String::new()), "[a-z/]{1,9}"];
    (resource, scope, url(), url()).prop_map(|(resource, scope, resource_schema_url, scope_schema_url)| {
        v1::Origin {
            resource: resource.map(|(attributes, dropped_attributes_count)| v1::Resource {
                attributes,
                dropped_attributes_count,
            }),
            scope: scope.map(|(name, version, attributes, dropped_attributes_count)| v1::Scope {
                name,
                version,
                attributes,
                dropped_attributes_count,
            }),
            resource_schema_url,
            scope_schema_url,
        }
    })
}
