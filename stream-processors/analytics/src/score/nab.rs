//! The scoring rules of the Numenta Anomaly Benchmark (NAB).
//!
//! Source: A. Lavin, S. Ahmad, "Evaluating Real-time Anomaly Detection Algorithms – the Numenta Anomaly
//! Benchmark", ICMLA 2015 (arXiv:1510.03336), and the benchmark's own `sweeper`, whose details decide where the
//! paper is silent. A row is an alarm when its score is at or over the threshold. The earliest alarm of a labelled
//! window earns up to 1; a window without alarm costs; **every** alarm outside the windows costs. One threshold
//! serves all files, and it is the one that scores best.

use super::labels::Window;

/// What right and wrong alarms are worth. True negatives are worth nothing in any profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Name in the benchmark.
    pub name: &'static str,
    /// A window found at its first row.
    pub true_positive: f64,
    /// An alarm far from any window.
    pub false_positive: f64,
    /// A window missed.
    pub false_negative: f64,
}

/// The benchmark's three profiles.
pub const PROFILES: [Profile; 3] = [
    Profile { name: "standard", true_positive: 1.0, false_positive: 0.11, false_negative: 1.0 },
    Profile { name: "reward_low_FP_rate", true_positive: 1.0, false_positive: 0.22, false_negative: 1.0 },
    Profile { name: "reward_low_FN_rate", true_positive: 1.0, false_positive: 0.11, false_negative: 2.0 },
];

/// Share of a file that is not scored, and the length beyond which that share no longer grows.
const PROBATION: (f64, f64) = (0.15, 5_000.0);
/// Relative distance behind a window from which a false alarm costs in full.
const FAR: f64 = 3.0;

/// Rows at the start of a file of `rows` rows that are not scored: min(⌊0.15·rows⌋, 750).
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn probation(rows: usize) -> usize {
    (PROBATION.0 * rows as f64).floor().min(PROBATION.0 * PROBATION.1) as usize
}

/// σ(y) = 2 / (1 + e^(5y)) − 1 at the position `y` relative to a window: −1 its first row, 0 just behind its last.
#[must_use]
pub fn scaled_sigmoid(position: f64) -> f64 {
    if position >= FAR { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

/// One file: what a detector said of its rows, and what is labelled.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// A score for each row.
    pub scores: &'a [f64],
    /// Labelled windows in order of time.
    pub windows: &'a [Window],
}

/// What one file earns at a threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileOutcome {
    /// Points, not normalised.
    pub points: f64,
    /// The first alarm of each window; `None` if missed or if the window ends before scoring starts.
    pub found: Vec<Option<usize>>,
    /// Scored rows outside windows at or over the threshold.
    pub false_alarms: usize,
}

/// What a corpus earns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// 0 for a detector that never alarms, 100 for one that finds each window at its first row and nothing else.
    pub score: f64,
    /// Points, not normalised.
    pub points: f64,
    /// The best threshold; over 1 if silence is best.
    pub threshold: f64,
}

/// A scored row: its detector's score, what an alarm there earns, and the window it lies in.
#[derive(Clone, Copy, Debug)]
struct Point {
    score: f64,
    worth: f64,
    window: Option<usize>,
    row: usize,
}

impl Series<'_> {
    /// The rows behind the probation. `base` numbers the windows across files.
    fn points(&self, profile: &Profile, base: usize) -> impl Iterator<Item = Point> {
        let probation = probation(self.scores.len());
        let mut next = 0;
        let mut worth = move |row: usize, windows: &[Window]| {
            while next < windows.len() && windows[next].last < row {
                next += 1;
            }
            match windows.get(next) {
                Some(window) if window.first <= row => {
                    let position = -span(row, window.last + 1) / span(window.first, window.last + 1);
                    let earned = profile.true_positive * scaled_sigmoid(position) / scaled_sigmoid(-1.0);
                    (earned, Some(base + next))
                }
                _ => {
                    let behind = next.checked_sub(1).map_or(FAR, |previous| {
                        let window = windows[previous];
                        span(window.last, row) / span(window.first, window.last)
                    });
                    (profile.false_positive * scaled_sigmoid(behind), None)
                }
            }
        };
        self.scores.iter().enumerate().skip(probation).map(move |(row, &score)| {
            let (worth, window) = worth(row, self.windows);
            Point { score, worth, window, row }
        })
    }

    /// What the file earns when rows at or over `threshold` are alarms.
    #[must_use]
    pub fn outcome(&self, profile: &Profile, threshold: f64) -> FileOutcome {
        let mut outcome = FileOutcome { found: vec![None; self.windows.len()], ..FileOutcome::default() };
        let mut best = vec![None; self.windows.len()];
        for point in self.points(profile, 0) {
            let alarm = point.score >= threshold;
            match point.window {
                Some(window) => {
                    let so_far = best[window].get_or_insert(-profile.false_negative);
                    if alarm {
                        *so_far = so_far.max(point.worth);
                        outcome.found[window].get_or_insert(point.row);
                    }
                }
                None if alarm => {
                    outcome.points += point.worth;
                    outcome.false_alarms += 1;
                }
                None => {}
            }
        }
        outcome.points += best.into_iter().flatten().sum::<f64>();
        outcome
    }
}

#[allow(clippy::cast_precision_loss)]
fn span(from: usize, to: usize) -> f64 {
    to.abs_diff(from) as f64
}

/// Scores a corpus: the threshold that earns most, and what it earns, normalised.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn evaluate(profile: &Profile, corpus: &[Series<'_>]) -> Outcome {
    let mut points = Vec::new();
    let mut windows = 0;
    for series in corpus {
        points.extend(series.points(profile, windows));
        windows += series.windows.len();
    }
    points.sort_by(|left: &Point, right: &Point| right.score.total_cmp(&left.score));

    // A window that ends before scoring starts can be neither missed nor found, as the benchmark has it.
    let mut worth: Vec<Option<f64>> = vec![None; windows];
    for window in points.iter().filter_map(|point| point.window) {
        worth[window] = Some(-profile.false_negative);
    }
    let silent: f64 = worth.iter().flatten().sum();
    let mut best = Outcome { score: 0.0, points: silent, threshold: 1.1 };
    let mut total = silent;
    for (index, point) in points.iter().enumerate() {
        match point.window.and_then(|window| worth[window].as_mut()) {
            Some(so_far) if point.worth > *so_far => {
                total += point.worth - *so_far;
                *so_far = point.worth;
            }
            Some(_) => {}
            None => total += point.worth,
        }
        let last_of_its_score = points.get(index + 1).is_none_or(|next| next.score < point.score);
        if last_of_its_score && total > best.points {
            best = Outcome { score: 0.0, points: total, threshold: point.score };
        }
    }
    let perfect = windows as f64 * profile.true_positive;
    best.score = if windows == 0 { 0.0 } else { 100.0 * (best.points - silent) / (perfect - silent) };
    best
}

#[cfg(test)]
#[path = "nab_tests.rs"]
mod tests;
