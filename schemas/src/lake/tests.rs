//! Tests of names, dates, plans and manifests.

use proptest::prelude::*;

use super::*;

fn data_file(start: u64) -> DataFile {
    let name = DataFileName { date: EventDate(20_000), partition: 3, start, merged: None };
    DataFile {
        path: name.path(),
        date: name.date,
        rows: 10,
        bytes: 900,
        footer_bytes: 300,
        min_start_ns: 5,
        max_start_ns: 9,
        min_trace_id: Id16([1; 16]),
        max_trace_id: Id16([7; 16]),
        services: listed_names(["b", "a", "b"]),
        models: None,
        tenants: listed_names([""]),
    }
}

fn manifest(start: u64) -> Manifest {
    Manifest {
        version: FORMAT_VERSION,
        topic: "infertrace.spans.v1".into(),
        partition: 3,
        start,
        next: start + 4,
        records: 4,
        rows: 10,
        duplicate_records: 1,
        rejected_spans: 0,
        poison: vec![Poison { offset: start + 2, reason: "truncated message".into() }],
        lost: vec![LostRange { from: start, to: start + 1 }],
        files: vec![data_file(start)],
        batch_ids: vec![Id16([0xab; 16])],
        created_by: "infertrace 0.1.0".into(),
    }
}

/// Scenario: known days. Guarantee: they are written as the calendar says, and nonsense is refused.
#[test]
fn dates_follow_the_calendar() {
    for (days, text) in
        [(0, "1970-01-01"), (-1, "1969-12-31"), (19_782, "2024-02-29"), (20_454, "2026-01-01")]
    {
        assert_eq!(EventDate(days).to_string(), text);
        assert_eq!(text.parse(), Ok(EventDate(days)));
    }
    for wrong in ["2023-02-29", "2024-13-01", "2024-00-10", "2024-1-1", "", "2024-01-01x", "date"] {
        assert!(wrong.parse::<EventDate>().is_err(), "{wrong}");
    }
    assert_eq!(EventDate::of_nanos(-1).to_string(), "1969-12-31");
    assert_eq!(EventDate::of_nanos(86_400_000_000_000).to_string(), "1970-01-02");
}

proptest! {
    /// Scenario: any time, partition and offset. Guarantee: names round-trip and ascend with the offset.
    #[test]
    fn names_round_trip(
        nanos: i64,
        partition in 0u32..200_000,
        start: u64,
        merged: Option<(u64, u64)>,
        prefix in "[a-z]{0,4}(/[a-z]{1,3}){0,2}",
    ) {
        let merged = merged.map(|(next, key)| Merged { next, key });
        let name = DataFileName { date: EventDate::of_nanos(nanos), partition, start, merged };
        let root = LakeRoot::new(&prefix);
        prop_assert_eq!(DataFileName::parse(&root.data_file(&name)), Some(name));
        prop_assert_eq!(parse_range_path(&root.plan(partition, start)), Some((partition, start)));
        prop_assert_eq!(parse_range_path(&root.manifest(partition, start)), Some((partition, start)));
        prop_assert!(start == u64::MAX || root.manifest(partition, start) < root.manifest(partition, start + 1));
        prop_assert!(name.date.start_nanos() <= nanos);
    }

    /// Scenario: any text as a path. Guarantee: no panic, and nothing but our own names is taken for one.
    #[test]
    fn foreign_names_are_refused(path in ".{0,60}") {
        prop_assert_eq!(DataFileName::parse(&path), None);
        prop_assert_eq!(parse_range_path(&path), None);
    }
}

/// Scenario: a manifest is stored and read back. Guarantee: nothing changes, and ids are hex.
#[test]
fn manifests_round_trip() {
    let path = LakeRoot::new("lake").manifest(3, 40);
    assert_eq!(path, "lake/_manifests/spans/p00003/00000000000000000040.json");
    let json = manifest(40).to_json();
    assert_eq!(Manifest::parse(&path, &json), Ok(manifest(40)));
    assert!(String::from_utf8_lossy(&json).contains(&"ab".repeat(16)));
}

/// Scenario: a later release adds a field. Guarantee: it is ignored.
#[test]
fn unknown_fields_are_ignored() {
    let mut json = serde_json::to_value(manifest(40)).expect("json");
    json["sort_order"] = serde_json::json!(["trace_id"]);
    json["files"][0]["sketch"] = serde_json::json!({"p99": 1});
    let path = LakeRoot::default().manifest(3, 40);
    assert_eq!(Manifest::parse(&path, json.to_string().as_bytes()), Ok(manifest(40)));
}

/// Scenario: a later release changes the format. Guarantee: refused by version, even where the rest cannot be read.
#[test]
fn a_newer_format_is_refused() {
    let path = LakeRoot::default().manifest(3, 40);
    let error = Manifest::parse(&path, br#"{"version":2,"ranges":[]}"#).expect_err("newer");
    assert_eq!(error, LakeError::NewerFormat { path, found: 2 });
}

/// Scenario: torn, empty, renamed and inconsistent files. Guarantee: an error that names the file.
#[test]
fn damage_is_named() {
    let path = LakeRoot::default().manifest(3, 40);
    let json = manifest(40).to_json();
    for torn in [&json[..0], &json[..json.len() / 2], b"[]", b"{\"version\":1}", b"\0\0\0"] {
        let error = Manifest::parse(&path, torn).expect_err("torn");
        assert!(error.to_string().contains(&path), "{error}");
    }
    let renamed = LakeRoot::default().manifest(3, 41);
    assert!(matches!(Manifest::parse(&renamed, &json), Err(LakeError::Misnamed { .. })));
    let empty = Manifest { next: 40, ..manifest(40) };
    assert!(matches!(Manifest::parse(&path, &empty.to_json()), Err(LakeError::Malformed { .. })));
    let foreign = Manifest { files: vec![data_file(41)], ..manifest(40) };
    assert!(matches!(Manifest::parse(&path, &foreign.to_json()), Err(LakeError::Malformed { .. })));
}

/// Scenario: queries ask what a file may hold. Guarantee: no false negatives; an absent list prunes nothing.
#[test]
fn pruning_has_no_false_negatives() {
    let file = data_file(40);
    assert!(file.may_have_trace(&[1; 16]) && file.may_have_trace(&[7; 16]) && !file.may_have_trace(&[8; 16]));
    assert!(file.may_have_service("a") && !file.may_have_service("c") && file.may_have_model("any"));
    assert!(file.may_have_tenant("") && !file.may_have_tenant("x"));
    assert!(file.may_start_within(9, 10) && !file.may_start_within(10, 20) && !file.may_start_within(0, 5));
    let many: Vec<String> = (0..=MAX_LISTED_NAMES).map(|index| index.to_string()).collect();
    assert_eq!(listed_names(many.iter().map(String::as_str)), None);
}

fn compaction(number: u64, removes: &[u64], adds: Option<u64>) -> compaction::Compaction {
    let name = adds.map(|start| DataFileName {
        date: EventDate(20_000),
        partition: 3,
        start,
        merged: Some(Merged { next: start + 8, key: number }),
    });
    compaction::Compaction {
        version: FORMAT_VERSION,
        number,
        topic: "infertrace.spans.v1".into(),
        partition: 3,
        start: adds.unwrap_or_default(),
        next: adds.unwrap_or_default() + 8,
        removes: removes.iter().map(|start| data_file(*start).path).collect(),
        adds: name.map(|name| DataFile { path: name.path(), ..data_file(name.start) }),
        unfit: Vec::new(),
        deletions: 0,
        kept: Vec::new(),
        dropped: vec![compaction::Dropped { start: 40, spans: 2, hash: crate::audit::Hash(7) }],
        created_unix_ms: 5,
        swept: 0,
        created_by: "infertrace 0.1.0".into(),
    }
}

/// Scenario: compactions are stored and read back, under their own and a foreign name, with a file of another range.
/// Guarantee: nothing changes; what is not where or what it should be is refused.
#[test]
fn compactions_round_trip() {
    let path = LakeRoot::new("lake").compaction(4);
    assert_eq!(path, "lake/_compactions/spans/00000000000000000004.json");
    let whole = compaction(4, &[40, 44], Some(40));
    assert_eq!(compaction::Compaction::parse(&path, &whole.to_json()), Ok(whole.clone()));
    let renamed = LakeRoot::new("lake").compaction(5);
    let misnamed = compaction::Compaction::parse(&renamed, &whole.to_json());
    assert!(matches!(misnamed, Err(LakeError::Misnamed { .. })));
    let foreign = compaction::Compaction { start: 41, ..whole };
    assert!(compaction::Compaction::parse(&path, &foreign.to_json()).is_err());
}

proptest! {
    /// Scenario: manifests and compactions are read in any order that keeps each kind's own. Guarantee: the same files count;
    /// a compaction that is not the next is refused.
    #[test]
    fn manifests_and_compactions_come_in_any_order(order in proptest::collection::vec(any::<bool>(), 9)) {
        let manifests: Vec<Manifest> = [40, 44, 48, 52, 56].map(manifest).into();
        let compactions =
            [compaction(0, &[40, 44], Some(40)), compaction(1, &[48], None), compaction(2, &[52], Some(52))];
        let mut live: live::LiveFiles = live::LiveFiles::default();
        prop_assert!(!live.apply(&compactions[1], |file| file));
        let (mut read, mut applied) = (manifests.iter(), compactions.iter());
        for is_manifest in order {
            match if is_manifest { read.next() } else { None } {
                Some(manifest) => live.add(manifest, |file| file),
                None => {
                    let _ = applied.next().map(|compaction| live.apply(compaction, |file| file));
                }
            }
        }
        read.for_each(|manifest| live.add(manifest, |file| file));
        for compaction in applied {
            prop_assert!(live.apply(compaction, |file| file));
        }
        let ranges: Vec<(u64, u64)> = live.iter().map(|file| (file.start, file.next)).collect();
        prop_assert_eq!(ranges, [(40, 48), (52, 60), (56, 60)]);
        prop_assert_eq!(live.next_compaction(), 3);
    }
}

/// Scenario: two plans that differ in what the bytes depend on, and in what they do not. Guarantee: only the former give files
/// of other names.
#[test]
fn the_plan_names_the_file() {
    let plan = compaction::CompactionPlan {
        version: FORMAT_VERSION,
        number: 4,
        topic: "infertrace.spans.v1".into(),
        partition: 3,
        date: EventDate(20_000),
        start: 40,
        next: 48,
        inputs: vec![data_file(40).path, data_file(44).path],
        deletions: 1,
        retention: None,
        row_group_rows: 8,
        zstd_level: 1,
        created_unix_ms: 7,
        created_by: "infertrace 0.1.0".into(),
    };
    let later = compaction::CompactionPlan { number: 5, created_unix_ms: 8, ..plan.clone() };
    assert_eq!(later.output(), plan.output());
    let other = compaction::CompactionPlan { deletions: 2, ..plan.clone() };
    assert_ne!(other.output(), plan.output());
    let path = LakeRoot::default().compaction_plan(4);
    assert_eq!(compaction::CompactionPlan::parse(&path, &plan.to_json()), Ok(plan));
}
