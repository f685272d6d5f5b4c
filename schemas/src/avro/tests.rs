//! Both encoders agree; old and new programs read each other; a breaking change is noticed.

use std::borrow::Cow;

use apache_avro::to_avro_datum;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = Cow<'static, str>> {
    "[a-zé/ ]{0,6}".prop_map(Cow::Owned)
}

fn lists() -> impl Strategy<Value = TraceSummary<'static>> {
    use proptest::collection::vec;
    let services = vec((text(), any::<i32>(), any::<i32>(), any::<i64>()), 0..3);
    let stages = vec((text(), any::<i32>(), any::<i64>(), any::<i64>()), 0..3);
    let path = vec((text(), any::<i64>(), any::<i64>()), 0..70);
    let edges = vec((text(), text(), any::<i32>(), any::<i64>()), 0..3);
    let shifts = vec((text(), any::<i64>(), any::<i32>()), 0..3);
    (services, stages, path, edges, shifts, vec(text(), 0..3), vec(text(), 0..3)).prop_map(
        |(services, stages, path, edges, shifts, models, incomplete_reasons)| TraceSummary {
            services: services
                .into_iter()
                .map(|(service, spans, errors, self_nanos)| ServiceUse { service, spans, errors, self_nanos })
                .collect(),
            stages: stages
                .into_iter()
                .map(|(stage, spans, self_nanos, critical_nanos)| StageTime {
                    stage,
                    spans,
                    self_nanos,
                    critical_nanos,
                })
                .collect(),
            critical_path: path
                .into_iter()
                .map(|(span_id, offset_nanos, duration_nanos)| PathSegment {
                    span_id,
                    offset_nanos,
                    duration_nanos,
                })
                .collect(),
            edges: edges
                .into_iter()
                .map(|(caller, callee, calls, total_nanos)| ServiceEdge {
                    caller,
                    callee,
                    calls,
                    errors: calls,
                    total_nanos,
                })
                .collect(),
            clock_shifts: shifts
                .into_iter()
                .map(|(service, shift_nanos, spans)| ClockShift { service, shift_nanos, spans })
                .collect(),
            models,
            incomplete_reasons,
            ..TraceSummary::default()
        },
    )
}

fn summary() -> impl Strategy<Value = TraceSummary<'static>> {
    let status = prop_oneof![Just(SpanStatus::Unset), Just(SpanStatus::Ok), Just(SpanStatus::Error)];
    let importance = prop_oneof![Just(Importance::Plain), Just(Importance::Slow), Just(Importance::Error)];
    let words = (text(), text(), text(), text());
    let numbers = (any::<[i64; 5]>(), any::<[i32; 7]>(), -1e9..1e9f64, any::<[bool; 2]>());
    (lists(), words, numbers, any::<[Option<i64>; 8]>(), status, importance).prop_map(
        |(lists, words, (longs, ints, parallelism, flags), options, status, importance)| TraceSummary {
            trace_id: words.0.clone(),
            version: ints[0],
            tenant: words.1,
            root_service: words.2.clone(),
            root_operation: words.3.clone(),
            root_span_id: words.0,
            status,
            start_unix_nanos: longs[0],
            end_unix_nanos: longs[1],
            duration_nanos: longs[2],
            root_duration_nanos: longs[3],
            span_count: ints[1],
            error_count: ints[2],
            duplicate_spans: ints[3],
            dropped_spans: longs[4],
            complete: flags[0],
            closed_by: "idle".into(),
            importance,
            critical_path_omitted: ints[4],
            parallelism,
            input_tokens: options[0],
            output_tokens: options[1],
            cached_tokens: options[2],
            ttft_nanos: options[3],
            ttft_queue_nanos: options[4],
            ttft_prefill_nanos: options[5],
            ttft_measured: flags[1],
            omitted_groups: ints[5],
            cost_nano_usd: options[6],
            gpu_micros: options[7],
            cost_kind: words.3.clone(),
            cost_basis: words.3,
            price_version: words.2,
            source: SourceRange { partition: ints[6], first_offset: longs[0], last_offset: longs[1] },
            ..lists
        },
    )
}

proptest! {
    /// Scenario: any summary. Guarantee: our encoder writes what apache-avro writes, and it reads back unchanged.
    #[test]
    fn both_encoders_agree(summary in summary()) {
        let ids = SchemaIds::embedded::<TraceSummary<'static>>();
        let direct = summary.to_bytes();
        prop_assert_eq!(&direct, &ids.encode(&summary).expect("fits its schema"));
        prop_assert_eq!(ids.decode::<TraceSummary<'static>>(&direct).expect("own bytes"), summary);
    }

    /// Scenario: any summary of a trace id. Guarantee: its head reads without decoding the rest.
    #[test]
    fn the_head_is_found(summary in summary(), trace_id: [u8; 16]) {
        let summary = TraceSummary { trace_id: hex::encode(trace_id).into(), ..summary };
        let head = read_summary_head(&summary.to_bytes()).expect("a summary");
        prop_assert_eq!(head.trace_id, trace_id);
        prop_assert_eq!((head.version, head.source), (summary.version, summary.source));
        prop_assert_eq!(head.tenant, summary.tenant);
    }

    /// Scenario: any bytes behind a right header. Guarantee: an answer, never a panic.
    #[test]
    fn any_bytes_are_decoded_safely(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let ids = SchemaIds::embedded::<TraceSummary<'static>>();
        let mut value = Vec::new();
        put_header(&mut value, ids.write_id());
        value.extend_from_slice(&body);
        let _ = ids.decode::<TraceSummary<'static>>(&value);
        let _ = read_summary_head(&value);
        let _ = SchemaIds::embedded::<Insight>().decode::<Insight>(&body);
    }
}

fn example_insight() -> Insight {
    Insight {
        id: "i-1".into(),
        revision: 2,
        state: InsightState::Updated,
        kind: "queue".into(),
        severity: Severity::Page,
        model: "llama".into(),
        resolved_unix_nanos: Some(5),
        title: "queue wait is 4x its baseline".into(),
        detector: "robust_z".into(),
        evidence: vec![Evidence {
            metric: "queue_nanos".into(),
            observed: 4.0,
            baseline: Some(1.0),
            ..Evidence::default()
        }],
        causes: vec![Cause { cause: "batch".into(), share: 0.7, explanation: "batch 8 of 32".into() }],
        recommendation: Some(Recommendation {
            text: "raise the batch timeout".into(),
            ..Recommendation::default()
        }),
        example_traces: vec!["ab".into()],
        ..Insight::default()
    }
}

fn example_link() -> RequestLink {
    RequestLink {
        id: "/chatcmpl-1".into(),
        version: 2,
        kind: "linked".into(),
        request_id: "chatcmpl-1".into(),
        prompt_tokens: Some(7),
        members: vec![LinkMember { role: "engine".into(), trace_id: "ab".into(), ..LinkMember::default() }],
        ..RequestLink::default()
    }
}

fn example_rollup() -> Rollup {
    Rollup {
        model: "llama".into(),
        window_nanos: 10_000_000_000,
        counters: [("spans".to_owned(), 3)].into(),
        price_versions: vec!["2026-07-01/1".into()],
        sums: [("gpu_seconds".to_owned(), 0.5)].into(),
        sketches: vec![Sketch {
            metric: "ttft_nanos".into(),
            count: 3,
            first_bin: -4,
            bin_counts: vec![1, 0, 2],
            ..Sketch::default()
        }],
        exemplars: vec![Exemplar { trace_id: "ab".into(), duration_micros: 7, is_error: true }],
        ..Rollup::default()
    }
}

fn example_triage() -> Triage {
    Triage {
        insight_id: "i-1".into(),
        status: TriageStatus::Acknowledged,
        muted_until_unix_nanos: Some(1_700_000_003_600_000_000),
        severity: Severity::Page,
        decided_unix_nanos: 1_700_000_000_000_000_000,
        author: "on call".into(),
        note: "a replica comes up".into(),
    }
}

/// Scenario: one record of every other kind. Guarantee: it reads back unchanged.
#[test]
fn records_round_trip() {
    let insight = example_insight();
    let ids = SchemaIds::embedded::<Insight>();
    assert_eq!(ids.decode::<Insight>(&ids.encode(&insight).expect("fits")).expect("own bytes"), insight);
    let rollup = example_rollup();
    let ids = SchemaIds::embedded::<Rollup>();
    assert_eq!(ids.decode::<Rollup>(&ids.encode(&rollup).expect("fits")).expect("own bytes"), rollup);
    let link = example_link();
    let ids = SchemaIds::embedded::<RequestLink>();
    assert_eq!(ids.decode::<RequestLink>(&ids.encode(&link).expect("fits")).expect("own bytes"), link);
    let triage = example_triage();
    let ids = SchemaIds::embedded::<Triage>();
    assert_eq!(ids.decode::<Triage>(&ids.encode(&triage).expect("fits")).expect("own bytes"), triage);
    let baseline = Baseline {
        model: "llama".into(),
        hour_of_week: Some(3),
        median: 1.5,
        cold_start: true,
        ..Baseline::default()
    };
    let ids = SchemaIds::embedded::<Baseline>();
    assert_eq!(ids.decode::<Baseline>(&ids.encode(&baseline).expect("fits")).expect("own bytes"), baseline);
}

/// Scenario: values without our header, with an id nobody knows, and with bytes left over.
/// Guarantee: each is refused by name.
#[test]
fn what_is_not_ours_is_refused() {
    let ids = SchemaIds::embedded::<TraceSummary<'static>>();
    let bytes = TraceSummary::default().to_bytes();
    let decode = |bytes: &[u8]| ids.decode::<TraceSummary<'static>>(bytes);
    assert!(matches!(decode(&bytes[..4]), Err(AvroError::NotFramed)));
    assert!(matches!(decode(b"\x01aaaaaa"), Err(AvroError::NotFramed)));
    let mut other = bytes.clone();
    other[4] ^= 1;
    assert!(matches!(decode(&other), Err(AvroError::UnknownSchema(_))));
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(decode(&longer), Err(AvroError::Trailing(1))));
}

/// Scenario: a registry gave the schema an id. Guarantee: values carry it, and embedded ids still read.
#[test]
fn a_registry_id_is_written_and_both_are_read() {
    let embedded = SchemaIds::embedded::<Insight>();
    let mut registered = embedded.clone();
    registered.write_with::<Insight>(17);
    let insight = example_insight();
    let value = registered.encode(&insight).expect("fits");
    assert_eq!(value[..5], [0, 0, 0, 0, 17]);
    assert_eq!(registered.decode::<Insight>(&value).expect("known id"), insight);
    let older = embedded.encode(&insight).expect("fits");
    assert_eq!(registered.decode::<Insight>(&older).expect("embedded id"), insight);
    assert_eq!(embedded.write_id() >> 31, 1);
}

/// The schema with one change applied to its JSON.
fn changed(text: &str, change: impl FnOnce(&mut serde_json::Value)) -> Schema {
    let mut json: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
    change(&mut json);
    Schema::parse(&json).expect("a valid schema")
}

fn fields(json: &mut serde_json::Value) -> &mut Vec<serde_json::Value> {
    json["fields"].as_array_mut().expect("a record")
}

fn every_schema() -> [(&'static EmbeddedSchema, apache_avro::types::Value); 6] {
    let value = |record: Result<apache_avro::types::Value, _>| record.expect("serializable");
    [
        (TraceSummary::<'static>::schema(), value(to_value(TraceSummary::default()))),
        (Rollup::schema(), value(to_value(example_rollup()))),
        (Baseline::schema(), value(to_value(Baseline::default()))),
        (Insight::schema(), value(to_value(example_insight()))),
        (RequestLink::schema(), value(to_value(example_link()))),
        (Triage::schema(), value(to_value(example_triage()))),
    ]
}

/// Scenario: a newer program adds a field with a default in front and at the end, and an enum symbol. Guarantee: each side
/// reads the other's bytes (backward and forward), for every topic.
#[test]
fn additions_are_compatible_both_ways() {
    for (own, value) in every_schema() {
        let newer = changed(own.text, |json| {
            let added = serde_json::json!({"name": "added_later", "type": "string", "default": "x"});
            fields(json).insert(0, added);
            fields(json)
                .push(serde_json::json!({"name": "added_last", "type": ["null", "long"], "default": null}));
        });
        let old = to_avro_datum(&own.schema, value.resolve(&own.schema).expect("fits")).expect("fits");
        let read = from_avro_datum(&own.schema, &mut &old[..], Some(&newer)).expect("newer reads older");
        let new = to_avro_datum(&newer, read).expect("fits the newer");
        let back = from_avro_datum(&newer, &mut &new[..], Some(&own.schema)).expect("older reads newer");
        assert_eq!(to_avro_datum(&own.schema, back).expect("fits"), old);
    }
}

/// Scenario: a newer writer uses an importance that this program does not know. Guarantee: it reads as the default.
#[test]
fn a_new_enum_symbol_reads_as_the_default() {
    let own = TraceSummary::<'static>::schema();
    let newer = changed(own.text, |json| {
        let importance =
            fields(json).iter_mut().find(|field| field["name"] == "importance").expect("the field");
        importance["type"]["symbols"].as_array_mut().expect("symbols").push("PINNED".into());
    });
    let ids = SchemaIds::embedded::<TraceSummary<'static>>();
    ids.learn(9, newer);
    let mut bytes = Vec::new();
    let summary = TraceSummary { importance: Importance::Error, ..TraceSummary::default() };
    write_trace_summary(&mut bytes, 9, &summary);
    // The importance is the only byte that differs from a plain summary; the new symbol is one further.
    let mut plain = Vec::new();
    write_trace_summary(&mut plain, 9, &TraceSummary::default());
    let at = bytes.iter().zip(&plain).position(|(a, b)| a != b).expect("differs");
    bytes[at] += 2;
    let read = ids.decode::<TraceSummary<'static>>(&bytes).expect("older reads newer");
    assert_eq!(read, TraceSummary::default());
}

/// Scenario: changes that break a reader: a new field without a default, a field of another type, a required field gone.
/// Guarantee: the check used above fails for each, so it would fail for such a commit.
#[test]
fn breaking_changes_are_noticed() {
    let own = TraceSummary::<'static>::schema();
    let bytes = &TraceSummary::default().to_bytes()[HEADER..];
    let reads = |reader: &Schema| from_avro_datum(&own.schema, &mut &bytes[..], Some(reader)).is_ok();
    assert!(reads(&own.schema));
    let without_default = changed(own.text, |json| {
        fields(json).push(serde_json::json!({"name": "added", "type": "string"}));
    });
    assert!(!reads(&without_default));
    let retyped = changed(own.text, |json| {
        fields(json)[0]["type"] = "long".into();
    });
    assert!(!reads(&retyped));
    let without_trace_id = changed(own.text, |json| {
        fields(json).remove(0);
    });
    let decoded = from_avro_datum(&own.schema, &mut &bytes[..], Some(&own.schema)).expect("own bytes");
    let apache_avro::types::Value::Record(mut record) = decoded else { panic!("a record") };
    record.remove(0);
    let newer = to_avro_datum(&without_trace_id, apache_avro::types::Value::Record(record)).expect("fits");
    assert!(from_avro_datum(&without_trace_id, &mut &newer[..], Some(&own.schema)).is_err());
}

/// `record` as a program with `former` wrote it: without the fields that came later.
fn written_with<R: AvroRecord>(id: u32, former: &Schema, record: &R) -> Vec<u8> {
    let own = SchemaIds::embedded::<R>().encode(record).expect("fits");
    let value = from_avro_datum(&R::schema().schema, &mut &own[HEADER..], Some(former)).expect("additive");
    let mut bytes = Vec::new();
    put_header(&mut bytes, id);
    bytes.extend(to_avro_datum(former, value).expect("fits"));
    bytes
}

/// Scenario: records that each former version of the schemas wrote. Guarantee: without a registry each reads with the current
/// schema, with the defaults of what came later; the head of a summary is found in all of them.
#[test]
fn records_of_former_versions_are_read() {
    let summary = TraceSummary {
        trace_id: "ab".repeat(16).into(),
        models: vec!["llama".into()],
        critical_path_omitted: 3,
        source: SourceRange { partition: 2, first_offset: 300, last_offset: 4_000 },
        ..TraceSummary::default()
    };
    let priced = TraceSummary {
        cost_nano_usd: Some(9),
        gpu_micros: Some(8),
        cost_kind: "measured".into(),
        price_version: "2026-07-01/1".into(),
        ..summary.clone()
    };
    let newest = TraceSummary { cost_basis: "gpu".into(), ..priced.clone() };
    let ids = SchemaIds::embedded::<TraceSummary<'static>>();
    let former = &TraceSummary::<'static>::schema().former;
    assert_eq!(former.len(), 2);
    for ((id, schema), expected) in former.iter().zip([summary, priced]) {
        let bytes = written_with(*id, schema, &newest);
        assert_eq!(ids.decode::<TraceSummary<'static>>(&bytes).expect("a former version"), expected);
        let head = read_summary_head(&bytes).expect("a head");
        assert_eq!((head.trace_id, head.source), ([0xab; 16], expected.source));
    }
    let newest = example_rollup();
    let unpriced = Rollup { price_versions: Vec::new(), ..newest.clone() };
    let bare = Rollup { exemplars: Vec::new(), ..unpriced.clone() };
    let ids = SchemaIds::embedded::<Rollup>();
    let former = &Rollup::schema().former;
    assert_eq!(former.len(), 2);
    for ((id, schema), expected) in former.iter().zip([bare, unpriced]) {
        let bytes = written_with(*id, schema, &newest);
        assert_eq!(ids.decode::<Rollup>(&bytes).expect("a former version"), expected);
    }
}

/// Scenario: an id that nothing ever wrote, and one that a registry gave. Guarantee: the error says which and what to do.
#[test]
fn an_unknown_id_says_what_to_do() {
    let ids = SchemaIds::embedded::<Rollup>();
    let error = |id: u32| {
        let mut bytes = Vec::new();
        put_header(&mut bytes, id);
        ids.decode::<Rollup>(&bytes).expect_err("unknown").to_string()
    };
    assert!(error(0x8000_0001).contains("0x80000001") && error(0x8000_0001).contains("upgrade readers"));
    assert!(error(7).contains("0x00000007") && error(7).contains("[schema_registry]"));
}

/// Scenario: the schemas as released. Guarantee: the ids that consumers without a registry see do not change unnoticed, and
/// what was ever written can be read: a changed schema leaves its former text in `schemas/avro/former` and its id here.
#[test]
fn embedded_ids_are_pinned() {
    let ids_of = |own: &EmbeddedSchema| {
        let former = own.former.iter().map(|(id, _)| *id);
        former.chain([own.id]).map(|id| format!("{id:08x}")).collect::<Vec<_>>()
    };
    let ids: Vec<_> = every_schema().iter().map(|(own, _)| ids_of(own)).collect();
    assert_eq!(ids, PINNED);
}

/// Every id that was ever written, oldest first.
const PINNED: [&[&str]; 6] = [
    &["c611f888", "eea02a4f", "d8acc3ed"],
    &["bdc34986", "c23574d0", "bc077e8d"],
    &["8b51b713"],
    &["d488fd4c"],
    &["f9f385fa"],
    &["d0f7fe85"],
];
