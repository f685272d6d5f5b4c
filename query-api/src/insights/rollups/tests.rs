use infertrace_schemas::avro::Sketch as AvroSketch;

use super::{packed::MOST_BINS, *};

const SECOND: i64 = 1_000_000_000;

/// As a processor writes it.
fn avro(metric: &str, sketch: &Sketch) -> AvroSketch {
    let (first_bin, bins) = sketch.bins();
    AvroSketch {
        metric: metric.into(),
        relative_accuracy: ACCURACY,
        count: sketch.count() as i64,
        zero_count: sketch.zeros() as i64,
        sum: sketch.sum() as f64,
        min: sketch.min() as f64,
        max: sketch.max() as f64,
        first_bin,
        bin_counts: bins.iter().map(|count| *count as i64).collect(),
    }
}

fn sketch(values: impl IntoIterator<Item = u64>) -> Sketch {
    let mut sketch = Sketch::default();
    values.into_iter().for_each(|value| sketch.add(value));
    sketch
}

fn rollup(model: &str, start_s: i64, length_s: i64, values: &[u64]) -> Rollup {
    Rollup {
        window_start_unix_nanos: start_s * SECOND,
        window_nanos: length_s * SECOND,
        model: model.into(),
        revision: 1,
        counters: [("requests".to_owned(), values.len() as i64)].into(),
        sums: [("gpu_seconds".to_owned(), 0.5)].into(),
        sketches: vec![avro("ttft_micros", &sketch(values.iter().copied()))],
        ..Rollup::default()
    }
}

fn of(rollups: impl IntoIterator<Item = Rollup>) -> Rollups {
    let mut held = Rollups::default();
    rollups.into_iter().for_each(|rollup| held.apply(rollup, usize::MAX).unwrap());
    held
}

fn model(name: &str) -> RollupFilter {
    RollupFilter { model: name.into(), ..RollupFilter::default() }
}

fn requests(series: &[Step]) -> Vec<u64> {
    series.iter().map(|step| step.counters.get("requests").copied().unwrap_or_default()).collect()
}

/// Scenario: sketches of any shape, zeros and gaps included. Guarantee: packing loses nothing.
#[test]
fn packing_loses_nothing() {
    for values in [vec![], vec![0, 0, 0], vec![5], vec![1, 1_000_000_000, 1, 0, 77, 1 << 40]] {
        let whole = sketch(values);
        assert_eq!(Packed::new(&avro("m", &whole)).unwrap().unpack(), whole);
    }
}

/// Scenario: a slow and a fast window of unequal size in one step. Guarantee: the quantile is that of all requests, not an
/// average of quantiles; counters and sums add up.
#[test]
fn steps_merge_sketches() {
    let slow = vec![1_000_000; 10];
    let fast = vec![1_000; 990];
    let held = of([rollup("m", 0, 10, &slow), rollup("m", 10, 10, &fast), rollup("n", 0, 10, &[1])]);
    let series = held.series(&model("m"), 0, 60 * SECOND, 2);
    let step = &series[0];
    let ttft = &step.metrics["ttft_micros"];
    assert_eq!((ttft.count(), step.counters["requests"], step.sums["gpu_seconds"]), (1_000, 1_000, 1.0));
    assert!((ttft.quantile(0.5).unwrap() - 1_000.0).abs() <= 10.0);
    assert!((ttft.quantile(0.995).unwrap() - 1_000_000.0).abs() <= 10_000.0);
    assert_eq!(series[1], Step::default());
}

/// Scenario: the same time as minutes and as tens of seconds, the last minute not closed yet. Guarantee: each step counts
/// its requests once, from the longest windows there are.
#[test]
fn the_longest_windows_that_fit() {
    let ten = |start| rollup("m", start, 10, &[1]);
    let tens = (0..9).map(|index| ten(index * 10));
    let held = of(tens.chain([rollup("m", 0, 60, &[1; 6]), rollup("m", 0, 3_600, &[1; 9])]));
    assert_eq!(requests(&held.series(&model("m"), 0, 60 * SECOND, 3)), [6, 3, 0]);
    assert_eq!(requests(&held.series(&model("m"), 0, 10 * SECOND, 10)), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(requests(&held.series(&model("m"), 0, 30 * SECOND, 3)), [3, 3, 3]);
    assert_eq!(requests(&held.series(&model("m"), 0, 3_600 * SECOND, 1)), [9]);
    assert_eq!(held.held_from_ns("m"), Some(0));
}

/// Scenario: a window corrected after late spans, the old record read once more; two versions and a stage beside it.
/// Guarantee: the highest revision counts, once; filters choose among keys; stages are not added to requests.
#[test]
fn corrections_replace_and_keys_are_chosen() {
    let version = |version: &str, revision, requests: usize| Rollup {
        model_version: version.into(),
        revision,
        ..rollup("m", 0, 10, &vec![1; requests])
    };
    let stage = Rollup { stage: "queue".into(), ..rollup("m", 0, 10, &[1; 50]) };
    let held = of([version("1", 1, 3), version("1", 2, 4), version("1", 1, 3), version("2", 1, 5), stage]);
    let count = |filter| requests(&held.series(&filter, 0, 10 * SECOND, 1))[0];
    assert_eq!(count(model("m")), 9);
    assert_eq!(count(RollupFilter { version: Some("1".into()), ..model("m") }), 4);
    assert_eq!(count(RollupFilter { stage: "queue".into(), ..model("m") }), 50);
    assert_eq!(count(model("")), 0);
    assert_eq!(held.len(), 3);
}

/// Scenario: hours of windows under a limit of bytes and of age. Guarantee: both hold; the finest windows go first, the
/// oldest of them first; nothing of what left stays behind.
#[test]
fn memory_and_age_are_bounded() {
    let all = || {
        let tens = (0..200).map(|index| rollup("m", index * 10, 10, &[1, 2, 3]));
        tens.chain((0..30).map(|index| rollup("m", index * 60, 60, &[1, 2, 3])))
    };
    let bytes = of(all()).bytes();
    let mut held = Rollups::default();
    all().for_each(|rollup| held.apply(rollup, bytes / 2).unwrap());
    assert!(held.bytes() <= bytes / 2 && held.bytes() > bytes / 3, "{} of {bytes}", held.bytes());
    let minutes = held.windows.keys().filter(|window| window.0 == 60 * SECOND).count();
    let oldest = held.windows.keys().find(|window| window.0 == 10 * SECOND).unwrap().1;
    assert_eq!(minutes, 30);
    assert!(oldest > 1_000 * SECOND && held.windows.contains_key(&(10 * SECOND, 1_990 * SECOND)));
    held.forget_before(1_500_000);
    assert!(held.windows.keys().all(|(length, start)| length + start >= 1_500 * SECOND));
    held.forget_before(i64::MAX);
    assert_eq!((held.len(), held.bytes(), held.is_empty(), held.names.len()), (0, 0, true, 0));
}

/// Scenario: rollups that no processor writes. Guarantee: each is refused with its reason, and nothing is kept of it.
#[test]
fn foreign_rollups_are_refused() {
    let with = |change: &dyn Fn(&mut AvroSketch)| {
        let mut rollup = rollup("m", 0, 10, &[5]);
        change(&mut rollup.sketches[0]);
        rollup
    };
    let hostile = [
        Rollup { window_nanos: 0, ..rollup("m", 0, 10, &[]) },
        Rollup { window_start_unix_nanos: i64::MAX, ..rollup("m", 0, 10, &[]) },
        with(&|sketch| sketch.relative_accuracy = 0.02),
        with(&|sketch| sketch.relative_accuracy = f64::NAN),
        with(&|sketch| sketch.first_bin = i32::MAX),
        with(&|sketch| sketch.bin_counts = vec![-1]),
        with(&|sketch| sketch.bin_counts = vec![i64::MAX, i64::MAX]),
        with(&|sketch| sketch.bin_counts = vec![0; MOST_BINS + 1]),
        with(&|sketch| sketch.zero_count = -1),
    ];
    for rollup in hostile {
        let mut held = Rollups::default();
        assert!(held.apply(rollup.clone(), usize::MAX).is_err(), "{rollup:?}");
        assert!(held.is_empty());
    }
    let odd = with(&|sketch| (sketch.sum, sketch.min, sketch.max) = (f64::NAN, -3.0, f64::INFINITY));
    assert_eq!(of([odd]).len(), 1);
}
