//! Sightings in, links out: joined, corrected, missing, bounded.

use proptest::prelude::*;

use super::*;
use crate::rollup::Millis;

const SECOND: i64 = 1_000_000_000;

fn sighting(role: Role, request: &str, trace: u8, start_s: i64) -> Sighting {
    Sighting {
        start_ns: start_s * SECOND,
        trace_id: [trace; 16],
        span_id: [trace.wrapping_mul(7).wrapping_add(role as u8); 8],
        role,
        end_ns: (start_s + 2) * SECOND,
        is_error: false,
        has_parent: false,
        tenant: "".into(),
        request: request.into(),
        service: if role == Role::Engine { "vllm" } else { "shop" }.into(),
        model: if role == Role::Engine { "" } else { "llama" }.into(),
        prompt_tokens: (role == Role::Engine).then_some(100),
    }
}

fn failed(sighting: Sighting) -> Sighting {
    Sighting { is_error: true, ..sighting }
}

fn take(stitcher: &mut Stitcher, at_ms: Millis, sighting: &Sighting, out: &mut Vec<Link>) {
    stitcher.advance(at_ms, out);
    for key in sighting.keys() {
        stitcher.sighting(key, sighting.clone(), out);
    }
}

fn run(config: StitchConfig, sightings: &[(Millis, Sighting)]) -> (Vec<Link>, StitchStats) {
    let (mut stitcher, mut out) = (Stitcher::new(config), Vec::new());
    for (at_ms, sighting) in sightings {
        take(&mut stitcher, *at_ms, sighting, &mut out);
    }
    stitcher.finish(&mut out);
    assert_eq!(stitcher.held(), (0, 0), "everything held is given back");
    (out, stitcher.stats())
}

fn stitch(sightings: &[(Millis, Sighting)]) -> Vec<Link> {
    run(StitchConfig::default(), sightings).0
}

/// Scenario: client, proxy and engine of one request in three traces, in any order. Guarantee: one link with all
/// three, told once they were quiet for the idle time.
#[test]
fn three_traces_are_one_request() {
    let all = [
        sighting(Role::Client, "chatcmpl-1", 1, 0),
        sighting(Role::Proxy, "chatcmpl-1", 2, 0),
        sighting(Role::Engine, "chatcmpl-1", 3, 1),
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (mut stitcher, mut out) = (Stitcher::new(StitchConfig::default()), Vec::new());
        for (at_ms, index) in (0..).step_by(1_000).zip(order) {
            take(&mut stitcher, at_ms, &all[index], &mut out);
        }
        stitcher.advance(6_999, &mut out);
        assert_eq!(out, []);
        stitcher.advance(7_000, &mut out);
        let [link] = out.as_slice() else { panic!("one link, not {out:?}") };
        assert_eq!(
            (link.kind, link.version, &*link.request, &*link.model),
            (LinkKind::Linked, 1, "chatcmpl-1", "llama")
        );
        assert_eq!(link.members, all);
        assert_eq!(link.identity(), "/chatcmpl-1");
    }
}

/// Scenario: a request whose spans share a trace, and an engine whose caller reports nothing. Guarantee: nothing is
/// told, there is nothing to link.
#[test]
fn one_trace_needs_no_link() {
    let engine = Sighting { has_parent: true, ..sighting(Role::Engine, "a", 1, 0) };
    let links = stitch(&[
        (0, sighting(Role::Client, "a", 1, 0)),
        (0, engine),
        (0, sighting(Role::Engine, "b", 2, 0)),
    ]);
    assert_eq!(links, []);
}

/// Scenario: two sequences of one prompt. Guarantee: the prompt counts once, the repetition is stated.
#[test]
fn a_prompt_counts_once() {
    let second = Sighting { span_id: [9; 8], ..sighting(Role::Engine, "a", 2, 0) };
    let links = stitch(&[
        (0, sighting(Role::Engine, "a", 2, 0)),
        (0, second),
        (0, sighting(Role::Client, "a", 1, 0)),
    ]);
    assert_eq!((links.len(), links[0].members.len()), (1, 3));
    assert_eq!((links[0].prompt_tokens, links[0].repeated_prompt_tokens), (Some(100), 100));
}

/// Scenario: callers without an engine's span: of a service whose requests are otherwise reported, of one whose never
/// are, of another model, failed without an id, succeeded without an id. Guarantee: only the first and the fourth
/// are unreported, and each is named.
#[test]
fn missing_engines_are_evidence() {
    let elsewhere = Sighting { service: "batch".into(), ..sighting(Role::Client, "c", 5, 0) };
    let other_model = Sighting { model: "gpt".into(), ..sighting(Role::Client, "d", 6, 0) };
    let (links, stats) = run(
        StitchConfig::default(),
        &[
            (0, sighting(Role::Client, "a", 1, 0)),
            (0, sighting(Role::Engine, "a", 2, 0)),
            (0, sighting(Role::Client, "b", 3, 0)),
            (0, elsewhere),
            (0, other_model),
            (0, failed(sighting(Role::Client, "", 7, 0))),
            (0, sighting(Role::Client, "", 8, 0)),
        ],
    );
    let unreported: Vec<(&str, u8)> = links
        .iter()
        .filter(|link| link.kind == LinkKind::Unreported)
        .map(|link| (&*link.request, link.members[0].trace_id[0]))
        .collect();
    assert_eq!(unreported, [("b", 3), ("", 7)]);
    assert_eq!(links.len(), 3);
    assert_eq!((stats.linked, stats.unreported, stats.unidentified), (1, 2, 1));
    let nameless = links.iter().find(|link| link.request.is_empty()).expect("told");
    assert_eq!(nameless.identity(), format!("/{}-{}", "07".repeat(16), format!("{:02x}", 49).repeat(8)));
}

/// Scenario: an engine's span comes after its request was told as unreported, in another trace or in the caller's own.
/// Guarantee: a second version corrects the first; after the late time nothing is corrected.
#[test]
fn late_engines_correct() {
    for trace in [4, 3] {
        let late = Sighting { span_id: [99; 8], ..sighting(Role::Engine, "b", trace, 0) };
        let until = |at_ms| {
            let links = stitch(&[
                (0, sighting(Role::Client, "a", 1, 0)),
                (0, sighting(Role::Engine, "a", 2, 0)),
                (0, sighting(Role::Client, "b", 3, 0)),
                (at_ms, late.clone()),
            ]);
            let versions: Vec<_> = links
                .iter()
                .filter(|link| &*link.request == "b")
                .map(|link| (link.version, link.kind))
                .collect();
            versions
        };
        assert_eq!(until(45_000), [(1, LinkKind::Unreported), (2, LinkKind::Linked)]);
        assert_eq!(until(60_001), [(1, LinkKind::Unreported)]);
    }
}

/// Scenario: two calls in one trace that propagates context: one has an id and an engine's span, one timed out without an
/// id. Guarantee: the engine's span of the first is not taken for that of the second; a span nobody claims is, if it
/// began while the call was under way.
#[test]
fn nameless_calls_are_found_by_trace() {
    let in_trace = |role, request, span: u8, start| Sighting {
        has_parent: true,
        span_id: [span; 8],
        ..sighting(role, request, 1, start)
    };
    let known = [
        (0, sighting(Role::Client, "z", 8, 0)),
        (0, sighting(Role::Engine, "z", 9, 0)),
        (0, in_trace(Role::Client, "a", 1, 0)),
        (0, in_trace(Role::Engine, "a", 2, 0)),
        (0, failed(in_trace(Role::Client, "", 3, 10))),
    ];
    let nameless = |links: &[Link]| {
        let has_span = |link: &&Link| link.members.iter().any(|member| member.span_id == [3; 8]);
        links.iter().filter(has_span).cloned().collect::<Vec<_>>()
    };
    let found = nameless(&stitch(&known));
    assert_eq!((found.len(), found[0].kind), (1, LinkKind::Unreported));

    let with = |start| {
        let mut all = known.to_vec();
        all.push((0, in_trace(Role::Engine, "b", 4, start)));
        nameless(&stitch(&all))
    };
    let found = with(11);
    assert_eq!((found[0].kind, found[0].is_by_trace, &*found[0].request), (LinkKind::Linked, true, "b"));
    assert_eq!(with(14)[0].kind, LinkKind::Unreported, "it began after the call had ended");
}

/// Scenario: tenants with one request id. Guarantee: never linked.
#[test]
fn tenants_are_apart() {
    let other = Sighting { tenant: "other".into(), ..sighting(Role::Engine, "a", 2, 0) };
    assert_eq!(stitch(&[(0, sighting(Role::Client, "a", 1, 0)), (0, other)]), []);
}

/// Scenario: more open requests than there is room for, and more spans of one request than are kept. Guarantee: the
/// bounds hold, evictions and omissions are counted, nothing cut off is told as unreported.
#[test]
fn bounds_hold() {
    let config = StitchConfig { max_groups: 10, max_members: 4, ..StitchConfig::default() };
    let (mut stitcher, mut out) = (Stitcher::new(config), Vec::new());
    take(&mut stitcher, 0, &sighting(Role::Client, "z", 1, 0), &mut out);
    take(&mut stitcher, 0, &sighting(Role::Engine, "z", 2, 0), &mut out);
    stitcher.advance(10_000, &mut out);
    assert_eq!(out.len(), 1);
    for number in 0..50 {
        let caller = sighting(Role::Client, &format!("r{number}"), 3, 0);
        take(&mut stitcher, 10_000, &caller, &mut out);
        assert!(stitcher.held().0 <= 10);
    }
    assert_eq!(stitcher.stats().evicted, 40);
    for span in 0..20 {
        let sequence = Sighting { span_id: [span; 8], ..sighting(Role::Engine, "r49", 4, 0) };
        take(&mut stitcher, 10_000, &sequence, &mut out);
    }
    stitcher.finish(&mut out);
    let last = out.iter().find(|link| &*link.request == "r49").expect("told");
    assert_eq!((last.members.len(), last.omitted_members), (4, 17));
    assert_eq!(stitcher.stats().unreported, 9, "those still held when they were due");
}

/// Scenario: after a silence ten thousand requests are due at once. Guarantee: a call tells some thousands of them, the
/// next calls the others, each once.
#[test]
fn many_at_once_are_told_in_portions() {
    let (mut stitcher, mut out) = (Stitcher::new(StitchConfig::default()), Vec::new());
    for number in 0..10_000 {
        let request = format!("r{number}");
        take(&mut stitcher, 0, &sighting(Role::Client, &request, 1, 0), &mut out);
        take(&mut stitcher, 0, &sighting(Role::Engine, &request, 2, 0), &mut out);
    }
    assert!(out.is_empty());
    let mut calls = 0;
    while out.len() < 10_000 {
        let before = out.len();
        stitcher.advance(10_000, &mut out);
        assert!((1..5_000).contains(&(out.len() - before)), "{} by one call", out.len() - before);
        calls += 1;
    }
    assert_eq!(calls, 3);
    let told: std::collections::HashSet<_> = out.iter().map(Link::identity).collect();
    assert_eq!(told.len(), 10_000);
}

fn any_sighting() -> impl Strategy<Value = Sighting> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Proxy), Just(Role::Engine)];
    (role, 0u8..6, 0u8..5, 0u8..4, 0i64..20, any::<[bool; 2]>()).prop_map(
        |(role, request, trace, span, start, [is_error, has_parent])| Sighting {
            is_error,
            has_parent,
            span_id: [span * 3 + role as u8; 8],
            ..sighting(role, &"abcdef"[usize::from(request)..][..1].replace('f', ""), trace, start)
        },
    )
}

proptest! {
    /// Scenario: any sightings, delivered once or twice, at one time in any order. Guarantee: the same links; every member
    /// belongs to the request; no link of one span.
    #[test]
    fn order_and_repetition_do_not_matter(all in prop::collection::vec(any_sighting(), 0..40), turn in 0usize..40, twice: bool) {
        let at = |all: &[Sighting]| all.iter().map(|one| (0, one.clone())).collect::<Vec<_>>();
        let sorted = |mut links: Vec<Link>| {
            links.sort_by_key(|link| (link.identity(), link.members.clone()));
            links
        };
        let links = sorted(stitch(&at(&all)));
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len().max(1));
        if twice {
            turned.extend(all.clone());
        }
        prop_assert_eq!(&sorted(stitch(&at(&turned))), &links);
        for link in &links {
            prop_assert!(link.is_by_trace || link.members.iter().all(|member| member.request == link.request));
            prop_assert!(link.members.len() > 1 || link.kind == LinkKind::Unreported);
            prop_assert!(link.kind == LinkKind::Linked || link.members_of(Role::Engine).count() == 0);
        }
    }

    /// Scenario: any sightings over time within tight bounds. Guarantee: the bounds hold at every step, the state is given
    /// back at the end, and running it again tells the same.
    #[test]
    fn state_is_bounded(all in prop::collection::vec((0i64..200_000, any_sighting()), 0..80), max_groups in 1usize..6, max_bytes in 500usize..5_000) {
        let config = StitchConfig { max_groups, max_bytes, max_members: 3, max_callers: 3, ..StitchConfig::default() };
        let mut stitcher = Stitcher::new(config);
        let mut out = Vec::new();
        for (at_ms, sighting) in &all {
            take(&mut stitcher, *at_ms, sighting, &mut out);
            let (groups, bytes) = stitcher.held();
            prop_assert!(groups <= max_groups && bytes <= max_bytes);
        }
        stitcher.finish(&mut out);
        prop_assert_eq!(stitcher.held(), (0, 0));
        prop_assert_eq!(run(config, &all).0, out);
    }
}
