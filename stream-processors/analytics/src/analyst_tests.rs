//! The analyst as a whole: windows, corrections, order, snapshots.

use proptest::prelude::*;

use super::*;
use crate::{
    output::{Rollup, State},
    rollup::{Cell, Partial},
    testing::{Conduct, HEALTHY, MODEL, START, Story, window},
};

fn rollups(out: &[Output], length_ms: Millis, stage: &str) -> Vec<(Millis, u32, u64)> {
    let is = |rollup: &&Rollup| {
        rollup.length_ms == length_ms && &*rollup.key.model == MODEL && &*rollup.key.stage == stage
    };
    out.iter()
        .filter_map(|output| match output {
            Output::Rollup(rollup) => Some(rollup),
            _ => None,
        })
        .filter(is)
        .map(|rollup| (rollup.window_ms - START, rollup.revision, rollup.cell.get(Counter::Traces)))
        .collect()
}

/// Scenario: two sources, of which one is behind. Guarantee: a window closes when both have passed it and the
/// lateness, not before; both sources' counts are in its rollup; minutes follow.
#[test]
fn a_window_closes_by_the_least_watermark() {
    let mut analyst = Analyst::new(AnalystConfig::default());
    analyst.set_sources(&[0, 1]);
    let mut out = Vec::new();
    for source in [0, 1] {
        for at in 0..6 {
            window(START + at * WINDOW_MS, &[HEALTHY])
                .into_iter()
                .for_each(|one| analyst.partial(source, one));
        }
    }
    analyst.watermark(1, START + 11_499, &mut out);
    analyst.watermark(0, START + 61_500, &mut out);
    assert!(out.is_empty());
    analyst.watermark(1, START + 11_500, &mut out);
    assert_eq!(rollups(&out, WINDOW_MS, "trace"), [(0, 1, 60)]);
    assert_eq!(out.last(), Some(&Output::Closed { window_ms: START }));
    analyst.watermark(1, START + 61_500, &mut out);
    assert_eq!(rollups(&out, 60_000, "trace"), [(0, 1, 360)]);
    assert_eq!(analyst.closed_to_ms(), Some(START + 60_000));
}

/// Scenario: something of a closed window comes late, then something far too late. Guarantee: the window and its
/// minute are told again with all they hold and a higher revision; the rest is counted.
#[test]
fn late_data_corrects_rollups() {
    let mut analyst = Analyst::new(AnalystConfig::default());
    let mut out = Vec::new();
    for at in 0..8 {
        window(START + at * WINDOW_MS, &[HEALTHY]).into_iter().for_each(|one| analyst.partial(0, one));
    }
    analyst.watermark(0, START + 71_500, &mut out);
    out.clear();
    let late = |seen: i64, window_ms: i64| -> Partial {
        let mut late = window(window_ms, &[Conduct { requests: 5, ..HEALTHY }]).pop().unwrap();
        late.seen_window_ms = seen;
        late
    };
    analyst.partial(0, late(START + 70_000, START + 20_000));
    analyst.watermark(0, START + 81_500, &mut out);
    assert_eq!(rollups(&out, WINDOW_MS, "trace"), [(20_000, 2, 35), (70_000, 1, 30)]);
    assert_eq!(rollups(&out, 60_000, "trace"), [(0, 2, 185)]);
    analyst.partial(0, late(START + 80_000, START - 600_000));
    analyst.watermark(0, START + 91_500, &mut out);
    assert_eq!(analyst.uncorrected_partials(), 1);
}

/// Scenario: two sources, of which one brings something late; it is read at the other's pace, or as a backlog far ahead of
/// the other. Guarantee: the same outputs in the same order: the correction waits for the window in which it is seen.
#[test]
fn corrections_know_no_pace() {
    let told = |backlog: bool| {
        let mut analyst =
            Analyst::new(AnalystConfig { idle_after_ms: Millis::MAX, ..AnalystConfig::default() });
        analyst.set_sources(&[0, 1]);
        let mut out = Vec::new();
        let mut step = |source: u32, at: i64| {
            let window_ms = START + at * WINDOW_MS;
            window(window_ms, &[HEALTHY]).into_iter().for_each(|one| analyst.partial(source, one));
            if (source, at) == (0, 5) {
                for one in window(START + 2 * WINDOW_MS, &[Conduct { requests: 4, ..HEALTHY }]) {
                    analyst.partial(source, Partial { seen_window_ms: window_ms, ..one });
                }
            }
            analyst.watermark(source, window_ms + WINDOW_MS + 1_500, &mut out);
        };
        if backlog {
            (0..12).for_each(|at| step(0, at));
            (0..12).for_each(|at| step(1, at));
        } else {
            (0..12).for_each(|at| (0..2).for_each(|source| step(source, at)));
        }
        out
    };
    let out = told(false);
    assert_eq!(out, told(true));
    let of_window: Vec<_> =
        rollups(&out, WINDOW_MS, "trace").into_iter().filter(|(start, ..)| *start == 20_000).collect();
    assert_eq!(of_window, [(20_000, 1, 60), (20_000, 2, 64)]);
}

/// Scenario: a source that says nothing for more than the idle time while the other writes, and one that never spoke.
/// Guarantee: windows close without it.
#[test]
fn an_idle_source_does_not_hold_windows_open() {
    for speaks in [true, false] {
        let mut analyst = Analyst::new(AnalystConfig::default());
        analyst.set_sources(&[0, 1]);
        let mut out = Vec::new();
        window(START, &[HEALTHY]).into_iter().for_each(|one| analyst.partial(0, one));
        analyst.written_at(START);
        if speaks {
            analyst.watermark(1, START + 1_000, &mut out);
        }
        for at_ms in (0..=60_000).step_by(5_000) {
            analyst.written_at(START + at_ms);
            analyst.watermark(0, START + 1_000 + at_ms, &mut out);
        }
        assert!(out.is_empty());
        analyst.written_at(START + 65_000);
        analyst.watermark(0, START + 66_000, &mut out);
        assert_eq!(rollups(&out, WINDOW_MS, "trace").first(), Some(&(0, 1, 30)));
    }
}

/// Scenario: an outage of hours, after which one source is read to its end before the other is heard of, then the other; the
/// same without an outage. Guarantee: the same rollups: who catches up is waited for. Farther behind than the limit it
/// is not.
#[test]
fn after_an_outage_all_are_waited_for() {
    const WINDOWS: i64 = 90;
    let told = |outage_ms: i64, most_behind_ms: i64| {
        let config = AnalystConfig { most_behind_ms, ..AnalystConfig::default() };
        let mut analyst = Analyst::new(config);
        analyst.set_sources(&[0, 1]);
        let mut out = Vec::new();
        let mut step = |source: u32, at: i64, written_ms: i64| {
            let window_ms = START + at * WINDOW_MS;
            analyst.written_at(written_ms);
            window(window_ms, &[HEALTHY]).into_iter().for_each(|one| analyst.partial(source, one));
            analyst.watermark(source, window_ms + WINDOW_MS + 1_500, &mut out);
        };
        (0..2).for_each(|source| step(source, 0, START));
        for at in 1..WINDOWS {
            if outage_ms == 0 {
                (0..2).for_each(|source| step(source, at, START + at * WINDOW_MS));
            } else {
                step(0, at, START + outage_ms + at * 10);
            }
        }
        if outage_ms > 0 {
            (1..WINDOWS).for_each(|at| step(1, at, START + outage_ms + 1_000 + at * 10));
        }
        rollups(&out, WINDOW_MS, "trace")
    };
    let calm = told(0, HOUR_MS);
    assert_eq!(calm.len(), WINDOWS as usize);
    assert_eq!(told(5 * HOUR_MS, HOUR_MS), calm);
    assert_ne!(told(5 * HOUR_MS, 60_000), calm);
}

/// Scenario: of two sources one says at once that it has nothing, and speaks later. Guarantee: windows close by the other
/// alone, without waiting for the idle time; from its first watermark on it is waited for, also after a restore.
#[test]
fn a_source_that_has_nothing_yet_is_not_waited_for() {
    let mut analyst = Analyst::new(AnalystConfig::default());
    analyst.set_sources(&[0, 1]);
    let mut out = Vec::new();
    let count = |analyst: &mut Analyst, source, at| {
        window(START + at * WINDOW_MS, &[HEALTHY]).into_iter().for_each(|one| analyst.partial(source, one));
    };
    count(&mut analyst, 0, 0);
    analyst.watermark(0, START + 11_500, &mut out);
    assert!(out.is_empty());
    analyst.watermark(1, Millis::MIN, &mut out);
    assert_eq!(rollups(&out, WINDOW_MS, "trace"), [(0, 1, 30)]);
    out.clear();
    let mut analyst = Analyst::restore(AnalystConfig::default(), &analyst.snapshot()).unwrap();
    count(&mut analyst, 0, 1);
    count(&mut analyst, 1, 1);
    analyst.watermark(1, START + 15_000, &mut out);
    analyst.watermark(0, START + 25_000, &mut out);
    assert!(out.is_empty());
    // Told again by a restart: nothing is taken back.
    analyst.watermark(1, Millis::MIN, &mut out);
    analyst.watermark(1, START + 21_500, &mut out);
    assert_eq!(rollups(&out, WINDOW_MS, "trace"), [(10_000, 1, 60)]);
}

/// Scenario: the first thing that is ever counted is an event of an hour ago. Guarantee: its rollups are told, and no window
/// of that hour is closed for it.
#[test]
fn an_old_event_opens_no_windows() {
    let mut analyst = Analyst::new(AnalystConfig::default());
    let mut out = Vec::new();
    let old = window(START - 3_600_000, &[HEALTHY]).into_iter();
    old.map(|one| Partial { seen_window_ms: START, ..one }).for_each(|one| analyst.partial(0, one));
    analyst.watermark(0, START + 21_500, &mut out);
    let closed: Vec<Millis> = out
        .iter()
        .filter_map(|one| match one {
            Output::Closed { window_ms } => Some(*window_ms - START),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [0, 10_000]);
    assert_eq!(rollups(&out, WINDOW_MS, "trace"), [(-3_600_000, 1, 30)]);
    assert_eq!(rollups(&out, 60_000, "trace"), [(-3_600_000, 1, 30)]);
}

/// What happens in a test story: so many windows of this.
fn conducts() -> impl Strategy<Value = Vec<(usize, [Conduct; 3])>> {
    let slow = Conduct { tpot_us: 50_000, queue_us: 900_000, ..HEALTHY };
    let failing = Conduct { failing: 9, ..HEALTHY };
    let cold = Conduct { hit_permille: 50, ..HEALTHY };
    let silent = Conduct { requests: 0, ..HEALTHY };
    let kinds = prop::sample::select(vec![
        [HEALTHY; 3],
        [slow; 3],
        [slow, HEALTHY, HEALTHY],
        [failing; 3],
        [cold; 3],
        [silent; 3],
    ]);
    prop::collection::vec((4usize..14, kinds), 1..5)
}

/// Everything that an analyst says of a story; `shuffle` turns the partials of each window and cuts cells in two.
fn told(story: &[(usize, [Conduct; 3])], shuffle: Option<usize>, restore_at: Option<usize>) -> Vec<Output> {
    let mut analyst = Analyst::new(AnalystConfig::default());
    let mut out = Vec::new();
    let healthy = (70, [HEALTHY; 3]);
    let windows = std::iter::once(&healthy).chain(story).flat_map(|(count, devices)| vec![devices; *count]);
    let mut at_ms = START;
    for (index, devices) in windows.enumerate() {
        let mut partials = window(at_ms, devices);
        if let Some(turn) = shuffle {
            let extra = partials[turn % partials.len()].clone();
            let count = partials.len();
            partials.rotate_left(turn % count);
            // The same counts in two parts: an empty one of the same key changes nothing.
            partials.push(Partial { cell: Cell::default(), exemplars: extra.exemplars.clone(), ..extra });
            partials.reverse();
        }
        let half = partials.len() / 2;
        for (place, partial) in partials.into_iter().enumerate() {
            analyst.partial(0, partial);
            if shuffle.is_some() && place == half {
                // A mark in between that closes nothing.
                analyst.watermark(0, at_ms + 2_000, &mut out);
            }
        }
        at_ms += WINDOW_MS;
        analyst.watermark(0, at_ms + 1_500, &mut out);
        if restore_at == Some(index) {
            analyst = Analyst::restore(AnalystConfig::default(), &analyst.snapshot()).unwrap();
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Scenario: any story; its partials in another order, cut otherwise, with more marks in between. Guarantee:
    /// the same outputs to the byte.
    #[test]
    fn outputs_know_no_order(story in conducts(), turn in 0usize..7) {
        prop_assert_eq!(told(&story, None, None), told(&story, Some(turn), None));
    }

    /// Scenario: any story; saved and restored somewhere. Guarantee: it goes on as if nothing had happened.
    #[test]
    fn a_restored_analyst_goes_on(story in conducts(), at in 0usize..120) {
        prop_assert_eq!(told(&story, None, None), told(&story, None, Some(at)));
    }
}

/// Scenario: no snapshot, one of another layout, a cut one. Guarantee: an error that says what to do; no panic.
#[test]
fn bad_snapshots_are_refused() {
    let config = AnalystConfig::default;
    assert_eq!(Analyst::restore(config(), &[]).err(), Some(SnapshotError::Version(None)));
    assert_eq!(Analyst::restore(config(), &[99, 1]).err(), Some(SnapshotError::Version(Some(99))));
    let mut story = Story::new(config());
    story.run(3, &[HEALTHY]);
    let snapshot = story.analyst.snapshot();
    for cut in 1..snapshot.len().min(400) {
        let error = Analyst::restore(config(), &snapshot[..cut]).err();
        assert!(matches!(error, Some(SnapshotError::Malformed(_))), "{cut}: {error:?}");
    }
}

/// Scenario: tokens get slow on all devices, and normal again. Guarantee: one insight opens, names the host first with a
/// sentence and traces of both sides, and is resolved; its revisions ascend by one.
#[test]
fn an_incident_opens_and_resolves() {
    let mut story = Story::warm();
    story.run(20, &[Conduct { tpot_us: 45_000, ..HEALTHY }; 3]);
    let (open, cause) = story.only();
    assert_eq!((cause, open.state == State::Resolved), ("host", false));
    assert!(!open.example_traces.is_empty() && !open.normal_traces.is_empty());
    assert!(
        open.recommendation.as_ref().is_some_and(|one| one.text.contains("3.0 ×")),
        "{:?}",
        open.recommendation
    );
    story.run(20, &[HEALTHY; 3]);
    let (last, _) = story.only();
    assert_eq!(last.state, State::Resolved);
    assert!(story.insights.iter().enumerate().all(|(index, one)| one.revision as usize == index + 1));
}

/// Clocks fall for ten windows and requests pile up; then clocks are back, and more are served than arrive until none waits.
/// Those that end first have waited longest.
fn throttled_and_drained(story: &mut Story, in_engine: bool) {
    let waiting = |number: u64| if in_engine { number } else { 0 };
    let hot = Conduct { clock_mhz: 800, throttled: true, tpot_us: 26_000, requests: 20, ..HEALTHY };
    for window in 1..=10 {
        let queue_us = 20_000 + 500_000 * window;
        story.run(1, &[Conduct { queue_us, waiting: waiting(3 * window), ..hot }; 3]);
    }
    let served = Conduct { requests: 45, busy_permille: 980, ..HEALTHY };
    for window in 0..15u64 {
        let queue_us = 20_000 + 400_000 * (15 - window);
        story.run(1, &[Conduct { queue_us, waiting: waiting(2 * (15 - window)), ..served }; 3]);
    }
    story.run(20, &[HEALTHY; 3]);
}

/// Scenario: throttled GPUs, then the backlog drains for longer than they were throttled, with requests that wait in the
/// engine, or before it where no gauge counts them. Guarantee: the resolved revision names the cause and says what to do as it did while it lasted: neither the traffic
/// of the drain nor idle GPUs.
#[test]
fn a_resolved_incident_keeps_its_cause() {
    for in_engine in [true, false] {
        let mut story = Story::warm();
        throttled_and_drained(&mut story, in_engine);
        let (last, cause) = story.only();
        let text = &last.recommendation.as_ref().expect("a cause is named").text;
        assert_eq!(
            (last.state, cause),
            (State::Resolved, "gpu"),
            "waiting in the engine: {in_engine}, {:?}",
            last.causes
        );
        assert!(text.contains("800 MHz instead of 1410 MHz"), "waiting in the engine: {in_engine}, {text}");
    }
}

/// Median of a metric in the last telling, by version, where there is one.
fn medians(story: &Story, metric: &str) -> Vec<(String, f64, bool)> {
    let last_ms = story.baselines.iter().map(|one| one.computed_ms).max();
    let of = |one: &&crate::output::Baseline| {
        one.metric == metric && one.hour_of_week.is_none() && Some(one.computed_ms) == last_ms
    };
    let told = story.baselines.iter().filter(of);
    told.map(|one| (one.version.clone(), one.median.exp(), one.cold_start)).collect()
}

/// Scenario: a model of one version; then a canary beside it, slower by a fifth, which is no incident; then the old version
/// goes. Guarantee: an hour tells what is normal for all versions together and for each that served; the old one keeps its
/// history, the canary begins cold; devices' metrics are told of all together only; a version that is gone is not told.
#[test]
fn versions_have_baselines_of_their_own() {
    let mut story = Story::new(AnalystConfig::default());
    let versions = |story: &Story, metric: &str| -> Vec<String> {
        medians(story, metric).into_iter().map(|(version, ..)| version).collect()
    };
    story.run(360, &[HEALTHY; 3]);
    let told = medians(&story, "tpot_mean");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[0].0.as_str(), told[1].0.as_str()), ("", "1"));
    assert!((told[0].1 - told[1].1).abs() < 1e-12, "all requests were of one version: {told:?}");
    assert_eq!(versions(&story, "gpu_busy"), [""]);

    let canary = Conduct { tpot_us: 17_500, version: "2", ..HEALTHY };
    // The canary serves for the last eight minutes of the hour.
    story.run(312, &[HEALTHY; 3]);
    story.run(48, &[HEALTHY, HEALTHY, canary]);
    let told = medians(&story, "tpot_mean");
    let (old, new) = (&told[1], &told[2]);
    assert_eq!((old.0.as_str(), old.2, new.0.as_str(), new.2), ("1", false, "2", true), "{told:?}");
    assert!((new.1 / old.1 - 17.5 / 15.0).abs() < 0.02, "{told:?}");
    assert_eq!(versions(&story, "gpu_busy"), [""]);

    let restored = Analyst::restore(AnalystConfig::default(), &story.analyst.snapshot());
    story.analyst = restored.expect("its own snapshot");
    story.run(720, &[canary; 3]);
    assert_eq!(versions(&story, "tpot_mean"), ["", "2"]);
}

/// Scenario: a new version every few minutes for hours. Guarantee: no more versions than the bound are told in an hour.
#[test]
fn versions_with_baselines_are_bounded() {
    let mut story = Story::new(AnalystConfig::default());
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        story.run(60, &[Conduct { version, ..HEALTHY }; 3]);
    }
    let last_ms = story.baselines.iter().map(|one| one.computed_ms).max();
    let told: std::collections::BTreeSet<&str> = story
        .baselines
        .iter()
        .filter(|one| Some(one.computed_ms) == last_ms && !one.version.is_empty())
        .map(|one| one.version.as_str())
        .collect();
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["10", "11", "12", "9"]);
}
