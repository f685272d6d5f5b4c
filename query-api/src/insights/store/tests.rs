use super::*;

fn insight(id: &str, revision: i32, state: InsightState, opened: i64) -> Insight {
    Insight {
        id: id.into(),
        revision,
        state,
        model: "llama".into(),
        opened_unix_nanos: opened,
        window_start_unix_nanos: opened - 10,
        window_end_unix_nanos: opened,
        resolved_unix_nanos: (state == InsightState::Resolved).then_some(opened + 50),
        ..Insight::default()
    }
}

fn place(offset: u64) -> Place {
    Place { partition: 0, offset }
}

fn filled(insights: impl IntoIterator<Item = Insight>) -> Store {
    let mut store = Store::default();
    for (offset, insight) in insights.into_iter().enumerate() {
        store.apply(insight, place(offset as u64), offset as i64, 100);
        store.moved_to(place(offset as u64));
    }
    store
}

fn ids(held: &[Arc<Held>]) -> Vec<&str> {
    held.iter().map(|held| held.insight.id.as_str()).collect()
}

/// Scenario: an insight opens, is updated and resolves; records come again and out of order. Guarantee: the highest
/// revision stands, each step's time is kept, and the life spans from the first window to the end.
#[test]
fn a_higher_revision_replaces_a_lower_one() {
    let later = |revision, state, window: i64| Insight {
        window_start_unix_nanos: window,
        window_end_unix_nanos: window + 10,
        ..insight("a", revision, state, 100)
    };
    let store = filled([
        insight("a", 1, InsightState::Open, 100),
        later(3, InsightState::Resolved, 120),
        later(2, InsightState::Updated, 110),
        later(3, InsightState::Open, 130),
    ]);
    let held = store.get("a").unwrap();
    assert_eq!((held.insight.revision, held.insight.state), (3, InsightState::Resolved));
    assert_eq!(held.revisions.iter().map(|one| one.revision).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((held.life(), held.recorded_ms), ((90, 150), 1));
    assert_eq!((store.len(), store.open()), (1, 0));
    let open = filled([insight("a", 1, InsightState::Open, 100)]);
    assert_eq!(open.get("a").unwrap().life(), (90, i64::MAX));
}

/// Scenario: an insight that is updated for days. Guarantee: its history is bounded and keeps the first and the latest.
#[test]
fn history_is_bounded() {
    let store = filled((1..=500).map(|revision| insight("a", revision, InsightState::Updated, 100)));
    let revisions: Vec<_> = store.get("a").unwrap().revisions.iter().map(|one| one.revision).collect();
    assert_eq!(revisions.len(), MOST_REVISIONS);
    assert_eq!((revisions[0], revisions[MOST_REVISIONS - 1]), (1, 500));
}

/// Scenario: insights listed whole and page by page, filtered and not. Guarantee: the latest opened first, each once,
/// exactly those that match.
#[test]
fn lists_page_by_page() {
    let all: Vec<Insight> = (0..40)
        .map(|index| {
            let state = if index % 3 == 0 { InsightState::Resolved } else { InsightState::Open };
            // Several open at one moment, so that ids decide.
            let mut one = insight(&format!("i{index:02}"), 1, state, 100 + index / 4);
            one.severity = if index % 2 == 0 { Severity::Page } else { Severity::Warning };
            one.kind = if index < 20 { "latency".into() } else { "cache".into() };
            one
        })
        .collect();
    let store = filled(all.clone());
    let filters = [
        InsightFilter::default(),
        InsightFilter { open: Some(true), ..InsightFilter::default() },
        InsightFilter {
            severity: Some(Severity::Page),
            kind: Some("cache".into()),
            ..InsightFilter::default()
        },
        InsightFilter { model: Some("other".into()), ..InsightFilter::default() },
        InsightFilter { start_ns: Some(155), open: Some(false), ..InsightFilter::default() },
        InsightFilter { end_ns: Some(94), ..InsightFilter::default() },
    ];
    for filter in filters {
        let mut wanted: Vec<_> = all
            .iter()
            .filter(|one| filter.matches(&store.get(&one.id).unwrap()))
            .map(|one| (one.opened_unix_nanos, one.id.as_str()))
            .collect();
        wanted.sort_unstable_by(|left, right| right.cmp(left));
        let wanted: Vec<_> = wanted.into_iter().map(|(_, id)| id).collect();
        for limit in [1, 3, 7, 40, 41] {
            let mut found = Vec::new();
            let mut after: Option<ListPlace> = None;
            loop {
                let (page, more) = store.list(&filter, after.as_ref(), limit);
                found.extend(page.iter().map(|held| held.insight.id.clone()));
                let Some(last) = page.last().filter(|_| more) else { break };
                after = Some((last.insight.opened_unix_nanos, last.insight.id.as_str().into()));
            }
            assert_eq!(found, wanted, "{filter:?} by {limit}");
        }
    }
    let counts = store.open_counts(0);
    assert_eq!(counts.page + counts.warning + counts.info, store.open());
}

/// Scenario: a client that knows a state asks for what changed. Guarantee: exactly the insights written since, in the order
/// they were written; positions survive their text.
#[test]
fn what_changed_since() {
    let mut store = filled([
        insight("a", 1, InsightState::Open, 1),
        insight("b", 1, InsightState::Open, 2),
        insight("c", 1, InsightState::Open, 3),
    ]);
    let known = Positions::parse(&store.positions().to_text()).unwrap();
    assert_eq!(&known, store.positions());
    assert!(store.changed_since(&known).is_empty());
    assert_eq!(ids(&store.changed_since(&Positions::default())), ["a", "b", "c"]);
    store.apply(insight("b", 2, InsightState::Resolved, 2), place(7), 9, 100);
    store.apply(insight("d", 1, InsightState::Open, 4), Place { partition: 12, offset: 0 }, 8, 100);
    assert_eq!(ids(&store.changed_since(&known)), ["d", "b"]);
    for text in ["x", "1", "1-", "-1", "1-2.3", "1-2 "] {
        assert_eq!(Positions::parse(text), None, "{text}");
    }
}

/// Scenario: old insights, and more than memory is given. Guarantee: what is old leaves; for lack of memory the resolved
/// leave before the open, the oldest first; nothing of them stays behind.
#[test]
fn age_and_memory_are_bounded() {
    let state = |index: i64| if index % 2 == 0 { InsightState::Resolved } else { InsightState::Open };
    let all = || (0..20).map(|index| insight(&format!("i{index:02}"), 1, state(index), index));
    let mut store = filled(all());
    store.forget_before(5);
    assert_eq!((store.len(), store.evicted()), (15, 0));
    let one = store.bytes() / store.len();
    store.shrink_to(one * 10);
    assert_eq!((store.len(), store.evicted()), (10, 5));
    let (left, _) = store.list(&InsightFilter::default(), None, 100);
    let mut left = ids(&left);
    left.sort_unstable();
    assert_eq!(left, ["i05", "i07", "i09", "i11", "i13", "i15", "i16", "i17", "i18", "i19"]);
    store.shrink_to(0);
    assert_eq!((store.len(), store.bytes(), store.open(), store.is_empty()), (0, 0, 0, true));
}

/// Scenario: a trace beside insights about its model, another model, its service, a device, an earlier time. Guarantee:
/// those that may be about it, examples first, then the most severe; never one that shows it as the normal case.
#[test]
fn insights_about_a_trace() {
    let base = |id: &str| insight(id, 1, InsightState::Open, 100);
    let store = filled([
        base("model"),
        Insight { severity: Severity::Page, ..base("severe") },
        Insight { model: "other".into(), ..base("other model") },
        Insight { service: "ranker".into(), ..base("other service") },
        Insight { model: String::new(), service: "engine".into(), ..base("service") },
        Insight { model: String::new(), device: "GPU-1".into(), ..base("device") },
        Insight { normal_traces: vec!["abc".into()], ..base("normal") },
        Insight {
            model: String::new(),
            device: "GPU-1".into(),
            example_traces: vec!["abc".into()],
            ..base("example")
        },
        insight("over", 1, InsightState::Resolved, 10),
        insight("later", 1, InsightState::Open, 10_000),
    ]);
    let trace = TraceFacts {
        trace_id: "abc".into(),
        models: vec!["llama"],
        services: vec!["gateway", "engine"],
        start_ns: 500,
        end_ns: 600,
    };
    assert_eq!(ids(&store.about(&trace, 10)), ["example", "severe", "service", "model"]);
    assert_eq!(ids(&store.about(&trace, 1)), ["example"]);
}
