//! Properties of the analysis on arbitrary bags of spans, and the cases that have a known answer.

use proptest::prelude::*;

use super::*;

fn span(id: u64, parent: u64, start: i64, duration: i64) -> SpanNode {
    SpanNode {
        span_id: id,
        parent_id: parent,
        start_ns: start,
        duration_ns: duration,
        service: NameId::EMPTY,
        operation: NameId::EMPTY,
        stage: NameId::EMPTY,
        model: NameId::EMPTY,
        inference: NONE,
        kind: 1,
        status: 0,
    }
}

fn run(spans: &[SpanNode]) -> Analysis {
    run_with(spans, &[], &names())
}

fn run_with(spans: &[SpanNode], inference: &[Inference], names: &Names) -> Analysis {
    analyze(&TraceInput { spans, inference, names, dropped_spans: 0 })
}

/// Names 4..8 are services a, b, c, d.
fn names() -> Names {
    let mut names = Names::new();
    for name in ["a", "b", "c", "d", "inference"] {
        names.intern(name);
    }
    names
}

const A: NameId = NameId(4);
const B: NameId = NameId(5);

/// The analysis with input indices replaced by what they stand for, so that inputs in another order compare.
fn canonical(spans: &[SpanNode], found: &Analysis) -> (Vec<(SpanNode, Node)>, Analysis) {
    let mut rest = found.clone();
    let nodes = std::mem::take(&mut rest.nodes);
    rest.duplicates = 0;
    let nodes =
        nodes.into_iter().map(|node| (spans[node.input as usize], Node { input: 0, ..node })).collect();
    (nodes, rest)
}

fn path(found: &Analysis, spans: &[SpanNode]) -> Vec<(u64, i64, i64)> {
    let id = |segment: &Segment| spans[found.nodes[segment.node as usize].input as usize].span_id;
    found.critical_path.iter().map(|segment| (id(segment), segment.start_ns, segment.end_ns)).collect()
}

/// Spans with few ids and short times, so that cycles, orphans, duplicates, ties and overlaps are common.
fn any_spans() -> impl Strategy<Value = Vec<SpanNode>> {
    let one = (1u64..24, 0u64..26, 0i64..200, -3i64..120, 4u32..8, 0u32..5, (1u8..6, 0u8..3), 0u32..6);
    proptest::collection::vec(one, 0..32).prop_map(|all| {
        all.into_iter()
            .map(|(id, parent, start, duration, service, stage, (kind, status), inference)| SpanNode {
                service: NameId(service),
                stage: NameId(stage),
                kind,
                status,
                inference: if inference < 3 { inference } else { NONE },
                ..span(id, parent, start, duration)
            })
            .collect()
    })
}

fn some_inference() -> Vec<Inference> {
    let tokens =
        Inference { request: 7 << 8, input_tokens: Some(10), output_tokens: Some(5), ..Inference::default() };
    vec![
        tokens,
        Inference { ttft_ns: Some(40), queue_ns: Some(15), ..tokens },
        Inference { request: 0, ttft_ns: Some(9), ..tokens },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Scenario: any bag of spans, in two orders and with some delivered again. Guarantee: the same analysis.
    #[test]
    fn order_and_redelivery_change_nothing(
        spans in any_spans(),
        keys in proptest::collection::vec(any::<u64>(), 64),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (names, inference) = (names(), some_inference());
        let found = run_with(&spans, &inference, &names);
        let mut other = spans.clone();
        if !spans.is_empty() {
            other.extend(again.iter().map(|index| *index.get(&spans)));
        }
        let mut keyed: Vec<_> = other.into_iter().zip(keys).collect();
        keyed.sort_by_key(|&(_, key)| key);
        let other: Vec<_> = keyed.into_iter().map(|(span, _)| span).collect();
        let again = run_with(&other, &inference, &names);
        prop_assert_eq!(canonical(&spans, &found), canonical(&other, &again));
    }

    /// Scenario: any bag of spans. Guarantee: the forest holds every span id once, parents first, and says what is wrong.
    #[test]
    fn the_forest_is_whole(spans in any_spans()) {
        let found = run_with(&spans, &some_inference(), &names());
        let mut ids: Vec<u64> = spans.iter().map(|span| span.span_id).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(found.nodes.len(), ids.len());
        prop_assert_eq!(found.duplicates as usize, spans.len() - ids.len());
        for (index, node) in found.nodes.iter().enumerate() {
            prop_assert!(node.parent == NONE || (node.parent as usize) < index);
            prop_assert!(node.self_ns <= node.end_ns.abs_diff(node.start_ns));
            if node.parent != NONE {
                let parent = &found.nodes[node.parent as usize];
                prop_assert_eq!(node.depth, parent.depth + 1);
                prop_assert!(index < (node.parent + parent.subtree) as usize);
                prop_assert_eq!(spans[node.input as usize].parent_id, spans[parent.input as usize].span_id);
            }
        }
        let stated = found.completeness;
        let cut = found.roots.iter().filter(|&&root| {
            spans[found.nodes[root as usize].input as usize].parent_id != 0
        }).count();
        prop_assert_eq!(cut, (stated.orphans + stated.cycles) as usize);
        prop_assert_eq!(stated.is_complete(), stated.reasons().next().is_none());
    }

    /// Scenario: any bag of spans. Guarantee: the critical path covers the root's interval without gap or overlap,
    /// and stage times add up to what they split.
    #[test]
    fn the_critical_path_covers_the_root(spans in any_spans()) {
        let found = run_with(&spans, &some_inference(), &names());
        if found.root == NONE {
            prop_assert!(spans.is_empty());
            return Ok(());
        }
        let root = found.nodes[found.root as usize];
        let mut at = root.start_ns;
        for segment in &found.critical_path {
            prop_assert_eq!(segment.start_ns, at);
            prop_assert!(segment.end_ns > segment.start_ns);
            let node = found.nodes[segment.node as usize];
            prop_assert!(node.start_ns <= segment.start_ns && segment.end_ns <= node.end_ns);
            at = segment.end_ns;
        }
        prop_assert_eq!(at, root.end_ns);
        let by_stage: u64 = found.stages.iter().map(|stage| stage.critical_ns).sum();
        prop_assert_eq!(by_stage, root.end_ns.abs_diff(root.start_ns));
        let by_node: u64 = found.nodes.iter().map(|node| node.critical_ns).sum();
        prop_assert_eq!(by_node, by_stage);
        let self_by_stage: u64 = found.stages.iter().map(|stage| stage.self_ns).sum();
        let self_by_service: u64 = found.services.iter().map(|service| service.self_ns).sum();
        let self_by_node: u64 = found.nodes.iter().map(|node| node.self_ns).sum();
        prop_assert_eq!(self_by_stage, self_by_node);
        prop_assert_eq!(self_by_service, self_by_node);
    }

    /// Scenario: a tree whose children follow one another inside their parent. Guarantee: self times add up to the
    /// root's duration, so the parallelism is 1, and the critical path is the self times.
    #[test]
    fn a_sequential_tree_has_no_parallelism(parents in proptest::collection::vec(any::<prop::sample::Index>(), 1..40)) {
        let mut children: Vec<Vec<usize>> = vec![Vec::new()];
        for (index, parent) in parents.iter().enumerate() {
            children.push(Vec::new());
            let parent = parent.index(index + 1);
            children[parent].push(index + 1);
        }
        // Every span works 10 before, between and after its children.
        let mut spans = vec![span(1, 0, 0, 0); children.len()];
        fn place(at: usize, start: i64, children: &[Vec<usize>], spans: &mut [SpanNode], parent: u64) -> i64 {
            let mut cursor = start + 10;
            for &child in &children[at] {
                cursor = place(child, cursor, children, spans, at as u64 + 1) + 10;
            }
            spans[at] = span(at as u64 + 1, parent, start, cursor - start);
            cursor
        }
        let end = place(0, 0, &children, &mut spans, 0);
        let found = run(&spans);
        prop_assert_eq!(found.nodes.iter().map(|node| node.self_ns).sum::<u64>(), end as u64);
        prop_assert_eq!(found.parallelism, 1.0);
        prop_assert!(found.completeness.is_complete());
        prop_assert!(found.nodes.iter().all(|node| node.critical_ns == node.self_ns));
    }
}

/// Scenario: two children in parallel, then one alone. Guarantee: the path takes the one that finished last each time.
#[test]
fn parallel_children() {
    let spans =
        [span(1, 0, 0, 100), span(2, 1, 10, 30), span(3, 1, 10, 50), span(4, 1, 70, 20), span(5, 3, 20, 30)];
    let found = run(&spans);
    let expected =
        vec![(1, 0, 10), (3, 10, 20), (5, 20, 50), (3, 50, 60), (1, 60, 70), (4, 70, 90), (1, 90, 100)];
    assert_eq!(path(&found, &spans), expected);
    assert_eq!(found.nodes[0].self_ns, 30);
    assert!((found.parallelism - 1.3).abs() < 1e-9);
}

/// Scenario: a background child outlives the root. Guarantee: the root did not wait for it; its time is still its own.
#[test]
fn a_child_that_outlives_the_root_is_off_the_path() {
    let spans = [span(1, 0, 0, 100), span(2, 1, 10, 20), span(3, 1, 40, 500)];
    let found = run(&spans);
    assert_eq!(path(&found, &spans), vec![(1, 0, 10), (2, 10, 30), (1, 30, 100)]);
    assert_eq!(found.end_ns, 540);
    assert_eq!(found.nodes[0].self_ns, 20);
}

/// Scenario: the client span ends at the headers while the engine below it streams on, inside the gateway's span.
/// Guarantee: the engine is on the path to its end, and the client for what led to it.
#[test]
fn a_streamed_answer_counts_at_the_ancestor_that_waited() {
    let client = SpanNode { service: A, kind: 3, ..span(2, 1, 10, 20) };
    let engine = SpanNode { service: B, kind: 2, ..span(3, 2, 15, 80) };
    let spans = [SpanNode { service: A, ..span(1, 0, 0, 100) }, client, engine];
    let found = run(&spans);
    assert_eq!(path(&found, &spans), vec![(1, 0, 10), (2, 10, 15), (3, 15, 95), (1, 95, 100)]);
    assert!(found.clock_shifts.is_empty());
}

/// Scenario: the main child ends a hair after the root. Guarantee: it is clipped, not taken for a background task.
#[test]
fn a_child_that_ends_a_hair_late_is_clipped() {
    let spans = [span(1, 0, 0, 1_000), span(2, 1, 10, 995)];
    assert_eq!(path(&run(&spans), &spans), vec![(1, 0, 10), (2, 10, 1_000)]);
}

/// Scenario: a server's clock is 1000 behind its client's. Guarantee: its spans are centred in the client's span, with
/// their own children, and the shift is stated.
#[test]
fn a_skewed_server_is_moved_into_its_caller() {
    let client = SpanNode { service: A, kind: 3, ..span(1, 0, 5_000, 100) };
    let server = SpanNode { service: B, kind: 2, ..span(2, 1, 4_020, 60) };
    let inner = SpanNode { service: B, ..span(3, 2, 4_030, 20) };
    let spans = [client, server, inner];
    let found = run(&spans);
    let times: Vec<_> = found.nodes.iter().map(|node| (node.start_ns, node.end_ns)).collect();
    assert_eq!(times, vec![(5_000, 5_100), (5_020, 5_080), (5_030, 5_050)]);
    assert_eq!(found.clock_shifts, vec![ClockShift { service: B, shift_ns: 1_000, spans: 2 }]);
    assert_eq!(found.edges, vec![ServiceEdge { caller: A, callee: B, calls: 1, errors: 0, total_ns: 60 }]);
    assert_eq!(found.duration_ns(), 100);
}

/// Scenario: a cycle, a span that is its own parent, and an orphan. Guarantee: each is cut at its earliest span and stated.
#[test]
fn cycles_and_orphans_are_stated() {
    let spans = [span(1, 2, 10, 5), span(2, 3, 0, 50), span(3, 1, 5, 5), span(4, 4, 0, 9), span(5, 99, 1, 1)];
    let found = run(&spans);
    let reasons: Vec<_> = found.completeness.reasons().collect();
    assert_eq!(reasons, vec!["missing_root", "missing_parents", "cycle"]);
    assert_eq!((found.completeness.cycles, found.completeness.orphans), (2, 1));
    let roots: Vec<_> =
        found.roots.iter().map(|&root| spans[found.nodes[root as usize].input as usize].span_id).collect();
    assert_eq!(roots, vec![2, 4, 5]);
    assert_eq!(spans[found.nodes[found.root as usize].input as usize].span_id, 2);
}

/// Scenario: vLLM's single span, twice under one client span (`n = 2`). Guarantee: queue, prefill and decode are split
/// by its latency attributes, and the prompt counts once.
#[test]
fn one_engine_span_is_split_into_its_stages() {
    let engine = |output| Inference {
        request: 42 << 8,
        input_tokens: Some(100),
        output_tokens: Some(output),
        cached_tokens: None,
        ttft_ns: Some(30),
        queue_ns: Some(10),
    };
    let inference = [engine(7), engine(9)];
    let spans = [
        SpanNode { service: A, kind: 3, ..span(1, 0, 0, 120) },
        SpanNode { service: B, kind: 2, inference: 0, ..span(2, 1, 5, 100) },
        SpanNode { service: B, kind: 2, inference: 1, ..span(3, 1, 5, 110) },
    ];
    let found = run_with(&spans, &inference, &names());
    assert_eq!(found.tokens, Tokens { input: Some(100), output: Some(16), cached: None });
    let ttft = found.ttft.expect("the engine reports it");
    assert_eq!((ttft.ttft_ns, ttft.queue_ns, ttft.prefill_ns), (30, Some(10), Some(20)));
    let of = |stage| found.stages.iter().find(|entry| entry.stage == stage).copied().expect("stage");
    assert_eq!((of(NameId::QUEUE).self_ns, of(NameId::QUEUE).critical_ns), (20, 10));
    assert_eq!((of(NameId::PREFILL).self_ns, of(NameId::PREFILL).critical_ns), (40, 20));
    assert_eq!((of(NameId::DECODE).self_ns, of(NameId::DECODE).critical_ns), (150, 80));
    assert_eq!(of(NameId::EMPTY).critical_ns, 10);
}

fn tokens(input: u64, output: u64, request: &str) -> Inference {
    let request = if request.is_empty() { 0 } else { request_key(request) };
    Inference { request, input_tokens: Some(input), output_tokens: Some(output), ..Inference::default() }
}

/// Scenario: a client's span and, below it in another service, the engine's; the client counts more tokens, only the engine
/// knows cached ones. Guarantee: the engine's figures replace the client's, count by count.
#[test]
fn an_engine_replaces_its_client() {
    let engine =
        Inference { request: 1, input_tokens: Some(51), cached_tokens: Some(16), ..Inference::default() };
    let inference = [tokens(50, 20, ""), engine];
    let spans = [
        SpanNode { service: A, kind: 3, inference: 0, ..span(1, 0, 0, 9) },
        SpanNode { service: B, kind: 2, inference: 1, ..span(2, 1, 1, 5) },
    ];
    let found = run_with(&spans, &inference, &names());
    assert_eq!(found.tokens, Tokens { input: Some(51), output: Some(20), cached: Some(16) });
    assert_eq!(found.unreported_calls, 0);
    assert_eq!(run_with(&spans[..1], &inference, &names()).unreported_calls, 1);
}

/// Scenario: an engine's span with a prefill and a decode span below that repeat its counts, and a tokenizer's beside the client's
/// call. Guarantee: one request, counted once.
#[test]
fn stages_repeat_what_the_request_said() {
    let mut names = names();
    let tokenize = names.intern("tokenize");
    let inference = [tokens(50, 20, "r"), tokens(50, 20, ""), tokens(50, 20, "r"), tokens(48, 0, "")];
    let spans = [
        SpanNode { service: A, ..span(1, 0, 0, 99) },
        SpanNode { service: A, stage: tokenize, inference: 3, ..span(2, 1, 0, 5) },
        SpanNode { service: A, kind: 3, inference: 0, ..span(3, 1, 5, 80) },
        SpanNode { service: B, kind: 2, stage: NameId(8), inference: 0, ..span(4, 3, 6, 70) },
        SpanNode { service: B, stage: NameId::PREFILL, inference: 1, ..span(5, 4, 6, 10) },
        SpanNode { service: B, stage: NameId::DECODE, inference: 2, ..span(6, 4, 16, 60) },
    ];
    let found = run_with(&spans, &inference, &names);
    assert_eq!(found.tokens, Tokens { input: Some(50), output: Some(20), cached: None });
    // Where stages alone report, theirs count.
    let found = run_with(&spans[4..], &inference, &names);
    assert_eq!(found.tokens, Tokens { input: Some(100), output: Some(40), cached: None });
}

/// Scenario: client and engine beside one another, joined by the request id alone; then with the suffix that an engine adds to
/// ids of completions, two prompts in one call; then `n = 2`; then two requests that have nothing to do with each other.
/// Guarantee: the engine's figures, each prompt once a request id, and nothing joined that is not one.
#[test]
fn a_request_id_joins_what_stands_apart() {
    let client = |inference| SpanNode { service: A, kind: 3, inference, ..span(2, 1, 0, 9) };
    let engine = |id, inference| SpanNode { service: B, kind: 2, inference, ..span(id, 1, 1, 5) };
    let of = |inference: &[Inference]| {
        let mut spans = vec![SpanNode { service: A, ..span(1, 0, 0, 99) }, client(0)];
        spans.extend((1..inference.len() as u32).map(|index| engine(u64::from(index) + 2, index)));
        run_with(&spans, inference, &names()).tokens
    };
    let sum = |input, output| Tokens { input: Some(input), output: Some(output), cached: None };
    assert_eq!(of(&[tokens(50, 20, "chatcmpl-1"), tokens(51, 21, "chatcmpl-1")]), sum(51, 21));
    let prompts = [tokens(30, 9, "cmpl-7f"), tokens(10, 4, "cmpl-7f-0"), tokens(21, 5, "cmpl-7f-1")];
    assert_eq!(of(&prompts), sum(31, 9));
    let twice = [tokens(10, 9, "chatcmpl-2"), tokens(10, 4, "chatcmpl-2"), tokens(10, 5, "chatcmpl-2")];
    assert_eq!(of(&twice), sum(10, 9));
    assert_eq!(of(&[tokens(50, 20, "chatcmpl-1"), tokens(7, 3, "chatcmpl-3")]), sum(57, 23));
}

/// Scenario: an agent's span that sums up three calls, of which one reached an engine that reports. Guarantee: the engine's figure
/// for that call, the callers' for the others.
#[test]
fn a_sum_gives_way_to_its_parts() {
    let inference = [tokens(300, 30, ""), tokens(100, 10, ""), tokens(101, 10, "")];
    let spans = [
        SpanNode { service: A, inference: 0, ..span(1, 0, 0, 99) },
        SpanNode { service: A, kind: 3, inference: 1, ..span(2, 1, 0, 9) },
        SpanNode { service: B, kind: 2, inference: 2, ..span(3, 2, 1, 5) },
        SpanNode { service: A, kind: 3, inference: 1, ..span(4, 1, 10, 9) },
        SpanNode { service: A, kind: 3, inference: 1, ..span(5, 1, 20, 9) },
    ];
    let found = run_with(&spans, &inference, &names());
    assert_eq!(found.tokens, Tokens { input: Some(301), output: Some(30), cached: None });
    assert_eq!(found.unreported_calls, 2);
}

/// Scenario: request ids as engines and clients write them. Guarantee: only the engine's suffix is taken off.
#[test]
fn request_keys_join_sequences_to_their_call() {
    let call = |id: &str| request_key(id) & !0xff;
    assert_eq!(call("cmpl-0af3-0"), call("cmpl-0af3"));
    assert_eq!(call("resp_0af3_12"), call("resp_0af3"));
    assert_ne!(request_key("cmpl-0af3-0"), request_key("cmpl-0af3-1"));
    assert_ne!(request_key("cmpl-0af3-0"), request_key("cmpl-0af3"));
    for (one, other) in [("chatcmpl-a-1", "chatcmpl-a"), ("cmpl-1234-5678", "cmpl-1234"), ("x-0", "x")] {
        assert_ne!(call(one), call(other));
    }
    assert_ne!(call(""), 0);
    assert_ne!(call("cmpl-é-0"), 0);
}

/// Scenario: decode nests under prefill (llm-d), no span reports a first token. Guarantee: stage times are self times,
/// and the first token is derived from the spans and says so.
#[test]
fn nested_stages_are_not_counted_twice() {
    let spans = [
        span(1, 0, 0, 100),
        SpanNode { stage: NameId::QUEUE, ..span(2, 1, 0, 10) },
        SpanNode { stage: NameId::PREFILL, ..span(3, 1, 10, 30) },
        SpanNode { stage: NameId::DECODE, ..span(4, 3, 35, 5) },
        span(5, 4, 36, 1),
    ];
    let found = run(&spans);
    let of = |stage| found.stages.iter().find(|entry| entry.stage == stage).copied().expect("stage");
    assert_eq!(of(NameId::PREFILL).self_ns, 25);
    assert_eq!((of(NameId::DECODE).self_ns, of(NameId::DECODE).spans), (5, 2));
    let ttft = found.ttft.expect("derived");
    assert_eq!(
        (ttft.ttft_ns, ttft.queue_ns, ttft.prefill_ns, ttft.measured),
        (40, Some(10), Some(30), false)
    );
}

/// Scenario: extreme times. Guarantee: no overflow.
#[test]
fn extreme_times_do_not_overflow() {
    let spans = [
        span(1, 0, i64::MIN, i64::MAX),
        SpanNode { service: A, kind: 3, ..span(2, 1, i64::MAX, i64::MAX) },
        SpanNode { service: B, kind: 2, ..span(3, 2, i64::MIN, i64::MAX) },
        span(4, 3, 0, i64::MIN),
    ];
    assert_eq!(run(&spans).nodes.len(), 4);
}

/// Scenario: 100,000 spans as one chain, as one fan, and as a chain whose spans all outlive their parents.
/// Guarantee: analysed without recursion, each in well under a second of CPU.
#[test]
fn a_hundred_thousand_spans() {
    const COUNT: u64 = 100_000;
    let chain: Vec<_> = (1..=COUNT).map(|id| span(id, id - 1, id as i64, 2 * (COUNT - id) as i64)).collect();
    let fan: Vec<_> =
        (1..=COUNT)
            .map(|id| {
                if id == 1 {
                    span(1, 0, 0, 10_000_000)
                } else {
                    span(id, 1, id as i64 * 7, (id % 977) as i64)
                }
            })
            .collect();
    let outliving: Vec<_> = (1..=COUNT).map(|id| span(id, id - 1, id as i64, 10 * id as i64)).collect();
    for spans in [chain, fan, outliving] {
        let begin = std::time::Instant::now();
        let found = run(&spans);
        assert_eq!(found.nodes.len(), COUNT as usize);
        assert!(found.completeness.is_complete());
        assert!(begin.elapsed().as_secs() < 5, "took {:?}", begin.elapsed());
    }
}
