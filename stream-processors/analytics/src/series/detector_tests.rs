use super::*;

const FIVE_MINUTES: i64 = 300_000;

/// Noise around 0 from a linear congruential generator (D. E. Knuth, TAOCP 2, 3.3.4): the sum of four uniforms.
struct Noise(u64);

impl Noise {
    #[allow(clippy::cast_precision_loss)]
    fn next(&mut self) -> f64 {
        let mut sum = -2.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        }
        sum
    }
}

/// Rows of two weeks at five minutes, low at night and high by day; `change` may replace a value.
fn fortnight(change: impl Fn(usize, f64) -> f64) -> Vec<(i64, f64)> {
    let mut noise = Noise(7);
    (0..4_032_usize)
        .map(|row| {
            let usual = if (108..216).contains(&(row % 288)) { 80.0 } else { 20.0 } + 2.0 * noise.next();
            (i64::try_from(row).expect("small") * FIVE_MINUTES, change(row, usual))
        })
        .collect()
}

fn alarms(rows: &[(i64, f64)]) -> Vec<(usize, Option<View>)> {
    let mut detector = SeriesDetector::default();
    let scores: Vec<Score> = rows.iter().map(|&(at_ms, value)| detector.push(at_ms, value)).collect();
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(&score.score)));
    scores
        .iter()
        .enumerate()
        .filter(|(row, score)| *row > 604 && score.is_alarm())
        .map(|(row, score)| (row, score.view))
        .collect()
}

/// Scenario: two weeks without an event. Guarantee: at most one false alarm a week.
#[test]
fn quiet_weeks_stay_quiet() {
    assert!(alarms(&fortnight(|_, usual| usual)).len() <= 2);
}

/// Scenario: a spike; a day that stays low; a night that is high; a week at another level; an hour that stands still.
/// Guarantee: each is found within two hours, once or twice and not at every row.
#[test]
fn each_kind_of_event_is_found() {
    type Change = fn(usize, f64) -> f64;
    let start = 3_000;
    let kinds: [(&str, Change); 4] = [
        ("spike", |row, usual| if row == 3_000 { 160.0 } else { usual }),
        ("no day", |row, usual| if (2_988..3_100).contains(&row) { usual.min(21.0) } else { usual }),
        ("another level", |row, usual| if row >= 3_000 { usual + 45.0 } else { usual }),
        ("standing still", |row, usual| if (3_000..3_060).contains(&row) { 80.0 } else { usual }),
    ];
    for (kind, change) in kinds {
        let found = alarms(&fortnight(change));
        let near = found.iter().filter(|(row, _)| (start - 12..start + 24).contains(row)).count();
        assert!((1..=2).contains(&near), "{kind}: {found:?}");
        assert!(found.len() <= 7, "{kind}: {found:?}");
    }
}

/// Scenario: the same rows, but the later ones differ. Guarantee: scores of the rows before are the same: no
/// look-ahead.
#[test]
fn scores_know_nothing_of_the_future() {
    let (one, other) =
        (fortnight(|_, usual| usual), fortnight(|row, usual| if row >= 2_000 { -usual } else { usual }));
    let (mut left, mut right) = (SeriesDetector::default(), SeriesDetector::default());
    for (a, b) in one.iter().zip(&other).take(2_000) {
        assert_eq!(left.push(a.0, a.1), right.push(b.0, b.1));
    }
}

/// Scenario: the state is written after every 500 rows and read again. Guarantee: the scores do not change by a bit.
#[test]
fn a_restored_detector_goes_on() {
    let rows = fortnight(|row, usual| if row == 3_000 { 200.0 } else { usual });
    let (mut whole, mut broken) = (SeriesDetector::default(), SeriesDetector::default());
    for (row, &(at_ms, value)) in rows.iter().enumerate() {
        if row % 500 == 499 {
            let bytes = postcard::to_allocvec(&broken).expect("serialisable");
            broken = postcard::from_bytes(&bytes).expect("its own bytes");
        }
        assert_eq!(whole.push(at_ms, value), broken.push(at_ms, value), "{row}");
    }
}

/// Scenario: no number, infinity, a constant, time that stands still or goes back, extreme values. Guarantee: finite
/// scores of 0–1, no panic.
#[test]
fn strange_input_is_survived() {
    let mut detector = SeriesDetector::default();
    let values = [f64::NAN, f64::INFINITY, 0.0, 0.0, 1e300, -1e300, f64::MIN_POSITIVE, 5.0];
    for row in 0..3_000_usize {
        let at_ms = if row % 3 == 0 { i64::MIN + 1 } else { i64::MAX - i64::try_from(row).expect("small") };
        let score = detector.push(at_ms, values[row % values.len()]);
        assert!((0.0..=1.0).contains(&score.score), "{row}: {score:?}");
    }
}
