use super::*;

const STANDARD: Profile = PROFILES[0];

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

/// Scores that are 1 at `alarms` and 0 elsewhere.
fn alarms(rows: usize, alarms: &[usize]) -> Vec<f64> {
    (0..rows).map(|row| if alarms.contains(&row) { 1.0 } else { 0.0 }).collect()
}

/// Scenario: files shorter and longer than 5,000 rows. Guarantee: 15 %, at most 750 rows, as the benchmark has it.
#[test]
fn probation_is_capped() {
    assert_eq!(probation(100), 15);
    assert_eq!(probation(4_032), 604);
    assert_eq!(probation(5_000), 750);
    assert_eq!(probation(22_695), 750);
}

/// Scenario: positions that the paper draws. Guarantee: 0.98661 at the left edge, 0.84828 half way, 0 at the right
/// edge, −0.98661 a window's length behind it, −1 from three lengths on.
#[test]
fn the_sigmoid_of_the_paper() {
    for (position, expected) in
        [(-1.0, 0.986_614), (-0.5, 0.848_284), (0.0, 0.0), (1.0, -0.986_614), (3.0, -1.0)]
    {
        assert!((scaled_sigmoid(position) - expected).abs() < 1e-6, "{position}");
    }
}

/// Scenario: nothing is ever an alarm; every first row of a window is, and nothing else. Guarantee: 0 and 100 in
/// every profile.
#[test]
fn null_and_perfect() {
    let windows = [Window { first: 300, last: 309 }, Window { first: 750, last: 950 }];
    for profile in PROFILES {
        let silent = evaluate(&profile, &[Series { scores: &alarms(1_000, &[]), windows: &windows }]);
        assert!(near(silent.points, -2.0 * profile.false_negative), "{silent:?}");
        assert!(near(silent.score, 0.0) && silent.threshold > 1.0, "{silent:?}");
        let perfect =
            evaluate(&profile, &[Series { scores: &alarms(1_000, &[300, 750]), windows: &windows }]);
        assert!(near(perfect.points, 2.0) && near(perfect.score, 100.0) && near(perfect.threshold, 1.0));
    }
}

/// Scenario: an alarm in the middle of a window of ten rows, one five rows behind it, one before it. Guarantee: the
/// figures worked out by hand from the sigmoid, with the divisions by the window's length as the benchmark does them.
#[test]
fn worked_by_hand() {
    let windows = [Window { first: 40, last: 49 }];
    let scores = alarms(100, &[20, 45, 54]);
    let found = 2.0 / (1.0 + (-2.5_f64).exp()) - 1.0;
    let left_edge = 2.0 / (1.0 + (-5.0_f64).exp()) - 1.0;
    let behind = 2.0 / (1.0 + (25.0_f64 / 9.0).exp()) - 1.0;
    let expected = found / left_edge + 0.11 * behind - 0.11;
    let series = Series { scores: &scores, windows: &windows };
    let outcome = series.outcome(&STANDARD, 0.5);
    assert!(near(outcome.points, expected), "{outcome:?} {expected}");
    assert_eq!(outcome.found, [Some(45)]);
    assert_eq!(outcome.false_alarms, 2);
    let corpus = evaluate(&STANDARD, &[series]);
    assert!(near(corpus.points, expected));
    assert!(near(corpus.score, 100.0 * (expected + 1.0) / 2.0));
}

/// Scenario: every row is an alarm, as in the benchmark's own test of its sweeper (100 rows, windows 30–39 and
/// 75–95). Guarantee: windows earn in full, all other scored rows cost.
#[test]
fn alarms_everywhere() {
    let windows = [Window { first: 30, last: 39 }, Window { first: 75, last: 95 }];
    let scores = vec![1.0; 100];
    let series = Series { scores: &scores, windows: &windows };
    let outcome = series.outcome(&STANDARD, 1.0);
    assert_eq!(outcome.found, [Some(30), Some(75)]);
    assert_eq!(outcome.false_alarms, 100 - 15 - 10 - 21);
    assert!(series.points(&STANDARD, 0).all(|point| (point.worth > 0.0) == point.window.is_some()));
    assert!(outcome.points < 2.0 - 0.11 * 15.0);
}

/// Scenario: scores 0.5, 0.3 and 0.2 in two windows and outside. Guarantee: the sweep tries each score as threshold,
/// rows of one score together, and counts a window's best row.
#[test]
fn the_sweep_takes_the_best_threshold() {
    let windows = [Window { first: 20, last: 29 }, Window { first: 60, last: 69 }];
    let mut scores = vec![0.0; 100];
    scores[60] = 0.5;
    scores[40] = 0.5;
    scores[25] = 0.3;
    scores[20] = 0.2;
    let series = Series { scores: &scores, windows: &windows };
    let corpus = evaluate(&STANDARD, &[series]);
    assert!(near(corpus.threshold, 0.2));
    let false_alarm = 0.11 * scaled_sigmoid(11.0 / 9.0);
    assert!(near(corpus.points, 2.0 + false_alarm), "{corpus:?}");
    assert!(near(
        series.outcome(&STANDARD, 0.3).points,
        1.0 + scaled_sigmoid(-0.5) / scaled_sigmoid(-1.0) + false_alarm
    ));
    assert!(near(series.outcome(&STANDARD, 0.4).points, 1.0 - 1.0 + false_alarm));
}

/// Scenario: alarms in the first 15 % only, in and out of a window that ends there, and a second window.
/// Guarantee: nothing in the probation counts, yet the perfect detector would have found both windows.
#[test]
fn the_probation_does_not_count() {
    let windows = [Window { first: 5, last: 10 }, Window { first: 50, last: 59 }];
    let scores = alarms(100, &[2, 5, 12]);
    let series = Series { scores: &scores, windows: &windows };
    assert_eq!(
        series.outcome(&STANDARD, 0.5),
        FileOutcome { points: -1.0, found: vec![None, None], false_alarms: 0 }
    );
    let perfect = alarms(100, &[50]);
    let outcome = evaluate(&STANDARD, &[Series { scores: &perfect, windows: &windows }]);
    assert!(near(outcome.points, 1.0) && near(outcome.score, 100.0 * 2.0 / 3.0), "{outcome:?}");
}

/// Scenario: two files, one threshold. Guarantee: the threshold is chosen over both, not for each.
#[test]
fn one_threshold_for_all_files() {
    let windows = [Window { first: 50, last: 59 }];
    let (mut good, mut noisy) = (vec![0.0; 100], vec![0.6; 100]);
    good[50] = 0.5;
    noisy[50] = 0.9;
    let corpus = [Series { scores: &good, windows: &windows }, Series { scores: &noisy, windows: &windows }];
    let outcome = evaluate(&STANDARD, &corpus);
    assert!(near(outcome.threshold, 0.9) && near(outcome.points, 0.0), "{outcome:?}");
}
